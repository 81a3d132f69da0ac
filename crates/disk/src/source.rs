//! The source tree as the loader sees it, with every look remembered.
//!
//! Answers are kept, so they cannot change within one load, and each comes with what a later build needs to ask
//! again cheaply. It does not know packages, globs or TOML.

use std::collections::hash_map::Entry;
use std::ffi::OsString;
use std::hash::Hasher;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use minibuild_core::{Digest, DigestFunction, DirEntry, EntryKind, SourceFs, Stamp, StopFlag};
use rustc_hash::FxHashMap;
use rustix::fs::FileType;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use walkdir::WalkDir;

use crate::clock::FsInstant;
use crate::regular_file::read_regular;
use crate::stat::{fingerprint_of, look_at};

/// One answer the loader got; the loaded graph is still right where all of them would be the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// The path as it was asked: relative to the workspace root, or absolute.
    pub path: String,
    /// The answer.
    pub answer: Answer,
}

/// What a look found, as much as is needed to tell a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The content of a file (symlinks followed), by BLAKE3 digest; the stamp is that of the file read.
    Content(Digest, Stamp),
    /// A directory's names and kinds, by digest (see [`listing_digest`]); the stamp is that of the directory.
    Listing(Digest, Stamp),
    /// The same of a part of a directory: its directories, and what has one of the names that were asked for, whether or not
    /// there was something.
    Part(Digest, Stamp, NameSet),
    /// There is something of this kind, symlinks not followed.
    Kind(EntryKind),
    /// There is nothing.
    Absent,
    /// There is something of this kind or nothing, symlinks followed.
    Behind(Option<EntryKind>),
    /// The operating system refused; never up to date.
    Refused,
}

/// Names, by eight bytes of a hash each, sorted: with four, one of a hundred thousand names had an equal in most large workspaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameSet(Vec<u8>);

impl NameSet {
    fn new(mut hashes: Vec<u64>) -> Self {
        hashes.sort_unstable();
        hashes.dedup();
        Self(hashes.into_iter().flat_map(u64::to_be_bytes).collect())
    }

    /// These names.
    pub fn of<'n>(names: impl Iterator<Item = &'n str>) -> Self {
        Self::new(names.map(name_hash).collect())
    }

    /// Whether it is one of them.
    pub fn contains(&self, name: &str) -> bool {
        let (hashes, _) = self.0.as_chunks::<8>();
        hashes.binary_search(&name_hash(name).to_be_bytes()).is_ok()
    }

    /// The digest of the directories, and of what may have one of these names.
    fn digest_of(&self, entries: &[DirEntry]) -> Digest {
        let counts = |entry: &&DirEntry| entry.kind == EntryKind::Directory || self.contains(entry_name(entry));
        digest_of(entries.iter().filter(counts))
    }
}

fn name_hash(name: &str) -> u64 {
    let mut hasher = rustc_hash::FxHasher::default();
    hasher.write(name.as_bytes());
    hasher.finish()
}

type Listing = Arc<[DirEntry]>;
/// What is given out, and what is remembered of it.
type Known<T> = (Result<T, Failure>, Answer);

/// The workspace on disk.
pub struct DiskFs {
    root: PathBuf,
    now: FsInstant,
    stop: StopFlag,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    contents: FxHashMap<String, Known<Arc<[u8]>>>,
    listings: FxHashMap<String, Listed>,
    kinds: FxHashMap<String, Result<Option<EntryKind>, Failure>>,
    behind: FxHashMap<String, Option<EntryKind>>,
}

/// A listing, and what of it was given out.
struct Listed {
    known: Known<Listing>,
    is_whole: bool,
    /// Hashes of names that were asked for.
    asked: Vec<u64>,
}

impl Listed {
    /// What has to stay as it is.
    fn answer(&self) -> Answer {
        if self.is_whole { self.known.1.clone() } else { part_of(&self.known, NameSet::new(self.asked.clone())) }
    }
}

/// What has to stay as it is of a directory of which only these names were asked for.
fn part_of(known: &Known<Listing>, names: NameSet) -> Answer {
    match known {
        (Ok(entries), Answer::Listing(_, stamp)) => Answer::Part(names.digest_of(entries), *stamp, names),
        (_, answer) => answer.clone(),
    }
}

impl Memory {
    /// What the listing of the parent, where one was taken, says about a path.
    fn kind_in_listing(&mut self, path: &str) -> Option<Option<EntryKind>> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name.is_empty() || (parent.is_empty() && path.starts_with('/')) {
            return None;
        }
        let listed = self.listings.get_mut(parent)?;
        let Ok(entries) = &listed.known.0 else { return None };
        if !listed.is_whole {
            listed.asked.push(name_hash(name));
        }
        let found = entries.binary_search_by(|entry| entry_name(entry).cmp(name)).ok();
        Some(found.map(|index| entries[index].kind))
    }

    /// Whether a listing says that nothing can lie at a path, because a directory above it is none or is not there. Each
    /// declared output is asked for a `BUILD.toml` below it; this spares the call, and the look that later builds would
    /// have to take again.
    fn has_no_parent(&mut self, path: &str) -> bool {
        let mut above = path;
        while let Some((parent, _)) = above.rsplit_once('/') {
            match self.kind_in_listing(parent) {
                Some(None | Some(EntryKind::File | EntryKind::Other)) => return true,
                Some(Some(EntryKind::Directory | EntryKind::Symlink)) => return false,
                None => above = parent,
            }
        }
        false
    }
}

/// An `io::Error` that can be given out again.
#[derive(Clone, Copy)]
struct Failure(io::ErrorKind, Option<i32>);

impl From<&io::Error> for Failure {
    fn from(error: &io::Error) -> Self {
        Self(error.kind(), error.raw_os_error())
    }
}

impl From<Failure> for io::Error {
    fn from(Failure(kind, errno): Failure) -> Self {
        errno.map_or_else(|| kind.into(), io::Error::from_raw_os_error)
    }
}

/// Digest of a directory's names and kinds, as in [`Answer::Listing`].
pub fn listing_digest(entries: &[DirEntry]) -> Digest {
    digest_of(entries.iter())
}

fn digest_of<'e>(entries: impl Iterator<Item = &'e DirEntry>) -> Digest {
    let mut hasher = DigestFunction::Blake3.hasher();
    for entry in entries {
        let (tag, name) = match &entry.name {
            Ok(name) => (0, name),
            Err(lossy) => (1, lossy),
        };
        hasher.update(name.as_bytes());
        hasher.update(&[0, tag, entry.kind as u8]);
    }
    hasher.finish()
}

impl DiskFs {
    /// The workspace at `root`; `now` is the file system's clock before the first look.
    pub fn new(root: &Path, now: FsInstant) -> Self {
        Self { root: root.to_owned(), now, stop: StopFlag::default(), memory: Mutex::default() }
    }

    /// Once `stop` is set every look at the disk fails, so that whoever loads comes to an end soon.
    #[must_use]
    pub fn stopped_by(self, stop: StopFlag) -> Self {
        Self { stop, ..self }
    }

    fn go_on(&self) -> io::Result<()> {
        if self.stop.is_set() { Err(io::Error::other("interrupted")) } else { Ok(()) }
    }

    /// Everything that was asked and what the answer was, sorted by path.
    pub fn looks(&self) -> Vec<Look> {
        let memory = self.memory();
        let mut looks = Vec::new();
        let mut push = |path: &String, answer| looks.push(Look { path: path.clone(), answer });
        memory.contents.iter().for_each(|(path, (_, answer))| push(path, answer.clone()));
        memory.listings.iter().for_each(|(path, listed)| push(path, listed.answer()));
        for (path, kind) in &memory.kinds {
            push(
                path,
                match kind {
                    Ok(Some(kind)) => Answer::Kind(*kind),
                    Ok(None) => Answer::Absent,
                    Err(_) => Answer::Refused,
                },
            );
        }
        memory.behind.iter().for_each(|(path, answer)| push(path, Answer::Behind(*answer)));
        looks.sort_by(|a, b| a.path.cmp(&b.path));
        looks
    }

    /// Asks again what was asked in an earlier build, past all memory: the look as it is to be remembered from now on
    /// if the loader would be told the same, `None` if not.
    pub fn ask_again(&self, look: &Look) -> Option<Look> {
        let answer = match &look.answer {
            Answer::Content(digest, stamp) | Answer::Listing(digest, stamp) | Answer::Part(digest, stamp, _) => {
                if self.is_unchanged(&look.path, stamp) {
                    return Some(look.clone());
                }
                let now = match &look.answer {
                    Answer::Content(..) => self.read_now(&look.path).1,
                    Answer::Part(_, _, names) => part_of(&self.list_now(&look.path), names.clone()),
                    _ => self.list_now(&look.path).1,
                };
                match (&now, &look.answer) {
                    (Answer::Content(found, _), Answer::Content(..))
                    | (Answer::Listing(found, _), Answer::Listing(..))
                    | (Answer::Part(found, ..), Answer::Part(..))
                        if found == digest =>
                    {
                        now
                    }
                    _ => return None,
                }
            }
            Answer::Kind(_) | Answer::Absent => match look_at(rustix::fs::CWD, self.at(&look.path)) {
                Ok(seen) => Answer::Kind(seen.kind),
                Err(error) => answer_of(&error),
            },
            Answer::Behind(_) => Answer::Behind(kind_behind(&self.at(&look.path))),
            Answer::Refused => return None,
        };
        let is_read = matches!(answer, Answer::Content(..) | Answer::Listing(..) | Answer::Part(..));
        (is_read || answer == look.answer).then(|| Look { path: look.path.clone(), answer })
    }

    fn is_unchanged(&self, path: &str, stamp: &Stamp) -> bool {
        stamp.trusted && rustix::fs::stat(self.at(path)).is_ok_and(|stat| fingerprint_of(&stat) == stamp.fingerprint)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }

    fn read_now(&self, path: &str) -> Known<Arc<[u8]>> {
        let absolute = self.at(path);
        let read = || {
            self.go_on()?;
            let (bytes, before, after) = read_regular(&absolute)?;
            let mut stamp = self.now.stamp(before);
            stamp.trusted &= before == after;
            Ok((bytes, stamp))
        };
        match read() {
            Ok((bytes, stamp)) => {
                let digest = DigestFunction::Blake3.digest(&bytes);
                (Ok(bytes.into()), Answer::Content(digest, stamp))
            }
            Err(error) => (Err(Failure::from(&error)), answer_of(&error)),
        }
    }

    /// The stamp is taken before the names are read: a change in between gives a stamp that no longer fits,
    /// which only costs another look.
    fn dir_stamp(&self, absolute: &Path) -> io::Result<Stamp> {
        let stat = rustix::fs::stat(absolute)?;
        if !FileType::from_raw_mode(stat.st_mode).is_dir() {
            return Err(Errno::NOTDIR.into());
        }
        Ok(self.now.stamp(fingerprint_of(&stat)))
    }

    fn list_now(&self, path: &str) -> Known<Listing> {
        let absolute = self.at(path);
        let list = || {
            self.go_on()?;
            let stamp = self.dir_stamp(&absolute)?;
            let mut entries = Vec::new();
            for entry in std::fs::read_dir(&absolute)? {
                let entry = entry?;
                entries.push(dir_entry(&entry.file_name(), entry.file_type()?));
            }
            Ok((entries, stamp))
        };
        match list() {
            Ok((entries, stamp)) => finish_listing(entries, stamp),
            Err(error) => (Err(Failure::from(&error)), answer_of(&error)),
        }
    }

    /// What becomes known of a directory, unless it is known already; `take` gives out of it.
    fn remember_listing(
        &self,
        path: &str,
        fresh: Known<Listing>,
        take: impl FnOnce(&mut Listed) -> Result<Listing, Failure>,
    ) -> io::Result<Listing> {
        let mut memory = self.memory();
        let listed = match memory.listings.entry(path.to_owned()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(free) => free.insert(Listed { known: fresh, is_whole: false, asked: Vec::new() }),
        };
        take(listed).map_err(io::Error::from)
    }
}

impl SourceFs for DiskFs {
    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        if let Some((known, _)) = self.memory().contents.get(path) {
            return known.clone().map(|bytes| bytes.to_vec()).map_err(io::Error::from);
        }
        let fresh = self.read_now(path);
        let mut memory = self.memory();
        let (content, _) = memory.contents.entry(path.to_owned()).or_insert(fresh);
        content.clone().map(|bytes| bytes.to_vec()).map_err(io::Error::from)
    }

    fn list_dir(&self, path: &str) -> io::Result<Listing> {
        let take = |listed: &mut Listed| {
            listed.is_whole = true;
            listed.known.0.clone()
        };
        if let Some(known) = self.memory().listings.get_mut(path) {
            return take(known).map_err(io::Error::from);
        }
        self.remember_listing(path, self.list_now(path), take)
    }

    fn kind(&self, path: &str) -> io::Result<Option<EntryKind>> {
        {
            let mut memory = self.memory();
            if let Some(known) = memory.kind_in_listing(path) {
                return Ok(known);
            }
            if let Some(known) = memory.kinds.get(path) {
                return (*known).map_err(io::Error::from);
            }
            if memory.has_no_parent(path) {
                return Ok(None);
            }
        }
        let fresh = match self.go_on().and_then(|()| look_at(rustix::fs::CWD, self.at(path))) {
            Ok(seen) => Ok(Some(seen.kind)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(Failure::from(&error)),
        };
        let mut memory = self.memory();
        (*memory.kinds.entry(path.to_owned()).or_insert(fresh)).map_err(io::Error::from)
    }

    fn kind_behind(&self, path: &str) -> Option<EntryKind> {
        let listed = self.memory().kind_in_listing(path);
        match listed {
            Some(Some(EntryKind::Symlink)) | None => {}
            Some(kind) => return kind,
        }
        if let Some(&known) = self.memory().behind.get(path) {
            return known;
        }
        let fresh = kind_behind(&self.at(path));
        *self.memory().behind.entry(path.to_owned()).or_insert(fresh)
    }

    fn walk(
        &self,
        start: &str,
        names: &[&str],
        barrier: &str,
        enter: &(dyn Fn(&str) -> bool + Sync),
    ) -> Vec<(String, io::Result<Listing>)> {
        let mut walk = Walk { fs: self, names, barrier, open: Vec::new(), done: Vec::new() };
        if enter(start) {
            walk.run(start, enter);
        }
        let mut done = walk.done;
        done.sort_by(|(a, _), (b, _)| a.cmp(b));
        done
    }
}

/// A directory whose entries are being met.
struct Open {
    path: String,
    stamp: Stamp,
    entries: Vec<DirEntry>,
}

struct Walk<'a> {
    fs: &'a DiskFs,
    names: &'a [&'a str],
    barrier: &'a str,
    /// From the start down to the directory being read.
    open: Vec<Open>,
    done: Vec<(String, io::Result<Listing>)>,
}

impl Walk<'_> {
    fn run(&mut self, start: &str, enter: &(dyn Fn(&str) -> bool + Sync)) {
        // The barrier is met before all else, so that nothing beside it is entered.
        let barrier = OsString::from(self.barrier);
        let barrier_first = move |a: &walkdir::DirEntry, b: &walkdir::DirEntry| {
            (a.file_name() != barrier).cmp(&(b.file_name() != barrier))
        };
        let walk = WalkDir::new(self.fs.at(start)).follow_root_links(true).sort_by(barrier_first);
        let mut met = walk.into_iter();
        while let Some(item) = met.next().filter(|_| !self.fs.stop.is_set()) {
            let entry = match item {
                Ok(entry) => entry,
                Err(error) => {
                    self.failed(start, &error);
                    continue;
                }
            };
            self.close_to(entry.depth());
            if entry.depth() > 1 && entry.file_name() == self.barrier && !entry.file_type().is_dir() {
                self.leave_out(kind_of(entry.file_type()));
                met.skip_current_dir();
                continue;
            }
            let path = match self.open.last_mut() {
                None => start.to_owned(),
                Some(parent) => {
                    let child = dir_entry(entry.file_name(), entry.file_type());
                    let path = child.name.as_deref().map(|name| join(&parent.path, name));
                    let path = path.map_err(|lossy| join(&parent.path, lossy));
                    parent.entries.push(child);
                    match path {
                        Ok(path) => path,
                        Err(lossy) => {
                            if entry.file_type().is_dir() && enter(&lossy) {
                                self.refuse(lossy, entry.path());
                            }
                            skip(&mut met, entry.file_type());
                            continue;
                        }
                    }
                }
            };
            let is_start = entry.depth() == 0;
            if !is_start && !entry.file_type().is_dir() {
                continue;
            }
            if !is_start && !enter(&path) {
                skip(&mut met, entry.file_type());
                continue;
            }
            match self.fs.dir_stamp(entry.path()) {
                Ok(stamp) => self.open.push(Open { path, stamp, entries: Vec::new() }),
                Err(error) => {
                    skip(&mut met, entry.file_type());
                    self.done.push((path, Err(error)));
                }
            }
        }
        self.close_to(0);
    }

    /// Forgets the directory that holds the barrier, but not that the barrier is there.
    fn leave_out(&mut self, barrier: EntryKind) {
        let Some(left_out) = self.open.pop() else { return };
        let path = join(&left_out.path, self.barrier);
        self.fs.memory().kinds.entry(path).or_insert(Ok(Some(barrier)));
    }

    /// Meets a directory whose name is not UTF-8. No label can name it, and no look: what lies there cannot be asked again.
    fn refuse(&mut self, lossy: String, path: &Path) {
        let failure = Failure(io::ErrorKind::InvalidInput, None);
        self.fs.memory().kinds.insert(lossy.clone(), Err(failure));
        let is_asked = |entry: &walkdir::DirEntry| self.names.iter().any(|name| entry.file_name() == *name);
        let mut below = WalkDir::new(path).into_iter().flatten();
        if let Some(found) = below.find(is_asked) {
            let name = found.file_name().to_string_lossy();
            let error = format!("its name is not UTF-8, and there is a `{name}` at or below it");
            self.done.push((lossy, Err(io::Error::new(io::ErrorKind::InvalidInput, error))));
        }
    }

    /// Finishes the directories that are not above an entry at `depth`.
    fn close_to(&mut self, depth: usize) {
        while self.open.len() > depth {
            let Some(open) = self.open.pop() else { return };
            self.finish(open.path, finish_listing(open.entries, open.stamp));
        }
    }

    /// A directory that could not be read: what was met of it so far is not its listing.
    fn failed(&mut self, start: &str, error: &walkdir::Error) {
        let cause = error.io_error().map_or(Failure(io::ErrorKind::Other, None), Failure::from);
        let at = error.path().and_then(|path| self.open.iter().position(|open| self.fs.at(&open.path) == path));
        let at = at.or_else(|| error.depth().min(self.open.len()).checked_sub(1));
        if let Some(index) = at {
            self.close_to(index + 1);
        }
        let path = self.open.pop().map_or_else(|| start.to_owned(), |open| open.path);
        self.finish(path, (Err(cause), answer_of(&cause.into())));
    }

    /// Only what was asked for of a listing is given.
    fn finish(&mut self, path: String, fresh: Known<Listing>) {
        let listing = self.fs.remember_listing(&path, fresh, |listed| {
            if !listed.is_whole {
                listed.asked.extend(self.names.iter().chain([&self.barrier]).map(|name| name_hash(name)));
            }
            let is_asked = |name: &str| self.names.contains(&name);
            let counts = |e: &&DirEntry| e.kind == EntryKind::Directory || e.name.as_deref().is_ok_and(is_asked);
            listed.known.0.clone().map(|entries| entries.iter().filter(counts).cloned().collect())
        });
        self.done.push((path, listing));
    }
}

fn kind_behind(path: &Path) -> Option<EntryKind> {
    std::fs::metadata(path).ok().map(|meta| kind_of(meta.file_type()))
}

fn skip(met: &mut walkdir::IntoIter, file_type: std::fs::FileType) {
    if file_type.is_dir() {
        met.skip_current_dir();
    }
}

fn finish_listing(mut entries: Vec<DirEntry>, stamp: Stamp) -> Known<Listing> {
    entries.sort_unstable_by(|a, b| entry_name(a).cmp(entry_name(b)));
    let digest = listing_digest(&entries);
    (Ok(entries.into()), Answer::Listing(digest, stamp))
}

fn entry_name(entry: &DirEntry) -> &str {
    match &entry.name {
        Ok(name) | Err(name) => name,
    }
}

fn dir_entry(name: &std::ffi::OsStr, kind: std::fs::FileType) -> DirEntry {
    let name = name.to_str().map(str::to_owned).ok_or_else(|| name.to_string_lossy().into_owned());
    DirEntry { name, kind: kind_of(kind) }
}

fn kind_of(kind: std::fs::FileType) -> EntryKind {
    match kind {
        kind if kind.is_file() => EntryKind::File,
        kind if kind.is_dir() => EntryKind::Directory,
        kind if kind.is_symlink() => EntryKind::Symlink,
        _ => EntryKind::Other,
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn answer_of(error: &io::Error) -> Answer {
    if is_absent(error) { Answer::Absent } else { Answer::Refused }
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
}
