//! The race protocol, explored: every interleaving of small worlds, and mutants that have to be caught.

mod bounds;
mod checks;
mod explorer;
mod mutants;
mod world;

use minibuild_dynamic::race::Strict;

#[test]
fn no_interleaving_breaks_a_rule() {
    for config in bounds::short() {
        let found = explorer::explore(&config, &Strict);
        println!("{}: {} states, {} transitions", config.name, found.states, found.transitions);
        assert_eq!(found.violation, None, "{}", config.name);
    }
}

#[test]
fn every_mutant_is_caught() {
    for (mutation, bug) in mutants::ALL {
        assert!(bounds::catch(mutation).is_some(), "nothing is seen of it that {bug}");
    }
}
