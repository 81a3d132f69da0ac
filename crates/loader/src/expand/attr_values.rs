//! Values of rule-file attributes: from what BUILD.toml gives to what `lang` expands. Labels become files, targets and
//! programs here; what an attribute accepts is checked here.

use std::sync::Arc;

use minibuild_core::{ArtifactId, ArtifactKind, TargetId};
use minibuild_diagnostics::diag::{Diagnostic, Span};
use minibuild_rules::attr::{Accept, AttrSpec, AttrType, AttrValue, FileItem, LocText, ToolValue};

use super::Expander;
use super::inputs::{Texts, flatten};
use crate::values::{LabelRef, Placed, RawLoc, RawTarget, RawValue, Reference};

impl<'a> Expander<'a, '_> {
    /// The value of one attribute; `None` after a complaint.
    pub fn attr_value(
        &mut self,
        spec: &AttrSpec,
        given: Option<&'a (RawValue, Span)>,
        texts: &mut Texts<'_>,
    ) -> Option<AttrValue> {
        let Some((value, span)) = given else { return Some(absent(&spec.ty)) };
        Some(match value {
            RawValue::Text(text) => AttrValue::Text(text.clone()),
            RawValue::Int(number) => AttrValue::Int(*number),
            RawValue::Bool(truth) => AttrValue::Bool(*truth),
            RawValue::Texts(texts) => AttrValue::Texts(texts.clone()),
            RawValue::Paths(paths) => AttrValue::Paths(paths.clone()),
            RawValue::Args(args) => AttrValue::Args(self.all_texts(args, texts)?),
            RawValue::Env(entries) => AttrValue::Env(self.all_entries(entries, texts)?),
            RawValue::References(references) => return self.referenced(spec, references, *span),
            // Fields of built-in rules alone.
            _ => return None,
        })
    }

    /// Resolves texts; `None` where one of them could not be.
    pub fn all_texts(&mut self, args: &'a [RawLoc], texts: &mut Texts<'_>) -> Option<Vec<LocText>> {
        let found: Vec<LocText> = args.iter().filter_map(|arg| self.loc(arg, texts)).collect();
        (found.len() == args.len()).then_some(found)
    }

    /// Resolves a table of texts; `None` where one of them could not be.
    pub fn all_entries(
        &mut self,
        entries: &'a [(Arc<str>, RawLoc)],
        texts: &mut Texts<'_>,
    ) -> Option<Vec<(Arc<str>, LocText)>> {
        let found: Vec<_> =
            entries.iter().filter_map(|(name, loc)| Some((name.clone(), self.loc(loc, texts)?))).collect();
        (found.len() == entries.len()).then_some(found)
    }

    fn referenced(&mut self, spec: &AttrSpec, references: &'a [Placed<Reference>], span: Span) -> Option<AttrValue> {
        match &spec.ty {
            AttrType::File { accept } => {
                let files = self.file_items(spec, accept.as_ref(), references)?;
                if files.len() == 1 {
                    return Some(AttrValue::Files(files));
                }
                let message = format!("`{}` takes one file, not {}", spec.name, files.len());
                self.complain(spec, span, message);
                None
            }
            AttrType::Files { accept } => self.file_items(spec, accept.as_ref(), references).map(AttrValue::Files),
            AttrType::Target { providers } | AttrType::Targets { providers } => {
                let found: Vec<TargetId> =
                    references.iter().filter_map(|r| self.target_giving(spec, providers, r)).collect();
                (found.len() == references.len()).then_some(AttrValue::Targets(found))
            }
            AttrType::Tool | AttrType::Tools => {
                let found: Vec<ToolValue> = references.iter().filter_map(|r| self.tool_value(r)).collect();
                (found.len() == references.len()).then_some(AttrValue::Tools(found))
            }
            _ => None,
        }
    }

    /// An error about an attribute, with its declaration and what it is for.
    fn complain(&mut self, spec: &AttrSpec, span: Span, message: String) -> &mut Diagnostic {
        let mut error = Diagnostic::at(span, message);
        error.notes.extend(spec.span.map(|declared| (declared, format!("`{}` is declared here", spec.name))));
        error.hints.extend(spec.doc.as_ref().map(|doc| format!("{}: {doc}", spec.name)));
        self.diags.list.push(error);
        self.diags.list.last_mut().expect("one was pushed")
    }

    fn file_items(
        &mut self,
        spec: &AttrSpec,
        accept: Option<&Accept>,
        references: &'a [Placed<Reference>],
    ) -> Option<Vec<FileItem>> {
        let before = self.diags.list.len();
        let mut items: Vec<FileItem> = Vec::with_capacity(references.len());
        let mut seen = rustc_hash::FxHashSet::default();
        for reference in references {
            let (files, from) = self.files_of(reference)?;
            for artifact in files {
                if !seen.insert(artifact) {
                    continue;
                }
                match self.kind_of(accept, artifact) {
                    Some(kind) => items.push(FileItem { artifact, kind, from }),
                    None => self.report_not_accepted(spec, accept, artifact, reference),
                }
            }
        }
        (self.diags.list.len() == before).then_some(items)
    }

    fn files_of(&mut self, reference: &Placed<Reference>) -> Option<(Vec<ArtifactId>, Option<TargetId>)> {
        match &reference.value {
            Reference::Source(path) => Some((vec![self.builder.source(path.clone())], None)),
            Reference::Own(path) => Some((self.builder.find(path.as_str()).into_iter().collect(), None)),
            Reference::Label(label) => {
                let outputs = self.outputs_of(label, reference.span)?;
                Some((flatten(&self.builder.model, &outputs), self.resolved(label)))
            }
        }
    }

    /// The target of a label, aliases followed.
    fn resolved(&self, label: &LabelRef) -> Option<TargetId> {
        let id = self.graph.target_of(label)?;
        Some(self.builder.model.target(id).alias_of.unwrap_or(id))
    }

    fn kind_of(&self, accept: Option<&Accept>, artifact: ArtifactId) -> Option<u16> {
        let Some(accept) = accept else { return Some(0) };
        let artifact = self.builder.model.artifact(artifact);
        let is_tree = artifact.kind == ArtifactKind::Directory;
        let fits = |ending: &Arc<str>| {
            if &**ending == "/" { is_tree } else { !is_tree && artifact.path.as_str().ends_with(&**ending) }
        };
        let index = accept.kinds.iter().position(|(_, endings)| endings.iter().any(fits))?;
        u16::try_from(index).ok()
    }

    fn report_not_accepted(
        &mut self,
        spec: &AttrSpec,
        accept: Option<&Accept>,
        artifact: ArtifactId,
        reference: &Placed<Reference>,
    ) {
        let endings: Vec<String> =
            accept.iter().flat_map(|a| &a.kinds).flat_map(|(_, endings)| endings).map(|e| format!("`{e}`")).collect();
        let path = self.builder.model.artifact(artifact).path.clone();
        let from = match &reference.value {
            Reference::Label(label) => format!(", which `{}` gives", label.label),
            _ => String::new(),
        };
        let message = format!("`{}` does not take `{path}`{from}: {} only", spec.name, endings.join(", "));
        self.complain(spec, reference.span, message);
    }

    fn target_giving(
        &mut self,
        spec: &AttrSpec,
        providers: &[Arc<str>],
        reference: &Placed<Reference>,
    ) -> Option<TargetId> {
        let Reference::Label(label) = &reference.value else { return None };
        let id = self.resolved(label)?;
        let provided = self.provided[id.index()].as_ref()?;
        let gives = |name: &Arc<str>| {
            if &**name == "run" {
                provided.run.is_some()
            } else {
                provided.providers.iter().any(|(given, _)| given == name)
            }
        };
        if providers.is_empty() || providers.iter().any(gives) {
            return Some(id);
        }
        let wanted: Vec<String> = providers.iter().map(|p| format!("`{p}`")).collect();
        let row = self.builder.model.target(id);
        let message = format!(
            "`{}` takes targets that give {}; `{}` is a {}",
            spec.name,
            wanted.join(" or "),
            label.label,
            row.rule
        );
        self.complain(spec, reference.span, message);
        None
    }

    /// What a label or file is as a program.
    pub fn tool_value(&mut self, reference: &Placed<Reference>) -> Option<ToolValue> {
        if let Reference::Label(label) = &reference.value
            && label.group.is_none()
            && self.runnable(label).is_some()
        {
            return self.resolved(label).map(ToolValue::Target);
        }
        self.single_file(reference, "an executable").map(ToolValue::File)
    }

    /// Where each attribute stands.
    pub fn attr_spans(target: &RawTarget, count: usize) -> Vec<Option<Span>> {
        (0..count).map(|field| target.value(field).map(|(_, span)| *span)).collect()
    }
}

/// A value that was neither given nor defaulted.
fn absent(ty: &AttrType) -> AttrValue {
    match ty {
        AttrType::Strings { .. } => AttrValue::Texts(Vec::new()),
        AttrType::Paths => AttrValue::Paths(Vec::new()),
        AttrType::Files { .. } => AttrValue::Files(Vec::new()),
        AttrType::Targets { .. } => AttrValue::Targets(Vec::new()),
        AttrType::Tools => AttrValue::Tools(Vec::new()),
        AttrType::Args => AttrValue::Args(Vec::new()),
        AttrType::Env => AttrValue::Env(Vec::new()),
        _ => AttrValue::Unset,
    }
}
