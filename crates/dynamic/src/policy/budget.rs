//! How much work here may be done in vain.

/// What was done and wasted here, microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    done: f64,
    wasted: f64,
    /// Expected waste of what runs.
    risk: f64,
}

impl Budget {
    /// An action is over, which takes this long here.
    pub fn record_done(&mut self, local: Option<f64>) {
        self.done += local.unwrap_or(0.0);
    }

    /// A run lost after this long.
    pub fn record_waste(&mut self, ran: f64) {
        self.wasted += ran;
    }

    pub fn wasted(&self) -> f64 {
        self.wasted
    }

    /// Takes the expected waste of a run in.
    pub fn charge(&mut self, risk: f64) {
        self.risk += risk;
    }

    /// It ended.
    pub fn release(&mut self, risk: f64) {
        self.risk = (self.risk - risk).max(0.0);
    }

    /// Whether `risk` more keeps within `share` of the work done and of `ahead`, work that is known to come.
    pub fn affords(&self, risk: f64, share: f64, ahead: f64) -> bool {
        risk <= 0.0 || self.wasted + self.risk + risk <= share * (self.done + ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waste_and_risk_stay_within_the_share() {
        let mut budget = Budget::default();
        assert!(budget.affords(0.0, 0.1, 0.0));
        assert!(!budget.affords(1.0, 0.1, 0.0));
        assert!(budget.affords(1.0, 0.1, 10.0));
        budget.record_done(Some(100.0));
        budget.record_done(None);
        budget.record_waste(4.0);
        budget.charge(3.0);
        assert!(budget.affords(3.0, 0.1, 0.0));
        assert!(!budget.affords(3.1, 0.1, 0.0));
        budget.release(3.0);
        assert!(budget.affords(6.0, 0.1, 0.0));
        assert_eq!(budget.wasted(), 4.0);
    }
}
