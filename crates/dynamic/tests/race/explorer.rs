//! Every interleaving, without a model of the protocol: worlds are copied, moved on, and remembered by a hash of 128 bits.
//!
//! `explore` goes depth first, so that it sees circles; `find_shortest` goes breadth first, so that what it finds is
//! short.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hash, Hasher};

use minibuild_dynamic::race::Rules;

use crate::world::{Config, Move, Violation, World};

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

struct Frame<K> {
    world: World<K>,
    id: u128,
    moves: Vec<Move>,
}

/// All states that can be reached; stops at the first violation.
pub fn explore<K: Rules + Clone + Eq + Hash>(config: &Config, rules: &K) -> Explored {
    let mut found = Explored::default();
    // Whether the state is on the way to the one that is looked at.
    let mut seen: HashMap<u128, bool, BuildHasherDefault<Identity>> = HashMap::default();
    let mut path: Vec<(Frame<K>, Option<Move>)> = Vec::new();
    let start = World::new(config, rules);
    seen.insert(identity(&start), true);
    found.states = 1;
    path.push((frame(start, config), None));
    while let Some((top, _)) = path.last_mut() {
        let Some(mv) = top.moves.pop() else {
            seen.insert(top.id, false);
            path.pop();
            continue;
        };
        found.transitions += 1;
        let mut next = top.world.clone();
        let verdict = next.apply(config, mv);
        let id = identity(&next);
        let verdict = match (verdict, seen.entry(id)) {
            (Err(violation), _) => Err(violation),
            (Ok(()), Entry::Occupied(known)) => match *known.get() {
                true => Err("a circle: it can go on for ever without an end"),
                false => continue,
            },
            (Ok(()), Entry::Vacant(new)) => {
                new.insert(true);
                found.states += 1;
                let next = frame(next, config);
                match next.moves.is_empty() {
                    true => end_of(&next.world).map(|end| *found.ends.entry(end).or_default() += 1),
                    false => Ok(()),
                }
                .map(|()| path.push((next, Some(mv))))
            }
        };
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
    let mut seen: HashSet<u128, BuildHasherDefault<Identity>> = HashSet::default();
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
    let mut hasher = Wide(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
    world.hash(&mut hasher);
    // The last words have to reach all bits, too.
    let mixed = (hasher.0 ^ (hasher.0 >> 67)).wrapping_mul(PRIME);
    mixed ^ (mixed >> 61)
}

const PRIME: u128 = 0x2d99_787c_2693_4fb5_9e37_79b9_7f4a_7c15;

/// 128 bits, so that two of some hundred million states are hardly ever taken for one (chance below 10^-21).
struct Wide(u128);

impl Hasher for Wide {
    fn finish(&self) -> u64 {
        (self.0 >> 64) as u64
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
        self.write_u64(value.into());
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.write_u64(value as u64);
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ u128::from(value).wrapping_add(0x9e37)).wrapping_mul(PRIME).rotate_left(59);
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
