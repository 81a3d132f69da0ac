//! What a finished target gives: outputs, provider fields as shared nodes, how it is run.

use std::sync::Arc;

use minibuild_core::{ActionId, Input};

use super::carried::{Gathered, add_new};
use super::eval::Eval;
use super::expand::Expander;
use super::field::{FieldNode, ProviderFields, Unit};
use super::recipe::TargetRecipe;
use super::rule::{Entry, FieldType, FieldValue, Run};
use crate::provide::{Provided, ProviderValue, Runnable};

impl Expander<'_, '_> {
    pub(super) fn finish(mut self) -> Provided {
        let rule = self.rule();
        let outputs = self.eval(None).files_in(&rule.outputs);
        let providers = rule.provides.iter().map(|(provider, fields)| self.provider(*provider, fields)).collect();
        let run = rule.run.as_ref().and_then(|run| self.runnable(run));
        self.index.sort_unstable();
        let ids: Vec<ActionId> = self.index.iter().map(|row| row.0).collect();
        let recipe = Arc::new(TargetRecipe { values: self.values, index: self.index });
        Provided {
            outputs: outputs.into_iter().map(Input::Artifact).collect(),
            run,
            providers,
            recipes: ids.into_iter().map(|id| (id, recipe.clone() as Arc<dyn crate::provide::Recipe>)).collect(),
        }
    }

    fn provider(&mut self, provider: u16, fields: &[FieldValue]) -> (Arc<str>, ProviderValue) {
        let providers = self.values.providers.clone();
        let provider = &providers[usize::from(provider)];
        let mut files = Vec::new();
        let mut nodes = Vec::with_capacity(provider.fields.len());
        for (at, field) in provider.fields.iter().enumerate() {
            let value = fields.iter().find(|value| usize::from(value.field) == at);
            let node = value.map(|value| self.field(field.ty, value)).unwrap_or_default();
            add_new(&mut files, node.files);
            nodes.push(node);
        }
        let fields = Arc::new(ProviderFields(nodes));
        (provider.name.clone(), ProviderValue { files: files.into(), fields })
    }

    fn field(&mut self, ty: FieldType, value: &FieldValue) -> Arc<FieldNode> {
        let eval = self.eval(None);
        let own: Vec<Unit> = match ty {
            FieldType::Files => eval.files_in(&value.own).into_iter().map(Unit::File).collect(),
            FieldType::Strings => {
                eval.render(&value.own).into_iter().map(|line| Unit::Text(line.text.into())).collect()
            }
            FieldType::Args => value.own.iter().filter_map(|entry| group(eval, entry)).collect(),
        };
        let handed: Vec<Arc<FieldNode>> = value
            .handed_on
            .iter()
            .filter(|handed| eval.holds(&handed.when))
            .filter_map(|handed| self.values.fields.get(&handed.source).cloned())
            .collect();
        // Plain strings carry nothing.
        let gathered = if ty == FieldType::Strings { Gathered::default() } else { self.gather(&value.own, None) };
        self.node(own, handed, &gathered)
    }

    fn runnable(&mut self, run: &Run) -> Option<Runnable> {
        let source = run.executable.whole()?.source;
        let executable = self.eval(None).files(source).first().copied()?;
        let mut needed = self.gather(&run.runfiles, None);
        let program = self.carried(source, None);
        needed.run_files.extend(program.run_files);
        add_new(&mut needed.host_tools, needed.run_tools);
        add_new(&mut needed.host_tools, program.run_tools);
        add_new(&mut needed.files, needed.run_files);
        needed.files.retain(|input| *input != Input::Artifact(executable));
        Some(Runnable { executable, runfiles: needed.files.into(), host_tools: needed.host_tools.into() })
    }

    /// A node of own units and children; a single child without own units stands for itself.
    pub(super) fn node(
        &mut self,
        own: Vec<Unit>,
        mut children: Vec<Arc<FieldNode>>,
        gathered: &Gathered,
    ) -> Arc<FieldNode> {
        if own.is_empty() && children.len() == 1 {
            return children.remove(0);
        }
        let mut files = gathered.files.clone();
        let mut run_files = gathered.run_files.clone();
        let mut host_tools = gathered.host_tools.clone();
        for child in &children {
            add_new(&mut files, child.files);
            add_new(&mut run_files, child.run_files);
            add_new(&mut host_tools, child.host_tools.iter().copied());
        }
        let mut node = FieldNode::new(own, children);
        node.files = self.one_input(files);
        node.run_files = self.one_input(run_files);
        node.host_tools = host_tools.into();
        Arc::new(node)
    }
}

fn group(eval: Eval<'_>, entry: &Entry) -> Option<Unit> {
    let lines = eval.render(std::slice::from_ref(entry));
    (!lines.is_empty()).then(|| Unit::Group(lines.into_iter().map(|line| Arc::from(line.text)).collect()))
}
