//! What a machine is made of: looks at the workspace for a build, or for who only wants to know what it would do.

use std::collections::BTreeMap;
use std::sync::Arc;

use minibuild_core::{CommandSource, Model};
use minibuild_graph::{HostFacts, Node};

use crate::build_error::BuildError;
use crate::machine::{Goals, Machine, Wanted};
use crate::state::State;
use crate::tools::{AskVersion, ToolLook};
use crate::world::Look;

/// What a machine is made of, besides the state.
pub(crate) struct Parts<'a> {
    pub look: Look<'a>,
    pub model: &'a Arc<Model>,
    pub commands: &'a Arc<dyn CommandSource>,
    pub goals: &'a Goals,
    pub host: &'a HostFacts,
    pub env: &'a BTreeMap<String, String>,
}

impl Parts<'_> {
    /// Looks at the workspace; gives the machine, and what is wanted in the order of needs.
    /// Without `ask` no tool is started.
    pub fn machine<'a>(
        self,
        mut state: State,
        ask: Option<&'a mut AskVersion<'a>>,
    ) -> Result<(Machine, Vec<Node>), BuildError>
    where
        Self: 'a,
    {
        let (model, goals) = (self.model, self.goals);
        let wanted = Wanted::new(model, &goals.targets)?;
        let actions: Vec<_> = wanted.actions().collect();
        let targets: Vec<_> =
            goals.targets.iter().flat_map(|goal| goal.artifacts.iter().chain(&goal.runfiles)).copied().collect();
        let mut world = self.look.at(&actions, &targets, &mut state)?;
        let mut tools = ToolLook { env: self.env, root: self.look.root, now: self.look.clock.now()?, ask };
        for &id in actions.iter().flat_map(|&action| &model.action(action).host_tools) {
            world.tools.entry(id).or_insert_with(|| tools.resolve(&model.host_tools[id.index()], &mut state));
        }
        let order = wanted.order.clone();
        let (model, commands) = (model.clone(), self.commands.clone());
        Ok((Machine::new(model, commands, wanted, goals.clone(), self.host.clone(), world, state), order))
    }
}
