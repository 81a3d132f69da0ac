//! Outputs that get in each other's way: one path twice, one below another.

use minibuild_core::{ArtifactId, OUT_ROOT, TargetId};
use minibuild_diagnostics::diag::{Diagnostic, Span};
use rustc_hash::FxHashSet;

use super::Expander;
use crate::values::RawOut;

impl<'a> Expander<'a, '_> {
    /// Finds outputs below other outputs, and response files in their place. To be called once, after all targets.
    pub fn check_conflicts(&mut self) {
        let model = &self.builder.model;
        let mut free: FxHashSet<&str> = FxHashSet::default();
        let mut errors = Vec::new();
        for (index, artifact) in model.artifacts.iter().enumerate().filter(|(_, a)| a.producer.is_some()) {
            let mut end = artifact.path.as_str().len();
            while let Some(at) = artifact.path.as_str()[..end].rfind('/') {
                let dir = &artifact.path.as_str()[..at];
                if dir.len() <= OUT_ROOT.len() || !free.insert(dir) {
                    break;
                }
                end = at;
                if let Some(above) = self.builder.find(dir) {
                    errors.push((ArtifactId::new(index), above));
                    free.remove(dir);
                    break;
                }
            }
        }
        for (below, above) in errors {
            self.report_below(below, above);
        }
        for (path, span) in std::mem::take(&mut self.rspfiles) {
            if let Some(taken) = self.builder.find(path.as_str()) {
                let error = Diagnostic::at(
                    span,
                    format!("the response file `{path}` is also an output of {}", self.owner(taken)),
                );
                self.diags.push(error);
            }
        }
    }

    pub(super) fn owner(&self, artifact: ArtifactId) -> String {
        let model = &self.builder.model;
        let action = model.artifact(artifact).producer.and_then(|a| model.actions.get(a.index()));
        action.map_or_else(|| "another target".to_owned(), |a| format!("`{}`", model.target(a.target).label))
    }

    pub(super) fn span_of(&self, artifact: ArtifactId) -> Option<Span> {
        let model = &self.builder.model;
        self.out_spans.get(&artifact).map(|(_, span)| *span).or_else(|| {
            let action = model.actions.get(model.artifact(artifact).producer?.index())?;
            Some(self.graph.targets[action.target.index()].0.header)
        })
    }

    pub(super) fn report_below(&mut self, below: ArtifactId, above: ArtifactId) {
        let model = &self.builder.model;
        let message = format!(
            "output `{}` of {} lies below output `{}` of {}",
            model.artifact(below).path,
            self.owner(below),
            model.artifact(above).path,
            self.owner(above)
        );
        let mut error = Diagnostic::error(message);
        error.primary = self.span_of(below).map(|span| (span, String::new()));
        error.notes.extend(self.span_of(above).map(|span| (span, "the other output".to_owned())));
        self.diags.push(error);
    }

    pub(super) fn report_taken(&mut self, id: TargetId, out: &RawOut, taken: ArtifactId) {
        let label = &self.builder.model.target(id).label;
        let message = match self.out_spans.get(&taken) {
            Some((owner, _)) if *owner == id => format!("`{label}` declares `{}` twice", out.path),
            Some((owner, _)) => {
                format!("`{label}` and `{}` both declare `{}`", self.builder.model.target(*owner).label, out.path)
            }
            None => format!("`{label}` and {} both declare `{}`", self.owner(taken), out.path),
        };
        let mut error = Diagnostic::at(out.span, message);
        error.notes.extend(self.span_of(taken).map(|span| (span, "also declared here".to_owned())));
        self.diags.push(error);
    }
}
