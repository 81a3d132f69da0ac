//! Every key of minibuild.toml: one table that the files, flags, the environment, the documentation and the JSON
//! Schema are all read from.

use std::time::Duration;

use minibuild_core::{DigestFunction, WsPath, shown_url};

use crate::settings::{
    ColorMode, DownloadMode, DynamicPolicy, ExternalLinks, OnRemoteFailure, ProgressMode, Settings, Strategy,
    TestOutput, UploadLocalResults,
};

/// What a key takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// A text.
    Text,
    /// One of these.
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Bool,
    /// A number that is not negative.
    Count,
    /// A number.
    Number,
    /// `"10m"` or seconds.
    Duration,
    /// `"2GiB"` or bytes.
    Size,
    /// Texts; they replace those of weaker places.
    Texts,
    /// Names with texts; merged by name.
    TextTable,
    /// Names with numbers; merged by name.
    CountTable,
    /// One of the choices, or a table of them by mnemonic whose `default` is for all others.
    Strategy,
}

/// A value of a key, wherever it was written.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyValue {
    /// `Text`, `Choice`.
    Text(String),
    /// `Bool`.
    Bool(bool),
    /// `Count`, `Size`, `Number`.
    Number(i64),
    /// `Duration`.
    Duration(Duration),
    /// `Texts`.
    Texts(Vec<String>),
    /// `TextTable`, `Strategy`.
    TextTable(Vec<(String, String)>),
    /// `CountTable`.
    CountTable(Vec<(String, u32)>),
}

/// One key.
pub struct KeySpec {
    /// Its table and name, such as `build.jobs`.
    pub key: &'static str,
    /// What it takes.
    pub ty: KeyType,
    /// The flag that sets it.
    pub flag: Option<&'static str>,
    /// What it is where nobody sets it, in words.
    pub default: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// Puts a value into the settings; the message says what is wrong with it.
    pub set: fn(&mut Settings, KeyValue) -> Result<(), String>,
}

impl KeySpec {
    /// Its environment variable: `MINIBUILD_JOBS` for `build.jobs`, `MINIBUILD_REMOTE_CACHE` for `remote.cache`.
    pub fn variable(&self) -> String {
        let name = self.key.strip_prefix("build.").unwrap_or(self.key);
        format!("MINIBUILD_{}", name.replace('.', "_").to_ascii_uppercase())
    }
}

const STRATEGIES: &[&str] = &["local", "remote", "dynamic"];

macro_rules! choice {
    ($value:expr, $($text:literal => $result:expr),+ $(,)?) => {
        match text($value)?.as_str() {
            $($text => $result,)+
            other => return Err(format!("unknown value `{other}`")),
        }
    };
}

fn text(value: KeyValue) -> Result<String, String> {
    match value {
        KeyValue::Text(text) => Ok(text),
        _ => Err("a text is needed".to_owned()),
    }
}

fn truth(value: KeyValue) -> Result<bool, String> {
    match value {
        KeyValue::Bool(truth) => Ok(truth),
        _ => Err("`true` or `false` is needed".to_owned()),
    }
}

fn number<T: TryFrom<i64>>(value: KeyValue) -> Result<T, String> {
    match value {
        KeyValue::Number(number) => T::try_from(number).map_err(|_| format!("{number} is out of range")),
        _ => Err("a number is needed".to_owned()),
    }
}

fn positive(value: KeyValue) -> Result<u32, String> {
    match number(value)? {
        0 => Err("0 is out of range".to_owned()),
        number => Ok(number),
    }
}

/// More is a slip of the finger: each job has a process, and the system stops at 32,768 of them by default.
pub const MAX_JOBS: u32 = 10_000;

fn jobs(value: KeyValue) -> Result<u32, String> {
    match positive(value)? {
        jobs if jobs > MAX_JOBS => Err(format!("{jobs} is out of range\nhint: {MAX_JOBS} at most")),
        jobs => Ok(jobs),
    }
}

fn duration(value: KeyValue) -> Result<Duration, String> {
    match value {
        KeyValue::Duration(duration) => Ok(duration),
        _ => Err("a time is needed".to_owned()),
    }
}

fn time_limit(value: KeyValue) -> Result<Duration, String> {
    let limit = duration(value)?;
    if limit.is_zero() { Err("a time of more than zero is needed".to_owned()) } else { Ok(limit) }
}

fn texts(value: KeyValue) -> Result<Vec<String>, String> {
    match value {
        KeyValue::Texts(texts) => Ok(texts),
        _ => Err("a list of texts is needed".to_owned()),
    }
}

fn text_table(value: KeyValue) -> Result<Vec<(String, String)>, String> {
    match value {
        KeyValue::TextTable(entries) => Ok(entries),
        _ => Err("a table of texts is needed".to_owned()),
    }
}

fn optional(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn not_none(text: String) -> Option<String> {
    (text != "none" && !text.is_empty()).then_some(text)
}

fn endpoint(text: String, schemes: &[&str]) -> Result<Option<String>, String> {
    let Some(text) = not_none(text) else { return Ok(None) };
    let fits = |scheme: &&str| {
        if scheme.ends_with("://") {
            text.strip_prefix(*scheme).is_some_and(|rest| !rest.is_empty())
        } else {
            text == **scheme
        }
    };
    if schemes.iter().any(fits) {
        return Ok(Some(text));
    }
    Err(format!("`{}` is no endpoint: expected {}, none", shown_url(&text), schemes.join(", ")))
}

fn strategy(text: &str) -> Result<Strategy, String> {
    match text {
        "local" => Ok(Strategy::Local),
        "remote" => Ok(Strategy::Remote),
        "dynamic" => Ok(Strategy::Dynamic),
        "sandboxed" => Err("`sandboxed` is reserved for a later version".to_owned()),
        other => Err(format!("unknown strategy `{other}`: local, remote or dynamic")),
    }
}

fn check_env_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(format!("`{name}` cannot name an environment variable"));
    }
    if matches!(name, "SRC" | "SRCS" | "OUT" | "OUTS" | "OUT_DIR" | "TMPDIR") {
        return Err(format!("`{name}` is set by minibuild"));
    }
    Ok(())
}

macro_rules! keys {
    ($($key:literal, $ty:expr, $flag:expr, $default:literal, $doc:literal, |$s:ident, $v:ident| $body:expr;)+) => {
        /// Every key in the order of the documentation.
        pub const KEYS: &[KeySpec] = &[$(KeySpec {
            key: $key,
            ty: $ty,
            flag: $flag,
            default: $default,
            doc: $doc,
            set: |$s, $v| { $body; Ok(()) },
        }),+];
    };
}

keys! {
    "workspace.rules", KeyType::Texts, None, "`[]`", "Rule files: `@std/NAME.toml`, or paths from the workspace root.", |s, v| s.rules = texts(v)?;
    "workspace.ignore", KeyType::Texts, None, "`[]`", "Directories, from the workspace root, in which there are no packages.", |s, v| {
        s.ignore = texts(v)?.iter().map(|t| WsPath::new(t).map_err(|e| e.to_string())).collect::<Result<_, _>>()?;
        if s.ignore.iter().any(|i| i.as_str().is_empty()) { return Err("the workspace root cannot be ignored".to_owned()) }
    };
    "build.jobs", KeyType::Count, Some("-j, --jobs"), "cores", "Local jobs at once, 10000 at most.", |s, v| s.jobs = Some(jobs(v)?);
    "build.keep_going", KeyType::Bool, Some("-k, --keep-going"), "`false`", "Build all that does not depend on a failure.", |s, v| s.keep_going = truth(v)?;
    "build.strategy", KeyType::Strategy, Some("--strategy"), "`dynamic` with an executor, else `local`", "Where actions run: one of `local`, `remote`, `dynamic`, or a table by mnemonic whose `default` is for the others.", |s, v| {
        for (mnemonic, text) in text_table(v)? {
            let side = strategy(&text)?;
            if mnemonic == "default" { s.strategy = Some(side) } else { s.strategy_by_mnemonic.insert(mnemonic, side); }
        }
    };
    "build.download", KeyType::Choice(&["all", "toplevel", "minimal"]), Some("--download"), "`toplevel`", "Which outputs are brought here.", |s, v| s.download = choice!(v, "all" => DownloadMode::All, "toplevel" => DownloadMode::Toplevel, "minimal" => DownloadMode::Minimal);
    "build.download_regex", KeyType::Texts, Some("--download-regex"), "`[]`", "Further outputs brought here: regular expressions that match a whole workspace-relative path.", |s, v| {
        let texts = texts(v)?;
        for text in &texts { regex::Regex::new(text).map_err(|_| format!("`{text}` is no regular expression"))?; }
        s.download_regex = texts
    };
    "build.disk_cache", KeyType::Text, Some("--disk-cache"), "`none`", "A directory of results that workspaces share, or `none`.", |s, v| s.disk_cache = not_none(text(v)?);
    "build.disk_cache_size", KeyType::Size, Some("--disk-cache-size"), "no limit", "Size the disk cache never exceeds.", |s, v| s.disk_cache_size = Some(number(v)?);
    "build.on_remote_failure", KeyType::Choice(&["fallback", "fail"]), Some("--on-remote-failure"), "`fallback`", "What becomes of an action that only the remote side tried when that fails.", |s, v| s.on_remote_failure = choice!(v, "fallback" => OnRemoteFailure::Fallback, "fail" => OnRemoteFailure::Fail);
    "build.pools", KeyType::CountTable, None, "`{}`", "Named pools and their places; an action with `pool = NAME` takes one while it runs here.", |s, v| match v {
        KeyValue::CountTable(entries) => s.pools.extend(entries),
        _ => return Err("a table of numbers is needed".to_owned()),
    };
    "build.salt", KeyType::Text, None, "empty", "Part of the key of every action.", |s, v| s.salt = text(v)?;
    "build.store_size", KeyType::Size, None, "`2GiB`", "Size of the private store of recent blobs.", |s, v| s.store_size = number(v)?;
    "build.external_links", KeyType::Choice(&["error", "follow"]), None, "`error`", "What becomes of an input that is a symlink out of the workspace.", |s, v| s.external_links = choice!(v, "error" => ExternalLinks::Error, "follow" => ExternalLinks::Follow);
    "build.show_result", KeyType::Count, Some("--show-result"), "`10`", "Targets named after a build.", |s, v| s.show_result = number(v)?;
    "build.progress", KeyType::Choice(&["auto", "bar", "plain", "none"]), Some("--progress"), "`auto`", "How progress is shown.", |s, v| s.progress = choice!(v, "auto" => ProgressMode::Auto, "bar" => ProgressMode::Bar, "plain" => ProgressMode::Plain, "none" => ProgressMode::None);
    "build.color", KeyType::Choice(&["auto", "always", "never"]), Some("--color"), "`auto`", "When output is coloured.", |s, v| s.color = choice!(v, "auto" => ColorMode::Auto, "always" => ColorMode::Always, "never" => ColorMode::Never);
    "build.verbose", KeyType::Bool, Some("-v, --verbose"), "`false`", "Show commands as they start.", |s, v| s.verbose = truth(v)?;
    "build.test_output", KeyType::Choice(&["errors", "all", "summary", "streamed"]), Some("--test-output"), "`errors`", "Which tests' output is shown; `streamed`: of all, while they run, one at a time.", |s, v| s.test_output = choice!(v, "errors" => TestOutput::Errors, "all" => TestOutput::All, "summary" => TestOutput::Summary, "streamed" => TestOutput::Streamed);
    "build.cache_tests", KeyType::Bool, Some("--no-cache-tests"), "`true`", "Keep passes of tests whose key is unchanged.", |s, v| s.cache_tests = truth(v)?;
    "remote.executor", KeyType::Text, Some("--remote-executor"), "`none`", "`grpc://host:port`, `grpcs://host:port`, `embedded` or `none`.", |s, v| s.remote.executor = endpoint(text(v)?, &["grpc://", "grpcs://", "embedded"])?;
    "remote.cache", KeyType::Text, Some("--remote-cache"), "the executor's", "`grpc(s)://host:port`, `http(s)://host/path` or `none`.", |s, v| {
        let value = text(v)?;
        s.remote.cache_off = value == "none";
        s.remote.cache = endpoint(value, &["grpc://", "grpcs://", "http://", "https://"])?
    };
    "remote.instance", KeyType::Text, Some("--remote-instance"), "empty", "Instance name.", |s, v| s.remote.instance = text(v)?;
    "remote.headers", KeyType::TextTable, Some("--remote-header"), "`{}`", "Headers of every call; values are never shown.", |s, v| s.remote.headers.0.extend(text_table(v)?);
    "remote.timeout", KeyType::Duration, Some("--remote-timeout"), "`60s`", "Longest time of a call without progress; less than 4 KiB/s counts as none.", |s, v| s.remote.timeout = time_limit(v)?;
    "remote.retries", KeyType::Count, Some("--remote-retries"), "`5`", "Retries of a failed call.", |s, v| s.remote.retries = number(v)?;
    "remote.jobs", KeyType::Count, Some("--remote-jobs"), "`400`", "Remote actions at once, 10000 at most.", |s, v| s.remote.jobs = jobs(v)?;
    "remote.connections", KeyType::Count, None, "`2`", "Connections to each endpoint.", |s, v| s.remote.connections = positive(v)?;
    "remote.cancel", KeyType::Bool, None, "`false`", "Send `CancelOperation` for lost races.", |s, v| s.remote.cancel = truth(v)?;
    "remote.upload_local_results", KeyType::Choice(&["auto", "always", "never"]), None, "`auto`", "Whether results of local runs are uploaded.", |s, v| s.remote.upload_local_results = choice!(v, "auto" => UploadLocalResults::Auto, "always" => UploadLocalResults::Always, "never" => UploadLocalResults::Never);
    "remote.wait_for_uploads", KeyType::Bool, None, "`true`", "End the build only when its uploads have ended.", |s, v| s.remote.wait_for_uploads = truth(v)?;
    "remote.lease", KeyType::Duration, None, "`10m`", "How often, in builds that speak to the server anyway, outputs that only it has are asked for, which keeps them alive there; `0s` for never.", |s, v| s.remote.lease = duration(v)?;
    "remote.digest_function", KeyType::Choice(&["auto", "sha256", "blake3"]), None, "`auto`", "Hash of blobs; `auto` takes SHA-256 unless the server lacks it.", |s, v| s.remote.digest_function = choice!(v, "auto" => None, "sha256" => Some(DigestFunction::Sha256), "blake3" => Some(DigestFunction::Blake3));
    "remote.compression", KeyType::Bool, None, "`true`", "Compress blobs where the server can.", |s, v| s.remote.compression = truth(v)?;
    "remote.tls_ca", KeyType::Text, None, "the system's", "PEM file of certificate authorities.", |s, v| s.remote.tls_ca = optional(text(v)?);
    "remote.tls_certificate", KeyType::Text, None, "none", "PEM file of the client certificate.", |s, v| s.remote.tls_certificate = optional(text(v)?);
    "remote.tls_key", KeyType::Text, None, "none", "PEM file of its key.", |s, v| s.remote.tls_key = optional(text(v)?);
    "remote.tls_server_name", KeyType::Text, None, "the host's", "Name in the server's certificate.", |s, v| s.remote.tls_server_name = optional(text(v)?);
    "remote.credential_helper", KeyType::Text, None, "none", "Program asked for headers, in Bazel's protocol.", |s, v| s.remote.credential_helper = optional(text(v)?);
    "remote.priority", KeyType::Number, None, "`0`", "Priority of executions; lower is sooner.", |s, v| s.remote.priority = number(v)?;
    "remote.offline", KeyType::Bool, Some("--offline"), "`false`", "Make no remote call at all.", |s, v| s.remote.offline = truth(v)?;
    "dynamic.policy", KeyType::Choice(&["race", "adaptive"]), Some("--dynamic-policy"), "`adaptive`", "How a race is started.", |s, v| s.dynamic.policy = choice!(v, "race" => DynamicPolicy::Race, "adaptive" => DynamicPolicy::Adaptive);
    "dynamic.budget_percent", KeyType::Count, None, "`18`", "Work that may be done twice, in percent of the build's.", |s, v| s.dynamic.budget_percent = number(v)?;
    "dynamic.compare", KeyType::Bool, Some("--compare"), "`false`", "Run both sides to the end and compare digests.", |s, v| s.dynamic.compare = truth(v)?;
    "env", KeyType::TextTable, None, "`{ PATH = \"/usr/local/bin:/usr/bin:/bin\" }`", "Environment of every action.", |s, v| {
        let entries = text_table(v)?;
        for (name, _) in &entries { check_env_name(name)?; }
        s.env.extend(entries)
    };
}

/// The key of that name.
pub fn find(key: &str) -> Option<&'static KeySpec> {
    KEYS.iter().find(|k| k.key == key)
}

/// Values of `build.strategy`.
pub fn strategies() -> &'static [&'static str] {
    STRATEGIES
}
