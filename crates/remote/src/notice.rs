//! When to tell the user that an action waits long for a worker.
//!
//! A schedule by values: it holds no clock and no timer.

use std::time::Duration;

/// The times after which a notice is due, counted from the beginning of waiting.
const DUE: [Duration; 4] =
    [Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(300), Duration::from_secs(900)];

/// The notices of one action.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueNotices {
    /// When it began to wait, on the caller's clock; `None` while it does not.
    since: Option<Duration>,
    given: usize,
}

impl QueueNotices {
    /// The action waits, as of `now` (time since any fixed moment). Saying so again changes nothing.
    pub(crate) fn waits(&mut self, now: Duration) {
        self.since.get_or_insert(now);
    }

    /// The action waits no longer. Waiting again starts anew.
    pub(crate) fn goes_on(&mut self) {
        *self = Self::default();
    }

    /// When the next notice is due.
    pub(crate) fn due_at(&self) -> Option<Duration> {
        Some(self.since?.saturating_add(*DUE.get(self.given)?))
    }

    /// How long the action has waited, if a notice is due now; it counts as given.
    pub(crate) fn take(&mut self, now: Duration) -> Option<Duration> {
        if now < self.due_at()? {
            return None;
        }
        let waited = now.saturating_sub(self.since?);
        self.given = DUE.iter().filter(|due| **due <= waited).count();
        Some(waited)
    }
}

/// The text of a notice.
pub(crate) fn text(label: &str, waited: Duration, platform: &[(String, String)]) -> String {
    let seconds = waited.as_secs();
    let waited = if seconds < 120 { format!("{seconds} s") } else { format!("{} min", seconds / 60) };
    format!("`{label}` has been waiting for a remote worker for {waited} ({})", properties(platform))
}

/// Platform properties as a message names them.
pub(crate) fn properties(platform: &[(String, String)]) -> String {
    if platform.is_empty() {
        return "no platform properties".to_owned();
    }
    let pairs: Vec<String> = platform.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("platform properties: {}", pairs.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn notices_come_after_10_seconds_and_1_5_and_15_minutes() {
        let mut notices = QueueNotices::default();
        assert_eq!((notices.due_at(), notices.take(s(1000))), (None, None));
        notices.waits(s(100));
        notices.waits(s(105));
        let mut given = Vec::new();
        while let Some(due) = notices.due_at() {
            assert_eq!(notices.take(due - Duration::from_millis(1)), None);
            given.extend(notices.take(due));
            assert_eq!(notices.take(due), None, "each once");
        }
        assert_eq!(given, [s(10), s(60), s(300), s(900)]);
        assert_eq!(notices.take(s(100_000)), None);
    }

    #[test]
    fn a_late_look_gives_one_notice_and_running_starts_anew() {
        let mut notices = QueueNotices::default();
        notices.waits(s(0));
        assert_eq!(notices.take(s(400)), Some(s(400)));
        assert_eq!(notices.due_at(), Some(s(900)));
        notices.goes_on();
        assert_eq!(notices.due_at(), None);
        notices.waits(s(500));
        assert_eq!(notices.due_at(), Some(s(510)));
    }

    #[test]
    fn texts_name_label_and_properties() {
        let platform = [("OSFamily".to_owned(), "linux".to_owned()), ("Pool".to_owned(), "big".to_owned())];
        assert_eq!(
            text("//a:b", s(11), &platform),
            "`//a:b` has been waiting for a remote worker for 11 s (platform properties: OSFamily=linux, Pool=big)"
        );
        assert!(text("//a:b", s(301), &[]).ends_with("for 5 min (no platform properties)"));
    }
}
