//! What earlier runs tell of later ones: running statistics, kept across builds as plain values.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Samples after which a running mean forgets.
const MEMORY: u32 = 40;
/// Samples after which outliers are clipped, to this factor of the mean.
const CLIP_AFTER: u32 = 4;
const CLIP: f64 = 4.0;

/// A running mean with its mean deviation: recent samples weigh more, single outliers little.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// How many samples it saw.
    pub count: u32,
    /// Their mean.
    pub mean: f64,
    /// Mean distance of a sample from the mean before it.
    pub deviation: f64,
}

impl Running {
    /// Adds a sample; one that is no finite number or negative is dropped.
    pub fn add(&mut self, sample: f64) {
        if !sample.is_finite() || sample < 0.0 {
            return;
        }
        let sample = match self.count >= CLIP_AFTER && self.mean > 0.0 {
            true => sample.clamp(self.mean / CLIP, self.mean * CLIP),
            false => sample,
        };
        self.count = self.count.saturating_add(1);
        let weight = 1.0 / f64::from(self.count.min(MEMORY));
        if self.count > 1 {
            self.deviation += ((sample - self.mean).abs() - self.deviation) * weight;
        }
        self.mean += (sample - self.mean) * weight;
    }

    /// Samples that weigh in the mean.
    pub fn weight(&self) -> u32 {
        self.count.clamp(1, MEMORY)
    }

    /// How far the mean may be off: its standard error, as if samples were spread evenly around it. As large as the mean
    /// itself where little was seen.
    pub fn error(&self) -> f64 {
        match self.count {
            0..CLIP_AFTER => self.mean,
            _ => self.deviation * 1.25 / f64::from(self.weight()).sqrt(),
        }
    }

    /// The mean, if there was any sample and the value (it may come from a file) is usable.
    pub fn get(&self) -> Option<f64> {
        (self.count > 0 && self.mean.is_finite() && self.mean >= 0.0).then_some(self.mean)
    }
}

/// What is remembered of one action from run to run; zero is "unknown".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionHistory {
    /// Time of a local run, milliseconds.
    pub local_ms: u32,
    /// Time on a remote worker, milliseconds.
    pub exec_ms: u32,
    /// Time to bring its outputs here, milliseconds.
    pub download_ms: u32,
    /// Largest resident set of a local run, MiB.
    pub rss_mib: u32,
}

impl ActionHistory {
    /// Takes a local run in.
    pub fn record_local(&mut self, wall: Duration, max_rss: u64) {
        self.local_ms = blend(self.local_ms, ms(wall));
        let rss = u32::try_from(max_rss.div_ceil(1 << 20)).unwrap_or(u32::MAX);
        // Too little memory hurts more than too much: a peak is forgotten slowly.
        self.rss_mib = rss.max(self.rss_mib - self.rss_mib / 8);
    }

    /// Takes a remote run in.
    pub fn record_remote(&mut self, exec: Duration, download: Duration) {
        self.exec_ms = blend(self.exec_ms, ms(exec));
        self.download_ms = blend(self.download_ms, ms(download));
    }
}

/// The newest sample weighs half; a first one is taken as it is. Known is never zero.
fn blend(old: u32, new: u32) -> u32 {
    match old {
        0 => new.max(1),
        _ => u32::try_from((u64::from(old) + u64::from(new)).div_ceil(2)).unwrap_or(u32::MAX).max(1),
    }
}

fn ms(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// What is remembered of all actions with one mnemonic, times in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MnemonicHistory {
    /// Local runs.
    pub local: Running,
    /// Time on remote workers.
    pub exec: Running,
    /// Bringing outputs here.
    pub download: Running,
    /// Largest resident sets, MiB.
    pub rss: Running,
}

/// What is remembered of the remote endpoint, times in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EndpointHistory {
    /// From a look-up to its answer.
    pub answer: Running,
    /// What a remote run takes besides waiting, running and bringing: sending and calls.
    pub overhead: Running,
    /// Waiting for a worker.
    pub queue: Running,
    /// Time on a worker as part of the time of the same action here.
    pub ratio: Running,
    /// Runs on workers at once while others waited; 0 if none ever waited.
    pub workers: f64,
    /// Whether a hit was ever answered within 20 ms.
    pub has_fast_hit: bool,
}

impl EndpointHistory {
    /// Takes over how soon others were answered, where nothing is known of that.
    pub fn know_answer(&mut self, answer: Running) {
        if self.answer.get().is_none() && answer.get().is_some() {
            self.answer = answer;
        }
    }
}

/// Everything a policy remembers from build to build, but for what is kept with each action ([`ActionHistory`]).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// By mnemonic.
    pub mnemonics: BTreeMap<String, MnemonicHistory>,
    /// Of the endpoint; of another one it means nothing.
    pub endpoint: EndpointHistory,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn running(samples: &[f64]) -> Running {
        let mut running = Running::default();
        samples.iter().for_each(|&sample| running.add(sample));
        running
    }

    #[test]
    fn means_of_few_samples_are_means_and_later_ones_follow() {
        assert_eq!(running(&[]).get(), None);
        assert_eq!(running(&[2.0, 4.0, 6.0]).get(), Some(4.0));
        let moved = running(&[[1.0; 60], [2.0; 60]].concat()).mean;
        assert!((1.7..=2.0).contains(&moved), "{moved}");
    }

    #[test]
    fn an_outlier_counts_little_and_nonsense_not_at_all() {
        let calm = running(&[1.0; 20]);
        let mut hit = calm;
        hit.add(1000.0);
        assert!(hit.mean < 1.2, "{hit:?}");
        let mut same = calm;
        [f64::NAN, f64::INFINITY, -1.0].into_iter().for_each(|bad| same.add(bad));
        assert_eq!(same, calm);
    }

    #[test]
    fn an_actions_history_follows_its_runs() {
        let mut history = ActionHistory::default();
        history.record_local(Duration::from_millis(100), 3 << 20);
        history.record_local(Duration::from_millis(200), 1);
        history.record_remote(Duration::from_micros(10), Duration::from_millis(7));
        assert_eq!(history, ActionHistory { local_ms: 150, exec_ms: 1, download_ms: 7, rss_mib: 3 });
        history.record_local(Duration::MAX, u64::MAX);
        assert!(history.local_ms > 1 << 30);
    }
}
