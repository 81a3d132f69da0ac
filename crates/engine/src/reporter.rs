//! Who is told what happens in a build: the port to whatever shows and writes it.

use std::time::Duration;

use minibuild_core::{BuildEvent, CommandLine};

use crate::machine::{Progress, RunningAction, Shown};
use crate::moment::Moment;

/// Who is told what happens.
pub trait Reporter {
    /// An event of the contract.
    fn event(&mut self, event: &BuildEvent);
    /// A command is about to be started.
    fn starting(&mut self, label: &str, command: &CommandLine);
    /// An action's block.
    fn show(&mut self, shown: &Shown);
    /// A piece of what a test prints that is shown while it runs, to standard output (0) or error (1).
    fn test_output(&mut self, label: &str, mnemonic: &str, stream: usize, text: &[u8]);
    /// The test whose output was shown this way has ended. Its block follows, if it has one.
    fn test_output_ended(&mut self, label: &str);
    /// Called after each event and at least every [`Reporter::tick`].
    fn progress(&mut self, now: Duration, progress: Progress, running: &dyn Fn() -> Vec<RunningAction>);
    /// How often progress is wanted while nothing happens.
    fn tick(&self) -> Option<Duration>;
    /// Whether [`Reporter::moment`] is worth calling.
    fn wants_moments(&self) -> bool {
        false
    }
    /// Something happened, so long after the start.
    fn moment(&mut self, _now: Duration, _moment: &Moment) {}
}
