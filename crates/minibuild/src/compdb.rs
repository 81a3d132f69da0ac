//! `minibuild compdb`: the compilation database that clangd and its like read. Takes no lock and runs nothing.
//!
//! It knows no rule: an action counts if its command compiles one of its inputs, going by the file's name and the way the
//! program is called.

use std::collections::HashMap;

use minibuild_core::{Action, ActionId, ActionKind, CommandLine, Model, Work};
use minibuild_loader::{LoadRequest, Loaded, load};
use serde::Serialize;

use crate::args::CompdbArgs;
use crate::tell::{Complaint, files_of, shown, tell, warn};
use crate::workspace::{self, Workspace};

/// What a source of C, C++, Objective-C, CUDA or assembler ends in.
const SOURCES: [&str; 18] =
    ["c", "cc", "cp", "cpp", "cxx", "c++", "C", "CPP", "m", "mm", "M", "cu", "cppm", "ixx", "S", "s", "sx", "asm"];
/// Programs whose `-c` means something else.
const SHELLS: [&str; 6] = ["sh", "bash", "dash", "zsh", "ksh", "busybox"];

/// One entry, as the format has it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Entry<'a> {
    directory: &'a str,
    file: String,
    output: String,
    arguments: Vec<String>,
}

/// Answers on stdout.
pub fn compdb(workspace: &Workspace, args: &CompdbArgs) -> u8 {
    tell(answer(workspace, args))
}

fn answer(workspace: &Workspace, args: &CompdbArgs) -> Result<String, Complaint> {
    let config = workspace::config_input(&args.config, Vec::new())?;
    let all = vec!["//...".to_owned()];
    let request = LoadRequest {
        config,
        patterns: if args.patterns.is_empty() { all } else { args.patterns.clone() },
        cwd: workspace.cwd.clone(),
        host: workspace::host(),
        threads: workspace::cores(),
    };
    let loaded = load(&files_of(workspace), &request).map_err(|failure| shown(&failure))?;
    warn(&loaded);
    let root = workspace.root.display().to_string();
    let entries = entries(&loaded, &root);
    let rows: Vec<String> = entries.iter().filter_map(|entry| serde_json::to_string(entry).ok()).collect();
    Ok(if rows.is_empty() { "[]\n".to_owned() } else { format!("[\n{}\n]\n", rows.join(",\n")) })
}

fn entries<'a>(loaded: &Loaded, root: &'a str) -> Vec<Entry<'a>> {
    let model = &loaded.model;
    let mut is_wanted = vec![false; model.targets.len()];
    let mut wanted: Vec<_> = loaded.requested.iter().map(|requested| requested.target).collect();
    // With what they need: the sources of a program are mostly those of its libraries.
    while let Some(target) = wanted.pop() {
        if !std::mem::replace(&mut is_wanted[target.index()], true) {
            wanted.extend(&model.target(target).deps);
        }
    }
    let actions = model.actions.iter().enumerate();
    let actions = actions.filter(|(_, action)| action.kind == ActionKind::Spawn && is_wanted[action.target.index()]);
    let mut entries = Vec::new();
    for (index, action) in actions {
        let id = ActionId::new(index);
        if let Work::Spawn(command) = loaded.commands.work(id) {
            let files = compiled(model, action, &command);
            let entry = |file| Entry {
                directory: root,
                file,
                output: model.action_key_path(id),
                arguments: command.argv.clone(),
            };
            entries.extend(files.into_iter().map(entry));
        }
    }
    entries
}

/// The inputs that the command compiles.
fn compiled(model: &Model, action: &Action, command: &CommandLine) -> Vec<String> {
    if !compiles(&action.mnemonic, command) {
        return Vec::new();
    }
    let mut named: HashMap<&str, bool> =
        command.argv.iter().skip(1).filter(|arg| is_source(arg)).map(|arg| (path_of(arg), false)).collect();
    if named.is_empty() {
        return Vec::new();
    }
    model.for_each_artifact(&action.inputs, |id| {
        if let Some(is_input) = named.get_mut(model.artifact(id).path.as_str()) {
            *is_input = true;
        }
    });
    let in_order = command.argv.iter().skip(1).filter(|arg| named.remove(path_of(arg)) == Some(true));
    in_order.cloned().collect()
}

/// The path that an argument stands for.
fn path_of(argument: &str) -> &str {
    argument.strip_prefix("./").unwrap_or(argument)
}

fn compiles(mnemonic: &str, command: &CommandLine) -> bool {
    let Some((program, arguments)) = command.argv.split_first() else { return false };
    let name = program.rsplit('/').next().unwrap_or_default();
    let is_shell = SHELLS.contains(&name);
    !is_shell && (mnemonic.ends_with("Compile") || arguments.iter().any(|argument| argument == "-c"))
}

fn is_source(path: &str) -> bool {
    path.rsplit_once('.').is_some_and(|(_, extension)| SOURCES.contains(&extension))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compilers_are_told_by_how_they_are_called() {
        let check = |mnemonic: &str, argv: &[&str], expected: bool| {
            let command = CommandLine { argv: argv.iter().map(|&arg| arg.to_owned()).collect(), ..Default::default() };
            assert_eq!(compiles(mnemonic, &command), expected, "{argv:?}");
        };
        check("CCompile", &["cc", "a.c"], true);
        check("Genrule", &["/opt/bin/clang++", "-O2", "-c", "a.cc"], true);
        check("Genrule", &["/bin/sh", "-e", "-c", "cc -c a.c"], false);
        check("CLink", &["cc", "a.o", "-o", "a"], false);
        check("CCompile", &[], false);
    }

    #[test]
    fn sources_are_told_by_their_ends() {
        for (path, expected) in
            [("a.c", true), ("x/y.cpp", true), ("a.S", true), ("a.h", false), ("a.o", false), ("c", false)]
        {
            assert_eq!(is_source(path), expected, "{path}");
        }
    }
}
