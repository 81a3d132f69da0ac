//! What the remote pool can do, learnt from the stages of our own runs: nobody tells how many workers there are.

use super::micros::Us;

/// A run that waited less than this for a worker found one at once.
const GRACE: Us = 5_000;
/// How slowly the number of workers is forgotten, a sample.
const FORGET: f64 = 0.995;

/// Our runs there, and how many the pool can run at once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Workers {
    /// Sent and not back.
    pub in_flight: usize,
    /// Of these, the ones that wait for a worker.
    pub queued: usize,
    /// Of these, the ones that a worker runs.
    pub executing: usize,
    /// Most at once while others waited.
    known: f64,
    /// Whether the server tells when a run begins.
    tells: bool,
    /// Whether runs waited when that was last looked at.
    is_full: bool,
    /// Whether a run ever waited.
    has_waited: bool,
}

impl Workers {
    pub fn new(known: f64) -> Self {
        let known = if known.is_finite() { known.clamp(0.0, 1e6) } else { 0.0 };
        Self { known, ..Self::default() }
    }

    /// Runs at once while others waited, for later builds; 0 if that never happened.
    pub fn known(&self) -> f64 {
        self.known
    }

    /// A worker runs one more.
    pub fn record_executing(&mut self) {
        self.tells = true;
        self.executing += 1;
        let now = self.executing as f64;
        if now > self.known && self.known > 0.0 {
            self.known = now;
        }
    }

    /// The oldest of those that wait does so for `waited`. Gives how much longer it has to until that tells something.
    pub fn record_waiting(&mut self, waited: Us) -> Option<Us> {
        if waited < GRACE {
            return Some(GRACE - waited);
        }
        self.is_full = true;
        self.has_waited = true;
        if self.executing > 0 {
            self.known = (self.executing as f64).max(self.known * FORGET);
        }
        None
    }

    /// Whether a run that is not needed takes a worker from none that is.
    pub fn has_spare(&self) -> bool {
        self.queued == 0 && (!self.has_waited || (self.in_flight as f64 + 1.0) < self.known / 2.0)
    }

    pub fn record_ended(&mut self) {
        if self.queued == 0 {
            self.is_full = false;
        }
    }

    fn size(&self) -> Option<f64> {
        (self.known > 0.0).then(|| self.known.max(1.0))
    }

    /// Predicted wait of a run with `ahead` others to be run before it, which take `mean` each.
    pub fn wait(&self, ahead: usize, mean: f64) -> f64 {
        let Some(size) = self.size() else { return 0.0 };
        ((ahead as f64 + 1.0 - size) / size).max(0.0) * mean
    }

    /// How many may be sent and not back: as many as keep every worker busy while calls are under way, but no long queue
    /// there, since what waits here can still go either way.
    pub fn window(&self, limit: usize, overhead: f64, mean: Option<f64>) -> usize {
        let (Some(size), Some(mean)) = (self.size(), mean) else { return limit };
        if !self.is_full && self.queued == 0 && self.tells {
            return limit.min((self.in_flight + 1).max((size * 2.0) as usize + 2));
        }
        let pipeline = 1.0 + overhead / mean.max(1.0);
        let wanted = size * pipeline * 1.1 + 2.0;
        limit.min(wanted as usize).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_known_is_no_limit_and_no_wait() {
        let workers = Workers::default();
        assert_eq!(workers.window(400, 1e5, Some(1e6)), 400);
        assert_eq!(workers.wait(1000, 1e6), 0.0);
    }

    #[test]
    fn a_full_pool_tells_its_size() {
        let mut workers = Workers { in_flight: 400, queued: 380, executing: 19, ..Workers::default() };
        workers.record_executing();
        assert_eq!(workers.record_waiting(1_000), Some(4_000));
        assert_eq!(workers.known(), 0.0);
        assert_eq!(workers.record_waiting(6_000), None);
        assert_eq!(workers.known(), 20.0);
        assert_eq!(workers.window(400, 0.0, Some(1e6)), 24);
        assert_eq!(workers.window(400, 1e6, Some(1e6)), 46);
        assert_eq!(workers.wait(9, 1e6), 0.0);
        assert_eq!(workers.wait(39, 1e6), 1e6);
    }

    #[test]
    fn a_pool_that_grew_is_found_out() {
        let mut workers = Workers::new(4.0);
        workers.in_flight = 10;
        workers.executing = 9;
        workers.record_executing();
        assert_eq!(workers.known(), 10.0);
        assert_eq!(workers.window(400, 0.0, Some(1e6)), 22);
        assert_eq!(Workers::new(f64::NAN).known(), 0.0);
    }
}
