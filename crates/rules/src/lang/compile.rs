//! From the texts of all rule files to a [`RuleSet`]: namespaces, parts, and the order of passes.
//! Knows files; what stands in a rule is read by `rules_of`.

use std::sync::Arc;

use minibuild_diagnostics::diag::{Diagnostic, Diagnostics, FileId, Sources, Span};
use minibuild_diagnostics::source::{Entry, Reader, is_name};
use minibuild_diagnostics::text;
use rustc_hash::{FxHashMap, FxHashSet};
use toml::de::DeTable;

use super::attrs::{Broken, Declared};
use super::compile_rule::{Fragment, RuleReader};
use super::decl;
use super::rule::{Provider, Rule};
use super::set::{Overlay, RuleSet};
use super::vars::{VarDecl, VarType, VarValue};

const FILE_KEYS: &[&str] = &["doc", "vars", "config", "provider", "part", "rule"];
const PART_KEYS: &[&str] = &["doc", "attrs", "lists", "action"];
/// Rules that are built in.
const BUILT_IN: &[&str] = &["genrule", "filegroup", "alias", "test"];
/// At most this many variables, providers, fields, attributes: ids are small.
const MAX_ROWS: usize = u16::MAX as usize;

/// Compiles all rule files together. What is wrong is in `diags`; the rules that are left out are those with errors.
pub fn compile(files: &[FileId], sources: &Sources, diags: &mut Diagnostics) -> RuleSet {
    let mut found = Diagnostics::default();
    let parsed: Vec<(Reader<'_>, DeTable<'_>)> = files
        .iter()
        .filter_map(|file| {
            let reader = Reader { file: *file, text: sources.text(*file) };
            let document = text::parse(reader.text, *file, &mut found);
            (!document.broken).then_some((reader, document.table))
        })
        .collect();
    let set = compile_tables(&parsed, &mut found);
    take_once(found, diags);
    set
}

/// Parts are read once for each rule that uses them: what is wrong with them is told once.
fn take_once(found: Diagnostics, diags: &mut Diagnostics) {
    let mut seen = FxHashSet::default();
    for diagnostic in found.list {
        let place = diagnostic.primary.as_ref().map(|(span, _)| *span);
        if seen.insert((place, diagnostic.message.clone())) {
            diags.push(diagnostic);
        }
    }
}

/// Entries of one section of all files, each with its file.
type Section<'i> = Vec<(Reader<'i>, Entry<'i>)>;

fn section<'i>(parsed: &'i [(Reader<'i>, DeTable<'i>)], key: &str, diags: &mut Diagnostics) -> Section<'i> {
    let mut all = Vec::new();
    for (reader, table) in parsed {
        let Some(value) = table.get(key) else { continue };
        let Some(table) = reader.table(value, &format!("`{key}`"), diags) else { continue };
        all.extend(reader.entries(table).into_iter().map(|entry| (*reader, entry)));
    }
    all
}

fn compile_tables<'i>(parsed: &'i [(Reader<'i>, DeTable<'i>)], diags: &mut Diagnostics) -> RuleSet {
    for (reader, table) in parsed {
        reader.known_keys(table, FILE_KEYS, "a rule file", diags);
        reader.doc(table, diags);
    }
    let mut broken = Broken::default();
    let vars = variables(&section(parsed, "vars", diags), &mut broken.vars, diags);
    let configs = configs(&section(parsed, "config", diags), &vars, &broken.vars, diags);
    let providers = providers(&section(parsed, "provider", diags), &mut broken.providers, diags);
    let rules = {
        let declared = Declared { vars: &vars, providers: &providers, broken: &broken };
        rules(&section(parsed, "part", diags), &section(parsed, "rule", diags), declared, diags)
    };
    RuleSet::new(vars, configs, providers, rules)
}

/// Keeps the first of each name that is well-formed and not taken.
struct Names {
    what: &'static str,
    taken: FxHashMap<String, Option<Span>>,
}

impl Names {
    fn new(what: &'static str, built_in: &[&str]) -> Self {
        let taken = built_in.iter().map(|name| ((*name).to_owned(), None)).collect();
        Self { what, taken }
    }

    fn take(&mut self, reader: Reader<'_>, entry: &Entry<'_>, diags: &mut Diagnostics) -> bool {
        if !reader.name(entry, self.what, diags) {
            return false;
        }
        match self.taken.get(entry.key) {
            Some(Some(first)) => {
                let message = format!("{} `{}` is declared twice", self.what, entry.key);
                diags.push(Diagnostic::at(entry.key_span, message).note(*first, "first declared here"));
                false
            }
            Some(None) => {
                diags.push(Diagnostic::at(entry.key_span, format!("{} `{}` is built in", self.what, entry.key)));
                false
            }
            None if self.taken.len() >= MAX_ROWS => {
                diags
                    .push(Diagnostic::at(entry.key_span, format!("too many: this is {} number {MAX_ROWS}", self.what)));
                false
            }
            None => {
                self.taken.insert(entry.key.to_owned(), Some(entry.key_span));
                true
            }
        }
    }
}

/// `os` and `arch`, which are what the host is unless set.
fn host_vars() -> Vec<VarDecl> {
    let host = |name: &str, doc: &str| VarDecl {
        name: Arc::from(name),
        ty: VarType::String,
        values: Vec::new(),
        version: Vec::new(),
        default: VarValue::Text(Arc::from("")),
        doc: Some(Arc::from(doc)),
        span: None,
    };
    vec![
        host("os", "Operating system outputs are for, such as `linux`; this host's unless set."),
        host("arch", "Processor outputs are for, such as `x86_64`; this host's unless set."),
    ]
}

fn variables(section: &Section<'_>, broken: &mut Vec<String>, diags: &mut Diagnostics) -> Vec<VarDecl> {
    let mut names = Names::new("variable", &["os", "arch"]);
    let mut vars = host_vars();
    for (reader, entry) in section {
        if names.take(*reader, entry, diags) {
            match decl::variable(*reader, entry, diags) {
                Some(var) => vars.push(var),
                None => broken.push(entry.key.to_owned()),
            }
        }
    }
    vars
}

fn configs(section: &Section<'_>, vars: &[VarDecl], broken: &[String], diags: &mut Diagnostics) -> Vec<Overlay> {
    section
        .iter()
        .map(|(reader, entry)| (Arc::from(entry.key), decl::config(*reader, entry, vars, broken, diags)))
        .collect()
}

fn providers(section: &Section<'_>, broken: &mut Vec<String>, diags: &mut Diagnostics) -> Vec<Provider> {
    let mut names = Names::new("provider", &["run"]);
    let mut providers = Vec::new();
    for (reader, entry) in section {
        if names.take(*reader, entry, diags) {
            match decl::provider(*reader, entry, diags) {
                Some(provider) => providers.push(provider),
                None => broken.push(entry.key.to_owned()),
            }
        }
    }
    providers
}

/// A part of a file.
struct Part<'i> {
    reader: Reader<'i>,
    entry: Entry<'i>,
    table: &'i DeTable<'i>,
    used: bool,
}

fn rules<'i>(
    parts: &Section<'i>,
    rules: &Section<'i>,
    declared: Declared<'_>,
    diags: &mut Diagnostics,
) -> Vec<Arc<Rule>> {
    let mut parts = read_parts(parts, diags);
    let mut names = Names::new("rule", BUILT_IN);
    let mut compiled = Vec::new();
    for (reader, entry) in rules {
        if !names.take(*reader, entry, diags) {
            continue;
        }
        let Some(table) = reader.table(entry.value, &format!("rule `{}`", entry.key), diags) else { continue };
        let mut fragments = used_parts(*reader, table, &mut parts, diags);
        fragments.push(Fragment { table });
        let rule = RuleReader::new(*reader, *entry, declared, diags).rule(&fragments, table);
        compiled.extend(rule.map(Arc::new));
    }
    for part in parts.iter().filter(|part| !part.used) {
        RuleReader::new(part.reader, part.entry, declared, diags).unused_part(part.table);
    }
    compiled
}

fn read_parts<'i>(section: &Section<'i>, diags: &mut Diagnostics) -> Vec<Part<'i>> {
    let mut parts = Vec::new();
    for (reader, entry) in section {
        let what = format!("part `{}`", entry.key);
        if !is_name(entry.key) {
            reader.name(entry, "a part", diags);
            continue;
        }
        let Some(table) = reader.table(entry.value, &what, diags) else { continue };
        reader.known_keys(table, PART_KEYS, &what, diags);
        parts.push(Part { reader: *reader, entry: *entry, table, used: false });
    }
    parts
}

fn used_parts<'i>(
    reader: Reader<'i>,
    table: &'i DeTable<'i>,
    parts: &mut [Part<'i>],
    diags: &mut Diagnostics,
) -> Vec<Fragment<'i>> {
    let Some(value) = table.get("parts") else { return Vec::new() };
    let mut fragments: Vec<Fragment<'i>> = Vec::new();
    for text in reader.strings(value, "`parts`", diags).unwrap_or_default() {
        match parts.iter_mut().find(|part| part.reader.file == reader.file && part.entry.key == text.text) {
            Some(part) if fragments.iter().any(|known| std::ptr::eq(known.table, part.table)) => {
                diags.push(Diagnostic::at(text.inner(), format!("part `{}` is listed twice", text.text)));
            }
            Some(part) => {
                part.used = true;
                fragments.push(Fragment { table: part.table });
            }
            None => {
                let own = parts.iter().filter(|part| part.reader.file == reader.file).map(|part| part.entry.key);
                let diagnostic = Diagnostic::at(text.inner(), format!("this file has no part `{}`", text.text));
                diags.push(minibuild_diagnostics::source::suggested(diagnostic, text.text, own));
            }
        }
    }
    fragments
}
