//! What is explored.

use minibuild_dynamic::race::Sides;

use crate::explorer::find_shortest;
use crate::mutants::{Broken, Mutation};
use crate::world::{Config, FAULTS, Move, Violation};

/// Each fault once, a failing rename twice, Ctrl-C twice.
const EACH: [u8; FAULTS] = [1, 1, 1, 1, 1, 2, 1, 1, 2];

const ONE: [(Sides, bool); 1] = [(Sides::Either, true)];
const ONE_UNWANTED: [(Sides, bool); 1] = [(Sides::Either, false)];
const HERE: [(Sides, bool); 1] = [(Sides::Local, true)];
const THERE: [(Sides, bool); 1] = [(Sides::Remote, true)];
/// They share an upload and the local slot; of the second nothing is wanted on disk.
const TWO: [(Sides, bool); 2] = [(Sides::Either, true), (Sides::Either, false)];

fn config(name: &'static str, actions: &[(Sides, bool)], faults: u8) -> Config {
    Config {
        name,
        actions: actions.to_vec(),
        look_ups: actions.len() == 1,
        compares: false,
        budget: EACH,
        faults,
        mutation: None,
    }
}

/// For every run of the tests.
pub fn short() -> Vec<Config> {
    vec![
        config("one action", &ONE, 3),
        config("one action, nothing wanted on disk", &ONE_UNWANTED, 3),
        config("one action, here only", &HERE, 3),
        config("one action, remotely only", &THERE, 3),
        Config { compares: true, ..config("one action, both sides compared", &ONE, 3) },
        config("two actions", &TWO, 1),
    ]
}

/// How a mutant is caught: with the smallest world that shows it, and the shortest way there.
pub fn catch(mutation: Mutation) -> Option<(Violation, Vec<Move>)> {
    let worlds = [config("one action", &ONE, 2), config("nothing wanted", &ONE_UNWANTED, 2), config("two", &TWO, 0)];
    worlds.into_iter().find_map(|world| {
        let world = Config { mutation: Some(mutation), ..world };
        find_shortest(&world, &Broken(mutation), 300_000)
    })
}

/// What takes longer: one action with all faults there are, two with as many as `faults`.
pub fn long(faults: u8) -> Vec<Config> {
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
