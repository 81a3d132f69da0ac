//! Compiles one action. Knows the keys of `[rule.R.action.A]`.

use std::sync::Arc;
use std::time::Duration;

use minibuild_core::{ActionTags, HostTool, Resources};
use minibuild_diagnostics::diag::{Diagnostic, Diagnostics, Span};
use minibuild_diagnostics::source::{Entry, Reader, Text, Value, suggested};
use minibuild_diagnostics::walk;
use toml::de::{DeTable, DeValue};

use super::decl::one_of;
use super::entries::{Entries, Use};
use super::rule::{Action, Body, Count, EnvValue, Fixed, Kind, Out, Source, Template};
use super::scope::{ActionHeader, Within};
use super::template;
use crate::attr::AttrType;

const ACTION_KEYS: &[&str] = &[
    "doc",
    "when",
    "for_each",
    "outs",
    "out_dirs",
    "args",
    "cmd",
    "write",
    "executable",
    "inputs",
    "env",
    "env_from",
    "depfile",
    "hermetic",
    "mnemonic",
    "tags",
    "platform",
    "timeout",
    "host_tools",
    "pool",
    "cpus",
    "memory",
];
/// Tags that say something about an action.
const TAGS: &[(&str, ())] =
    &[("local", ()), ("no-remote", ()), ("no-local", ()), ("no-cache", ()), ("no-remote-cache", ()), ("exclusive", ())];

/// What others need to know of an action: its outputs and how often it runs.
pub fn header<'i>(reader: Reader<'i>, entry: &Entry<'i>, diags: &mut Diagnostics) -> ActionHeader {
    let mut header = ActionHeader {
        name: Arc::from(entry.key),
        span: entry.key_span,
        outs: Vec::new(),
        count: Count::One,
        depfile: false,
    };
    // A wrong type is told when the action is compiled.
    let Some(table) = entry.value.get_ref().as_table() else { return header };
    let mut spans: Vec<(&str, Span)> = Vec::new();
    for (key, directory) in [("outs", false), ("out_dirs", true)] {
        let Some(outs) = table.get(key).and_then(|value| value.get_ref().as_table()) else { continue };
        for out in reader.entries(outs) {
            if let Some((_, first)) = spans.iter().find(|(name, _)| *name == out.key) {
                diags.push(
                    Diagnostic::at(out.key_span, format!("output `{}` comes twice", out.key))
                        .note(*first, "first here"),
                );
            } else if out.key == "depfile" {
                diags.push(Diagnostic::at(out.key_span, "`out.depfile` is the depfile: name the output otherwise"));
            } else if reader.name(&out, "an output", diags) {
                spans.push((out.key, out.key_span));
                header.outs.push((Arc::from(out.key), directory));
            }
        }
    }
    header.count = if table.contains_key("for_each") {
        Count::Many
    } else if table.contains_key("when") {
        Count::Optional
    } else {
        Count::One
    };
    header.depfile = table.contains_key("depfile");
    header
}

/// Compiles an action; `None` where it is no table.
pub fn action<'a, 'i>(mut cx: Entries<'a, 'i>, entry: &Entry<'i>, header: &'a ActionHeader) -> Option<Action> {
    let what = format!("action `{}`", entry.key);
    let table = cx.reader.table(entry.value, &what, cx.diags)?;
    cx.reader.known_keys(table, ACTION_KEYS, &what, cx.diags);
    cx.reader.doc(table, cx.diags);
    let when = table.get("when").map(|value| cx.conditions(value)).unwrap_or_default();
    let for_each = table.get("for_each").and_then(|value| for_each(&mut cx, value));
    let item = for_each.map(|(_, kind)| kind);
    cx.within = Within::Outs { item };
    let outs = outs(&mut cx, table, entry, header, item.is_some());
    let depfile = table.get("depfile").and_then(|value| out_path(&mut cx, value, "`depfile`", item.is_some()));
    cx.within = Within::Action { header, item };
    let inputs = table.get("inputs").map(|value| cx.list(value, "`inputs`", Use::Inputs)).unwrap_or_default();
    let body = body(&mut cx, table, entry, header);
    Some(Action {
        name: header.name.clone(),
        span: header.span,
        when,
        for_each: for_each.map(|(source, _)| source),
        outs,
        body: body?,
        inputs,
        env: environment(&mut cx, table),
        env_from: env_from(&mut cx, table),
        depfile,
        fixed: fixed(cx.reader, table, entry, cx.diags),
    })
}

fn for_each<'i>(cx: &mut Entries<'_, 'i>, value: &'i Value<'i>) -> Option<(Source, Kind)> {
    let text = cx.reader.string(value, "`for_each`", cx.diags)?;
    if !template::is_path(text.text) {
        let bare = text.text.trim_matches(['{', '}']);
        let hint = format!(
            "it is the name of a list without braces, such as `{}`",
            if template::is_path(bare) { bare } else { "srcs" }
        );
        cx.diags.push(Diagnostic::at(text.inner(), format!("`{}` names no list", text.text)).hint(hint));
        return None;
    }
    let (source, ty) = cx.resolve(text.text, text.inner())?;
    let element = matches!(ty.kind, Kind::Text | Kind::Dir | Kind::File | Kind::Args);
    if ty.count == Count::One || !element {
        cx.diags.push(Diagnostic::at(text.inner(), format!("`{}` is no list", text.text)));
        return None;
    }
    Some((source, ty.kind))
}

fn outs<'i>(
    cx: &mut Entries<'_, 'i>,
    table: &'i DeTable<'i>,
    entry: &Entry<'i>,
    header: &ActionHeader,
    many: bool,
) -> Box<[Out]> {
    let mut outs = Vec::new();
    for (key, directory) in [("outs", false), ("out_dirs", true)] {
        let Some(value) = table.get(key) else { continue };
        let Some(inner) = cx.reader.table(value, &format!("`{key}`"), cx.diags) else { continue };
        for out in cx.reader.entries(inner) {
            let path = out_path(cx, out.value, &format!("output `{}`", out.key), many);
            if let (Some(path), true) = (path, header.outs.iter().any(|(name, _)| **name == *out.key)) {
                outs.push(Out { name: Arc::from(out.key), directory, path });
            }
        }
    }
    if header.outs.is_empty() && !table.contains_key("outs") && !table.contains_key("out_dirs") {
        let message = format!("action `{}` has no outputs", entry.key);
        cx.diags.push(Diagnostic::at(entry.key_span, message).hint("declare `outs` or `out_dirs`"));
    }
    outs.into()
}

/// A path below `{bin}`: as far as its text is constant it is checked here, the rest for each target.
fn out_path<'i>(cx: &mut Entries<'_, 'i>, value: &'i Value<'i>, what: &str, many: bool) -> Option<Template> {
    let text = cx.reader.string(value, what, cx.diags)?;
    if text.text.is_empty()
        || text.text.starts_with('/')
        || text.text.split('/').any(|segment| matches!(segment, "" | "." | ".."))
    {
        let message = format!("`{}` is no path below the package's outputs", text.text);
        cx.diags.push(
            Diagnostic::at(text.inner(), message)
                .hint("it is relative to `{bin}`, without `.`, `..` and empty segments"),
        );
        return None;
    }
    let template = cx.single(value, what)?;
    if many && !template.refs().any(|reference| reference.source == Source::Item) {
        let message = format!("{what} must name `{{item}}`: the action runs once for each element");
        cx.diags.push(Diagnostic::at(text.inner(), message));
        return None;
    }
    Some(template)
}

fn body<'i>(
    cx: &mut Entries<'_, 'i>,
    table: &'i DeTable<'i>,
    entry: &Entry<'i>,
    header: &ActionHeader,
) -> Option<Body> {
    if let Some(value) = table.get("write") {
        return write(cx, table, value, header);
    }
    if let Some((key, _)) = table.get_key_value("executable") {
        let span = Span::new(cx.reader.file, key.span());
        cx.diags.push(Diagnostic::at(span, "`executable` is only for actions with `write`"));
    }
    let cmd = table.get("cmd").and_then(|value| cx.reader.string(value, "`cmd`", cx.diags));
    let args = table.get("args").map(|value| cx.list(value, "`args`", Use::Args));
    match (&cmd, &args) {
        (None, None) if table.contains_key("cmd") => None,
        (None, None) => {
            let message = format!("action `{}` does nothing", entry.key);
            cx.diags.push(Diagnostic::at(entry.key_span, message).hint("give it `args`, `cmd` or `write`"));
            None
        }
        (None, Some(_)) if is_empty_array(table.get("args")) => {
            let span = table.get("args").map_or(entry.key_span, |value| cx.reader.span(value));
            cx.diags.push(Diagnostic::at(span, "`args` is the whole argv: its first element is the program"));
            None
        }
        _ => Some(Body::Command { cmd: cmd.map(|text| text.text.into()), args: args.unwrap_or_default() }),
    }
}

fn is_empty_array(value: Option<&Value<'_>>) -> bool {
    value.and_then(|value| value.get_ref().as_array()).is_some_and(|items| items.is_empty())
}

fn write<'i>(
    cx: &mut Entries<'_, 'i>,
    table: &'i DeTable<'i>,
    value: &'i Value<'i>,
    header: &ActionHeader,
) -> Option<Body> {
    for key in ["args", "cmd", "inputs", "env", "env_from", "depfile", "host_tools", "timeout"] {
        if let Some((key, _)) = table.get_key_value(key) {
            let span = Span::new(cx.reader.file, key.span());
            let message = format!("`{}` does not go together with `write`", key.get_ref());
            cx.diags.push(Diagnostic::at(span, message));
        }
    }
    if header.outs.len() != 1 || header.outs.iter().any(|(_, directory)| *directory) {
        let message = format!("action `{}` has `write` and so needs exactly one file in `outs`", header.name);
        cx.diags.push(Diagnostic::at(header.span, message));
    }
    let executable = table.get("executable").and_then(|value| cx.reader.bool(value, "`executable`", cx.diags));
    let lines = cx.list(value, "`write`", Use::Texts);
    Some(Body::Write { lines, executable: executable.unwrap_or(false) })
}

fn environment<'i>(cx: &mut Entries<'_, 'i>, table: &'i DeTable<'i>) -> Box<[(Box<str>, EnvValue)]> {
    let Some(value) = table.get("env") else { return Box::default() };
    let Some(inner) = cx.reader.table(value, "`env`", cx.diags) else { return Box::default() };
    let mut env = Vec::new();
    for entry in cx.reader.entries(inner) {
        if entry.key.is_empty() || entry.key.contains(['=', '\0']) {
            cx.diags.push(Diagnostic::at(
                entry.key_span,
                format!("`{}` cannot name a variable of the environment", entry.key),
            ));
            continue;
        }
        env.extend(cx.env_value(entry.value, entry.key).map(|value| (entry.key.into(), value)));
    }
    env.into()
}

fn env_from<'i>(cx: &mut Entries<'_, 'i>, table: &'i DeTable<'i>) -> Box<[u16]> {
    let Some(value) = table.get("env_from") else { return Box::default() };
    let texts = cx.reader.strings(value, "`env_from`", cx.diags).unwrap_or_default();
    texts.iter().filter_map(|text| env_attr(cx, text)).collect()
}

fn env_attr(cx: &mut Entries<'_, '_>, text: &Text<'_>) -> Option<u16> {
    let is_env = |ty: &AttrType| matches!(ty, AttrType::Env);
    if let Some(at) = cx.scope.attrs.iter().position(|spec| *spec.name == *text.text && is_env(&spec.ty)) {
        return u16::try_from(at).ok();
    }
    if !cx.lenient {
        let message = format!("`{}` is no attribute of type `env`", text.text);
        let candidates = cx.scope.attrs.iter().filter(|spec| is_env(&spec.ty)).map(|spec| &*spec.name);
        cx.diags.push(suggested(Diagnostic::at(text.inner(), message), text.text, candidates));
    }
    None
}

fn fixed<'i>(reader: Reader<'i>, table: &'i DeTable<'i>, entry: &Entry<'i>, diags: &mut Diagnostics) -> Fixed {
    let mnemonic = table.get("mnemonic").and_then(|value| mnemonic(reader, value, diags));
    let hermetic = table.get("hermetic").and_then(|value| reader.bool(value, "`hermetic`", diags));
    Fixed {
        mnemonic: mnemonic.unwrap_or_else(|| Arc::from(entry.key)),
        tags: ActionTags { hermetic: hermetic.unwrap_or(false), ..tags(reader, table, diags) },
        platform: platform(reader, table, diags),
        timeout: table.get("timeout").and_then(|value| timeout(reader, value, diags)),
        host_tools: host_tools(reader, table, diags),
        resources: resources(reader, table, diags),
    }
}

fn mnemonic<'i>(reader: Reader<'i>, value: &'i Value<'i>, diags: &mut Diagnostics) -> Option<Arc<str>> {
    let text = reader.string(value, "`mnemonic`", diags)?;
    if text.text.is_empty() || !text.text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        diags.push(Diagnostic::at(text.inner(), "`mnemonic` is one word of letters and digits"));
        return None;
    }
    Some(Arc::from(text.text))
}

fn tags<'i>(reader: Reader<'i>, table: &'i DeTable<'i>, diags: &mut Diagnostics) -> ActionTags {
    let Some(value) = table.get("tags") else { return ActionTags::default() };
    let texts = reader.strings(value, "`tags`", diags).unwrap_or_default();
    for text in &texts {
        one_of(text, "tag", TAGS, diags);
    }
    let mut tags = ActionTags::default();
    for text in &texts {
        match text.text {
            "local" | "no-remote" => tags.no_remote = true,
            "no-local" => tags.no_local = true,
            "no-cache" => tags.no_cache = true,
            "no-remote-cache" => tags.no_remote_cache = true,
            "exclusive" => tags.exclusive = true,
            _ => {}
        }
    }
    tags
}

fn platform<'i>(reader: Reader<'i>, table: &'i DeTable<'i>, diags: &mut Diagnostics) -> Arc<[(Box<str>, Box<str>)]> {
    let inner = table.get("platform").and_then(|value| reader.table(value, "`platform`", diags));
    let mut properties: Vec<(Box<str>, Box<str>)> = Vec::new();
    for entry in inner.map(|inner| reader.entries(inner)).unwrap_or_default() {
        if let Some(text) = reader.string(entry.value, "a platform property", diags) {
            properties.push((entry.key.into(), text.text.into()));
        }
    }
    properties.sort();
    properties.into()
}

fn timeout<'i>(reader: Reader<'i>, value: &'i Value<'i>, diags: &mut Diagnostics) -> Option<Duration> {
    let found = match value.get_ref() {
        DeValue::String(text) => walk::parse_duration(text),
        _ => minibuild_diagnostics::source::as_integer(value)
            .and_then(|n| u64::try_from(n).ok())
            .map(Duration::from_secs),
    };
    if found.is_none_or(|duration| duration.is_zero()) {
        let message = "`timeout` is a time such as `\"90s\"`, `\"10m\"`, `\"1h30m\"` or a number of seconds";
        diags.push(Diagnostic::at(reader.span(value), message));
    }
    found
}

fn host_tools<'i>(reader: Reader<'i>, table: &'i DeTable<'i>, diags: &mut Diagnostics) -> Box<[HostTool]> {
    let Some(value) = table.get("host_tools") else { return Box::default() };
    let items = reader.array(value, "`host_tools`", diags).unwrap_or_default();
    items.iter().filter_map(|item| host_tool(reader, item, diags)).collect()
}

fn host_tool<'i>(reader: Reader<'i>, value: &'i Value<'i>, diags: &mut Diagnostics) -> Option<HostTool> {
    if let DeValue::Table(table) = value.get_ref() {
        reader.known_keys(table, &["program", "version"], "a host tool", diags);
        let Some(program) = table.get("program") else {
            diags.push(Diagnostic::at(reader.span(value), "a host tool needs a `program`"));
            return None;
        };
        let program = reader.string(program, "`program`", diags)?;
        let version =
            table.get("version").and_then(|value| reader.strings(value, "`version`", diags)).unwrap_or_default();
        let version_args = version.iter().map(|text| text.text.into()).collect();
        return Some(HostTool { program: program.text.into(), version_args });
    }
    let program = reader.string(value, "a host tool", diags)?;
    Some(HostTool { program: program.text.into(), version_args: Box::default() })
}

fn resources<'i>(reader: Reader<'i>, table: &'i DeTable<'i>, diags: &mut Diagnostics) -> Resources {
    let pool = table.get("pool").and_then(|value| reader.string(value, "`pool`", diags));
    let cpus = table.get("cpus").and_then(|value| reader.integer(value, "`cpus`", diags));
    let memory = table.get("memory").and_then(|value| memory(reader, value, diags));
    Resources {
        pool: pool.map(|text| text.text.into()),
        cpus: cpus.and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        memory: memory.unwrap_or(0),
    }
}

fn memory<'i>(reader: Reader<'i>, value: &'i Value<'i>, diags: &mut Diagnostics) -> Option<u64> {
    let found = match value.get_ref() {
        DeValue::String(text) => walk::parse_size(text),
        _ => minibuild_diagnostics::source::as_integer(value).and_then(|n| u64::try_from(n).ok()),
    };
    if found.is_none() {
        diags.push(Diagnostic::at(
            reader.span(value),
            "`memory` is a size such as `\"512MiB\"`, `\"2GiB\"` or a number of bytes",
        ));
    }
    found
}
