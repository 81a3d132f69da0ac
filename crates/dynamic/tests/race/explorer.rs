//! Every interleaving, without a model of the protocol: worlds are copied, moved on, and remembered by a hash of 128 bits.
//!
//! `explore` goes depth first, so that it sees circles; `find_shortest` goes breadth first, so that what it finds is
//! short.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hash, Hasher};

use minibuild_dynamic::race::Rules;

use crate::moves::Move;
use crate::world::{Config, Violation, World};

/// What one exploration found.
#[derive(Debug, Default)]
pub struct Explored {
    pub states: u64,
    pub transitions: u64,
    pub longest: usize,
    /// How often each combination of ends of the actions was reached.
    pub ends: BTreeMap<String, u64>,
    pub violation: Option<(Violation, Vec<Move>)>,
}

type Seen = HashSet<u128, BuildHasherDefault<Identity>>;

struct Frame<K> {
    world: World<K>,
    id: u128,
    moves: Vec<Move>,
}

/// All states that can be reached; stops at the first violation.
pub fn explore<K: Rules + Clone + Eq + Hash>(config: &Config, rules: &K) -> Explored {
    let mut found = Explored::default();
    let mut seen: Seen = Seen::default();
    let mut on_path: Seen = Seen::default();
    let mut path: Vec<(Frame<K>, Option<Move>)> = Vec::new();
    let start = frame(World::new(config, rules), config);
    seen.insert(start.id);
    on_path.insert(start.id);
    found.states = 1;
    path.push((start, None));
    while let Some((top, _)) = path.last_mut() {
        let Some(mv) = top.moves.pop() else {
            on_path.remove(&top.id);
            path.pop();
            continue;
        };
        found.transitions += 1;
        let mut next = top.world.clone();
        let mut verdict = next.apply(config, mv);
        let id = identity(&next);
        if on_path.contains(&id) {
            verdict = verdict.and(Err("a circle: it can go on for ever without an end"));
        }
        if verdict.is_ok() && seen.insert(id) {
            found.states += 1;
            let moves = next.moves(config);
            if moves.is_empty() {
                verdict = end_of(&next).map(|end| *found.ends.entry(end).or_default() += 1);
            } else {
                on_path.insert(id);
                path.push((Frame { world: next, id, moves }, Some(mv)));
            }
        }
        found.longest = found.longest.max(path.len());
        if let Err(violation) = verdict {
            let trace = path.iter().filter_map(|(_, mv)| *mv).chain([mv]).collect();
            found.violation = Some((violation, trace));
            return found;
        }
    }
    found
}

/// The shortest way to a violation within `limit` states, if there is one.
pub fn find_shortest<K: Rules + Clone + Eq + Hash>(
    config: &Config,
    rules: &K,
    limit: usize,
) -> Option<(Violation, Vec<Move>)> {
    let mut ways: Vec<(usize, Option<Move>)> = vec![(0, None)];
    let mut seen = Seen::default();
    let start = World::new(config, rules);
    seen.insert(identity(&start));
    let mut waiting = VecDeque::from([(start, 0)]);
    while let Some((world, at)) = waiting.pop_front() {
        let moves = world.moves(config);
        if moves.is_empty()
            && let Err(violation) = end_of(&world)
        {
            return Some((violation, trace_of(&ways, at)));
        }
        for mv in moves {
            let mut next = world.clone();
            let verdict = next.apply(config, mv);
            if let Err(violation) = verdict {
                let trace = trace_of(&ways, at).into_iter().chain([mv]).collect();
                return Some((violation, trace));
            }
            if seen.insert(identity(&next)) && seen.len() < limit {
                ways.push((at, Some(mv)));
                waiting.push_back((next, ways.len() - 1));
            }
        }
    }
    None
}

fn frame<K: Rules + Clone + Eq + Hash>(world: World<K>, config: &Config) -> Frame<K> {
    Frame { id: identity(&world), moves: world.moves(config), world }
}

fn trace_of(ways: &[(usize, Option<Move>)], mut at: usize) -> Vec<Move> {
    let mut trace = Vec::new();
    while let (before, Some(mv)) = ways[at] {
        trace.push(mv);
        at = before;
    }
    trace.reverse();
    trace
}

/// How a world ended in which nothing can happen any more.
pub fn end_of<K>(world: &World<K>) -> Result<String, Violation> {
    let ends: Option<Vec<String>> =
        world.actions.iter().map(|action| action.end.map(|end| format!("{end:?}"))).collect();
    ends.map(|ends| ends.join(" + ")).ok_or("nothing can happen any more, and an action has no outcome")
}

fn identity(world: &impl Hash) -> u128 {
    let mut hasher = Wide { state: 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, names: [0; NAMES], count: 0 };
    world.hash(&mut hasher);
    // The last words have to reach all bits, too.
    let mixed = (hasher.state ^ (hasher.state >> 67)).wrapping_mul(PRIME);
    mixed ^ (mixed >> 61)
}

const PRIME: u128 = 0x2d99_787c_2693_4fb5_9e37_79b9_7f4a_7c15;
const NAMES: usize = 32;

/// 128 bits, so that two of some hundred million states are hardly ever taken for one (chance below 10^-21).
///
/// Numbers of attempts are replaced by the order in which they appear, for each action anew: they are only ever compared
/// for equality, so states that differ in numbers alone behave alike. They are the only `u32` of a world.
struct Wide {
    state: u128,
    names: [u32; NAMES],
    count: usize,
}

impl Hasher for Wide {
    fn finish(&self) -> u64 {
        (self.state >> 64) as u64
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        let known = self.names[..self.count].iter().position(|&name| name == value);
        let place = known.unwrap_or(self.count);
        if known.is_none() {
            assert!(place < NAMES, "more attempts in one action than there is room for");
            self.names[place] = value;
            self.count += 1;
        }
        self.write_u64(place as u64);
    }

    /// What [`crate::world::Border`] writes.
    fn write_u16(&mut self, _: u16) {
        self.count = 0;
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value as u64);
    }

    fn write_u64(&mut self, value: u64) {
        self.state = (self.state ^ u128::from(value).wrapping_add(0x9e37)).wrapping_mul(PRIME).rotate_left(59);
    }
}

/// What is hashed already.
#[derive(Default)]
pub struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = (value >> 64) as u64 ^ value as u64;
    }
}
