//! The part of a graph that changes concern, as a small model of its own.
//!
//! Its actions are all that can be reached from what changed. What they read and others made counts as sources, known by
//! content and fingerprint: those others were found up to date. So the same engine builds it that would build the whole.

use std::sync::Arc;

use minibuild_core::{
    Action, ActionId, Artifact, ArtifactId, ArtifactKind, ArtifactSet, CommandSource, Content, DigestFunction,
    HostTool, HostToolId, Input, Label, Model, Package, PackageId, Resources, SetId, Target, TargetId, Work, WsPath,
};
use rustc_hash::{FxHashMap, FxHashSet};

use super::rows::{NONE, PRESENT, PrintRow, SET, kind_of};
use super::tables::{Goals as GoalTable, Graph};
use super::{Changes, Doubt, Snapshot, is_much};
use crate::links::lead;
use crate::machine::{Goal, SourceFact};
use crate::state::State;

/// A part that is to be built.
pub struct Part {
    /// Its model.
    pub model: Arc<Model>,
    /// Makes its commands.
    pub commands: Arc<dyn CommandSource>,
    /// What of the request concerns it.
    pub goals: Vec<Goal>,
    /// What others made and it reads.
    pub known: FxHashMap<ArtifactId, SourceFact>,
    /// The state, as far as it concerns it.
    pub state: State,
    /// Rows of the snapshot, by the model's ids.
    pub(super) artifacts: Vec<u32>,
    pub(super) actions: Vec<u32>,
    /// Sources with other content.
    pub(super) sources: FxHashSet<u32>,
    /// Where the state's log ended before.
    pub(super) end: u64,
}

struct Works(Vec<Work>);

impl CommandSource for Works {
    fn work(&self, action: ActionId) -> Work {
        self.0[action.index()].clone()
    }
}

impl Snapshot {
    /// What has to be built after `changes`; the state in `state_dir` is of this boot and function.
    ///
    /// # Errors
    /// Why the full way has to be gone.
    pub fn part(&self, changes: &Changes, boot_id: &str, function: DigestFunction) -> Result<Part, Doubt> {
        let graph = self.graph()?;
        let cone = self.cone(graph, changes);
        if is_much(cone.len(), self.actions()) {
            return Err(Doubt::Much);
        }
        let mut maker = Maker::new(self, graph);
        let details = self.detail_places()?;
        for &action in &cone {
            maker.add_action(action, &details)?;
        }
        let sources: FxHashSet<u32> = changes.sources.iter().copied().collect();
        let goals = maker.goals(self.goals()?, &sources)?;
        maker.take_known(changes, &sources)?;
        let offsets = maker.offsets()?;
        let state = State::open_at(&self.state_dir, boot_id, function, &self.head.mark, offsets.into_iter());
        let state = state.map_err(|e| Doubt::Disk(e.to_string()))?.ok_or(Doubt::OtherState)?;
        Ok(Part {
            model: Arc::new(maker.model),
            commands: Arc::new(Works(maker.works)),
            goals,
            known: maker.known,
            end: state.end(),
            state,
            artifacts: maker.artifacts,
            actions: cone,
            sources,
        })
    }

    /// Actions that can be reached from what changed, each after what it needs.
    fn cone(&self, graph: &Graph, changes: &Changes) -> Vec<u32> {
        let mut artifacts = vec![false; self.flags.len()];
        let mut sets = vec![false; graph.sets.len()];
        for &id in &changes.sources {
            artifacts[id as usize] = true;
        }
        let mut is_concerned = vec![false; self.actions()];
        for &action in &changes.actions {
            is_concerned[action as usize] = true;
        }
        let mut cone = Vec::new();
        for &node in &graph.order {
            let index = (node & !SET) as usize;
            let is_changed =
                |id: &u32| if id & SET == 0 { artifacts[*id as usize] } else { sets[(id & !SET) as usize] };
            if node & SET != 0 {
                sets[index] = graph.sets.get(index).iter().any(is_changed);
                continue;
            }
            let mut inputs = graph.inputs.get(index).iter().chain(graph.discoverables.get(index));
            if is_concerned[index] || inputs.any(is_changed) {
                cone.push(node);
                for &output in graph.outputs.get(index) {
                    artifacts[output as usize] = true;
                }
            }
        }
        cone
    }
}

/// Makes the model of a part.
struct Maker<'a> {
    snapshot: &'a Snapshot,
    graph: &'a Graph,
    model: Model,
    works: Vec<Work>,
    known: FxHashMap<ArtifactId, SourceFact>,
    /// Rows of the snapshot, by the new ids.
    artifacts: Vec<u32>,
    actions: Vec<u32>,
    new_artifacts: FxHashMap<u32, ArtifactId>,
    new_sets: FxHashMap<u32, SetId>,
    new_targets: FxHashMap<u32, TargetId>,
}

impl<'a> Maker<'a> {
    fn new(snapshot: &'a Snapshot, graph: &'a Graph) -> Self {
        let tool = |row: &super::rows::ToolRow| HostTool {
            program: row.program.as_str().into(),
            version_args: row.version_args.iter().map(|argument| argument.as_str().into()).collect(),
        };
        let host_tools = snapshot.head.tools.iter().map(tool).collect();
        let packages = vec![Package { path: WsPath::root() }];
        Self {
            snapshot,
            graph,
            model: Model { packages, host_tools, ..Model::default() },
            works: Vec::new(),
            known: FxHashMap::default(),
            artifacts: Vec::new(),
            actions: Vec::new(),
            new_artifacts: FxHashMap::default(),
            new_sets: FxHashMap::default(),
            new_targets: FxHashMap::default(),
        }
    }

    /// Adds an action after all actions of the part that it needs.
    fn add_action(&mut self, action: u32, details: &[u64]) -> Result<(), Doubt> {
        let (snapshot, graph, index) = (self.snapshot, self.graph, action as usize);
        let detail = snapshot.detail(index, details)?;
        let id = ActionId::new(self.model.actions.len());
        let inputs = self.inputs(graph.inputs.get(index))?;
        let discoverable = self.inputs(graph.discoverables.get(index))?;
        let mut outputs = Vec::new();
        for &output in graph.outputs.get(index) {
            let output = self.artifact(output)?;
            let artifact = &mut self.model.artifacts[output.index()];
            artifact.producer = Some(id);
            artifact.kind = kind_of(snapshot.flags[self.artifacts[output.index()] as usize]);
            outputs.push(output);
        }
        let known_tools = self.model.host_tools.len();
        let tool = |tool: &u32| {
            ((*tool as usize) < known_tools).then(|| HostToolId::new(*tool as usize)).ok_or(Doubt::Damaged)
        };
        let target = self.target(graph.targets[index])?;
        self.model.actions.push(Action {
            target,
            mnemonic: snapshot.mnemonic(index)?.into(),
            kind: detail.kind().ok_or(Doubt::Damaged)?,
            inputs,
            discoverable,
            outputs: outputs.into(),
            depfile: detail.depfile.clone(),
            host_tools: detail.tools.iter().map(tool).collect::<Result<_, _>>()?,
            tags: detail.tags(),
            timeout: detail.timeout,
            platform: detail
                .platform
                .iter()
                .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
                .collect(),
            resources: Resources {
                pool: detail.pool.as_deref().map(Into::into),
                cpus: detail.cpus,
                memory: detail.memory,
            },
        });
        self.works.push(detail.into_work(&snapshot.head.env));
        self.actions.push(action);
        Ok(())
    }

    fn inputs(&mut self, ids: &[u32]) -> Result<Box<[Input]>, Doubt> {
        ids.iter().map(|&id| self.input(id)).collect()
    }

    fn input(&mut self, id: u32) -> Result<Input, Doubt> {
        if id & SET == 0 { Ok(Input::Artifact(self.artifact(id)?)) } else { Ok(Input::Set(self.set(id & !SET)?)) }
    }

    /// Sets below a set come first; with a stack of our own, since there is no bound on how deep they lie.
    fn set(&mut self, id: u32) -> Result<SetId, Doubt> {
        let graph = self.graph;
        let mut stack = vec![id];
        while let Some(&top) = stack.last() {
            let items = graph.sets.get(top as usize);
            let new = |id: &u32| id & SET != 0 && !self.new_sets.contains_key(&(id & !SET));
            let missing: Vec<u32> = items.iter().filter(|id| new(id)).map(|id| id & !SET).collect();
            if !missing.is_empty() && stack.len() <= graph.sets.len() {
                stack.extend(missing);
                continue;
            }
            stack.pop();
            if self.new_sets.contains_key(&top) {
                continue;
            }
            let mut inputs = Vec::with_capacity(items.len());
            for &item in items {
                inputs.push(match item & SET {
                    0 => Input::Artifact(self.artifact(item)?),
                    _ => Input::Set(*self.new_sets.get(&(item & !SET)).ok_or(Doubt::Damaged)?),
                });
            }
            let new = SetId::new(self.model.sets.len());
            self.model.sets.push(ArtifactSet { items: inputs.into() });
            self.new_sets.insert(top, new);
        }
        self.new_sets.get(&id).copied().ok_or(Doubt::Damaged)
    }

    fn artifact(&mut self, id: u32) -> Result<ArtifactId, Doubt> {
        if let Some(&known) = self.new_artifacts.get(&id) {
            return Ok(known);
        }
        let path = WsPath::new(self.snapshot.paths.get(id as usize)).map_err(|_| Doubt::Damaged)?;
        let new = ArtifactId::new(self.model.artifacts.len());
        self.model.artifacts.push(Artifact { path, kind: ArtifactKind::Source, producer: None });
        self.artifacts.push(id);
        self.new_artifacts.insert(id, new);
        Ok(new)
    }

    fn target(&mut self, id: u32) -> Result<TargetId, Doubt> {
        if let Some(&known) = self.new_targets.get(&id) {
            return Ok(known);
        }
        let label = Label::parse(self.snapshot.goals()?.labels.get(id as usize), "").map_err(|_| Doubt::Damaged)?;
        let new = TargetId::new(self.model.targets.len());
        self.model.targets.push(Target {
            label,
            package: PackageId::new(0),
            rule: Arc::from(""),
            tags: Box::default(),
            outputs: Box::default(),
            groups: Default::default(),
            run: None,
            test: None,
            deps: Box::default(),
            alias_of: None,
        });
        self.new_targets.insert(id, new);
        Ok(new)
    }

    /// Requested targets for which an action of the part has to be done, or which stand for a changed source.
    fn goals(&mut self, table: &GoalTable, sources: &FxHashSet<u32>) -> Result<Vec<Goal>, Doubt> {
        let tests: FxHashMap<u32, ActionId> =
            self.actions.iter().enumerate().map(|(new, &old)| (old, ActionId::new(new))).collect();
        let mut goals = Vec::new();
        for goal in 0..table.items.len() {
            let test = tests.get(&table.tests[goal]).copied();
            let is_made = |id: &u32| {
                let producer = self.graph.producers[*id as usize];
                producer != NONE && tests.contains_key(&producer) || sources.contains(id)
            };
            if test.is_none() && !table.items.get(goal).iter().any(is_made) {
                continue;
            }
            let artifacts = table.items.get(goal).iter().map(|&id| self.artifact(id)).collect::<Result<_, _>>()?;
            goals.push(Goal { target: self.target(table.targets[goal])?, artifacts, runfiles: Vec::new(), test });
        }
        Ok(goals)
    }

    /// Whether an action reads this link of another one, and what that leads to is an output that it does not name: then
    /// that is an input all the same.
    fn is_read_without(&self, link: ArtifactId, target: &str) -> bool {
        let Some(path) = lead(&self.model.artifact(link).path, target) else { return false };
        let above = std::iter::successors(Some(path.as_str()), |at| at.rsplit_once('/').map(|(above, _)| above));
        let Some(target) = above.filter_map(|path| self.snapshot.find(path)).next() else { return false };
        let target = self.artifacts.iter().position(|&old| old as usize == target).map(ArtifactId::new);
        let is_without = |action: &Action| {
            let inputs = self.inputs_of(action);
            inputs.contains(&link) && target.is_none_or(|target| !inputs.contains(&target))
        };
        self.model.actions.iter().any(is_without)
    }

    fn inputs_of(&self, action: &Action) -> FxHashSet<ArtifactId> {
        let mut found = FxHashSet::default();
        let mut sets = FxHashSet::default();
        let mut pending: Vec<Input> = action.inputs.iter().chain(&action.discoverable).copied().collect();
        while let Some(input) = pending.pop() {
            match input {
                Input::Artifact(id) => drop(found.insert(id)),
                Input::Set(id) if sets.insert(id) => pending.extend(&self.model.sets[id.index()].items),
                Input::Set(_) => {}
            }
        }
        found
    }

    /// What is read and made by none of the part's actions.
    fn take_known(&mut self, changes: &Changes, sources: &FxHashSet<u32>) -> Result<(), Doubt> {
        let fresh: FxHashMap<u32, PrintRow> = changes.prints.iter().copied().collect();
        for (new, &old) in self.artifacts.iter().enumerate() {
            let index = old as usize;
            let id = ArtifactId::new(new);
            let is_real_source = self.graph.producers[index] == NONE;
            if self.model.artifacts[new].producer.is_some() || is_real_source && sources.contains(&old) {
                continue;
            }
            let content = self.snapshot.content(index)?.ok_or(Doubt::Damaged)?;
            if let Content::Symlink { target } = &content
                && !is_real_source
                && self.is_read_without(id, target)
            {
                return Err(Doubt::Request("an action reads a link that another one made, and not what it leads to"));
            }
            if self.snapshot.flags[index] & PRESENT == 0 {
                return Err(Doubt::Absent(self.snapshot.paths.get(index).to_owned()));
            }
            let fingerprint = fresh.get(&old).map_or_else(|| self.snapshot.print(index), |row| row.print);
            let fingerprint = if matches!(content, Content::Directory(_)) { Default::default() } else { fingerprint };
            self.known.insert(id, SourceFact::file(content, fingerprint));
        }
        Ok(())
    }

    /// Where the state's records of the part lie.
    fn offsets(&self) -> Result<Vec<u64>, Doubt> {
        let mut offsets = self.snapshot.head.common.clone();
        for &action in &self.actions {
            offsets.push(self.snapshot.record_at(action as usize)?);
        }
        for (new, &old) in self.artifacts.iter().enumerate() {
            if !self.known.contains_key(&ArtifactId::new(new)) {
                offsets.push(self.snapshot.file_at(old as usize)?);
            }
        }
        offsets.retain(|&at| at != 0);
        offsets.sort_unstable();
        Ok(offsets)
    }
}
