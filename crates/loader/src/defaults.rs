//! Values of attributes that a target does not give: the defaults of rule files, checked like given ones.

use std::sync::Arc;

use minibuild_core::Label;
use minibuild_diagnostics::diag::Span;
use minibuild_rules::attr::{AttrDefault, AttrSpec, AttrType};

use crate::fields::{FieldReader, Wanted};
use crate::values::{Placed, RawLoc, RawPart, RawValue};

impl FieldReader<'_, '_> {
    /// The value of `spec`'s default for a target; complaints point at the target's header and the declaration.
    pub fn default_value(&mut self, spec: &AttrSpec, label: &Label, header: Span) -> Option<RawValue> {
        let before = self.walk.diags.list.len();
        let value = match spec.default.as_ref()? {
            AttrDefault::Bool(truth) => Some(RawValue::Bool(*truth)),
            AttrDefault::Int(number) => Some(RawValue::Int(*number)),
            AttrDefault::Text(text) => {
                let text = text.expand(label, self.files.cx.vars);
                self.default_texts(spec, &[text], header)
            }
            AttrDefault::Texts(texts) => {
                let texts: Vec<String> = texts.iter().map(|text| text.expand(label, self.files.cx.vars)).collect();
                self.default_texts(spec, &texts, header)
            }
        };
        for error in &mut self.walk.diags.list[before..] {
            error.notes.extend(
                spec.span.map(|span| (span, format!("`{}` is not given; its default is declared here", spec.name))),
            );
        }
        value
    }

    fn default_texts(&mut self, spec: &AttrSpec, texts: &[String], span: Span) -> Option<RawValue> {
        let name = &*spec.name;
        let shared = || texts.iter().map(|text| Arc::from(text.as_str()));
        match &spec.ty {
            AttrType::String { pattern } => {
                let text = texts.first()?;
                self.check_pattern(name, pattern.as_ref(), text, span)?;
                Some(RawValue::Text(Arc::from(text.as_str())))
            }
            AttrType::Enum { values } => {
                let text = texts.first()?;
                self.one_of(name, values, text, span).map(RawValue::Text)
            }
            AttrType::Strings { pattern } => {
                let fine = texts.iter().all(|text| self.check_pattern(name, pattern.as_ref(), text, span).is_some());
                fine.then(|| RawValue::Texts(shared().collect()))
            }
            AttrType::Path | AttrType::Paths => {
                let paths: Vec<_> = texts.iter().filter_map(|text| self.directory(name, text, span)).collect();
                (paths.len() == texts.len()).then_some(RawValue::Paths(paths))
            }
            AttrType::File { .. } | AttrType::Files { .. } => self.default_references(name, Wanted::Files, texts, span),
            AttrType::Tool | AttrType::Tools => self.default_references(name, Wanted::Tools, texts, span),
            AttrType::Target { .. } | AttrType::Targets { .. } => {
                self.default_references(name, Wanted::Targets, texts, span)
            }
            AttrType::Args => {
                let plain = |text: Arc<str>| RawLoc { parts: vec![RawPart::Text(text)] };
                Some(RawValue::Args(shared().map(plain).collect()))
            }
            AttrType::Int | AttrType::Bool | AttrType::Env => None,
        }
    }

    fn default_references(&mut self, name: &str, wanted: Wanted, texts: &[String], span: Span) -> Option<RawValue> {
        let found: Vec<_> = texts
            .iter()
            .filter_map(|text| Some(Placed { value: self.reference(name, wanted, text, span)?, span }))
            .collect();
        (found.len() == texts.len()).then_some(RawValue::References(found))
    }
}
