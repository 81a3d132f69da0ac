//! Local execution: resident slot helpers that run commands in the workspace.
//!
//! The only crate that knows processes. [`LocalExecutor`] has one thread and a helper process for each command that may run at
//! once; the helper ([`slot_main`]) is a child subreaper that runs one command after the other and reports only when the command
//! and everything it started are dead. It does not know why a command runs, what its inputs are, whether a result
//! is wanted, or that there may be another executor racing it.

mod bell;
mod crew;
mod desk;
mod executor;
mod helper;
mod inputs;
mod jobserver;
mod procs;
mod protocol;
mod runner;
mod scratch;
mod service;
mod slot;
mod spawn;
mod supervision;
mod work;

pub use executor::{LocalConfig, LocalExecutor};
pub use helper::{ForeignChildren, kill_all};
pub use jobserver::Jobserver;
pub use procs::is_ancestor;
pub use runner::{CommandEnd, CommandReport, CommandRunner, CommandSpec, RunnerConfig, Stopper};
pub use service::EventSink;
pub use slot::slot_main;
pub use spawn::spawn_error;
