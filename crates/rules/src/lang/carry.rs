//! What the references of a target bring along as inputs: files, runtime files of tools, host programs. Each reference is
//! looked at once for each target; lists and fields become shared sets.

use minibuild_core::Input;

use super::carried::{Carried, Gathered, add_new, carried_by, labelled};
use super::expand::Expander;
use super::rule::{Entry, Source};
use super::values::{ActionRun, Item};
use super::vars::VarId;
use crate::attr::{AttrValue, ToolValue};

impl Expander<'_, '_> {
    /// What the entries bring along.
    pub(super) fn gather(&mut self, entries: &[Entry], run: Option<&ActionRun>) -> Gathered {
        let mut gathered = Gathered::default();
        for source in self.eval(run).mentioned(entries) {
            let carried = self.carried(source, run);
            gathered.add(&carried);
        }
        gathered
    }

    pub(super) fn carried(&mut self, source: Source, run: Option<&ActionRun>) -> Carried {
        match source {
            Source::Out(_) | Source::Depfile => return Carried::default(),
            Source::Item => {
                let files = match run.and_then(|run| run.item.as_ref()) {
                    Some(Item::File(id)) => vec![Input::Artifact(*id)],
                    Some(Item::Text(_, files)) => files.to_vec(),
                    None => Vec::new(),
                };
                return Carried { files: self.one_input(files), ..Carried::default() };
            }
            _ => {}
        }
        if let Some(known) = self.carried.get(&source) {
            return known.clone();
        }
        let carried = self.look_at(source);
        self.carried.insert(source, carried.clone());
        carried
    }

    fn look_at(&mut self, source: Source) -> Carried {
        match source {
            Source::Attr(at) | Source::Kind(at, _) => self.attr_carries(at, source),
            Source::Var(id) => self.var_carries(id),
            Source::List(at) => {
                let rule = self.rule();
                let gathered = self.gather(&rule.lists[usize::from(at)].1, None);
                self.bundle(gathered)
            }
            Source::Field(..) => match self.values.fields.get(&source) {
                Some(node) => Carried {
                    files: node.files,
                    run_files: node.run_files,
                    host_tools: node.host_tools.to_vec(),
                    run_tools: Vec::new(),
                },
                None => Carried::default(),
            },
            Source::RunFiles(at) => {
                let mut gathered = Gathered::default();
                for target in self.targets(at) {
                    if let Some(run) = &(self.around.provided)(target).run {
                        add_new(&mut gathered.files, run.runfiles.iter().copied());
                        add_new(&mut gathered.run_tools, run.host_tools.iter().copied());
                    }
                }
                self.bundle(gathered)
            }
            Source::Action(..) | Source::RunExecutable(_) => {
                let files = self.eval(None).files(source).into_iter().map(Input::Artifact).collect();
                Carried { files: self.one_input(files), ..Carried::default() }
            }
            _ => Carried::default(),
        }
    }

    fn bundle(&mut self, gathered: Gathered) -> Carried {
        Carried {
            files: self.one_input(gathered.files),
            run_files: self.one_input(gathered.run_files),
            host_tools: gathered.host_tools,
            run_tools: gathered.run_tools,
        }
    }

    fn attr_carries(&mut self, at: u16, source: Source) -> Carried {
        let mut gathered = Gathered::default();
        match &self.values.attrs[usize::from(at)] {
            AttrValue::Files(files) => {
                let kind = if let Source::Kind(_, kind) = source { Some(kind) } else { None };
                let wanted: Vec<_> =
                    files.iter().filter(|file| kind.is_none_or(|kind| file.kind == kind)).copied().collect();
                gathered.files = wanted.iter().map(|file| Input::Artifact(file.artifact)).collect();
                for file in wanted {
                    let run = file.from.and_then(|target| (self.around.provided)(target).run.as_ref());
                    if let Some(run) = run.filter(|run| run.executable == file.artifact) {
                        add_new(&mut gathered.run_files, run.runfiles.iter().copied());
                        add_new(&mut gathered.run_tools, run.host_tools.iter().copied());
                    }
                }
            }
            AttrValue::Targets(targets) => {
                for target in targets.clone() {
                    let provided = (self.around.provided)(target);
                    gathered.files.extend(provided.outputs.iter().copied());
                    if let Some(run) = &provided.run {
                        add_new(&mut gathered.run_files, run.runfiles.iter().copied());
                        add_new(&mut gathered.run_tools, run.host_tools.iter().copied());
                    }
                }
            }
            AttrValue::Tools(tools) => {
                for tool in tools.clone() {
                    self.tool_carries(tool, &mut gathered);
                }
            }
            AttrValue::Args(args) => {
                add_new(&mut gathered.files, args.iter().flat_map(carried_by));
            }
            _ => {}
        }
        self.bundle(gathered)
    }

    fn tool_carries(&self, tool: ToolValue, gathered: &mut Gathered) {
        match tool {
            ToolValue::File(id) => add_new(&mut gathered.files, [Input::Artifact(id)]),
            ToolValue::Target(target) => {
                if let Some(run) = &(self.around.provided)(target).run {
                    add_new(&mut gathered.files, [Input::Artifact(run.executable)]);
                    add_new(&mut gathered.files, run.runfiles.iter().copied());
                    add_new(&mut gathered.host_tools, run.host_tools.iter().copied());
                }
            }
        }
    }

    fn var_carries(&mut self, id: VarId) -> Carried {
        let mut gathered = Gathered::default();
        if let Some(tool) = labelled(self.around.vars, id) {
            self.tool_carries(tool, &mut gathered);
        } else if let Some(tool) = self.around.vars.host_tool(id) {
            gathered.host_tools.push(self.builder.host_tool(tool));
        }
        self.bundle(gathered)
    }

    pub(super) fn one_input(&mut self, inputs: Vec<Input>) -> Option<Input> {
        match inputs[..] {
            [] => None,
            [only] => Some(only),
            _ => Some(Input::Set(self.builder.set(inputs))),
        }
    }
}
