//! `info`, `explain`, `schema` and `clean`: what needs no build.

use std::io::Write as _;

use minibuild_core::{Level, WsPath, visible_line};
use minibuild_disk::{DiskError, DiskFs, FsInstant, OutTree};
use minibuild_engine::lock::{LOCK, WorkspaceLock, prepare_out_root};
use minibuild_loader::{
    Catalog, ConfigInput, Diagnostics, LoadFailure, LoadRequest, Loaded, SchemaKind, Sources, load, load_catalog,
    render,
};

use crate::args::{CleanArgs, ExplainArgs, InfoArgs, SchemaArgs};
use crate::exit;
use crate::prefix;
use crate::prefix::use_color;
use crate::workspace::{self, Workspace};

/// Answers on stdout.
pub fn info(workspace: &Workspace, args: &InfoArgs) -> u8 {
    let catalog = workspace::config_input(&args.config, Vec::new()).map_err(Complaint::from);
    let catalog = catalog.and_then(|input| catalog_of(workspace, &input));
    let answer = catalog.and_then(|catalog| match &args.what {
        Some(what) => catalog.info(what).map_err(Complaint::from),
        None => Ok(format!("{}{}", overview(workspace), catalog.overview())),
    });
    tell(answer)
}

/// Prints a schema. Outside of a workspace it is that of the built-in rules.
pub fn schema(workspace: Option<&Workspace>, args: &SchemaArgs) -> u8 {
    let kind = match args.kind.as_str() {
        "workspace" => SchemaKind::Workspace,
        "rules" => SchemaKind::Rules,
        _ => SchemaKind::Build,
    };
    let nowhere = Workspace { root: std::path::PathBuf::from("/nonexistent"), cwd: String::new() };
    let input = workspace::config_input(&Default::default(), Vec::new()).map_err(Complaint::from);
    let catalog = input.and_then(|input| catalog_of(workspace.unwrap_or(&nowhere), &input));
    tell(catalog.map(|catalog| catalog.schema(kind)))
}

/// Shows where each argument of a target's actions comes from.
pub fn explain_argv(workspace: &Workspace, args: &ExplainArgs) -> u8 {
    let input = workspace::config_input(&args.config, Vec::new()).map_err(Complaint::from);
    tell(input.and_then(|config| {
        let request = LoadRequest {
            config,
            patterns: vec![args.label.clone()],
            cwd: workspace.cwd.clone(),
            host: workspace::host(),
            threads: workspace::cores(),
        };
        let loaded = load(&files_of(workspace), &request).map_err(|failure| shown(&failure))?;
        let is_asked_for = |action: &minibuild_core::Action| loaded.requested.iter().any(|r| r.target == action.target);
        let actions = loaded.model.actions.iter().enumerate().filter(|(_, action)| is_asked_for(action));
        let mut text = String::new();
        for (index, action) in actions {
            let id = minibuild_core::ActionId::new(index);
            text.push_str(&format!("{} {}\n", action.mnemonic, loaded.model.action_key_path(id)));
            text.push_str(&loaded.explain_argv(id));
            text.push('\n');
        }
        if text.is_empty() { Err(format!("`{}` has no actions", args.label).into()) } else { Ok(text) }
    }))
}

/// The workspace's files, of which nothing is remembered.
pub fn files_of(workspace: &Workspace) -> DiskFs {
    let long_ago = FsInstant::of_all_devices(0, std::time::Duration::ZERO);
    DiskFs::new(&workspace.root, long_ago)
}

/// What is wrong, as the user reads it.
pub fn shown(failure: &LoadFailure) -> Complaint {
    Complaint::diagnostics(&failure.diagnostics, &failure.sources)
}

fn catalog_of(workspace: &Workspace, input: &ConfigInput) -> Result<Catalog, Complaint> {
    load_catalog(&files_of(workspace), input).map_err(|failure| shown(&failure))
}

fn overview(workspace: &Workspace) -> String {
    let root = workspace.root.display();
    format!(
        "minibuild {}\nworkspace: {root}\noutputs:   {root}/{}\ntest logs: {root}/{}\n\n",
        env!("CARGO_PKG_VERSION"),
        minibuild_core::BIN_ROOT,
        minibuild_core::TEST_LOG_ROOT
    )
}

/// What a load warns of, on stderr.
pub fn warn(loaded: &Loaded) {
    if !loaded.warnings.list.is_empty() {
        eprint!("{}", render(&loaded.warnings, &loaded.sources, use_color(Default::default())));
    }
}

/// Why there is no answer, as it is told.
#[derive(Debug)]
pub struct Complaint(String);

impl Complaint {
    /// Diagnostics say themselves how bad they are.
    pub fn diagnostics(diagnostics: &Diagnostics, sources: &Sources) -> Self {
        Self(render(diagnostics, sources, use_color(Default::default())))
    }
}

impl From<String> for Complaint {
    fn from(text: String) -> Self {
        Self(prefix::error(text))
    }
}

/// Prints an answer on stdout, or what is wrong on stderr; gives the exit code.
pub fn tell(answer: Result<String, Complaint>) -> u8 {
    match answer {
        // An empty answer is no empty line.
        Ok(text) => written(match text.trim_end() {
            "" => Ok(()),
            text => writeln!(std::io::stdout(), "{text}"),
        }),
        Err(Complaint(text)) => {
            eprintln!("{}", text.trim_end());
            exit::BAD_INPUT
        }
    }
}

/// The exit code of an answer that was written like this.
pub fn written(result: std::io::Result<()>) -> u8 {
    match result.and_then(|()| std::io::stdout().flush()) {
        Ok(()) => exit::SUCCESS,
        // A reader that has seen enough closes the pipe.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => exit::SUCCESS,
        Err(error) => {
            eprintln!("{}", prefix::error(format!("cannot write the answer to stdout: {error}")));
            exit::EVENTS_NOT_WRITTEN
        }
    }
}

/// Removes outputs, or everything.
pub fn clean(workspace: &Workspace, args: &CleanArgs) -> u8 {
    match try_clean(workspace, args.all) {
        Ok(()) => exit::SUCCESS,
        Err(error) => {
            eprintln!("{}", prefix::error(error.render()));
            exit::BUILD_FAILED
        }
    }
}

fn try_clean(workspace: &Workspace, all: bool) -> Result<(), DiskError> {
    prepare_out_root(&workspace.root)?;
    let waiting = |holder: &minibuild_engine::lock::Holder| {
        let text = format!(
            "waiting for process {} to finish with this workspace: {}",
            holder.pid,
            visible_line(&holder.command)
        );
        eprintln!("{}", prefix::message(Level::Info, text));
    };
    // No handler is set: Ctrl-C ends the process while it waits.
    let interrupted = |time| {
        std::thread::park_timeout(time);
        false
    };
    let lock = WorkspaceLock::take(&workspace.root, "minibuild clean", waiting, interrupted)?;
    let Some(lock) = lock else { return Ok(()) };
    let tree = OutTree::open(&workspace.root)?;
    if all {
        tree.remove_contents(LOCK)?;
        lock.remove()?;
        tree.remove_empty_root();
        return Ok(());
    }
    tree.sweep_staging()?;
    tree.sweep_trash()?;
    tree.sweep_long_output()?;
    tree.keep_logs()?;
    for below in [minibuild_core::BIN_ROOT, minibuild_core::TEST_LOG_ROOT] {
        if let Ok(path) = WsPath::new(below) {
            tree.set_aside(&path)?;
        }
    }
    tree.empty_trash()?;
    drop(lock);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_not_there_if_it_cannot_be_written() {
        let code = |kind: std::io::ErrorKind| written(Err(kind.into()));
        assert_eq!(written(Ok(())), exit::SUCCESS);
        assert_eq!(code(std::io::ErrorKind::BrokenPipe), exit::SUCCESS);
        assert_eq!(code(std::io::ErrorKind::StorageFull), exit::EVENTS_NOT_WRITTEN);
    }
}
