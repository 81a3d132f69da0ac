//! What the ends of pieces of work mean.

use std::mem;

use minibuild_core::{Branch, BranchOutcome, StopReason};

use super::state::{Found, Local, Race, Remote, Stage, Verdict};
use super::{Answer, Attempt, FailureClass, Halt, LocalEnd, RemoteEnd, Rules, StagingEnd, Step, Work};

impl<R, K: Rules> Race<R, K> {
    pub(super) fn take_refusal(&mut self, branch: Branch, class: FailureClass, report: R, steps: &mut Vec<Step<R>>) {
        match branch {
            Branch::Local if self.may_start(Work::Local) => {
                self.local = Local::Spent;
                self.local_failure = Some((class, report));
            }
            Branch::Remote if self.may_start(Work::Execute) => {
                self.remote = Remote::Spent;
                self.remote_failure = Some((class, report));
            }
            _ => return,
        }
        self.settle(steps);
    }

    pub(super) fn take_local_end(&mut self, attempt: Attempt, end: LocalEnd<R>, steps: &mut Vec<Step<R>>) {
        let Local::Running { attempt: current, told } = self.local else { return };
        if !self.rules.is_current(current, attempt) {
            return;
        }
        self.local = Local::Idle;
        match (end, &self.stage) {
            (LocalEnd::Stuck(report), _) => self.take_survivor(report, steps),
            (LocalEnd::Succeeded(report), Stage::Open) => {
                self.local = Local::Succeeded(report);
                self.settle(steps);
            }
            (LocalEnd::Failed(class, report), Stage::Open) => self.take_local_failure(class, report, steps),
            // Nobody asked for that.
            (LocalEnd::Stopped(report), Stage::Open) => {
                self.take_local_failure(FailureClass::Infrastructure, report, steps);
            }
            // What finished before it heard of the stop counts.
            (LocalEnd::Succeeded(report), Stage::Joining(Verdict::Stopped(_))) => {
                self.take_late_success(report, steps);
            }
            (LocalEnd::Failed(FailureClass::Command, report), Stage::Joining(Verdict::Stopped(_))) => {
                self.fail_local(FailureClass::Command, report, steps);
                self.stage = Stage::Joining(Verdict::Failed(Branch::Local));
                self.advance(steps);
            }
            (LocalEnd::Stopped(_), _) if self.rules.stop_ends_action(told) => self.take_stopped(steps),
            (LocalEnd::Succeeded(_), _) if !self.rules.claim_stands() => self.stand_down(),
            _ => self.lose_local(steps),
        }
    }

    fn take_local_failure(&mut self, class: FailureClass, report: R, steps: &mut Vec<Step<R>>) {
        self.fail_local(class, report, steps);
        self.settle(steps);
    }

    fn fail_local(&mut self, class: FailureClass, report: R, steps: &mut Vec<Step<R>>) {
        self.local = Local::Spent;
        self.local_failure = Some((class, report));
        steps.push(Step::BranchEnded(Branch::Local, BranchOutcome::Failed));
    }

    /// Nothing may be published beside what goes on writing.
    fn take_survivor(&mut self, report: R, steps: &mut Vec<Step<R>>) {
        self.fail_local(FailureClass::Survivor, report, steps);
        if let Stage::Joining(Verdict::Won(claim)) = mem::replace(&mut self.stage, Stage::Open) {
            self.arbiter.take_back(claim);
        }
        self.begin(Verdict::Failed(Branch::Local), steps);
    }

    fn take_late_success(&mut self, report: R, steps: &mut Vec<Step<R>>) {
        if let Some(claim) = self.arbiter.grant(Branch::Local) {
            self.local = Local::Succeeded(report);
            self.stage = Stage::Joining(Verdict::Won(claim));
        }
        self.advance(steps);
    }

    fn take_stopped(&mut self, steps: &mut Vec<Step<R>>) {
        steps.push(Step::BranchEnded(Branch::Local, BranchOutcome::Stopped));
        let halt = self.halt.unwrap_or(Halt::Interrupt);
        if let Stage::Joining(Verdict::Won(claim)) = mem::replace(&mut self.stage, Stage::Open) {
            self.arbiter.take_back(claim);
        }
        self.begin(Verdict::Stopped(halt), steps);
    }

    /// Both sides leave the field to each other. Never happens under the contract.
    fn stand_down(&mut self) {
        if let Stage::Joining(Verdict::Won(claim)) = mem::replace(&mut self.stage, Stage::Open) {
            self.arbiter.take_back(claim);
        }
        self.remote = Remote::Idle;
    }

    fn lose_local(&mut self, steps: &mut Vec<Step<R>>) {
        let outcome = self.outcome_of_loser();
        steps.push(Step::BranchEnded(Branch::Local, outcome));
        self.advance(steps);
    }

    pub(super) fn outcome_of_loser(&self) -> BranchOutcome {
        match &self.stage {
            Stage::Joining(Verdict::Stopped(_)) | Stage::SettingAside(Verdict::Stopped(_), _) => BranchOutcome::Stopped,
            _ => BranchOutcome::Lost,
        }
    }

    pub(super) fn take_answer(&mut self, attempt: Attempt, answer: Answer<R>, steps: &mut Vec<Step<R>>) {
        let Remote::LookingUp(current) = self.remote else { return };
        if !self.rules.is_current(current, attempt) {
            return;
        }
        self.remote = Remote::Idle;
        match answer {
            Answer::Hit { report, to_stage } => {
                self.take_remote_result(Found { report, is_cached: true }, to_stage, steps)
            }
            Answer::Miss => self.settle(steps),
        }
    }

    pub(super) fn take_remote_end(&mut self, attempt: Attempt, end: RemoteEnd<R>, steps: &mut Vec<Step<R>>) {
        let Remote::Executing { attempt: current, .. } = self.remote else { return };
        if !self.rules.is_current(current, attempt) {
            return;
        }
        self.remote = Remote::Idle;
        if self.stage != Stage::Open {
            return self.lose_remote(steps);
        }
        match end {
            RemoteEnd::Succeeded { report, to_stage } => {
                self.take_remote_result(Found { report, is_cached: false }, to_stage, steps);
            }
            RemoteEnd::Failed(class, report) => self.take_remote_failure(class, report, steps, false),
            // Nobody asked for that.
            RemoteEnd::Closed(report) => {
                self.take_remote_failure(FailureClass::Infrastructure, report, steps, false);
            }
        }
    }

    /// What a cache had may be beyond reach; the command can still be run there.
    fn take_remote_failure(&mut self, class: FailureClass, report: R, steps: &mut Vec<Step<R>>, was_cached: bool) {
        self.remote = if was_cached { Remote::Idle } else { Remote::Spent };
        self.remote_failure = Some((class, report));
        steps.push(Step::BranchEnded(Branch::Remote, BranchOutcome::Failed));
        self.settle(steps);
    }

    fn take_remote_result(&mut self, result: Found<R>, to_stage: bool, steps: &mut Vec<Step<R>>) {
        if self.compares && (matches!(self.local, Local::Succeeded(_)) || !self.has_local_ended()) {
            self.remote = Remote::Held { result, to_stage };
        } else {
            self.prepare_result(result, to_stage, steps);
        }
        self.settle(steps);
    }

    /// What has to be on disk is brought near it, privately.
    pub(super) fn prepare_result(&mut self, result: Found<R>, to_stage: bool, steps: &mut Vec<Step<R>>) {
        if to_stage {
            let attempt = self.number();
            self.remote = Remote::Staging { attempt, told: None, result };
            steps.push(Step::Stage(attempt));
        } else {
            self.remote = Remote::Ready { result, staged: None };
        }
    }

    pub(super) fn take_staging_end(&mut self, attempt: Attempt, end: StagingEnd<R>, steps: &mut Vec<Step<R>>) {
        let Remote::Staging { attempt: current, .. } = self.remote else { return };
        if !self.rules.is_current(current, attempt) {
            return;
        }
        let Remote::Staging { result, .. } = mem::replace(&mut self.remote, Remote::Idle) else { return };
        let is_open = self.stage == Stage::Open;
        match end {
            StagingEnd::Complete if is_open || self.rules.claims_unstaged() => {
                self.remote = Remote::Ready { result, staged: Some(current) };
                if is_open { self.settle(steps) } else { self.advance(steps) }
            }
            StagingEnd::Complete | StagingEnd::Closed(_) if !is_open => {
                steps.push(Step::KeepStaged(current));
                self.lose_remote(steps);
            }
            StagingEnd::Failed(..) if !is_open => {
                steps.push(Step::DiscardStaged(current));
                self.lose_remote(steps);
            }
            StagingEnd::Failed(class, report) => self.take_unstaged(current, result, class, report, steps),
            // Nobody asked for that.
            StagingEnd::Closed(report) => {
                self.take_unstaged(current, result, FailureClass::Infrastructure, report, steps);
            }
            StagingEnd::Complete => {}
        }
    }

    /// What was found cannot be brought here. Nobody was stopped for it.
    fn take_unstaged(
        &mut self,
        attempt: Attempt,
        result: Found<R>,
        class: FailureClass,
        report: R,
        steps: &mut Vec<Step<R>>,
    ) {
        steps.push(Step::DiscardStaged(attempt));
        self.take_remote_failure(class, report, steps, result.is_cached);
    }

    fn lose_remote(&mut self, steps: &mut Vec<Step<R>>) {
        let outcome = self.outcome_of_loser();
        steps.push(Step::BranchEnded(Branch::Remote, outcome));
        self.advance(steps);
    }

    pub(super) fn take_halt(&mut self, halt: Halt, steps: &mut Vec<Step<R>>) {
        if self.halt >= Some(halt) || self.is_finished() {
            return;
        }
        self.halt = Some(halt);
        match &mut self.stage {
            Stage::Open => {
                // What finished counts, though it was to be compared.
                let has_result = matches!(self.local, Local::Succeeded(_));
                let claim = has_result.then(|| self.arbiter.grant(Branch::Local)).flatten();
                self.begin(claim.map_or(Verdict::Stopped(halt), Verdict::Won), steps);
            }
            Stage::Joining(Verdict::Stopped(known)) => {
                *known = halt;
                self.stop_branches(halt.stop_reason(), steps);
            }
            Stage::SettingAside(Verdict::Stopped(known), _) => *known = halt,
            // What is decided is carried through: it waits for processes that were killed and for renames only.
            _ => {}
        }
    }

    /// Tells what is under way to end, unless it was told as urgently before.
    pub(super) fn stop_branches(&mut self, reason: StopReason, steps: &mut Vec<Step<R>>) {
        if let Local::Running { attempt, told } = &mut self.local
            && *told < Some(reason)
        {
            *told = Some(reason);
            steps.push(Step::StopLocal(*attempt, reason));
        }
        match &mut self.remote {
            Remote::LookingUp(attempt) => {
                steps.push(Step::DropLookUp(*attempt));
                self.remote = Remote::Idle;
            }
            Remote::Executing { attempt, told } | Remote::Staging { attempt, told, .. } if told.is_none() => {
                *told = Some(reason);
                steps.push(Step::DropRemote(*attempt, reason));
            }
            _ => {}
        }
    }
}
