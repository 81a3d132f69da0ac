//! One run of the binary: while it goes on, and what is known when it is over.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::event::{Actions, Downloads, Event, Line, Output, parse};
use crate::gate::SOON;
use crate::process::{Pid, children, command_line, describe_tree, kill, wait_until_dead};
use crate::stream::check_stream;

/// No run of a test may take longer.
const LIMIT: Duration = Duration::from_secs(240);

/// Where a run's output goes.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) stdout: PathBuf,
    pub(crate) stderr: PathBuf,
    /// Where the harness asked for events.
    pub(crate) events: Option<PathBuf>,
    /// What is shown as `[ws]`.
    pub(crate) root: String,
}

/// A run that goes on. Dropped before its end it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    files: Files,
    started: Instant,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
}

/// A run that is over.
#[derive(Clone, Debug)]
pub struct Run {
    /// How it ended.
    pub ending: Ending,
    /// Its standard output, with the workspace's path as `[ws]`.
    pub stdout: String,
    /// Its standard error, likewise.
    pub stderr: String,
    /// Its events; none where the test asked for none.
    pub events: Vec<Event>,
}

impl Running {
    pub(crate) fn new(child: Child, files: Files) -> Self {
        Self { child, files, started: Instant::now() }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.child.id().cast_signed()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal);
    }

    /// Its resident helpers.
    pub fn helpers(&self) -> Vec<Pid> {
        children(self.pid()).into_iter().filter(|&pid| command_line(pid).contains("__slot")).collect()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("asks for a child").is_some()
    }

    /// What it wrote to standard error so far.
    pub fn stderr_so_far(&self) -> String {
        fs::read_to_string(&self.files.stderr).unwrap_or_default()
    }

    /// Waits until its standard error holds `text`.
    #[track_caller]
    pub fn wait_for_stderr(&mut self, text: &str) {
        let path = self.files.stderr.clone();
        self.wait_for(&path, text);
    }

    /// Waits until its standard output holds `text`, and gives all of it.
    #[track_caller]
    pub fn wait_for_stdout(&mut self, text: &str) -> String {
        let path = self.files.stdout.clone();
        self.wait_for(&path, text)
    }

    /// Waits until it has told an event whose line holds `text`.
    #[track_caller]
    pub fn wait_for_event(&self, text: &str) {
        let path = self.files.events.clone().expect("this run writes events");
        self.wait_for(&path, text);
    }

    #[track_caller]
    fn wait_for(&self, path: &PathBuf, text: &str) -> String {
        let read = || fs::read_to_string(path).unwrap_or_default();
        self.wait_until(&format!("`{text}` is in `{}`", path.display()), || read().contains(text));
        read()
    }

    /// Waits until something is so that this run, or what it talks to, is about to do. There is nothing to wait on: it
    /// is looked at again at each tick of a wait for the process's end, which is no news.
    #[track_caller]
    pub fn wait_until(&self, what: &str, is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + SOON;
        while !is_so() {
            let late = wait_until_dead(self.pid(), Duration::from_millis(5)) || Instant::now() > deadline;
            assert!(!late || is_so(), "it never came to be that {what}:\n{}", self.stderr_so_far());
        }
    }

    /// Waits for its end and reads what it wrote.
    #[track_caller]
    pub fn wait(self) -> Run {
        self.wait_within(LIMIT)
    }

    /// As [`Self::wait`], for a run that must not take longer than `limit`. If it does, the panic says where each thread
    /// of it and of its descendants waits.
    #[track_caller]
    pub fn wait_within(mut self, limit: Duration) -> Run {
        let left = limit.saturating_sub(self.started.elapsed());
        let in_time = wait_until_dead(self.pid(), left);
        assert!(
            in_time,
            "it runs longer than {limit:?}:\n{}\nso far:\n{}",
            describe_tree(self.pid()),
            self.stderr_so_far()
        );
        let status = self.child.wait().expect("waits for a child");
        Run::read(&self.files, status)
    }

    /// Kills it with SIGKILL; its helpers see that and die by themselves.
    #[track_caller]
    pub fn kill(self) -> Run {
        self.signal(Signal::SIGKILL);
        self.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended and waited for, mostly.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Run {
    #[track_caller]
    fn read(files: &Files, status: ExitStatus) -> Self {
        let text = |path: &PathBuf| {
            let bytes = fs::read(path).unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace(&files.root, "[ws]")
        };
        let ending = match (status.code(), status.signal()) {
            (Some(code), _) => Ending::Exited(code),
            (None, signal) => Ending::Signalled(signal.unwrap_or_default()),
        };
        let stderr = text(&files.stderr);
        let lines = match &files.events {
            Some(path) => parse(&fs::read_to_string(path).unwrap_or_default())
                .unwrap_or_else(|e| panic!("the events are not those of the contract: {e}")),
            None => Vec::new(),
        };
        if let (Ending::Exited(code), Some(_)) = (ending, &files.events) {
            let problems = check_stream(&lines, code);
            // A command line that cannot be read has no events.
            assert!(problems.is_empty() || lines.is_empty() && code == 2, "{}\n{stderr}", problems.join("\n"));
        }
        assert!(!stderr.contains("panicked at"), "it panicked:\n{stderr}");
        assert!(ending == Ending::Exited(37) || !stderr.contains("bug:"), "a bug is told of:\n{stderr}");
        let events = lines.into_iter().map(|Line { event, .. }| event).collect();
        Self { ending, stdout: text(&files.stdout), stderr, events }
    }

    /// Asserts the exit code.
    #[track_caller]
    pub fn code(self, expected: i32) -> Self {
        assert_eq!(self.ending, Ending::Exited(expected), "stderr:\n{}", self.stderr);
        self
    }

    /// Asserts success.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// Asserts that standard error holds each of these texts.
    #[track_caller]
    pub fn says(self, texts: &[&str]) -> Self {
        for text in texts {
            assert!(self.stderr.contains(text), "`{text}` is not on stderr:\n{}", self.stderr);
        }
        self
    }

    /// Asserts that standard error does not hold this text.
    #[track_caller]
    pub fn says_nothing_of(self, text: &str) -> Self {
        assert!(!self.stderr.contains(text), "`{text}` is on stderr:\n{}", self.stderr);
        self
    }

    /// Labels of the actions that were started, sorted; one for each start.
    pub fn ran(&self) -> Vec<&str> {
        self.started(|_, label, _| label)
    }

    /// Ids of the actions that were started (the path of the first output or of the log), sorted.
    pub fn ran_actions(&self) -> Vec<&str> {
        self.started(|action, _, _| action)
    }

    /// Mnemonics of the actions that were started, sorted.
    pub fn ran_mnemonics(&self) -> Vec<&str> {
        self.started(|_, _, mnemonic| mnemonic)
    }

    /// Labels of the actions that were started, in the order of their starts.
    pub fn ran_in_order(&self) -> Vec<&str> {
        fn label(event: &Event) -> Option<&str> {
            match event {
                Event::ActionStarted { label, .. } => Some(label.as_str()),
                _ => None,
            }
        }
        self.events.iter().filter_map(label).collect()
    }

    fn started<'a>(&'a self, pick: impl Fn(&'a str, &'a str, &'a str) -> &'a str) -> Vec<&'a str> {
        let mut list: Vec<&str> = self
            .events
            .iter()
            .filter_map(|event| match event {
                Event::ActionStarted { action, label, mnemonic } => Some(pick(action, label, mnemonic)),
                _ => None,
            })
            .collect();
        list.sort_unstable();
        list
    }

    /// Asserts which actions were started, by label; the order does not count.
    #[track_caller]
    pub fn started_only(self, labels: &[&str]) -> Self {
        let mut expected = labels.to_vec();
        expected.sort_unstable();
        assert_eq!(self.ran(), expected, "stderr:\n{}", self.stderr);
        self
    }

    /// Asserts success without a single action started.
    #[track_caller]
    pub fn ok_without_running(self) -> Self {
        self.ok().started_only(&[])
    }

    /// Asserts that the build was spared loading by a snapshot.
    #[track_caller]
    pub fn from_snapshot(self) -> Self {
        assert_eq!(self.why_no_snapshot(), "used", "stderr:\n{}", self.stderr);
        self
    }

    /// `used` if a snapshot spared loading, else why not.
    #[track_caller]
    pub fn why_no_snapshot(&self) -> &str {
        match self.events.last() {
            Some(Event::BuildFinished { snapshot, .. }) => snapshot,
            other => panic!("the last event is {other:?}"),
        }
    }

    /// The counts of the last event.
    #[track_caller]
    pub fn counts(&self) -> Actions {
        match self.events.last() {
            Some(Event::BuildFinished { actions, .. }) => *actions,
            other => panic!("the last event is {other:?}"),
        }
    }

    /// What came down, by the last event.
    #[track_caller]
    pub fn downloads(&self) -> Downloads {
        match self.events.last() {
            Some(Event::BuildFinished { downloads, .. }) => *downloads,
            other => panic!("the last event is {other:?}"),
        }
    }

    /// Requested targets: label and success, in the order in which they were announced.
    pub fn targets(&self) -> Vec<(&str, bool)> {
        fn target(event: &Event) -> Option<(&str, bool)> {
            match event {
                Event::TargetCompleted { label, success, .. } => Some((label, *success)),
                _ => None,
            }
        }
        self.events.iter().filter_map(target).collect()
    }

    /// The outputs of one requested target.
    #[track_caller]
    pub fn outputs_of(&self, wanted: &str) -> &[Output] {
        let outputs = self.events.iter().find_map(|event| match event {
            Event::TargetCompleted { label, outputs, .. } if label == wanted => Some(outputs),
            _ => None,
        });
        outputs.unwrap_or_else(|| panic!("`{wanted}` was not announced"))
    }

    /// Tests: label and status, sorted.
    pub fn tests(&self) -> Vec<(&str, &str)> {
        fn test(event: &Event) -> Option<(&str, &str)> {
            match event {
                Event::TestCompleted { label, status, .. } => Some((label.as_str(), status.as_str())),
                _ => None,
            }
        }
        let mut list: Vec<_> = self.events.iter().filter_map(test).collect();
        list.sort_unstable();
        list
    }

    /// Texts of the messages of a level.
    pub fn messages(&self, wanted: &str) -> Vec<&str> {
        let messages = self.events.iter().filter_map(|event| match event {
            Event::Message { level, text } if level == wanted => Some(text.as_str()),
            _ => None,
        });
        messages.collect()
    }

    /// The reason given for the completed action of a label.
    #[track_caller]
    pub fn reason(&self, wanted: &str) -> &str {
        let reason = self.events.iter().find_map(|event| match event {
            Event::ActionCompleted { label, reason, .. } if label == wanted => Some(reason.as_str()),
            _ => None,
        });
        reason.unwrap_or_else(|| panic!("no action of `{wanted}` completed"))
    }
}
