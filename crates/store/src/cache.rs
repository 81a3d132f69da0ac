//! The disk cache: results and blobs that many processes share.
//!
//! Opened by the first request. One that cannot be used is told of once, and knows nothing from then on. It does not know
//! which results deserve to be stored.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use minibuild_core::{
    CacheAnswer, CacheLookup, Content, Digest, DigestFunction, ExecutionReport, ExecutionStatus, Level, StopFlag,
    StoreEvent, StoreSink, UploadRequest, WsPath,
};
use minibuild_disk::copy_hashed;
use rustix::fs::{Mode, OFlags};

use crate::blobs::{BlobDir, Rights, ensure_dir};
use crate::budget::Budget;
use crate::collect::on_disk;
use crate::entry::{self, LARGEST_ENTRY, Recalled, Stored};

/// The times of blobs that several processes use are not renewed more often.
const RENEWED_AFTER: Duration = Duration::from_secs(300);

/// A cache in one directory.
pub(crate) struct DiskCache {
    path: PathBuf,
    limit: Option<u64>,
    function: DigestFunction,
    /// Where paths of outputs are relative to.
    workspace: PathBuf,
    opened: OnceLock<Option<Opened>>,
    is_told: AtomicBool,
    /// It could not be written to, and is not any more.
    is_broken: AtomicBool,
    is_full_told: AtomicBool,
    stop: StopFlag,
    sink: StoreSink,
}

struct Opened {
    blobs: BlobDir,
    entries: BlobDir,
    /// Nothing where only reading is possible.
    budget: Option<Budget>,
}

impl DiskCache {
    /// The cache in `path`.
    pub fn new(
        path: PathBuf,
        limit: Option<u64>,
        function: DigestFunction,
        workspace: PathBuf,
        stop: StopFlag,
        sink: StoreSink,
    ) -> Self {
        Self {
            path,
            limit,
            function,
            workspace,
            opened: OnceLock::new(),
            is_told: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
            is_full_told: AtomicBool::new(false),
            stop,
            sink,
        }
    }

    /// Its blobs, if it can be used.
    pub fn blobs(&self) -> Option<&BlobDir> {
        self.open().map(|opened| &opened.blobs)
    }

    /// What is known of an action.
    pub fn look_up(&self, lookup: &CacheLookup) -> CacheAnswer {
        match self.recall(lookup) {
            Some(recalled) => CacheAnswer::Hit(Box::new(report(lookup, recalled))),
            None => CacheAnswer::Miss,
        }
    }

    fn recall(&self, lookup: &CacheLookup) -> Option<Recalled> {
        let opened = self.open()?;
        let key = &lookup.who.key;
        let bytes = opened.entries.read_any(key, LARGEST_ENTRY)?;
        let read = |digest: &Digest| opened.blobs.read(digest, self.function);
        let recalled = entry::decode(&bytes, key, &lookup.outputs, lookup.depfile.as_ref(), self.function, read);
        let is_whole = |recalled: &Recalled| {
            let blobs = recalled.outputs.iter().flat_map(|output| output.meta.content.blobs());
            // All of them are asked for, so that all count as used.
            blobs.filter(|digest| !opened.blobs.has(digest)).count() == 0
        };
        let recalled = recalled.filter(is_whole);
        if recalled.is_none() {
            // Whoever runs the action now stores it anew.
            opened.entries.remove(key);
        }
        recalled
    }

    /// Stores a result: blobs first.
    pub fn store(&self, request: &UploadRequest) {
        let Some(Opened { budget: Some(budget), blobs, entries }) = self.open() else { return };
        if self.is_broken.load(Ordering::Relaxed) {
            return;
        }
        let Some(stored) = entry::encode(request, self.function) else { return };
        self.take_stored(self.try_store(&request.who.key, &stored, (budget, blobs, entries)));
    }

    /// Has what is known under one key under another, too.
    pub fn store_same(&self, known: &Digest, key: &Digest) {
        let Some(Opened { budget: Some(budget), entries, .. }) = self.open() else { return };
        if self.is_broken.load(Ordering::Relaxed) || entries.read_any(key, LARGEST_ENTRY).is_some() {
            return;
        }
        let Some(entry) = entries.read_any(known, LARGEST_ENTRY) else { return };
        let Some(entry) = entry::rebind(&entry, known, key, self.function) else { return };
        let copy = || {
            let Some(_room) = budget.reserve(on_disk(entry.len() as u64))? else { return Ok(false) };
            write(budget, entries, key, &entry).map(|()| true)
        };
        self.take_stored(copy());
    }

    /// Takes note of how storing something went.
    fn take_stored(&self, stored: io::Result<bool>) {
        match stored {
            Ok(true) => {}
            Ok(false) => self.tell_full(),
            // A copy that an interrupt cut short says nothing about the disk.
            Err(_) if self.stop.is_set() => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.tell(
                "is locked by another process, and not everything is stored\n\
                 hint: `fuser` on its file `size` names the process",
            ),
            Err(error) => {
                self.is_broken.store(true, Ordering::Relaxed);
                self.tell(&format!("cannot be written to: {error}"));
            }
        }
    }

    /// False where there is no room.
    fn try_store(
        &self,
        key: &Digest,
        stored: &Stored,
        (budget, blobs, entries): (&Budget, &BlobDir, &BlobDir),
    ) -> io::Result<bool> {
        let mut files: Vec<&(Digest, WsPath)> = stored.files.iter().collect();
        files.sort_unstable_by_key(|(digest, _)| *digest);
        files.dedup_by_key(|(digest, _)| *digest);
        files.retain(|(digest, _)| digest.size > 0 && !blobs.has(digest));
        let trees = stored.trees.iter().filter(|(digest, _)| digest.size > 0 && !blobs.has(digest));
        let trees: Vec<_> = trees.collect();
        let sizes = files.iter().map(|(digest, _)| digest.size).chain(trees.iter().map(|(digest, _)| digest.size));
        let sizes = sizes.chain([stored.entry.len() as u64]);
        let bytes = sizes.fold(0_u64, |sum, size| sum.saturating_add(on_disk(size)));
        let Some(_room) = budget.reserve(bytes)? else { return Ok(false) };
        for (digest, path) in files {
            if !self.copy_in(budget, blobs, digest, path)? {
                // It is another thing by now, and the result nobody's.
                return Ok(true);
            }
        }
        for (digest, bytes) in trees {
            write(budget, blobs, digest, bytes)?;
        }
        write(budget, entries, key, &stored.entry)?;
        Ok(true)
    }

    fn copy_in(&self, budget: &Budget, blobs: &BlobDir, digest: &Digest, path: &WsPath) -> io::Result<bool> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let from = self.workspace.join(path.as_path());
        let Ok(from) = rustix::fs::openat(rustix::fs::CWD, from, flags, Mode::empty()).map(File::from) else {
            return Ok(false);
        };
        // More than was reserved is not written, whatever became of it.
        if from.metadata().map(|meta| meta.len()).ok() != Some(digest.size) {
            return Ok(false);
        }
        let draft = budget.make_file()?;
        if copy_hashed(&from, draft.file(), self.function, &self.stop)? != *digest {
            return Ok(false);
        }
        draft.publish(blobs.dir(), &blobs.place(digest)?, blobs.rights().file)?;
        Ok(true)
    }

    fn open(&self) -> Option<&Opened> {
        let open = || match self.try_open() {
            Ok(opened) => Some(opened),
            Err(error) => {
                self.tell(&format!("cannot be used: {error}"));
                None
            }
        };
        self.opened.get_or_init(open).as_ref()
    }

    fn try_open(&self) -> io::Result<Opened> {
        std::fs::create_dir_all(&self.path)?;
        let root = OwnedFd::from(File::open(&self.path)?);
        let rights = Rights::of(root.as_fd())?;
        let dir = |name: &str| {
            let top = ensure_dir(root.as_fd(), name, rights)?;
            BlobDir::open(top.as_fd(), self.function, rights, RENEWED_AFTER)
        };
        let (blobs, entries) = (dir("cas")?, dir("ac")?);
        let budget = match Budget::open(root, self.limit, rights, self.stop.clone()) {
            Ok(budget) => Some(budget),
            Err(error) => {
                self.tell(&format!("cannot be written to: {error}"));
                None
            }
        };
        Ok(Opened { blobs, entries, budget })
    }

    fn tell(&self, what: &str) {
        if !self.is_told.swap(true, Ordering::Relaxed) {
            let text = format!("the disk cache `{}` {what}", shown(&self.path));
            (self.sink)(StoreEvent::Message { level: Level::Warning, text });
        }
    }

    fn tell_full(&self) {
        if !self.is_full_told.swap(true, Ordering::Relaxed) {
            let text = format!(
                "the disk cache `{}` is full of what was used within the hour; not everything is stored (`--disk-cache-size`)",
                shown(&self.path)
            );
            (self.sink)(StoreEvent::Message { level: Level::Info, text });
        }
    }
}

fn write(budget: &Budget, dir: &BlobDir, name: &Digest, bytes: &[u8]) -> io::Result<()> {
    let draft = budget.make_file()?;
    io::Write::write_all(&mut draft.file(), bytes)?;
    draft.publish(dir.dir(), &dir.place(name)?, dir.rights().file)
}

fn report(lookup: &CacheLookup, recalled: Recalled) -> ExecutionReport {
    let mut report = ExecutionReport::new(lookup.run, ExecutionStatus::Exited(0));
    report.outputs = recalled.outputs;
    report.stdout = recalled.stdout;
    report.stderr = recalled.stderr;
    report.depfile = recalled.depfile;
    report.cost.wall = recalled.wall;
    report.from_cache = true;
    report
}

fn shown(path: &Path) -> std::path::Display<'_> {
    path.display()
}

/// Blobs of a content that are in neither directory.
pub(crate) fn lacks(content: &Content, has: impl Fn(&Digest) -> bool) -> bool {
    content.blobs().iter().any(|digest| !has(digest))
}
