//! Where a build stands, for whoever shows it.

use minibuild_core::{ActionId, Branch};

use super::{Machine, Progress, Running, RunningAction};

impl Machine {
    /// Where the build stands, for a progress display.
    pub fn progress(&self) -> Progress {
        let counts = &self.outcome.counts;
        let done =
            counts.up_to_date + counts.local + counts.remote + counts.disk_cache + counts.remote_cache + counts.failed;
        Progress {
            total: counts.total,
            done,
            running: self.running.values().filter(|running| running.has_begun()).count() as u64,
            queued: self.queued,
            fetching: self.bytes.under_way() as u64,
            files: self.fetched_files,
            bytes: self.fetched_bytes,
            received: 0,
            uploading: self.uploading.len() as u64,
        }
    }

    /// What runs now, oldest first.
    pub fn running(&self) -> Vec<RunningAction> {
        let describe = |(&action, running): (&ActionId, &Running)| RunningAction {
            label: self.model.label_of(action).to_string(),
            mnemonic: self.model.action(action).mnemonic.to_string(),
            since: running.started,
            side: if running.runs_on(Branch::Local) { Branch::Local } else { Branch::Remote },
            stage: running.stage,
        };
        let begun = self.running.iter().filter(|(_, running)| running.has_begun());
        let mut list: Vec<_> = begun.map(describe).collect();
        list.sort_by(|a, b| (a.since, &a.label).cmp(&(b.since, &b.label)));
        list
    }
}
