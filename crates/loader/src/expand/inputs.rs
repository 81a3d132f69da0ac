//! References to files, targets, groups and programs, as inputs. Knows what a target gives, not which rule asks.

use std::sync::Arc;

use minibuild_core::{ActionId, ArtifactId, HostToolId, Input, Inputs, Model, TargetId};
use minibuild_diagnostics::diag::{Diagnostic, Span};
use minibuild_rules::attr::{LocPart, LocText};
use minibuild_rules::provide::Runnable;
use rustc_hash::FxHashSet;

use super::Expander;
use crate::resolve::place;
use crate::values::{LabelRef, Placed, RawLoc, RawPart, Reference};

impl<'a> Expander<'a, '_> {
    pub(super) fn add_files(&mut self, references: &'a [Placed<Reference>], inputs: &mut InputList) {
        for reference in references {
            match &reference.value {
                Reference::Source(path) => inputs.push(Input::Artifact(self.builder.source(path.clone()))),
                Reference::Label(label) => {
                    let Some(id) = self.graph.target_of(label) else { continue };
                    match self.group_of(id, label.group.as_deref()) {
                        Ok(found) => inputs.extend(found.iter().copied()),
                        Err(error) => self.diags.push(place(*error, reference.span)),
                    }
                }
                Reference::Own(_) => {}
            }
        }
    }

    /// What a label with an optional group stands for.
    pub fn outputs_of(&mut self, label: &LabelRef, span: Span) -> Option<Inputs> {
        let id = self.graph.target_of(label)?;
        match self.group_of(id, label.group.as_deref()) {
            Ok(inputs) => Some(inputs.into()),
            Err(error) => {
                self.diags.push(place(*error, span));
                None
            }
        }
    }

    /// The outputs of a target or of one group of it.
    ///
    /// # Errors
    /// A complaint where it has no such group.
    pub fn group_of(&self, id: TargetId, group: Option<&str>) -> Result<&[Input], Box<Diagnostic>> {
        let Some(provided) = &self.provided[id.index()] else { return Ok(&[]) };
        let Some(group) = group else { return Ok(&provided.outputs) };
        match provided.providers.iter().find(|(name, _)| &**name == group) {
            Some((_, value)) => Ok(&value.files),
            None => {
                let label = &self.builder.model.target(id).label;
                let groups: Vec<String> = provided.providers.iter().map(|(name, _)| format!("`{name}`")).collect();
                let hint = if groups.is_empty() {
                    "it has no output groups".to_owned()
                } else {
                    format!("it has {}", groups.join(", "))
                };
                Err(Box::new(Diagnostic::error(format!("`{label}` has no output group `{group}`")).hint(hint)))
            }
        }
    }

    pub(super) fn add_tool(&mut self, tool: &'a Placed<Reference>, inputs: &mut InputList) {
        self.add_files(std::slice::from_ref(tool), inputs);
        if let Reference::Label(label @ LabelRef { group: None, .. }) = &tool.value
            && let Some(run) = self.runnable(label)
        {
            inputs.push(Input::Artifact(run.executable));
            inputs.run(run);
        }
    }

    /// What a label runs, if it is runnable.
    pub fn runnable(&self, label: &LabelRef) -> Option<&Runnable> {
        let id = self.graph.target_of(label)?;
        self.provided[id.index()].as_ref()?.run.as_ref()
    }

    /// The program of a tool: a source file, what a runnable target runs, or the one file a target makes.
    pub(super) fn executable(&mut self, tool: &'a Placed<Reference>, inputs: &mut InputList) -> Option<ArtifactId> {
        self.add_tool(tool, inputs);
        self.single_file(tool, "an executable")
    }

    /// The one file that a reference stands for.
    pub fn single_file(&mut self, reference: &Placed<Reference>, what: &str) -> Option<ArtifactId> {
        let label = match &reference.value {
            Reference::Source(path) => return Some(self.builder.source(path.clone())),
            Reference::Own(path) => return self.builder.find(path.as_str()),
            Reference::Label(label) => label,
        };
        if label.group.is_none()
            && let Some(run) = self.runnable(label)
        {
            return Some(run.executable);
        }
        let outputs = self.outputs_of(label, reference.span)?;
        let files = flatten(&self.builder.model, &outputs);
        if let [only] = files[..] {
            return Some(only);
        }
        let error = Diagnostic::at(
            reference.span,
            format!("`{}` stands for {} files; {what} must be one", label.label, files.len()),
        );
        let hint = if what == "an executable" {
            "name a runnable target or a target of one file"
        } else {
            "`$(locations LABEL)` names them all"
        };
        self.diags.push(error.hint(hint));
        None
    }

    /// A text with its files; what it names becomes an input.
    pub fn loc(&mut self, loc: &'a RawLoc, texts: &mut Texts<'_>) -> Option<LocText> {
        let mut text = LocText::default();
        for part in &loc.parts {
            match part {
                RawPart::Text(plain) => {
                    texts.text.push_str(plain);
                    texts.text.push(' ');
                    text.parts.push(LocPart::Text(plain.clone()));
                }
                RawPart::Location { of, many } => {
                    text.parts.push(self.location(of, *many, texts)?);
                    text.along.extend(self.along(of, *many));
                }
            }
        }
        Some(text)
    }

    /// Runfiles of a runnable target named by `$(location)`.
    pub(super) fn along(&self, of: &Placed<Reference>, many: bool) -> Vec<Input> {
        match &of.value {
            Reference::Label(label @ LabelRef { group: None, .. }) if !many => {
                self.runnable(label).map(|run| run.runfiles.to_vec()).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn location(&mut self, of: &'a Placed<Reference>, many: bool, texts: &mut Texts<'_>) -> Option<LocPart> {
        if let Reference::Own(path) = &of.value {
            return Some(match self.builder.find(path.as_str()) {
                Some(id) => LocPart::Files(vec![id]),
                // A depfile or response file.
                None => LocPart::Text(Arc::from(path.as_str())),
            });
        }
        let files = match (&of.value, many) {
            (Reference::Label(label), true) => {
                let outputs = self.outputs_of(label, of.span)?;
                flatten(&self.builder.model, &outputs)
            }
            _ => vec![self.single_file(of, "`$(location)`")?],
        };
        let own = |id: &ArtifactId| self.builder.model.artifact(*id).producer == Some(texts.action);
        if let Some(own) = files.iter().find(|id| own(id)) {
            let path = &self.builder.model.artifact(*own).path;
            self.diags.push(Diagnostic::at(of.span, format!("`{path}` is made by this very action")));
            return None;
        }
        if many {
            self.add_files(std::slice::from_ref(of), texts.inputs);
        } else {
            self.add_tool_of_location(of, &files, texts.inputs);
        }
        Some(LocPart::Files(files))
    }

    pub(super) fn add_tool_of_location(
        &mut self,
        of: &'a Placed<Reference>,
        files: &[ArtifactId],
        inputs: &mut InputList,
    ) {
        inputs.extend(files.iter().map(|id| Input::Artifact(*id)));
        if let Reference::Label(label @ LabelRef { group: None, .. }) = &of.value
            && let Some(run) = self.runnable(label)
        {
            inputs.run(run);
        }
    }
}

/// What is gathered while the texts of one action are resolved.
pub struct Texts<'t> {
    /// The action whose own outputs cannot be inputs.
    pub action: ActionId,
    /// What the texts name.
    pub inputs: &'t mut InputList,
    /// The plain text of them all.
    pub text: String,
}

/// Inputs in order, each once.
#[derive(Default)]
pub struct InputList {
    /// In the order first met.
    pub items: Vec<Input>,
    seen: FxHashSet<Input>,
    /// Host programs that tools among them need.
    pub host_tools: Vec<HostToolId>,
}

impl InputList {
    /// Adds one.
    pub fn push(&mut self, input: Input) {
        const SMALL: usize = 16;
        if self.items.len() < SMALL {
            if !self.items.contains(&input) {
                self.items.push(input);
            }
            return;
        }
        if self.seen.is_empty() {
            self.seen.extend(self.items.iter().copied());
        }
        if self.seen.insert(input) {
            self.items.push(input);
        }
    }

    /// What running something needs.
    pub fn run(&mut self, run: &Runnable) {
        self.extend(run.runfiles.iter().copied());
        self.host_tools.extend(run.host_tools.iter().copied());
    }

    /// Adds several.
    pub fn extend(&mut self, inputs: impl IntoIterator<Item = Input>) {
        inputs.into_iter().for_each(|input| self.push(input));
    }
}

/// All files of `inputs` in the order they are met.
pub fn flatten(model: &Model, inputs: &[Input]) -> Vec<ArtifactId> {
    if let [Input::Artifact(only)] = inputs {
        return vec![*only];
    }
    let mut files = Vec::new();
    model.for_each_artifact(inputs, |id| files.push(id));
    files
}
