//! Races of both branches of an action, with real processes and a real server (scenarios D).
//!
//! What runs on which side is told apart by what lies beside the command: only here is there a state directory. Gates hold
//! either side where a test wants it, so that who wins is never a matter of luck.

mod chosen;
mod endings;
mod failures;
mod inputs;
mod interrupts;
mod leftovers;
mod many;
mod undeclared;
mod unprivileged;
mod winners;

use minibuild_testkit::{Event, Run, Running as Build, Workspace};

use super::{Remote, downloaded, runners};
use crate::genrule;

/// A command that does one thing here and another remotely.
fn sides(here: &str, there: &str) -> String {
    format!("if [ -d minibuild-out/.state ]; then {here}; else {there}; fi")
}

/// One action, `//:a`, that makes `a`.
fn one(here: &str, there: &str) -> String {
    genrule("a", &[], &["a"], &sides(here, there))
}

impl Remote {
    /// Races an action, made by `rule` of what it does here and there: when the side here has done that, and would go on
    /// for ever, the other one does its part and wins.
    #[track_caller]
    fn overtake(&self, ws: &Workspace, rule: impl Fn(&str, &str) -> String, here: &str, there: &str) -> Run {
        let (mut gate, mut other) = (ws.gate("here"), ws.gate("there"));
        let here = format!("{here}; {}; sleep 1000", gate.pass());
        ws.write("BUILD.toml", rule(&here, &format!("{}; {there}", other.pass())));
        let build = self.start_race(ws, &["//..."]);
        gate.arrival();
        other.arrival();
        other.open();
        build.wait().ok()
    }

    /// A build whose actions race.
    #[track_caller]
    fn race(&self, ws: &Workspace, args: &[&str]) -> Run {
        self.start_race(ws, args).wait()
    }

    /// Starts such a build.
    #[track_caller]
    fn start_race(&self, ws: &Workspace, args: &[&str]) -> Build {
        ws.start_build(&[&[&*self.executor(), "--strategy=dynamic", "--dynamic-policy=race"], args].concat())
    }
}

/// How many races ran, and how many local and remote won.
fn races(run: &Run) -> (u64, u64, u64) {
    let Some(Event::BuildFinished { races, .. }) = run.events.last() else { panic!("the last event is missing") };
    (races.run, races.local_won, races.remote_won)
}

/// How the branches ended, in that order.
fn branches(run: &Run) -> Vec<(&str, &str)> {
    let ended = run.events.iter().filter_map(|event| match event {
        Event::BranchFinished { branch, outcome, .. } => Some((branch.as_str(), outcome.as_str())),
        _ => None,
    });
    ended.collect()
}
