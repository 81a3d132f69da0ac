//! The races of running actions: what happens is told to an action's [`Race`], and its steps become the machine's.
//!
//! Each action that runs has one, also where one side only may run it. Which branch starts when is decided in `start`.

use std::sync::Arc;
use std::time::Duration;

use minibuild_core::{
    ActionId, ArtifactId, Branch, BranchOutcome, BuildEvent, Content, ExecutionReport, ExecutionStatus, Level,
    PublishedOutput, RemoteStage, RunId, StagedOutput, StagingOutcome, StagingRequest, StopReason, WsPath,
};
use minibuild_dynamic::policy::{Ended, Event as Chosen, Reason, RemoteTimes};
use minibuild_dynamic::race::{
    Attempt, Event as Heard, FailureClass, Halt, LocalEnd, Need, Plan, Race, RemoteEnd, StagingEnd, Step as Told, Work,
};
use minibuild_graph::ActionKey;

use super::evaluate::private_files;
use super::finish::millis;
use super::look_up::LookUp;
use super::remote::Sides;
use super::{Machine, Made, Name, Status, Step, Stopping, key_path};
use crate::state::SideRecord;

/// What branches tell.
pub(super) type Report = Box<ExecutionReport>;

/// What is remembered of an action while it runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) race: Race<Report>,
    pub(super) key: ActionKey,
    pub(super) made: Made,
    pub(super) started: Duration,
    /// The last run of each branch.
    pub(super) local: Option<Run>,
    pub(super) remote: Option<Run>,
    /// What the remote side does now.
    pub(super) stage: Option<RemoteStage>,
    /// Nothing is under way, and it goes on with this.
    pub(super) needs: Option<Need>,
    /// The request of the branch that is about to start.
    pub(super) prepared: Option<Step>,
    /// What is being brought near its place, or was.
    pub(super) staging: Option<Attempt>,
    /// What was put in its place.
    pub(super) published: Vec<PublishedOutput>,
    /// A branch could not start, since its inputs are not there or others by now.
    pub(super) is_refused: bool,
    /// The question to the cache that waits for its answer.
    pub(super) look_up: Option<LookUp>,
    /// Why the branch that is about to start does.
    pub(super) reason: Option<Reason>,
    /// Branches that are over, for whoever asks later how sides were chosen.
    pub(super) ended: Vec<SideRecord>,
}

/// One run of one branch.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) attempt: u32,
    pub(super) started: Duration,
    pub(super) is_over: bool,
    /// What it was told to stop for.
    pub(super) told: Option<StopReason>,
    /// Why it was started, as it was told; nothing was told of a result that was found without one.
    pub(super) reason: Option<String>,
    /// When a worker was waited for, and when one began, as far as the server tells.
    pub(super) queued: Option<Duration>,
    pub(super) executing: Option<Duration>,
    /// When it came back.
    pub(super) ended: Option<Duration>,
    /// The discoverable inputs it read, where a depfile says so.
    pub(super) read: Option<Vec<WsPath>>,
    /// What is wrong with it though it ended well.
    pub(super) problem: Option<String>,
}

impl Run {
    pub(super) fn new(attempt: u32, started: Duration) -> Self {
        Self { attempt, started, ..Self::default() }
    }
}

impl Running {
    pub(super) fn new(plan: Plan, key: ActionKey, made: Made, started: Duration) -> Self {
        Self {
            race: Race::new(plan),
            key,
            made,
            started,
            local: None,
            remote: None,
            stage: None,
            needs: None,
            prepared: None,
            staging: None,
            published: Vec::new(),
            is_refused: false,
            look_up: None,
            reason: None,
            ended: Vec::new(),
        }
    }

    pub(super) fn run(&self, branch: Branch) -> Option<&Run> {
        match branch {
            Branch::Local => self.local.as_ref(),
            Branch::Remote => self.remote.as_ref(),
        }
    }

    pub(super) fn run_mut(&mut self, branch: Branch) -> Option<&mut Run> {
        match branch {
            Branch::Local => self.local.as_mut(),
            Branch::Remote => self.remote.as_mut(),
        }
    }

    /// Whether this is the current run of the branch.
    pub(super) fn is_run(&self, branch: Branch, run: RunId) -> bool {
        self.run(branch).is_some_and(|current| current.attempt == run.attempt && !current.is_over)
    }

    /// Whether this branch holds a place now.
    pub(super) fn runs_on(&self, branch: Branch) -> bool {
        self.run(branch).is_some_and(|run| !run.is_over)
    }

    /// Whether a branch of it has started.
    pub(super) fn has_begun(&self) -> bool {
        self.local.is_some() || self.remote.is_some()
    }

    /// Whether anything of it ran, or runs: a result that was found is no run.
    pub(super) fn has_begun_a_run(&self) -> bool {
        self.local.is_some() || self.remote.as_ref().is_some_and(|remote| remote.reason.is_some())
    }

    /// Whether it goes on only with a start, and nobody is asked for one already.
    pub(super) fn is_waiting(&self) -> bool {
        self.look_up.is_none() && (!self.has_begun() || self.needs.is_some())
    }

    /// Whether nothing goes on before this branch starts.
    pub(super) fn needs(&self, branch: Branch) -> bool {
        match self.needs {
            Some(Need::Either) => true,
            Some(Need::Local) => branch == Branch::Local,
            Some(Need::Remote) => branch == Branch::Remote,
            None => false,
        }
    }
}

/// What starting a branch is to a race.
pub(super) fn work_of(branch: Branch) -> Work {
    match branch {
        Branch::Local => Work::Local,
        Branch::Remote => Work::Execute,
    }
}

/// Sides as races know them.
pub(super) fn sides_of(sides: Sides) -> minibuild_dynamic::race::Sides {
    match (sides.here, sides.there) {
        (true, true) => minibuild_dynamic::race::Sides::Either,
        (false, true) => minibuild_dynamic::race::Sides::Remote,
        (_, false) => minibuild_dynamic::race::Sides::Local,
    }
}

impl Machine {
    /// Tells the action's race what happened, and does what it says.
    pub(super) fn tell_race(&mut self, action: ActionId, heard: Heard<Report>) {
        let Some(running) = self.running.get_mut(&action) else { return };
        for told in running.race.handle(heard) {
            self.take_race_step(action, told);
        }
    }

    fn take_race_step(&mut self, action: ActionId, told: Told<Report>) {
        let run = |attempt: Attempt| RunId { action, attempt: attempt.0 };
        match told {
            Told::RunLocal(attempt) => self.begin_local(action, attempt),
            Told::Execute(attempt) => self.begin_remote(action, attempt),
            Told::StopLocal(attempt, reason) => self.stop_local(run(attempt), reason),
            Told::DropRemote(attempt, reason) => self.drop_remote(run(attempt), reason),
            Told::Stage(attempt) => self.begin_staging(action, attempt),
            Told::SetAside(attempt) => self.set_aside_outputs(action, run(attempt)),
            Told::Publish { attempt, staged } => {
                self.begin_writing(action);
                self.steps.push(Step::Publish { run: run(attempt), staged: run(staged) });
            }
            Told::KeepStaged(staged) => self.steps.push(Step::KeepStaged(run(staged))),
            Told::DiscardStaged(staged) => self.steps.push(Step::Unstage(run(staged))),
            Told::Need(need) => self.queue_branch(action, need),
            Told::BranchEnded(branch, outcome) => self.end_branch(action, branch, outcome),
            Told::Finish(outcome) => self.finish_race(action, outcome),
            Told::LookUp(attempt) => self.begin_look_up(action, attempt),
            Told::DropLookUp(_) => self.drop_look_up(action),
        }
    }

    fn stop_local(&mut self, run: RunId, reason: StopReason) {
        if let Some(local) = self.running.get_mut(&run.action).and_then(|running| running.local.as_mut()) {
            local.told = Some(reason);
        }
        self.steps.push(Step::Stop(run, reason));
    }

    /// The remote side tells how far a run is.
    pub(super) fn take_stage(&mut self, run: RunId, stage: RemoteStage) {
        let (action, now) = (run.action, self.now);
        let Some(running) = self.running.get_mut(&action).filter(|running| running.is_run(Branch::Remote, run)) else {
            return;
        };
        running.stage = Some(stage);
        let Some(remote) = &mut running.remote else { return };
        match stage {
            RemoteStage::Queued => {
                remote.queued.get_or_insert(now);
                self.tell_policy(Chosen::RemoteQueued(action));
            }
            RemoteStage::Running => {
                remote.executing.get_or_insert(now);
                self.tell_policy(Chosen::RemoteExecuting(action));
            }
            RemoteStage::CheckingCache | RemoteStage::Uploading(..) | RemoteStage::Downloading => {}
        }
    }

    /// The action is under way on some side.
    pub(super) fn set_running(&mut self, action: ActionId) {
        if self.status_of(action) != Status::Running {
            self.set_status(action, Status::Running);
            self.emit_action_started(action);
        }
    }

    fn drop_remote(&mut self, run: RunId, reason: StopReason) {
        let Some(running) = self.running.get_mut(&run.action) else { return };
        if running.staging == Some(Attempt(run.attempt)) {
            return self.steps.push(Step::StopStaging(run));
        }
        if let Some(remote) = &mut running.remote {
            remote.told = Some(reason);
        }
        self.steps.push(Step::StopRemote(run, reason));
    }

    fn begin_local(&mut self, action: ActionId, attempt: Attempt) {
        self.begin_usage(action);
        self.exclusive_running |= self.is_exclusive(action);
        self.forget_outputs(action);
        self.begin_writing(action);
        let run = Run::new(attempt.0, self.now);
        let Some(running) = self.running.get_mut(&action) else { return };
        running.local = Some(run);
        running.needs = None;
        let prepared = running.prepared.take();
        self.set_running(action);
        self.emit_branch_started(action, Branch::Local);
        self.steps.extend(prepared);
    }

    fn begin_remote(&mut self, action: ActionId, attempt: Attempt) {
        self.running_there += 1;
        let run = Run::new(attempt.0, self.now);
        let Some(running) = self.running.get_mut(&action) else { return };
        running.remote = Some(run);
        running.needs = None;
        let prepared = running.prepared.take();
        self.set_running(action);
        self.emit_branch_started(action, Branch::Remote);
        self.steps.extend(prepared);
    }

    /// Something is about to be written to the places of the action's outputs.
    fn begin_writing(&mut self, action: ActionId) {
        let model = Arc::clone(&self.model);
        let outputs = model.action(action).outputs.iter().map(|&id| model.artifact(id).path.clone());
        self.state.record_begun(Name::of(&model, action).as_ref(), outputs.chain(self.private_files(action)));
    }

    fn private_files(&self, action: ActionId) -> Vec<WsPath> {
        let files = self.running.get(&action).map(|running| &running.made.command.files[..]).unwrap_or_default();
        private_files(&self.model, action, files)
    }

    /// Forgets what the executor has removed after a local run. Response files of a command that failed stay for whoever
    /// repeats it by hand.
    fn forget_private_files(&mut self, report: &ExecutionReport) {
        let action = report.run.action;
        let depfile = self.model.action(action).depfile.clone();
        let is_removed = |path: &WsPath| match report.status {
            ExecutionStatus::Infrastructure(_) | ExecutionStatus::Stuck(_) => false,
            ExecutionStatus::Exited(0) => true,
            _ => depfile.as_ref() == Some(path),
        };
        let removed = self.private_files(action).into_iter().filter(is_removed);
        self.state.clear_begun(&key_path(&self.model, action), &removed.collect::<Vec<_>>());
    }

    fn begin_staging(&mut self, action: ActionId, attempt: Attempt) {
        let Some(running) = self.running.get_mut(&action) else { return };
        running.staging = Some(attempt);
        running.stage = Some(RemoteStage::Downloading);
        let key = running.key.action;
        let found: Vec<(WsPath, Content)> = running.race.remote_result().map_or_else(Vec::new, |report| {
            report.outputs.iter().map(|output| (output.meta.path.clone(), output.meta.content.clone())).collect()
        });
        let model = Arc::clone(&self.model);
        let wanted: Vec<&WsPath> = model
            .action(action)
            .outputs
            .iter()
            .filter(|&&id| self.bytes.wanted(id).is_some())
            .map(|&id| &model.artifact(id).path)
            .collect();
        let mut outputs = Vec::new();
        for (path, content) in found.into_iter().filter(|(path, _)| wanted.contains(&path)) {
            let here = self.blobs_here(&content);
            outputs.push(StagedOutput { path, content, here });
        }
        let run = RunId { action, attempt: attempt.0 };
        let who = self.requester(action, key);
        self.steps.push(Step::Stage(Box::new(StagingRequest { run, outputs, who })));
    }

    fn set_aside_outputs(&mut self, action: ActionId, run: RunId) {
        self.forget_outputs(action);
        let model = Arc::clone(&self.model);
        let row = model.action(action);
        let outputs = row.outputs.iter().map(|&id| model.artifact(id).path.clone());
        self.steps.push(Step::SetAside(run, outputs.chain(row.depfile.clone()).collect()));
    }

    /// The action goes on when this branch, or any, gets a place.
    fn queue_branch(&mut self, action: ActionId, need: Need) {
        let Some(running) = self.running.get_mut(&action) else { return };
        running.needs = Some(need);
        self.enqueued += 1;
        match self.chooser {
            Some(_) => self.choose_again(action),
            None => self.push_ready(action),
        }
    }

    /// The branch cannot start, since what the action reads is not where it would have to be, or another by now. If
    /// nothing else of it is under way the action is looked at again.
    pub(super) fn refuse(&mut self, action: ActionId, branch: Branch) {
        let Some(running) = self.running.get_mut(&action) else { return };
        running.is_refused = true;
        let attempt = running.race.next_attempt().0;
        let status = ExecutionStatus::Infrastructure("its inputs are not there".to_owned());
        let report = Box::new(ExecutionReport::new(RunId { action, attempt }, status));
        self.tell_race(action, Heard::CannotStart(branch, FailureClass::Inputs, report));
    }

    /// A run is over. One that is no longer the current run of its action is dropped.
    pub(super) fn take_report(&mut self, branch: Branch, report: ExecutionReport) {
        let run = report.run;
        let current = self.running.get_mut(&run.action).and_then(|running| running.run_mut(branch));
        let Some(current) = current.filter(|current| current.attempt == run.attempt && !current.is_over) else {
            return;
        };
        current.is_over = true;
        current.ended = Some(self.now);
        let (told, wall) = (current.told, self.now.saturating_sub(current.started));
        match branch {
            Branch::Local => {
                self.forget_private_files(&report);
                self.end_usage(run.action);
                self.note_pace(run.action, &report);
                self.exclusive_running &= !self.is_exclusive(run.action);
            }
            Branch::Remote => self.running_there -= 1,
        }
        // Of a loser nobody expects anything else.
        let has_lost = report.status == ExecutionStatus::Stopped(StopReason::LostRace);
        if !report.killed.is_empty() && !has_lost {
            let label = self.model.label_of(run.action);
            let text =
                format!("processes of `{label}` outlived its command and were killed: {}", report.killed.join(", "));
            self.message(Level::Warning, text);
        }
        let attempt = Attempt(run.attempt);
        let max_rss = report.cost.max_rss;
        let heard = match branch {
            Branch::Local => {
                let end = self.local_end(run.action, Box::new(report));
                let how = how_local_ended(&end, told);
                self.tell_policy(Chosen::LocalEnded { action: run.action, how, wall, max_rss });
                Heard::LocalEnded(attempt, end)
            }
            Branch::Remote => {
                let end = self.remote_end(run.action, Box::new(report));
                if let Some(how) = how_remote_ended(&end, told) {
                    self.tell_policy(Chosen::RemoteEnded { action: run.action, how, times: RemoteTimes::default() });
                }
                Heard::RemoteEnded(attempt, end)
            }
        };
        self.tell_race(run.action, heard);
    }

    fn local_end(&mut self, action: ActionId, report: Report) -> LocalEnd<Report> {
        match &report.status {
            ExecutionStatus::Exited(0) if self.has_read_its_inputs(action, Branch::Local, &report) => {
                LocalEnd::Succeeded(report)
            }
            ExecutionStatus::Stopped(_) => LocalEnd::Stopped(report),
            ExecutionStatus::Stuck(_) => LocalEnd::Stuck(report),
            status => LocalEnd::Failed(FailureClass::of(status).unwrap_or(FailureClass::Command), report),
        }
    }

    fn remote_end(&mut self, action: ActionId, report: Report) -> RemoteEnd<Report> {
        match &report.status {
            ExecutionStatus::Exited(0) if self.has_read_its_inputs(action, Branch::Remote, &report) => {
                RemoteEnd::Succeeded { to_stage: self.is_to_be_staged(action), report }
            }
            ExecutionStatus::Stopped(_) => RemoteEnd::Closed(report),
            _ if !report.changed_inputs.is_empty() => RemoteEnd::Failed(FailureClass::Inputs, report),
            status => {
                let class = FailureClass::of(status).unwrap_or(FailureClass::Command);
                if let (ExecutionStatus::Infrastructure(why), Ok(sides)) = (status, self.sides(action))
                    && self.stopping.is_none()
                    && sides == (Sides { here: true, there: true })
                {
                    self.tell_fallback(action, &why.clone());
                }
                RemoteEnd::Failed(class, report)
            }
        }
    }

    /// Whether the depfile names nothing but declared inputs; what it names, or what is wrong, is kept.
    fn has_read_its_inputs(&mut self, action: ActionId, branch: Branch, report: &ExecutionReport) -> bool {
        let read = self.read_inputs(action, report);
        let Some(run) = self.running.get_mut(&action).and_then(|running| running.run_mut(branch)) else { return false };
        match read {
            Ok(read) => {
                run.read = read;
                true
            }
            Err(problem) => {
                run.problem = Some(problem);
                false
            }
        }
    }

    /// While a local run may still win, what is wanted of a remote result is brought here privately. Where none runs the
    /// result stands as it is, and its outputs are fetched like those of any other.
    pub(super) fn is_to_be_staged(&self, action: ActionId) -> bool {
        let is_wanted = |&id: &ArtifactId| self.bytes.wanted(id).is_some();
        self.running.get(&action).is_some_and(|running| running.runs_on(Branch::Local))
            && self.model.action(action).outputs.iter().any(is_wanted)
    }

    pub(super) fn take_staged(&mut self, run: RunId, outcome: StagingOutcome) {
        let report = |status| Box::new(ExecutionReport::new(run, status));
        let failed = |why| {
            let status = ExecutionStatus::Infrastructure(format!("its outputs could not be brought here: {why}"));
            StagingEnd::Failed(FailureClass::Infrastructure, report(status))
        };
        let end = match outcome {
            StagingOutcome::Done => StagingEnd::Complete,
            StagingOutcome::Lost { why, .. } | StagingOutcome::Unreachable(why) | StagingOutcome::Disk(why) => {
                failed(why)
            }
            StagingOutcome::Stopped => {
                StagingEnd::Closed(report(ExecutionStatus::Infrastructure("its downloads were stopped".to_owned())))
            }
        };
        let has_failed = matches!(end, StagingEnd::Failed(..));
        if has_failed {
            let (action, times) = (run.action, RemoteTimes::default());
            self.tell_policy(Chosen::RemoteEnded { action, how: Ended::Failed, times });
        }
        self.tell_race(run.action, Heard::Staged(Attempt(run.attempt), end));
        if has_failed {
            self.offer_remote_again(run.action);
        }
    }

    pub(super) fn take_set_aside(&mut self, run: RunId, problem: Option<String>) {
        let is_clean = problem.is_none();
        if let Some(problem) = problem {
            let label = self.model.label_of(run.action);
            let text = format!("what a run of `{label}` left cannot be set aside: {problem}");
            self.message(Level::Warning, text);
        }
        self.tell_race(run.action, Heard::SetAside { attempt: Attempt(run.attempt), is_clean });
    }

    pub(super) fn take_published(&mut self, run: RunId, outcome: Result<Vec<PublishedOutput>, String>) {
        let result = match outcome {
            Ok(published) => {
                if let Some(running) = self.running.get_mut(&run.action) {
                    running.published = published;
                }
                Ok(())
            }
            Err(why) => {
                let label = self.model.label_of(run.action);
                self.message(
                    Level::Warning,
                    format!("the remote result of `{label}` cannot be put in its place: {why}"),
                );
                let status =
                    ExecutionStatus::Infrastructure(format!("its outputs cannot be put in their places: {why}"));
                Err(Box::new(ExecutionReport::new(run, status)))
            }
        };
        self.tell_race(run.action, Heard::Published(Attempt(run.attempt), result));
    }

    /// All races end for this reason.
    pub(super) fn halt_races(&mut self, stopping: Stopping) {
        let halt = match stopping {
            Stopping::FailFast => Halt::FailFast,
            Stopping::Interrupted => Halt::Interrupt,
            Stopping::Killed => Halt::Kill,
        };
        let mut actions: Vec<ActionId> = self.running.keys().copied().collect();
        actions.sort_unstable();
        for action in actions {
            self.tell_race(action, Heard::Halt(halt));
            self.hurry_remote(action, halt.stop_reason());
        }
    }

    /// A race closes a stream once; whoever was asked gently is asked again.
    fn hurry_remote(&mut self, action: ActionId, reason: StopReason) {
        let Some(remote) = self.running.get_mut(&action).and_then(|running| running.remote.as_mut()) else { return };
        if !remote.is_over && remote.told.is_some_and(|told| told < reason) {
            remote.told = Some(reason);
            let run = RunId { action, attempt: remote.attempt };
            self.steps.push(Step::StopRemote(run, reason));
        }
    }

    fn end_branch(&mut self, action: ActionId, branch: Branch, outcome: BranchOutcome) {
        let now = self.now;
        let Some(running) = self.running.get_mut(&action) else { return };
        let Some(run) = running.run(branch) else { return };
        // A result that was found with nothing beside it is no branch.
        let Some(reason) = run.reason.clone() else { return };
        let ms = millis(now.saturating_sub(run.started));
        let short = u32::try_from(ms).unwrap_or(u32::MAX);
        running.ended.push(SideRecord { branch, reason, outcome, ms: short });
        let wasted = match branch {
            Branch::Local => &mut self.outcome.races.wasted_local_ms,
            Branch::Remote => &mut self.outcome.races.wasted_remote_ms,
        };
        if outcome == BranchOutcome::Lost {
            *wasted += ms;
        }
        let action = self.model.action_key_path(action);
        self.steps.push(Step::Emit(BuildEvent::BranchFinished { action, branch, outcome, ms }));
    }

    /// What a remote run took, as far as it is known.
    pub(super) fn remote_times(&self, running: &Running, exec: Duration) -> RemoteTimes {
        let Some(remote) = &running.remote else { return RemoteTimes::default() };
        let between = |from: Option<Duration>, to: Option<Duration>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_sub(from),
            _ => Duration::ZERO,
        };
        RemoteTimes {
            queue: between(remote.queued, remote.executing),
            exec,
            download: between(remote.ended, Some(self.now)),
        }
    }
}

/// What the end of a local run is to the policy. A success stands unless it was to stop for the other's.
fn how_local_ended(end: &LocalEnd<Report>, told: Option<StopReason>) -> Ended {
    match (end, told) {
        (_, Some(StopReason::LostRace)) => Ended::Lost,
        (LocalEnd::Succeeded(_), _) => Ended::Won,
        (LocalEnd::Stopped(_), _) => Ended::Returned,
        (LocalEnd::Failed(..) | LocalEnd::Stuck(_), _) => Ended::Failed,
    }
}

/// The same of a remote one; a result has yet to be published.
fn how_remote_ended(end: &RemoteEnd<Report>, told: Option<StopReason>) -> Option<Ended> {
    match (end, told) {
        (RemoteEnd::Succeeded { .. }, None) => None,
        (_, Some(StopReason::LostRace)) => Some(Ended::Lost),
        (RemoteEnd::Failed(..), _) => Some(Ended::Failed),
        (RemoteEnd::Succeeded { .. } | RemoteEnd::Closed(_), _) => Some(Ended::Returned),
    }
}
