//! The private store of one workspace: what its outputs were before, moved in by renames.
//!
//! The workspace's lock keeps other builds out. It does not know whether anybody will want any of it again.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use minibuild_core::{Content, Digest, DigestFunction, Kept, STATE_ROOT, TreeEntry, TreeMeta};
use minibuild_disk::{OutTree, Staged, StagedFile, read_regular_file, remove_all, touch};

use crate::blobs::{BlobDir, Rights, ensure_dir, name_of, path_of, since_epoch};
use crate::collect::{Listing, names, on_disk, open_dir};

/// A cut makes so much room, in hundredths of the limit, that not each build needs one.
const KEPT_PERCENT: u64 = 90;
/// The clock that stamps files may lag behind the system's by a tick of the slowest kernel (10 ms).
const STAMP_LAG: Duration = Duration::from_millis(20);

/// The store of a workspace.
pub(crate) struct LocalStore {
    tree: Arc<OutTree>,
    root: PathBuf,
    limit: u64,
    /// Opened by the first who needs it; nothing where that is not possible.
    opened: OnceLock<Option<Opened>>,
    /// What is here already; a store that is not there has nothing.
    is_there: OnceLock<bool>,
    has_grown: AtomicBool,
    account: Mutex<SpaceAccount>,
    /// Files used since then are never removed to make room: this build may have been promised them.
    began: Duration,
    /// Trees that were moved in, and have to be taken apart.
    trees: Mutex<Vec<(CString, Arc<TreeMeta>)>>,
    next: AtomicU64,
}

/// The bytes that the store takes on disk.
#[derive(Default)]
struct SpaceAccount {
    /// An upper bound; `None` until something is to be kept.
    used: Option<u64>,
    /// The part of it that no listing finds yet: files about to be moved, and trees not yet taken apart.
    pending: u64,
    /// All that is left was used in this build, so that no listing needs to be made for the rest of it.
    is_full: bool,
}

/// The place of a moved output in the store.
enum Placement {
    /// It could not be moved.
    Failed,
    /// It has the name of its blob.
    Named,
    /// Its tree waits to be taken apart.
    Incoming,
}

struct Opened {
    root: OwnedFd,
    blobs: BlobDir,
    /// The first bytes of blobs, under the names these will have.
    parts: BlobDir,
    incoming: OwnedFd,
    /// What was in it at the end of the last build, where that is known.
    bytes: Option<u64>,
}

/// What the store of a workspace has, for whoever only wants to know: nothing is opened for writing, and no blob counts as
/// used.
pub fn stored(workspace: &Path, function: DigestFunction) -> Vec<Digest> {
    let root = workspace.join(STATE_ROOT).join("store/cas").join(name_of(function));
    let mut found = Vec::new();
    for dir in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let first = dir.file_name();
        for file in std::fs::read_dir(dir.path()).into_iter().flatten().flatten() {
            let Ok(meta) = file.metadata() else { continue };
            let text = format!("{}{}/{}", first.to_string_lossy(), file.file_name().to_string_lossy(), meta.len());
            found.extend(text.parse::<Digest>());
        }
    }
    found
}

impl LocalStore {
    /// The store of this output tree; one of no bytes keeps nothing.
    pub fn new(tree: Arc<OutTree>, limit: u64) -> Self {
        let root = tree.workspace().join(STATE_ROOT).join("store");
        Self {
            tree,
            root,
            limit,
            opened: OnceLock::new(),
            is_there: OnceLock::new(),
            has_grown: AtomicBool::new(false),
            account: Mutex::default(),
            began: since_epoch(SystemTime::now()).saturating_sub(STAMP_LAG),
            trees: Mutex::default(),
            next: AtomicU64::new(0),
        }
    }

    /// The blobs that are there; `None` where nothing is.
    pub fn blobs(&self) -> Option<&BlobDir> {
        self.look().map(|opened| &opened.blobs)
    }

    /// What is there; `None` where nothing is.
    fn look(&self) -> Option<&Opened> {
        if !self.has_grown.load(Ordering::Acquire) && !*self.is_there.get_or_init(|| self.root.is_dir()) {
            return None;
        }
        self.open()
    }

    /// Moves an output in; false where it is not what it was, or cannot be kept.
    pub fn keep(&self, output: &Kept) -> bool {
        let (digest, _) = output.content.digest_and_size();
        match &output.content {
            Content::Symlink { .. } => false,
            Content::File { .. } if digest.size == 0 => false,
            Content::File { .. } => self.grow(on_disk(digest.size), |opened| {
                let Ok(place) = opened.blobs.place(&digest) else { return Placement::Failed };
                let dir = opened.blobs.dir();
                if !self.tree.move_out(&output.path, Some(output.fingerprint), dir, &place) {
                    return Placement::Failed;
                }
                // Without it, it goes as soon as its age says.
                let _ = touch(dir, &place);
                Placement::Named
            }),
            Content::Directory(tree) if tree.size == 0 => false,
            Content::Directory(tree) => self.grow(tree_on_disk(tree), |opened| {
                let name = self.name();
                let is_moved = self.tree.move_out(&output.path, None, opened.incoming.as_fd(), &name);
                if is_moved { self.take_tree(name, tree) } else { Placement::Failed }
            }),
        }
    }

    /// Takes over what was staged and is complete and checked.
    pub fn adopt(&self, staged: Staged, content: &Content) {
        match content {
            Content::Symlink { .. } => {}
            Content::File { digest, .. } => {
                if digest.size > 0 {
                    self.grow(on_disk(digest.size), |opened| {
                        let Ok(place) = opened.blobs.place(digest) else { return Placement::Failed };
                        named_if(staged.move_to(opened.blobs.dir(), &place.to_string_lossy()).is_ok())
                    });
                }
            }
            Content::Directory(tree) => {
                self.grow(tree_on_disk(tree), |opened| {
                    let name = self.name();
                    let is_moved = staged.move_to(opened.incoming.as_fd(), &name.to_string_lossy()).is_ok();
                    if is_moved { self.take_tree(name, tree) } else { Placement::Failed }
                });
            }
        }
    }

    /// Takes over the first bytes of a blob, as they came.
    pub fn adopt_part(&self, part: StagedFile, digest: &Digest) {
        let length = part.file().metadata().map_or(0, |meta| meta.len());
        if length == 0 || length > digest.size {
            return;
        }
        self.grow(on_disk(length), |opened| {
            let Ok(place) = opened.parts.place(digest) else { return Placement::Failed };
            named_if(part.move_to(opened.parts.dir(), &place.to_string_lossy()).is_ok())
        });
    }

    /// Gives back what [`Self::adopt_part`] took. It still counts as kept, until all is listed.
    pub fn part(&self, digest: &Digest) -> Option<StagedFile> {
        let parts = &self.look()?.parts;
        self.tree.stage_from(parts.dir(), &path_of(digest))
    }

    /// Whether trees wait to be taken apart.
    pub fn has_trees(&self) -> bool {
        !self.trees.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Gives the files of trees that were moved in the names of their blobs.
    pub fn take_apart(&self) {
        loop {
            let next = self.trees.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some((name, tree)) = next else { return };
            if let Some(Some(opened)) = self.opened.get() {
                self.move_files(opened, &name, &tree);
            }
        }
    }

    fn move_files(&self, opened: &Opened, name: &CString, tree: &TreeMeta) {
        let top = name.to_string_lossy();
        let files = tree.entries.iter().filter_map(|entry: &TreeEntry| Some((entry, entry.blob()?)));
        for (entry, digest) in files.filter(|(_, digest)| digest.size > 0) {
            let Ok(place) = opened.blobs.place(&digest) else { continue };
            let below = format!("{top}/{}", entry.path);
            // One that an action made unreadable for us is not kept.
            if rustix::fs::renameat(&opened.incoming, below, opened.blobs.dir(), &place).is_ok() {
                let _ = touch(opened.blobs.dir(), &place);
            }
        }
        // What stays is deleted by the next build.
        let _ = remove_all(&self.root.join("incoming").join(&*top));
        self.account().settle(tree_on_disk(tree));
    }

    /// Cuts the store back to its limit, if anything came. Nothing is kept any more.
    pub fn end(&self) {
        self.take_apart();
        let Some(Some(opened)) = self.opened.get() else { return };
        if !self.has_grown.load(Ordering::Acquire) {
            return;
        }
        let account = self.account();
        let bytes = match account.used {
            Some(used) if used <= self.limit && !account.is_full => used,
            _ => self.trim(opened, self.kept_bytes(), Duration::MAX),
        };
        // Without it the next build that keeps something lists all.
        let _ = std::fs::write(self.root.join("size"), format!("{bytes}\n"));
    }

    /// Does something that puts so many bytes into the store, if there is room. Its size is not known from here on, until
    /// the end.
    fn grow(&self, bytes: u64, put: impl FnOnce(&Opened) -> Placement) -> bool {
        if bytes > self.limit {
            return false;
        }
        let Some(opened) = self.open() else { return false };
        if !self.has_grown.swap(true, Ordering::AcqRel) {
            match std::fs::remove_file(self.root.join("size")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return false,
                _ => {}
            }
        }
        if !self.reserve(opened, bytes) {
            return false;
        }
        match put(opened) {
            Placement::Failed => {
                self.account().settle(bytes);
                self.account().release(bytes);
                false
            }
            Placement::Named => {
                self.account().settle(bytes);
                true
            }
            Placement::Incoming => true,
        }
    }

    /// Reserves room, by removing the least recently used files where it is needed. The limit holds at each moment: a build
    /// that makes everything again would take twice the disk otherwise.
    fn reserve(&self, opened: &Opened, bytes: u64) -> bool {
        let mut account = self.account();
        let known = account.used.or(opened.bytes).and_then(|used| used.checked_add(bytes));
        if let Some(used) = known.filter(|used| *used <= self.limit) {
            account.used = Some(used);
            account.pending += bytes;
            return true;
        }
        if account.is_full {
            return false;
        }
        account.pending += bytes;
        let most = self.kept_bytes().saturating_sub(account.pending);
        let used = self.trim(opened, most, self.began).saturating_add(account.pending);
        account.used = Some(used);
        account.is_full = used > self.limit;
        if account.is_full {
            account.settle(bytes);
            account.release(bytes);
        }
        !account.is_full
    }

    /// Removes files last used before `before`, the oldest first, until no more than `most` bytes are left, and returns
    /// how many there are.
    fn trim(&self, opened: &Opened, most: u64, before: Duration) -> u64 {
        let mut listing = Listing::of(opened.root.as_fd(), &["cas", "partial"]);
        listing.trim(opened.root.as_fd(), most, before, since_epoch(SystemTime::now()));
        listing.bytes
    }

    fn kept_bytes(&self) -> u64 {
        self.limit / 100 * KEPT_PERCENT
    }

    fn account(&self) -> MutexGuard<'_, SpaceAccount> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_tree(&self, name: CString, tree: &Arc<TreeMeta>) -> Placement {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner).push((name, Arc::clone(tree)));
        Placement::Incoming
    }

    fn name(&self) -> CString {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        CString::new(format!("{}-{next}", std::process::id())).unwrap_or_default()
    }

    fn open(&self) -> Option<&Opened> {
        self.opened.get_or_init(|| self.try_open().ok()).as_ref()
    }

    fn try_open(&self) -> io::Result<Opened> {
        let bytes = match std::fs::create_dir(&self.root) {
            Ok(()) => Some(0),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.known_bytes(),
            Err(error) => return Err(error),
        };
        let root = OwnedFd::from(File::open(&self.root)?);
        let cas = ensure_dir(root.as_fd(), "cas", Rights::private())?;
        let blobs = BlobDir::open(cas.as_fd(), self.tree.function(), Rights::private(), Duration::ZERO)?;
        let partial = ensure_dir(root.as_fd(), "partial", Rights::private())?;
        let parts = BlobDir::open(partial.as_fd(), self.tree.function(), Rights::private(), Duration::ZERO)?;
        ensure_dir(root.as_fd(), "incoming", Rights::private())?;
        // What a killed build left there is nobody's.
        let incoming = open_dir(root.as_fd(), "incoming")?;
        for name in names(&incoming) {
            let _ = remove_all(&self.root.join("incoming").join(&*name.to_string_lossy()));
        }
        Ok(Opened { root, blobs, parts, incoming, bytes })
    }

    fn known_bytes(&self) -> Option<u64> {
        let text = read_regular_file(&self.root.join("size")).ok()?;
        std::str::from_utf8(&text).ok()?.trim_end().parse().ok()
    }
}

impl SpaceAccount {
    /// Notes that so many reserved bytes have their names, or will not come.
    fn settle(&mut self, bytes: u64) {
        self.pending = self.pending.saturating_sub(bytes);
    }

    fn release(&mut self, bytes: u64) {
        self.used = self.used.map(|used| used.saturating_sub(bytes));
    }
}

fn named_if(is_moved: bool) -> Placement {
    if is_moved { Placement::Named } else { Placement::Failed }
}

/// Returns what the files of a tree take on disk, about.
fn tree_on_disk(tree: &TreeMeta) -> u64 {
    tree.entries.iter().filter_map(TreeEntry::blob).map(|digest| on_disk(digest.size)).sum()
}
