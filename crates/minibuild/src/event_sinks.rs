//! Console, event file and profile, each of which is told every event of a build.

use std::time::Duration;

use minibuild_core::{BuildEvent, CommandLine, Level, TestStatus, WsPath};
use minibuild_disk::OutTree;
use minibuild_engine::machine::{Progress, RunningAction, Shown};
use minibuild_engine::moment::Moment;
use minibuild_engine::reporter::Reporter;

use crate::console::Console;
use crate::event_log::EventLog;
use crate::profile::Profile;

/// Where events of a build go.
pub(crate) struct EventSinks<'a> {
    pub console: &'a mut Console,
    pub events: &'a mut EventLog,
    pub profile: &'a mut Profile,
    /// The workspace root.
    pub root: &'a std::path::Path,
}

impl EventSinks<'_> {
    /// A test that did not run has a log all the same.
    fn restore_log(&mut self, path: &str) {
        if self.root.join(path).symlink_metadata().is_ok() {
            return;
        }
        let Ok(path) = WsPath::new(path) else { return };
        if let Err(error) = OutTree::open(self.root).and_then(|tree| tree.restore_log(&path)) {
            self.console.message(Level::Warning, &error.render());
        }
    }
}

impl Reporter for EventSinks<'_> {
    fn event(&mut self, event: &BuildEvent) {
        if let BuildEvent::TestCompleted { status: TestStatus::Cached, log, .. } = event {
            self.restore_log(log);
        }
        self.events.write(event);
        self.profile.event(event);
        self.console.event(event);
    }

    fn starting(&mut self, label: &str, command: &CommandLine) {
        self.console.starting(label, command);
    }

    fn show(&mut self, shown: &Shown) {
        self.console.show(shown);
    }

    fn test_output(&mut self, label: &str, mnemonic: &str, stream: usize, text: &[u8]) {
        self.console.test_output(label, mnemonic, stream, text);
    }

    fn test_output_ended(&mut self, label: &str) {
        self.console.test_output_ended(label);
    }

    fn progress(&mut self, now: Duration, progress: Progress, running: &dyn Fn() -> Vec<RunningAction>) {
        self.console.progress(now, progress, running);
    }

    fn tick(&self) -> Option<Duration> {
        self.console.tick()
    }

    fn wants_moments(&self) -> bool {
        self.profile.is_wanted()
    }

    fn moment(&mut self, now: Duration, moment: &Moment) {
        self.profile.moment(now, moment);
    }
}
