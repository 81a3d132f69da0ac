//! The race protocol, explored: every interleaving of small worlds, mutants that have to be caught, and random courses.

mod bounds;
mod checks;
mod driver;
mod explorer;
mod happen;
mod moves;
mod mutants;
mod random;
mod world;

use bounds::{EACH, HERE, ONE, ONE_UNWANTED, THERE, TWO, UNDISTURBED, config};
use minibuild_dynamic::race::Strict;
use world::Config;

/// What is explored, with the number of combinations of ends that have to be reached.
fn small_worlds() -> Vec<(Config, usize)> {
    vec![
        (config("one action", &ONE, 3), 6),
        (config("one action, nothing wanted on disk", &ONE_UNWANTED, 3), 6),
        (config("one action, here only", &HERE, 3), 5),
        (config("one action, remotely only", &THERE, 3), 3),
        (Config { compares: true, ..config("one action, both sides compared", &ONE, 3) }, 5),
        (config("two actions", &TWO, 2), 36),
    ]
}

#[test]
fn no_interleaving_breaks_a_rule() {
    for (config, ends) in small_worlds() {
        let found = explorer::explore(&config, &Strict);
        println!("{}: {} states, {} transitions", config.name, found.states, found.transitions);
        assert_eq!(found.violation, None, "{}", config.name);
        let reached: Vec<&str> = found.ends.keys().map(String::as_str).collect();
        assert_eq!(reached.len(), ends, "{}: ends are {reached:?}", config.name);
    }
}

#[test]
fn every_mutant_is_caught() {
    for (mutation, bug) in mutants::ALL {
        assert!(bounds::catch(mutation).is_some(), "nothing is seen of it that {bug}");
    }
}

/// Where both are ready and only the order of two messages is open, one publishes, and what lies there is its result.
#[test]
fn d08_both_ready_in_the_same_tick() {
    let seeds = 10_000;
    let mut winners = [0_u32; 2];
    for seed in 0..seeds {
        winners[random::finish_photo(seed) as usize] += 1;
    }
    println!("{} local, {} remote", winners[0], winners[1]);
    assert!(winners.iter().all(|&won| won > seeds as u32 / 10), "one side hardly ever wins: {winners:?}");
}

/// Courses of two actions with all faults there are, which are too many to explore.
#[test]
fn random_courses_break_no_rule() {
    let seeds: u64 = if std::env::var_os("MINIBUILD_LONG").is_some() { 1_000_000 } else { 10_000 };
    let all = Config { look_ups: true, ..config("two actions", &TWO, EACH.iter().sum()) };
    // Interrupts and crashes are so likely that little else would be seen.
    let undisturbed = Config { budget: UNDISTURBED, ..all.clone() };
    let mut ends = std::collections::BTreeMap::<String, u32>::new();
    for seed in 0..seeds {
        let config = if seed % 2 == 0 { &all } else { &undisturbed };
        *ends.entry(random::course(config, seed)).or_default() += 1;
    }
    println!("{seeds} courses: {ends:?}");
    assert!(ends.len() > 20, "few ends were reached: {ends:?}");
}
