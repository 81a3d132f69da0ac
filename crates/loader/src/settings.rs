//! The configuration as the rest of the system reads it: typed, complete, every key with its default. Where a value
//! came from is decided in [`crate::config`].

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use minibuild_core::{DigestFunction, WsPath};

/// Which side runs an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// This machine.
    Local,
    /// The remote executor.
    Remote,
    /// Both, raced.
    Dynamic,
}

/// Which outputs are brought here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DownloadMode {
    /// Every output.
    All,
    /// Outputs of what was asked for.
    #[default]
    Toplevel,
    /// None.
    Minimal,
}

/// How a race is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DynamicPolicy {
    /// Both at once.
    Race,
    /// By history and link.
    #[default]
    Adaptive,
}

/// What happens to an action that only the failed remote side tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRemoteFailure {
    /// It runs here.
    #[default]
    Fallback,
    /// It fails.
    Fail,
}

/// Whether results of local runs are uploaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UploadLocalResults {
    /// Where that is safe (DESIGN §6).
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// What becomes of a symlink that leaves the workspace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExternalLinks {
    /// An error.
    #[default]
    Error,
    /// Its content becomes a file.
    Follow,
}

/// How progress is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgressMode {
    /// `Bar` on a terminal, else `Plain`.
    #[default]
    Auto,
    /// A live line.
    Bar,
    /// Lines.
    Plain,
    /// Nothing.
    None,
}

/// When output is coloured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ColorMode {
    /// On a terminal.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Which tests' output is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TestOutput {
    /// Of failed tests.
    #[default]
    Errors,
    /// Of every test.
    All,
    /// Of none, only the summary.
    Summary,
    /// While it is written.
    Streamed,
}

/// Headers sent to servers; values are secrets and never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(pub BTreeMap<String, String>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.keys().map(|name| (name, "<redacted>"))).finish()
    }
}

/// `[remote]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteSettings {
    /// `grpc://h:p`, `grpcs://h:p` or `embedded`; `None` for `none`.
    pub executor: Option<String>,
    /// `grpc(s)://`, `http(s)://`; `None` where it is the executor's.
    pub cache: Option<String>,
    /// Whether the cache was set to `none`.
    pub cache_off: bool,
    /// Instance name.
    pub instance: String,
    /// Sent with every call.
    pub headers: Headers,
    /// Longest time without progress.
    pub timeout: Duration,
    /// Retries of a failed call.
    pub retries: u32,
    /// Remote actions at once.
    pub jobs: u32,
    /// Connections at once to each endpoint.
    pub connections: u32,
    /// Whether lost races are cancelled by `CancelOperation`.
    pub cancel: bool,
    /// Whether results of local runs are uploaded.
    pub upload_local_results: UploadLocalResults,
    /// Whether the build ends only when its uploads have.
    pub wait_for_uploads: bool,
    /// How often outputs that only the server has are asked for, which keeps them alive there; zero for never.
    pub lease: Duration,
    /// Asked of the server; `None` lets it decide.
    pub digest_function: Option<DigestFunction>,
    /// Whether blobs are compressed where the server can.
    pub compression: bool,
    /// Certificate authorities for TLS, a PEM file.
    pub tls_ca: Option<String>,
    /// Client certificate, a PEM file.
    pub tls_certificate: Option<String>,
    /// Its key, a PEM file.
    pub tls_key: Option<String>,
    /// Name in the server's certificate, where it is not the host's.
    pub tls_server_name: Option<String>,
    /// Program asked for headers (Bazel's protocol).
    pub credential_helper: Option<String>,
    /// Priority of executions, lower sooner.
    pub priority: i32,
    /// No remote call at all.
    pub offline: bool,
}

impl Default for RemoteSettings {
    fn default() -> Self {
        Self {
            executor: None,
            cache: None,
            cache_off: false,
            instance: String::new(),
            headers: Headers::default(),
            timeout: Duration::from_secs(60),
            retries: 5,
            jobs: 400,
            connections: 2,
            cancel: false,
            upload_local_results: UploadLocalResults::Auto,
            wait_for_uploads: true,
            lease: Duration::from_secs(600),
            digest_function: None,
            compression: true,
            tls_ca: None,
            tls_certificate: None,
            tls_key: None,
            tls_server_name: None,
            credential_helper: None,
            priority: 0,
            offline: false,
        }
    }
}

/// `[dynamic]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynamicSettings {
    /// How a race is started.
    pub policy: DynamicPolicy,
    /// Share of work that may be done twice, in percent of the build's CPU time.
    pub budget_percent: u32,
    /// Both sides run to the end and are compared.
    pub compare: bool,
}

impl Default for DynamicSettings {
    fn default() -> Self {
        Self { policy: DynamicPolicy::Adaptive, budget_percent: 18, compare: false }
    }
}

/// The whole configuration of one invocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Directories that are never packages.
    pub ignore: Vec<WsPath>,
    /// Rule files, as written.
    pub rules: Vec<String>,
    /// Local jobs; `None` for the number of cores.
    pub jobs: Option<u32>,
    /// Whether what does not depend on a failure is built.
    pub keep_going: bool,
    /// Side of actions; `None` for `dynamic` with an executor, else `local`.
    pub strategy: Option<Strategy>,
    /// Side of actions of one mnemonic.
    pub strategy_by_mnemonic: BTreeMap<String, Strategy>,
    /// Which outputs are brought here.
    pub download: DownloadMode,
    /// Further outputs brought here: regular expressions that match a whole path.
    pub download_regex: Vec<String>,
    /// A directory of results shared by workspaces.
    pub disk_cache: Option<String>,
    /// Bytes it may take; `None` for no limit.
    pub disk_cache_size: Option<u64>,
    /// What happens to actions of a failed remote side.
    pub on_remote_failure: OnRemoteFailure,
    /// Named pools and their places.
    pub pools: BTreeMap<String, u32>,
    /// Part of every key.
    pub salt: String,
    /// Bytes the private store may take.
    pub store_size: u64,
    /// What becomes of symlinks that leave the workspace.
    pub external_links: ExternalLinks,
    /// Environment of every action, `PATH` included.
    pub env: BTreeMap<String, String>,
    /// Targets named after a build.
    pub show_result: u32,
    /// How progress is shown.
    pub progress: ProgressMode,
    /// When output is coloured.
    pub color: ColorMode,
    /// Whether commands are shown.
    pub verbose: bool,
    /// Which tests' output is shown.
    pub test_output: TestOutput,
    /// Whether passes of unchanged tests are kept.
    pub cache_tests: bool,
    /// `[remote]`.
    pub remote: RemoteSettings,
    /// `[dynamic]`.
    pub dynamic: DynamicSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ignore: Vec::new(),
            rules: Vec::new(),
            jobs: None,
            keep_going: false,
            strategy: None,
            strategy_by_mnemonic: BTreeMap::new(),
            download: DownloadMode::Toplevel,
            download_regex: Vec::new(),
            disk_cache: None,
            disk_cache_size: None,
            on_remote_failure: OnRemoteFailure::Fallback,
            pools: BTreeMap::new(),
            salt: String::new(),
            store_size: 2 << 30,
            external_links: ExternalLinks::Error,
            env: BTreeMap::from([("PATH".to_owned(), minibuild_core::ACTION_PATH.to_owned())]),
            show_result: 10,
            progress: ProgressMode::Auto,
            color: ColorMode::Auto,
            verbose: false,
            test_output: TestOutput::Errors,
            cache_tests: true,
            remote: RemoteSettings::default(),
            dynamic: DynamicSettings::default(),
        }
    }
}

impl Settings {
    /// The side an action of this mnemonic is meant for.
    pub fn strategy_of(&self, mnemonic: &str) -> Strategy {
        let default = if self.remote.executor.is_some() { Strategy::Dynamic } else { Strategy::Local };
        self.strategy_by_mnemonic.get(mnemonic).copied().or(self.strategy).unwrap_or(default)
    }
}
