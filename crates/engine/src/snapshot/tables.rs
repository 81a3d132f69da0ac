//! An open snapshot: its columns, read when they are needed, with what later builds changed laid over them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use minibuild_core::{Content, Digest, DigestFunction, Fingerprint, STATE_ROOT};
use rustc_hash::FxHashMap;

use super::details::Details;
use super::file::{SEAL, Sections};
use super::rows::{ActionRow, ArtifactRow, Detail, EXTRA, ExtraRow, Head, NONE, PrintRow, SET, UNKNOWN, is_executable};
use super::tail::{Tail, Update};
use super::{Doubt, Key};

/// Sections in the order of the file.
#[derive(Clone, Copy)]
pub(super) enum Section {
    Head,
    PathEnds,
    Paths,
    Flags,
    Prints,
    Digests,
    FileAt,
    Producers,
    ExtraEnds,
    Extras,
    Order,
    RecordAt,
    Dirty,
    Mnemonics,
    Targets,
    InputEnds,
    Inputs,
    DiscoverableEnds,
    Discoverables,
    OutputEnds,
    Outputs,
    SetEnds,
    SetItems,
    LabelEnds,
    Labels,
    GoalTargets,
    GoalTests,
    GoalEnds,
    GoalItems,
    DetailAt,
    Details,
    UnwantedEnds,
    Unwanted,
}

/// How many there are.
pub(super) const SECTIONS: usize = Section::Unwanted as usize + 1;

/// Bytes of a fingerprint in its column.
pub(super) const PRINT: usize = 48;
/// Bytes of a digest in its column.
pub(super) const DIGEST: usize = 40;

/// Lists of numbers, one after the other.
pub(super) struct Lists {
    ends: Vec<u32>,
    items: Vec<u32>,
}

impl Lists {
    /// The list of row `index`; empty past the end.
    pub fn get(&self, index: usize) -> &[u32] {
        let begin = if index == 0 { 0 } else { self.ends.get(index - 1).copied().unwrap_or_default() };
        let end = self.ends.get(index).copied().unwrap_or_default();
        self.items.get(begin as usize..end as usize).unwrap_or_default()
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }
}

/// Texts, one after the other.
pub(super) struct Texts {
    ends: Vec<u32>,
    text: String,
}

impl Texts {
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|index| self.get(index))
    }

    pub fn get(&self, index: usize) -> &str {
        let begin = if index == 0 { 0 } else { self.ends.get(index - 1).copied().unwrap_or_default() };
        let end = self.ends.get(index).copied().unwrap_or_default();
        self.text.get(begin as usize..end as usize).unwrap_or_default()
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }
}

/// The graph.
pub(super) struct Graph {
    /// Actions and, marked, sets, each after what it needs.
    pub order: Vec<u32>,
    pub inputs: Lists,
    pub discoverables: Lists,
    pub outputs: Lists,
    pub sets: Lists,
    pub producers: Vec<u32>,
    pub targets: Vec<u32>,
}

/// What was asked for.
pub(super) struct Goals {
    pub targets: Vec<u32>,
    /// The test action, or none.
    pub tests: Vec<u32>,
    /// Artifacts each stands for.
    pub items: Lists,
    pub labels: Texts,
}

/// An open snapshot.
pub struct Snapshot {
    pub(super) state_dir: PathBuf,
    pub(super) sections: Sections,
    pub(super) head: Head,
    pub(super) tail: Tail,
    pub(super) paths: Texts,
    pub(super) flags: Vec<u8>,
    prints: Vec<u8>,
    pub(super) dirty: Vec<u8>,
    /// Rows that are not as in the columns.
    pub(super) rows: FxHashMap<u32, ArtifactRow>,
    pub(super) action_rows: FxHashMap<u32, ActionRow>,
    details: FxHashMap<u32, Vec<u8>>,
    /// See [`Update::stranger`].
    pub(super) stranger: Option<String>,
    /// What other builds recorded since, not yet in the tail.
    pub(super) caught_up: Option<Update>,
    digests: OnceLock<Option<Vec<u8>>>,
    file_at: OnceLock<Option<Vec<u64>>>,
    record_at: OnceLock<Option<Vec<u64>>>,
    extras: OnceLock<Option<(Vec<u32>, Vec<u8>)>>,
    pub(super) mnemonics: OnceLock<Option<Vec<u32>>>,
    graph: OnceLock<Option<Graph>>,
    goals: OnceLock<Option<Goals>>,
}

impl Snapshot {
    /// Opens the snapshot of this key in the workspace at `root`, if the state is as it was then, or what was added to it since
    /// can be told.
    ///
    /// # Errors
    /// Why it is of no use.
    pub fn open(root: &Path, key: Key, function: DigestFunction) -> Result<Self, Doubt> {
        let state_dir = &root.join(STATE_ROOT);
        let path = key.path(state_dir);
        let Some(sections) = Sections::open(&path) else {
            return Err(if path.exists() { Doubt::Damaged } else { Doubt::None });
        };
        let mut snapshot = Self::read(state_dir, &path, sections).ok_or(Doubt::Damaged)?;
        if snapshot.head.key != key.0 {
            return Err(Doubt::None);
        }
        snapshot.apply_tail()?;
        if !snapshot.head.mark.is_current(state_dir) {
            snapshot.catch_up(root, function)?;
        }
        let live = snapshot.flags.len() + snapshot.dirty.len();
        if snapshot.head.mark.wants_compaction(live) {
            return Err(Doubt::WantsCompaction);
        }
        Ok(snapshot)
    }

    fn read(state_dir: &Path, path: &Path, sections: Sections) -> Option<Self> {
        let head: Head = postcard::from_bytes(&sections.read(Section::Head as usize)?).ok()?;
        let paths = texts(&sections, Section::PathEnds, Section::Paths)?;
        let flags = sections.read(Section::Flags as usize)?;
        let prints = sections.read(Section::Prints as usize)?;
        let dirty = sections.read(Section::Dirty as usize)?;
        let is_whole = paths.len() == flags.len() && prints.len() == flags.len() * PRINT;
        is_whole.then(|| Self {
            state_dir: state_dir.to_owned(),
            tail: Tail::of(path),
            sections,
            head,
            paths,
            flags,
            prints,
            dirty,
            rows: FxHashMap::default(),
            action_rows: FxHashMap::default(),
            details: FxHashMap::default(),
            stranger: None,
            caught_up: None,
            digests: OnceLock::new(),
            file_at: OnceLock::new(),
            record_at: OnceLock::new(),
            extras: OnceLock::new(),
            mnemonics: OnceLock::new(),
            graph: OnceLock::new(),
            goals: OnceLock::new(),
        })
    }

    fn apply_tail(&mut self) -> Result<(), Doubt> {
        for update in self.tail.read(self.sections.fingerprint())? {
            self.apply(update).ok_or(Doubt::Damaged)?;
        }
        Ok(())
    }

    /// Lays what one build changed over the columns.
    pub(super) fn apply(&mut self, update: Update) -> Option<()> {
        for (index, look) in update.looks {
            *self.head.looks.get_mut(index as usize)? = look;
        }
        for (index, row) in update.artifacts {
            self.lay(index, PrintRow { flags: row.flags, print: row.print })?;
            self.rows.insert(index, row);
        }
        for (index, seen) in update.prints {
            self.lay(index, seen)?;
            if let Some(row) = self.rows.get_mut(&index) {
                (row.flags, row.print) = (seen.flags, seen.print);
            }
        }
        for (index, row) in update.actions {
            *self.dirty.get_mut(index as usize)? = u8::from(row.is_dirty);
            self.action_rows.insert(index, row);
        }
        for (index, detail) in update.details {
            self.dirty.get(index as usize)?;
            self.details.insert(index, detail);
        }
        self.head.common.extend(update.common);
        self.stranger = update.stranger.or(self.stranger.take());
        self.head.mark = update.mark;
        Some(())
    }

    /// How an artifact lies on disk now.
    fn lay(&mut self, index: u32, seen: PrintRow) -> Option<()> {
        *self.flags.get_mut(index as usize)? = seen.flags;
        let at = index as usize * PRINT;
        self.prints.get_mut(at..at + PRINT)?.copy_from_slice(&print_bytes(&seen.print));
        Some(())
    }

    /// Outputs of loaded packages that were not wanted. Read only where a stranger may be one of them.
    pub(super) fn unwanted(&self) -> Result<Texts, Doubt> {
        texts(&self.sections, Section::UnwantedEnds, Section::Unwanted).ok_or(Doubt::Damaged)
    }

    /// Actions of the graph.
    pub fn actions(&self) -> usize {
        self.dirty.len()
    }

    pub(super) fn print(&self, index: usize) -> Fingerprint {
        let at = index * PRINT;
        self.prints.get(at..at + PRINT).and_then(print_of).unwrap_or_default()
    }

    /// Digest of a regular file as it was.
    pub(super) fn digest(&self, index: usize) -> Result<Digest, Doubt> {
        if let Some(row) = self.rows.get(&(index as u32)) {
            return Ok(row.digest);
        }
        let read =
            || self.sections.read(Section::Digests as usize).filter(|all| all.len() == self.flags.len() * DIGEST);
        let all = self.digests.get_or_init(read).as_ref().ok_or(Doubt::Damaged)?;
        let bytes = all.get(index * DIGEST..(index + 1) * DIGEST).ok_or(Doubt::Damaged)?;
        let (hash, size) = bytes.split_at(32);
        let hash = hash.try_into().map_err(|_| Doubt::Damaged)?;
        Ok(Digest { hash, size: size.try_into().map(u64::from_le_bytes).map_err(|_| Doubt::Damaged)? })
    }

    /// Content and stamps of what is no regular file.
    pub(super) fn extra(&self, index: usize) -> Result<ExtraRow, Doubt> {
        if let Some(row) = self.rows.get(&(index as u32)) {
            return row.extra.clone().ok_or(Doubt::Damaged);
        }
        let read = || {
            let ends = self.numbers(Section::ExtraEnds, self.flags.len())?;
            Some((ends, self.sections.read(Section::Extras as usize)?))
        };
        let (ends, bytes) = self.extras.get_or_init(read).as_ref().ok_or(Doubt::Damaged)?;
        let begin = if index == 0 { 0 } else { ends[index - 1] };
        let row = ends.get(index).and_then(|&end| bytes.get(begin as usize..end as usize));
        row.and_then(|row| postcard::from_bytes(row).ok()).ok_or(Doubt::Damaged)
    }

    /// What an artifact was; `None` where its action's result was not known.
    pub(super) fn content(&self, index: usize) -> Result<Option<Content>, Doubt> {
        let flags = self.flags[index];
        if flags & UNKNOWN != 0 {
            return Ok(None);
        }
        if flags & EXTRA != 0 {
            return Ok(Some(self.extra(index)?.content));
        }
        Ok(Some(Content::File { digest: self.digest(index)?, executable: is_executable(flags) }))
    }

    /// Where the state's record of a file lies, 0 for nowhere.
    pub(super) fn file_at(&self, index: usize) -> Result<u64, Doubt> {
        if let Some(row) = self.rows.get(&(index as u32)) {
            return Ok(row.file_at);
        }
        let read = || self.long_numbers(Section::FileAt, self.flags.len());
        self.file_at.get_or_init(read).as_ref().and_then(|all| all.get(index)).copied().ok_or(Doubt::Damaged)
    }

    /// Where the state's record of an action lies, 0 for nowhere.
    pub(super) fn record_at(&self, action: usize) -> Result<u64, Doubt> {
        if let Some(row) = self.action_rows.get(&(action as u32)) {
            return Ok(row.record_at);
        }
        let read = || self.long_numbers(Section::RecordAt, self.actions());
        self.record_at.get_or_init(read).as_ref().and_then(|all| all.get(action)).copied().ok_or(Doubt::Damaged)
    }

    /// What an action is besides its edges; `places` are those of all.
    pub(super) fn detail(&self, action: usize, places: &[u64]) -> Result<Detail, Doubt> {
        let read = || {
            if let Some(bytes) = self.details.get(&(action as u32)) {
                return postcard::from_bytes(bytes).ok();
            }
            let bytes = self.sections.read_sealed(Section::Details as usize, *places.get(action)?)?;
            postcard::from_bytes(&bytes).ok()
        };
        read().ok_or(Doubt::Damaged)
    }

    pub(super) fn detail_places(&self) -> Result<Vec<u64>, Doubt> {
        self.long_numbers(Section::DetailAt, self.actions()).ok_or(Doubt::Damaged)
    }

    /// Whether an action is by its detail what the piece `new` says, where `all` are those of the file.
    pub(super) fn is_detail(&self, action: u32, new: &[u8], all: &Details) -> bool {
        match self.details.get(&action) {
            Some(known) => new.get(SEAL..) == Some(known),
            None => new == all.get(action as usize),
        }
    }

    /// The details of all actions as they stand in the file.
    pub(super) fn written_details(&self) -> Result<Details, Doubt> {
        let bytes = self.sections.read(Section::Details as usize).ok_or(Doubt::Damaged)?;
        Ok(Details { places: self.detail_places()?, bytes })
    }

    pub(super) fn graph(&self) -> Result<&Graph, Doubt> {
        self.graph.get_or_init(|| self.read_graph()).as_ref().ok_or(Doubt::Damaged)
    }

    fn read_graph(&self) -> Option<Graph> {
        let (actions, artifacts) = (self.actions(), self.flags.len());
        let sets = lists(&self.sections, Section::SetEnds, Section::SetItems)?;
        let graph = Graph {
            order: numbers(&self.sections.read(Section::Order as usize)?),
            inputs: lists(&self.sections, Section::InputEnds, Section::Inputs)?,
            discoverables: lists(&self.sections, Section::DiscoverableEnds, Section::Discoverables)?,
            outputs: lists(&self.sections, Section::OutputEnds, Section::Outputs)?,
            producers: self.numbers(Section::Producers, artifacts)?,
            targets: self.numbers(Section::Targets, actions)?,
            sets,
        };
        let sets = graph.sets.len();
        let is_input =
            |&id: &u32| if id & SET == 0 { (id as usize) < artifacts } else { ((id & !SET) as usize) < sets };
        let is_node = |&id: &u32| if id & SET == 0 { (id as usize) < actions } else { ((id & !SET) as usize) < sets };
        let inputs = [&graph.inputs.items, &graph.discoverables.items, &graph.sets.items];
        let checks = [&graph.inputs, &graph.discoverables, &graph.outputs].iter().all(|lists| lists.len() == actions)
            && inputs.iter().all(|items| items.iter().all(is_input))
            && graph.outputs.items.iter().all(|&id| (id as usize) < artifacts)
            && graph.producers.iter().all(|&id| id == NONE || (id as usize) < actions)
            && graph.order.iter().all(is_node)
            && graph.order.len() == actions + sets;
        checks.then_some(graph)
    }

    /// Actions without outputs, which only tests are, with the labels of their targets.
    pub(super) fn tests(&self) -> Result<Vec<(&str, u32)>, Doubt> {
        let (graph, labels) = (self.graph()?, &self.goals()?.labels);
        let tests = (0..self.actions()).filter(|&action| graph.outputs.get(action).is_empty());
        Ok(tests.map(|action| (labels.get(graph.targets[action] as usize), action as u32)).collect())
    }

    pub(super) fn goals(&self) -> Result<&Goals, Doubt> {
        self.goals.get_or_init(|| self.read_goals()).as_ref().ok_or(Doubt::Damaged)
    }

    fn read_goals(&self) -> Option<Goals> {
        let items = lists(&self.sections, Section::GoalEnds, Section::GoalItems)?;
        let labels = texts(&self.sections, Section::LabelEnds, Section::Labels)?;
        let goals = Goals {
            targets: self.numbers(Section::GoalTargets, items.len())?,
            tests: self.numbers(Section::GoalTests, items.len())?,
            items,
            labels,
        };
        let checks = goals.items.items.iter().all(|&id| (id as usize) < self.flags.len())
            && goals.targets.iter().all(|&id| (id as usize) < goals.labels.len())
            && goals.tests.iter().all(|&id| id == NONE || (id as usize) < self.actions());
        checks.then_some(goals)
    }

    pub(super) fn numbers(&self, section: Section, count: usize) -> Option<Vec<u32>> {
        Some(numbers(&self.sections.read(section as usize)?)).filter(|all| all.len() == count)
    }

    fn long_numbers(&self, section: Section, count: usize) -> Option<Vec<u64>> {
        let bytes = self.sections.read(section as usize)?;
        let (all, rest) = bytes.as_chunks::<8>();
        (all.len() == count && rest.is_empty()).then(|| all.iter().map(|word| u64::from_le_bytes(*word)).collect())
    }
}

fn numbers(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

fn is_rising(ends: &[u32], length: usize) -> bool {
    ends.is_sorted() && ends.last().copied().unwrap_or_default() as usize == length
}

fn lists(sections: &Sections, ends: Section, items: Section) -> Option<Lists> {
    let lists =
        Lists { ends: numbers(&sections.read(ends as usize)?), items: numbers(&sections.read(items as usize)?) };
    is_rising(&lists.ends, lists.items.len()).then_some(lists)
}

fn texts(sections: &Sections, ends: Section, text: Section) -> Option<Texts> {
    let text = String::from_utf8(sections.read(text as usize)?).ok()?;
    let texts = Texts { ends: numbers(&sections.read(ends as usize)?), text };
    is_rising(&texts.ends, texts.text.len()).then_some(texts)
}

/// What artifacts are ordered by: directory and name.
pub(super) fn place(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// A fingerprint as it stands in its column.
pub(super) fn print_bytes(print: &Fingerprint) -> [u8; PRINT] {
    let Fingerprint { dev, ino, size, mode, mtime_ns, ctime_ns } = *print;
    let words = [
        dev,
        ino,
        size,
        u64::from(mode),
        u64::from_le_bytes(mtime_ns.to_le_bytes()),
        u64::from_le_bytes(ctime_ns.to_le_bytes()),
    ];
    let mut bytes = [0; PRINT];
    for (slot, word) in bytes.chunks_exact_mut(8).zip(words) {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn print_of(bytes: &[u8]) -> Option<Fingerprint> {
    let [dev, ino, size, mode, mtime, ctime] = bytes.as_chunks::<8>().0 else { return None };
    Some(Fingerprint {
        dev: u64::from_le_bytes(*dev),
        ino: u64::from_le_bytes(*ino),
        size: u64::from_le_bytes(*size),
        mode: u32::try_from(u64::from_le_bytes(*mode)).ok()?,
        mtime_ns: i64::from_le_bytes(*mtime),
        ctime_ns: i64::from_le_bytes(*ctime),
    })
}
