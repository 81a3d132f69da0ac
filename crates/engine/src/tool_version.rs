//! Asks host tools for their version: commands that are bounded in time and in what they print.
//!
//! Whatever a tool does, the build goes on: its helper ends what it leaves, and an interrupt ends the wait. It does not know
//! which actions use a tool, nor what is remembered.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use minibuild_core::{HostTool, StopFlag, StopReason, WsPath};
use minibuild_disk::{DiskError, OutTree};
use minibuild_local::{CommandEnd, CommandRunner, CommandSpec, RunnerConfig, Stopper};

use crate::lock::WorkspaceLock;

/// Where commands that are asked for a version write what they print.
const VERSIONS_ROOT: &str = "minibuild-out/.state/tmp/versions";
/// A tool that takes longer is given up. Compilers answer within milliseconds; proxies may look around first.
const LIMIT: Duration = Duration::from_secs(10);
/// A wait as long as this is worth a line.
const WORTH_A_LINE: Duration = Duration::from_secs(2);
/// A longer answer is none. What verbose compilers print is a few KiB.
const LARGEST_ANSWER: u64 = 1 << 20;

/// Asks tools one after the other.
pub(crate) struct VersionCommands<'a> {
    tree: &'a OutTree,
    /// What commands get.
    env: &'a BTreeMap<String, String>,
    /// Held by whatever a command leaves.
    lock: &'a WorkspaceLock,
    stop: &'a StopFlag,
    /// Told of tools that are slow.
    say: &'a mut dyn FnMut(String),
    runner: Option<CommandRunner>,
}

/// Why a tool did not tell its version, as the reason in a sentence. It says nothing about the next time.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// Nobody waits for it any more.
    #[error("the build was interrupted")]
    Interrupted,
    /// No command can name it.
    #[error("its path is not UTF-8")]
    NotUtf8,
    /// The directory of its output cannot be made.
    #[error("{}", .0.render())]
    NoDirectory(DiskError),
    /// What it leaves behind could not be noticed.
    #[error("cannot share the workspace's lock: {0}")]
    NoLock(io::Error),
    /// Its command could not be run.
    #[error("{0}")]
    NotRun(String),
    /// Its command, which is named, took too long.
    #[error("`{0}` did not end within {seconds} s", seconds = LIMIT.as_secs())]
    Slow(String),
    /// Its command, which is named, printed too much.
    #[error("`{0}` printed more than {kib} KiB", kib = LARGEST_ANSWER >> 10)]
    Long(String),
    /// Its command was killed.
    #[error("`{command}` was ended by signal {signal}")]
    Signalled {
        /// The command.
        command: String,
        /// The signal's number.
        signal: i32,
    },
    /// What it printed cannot be read.
    #[error("cannot read what it printed: {0}")]
    Unreadable(io::Error),
    /// Something else than this build ended its command.
    #[error("it was stopped")]
    Stopped,
}

/// Why a command is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Excess {
    Interrupt,
    Time,
    Size,
}

impl<'a> VersionCommands<'a> {
    /// Nothing is started yet.
    pub fn new(
        tree: &'a OutTree,
        env: &'a BTreeMap<String, String>,
        lock: &'a WorkspaceLock,
        stop: &'a StopFlag,
        say: &'a mut dyn FnMut(String),
    ) -> Self {
        Self { tree, env, lock, stop, say, runner: None }
    }

    /// What the tool at `path` prints on both streams for its version arguments; an exit code is part of it.
    ///
    /// # Errors
    /// A [`VersionError`].
    pub fn ask(&mut self, tool: &HostTool, path: &Path) -> Result<String, VersionError> {
        if self.stop.is_set() {
            return Err(VersionError::Interrupted);
        }
        let program = path.to_str().ok_or(VersionError::NotUtf8)?.to_owned();
        let argv: Vec<String> =
            std::iter::once(program).chain(tool.version_args.iter().map(ToString::to_string)).collect();
        let env: Vec<(String, String)> = self.env.clone().into_iter().collect();
        let line = argv.join(" ");
        let spec = CommandSpec { argv: &argv, env: &env, cwd: self.tree.workspace(), timeout: None };
        let mut runner = match self.runner.take() {
            Some(runner) => runner,
            None => self.new_runner()?,
        };
        let (stopper, began) = (Stopper::default(), Instant::now());
        let (mut excess, mut is_told) = (None, false);
        let report = runner.run_watched(&spec, &stopper, &mut |written| {
            excess = excess.or_else(|| self.excess(began.elapsed(), written));
            if excess.is_some() {
                stopper.stop(StopReason::Kill);
            } else if began.elapsed() >= WORTH_A_LINE && !std::mem::replace(&mut is_told, true) {
                (self.say)(format!("waiting for `{line}` to tell its version, at most {} s", LIMIT.as_secs()));
            }
        });
        let is_long = report.stdout_len + report.stderr_len > LARGEST_ANSWER;
        let excess = excess.or(is_long.then_some(Excess::Size));
        let answer = match (excess, report.end) {
            (Some(excess), _) => Err(excess.reason(line)),
            (None, CommandEnd::Exited(code)) => {
                read(&runner).map(|text| answer(&text, code)).map_err(VersionError::Unreadable)
            }
            (None, CommandEnd::Signalled(signal)) => Err(VersionError::Signalled { command: line, signal }),
            (None, CommandEnd::NotStarted(why) | CommandEnd::Failed(why)) => Err(VersionError::NotRun(why)),
            (None, CommandEnd::TimedOut | CommandEnd::Stopped(_)) => Err(VersionError::Stopped),
        };
        self.runner = Some(runner);
        answer
    }

    fn excess(&self, elapsed: Duration, written: u64) -> Option<Excess> {
        if self.stop.is_set() {
            Some(Excess::Interrupt)
        } else if written > LARGEST_ANSWER {
            Some(Excess::Size)
        } else {
            (elapsed >= LIMIT).then_some(Excess::Time)
        }
    }

    fn new_runner(&self) -> Result<CommandRunner, VersionError> {
        // What an earlier build left there may lead elsewhere.
        let dir = WsPath::new(VERSIONS_ROOT).map_err(|error| VersionError::NotRun(error.to_string()))?;
        self.tree.remove(&dir).and_then(|()| self.tree.make_dir(&dir)).map_err(VersionError::NoDirectory)?;
        let lock = self.lock.share().map_err(VersionError::NoLock)?;
        Ok(CommandRunner::new(RunnerConfig {
            helper: "/proc/self/exe".into(),
            helper_args: vec!["__slot".into()],
            dir: self.tree.workspace().join(dir.as_path()),
            lock: Some(Arc::new(lock)),
        }))
    }
}

impl Excess {
    fn reason(self, line: String) -> VersionError {
        match self {
            Self::Interrupt => VersionError::Interrupted,
            Self::Time => VersionError::Slow(line),
            Self::Size => VersionError::Long(line),
        }
    }
}

fn read(runner: &CommandRunner) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for mut stream in runner.stdout().into_iter().chain(runner.stderr()) {
        stream.read_to_end(&mut text)?;
    }
    Ok(text)
}

fn answer(text: &[u8], code: i32) -> String {
    let text = String::from_utf8_lossy(text);
    let code = if code == 0 { String::new() } else { format!(" (exit code {:?})", Some(code)) };
    format!("{}{code}", text.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_is_the_trimmed_text_with_the_code_of_a_failure() {
        assert_eq!(answer(b"\ncc 13\n", 0), "cc 13");
        assert_eq!(answer(b"", 1), " (exit code Some(1))");
        assert_eq!(answer(b"\xff", 0), "\u{fffd}");
    }
}
