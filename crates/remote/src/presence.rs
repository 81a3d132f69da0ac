//! Which blobs a server was seen to have, for a while.
//!
//! Pure: time is a number the caller gives. That a blob is absent is never remembered.

use std::collections::HashMap;
use std::time::Duration;

use minibuild_core::Digest;

/// How long what was seen is believed.
pub(crate) const LIFE: Duration = Duration::from_secs(30 * 60);

/// Blobs that were seen, each with the time until which that is believed.
#[derive(Debug, Default)]
pub(crate) struct Presence(HashMap<Digest, Duration>);

impl Presence {
    /// These are there now.
    pub(crate) fn seen(&mut self, digests: impl IntoIterator<Item = Digest>, now: Duration) {
        self.0.extend(digests.into_iter().map(|digest| (digest, now + LIFE)));
    }

    /// Whether it was there a short while ago.
    pub(crate) fn has(&self, digest: &Digest, now: Duration) -> bool {
        self.0.get(digest).is_some_and(|until| now < *until)
    }

    /// These are not believed any more.
    pub(crate) fn forget(&mut self, digests: &[Digest]) {
        for digest in digests {
            self.0.remove(digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use minibuild_core::DigestFunction;

    use super::*;

    #[test]
    fn presence_is_believed_for_a_while() {
        let [a, b] = [&b"a"[..], b"b"].map(|bytes| DigestFunction::Sha256.digest(bytes));
        let at = Duration::from_secs;
        let mut presence = Presence::default();
        presence.seen([a], at(10));
        assert!(presence.has(&a, at(10)) && !presence.has(&b, at(10)));
        assert!(presence.has(&a, at(9) + LIFE) && !presence.has(&a, at(10) + LIFE));
        presence.seen([a, b], at(20));
        assert!(presence.has(&a, at(19) + LIFE));
        presence.forget(&[a]);
        assert!(!presence.has(&a, at(20)) && presence.has(&b, at(20)));
    }
}
