//! One BUILD.toml: from its text to checked [`RawTarget`]s. Looks at the package's own files (do they exist, what
//! does a glob match) and at nothing of other packages, so that packages are read in parallel.

use minibuild_core::{Label, WsPath};
use minibuild_diagnostics::diag::{Diagnostics, FileId, Span};
use minibuild_diagnostics::suggest::did_you_mean;
use minibuild_diagnostics::text;
use minibuild_diagnostics::walk::{Key, Value, Walk};
use minibuild_rules::std_files;
use rustc_hash::FxHashMap;
use toml::de::{DeTable, DeValue};

use crate::fields::FieldReader;
use crate::package_files::{PackageCx, PackageFiles};
use crate::rule_table::RuleInfo;
use crate::values::{RawPackage, RawTarget, RawValue};

/// Reads one package.
pub fn read(cx: PackageCx<'_>, path: &WsPath, file: FileId, text: &str) -> (RawPackage, Diagnostics) {
    let mut diags = Diagnostics::default();
    let document = text::parse(text, file, &mut diags);
    let mut reader = PackageReader {
        walk: Walk { file, text, diags: &mut diags },
        files: PackageFiles::new(cx, path.clone()),
        broken: document.broken,
    };
    let targets = reader.targets(&document.table);
    (RawPackage { path: path.clone(), targets, broken: document.broken }, diags)
}

struct PackageReader<'a> {
    walk: Walk<'a>,
    files: PackageFiles<'a>,
    broken: bool,
}

impl<'a> PackageReader<'a> {
    fn targets(&mut self, table: &DeTable<'_>) -> Vec<RawTarget> {
        let rules = self.files.cx.rules;
        let mut targets = Vec::new();
        for (key, value) in table {
            let Some(index) = rules.find(key.get_ref()) else {
                // A header with a syntax error leaves its keys behind.
                if !self.broken || matches!(value.get_ref(), DeValue::Array(_)) {
                    self.unknown_rule(key);
                }
                continue;
            };
            self.targets_of_rule(index, &rules.rules[index], key, value, &mut targets);
        }
        targets.sort_by_key(|t: &RawTarget| t.header.start);
        self.report_doubles(&targets);
        targets
    }

    fn unknown_rule(&mut self, key: &Key<'_>) {
        let rules = self.files.cx.rules;
        let name = key.get_ref().to_string();
        let declared = std_files::declaring(&name)
            .map(|file| format!("it is declared in `{file}`: add that to `[workspace] rules` in minibuild.toml"));
        let near = || did_you_mean(&name, rules.rules.iter().map(|r| &*r.name));
        let hint = declared.or_else(near).unwrap_or_else(|| {
            "rules come from `[workspace] rules = [\"@std/c.toml\", ...]` in minibuild.toml; built in are `genrule`, `filegroup`, `alias` and `test`".into()
        });
        self.walk.error(key, format!("unknown rule `{name}`")).hints.push(hint);
    }

    fn targets_of_rule(
        &mut self,
        index: usize,
        rule: &RuleInfo,
        key: &Key<'_>,
        value: &Value<'_>,
        targets: &mut Vec<RawTarget>,
    ) {
        let DeValue::Array(items) = value.get_ref() else {
            let name = &rule.name;
            self.walk.error(key, format!("`{name}` is a list of targets")).hints.push(format!("write `[[{name}]]`"));
            return;
        };
        targets.reserve(items.len());
        for item in items.iter() {
            let DeValue::Table(table) = item.get_ref() else {
                self.walk.wrong_type(item, &rule.name, "tables");
                continue;
            };
            let header = self.walk.span(item);
            targets.extend(self.target(index, rule, header, table));
        }
    }

    fn target(&mut self, index: usize, rule: &RuleInfo, header: Span, table: &DeTable<'_>) -> Option<RawTarget> {
        let before = self.walk.diags.list.len();
        let mut given: Vec<(usize, &Value<'_>)> = Vec::with_capacity(table.len());
        let mut label = None;
        for (key, value) in table {
            if key.get_ref() == "name" {
                label = self.name(value).map(|label| (label, self.walk.span(value)));
            } else if let Some(field) = rule.field(key.get_ref()) {
                given.push((field, value));
            } else {
                self.unknown_field(rule, key);
            }
        }
        if !table.contains_key("name") && !self.broken {
            self.walk.error_at(header, "a target needs a `name`");
        }
        let of_target = label.as_ref().map(|(label, _)| label);
        let values = self.read_fields(rule, header, &given, of_target);
        self.report_missing(rule, header, table);
        let (label, name_span) = label?;
        let failed = self.walk.diags.list.len() > before;
        Some(RawTarget { rule: index, label, header, name_span, values, failed })
    }

    fn read_fields(
        &mut self,
        rule: &RuleInfo,
        header: Span,
        given: &[(usize, &Value<'_>)],
        label: Option<&Label>,
    ) -> Vec<(usize, (RawValue, Span))> {
        let mut reader = FieldReader { walk: &mut self.walk, files: &mut self.files, own: Vec::new() };
        let mut values = Vec::with_capacity(given.len());
        // What is made comes first, so that `$(location)` knows it.
        for outputs in [true, false] {
            for (field, value) in given {
                let spec = &rule.fields[*field];
                if crate::fields::declares_output(&spec.ty) == outputs {
                    let span = reader.walk.span(value);
                    values.extend(reader.read(spec, value).map(|v| (*field, (v, span))));
                }
            }
        }
        for (field, spec) in rule.attrs.iter().enumerate() {
            if let (Some(label), false) = (label, given.iter().any(|(known, _)| *known == field)) {
                values.extend(reader.default_value(spec, label, header).map(|v| (field, (v, header))));
            }
        }
        values.sort_unstable_by_key(|(field, _)| *field);
        values
    }

    fn report_missing(&mut self, rule: &RuleInfo, header: Span, table: &DeTable<'_>) {
        if self.broken {
            return;
        }
        for field in rule.fields.iter().filter(|f| f.required && !table.contains_key(&*f.name)) {
            let error = self.walk.error_at(header, format!("`{}` needs `{}`", rule.name, field.name));
            error.hints.extend(field.doc.as_ref().map(|doc| format!("{}: {doc}", field.name)));
            error.notes.extend(field.span.map(|span| (span, "declared here".to_owned())));
        }
    }

    fn unknown_field(&mut self, rule: &RuleInfo, key: &Key<'_>) {
        let known = || std::iter::once("name").chain(rule.fields.iter().map(|f| &*f.name));
        let name = key.get_ref().to_string();
        let hint = did_you_mean(&name, known()).unwrap_or_else(|| {
            let names: Vec<String> = known().map(|k| format!("`{k}`")).collect();
            format!("`{}` knows {}", rule.name, names.join(", "))
        });
        self.walk.error(key, format!("`{}` has no attribute `{name}`", rule.name)).hints.push(hint);
    }

    fn name(&mut self, value: &Value<'_>) -> Option<Label> {
        let text = self.walk.string(value, "name")?;
        match Label::new(self.files.path.as_str(), text) {
            Ok(label) => Some(label),
            Err(error) => {
                self.walk.error(value, error.to_string());
                None
            }
        }
    }

    fn report_doubles(&mut self, targets: &[RawTarget]) {
        let mut first: FxHashMap<&str, Span> = FxHashMap::default();
        for target in targets {
            match first.get(target.label.name()) {
                Some(&earlier) => {
                    let error = self
                        .walk
                        .error_at(target.name_span, format!("two targets are named `{}`", target.label.name()));
                    error.notes.push((earlier, "first one here".to_owned()));
                }
                None => {
                    first.insert(target.label.name(), target.name_span);
                }
            }
        }
    }
}
