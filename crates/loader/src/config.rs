//! Where each setting comes from: user file, workspace file, personal file, `--config` overlays, `MINIBUILD_*`
//! variables, flags – in this order, the last wins. Lists are replaced, tables are merged by name. Knows the layers;
//! the keys are in [`crate::keys`].

use std::collections::BTreeMap;
use std::sync::Arc;

use minibuild_diagnostics::diag::{Diagnostic, Diagnostics, FileId, Severity, Sources, Span};
use minibuild_diagnostics::suggest::{did_you_mean, nearest};
use minibuild_diagnostics::text;
use minibuild_diagnostics::walk::{Key, Value, Walk, parse_duration, parse_size};
use minibuild_rules::lang::{Setting, SettingValue};
use toml::de::{DeTable, DeValue};

use crate::keys::{self, KEYS, KeySpec, KeyType, KeyValue};
use crate::secrets;
use crate::settings::Settings;

/// What sets the configuration besides files in the workspace.
#[derive(Clone, Debug, Default)]
pub struct ConfigInput {
    /// Path and bytes of `~/.config/minibuild/config.toml`.
    pub user_file: Option<(String, Vec<u8>)>,
    /// The environment; only `MINIBUILD_*` is looked at.
    pub environment: BTreeMap<String, String>,
    /// Overlays taken with `--config`, in the order given.
    pub configs: Vec<String>,
    /// Keys such as `build.jobs` with the text a flag gave them, in the order given. A key that is a list takes one
    /// item each time, a table `NAME=VALUE` each time.
    pub flags: Vec<(String, String)>,
    /// `--var NAME=VALUE`.
    pub vars: Vec<(String, String)>,
}

/// The configuration, with variables not yet checked against their declarations.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// All but variables.
    pub settings: Settings,
    /// `[vars]` of the files, weak to strong.
    pub base_vars: Vec<Setting>,
    /// Each `--config` with its `vars`.
    pub config_vars: Vec<(String, Vec<Setting>)>,
    /// Variables of environment and flags.
    pub flag_vars: Vec<Setting>,
    /// Names of all `[config.NAME]` of the files.
    pub config_names: Vec<String>,
    /// Where `rules` was written, for complaints about its entries.
    pub rules_span: Option<Span>,
    /// Mnemonics that a strategy is set for, with their place in a file or the flag. Not those of the user's file, which is
    /// for all workspaces.
    pub strategy_mnemonics: Vec<(String, Result<Span, String>)>,
}

/// One table of settings.
#[derive(Default)]
struct Layer {
    entries: Vec<(&'static KeySpec, KeyValue, Span)>,
    vars: Vec<Setting>,
}

/// One file.
struct ConfigFile {
    base: Layer,
    configs: BTreeMap<String, Layer>,
}

/// Of all variables of the environment that are minibuild's.
const PREFIX: &str = "MINIBUILD_";

const TABLES: [&str; 6] = ["workspace", "build", "remote", "dynamic", "env", "vars"];

/// Reads all layers. `files` are the workspace's and the personal file, in this order.
pub fn resolve(input: &ConfigInput, files: &[(FileId, Arc<str>)], diags: &mut Diagnostics) -> Config {
    let read: Vec<ConfigFile> = files.iter().map(|(file, text)| read_file(*file, text, diags)).collect();
    let mut config = Config::default();
    for (index, file) in read.iter().enumerate() {
        apply(&file.base, &mut config, diags);
        if index == 0 && input.user_file.is_some() {
            config.strategy_mnemonics.clear();
        }
        config.base_vars.extend(file.base.vars.iter().cloned());
        config.config_names.extend(file.configs.keys().cloned());
        for layer in file.configs.values() {
            check(layer, diags);
        }
    }
    config.config_names.sort();
    config.config_names.dedup();
    for name in &input.configs {
        let mut vars = Vec::new();
        for layer in read.iter().filter_map(|file| file.configs.get(name)) {
            apply(layer, &mut config, &mut Diagnostics::default());
            vars.extend(layer.vars.iter().cloned());
        }
        config.config_vars.push((name.clone(), vars));
    }
    apply_environment(input, &mut config, diags);
    apply_flags(input, &mut config, diags);
    config
}

/// Decodes the files and gives them ids: user's, workspace's, personal.
pub fn register(
    files: Vec<(String, Vec<u8>)>,
    sources: &mut Sources,
    diags: &mut Diagnostics,
) -> Vec<(FileId, Arc<str>)> {
    let mut registered = Vec::new();
    for (path, bytes) in files {
        match text::decode(&path, bytes) {
            Ok(text) => registered.push((sources.add(&path, secrets::masked(&text).into()), text)),
            Err(message) => diags.push(Diagnostic::error(message)),
        }
    }
    registered
}

fn read_file(file: FileId, text: &str, diags: &mut Diagnostics) -> ConfigFile {
    let document = text::parse(text, file, diags);
    let mut walk = Walk { file, text, diags };
    let base = read_layer(&mut walk, &document.table, "minibuild.toml", true);
    let mut config = ConfigFile { base, configs: BTreeMap::new() };
    let Some(overlays) = document.table.get("config").and_then(|v| walk.table(v, "config")) else { return config };
    for (name, value) in overlays {
        if let Some(table) = walk.table(value, name.get_ref()) {
            let layer = read_layer(&mut walk, table, &format!("[config.{}]", name.get_ref()), false);
            config.configs.insert(name.get_ref().to_string(), layer);
        }
    }
    config
}

fn read_layer(walk: &mut Walk<'_>, table: &DeTable<'_>, place: &str, is_file: bool) -> Layer {
    let mut layer = Layer::default();
    for (name, value) in table {
        match &**name.get_ref() {
            "config" if is_file => {}
            "vars" => read_vars(walk, value, &mut layer),
            "env" => read_entry(walk, keys::find("env"), value, &mut layer),
            section @ ("workspace" | "build" | "remote" | "dynamic") => read_section(walk, section, value, &mut layer),
            _ => {
                let known = TABLES.into_iter().chain(is_file.then_some("config"));
                walk.unknown_key(name, place, known);
            }
        }
    }
    layer
}

fn read_section(walk: &mut Walk<'_>, section: &str, value: &Value<'_>, layer: &mut Layer) {
    let Some(table) = walk.table(value, section) else { return };
    for (name, value) in table {
        let spec = KEYS.iter().find(|k| k.key.split_once('.') == Some((section, name.get_ref())));
        if spec.is_none() {
            unknown_in_section(walk, section, name);
        }
        read_entry(walk, spec, value, layer);
    }
}

fn unknown_in_section(walk: &mut Walk<'_>, section: &str, name: &Key<'_>) {
    let in_section = |k: &'static KeySpec| k.key.split_once('.').filter(|(s, _)| *s == section).map(|(_, n)| n);
    let text = name.get_ref().to_string();
    let elsewhere = KEYS.iter().find(|k| k.key.split_once('.').is_some_and(|(s, n)| s != section && n == text));
    match elsewhere.and_then(|k| k.key.split_once('.')) {
        Some((other, _)) => {
            walk.error(name, format!("unknown key `{text}` in [{section}]"))
                .hints
                .push(format!("it belongs into `[{other}]`"));
        }
        None => walk.unknown_key(name, &format!("[{section}]"), KEYS.iter().filter_map(in_section)),
    }
}

fn read_entry(walk: &mut Walk<'_>, spec: Option<&'static KeySpec>, value: &Value<'_>, layer: &mut Layer) {
    let Some(spec) = spec else { return };
    let span = walk.span(value);
    if let Some(parsed) = read_value(walk, spec, value) {
        layer.entries.push((spec, parsed, span));
    }
}

fn read_value(walk: &mut Walk<'_>, spec: &KeySpec, value: &Value<'_>) -> Option<KeyValue> {
    let name = spec.key.rsplit('.').next().unwrap_or(spec.key);
    match spec.ty {
        KeyType::Text => walk.string(value, name).map(|t| KeyValue::Text(t.to_owned())),
        KeyType::Choice(choices) => choice(walk, name, choices, value).map(KeyValue::Text),
        KeyType::Bool => walk.boolean(value, name).map(KeyValue::Bool),
        KeyType::Count => walk.count(value, name).and_then(|n| i64::try_from(n).ok()).map(KeyValue::Number),
        KeyType::Number => walk.integer(value, name).map(KeyValue::Number),
        KeyType::Size => walk.size(value, name).map(|n| KeyValue::Number(i64::try_from(n).unwrap_or(i64::MAX))),
        KeyType::Duration => walk.duration(value, name).map(KeyValue::Duration),
        KeyType::Texts => {
            walk.strings(value, name).map(|t| KeyValue::Texts(t.into_iter().map(|(t, _)| t.to_owned()).collect()))
        }
        KeyType::TextTable => {
            text_table(walk, name, value, |walk, value, name| walk.string(value, name).map(str::to_owned))
                .map(KeyValue::TextTable)
        }
        KeyType::CountTable => {
            let count = |walk: &mut Walk<'_>, value: &Value<'_>, name: &str| {
                walk.count(value, name).and_then(|n| u32::try_from(n).ok())
            };
            text_table(walk, name, value, count).map(KeyValue::CountTable)
        }
        KeyType::Strategy => match value.get_ref() {
            DeValue::Table(_) => {
                text_table(walk, name, value, |walk, value, name| choice(walk, name, keys::strategies(), value))
                    .map(KeyValue::TextTable)
            }
            _ => choice(walk, name, keys::strategies(), value)
                .map(|t| KeyValue::TextTable(vec![("default".to_owned(), t)])),
        },
    }
}

fn choice(walk: &mut Walk<'_>, name: &str, choices: &[&str], value: &Value<'_>) -> Option<String> {
    let text = walk.string(value, name)?;
    if choices.contains(&text) {
        return Some(text.to_owned());
    }
    let hint = did_you_mean(text, choices.iter().copied()).unwrap_or_else(|| format!("one of {}", quoted(choices)));
    walk.error(value, format!("`{name}` cannot be `{text}`")).hints.push(hint);
    None
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
}

fn text_table<T>(
    walk: &mut Walk<'_>,
    name: &str,
    value: &Value<'_>,
    item: impl Fn(&mut Walk<'_>, &Value<'_>, &str) -> Option<T>,
) -> Option<Vec<(String, T)>> {
    let table = walk.table(value, name)?;
    let entries: Vec<(String, T)> = table
        .iter()
        .filter_map(|(key, value)| Some((key.get_ref().to_string(), item(walk, value, key.get_ref())?)))
        .collect();
    (entries.len() == table.len()).then_some(entries)
}

fn read_vars(walk: &mut Walk<'_>, value: &Value<'_>, layer: &mut Layer) {
    let Some(table) = walk.table(value, "vars") else { return };
    for (name, value) in table {
        let parsed = match value.get_ref() {
            DeValue::String(text) => Some(SettingValue::Text(text.to_string())),
            DeValue::Boolean(truth) => Some(SettingValue::Bool(*truth)),
            DeValue::Array(_) => walk
                .strings(value, name.get_ref())
                .map(|t| SettingValue::Texts(t.into_iter().map(|(t, _)| t.to_owned()).collect())),
            _ => {
                walk.wrong_type(value, name.get_ref(), "a string, an array of strings, `true` or `false`");
                None
            }
        };
        if let Some(value) = parsed {
            let span = Some(walk.span(name));
            layer.vars.push(Setting { name: name.get_ref().to_string(), value, span, origin: "`[vars]`".to_owned() });
        }
    }
}

fn apply(layer: &Layer, config: &mut Config, diags: &mut Diagnostics) {
    for (spec, value, span) in &layer.entries {
        if spec.key == "workspace.rules" {
            config.rules_span = Some(*span);
        }
        config.strategy_mnemonics.extend(mnemonics(spec, value).map(|name| (name, Ok(*span))));
        if let Err(message) = (spec.set)(&mut config.settings, value.clone()) {
            diags.push(Diagnostic::at(*span, message));
        }
    }
}

/// Mnemonics that a value of `build.strategy` is for.
fn mnemonics(spec: &KeySpec, value: &KeyValue) -> impl Iterator<Item = String> {
    let table = match value {
        KeyValue::TextTable(table) if spec.ty == KeyType::Strategy => &table[..],
        _ => &[],
    };
    table.iter().filter(|(name, _)| name != "default").map(|(name, _)| name.clone())
}

fn check(layer: &Layer, diags: &mut Diagnostics) {
    apply(layer, &mut Config::default(), diags);
}

/// The value of a key given as a text: by a flag, an item at a time, or a variable, then lists as TOML.
fn value_of_text(spec: &KeySpec, text: &str, is_flag: bool) -> Result<KeyValue, String> {
    let number = || text.parse::<i64>().map_err(|_| format!("`{text}` is no number"));
    let pair = |text: &str| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ if secrets::is_secret(spec.key) => Err("a header is not of the form NAME=VALUE".to_owned()),
        _ => Err(format!("`{text}` is not of the form NAME=VALUE")),
    };
    match spec.ty {
        KeyType::Text => Ok(KeyValue::Text(text.to_owned())),
        KeyType::Choice(choices) if choices.contains(&text) => Ok(KeyValue::Text(text.to_owned())),
        KeyType::Choice(choices) => Err(format!("unknown value `{text}`: one of {}", quoted(choices))),
        KeyType::Bool => match text {
            "true" | "1" | "yes" => Ok(KeyValue::Bool(true)),
            "false" | "0" | "no" => Ok(KeyValue::Bool(false)),
            _ => Err(format!("`{text}` is neither `true` nor `false`")),
        },
        KeyType::Count => {
            number().and_then(|n| if n < 0 { Err(format!("{n} is negative")) } else { Ok(KeyValue::Number(n)) })
        }
        KeyType::Number => number().map(KeyValue::Number),
        KeyType::Size => {
            let size = parse_size(text).and_then(|n| i64::try_from(n).ok());
            size.map(KeyValue::Number).ok_or_else(|| format!("`{text}` is no size"))
        }
        KeyType::Duration => parse_duration(text).map(KeyValue::Duration).ok_or_else(|| format!("`{text}` is no time")),
        KeyType::Texts if is_flag => Ok(KeyValue::Texts(vec![text.to_owned()])),
        KeyType::Texts => Ok(KeyValue::Texts(text.split_whitespace().map(str::to_owned).collect())),
        KeyType::TextTable if is_flag => Ok(KeyValue::TextTable(vec![pair(text)?])),
        // A header has white space: `Bearer TOKEN`.
        KeyType::TextTable if secrets::is_secret(spec.key) => {
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            Ok(KeyValue::TextTable(lines.map(pair).collect::<Result<_, _>>()?))
        }
        KeyType::TextTable => Ok(KeyValue::TextTable(text.split_whitespace().map(pair).collect::<Result<_, _>>()?)),
        KeyType::CountTable => {
            let count = |text: &str| {
                let (name, value) = pair(text)?;
                value.parse().map(|n| (name, n)).map_err(|_| format!("`{value}` is no number"))
            };
            Ok(KeyValue::CountTable(text.split_whitespace().map(count).collect::<Result<_, _>>()?))
        }
        KeyType::Strategy => {
            let (name, side) = text.split_once('=').unwrap_or(("default", text));
            Ok(KeyValue::TextTable(vec![(name.to_owned(), side.to_owned())]))
        }
    }
}

fn apply_environment(input: &ConfigInput, config: &mut Config, diags: &mut Diagnostics) {
    let specs: BTreeMap<String, &KeySpec> = KEYS.iter().map(|k| (k.variable(), k)).collect();
    for (name, text) in input.environment.range(PREFIX.to_owned()..) {
        if !name.starts_with(PREFIX) {
            break;
        }
        if let Some(variable) = name.strip_prefix("MINIBUILD_VAR_") {
            let setting = Setting {
                name: variable.to_ascii_lowercase(),
                value: SettingValue::Text(text.clone()),
                span: None,
                origin: format!("`{name}`"),
            };
            config.flag_vars.push(setting);
        } else if let Some(spec) = specs.get(name) {
            set_from_text(spec, text, false, name, config, diags);
        } else if name != "MINIBUILD_WORKSPACE" {
            let mut warning = Diagnostic::error(format!("unknown environment variable `{name}`"));
            warning.severity = Severity::Warning;
            let known = specs.keys().filter_map(|known| known.strip_prefix(PREFIX));
            let near = nearest(name.strip_prefix(PREFIX).unwrap_or(name), known);
            warning.hints.extend(near.map(|near| format!("did you mean `{PREFIX}{near}`?")));
            diags.push(warning);
        }
    }
}

fn apply_flags(input: &ConfigInput, config: &mut Config, diags: &mut Diagnostics) {
    let mut lists: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (key, text) in &input.flags {
        let Some(spec) = keys::find(key) else {
            diags.push(Diagnostic::error(format!("bug: no key `{key}` for a flag")));
            continue;
        };
        let name = spec.flag.unwrap_or(spec.key).rsplit(' ').next().unwrap_or(spec.key);
        if spec.ty == KeyType::Texts {
            let all = lists.entry(spec.key).or_default();
            all.push(text.clone());
            if let Err(message) = (spec.set)(&mut config.settings, KeyValue::Texts(all.clone())) {
                diags.push(Diagnostic::error(format!("{name}: {message}")));
            }
        } else {
            set_from_text(spec, text, true, name, config, diags);
        }
    }
    config.flag_vars.extend(input.vars.iter().map(|(name, text)| Setting {
        name: name.clone(),
        value: SettingValue::Text(text.clone()),
        span: None,
        origin: "`--var`".to_owned(),
    }));
}

fn set_from_text(spec: &KeySpec, text: &str, is_flag: bool, name: &str, config: &mut Config, diags: &mut Diagnostics) {
    let result = value_of_text(spec, text, is_flag).and_then(|value| {
        config.strategy_mnemonics.extend(mnemonics(spec, &value).map(|mnemonic| (mnemonic, Err(name.to_owned()))));
        (spec.set)(&mut config.settings, value)
    });
    if let Err(message) = result {
        diags.push(Diagnostic::error(format!("{name}: {message}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_a_row_for_every_key() {
        let documentation = include_str!("../../../docs/configuration.md");
        for key in KEYS {
            let start = format!("| `{}` | ", key.key);
            let row = documentation.lines().find(|line| line.starts_with(&start));
            let row = row.unwrap_or_else(|| panic!("docs/configuration.md has no row for `{}`", key.key));
            let flag = key.flag.map_or("–".to_owned(), |flag| format!("`{flag}`"));
            let end = format!("| {} | {flag} | `{}` | {} |", key.default, key.variable(), key.doc);
            assert!(row.ends_with(&end), "the row of `{}` should end with:\n{end}\nbut is:\n{row}", key.key);
        }
        let rows = documentation.lines().filter(|line| line.contains("`MINIBUILD_") && line.starts_with("| `")).count();
        assert_eq!(rows, KEYS.len());
    }
}
