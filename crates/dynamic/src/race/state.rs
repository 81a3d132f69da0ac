//! What a race remembers, and what it is told.

use minibuild_core::{Branch, StopReason};

use super::claim::{Arbiter, Claim};
use super::{Attempt, Event, FailureClass, Halt, Plan, Rules, Sides, Step, Strict, Work};

/// After as many returned claims the remote side is not tried again.
const MAX_RETURNED: u8 = 2;

/// The race of one action. `K` is [`Strict`] but in the explorer's mutants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Race<R, K = Strict> {
    pub(super) rules: K,
    pub(super) sides: Sides,
    /// Whether both branches run to their ends.
    pub(super) compares: bool,
    pub(super) next: Attempt,
    pub(super) local: Local<R>,
    pub(super) remote: Remote<R>,
    pub(super) local_failure: Option<(FailureClass, R)>,
    pub(super) remote_failure: Option<(FailureClass, R)>,
    pub(super) arbiter: Arbiter,
    pub(super) stage: Stage,
    pub(super) halt: Option<Halt>,
    pub(super) lying: Lying,
    pub(super) has_leftovers: bool,
    pub(super) looked_up: bool,
}

/// Where the local branch stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Local<R> {
    /// Nothing of it runs; it may start.
    Idle,
    Running {
        attempt: Attempt,
        told: Option<StopReason>,
    },
    Succeeded(R),
    /// It failed and is not tried again.
    Spent,
}

/// Where the remote branch stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Remote<R> {
    /// Nothing of it is under way; it may start.
    Idle,
    LookingUp(Attempt),
    Executing {
        attempt: Attempt,
        told: Option<StopReason>,
    },
    /// There is a result, held back until local has ended, too.
    Held {
        result: Found<R>,
        to_stage: bool,
    },
    Staging {
        attempt: Attempt,
        told: Option<StopReason>,
        result: Found<R>,
    },
    /// There is a result, and what has to be on disk is staged.
    Ready {
        result: Found<R>,
        staged: Option<Attempt>,
    },
    /// There is a result that lost, and is told for comparison.
    Beaten(Found<R>),
    /// It failed and is not tried again.
    Spent,
}

/// A remote result.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Found<R> {
    pub(super) report: R,
    pub(super) is_cached: bool,
}

/// What may lie at the declared outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lying {
    /// Nothing, or what an earlier success put there.
    Nothing,
    /// What the last local run of this race wrote.
    OfLocal,
    /// What an earlier run left, or half of what was published.
    Strange,
}

/// How far the race itself is.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) enum Stage {
    /// Nothing is decided.
    Open,
    /// Decided; branches that stop are waited for.
    Joining(Verdict),
    /// What local left is being moved away.
    SettingAside(Verdict, Attempt),
    /// Remote's outputs are being put in their places.
    Publishing(Claim, Attempt),
    /// The outcome was given.
    Finished,
}

/// How the race is about to end.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) enum Verdict {
    /// The holder's result is the action's.
    Won(Claim),
    /// The action failed; this branch's failure is shown first.
    Failed(Branch),
    /// It was given up.
    Stopped(Halt),
}

impl Clone for Stage {
    fn clone(&self) -> Self {
        match self {
            Stage::Open => Stage::Open,
            Stage::Joining(verdict) => Stage::Joining(verdict.copy_with_race()),
            Stage::SettingAside(verdict, attempt) => Stage::SettingAside(verdict.copy_with_race(), *attempt),
            Stage::Publishing(claim, attempt) => Stage::Publishing(claim.copy_with_race(), *attempt),
            Stage::Finished => Stage::Finished,
        }
    }
}

impl Verdict {
    fn copy_with_race(&self) -> Self {
        match self {
            Verdict::Won(claim) => Verdict::Won(claim.copy_with_race()),
            Verdict::Failed(branch) => Verdict::Failed(*branch),
            Verdict::Stopped(halt) => Verdict::Stopped(*halt),
        }
    }
}

impl<R> Race<R> {
    /// A race in which nothing has started.
    pub fn new(plan: Plan) -> Self {
        Self::with_rules(plan, Strict)
    }
}

impl<R, K: Rules> Race<R, K> {
    /// A race that goes by other rules; for mutants.
    pub fn with_rules(plan: Plan, rules: K) -> Self {
        Self {
            rules,
            sides: plan.sides,
            compares: plan.compares,
            next: plan.first,
            local: Local::Idle,
            remote: Remote::Idle,
            local_failure: None,
            remote_failure: None,
            arbiter: Arbiter::default(),
            stage: Stage::Open,
            halt: None,
            lying: if plan.is_clean { Lying::Nothing } else { Lying::Strange },
            has_leftovers: false,
            looked_up: false,
        }
    }

    /// Whether `work` may start now. Starting what may not is ignored.
    pub fn may_start(&self, work: Work) -> bool {
        let is_open = self.stage == Stage::Open && self.halt.is_none();
        is_open
            && match work {
                Work::Local => matches!(self.local, Local::Idle) && self.sides.allow(Branch::Local),
                Work::LookUp => matches!(self.remote, Remote::Idle) && !self.looked_up,
                Work::Execute => self.may_execute(),
            }
    }

    fn may_execute(&self) -> bool {
        matches!(self.remote, Remote::Idle)
            && self.sides.allow(Branch::Remote)
            && self.arbiter.returned() < MAX_RETURNED
    }

    /// Whether something of the branch is under way: a run, a look-up, staging.
    pub fn is_under_way(&self, branch: Branch) -> bool {
        match branch {
            Branch::Local => matches!(self.local, Local::Running { .. }),
            Branch::Remote => {
                matches!(self.remote, Remote::LookingUp(_) | Remote::Executing { .. } | Remote::Staging { .. })
            }
        }
    }

    /// Whether it is over.
    pub fn is_finished(&self) -> bool {
        self.stage == Stage::Finished
    }

    /// The remote result that is being staged or published.
    pub fn remote_result(&self) -> Option<&R> {
        match &self.remote {
            Remote::Held { result, .. } | Remote::Staging { result, .. } | Remote::Ready { result, .. } => {
                Some(&result.report)
            }
            _ => None,
        }
    }

    /// The number the next piece of work will have: where another race of the same action goes on counting.
    pub fn next_attempt(&self) -> Attempt {
        self.next
    }

    /// What has to be done now that this happened.
    #[must_use]
    pub fn handle(&mut self, event: Event<R>) -> Vec<Step<R>> {
        let mut steps = Vec::new();
        match event {
            Event::Start(work) => self.start(work, &mut steps),
            Event::CannotStart(branch, class, report) => self.take_refusal(branch, class, report, &mut steps),
            Event::LocalEnded(attempt, end) => self.take_local_end(attempt, end, &mut steps),
            Event::LookedUp(attempt, answer) => self.take_answer(attempt, answer, &mut steps),
            Event::RemoteEnded(attempt, end) => self.take_remote_end(attempt, end, &mut steps),
            Event::Staged(attempt, end) => self.take_staging_end(attempt, end, &mut steps),
            Event::SetAside { attempt, is_clean } => self.take_set_aside(attempt, is_clean, &mut steps),
            Event::Published(attempt, result) => self.take_published(attempt, result, &mut steps),
            Event::Halt(halt) => self.take_halt(halt, &mut steps),
        }
        steps
    }

    fn start(&mut self, work: Work, steps: &mut Vec<Step<R>>) {
        if !self.may_start(work) {
            return;
        }
        let attempt = self.number();
        match work {
            Work::Local => {
                self.lying = Lying::OfLocal;
                // A run clears the places first.
                self.has_leftovers = false;
                self.local = Local::Running { attempt, told: None };
                steps.push(Step::RunLocal(attempt));
            }
            Work::LookUp => {
                self.looked_up = true;
                self.remote = Remote::LookingUp(attempt);
                steps.push(Step::LookUp(attempt));
            }
            Work::Execute => {
                self.remote = Remote::Executing { attempt, told: None };
                steps.push(Step::Execute(attempt));
            }
        }
    }

    pub(super) fn number(&mut self) -> Attempt {
        let number = self.next;
        self.next = Attempt(number.0.saturating_add(1));
        number
    }
}
