//! A workspace in a temporary directory with a local executor, for tests.

#![expect(dead_code, reason = "each test binary uses its own part")]

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use minibuild_core::{
    ACTION_PATH, ActionId, ArtifactKind, CommandLine, DeclaredOutput, ExecutionReport, ExecutionRequest,
    ExecutionStatus, Executor, ExecutorEvent, FoundOutput, RunId, WsPath,
};
use minibuild_disk::{FsClock, OutTree};
use minibuild_local::{LocalConfig, LocalExecutor};

/// Far more than anything here takes; only a hang gets there.
const PATIENCE: Duration = Duration::from_secs(100);

pub struct Workspace {
    pub executor: LocalExecutor,
    events: Receiver<ExecutorEvent>,
    next: usize,
    root: PathBuf,
    _keep: Option<tempfile::TempDir>,
}

pub fn path(text: &str) -> WsPath {
    WsPath::new(text).expect("a valid path")
}

pub fn out(name: &str, kind: ArtifactKind) -> DeclaredOutput {
    DeclaredOutput { path: path(&format!("minibuild-out/bin/pkg/{name}")), kind }
}

/// A request without timeout for an argv and declared outputs.
pub fn request(argv: &[&str], outputs: Vec<DeclaredOutput>) -> ExecutionRequest {
    let env = BTreeMap::from([("PATH".to_owned(), ACTION_PATH.to_owned())]);
    let argv = argv.iter().map(|&word| word.to_owned()).collect();
    ExecutionRequest {
        run: RunId { action: ActionId::new(0), attempt: 0 },
        command: CommandLine { argv, env, files: Vec::new() },
        verify: Vec::new(),
        outputs,
        depfile: None,
        timeout: None,
    }
}

pub fn shell(script: &str, outputs: Vec<DeclaredOutput>) -> ExecutionRequest {
    request(&["/bin/sh", "-e", "-c", script], outputs)
}

impl Workspace {
    pub fn new() -> Self {
        Self::with(1, None)
    }

    pub fn with(slots: usize, lock: Option<OwnedFd>) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let root = dir.path().canonicalize().expect("exists");
        Self::at(root, Some(dir), slots, lock)
    }

    pub fn at(root: PathBuf, keep: Option<tempfile::TempDir>, slots: usize, lock: Option<OwnedFd>) -> Self {
        let tree = OutTree::open(&root).expect("output tree");
        let clock = FsClock::open(&root.join("minibuild-out/.state")).expect("clock");
        let (sender, events) = channel();
        let sender = std::sync::Mutex::new(sender);
        let config = LocalConfig {
            tree: Arc::new(tree),
            clock: Arc::new(clock),
            slots,
            jobserver: None,
            helper: env!("CARGO_BIN_EXE_slot-for-tests").into(),
            helper_args: vec!["__slot".into()],
            lock,
        };
        let sink = Arc::new(move |event| {
            let _ = sender.lock().expect("not poisoned").send(event);
        });
        Self { executor: LocalExecutor::new(config, sink).expect("an executor"), events, next: 0, root, _keep: keep }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn out_path(&self, name: &str) -> PathBuf {
        self.root.join("minibuild-out/bin/pkg").join(name)
    }

    pub fn start(&mut self, mut request: ExecutionRequest) -> RunId {
        request.run = RunId { action: ActionId::new(self.next), attempt: 0 };
        self.next += 1;
        let run = request.run;
        self.executor.start(request);
        run
    }

    pub fn event(&self) -> ExecutorEvent {
        self.events.recv_timeout(PATIENCE).expect("an event in time")
    }

    pub fn finish(&self, run: RunId) -> ExecutionReport {
        loop {
            match self.event() {
                ExecutorEvent::Finished(report) if report.run == run => return *report,
                ExecutorEvent::Finished(other) => panic!("unexpected end of {:?}: {:?}", other.run, other.status),
                ExecutorEvent::Started(_) | ExecutorEvent::Notice(..) => {}
            }
        }
    }

    pub fn run(&mut self, request: ExecutionRequest) -> ExecutionReport {
        let run = self.start(request);
        self.finish(run)
    }

    /// Runs what must succeed.
    pub fn succeed(&mut self, request: ExecutionRequest) -> ExecutionReport {
        let report = self.run(request);
        let stderr = String::from_utf8_lossy(&report.stderr);
        assert_eq!(report.status, ExecutionStatus::Exited(0), "stderr: {stderr}");
        report
    }

    /// Waits until a command wrote a line into the pipe at `name` in the workspace.
    pub fn wait_for_pipe(&self, name: &str) -> String {
        std::fs::read_to_string(self.root.join(name)).expect("the pipe was written")
    }

    pub fn make_pipe(&self, name: &str) {
        nix::unistd::mkfifo(&self.root.join(name), nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    }
}

/// Paths of found outputs with their content's debug text, for comparison.
pub fn one(outputs: &[FoundOutput]) -> &FoundOutput {
    assert_eq!(outputs.len(), 1, "{outputs:?}");
    &outputs[0]
}

/// Whether a process with this pid exists and has not ended.
pub fn is_alive(pid: &str) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())) else { return false };
    !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X'])
}

/// Waits for the ends of processes that were killed. The kernel closes the descriptors of one, and so gives up its locks,
/// before it counts as dead.
pub fn assert_all_dead(pids: &[String]) {
    assert!(!pids.is_empty());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    for pid in pids {
        while is_alive(pid) {
            assert!(std::time::Instant::now() < deadline, "{pid} lives");
            std::thread::yield_now();
        }
    }
}

/// Leaves the session, forgets the environment, ignores SIGTERM, and writes for ever.
pub const DAEMON: &str =
    "setsid -f env -i /bin/sh -c 'trap \"\" TERM; echo $$ > pids; while :; do echo x >> grows; done'";
