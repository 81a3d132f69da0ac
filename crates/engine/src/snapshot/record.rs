//! Writing a snapshot: the whole one after a full build, and what a part changed after that.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use minibuild_core::{ActionId, ArtifactId, ArtifactKind, Content, Input, Model, SetId};
use minibuild_disk::Look;
use minibuild_graph::NodeKind;
use rustc_hash::FxHashMap;

use super::file::{Writer, sealed};
use super::rows::{ActionRow, ArtifactRow, Detail, Head, NONE, SET, ToolRow};
use super::tables::{DIGEST, PRINT, SECTIONS, print_bytes};
use super::tail::{Tail, Update};
use super::{Changes, KEPT, Key, PREFIX, Part, Snapshot};
use crate::machine::Ended;
use crate::state::{Index, Mark};
use crate::tools;

/// What goes into a snapshot besides what the engine knows.
pub struct Remembered<'a> {
    /// Its name.
    pub key: Key,
    /// Everything the loader was told.
    pub looks: Vec<Look>,
    /// `[env]` with `PATH`.
    pub env: &'a BTreeMap<String, String>,
    /// The workspace root.
    pub root: &'a Path,
    /// The state's directory.
    pub state_dir: &'a Path,
}

/// Writes a snapshot of a build that is over. None is written of builds that a snapshot cannot tell of: with sources that are
/// symlinks or cannot be used, or host tools that were looked at too soon after they were written.
///
/// # Errors
/// Those of the operating system: then there is none.
pub fn remember(remembered: Remembered<'_>, ended: &mut Ended<'_>) -> io::Result<()> {
    let path = remembered.key.path(remembered.state_dir);
    let Some(looks) = usable(&remembered.looks) else { return Ok(()) };
    let mark = ended.state().mark()?;
    let index = ended.state().index(0)?;
    let model = ended.model();
    let plan = Plan::new(&model, ended);
    let Some(rows) = plan.artifact_rows(&model, ended, &index) else { return Ok(()) };
    let Some(tools) = tool_rows(&model, &plan, &remembered, ended) else { return Ok(()) };
    let mut mnemonics = Names::default();
    let of_actions: Vec<u32> = plan.actions.iter().map(|&id| mnemonics.id(&model.action(id).mnemonic)).collect();
    let head = Head {
        key: remembered.key.0,
        looks,
        tools,
        env: remembered.env.clone(),
        mnemonics: mnemonics.all,
        mark,
        common: index.common.clone(),
    };
    let mut writer = Writer::create(&path, SECTIONS)?;
    writer.section(&postcard::to_allocvec(&head).map_err(io::Error::other)?)?;
    plan.write_artifacts(&model, &rows, &mut writer)?;
    plan.write_actions(&model, ended, &index, &of_actions, &mut writer)?;
    plan.write_goals(&model, ended, &mut writer)?;
    plan.write_details(&model, ended, remembered.env, &mut writer)?;
    Tail::of(&path).remove()?;
    writer.finish(&path)?;
    forget_old(remembered.state_dir);
    Ok(())
}

/// Looks that a later build can repeat.
fn usable(looks: &[Look]) -> Option<Vec<Look>> {
    let is_refused = |look: &Look| matches!(look.answer, minibuild_disk::Answer::Refused);
    (!looks.iter().any(is_refused)).then(|| looks.to_vec())
}

/// Keeps the snapshots of the last requests.
fn forget_old(state_dir: &Path) {
    let Ok(listing) = std::fs::read_dir(state_dir) else { return };
    let is_ours = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        name.to_str().is_some_and(|name| name.starts_with(PREFIX) && !name.contains('.'))
    };
    let age = |entry: &std::fs::DirEntry| entry.metadata().and_then(|meta| meta.modified()).ok();
    let mut all: Vec<_> = listing.flatten().filter(is_ours).map(|entry| (age(&entry), entry.path())).collect();
    all.sort();
    for (_, path) in all.iter().rev().skip(KEPT) {
        // One that cannot be removed is one too many, no more.
        let _ = std::fs::remove_file(path);
        let _ = Tail::of(path).remove();
    }
}

fn tool_rows(model: &Model, plan: &Plan, remembered: &Remembered<'_>, ended: &Ended<'_>) -> Option<Vec<ToolRow>> {
    let mut is_used = vec![false; model.host_tools.len()];
    for id in plan.actions.iter().flat_map(|&id| &model.action(id).host_tools) {
        is_used[id.index()] = true;
    }
    let row = |(index, is_used): (usize, bool)| {
        let tool = &model.host_tools[index];
        let trace = if is_used {
            let trace = tools::trace(tool, remembered.env, remembered.root);
            let fact = ended.tool(minibuild_core::HostToolId::new(index))?;
            let is_known = match (&trace, fact.digest) {
                (Some(trace), Some(_)) => trace.is_recorded(tool, ended.read_state()),
                (None, None) => true,
                _ => false,
            };
            Some(is_known.then_some(trace)?)
        } else {
            None
        };
        let version_args = tool.version_args.iter().map(ToString::to_string).collect();
        Some(ToolRow { program: tool.program.to_string(), version_args, trace })
    };
    is_used.into_iter().enumerate().map(row).collect()
}

/// Words, each once.
#[derive(Default)]
struct Names {
    all: Vec<String>,
    ids: FxHashMap<String, u32>,
}

impl Names {
    fn id(&mut self, name: &str) -> u32 {
        if let Some(&known) = self.ids.get(name) {
            return known;
        }
        let id = number(self.all.len());
        self.all.push(name.to_owned());
        self.ids.insert(name.to_owned(), id);
        id
    }
}

/// Which rows a snapshot has, and in which order.
struct Plan {
    /// Wanted actions, each after what it needs; their rows.
    actions: Vec<ActionId>,
    new_actions: Vec<u32>,
    /// Actions and, marked, sets.
    order: Vec<u32>,
    sets: Vec<SetId>,
    new_sets: Vec<u32>,
    /// Sorted by directory and name.
    artifacts: Vec<ArtifactId>,
    new_artifacts: Vec<u32>,
    targets: Vec<minibuild_core::TargetId>,
    new_targets: Vec<u32>,
}

impl Plan {
    fn new(model: &Model, ended: &Ended<'_>) -> Self {
        let mut plan = Self {
            actions: Vec::new(),
            new_actions: vec![NONE; model.actions.len()],
            order: Vec::new(),
            sets: Vec::new(),
            new_sets: vec![NONE; model.sets.len()],
            artifacts: Vec::new(),
            new_artifacts: vec![NONE; model.artifacts.len()],
            targets: Vec::new(),
            new_targets: vec![NONE; model.targets.len()],
        };
        for node in ended.order() {
            match node {
                NodeKind::Action(id) => {
                    plan.order.push(number(plan.actions.len()));
                    plan.new_actions[id.index()] = number(plan.actions.len());
                    plan.actions.push(id);
                    let action = model.action(id);
                    plan.take_inputs(action.inputs.iter().chain(&action.discoverable));
                    action.outputs.iter().for_each(|&output| plan.take(output));
                    plan.take_target(action.target);
                }
                NodeKind::Set(id) => {
                    plan.order.push(number(plan.sets.len()) | SET);
                    plan.new_sets[id.index()] = number(plan.sets.len());
                    plan.sets.push(id);
                    plan.take_inputs(model.sets[id.index()].items.iter());
                }
            }
        }
        for goal in &ended.goals().targets {
            goal.artifacts.iter().for_each(|&id| plan.take(id));
            plan.take_target(goal.target);
        }
        plan.number_artifacts(model);
        plan
    }

    fn take_inputs<'i>(&mut self, inputs: impl Iterator<Item = &'i Input>) {
        for input in inputs {
            if let Input::Artifact(id) = input {
                self.take(*id);
            }
        }
    }

    fn take(&mut self, id: ArtifactId) {
        if std::mem::replace(&mut self.new_artifacts[id.index()], 0) == NONE {
            self.artifacts.push(id);
        }
    }

    fn take_target(&mut self, id: minibuild_core::TargetId) {
        if self.new_targets[id.index()] == NONE {
            self.new_targets[id.index()] = number(self.targets.len());
            self.targets.push(id);
        }
    }

    fn number_artifacts(&mut self, model: &Model) {
        fn place(model: &Model, id: ArtifactId) -> (&str, &str) {
            let path = model.artifact(id).path.as_str();
            path.rsplit_once('/').unwrap_or(("", path))
        }
        self.artifacts.sort_unstable_by(|&a, &b| place(model, a).cmp(&place(model, b)));
        for (new, &id) in self.artifacts.iter().enumerate() {
            self.new_artifacts[id.index()] = number(new);
        }
    }

    /// `None` where one of them is nothing a snapshot can tell of.
    fn artifact_rows(&self, model: &Model, ended: &Ended<'_>, index: &Index) -> Option<Vec<ArtifactRow>> {
        let is_settled: Vec<bool> = self.actions.iter().map(|&id| ended.is_settled(id)).collect();
        let row = |&id: &ArtifactId| {
            let is_known = match model.artifact(id).producer {
                Some(producer) => *is_settled.get(self.new_actions[producer.index()] as usize)?,
                None => true,
            };
            artifact_row(id, model, ended, index, is_known, 0)
        };
        self.artifacts.iter().map(row).collect()
    }

    fn write_artifacts(&self, model: &Model, rows: &[ArtifactRow], writer: &mut Writer) -> io::Result<()> {
        write_texts(writer, self.artifacts.iter().map(|&id| model.artifact(id).path.as_str()))?;
        let flags: Vec<u8> = rows.iter().map(|row| row.flags).collect();
        writer.section(&flags)?;
        let mut prints = Vec::with_capacity(rows.len() * PRINT);
        rows.iter().for_each(|row| prints.extend_from_slice(&print_bytes(&row.print)));
        writer.section(&prints)?;
        let mut digests = Vec::with_capacity(rows.len() * DIGEST);
        for row in rows {
            digests.extend_from_slice(&row.digest.hash);
            digests.extend_from_slice(&row.digest.size.to_le_bytes());
        }
        writer.section(&digests)?;
        write_long_numbers(writer, rows.iter().map(|row| row.file_at))?;
        let producer = |&id: &ArtifactId| model.artifact(id).producer.map_or(NONE, |id| self.new_actions[id.index()]);
        write_numbers(writer, self.artifacts.iter().map(producer))?;
        let (mut ends, mut extras) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            if let Some(extra) = &row.extra {
                extras.extend(postcard::to_allocvec(extra).map_err(io::Error::other)?);
            }
            ends.push(number(extras.len()));
        }
        write_numbers(writer, ends.into_iter())?;
        writer.section(&extras)
    }

    fn write_actions(
        &self,
        model: &Model,
        ended: &Ended<'_>,
        index: &Index,
        mnemonics: &[u32],
        writer: &mut Writer,
    ) -> io::Result<()> {
        let rows: Vec<ActionRow> = self.actions.iter().map(|&id| action_row(id, model, ended, index, 0)).collect();
        let actions = || self.actions.iter().map(|&id| model.action(id));
        write_numbers(writer, self.order.iter().copied())?;
        write_long_numbers(writer, rows.iter().map(|row| row.record_at))?;
        let dirty: Vec<u8> = rows.iter().map(|row| u8::from(row.is_dirty)).collect();
        writer.section(&dirty)?;
        write_numbers(writer, mnemonics.iter().copied())?;
        write_numbers(writer, actions().map(|action| self.new_targets[action.target.index()]))?;
        write_lists(writer, actions().map(|action| self.inputs(&action.inputs)))?;
        write_lists(writer, actions().map(|action| self.inputs(&action.discoverable)))?;
        write_lists(writer, actions().map(|action| self.ids(&action.outputs)))?;
        write_lists(writer, self.sets.iter().map(|&id| self.inputs(&model.sets[id.index()].items)))
    }

    fn write_goals(&self, model: &Model, ended: &Ended<'_>, writer: &mut Writer) -> io::Result<()> {
        let goals = &ended.goals().targets;
        let labels: Vec<String> = self.targets.iter().map(|&id| model.target(id).label.to_string()).collect();
        write_texts(writer, labels.iter().map(String::as_str))?;
        write_numbers(writer, goals.iter().map(|goal| self.new_targets[goal.target.index()]))?;
        write_numbers(writer, goals.iter().map(|goal| goal.test.map_or(NONE, |id| self.new_actions[id.index()])))?;
        write_lists(writer, goals.iter().map(|goal| self.ids(&goal.artifacts)))
    }

    fn write_details(
        &self,
        model: &Model,
        ended: &Ended<'_>,
        env: &BTreeMap<String, String>,
        writer: &mut Writer,
    ) -> io::Result<()> {
        // Places come first in the file, and are known only afterwards: sizes are small enough to be kept.
        let commands = ended.commands();
        let (mut at, mut places, mut details) = (0, Vec::with_capacity(self.actions.len()), Vec::new());
        for &id in &self.actions {
            let detail = Detail::new(model.action(id), commands.work(id), env);
            details.extend(sealed(&postcard::to_allocvec(&detail).map_err(io::Error::other)?));
            places.push(at);
            at = details.len() as u64;
        }
        write_long_numbers(writer, places.into_iter())?;
        writer.section(&details)
    }

    fn ids(&self, ids: &[ArtifactId]) -> Vec<u32> {
        ids.iter().map(|id| self.new_artifacts[id.index()]).collect()
    }

    fn inputs(&self, inputs: &[Input]) -> Vec<u32> {
        let id = |input: &Input| match input {
            Input::Artifact(id) => self.new_artifacts[id.index()],
            Input::Set(id) => self.new_sets[id.index()] | SET,
        };
        inputs.iter().map(id).collect()
    }
}

/// What is known of an artifact in the end; `None` where a snapshot cannot tell of it. `before` is where the state's
/// record lay, should there be no newer one.
fn artifact_row(
    id: ArtifactId,
    model: &Model,
    ended: &Ended<'_>,
    index: &Index,
    is_known: bool,
    before: u64,
) -> Option<ArtifactRow> {
    let artifact = model.artifact(id);
    let content = ended.content(id).filter(|_| is_known);
    let here = ended.here(id).filter(|_| is_known);
    if artifact.kind == ArtifactKind::Source && (here.is_none() || !matches!(content, Some(Content::File { .. }))) {
        return None;
    }
    let record = ended.read_state().file(artifact.path.as_str());
    let stamps = record.filter(|record| Some(&record.content) == content).map(|record| &record.stamps[..]);
    let file_at = index.files.get(artifact.path.as_str()).copied().unwrap_or(before);
    Some(ArtifactRow::new(artifact.kind, content, here, stamps, file_at))
}

fn action_row(id: ActionId, model: &Model, ended: &Ended<'_>, index: &Index, before: u64) -> ActionRow {
    let record_at = index.actions.get(&model.action_key_path(id)).copied().unwrap_or(before);
    ActionRow { record_at, is_dirty: !ended.is_settled(id) }
}

impl Snapshot {
    /// Remembers what a check found to be the same under other fingerprints.
    ///
    /// # Errors
    /// Those of the operating system; the snapshot stays as it was.
    pub fn keep(&self, changes: Changes) -> io::Result<()> {
        if changes.artifacts.is_empty() && changes.looks.is_empty() && self.caught_up.is_none() {
            return Ok(());
        }
        self.tail.add(&self.update(changes, self.head.mark))
    }

    fn update(&self, changes: Changes, mark: Mark) -> Update {
        let base = self.sections.fingerprint();
        let mut update = self.caught_up.clone().unwrap_or_else(|| Update::new(base, mark));
        update.mark = mark;
        // The last row of a thing counts.
        update.artifacts.extend(changes.artifacts);
        update.looks.extend(changes.looks);
        update
    }

    /// Remembers what the build of a part made of it. Where that cannot be told, the snapshot is not of the state any more
    /// and no later build uses it.
    ///
    /// # Errors
    /// Those of the operating system, with the same consequence.
    pub fn keep_part(&self, part: &PartRows, changes: Changes, ended: &mut Ended<'_>) -> io::Result<()> {
        let mark = ended.state().mark()?;
        let index = ended.state().index(part.end)?;
        let model = ended.model();
        let mut update = self.update(changes, mark);
        update.common.extend(&index.common);
        for (new, &old) in part.artifacts.iter().enumerate() {
            let id = ArtifactId::new(new);
            let producer = model.artifact(id).producer;
            if producer.is_none() && part.known[new] {
                continue;
            }
            let before = self.file_at(old as usize).map_err(io::Error::other)?;
            let is_known = producer.is_none_or(|action| ended.is_settled(action));
            let Some(row) = artifact_row(id, &model, ended, &index, is_known, before) else { return Ok(()) };
            update.artifacts.push((old, row));
        }
        for (new, &old) in part.actions.iter().enumerate() {
            let before = self.record_at(old as usize).map_err(io::Error::other)?;
            update.actions.push((old, action_row(ActionId::new(new), &model, ended, &index, before)));
        }
        self.tail.add(&update)
    }
}

/// Which rows of a snapshot a part is made of.
pub struct PartRows {
    artifacts: Vec<u32>,
    /// Those that are not the part's own.
    known: Vec<bool>,
    actions: Vec<u32>,
    end: u64,
}

impl Part {
    /// Which rows of the snapshot it is made of.
    pub fn rows(&self) -> PartRows {
        let known = (0..self.artifacts.len()).map(|new| self.known.contains_key(&ArtifactId::new(new))).collect();
        PartRows { artifacts: self.artifacts.clone(), known, actions: self.actions.clone(), end: self.end }
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(NONE)
}

fn write_numbers(writer: &mut Writer, numbers: impl Iterator<Item = u32>) -> io::Result<()> {
    let bytes: Vec<u8> = numbers.flat_map(u32::to_le_bytes).collect();
    writer.section(&bytes)
}

fn write_long_numbers(writer: &mut Writer, numbers: impl Iterator<Item = u64>) -> io::Result<()> {
    let bytes: Vec<u8> = numbers.flat_map(u64::to_le_bytes).collect();
    writer.section(&bytes)
}

fn write_lists(writer: &mut Writer, lists: impl Iterator<Item = Vec<u32>>) -> io::Result<()> {
    let (mut ends, mut items) = (Vec::new(), Vec::new());
    for list in lists {
        items.extend(list);
        ends.push(number(items.len()));
    }
    write_numbers(writer, ends.into_iter())?;
    write_numbers(writer, items.into_iter())
}

fn write_texts<'t>(writer: &mut Writer, texts: impl Iterator<Item = &'t str>) -> io::Result<()> {
    let (mut ends, mut all) = (Vec::new(), String::new());
    for text in texts {
        all.push_str(text);
        ends.push(number(all.len()));
    }
    write_numbers(writer, ends.into_iter())?;
    writer.section(all.as_bytes())
}
