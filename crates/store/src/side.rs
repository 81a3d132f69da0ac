//! The stores of one build as the port that the engine drives: a few threads that take requests.
//!
//! Nothing is opened and no thread is started before the first request.

use std::fs::File;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use minibuild_core::{
    CacheAnswer, CacheLookup, Content, Digest, FetchId, FetchOutcome, FetchRequest, Kept, RunId, StoreCheck,
    StoreEvent, StoreSide, StoreSink, UploadRequest,
};
use minibuild_disk::{FileClock, Keep, OutTree, Staged, StagedFile};

use crate::cache::DiskCache;
use crate::local::LocalStore;
use crate::queue::{Job, Queue};
use crate::restore::Places;

/// What stores are made of.
pub struct StoresConfig {
    /// The output tree.
    pub tree: Arc<OutTree>,
    /// The file system's clock.
    pub clock: Arc<dyn FileClock>,
    /// Bytes that the local store may take; with none there is no such store.
    pub local_size: u64,
    /// The disk cache, if there is one.
    pub cache: Option<CacheConfig>,
    /// Threads at most.
    pub threads: usize,
    /// Where events go.
    pub sink: StoreSink,
}

/// A disk cache.
pub struct CacheConfig {
    /// Its directory, absolute.
    pub path: PathBuf,
    /// Bytes that it may take.
    pub size: Option<u64>,
}

/// The stores of one build.
#[derive(Clone)]
pub struct Stores(Arc<Shared>);

struct Shared {
    tree: Arc<OutTree>,
    clock: Arc<dyn FileClock>,
    local: LocalStore,
    cache: Option<DiskCache>,
    threads: usize,
    sink: StoreSink,
    queue: Queue,
    workers: Mutex<Vec<JoinHandle<()>>>,
}

/// What a request is answered with should nothing else be said.
enum Ticket {
    LookUp(RunId),
    Check(RunId),
    Fetch(FetchId),
    Nothing,
}

impl Stores {
    /// The stores of these settings.
    pub fn new(config: StoresConfig) -> Self {
        let StoresConfig { tree, clock, local_size, cache, threads, sink } = config;
        let cache = cache.map(|cache| {
            let workspace = tree.workspace().to_owned();
            DiskCache::new(cache.path, cache.size, tree.function(), workspace, tree.stop().clone(), sink.clone())
        });
        let local = LocalStore::new(Arc::clone(&tree), local_size);
        let (queue, workers) = (Queue::default(), Mutex::default());
        Self(Arc::new(Shared { tree, clock, local, cache, threads: threads.max(2), sink, queue, workers }))
    }

    fn take_apart(&self) {
        if self.0.local.has_trees() {
            self.push(Job::TakeApart);
        }
    }

    fn push(&self, job: Job) {
        let shared = &self.0;
        if shared.queue.push(job, shared.threads) {
            let worker = Arc::clone(shared);
            let thread = std::thread::Builder::new().name("store".into()).spawn(move || worker.work());
            match thread {
                Ok(thread) => shared.workers.lock().unwrap_or_else(PoisonError::into_inner).push(thread),
                // No thread to be had: as long as it takes, here.
                Err(_) => shared.work_once(),
            }
        }
    }
}

impl Keep for Stores {
    fn adopt(&self, staged: Staged, content: &Content) {
        self.0.local.adopt(staged, content);
        self.take_apart();
    }

    fn adopt_part(&self, part: StagedFile, digest: &Digest) {
        self.0.local.adopt_part(part, digest);
    }

    fn part(&self, digest: &Digest) -> Option<StagedFile> {
        self.0.local.part(digest)
    }

    fn open(&self, digest: &Digest) -> Option<File> {
        self.0.places().open(digest)
    }
}

impl StoreSide for Stores {
    fn look_up(&self, lookup: CacheLookup) {
        self.push(Job::LookUp(lookup));
    }

    fn check(&self, check: StoreCheck) {
        self.push(Job::Check(check));
    }

    fn fetch(&self, request: FetchRequest) {
        let is_empty = self.0.cache.is_none() && self.0.local.blobs().is_none() && request.here.is_empty();
        if is_empty && !request.content.blobs().is_empty() {
            return (self.0.sink)(StoreEvent::NotHere(Box::new(request)));
        }
        self.push(Job::Fetch(request));
    }

    fn stop_fetches(&self) {
        for request in self.0.queue.take_fetches() {
            (self.0.sink)(StoreEvent::Fetched { id: request.id, outcome: FetchOutcome::Stopped });
        }
    }

    fn store(&self, request: UploadRequest) {
        if self.0.cache.is_some() {
            self.push(Job::Store(Box::new(request)));
        }
    }

    fn store_same(&self, known: Digest, key: Digest) {
        if self.0.cache.is_some() {
            self.push(Job::StoreSame { known, key });
        }
    }

    fn keep(&self, output: &Kept) -> bool {
        let is_away = self.0.local.keep(output);
        if is_away && matches!(output.content, Content::Directory(_)) {
            self.take_apart();
        }
        is_away
    }

    fn shutdown(&mut self, is_hurried: bool) {
        self.0.queue.close(is_hurried);
        let workers = std::mem::take(&mut *self.0.workers.lock().unwrap_or_else(PoisonError::into_inner));
        for worker in workers {
            // One that panicked has answered.
            let _ = worker.join();
        }
        self.0.local.end();
    }
}

impl Shared {
    fn places(&self) -> Places<'_> {
        Places {
            tree: &self.tree,
            clock: &*self.clock,
            local: &self.local,
            cache: self.cache.as_ref(),
            stop: self.tree.stop(),
        }
    }

    fn work(&self) {
        while let Some(mut turn) = self.queue.pop() {
            if let Some(job) = turn.job() {
                self.attempt(job);
            }
        }
    }

    fn work_once(&self) {
        if let Some(job) = self.queue.pop().and_then(|mut turn| turn.job()) {
            self.attempt(job);
        }
    }

    /// Does a job; whoever waits is answered whatever happens.
    fn attempt(&self, job: Job) {
        let ticket = match &job {
            Job::LookUp(lookup) => Ticket::LookUp(lookup.run),
            Job::Check(check) => Ticket::Check(check.run),
            Job::Fetch(request) => Ticket::Fetch(request.id),
            Job::TakeApart | Job::Store(_) | Job::StoreSame { .. } => Ticket::Nothing,
        };
        if std::panic::catch_unwind(AssertUnwindSafe(|| self.act(job))).is_err() {
            let event = match ticket {
                Ticket::LookUp(run) => StoreEvent::LookedUp { run, answer: CacheAnswer::Miss },
                Ticket::Check(run) => StoreEvent::Checked { run, missing: Vec::new() },
                Ticket::Fetch(id) => {
                    let outcome = FetchOutcome::Disk("bug: copying from a store panicked".to_owned());
                    StoreEvent::Fetched { id, outcome }
                }
                Ticket::Nothing => return,
            };
            (self.sink)(event);
        }
    }

    fn act(&self, job: Job) {
        let places = self.places();
        match job {
            Job::TakeApart | Job::Store(_) | Job::StoreSame { .. } if self.tree.stop().is_set() => {}
            Job::TakeApart => self.local.take_apart(),
            Job::LookUp(lookup) => {
                let answer = self.cache.as_ref().map_or(CacheAnswer::Miss, |cache| cache.look_up(&lookup));
                (self.sink)(StoreEvent::LookedUp { run: lookup.run, answer });
            }
            Job::Check(StoreCheck { run, digests }) => {
                let missing = digests.into_iter().filter(|digest| !places.has(digest)).collect();
                (self.sink)(StoreEvent::Checked { run, missing });
            }
            Job::Fetch(request) => (self.sink)(match places.restore(&request) {
                Some(outcome) => StoreEvent::Fetched { id: request.id, outcome },
                None => StoreEvent::NotHere(Box::new(request)),
            }),
            Job::Store(request) => {
                if let Some(cache) = &self.cache {
                    cache.store(&request);
                }
            }
            Job::StoreSame { known, key } => {
                if let Some(cache) = &self.cache {
                    cache.store_same(&known, &key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::mpsc::{Receiver, channel};

    use minibuild_core::{
        ActionId, Digest, DigestFunction, Fingerprint, Requester, TreeEntry, TreeMeta, TreeNode, Urgency, WsPath,
    };
    use minibuild_disk::{FsClock, look_at};

    use super::*;

    const F: DigestFunction = DigestFunction::Sha256;

    struct Fixture {
        root: tempfile::TempDir,
        stores: Stores,
        events: Receiver<StoreEvent>,
    }

    fn fixture(local_size: u64) -> Fixture {
        let root = tempfile::tempdir().expect("temp dir");
        let tree = Arc::new(OutTree::open(root.path()).expect("opens"));
        let clock = Arc::new(FsClock::open(&root.path().join("minibuild-out/.state")).expect("a clock"));
        let (sender, events) = channel();
        let sink: StoreSink = Arc::new(move |event| drop(sender.send(event)));
        let stores = Stores::new(StoresConfig { tree, clock, local_size, cache: None, threads: 2, sink });
        Fixture { root, stores, events }
    }

    fn path(text: &str) -> WsPath {
        WsPath::new(text).expect("a path")
    }

    fn file(text: &str) -> Content {
        Content::File { digest: F.digest(text.as_bytes()), executable: false }
    }

    fn tree() -> Content {
        let node = |text: &str| TreeNode::File { digest: F.digest(text.as_bytes()), executable: true };
        let entries = vec![
            TreeEntry { path: path("d/f"), node: node("in tree") },
            TreeEntry { path: path("d/none"), node: node("") },
            TreeEntry { path: path("e"), node: TreeNode::EmptyDirectory },
            TreeEntry { path: path("l"), node: TreeNode::Symlink { target: "d/f".into() } },
            TreeEntry { path: path("same"), node: node("in tree") },
        ];
        let root = minibuild_reapi::tree_root(&entries);
        Content::Directory(TreeMeta { root, size: 14, entries }.into())
    }

    impl Fixture {
        fn fetch(&self, to: &str, content: Content) -> FetchOutcome {
            let who = Requester { label: String::new(), mnemonic: String::new(), key: F.empty() };
            let producer = ActionId::new(0);
            let (id, urgency, here) = (FetchId(7), Urgency::Input, Vec::new());
            self.stores.fetch(FetchRequest { id, producer, path: path(to), content, urgency, here, who });
            match self.events.recv().expect("answers") {
                StoreEvent::Fetched { id: FetchId(7), outcome } => outcome,
                StoreEvent::NotHere(request) => {
                    FetchOutcome::Lost { digests: request.content.blobs(), why: String::new() }
                }
                other => panic!("{other:?}"),
            }
        }

        fn missing(&self, digests: Vec<Digest>) -> Vec<Digest> {
            let run = RunId { action: ActionId::new(0), attempt: 0 };
            self.stores.check(StoreCheck { run, digests });
            match self.events.recv().expect("answers") {
                StoreEvent::Checked { missing, .. } => missing,
                other => panic!("{other:?}"),
            }
        }

        /// Makes an output as an action would, and moves it away.
        fn keep(&self, text: &str) -> bool {
            let at = self.root.path().join("minibuild-out/bin/a");
            fs::write(&at, text).expect("writes");
            let fingerprint = look_at(rustix::fs::CWD, &at).expect("is there").fingerprint;
            self.stores.keep(&Kept { path: path("minibuild-out/bin/a"), content: file(text), fingerprint })
        }
    }

    #[test]
    fn a_file_that_was_moved_away_comes_back_as_often_as_it_is_wanted() {
        let mut it = fixture(1 << 20);
        assert!(matches!(it.fetch("minibuild-out/bin/x", file("one")), FetchOutcome::Lost { .. }), "nothing is kept");
        assert!(it.keep("one"));
        assert!(!it.root.path().join("minibuild-out/bin/a").exists());
        assert_eq!(it.missing(vec![F.digest(b"one"), F.digest(b"two"), F.empty()]), [F.digest(b"two")]);
        assert_eq!(crate::stored(it.root.path(), F), [F.digest(b"one")]);
        for name in ["b", "deep/c"] {
            let FetchOutcome::Done { stamps, copied } = it.fetch(&format!("minibuild-out/bin/{name}"), file("one"))
            else {
                panic!("it is here")
            };
            assert_eq!((stamps.len(), copied.files, copied.bytes), (1, 1, 3));
            let meta = fs::metadata(it.root.path().join("minibuild-out/bin").join(name)).expect("is there");
            assert_eq!(meta.permissions().mode() & 0o777, 0o444);
        }
        it.stores.shutdown(false);
        assert_eq!(
            fs::read_to_string(it.root.path().join("minibuild-out/.state/store/size")).expect("reads"),
            "4096\n"
        );
    }

    #[test]
    fn a_tree_comes_back_from_its_files() {
        let it = fixture(1 << 20);
        let at = it.root.path().join("minibuild-out/bin/t");
        let make = || {
            fs::create_dir_all(at.join("d")).expect("mkdir");
            fs::create_dir_all(at.join("e")).expect("mkdir");
            fs::write(at.join("d/f"), "in tree").expect("writes");
            fs::write(at.join("d/none"), "").expect("writes");
            fs::write(at.join("same"), "in tree").expect("writes");
            std::os::unix::fs::symlink("d/f", at.join("l")).expect("links");
        };
        make();
        let kept = Kept { path: path("minibuild-out/bin/t"), content: tree(), fingerprint: Fingerprint::default() };
        assert!(it.stores.keep(&kept) && !at.exists());
        let FetchOutcome::Done { stamps, copied } = it.fetch("minibuild-out/bin/t", tree()) else {
            panic!("it is here")
        };
        assert_eq!((stamps.len(), copied.files, copied.bytes), (4, 3, 14));
        assert_eq!(fs::read_to_string(at.join("l")).expect("reads"), "in tree");
        assert!(at.join("e").is_dir());
        let incoming = it.root.path().join("minibuild-out/.state/store/incoming");
        assert_eq!(fs::read_dir(incoming).expect("lists").count(), 0);
    }

    #[test]
    fn what_was_staged_is_taken_over() {
        let mut it = fixture(1 << 20);
        let tree = OutTree::open(it.root.path()).expect("opens");
        let staged = tree.stage_file().expect("stages");
        std::io::Write::write_all(&mut staged.file(), b"brought").expect("writes");
        it.stores.adopt(staged.finish(false).expect("finishes"), &file("brought"));
        assert_eq!(it.missing(vec![F.digest(b"brought")]), []);
        assert!(matches!(it.fetch("minibuild-out/bin/x", file("brought")), FetchOutcome::Done { .. }));
        it.stores.shutdown(false);
        let staging = it.root.path().join("minibuild-out/.state/staging");
        assert_eq!(fs::read_dir(staging).expect("lists").count(), 0);
    }

    fn stored_bytes(it: &Fixture) -> u64 {
        crate::stored(it.root.path(), F).iter().map(|digest| digest.size.div_ceil(4096) * 4096).sum()
    }

    #[test]
    fn store_limit_during_build_is_never_exceeded() {
        let limit = 5 * 4096;
        let mut it = fixture(limit);
        for number in 0..20 {
            it.keep(&format!("output {number}"));
            assert!(stored_bytes(&it) <= limit, "after {number}");
        }
        assert!(stored_bytes(&it) >= 4 * 4096, "it is used, too");
        it.stores.shutdown(false);
        assert!(stored_bytes(&it) >= 3 * 4096);
    }

    #[test]
    fn full_store_makes_room_with_files_of_earlier_builds_but_not_with_promised_ones() {
        let it = fixture(3 * 4096);
        assert!(it.keep("promised") && it.keep("old"));
        let age = |text: &str| {
            let hex = F.digest(text.as_bytes()).hex();
            let at = format!("minibuild-out/.state/store/cas/sha256/{}/{}", &hex[..2], &hex[2..]);
            let file = fs::File::open(it.root.path().join(at)).expect("opens");
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("sets");
        };
        age("promised");
        age("old");
        assert_eq!(it.missing(vec![F.digest(b"promised")]), []);
        assert!(it.keep("new"));
        assert!(it.keep("newer"), "the old one goes for it");
        assert_eq!(
            it.missing(["promised", "old", "newer"].map(|text| F.digest(text.as_bytes())).into()),
            [F.digest(b"old")]
        );
        assert!(!it.keep("newest"), "all that is left was used in this build");
        assert!(it.root.path().join("minibuild-out/bin/a").exists(), "its owner removes it");
    }

    #[test]
    fn trees_count_before_they_are_taken_apart() {
        let it = fixture(2 * 4096);
        let local = &it.stores;
        let at = it.root.path().join("minibuild-out/bin/t");
        fs::create_dir_all(at.join("d")).expect("mkdir");
        fs::create_dir_all(at.join("e")).expect("mkdir");
        fs::write(at.join("d/f"), "in tree").expect("writes");
        fs::write(at.join("d/none"), "").expect("writes");
        fs::write(at.join("same"), "in tree").expect("writes");
        let kept = Kept { path: path("minibuild-out/bin/t"), content: tree(), fingerprint: Fingerprint::default() };
        assert!(!local.keep(&kept), "two files and an empty one take three blocks");
    }

    #[test]
    fn a_store_without_room_keeps_nothing() {
        for size in [0, 2] {
            let it = fixture(size);
            assert!(!it.keep("three"), "{size}");
            assert!(it.root.path().join("minibuild-out/bin/a").exists());
        }
    }
}
