//! A private workspace and the hermetic environment in which the binary is run on it.

use std::cell::Cell;
use std::fs;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::gate::{Gate, SOON};
use crate::process::{Pid, users_of, wait_until_dead};
use crate::run::{Files, Run, Running};
use crate::snapshot::{Snapshot, take};

/// A directory with a `minibuild.toml`, gone when the test passes and kept when it fails.
#[derive(Debug)]
pub struct Workspace {
    base: PathBuf,
    root: PathBuf,
    binary: PathBuf,
    runs: Cell<usize>,
    /// Whose processes its runs are, if not the test's own.
    user: Cell<Option<u32>>,
}

/// A user and group without rights, as most systems have one.
const NOBODY: u32 = 65534;

/// A run to be.
#[derive(Debug)]
pub struct Invocation<'a> {
    workspace: &'a Workspace,
    args: Vec<String>,
    env: Vec<(String, String)>,
    dir: PathBuf,
    with_events: bool,
    through: Vec<String>,
    stderr: Option<OwnedFd>,
}

impl Workspace {
    /// An empty workspace on which `binary` (`env!("CARGO_BIN_EXE_minibuild")`) will be run.
    pub fn new(binary: &str) -> Self {
        let base = tempfile::Builder::new().prefix("minibuild-test-").tempdir().expect("makes a directory").keep();
        // Symlinks on the way to the temporary directory would make two names of one place.
        let base = fs::canonicalize(base).expect("it was just made");
        for dir in ["ws", "home", "tmp", "runs", "gates"] {
            fs::create_dir(base.join(dir)).expect("makes a directory");
        }
        let workspace =
            Self { root: base.join("ws"), base, binary: binary.into(), runs: Cell::new(0), user: Cell::new(None) };
        workspace.file("minibuild.toml", "")
    }

    /// The workspace root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A directory beside the workspace, for what must lie outside of it.
    pub fn outside(&self) -> &Path {
        &self.base
    }

    /// The home directory of all runs.
    pub fn home(&self) -> PathBuf {
        self.base.join("home")
    }

    /// The absolute path of something in the workspace.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The absolute path of an output below `minibuild-out/bin/`.
    pub fn bin(&self, path: &str) -> PathBuf {
        self.root.join("minibuild-out/bin").join(path)
    }

    /// Writes a file, with its directories.
    #[track_caller]
    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("it has a parent")).expect("makes directories");
        fs::write(&path, text).unwrap_or_else(|e| panic!("cannot write {}: {e}", path.display()));
    }

    /// As [`Self::write`], for building a workspace up in one expression.
    #[must_use]
    #[track_caller]
    pub fn file(self, path: &str, text: impl AsRef<[u8]>) -> Self {
        self.write(path, text);
        self
    }

    /// A file that can be run.
    #[must_use]
    #[track_caller]
    pub fn program(self, path: &str, text: &str) -> Self {
        write_program(&self.path(path), text);
        self
    }

    /// A symlink.
    #[must_use]
    #[track_caller]
    pub fn link(self, path: &str, target: &str) -> Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("it has a parent")).expect("makes directories");
        std::os::unix::fs::symlink(target, path).expect("makes a symlink");
        self
    }

    /// Removes a file or a directory.
    #[track_caller]
    pub fn remove(&self, path: &str) {
        let path = self.path(path);
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.unwrap_or_else(|e| panic!("cannot remove {}: {e}", path.display()));
    }

    /// The text of a file in the workspace.
    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        let path = self.path(path);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
    }

    /// The text of an output.
    #[track_caller]
    pub fn output(&self, path: &str) -> String {
        self.read(&format!("minibuild-out/bin/{path}"))
    }

    /// Whether there is an output, of whatever kind.
    pub fn has_output(&self, path: &str) -> bool {
        fs::symlink_metadata(self.bin(path)).is_ok()
    }

    /// Everything below `minibuild-out/bin/`.
    pub fn outputs(&self) -> Snapshot {
        take(&self.bin(""))
    }

    /// Everything below a directory of the workspace.
    pub fn snapshot(&self, path: &str) -> Snapshot {
        take(&self.path(path))
    }

    /// A gate for actions.
    pub fn gate(&self, name: &str) -> Gate {
        Gate::new(&self.base.join("gates"), name)
    }

    /// Gives all that is here to a user without privileges, whose runs all later ones are. Where the test has none itself
    /// nothing is to be done; false, loudly, where that user may not run the binary.
    pub fn give_up_privileges(&self) -> bool {
        !nix::unistd::geteuid().is_root() || self.become_user(NOBODY)
    }

    /// Gives all that is here to this user (and group), whose runs all later ones are; false, loudly, where the test may not do
    /// that, or the user may not run the binary.
    pub fn become_user(&self, id: u32) -> bool {
        let may_run = Command::new(&self.binary).arg("--version").current_dir("/").uid(id).gid(id).output();
        if !may_run.is_ok_and(|output| output.status.success()) {
            crate::skipped(&format!("user {id} may not run {}", self.binary.display()));
            return false;
        }
        give_to(&self.base, id);
        self.user.set(Some(id));
        true
    }

    /// A run of the binary.
    pub fn invoke(&self, args: &[&str]) -> Invocation<'_> {
        Invocation {
            workspace: self,
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            env: Vec::new(),
            dir: self.root.clone(),
            with_events: true,
            through: Vec::new(),
            stderr: None,
        }
    }

    /// Runs the binary to its end.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Run {
        self.invoke(args).run()
    }

    /// `minibuild build ARGS...` to its end.
    #[track_caller]
    pub fn build(&self, args: &[&str]) -> Run {
        self.run(&[&["build"], args].concat())
    }

    /// `minibuild test ARGS...` to its end.
    #[track_caller]
    pub fn test(&self, args: &[&str]) -> Run {
        self.run(&[&["test"], args].concat())
    }

    /// Starts `minibuild build ARGS...`.
    #[track_caller]
    pub fn start_build(&self, args: &[&str]) -> Running {
        self.invoke(&[&["build"], args].concat()).start()
    }

    /// Living processes that use anything of this workspace, with their command lines.
    pub fn processes(&self) -> Vec<(Pid, String)> {
        users_of(&self.base)
    }

    /// Asserts that no process is left that uses anything of this workspace; those that are about to end, or to let go of it
    /// (a worker of a server that passes a gate), may.
    #[track_caller]
    pub fn nothing_is_left_running(&self) {
        let began = Instant::now();
        while let Some((pid, command)) = users_of(&self.base).first() {
            assert!(began.elapsed() < SOON, "process {pid} is left: {command}");
            // Alive or not by then, it may have let go.
            let _ = wait_until_dead(*pid, Duration::from_millis(20));
        }
    }

    fn report(&self) {
        eprintln!("the workspace is kept: {}", self.base.display());
        let last = self.runs.get();
        for number in last.saturating_sub(2).max(1)..=last {
            for kind in ["command", "stdout", "stderr", "events"] {
                let text = fs::read(self.base.join(format!("runs/{number}.{kind}"))).unwrap_or_default();
                if !text.is_empty() {
                    eprintln!("--- run {number}: {kind}\n{}", String::from_utf8_lossy(&text).trim_end());
                }
            }
        }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return self.report();
        }
        self.nothing_is_left_running();
        make_writable(&self.base);
        if let Err(error) = fs::remove_dir_all(&self.base) {
            eprintln!("cannot remove {}: {error}", self.base.display());
        }
    }
}

/// Written by a process of its own: a descriptor of ours, open for writing, could be inherited by whatever another test
/// starts at that moment, and the program could not be run.
pub fn write_program(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("it has a parent")).expect("makes directories");
    let mut shell = Command::new("/bin/sh")
        .args(["-e", "-c", "cat > \"$0\"; chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .expect("the shell starts");
    shell.stdin.take().expect("it is piped").write_all(text.as_bytes()).expect("the shell reads");
    assert!(shell.wait().expect("waits").success(), "cannot write {}", path.display());
}

/// Makes this user the owner of everything.
fn give_to(path: &Path, user: u32) {
    std::os::unix::fs::lchown(path, Some(user), Some(user)).expect("root may give things away");
    if fs::symlink_metadata(path).is_ok_and(|m| m.is_dir()) {
        let entries = fs::read_dir(path).expect("it is a directory").flatten();
        entries.for_each(|entry| give_to(&entry.path(), user));
    }
}

/// Lets directories be removed that an action or a test made read-only.
fn make_writable(dir: &Path) {
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o755));
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        make_writable(&entry.path());
    }
}

impl Invocation<'_> {
    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs it in a directory of the workspace instead of the root.
    #[must_use]
    pub fn dir(mut self, dir: &str) -> Self {
        self.dir = self.workspace.path(dir);
        self
    }

    /// Asks for no events: the test does so itself, or wants to see how it is without.
    #[must_use]
    pub fn without_events(mut self) -> Self {
        self.with_events = false;
        self
    }

    /// Starts it by a program that becomes the one its arguments end with, such as `prlimit`.
    #[must_use]
    pub fn through(mut self, program: &[&str]) -> Self {
        self.through = program.iter().map(|&arg| arg.to_owned()).collect();
        self
    }

    /// Gives it another standard error than a file of the harness, which stays empty.
    #[must_use]
    pub fn stderr(mut self, stderr: impl Into<OwnedFd>) -> Self {
        self.stderr = Some(stderr.into());
        self
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(self) -> Run {
        self.start().wait()
    }

    /// Starts it.
    #[track_caller]
    pub fn start(mut self) -> Running {
        let workspace = self.workspace;
        let number = workspace.runs.get() + 1;
        workspace.runs.set(number);
        let file = |kind: &str| workspace.base.join(format!("runs/{number}.{kind}"));
        let events = self.ask_for_events(file("events"));
        if let (Some(events), Some(user)) = (&events, workspace.user.get()) {
            fs::File::create(events).expect("makes a file");
            give_to(events, user);
        }
        fs::write(file("command"), format!("{:?} {:?}", self.args, self.env)).expect("writes");
        let open = |path: &Path| fs::File::create(path).expect("makes a file");
        let (stdout, stderr) = (file("stdout"), file("stderr"));
        let mut command = match &self.through[..] {
            [] => Command::new(&workspace.binary),
            [program, args @ ..] => {
                let mut command = Command::new(program);
                command.args(args).arg(&workspace.binary);
                command
            }
        };
        let own = open(&stderr);
        let stderr_fd = self.stderr.take().unwrap_or_else(|| own.into());
        if let Some(user) = workspace.user.get() {
            command.uid(user).gid(user);
        }
        let child = command
            .args(&self.args)
            .current_dir(&self.dir)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", workspace.home())
            .env("TMPDIR", workspace.base.join("tmp"))
            .env("LC_ALL", "C")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(open(&stdout))
            .stderr(stderr_fd)
            .spawn()
            .expect("the binary starts");
        let root = workspace.root.display().to_string();
        Running::new(child, Files { stdout, stderr, events, root })
    }

    /// Adds `--events` after the subcommand that takes it.
    fn ask_for_events(&mut self, path: PathBuf) -> Option<PathBuf> {
        let subcommands = ["build", "test", "run", "fetch", "clean", "info", "schema"];
        let at = self.args.iter().position(|arg| subcommands.contains(&arg.as_str()))?;
        let takes_events = subcommands[..4].contains(&self.args[at].as_str());
        if !self.with_events || !takes_events {
            return None;
        }
        self.args.insert(at + 1, format!("--events={}", path.display()));
        Some(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Ending;

    /// A stand-in that prints what it was given.
    fn with_script(text: &str) -> (tempfile::TempDir, Workspace) {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("script");
        write_program(&path, &format!("#!/bin/sh\n{text}\n"));
        let workspace = Workspace::new(path.to_str().expect("UTF-8"));
        (dir, workspace)
    }

    #[test]
    fn runs_are_hermetic_and_their_paths_normalised() {
        let (_dir, workspace) =
            with_script("env | cut -d= -f1 | sort | tr '\\n' ' '; pwd >&2; echo \"$@\" >&2; exit 7");
        let run = workspace.invoke(&["info"]).env("X", "1").run().code(7).says(&["[ws]\n", "info"]);
        assert_eq!(run.stdout.trim_end(), "HOME LC_ALL PATH PWD TMPDIR X");
        assert_eq!(run.ending, Ending::Exited(7));
    }

    #[test]
    fn events_are_asked_for_after_the_subcommand() {
        let (_dir, workspace) = with_script("");
        let mut invocation = workspace.invoke(&["-C", "x", "run", "//:a", "--", "build"]);
        assert!(invocation.ask_for_events("/e".into()).is_some());
        assert_eq!(invocation.args, ["-C", "x", "run", "--events=/e", "//:a", "--", "build"]);
        for args in [["clean"].as_slice(), &["schema", "build"], &[]] {
            assert!(workspace.invoke(args).ask_for_events("/e".into()).is_none(), "{args:?}");
        }
    }

    #[test]
    fn files_outputs_and_snapshots() {
        let (_dir, workspace) = with_script("");
        let workspace = workspace.file("a/b.txt", "x").program("p", "").link("l", "a/b.txt");
        assert_eq!(workspace.read("l"), "x");
        assert_eq!(workspace.snapshot("a").len(), 1);
        assert!(!workspace.has_output("b.txt"));
        workspace.write("minibuild-out/bin/b.txt", "y");
        assert_eq!(workspace.output("b.txt"), "y");
        workspace.remove("a");
        assert_eq!(workspace.snapshot("").len(), 6);
    }
}
