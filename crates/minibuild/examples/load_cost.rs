//! What loading a workspace costs: `load_cost DIR [ROUNDS] [THREADS] [PATTERN...]` loads it from disk, each round with no
//! memory of the one before, and prints for each round and as medians where the wall time went and the processor time.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use minibuild_core::{DirEntry, EntryKind, SourceFs};
use minibuild_disk::{DiskFs, FsInstant};
use minibuild_loader::{ConfigInput, HostFacts, LoadRequest, load, render};

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PHASES: [&str; 6] = ["config", "walk", "packages", "graph", "drop", "cpu"];

/// The files, and when the loader began and ended to look at them.
struct Clocked {
    files: DiskFs,
    marks: Mutex<Marks>,
}

#[derive(Clone, Copy, Default)]
struct Marks {
    walk_begins: Option<Instant>,
    walk_ends: Option<Instant>,
    last_look: Option<Instant>,
}

impl Clocked {
    fn mark(&self, set: impl FnOnce(&mut Marks)) {
        set(&mut self.marks.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl SourceFs for Clocked {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let bytes = self.files.read(path);
        self.mark(|marks| marks.last_look = Some(Instant::now()));
        bytes
    }

    fn list_dir(&self, path: &str) -> io::Result<Arc<[DirEntry]>> {
        self.files.list_dir(path)
    }

    fn kind(&self, path: &str) -> io::Result<Option<EntryKind>> {
        self.files.kind(path)
    }

    fn kind_behind(&self, path: &str) -> Option<EntryKind> {
        self.files.kind_behind(path)
    }

    fn walk(
        &self,
        start: &str,
        names: &[&str],
        barrier: &str,
        enter: &(dyn Fn(&str) -> bool + Sync),
    ) -> Vec<(String, io::Result<Arc<[DirEntry]>>)> {
        self.mark(|marks| marks.walk_begins = marks.walk_begins.or(Some(Instant::now())));
        let found = self.files.walk(start, names, barrier, enter);
        self.mark(|marks| marks.walk_ends = Some(Instant::now()));
        found
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let Some(dir) = args.next() else {
        eprintln!("usage: load_cost DIR [ROUNDS] [THREADS] [PATTERN...]");
        return ExitCode::from(2);
    };
    let mut number = |default: usize| args.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (rounds, threads) = (number(5), number(2));
    let mut patterns: Vec<String> = args.collect();
    if patterns.is_empty() {
        patterns.push("//...".to_owned());
    }
    let mut table: Vec<[f64; PHASES.len() + 1]> = Vec::new();
    println!("{:>10} {}", "wall", PHASES.map(|name| format!("{name:>10}")).join(" "));
    for _ in 0..rounds.max(1) {
        let row = match round(Path::new(&dir), threads, &patterns) {
            Ok(row) => row,
            Err(complaints) => {
                eprint!("{complaints}");
                return ExitCode::FAILURE;
            }
        };
        println!("{}", shown(&row));
        table.push(row);
    }
    let mut medians = [0.0; PHASES.len() + 1];
    for (column, median) in medians.iter_mut().enumerate() {
        let mut values: Vec<f64> = table.iter().map(|row| row[column]).collect();
        values.sort_by(f64::total_cmp);
        *median = values[values.len() / 2];
    }
    println!("{} medians, seconds", shown(&medians));
    ExitCode::SUCCESS
}

fn shown(row: &[f64]) -> String {
    row.iter().map(|seconds| format!("{seconds:>10.3}")).collect::<Vec<_>>().join(" ")
}

/// One load; what is wrong with the workspace is told as text.
fn round(dir: &Path, threads: usize, patterns: &[String]) -> Result<[f64; PHASES.len() + 1], String> {
    let long_ago = FsInstant::of_all_devices(0, Duration::ZERO);
    let request = LoadRequest {
        config: ConfigInput::default(),
        patterns: patterns.to_vec(),
        cwd: String::new(),
        host: HostFacts { os: "linux".into(), arch: std::env::consts::ARCH.into() },
        threads,
    };
    let cpu_before = cpu();
    let begin = Instant::now();
    let files = Clocked { files: DiskFs::new(dir, long_ago), marks: Mutex::default() };
    let loaded = load(&files, &request).map_err(|failure| render(&failure.diagnostics, &failure.sources, false))?;
    let end = Instant::now();
    let cpu = cpu() - cpu_before;
    std::hint::black_box(loaded.model.actions.len());
    drop(loaded);
    let marks = *files.marks.lock().unwrap_or_else(PoisonError::into_inner);
    drop(files);
    let dropped = Instant::now();
    let walk_begins = marks.walk_begins.unwrap_or(begin);
    let walk_ends = marks.walk_ends.unwrap_or(walk_begins);
    let last_look = marks.last_look.unwrap_or(walk_ends);
    let since = |to: Instant, from: Instant| to.saturating_duration_since(from).as_secs_f64();
    Ok([
        since(end, begin),
        since(walk_begins, begin),
        since(walk_ends, walk_begins),
        since(last_look, walk_ends),
        since(end, last_look),
        since(dropped, end),
        cpu,
    ])
}

/// Seconds of processor time of this process so far, all threads, to a hundredth.
fn cpu() -> f64 {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold spaces; user and system time are the 14th and 15th field.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name.split_ascii_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>()
        / TICKS_PER_SECOND
}
