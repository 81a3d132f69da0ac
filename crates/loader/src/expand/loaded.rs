//! Targets of rule files: what `lang` is given, and what is added to its answer: the run, the test, package borders.

use std::sync::Arc;

use minibuild_core::{Action, ActionKind, BIN_ROOT, HostToolId, Input, PackageId, RunInfo, TargetId};
use minibuild_diagnostics::diag::Diagnostic;
use minibuild_rules::lang::{Around, RuleId};
use minibuild_rules::provide::{Common, Provided, Runnable, TargetCx};

use super::Expander;
use super::inputs::{InputList, Texts};
use crate::command::{CommandRecipe, Program, RecipeSlot, render};
use crate::values::{LabelRef, Placed, RawTarget, RawValue, Reference};

impl<'a> Expander<'a, '_> {
    /// A target of a rule file.
    pub(super) fn loaded(
        &mut self,
        id: TargetId,
        target: &'a RawTarget,
        rule: RuleId,
        mut common: Common,
    ) -> Option<Provided> {
        let before = self.diags.list.len();
        let specs = &self.rules.rules[target.rule].attrs;
        // The texts of attributes remember their files themselves; those of the run are gathered here.
        let mut named = InputList::default();
        let mut texts = Texts { action: self.builder.next_action(), inputs: &mut named, text: String::new() };
        let mut attrs = Vec::with_capacity(specs.len());
        for (field, spec) in specs.iter().enumerate() {
            attrs.extend(self.attr_value(spec, target.value(field), &mut texts));
        }
        let mut of_run = InputList::default();
        texts.inputs = &mut of_run;
        if self.setup.set.is_runnable(rule) {
            self.run_texts(target, &mut common, &mut texts);
        }
        if self.diags.list.len() > before || attrs.len() != specs.len() {
            return None;
        }
        let spans = Self::attr_spans(target, specs.len());
        let cx = TargetCx {
            id,
            label: &target.label,
            package: PackageId::new(self.graph.targets[id.index()].1),
            attrs: &attrs,
            attr_spans: &spans,
            header: target.header,
            common: &common,
        };
        let first_new = self.builder.model.artifacts.len();
        let nothing = Provided::default();
        let provided = |id: TargetId| self.provided[id.index()].as_ref().unwrap_or(&nothing);
        let around = Around { provided: &provided, vars: &self.vars };
        let mut provided = self.setup.set.expand(rule, &cx, &around, &mut self.builder, self.diags);
        self.check_borders(target, first_new);
        for (action, recipe) in std::mem::take(&mut provided.recipes) {
            self.put_recipe(action, RecipeSlot::Rule(recipe));
        }
        if self.diags.list.len() > before {
            return None;
        }
        if let Some(run) = &mut provided.run {
            self.finish_run(id, target, rule, run, &common, of_run);
        }
        Some(provided)
    }

    pub(super) fn run_texts(&mut self, target: &'a RawTarget, common: &mut Common, texts: &mut Texts<'_>) {
        if let Some((RawValue::Args(args), _)) = self.value(target, "args") {
            common.args = self.all_texts(args, texts).unwrap_or_default();
        }
        if let Some((RawValue::Env(entries), _)) = self.value(target, "env") {
            common.env = self.all_entries(entries, texts).unwrap_or_default();
        }
    }

    /// What `minibuild run` needs and, for tests, the test's action.
    pub(super) fn finish_run(
        &mut self,
        id: TargetId,
        target: &'a RawTarget,
        rule: RuleId,
        run: &mut Runnable,
        common: &Common,
        of_run: InputList,
    ) {
        let mut runfiles = InputList::default();
        runfiles.extend(run.runfiles.iter().copied());
        runfiles.extend(of_run.items.iter().copied().filter(|input| *input != Input::Artifact(run.executable)));
        run.runfiles = runfiles.items.clone().into_boxed_slice();
        let mut host_tools: Vec<HostToolId> = run.host_tools.iter().chain(&of_run.host_tools).copied().collect();
        host_tools.sort_unstable();
        host_tools.dedup();
        let model = &self.builder.model;
        let info = RunInfo {
            executable: run.executable,
            runfiles: run.runfiles.clone(),
            args: common.args.iter().map(|text| render(model, text, " ")).collect(),
            env: common.env.iter().map(|(name, text)| (name.to_string(), render(model, text, " "))).collect(),
        };
        self.builder.model.targets[id.index()].run = Some(info);
        if !self.setup.set.is_test(rule) {
            return;
        }
        runfiles.push(Input::Artifact(run.executable));
        let action = self.builder.next_action();
        let resources = self.resources(target);
        self.builder.add_action(Action {
            target: id,
            mnemonic: self.test.clone(),
            kind: ActionKind::Test,
            inputs: runfiles.items.into_boxed_slice(),
            discoverable: Box::default(),
            outputs: Box::default(),
            depfile: None,
            host_tools: if common.action_tags.no_local { Box::default() } else { host_tools.into_boxed_slice() },
            tags: common.action_tags,
            timeout: common.timeout,
            platform: common.platform.clone(),
            resources,
        });
        let recipe = CommandRecipe {
            program: Program::Executable(run.executable, common.args.clone()),
            env: common.env.clone(),
            srcs: Box::default(),
            outs: Box::default(),
            out_dir: None,
            names_srcs: false,
            names_outs: false,
            rspfile: None,
        };
        self.put_recipe(action, RecipeSlot::Command(Box::new(recipe)));
        self.builder.model.targets[id.index()].test = Some(action);
    }

    /// Outputs of rule files may not cross a package border either.
    pub(super) fn check_borders(&mut self, target: &RawTarget, first_new: usize) {
        let top = BIN_ROOT.len() + 1;
        let own = target.label.package();
        for index in first_new..self.builder.model.artifacts.len() {
            let artifact = &self.builder.model.artifacts[index];
            let Some(below) = artifact.path.as_str().get(top..).filter(|_| artifact.producer.is_some()) else {
                continue;
            };
            let mut end = below.len();
            while end > own.len() {
                let dir = &below[..end];
                let is_package = self.setup.is_package;
                let found = match self.borders.get(dir) {
                    Some(found) => *found,
                    None => {
                        let found = is_package(dir);
                        self.borders.insert(dir.to_owned(), found);
                        found
                    }
                };
                if found {
                    let message = format!("output `{below}` of `{}` lies in the package `//{dir}`", target.label);
                    self.diags.push(Diagnostic::at(target.header, message));
                }
                end = dir.rfind('/').unwrap_or(0);
            }
        }
    }

    /// Tells tool variables that are labels what their target is, once it is known.
    pub(super) fn set_tool_vars(&mut self, id: TargetId) {
        for (target, var) in self.setup.tool_vars.iter().filter(|(target, _)| *target == id) {
            let label = LabelRef::new(self.graph.targets[target.index()].0.label.clone(), None);
            let reference =
                Placed { value: Reference::Label(label), span: self.graph.targets[target.index()].0.header };
            if let Some(tool) = self.tool_value(&reference) {
                Arc::make_mut(&mut self.vars).set_tool(*var, tool);
            }
        }
    }
}
