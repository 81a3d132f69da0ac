//! From what the branches did to one outcome.

use std::mem;

use minibuild_core::{Branch, BranchOutcome, StopReason};

use super::state::{Local, Lying, Race, Remote, Stage, Verdict};
use super::{Attempt, FailureClass, Loser, Need, Outcome, Rules, SidedFailure, Step, Winner, Work};

impl<R, K: Rules> Race<R, K> {
    /// Decides, if something can be decided; else asks for what is needed for that.
    pub(super) fn settle(&mut self, steps: &mut Vec<Step<R>>) {
        if self.compares && !self.is_comparable(steps) {
            return;
        }
        if let Some(branch) = self.deciding_failure() {
            return self.begin(Verdict::Failed(branch), steps);
        }
        let ready = match (&self.local, &self.remote) {
            (Local::Succeeded(_), _) => Some(Branch::Local),
            (_, Remote::Ready { .. }) => Some(Branch::Remote),
            (_, Remote::Staging { .. }) if self.rules.claims_unstaged() => Some(Branch::Remote),
            _ => None,
        };
        if let Some(claim) = ready.and_then(|branch| self.arbiter.grant(branch)) {
            return self.begin(Verdict::Won(claim), steps);
        }
        if ready.is_none() && !self.is_under_way(Branch::Local) && !self.is_under_way(Branch::Remote) {
            self.ask_or_give_up(steps);
        }
    }

    /// Whether both sides have come to an end, as far as they can; what is missing for that is asked for.
    fn is_comparable(&mut self, steps: &mut Vec<Step<R>>) -> bool {
        let has_local = self.has_local_ended();
        let has_remote = !matches!(self.remote, Remote::Idle) || !self.may_start(Work::Execute);
        if !has_local || !has_remote {
            let is_idle = !self.is_under_way(Branch::Local) && !self.is_under_way(Branch::Remote);
            if is_idle {
                steps.push(Step::Need(if has_local { Need::Remote } else { Need::Local }));
            }
            return false;
        }
        if matches!(self.remote, Remote::LookingUp(_) | Remote::Executing { .. }) {
            return false;
        }
        if matches!(self.local, Local::Succeeded(_)) || self.deciding_failure().is_some() {
            return true;
        }
        match mem::replace(&mut self.remote, Remote::Idle) {
            Remote::Held { result, to_stage } => self.prepare_result(result, to_stage, steps),
            other => self.remote = other,
        }
        true
    }

    /// Whether the local branch has come to an end of its own, or cannot start.
    pub(super) fn has_local_ended(&self) -> bool {
        !matches!(self.local, Local::Running { .. }) && !self.may_start(Work::Local)
    }

    fn deciding_failure(&self) -> Option<Branch> {
        // Where both are compared, a local result is used all the same.
        let decides =
            |failure: &Option<(FailureClass, R)>| failure.as_ref().is_some_and(|(class, _)| self.rules.decides(*class));
        if decides(&self.local_failure) {
            Some(Branch::Local)
        } else if decides(&self.remote_failure) && !matches!(self.local, Local::Succeeded(_)) {
            Some(Branch::Remote)
        } else {
            None
        }
    }

    /// Nothing is under way, nothing is ready.
    fn ask_or_give_up(&mut self, steps: &mut Vec<Step<R>>) {
        let lacks_inputs = |failure: &Option<(FailureClass, R)>| {
            failure.as_ref().is_some_and(|(class, _)| *class == FailureClass::Inputs)
        };
        let is_hopeless = lacks_inputs(&self.local_failure) || lacks_inputs(&self.remote_failure);
        let may = |work| !is_hopeless && self.may_start(work);
        let need = match (may(Work::Local), may(Work::Execute)) {
            // What could not be put on this disk from there is made here.
            (true, true) if self.arbiter.returned() == 0 => Need::Either,
            (true, _) => Need::Local,
            (false, true) => Need::Remote,
            (false, false) => return self.begin(Verdict::Failed(self.first_shown()), steps),
        };
        steps.push(Step::Need(need));
    }

    fn first_shown(&self) -> Branch {
        let class = |failure: &Option<(FailureClass, R)>| failure.as_ref().map(|(class, _)| *class);
        if class(&self.local_failure) >= class(&self.remote_failure) { Branch::Local } else { Branch::Remote }
    }

    /// It is decided: everything that is still under way ends.
    pub(super) fn begin(&mut self, verdict: Verdict, steps: &mut Vec<Step<R>>) {
        let keeps_remote = matches!(&verdict, Verdict::Won(claim) if claim.branch() == Branch::Remote);
        let reason = match &verdict {
            Verdict::Stopped(halt) => halt.stop_reason(),
            Verdict::Won(_) | Verdict::Failed(_) => StopReason::LostRace,
        };
        self.stage = Stage::Joining(verdict);
        if keeps_remote {
            let remote = mem::replace(&mut self.remote, Remote::Idle);
            self.stop_branches(reason, steps);
            self.remote = remote;
        } else {
            self.stop_branches(reason, steps);
            self.give_up_result(steps);
        }
        self.advance(steps);
    }

    /// A remote result that is complete and will not be used.
    fn give_up_result(&mut self, steps: &mut Vec<Step<R>>) {
        self.remote = match mem::replace(&mut self.remote, Remote::Idle) {
            Remote::Ready { staged, .. } => {
                steps.extend(staged.map(Step::KeepStaged));
                Remote::Idle
            }
            Remote::Held { result, .. } => Remote::Beaten(result),
            other => {
                self.remote = other;
                return;
            }
        };
        steps.push(Step::BranchEnded(Branch::Remote, self.outcome_of_loser()));
    }

    /// Goes on once the branches are joined.
    pub(super) fn advance(&mut self, steps: &mut Vec<Step<R>>) {
        let Stage::Joining(verdict) = &self.stage else { return };
        let is_awaited = |branch| self.is_under_way(branch) && self.rules.awaits(branch);
        if is_awaited(Branch::Local) || is_awaited(Branch::Remote) {
            return;
        }
        let is_kept = self.keeps_what_lies_there(verdict);
        let Stage::Joining(verdict) = mem::replace(&mut self.stage, Stage::Finished) else { return };
        if self.lying != Lying::Nothing && !is_kept && self.rules.sets_aside() {
            let attempt = self.number();
            self.stage = Stage::SettingAside(verdict, attempt);
            steps.push(Step::SetAside(attempt));
        } else {
            self.conclude(verdict, steps);
        }
    }

    /// Whether a local result lies there, or what a command left whose failure will be looked into.
    fn keeps_what_lies_there(&self, verdict: &Verdict) -> bool {
        match verdict {
            Verdict::Won(claim) => claim.branch() == Branch::Local,
            Verdict::Failed(Branch::Local) => {
                let did_run = |(class, _): &(FailureClass, R)| *class >= FailureClass::Doubtful;
                self.lying == Lying::OfLocal && self.local_failure.as_ref().is_some_and(did_run)
            }
            Verdict::Failed(Branch::Remote) | Verdict::Stopped(_) => false,
        }
    }

    pub(super) fn take_set_aside(&mut self, attempt: Attempt, is_clean: bool, steps: &mut Vec<Step<R>>) {
        let Stage::SettingAside(_, current) = &self.stage else { return };
        if !self.rules.is_current(*current, attempt) {
            return;
        }
        let Stage::SettingAside(verdict, _) = mem::replace(&mut self.stage, Stage::Finished) else { return };
        self.has_leftovers = !is_clean;
        self.conclude(verdict, steps);
    }

    /// Everything is joined and the places are free.
    fn conclude(&mut self, verdict: Verdict, steps: &mut Vec<Step<R>>) {
        match (verdict, &self.remote) {
            (Verdict::Won(claim), Remote::Ready { staged: Some(staged), .. }) if claim.branch() == Branch::Remote => {
                let staged = *staged;
                let attempt = self.number();
                self.lying = Lying::Strange;
                self.stage = Stage::Publishing(claim, attempt);
                steps.push(Step::Publish { attempt, staged });
            }
            (verdict, _) => self.finish(verdict, steps),
        }
    }

    pub(super) fn take_published(&mut self, attempt: Attempt, result: Result<(), R>, steps: &mut Vec<Step<R>>) {
        let Stage::Publishing(_, current) = &self.stage else { return };
        if !self.rules.is_current(*current, attempt) {
            return;
        }
        let Stage::Publishing(claim, _) = mem::replace(&mut self.stage, Stage::Open) else { return };
        match result {
            Ok(()) => self.finish(Verdict::Won(claim), steps),
            Err(report) => {
                if self.rules.returns_claim() {
                    self.arbiter.take_back(claim);
                }
                self.take_unpublished(report, steps);
            }
        }
    }

    /// The race is open again: whoever can start may claim anew.
    fn take_unpublished(&mut self, report: R, steps: &mut Vec<Step<R>>) {
        if let Remote::Ready { staged: Some(staged), .. } = mem::replace(&mut self.remote, Remote::Idle) {
            steps.push(Step::DiscardStaged(staged));
        }
        self.remote_failure = Some((FailureClass::Infrastructure, report));
        steps.push(Step::BranchEnded(Branch::Remote, BranchOutcome::Failed));
        match self.halt {
            Some(halt) => self.begin(Verdict::Stopped(halt), steps),
            None => self.settle(steps),
        }
    }

    fn finish(&mut self, verdict: Verdict, steps: &mut Vec<Step<R>>) {
        self.stage = Stage::Finished;
        let outcome = match verdict {
            Verdict::Won(claim) => {
                let branch = claim.consume();
                steps.push(Step::BranchEnded(branch, BranchOutcome::Won));
                self.win(branch)
            }
            Verdict::Failed(first) => self.fail(first),
            Verdict::Stopped(halt) => Outcome::Stopped { halt, has_leftovers: self.has_leftovers },
        };
        steps.push(Step::Finish(outcome));
    }

    fn win(&mut self, branch: Branch) -> Outcome<R> {
        let (is_cached, is_on_disk) = match &self.remote {
            _ if branch == Branch::Local => (false, true),
            Remote::Ready { result, staged } => (result.is_cached, staged.is_some()),
            _ => return Outcome::Bug("a remote result won that is not there"),
        };
        let local = self.take_end(Branch::Local);
        let remote = self.take_end(Branch::Remote);
        let (won, lost) = if branch == Branch::Local { (local, remote) } else { (remote, local) };
        let Loser::Succeeded(report) = won else { return Outcome::Bug("what won has no result") };
        let winner = Winner { branch, report, is_cached, is_on_disk };
        Outcome::Won { winner, loser: lost, has_leftovers: self.has_leftovers }
    }

    /// What the branch came to.
    fn take_end(&mut self, branch: Branch) -> Loser<R> {
        let (result, failure) = match branch {
            Branch::Local => match mem::replace(&mut self.local, Local::Spent) {
                Local::Succeeded(report) => (Some(report), self.local_failure.take()),
                _ => (None, self.local_failure.take()),
            },
            Branch::Remote => match mem::replace(&mut self.remote, Remote::Spent) {
                Remote::Beaten(result) | Remote::Ready { result, .. } => {
                    (Some(result.report), self.remote_failure.take())
                }
                _ => (None, self.remote_failure.take()),
            },
        };
        match (result, failure) {
            (Some(report), _) => Loser::Succeeded(report),
            (None, Some((class, report))) => Loser::Failed(SidedFailure { branch, class, report }),
            (None, None) => Loser::Nothing,
        }
    }

    fn fail(&mut self, first: Branch) -> Outcome<R> {
        let mut of = |branch| match branch {
            Branch::Local => self.local_failure.take().map(|(class, report)| SidedFailure { branch, class, report }),
            Branch::Remote => self.remote_failure.take().map(|(class, report)| SidedFailure { branch, class, report }),
        };
        let (local, remote) = (of(Branch::Local), of(Branch::Remote));
        let (shown, second) = if first == Branch::Local { (local, remote) } else { (remote, local) };
        match shown {
            Some(first) => Outcome::Failed { first, second, has_leftovers: self.has_leftovers },
            None => Outcome::Bug("an action failed without a failure"),
        }
    }
}
