//! Where we are: workspace root, current package, environment, host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minibuild_core::WORKSPACE_FILE;
use minibuild_rules::{ConfigInput, HostFacts};

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
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("MINIBUILD_") && name != "MINIBUILD_WORKSPACE")
        .collect();
    let user_file = user_config().and_then(|path| {
        let bytes = std::fs::read(&path).ok()?;
        Some((path.display().to_string(), bytes))
    });
    Ok(ConfigInput { user_file, environment, configs: flags.config.clone(), flags: settings, vars: flags.vars()? })
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
