//! Local execution: resident slot helpers that run commands in the workspace.
//!
//! The only crate that knows processes. [`LocalExecutor`] has one thread and one helper process per slot; the
//! helper ([`slot_main`]) is a child subreaper that runs one command at a time and reports only when the command
//! and everything it started are dead. It does not know why a command runs, what its inputs are, whether a result
//! is wanted, or that there may be another executor racing it.

mod executor;
mod helper;
mod jobserver;
mod procs;
mod protocol;
mod runner;
mod slot;
mod spawn;
mod supervision;
mod turns;
mod worker;

pub use executor::{EventSink, LocalConfig, LocalExecutor};
pub use jobserver::Jobserver;
pub use runner::{CommandEnd, CommandReport, CommandRunner, CommandSpec, RunnerConfig, Stopper};
pub use slot::slot_main;
