//! The account of one build's time: what ran where, who waited for what. Knows no format.

use std::collections::HashMap;
use std::time::Duration;

use minibuild_core::{ActionId, Branch, BranchOutcome, FetchId, RemoteStage, RunId};
use minibuild_engine::moment::{Moment, Wait};

use super::lanes::Lanes;

/// What time passes with, besides running commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Waiting {
    /// For a place here or there.
    Queued,
    /// For inputs' bytes.
    Inputs,
    /// For a cache's answer.
    LookUp,
    /// For a source that is read again.
    Rehash,
    /// For blobs to be sent.
    Upload,
    /// For a worker.
    RemoteQueue,
    /// For outputs to be brought here.
    Download,
}

impl Waiting {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Queued, Self::Inputs, Self::LookUp, Self::Rehash, Self::Upload, Self::RemoteQueue, Self::Download];

    /// Its name in a profile.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Inputs => "awaiting inputs",
            Self::LookUp => "look-up",
            Self::Rehash => "reading again",
            Self::Upload => "upload",
            Self::RemoteQueue => "remote queue",
            Self::Download => "download",
        }
    }

    fn of_wait(wait: Wait) -> Self {
        match wait {
            Wait::Queued => Self::Queued,
            Wait::Inputs => Self::Inputs,
            Wait::LookUp => Self::LookUp,
            Wait::Rehash => Self::Rehash,
        }
    }

    fn of_stage(stage: RemoteStage) -> Option<Self> {
        match stage {
            RemoteStage::CheckingCache => Some(Self::LookUp),
            RemoteStage::Uploading(..) => Some(Self::Upload),
            RemoteStage::Queued => Some(Self::RemoteQueue),
            RemoteStage::Running => None,
            RemoteStage::Downloading => Some(Self::Download),
        }
    }
}

/// A stretch of time, with its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it began.
    pub start: Duration,
    /// When it ended.
    pub end: Duration,
    /// Its lane.
    pub lane: u32,
}

/// One run of an action.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Of which action.
    pub action: ActionId,
    /// Where.
    pub side: Branch,
    /// When.
    pub span: Span,
    /// How it ended, where that was told.
    pub outcome: Option<BranchOutcome>,
    /// What the remote side did one after the other; `None` is running the command.
    pub stages: Vec<(Option<Waiting>, Duration)>,
}

/// A wait of an action.
#[derive(Clone, Copy, Debug)]
pub struct Waited {
    /// Of which action.
    pub action: ActionId,
    /// For what.
    pub what: Waiting,
    /// When.
    pub span: Span,
}

/// Everything that was noted.
#[derive(Debug, Default)]
pub struct Record {
    /// Runs in the order of their ends.
    pub runs: Vec<Ran>,
    /// Waits likewise.
    pub waits: Vec<Waited>,
    /// Outputs brought here: path and time.
    pub fetches: Vec<(String, Span)>,
    /// Results stored in caches.
    pub uploads: Vec<(ActionId, Span)>,
    /// How many wait for what, whenever that changed.
    pub counts: Vec<(Duration, [u32; Waiting::ALL.len()])>,
    /// When the workspace had been looked at.
    pub begun: Option<Duration>,
    open_runs: HashMap<(RunId, bool), Ran>,
    open_waits: HashMap<ActionId, (Waiting, Duration, u32)>,
    open_fetches: HashMap<FetchId, (String, Duration, u32)>,
    open_uploads: HashMap<RunId, (Duration, u32)>,
    here: Lanes,
    there: Lanes,
    fetching: Lanes,
    uploading: Lanes,
    waiting: [Lanes; Waiting::ALL.len()],
}

impl Record {
    /// Takes note.
    pub fn take(&mut self, now: Duration, moment: &Moment) {
        match moment {
            Moment::Begun => self.begun = Some(now),
            Moment::Waits(action, wait) => self.wait(now, *action, wait.map(Waiting::of_wait)),
            Moment::RunStarted(run, side) => self.start(now, *run, *side),
            Moment::Stage(run, stage) => self.stage(now, *run, *stage),
            Moment::RunEnded(run, side) => self.end(now, *run, *side),
            Moment::FetchStarted(id, path) => {
                let lane = self.fetching.take();
                self.open_fetches.insert(*id, (path.to_string(), now, lane));
                self.count(now, Waiting::Download, 1);
            }
            Moment::FetchEnded(id) => {
                if let Some((path, start, lane)) = self.open_fetches.remove(id) {
                    self.fetching.give(lane);
                    self.fetches.push((path, Span { start, end: now, lane }));
                    self.count(now, Waiting::Download, -1);
                }
            }
            Moment::UploadStarted(run) => {
                let lane = self.uploading.take();
                self.open_uploads.insert(*run, (now, lane));
            }
            Moment::UploadEnded(run) => {
                if let Some((start, lane)) = self.open_uploads.remove(run) {
                    self.uploading.give(lane);
                    self.uploads.push((run.action, Span { start, end: now, lane }));
                }
            }
        }
    }

    /// Ends what is still open.
    pub fn close(&mut self, now: Duration) {
        let mut runs: Vec<(RunId, Branch)> = self
            .open_runs
            .values()
            .map(|ran| ran.side)
            .zip(self.open_runs.keys())
            .map(|(side, (run, _))| (*run, side))
            .collect();
        runs.sort_by_key(|(run, _)| *run);
        runs.into_iter().for_each(|(run, side)| self.end(now, run, side));
        let mut waits: Vec<ActionId> = self.open_waits.keys().copied().collect();
        waits.sort_unstable();
        waits.into_iter().for_each(|action| self.wait(now, action, None));
    }

    fn wait(&mut self, now: Duration, action: ActionId, what: Option<Waiting>) {
        if let Some((what, start, lane)) = self.open_waits.remove(&action) {
            self.waiting[what as usize].give(lane);
            self.count(now, what, -1);
            if start != now {
                self.waits.push(Waited { action, what, span: Span { start, end: now, lane } });
            }
        }
        if let Some(what) = what {
            let lane = self.waiting[what as usize].take();
            self.open_waits.insert(action, (what, now, lane));
            self.count(now, what, 1);
        }
    }

    fn start(&mut self, now: Duration, run: RunId, side: Branch) {
        let is_remote = side == Branch::Remote;
        let lane = if is_remote { self.there.take() } else { self.here.take() };
        let span = Span { start: now, end: now, lane };
        let ran = Ran { action: run.action, side, span, outcome: None, stages: Vec::new() };
        self.open_runs.insert((run, is_remote), ran);
    }

    fn stage(&mut self, now: Duration, run: RunId, stage: RemoteStage) {
        let Some(ran) = self.open_runs.get_mut(&(run, true)) else { return };
        let (before, next) = (ran.stages.last().map(|(what, _)| *what), Waiting::of_stage(stage));
        if before != Some(next) {
            ran.stages.push((next, now));
            self.change(now, before.flatten(), next);
        }
    }

    fn end(&mut self, now: Duration, run: RunId, side: Branch) {
        let Some(mut ran) = self.open_runs.remove(&(run, side == Branch::Remote)) else { return };
        let lanes = if side == Branch::Remote { &mut self.there } else { &mut self.here };
        lanes.give(ran.span.lane);
        ran.span.end = now;
        self.change(now, ran.stages.last().and_then(|(what, _)| *what), None);
        self.runs.push(ran);
    }

    fn change(&mut self, now: Duration, before: Option<Waiting>, next: Option<Waiting>) {
        before.into_iter().for_each(|what| self.count(now, what, -1));
        next.into_iter().for_each(|what| self.count(now, what, 1));
    }

    /// One point a millisecond is enough for a chart.
    fn count(&mut self, now: Duration, what: Waiting, by: i32) {
        let mut counts = self.counts.last().map(|(_, counts)| *counts).unwrap_or_default();
        counts[what as usize] = counts[what as usize].saturating_add_signed(by);
        match self.counts.last_mut() {
            Some((at, last)) if now.saturating_sub(*at) < Duration::from_millis(1) => *last = counts,
            _ => self.counts.push((now, counts)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn runs_waits_and_stages_are_put_together() {
        let mut record = Record::default();
        let run = |index| RunId { action: ActionId::new(index), attempt: 0 };
        let moments = [
            (0, Moment::Waits(ActionId::new(0), Some(Wait::LookUp))),
            (2, Moment::Waits(ActionId::new(0), Some(Wait::Queued))),
            (2, Moment::Waits(ActionId::new(1), Some(Wait::Queued))),
            (5, Moment::Waits(ActionId::new(0), None)),
            (5, Moment::RunStarted(run(0), Branch::Remote)),
            (5, Moment::Stage(run(0), RemoteStage::Uploading(0, 2))),
            (6, Moment::Stage(run(0), RemoteStage::Uploading(1, 2))),
            (7, Moment::Stage(run(0), RemoteStage::Queued)),
            (8, Moment::Waits(ActionId::new(1), None)),
            (8, Moment::RunStarted(run(1), Branch::Local)),
            (9, Moment::Stage(run(0), RemoteStage::Running)),
            (11, Moment::RunEnded(run(0), Branch::Remote)),
            // Nobody knows of these.
            (11, Moment::RunEnded(run(0), Branch::Remote)),
            (11, Moment::Stage(run(7), RemoteStage::Queued)),
        ];
        for (at, moment) in moments {
            record.take(ms(at), &moment);
        }
        record.close(ms(12));
        let waits: Vec<_> = record.waits.iter().map(|w| (w.action.index(), w.what, w.span.start, w.span.end)).collect();
        let expected = [
            (0, Waiting::LookUp, ms(0), ms(2)),
            (0, Waiting::Queued, ms(2), ms(5)),
            (1, Waiting::Queued, ms(2), ms(8)),
        ];
        assert_eq!(waits, expected);
        let runs: Vec<_> = record.runs.iter().map(|r| (r.action.index(), r.side, r.span.start, r.span.end)).collect();
        assert_eq!(runs, [(0, Branch::Remote, ms(5), ms(11)), (1, Branch::Local, ms(8), ms(12))]);
        let stages = [(Some(Waiting::Upload), ms(5)), (Some(Waiting::RemoteQueue), ms(7)), (None, ms(9))];
        assert_eq!(record.runs[0].stages, stages);
        assert_eq!(record.counts.last().map(|(_, counts)| *counts), Some([0; Waiting::ALL.len()]));
    }
}
