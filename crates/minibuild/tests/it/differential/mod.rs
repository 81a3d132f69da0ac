//! Random courses of edits, faults and interruptions, each build of which is compared with a model of what it has to make.
//!
//! The model is `expected`: each output of a course says what its command read, so that an output made of stale inputs, of two
//! results of one producer, or of bytes under another's name is seen wherever it ends up. `scripts/differential` is the long
//! form, and says how a course is repeated and made short.

mod check;
mod course;
mod definition;
mod disk;
mod disturbance;
mod expected;
mod faults;
mod request;
mod sources;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use course::{Course, CourseKind};
use minibuild_testkit::Workspace;

/// Rounds of one course: long enough for the state to have a past, short enough to be read.
const COURSE_ROUNDS: usize = 40;
/// Rounds of a course in the short form.
const SHORT_ROUNDS: usize = 12;
/// The seed that each run of the short form has.
const FIXED_SEED: u64 = 1;

/// The binary under test: this build's, or the one that `MINIBUILD` names.
fn binary() -> String {
    std::env::var("MINIBUILD").unwrap_or_else(|_| env!("CARGO_BIN_EXE_minibuild").to_owned())
}

fn setting(name: &str) -> Option<usize> {
    std::env::var(format!("MINIBUILD_DIFFERENTIAL_{name}")).ok()?.parse().ok()
}

fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    // Short enough to be typed.
    (now.as_nanos() % 1_000_000_000_000) as u64
}

/// Runs these rounds of one course; how many builds that took. `reached` is the round that began last.
fn run_course(kind: CourseKind, seed: u64, rounds: &[usize], reached: &AtomicUsize) -> usize {
    let binary = binary();
    let shared = Workspace::new(&binary);
    let Some(mut course) = Course::new(kind, seed, &shared, &binary) else { return 0 };
    for &round in rounds {
        reached.store(round, Ordering::Relaxed);
        course.round(round);
    }
    course.end();
    course.builds()
}

/// Runs a course, and says how to repeat it if it fails.
fn run_told(kind: CourseKind, seed: u64, rounds: &[usize]) -> usize {
    let reached = AtomicUsize::new(0);
    let builds = catch_unwind(AssertUnwindSafe(|| run_course(kind, seed, rounds, &reached)));
    builds.unwrap_or_else(|problem| {
        let round = reached.into_inner();
        eprintln!("seed {seed} failed in round {round}");
        eprintln!("again: scripts/differential --rounds {round} --seed {seed} --kind {}", kind.name());
        if setting("SHRINK").is_some() {
            let rounds = shrink(kind, seed, rounds);
            eprintln!("the fewest rounds: MINIBUILD_DIFFERENTIAL_ONLY={rounds:?} with seed {seed}");
        }
        std::panic::resume_unwind(problem)
    })
}

/// Leaves out rounds as long as the course still fails at least once in three times.
fn shrink(kind: CourseKind, seed: u64, rounds: &[usize]) -> Vec<usize> {
    let fails_once = |rounds: &[usize]| catch_unwind(|| run_course(kind, seed, rounds, &AtomicUsize::new(0))).is_err();
    let fails = |rounds: &[usize]| (0..3).any(|_| fails_once(rounds));
    let mut kept = rounds.to_vec();
    let mut size = kept.len() / 2;
    while size > 0 {
        let mut at = 0;
        while at < kept.len() {
            let mut fewer = kept.clone();
            fewer.drain(at..(at + size).min(kept.len()));
            if !fewer.is_empty() && fails(&fewer) {
                kept = fewer;
            } else {
                at += size;
            }
        }
        size /= 2;
    }
    kept
}

/// Courses beside each other, until so many rounds are done or one fails.
fn run_long(kind: CourseKind, rounds: usize, seed: u64) {
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (done, built) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let left = rounds.saturating_sub(number * COURSE_ROUNDS).min(COURSE_ROUNDS);
            if left == 0 {
                return;
            }
            let course: Vec<usize> = (1..=left).collect();
            let seed = seed + number as u64;
            let builds = catch_unwind(AssertUnwindSafe(|| run_told(kind, seed, &course)));
            failed.fetch_or(builds.is_err() && setting("KEEP_GOING").is_none(), Ordering::Relaxed);
            let builds = builds.unwrap_or_else(|problem| match setting("KEEP_GOING") {
                Some(_) => 0,
                None => std::panic::resume_unwind(problem),
            });
            let done = done.fetch_add(left, Ordering::Relaxed) + left;
            let built = built.fetch_add(builds, Ordering::Relaxed) + builds;
            eprintln!("seed {seed}: {left} rounds, {builds} builds; in all {done} rounds, {built} builds");
        }
    };
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..setting("LANES").unwrap_or(2)).map(|_| scope.spawn(work)).collect();
        for lane in lanes {
            if let Err(problem) = lane.join() {
                std::panic::resume_unwind(problem);
            }
        }
    });
}

/// The long form where it is asked for, else a short one with a fixed and a fresh seed.
fn run(kind: CourseKind) {
    let seed = setting("SEED").map(|seed| seed as u64);
    if let Ok(only) = std::env::var("MINIBUILD_DIFFERENTIAL_ONLY") {
        let rounds: Vec<usize> = only.split(',').filter_map(|round| round.trim().parse().ok()).collect();
        run_told(kind, seed.unwrap_or(FIXED_SEED), &rounds);
        return;
    }
    if let Some(rounds) = setting("ROUNDS") {
        let seed = seed.unwrap_or_else(fresh_seed);
        eprintln!(
            "seed {seed}: again with `scripts/differential --rounds {rounds} --seed {seed} --kind {}`",
            kind.name()
        );
        return run_long(kind, rounds, seed);
    }
    let rounds: Vec<usize> = (1..=SHORT_ROUNDS).collect();
    for seed in [FIXED_SEED, fresh_seed()] {
        eprintln!("seed {seed}");
        run_told(kind, seed, &rounds);
    }
}

impl CourseKind {
    /// How `scripts/differential` names it.
    fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Faults => "faults",
            Self::Disk => "disk",
        }
    }
}

#[test]
fn local_builds_agree_with_the_model() {
    run(CourseKind::Local);
}

#[test]
fn builds_with_a_faulty_server_agree_with_the_model() {
    run(CourseKind::Faults);
}

#[test]
fn builds_on_a_small_disk_agree_with_the_model() {
    run(CourseKind::Disk);
}
