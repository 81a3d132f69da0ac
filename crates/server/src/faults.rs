//! Faults at work: which strike now.
//!
//! Deterministic: whether a fault strikes depends on the seed, its place in the list and how often it could have
//! struck, never on time. It does not know what is done about it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use minibuild_core::Digest;

use crate::inject::{Fault, FaultKind, Inject, code_number};

/// What a fault may look at.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Occasion<'a> {
    pub(crate) method: &'a str,
    pub(crate) digest: Option<Digest>,
    pub(crate) command: Option<&'a str>,
}

/// The faults at work.
pub(crate) struct Faults {
    seed: u64,
    faults: Vec<Armed>,
}

struct Armed {
    fault: Fault,
    seen: AtomicU64,
    struck: AtomicU64,
    done: Mutex<HashSet<Digest>>,
}

/// A fault that struck.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strike<'a> {
    pub(crate) fault: &'a Fault,
    /// A number that is as good as random.
    dice: u64,
}

/// Where a stream does not go on, and what happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Bytes, or messages, until then.
    pub(crate) left: u64,
    pub(crate) end: CutEnd,
}

/// What happens where a stream does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CutEnd {
    /// An error with this gRPC code.
    Fails(i32),
    /// Nothing, for as long as the server runs.
    Hangs,
}

impl Strike<'_> {
    /// How long a `latency` or `slow` lasts.
    pub(crate) fn duration(&self) -> Duration {
        let jitter = if self.fault.jitter_ms == 0 { 0 } else { self.dice % (self.fault.jitter_ms + 1) };
        Duration::from_millis(self.fault.ms.saturating_add(jitter))
    }

    /// The code of an error.
    pub(crate) fn code(&self) -> i32 {
        self.fault.code.as_deref().and_then(code_number).unwrap_or(14)
    }

    /// Which byte of `size` is wrong.
    pub(crate) fn byte(&self, size: u64) -> u64 {
        if size == 0 { 0 } else { self.dice % size }
    }
}

impl Faults {
    pub(crate) fn new(inject: &Inject) -> Self {
        let arm = |fault: &Fault| Armed {
            fault: fault.clone(),
            seen: AtomicU64::new(0),
            struck: AtomicU64::new(0),
            done: Mutex::default(),
        };
        Self { seed: inject.seed, faults: inject.faults.iter().map(arm).collect() }
    }

    /// Whether there is any fault of a kind, so that nothing needs to be prepared for it otherwise.
    pub(crate) fn has(&self, kind: FaultKind) -> bool {
        self.faults.iter().any(|armed| armed.fault.kind == kind)
    }

    /// The faults of a kind that strike now.
    pub(crate) fn strikes<'a>(
        &'a self,
        kind: FaultKind,
        occasion: Occasion<'a>,
    ) -> impl Iterator<Item = Strike<'a>> + 'a {
        self.strikes_where(move |fault| fault.kind == kind, occasion)
    }

    fn strikes_where<'a>(
        &'a self,
        wanted: impl Fn(&Fault) -> bool + 'a,
        occasion: Occasion<'a>,
    ) -> impl Iterator<Item = Strike<'a>> + 'a {
        let of_kind = self.faults.iter().enumerate().filter(move |(_, armed)| wanted(&armed.fault));
        of_kind.filter_map(move |(number, armed)| armed.strike(self.seed, number as u64, &occasion))
    }

    /// Where a stream that begins is to end.
    pub(crate) fn cut(&self, occasion: Occasion<'_>) -> Option<Cut> {
        if let Some(strike) = self.strike(FaultKind::Break, occasion) {
            return Some(Cut { left: strike.fault.bytes, end: CutEnd::Fails(strike.code()) });
        }
        let later = |fault: &Fault| fault.kind == FaultKind::Hang && fault.bytes > 0;
        let strike = self.strikes_where(later, occasion).next()?;
        Some(Cut { left: strike.fault.bytes, end: CutEnd::Hangs })
    }

    /// Whether a call is never answered at all.
    pub(crate) fn hangs(&self, occasion: Occasion<'_>) -> bool {
        self.strikes_where(|fault| fault.kind == FaultKind::Hang && fault.bytes == 0, occasion).next().is_some()
    }

    /// The first of them.
    pub(crate) fn strike<'a>(&'a self, kind: FaultKind, occasion: Occasion<'a>) -> Option<Strike<'a>> {
        self.strikes(kind, occasion).next()
    }
}

impl Armed {
    fn strike(&self, seed: u64, number: u64, occasion: &Occasion<'_>) -> Option<Strike<'_>> {
        if !applies(&self.fault, occasion) {
            return None;
        }
        let seen = self.seen.fetch_add(1, Ordering::Relaxed);
        let dice = mix(seed ^ mix(number) ^ mix(seen.wrapping_add(0x9e37)));
        if !is_due(&self.fault, seen, dice) || !self.is_first(occasion) {
            return None;
        }
        let struck = self.struck.fetch_add(1, Ordering::Relaxed);
        let is_over = self.fault.times > 0 && struck >= self.fault.times;
        if is_over { None } else { Some(Strike { fault: &self.fault, dice: mix(dice) }) }
    }

    fn is_first(&self, occasion: &Occasion<'_>) -> bool {
        match occasion.digest {
            Some(digest) if self.fault.once => self.done.lock().unwrap_or_else(PoisonError::into_inner).insert(digest),
            _ => true,
        }
    }
}

fn applies(fault: &Fault, occasion: &Occasion<'_>) -> bool {
    // Saying that a blob is missing is no harm; who wants it to happen there says so.
    let by_default = fault.kind != FaultKind::Lost || occasion.method != "FindMissingBlobs";
    let method = fault.method.as_deref().map_or(by_default, |method| method == occasion.method);
    let digest = fault.digest.as_deref();
    let digest = digest.is_none_or(|prefix| occasion.digest.is_some_and(|digest| digest.hex().starts_with(prefix)));
    let command = fault.command.as_deref();
    method && digest && command.is_none_or(|text| occasion.command.is_some_and(|command| command.contains(text)))
}

/// `seen` counts from 0.
fn is_due(fault: &Fault, seen: u64, dice: u64) -> bool {
    if seen < fault.after || (fault.every > 1 && !(seen - fault.after).is_multiple_of(fault.every)) {
        return false;
    }
    // 32 bits are exact in a double.
    fault.probability.is_none_or(|p| f64::from(u32::try_from(dice >> 32).unwrap_or(0)) < p * f64::from(u32::MAX))
}

/// Spreads every bit over all: the finisher of SplitMix64.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strikes(text: &str, occasions: &[Occasion<'_>]) -> Vec<bool> {
        let inject = Inject::parse(&format!("seed = 7\n[[fault]]\n{text}")).expect("parses");
        let faults = Faults::new(&inject);
        let kind = inject.faults[0].kind;
        occasions.iter().map(|occasion| faults.strike(kind, *occasion).is_some()).collect()
    }

    #[test]
    fn faults_strike_when_told() {
        let read = Occasion { method: "Read", ..Default::default() };
        let check = |text: &str, expected: &str| {
            let got = strikes(text, &[read; 8]);
            let got: String = got.iter().map(|struck| if *struck { 'x' } else { '.' }).collect();
            assert_eq!(got, expected, "{text}");
        };
        check("kind = 'error'", "xxxxxxxx");
        check("kind = 'error'\nmethod = 'Write'", "........");
        check("kind = 'error'\nmethod = 'Read'\nafter = 2", "..xxxxxx");
        check("kind = 'error'\nevery = 3", "x..x..x.");
        check("kind = 'error'\nevery = 3\nafter = 1\ntimes = 2", ".x..x...");
        check("kind = 'error'\nprobability = 0.0", "........");
        check("kind = 'error'\nprobability = 1.0", "xxxxxxxx");
        let half = strikes("kind = 'error'\nprobability = 0.5", &[read; 200]);
        assert!((60..140).contains(&half.iter().filter(|struck| **struck).count()));
        assert_eq!(half, strikes("kind = 'error'\nprobability = 0.5", &[read; 200]), "the same each time");
    }

    #[test]
    fn faults_of_blobs_and_commands() {
        let digest = minibuild_core::DigestFunction::Sha256.digest(b"x");
        let blob = Occasion { method: "Read", digest: Some(digest), command: None };
        let other = Occasion { digest: Some(minibuild_core::DigestFunction::Sha256.digest(b"y")), ..blob };
        let prefix = format!("kind = 'lost'\ndigest = '{}'", &digest.hex()[..8]);
        assert_eq!(strikes(&prefix, &[blob, other, blob]), [true, false, true]);
        assert_eq!(strikes("kind = 'lost'\nonce = true", &[blob, blob, other, other]), [true, false, true, false]);
        let find = Occasion { method: "FindMissingBlobs", ..blob };
        assert_eq!(strikes("kind = 'lost'", &[find, blob]), [false, true]);
        assert_eq!(strikes("kind = 'lost'\nmethod = 'FindMissingBlobs'", &[find, blob]), [true, false]);
        let action = Occasion { method: "", digest: None, command: Some("cc -c x.c") };
        assert_eq!(strikes("kind = 'slow'\ncommand = 'x.c'", &[action, blob]), [true, false]);
    }

    #[test]
    fn lengths_of_latency() {
        let inject = Inject::parse("[[fault]]\nkind = 'latency'\nms = 10\njitter_ms = 5").expect("parses");
        let faults = Faults::new(&inject);
        let mut seen = HashSet::new();
        for _ in 0..100 {
            let strike = faults.strike(FaultKind::Latency, Occasion::default()).expect("strikes");
            seen.insert(strike.duration().as_millis());
            assert!(strike.byte(4) < 4 && strike.byte(0) == 0);
        }
        assert_eq!(seen, (10..=15).collect());
    }
}
