//! Host tools: which file a name means, its digest, and what it says of its version.
//!
//! Cached in the state by the file's fingerprint. It does not know which actions use a tool.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use minibuild_core::{DigestFunction, Fingerprint, HostTool};
use minibuild_disk::{FsInstant, fingerprint_behind, hash_file};
use minibuild_graph::HostToolFact;
use serde::{Deserialize, Serialize};

use crate::state::{State, ToolRecord};
use crate::tool_version::VersionError;

/// Asks a tool at a path for its version, or says why there is no answer.
pub type AskVersion<'a> = dyn FnMut(&HostTool, &Path) -> Result<String, VersionError> + 'a;

/// The version of a tool that was not asked.
const NOT_ASKED: &str = "(not asked)";

/// Where host tools are looked for, and by whom they are asked.
pub struct ToolLook<'a> {
    /// `[env]` with `PATH`.
    pub env: &'a BTreeMap<String, String>,
    /// The workspace root.
    pub root: &'a Path,
    /// The clock before the look.
    pub now: FsInstant,
    /// Without it no program is started: a version is what it was, or unknown.
    pub ask: Option<&'a mut AskVersion<'a>>,
}

impl ToolLook<'_> {
    /// Finds `tool` the way an action would, and fingerprints it. One that is not found is a fact, too: the action that
    /// needs it says so when it runs.
    ///
    /// # Errors
    /// Where a tool that is there did not tell its version. The next build asks again.
    pub fn resolve(&mut self, tool: &HostTool, state: &mut State) -> Result<HostToolFact, UnknownVersion> {
        let found = find(&tool.program, path_of(self.env), self.root)
            .and_then(|path| std::fs::canonicalize(&path).ok().map(|real| (path, real)));
        let record = match found {
            Some((path, real)) => self.fingerprinted(tool, &path, &real, state)?,
            None => None,
        };
        let (digest, version) = record.map_or((None, String::new()), |record| (Some(record.digest), record.version));
        Ok(HostToolFact { program: tool.program.to_string(), digest, version })
    }

    fn fingerprinted(
        &mut self,
        tool: &HostTool,
        path: &Path,
        real: &Path,
        state: &mut State,
    ) -> Result<Option<ToolRecord>, UnknownVersion> {
        let name = name(tool, path);
        let Ok(fingerprint) = fingerprint_behind(real) else { return Ok(None) };
        let known = state.tool(&name).cloned();
        if let Some(known) = known.clone().filter(|known| known.fingerprint == fingerprint) {
            return Ok(Some(known));
        }
        let Ok(hashed) = hash_file(rustix::fs::CWD, real, DigestFunction::Sha256, self.now) else { return Ok(None) };
        let version = match &mut self.ask {
            _ if tool.version_args.is_empty() => String::new(),
            Some(ask) => ask(tool, path).map_err(|why| UnknownVersion::of(tool, why))?,
            None => {
                let same = known.as_ref().filter(|known| known.digest == hashed.digest);
                same.map_or_else(|| NOT_ASKED.to_owned(), |known| known.version.clone())
            }
        };
        // One that is not trusted is looked at again; who only looks has no other way to know its version.
        let fingerprint = if hashed.stamp.trusted { hashed.stamp.fingerprint } else { Fingerprint::default() };
        let record = ToolRecord { fingerprint, digest: hashed.digest, version };
        if self.ask.is_some() && known.as_ref() != Some(&record) {
            state.record_tool(&name, record.clone());
        }
        Ok(Some(record))
    }
}

/// A tool that is there, and did not tell its version.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot learn the version of tool `{program}`: {why}\nhint: run it with `{arguments}` by hand; these arguments are the tool's \
     `version`"
)]
pub struct UnknownVersion {
    program: String,
    arguments: String,
    why: VersionError,
}

impl UnknownVersion {
    fn of(tool: &HostTool, why: VersionError) -> Self {
        Self { program: tool.program.to_string(), arguments: tool.version_args.join(" "), why }
    }
}

/// How a host program was found: what has to be as it was for its fact to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolTrace {
    path: PathBuf,
    real: PathBuf,
    fingerprint: Fingerprint,
}

/// Finds `tool` the way [`ToolLook::resolve`] does, without reading it. `None` where there is none.
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

    /// A program in a directory, and a state.
    struct Host {
        dir: tempfile::TempDir,
        state: State,
        env: BTreeMap<String, String>,
    }

    impl Host {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("temporary directory");
            fs::create_dir(dir.path().join("bin")).expect("makes");
            let (state, _) = State::open(dir.path(), "boot", DigestFunction::Sha256).expect("opens");
            let env = BTreeMap::from([("PATH".to_owned(), dir.path().join("bin").display().to_string())]);
            Self { dir, state, env }
        }

        fn program(&self) -> PathBuf {
            self.dir.path().join("bin/tool")
        }

        fn write(&self, text: &str) {
            fs::write(self.program(), text).expect("writes");
            fs::set_permissions(self.program(), fs::Permissions::from_mode(0o755)).expect("sets mode");
        }

        /// Each stamp is trusted where the clock is far ahead.
        fn look(
            &mut self,
            tool: &HostTool,
            clock_ns: i64,
            ask: Option<&mut AskVersion<'_>>,
        ) -> Result<HostToolFact, UnknownVersion> {
            let now = FsInstant::of_all_devices(clock_ns, std::time::Duration::from_millis(20));
            let Some(ask) = ask else {
                let mut look = ToolLook { env: &self.env, root: self.dir.path(), now, ask: None };
                return look.resolve(tool, &mut self.state);
            };
            let mut ask = |tool: &HostTool, path: &Path| ask(tool, path);
            let mut look = ToolLook { env: &self.env, root: self.dir.path(), now, ask: Some(&mut ask) };
            look.resolve(tool, &mut self.state)
        }
    }

    #[test]
    fn content_and_version_are_the_fact_and_a_change_of_either_is_seen() {
        let mut host = Host::new();
        let mut asked = 0;
        let mut ask = |tool: &HostTool, _: &Path| {
            asked += 1;
            Ok(format!("{asked} {}", tool.version_args.join(" ")))
        };
        let mut fact = |host: &mut Host, tool: &HostTool| host.look(tool, i64::MAX, Some(&mut ask)).expect("a fact");
        let versioned = tool("tool", &["-v"]);
        assert_eq!(fact(&mut host, &versioned).digest, None);
        host.write("one");
        let first = fact(&mut host, &versioned);
        assert_eq!(first.version, "1 -v");
        assert_eq!(fact(&mut host, &versioned), first, "not asked again");
        assert_eq!(fact(&mut host, &tool("tool", &[])).version, "");
        host.write("another");
        let second = fact(&mut host, &versioned);
        assert_eq!(second.version, "2 -v");
        assert_ne!(second.digest, first.digest);
        let by_path = host.program().display().to_string();
        assert_eq!(fact(&mut host, &tool(&by_path, &[])).digest, second.digest);
    }

    #[test]
    fn version_that_was_not_told_is_not_remembered() {
        let mut host = Host::new();
        host.write("one");
        let versioned = tool("tool", &["-v"]);
        let why =
            host.look(&versioned, i64::MAX, Some(&mut |_, _| Err(VersionError::NotRun("no child processes".into()))));
        let why = why.expect_err("no answer").to_string();
        assert!(why.starts_with("cannot learn the version of tool `tool`: no child processes\nhint: "), "{why}");
        let fact = host.look(&versioned, i64::MAX, Some(&mut |_, _| Ok("13".into()))).expect("a fact");
        assert_eq!(fact.version, "13");
    }

    #[test]
    fn who_does_not_ask_knows_the_last_version_of_the_same_program() {
        let mut host = Host::new();
        host.write("one");
        let versioned = tool("tool", &["-v"]);
        assert_eq!(host.look(&versioned, 0, None).expect("a fact").version, NOT_ASKED);
        // The stamp is not trusted: the next build asks again.
        for version in ["13", "14"] {
            let fact = host.look(&versioned, 0, Some(&mut |_, _| Ok(version.into()))).expect("a fact");
            assert_eq!(fact.version, version);
            assert_eq!(host.look(&versioned, 0, None).expect("a fact"), fact);
        }
        host.write("another");
        assert_eq!(host.look(&versioned, 0, None).expect("a fact").version, NOT_ASKED);
    }
}
