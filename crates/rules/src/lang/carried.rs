//! The inputs that references bring along: files, runtime files of tools, host programs.

use minibuild_core::{HostToolId, Input};

use super::vars::{ToolVar, VarId, VarValue, Vars};
use crate::attr::{LocPart, LocText, ToolValue};

/// What a source brings along: files, host programs; and, where its files are runfiles, those of runnable ones.
#[derive(Clone, Default)]
pub struct Carried {
    pub(super) files: Option<Input>,
    pub(super) run_files: Option<Input>,
    pub(super) host_tools: Vec<HostToolId>,
    pub(super) run_tools: Vec<HostToolId>,
}

/// What several sources bring along.
#[derive(Default)]
pub struct Gathered {
    pub(super) files: Vec<Input>,
    pub(super) run_files: Vec<Input>,
    pub(super) host_tools: Vec<HostToolId>,
    pub(super) run_tools: Vec<HostToolId>,
}

impl Gathered {
    pub(super) fn add(&mut self, carried: &Carried) {
        add_new(&mut self.files, carried.files);
        add_new(&mut self.run_files, carried.run_files);
        add_new(&mut self.host_tools, carried.host_tools.iter().copied());
        add_new(&mut self.run_tools, carried.run_tools.iter().copied());
    }
}

pub fn add_new<T: PartialEq>(all: &mut Vec<T>, more: impl IntoIterator<Item = T>) {
    for item in more {
        if !all.contains(&item) {
            all.push(item);
        }
    }
}
impl Gathered {
    pub(super) fn absorb(&mut self, more: Self) {
        add_new(&mut self.files, more.files);
        add_new(&mut self.run_files, more.run_files);
        add_new(&mut self.host_tools, more.host_tools);
        add_new(&mut self.run_tools, more.run_tools);
    }
}

pub fn labelled(vars: &Vars, id: VarId) -> Option<ToolValue> {
    match vars.get(id) {
        VarValue::Tool(ToolVar::Label(_, tool)) => *tool,
        _ => None,
    }
}

/// The files a text remembers, and what comes along with them.
pub fn carried_by(text: &LocText) -> Vec<Input> {
    let parts = text.parts.iter().filter_map(|part| match part {
        LocPart::Files(files) => Some(files),
        LocPart::Text(_) => None,
    });
    parts.flatten().map(|id| Input::Artifact(*id)).chain(text.along.iter().copied()).collect()
}
