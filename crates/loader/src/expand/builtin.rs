//! The built-in rules: `genrule`, `test`, `filegroup`, `alias`. Knows what their fields mean, not how they were read.

use minibuild_core::{Action, ActionId, ActionKind, ArtifactId, HostToolId, Input, Inputs, RunInfo, TargetId};
use minibuild_diagnostics::diag::Diagnostic;
use minibuild_rules::attr::LocText;
use minibuild_rules::builder::is_shell_safe;
use minibuild_rules::provide::{Common, Provided, Runnable};

use super::Expander;
use super::inputs::{InputList, Texts};
use crate::command::{CommandRecipe, Program, RecipeSlot, RspRecipe, mentions, render, source_paths};
use crate::rule_table::RuleKind;
use crate::values::{Placed, RawTarget, RawValue, Reference};

/// `SRCS` and `OUTS` longer than this do not fit a command line safely.
const MAX_LIST_BYTES: usize = 100 * 1024;

impl<'a> Expander<'a, '_> {
    pub(super) fn filegroup(&mut self, target: &'a RawTarget) -> Option<Provided> {
        let mut inputs = InputList::default();
        self.add_files(self.references(target, "srcs"), &mut inputs);
        let outputs = self.shared(inputs.items);
        Some(Provided { outputs, ..Provided::default() })
    }

    pub(super) fn alias(&mut self, id: TargetId, target: &'a RawTarget) -> Option<Provided> {
        let Some(Placed { value: Reference::Label(actual), .. }) = self.references(target, "actual").first() else {
            return None;
        };
        let actual_id = self.graph.target_of(actual)?;
        let actual_row = &self.builder.model.targets[actual_id.index()];
        let (run, test, resolved) = (actual_row.run.clone(), actual_row.test, actual_row.alias_of.unwrap_or(actual_id));
        let row = &mut self.builder.model.targets[id.index()];
        (row.run, row.test, row.alias_of) = (run, test, Some(resolved));
        let mut provided = self.provided[actual_id.index()].clone()?;
        provided.recipes = Vec::new();
        Some(provided)
    }

    pub(super) fn genrule(&mut self, id: TargetId, target: &'a RawTarget, common: &Common) -> Option<Provided> {
        let before = self.diags.list.len();
        let action = self.builder.next_action();
        let outs = self.declare(id, target, "outs", action);
        let dirs = self.declare(id, target, "out_dirs", action);
        let links = self.declare(id, target, "out_symlinks", action);
        let outputs: Vec<ArtifactId> = outs.iter().chain(&dirs).chain(&links).copied().collect();
        if outputs.is_empty()
            && self.diags.list.len() == before
            && !self.gave_any(target, &["outs", "out_dirs", "out_symlinks"])
        {
            let error = Diagnostic::at(target.header, format!("`{}` declares no output", target.label));
            self.diags
                .push(error.hint("give `outs`, `out_dirs` or `out_symlinks`; a command without outputs is a `test`"));
        }
        let mut inputs = InputList::default();
        let recipe = self.recipe(target, action, &mut inputs, outs, dirs.first().copied());
        let mut discoverable = InputList::default();
        self.add_files(self.references(target, "inputs"), &mut discoverable);
        let depfile = match self.value(target, "depfile") {
            Some((RawValue::OutPath(path), _)) => Some(path.clone()),
            _ => None,
        };
        if depfile.is_none() {
            inputs.extend(std::mem::take(&mut discoverable.items));
        }
        let resources = self.resources(target);
        if self.diags.list.len() > before || outputs.is_empty() {
            return None;
        }
        let provided_outputs = self.shared(outputs.iter().map(|o| Input::Artifact(*o)).collect());
        let host_tools = self.host_tools(target, &inputs);
        self.builder.add_action(Action {
            target: id,
            mnemonic: self.shell.clone(),
            kind: ActionKind::Spawn,
            inputs: inputs.items.into_boxed_slice(),
            discoverable: discoverable.items.into_boxed_slice(),
            outputs: outputs.into_boxed_slice(),
            depfile,
            host_tools,
            tags: common.action_tags,
            timeout: common.timeout,
            platform: common.platform.clone(),
            resources,
        });
        self.put_recipe(action, RecipeSlot::Command(Box::new(recipe?)));
        Some(Provided { outputs: provided_outputs, ..Provided::default() })
    }

    pub(super) fn test(&mut self, id: TargetId, target: &'a RawTarget, common: &Common) -> Option<Provided> {
        let before = self.diags.list.len();
        let action = self.builder.next_action();
        let mut inputs = InputList::default();
        let recipe = self.recipe(target, action, &mut inputs, Vec::new(), None);
        self.add_files(self.references(target, "data"), &mut inputs);
        let resources = self.resources(target);
        if self.diags.list.len() > before {
            return None;
        }
        let recipe = recipe?;
        let host_tools = self.host_tools(target, &inputs);
        let run = match &recipe.program {
            Program::Executable(executable, args) => {
                Some(self.test_run(id, *executable, args, &recipe, &inputs, host_tools.clone()))
            }
            _ => None,
        };
        self.builder.add_action(Action {
            target: id,
            mnemonic: self.test.clone(),
            kind: ActionKind::Test,
            inputs: inputs.items.into_boxed_slice(),
            discoverable: Box::default(),
            outputs: Box::default(),
            depfile: None,
            host_tools,
            tags: common.action_tags,
            timeout: common.timeout,
            platform: common.platform.clone(),
            resources,
        });
        self.put_recipe(action, RecipeSlot::Command(Box::new(recipe)));
        self.builder.model.targets[id.index()].test = Some(action);
        Some(Provided { run, ..Provided::default() })
    }

    /// Makes a test with an `executable` runnable by `minibuild run` too.
    pub(super) fn test_run(
        &mut self,
        id: TargetId,
        executable: ArtifactId,
        args: &[LocText],
        recipe: &CommandRecipe,
        inputs: &InputList,
        host_tools: Box<[HostToolId]>,
    ) -> Runnable {
        let model = &self.builder.model;
        let runfiles: Inputs = inputs.items.iter().filter(|i| **i != Input::Artifact(executable)).copied().collect();
        let info = RunInfo {
            executable,
            runfiles: runfiles.clone(),
            args: args.iter().map(|a| render(model, a, " ")).collect(),
            env: recipe.env.iter().map(|(name, text)| (name.to_string(), render(model, text, " "))).collect(),
        };
        self.builder.model.targets[id.index()].run = Some(info);
        Runnable { executable, runfiles, host_tools }
    }

    pub(super) fn gave_any(&self, target: &'a RawTarget, names: &[&str]) -> bool {
        names.iter().any(|name| !self.outs(target, name).is_empty())
    }

    /// What a genrule or test runs; adds its inputs.
    pub(super) fn recipe(
        &mut self,
        target: &'a RawTarget,
        action: ActionId,
        inputs: &mut InputList,
        outs: Vec<ArtifactId>,
        out_dir: Option<ArtifactId>,
    ) -> Option<CommandRecipe> {
        self.add_files(self.references(target, "srcs"), inputs);
        let srcs: Inputs = inputs.items.clone().into_boxed_slice();
        for tool in self.references(target, "tools") {
            self.add_tool(tool, inputs);
        }
        let mut texts = Texts { action, inputs, text: String::new() };
        let program = self.program(target, &mut texts);
        let env = match self.value(target, "env") {
            Some((RawValue::Env(entries), _)) => {
                entries.iter().filter_map(|(name, loc)| Some((name.clone(), self.loc(loc, &mut texts)?))).collect()
            }
            _ => Vec::new(),
        };
        let rspfile = self.rspfile(target, &mut texts);
        let (names_srcs, names_outs) = (mentions(&texts.text, "SRCS"), mentions(&texts.text, "OUTS"));
        let recipe =
            CommandRecipe { program: program?, env, srcs, outs: outs.into(), out_dir, names_srcs, names_outs, rspfile };
        self.check_lists(target, &recipe);
        Some(recipe)
    }

    pub(super) fn program(&mut self, target: &'a RawTarget, texts: &mut Texts<'_>) -> Option<Program> {
        let args = match self.value(target, "args") {
            Some((RawValue::Args(args), span)) => Some((args, *span)),
            _ => None,
        };
        let cmd = match self.value(target, "cmd") {
            Some((RawValue::Loc(cmd), span)) => Some((cmd, *span)),
            _ => None,
        };
        let executable = self.references(target, "executable").first();
        let mut all = |this: &mut Self| -> Vec<LocText> {
            args.iter().flat_map(|(args, _)| *args).filter_map(|arg| this.loc(arg, texts)).collect()
        };
        match (cmd, args, executable) {
            (Some((_, span)), Some(_), _) => {
                self.diags.push(Diagnostic::at(span, "`cmd` and `args` exclude each other"));
                None
            }
            (Some((_, span)), _, Some(_)) => {
                self.diags.push(Diagnostic::at(span, "`cmd` and `executable` exclude each other"));
                None
            }
            (Some((cmd, _)), None, None) => self.loc(cmd, texts).map(Program::Shell),
            (None, _, Some(executable)) => {
                let args = all(self);
                let program = self.executable(executable, texts.inputs)?;
                Some(Program::Executable(program, args))
            }
            (None, Some((given, span)), None) => {
                if given.is_empty() {
                    self.diags.push(Diagnostic::at(span, "`args` is the whole argv and cannot be empty"));
                    return None;
                }
                Some(Program::Argv(all(self)))
            }
            (None, None, None) => self.no_command(target),
        }
    }

    pub(super) fn no_command(&mut self, target: &RawTarget) -> Option<Program> {
        let given = |name: &str| self.rules.rules[target.rule].field(name).is_some_and(|i| target.value(i).is_some());
        // A `cmd` that could not be read was complained about already.
        if !given("cmd")
            && !given("args")
            && !given("executable")
            && !self.graph.packages[self.package_of(target)].broken
        {
            let what = if self.rules.rules[target.rule].kind == RuleKind::Test {
                "`cmd`, `args` or `executable`"
            } else {
                "`cmd` or `args`"
            };
            self.diags.push(Diagnostic::at(target.header, format!("`{}` runs nothing: it needs {what}", target.label)));
        }
        None
    }

    pub(super) fn package_of(&self, target: &RawTarget) -> usize {
        self.graph.by_label.get(&target.label).map_or(0, |id| self.graph.targets[id.index()].1)
    }

    pub(super) fn rspfile(&mut self, target: &'a RawTarget, texts: &mut Texts<'_>) -> Option<RspRecipe> {
        let Some((RawValue::RspFile(file), span)) = self.value(target, "rspfile") else { return None };
        self.rspfiles.push((file.path.clone(), *span));
        let content = file.content.iter().filter_map(|loc| self.loc(loc, texts)).collect();
        Some(RspRecipe { path: file.path.clone(), content, lines: file.lines })
    }

    /// Checks what would go wrong only in the shell: `SRCS` and `OUTS` are lists in one text.
    pub(super) fn check_lists(&mut self, target: &'a RawTarget, recipe: &CommandRecipe) {
        for (name, field, used) in [("SRCS", "srcs", recipe.names_srcs), ("OUTS", "outs", recipe.names_outs)] {
            if !used {
                continue;
            }
            let is_plain = |input: &Input| matches!(input, Input::Artifact(_));
            let count = if field == "srcs" { recipe.srcs.len() } else { recipe.outs.len() };
            if (field != "srcs" || recipe.srcs.iter().all(is_plain)) && self.builder.can_list(count, MAX_LIST_BYTES) {
                continue;
            }
            let span = self.value(target, field).map_or(target.header, |(_, span)| *span);
            let model = &self.builder.model;
            let paths = match field {
                "srcs" => source_paths(model, &recipe.srcs),
                _ => recipe.outs.iter().map(|id| model.artifact(*id).path.as_str()).collect(),
            };
            if let Some(bad) = paths.iter().find(|path| !path.bytes().all(is_shell_safe)) {
                let error =
                    Diagnostic::at(span, format!("`{bad}` cannot stand in `${name}`: the shell would take it apart"));
                self.diags.push(error.hint("name it with `$(location LABEL)` inside quotes"));
            } else if paths.iter().map(|p| p.len() + 1).sum::<usize>() > MAX_LIST_BYTES {
                let error = Diagnostic::at(span, format!("`${name}` would be longer than 100 KiB"));
                self.diags.push(error.hint(
                    "write the list to a file: `rspfile = { path = \"x.rsp\", content = [\"$(locations LABEL)\"] }`",
                ));
            }
        }
    }

    pub(super) fn declare(
        &mut self,
        id: TargetId,
        target: &'a RawTarget,
        name: &str,
        action: ActionId,
    ) -> Vec<ArtifactId> {
        let outs = self.outs(target, name);
        let mut ids = Vec::with_capacity(outs.len());
        let owner = self.graph.named[id.index()];
        for out in outs {
            match self.builder.output(out.path.clone(), out.kind, action) {
                Ok(id) => {
                    self.out_spans.insert(id, (owner, out.span));
                    ids.push(id);
                }
                Err(taken) => self.report_taken(owner, out, taken),
            }
        }
        ids
    }

    /// Host programs the target names, and those its tools need.
    pub(super) fn host_tools(&mut self, target: &'a RawTarget, inputs: &InputList) -> Box<[HostToolId]> {
        let mut ids = inputs.host_tools.clone();
        if let Some((RawValue::HostTools(tools), _)) = self.value(target, "host_tools") {
            ids.extend(tools.iter().map(|t| self.builder.host_tool(t.clone())));
        }
        ids.sort_unstable();
        ids.dedup();
        ids.into_boxed_slice()
    }
}
