//! Explores the race protocol at length and prints what was found:
//! `cargo run --release -p minibuild-dynamic --example explore [FAULTS | mutants]`. With FAULTS nothing is explored but two actions
//! with so many faults, with `mutants` nothing is looked at but those.

#[path = "../tests/race/bounds.rs"]
mod bounds;
#[path = "../tests/race/checks.rs"]
mod checks;
#[path = "../tests/race/driver.rs"]
mod driver;
#[path = "../tests/race/explorer.rs"]
mod explorer;
#[path = "../tests/race/happen.rs"]
mod happen;
#[path = "../tests/race/moves.rs"]
mod moves;
#[path = "../tests/race/mutants.rs"]
mod mutants;
#[path = "../tests/race/world.rs"]
mod world;

use std::process::ExitCode;
use std::time::Instant;

use bounds::{EACH, HERE, ONE, ONE_UNWANTED, THERE, TWO, config};
use minibuild_dynamic::race::Strict;
use world::Config;

/// One action with all faults there are.
fn one_action() -> Vec<Config> {
    let all = EACH.iter().sum();
    vec![
        config("one action", &ONE, all),
        config("one action, nothing wanted on disk", &ONE_UNWANTED, all),
        config("one action, here only", &HERE, all),
        config("one action, remotely only", &THERE, all),
        Config { compares: true, ..config("one action, both sides compared", &ONE, all) },
    ]
}

/// What to explore, and whether to look at mutants.
fn chosen(argument: Option<&str>) -> Result<(Vec<Config>, bool), String> {
    let two = |faults| config("two actions", &TWO, faults);
    match argument {
        None => Ok((one_action().into_iter().chain([two(3)]).collect(), true)),
        Some("mutants") => Ok((Vec::new(), true)),
        Some(text) => match text.parse() {
            Ok(faults) => Ok((vec![two(faults)], false)),
            Err(_) => Err(format!("`{text}` is neither `mutants` nor a number of faults")),
        },
    }
}

fn main() -> ExitCode {
    let (worlds, with_mutants) = match chosen(std::env::args().nth(1).as_deref()) {
        Ok(chosen) => chosen,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    let mut is_good = true;
    for config in worlds {
        let begun = Instant::now();
        let found = explorer::explore(&config, &Strict);
        println!("{}, at most {} faults (each once, failing renames and Ctrl-C twice)", config.name, config.faults);
        println!(
            "  {} states, {} transitions, at most {} moves, {:.1} s",
            found.states,
            found.transitions,
            found.longest,
            begun.elapsed().as_secs_f64()
        );
        for (end, count) in &found.ends {
            println!("  {count:>10} × {end}");
        }
        if let Some((violation, trace)) = &found.violation {
            is_good = false;
            println!("  VIOLATION: {violation}\n    {trace:?}");
        }
    }
    for (mutation, bug) in mutants::ALL.into_iter().filter(|_| with_mutants) {
        match bounds::catch(mutation) {
            Some((violation, trace)) => println!("mutant: {bug}\n    caught: {violation}\n    {trace:?}"),
            None => {
                is_good = false;
                println!("mutant: {bug}\n    NOT CAUGHT");
            }
        }
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
