//! JSON Schemas for editors, made from the same tables the loader reads by. Knows JSON Schema (draft 7), no TOML.

use minibuild_rules::attr::{Accept, AttrType};
use serde_json::{Map, Value, json};

use crate::keys::{KEYS, KeyType};
use crate::rule_table::{Field, FieldType, RuleInfo, RuleTable};

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchemaKind {
    /// `BUILD.toml`.
    Build,
    /// `minibuild.toml`, `minibuild.local.toml` and the user's `config.toml`.
    Workspace,
    /// Rule files.
    Rules,
}

const DRAFT: &str = "http://json-schema.org/draft-07/schema#";
const NAME: &str = "^[A-Za-z0-9_.+=,@~-]+$";
const WORD: &str = "^[a-z][a-z0-9_]*$";

/// The schema of BUILD.toml for these rules.
pub fn of_build_file(rules: &RuleTable) -> Value {
    let properties: Map<String, Value> = rules.rules.iter().map(|r| (r.name.to_string(), rule(r))).collect();
    json!({
        "$schema": DRAFT,
        "title": "BUILD.toml",
        "description": "The targets of one package.",
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
        "definitions": { "when": when(), "label": label() },
    })
}

fn rule(rule: &RuleInfo) -> Value {
    let mut properties = Map::new();
    let name = json!({ "type": "string", "pattern": NAME, "description": "The target's name within its package." });
    properties.insert("name".into(), name);
    for field in &rule.fields {
        properties.insert(field.name.to_string(), described(field_schema(field), field.doc.as_deref()));
    }
    let required: Vec<&str> =
        std::iter::once("name").chain(rule.fields.iter().filter(|f| f.required).map(|f| &*f.name)).collect();
    let target = json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    });
    described(json!({ "type": "array", "items": target }), rule.doc.as_deref())
}

fn described(mut schema: Value, doc: Option<&str>) -> Value {
    if let (Some(object), Some(doc)) = (schema.as_object_mut(), doc) {
        object.insert("description".into(), json!(doc));
    }
    schema
}

fn field_schema(field: &Field) -> Value {
    match &field.ty {
        FieldType::Attr(ty) => attr_schema(ty),
        FieldType::Loc | FieldType::OutPath => json!({ "type": "string" }),
        FieldType::Outs(_) | FieldType::Tags => list(json!({ "type": "string" })),
        FieldType::RspFile => json!({
            "type": "object",
            "properties": {
                "path": { "type": "string" },
                "content": { "anyOf": [{ "type": "string" }, list(json!({ "type": "string" }))] },
            },
            "required": ["path", "content"],
            "additionalProperties": false,
        }),
        FieldType::Duration => duration(),
        FieldType::Memory => size(),
        FieldType::HostTools => list(json!({ "anyOf": [{ "type": "string" }, host_tool()] })),
        FieldType::Platform => text_table(),
    }
}

fn attr_schema(ty: &AttrType) -> Value {
    let text = |pattern: &Option<regex::Regex>| match pattern {
        Some(pattern) => match ecmascript(pattern) {
            Some(pattern) => json!({ "type": "string", "pattern": pattern }),
            None => json!({ "type": "string" }),
        },
        None => json!({ "type": "string" }),
    };
    match ty {
        AttrType::String { pattern } => text(pattern),
        AttrType::Int => json!({ "type": "integer" }),
        AttrType::Enum { values } => json!({ "enum": values.iter().map(|v| &**v).collect::<Vec<_>>() }),
        AttrType::Bool => json!({ "type": "boolean" }),
        AttrType::Strings { pattern } => list(text(pattern)),
        AttrType::Path | AttrType::File { .. } | AttrType::Tool => json!({ "type": "string" }),
        AttrType::Paths | AttrType::Tools | AttrType::Args => list(json!({ "type": "string" })),
        AttrType::Files { accept } => list(json!({ "anyOf": [file(accept.as_ref()), glob()] })),
        AttrType::Target { .. } => json!({ "$ref": "#/definitions/label" }),
        AttrType::Targets { .. } => list(json!({ "$ref": "#/definitions/label" })),
        AttrType::Env => text_table(),
    }
}

fn file(accept: Option<&Accept>) -> Value {
    let mut file = json!({ "type": "string" });
    let endings: Vec<&str> = accept.iter().flat_map(|a| &a.kinds).flat_map(|(_, e)| e).map(|e| &**e).collect();
    if let (Some(object), false) = (file.as_object_mut(), endings.is_empty()) {
        object.insert("description".into(), json!(format!("A file ({}) or a label.", endings.join(", "))));
    }
    file
}

/// A list that may hold conditional items.
fn list(item: Value) -> Value {
    json!({ "type": "array", "items": { "anyOf": [item, { "$ref": "#/definitions/when" }] } })
}

fn when() -> Value {
    json!({
        "type": "object",
        "description": "Items that count only where all conditions hold.",
        "properties": {
            "when": {
                "type": "object",
                "properties": { "vars": { "type": "object" } },
                "additionalProperties": false,
            },
            "items": { "type": "array" },
        },
        "required": ["when", "items"],
        "additionalProperties": false,
    })
}

fn glob() -> Value {
    let patterns = json!({ "type": "array", "items": { "type": "string" } });
    json!({
        "type": "object",
        "description": "Files of the package that match a pattern.",
        "properties": { "glob": patterns, "exclude": patterns, "allow_empty": { "type": "boolean" } },
        "required": ["glob"],
        "additionalProperties": false,
    })
}

fn label() -> Value {
    json!({ "type": "string", "pattern": "^(//|:)", "description": "`//package:name`, `//package` or `:name`." })
}

fn host_tool() -> Value {
    json!({
        "type": "object",
        "properties": { "program": { "type": "string" }, "version": { "type": "array", "items": { "type": "string" } } },
        "required": ["program"],
        "additionalProperties": false,
    })
}

fn duration() -> Value {
    json!({ "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": "^([0-9]+|([0-9]+(ms|s|min|m|h|d))+)$" }] })
}

fn size() -> Value {
    json!({ "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": "^[0-9]+ *([kKmMgGtT]?i?[bB]?)$" }] })
}

fn text_table() -> Value {
    json!({ "type": "object", "additionalProperties": { "type": "string" } })
}

/// The schema of minibuild.toml.
pub fn of_workspace_file() -> Value {
    let mut layer = layer();
    let overlay = json!({ "type": "object", "properties": layer.clone(), "additionalProperties": false });
    let configs = json!({
        "type": "object",
        "description": "Overlays taken with --config=NAME.",
        "additionalProperties": overlay,
    });
    layer.insert("config".into(), configs);
    json!({
        "$schema": DRAFT,
        "title": "minibuild.toml",
        "description": "The configuration of a workspace.",
        "type": "object",
        "properties": layer,
        "additionalProperties": false,
    })
}

fn layer() -> Map<String, Value> {
    let mut tables: Map<String, Value> = Map::new();
    for key in KEYS {
        let schema = described(key_schema(key.ty), Some(key.doc));
        let Some((table, name)) = key.key.split_once('.') else {
            tables.insert(key.key.to_owned(), schema);
            continue;
        };
        let empty = || json!({ "type": "object", "properties": {}, "additionalProperties": false });
        tables.entry(table).or_insert_with(empty)["properties"][name] = schema;
    }
    let value = json!({ "anyOf": [{ "type": "string" }, { "type": "boolean" }, { "type": "array", "items": { "type": "string" } }] });
    let vars = json!({ "type": "object", "description": "Values of variables.", "additionalProperties": value });
    tables.insert("vars".into(), vars);
    tables
}

fn key_schema(ty: KeyType) -> Value {
    match ty {
        KeyType::Text => json!({ "type": "string" }),
        KeyType::Choice(choices) => json!({ "enum": choices }),
        KeyType::Bool => json!({ "type": "boolean" }),
        KeyType::Count => json!({ "type": "integer", "minimum": 0 }),
        KeyType::Number => json!({ "type": "integer" }),
        KeyType::Duration => duration(),
        KeyType::Size => size(),
        KeyType::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        KeyType::TextTable => text_table(),
        KeyType::CountTable => json!({ "type": "object", "additionalProperties": { "type": "integer", "minimum": 0 } }),
        KeyType::Strategy => {
            let side = json!({ "enum": crate::keys::strategies() });
            json!({ "anyOf": [side, { "type": "object", "additionalProperties": side }] })
        }
    }
}

/// The schema of rule files (RULES.md).
pub fn of_rule_file() -> Value {
    json!({
        "$schema": DRAFT,
        "title": "minibuild rule file",
        "type": "object",
        "properties": {
            "doc": { "type": "string" },
            "vars": named(variable()),
            "config": named(json!({
                "type": "object",
                "properties": { "vars": { "type": "object" } },
                "additionalProperties": false,
            })),
            "provider": named(provider()),
            "part": named(object(part_properties(), &[])),
            "rule": named(object(rule_properties(), &[])),
        },
        "additionalProperties": false,
        "definitions": { "list": template_list() },
    })
}

fn named(schema: Value) -> Value {
    json!({ "type": "object", "propertyNames": { "pattern": WORD }, "additionalProperties": schema })
}

fn object(properties: Value, required: &[&str]) -> Value {
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn texts() -> Value {
    json!({ "type": "array", "items": { "type": "string" } })
}

fn variable() -> Value {
    let properties = json!({
        "type": { "enum": ["string", "strings", "bool", "enum", "tool"] },
        "default": {},
        "values": texts(),
        "version": texts(),
        "doc": { "type": "string" },
    });
    object(properties, &["type"])
}

fn provider() -> Value {
    let field = json!({
        "type": { "enum": ["strings", "files", "args"] },
        "order": { "enum": ["preorder", "postorder", "topological"] },
        "doc": { "type": "string" },
    });
    object(json!({ "doc": { "type": "string" }, "fields": named(object(field, &["type"])) }), &[])
}

/// The four kinds of entries of a list of templates.
fn template_list() -> Value {
    let entry = json!({
        "type": "object",
        "properties": {
            "when": { "type": "object" },
            "join": { "type": "string" },
            "items": { "$ref": "#/definitions/list" },
            "response_file": { "enum": ["gnu", "lines"] },
        },
        "required": ["items"],
        "additionalProperties": false,
    });
    json!({ "type": "array", "items": { "anyOf": [{ "type": "string" }, texts(), entry] } })
}

fn list_ref() -> Value {
    json!({ "$ref": "#/definitions/list" })
}

fn part_properties() -> Value {
    json!({
        "doc": { "type": "string" },
        "attrs": named(attribute()),
        "lists": named(list_ref()),
        "action": named(object(action_properties(), &[])),
    })
}

fn rule_properties() -> Value {
    let run = object(json!({ "executable": { "type": "string" }, "runfiles": list_ref() }), &["executable"]);
    let mut properties = part_properties();
    properties["parts"] = texts();
    properties["outputs"] = list_ref();
    properties["run"] = run.clone();
    properties["test"] = run;
    properties["provides"] = named(json!({ "type": "object", "additionalProperties": list_ref() }));
    properties
}

fn attribute() -> Value {
    let types = [
        "string", "int", "enum", "bool", "strings", "path", "paths", "file", "files", "target", "targets", "tool",
        "tools", "args", "env",
    ];
    let properties = json!({
        "type": { "enum": types },
        "required": { "type": "boolean" },
        "default": {},
        "values": texts(),
        "pattern": { "type": "string" },
        "accept": { "anyOf": [texts(), { "type": "object", "additionalProperties": texts() }] },
        "providers": texts(),
        "doc": { "type": "string" },
    });
    object(properties, &["type"])
}

fn action_properties() -> Value {
    json!({
        "doc": { "type": "string" },
        "mnemonic": { "type": "string" },
        "when": { "type": "object" },
        "for_each": { "type": "string" },
        "outs": text_table(),
        "out_dirs": text_table(),
        "args": list_ref(),
        "cmd": { "type": "string" },
        "write": list_ref(),
        "executable": { "type": "boolean" },
        "inputs": list_ref(),
        "env": { "type": "object" },
        "env_from": texts(),
        "depfile": { "type": "string" },
        "tags": texts(),
        "platform": text_table(),
        "timeout": duration(),
        "host_tools": { "type": "array", "items": { "anyOf": [{ "type": "string" }, host_tool()] } },
    })
}

/// A pattern of a rule file, which has to match the whole text, as JSON Schema has it; `None` where it uses what ECMAScript
/// does not have.
fn ecmascript(whole: &regex::Regex) -> Option<String> {
    const ESCAPED: &str = r"dDwWsSbnrtfv.*+?()[]{}|^$/\-";
    let own = whole.as_str().strip_prefix(r"\A(?:")?.strip_suffix(r")\z")?;
    let mut is_in_class = false;
    let mut chars = own.chars().peekable();
    while let Some(found) = chars.next() {
        let next = chars.peek().copied();
        let is_foreign = match found {
            '\\' => !chars.next().is_some_and(|escaped| ESCAPED.contains(escaped)),
            // A class within a class, `[:alpha:]` among them.
            '[' => std::mem::replace(&mut is_in_class, true),
            ']' => {
                is_in_class = false;
                false
            }
            '&' | '~' | '-' if is_in_class => next == Some(found),
            '(' if next == Some('?') && !is_in_class => {
                chars.next();
                chars.next() != Some(':')
            }
            _ => false,
        };
        if is_foreign {
            return None;
        }
    }
    Some(format!("^(?:{own})$"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_ecmascript_or_left_out() {
        let check = |own: &str, is_kept: bool| {
            let whole = regex::Regex::new(&format!(r"\A(?:{own})\z")).expect("a pattern");
            assert_eq!(ecmascript(&whole), is_kept.then(|| format!("^(?:{own})$")), "{own}");
        };
        check("[a-z_][a-z0-9_]*", true);
        check(r"(?:a|b)+\.\d{2}", true);
        check(r"a\\b", true);
        for own in [r"\Aa", r"a\z", "(?i)a", "(?P<x>a)", "[[:alpha:]]", r"\x{41}", "[a-z&&[^b]]", r"\pL"] {
            check(own, false);
        }
    }
}
