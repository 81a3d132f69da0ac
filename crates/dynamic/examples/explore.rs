//! Explores the race protocol at length and prints what was found:
//! `cargo run --release -p minibuild-dynamic --example explore [FAULTS | mutants]`, where
//! FAULTS bounds those of two actions; with `mutants`, nothing but those is looked at.

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

/// One action with all faults there are, two with as many as `faults`.
fn worlds(faults: u8) -> Vec<Config> {
    let all = EACH.iter().sum();
    vec![
        config("one action", &ONE, all),
        config("one action, nothing wanted on disk", &ONE_UNWANTED, all),
        config("one action, here only", &HERE, all),
        config("one action, remotely only", &THERE, all),
        Config { compares: true, ..config("one action, both sides compared", &ONE, all) },
        config("two actions", &TWO, faults),
    ]
}

fn main() -> ExitCode {
    let argument = std::env::args().nth(1);
    let faults = argument.as_ref().and_then(|text| text.parse().ok()).unwrap_or(3);
    let worlds = if argument.as_deref() == Some("mutants") { Vec::new() } else { worlds(faults) };
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
    println!("mutants");
    for (mutation, bug) in mutants::ALL {
        match bounds::catch(mutation) {
            Some((violation, trace)) => println!("  {bug}\n    caught: {violation}\n    {trace:?}"),
            None => {
                is_good = false;
                println!("  {bug}\n    NOT CAUGHT");
            }
        }
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
