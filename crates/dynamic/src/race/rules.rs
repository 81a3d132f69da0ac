//! The rules a race goes by, each a function, so that each can be broken on purpose.
//!
//! A race asks its rules wherever a wrong answer would be one of the bugs races are known for. [`Strict`] is the contract,
//! has no state, and compiles to nothing; the explorer's mutants override one rule each and have to be caught. Nobody
//! else implements this.

use minibuild_core::{Branch, StopReason};

use super::{Attempt, FailureClass};

/// What may differ between the protocol and a deliberately broken one.
pub trait Rules {
    /// Whether an answer under the number `got` is the one that is waited for.
    fn is_current(&self, waited_for: Attempt, got: Attempt) -> bool {
        waited_for == got
    }

    /// Whether such a failure ends the action though the other branch lives or can start.
    fn decides(&self, class: FailureClass) -> bool {
        class >= FailureClass::Command
    }

    /// Whether a remote result that was not staged yet (but has to be) may claim.
    fn claims_unstaged(&self) -> bool {
        false
    }

    /// Whether a branch that stops has to be joined before anything else happens.
    fn awaits(&self, _loser: Branch) -> bool {
        true
    }

    /// Whether a run that was stopped for `told` ends the action: only where the action is given up.
    fn stop_ends_action(&self, told: Option<StopReason>) -> bool {
        matches!(told, Some(StopReason::Interrupt | StopReason::Kill))
    }

    /// Whether a claim stands when the other branch turns out to have succeeded as well.
    fn claim_stands(&self) -> bool {
        true
    }

    /// Whether what local may have left is set aside before another result is believed.
    fn sets_aside(&self) -> bool {
        true
    }

    /// Whether a claim goes back when publishing failed.
    fn returns_claim(&self) -> bool {
        true
    }
}

/// The contract.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Strict;

impl Rules for Strict {}
