//! A gate holds an action of a test where the test wants it: no sleeping, no guessing.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::{Pid, is_readable};

/// How long a test waits for something that ought to happen soon.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Two fifos: through one an action says that it is there, through the other it is let go.
#[derive(Debug)]
pub struct Gate {
    arrived: PathBuf,
    go: PathBuf,
    arrivals: File,
    release: File,
}

impl Gate {
    /// A gate whose fifos lie in `dir`.
    pub(crate) fn new(dir: &Path, name: &str) -> Self {
        let make = |suffix: &str| {
            let path = dir.join(format!("{name}.{suffix}"));
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).expect("makes a fifo");
            // Also for the actions of another user; the directory is private.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("it is ours");
            // Both ways, so that neither side ever waits for the other to open it.
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(&path);
            (path, file.expect("opens a fifo"))
        };
        let ((arrived, arrivals), (go, release)) = (make("arrived"), make("go"));
        Self { arrived, go, arrivals, release }
    }

    /// Shell text that says the shell's pid and waits to be let go.
    pub fn pass(&self) -> String {
        format!("{}; {}", self.arrive(), self.wait())
    }

    /// Shell text that says the shell's pid.
    pub fn arrive(&self) -> String {
        format!("echo $$ > '{}'", self.arrived.display())
    }

    /// Shell text that waits to be let go.
    pub fn wait(&self) -> String {
        format!("read -r _ < '{}'", self.go.display())
    }

    /// Waits for the next arrival; gives the pid that was said.
    #[track_caller]
    pub fn arrival(&mut self) -> Pid {
        let pid = self.arrival_within(SOON);
        pid.expect("nobody arrived at the gate in time")
    }

    /// As [`Self::arrival`], `None` if nobody comes within `limit`.
    pub fn arrival_within(&mut self, limit: Duration) -> Option<Pid> {
        let mut line = Vec::new();
        let mut byte = [0];
        while is_readable(&self.arrivals, limit) {
            // Whoever writes to a fifo writes its short line at once.
            if self.arrivals.read(&mut byte).is_ok_and(|n| n == 1) {
                if byte[0] == b'\n' {
                    return String::from_utf8_lossy(&line).trim().parse().ok();
                }
                line.push(byte[0]);
            }
        }
        None
    }

    /// Lets one through, now or when it comes.
    pub fn open(&mut self) {
        self.release.write_all(b"\n").expect("writes to a fifo");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_is_held_until_the_gate_opens() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut gate = Gate::new(dir.path(), "g");
        let mut shell = std::process::Command::new("/bin/sh").args(["-c", &gate.pass()]).spawn().expect("starts");
        assert_eq!(gate.arrival(), shell.id().cast_signed());
        assert!(shell.try_wait().expect("asks").is_none());
        gate.open();
        assert!(shell.wait().expect("waits").success());
        assert_eq!(gate.arrival_within(Duration::ZERO), None);
    }
}
