//! Expands a rule for one target: rows of actions, what it gives to others, and the recipe for the rest.
//! Knows the model, not TOML; argv and contents are made later by the recipe, what is passed on by `give`.

use std::sync::Arc;

use minibuild_core::{
    Action as ActionRow, ActionId, ActionKind, ActionTags, ArtifactId, ArtifactKind, Input, Inputs, TargetId, WsPath,
};
use minibuild_diagnostics::diag::{Diagnostic, Diagnostics, Span};
use rustc_hash::FxHashMap;

use super::carried::{Carried, Gathered, add_new, carried_by, labelled};
use super::eval::Eval;
use super::field::{FieldNode, ProviderFields};
use super::rule::{Action, Body, Entry, EnvValue, FieldId, Out, Rule, RuleId, Source, Template};
use super::set::RuleSet;
use super::values::{ActionRun, Item, TargetValues, bin_dir, path_text};
use super::vars::Vars;
use crate::attr::{AttrValue, LocText, ToolValue};
use crate::builder::ModelBuilder;
use crate::provide::{Provided, TargetCx};

/// What the expansion of a target looks at.
pub struct Around<'a> {
    /// Finished targets.
    pub provided: &'a dyn Fn(TargetId) -> &'a Provided,
    /// Variables, their labels resolved.
    pub vars: &'a Arc<Vars>,
}

impl RuleSet {
    /// Expands the rule for one target. What is wrong is in `diags`.
    pub fn expand<'a>(
        &self,
        rule: RuleId,
        cx: &TargetCx<'a>,
        around: &Around<'a>,
        builder: &mut ModelBuilder,
        diags: &mut Diagnostics,
    ) -> Provided {
        let rule = self.get(rule).clone();
        let values = TargetValues {
            runs: rule.actions.iter().map(|_| Vec::new()).collect(),
            rule,
            providers: self.providers.clone(),
            vars: around.vars.clone(),
            label: cx.label.clone(),
            bin: bin_dir(cx.label.package()),
            attrs: cx.attrs.to_vec(),
            attr_spans: cx.attr_spans.into(),
            files_of: FxHashMap::default(),
            fields: FxHashMap::default(),
            run_of: FxHashMap::default(),
            tools: FxHashMap::default(),
        };
        let mut expander =
            Expander { cx, around, builder, diags, carried: FxHashMap::default(), index: Vec::new(), values };
        expander.look_up();
        expander.actions();
        expander.finish()
    }
}

/// The expansion of one target.
pub struct Expander<'a, 'p> {
    pub(super) cx: &'a TargetCx<'p>,
    pub(super) around: &'a Around<'p>,
    pub(super) builder: &'a mut ModelBuilder,
    pub(super) diags: &'a mut Diagnostics,
    pub(super) values: TargetValues,
    pub(super) carried: FxHashMap<Source, Carried>,
    pub(super) index: Vec<(ActionId, u16, usize)>,
}

impl Expander<'_, '_> {
    pub(super) fn eval<'s>(&'s self, run: Option<&'s ActionRun>) -> Eval<'s> {
        Eval { values: &self.values, model: &self.builder.model, run }
    }

    pub(super) fn rule(&self) -> Arc<Rule> {
        self.values.rule.clone()
    }

    /// Looks up what the rule names of other targets.
    fn look_up(&mut self) {
        let rule = self.rule();
        for source in &rule.sources {
            match *source {
                Source::Attr(at) => {
                    let files = self.files_behind(at);
                    self.values.files_of.extend(files.map(|files| (at, files)));
                }
                Source::Field(at, id) => {
                    let node = self.merged(at, id);
                    self.values.fields.extend(node.map(|node| (*source, node)));
                }
                Source::RunExecutable(at) | Source::RunFiles(at) => {
                    let files = self.run_files_of(*source, at);
                    self.values.run_of.insert(*source, files);
                }
                _ => {}
            }
        }
        for id in &rule.tool_vars {
            if let Some(tool) = labelled(self.around.vars, *id) {
                let executable = self.executable(tool);
                self.values.tools.extend(executable.map(|executable| (*id, executable)));
            }
        }
    }

    pub(super) fn targets(&self, at: u16) -> Vec<TargetId> {
        match &self.values.attrs[usize::from(at)] {
            AttrValue::Targets(targets) => targets.clone(),
            _ => Vec::new(),
        }
    }

    /// Outputs of the targets, executables of the tools of an attribute.
    fn files_behind(&self, at: u16) -> Option<Vec<ArtifactId>> {
        match &self.values.attrs[usize::from(at)] {
            AttrValue::Targets(targets) => {
                let mut files = Vec::new();
                for target in targets {
                    let outputs = &(self.around.provided)(*target).outputs;
                    self.builder.model.for_each_artifact(outputs, |id| files.push(id));
                }
                Some(files)
            }
            AttrValue::Tools(tools) => Some(tools.iter().filter_map(|tool| self.executable(*tool)).collect()),
            _ => None,
        }
    }

    pub(super) fn executable(&self, tool: ToolValue) -> Option<ArtifactId> {
        match tool {
            ToolValue::File(id) => Some(id),
            ToolValue::Target(target) => (self.around.provided)(target).run.as_ref().map(|run| run.executable),
        }
    }

    fn run_files_of(&self, source: Source, at: u16) -> Vec<ArtifactId> {
        let mut files = Vec::new();
        for target in self.targets(at) {
            let Some(run) = &(self.around.provided)(target).run else { continue };
            match source {
                Source::RunExecutable(_) => files.push(run.executable),
                _ => self.builder.model.for_each_artifact(&run.runfiles, |id| files.push(id)),
            }
        }
        files
    }

    /// The field merged over the targets of an attribute; `None` where nothing is given.
    fn merged(&mut self, at: u16, id: FieldId) -> Option<Arc<FieldNode>> {
        let name = self.values.providers[usize::from(id.provider)].name.clone();
        let mut children: Vec<Arc<FieldNode>> = Vec::new();
        for target in self.targets(at) {
            let provided = (self.around.provided)(target);
            let value = provided.providers.iter().find(|(provider, _)| *provider == name);
            let fields = value.and_then(|(_, value)| value.fields.downcast_ref::<ProviderFields>());
            let node = fields.and_then(|fields| fields.0.get(usize::from(id.field)));
            children.extend(node.filter(|node| node.has_units).cloned());
        }
        (!children.is_empty()).then(|| self.node(Vec::new(), children, &Gathered::default()))
    }

    fn actions(&mut self) {
        let rule = self.rule();
        for at in &rule.order {
            self.action(*at, &rule.actions[usize::from(*at)]);
        }
    }

    fn action(&mut self, at: u16, action: &Action) {
        if !self.eval(None).holds(&action.when) {
            return;
        }
        let items = match action.for_each {
            None => vec![None],
            Some(source) => self.items(source).into_iter().map(Some).collect(),
        };
        for item in items {
            if let Some(run) = self.run_action(action, item) {
                let runs = &mut self.values.runs[usize::from(at)];
                self.index.push((run.id, at, runs.len()));
                runs.push(run);
            }
        }
    }

    fn items(&mut self, source: Source) -> Vec<Item> {
        let eval = self.eval(None);
        if let Source::Attr(at) = source
            && let AttrValue::Args(args) = &self.values.attrs[usize::from(at)]
        {
            let item = |text: &LocText| Item::Text(Arc::from(eval.loc_text(text)), carried_by(text).into());
            return args.iter().map(item).collect();
        }
        let texts = eval.texts(source);
        let files = eval.files(source);
        let path = |id: &ArtifactId| path_text(&self.builder.model.artifact(*id).path);
        if files.len() == texts.len() && files.iter().zip(&texts).all(|(id, text)| path(id) == text) {
            return files.into_iter().map(Item::File).collect();
        }
        // A text made of a file carries it; which of the list's files it was is not known any more.
        let texts: Vec<Arc<str>> = texts.iter().map(|text| Arc::from(&**text)).collect();
        let files: Box<[Input]> = self.carried(source, None).files.into_iter().collect();
        texts.into_iter().map(|text| Item::Text(text, files.clone())).collect()
    }

    /// Adds the row of one run of an action; `None` if its outputs are wrong.
    fn run_action(&mut self, action: &Action, item: Option<Item>) -> Option<ActionRun> {
        let mut run = ActionRun { id: self.builder.next_action(), item, outs: Box::default(), depfile: None };
        let paths: Option<Vec<WsPath>> = action.outs.iter().map(|out| self.out_path(&out.path, &run)).collect();
        let depfile = match &action.depfile {
            Some(path) => Some(self.out_path(path, &run)?),
            None => None,
        };
        run.outs = self.declare(action, &paths?, run.id)?;
        run.depfile = depfile;
        let row = self.row(action, &run);
        if let (Body::Command { cmd: None, args }, true) = (&action.body, row.kind == ActionKind::Spawn) {
            self.check_program(action, args, &run);
        }
        self.builder.add_action(row);
        Some(run)
    }

    fn check_program(&mut self, action: &Action, args: &[Entry], run: &ActionRun) {
        if self.eval(Some(run)).gives_nothing(args) {
            let message =
                format!("action `{}` of this target has no program to run: its `args` are empty", action.name);
            self.diags.push(Diagnostic::at(self.cx.header, message).note(action.span, "declared here"));
        }
    }

    fn declare(&mut self, action: &Action, paths: &[WsPath], id: ActionId) -> Option<Box<[ArtifactId]>> {
        let mut outs = Vec::with_capacity(paths.len());
        for (out, path) in action.outs.iter().zip(paths) {
            let kind = if out.directory { ArtifactKind::Directory } else { ArtifactKind::File };
            match self.builder.output(path.clone(), kind, id) {
                Ok(artifact) => outs.push(artifact),
                Err(taken) => {
                    self.conflict(out, path, taken);
                    return None;
                }
            }
        }
        Some(outs.into())
    }

    fn conflict(&mut self, out: &Out, path: &WsPath, taken: ArtifactId) {
        let model = &self.builder.model;
        let producer = model.artifact(taken).producer;
        let other = producer.and_then(|id| model.actions.get(id.index())).map(|action| action.target);
        let other = other.filter(|target| *target != self.cx.id).and_then(|target| model.targets.get(target.index()));
        let message = match (other, producer) {
            (Some(other), _) => format!("`{}` and `{}` both declare the output `{path}`", self.cx.label, other.label),
            (None, Some(_)) => format!("`{}` declares the output `{path}` twice", self.cx.label),
            (None, None) => format!("`{}` declares the output `{path}`, which is a source file", self.cx.label),
        };
        let place = self.place_of(&out.path);
        self.diags.push(
            Diagnostic::at(place, message).note(out.path.span, format!("output `{}` is declared here", out.name)),
        );
    }

    /// Where a target says what the template names: its attribute, else its header.
    fn place_of(&self, template: &Template) -> Span {
        let spans = template.refs().filter_map(|reference| match reference.source {
            Source::Attr(at) | Source::Kind(at, _) => self.cx.attr_spans.get(usize::from(at)).copied().flatten(),
            _ => None,
        });
        spans.into_iter().next().unwrap_or(self.cx.header)
    }

    fn out_path(&mut self, template: &Template, run: &ActionRun) -> Option<WsPath> {
        let below = self.eval(Some(run)).text_of(template).unwrap_or_default();
        let reason = if below.is_empty() {
            "the path of an output is empty".to_owned()
        } else {
            match WsPath::new(&below).and_then(|below| WsPath::new(&self.values.bin)?.join(below.as_str())) {
                Ok(path) => return Some(path),
                Err(error) => format!("bad path of an output: {error}"),
            }
        };
        let place = self.place_of(template);
        self.diags.push(Diagnostic::at(place, reason).note(template.span, "the path is declared here"));
        None
    }

    fn row(&mut self, action: &Action, run: &ActionRun) -> ActionRow {
        let (kind, named) = match &action.body {
            Body::Write { .. } => (ActionKind::Write, Gathered::default()),
            Body::Command { args, .. } => (ActionKind::Spawn, self.named(action, args, run)),
        };
        let needed = self.gather(&action.inputs, Some(run));
        let with_depfile = action.depfile.is_some();
        let mut inputs = named.files;
        if !with_depfile {
            add_new(&mut inputs, needed.files.iter().copied());
        }
        let tags = self.tags(action);
        let mut host_tools = named.host_tools;
        add_new(&mut host_tools, needed.host_tools);
        for tool in &action.fixed.host_tools {
            add_new(&mut host_tools, [self.builder.host_tool(tool.clone())]);
        }
        if tags.no_local {
            host_tools.clear();
        }
        ActionRow {
            target: self.cx.id,
            mnemonic: action.fixed.mnemonic.clone(),
            kind,
            inputs: inputs.into(),
            discoverable: if with_depfile { needed.files.into() } else { Inputs::default() },
            outputs: run.outs.clone(),
            depfile: run.depfile.clone(),
            host_tools: host_tools.into(),
            tags,
            timeout: action.fixed.timeout,
            platform: self.platform(action),
            resources: action.fixed.resources.clone(),
        }
    }

    /// What the command line and the environment carry.
    fn named(&mut self, action: &Action, args: &[Entry], run: &ActionRun) -> Gathered {
        let mut gathered = self.gather(args, Some(run));
        for (_, value) in &action.env {
            match value {
                EnvValue::Join(table) => {
                    if self.eval(Some(run)).holds(&table.when) {
                        let more = self.gather(&table.items, Some(run));
                        gathered.absorb(more);
                    }
                }
                EnvValue::Text(template) => {
                    let empty = self.eval(Some(run)).text_of(template).is_none();
                    for reference in template.refs().filter(|_| !empty) {
                        let carried = self.carried(reference.source, Some(run));
                        gathered.add(&carried);
                    }
                }
            }
        }
        for at in &action.env_from {
            let AttrValue::Env(pairs) = &self.values.attrs[usize::from(*at)] else { continue };
            add_new(&mut gathered.files, pairs.iter().flat_map(|(_, text)| carried_by(text)));
        }
        gathered
    }

    fn tags(&self, action: &Action) -> ActionTags {
        let (own, target) = (action.fixed.tags, self.cx.common.action_tags);
        // Of a test it is the run that must be alone, not its compilation.
        let of_test = self.values.rule.run.as_ref().is_some_and(|run| run.test);
        ActionTags {
            no_remote: own.no_remote || target.no_remote,
            no_local: own.no_local || target.no_local,
            no_cache: own.no_cache || target.no_cache,
            no_remote_cache: own.no_remote_cache || target.no_remote_cache,
            exclusive: own.exclusive || (target.exclusive && !of_test),
            hermetic: own.hermetic || target.hermetic,
        }
    }

    /// Properties of the rule, those of the target over them.
    fn platform(&self, action: &Action) -> Arc<[(Box<str>, Box<str>)]> {
        let (own, target) = (&action.fixed.platform, &self.cx.common.platform);
        if own.is_empty() {
            return target.clone();
        }
        let mut all: Vec<_> =
            own.iter().filter(|(name, _)| !target.iter().any(|(key, _)| key == name)).cloned().collect();
        all.extend(target.iter().cloned());
        all.sort();
        all.into()
    }
}
