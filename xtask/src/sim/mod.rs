//! `cargo xtask sim`: the adaptive policy and its rivals in one simulated world.
//!
//! The policy is the very type the engine runs. What the world is like lies in `world`, what it is made of in `model`;
//! this file runs strategies over workloads and hands the results to `report`.

mod baseline;
mod bound;
mod input;
mod make;
mod model;
mod report;
mod rng;
mod svg;
#[cfg(test)]
mod tests;
mod world;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use minibuild_dynamic::policy::{Config, Mode, Policy};
use serde::Serialize;

use crate::step::{Report, Step, target_dir};
use baseline::{Baseline, Kind};
use bound::Bound;
use make::Parameters;
use model::{Workload, ms};
use world::{Outcome, World};

const USAGE: &str = "\
usage: cargo xtask sim                          the 162 workloads of the bar, table and picture in docs/design/
       cargo xtask sim --workloads FILE.jsonl   workloads from outside (`-`: standard input), JSON on standard output
       cargo xtask sim --quick                  as without arguments, one seed, nothing written
       cargo xtask sim --trace FILE.jsonl       what the adaptive policy decides in the first workload, and why
       cargo xtask sim --large                  a million actions on five thousand workers

";

/// Builds the simulator optimised, and runs it with these words.
pub fn run(root: &Path, words: &[&str]) -> bool {
    let mut report = Report::new();
    let build = ["build", "--quiet", "--locked", "--release", "--package", "xtask"];
    report.run(Step::cargo(root, "build", &build));
    if !report.passed() {
        return report.finish();
    }
    let program = target_dir(root).join("release/xtask");
    let mut command = std::process::Command::new(program);
    command.arg("sim-here").args(words);
    match command.status() {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("xtask: cannot run the simulator: {error}");
            false
        }
    }
}

/// Runs the simulator in this process.
pub fn run_here(root: &Path, words: &[&str]) -> bool {
    let done = match words {
        [] => whole_grid(root, make::grid(), true),
        ["--quick"] => {
            let grid = make::grid().into_iter().map(|p| Parameters { seeds: vec![1], ..p });
            whole_grid(root, grid.collect(), false)
        }
        ["--large"] => large(),
        ["--trace", path] => trace(path).map(|()| true),
        ["--workloads", path] => from_file(path).map(|()| true),
        ["--help" | "-h"] => {
            print!("{USAGE}{}", input::FORMAT);
            return true;
        }
        _ => {
            eprint!("{USAGE}");
            return false;
        }
    };
    done.unwrap_or_else(|message| {
        eprintln!("sim: {message}");
        false
    })
}

/// The strategies, in the order of tables.
pub const STRATEGIES: [&str; 10] = [
    "local",
    "remote",
    "race_all",
    "hold_back",
    "adaptive",
    "local_cold",
    "remote_cold",
    "race_all_cold",
    "hold_back_cold",
    "adaptive_cold",
];

/// All strategies on one build.
#[derive(Clone, Debug)]
pub struct Run {
    pub bound: Bound,
    pub local_work: model::Us,
    /// By the order of [`STRATEGIES`].
    pub outcomes: Vec<Outcome>,
}

/// All strategies on the builds of one workload, one for each seed.
#[derive(Clone, Debug)]
pub struct Measured {
    pub parameters: Parameters,
    pub actions: usize,
    pub runs: Vec<Run>,
}

fn strategy(name: &str, load: &Workload) -> Result<Outcome, String> {
    let baseline = |kind| Baseline::new(kind, load.jobs, load.remote_jobs);
    let world = World::new(load);
    match name.trim_end_matches("_cold") {
        "local" => world.run(&mut baseline(Kind::Local)),
        "remote" => world.run(&mut baseline(Kind::Remote)),
        "hold_back" => world.run(&mut baseline(Kind::HoldBack(load.jobs))),
        "race_all" => world.run(&mut policy(load, Mode::Race)),
        _ => world.run(&mut adaptive(load)),
    }
}

/// Runs all strategies on the build of one seed.
pub fn run_seed(parameters: &Parameters, seed: u64) -> Result<(usize, Run), String> {
    let known = parameters.make(seed)?;
    let cold = known.cold();
    let on = |name: &&str| strategy(name, if name.ends_with("_cold") { &cold } else { &known });
    let outcomes = STRATEGIES.iter().map(on).collect::<Result<Vec<Outcome>, String>>()?;
    Ok((known.actions.len(), Run { bound: Bound::of(&known), local_work: known.local_work(), outcomes }))
}

fn run_workload(parameters: &Parameters) -> Result<Measured, String> {
    let runs = parameters.seeds.iter().map(|&seed| run_seed(parameters, seed));
    let runs = runs.collect::<Result<Vec<(usize, Run)>, String>>()?;
    let actions = runs.first().map_or(0, |(actions, _)| *actions);
    Ok(Measured { parameters: parameters.clone(), actions, runs: runs.into_iter().map(|(_, run)| run).collect() })
}

/// Runs all, on as many threads as there are cores; results in the order of the workloads.
fn run_all(all: &[Parameters]) -> Result<Vec<Measured>, String> {
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<Result<Measured, String>>>> = all.iter().map(|_| Mutex::new(None)).collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let (Some(parameters), Some(slot)) = (all.get(at), results.get(at)) else { return };
            if let Ok(mut slot) = slot.lock() {
                *slot = Some(run_workload(parameters));
            }
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let taken = results.into_iter().map(|slot| slot.into_inner().ok().flatten());
    taken.map(|result| result.unwrap_or_else(|| Err("a workload was not run".to_owned()))).collect()
}

fn whole_grid(root: &Path, grid: Vec<Parameters>, write: bool) -> Result<bool, String> {
    let results = run_all(&grid)?;
    let report = report::Report::of(&results);
    print!("{}", report.text());
    if write {
        let save = |name: &str, text: &str| {
            let path = root.join("docs/design").join(name);
            std::fs::write(&path, text).map_err(|error| format!("cannot write `{}`: {error}", path.display()))
        };
        save("policy-results.md", &report.document())?;
        save("policy-results.svg", &svg::picture(&results))?;
    }
    Ok(report.passed())
}

#[derive(Serialize)]
struct StrategyLine {
    makespan_ms: f64,
    duplicated_local_ms: f64,
    duplicated_local_share: f64,
    duplicated_remote_ms: f64,
    local: f64,
    remote: f64,
    hits: f64,
    races: f64,
}

#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    actions: usize,
    seeds: usize,
    bound_ms: f64,
    critical_path_ms: f64,
    fluid_ms: f64,
    local_work_ms: f64,
    strategies: std::collections::BTreeMap<&'static str, StrategyLine>,
}

fn read_workloads(path: &str) -> Result<Vec<Parameters>, String> {
    let text = match path {
        "-" => std::io::read_to_string(std::io::stdin()),
        _ => std::fs::read_to_string(path),
    };
    let text = text.map_err(|error| format!("cannot read `{path}`: {error}"))?;
    input::parse(&text).map_err(|error| format!("`{path}`: {error}"))
}

fn from_file(path: &str) -> Result<(), String> {
    for result in run_all(&read_workloads(path)?)? {
        let line = serde_json::to_string(&line(&result)).map_err(|error| error.to_string())?;
        println!("{line}");
    }
    Ok(())
}

fn trace(path: &str) -> Result<(), String> {
    let first = read_workloads(path)?.into_iter().next().ok_or_else(|| format!("`{path}` holds no workload"))?;
    let mut load = first.make(first.seeds.first().copied().unwrap_or(1))?;
    if first.name.ends_with("cold") {
        load = load.cold();
    }
    let mut policy = adaptive(&load);
    World::new(&load).trace(&mut policy)?.iter().for_each(|line| println!("{line}"));
    Ok(())
}

fn adaptive(load: &Workload) -> Policy {
    policy(load, Mode::Adaptive)
}

fn policy(load: &Workload, mode: Mode) -> Policy {
    let config = Config { mode, jobs: load.jobs, remote_jobs: load.remote_jobs, ..Config::default() };
    Policy::new(config, load.history.clone(), load.mnemonics.clone())
}

fn line(result: &Measured) -> Line<'_> {
    let mean =
        |value: &dyn Fn(&Run) -> f64| result.runs.iter().map(value).sum::<f64>() / result.runs.len().max(1) as f64;
    let of = |at: usize| {
        let mean = |value: fn(&Outcome) -> f64| mean(&|run: &Run| value(&run.outcomes[at]));
        StrategyLine {
            makespan_ms: mean(|o| ms(o.makespan)),
            duplicated_local_ms: mean(|o| ms(o.wasted_here)),
            duplicated_local_share: result.duplicated(at),
            duplicated_remote_ms: mean(|o| ms(o.wasted_there)),
            local: mean(|o| o.local as f64),
            remote: mean(|o| o.remote as f64),
            hits: mean(|o| o.hits as f64),
            races: mean(|o| o.races as f64),
        }
    };
    Line {
        name: &result.parameters.name,
        actions: result.actions,
        seeds: result.runs.len(),
        bound_ms: mean(&|run| ms(run.bound.time())),
        critical_path_ms: mean(&|run| ms(run.bound.critical_path)),
        fluid_ms: mean(&|run| ms(run.bound.fluid)),
        local_work_ms: mean(&|run| ms(run.local_work)),
        strategies: STRATEGIES.iter().enumerate().map(|(at, name)| (*name, of(at))).collect(),
    }
}

impl Measured {
    /// Mean share of the local work that a strategy did in vain.
    pub fn duplicated(&self, strategy: usize) -> f64 {
        let wasted: f64 = self.runs.iter().map(|run| run.outcomes[strategy].wasted_here as f64).sum();
        let work: f64 = self.runs.iter().map(|run| run.local_work as f64).sum();
        wasted / work.max(1.0)
    }
}

/// The size a policy has to bear: prints what it took.
fn large() -> Result<bool, String> {
    let parameters = Parameters {
        name: "a million actions".to_owned(),
        shape: make::Shape::Gen,
        count: 1_000_000,
        remote_slots: 5_000,
        remote_jobs: 10_000,
        hit_ratio: 0.3,
        ..Parameters::default()
    };
    let load = parameters.make(1)?;
    for name in ["adaptive", "race_all", "remote"] {
        let begin = std::time::Instant::now();
        let outcome = strategy(name, &load)?;
        println!(
            "{name}: {} actions in {:.1} s of this machine's time, {} decisions; makespan {:.0} s, bound {:.0} s",
            load.actions.len(),
            begin.elapsed().as_secs_f64(),
            outcome.decisions,
            ms(outcome.makespan) / 1e3,
            ms(Bound::of(&load).time()) / 1e3,
        );
    }
    Ok(true)
}
