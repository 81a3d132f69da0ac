//! The protocol, and the driver that does what it says, broken on purpose: one rule at a time.

use minibuild_core::{Branch, StopReason};
use minibuild_dynamic::race::{Attempt, FailureClass, Rules};

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mutation {
    // Rules of the protocol.
    CancelEachOther,
    StopIsInterrupt,
    StopsBeforeStaged,
    KeepsTransient,
    PublishesBesideLiving,
    LeavesStream,
    KeepsClaim,
    LateCounts,
    AnyFailureDecides,
    OwnFailureWaits,
    // What surrounds it.
    ShowsLoser,
    ForgetsNeed,
    HidesSurvivor,
    HidesLeftovers,
    MergesTrees,
    CancelsUpload,
    KeepsSlot,
    LeaksStaged,
    ForgetsBegun,
    NoLock,
}

/// All of them, with the bug each stands for.
pub const ALL: [(Mutation, &str); 20] = [
    (Mutation::CancelEachOther, "two branches cancel each other"),
    (Mutation::ForgetsNeed, "neither completes: a wish for the other branch is lost"),
    (Mutation::StopIsInterrupt, "the loser's stop is taken for one of the user"),
    (Mutation::StopsBeforeStaged, "local is stopped, then remote's download fails"),
    (Mutation::KeepsTransient, "transient files of the loser survive: nothing is set aside"),
    (Mutation::MergesTrees, "transient files survive: a tree is merged into what lies there"),
    (Mutation::ShowsLoser, "the loser's logs are shown"),
    (Mutation::PublishesBesideLiving, "published before local and its descendants are dead"),
    (Mutation::HidesSurvivor, "a kill that failed is told as a stop"),
    (Mutation::LeavesStream, "the action is left before the remote stream is closed"),
    (Mutation::KeepsClaim, "a claim is not returned when publishing failed"),
    (Mutation::LateCounts, "a late or second completion counts"),
    (Mutation::AnyFailureDecides, "a side's own failure fails the action"),
    (Mutation::OwnFailureWaits, "the command's own failure does not decide"),
    (Mutation::HidesLeftovers, "that setting aside failed is not told"),
    (Mutation::CancelsUpload, "a shared upload is cancelled because one user lost"),
    (Mutation::KeepsSlot, "the loser's slot is not given back"),
    (Mutation::LeaksStaged, "what was staged is left behind"),
    (Mutation::ForgetsBegun, "after a crash the tree is taken for clean"),
    (Mutation::NoLock, "the next build starts beside a survivor of a killed one"),
];

/// Rules of which one may be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Broken(pub Mutation);

impl Rules for Broken {
    fn is_current(&self, waited_for: Attempt, got: Attempt) -> bool {
        waited_for == got || self.0 == Mutation::LateCounts
    }

    fn decides(&self, class: FailureClass) -> bool {
        match self.0 {
            Mutation::AnyFailureDecides => true,
            Mutation::OwnFailureWaits => class >= FailureClass::Survivor,
            _ => class >= FailureClass::Command,
        }
    }

    fn claims_unstaged(&self) -> bool {
        self.0 == Mutation::StopsBeforeStaged
    }

    fn awaits(&self, loser: Branch) -> bool {
        match loser {
            Branch::Local => self.0 != Mutation::PublishesBesideLiving,
            Branch::Remote => self.0 != Mutation::LeavesStream,
        }
    }

    fn stop_ends_action(&self, told: Option<StopReason>) -> bool {
        let is_asked = matches!(told, Some(StopReason::Interrupt | StopReason::Kill));
        is_asked || self.0 == Mutation::StopIsInterrupt
    }

    fn claim_stands(&self) -> bool {
        self.0 != Mutation::CancelEachOther
    }

    fn sets_aside(&self) -> bool {
        self.0 != Mutation::KeepsTransient
    }

    fn returns_claim(&self) -> bool {
        self.0 != Mutation::KeepsClaim
    }
}
