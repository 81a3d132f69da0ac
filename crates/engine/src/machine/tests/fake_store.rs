//! The stores of this machine in the fake world. Each request is done at once, or in a time of its own where they are slow.

use std::collections::{BTreeMap, BTreeSet};

use minibuild_core::{
    ActionId, CacheAnswer, CacheLookup, Digest, FetchOutcome, FetchRequest, Kept, Stamp, StoreCheck, StoreEvent,
    UploadRequest,
};

use super::fake::Fake;
use super::fake_remote::{Cached, blobs_of, from_cache};

/// Blobs of the local store and the disk cache, and results of the latter. Nothing keeps blobs of results.
#[derive(Clone, Debug, Default)]
pub struct Stores {
    pub blobs: BTreeSet<Digest>,
    pub results: BTreeMap<Digest, Cached>,
    /// Answers come as events of their own.
    pub are_slow: bool,
    pending: BTreeMap<u64, Pending>,
    next: u64,
}

/// A request to a slow store.
#[derive(Clone, Debug)]
enum Pending {
    Check(StoreCheck),
    LookUp(CacheLookup),
    Fetch(FetchRequest),
}

impl Stores {
    /// A build begins; answers to an earlier one interest no one.
    pub fn begin(&mut self) {
        self.pending.clear();
    }

    fn insert(&mut self, pending: Pending) {
        self.pending.insert(self.next, pending);
        self.next += 1;
    }

    pub fn begin_check(&mut self, check: StoreCheck) {
        self.insert(Pending::Check(check));
    }

    pub fn begin_look_up(&mut self, lookup: CacheLookup) {
        self.insert(Pending::LookUp(lookup));
    }

    /// The numbers of what is under way.
    pub fn doing(&self) -> impl Iterator<Item = u64> {
        self.pending.keys().copied()
    }

    /// Fetches under way.
    pub fn fetches(&self) -> impl Iterator<Item = &FetchRequest> {
        self.pending.values().filter_map(|pending| match pending {
            Pending::Fetch(request) => Some(request),
            Pending::Check(_) | Pending::LookUp(_) => None,
        })
    }

    /// Whether an answer about the action is under way.
    pub fn is_asked(&self, action: ActionId) -> bool {
        self.pending.values().any(|pending| match pending {
            Pending::Check(StoreCheck { run, .. }) | Pending::LookUp(CacheLookup { run, .. }) => run.action == action,
            Pending::Fetch(_) => false,
        })
    }

    /// A text that is equal where what is under way is equal.
    pub fn picture(&self) -> String {
        format!("{:?}", self.pending.values().collect::<Vec<_>>())
    }
}

impl Fake {
    /// Moves an output away that is what it is said to be.
    pub fn keep(&mut self, kept: &Kept) {
        let entry = &self.disk[kept.path.as_str()];
        assert_eq!(entry.content(), kept.content, "`{}`", kept.path);
        self.stores.blobs.extend(kept.content.blobs());
        self.remove_output(&kept.path);
    }

    pub fn check_stores(&self, check: StoreCheck) -> StoreEvent {
        let missing = check.digests.into_iter().filter(|digest| !self.stores.blobs.contains(digest)).collect();
        StoreEvent::Checked { run: check.run, missing }
    }

    pub fn look_up_here(&self, lookup: &CacheLookup) -> StoreEvent {
        let has = |cached: &&Cached| {
            cached
                .outputs
                .iter()
                .flat_map(|output| output.content.blobs())
                .all(|blob| self.stores.blobs.contains(&blob))
        };
        let answer = match self.stores.results.get(&lookup.who.key).filter(has) {
            Some(cached) => CacheAnswer::Hit(Box::new(from_cache(lookup.run, cached))),
            None => CacheAnswer::Miss,
        };
        StoreEvent::LookedUp { run: lookup.run, answer }
    }

    pub fn store(&mut self, request: UploadRequest) {
        assert!(!self.model.action(request.run.action).tags.no_cache, "{:?} is stored", request.run);
        assert!(!self.remote.unclean.contains(&request.run), "{:?} is stored and not clean", request.run);
        assert!(self.seen_runs.contains(&request.run), "{:?} never ran", request.run);
        let outputs: Vec<_> = request.outputs.into_iter().map(|output| output.meta).collect();
        self.stores.blobs.extend(outputs.iter().flat_map(|output| output.content.blobs()));
        let depfile = request.depfile.map(|(_, bytes)| bytes.to_vec());
        self.stores.results.insert(request.who.key, Cached { outputs, depfile });
    }

    pub fn store_same(&mut self, known: Digest, key: Digest) {
        if let Some(cached) = self.stores.results.get(&known).cloned() {
            self.stores.results.insert(key, cached);
        }
    }

    fn copy(&mut self, request: &FetchRequest) -> StoreEvent {
        self.check_publish(request);
        self.put(&request.content, &request.path);
        let fingerprint = self.disk[request.path.as_str()].fingerprint();
        let stamps = vec![Stamp { fingerprint, trusted: true }];
        StoreEvent::Fetched { id: request.id, outcome: FetchOutcome::Done { stamps, copied: Default::default() } }
    }

    /// Begins to copy an output if all of it is here; false if it is not.
    pub fn begin_copy(&mut self, request: &FetchRequest) -> bool {
        let is_here = request.content.blobs().iter().all(|blob| self.stores.blobs.contains(blob));
        if is_here {
            self.check_publish(request);
            self.stores.insert(Pending::Fetch(request.clone()));
        }
        is_here
    }

    /// Ends what a slow store does.
    pub fn end_here(&mut self, number: u64) -> StoreEvent {
        match self.stores.pending.remove(&number).expect("it is under way") {
            Pending::Check(check) => self.check_stores(check),
            Pending::LookUp(lookup) => self.look_up_here(&lookup),
            Pending::Fetch(request) => self.copy(&request),
        }
    }

    /// Puts an output in its place if all of it is here; else it is the remote side's, if that ever had it, or lost.
    pub fn fetch_here(&mut self, request: &FetchRequest) -> Option<StoreEvent> {
        let id = request.id;
        if request.content.blobs().iter().all(|blob| self.stores.blobs.contains(blob)) {
            return Some(self.copy(request));
        }
        if self.remote.ever_had(&request.content) {
            return None;
        }
        let outcome = FetchOutcome::Lost { digests: blobs_of(&request.content), why: "it is gone".to_owned() };
        Some(StoreEvent::Fetched { id, outcome })
    }
}
