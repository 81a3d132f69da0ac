//! Which rows a whole snapshot has, in which order, and how its columns are written.

use std::collections::BTreeMap;
use std::io;

use minibuild_core::{ActionId, ArtifactId, CommandSource, Input, Model, SetId, TargetId, map_parallel};
use minibuild_graph::NodeKind;
use rustc_hash::FxHashMap;

use super::details::Details;
use super::file::{Writer, sealed};
use super::rows::{ActionRow, ArtifactRow, Detail, NONE, SET};
use super::tables::{DIGEST, PRINT, place, print_bytes};
use crate::machine::Goal;

/// Words, each once.
#[derive(Default)]
pub(super) struct Names {
    pub all: Vec<String>,
    ids: FxHashMap<String, u32>,
}

impl Names {
    pub fn id(&mut self, name: &str) -> u32 {
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
pub(super) struct Plan {
    /// Wanted actions, each after what it needs; their rows.
    pub actions: Vec<ActionId>,
    new_actions: Vec<u32>,
    /// Actions and, marked, sets.
    order: Vec<u32>,
    /// Each after those in it.
    pub sets: Vec<SetId>,
    new_sets: Vec<u32>,
    /// Sorted by directory and name.
    pub artifacts: Vec<ArtifactId>,
    new_artifacts: Vec<u32>,
    targets: Vec<TargetId>,
    new_targets: Vec<u32>,
}

impl Plan {
    /// That of wanted nodes, each after what it needs, and what is asked for.
    pub fn new(model: &Model, order: impl Iterator<Item = NodeKind>, goals: &[Goal]) -> Self {
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
        for node in order {
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
        for goal in goals {
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

    fn take_target(&mut self, id: TargetId) {
        if self.new_targets[id.index()] == NONE {
            self.new_targets[id.index()] = number(self.targets.len());
            self.targets.push(id);
        }
    }

    fn number_artifacts(&mut self, model: &Model) {
        let by_place = |a: &ArtifactId, b: &ArtifactId| {
            let [a, b] = [a, b].map(|&id| place(model.artifact(id).path.as_str()));
            a.cmp(&b)
        };
        let half = self.artifacts.len() / 2;
        let (left, right) = self.artifacts.split_at_mut(half);
        map_parallel(vec![left, right], 2, |part| part.sort_unstable_by(by_place));
        // A stable sort merges two halves that are sorted.
        self.artifacts.sort_by(by_place);
        for (new, &id) in self.artifacts.iter().enumerate() {
            self.new_artifacts[id.index()] = number(new);
        }
    }

    /// The row of an action.
    pub fn row_of(&self, action: ActionId) -> Option<usize> {
        self.new_actions.get(action.index()).filter(|&&row| row != NONE).map(|&row| row as usize)
    }

    /// The row of an artifact.
    pub fn row_of_artifact(&self, artifact: ArtifactId) -> Option<u32> {
        self.new_artifacts.get(artifact.index()).copied().filter(|&row| row != NONE)
    }

    /// Outputs that have no row.
    pub(super) fn write_unwanted(&self, model: &Model, writer: &mut Writer) -> io::Result<()> {
        let rows = model.artifacts.iter().zip(&self.new_artifacts);
        let unwanted = rows.filter(|(artifact, row)| artifact.producer.is_some() && **row == NONE);
        write_texts(writer, unwanted.map(|(artifact, _)| artifact.path.as_str()))
    }

    pub fn write_artifacts(&self, model: &Model, rows: &[ArtifactRow], writer: &mut Writer) -> io::Result<()> {
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

    pub fn write_actions(
        &self,
        model: &Model,
        rows: &[ActionRow],
        mnemonics: &[u32],
        writer: &mut Writer,
    ) -> io::Result<()> {
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

    pub fn write_goals(&self, model: &Model, goals: &[Goal], writer: &mut Writer) -> io::Result<()> {
        let labels: Vec<String> = self.targets.iter().map(|&id| model.target(id).label.to_string()).collect();
        write_texts(writer, labels.iter().map(String::as_str))?;
        write_numbers(writer, goals.iter().map(|goal| self.new_targets[goal.target.index()]))?;
        write_numbers(writer, goals.iter().map(|goal| goal.test.map_or(NONE, |id| self.new_actions[id.index()])))?;
        write_lists(writer, goals.iter().map(|goal| self.ids(&goal.artifacts)))
    }

    /// `env` is `[env]`, `tools` the rows of the model's host tools.
    pub fn details(
        &self,
        model: &Model,
        commands: &dyn CommandSource,
        env: &BTreeMap<String, String>,
        tools: &[u32],
    ) -> io::Result<Details> {
        let make = |actions: &[ActionId]| -> io::Result<Details> {
            let mut details = Details { places: Vec::with_capacity(actions.len()), bytes: Vec::new() };
            for &id in actions {
                let detail = Detail::new(model.action(id), commands.work(id), env, tools);
                details.places.push(details.bytes.len() as u64);
                details.bytes.extend(sealed(&postcard::to_allocvec(&detail).map_err(io::Error::other)?));
            }
            Ok(details)
        };
        let (left, right) = self.actions.split_at(self.actions.len() / 2);
        let mut parts = map_parallel(vec![left, right], 2, make).into_iter();
        let (Some(left), Some(right)) = (parts.next(), parts.next()) else {
            return Err(io::Error::other("bug: two parts have two results"));
        };
        let (mut details, right) = (left?, right?);
        let begin = details.bytes.len() as u64;
        details.places.extend(right.places.iter().map(|place| begin + place));
        details.bytes.extend(right.bytes);
        Ok(details)
    }

    pub fn ids<'i>(&'i self, ids: &'i [ArtifactId]) -> impl Iterator<Item = u32> + 'i {
        ids.iter().map(|id| self.new_artifacts[id.index()])
    }

    pub fn inputs<'i>(&'i self, inputs: &'i [Input]) -> impl Iterator<Item = u32> + 'i {
        inputs.iter().map(|input| match input {
            Input::Artifact(id) => self.new_artifacts[id.index()],
            Input::Set(id) => self.new_sets[id.index()] | SET,
        })
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(NONE)
}

fn write_numbers(writer: &mut Writer, numbers: impl Iterator<Item = u32>) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(numbers.size_hint().0 * 4);
    numbers.for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    writer.section(&bytes)
}

fn write_long_numbers(writer: &mut Writer, numbers: impl Iterator<Item = u64>) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(numbers.size_hint().0 * 8);
    numbers.for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
    writer.section(&bytes)
}

fn write_lists<I: Iterator<Item = u32>>(writer: &mut Writer, lists: impl Iterator<Item = I>) -> io::Result<()> {
    let (mut ends, mut items) = (Vec::with_capacity(lists.size_hint().0), Vec::new());
    for list in lists {
        items.extend(list);
        ends.push(number(items.len()));
    }
    write_numbers(writer, ends.into_iter())?;
    write_numbers(writer, items.into_iter())
}

/// Writes the places of the pieces, and the pieces.
pub(super) fn write_details(writer: &mut Writer, details: &Details) -> io::Result<()> {
    write_long_numbers(writer, details.places.iter().copied())?;
    writer.section(&details.bytes)
}

fn write_texts<'t>(writer: &mut Writer, texts: impl Iterator<Item = &'t str>) -> io::Result<()> {
    let (mut ends, mut all) = (Vec::with_capacity(texts.size_hint().0), String::new());
    for text in texts {
        all.push_str(text);
        ends.push(number(all.len()));
    }
    write_numbers(writer, ends.into_iter())?;
    writer.section(all.as_bytes())
}
