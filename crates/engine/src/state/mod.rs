//! What outlives a build: results of actions, contents of files with their fingerprints, manifests.
//!
//! Tables in memory, backed by two logs in `minibuild-out/.state`. Whatever cannot be trusted is dropped with a warning
//! and never believed. It does not know what a record is used for.

mod log;
mod partial;

use std::io;
use std::path::Path;
use std::time::Duration;

use minibuild_core::{
    Branch, BranchOutcome, Content, Digest, DigestFunction, DownloadReason, Fingerprint, OUT_ROOT, OutputMeta, Stamp,
    WsPath,
};
use minibuild_dynamic::policy::{ActionHistory, History};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

pub(crate) use log::{Log, Opened};

pub use partial::{Begun, Index, Mark};

/// Version of all records; bumped whenever one of their types changes.
const VERSION: u32 = 6;
/// How many results of each action are kept.
const KEPT_RESULTS: usize = 4;

/// What is known of one action, found by the path of its first output.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ActionRecord {
    /// Package of its target: an action that a loaded package no longer declares is swept away.
    pub package: String,
    /// Outputs of runs that were begun and did not become a result: something may lie there.
    pub begun: Vec<WsPath>,
    /// Its last results, newest first.
    pub results: Vec<ResultRecord>,
    /// Whether its last run failed.
    pub failed: bool,
    /// How long its last successful run took, in milliseconds.
    pub wall_ms: u32,
    /// Largest resident set of its last run, bytes.
    pub max_rss: u64,
    /// How long it takes on either side.
    pub times: ActionHistory,
    /// The branches of its last run, in the order of their starts; empty where there was no choice.
    pub sides: Vec<SideRecord>,
}

impl ActionRecord {
    fn add_begun(&mut self, outputs: impl Iterator<Item = WsPath>) {
        for path in outputs {
            if !self.begun.contains(&path) {
                self.begun.push(path);
            }
        }
    }
}

/// A branch of an action that could run on both sides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideRecord {
    /// Where.
    pub branch: Branch,
    /// Why it was started.
    pub reason: String,
    /// How it ended.
    pub outcome: BranchOutcome,
    /// From its start to its end, in milliseconds.
    pub ms: u32,
}

/// How an action is found across builds.
#[derive(Clone, Copy, Debug)]
pub struct ActionName<'a> {
    /// Path of its first output, or of a test's log.
    pub path: &'a str,
    /// Package of its target.
    pub package: &'a str,
}

/// A result of an action, whether or not its bytes are here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultRecord {
    /// Digest of the `Action` it is the result of.
    pub key: Digest,
    /// Where the action has a depfile: the pruned key and the discoverable inputs that were read.
    pub pruned: Option<PrunedRecord>,
    /// What it made.
    pub outputs: Vec<OutputMeta>,
    /// Where its manifest lies in the log of manifests.
    pub manifest: u64,
    /// Stores believed to hold all blobs of the outputs.
    pub held_by: Vec<StoreId>,
}

/// A store of blobs outside this workspace: an endpoint with instance and digest function. See [`State::store_id`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoreId(u32);

/// See [`minibuild_graph::PrunedKey`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrunedRecord {
    /// The key.
    pub key: Digest,
    /// Discoverable inputs the depfile named, sorted.
    pub read: Vec<WsPath>,
}

/// What a file of the workspace holds, as last seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FileRecord {
    /// Its content.
    pub content: Content,
    /// One stamp for a file or symlink, several for a directory: see [`minibuild_core::FoundOutput`].
    pub stamps: Vec<Stamp>,
    /// How it came to be there.
    pub origin: Origin,
}

/// How a file came to be where it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// It was there: a source, or an output that something else than a build changed.
    #[default]
    Found,
    /// An action made it here.
    Made,
    /// It was brought here, for this reason.
    Brought(DownloadReason),
}

/// Digest of a host program, and outputs of its version arguments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToolRecord {
    /// Of the resolved file.
    pub fingerprint: Fingerprint,
    /// Of its bytes.
    pub digest: Digest,
    /// What it printed.
    pub version: String,
}

#[derive(Serialize, Deserialize)]
enum Record {
    /// All that follows was written under this boot of the machine.
    Boot(String),
    Action(String, ActionRecord),
    ForgetAction(String),
    File(WsPath, FileRecord),
    ForgetFile(WsPath),
    /// Path of the program and its version arguments, joined by NUL.
    Tool(String, ToolRecord),
    /// Name of the next store, in the order of their ids.
    Store(String),
    /// When the store was last asked for all that only it has, in seconds since the Unix epoch.
    Lease(StoreId, u64),
    /// What is known of the remote side that the store belongs to.
    History(StoreId, Box<History>),
}

/// The state of one workspace.
#[derive(Debug)]
pub struct State {
    records: Log,
    manifests: Log,
    boot_id: String,
    version: u32,
    /// Records in the log, superseded ones included.
    written: usize,
    /// Only some records were read: see [`State::open_at`].
    is_partial: bool,
    actions: FxHashMap<String, ActionRecord>,
    files: FxHashMap<WsPath, FileRecord>,
    tools: FxHashMap<String, ToolRecord>,
    stores: Vec<String>,
    leases: FxHashMap<StoreId, u64>,
    histories: FxHashMap<StoreId, Box<History>>,
}

impl State {
    /// Opens the state in `dir`; what could not be believed is said in the warnings. `function` is that of all digests, `boot_id` that of the
    /// machine now: fingerprints of another boot are not trusted, since what they describe may never have reached
    /// the disk.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn open(dir: &Path, boot_id: &str, function: DigestFunction) -> io::Result<(Self, Vec<String>)> {
        let version = version(function);
        let mut tables = Tables::default();
        let (records, opened) = Log::open(&dir.join("records"), version, |_, bytes| tables.read(bytes))?;
        let (manifests, opened_manifests) = Log::open(&dir.join("manifests"), version, |_, _| {})?;
        let mut warnings = warnings(&opened, tables.unreadable);
        warnings.extend(self::warnings(&opened_manifests, 0));
        if opened == Opened::New && !manifests.is_empty() {
            warnings.push("the records of the state are gone; everything is checked again".to_owned());
        }
        let last_boot = std::mem::take(&mut tables.boot_id);
        if last_boot != boot_id {
            tables.distrust_stamps();
        }
        let mut state = Self::of((records, manifests), version, boot_id, tables);
        if last_boot != boot_id {
            state.append(&Record::Boot(boot_id.to_owned()));
        }
        Ok((state, warnings))
    }

    /// Reads the state in `dir` without the workspace lock and without changing anything; where there is none, or none that
    /// can be read, nothing is known. It must not be flushed.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn look(dir: &Path, boot_id: &str, function: DigestFunction) -> io::Result<Self> {
        let version = version(function);
        let mut tables = Tables::default();
        let manifests = Log::look(&dir.join("manifests"), version, |_, _| {})?;
        let records = Log::look(&dir.join("records"), version, |_, bytes| tables.read(bytes))?;
        let last_boot = std::mem::take(&mut tables.boot_id);
        if last_boot != boot_id {
            tables.distrust_stamps();
        }
        Ok(Self::of((records, manifests), version, boot_id, tables))
    }

    /// What was read from these logs, `records` first.
    fn of((records, manifests): (Log, Log), version: u32, boot_id: &str, tables: Tables) -> Self {
        Self {
            records,
            manifests,
            boot_id: boot_id.to_owned(),
            version,
            written: tables.read,
            is_partial: false,
            actions: tables.actions,
            files: tables.files,
            tools: tables.tools,
            stores: tables.stores,
            leases: tables.leases,
            histories: tables.histories,
        }
    }

    /// The action whose first output has this path.
    pub fn action(&self, path: &str) -> Option<&ActionRecord> {
        self.actions.get(path)
    }

    /// All actions.
    pub fn actions(&self) -> impl Iterator<Item = (&str, &ActionRecord)> {
        self.actions.iter().map(|(path, record)| (path.as_str(), record))
    }

    /// What the file at this path holds.
    pub fn file(&self, path: &str) -> Option<&FileRecord> {
        self.files.get(path)
    }

    /// A host program.
    pub fn tool(&self, name: &str) -> Option<&ToolRecord> {
        self.tools.get(name)
    }

    /// Records that the action is about to write these outputs, unless they are known to be its own. To be flushed
    /// before it does: of a build that is killed nothing else may be left to tell of them.
    pub fn record_begun(&mut self, action: ActionName<'_>, outputs: impl Iterator<Item = WsPath>) {
        // Those made elsewhere and never brought here have no record of a file by which they would be looked at.
        let outputs: Vec<(bool, WsPath)> = outputs.map(|path| (self.files.contains_key(&path), path)).collect();
        let record = self.entry(action);
        let made = record.results.first().map(|result| &result.outputs[..]).unwrap_or_default();
        let before = record.begun.len();
        for (is_known, path) in outputs {
            let is_own = is_known && made.iter().any(|output| output.path == path);
            if !is_own && !record.begun.contains(&path) {
                record.begun.push(path);
            }
        }
        if record.begun.len() != before {
            self.append_action(action.path);
        }
    }

    /// Outputs of an action that nobody declares any more and that may lie there. Its results stay: their outputs may be
    /// declared again.
    pub fn forget_undeclared(&mut self, action: &str, is_declared: impl Fn(&WsPath) -> bool) -> Vec<WsPath> {
        let Some(record) = self.actions.get_mut(action) else { return Vec::new() };
        let outputs = record.results.iter().flat_map(|result| &result.outputs).map(|output| &output.path);
        let made = outputs.filter(|path| self.files.contains_key(*path));
        let mut gone: Vec<WsPath> = made.chain(&record.begun).cloned().collect();
        gone.retain(|path| !is_declared(path));
        gone.sort_unstable();
        gone.dedup();
        let before = record.begun.len();
        record.begun.retain(is_declared);
        if record.begun.len() != before {
            self.append_action(action);
        }
        gone
    }

    /// Records a result: it becomes the newest one of the action, an equal key is replaced.
    ///
    /// Stores that hold the same outputs under that key go on holding them.
    pub fn record_result(&mut self, action: ActionName<'_>, mut result: ResultRecord, wall: Duration, max_rss: u64) {
        let record = self.entry(action);
        let same = record.results.iter().filter(|old| old.key == result.key && old.outputs == result.outputs);
        let held: Vec<StoreId> = same.flat_map(|old| &old.held_by).copied().collect();
        result.held_by.extend(held.into_iter().filter(|store| !result.held_by.contains(store)).collect::<Vec<_>>());
        record.begun.retain(|path| result.outputs.iter().all(|output| output.path != *path));
        record.results.retain(|old| old.key != result.key);
        record.results.insert(0, result);
        record.results.truncate(KEPT_RESULTS);
        record.failed = false;
        record.wall_ms = u32::try_from(wall.as_millis()).unwrap_or(u32::MAX);
        record.max_rss = max_rss;
        self.append_action(action.path);
    }

    /// Records that the result with `old` key is also that of `new`: only unread inputs changed. It becomes the
    /// newest.
    pub fn record_same_result(&mut self, action: &str, index: usize, new: ResultRecord) {
        let Some(record) = self.actions.get_mut(action) else { return };
        if index >= record.results.len() {
            return;
        }
        record.results.remove(index);
        record.results.retain(|old| old.key != new.key);
        record.results.insert(0, new);
        self.append_action(action);
    }

    /// Makes a kept result the newest.
    pub fn promote_result(&mut self, action: &str, index: usize) {
        let Some(record) = self.actions.get_mut(action) else { return };
        if index == 0 || index >= record.results.len() {
            return;
        }
        let result = record.results.remove(index);
        record.results.insert(0, result);
        self.append_action(action);
    }

    /// Records that the action's last run failed, and may have left something at these places; its results stay.
    pub fn record_failure(&mut self, action: ActionName<'_>, outputs: impl Iterator<Item = WsPath>) {
        let record = self.entry(action);
        record.failed = true;
        record.add_begun(outputs);
        self.append_action(action.path);
    }

    /// Records that a run of the action was stopped, and may have left something at these places.
    pub(crate) fn record_stop(&mut self, action: ActionName<'_>, outputs: impl Iterator<Item = WsPath>) {
        self.entry(action).add_begun(outputs);
        self.append_action(action.path);
    }

    /// What a run left at these places is gone. Written with the next record of the action, which its end brings.
    pub(crate) fn clear_begun(&mut self, action: &str, paths: &[WsPath]) {
        if let Some(record) = self.actions.get_mut(action) {
            record.begun.retain(|begun| !paths.contains(begun));
        }
    }

    /// What a run that became no result left at this place is removed.
    pub(crate) fn forget_begun(&mut self, action: &str, path: &WsPath) {
        let Some(record) = self.actions.get_mut(action) else { return };
        let before = record.begun.len();
        record.begun.retain(|begun| begun != path);
        if record.begun.len() != before {
            self.append_action(action);
        }
    }

    /// Forgets one result of an action: it is not to be relied on any more.
    pub fn forget_result(&mut self, action: &str, key: &Digest) {
        let Some(record) = self.actions.get_mut(action) else { return };
        let before = record.results.len();
        record.results.retain(|result| result.key != *key);
        if record.results.len() != before {
            self.append_action(action);
        }
    }

    /// The id of the store of that name, the same in later builds.
    pub fn store_id(&mut self, name: &str) -> StoreId {
        let index = self.stores.iter().position(|known| known == name).unwrap_or_else(|| {
            self.append(&Record::Store(name.to_owned()));
            self.stores.push(name.to_owned());
            self.stores.len() - 1
        });
        StoreId(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// The endpoint of a store, with which its name begins.
    pub fn endpoint_of(&self, store: StoreId) -> Option<String> {
        self.stores.get(store.0 as usize)?.split_whitespace().next().map(str::to_owned)
    }

    /// When the store was last asked for all that only it has, in seconds since the Unix epoch.
    pub fn lease(&self, store: StoreId) -> Option<u64> {
        self.leases.get(&store).copied()
    }

    /// Records that it was.
    pub fn record_lease(&mut self, store: StoreId, unix: u64) {
        self.append(&Record::Lease(store, unix));
        self.leases.insert(store, unix);
    }

    /// What earlier builds learnt of the remote side that the store belongs to.
    pub fn history(&self, store: StoreId) -> Option<&History> {
        self.histories.get(&store).map(|history| &**history)
    }

    /// Records it, if it is another.
    pub fn record_history(&mut self, store: StoreId, history: History) {
        if self.histories.get(&store).is_none_or(|known| **known != history) {
            let history = Box::new(history);
            self.append(&Record::History(store, history.clone()));
            self.histories.insert(store, history);
        }
    }

    /// Notes how an action ran; kept with what is recorded of it next.
    pub fn note_sides(&mut self, action: ActionName<'_>, times: ActionHistory, sides: Vec<SideRecord>) {
        let record = self.entry(action);
        (record.times, record.sides) = (times, sides);
    }

    /// Whether `store` holds what the action made under `key`, from now on.
    pub fn set_held(&mut self, action: &str, key: &Digest, store: StoreId, is_held: bool) {
        let Some(record) = self.actions.get_mut(action) else { return };
        let Some(result) = record.results.iter_mut().find(|result| result.key == *key) else { return };
        if result.held_by.contains(&store) == is_held {
            return;
        }
        result.held_by.retain(|known| *known != store);
        result.held_by.extend(is_held.then_some(store));
        self.append_action(action);
    }

    fn entry(&mut self, action: ActionName<'_>) -> &mut ActionRecord {
        let record = self.actions.entry(action.path.to_owned()).or_default();
        if record.package != action.package {
            record.package = action.package.to_owned();
        }
        record
    }

    /// Forgets an action that no target declares any more.
    pub fn forget_action(&mut self, action: &str) {
        if self.actions.remove(action).is_some() {
            self.append(&Record::ForgetAction(action.to_owned()));
        }
    }

    /// Records what a file holds.
    pub fn record_file(&mut self, path: &WsPath, record: FileRecord) {
        if self.files.get(path) != Some(&record) {
            let record = Record::File(path.clone(), record);
            self.append(&record);
            if let Record::File(path, record) = record {
                self.files.insert(path, record);
            }
        }
    }

    /// Records what a file holds that was looked at anew. One that holds what it held came to be there as before.
    pub fn record_seen(&mut self, path: &WsPath, content: Content, stamps: Vec<Stamp>) {
        let known = self.files.get(path).filter(|known| known.content == content);
        let origin = known.map(|known| known.origin).unwrap_or_default();
        self.record_file(path, FileRecord { content, stamps, origin });
    }

    /// Forgets a file.
    pub fn forget_file(&mut self, path: &str) {
        if let Some((path, _)) = self.files.remove_entry(path) {
            self.append(&Record::ForgetFile(path));
        }
    }

    /// Records a host program.
    pub fn record_tool(&mut self, name: &str, record: ToolRecord) {
        self.append(&Record::Tool(name.to_owned(), record.clone()));
        self.tools.insert(name.to_owned(), record);
    }

    /// Keeps a manifest; gives where.
    pub fn record_manifest(&mut self, text: &str) -> u64 {
        self.manifests.append(text.as_bytes())
    }

    /// A manifest kept earlier.
    pub fn manifest(&self, offset: u64) -> Option<String> {
        String::from_utf8(self.manifests.read_at(offset)?).ok()
    }

    /// Bytes that a [`Self::flush`] would write.
    pub fn pending(&self) -> usize {
        self.records.pending() + self.manifests.pending()
    }

    /// Hands all records to the operating system, manifests before what refers to them.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn flush(&mut self) -> io::Result<()> {
        self.manifests.flush()?;
        self.records.flush()
    }

    /// Rewrites logs most of which is superseded, at the end of a build. Sources of which `is_gone` says that nothing lies
    /// at their paths are forgotten: a workspace that lives long would keep a record of each file it ever had.
    ///
    /// # Errors
    /// Those of the operating system; the state stays as it was then.
    pub fn compact(&mut self, is_gone: impl Fn(&WsPath) -> bool) -> io::Result<()> {
        self.flush()?;
        let few = self.tools.len() + self.stores.len() + self.leases.len() + self.histories.len();
        let live = self.actions.len() + self.files.len() + few + 1;
        if self.is_partial || self.written < 1000 + 2 * live {
            return Ok(());
        }
        // An output's record says that something was left at its path, which the sweep needs.
        self.files.retain(|path, _| path.is_at_or_below(OUT_ROOT) || !is_gone(path));
        let live = self.actions.len() + self.files.len() + few + 1;
        self.compact_manifests()?;
        let boot = std::iter::once(Record::Boot(self.boot_id.clone()));
        let actions = self.actions.iter().map(|(path, record)| Record::Action(path.clone(), record.clone()));
        let files = self.files.iter().map(|(path, record)| Record::File(path.clone(), record.clone()));
        let tools = self.tools.iter().map(|(name, record)| Record::Tool(name.clone(), record.clone()));
        let stores = self.stores.iter().map(|name| Record::Store(name.clone()));
        let leases = self.leases.iter().map(|(store, unix)| Record::Lease(*store, *unix));
        let histories = self.histories.iter().map(|(store, history)| Record::History(*store, history.clone()));
        let records = boot.chain(stores).chain(leases).chain(histories).chain(actions).chain(files).chain(tools);
        self.records.rewrite(self.version, records.map(|r| encode(&r)))?;
        self.written = live;
        Ok(())
    }

    /// Offsets change with it, so records are rewritten after it in any case; killed between the two, old offsets
    /// find no manifest (each is checked), which only costs an explanation.
    fn compact_manifests(&mut self) -> io::Result<()> {
        let mut offsets: Vec<u64> =
            self.actions.values().flat_map(|action| action.results.iter().map(|result| result.manifest)).collect();
        offsets.sort_unstable();
        offsets.dedup();
        let texts: Vec<Vec<u8>> = offsets.iter().map(|&at| self.manifests.read_at(at).unwrap_or_default()).collect();
        let moved = self.manifests.rewrite(self.version, texts.into_iter())?;
        let moved: FxHashMap<u64, u64> = offsets.into_iter().zip(moved).collect();
        for result in self.actions.values_mut().flat_map(|action| &mut action.results) {
            result.manifest = moved.get(&result.manifest).copied().unwrap_or_default();
        }
        Ok(())
    }

    fn append_action(&mut self, action: &str) {
        if let Some(record) = self.actions.get(action) {
            let record = Record::Action(action.to_owned(), record.clone());
            self.append(&record);
        }
    }

    fn append(&mut self, record: &Record) {
        self.records.append(&encode(record));
        self.written += 1;
    }
}

/// Digests of one function mean nothing to another: a state is of one.
fn version(function: DigestFunction) -> u32 {
    match function {
        DigestFunction::Sha256 => VERSION,
        DigestFunction::Blake3 => VERSION | 1 << 31,
    }
}

fn encode(record: &Record) -> Vec<u8> {
    // Encoding to memory fails for no type used here; an empty record would be passed over when read.
    postcard::to_allocvec(record).unwrap_or_default()
}

fn warnings(opened: &Opened, unreadable: usize) -> Vec<String> {
    let mut warnings = Vec::new();
    match opened {
        Opened::New | Opened::Whole => {}
        Opened::Torn(bytes) => {
            warnings.push(format!("the state was cut off while it was written; {bytes} bytes of it are dropped"));
        }
        Opened::Foreign => warnings.push(
            "the state is of another version of minibuild, of another digest function, or damaged; it is dropped and \
             everything is checked anew"
                .to_owned(),
        ),
    }
    if unreadable > 0 {
        warnings.push(format!("{unreadable} records of the state cannot be read and are dropped"));
    }
    warnings
}

#[derive(Default)]
struct Tables {
    boot_id: String,
    read: usize,
    unreadable: usize,
    actions: FxHashMap<String, ActionRecord>,
    files: FxHashMap<WsPath, FileRecord>,
    tools: FxHashMap<String, ToolRecord>,
    stores: Vec<String>,
    leases: FxHashMap<StoreId, u64>,
    histories: FxHashMap<StoreId, Box<History>>,
}

impl Tables {
    fn read(&mut self, bytes: &[u8]) {
        self.read += 1;
        let Ok(record) = postcard::from_bytes::<Record>(bytes) else {
            self.unreadable += 1;
            return;
        };
        match record {
            Record::Boot(id) => {
                self.boot_id = id;
                self.distrust_stamps();
            }
            Record::Action(path, record) => drop(self.actions.insert(path, record)),
            Record::ForgetAction(path) => drop(self.actions.remove(&path)),
            Record::File(path, record) => drop(self.files.insert(path, record)),
            Record::ForgetFile(path) => drop(self.files.remove(&path)),
            Record::Tool(name, record) => drop(self.tools.insert(name, record)),
            Record::Store(name) => self.stores.push(name),
            Record::Lease(store, unix) => drop(self.leases.insert(store, unix)),
            Record::History(store, history) => drop(self.histories.insert(store, history)),
        }
    }

    /// What was seen under another boot may never have reached the disk.
    fn distrust_stamps(&mut self) {
        for stamp in self.files.values_mut().flat_map(|file| &mut file.stamps) {
            stamp.trusted = false;
        }
        // What it said of its version is still of interest, should the program be the same.
        self.tools.values_mut().for_each(|tool| tool.fingerprint = Fingerprint::default());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const O: ActionName<'_> = ActionName { path: "o", package: "p" };

    fn digest(text: &str) -> Digest {
        DigestFunction::Sha256.digest(text.as_bytes())
    }

    fn path(text: &str) -> WsPath {
        WsPath::new(text).expect("valid path")
    }

    fn result(key: &str) -> ResultRecord {
        let content = Content::File { digest: digest(key), executable: false };
        ResultRecord {
            key: digest(key),
            pruned: Some(PrunedRecord { key: digest("p"), read: vec![path("a.h")] }),
            outputs: vec![OutputMeta { path: path("minibuild-out/bin/o"), content }],
            manifest: 0,
            held_by: Vec::new(),
        }
    }

    fn file(text: &str) -> FileRecord {
        let stamp = Stamp { fingerprint: Fingerprint { size: 1, ..Default::default() }, trusted: true };
        let content = Content::File { digest: digest(text), executable: true };
        FileRecord { content, stamps: vec![stamp], origin: Origin::Made }
    }

    fn open(dir: &Path, boot: &str) -> (State, Vec<String>) {
        State::open(dir, boot, DigestFunction::Sha256).expect("opens")
    }

    fn keys(state: &State) -> Vec<Digest> {
        state.action("o").map(|a| a.results.iter().map(|r| r.key).collect()).unwrap_or_default()
    }

    #[test]
    fn everything_is_there_after_a_restart() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut state, warnings) = open(dir.path(), "b");
        assert_eq!(warnings, Vec::<String>::new());
        let manifest = state.record_manifest("arg\t0\tcc\n");
        state.record_result(O, ResultRecord { manifest, ..result("k") }, Duration::from_millis(7), 9);
        state.record_file(&path("a.c"), file("a"));
        state.record_failure(ActionName { path: "f", package: "p" }, std::iter::empty());
        state.flush().expect("flushes");
        let (again, warnings) = open(dir.path(), "b");
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!(again.action("o"), state.action("o"));
        assert_eq!(again.action("o").map(|a| (a.wall_ms, a.max_rss, a.failed)), Some((7, 9, false)));
        assert!(again.action("f").is_some_and(|a| a.failed));
        assert_eq!(again.file("a.c"), Some(&file("a")));
        assert_eq!(again.manifest(manifest).as_deref(), Some("arg\t0\tcc\n"));
    }

    #[test]
    fn stores_keep_their_ids_and_what_they_hold() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut state, _) = open(dir.path(), "b");
        let (a, b) = (state.store_id("a"), state.store_id("b"));
        assert_ne!(a, b);
        state.record_result(O, result("k"), Duration::ZERO, 0);
        state.set_held("o", &digest("k"), b, true);
        state.set_held("o", &digest("k"), b, true);
        state.set_held("o", &digest("other"), a, true);
        state.flush().expect("flushes");
        let held = |state: &State| state.action("o").map(|a| a.results[0].held_by.clone());
        for _ in 0..2 {
            let (mut state, _) = open(dir.path(), "b");
            assert_eq!((state.store_id("b"), state.store_id("a")), (b, a));
            assert_eq!(held(&state), Some(vec![b]));
            state.written = 10_000;
            state.compact(|_| false).expect("compacts");
        }
        let (mut state, _) = open(dir.path(), "b");
        state.set_held("o", &digest("k"), b, false);
        assert_eq!(held(&state), Some(vec![]));
    }

    #[test]
    fn four_results_are_kept_newest_first() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut state, _) = open(dir.path(), "b");
        for key in ["1", "2", "3", "4", "5", "3"] {
            state.record_result(O, result(key), Duration::ZERO, 0);
        }
        assert_eq!(keys(&state), ["3", "5", "4", "2"].map(digest));
        state.promote_result("o", 2);
        assert_eq!(keys(&state), ["4", "3", "5", "2"].map(digest));
        state.record_same_result("o", 0, result("6"));
        assert_eq!(keys(&state), ["6", "3", "5", "2"].map(digest));
    }

    #[test]
    fn outputs_are_remembered_from_the_start_of_a_run() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let name = ActionName { path: "minibuild-out/bin/a", package: "" };
        let (mut state, _) = open(dir.path(), "b");
        state.record_begun(name, [path("minibuild-out/bin/a"), path("minibuild-out/bin/b")].into_iter());
        state.flush().expect("flushes");
        let (mut state, _) = open(dir.path(), "b");
        assert_eq!(state.forget_undeclared(name.path, |_| true), []);
        let is_a = |p: &WsPath| p.as_str() == "minibuild-out/bin/a";
        assert_eq!(state.forget_undeclared(name.path, is_a), [path("minibuild-out/bin/b")]);
        assert_eq!(state.forget_undeclared(name.path, is_a), []);
        state.record_result(name, result("1"), Duration::ZERO, 0);
        let made: Vec<WsPath> = result("1").outputs.iter().map(|output| output.path.clone()).collect();
        state.record_file(&made[0], file("1"));
        state.flush().expect("flushes");
        let pending = state.pending();
        state.record_begun(name, made.iter().cloned());
        assert_eq!(state.pending(), pending, "what it made before is known to be its own");
        state.forget_file(made[0].as_str());
        state.record_begun(name, made.iter().cloned());
        let begun = state.action(name.path).map(|record| record.begun.contains(&made[0]));
        assert_eq!(begun, Some(true), "it was made elsewhere");
        assert_eq!(state.forget_undeclared(name.path, |p| !made.contains(p)), made);
        assert_eq!(state.forget_undeclared(name.path, |p| !made.contains(p)), [], "nothing of it lies there");
        assert_eq!(state.action(name.path).map(|record| record.results.len()), Some(1), "it may be declared again");
    }

    #[test]
    fn another_boot_makes_stamps_untrusted_and_keeps_contents() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut state, _) = open(dir.path(), "one");
        state.record_file(&path("a.c"), file("a"));
        state.flush().expect("flushes");
        for _ in 0..2 {
            let (mut state, _) = open(dir.path(), "two");
            let record = state.file("a.c").expect("known");
            assert_eq!(record.content, file("a").content);
            assert!(!record.stamps[0].trusted);
            state.flush().expect("flushes");
        }
    }

    #[test]
    fn tool_of_another_boot_is_looked_at_again_however_late() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut state, _) = open(dir.path(), "one");
        let fingerprint = Fingerprint { ino: 7, ..Default::default() };
        let record = ToolRecord { fingerprint, digest: DigestFunction::Sha256.digest(b"cc"), version: "13".into() };
        state.record_tool("cc", record.clone());
        state.flush().expect("flushes");
        for _ in 0..2 {
            let (mut state, _) = open(dir.path(), "two");
            let expected = ToolRecord { fingerprint: Fingerprint::default(), ..record.clone() };
            assert_eq!(state.tool("cc"), Some(&expected));
            state.flush().expect("flushes");
            assert_eq!(state.index(0).expect("reads").common, [0_u64; 0], "a part of the state does not know it");
        }
    }

    #[test]
    fn compaction_keeps_everything_and_shrinks_the_log() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut state, _) = open(dir.path(), "b");
        let mut manifest = 0;
        for round in 0..2000 {
            manifest = state.record_manifest(&format!("arg\t0\t{round}\n"));
            state.record_result(O, ResultRecord { manifest, ..result("k") }, Duration::ZERO, 0);
        }
        state.compact(|_| false).expect("compacts");
        let size = std::fs::metadata(dir.path().join("records")).expect("exists").len();
        assert!(size < 2000, "{size}");
        let moved = state.action("o").map(|a| a.results[0].manifest).expect("known");
        assert_ne!(moved, manifest);
        state.record_file(&path("a.c"), file("a"));
        state.flush().expect("flushes");
        let (again, warnings) = open(dir.path(), "b");
        assert_eq!(warnings, Vec::<String>::new());
        assert_eq!(again.manifest(moved).as_deref(), Some("arg\t0\t1999\n"));
        assert!(again.file("a.c").is_some());
    }

    #[test]
    fn what_a_run_that_became_no_result_left_is_remembered_until_it_is_removed() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut state, _) = open(dir.path(), "b");
        let outputs = || [path("x"), path("y")].into_iter();
        let begun = |state: &State| state.action("o").map(|record| record.begun.clone()).unwrap_or_default();
        state.record_result(O, result("k"), Duration::ZERO, 0);
        state.record_stop(O, outputs());
        state.record_failure(O, outputs());
        assert_eq!(begun(&state), [path("x"), path("y")]);
        state.forget_begun("o", &path("x"));
        state.flush().expect("flushes");
        assert_eq!(begun(&open(dir.path(), "b").0), [path("y")]);
    }

    #[test]
    fn compaction_forgets_sources_that_are_gone_and_no_outputs() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut state, _) = open(dir.path(), "b");
        for name in ["gone.c", "here.c", "minibuild-out/bin/gone"] {
            state.record_file(&path(name), file(name));
        }
        state.written = 10_000;
        state.compact(|path| path.as_str().contains("gone")).expect("compacts");
        let (state, _) = open(dir.path(), "b");
        let known = ["gone.c", "here.c", "minibuild-out/bin/gone"].map(|name| state.file(name).is_some());
        assert_eq!(known, [false, true, true]);
    }

    #[test]
    fn empty_records_beside_manifests_are_damage() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut state, warnings) = open(dir.path(), "b");
        assert_eq!(warnings, Vec::<String>::new());
        state.record_manifest("arg\t0\tcc\n");
        state.flush().expect("flushes");
        drop(state);
        std::fs::write(dir.path().join("records"), "").expect("writes");
        let (_, warnings) = open(dir.path(), "b");
        assert!(warnings[0].contains("are gone"), "{warnings:?}");
    }

    #[test]
    fn damage_is_dropped_with_a_warning() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (mut state, _) = open(dir.path(), "b");
        state.record_result(O, result("1"), Duration::ZERO, 0);
        state.flush().expect("flushes");
        drop(state);
        let path = dir.path().join("records");
        let whole = std::fs::read(&path).expect("reads");
        std::fs::write(&path, &whole[..whole.len() - 3]).expect("writes");
        let (state, warnings) = open(dir.path(), "b");
        assert!(state.action("o").is_none());
        assert!(warnings[0].contains("cut off"), "{warnings:?}");
        std::fs::write(&path, "rubbish").expect("writes");
        let (_, warnings) = open(dir.path(), "b");
        assert!(warnings[0].contains("another version"), "{warnings:?}");
    }

    proptest! {
        #[test]
        fn records_of_any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut tables = Tables::default();
            tables.read(&bytes);
            prop_assert_eq!(tables.read, 1);
        }
    }
}
