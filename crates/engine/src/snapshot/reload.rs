//! What was loaded anew beside a snapshot of what was loaded before: which actions are still what they were?
//!
//! Artifacts are the same that have the same path and kind, actions that have the same name; sets have no names and are
//! compared by what is in them. From both comes a snapshot of the new load that says of each action either what the old one
//! said, or that it has to be looked at. It does not know why something was loaded, and makes no key.

use std::io;

use minibuild_core::{
    ActionId, ArtifactKind, BIN_ROOT, CommandSource, Digest, DigestFunction, Model, StoreSide, WsPath,
};
use minibuild_disk::{Look, OutTree};
use rustc_hash::{FxHashMap, FxHashSet};

use super::details::Details;
use super::file::SEAL;
use super::plan::Plan;
use super::record::{Whole, usable};
use super::rows::{ActionRow, ArtifactRow, Declared, NONE, PRESENT, SET, ToolRow, UNKNOWN, kind_bits, kind_of};
use super::tables::{Graph, place};
use super::tail::Update;
use super::{Doubt, Remembered, Snapshot, is_much};
use crate::machine::{Goal, Wanted};
use crate::state::{Index, Mark, State};
use crate::sweep::Sweep;

/// What was loaded.
#[derive(Clone, Copy)]
pub struct Fresh<'a> {
    /// The graph.
    pub model: &'a Model,
    /// Makes its commands.
    pub commands: &'a dyn CommandSource,
    /// What is asked for.
    pub goals: &'a [Goal],
}

/// Where outputs that nobody declares any more are removed, and how the state is opened.
pub struct Surroundings<'a> {
    /// The output tree.
    pub tree: &'a OutTree,
    /// Where they are kept.
    pub store: Option<&'a dyn StoreSide>,
    /// Identifies the boot of the machine.
    pub boot_id: &'a str,
    /// Of all digests.
    pub function: DigestFunction,
}

/// A load compared with a snapshot.
pub struct Reload<'a> {
    old: &'a Snapshot,
    fresh: Fresh<'a>,
    plan: Plan,
    /// By row: the snapshot's row of the same artifact, or none.
    artifacts: Vec<u32>,
    actions: Vec<Paired>,
    tools: Vec<ToolRow>,
    details: Details,
}

/// What the snapshot has of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paired {
    /// This row, which says the same of it.
    Same(u32),
    /// This row, which says the same of its edges, and something else besides.
    Detail(u32),
    /// This row, which says something else.
    Other(u32),
    /// Nothing.
    New,
}

impl Snapshot {
    /// Compares what was loaded by now with what this snapshot was made of. `remembered` is of the new load.
    ///
    /// # Errors
    /// Why the full way has to be gone.
    pub fn reloaded<'a>(&'a self, fresh: Fresh<'a>, remembered: &Remembered<'_>) -> Result<Reload<'a>, Doubt> {
        let model = fresh.model;
        let wanted = Wanted::new(model, fresh.goals).map_err(|_| Doubt::Damaged)?;
        let plan = Plan::new(model, wanted.nodes(), fresh.goals);
        let (tools, tool_rows) = self.tools(model, &plan)?;
        let details = plan.details(model, fresh.commands, remembered.env, &tool_rows).map_err(disk)?;
        let artifacts = self.pair_artifacts(model, &plan);
        let actions = Comparison::new(self, model, &plan, &artifacts)?.pair_actions(&details)?;
        let reload = Reload { old: self, fresh, plan, artifacts, actions, tools, details };
        if is_much(reload.changed(), reload.actions.len()) { Err(Doubt::Much) } else { Ok(reload) }
    }

    /// Host tools in the order of this snapshot, then new ones; and the rows of those of `model`.
    fn tools(&self, model: &Model, plan: &Plan) -> Result<(Vec<ToolRow>, Vec<u32>), Doubt> {
        let mut rows = self.head.tools.clone();
        let mut ids = Vec::with_capacity(model.host_tools.len());
        for tool in &model.host_tools {
            let is_it = |row: &ToolRow| {
                row.program == *tool.program
                    && row.version_args.iter().map(String::as_str).eq(tool.version_args.iter().map(|text| &**text))
            };
            let row = rows.iter().position(is_it).unwrap_or_else(|| {
                let version_args = tool.version_args.iter().map(ToString::to_string).collect();
                rows.push(ToolRow { program: tool.program.to_string(), version_args, trace: None });
                rows.len() - 1
            });
            ids.push(row as u32);
        }
        let mut is_used = vec![false; rows.len()];
        for tool in plan.actions.iter().flat_map(|&id| &model.action(id).host_tools) {
            is_used[ids[tool.index()] as usize] = true;
        }
        for (row, is_used) in rows.iter_mut().zip(is_used) {
            match is_used {
                true if row.trace.is_none() => return Err(Doubt::NewTool(row.program.clone())),
                true => {}
                false => row.trace = None,
            }
        }
        Ok((rows, ids))
    }

    /// Both have their artifacts in the same order.
    fn pair_artifacts(&self, model: &Model, plan: &Plan) -> Vec<u32> {
        let mut old = 0;
        let pair = |&id: &minibuild_core::ArtifactId| {
            let artifact = model.artifact(id);
            let path = place(artifact.path.as_str());
            while old < self.paths.len() && place(self.paths.get(old)) < path {
                old += 1;
            }
            let is_same = old < self.paths.len()
                && place(self.paths.get(old)) == path
                && kind_of(self.flags[old]) == artifact.kind;
            if is_same { old as u32 } else { NONE }
        };
        plan.artifacts.iter().map(pair).collect()
    }
}

/// Numbers that artifacts and sets of both loads have in common: those of the snapshot's artifacts, further ones for new
/// artifacts, and one, marked, for all sets that hold the same.
struct Comparison<'a> {
    old: &'a Snapshot,
    graph: &'a Graph,
    model: &'a Model,
    plan: &'a Plan,
    artifacts: &'a [u32],
    old_sets: Vec<u32>,
    new_sets: Vec<u32>,
}

impl<'a> Comparison<'a> {
    fn new(old: &'a Snapshot, model: &'a Model, plan: &'a Plan, artifacts: &'a [u32]) -> Result<Self, Doubt> {
        let graph = old.graph()?;
        let old_sets = vec![NONE; graph.sets.len()];
        let mut comparison = Self { old, graph, model, plan, artifacts, old_sets, new_sets: Vec::new() };
        let mut known: FxHashMap<Vec<u32>, u32> = FxHashMap::default();
        let mut number = |items: Vec<u32>| {
            let next = known.len() as u32 | SET;
            *known.entry(items).or_insert(next)
        };
        for set in graph.order.iter().filter(|&node| node & SET != 0).map(|node| (node & !SET) as usize) {
            let items = graph.sets.get(set).iter().copied();
            comparison.old_sets[set] = number(comparison.of_old(items).collect());
        }
        for set in &plan.sets {
            let items = plan.inputs(&model.sets[set.index()].items);
            comparison.new_sets.push(number(comparison.of_new(items).collect()));
        }
        Ok(comparison)
    }

    fn of_old(&self, ids: impl Iterator<Item = u32>) -> impl Iterator<Item = u32> {
        ids.map(|id| if id & SET == 0 { id } else { self.old_sets[(id & !SET) as usize] })
    }

    fn of_new(&self, ids: impl Iterator<Item = u32>) -> impl Iterator<Item = u32> {
        ids.map(|id| match (id & SET, self.artifacts.get(id as usize)) {
            (0, Some(&NONE)) => self.old.flags.len() as u32 + id,
            (0, Some(&old)) => old,
            _ => self.new_sets[(id & !SET) as usize],
        })
    }

    fn pair_actions(&self, details: &Details) -> Result<Vec<Paired>, Doubt> {
        let tests: FxHashMap<&str, u32> = self.old.tests()?.into_iter().collect();
        let written = self.old.written_details()?;
        let pair = |(row, &id): (usize, &ActionId)| {
            let Some(old) = self.old_row(id, &tests) else { return Ok(Paired::New) };
            Ok(match (self.is_same(id, old)?, self.old.is_detail(old, details.get(row), &written)) {
                (true, true) => Paired::Same(old),
                (true, false) => Paired::Detail(old),
                (false, _) => Paired::Other(old),
            })
        };
        self.plan.actions.iter().enumerate().map(pair).collect()
    }

    /// The action of the same name: see [`Model::action_key_path`].
    fn old_row(&self, id: ActionId, tests: &FxHashMap<&str, u32>) -> Option<u32> {
        let Some(&first) = self.model.action(id).outputs.first() else {
            return tests.get(&*self.model.label_of(id).to_string()).copied();
        };
        let old = self.artifacts[self.plan.row_of_artifact(first)? as usize];
        let producer = *self.graph.producers.get(old as usize)?;
        (producer != NONE && self.graph.outputs.get(producer as usize).first() == Some(&old)).then_some(producer)
    }

    /// Whether all that is said of both is the same, besides details.
    fn is_same(&self, id: ActionId, old: u32) -> Result<bool, Doubt> {
        let (action, row) = (self.model.action(id), old as usize);
        let label = self.old.goals()?.labels.get(self.graph.targets[row] as usize);
        let (new, graph) = (self.plan, self.graph);
        Ok(*action.mnemonic == *self.old.mnemonic(row)?
            && self.model.label_of(id) == label
            && self.are_same(new.inputs(&action.inputs), graph.inputs.get(row))
            && self.are_same(new.inputs(&action.discoverable), graph.discoverables.get(row))
            && self.are_same(new.ids(&action.outputs), graph.outputs.get(row)))
    }

    fn are_same(&self, new: impl Iterator<Item = u32>, old: &[u32]) -> bool {
        self.of_new(new).eq(self.of_old(old.iter().copied()))
    }
}

impl Reload<'_> {
    /// Actions that are not what they were, or that the snapshot does not have.
    pub fn changed(&self) -> usize {
        self.actions.iter().filter(|paired| !matches!(paired, Paired::Same(_))).count()
    }

    /// Makes the snapshot that of the new load, and removes outputs that nobody declares any more.
    ///
    /// # Errors
    /// Why the full way has to be gone; then the old one may be gone, too.
    pub fn write(self, remembered: Remembered<'_>, surroundings: &Surroundings<'_>) -> Result<(), Doubt> {
        let looks = usable(&remembered.looks).ok_or(Doubt::Request("a look cannot be repeated"))?;
        let declared = Declared::of(self.fresh.model);
        // Then the snapshot says where all records lie, and whatever lies here is declared.
        let is_known = declared == self.old.head.declared
            && remembered.packages.iter().map(WsPath::as_str).eq(self.old.head.packages.iter().map(String::as_str))
            && self.old.stranger.is_none()
            && !self.actions.contains(&Paired::New)
            && !self.new_outputs().any(|_| true);
        if is_known
            && self.old.tail.has_room()
            && let Some(update) = self.update(&looks)?
        {
            return self.old.tail.add(&update).map_err(disk);
        }
        let (index, mark) = match is_known {
            true => (None, self.old.head.mark),
            false => {
                let (index, mark) = self.swept(&remembered, surroundings)?;
                (Some(index), mark)
            }
        };
        let whole = Whole {
            model: self.fresh.model,
            plan: &self.plan,
            goals: self.fresh.goals,
            artifacts: self.artifact_rows(index.as_ref())?,
            actions: self.action_rows(index.as_ref())?,
            details: self.details,
            tools: self.tools,
            mark,
            common: index.map_or_else(|| self.old.head.common.clone(), |index| index.common),
            declared,
        };
        whole.write(&remembered, looks).map_err(disk)
    }

    /// Outputs that the snapshot does not have.
    fn new_outputs(&self) -> impl Iterator<Item = &str> {
        let new = self.plan.artifacts.iter().zip(&self.artifacts).filter(|(_, old)| **old == NONE);
        let outputs = new.map(|(&id, _)| self.fresh.model.artifact(id)).filter(|artifact| artifact.producer.is_some());
        outputs.map(|artifact| artifact.path.as_str())
    }

    /// What the old snapshot has to be told to be of the new load, where no more than details changed.
    fn update(&self, looks: &[Look]) -> Result<Option<Update>, Doubt> {
        let head = &self.old.head;
        let has_same_rows = self.artifacts.len() == self.old.flags.len()
            && self.actions.len() == self.old.actions()
            && !self.artifacts.contains(&NONE)
            && self.actions.iter().all(|paired| matches!(paired, Paired::Same(_) | Paired::Detail(_)));
        let has_same_looks =
            looks.len() == head.looks.len() && looks.iter().zip(&head.looks).all(|(new, old)| new.path == old.path);
        if !has_same_rows || !has_same_looks || self.tools != head.tools || !self.has_same_goals()? {
            return Ok(None);
        }
        let new = || Update::new(self.old.sections.fingerprint(), head.mark);
        let mut update = self.old.caught_up.clone().unwrap_or_else(new);
        let all = looks.iter().enumerate().filter(|(index, look)| head.looks[*index] != **look);
        update.looks.extend(all.map(|(index, look)| (index as u32, look.clone())));
        for (row, paired) in self.actions.iter().enumerate() {
            let Paired::Detail(old) = *paired else { continue };
            let piece = self.details.get(row).get(SEAL..).unwrap_or_default();
            update.details.push((old, piece.to_vec()));
            update.actions.push((old, ActionRow { record_at: self.old.record_at(old as usize)?, is_dirty: true }));
        }
        Ok(Some(update))
    }

    /// Whether the same is asked for, where all artifacts have the numbers they had.
    fn has_same_goals(&self) -> Result<bool, Doubt> {
        let (table, model) = (self.old.goals()?, self.fresh.model);
        let is_same = |(row, goal): (usize, &Goal)| {
            let test = goal.test.and_then(|test| self.plan.row_of(test)).map(|row| self.actions[row]);
            let is_same_test = match test {
                Some(Paired::Same(old) | Paired::Detail(old)) => table.tests[row] == old,
                Some(_) => false,
                None => table.tests[row] == NONE,
            };
            is_same_test
                && model.target(goal.target).label == *table.labels.get(table.targets[row] as usize)
                && self.plan.ids(&goal.artifacts).eq(table.items.get(row).iter().copied())
        };
        let goals = self.fresh.goals;
        Ok(goals.len() == table.items.len() && goals.iter().enumerate().all(is_same))
    }

    /// Where the state's records lie once outputs that nobody declares any more are removed.
    fn swept(&self, remembered: &Remembered<'_>, surroundings: &Surroundings<'_>) -> Result<(Index, Mark), Doubt> {
        let Surroundings { boot_id, function, tree, store } = *surroundings;
        let mark = self.old.head.mark;
        let state = State::open_at(remembered.state_dir, boot_id, function, &mark, std::iter::empty());
        let mut index = state.map_err(disk)?.ok_or(Doubt::OtherState)?.index(0).map_err(disk)?;
        if self.new_outputs().any(|path| index.distrusted.contains(path)) {
            return Err(Doubt::Request("an output was made before the machine was started"));
        }
        let model = self.fresh.model;
        if !self.has_stale(&index, remembered) {
            return Ok((index, mark));
        }
        let (mut state, warnings) = State::open(remembered.state_dir, boot_id, function).map_err(disk)?;
        if !warnings.is_empty() {
            return Err(Doubt::OtherState);
        }
        let end = state.end();
        let sweep = Sweep { model, packages: remembered.packages, tree, store };
        sweep.run(&mut state).map_err(|e| Doubt::Disk(e.render()))?;
        let mark = state.mark().map_err(disk)?;
        state.add_to(&mut index, end).map_err(disk)?;
        Ok((index, mark))
    }

    /// Whether anything may have to be removed.
    fn has_stale(&self, index: &Index, remembered: &Remembered<'_>) -> bool {
        let outputs = self.fresh.model.artifacts.iter().filter(|artifact| artifact.producer.is_some());
        let declared: FxHashSet<&str> = outputs.map(|output| output.path.as_str()).collect();
        let is_gone = |path: &String| path.starts_with(BIN_ROOT) && !declared.contains(path.as_str());
        let loaded: FxHashSet<&str> = remembered.packages.iter().map(WsPath::as_str).collect();
        // Of a run that did not come to its end no more may be known than that it was begun.
        let mut begun = index.begun.values().filter(|begun| loaded.contains(begun.package.as_str()));
        index.files.keys().chain(&index.distrusted).any(is_gone) || begun.any(|begun| begun.paths.iter().any(is_gone))
    }

    fn artifact_rows(&self, index: Option<&Index>) -> Result<Vec<ArtifactRow>, Doubt> {
        let row = |(&id, &old): (&minibuild_core::ArtifactId, &u32)| {
            let artifact = self.fresh.model.artifact(id);
            let place = index.map(|index| index.files.get(artifact.path.as_str()).copied().unwrap_or_default());
            let mut row = match old {
                NONE => unknown(artifact.kind),
                old => self.old.row(old as usize)?,
            };
            row.file_at = place.unwrap_or(row.file_at);
            Ok(row)
        };
        self.plan.artifacts.iter().zip(&self.artifacts).map(row).collect()
    }

    fn action_rows(&self, index: Option<&Index>) -> Result<Vec<ActionRow>, Doubt> {
        let row = |(&id, paired): (&ActionId, &Paired)| {
            let (before, is_dirty) = match *paired {
                Paired::Same(old) => (self.old.record_at(old as usize)?, self.old.dirty[old as usize] != 0),
                Paired::Detail(old) | Paired::Other(old) => (self.old.record_at(old as usize)?, true),
                Paired::New => (0, true),
            };
            let path = || self.fresh.model.action_key_path(id);
            let place = index.map(|index| index.actions.get(&path()).copied().unwrap_or_default());
            Ok(ActionRow { record_at: place.unwrap_or(before), is_dirty })
        };
        self.plan.actions.iter().zip(&self.actions).map(row).collect()
    }
}

/// The row of something that nothing is known of. A source is said to be there, as something else than it is: so it is
/// looked at, and where there is none the full way says so.
fn unknown(kind: ArtifactKind) -> ArtifactRow {
    let flag = if kind == ArtifactKind::Source { PRESENT } else { UNKNOWN };
    ArtifactRow {
        flags: kind_bits(kind) | flag,
        print: Default::default(),
        digest: Digest { hash: [0; 32], size: 0 },
        file_at: 0,
        extra: None,
    }
}

fn disk(error: io::Error) -> Doubt {
    Doubt::Disk(error.to_string())
}
