//! From resolved targets to the model: what each target gives, the actions of the built-in rules, conflicts of
//! outputs. Rule files are expanded by `lang`; commands are only recorded here and made by [`crate::command`].

use std::collections::BTreeMap;
use std::sync::Arc;

use minibuild_core::{
    ActionId, ActionTags, ArtifactId, Input, Inputs, PackageId, Resources, RunInfo, Target, TargetId,
};
use minibuild_diagnostics::diag::{Diagnostic, Diagnostics, Span};
use minibuild_diagnostics::suggest::did_you_mean;
use minibuild_rules::builder::ModelBuilder;
use minibuild_rules::lang::{RuleSet, VarId, Vars};
use minibuild_rules::provide::{Common, Provided};
use rustc_hash::FxHashMap;

use crate::command::RecipeSlot;
use crate::resolve::TargetGraph;
use crate::rule_table::{RuleKind, RuleTable};
use crate::values::{Placed, RawOut, RawTarget, RawValue, Reference};

mod attr_values;
mod builtin;
mod conflicts;
mod inputs;
mod loaded;

/// Mnemonics of `genrule` and of tests.
pub const BUILTIN_MNEMONICS: [&str; 2] = ["Genrule", "Test"];

/// What expansion needs besides the targets.
#[derive(Clone, Copy)]
pub struct Setup<'a> {
    /// All rules.
    pub rules: &'a RuleTable,
    /// The rules of rule files.
    pub set: &'a RuleSet,
    /// Named pools of the configuration.
    pub pools: &'a BTreeMap<String, u32>,
    /// Whether a directory is a package.
    pub is_package: &'a dyn Fn(&str) -> bool,
    /// Tool variables that are labels, with their targets.
    pub tool_vars: &'a [(TargetId, VarId)],
}

/// Expands targets one after the other, dependencies first.
pub struct Expander<'a, 'd> {
    /// All targets.
    pub graph: &'a TargetGraph<'a>,
    /// All rules.
    pub rules: &'a RuleTable,
    /// The model so far.
    pub builder: ModelBuilder,
    /// What each target gave; `None` before its turn and after an error.
    pub provided: Vec<Option<Provided>>,
    /// By action.
    pub recipes: Vec<Option<RecipeSlot>>,
    /// Where outputs of built-in rules are declared, and by which target.
    pub out_spans: FxHashMap<ArtifactId, (TargetId, Span)>,
    /// Response files and where they are declared.
    pub rspfiles: Vec<(minibuild_core::WsPath, Span)>,
    /// Complaints.
    pub diags: &'d mut Diagnostics,
    setup: Setup<'a>,
    vars: Arc<Vars>,
    borders: FxHashMap<String, bool>,
    shell: Arc<str>,
    test: Arc<str>,
    no_platform: Arc<[(Box<str>, Box<str>)]>,
}

impl<'a, 'd> Expander<'a, 'd> {
    /// Ready for the first target; the model has all packages and bare rows of all targets.
    pub fn new(graph: &'a TargetGraph<'a>, setup: Setup<'a>, vars: Arc<Vars>, diags: &'d mut Diagnostics) -> Self {
        let rules = setup.rules;
        // A file made and a source read by each target is a fair guess.
        let mut builder = ModelBuilder::with_capacity(graph.targets.len() * 2, graph.targets.len());
        let names: Vec<Arc<str>> = rules.rules.iter().map(|r| r.name.clone()).collect();
        builder.model.packages =
            graph.packages.iter().map(|p| minibuild_core::Package { path: p.path.clone() }).collect();
        builder.model.targets = graph
            .targets
            .iter()
            .zip(&graph.deps)
            .map(|((target, package), deps)| Target {
                label: target.label.clone(),
                package: PackageId::new(*package),
                rule: names[target.rule].clone(),
                tags: Box::default(),
                outputs: Box::default(),
                groups: BTreeMap::new(),
                run: None,
                test: None,
                deps: deps.iter().map(|(id, _)| *id).collect(),
                alias_of: None,
            })
            .collect();
        Self {
            graph,
            rules,
            builder,
            provided: vec![None; graph.targets.len()],
            recipes: Vec::with_capacity(graph.targets.len()),
            out_spans: FxHashMap::with_capacity_and_hasher(graph.targets.len(), rustc_hash::FxBuildHasher),
            rspfiles: Vec::new(),
            diags,
            setup,
            vars,
            borders: FxHashMap::default(),
            shell: Arc::from(BUILTIN_MNEMONICS[0]),
            test: Arc::from(BUILTIN_MNEMONICS[1]),
            no_platform: Arc::from([]),
        }
    }

    /// Expands one target.
    pub fn expand(&mut self, id: TargetId) {
        let target = self.graph.targets[id.index()].0;
        if self.graph.broken.contains(&id) {
            // What it says itself is complained about all the same.
            self.resources(target);
            return;
        }
        if self.graph.deps[id.index()].iter().any(|(dep, _)| self.provided[dep.index()].is_none()) {
            return;
        }
        let common = self.common(target);
        self.builder.model.targets[id.index()].tags = common.tags.clone();
        let provided = match self.rules.rules[target.rule].kind {
            RuleKind::Genrule => self.genrule(id, target, &common),
            RuleKind::Filegroup => self.filegroup(target),
            RuleKind::Alias => self.alias(id, target),
            RuleKind::Test => self.test(id, target, &common),
            RuleKind::Loaded(rule) => self.loaded(id, target, rule, common),
        };
        let Some(provided) = provided else { return };
        let row = &mut self.builder.model.targets[id.index()];
        row.outputs = provided.outputs.clone();
        row.groups = provided.providers.iter().map(|(name, value)| (Box::from(&**name), value.files.clone())).collect();
        if row.run.is_none() {
            row.run = provided.run.as_ref().map(|run| RunInfo {
                executable: run.executable,
                runfiles: run.runfiles.clone(),
                args: Box::default(),
                env: BTreeMap::new(),
            });
        }
        self.provided[id.index()] = Some(provided);
        self.set_tool_vars(id);
    }

    fn value(&self, target: &'a RawTarget, name: &str) -> Option<&'a (RawValue, Span)> {
        // A target gives few of its rule's fields: to compare their names is cheaper than to hash one.
        let fields = &self.rules.rules[target.rule].fields;
        target.values.iter().find(|(index, _)| *fields[*index].name == *name).map(|(_, value)| value)
    }

    fn references(&self, target: &'a RawTarget, name: &str) -> &'a [Placed<Reference>] {
        match self.value(target, name) {
            Some((RawValue::References(references), _)) => references,
            _ => &[],
        }
    }

    fn outs(&self, target: &'a RawTarget, name: &str) -> &'a [RawOut] {
        match self.value(target, name) {
            Some((RawValue::Outs(outs), _)) => outs,
            _ => &[],
        }
    }

    /// Attributes that are the same for all rules, except `args` and `env`.
    fn common(&mut self, target: &'a RawTarget) -> Common {
        let mut common = Common { platform: self.no_platform.clone(), ..Common::default() };
        if let Some((RawValue::Tags(tags), _)) = self.value(target, "tags") {
            common.tags = tags.clone().into_boxed_slice();
            common.action_tags = action_tags(tags);
        }
        if let Some((RawValue::Bool(hermetic), _)) = self.value(target, "hermetic") {
            common.action_tags.hermetic = *hermetic;
        }
        if let Some((RawValue::Platform(properties), _)) = self.value(target, "platform") {
            common.platform = Arc::from(properties.as_slice());
        }
        if let Some((RawValue::Duration(timeout), _)) = self.value(target, "timeout") {
            common.timeout = Some(*timeout);
        }
        common
    }

    fn resources(&mut self, target: &'a RawTarget) -> Resources {
        let mut resources = Resources::default();
        if let Some((RawValue::Text(pool), span)) = self.value(target, "pool") {
            resources.pool = Some(Box::from(&**pool));
            if !self.setup.pools.contains_key(&**pool) {
                let error = Diagnostic::at(*span, format!("no pool `{pool}` in `[build] pools`"));
                let near = did_you_mean(pool, self.setup.pools.keys().map(String::as_str));
                self.diags.push(error.hint(
                    near.unwrap_or_else(|| format!("add `pools = {{ {pool} = 1 }}` to `[build]` of minibuild.toml")),
                ));
            }
        }
        if let Some((RawValue::Int(cpus), span)) = self.value(target, "cpus") {
            match u32::try_from(*cpus) {
                Ok(cpus) if cpus > 0 => resources.cpus = cpus,
                _ => self.diags.push(Diagnostic::at(*span, format!("`cpus` takes a number from 1 on, not {cpus}"))),
            }
        }
        if let Some((RawValue::Memory(memory), _)) = self.value(target, "memory") {
            resources.memory = *memory;
        }
        resources
    }

    /// A list of more than a few inputs as one set, so that who depends on it does not copy it.
    fn shared(&mut self, items: Vec<Input>) -> Inputs {
        if items.len() <= 4 { items.into_boxed_slice() } else { Box::new([Input::Set(self.builder.set(items))]) }
    }

    fn put_recipe(&mut self, action: ActionId, recipe: RecipeSlot) {
        let index = action.index();
        if self.recipes.len() <= index {
            self.recipes.resize_with(index + 1, || None);
        }
        self.recipes[index] = Some(recipe);
    }
}

fn action_tags(tags: &[Box<str>]) -> ActionTags {
    let has = |name: &str| tags.iter().any(|t| &**t == name);
    ActionTags {
        no_remote: has("local") || has("no-remote"),
        no_local: has("no-local"),
        no_cache: has("no-cache"),
        no_remote_cache: has("no-remote-cache"),
        exclusive: has("exclusive"),
        hermetic: false,
    }
}
