//! Where we are: workspace root, current package, environment, host.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use minibuild_core::WORKSPACE_FILE;
use minibuild_disk::read_regular_file;
use minibuild_loader::{ConfigInput, HostFacts};

use crate::args::ConfigFlags;

/// The place a command works in.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// Absolute path of the root.
    pub root: PathBuf,
    /// The start directory below the root, `""` at it.
    pub cwd: String,
}

/// Finds the workspace from `start` (the `-C` directory or none).
///
/// # Errors
/// A text for the user.
pub fn find(start: Option<&Path>) -> Result<Workspace, String> {
    let here = std::env::current_dir().map_err(|e| format!("the current directory cannot be read: {e}"))?;
    let start = start.map_or_else(|| here.clone(), |dir| here.join(dir));
    let start = std::fs::canonicalize(&start).map_err(|e| format!("cannot go to `{}`: {e}", start.display()))?;
    if !start.is_dir() {
        return Err(format!("cannot go to `{}`: it is not a directory", start.display()));
    }
    let Some(root) = start.ancestors().find(|dir| dir.join(WORKSPACE_FILE).is_file()) else {
        return Err(format!(
            "`{}` is in no workspace: neither it nor a directory above it has a `{WORKSPACE_FILE}`\nhint: make an empty `{WORKSPACE_FILE}` at the root of your project",
            start.display()
        ));
    };
    let below = start.strip_prefix(root).ok().and_then(Path::to_str);
    let cwd = below.ok_or_else(|| format!("`{}` has a name that is not UTF-8", start.display()))?.to_owned();
    if root.to_str().is_none() {
        return Err(format!("the workspace `{}` has a name that is not UTF-8", root.display()));
    }
    Ok(Workspace { root: root.to_owned(), cwd })
}

/// Settings besides those of the workspace's files.
///
/// # Errors
/// A text for the user.
pub fn config_input(flags: &ConfigFlags, settings: Vec<(String, String)>) -> Result<ConfigInput, String> {
    let user_file = user_config().map(read_user_config).transpose()?.flatten();
    let environment = environment(std::env::vars_os())?;
    Ok(ConfigInput { user_file, environment, configs: flags.config.clone(), flags: settings, vars: flags.vars()? })
}

/// The variables that are minibuild's.
fn environment(all: impl Iterator<Item = (OsString, OsString)>) -> Result<BTreeMap<String, String>, String> {
    let is_own = |name: &OsStr| name.as_encoded_bytes().starts_with(b"MINIBUILD_") && name != "MINIBUILD_WORKSPACE";
    let text = |(name, value): (OsString, OsString)| match (name.into_string(), value.into_string()) {
        (Ok(name), Ok(value)) => Ok((name, value)),
        (Ok(name), Err(_)) => Err(format!("the environment variable `{name}` is not UTF-8")),
        (Err(name), _) => Err(format!("the environment variable `{}` is not UTF-8", name.to_string_lossy())),
    };
    all.filter(|(name, _)| is_own(name)).map(text).collect()
}

/// Path and bytes of the user's configuration; `None` where there is none.
fn read_user_config(path: PathBuf) -> Result<Option<(String, Vec<u8>)>, String> {
    match read_regular_file(&path) {
        Ok(bytes) => Ok(Some((path.display().to_string(), bytes))),
        // Behind a home directory that is another user's there is nothing that could be meant.
        Err(_) if path.symlink_metadata().is_err() => Ok(None),
        Err(error) => Err(format!("cannot read `{}`: {error}", path.display())),
    }
}

fn user_config() -> Option<PathBuf> {
    let base = match std::env::var_os("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(std::env::var_os("HOME").filter(|dir| !dir.is_empty())?).join(".config"),
    };
    Some(base.join("minibuild/config.toml"))
}

/// What `vars.os` and `vars.arch` are here.
pub fn host() -> HostFacts {
    HostFacts { os: std::env::consts::OS.to_owned(), arch: std::env::consts::ARCH.to_owned() }
}

/// Identifies the boot of this machine; empty where the system does not tell.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Threads worth starting.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Bytes of memory of this machine; without limit where the system does not tell.
pub fn memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    total.map_or(u64::MAX, |kib: u64| kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    #[test]
    fn a_variable_that_is_not_utf_8_is_an_error_if_it_is_minibuild_s() {
        let read = |name: &[u8], value: &[u8]| {
            let variable = (OsString::from_vec(name.to_vec()), OsString::from_vec(value.to_vec()));
            environment([variable].into_iter()).map(|read| read.len())
        };
        assert_eq!(read(b"MINIBUILD_JOBS", b"3"), Ok(1));
        assert_eq!(read(b"MINIBUILD_WORKSPACE", b"\xff"), Ok(0));
        assert_eq!(read(b"OTHER\xff", b"\xff"), Ok(0));
        let error = |name: &str| Err(format!("the environment variable `{name}` is not UTF-8"));
        assert_eq!(read(b"MINIBUILD_JOBS", b"\xff"), error("MINIBUILD_JOBS"));
        assert_eq!(read(b"MINIBUILD_\xff", b"3"), error("MINIBUILD_\u{fffd}"));
    }

    #[test]
    fn a_user_s_configuration_that_cannot_be_read_is_an_error() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let at = |name: &str| dir.path().join(name);
        let read = |name: &str| read_user_config(at(name)).map(|read| read.map(|(_, bytes)| bytes));
        std::fs::write(at("file"), "x").expect("writes");
        std::fs::create_dir(at("dir")).expect("makes");
        std::os::unix::fs::symlink("nowhere", at("link")).expect("links");
        assert_eq!(read("file"), Ok(Some(b"x".to_vec())));
        assert_eq!((read("none"), read("file/none")), (Ok(None), Ok(None)));
        assert!(read("dir").is_err_and(|error| error.starts_with("cannot read `") && error.contains("/dir`: ")));
        assert!(read("link").is_err());
    }
}
