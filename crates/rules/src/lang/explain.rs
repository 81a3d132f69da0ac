//! Where each argument of a command comes from: the same walk that renders it, with the templates kept.
//! Makes text for people; knows no terminal.

use std::fmt::Write as _;

use minibuild_diagnostics::diag::{Sources, Span};

use super::eval::Line;
use super::rule::Source;
use super::values::TargetValues;

/// One element of an argv with its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgOrigin {
    /// The argument.
    pub text: String,
    /// The template that made it, without its quotes; `None` for the shell that runs a `cmd`.
    pub template: Option<Span>,
    /// What the template names, as written there, such as `includes` or `deps.c.link`.
    pub name: Option<String>,
    /// Where the target gives that attribute.
    pub given: Option<Span>,
}

/// The origins of rendered lines.
pub fn origins(values: &TargetValues, for_each: Option<Source>, lines: Vec<Line>) -> Vec<ArgOrigin> {
    let origin = |line: Line| ArgOrigin {
        text: line.text,
        template: Some(line.template),
        name: line.source.map(|source| name_of(values, source)),
        // An item is an element of the list the action runs for.
        given: line.source.and_then(|source| given(values, if source == Source::Item { for_each? } else { source })),
    };
    lines.into_iter().map(origin).collect()
}

fn attr_of(source: Source) -> Option<u16> {
    match source {
        Source::Attr(at)
        | Source::Kind(at, _)
        | Source::Field(at, _)
        | Source::RunExecutable(at)
        | Source::RunFiles(at) => Some(at),
        _ => None,
    }
}

fn given(values: &TargetValues, source: Source) -> Option<Span> {
    values.attr_spans.get(usize::from(attr_of(source)?)).copied().flatten()
}

/// A source as a rule file writes it.
fn name_of(values: &TargetValues, source: Source) -> String {
    let rule = &values.rule;
    let attr = |at: u16| &rule.attrs[usize::from(at)].name;
    match source {
        Source::Name => "name".to_owned(),
        Source::Label => "label".to_owned(),
        Source::Package => "package".to_owned(),
        Source::Bin => "bin".to_owned(),
        Source::BinRoot => "bin_root".to_owned(),
        Source::Attr(at) => attr(at).to_string(),
        Source::Kind(at, kind) => format!("{}.{}", attr(at), kind_name(values, at, kind)),
        Source::Field(at, id) => {
            let provider = &values.providers[usize::from(id.provider)];
            format!("{}.{}.{}", attr(at), provider.name, provider.fields[usize::from(id.field)].name)
        }
        Source::RunExecutable(at) => format!("{}.run.executable", attr(at)),
        Source::RunFiles(at) => format!("{}.run.runfiles", attr(at)),
        Source::List(at) => rule.lists[usize::from(at)].0.to_string(),
        Source::Var(id) => format!("vars.{}", values.vars.name(id)),
        Source::Action(at, out) => {
            let action = &rule.actions[usize::from(at)];
            format!("{}.{}", action.name, action.outs[usize::from(out)].name)
        }
        Source::Item => "item".to_owned(),
        Source::Out(_) => "out".to_owned(),
        Source::Depfile => "out.depfile".to_owned(),
    }
}

fn kind_name(values: &TargetValues, at: u16, kind: u16) -> String {
    use crate::attr::AttrType;
    let accept = match &values.rule.attrs[usize::from(at)].ty {
        AttrType::File { accept } | AttrType::Files { accept } => accept.as_ref(),
        _ => None,
    };
    let name = accept.and_then(|accept| accept.kinds.get(usize::from(kind))).and_then(|(name, _)| name.clone());
    name.map_or_else(String::new, |name| name.to_string())
}

/// Shows an argv, one argument a line, with the line of its template and the attribute it came from:
/// `ARGUMENT  @std/c.toml:61:4 "-I{includes}"  includes = lib/BUILD.toml:5:12`.
pub fn show_argv(origins: &[ArgOrigin], sources: &Sources) -> String {
    let width =
        origins.iter().map(|origin| origin.text.chars().count()).filter(|width| *width <= 60).max().unwrap_or(0);
    let mut text = String::new();
    for origin in origins {
        let _ = write!(text, "  {:width$}", origin.text.escape_debug().to_string());
        if let Some(span) = origin.template {
            let _ = write!(text, "  {} \"{}\"", place(sources, span), slice(sources, span));
        }
        if let (Some(name), Some(given)) = (&origin.name, origin.given) {
            let _ = write!(text, "  {name} = {}", place(sources, given));
        }
        text.push('\n');
    }
    text
}

/// What an argument comes from, in short: `vars.c_mode`, or `copts = lib/BUILD.toml:5:9`.
pub fn show_origin(origin: &ArgOrigin, sources: &Sources) -> Option<String> {
    let name = origin.name.as_ref()?;
    Some(origin.given.map_or_else(|| name.clone(), |given| format!("{name} = {}", place(sources, given))))
}

fn slice(sources: &Sources, span: Span) -> &str {
    sources.text(span.file).get(span.start as usize..span.end as usize).unwrap_or_default()
}

fn place(sources: &Sources, span: Span) -> String {
    let before = sources.text(span.file).get(..span.start as usize).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{}:{line}:{column}", sources.path(span.file))
}
