//! Makes command lines, environments and contents of the actions of one target, when somebody asks.
//! Pure: the same each time, from what expansion kept.

use std::collections::BTreeMap;

use minibuild_core::{ActionId, CommandLine, Model, Work, WrittenFile, WsPath};

use super::eval::{Eval, Line, Visitor};
use super::explain::{self, ArgOrigin};
use super::rule::{Action, Body, EnvValue, ResponseStyle, Source, TableEntry, Template};
use super::values::{ActionRun, TargetValues};
use crate::attr::AttrValue;
use crate::provide::Recipe;

/// Past this many bytes, separators included, a `response_file` is used.
const RESPONSE_FILE_LIMIT: usize = 64 * 1024;

/// The recipe of all actions of one target.
pub struct TargetRecipe {
    /// What templates see.
    pub values: TargetValues,
    /// Which run of which action each id is; sorted by id.
    pub index: Vec<(ActionId, u16, usize)>,
}

impl TargetRecipe {
    fn find(&self, id: ActionId) -> Option<(&Action, &ActionRun)> {
        let at = self.index.binary_search_by_key(&id, |row| row.0).ok()?;
        let (_, action, run) = self.index[at];
        let action = usize::from(action);
        Some((&self.values.rule.actions[action], &self.values.runs[action][run]))
    }
}

impl Recipe for TargetRecipe {
    fn explain(&self, model: &Model, id: ActionId) -> Vec<ArgOrigin> {
        let Some((action, run)) = self.find(id) else { return Vec::new() };
        let eval = Eval { values: &self.values, model, run: Some(run) };
        let (cmd, entries) = match &action.body {
            Body::Command { cmd, args } => (cmd.as_deref(), args),
            Body::Write { lines, .. } => (None, lines),
        };
        let mut origins: Vec<ArgOrigin> =
            shell(cmd).into_iter().map(|text| ArgOrigin { text, template: None, name: None, given: None }).collect();
        origins.extend(explain::origins(&self.values, action.for_each, eval.render(entries)));
        origins
    }

    fn work(&self, model: &Model, id: ActionId) -> Work {
        let Some((action, run)) = self.find(id) else { return Work::Spawn(CommandLine::default()) };
        let eval = Eval { values: &self.values, model, run: Some(run) };
        let first = run.outs.first().map_or_else(WsPath::root, |id| model.artifact(*id).path.clone());
        match &action.body {
            Body::Write { lines, executable } => {
                let content = text_lines(eval.render(lines).iter().map(|line| line.text.as_str()));
                Work::Write(WrittenFile { path: first, content, executable: *executable })
            }
            Body::Command { cmd, args } => {
                let mut command = Command { first, lines: Vec::new(), files: Vec::new() };
                eval.walk(args, &mut command);
                Work::Spawn(CommandLine {
                    argv: argv(cmd.as_deref(), command.lines),
                    env: environment(eval, action),
                    files: command.files,
                })
            }
        }
    }
}

fn text_lines<'t>(lines: impl Iterator<Item = &'t str>) -> Vec<u8> {
    let mut text = String::new();
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    text.into_bytes()
}

/// What runs a shell text; nothing where there is none.
fn shell(cmd: Option<&str>) -> Vec<String> {
    cmd.map(|cmd| ["/bin/sh", "-e", "-c", cmd, "sh"].map(str::to_owned).into()).unwrap_or_default()
}

fn argv(cmd: Option<&str>, lines: Vec<Line>) -> Vec<String> {
    // Something that is run from the workspace root needs a slash, or it is looked up in `PATH`.
    let local_program = cmd.is_none() && lines.first().is_some_and(|line| line.is_path && !line.text.contains('/'));
    let mut argv = shell(cmd);
    argv.extend(lines.into_iter().map(|line| line.text));
    if let Some(program) = argv.first_mut().filter(|_| local_program) {
        program.insert_str(0, "./");
    }
    argv
}

fn environment(eval: Eval<'_>, action: &Action) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for (name, value) in &action.env {
        let text = match value {
            EnvValue::Text(template) => eval.text_of(template),
            EnvValue::Join(table) => joined(eval, table),
        };
        env.extend(text.map(|text| (name.to_string(), text)));
    }
    for at in &action.env_from {
        if let AttrValue::Env(pairs) = &eval.values.attrs[usize::from(*at)] {
            env.extend(pairs.iter().map(|(name, text)| (name.to_string(), eval.loc_text(text))));
        }
    }
    env
}

fn joined(eval: Eval<'_>, table: &TableEntry) -> Option<String> {
    if !eval.holds(&table.when) {
        return None;
    }
    let lines = eval.render(&table.items);
    let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
    (!texts.is_empty()).then(|| texts.join(table.join.as_deref().unwrap_or_default()))
}

/// Renders an argv: as any list, but past the limit some of it goes into response files.
struct Command {
    first: WsPath,
    lines: Vec<Line>,
    files: Vec<WrittenFile>,
}

impl Visitor for Command {
    fn each(&mut self, eval: Eval<'_>, templates: &[Template], over: Option<Source>) {
        self.lines.extend(eval.render_each(templates, over));
    }

    fn table(&mut self, eval: Eval<'_>, table: &TableEntry) {
        let Some(style) = table.response else {
            if table.join.is_some() {
                self.lines.extend(eval.render_table(table));
            } else {
                eval.walk(&table.items, self);
            }
            return;
        };
        let lines = eval.render(&table.items);
        let size: usize = lines.iter().map(|line| line.text.len() + 1).sum();
        let (Some(first), true) = (lines.first(), size > RESPONSE_FILE_LIMIT) else {
            self.lines.extend(lines);
            return;
        };
        let path = self.response_path();
        let (template, source) = (first.template, first.source);
        self.lines.push(Line { text: format!("@{path}"), template, source, is_path: false });
        let items = lines.iter().map(|line| match style {
            ResponseStyle::Gnu => gnu_quoted(&line.text),
            ResponseStyle::Lines => line.text.clone(),
        });
        let items: Vec<String> = items.collect();
        self.files.push(WrittenFile { path, content: text_lines(items.iter().map(String::as_str)), executable: false });
    }
}

impl Command {
    /// `FIRST_OUTPUT.rsp`, then `FIRST_OUTPUT.2.rsp`.
    fn response_path(&self) -> WsPath {
        let number = if self.files.is_empty() { String::new() } else { format!(".{}", self.files.len() + 1) };
        let path = format!("{}{number}.rsp", self.first);
        WsPath::new(&path).unwrap_or_else(|_| self.first.clone())
    }
}

/// An item as gcc, clang, ld and ar read it from a file.
fn gnu_quoted(text: &str) -> String {
    if text.is_empty() {
        return "\"\"".to_owned();
    }
    let mut quoted = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_whitespace() || matches!(c, '"' | '\'' | '\\') {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted
}
