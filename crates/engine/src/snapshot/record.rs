//! Writing a snapshot: the whole one after a full build, and what a part changed after that.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use minibuild_core::{ActionId, ArtifactId, ArtifactKind, Content, HostToolId, Model, WsPath};
use minibuild_disk::Look;
use rustc_hash::FxHashSet;

use super::details::Details;
use super::file::Writer;
use super::plan::{Names, Plan, write_details};
use super::rows::{ActionRow, ArtifactRow, Declared, Head, ToolRow};
use super::tables::SECTIONS;
use super::tail::{Tail, Update};
use super::{Changes, KEPT, Key, PREFIX, Part, Snapshot};
use crate::machine::{Ended, Goal};
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
    /// Loaded packages.
    pub packages: &'a [WsPath],
}

/// Writes a snapshot of a build that is over. None is written of builds that a snapshot cannot tell of: with sources that are
/// symlinks or cannot be used, or host tools that were looked at too soon after they were written.
///
/// # Errors
/// Those of the operating system: then there is none.
pub fn remember(remembered: Remembered<'_>, ended: &mut Ended<'_>) -> io::Result<()> {
    let Some(looks) = usable(&remembered.looks) else { return Ok(()) };
    let mark = ended.state().mark()?;
    let index = ended.state().index(0)?;
    let model = ended.model();
    let plan = Plan::new(&model, ended.order(), &ended.goals().targets);
    let Some(artifacts) = artifact_rows(&model, &plan, ended, &index) else { return Ok(()) };
    let Some(tools) = tool_rows(&model, &plan, &remembered, ended) else { return Ok(()) };
    let actions = plan.actions.iter().map(|&id| action_row(id, &model, ended, &index, 0)).collect();
    let same: Vec<u32> = (0..tools.len() as u32).collect();
    let whole = Whole {
        model: &model,
        plan: &plan,
        goals: &ended.goals().targets,
        artifacts,
        actions,
        details: plan.details(&model, &*ended.commands(), remembered.env, &same)?,
        tools,
        mark,
        common: index.common,
        declared: Declared::of(&model),
    };
    whole.write(&remembered, looks)
}

/// A snapshot that is to be written.
pub(super) struct Whole<'a> {
    pub model: &'a Model,
    pub plan: &'a Plan,
    pub goals: &'a [Goal],
    pub artifacts: Vec<ArtifactRow>,
    pub actions: Vec<ActionRow>,
    pub details: Details,
    pub tools: Vec<ToolRow>,
    pub mark: Mark,
    pub common: Vec<u64>,
    pub declared: Declared,
}

impl Whole<'_> {
    /// Writes it in the place of the one of that name, and forgets the oldest.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn write(self, remembered: &Remembered<'_>, looks: Vec<Look>) -> io::Result<()> {
        let Self { model, plan, goals, .. } = self;
        let path = remembered.key.path(remembered.state_dir);
        let mut mnemonics = Names::default();
        let of_actions: Vec<u32> = plan.actions.iter().map(|&id| mnemonics.id(&model.action(id).mnemonic)).collect();
        let head = Head {
            key: remembered.key.0,
            looks,
            tools: self.tools,
            env: remembered.env.clone(),
            mnemonics: mnemonics.all,
            mark: self.mark,
            common: self.common,
            declared: self.declared,
            packages: remembered.packages.iter().map(ToString::to_string).collect(),
        };
        let mut writer = Writer::create(&path, SECTIONS)?;
        writer.section(&postcard::to_allocvec(&head).map_err(io::Error::other)?)?;
        plan.write_artifacts(model, &self.artifacts, &mut writer)?;
        plan.write_actions(model, &self.actions, &of_actions, &mut writer)?;
        plan.write_goals(model, goals, &mut writer)?;
        write_details(&mut writer, &self.details)?;
        plan.write_unwanted(model, &mut writer)?;
        Tail::of(&path).remove()?;
        writer.finish(&path)?;
        forget_old(remembered.state_dir);
        Ok(())
    }
}

/// `None` where one of them is nothing a snapshot can tell of.
fn artifact_rows(model: &Model, plan: &Plan, ended: &Ended<'_>, index: &Index) -> Option<Vec<ArtifactRow>> {
    let is_settled: Vec<bool> = plan.actions.iter().map(|&id| ended.is_settled(id)).collect();
    let row = |&id: &ArtifactId| {
        let is_known = match model.artifact(id).producer {
            Some(producer) => *is_settled.get(plan.row_of(producer)?)?,
            None => true,
        };
        artifact_row(id, model, ended, index, is_known, 0)
    };
    plan.artifacts.iter().map(row).collect()
}

/// Looks that a later build can repeat.
pub(super) fn usable(looks: &[Look]) -> Option<Vec<Look>> {
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
            let fact = ended.tool(HostToolId::new(index))?;
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

/// What is known of an artifact in the end; `None` where a snapshot cannot tell of it. `before` is where the state's
/// record lay, should there be no newer one.
pub(super) fn artifact_row(
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

pub(super) fn action_row(id: ActionId, model: &Model, ended: &Ended<'_>, index: &Index, before: u64) -> ActionRow {
    let record_at = index.actions.get(&model.action_key_path(id)).copied().unwrap_or(before);
    ActionRow { record_at, is_dirty: !ended.is_settled(id) }
}

impl Snapshot {
    /// Remembers what a check found to be the same under other fingerprints.
    ///
    /// # Errors
    /// Those of the operating system; the snapshot stays as it was.
    pub fn keep(&self, changes: Changes) -> io::Result<()> {
        if changes.prints.is_empty() && changes.looks.is_empty() && self.caught_up.is_none() {
            return Ok(());
        }
        self.tail.add(&self.update(changes, self.head.mark))
    }

    fn update(&self, changes: Changes, mark: Mark) -> Update {
        let base = self.sections.fingerprint();
        let mut update = self.caught_up.clone().unwrap_or_else(|| Update::new(base, mark));
        update.mark = mark;
        update.prints.extend(changes.prints);
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
        let mut renewed = FxHashSet::default();
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
            renewed.insert(old);
        }
        // What was seen before the build counts no more.
        update.prints.retain(|(index, _)| !renewed.contains(index));
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
