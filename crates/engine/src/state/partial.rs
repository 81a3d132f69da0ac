//! Opening the state without reading all of it: who knows where the records of a few actions and files lie needs no
//! others.
//!
//! Places come from an [`Index`] made when the logs were last read whole, and hold as long as the logs are what they
//! were then ([`Mark`]). It does not know who keeps index and mark.

use std::io;
use std::path::Path;

use minibuild_core::{DigestFunction, Fingerprint};
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

use super::log::Log;
use super::{Record, State, Tables, version};

/// Both logs as they were at one moment: any write to them, whoever's, makes another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    records: Fingerprint,
    manifests: Fingerprint,
    /// Records in the log, superseded ones included.
    written: u64,
}

/// Where the newest record of each thing lies in the log.
#[derive(Debug, Default)]
pub struct Index {
    /// Of actions, by their key path.
    pub actions: FxHashMap<String, u64>,
    /// Of files, by path; only those written under the last boot that was recorded.
    pub files: FxHashMap<String, u64>,
    /// Paths of files of which only earlier boots wrote: their stamps are not to be trusted.
    pub distrusted: FxHashSet<String>,
    /// What [`super::ActionRecord::begun`] says of each action of which it says anything, with its package.
    pub begun: FxHashMap<String, Begun>,
    /// Of what every build needs, in the order of the log.
    pub common: Vec<u64>,
    /// Key paths of actions of which nothing is known any more, unless recorded again.
    pub forgotten_actions: Vec<String>,
    /// Paths of such files.
    pub forgotten_files: Vec<String>,
    /// Whether another boot of the machine is recorded.
    pub has_boot: bool,
    /// Those of `common` that are of tools: one that was seen under another boot is looked at again.
    tools: FxHashSet<u64>,
    read: u64,
}

/// Outputs of runs that were begun and did not become a result.
#[derive(Debug)]
pub struct Begun {
    /// Of the action's target.
    pub package: String,
    /// Their paths.
    pub paths: Vec<String>,
}

/// A record as far as it is needed here: its name and, of an action, what comes next in [`super::ActionRecord`].
#[derive(Deserialize)]
enum Named<'a> {
    Boot(#[expect(dead_code, reason = "only its place counts")] &'a str),
    Action(&'a str, &'a str, Vec<&'a str>),
    ForgetAction(&'a str),
    File(&'a str),
    ForgetFile(&'a str),
    Tool(#[expect(dead_code, reason = "only its place counts")] &'a str),
    Store(#[expect(dead_code, reason = "only its place counts")] &'a str),
    Lease(#[expect(dead_code, reason = "only its place counts")] u32),
    History(#[expect(dead_code, reason = "only its place counts")] u32),
}

impl Index {
    fn read(&mut self, offset: u64, payload: &[u8]) {
        self.read += 1;
        let Ok((record, _)) = postcard::take_from_bytes::<Named<'_>>(payload) else { return };
        match record {
            Named::Boot(_) => {
                self.has_boot = true;
                self.distrusted.extend(self.files.drain().map(|(path, _)| path));
                self.common.retain(|offset| !self.tools.contains(offset));
            }
            Named::Action(path, package, begun) => {
                self.actions.insert(path.to_owned(), offset);
                if begun.is_empty() {
                    self.begun.remove(path);
                } else {
                    let paths = begun.into_iter().map(str::to_owned).collect();
                    self.begun.insert(path.to_owned(), Begun { package: package.to_owned(), paths });
                }
            }
            Named::ForgetAction(path) => {
                self.actions.remove(path);
                self.begun.remove(path);
                self.forgotten_actions.push(path.to_owned());
            }
            Named::File(path) => {
                self.files.insert(path.to_owned(), offset);
                self.distrusted.remove(path);
            }
            Named::ForgetFile(path) => {
                self.files.remove(path);
                self.distrusted.remove(path);
                self.forgotten_files.push(path.to_owned());
            }
            Named::Tool(_) => {
                self.tools.insert(offset);
                self.common.push(offset);
            }
            Named::Store(_) | Named::Lease(_) | Named::History(_) => self.common.push(offset),
        }
    }
}

impl State {
    /// Both logs as they are now, everything flushed.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn mark(&mut self) -> io::Result<Mark> {
        self.flush()?;
        let (records, manifests) = (self.records.fingerprint()?, self.manifests.fingerprint()?);
        Ok(Mark { records, manifests, written: self.written as u64 })
    }

    /// Where records lie that were written from offset `from` of the log on; 0 for all.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn index(&self, from: u64) -> io::Result<Index> {
        let mut index = Index::default();
        self.add_to(&mut index, from)?;
        Ok(index)
    }

    /// Adds what was written from offset `from` of the log on to an index of what was before.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn add_to(&self, index: &mut Index, from: u64) -> io::Result<()> {
        self.records.read_from(from, |offset, payload| index.read(offset, payload))?;
        Ok(())
    }

    /// Length of the log of records: where the next one will lie.
    pub fn end(&self) -> u64 {
        self.records.end()
    }

    /// Opens the state in `dir` with nothing but the records at `offsets`, if the logs are as at `mark`, and of this
    /// boot. What is recorded from then on is appended as ever.
    ///
    /// # Errors
    /// Those of the operating system. `None` where anything is not as it was, or does not check.
    pub fn open_at(
        dir: &Path,
        boot_id: &str,
        function: DigestFunction,
        mark: &Mark,
        offsets: impl Iterator<Item = u64>,
    ) -> io::Result<Option<Self>> {
        let version = version(function);
        let Some(records) = Log::open_at(&dir.join("records"), version, &mark.records)? else { return Ok(None) };
        let Some(manifests) = Log::open_at(&dir.join("manifests"), version, &mark.manifests)? else { return Ok(None) };
        let mut tables = Tables::default();
        for offset in offsets {
            let Some(payload) = records.read_at(offset) else { return Ok(None) };
            tables.read(&payload);
        }
        if tables.unreadable > 0 {
            return Ok(None);
        }
        let written = usize::try_from(mark.written).unwrap_or(usize::MAX);
        Ok(Some(Self { written, is_partial: true, ..Self::of((records, manifests), version, boot_id, tables) }))
    }
}

impl Mark {
    /// Whether the logs in `dir` are still these.
    pub fn is_current(&self, dir: &Path) -> bool {
        let is = |name: &str, expected: &Fingerprint| {
            minibuild_disk::look_at(rustix::fs::CWD, dir.join(name)).is_ok_and(|seen| seen.fingerprint == *expected)
        };
        is("records", &self.records) && is("manifests", &self.manifests)
    }

    /// What was recorded since, and the logs as they are now. `None` where they are not these any more with something added.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn catch_up(&self, dir: &Path, function: DigestFunction) -> io::Result<Option<(Index, Self)>> {
        let version = version(function);
        let mut index = Index::default();
        let records =
            grown(&dir.join("records"), version, &self.records, |offset, payload| index.read(offset, payload))?;
        let manifests = grown(&dir.join("manifests"), version, &self.manifests, |_, _| {})?;
        let (Some(records), Some(manifests)) = (records, manifests) else { return Ok(None) };
        let written = self.written + index.read;
        Ok(Some((index, Self { records, manifests, written })))
    }

    /// Whether so much was written for `live` things that the logs should be rewritten, which takes the whole state.
    pub fn wants_compaction(&self, live: usize) -> bool {
        self.written > 2000 + 3 * live as u64
    }
}

/// The log at `path` as it is now, if it is as it was `before` with whole records added, which are given to `record`. What
/// was there before is read as well, since a file that was written may have been written anywhere.
fn grown(
    path: &Path,
    version: u32,
    before: &Fingerprint,
    mut record: impl FnMut(u64, &[u8]),
) -> io::Result<Option<Fingerprint>> {
    let Some(log) = Log::open_grown(path, version, before)? else { return Ok(None) };
    let now = log.fingerprint()?;
    if now == *before {
        return Ok(Some(now));
    }
    let mut has_boundary = false;
    let end = log.read_from(0, |offset, payload| {
        has_boundary |= offset - 8 == before.size;
        if offset > before.size {
            record(offset, payload);
        }
    })?;
    Ok((end == now.size && has_boundary).then_some(now))
}

/// What [`Record`] and [`Named`] have in common is checked by the compiler as far as it can.
const _: fn(Record) -> u8 = |record| match record {
    Record::Boot(_) => 0,
    Record::Action(..) => 1,
    Record::ForgetAction(_) => 2,
    Record::File(..) => 3,
    Record::ForgetFile(_) => 4,
    Record::Tool(..) => 5,
    Record::Store(_) => 6,
    Record::Lease(..) => 7,
    Record::History(..) => 8,
};

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use minibuild_core::{Content, Stamp, WsPath};

    use super::super::{ActionName, FileRecord, Origin, ResultRecord};
    use super::*;

    fn path(text: &str) -> WsPath {
        WsPath::new(text).expect("valid path")
    }

    fn filled(dir: &Path) -> State {
        let (mut state, _) = State::open(dir, "b", DigestFunction::Sha256).expect("opens");
        let digest = DigestFunction::Sha256.digest(b"x");
        let stamp = Stamp { fingerprint: Fingerprint::default(), trusted: true };
        let file = FileRecord {
            content: Content::File { digest, executable: false },
            stamps: vec![stamp],
            origin: Origin::Made,
        };
        state.store_id("store");
        for name in ["a", "b", "c"] {
            let result = ResultRecord { key: digest, pruned: None, outputs: vec![], manifest: 0, held_by: vec![] };
            state.record_result(ActionName { path: name, package: "" }, result, Duration::ZERO, 0);
            state.record_file(&path(name), file.clone());
        }
        state.record_begun(ActionName { path: "c", package: "of/it" }, [path("c"), path("c2")].into_iter());
        state.forget_action("b");
        state.forget_file("c");
        state.record_failure(ActionName { path: "a", package: "" }, std::iter::empty());
        state
    }

    #[test]
    fn the_newest_record_of_each_thing_is_found_and_read_alone() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut state = filled(dir.path());
        let mark = state.mark().expect("marks");
        let index = state.index(0).expect("reads");
        let names = |map: &FxHashMap<String, u64>| {
            let mut names: Vec<String> = map.keys().cloned().collect();
            names.sort();
            names
        };
        assert_eq!(
            (names(&index.actions), names(&index.files)),
            (vec!["a".into(), "c".into()], vec!["a".into(), "b".into()])
        );
        let begun: Vec<_> = index.begun.iter().map(|(name, it)| (&**name, &*it.package, it.paths.join(" "))).collect();
        assert_eq!(begun, [("c", "of/it", "c c2".to_owned())]);
        let offsets = [index.actions["a"], index.files["b"], index.common[0]];
        let open = |mark: &Mark, offsets: &[u64]| {
            State::open_at(dir.path(), "b", DigestFunction::Sha256, mark, offsets.iter().copied()).expect("opens")
        };
        let mut partial = open(&mark, &offsets).expect("is as it was");
        assert!(partial.action("a").is_some_and(|record| record.failed && record.results.len() == 1));
        assert!(partial.action("c").is_none() && partial.file("b").is_some() && partial.file("a").is_none());
        assert_eq!(partial.store_id("store"), state.store_id("store"));
        assert!(open(&mark, &[index.actions["a"] + 1]).is_none(), "no record lies there");
        let end = partial.end();
        partial.record_failure(ActionName { path: "c", package: "" }, std::iter::empty());
        assert!(mark.is_current(dir.path()), "nothing is written yet");
        partial.compact(|_| false).expect("does nothing but flush");
        assert!(!mark.is_current(dir.path()) && open(&mark, &offsets).is_none());
        assert_eq!(names(&partial.index(end).expect("reads").actions), ["c"]);
        drop((partial, state));
        let (whole, warnings) = State::open(dir.path(), "b", DigestFunction::Sha256).expect("opens");
        assert_eq!(warnings, Vec::<String>::new());
        assert!(["a", "c"].iter().all(|name| whole.action(name).is_some_and(|record| record.failed)));
        assert!(whole.file("a").is_some() && whole.file("b").is_some());
    }

    #[test]
    fn what_was_added_since_a_mark_is_found() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut state = filled(dir.path());
        let mark = state.mark().expect("marks");
        state.forget_action("a");
        state.record_failure(ActionName { path: "c", package: "" }, std::iter::empty());
        let later = state.mark().expect("marks");
        let catch_up = |mark: &Mark| mark.catch_up(dir.path(), DigestFunction::Sha256).expect("reads");
        let (index, now) = catch_up(&mark).expect("it has grown");
        assert_eq!((now, &index.forgotten_actions[..]), (later, &["a".to_owned()][..]));
        assert!(index.actions.contains_key("c") && index.files.is_empty() && !index.has_boot);
        let (nothing, same) = catch_up(&later).expect("it is the same");
        assert!(same == later && nothing.actions.is_empty());
        let records = std::fs::read(dir.path().join("records")).expect("reads");
        let write = |bytes: &[u8]| std::fs::write(dir.path().join("records"), bytes).expect("writes");
        write(&[&records[..], b"rubbish"].concat());
        assert!(catch_up(&mark).is_none(), "something else was added");
        let mut flipped = records.clone();
        flipped[20] ^= 1;
        write(&flipped);
        assert!(catch_up(&mark).is_none(), "what was there is another");
        write(&records[..records.len() - 70]);
        assert!(catch_up(&mark).is_none(), "it was cut");
        std::fs::rename(dir.path().join("records"), dir.path().join("old")).expect("renames");
        write(&records);
        assert!(catch_up(&mark).is_none(), "it is another file");
    }

    #[test]
    fn files_seen_under_another_boot_have_no_place() {
        let dir = tempfile::tempdir().expect("temporary directory");
        filled(dir.path()).flush().expect("flushes");
        let (mut state, _) = State::open(dir.path(), "another", DigestFunction::Sha256).expect("opens");
        state.flush().expect("flushes");
        let index = state.index(0).expect("reads");
        assert!(index.files.is_empty() && index.actions.contains_key("a"));
        assert!(index.distrusted.contains("a") && !index.distrusted.contains("c"), "it was forgotten");
    }
}
