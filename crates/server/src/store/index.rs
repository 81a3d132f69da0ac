//! What is in the store, in the order of last use, and what has to go.
//!
//! Pure: it does not know files. Sizes are what a blob takes of the limit.

use std::collections::{BTreeMap, HashMap};

use minibuild_core::DigestFunction;

/// What kind of thing is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Space {
    /// Blobs, named by their content.
    Cas,
    /// Results, named by their action.
    Results,
}

/// Names one thing in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) space: Space,
    pub(crate) function: DigestFunction,
    pub(crate) hash: [u8; 32],
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    size: u64,
    /// What it takes beside its size.
    extra: u64,
    used_at: u64,
    pins: u32,
    /// When it came; a pin is one of this thing, not of what may come under its name later.
    since: u64,
}

/// Keeps one thing from going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    key: Key,
    since: u64,
}

/// There is no room, whatever goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// See the module.
#[derive(Debug)]
pub(crate) struct Index {
    entries: HashMap<Key, Entry>,
    /// Unpinned ones by last use.
    order: BTreeMap<u64, Key>,
    clock: u64,
    used: u64,
    limit: u64,
}

impl Index {
    pub(crate) fn new(limit: u64) -> Self {
        Self { entries: HashMap::new(), order: BTreeMap::new(), clock: 0, used: 0, limit }
    }

    /// Bytes taken.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// Number of things.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The size of what is there, which counts as a use.
    pub(crate) fn touch(&mut self, key: &Key) -> Option<u64> {
        let entry = self.entries.get_mut(key)?;
        if entry.pins == 0 {
            self.order.remove(&entry.used_at);
            self.clock += 1;
            entry.used_at = self.clock;
            self.order.insert(self.clock, *key);
        }
        Some(entry.size)
    }

    /// Makes room for `size` bytes beside what is there: the keys that have to go, already forgotten.
    ///
    /// # Errors
    /// [`Full`], nothing forgotten, where the pinned ones leave too little.
    pub(crate) fn make_room(&mut self, size: u64) -> Result<Vec<Key>, Full> {
        let mut wanted = self.used.saturating_add(size);
        let mut victims = Vec::new();
        for key in self.order.values() {
            if wanted <= self.limit {
                break;
            }
            wanted -= self.entries.get(key).map_or(0, |entry| entry.size + entry.extra);
            victims.push(*key);
        }
        if wanted > self.limit {
            return Err(Full);
        }
        for key in &victims {
            self.remove(key);
        }
        Ok(victims)
    }

    /// Takes something in, or notes that it is another size now. Room was made before.
    pub(crate) fn insert(&mut self, key: Key, size: u64) {
        self.clock += 1;
        let used_at = self.clock;
        let entry = match self.remove(&key) {
            Some(earlier) => Entry { size, used_at, ..earlier },
            None => Entry { size, extra: 0, used_at, pins: 0, since: used_at },
        };
        self.entries.insert(key, entry);
        if entry.pins == 0 {
            self.order.insert(used_at, key);
        }
        self.used = self.used.saturating_add(size).saturating_add(entry.extra);
    }

    /// Notes that a thing takes more room than before.
    pub(crate) fn add_extra(&mut self, key: &Key, extra: u64) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.extra = entry.extra.saturating_add(extra);
            self.used = self.used.saturating_add(extra);
        }
    }

    /// Forgets something, pinned or not.
    pub(crate) fn forget(&mut self, key: &Key) -> bool {
        self.remove(key).is_some()
    }

    /// Keeps something from going until it is unpinned as often; `None` where it is not there.
    pub(crate) fn pin(&mut self, key: &Key) -> Option<Pin> {
        let entry = self.entries.get_mut(key)?;
        entry.pins += 1;
        self.order.remove(&entry.used_at);
        Some(Pin { key: *key, since: entry.since })
    }

    /// Takes one pin back, which counts as a use. What was forgotten meanwhile stays forgotten.
    pub(crate) fn unpin(&mut self, pin: &Pin) {
        let Some(entry) = self.entries.get_mut(&pin.key).filter(|entry| entry.since == pin.since) else { return };
        entry.pins = entry.pins.saturating_sub(1);
        if entry.pins == 0 {
            self.order.remove(&entry.used_at);
            self.clock += 1;
            entry.used_at = self.clock;
            self.order.insert(self.clock, pin.key);
        }
    }

    /// Everything that is not pinned, already forgotten.
    pub(crate) fn take_unpinned(&mut self) -> Vec<Key> {
        let keys: Vec<Key> = self.order.values().copied().collect();
        for key in &keys {
            self.remove(key);
        }
        keys
    }

    fn remove(&mut self, key: &Key) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.order.remove(&entry.used_at);
        self.used -= entry.size + entry.extra;
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(n: u8) -> Key {
        Key { space: Space::Cas, function: DigestFunction::Sha256, hash: [n; 32] }
    }

    #[test]
    fn the_least_recently_used_goes_and_the_pinned_stays() {
        let mut index = Index::new(30);
        for n in 0..3 {
            assert_eq!(index.make_room(10), Ok(vec![]));
            index.insert(key(n), 10);
        }
        assert_eq!(index.touch(&key(0)), Some(10));
        let pin = index.pin(&key(1)).expect("is there");
        assert_eq!(index.make_room(10), Ok(vec![key(2)]));
        assert_eq!(index.make_room(20), Ok(vec![key(0)]));
        assert_eq!(index.make_room(21), Err(Full));
        index.unpin(&pin);
        assert_eq!(index.make_room(30), Ok(vec![key(1)]));
        assert_eq!((index.used(), index.len()), (0, 0));
        assert_eq!(index.make_room(31), Err(Full));
        assert!(index.pin(&key(1)).is_none() && index.touch(&key(1)).is_none());
    }

    #[test]
    fn a_pin_is_of_one_thing_and_not_of_its_successor() {
        let mut index = Index::new(30);
        index.insert(key(1), 10);
        let old = index.pin(&key(1)).expect("is there");
        assert!(index.forget(&key(1)));
        index.insert(key(1), 10);
        let new = index.pin(&key(1)).expect("is there");
        index.unpin(&old);
        assert_eq!(index.make_room(30), Err(Full), "the new pin holds");
        index.add_extra(&key(1), 5);
        index.insert(key(1), 12);
        assert_eq!(index.used(), 17, "written again it keeps what belongs to it");
        index.unpin(&new);
        assert_eq!(index.make_room(30), Ok(vec![key(1)]));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u8, u64),
        Touch(u8),
        Pin(u8),
        Unpin(u8),
        Forget(u8),
        Extra(u8, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = 0..8u8;
        prop_oneof![
            (key.clone(), 0..40u64).prop_map(|(k, s)| Step::Insert(k, s)),
            key.clone().prop_map(Step::Touch),
            key.clone().prop_map(Step::Pin),
            key.clone().prop_map(Step::Unpin),
            key.clone().prop_map(Step::Forget),
            (key, 0..5u64).prop_map(|(k, s)| Step::Extra(k, s)),
        ]
    }

    proptest! {
        /// Beside a list in order of use, searched naively.
        #[test]
        fn as_a_naive_list(steps in proptest::collection::vec(step(), 0..60)) {
            let mut index = Index::new(100);
            let mut naive: Vec<(u8, u64, u32)> = Vec::new();
            let mut pins: Vec<Pin> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(k, size) => {
                        let known = naive.iter().position(|e| e.0 == k);
                        if known.is_some() { continue }
                        let mut gone = Vec::new();
                        let mut rest = naive.clone();
                        while rest.iter().map(|e| e.1).sum::<u64>() + size > 100 {
                            let Some(at) = rest.iter().position(|e| e.2 == 0) else { break };
                            gone.push(key(rest.remove(at).0));
                        }
                        let fits = rest.iter().map(|e| e.1).sum::<u64>() + size <= 100;
                        let got = index.make_room(size);
                        prop_assert_eq!(got.is_ok(), fits);
                        if fits {
                            prop_assert_eq!(got, Ok(gone));
                            naive = rest;
                            naive.push((k, size, 0));
                            index.insert(key(k), size);
                        }
                    }
                    Step::Touch(k) => {
                        let at = naive.iter().position(|e| e.0 == k);
                        prop_assert_eq!(index.touch(&key(k)).is_some(), at.is_some());
                        if let Some(at) = at && naive[at].2 == 0 { let e = naive.remove(at); naive.push(e); }
                    }
                    Step::Pin(k) => {
                        let at = naive.iter().position(|e| e.0 == k);
                        let pin = index.pin(&key(k));
                        prop_assert_eq!(pin.is_some(), at.is_some());
                        pins.extend(pin);
                        if let Some(at) = at { naive[at].2 += 1; }
                    }
                    Step::Unpin(k) => {
                        let Some(at) = naive.iter().position(|e| e.0 == k && e.2 > 0) else { continue };
                        let pin = pins.iter().rposition(|pin| pin.key == key(k)).expect("pinned before");
                        index.unpin(&pins.remove(pin));
                        naive[at].2 -= 1;
                        if naive[at].2 == 0 { let e = naive.remove(at); naive.push(e); }
                    }
                    Step::Forget(k) => {
                        let at = naive.iter().position(|e| e.0 == k);
                        prop_assert_eq!(index.forget(&key(k)), at.is_some());
                        if let Some(at) = at { naive.remove(at); }
                        pins.retain(|pin| pin.key != key(k));
                    }
                    Step::Extra(k, extra) => {
                        index.add_extra(&key(k), extra);
                        if let Some(e) = naive.iter_mut().find(|e| e.0 == k) { e.1 += extra; }
                    }
                }
                prop_assert_eq!(index.used(), naive.iter().map(|e| e.1).sum::<u64>());
                prop_assert_eq!(index.len(), naive.len());
            }
        }
    }
}
