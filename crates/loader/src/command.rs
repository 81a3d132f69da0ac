//! The commands of `genrule` and `test`, made when an action may have to run. Knows `$(location)`, `SRCS` and the
//! environment; not where the texts came from.

use std::collections::BTreeMap;
use std::sync::Arc;

use minibuild_core::{ActionId, ArtifactId, CommandLine, CommandSource, Inputs, Model, Work, WrittenFile, WsPath};
use minibuild_rules::attr::{LocPart, LocText};
use minibuild_rules::lang::ArgOrigin;
use minibuild_rules::path_argument::as_argument;
use minibuild_rules::provide::Recipe;

/// What a built-in action runs.
#[derive(Clone, Debug)]
pub enum Program {
    /// `/bin/sh -e -c TEXT`.
    Shell(LocText),
    /// An argv.
    Argv(Vec<LocText>),
    /// An executable with arguments.
    Executable(ArtifactId, Vec<LocText>),
}

/// A response file.
#[derive(Clone, Debug)]
pub struct RspRecipe {
    /// Where.
    pub path: WsPath,
    /// Its text or, with `lines`, its lines.
    pub content: Vec<LocText>,
    /// Each entry, and each file of `$(locations)`, ends its line.
    pub lines: bool,
}

/// How one built-in action is carried out.
#[derive(Clone, Debug)]
pub struct CommandRecipe {
    /// What it runs.
    pub program: Program,
    /// Variables of the target, sorted.
    pub env: Vec<(Arc<str>, LocText)>,
    /// `srcs`, for `SRC` and `SRCS`.
    pub srcs: Inputs,
    /// `outs`, for `OUT` and `OUTS`.
    pub outs: Box<[ArtifactId]>,
    /// The first declared directory.
    pub out_dir: Option<ArtifactId>,
    /// Whether the text mentions `SRCS`.
    pub names_srcs: bool,
    /// Whether the text mentions `OUTS`.
    pub names_outs: bool,
    /// A private input.
    pub rspfile: Option<RspRecipe>,
}

/// A recipe of one action.
pub enum RecipeSlot {
    /// Of a built-in rule.
    Command(Box<CommandRecipe>),
    /// Of a rule file.
    Rule(Arc<dyn Recipe>),
}

/// All recipes of a load.
pub struct Commands {
    /// For paths.
    pub model: Arc<Model>,
    /// By action.
    pub recipes: Vec<RecipeSlot>,
    /// `PATH` and `[env]`.
    pub base_env: Arc<BTreeMap<String, String>>,
}

impl Commands {
    /// Where each argument of an action comes from.
    pub fn explain(&self, action: ActionId) -> Vec<ArgOrigin> {
        let plain = |text: String| ArgOrigin { text, template: None, name: None, given: None };
        match &self.recipes[action.index()] {
            RecipeSlot::Command(recipe) => {
                recipe.command_line(&self.model, &self.base_env).argv.into_iter().map(plain).collect()
            }
            RecipeSlot::Rule(recipe) => recipe.explain(&self.model, action),
        }
    }
}

impl CommandSource for Commands {
    fn work(&self, action: ActionId) -> Work {
        match &self.recipes[action.index()] {
            RecipeSlot::Command(recipe) => Work::Spawn(recipe.command_line(&self.model, &self.base_env)),
            RecipeSlot::Rule(recipe) => with_base_env(recipe.work(&self.model, action), &self.base_env),
        }
    }
}

/// What a rule sets wins over `[env]` and `PATH`.
fn with_base_env(mut work: Work, base_env: &BTreeMap<String, String>) -> Work {
    if let Work::Spawn(command) = &mut work {
        for (name, value) in base_env {
            command.env.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    work
}

/// The text of a [`LocText`], files of one piece separated by `separator`.
pub fn render(model: &Model, text: &LocText, separator: &str) -> String {
    let mut out = String::new();
    for part in &text.parts {
        match part {
            LocPart::Text(text) => out.push_str(text),
            LocPart::Files(files) => {
                for (index, file) in files.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { separator });
                    out.push_str(&as_argument(model.artifact(*file).path.as_str()));
                }
            }
        }
    }
    out
}

/// Whether `text` holds `name` as a word of its own.
pub fn mentions(text: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(name)
        .any(|(at, _)| !text[..at].ends_with(is_word) && !text[at + name.len()..].starts_with(is_word))
}

impl CommandRecipe {
    fn command_line(&self, model: &Model, base_env: &BTreeMap<String, String>) -> CommandLine {
        let all = |texts: &[LocText]| texts.iter().map(|t| render(model, t, " ")).collect::<Vec<_>>();
        let argv = match &self.program {
            Program::Shell(text) => {
                vec!["/bin/sh".to_owned(), "-e".to_owned(), "-c".to_owned(), render(model, text, " ")]
            }
            Program::Argv(args) => {
                let mut argv = all(args);
                let is_file = args.first().is_some_and(|first| matches!(first.parts[..], [LocPart::Files(_)]));
                if let Some(program) = argv.first_mut().filter(|_| is_file) {
                    *program = local_program(program);
                }
                argv
            }
            Program::Executable(program, args) => {
                let mut argv = vec![local_program(model.artifact(*program).path.as_str())];
                argv.extend(all(args));
                argv
            }
        };
        let files = self.rspfile.iter().map(|file| file.written(model)).collect();
        CommandLine { argv, env: self.environment(model, base_env), files }
    }

    fn environment(&self, model: &Model, base_env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut env = base_env.clone();
        let path = |id: &ArtifactId| as_argument(model.artifact(*id).path.as_str()).into_owned();
        if self.names_srcs {
            env.insert("SRCS".to_owned(), argument_list(&source_paths(model, &self.srcs)));
        }
        if let Some(first) = first_artifact(model, &self.srcs) {
            env.insert("SRC".to_owned(), path(&first));
        }
        if self.names_outs {
            env.insert("OUTS".to_owned(), self.outs.iter().map(path).collect::<Vec<_>>().join(" "));
        }
        env.extend(self.outs.first().map(|id| ("OUT".to_owned(), path(id))));
        env.extend(self.out_dir.iter().map(|id| ("OUT_DIR".to_owned(), path(id))));
        env.extend(self.env.iter().map(|(name, text)| (name.to_string(), render(model, text, " "))));
        env
    }
}

/// Something that is run from the workspace root needs a slash, or it is looked up in `PATH`.
fn argument_list(paths: &[&str]) -> String {
    paths.iter().map(|path| as_argument(path)).collect::<Vec<_>>().join(" ")
}

fn local_program(path: &str) -> String {
    if path.contains('/') { path.to_owned() } else { format!("./{path}") }
}

impl RspRecipe {
    fn written(&self, model: &Model) -> WrittenFile {
        let mut content = String::new();
        for text in &self.content {
            content.push_str(&render(model, text, if self.lines { "\n" } else { " " }));
            content.push_str(if self.lines { "\n" } else { "" });
        }
        WrittenFile { path: self.path.clone(), content: content.into_bytes(), executable: false }
    }
}

/// Paths of all files in `inputs`.
pub fn source_paths<'m>(model: &'m Model, inputs: &Inputs) -> Vec<&'m str> {
    let mut paths = Vec::new();
    model.for_each_artifact(inputs, |id| paths.push(model.artifact(id).path.as_str()));
    paths
}

fn first_artifact(model: &Model, inputs: &Inputs) -> Option<ArtifactId> {
    if let Some(minibuild_core::Input::Artifact(first)) = inputs.first() {
        return Some(*first);
    }
    let mut first = None;
    model.for_each_artifact(inputs, |id| {
        first.get_or_insert(id);
    });
    first
}

#[cfg(test)]
mod tests {
    use minibuild_core::{Artifact, ArtifactKind};

    use super::*;

    #[test]
    fn a_program_of_the_root_package_is_not_looked_up_in_path() {
        let artifact =
            |path| Artifact { path: WsPath::new(path).expect("valid"), kind: ArtifactKind::Source, producer: None };
        let model = Model { artifacts: vec![artifact("show"), artifact("bin/show")], ..Model::default() };
        let file = |index| LocText { parts: vec![LocPart::Files(vec![ArtifactId::new(index)])], along: vec![] };
        let text = |text: &str| LocText { parts: vec![LocPart::Text(text.into())], along: vec![] };
        let check = |program: Program, expected: &[&str]| {
            let recipe = CommandRecipe {
                program,
                env: vec![],
                srcs: Inputs::default(),
                outs: Box::default(),
                out_dir: None,
                names_srcs: false,
                names_outs: false,
                rspfile: None,
            };
            assert_eq!(recipe.command_line(&model, &BTreeMap::new()).argv, expected);
        };
        check(Program::Argv(vec![file(0), file(0)]), &["./show", "show"]);
        check(Program::Argv(vec![file(1)]), &["bin/show"]);
        check(Program::Argv(vec![text("show"), file(0)]), &["show", "show"]);
        check(Program::Executable(ArtifactId::new(0), vec![text("show")]), &["./show", "show"]);
        check(Program::Executable(ArtifactId::new(1), vec![]), &["bin/show"]);
    }
}
