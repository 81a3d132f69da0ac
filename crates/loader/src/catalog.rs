//! What `minibuild info` and `minibuild schema` say: the rules a workspace has, in words and as JSON Schema.

use std::fmt::Write;
use std::sync::Arc;

use minibuild_core::SourceFs;
use minibuild_diagnostics::diag::{Diagnostics, Sources};
use minibuild_diagnostics::suggest::did_you_mean;
use minibuild_rules::attr::{AttrDefault, AttrType};
use minibuild_rules::lang::{self, RuleSet};
use minibuild_rules::std_files;

use crate::config::ConfigInput;
use crate::load::{LoadFailure, read_config, rule_files};
use crate::rule_table::{Field, FieldType, RuleInfo, RuleKind, RuleTable};
use crate::schema::{self, SchemaKind};

/// The rules of a workspace.
pub struct Catalog {
    set: RuleSet,
    rules: RuleTable,
}

/// Reads configuration and rule files, no package.
///
/// # Errors
/// Every error of those files.
pub fn load_catalog(fs: &dyn SourceFs, input: &ConfigInput) -> Result<Catalog, LoadFailure> {
    let mut sources = Sources::default();
    let mut diags = Diagnostics::default();
    let config = read_config(fs, input, &mut sources, &mut diags);
    let files = rule_files(fs, &config, &mut sources, &mut diags);
    let set = lang::compile(&files, &sources, &mut diags);
    if diags.has_errors() {
        return Err(LoadFailure { diagnostics: diags, sources: Arc::new(sources) });
    }
    let rules = RuleTable::new(&set);
    Ok(Catalog { set, rules })
}

impl Catalog {
    /// The JSON Schema of a kind of file, pretty-printed.
    pub fn schema(&self, kind: SchemaKind) -> String {
        let value = match kind {
            SchemaKind::Build => schema::of_build_file(&self.rules),
            SchemaKind::Workspace => schema::of_workspace_file(),
            SchemaKind::Rules => schema::of_rule_file(),
        };
        format!("{value:#}\n")
    }

    /// One line for each rule, variable and built-in rule file.
    pub fn overview(&self) -> String {
        let mut out = String::from("Rules:\n");
        for rule in &self.rules.rules {
            let _ = writeln!(out, "  {:<18} {}", rule.name, rule.doc.as_deref().unwrap_or_default());
        }
        out.push_str("Variables:\n");
        for var in self.set.vars() {
            let _ = writeln!(out, "  {:<18} {}", var.name, var.doc.as_deref().unwrap_or_default());
        }
        out.push_str("Built-in rule files:\n");
        for name in std_files::names() {
            let _ = writeln!(out, "  {name}");
        }
        out
    }

    /// What is known of a rule, a variable (`vars.cc`), a provider, or a built-in rule file, which is printed whole.
    ///
    /// # Errors
    /// A message with the nearest name.
    pub fn info(&self, name: &str) -> Result<String, String> {
        if let Some(text) = std_files::find(name) {
            return Ok(text.to_owned());
        }
        if let Some(index) = self.rules.find(name) {
            return Ok(self.rule_info(&self.rules.rules[index]));
        }
        let variable = name.strip_prefix("vars.").unwrap_or(name);
        if let Some(var) = self.set.vars().iter().find(|v| *v.name == *variable) {
            let doc = var.doc.as_deref().unwrap_or_default();
            let ty = format!("{:?}", var.ty).to_lowercase();
            return Ok(format!("vars.{}: {ty}\n    {doc}\n", var.name));
        }
        let known = || {
            let vars = self.set.vars().iter().map(|v| &*v.name);
            self.rules.rules.iter().map(|r| &*r.name).chain(std_files::names()).chain(vars)
        };
        let hint = did_you_mean(name, known()).map(|h| format!("\nhint: {h}")).unwrap_or_default();
        Err(format!("nothing is known of `{name}`{hint}"))
    }

    fn rule_info(&self, rule: &RuleInfo) -> String {
        let mut out = format!("[[{}]]\n", rule.name);
        if let Some(doc) = &rule.doc {
            let _ = writeln!(out, "    {doc}");
        }
        if let RuleKind::Loaded(id) = rule.kind {
            let gives: Vec<String> = self.set.provided_by(id).map(|p| format!("`{p}`")).collect();
            if !gives.is_empty() {
                let _ = writeln!(out, "    Gives {}.", gives.join(", "));
            }
        }
        out.push_str("\nname: string, required\n    The target's name within its package.\n");
        for (index, field) in rule.fields.iter().enumerate() {
            let default = rule.attrs.get(index).and_then(|spec| spec.default.as_ref()).map(default_text);
            describe_field(&mut out, field, default.as_deref());
        }
        out
    }
}

fn describe_field(out: &mut String, field: &Field, default: Option<&str>) {
    let _ = write!(out, "{}: {}", field.name, type_text(&field.ty));
    if field.required {
        out.push_str(", required");
    }
    if let Some(default) = default {
        let _ = write!(out, ", default {default}");
    }
    out.push('\n');
    if let Some(doc) = &field.doc {
        let _ = writeln!(out, "    {doc}");
    }
}

fn default_text(default: &AttrDefault) -> String {
    match default {
        AttrDefault::Bool(truth) => truth.to_string(),
        AttrDefault::Int(number) => number.to_string(),
        AttrDefault::Text(text) => text.constant().map_or_else(|| "from the target".to_owned(), |t| format!("{t:?}")),
        AttrDefault::Texts(texts) => {
            let texts: Vec<String> = texts.iter().map(|t| format!("{:?}", t.constant().unwrap_or("..."))).collect();
            format!("[{}]", texts.join(", "))
        }
    }
}

/// A type in the words of the documentation.
pub fn type_text(ty: &FieldType) -> String {
    let plain = match ty {
        FieldType::Attr(ty) => return attr_type_text(ty),
        FieldType::Loc => "text with $(location)",
        FieldType::Outs(_) => "list of paths",
        FieldType::OutPath => "path",
        FieldType::RspFile => "table { path, content }",
        FieldType::Duration => "time",
        FieldType::Memory => "size",
        FieldType::HostTools => "list of programs",
        FieldType::Tags => "list of strings",
        FieldType::Platform => "table of strings",
    };
    plain.to_owned()
}

fn attr_type_text(ty: &AttrType) -> String {
    let plain = match ty {
        AttrType::Enum { values } => {
            return values.iter().map(|v| format!("{:?}", &**v)).collect::<Vec<_>>().join(" | ");
        }
        AttrType::Target { providers } | AttrType::Targets { providers } if !providers.is_empty() => {
            let list = if matches!(ty, AttrType::Targets { .. }) { "labels" } else { "label" };
            return format!("{list} giving {}", providers.join(" or "));
        }
        AttrType::String { .. } => "string",
        AttrType::Int => "integer",
        AttrType::Bool => "boolean",
        AttrType::Strings { .. } => "list of strings",
        AttrType::Path => "directory",
        AttrType::Paths => "list of directories",
        AttrType::File { .. } => "file or label",
        AttrType::Files { .. } => "list of files, labels and globs",
        AttrType::Target { .. } => "label",
        AttrType::Targets { .. } => "labels",
        AttrType::Tool => "runnable target or file",
        AttrType::Tools => "list of runnable targets or files",
        AttrType::Args => "list of texts with $(location)",
        AttrType::Env => "table of texts with $(location)",
    };
    plain.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::MemoryFs;

    fn catalog() -> Catalog {
        let fs = MemoryFs::new(&[("minibuild.toml", "[workspace]\nrules = [\"@std/c.toml\"]\n")]);
        load_catalog(&fs, &ConfigInput::default()).unwrap_or_else(|_| panic!("the shipped rules are right"))
    }

    #[test]
    fn schemas_name_what_the_loader_knows() {
        let catalog = catalog();
        let parse = |kind| serde_json::from_str::<serde_json::Value>(&catalog.schema(kind)).expect("JSON");
        let build = parse(SchemaKind::Build);
        let library = &build["properties"]["c_library"]["items"];
        assert_eq!(library["required"], serde_json::json!(["name"]));
        assert_eq!(library["properties"]["alwayslink"]["type"], "boolean");
        assert!(library["properties"]["deps"]["description"].as_str().is_some_and(|d| d.contains("Libraries")));
        assert_eq!(build["properties"]["alias"]["items"]["required"], serde_json::json!(["name", "actual"]));
        let workspace = parse(SchemaKind::Workspace);
        for key in crate::keys::KEYS {
            let pointer = format!("/properties/{}", key.key.replace('.', "/properties/"));
            assert!(workspace.pointer(&pointer).is_some(), "{pointer}");
            let overlay = format!("/properties/config/additionalProperties{pointer}");
            assert!(workspace.pointer(&overlay).is_some(), "{overlay}");
        }
        assert!(parse(SchemaKind::Rules)["properties"]["rule"].is_object());
    }

    #[test]
    fn info_of_rules_variables_and_files() {
        let catalog = catalog();
        let rule = catalog.info("c_library").expect("known");
        assert!(rule.starts_with("[[c_library]]\n") && rule.contains("deps: labels giving c\n"), "{rule}");
        assert!(rule.contains("alwayslink: boolean, default false"), "{rule}");
        assert!(catalog.info("genrule").is_ok_and(|text| text.contains("outs: list of paths")));
        assert!(catalog.info("vars.cc").is_ok_and(|text| text.starts_with("vars.cc: tool\n")));
        assert!(catalog.info("@std/rust.toml").is_ok_and(|text| text.contains("[rule.rust_library]")));
        assert_eq!(
            catalog.info("c_libary"),
            Err("nothing is known of `c_libary`\nhint: did you mean `c_library`?".into())
        );
        assert!(catalog.overview().contains("@std/python.toml"));
    }
}
