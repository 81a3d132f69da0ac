//! Inputs without the sets they come in. It does not know what they are for.

use minibuild_core::{ArtifactId, Input, Model};

/// Marks of the last flattening, so that none has to be cleared.
#[derive(Default)]
pub(super) struct Scratch {
    epoch: u32,
    artifacts: Vec<u32>,
    sets: Vec<u32>,
    stack: Vec<Input>,
}

impl Scratch {
    /// The artifacts of `inputs`, sets flattened, each once, appended to `found`.
    pub fn flatten(&mut self, model: &Model, inputs: &[Input], found: &mut Vec<ArtifactId>) {
        self.stack.extend(inputs.iter().rev());
        while let Some(input) = self.stack.pop() {
            match input {
                Input::Artifact(id) => {
                    if std::mem::replace(&mut self.artifacts[id.index()], self.epoch) != self.epoch {
                        found.push(id);
                    }
                }
                Input::Set(id) => {
                    if std::mem::replace(&mut self.sets[id.index()], self.epoch) != self.epoch {
                        self.stack.extend(model.sets[id.index()].items.iter().rev());
                    }
                }
            }
        }
    }

    pub fn begin(&mut self, model: &Model) {
        self.epoch += 1;
        self.artifacts.resize(model.artifacts.len(), 0);
        self.sets.resize(model.sets.len(), 0);
    }
}
