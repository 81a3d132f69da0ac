//! The protocol of a race: events of two branches in, steps out, one result.
//!
//! One [`Race`] belongs to one action while it runs. It is told what happens on both sides ([`Event`]) and answers with
//! what has to be done ([`Step`]); the last step is always [`Step::Finish`], and it comes once. It does not know what an
//! action is, what bytes are, when a branch is worth starting, or how anything is done: `R` is whatever the caller wants
//! to keep of an ended branch, and is handed back unread.
//!
//! The rules (`docs/design/dynamic.md` has the diagram, the tables, and what was explored):
//!
//! 1. The first branch that is ready to publish gets the one claim of the action's arbiter. Local is ready when it
//!    ended well and nothing of it lives; remote when all that will be on disk is staged.
//! 2. Whoever claims, the action waits until the other is joined: local and its descendants dead, the stream closed.
//! 3. After that, and only then, what local left is set aside, and what is staged is published. A local result
//!    lies where it belongs and is not published.
//! 4. If publishing fails the claim goes back and the race is open again.
//! 5. A failure that may be its side's own ends the branch, not the action, while the other lives or can start.
//! 6. What answers under a number that is not the current one is dropped.

mod claim;
mod finish;
mod reports;
mod rules;
mod state;
mod values;

#[cfg(test)]
mod tests;

pub use rules::{Rules, Strict};
pub use state::Race;
pub use values::{
    Answer, Attempt, Event, FailureClass, Halt, LocalEnd, Loser, Need, Outcome, Plan, RemoteEnd, SidedFailure, Sides,
    StagingEnd, Step, Winner, Work,
};
