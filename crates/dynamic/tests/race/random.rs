//! Random courses of worlds.

use minibuild_core::Branch;
use minibuild_dynamic::race::{Strict, Work};

use crate::bounds::{ONE, config};
use crate::explorer::end_of;
use crate::moves::Move;
use crate::world::{Config, End, Phase, World};

/// A small generator of numbers that look random (SplitMix64).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// Goes on until nothing can happen; says how it ended.
fn go_on(world: &mut World<Strict>, config: &Config, numbers: &mut Numbers, seed: u64) -> String {
    let mut trace = Vec::new();
    loop {
        let moves = world.moves(config);
        let Some(&mv) = moves.get(numbers.below(moves.len().max(1))) else { break };
        trace.push(mv);
        if let Err(violation) = world.apply(config, mv) {
            panic!("seed {seed}: {violation} after {trace:?}");
        }
        assert!(trace.len() < 10_000, "seed {seed}: no end");
    }
    end_of(world).unwrap_or_else(|violation| panic!("seed {seed}: {violation} after {trace:?}"))
}

/// One course from the start.
pub fn course(config: &Config, seed: u64) -> String {
    let mut world = World::new(config, &Strict);
    go_on(&mut world, config, &mut Numbers(seed), seed)
}

/// Both branches of an action run until each has only to say that it is ready; then chance goes on. Says who won.
pub fn finish_photo(seed: u64) -> Branch {
    let config = config("one action", &ONE, 0);
    let mut world = World::new(&config, &Strict);
    let mut numbers = Numbers(seed);
    let mut local = vec![Move::Start(0, Work::Local), Move::Runs(0), Move::Runs(0)];
    let mut remote = vec![Move::Start(0, Work::Execute), Move::UploadEnds, Move::RunsRemotely(0), Move::Downloads(0)];
    while !local.is_empty() || !remote.is_empty() {
        let from_local = remote.is_empty() || !local.is_empty() && numbers.below(2) == 0;
        let mv = if from_local { local.remove(0) } else { remote.remove(0) };
        world.apply(&config, mv).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    }
    let action = &world.actions[0];
    let is_local_ready = action.process.is_some_and(|process| process.phase == Phase::Exited);
    assert!(is_local_ready && action.staging.is_some(), "both are ready");
    let ready = [Move::Runs(0), Move::Downloads(0)];
    let first = ready[numbers.below(2)];
    world.apply(&config, first).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    go_on(&mut world, &config, &mut numbers, seed);
    match world.actions[0].end {
        Some(End::LocalWon) => Branch::Local,
        Some(End::RemoteWon) => Branch::Remote,
        end => panic!("seed {seed}: it ended with {end:?}"),
    }
}
