//! The command line, and which settings its flags set. Knows clap and nothing else.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A build system: targets in TOML, one static binary, no daemon.
#[derive(Parser, Debug)]
#[command(name = "minibuild", version, about, disable_help_subcommand = true, args_override_self = true)]
pub struct Cli {
    /// Run as if started in DIR.
    #[arg(short = 'C', value_name = "DIR", global = true)]
    pub directory: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Build targets.
    Build(BuildArgs),
    /// Build and run tests.
    Test(BuildArgs),
    /// Build one target and become its program.
    Run(RunArgs),
    /// Bring outputs of built targets here, and run nothing.
    Fetch(BuildArgs),
    /// Remove outputs; caches and state are kept.
    Clean(CleanArgs),
    /// Tell about the workspace, a rule, or a rule file such as `@std/c.toml`.
    Info(InfoArgs),
    /// Ask about the graph of targets: what needs what, and along which path.
    Query(QueryArgs),
    /// Say what would run now and why, or why it last ran.
    Explain(ExplainArgs),
    /// Serve the Remote Execution API: caches and workers for this and other build tools.
    Serve(ServeArgs),
    /// Print a compilation database, `compile_commands.json`, for clangd and its like.
    Compdb(CompdbArgs),
    /// Print a completion script for a shell, or a manual page.
    Completions(CompletionsArgs),
    /// Print the JSON Schema of a kind of file, for editors.
    Schema(SchemaArgs),
}

/// `build`, `test` and `fetch`.
#[derive(Args, Debug)]
pub struct BuildArgs {
    /// Flags that `build`, `test`, `run` and `fetch` share.
    #[command(flatten)]
    pub flags: BuildFlags,
    /// Labels and patterns: `//pkg:name`, `:name`, `//pkg/...`, `//pkg:all`, `-//pkg:not_this`.
    #[arg(value_name = "PATTERN", required = true, value_parser = pattern)]
    pub patterns: Vec<String>,
}

/// `run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Flags that `build`, `test`, `run` and `fetch` share.
    #[command(flatten)]
    pub flags: BuildFlags,
    /// The target.
    #[arg(value_name = "LABEL")]
    pub label: String,
    /// Arguments of the program.
    #[arg(value_name = "ARGS", last = true)]
    pub args: Vec<String>,
}

/// `clean`.
#[derive(Args, Debug)]
pub struct CleanArgs {
    /// Remove `minibuild-out/` whole, state and caches too.
    #[arg(long)]
    pub all: bool,
}

/// `info`.
#[derive(Args, Debug)]
pub struct InfoArgs {
    /// Flags that decide about configuration.
    #[command(flatten)]
    pub config: ConfigFlags,
    /// A rule, or a rule file such as `@std/c.toml`; the workspace itself without it.
    #[arg(value_name = "WHAT")]
    pub what: Option<String>,
}

/// `explain`.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    /// Flags that decide about configuration.
    #[command(flatten)]
    pub config: ConfigFlags,
    /// Show each argument with the template line and the attribute it came from instead.
    #[arg(long)]
    pub argv: bool,
    /// Show how the sides of its actions, local and remote, were chosen instead, and what is expected of them.
    #[arg(long, conflicts_with = "argv")]
    pub race: bool,
    /// The target, or the path of an output.
    #[arg(value_name = "LABEL|PATH")]
    pub label: String,
}

/// `query`.
#[derive(Args, Debug)]
pub struct QueryArgs {
    /// Flags that decide about configuration.
    #[command(flatten)]
    pub config: ConfigFlags,
    /// How the answer is written.
    #[arg(long, value_name = "HOW", value_enum, default_value_t = QueryOutput::Text)]
    pub output: QueryOutput,
    /// What is asked: patterns, `deps(X[, DEPTH])`, `rdeps(UNIVERSE, X[, DEPTH])`, `somepath(A, B)`, `allpaths(A, B)`,
    /// `kind(REGEX, X)`, `filter(REGEX, X)`, `outputs(X)`, `set(A B ...)`, combined by `+` (union), `-` (except) and `^`
    /// (intersect).
    #[arg(value_name = "EXPR", required = true, value_parser = pattern)]
    pub expression: Vec<String>,
}

impl QueryArgs {
    /// The expression, words of the command line joined.
    pub fn text(&self) -> String {
        self.expression.join(" ")
    }
}

/// How an answer is written.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryOutput {
    /// A label, or a path, a line.
    Text,
    /// An array of objects.
    Json,
    /// A graph for Graphviz.
    Dot,
}

/// `serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// Where to listen: an address and a port (0: any free one), or `unix:PATH`.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8980")]
    pub listen: String,
    /// Where blobs and results lie [default: `minibuild/serve` in the user's cache directory].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Actions that run at once; 0 makes it a cache only [default: number of processors].
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// Listen where others than this machine reach it, without TLS.
    #[arg(long)]
    pub insecure: bool,
    /// Speak TLS, with this certificate and those that lead from it to an authority (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_certificate: Option<PathBuf>,
    /// The key of the certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,
    /// Take only clients with a certificate of these authorities (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    pub tls_client_ca: Option<PathBuf>,
    /// Faults for tests, as TOML.
    #[arg(long, value_name = "FILE")]
    pub inject: Option<PathBuf>,
    /// Tell of each call on stderr.
    #[arg(long)]
    pub log: bool,
}

/// `compdb`.
#[derive(Args, Debug)]
pub struct CompdbArgs {
    /// Flags that decide about configuration.
    #[command(flatten)]
    pub config: ConfigFlags,
    /// Whose compilations, with those of what they need [default: //...].
    #[arg(value_name = "PATTERN", value_parser = pattern)]
    pub patterns: Vec<String>,
}

/// `completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// For which shell; `man` is for `man(1)`.
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: CompletionsFor,
    /// With `man`: the page of this command.
    #[arg(value_name = "COMMAND")]
    pub command: Option<String>,
}

/// What reads it.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompletionsFor {
    /// GNU Bash.
    Bash,
    /// Elvish.
    Elvish,
    /// Fish.
    Fish,
    /// `man(1)`: a manual page.
    Man,
    /// PowerShell.
    Powershell,
    /// Z shell.
    Zsh,
}

/// `schema`.
#[derive(Args, Debug)]
pub struct SchemaArgs {
    /// Which kind of file.
    #[arg(value_parser = ["build", "workspace", "rules"], default_value = "build")]
    pub kind: String,
}

/// Flags that decide about configuration.
#[derive(Args, Debug, Default)]
pub struct ConfigFlags {
    /// Take the overlay `[config.NAME]`; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub config: Vec<String>,
    /// Set a variable; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub var: Vec<String>,
}

/// Marks a pattern that takes targets away, which would look like a flag.
const SUBTRACTS: char = '\u{1}';

/// The command line as clap is to see it: `-//x` and `-:x` are patterns and no flags.
pub fn escape_patterns(args: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    args.map(|arg| match arg.to_str() {
        Some(text) if text.starts_with("-//") || text.starts_with("-:") => OsString::from(format!("{SUBTRACTS}{text}")),
        _ => arg,
    })
}

fn pattern(text: &str) -> Result<String, std::convert::Infallible> {
    Ok(text.trim_start_matches(SUBTRACTS).to_owned())
}

/// Flags of `build`, `test`, `run` and `fetch`.
#[derive(Args, Debug)]
pub struct BuildFlags {
    /// Flags that decide about configuration.
    #[command(flatten)]
    pub config: ConfigFlags,
    /// Actions that run here at once.
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<String>,
    /// Build all that does not depend on what failed.
    #[arg(short, long)]
    pub keep_going: bool,
    /// Which outputs are brought here: all, toplevel or minimal.
    #[arg(long, value_name = "MODE")]
    pub download: Option<String>,
    /// Bring outputs here whose whole workspace-relative path matches, in every mode; may be repeated.
    #[arg(long, value_name = "REGEX")]
    pub download_regex: Vec<String>,
    /// Where actions run: local, remote or dynamic; also MNEMONIC=WHERE. May be repeated.
    #[arg(long, value_name = "WHERE")]
    pub strategy: Vec<String>,
    /// Where actions can run remotely: grpc://HOST:PORT, grpcs://HOST:PORT, embedded or none.
    #[arg(long, value_name = "URL")]
    pub remote_executor: Option<String>,
    /// Where results are looked up and stored: grpc(s)://HOST:PORT, http(s)://HOST/PATH or none [default: the executor's].
    #[arg(long, value_name = "URL")]
    pub remote_cache: Option<String>,
    /// Header sent with every remote call; may be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    pub remote_header: Vec<String>,
    /// Instance name of remote calls.
    #[arg(long, value_name = "NAME")]
    pub remote_instance: Option<String>,
    /// Longest time of a remote call without progress, such as 60s.
    #[arg(long, value_name = "TIME")]
    pub remote_timeout: Option<String>,
    /// Retries of a failed remote call.
    #[arg(long, value_name = "N")]
    pub remote_retries: Option<String>,
    /// Actions that run remotely at once.
    #[arg(long, value_name = "N")]
    pub remote_jobs: Option<String>,
    /// A directory of results that workspaces share, or none.
    #[arg(long, value_name = "DIR")]
    pub disk_cache: Option<String>,
    /// Size the disk cache never exceeds, such as 10GiB.
    #[arg(long, value_name = "SIZE")]
    pub disk_cache_size: Option<String>,
    /// Make no remote call at all.
    #[arg(long)]
    pub offline: bool,
    /// What becomes of an action that only the remote side tried when that fails: fallback or fail.
    #[arg(long, value_name = "WHAT")]
    pub on_remote_failure: Option<String>,
    /// How an action is raced that may run on both sides: race or adaptive.
    #[arg(long, value_name = "POLICY")]
    pub dynamic_policy: Option<String>,
    /// Run what may run on both sides on both to the end, and compare what they make.
    #[arg(long)]
    pub compare: bool,
    /// Say what would run and why, and run nothing.
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Run tests even if their pass is known.
    #[arg(long)]
    pub no_cache_tests: bool,
    /// Which tests' output is shown: errors, all, summary, or streamed (while they run, one at a time).
    #[arg(long, value_name = "WHICH")]
    pub test_output: Option<String>,
    /// Show commands as they start.
    #[arg(short, long)]
    pub verbose: bool,
    /// Say why each action runs.
    #[arg(long)]
    pub explain: bool,
    /// Write events to FILE, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    pub events: Option<PathBuf>,
    /// How much detail: `all` adds up-to-date actions nobody asked for.
    #[arg(long, value_name = "DETAIL", value_parser = ["all"])]
    pub events_detail: Option<String>,
    /// Write a Chrome trace to FILE: what ran where and when, who waited for what, and the critical path.
    #[arg(long, value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// How progress is shown: auto, bar, plain or none.
    #[arg(long, value_name = "HOW")]
    pub progress: Option<String>,
    /// When output is coloured: auto, always or never.
    #[arg(long, value_name = "WHEN")]
    pub color: Option<String>,
    /// Targets named after the build.
    #[arg(long, value_name = "N")]
    pub show_result: Option<String>,
}

impl BuildFlags {
    /// The settings these flags set: key and text.
    pub fn settings(&self) -> Vec<(String, String)> {
        let mut set = Vec::new();
        let mut give = |key: &str, value: &str| set.push((key.to_owned(), value.to_owned()));
        let texts = [
            ("build.jobs", &self.jobs),
            ("build.download", &self.download),
            ("build.on_remote_failure", &self.on_remote_failure),
            ("dynamic.policy", &self.dynamic_policy),
            ("build.disk_cache", &self.disk_cache),
            ("build.disk_cache_size", &self.disk_cache_size),
            ("remote.executor", &self.remote_executor),
            ("remote.cache", &self.remote_cache),
            ("remote.instance", &self.remote_instance),
            ("remote.timeout", &self.remote_timeout),
            ("remote.retries", &self.remote_retries),
            ("remote.jobs", &self.remote_jobs),
            ("build.test_output", &self.test_output),
            ("build.progress", &self.progress),
            ("build.color", &self.color),
            ("build.show_result", &self.show_result),
        ];
        for (key, value) in texts {
            if let Some(value) = value {
                give(key, value);
            }
        }
        for value in &self.strategy {
            give("build.strategy", value);
        }
        for value in &self.download_regex {
            give("build.download_regex", value);
        }
        for value in &self.remote_header {
            give("remote.headers", value);
        }
        let truths = [
            ("build.keep_going", self.keep_going, "true"),
            ("build.verbose", self.verbose, "true"),
            ("build.cache_tests", self.no_cache_tests, "false"),
            ("remote.offline", self.offline, "true"),
            ("dynamic.compare", self.compare, "true"),
        ];
        for (key, given, value) in truths {
            if given {
                give(key, value);
            }
        }
        set
    }
}

impl ConfigFlags {
    /// `--var` split at the first `=`.
    ///
    /// # Errors
    /// The one that has none.
    pub fn vars(&self) -> Result<Vec<(String, String)>, String> {
        let split = |text: &String| match text.split_once('=') {
            Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
            None => Err(format!("`--var {text}` has no `=`\nhint: write `--var NAME=VALUE`")),
        };
        self.var.iter().map(split).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_unknown_flag_is_no_pattern() {
        for line in [["minibuild", "build", "--kep-going", "//x"], ["minibuild", "build", "//x", "-z"]] {
            assert!(Cli::try_parse_from(escape_patterns(line.into_iter().map(OsString::from))).is_err());
        }
    }

    #[test]
    fn flags_become_settings() {
        let line = ["minibuild", "build", "-k", "--no-cache-tests", "//...", "-//x:y", "-j3"];
        let cli = Cli::parse_from(escape_patterns(line.into_iter().map(OsString::from)));
        let Command::Build(args) = cli.command else { panic!("it is a build") };
        assert_eq!(args.patterns, ["//...", "-//x:y"]);
        let expected = [("build.jobs", "3"), ("build.keep_going", "true"), ("build.cache_tests", "false")];
        assert_eq!(args.flags.settings(), expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }
}
