//! Where a build stands, for whoever shows it.

use std::time::Duration;

use minibuild_core::{ActionId, Branch, RunId};

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

    /// How many runs an executor here was given whose end was not told yet.
    pub fn given_here(&self) -> u64 {
        self.running_here as u64
    }

    /// What runs now, oldest first. `begun` tells since when a command runs here, if it does not wait for others.
    pub fn running(&self, begun: &dyn Fn(RunId) -> Option<Duration>) -> Vec<RunningAction> {
        let describe = |(&action, running): (&ActionId, &Running)| {
            let here = running.run(Branch::Local).filter(|_| running.runs_on(Branch::Local));
            let side = if here.is_some() { Branch::Local } else { Branch::Remote };
            let command = here.and_then(|run| begun(RunId { action, attempt: run.attempt }));
            let since = match command {
                // Beside a remote run that one's beginning counts.
                _ if running.runs_on(Branch::Remote) => running.started,
                None if here.is_some() => return None,
                since => since.unwrap_or(running.started),
            };
            let label = self.model.label_of(action).to_string();
            let mnemonic = self.model.action(action).mnemonic.to_string();
            Some(RunningAction { label, mnemonic, since, side, stage: running.stage })
        };
        let begun = self.running.iter().filter(|(_, running)| running.has_begun());
        let mut list: Vec<_> = begun.filter_map(describe).collect();
        list.sort_by(|a, b| (a.since, &a.label).cmp(&(b.since, &b.label)));
        list
    }
}
