//! Host tools: which file a name means, its digest, and what it says of its version.
//!
//! Cached in the state by the file's fingerprint. It does not know which actions use a tool.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use minibuild_core::{DigestFunction, Fingerprint, HostTool};
use minibuild_disk::{FsInstant, fingerprint_behind, hash_file};
use minibuild_graph::HostToolFact;
use serde::{Deserialize, Serialize};

use crate::state::{State, ToolRecord};

/// Finds `tool` the way an action would and fingerprints it. One that is not found is a fact, too: the action that
/// needs it says so when it runs.
pub fn resolve(
    tool: &HostTool,
    env: &BTreeMap<String, String>,
    root: &Path,
    now: FsInstant,
    state: &mut State,
) -> HostToolFact {
    let found = find(&tool.program, path_of(env), root)
        .and_then(|path| std::fs::canonicalize(&path).ok().map(|real| (path, real)));
    let fact = found.and_then(|(path, real)| fingerprinted(tool, &path, &real, env, root, now, state));
    let (digest, version) = fact.map_or((None, String::new()), |record| (Some(record.digest), record.version));
    HostToolFact { program: tool.program.to_string(), digest, version }
}

/// How a host program was found: what has to be as it was for its fact to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolTrace {
    path: PathBuf,
    real: PathBuf,
    fingerprint: Fingerprint,
}

/// Finds `tool` the way [`resolve`] does, without reading it. `None` where there is none.
pub fn trace(tool: &HostTool, env: &BTreeMap<String, String>, root: &Path) -> Option<ToolTrace> {
    let path = find(&tool.program, path_of(env), root)?;
    let real = std::fs::canonicalize(&path).ok()?;
    let fingerprint = fingerprint_behind(&real).ok()?;
    Some(ToolTrace { path, real, fingerprint })
}

impl ToolTrace {
    /// Whether the state knows the program's digest and version as found this way: then they need no look.
    pub fn is_recorded(&self, tool: &HostTool, state: &State) -> bool {
        state.tool(&name(tool, &self.path)).is_some_and(|known| known.fingerprint == self.fingerprint)
    }
}

fn path_of(env: &BTreeMap<String, String>) -> &str {
    env.get("PATH").map_or(minibuild_core::ACTION_PATH, String::as_str)
}

/// The name under which the state knows it.
fn name(tool: &HostTool, path: &Path) -> String {
    let mut name = path.display().to_string();
    for argument in &tool.version_args {
        name.push('\0');
        name.push_str(argument);
    }
    name
}

fn fingerprinted(
    tool: &HostTool,
    path: &Path,
    real: &Path,
    env: &BTreeMap<String, String>,
    root: &Path,
    now: FsInstant,
    state: &mut State,
) -> Option<ToolRecord> {
    let name = name(tool, path);
    let fingerprint = fingerprint_behind(real).ok()?;
    if let Some(known) = state.tool(&name).filter(|known| known.fingerprint == fingerprint) {
        return Some(known.clone());
    }
    let hashed = hash_file(rustix::fs::CWD, real, DigestFunction::Sha256, now).ok()?;
    let version = if tool.version_args.is_empty() { String::new() } else { version(tool, path, env, root) };
    let record = ToolRecord { fingerprint: hashed.stamp.fingerprint, digest: hashed.digest, version };
    if hashed.stamp.trusted {
        state.record_tool(&name, record.clone());
    }
    Some(record)
}

/// Output of the version arguments, both streams; a failure is part of it.
fn version(tool: &HostTool, path: &Path, env: &BTreeMap<String, String>, root: &Path) -> String {
    let arguments = tool.version_args.iter().map(|a| &**a);
    let output =
        Command::new(path).args(arguments).env_clear().envs(env).current_dir(root).stdin(Stdio::null()).output();
    match output {
        Ok(output) => {
            let text = [&output.stdout[..], &output.stderr[..]].concat();
            format!(
                "{}{}",
                String::from_utf8_lossy(&text).trim(),
                match output.status.code() {
                    Some(0) => String::new(),
                    code => format!(" (exit code {code:?})"),
                }
            )
        }
        Err(error) => format!("cannot be run: {error}"),
    }
}

/// The file a program name means: as it is with a slash, else the first executable file in `PATH`.
fn find(program: &str, path_env: &str, root: &Path) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(root.join(program));
    }
    let candidates = path_env.split(':').filter(|dir| !dir.is_empty()).map(|dir| root.join(dir).join(program));
    candidates
        .into_iter()
        .find(|path| std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn tool(program: &str, arguments: &[&str]) -> HostTool {
        HostTool { program: program.into(), version_args: arguments.iter().map(|&a| a.into()).collect() }
    }

    #[test]
    fn content_and_version_are_the_fact_and_a_change_of_either_is_seen() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let program = dir.path().join("bin/tool");
        fs::create_dir(dir.path().join("bin")).expect("makes");
        let write = |text: &str| {
            fs::write(&program, text).expect("writes");
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("sets mode");
        };
        let (mut state, _) = State::open(dir.path(), "boot", minibuild_core::DigestFunction::Sha256).expect("opens");
        let env = BTreeMap::from([("PATH".to_owned(), dir.path().join("bin").display().to_string())]);
        let now = FsInstant::of_all_devices(i64::MAX, std::time::Duration::from_millis(20));
        let mut fact = |tool: &HostTool| resolve(tool, &env, dir.path(), now, &mut state);
        let asked = tool("tool", &["-v"]);
        assert_eq!(fact(&asked).digest, None);
        write("#!/bin/sh\necho one $1\n");
        let first = fact(&asked);
        assert_eq!(first.version, "one -v");
        assert_eq!(fact(&asked), first);
        assert_eq!(fact(&tool("tool", &[])).version, "");
        write("#!/bin/sh\necho two; exit 3\n");
        let second = fact(&asked);
        assert_eq!(second.version, "two (exit code Some(3))");
        assert_ne!(second.digest, first.digest);
        let by_path = program.display().to_string();
        assert_eq!(fact(&tool(&by_path, &[])).digest, second.digest);
    }
}
