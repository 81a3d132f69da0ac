//! Measures what the helper costs: runs of `/bin/true` per second through the executor and started directly.
//!
//! `cargo build --release -p minibuild-local --bins --example spawn_rate`, then
//! `target/release/examples/spawn_rate target/release/slot-for-tests [RUNS]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use minibuild_core::{ActionId, CommandLine, ExecutionRequest, ExecutionStatus, Executor, ExecutorEvent, RunId};
use minibuild_disk::{FsClock, OutTree};
use minibuild_local::{LocalConfig, LocalExecutor};

const BATCHES: usize = 7;
/// Slots, and commands that are given before there is a place for them.
const AHEAD: [(usize, usize); 4] = [(1, 0), (2, 0), (1, 16), (2, 32)];
const HELPERS: [&str; 4] =
    ["helper, 1 slot", "helper, 2 slots", "helper, 1 slot, 16 ahead", "helper, 2 slots, 32 ahead"];

fn main() {
    let mut args = std::env::args_os().skip(1);
    let helper = PathBuf::from(args.next().expect("usage: spawn_rate HELPER [RUNS]"));
    let runs: usize = args.next().and_then(|n| n.to_str()?.parse().ok()).unwrap_or(1000);
    let dir = tempfile::tempdir().expect("temp dir");
    // Interleaved, so that what else the machine does hits all alike.
    let mut rates: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut executors = AHEAD.map(|(slots, ahead)| Bench::new(&helper, dir.path(), slots, ahead));
    for _ in 0..=BATCHES {
        for (threads, name) in [(1, "direct, 1 thread"), (2, "direct, 2 threads")] {
            rates.entry(name).or_default().push(rate(runs, || direct(threads, runs / threads)));
        }
        for (bench, name) in executors.iter_mut().zip(HELPERS) {
            rates.entry(name).or_default().push(rate(runs, || bench.run(runs)));
        }
    }
    for (name, mut rates) in rates {
        rates.remove(0);
        rates.sort_by(f64::total_cmp);
        println!("{name:25} median {:5.0}/s   {:5.0} to {:5.0}", rates[BATCHES / 2], rates[0], rates[BATCHES - 1]);
    }
}

fn rate(runs: usize, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    runs as f64 / start.elapsed().as_secs_f64()
}

fn direct(threads: usize, runs: usize) {
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..runs {
                    let mut command = Command::new("/bin/true");
                    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                    assert!(command.status().expect("starts").success());
                }
            });
        }
    });
}

struct Bench {
    executor: LocalExecutor,
    events: std::sync::mpsc::Receiver<ExecutorEvent>,
    slots: usize,
    /// Commands that are given before there is a place for them.
    ahead: usize,
}

impl Bench {
    fn new(helper: &Path, root: &Path, slots: usize, ahead: usize) -> Self {
        let root = root.join(format!("{slots}+{ahead}"));
        std::fs::create_dir(&root).expect("workspace");
        let (sender, events) = channel();
        let sender = Mutex::new(sender);
        let config = LocalConfig {
            tree: Arc::new(OutTree::open(&root).expect("output tree")),
            clock: Arc::new(FsClock::open(&root.join("minibuild-out/.state")).expect("clock")),
            slots,
            jobserver: None,
            helper: helper.to_owned(),
            helper_args: vec!["__slot".into()],
            lock: None,
        };
        let sink = Arc::new(move |event| {
            let _ = sender.lock().expect("not poisoned").send(event);
        });
        Self { executor: LocalExecutor::new(config, sink).expect("an executor"), events, slots, ahead }
    }

    fn run(&mut self, runs: usize) {
        let mut started = 0;
        let mut finished = 0;
        while finished < runs {
            while started < runs && started - finished < self.slots + self.ahead {
                self.executor.start(request(started));
                started += 1;
            }
            if let ExecutorEvent::Finished(report) = self.events.recv().expect("an event") {
                assert_eq!(report.status, ExecutionStatus::Exited(0));
                finished += 1;
            }
        }
    }
}

fn request(number: usize) -> ExecutionRequest {
    ExecutionRequest {
        run: RunId { action: ActionId::new(number), attempt: 0 },
        command: CommandLine {
            argv: vec!["/bin/true".into()],
            env: BTreeMap::from([("PATH".into(), minibuild_core::ACTION_PATH.into())]),
            files: Vec::new(),
        },
        verify: Vec::new(),
        outputs: Vec::new(),
        depfile: None,
        timeout: None,
    }
}
