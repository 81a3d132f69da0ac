//! Harness of the scenario tests: workspaces, runs of the real binary, typed events, checks that hold of every run.
//!
//! A [`Workspace`] is a private directory with a hermetic environment; it is kept, and what it knows is printed, when
//! its test fails. Nothing here sleeps: waiting is for a descriptor to become readable, with a deadline. It does not
//! know what any scenario is about, and reads events by types of its own, so that a renamed field fails the tests.

mod certificate;
mod event;
mod gate;
mod http;
mod loopback;
mod peers;
mod process;
mod proxy;
mod random;
mod refusal;
mod run;
mod snapshot;
mod stream;
mod workspace;

pub use certificate::{Authority, Certificate, Validity};
pub use event::{Actions, Event, Output};
pub use gate::Gate;
pub use http::{HttpAnswer, HttpRequest, serve_http};
pub use loopback::{free_port, own_loopback};
pub use nix::sys::signal::Signal;
pub use peers::{Peer, PeerKind, Skipped};
pub use process::{Pid, children, command_line, is_alive, kill, wait_until_dead};
pub use proxy::{Fate, Proxy};
pub use random::Random;
pub use refusal::{Refusal, with_refused};
pub use run::{Ending, Run, Running};
pub use snapshot::{Entry, Snapshot, difference};
pub use stream::check_stream;
pub use workspace::{Invocation, Workspace, write_program};

/// Says that a test cannot be done here, past the capture of the test harness: a pass that checked nothing must be seen.
pub fn skipped(why: &str) {
    say(&format!("SKIPPED: {why}"));
}

/// One line on standard error that the test harness does not keep back.
fn say(line: &str) {
    use std::io::Write as _;
    // A closed stderr takes nothing.
    let _ = writeln!(std::io::stderr(), "{line}");
}
