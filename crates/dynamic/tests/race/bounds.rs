//! What is explored.

use minibuild_dynamic::race::Sides;

use crate::explorer::find_shortest;
use crate::moves::Move;
use crate::mutants::{Broken, Mutation};
use crate::world::{Config, FAULTS, Fault, Violation};

/// Each fault once, a failing rename twice, Ctrl-C twice.
pub const EACH: [u8; FAULTS] = [1, 1, 1, 1, 1, 2, 1, 1, 2, 1];
/// Without what ends or shakes the whole build.
pub const UNDISTURBED: [u8; FAULTS] = [1, 1, 1, 1, 1, 2, 1, 0, 0, 0];

pub const ONE: [(Sides, bool); 1] = [(Sides::Either, true)];
pub const ONE_UNWANTED: [(Sides, bool); 1] = [(Sides::Either, false)];
pub const HERE: [(Sides, bool); 1] = [(Sides::Local, true)];
pub const THERE: [(Sides, bool); 1] = [(Sides::Remote, true)];
/// They share an upload and the local slot; of the second nothing is wanted on disk.
pub const TWO: [(Sides, bool); 2] = [(Sides::Either, true), (Sides::Either, false)];

/// A world in which so many faults may happen.
pub fn config(name: &'static str, actions: &[(Sides, bool)], faults: u8) -> Config {
    let is_alone = actions.len() == 1;
    let mut budget = EACH;
    // Two have each other.
    budget[Fault::Neighbour as usize] = u8::from(is_alone);
    Config {
        name,
        actions: actions.to_vec(),
        look_ups: is_alone,
        commands_fail: true,
        compares: false,
        budget,
        faults,
        mutation: None,
    }
}

/// How a mutant is caught: with the smallest world that shows it, and the shortest way there.
pub fn catch(mutation: Mutation) -> Option<(Violation, Vec<Move>)> {
    // Without interrupts, crashes and failures of the command where it shows so, too.
    let quiet = |world: Config| Config { budget: UNDISTURBED, ..world };
    let calm = |world: Config| Config { commands_fail: false, ..quiet(world) };
    let one = config("one action", &ONE, 2);
    let unwanted = config("one action, nothing wanted on disk", &ONE_UNWANTED, 2);
    let two = config("two actions", &TWO, 0);
    let worlds = [
        calm(config("one action", &ONE, 1)),
        calm(config("one action, nothing wanted on disk", &ONE_UNWANTED, 1)),
        calm(one.clone()),
        calm(two.clone()),
        quiet(one.clone()),
        Config { commands_fail: false, ..unwanted.clone() },
        two,
        unwanted,
        one,
    ];
    worlds.into_iter().find_map(|world| {
        let world = Config { mutation: Some(mutation), ..world };
        find_shortest(&world, &Broken(mutation), 300_000)
    })
}
