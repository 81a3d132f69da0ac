//! What a build would do, found out without doing it: the walk that decides on actions, on results as they are known.
//!
//! Where an action would run, what it makes is not known; that it comes out as it last did is assumed, so that what is found
//! for its consumers is their own. Whoever reads what would be made anew may have to run, too, and is said to. Nothing
//! leaves the machine: no step is handed on, no state written, no store asked.

use std::sync::Arc;

use minibuild_core::{ActionId, ArtifactId, Content};
use minibuild_graph::{Node, NodeKind, why};
use rustc_hash::FxHashMap;

use super::evaluate::{FlatInputs, Knowledge};
use super::{Machine, Why, key_path};
use crate::state::{Origin, ResultRecord};

/// What would become of one action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreseen {
    /// The action.
    pub action: ActionId,
    /// What.
    pub verdict: Verdict,
    /// Where the bytes of its outputs are; only of those whose content is known.
    pub outputs: Vec<OutputPlace>,
}

/// Where the bytes of an output are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputPlace {
    /// The output.
    pub id: ArtifactId,
    /// Where.
    pub place: Place,
}

/// Where bytes are, and why there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On disk; how they came to be there.
    Here(Origin),
    /// So many files of a tree are on disk, of so many; these stores are believed to have it.
    Part(usize, usize, Vec<String>),
    /// Not on disk; these stores are believed to have them.
    Stores(Vec<String>),
    /// Nowhere that is known.
    Nowhere,
}

/// What would become of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its result is known. Says why it was made; nothing where no run here or there made it.
    UpToDate(Vec<String>),
    /// It would run.
    Runs(Why),
    /// It depends on what others make.
    MayRun(Maybe),
    /// It could not run, or something it needs could not.
    Fails(String),
}

/// On what it depends whether an action runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Maybe {
    /// Whether one of these inputs, which are made anew, comes out different.
    Inputs(Vec<ArtifactId>),
    /// Whether this consumer runs, which needs the bytes of this output; they are neither here nor in the store.
    Bytes(ArtifactId, ActionId),
}

impl Machine {
    /// What would become of the wanted actions; `order` has each after what it needs.
    pub fn preview(mut self, order: &[Node]) -> Vec<Foreseen> {
        let actions: Vec<ActionId> = order
            .iter()
            .filter_map(|&node| match self.graph.kind(node) {
                NodeKind::Action(action) => Some(action),
                NodeKind::Set(_) => None,
            })
            .collect();
        let mut verdicts: FxHashMap<ActionId, Verdict> = FxHashMap::default();
        for &action in &actions {
            let inputs = self.flat_inputs(action);
            let verdict = self.foresee(action, &inputs, &verdicts);
            if matches!(verdict, Verdict::Runs(_)) {
                self.assume_equal_outputs(action);
            }
            verdicts.insert(action, verdict);
            self.steps.clear();
        }
        // Each round only makes more of them run, or perhaps run.
        while self.foresee_lost_inputs(&actions, &mut verdicts) | self.foresee_consumers(&actions, &mut verdicts) {}
        let foreseen = |action| {
            let verdict = verdicts.remove(&action)?;
            Some(Foreseen { action, outputs: self.places_of_outputs(action), verdict })
        };
        actions.into_iter().filter_map(foreseen).collect()
    }

    fn places_of_outputs(&self, action: ActionId) -> Vec<OutputPlace> {
        let outputs = self.model.action(action).outputs.iter();
        outputs.filter_map(|&id| Some(OutputPlace { id, place: self.place_of(action, id)? })).collect()
    }

    /// `None` where it is not known what the output is.
    fn place_of(&self, action: ActionId, id: ArtifactId) -> Option<Place> {
        let (path, known) = (&self.model.artifact(id).path, self.known[id.index()].as_ref()?);
        let found = self.world.outputs.get(&id).map(|(content, _)| content);
        if found == Some(known) {
            return Some(Place::Here(self.state.file(path.as_str()).map(|record| record.origin).unwrap_or_default()));
        }
        let record = self.state.action(&key_path(&self.model, action));
        let makes_it = |result: &&ResultRecord| result.outputs.iter().any(|o| o.path == *path && o.content == *known);
        let holders = record.into_iter().flat_map(|record| &record.results).filter(makes_it).flat_map(|r| &r.held_by);
        let mut stores: Vec<String> = holders.filter_map(|&store| self.state.endpoint_of(store)).collect();
        stores.sort_unstable();
        stores.dedup();
        Some(match (found, known) {
            (Some(part @ Content::Directory(some)), Content::Directory(all)) if Self::is_part(part, known) => {
                Place::Part(some.entries.len(), all.entries.len(), stores)
            }
            _ if stores.is_empty() => Place::Nowhere,
            _ => Place::Stores(stores),
        })
    }

    fn foresee(&mut self, action: ActionId, inputs: &FlatInputs, verdicts: &FxHashMap<ActionId, Verdict>) -> Verdict {
        for &id in &inputs.artifacts {
            let artifact = self.model.artifact(id);
            match artifact.producer.and_then(|producer| verdicts.get(&producer)) {
                Some(Verdict::Fails(_)) => {
                    return Verdict::Fails(format!("its input `{}` cannot be made", artifact.path));
                }
                Some(_) if self.known[id.index()].is_none() => {
                    return self.runs(action, Why::Said(format!("its input `{}` was not made yet", artifact.path)));
                }
                _ => {}
            }
        }
        match self.find_result(action, inputs) {
            Ok(Knowledge::Result(found)) => {
                self.take_known_result(action, &found);
                match self.wanted_but_nowhere(action) {
                    Some(missing) => self.runs(action, Why::Said(format!("output `{missing}` is not on disk"))),
                    None => Verdict::UpToDate(why(&self.state.manifest(found.manifest).unwrap_or_default())),
                }
            }
            Ok(Knowledge::Nothing(_)) => {
                let command = self.command_of(action);
                let manifest = self.facts(action, &command, inputs).map(|facts| facts.manifest());
                match manifest {
                    Ok(manifest) => self.runs(action, self.why_run(action, &manifest)),
                    Err(problem) => Verdict::Fails(problem),
                }
            }
            Err(problem) => Verdict::Fails(problem),
        }
    }

    fn runs(&self, action: ActionId, why: Why) -> Verdict {
        match self.sides(action) {
            Ok(_) => Verdict::Runs(why),
            Err(problem) => Verdict::Fails(problem),
        }
    }

    /// Consumers are looked at as if the action made what it last made.
    fn assume_equal_outputs(&mut self, action: ActionId) {
        let model = Arc::clone(&self.model);
        let newest = self.state.action(&key_path(&model, action)).and_then(|record| record.results.first()).cloned();
        let Some(newest) = newest.filter(|newest| self.is_complete(action, newest)) else { return };
        for (&id, meta) in model.action(action).outputs.iter().zip(&newest.outputs) {
            self.learn(id, &meta.content, None, false);
        }
    }

    /// Whoever runs needs the bytes of its inputs: what is neither here nor in the store is made again. From consumers to
    /// producers, since those need theirs in turn. True if that changes anything.
    fn foresee_lost_inputs(&mut self, actions: &[ActionId], verdicts: &mut FxHashMap<ActionId, Verdict>) -> bool {
        let mut changed = false;
        for &action in actions.iter().rev() {
            let is_certain = match verdicts.get(&action) {
                Some(Verdict::Runs(_)) => true,
                Some(Verdict::MayRun(_)) => false,
                _ => continue,
            };
            for id in self.flat_inputs(action).artifacts {
                let Some(producer) = self.model.artifact(id).producer else { continue };
                let is_here = self.bytes.here(id).is_some() || self.bytes.is_there(id);
                let verdict = match verdicts.get(&producer) {
                    Some(Verdict::UpToDate(_)) if !is_here && !is_certain => Verdict::MayRun(Maybe::Bytes(id, action)),
                    Some(Verdict::UpToDate(_) | Verdict::MayRun(_)) if !is_here && is_certain => {
                        let (path, label) = (&self.model.artifact(id).path, self.model.label_of(action));
                        self.runs(
                            producer,
                            Why::Said(format!("its output `{path}` is not on disk and `{label}` needs it")),
                        )
                    }
                    _ => continue,
                };
                changed = true;
                verdicts.insert(producer, verdict);
            }
        }
        changed
    }

    /// Whoever is up to date and reads what is made anew may have to run. True if that is somebody.
    fn foresee_consumers(&mut self, actions: &[ActionId], verdicts: &mut FxHashMap<ActionId, Verdict>) -> bool {
        let mut changed = false;
        for &action in actions {
            if !matches!(verdicts.get(&action), Some(Verdict::UpToDate(_))) {
                continue;
            }
            let mut anew = self.flat_inputs(action).artifacts;
            anew.retain(|&id| {
                let producer = self.model.artifact(id).producer.and_then(|producer| verdicts.get(&producer));
                matches!(producer, Some(Verdict::Runs(_) | Verdict::MayRun(_)))
            });
            if !anew.is_empty() {
                changed = true;
                verdicts.insert(action, Verdict::MayRun(Maybe::Inputs(anew)));
            }
        }
        changed
    }
}
