//! The processes of the tests of this crate: the helper (what `minibuild __slot` is for the real binary) and, as
//! `__main`, a main process with one local slot that tests can kill.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next() {
        Some(mode) if mode == "__slot" => minibuild_local::slot_main(args),
        Some(mode) if mode == "__main" => main_process::run(&args.collect::<Vec<OsString>>()),
        _ => ExitCode::from(2),
    }
}

mod main_process {
    use std::collections::BTreeMap;
    use std::ffi::OsString;
    use std::path::Path;
    use std::process::ExitCode;
    use std::sync::mpsc::channel;
    use std::sync::{Arc, Mutex};

    use minibuild_core::{ActionId, CommandLine, ExecutionRequest, Executor, ExecutorEvent, RunId};
    use minibuild_disk::{FsClock, OutTree};
    use minibuild_local::{LocalConfig, LocalExecutor};

    /// Runs the shell script `args[1]` in the workspace `args[0]`, holding the lock file `lock` in it.
    pub fn run(args: &[OsString]) -> ExitCode {
        let [root, script] = args else { return ExitCode::from(2) };
        let root = Path::new(root);
        let lock = std::fs::File::create(root.join("lock")).expect("lock file");
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("lock");
        let (sender, events) = channel();
        let sender = Mutex::new(sender);
        let config = LocalConfig {
            tree: Arc::new(OutTree::open(root).expect("output tree")),
            clock: Arc::new(FsClock::open(&root.join("minibuild-out/.state")).expect("clock")),
            slots: 1,
            jobserver: None,
            helper: "/proc/self/exe".into(),
            helper_args: vec!["__slot".into()],
            lock: Some(lock.into()),
        };
        let sink = Arc::new(move |event| {
            let _ = sender.lock().expect("not poisoned").send(event);
        });
        let mut executor = LocalExecutor::new(config, sink).expect("an executor");
        let script = script.to_string_lossy().into_owned();
        let path = minibuild_core::ACTION_PATH.to_owned();
        executor.start(ExecutionRequest {
            run: RunId { action: ActionId::new(0), attempt: 0 },
            command: CommandLine {
                argv: vec!["/bin/sh".into(), "-e".into(), "-c".into(), script],
                env: BTreeMap::from([("PATH".into(), path)]),
                files: Vec::new(),
            },
            verify: Vec::new(),
            outputs: Vec::new(),
            depfile: None,
            timeout: None,
        });
        for event in events {
            if let ExecutorEvent::Finished(report) = event {
                println!("{:?}", report.status);
                return ExitCode::SUCCESS;
            }
        }
        ExitCode::FAILURE
    }
}
