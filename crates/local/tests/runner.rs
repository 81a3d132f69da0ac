//! Commands outside a workspace, each in a directory of its own.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use minibuild_core::StopReason;
use minibuild_local::{CommandEnd, CommandReport, CommandRunner, CommandSpec, RunnerConfig, Stopper};

fn runner(dir: &Path) -> CommandRunner {
    CommandRunner::new(RunnerConfig {
        helper: env!("CARGO_BIN_EXE_slot-for-tests").into(),
        helper_args: vec!["__slot".into()],
        dir: dir.join("logs"),
        lock: None,
    })
}

fn run_for(runner: &mut CommandRunner, cwd: &Path, script: &str, timeout: Option<Duration>) -> CommandReport {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned);
    let env = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
    runner.run(&CommandSpec { argv: &argv, env: &env, cwd, timeout }, &Stopper::default())
}

fn run(runner: &mut CommandRunner, cwd: &Path, script: &str) -> (CommandEnd, String, String) {
    let report = run_for(runner, cwd, script, None);
    let read = |file: Option<&std::fs::File>, length: u64| {
        let mut bytes = vec![0; usize::try_from(length).expect("small")];
        assert_eq!(file.is_some(), length > 0);
        file.into_iter().for_each(|file| file.read_exact_at(&mut bytes, 0).expect("as long as told"));
        String::from_utf8(bytes).expect("text")
    };
    (report.end, read(runner.stdout(), report.stdout_len), read(runner.stderr(), report.stderr_len))
}

#[test]
fn each_run_has_its_directory_and_exactly_its_environment() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut runner = runner(dir.path());
    for name in ["one", "two"] {
        let cwd = dir.path().join(name);
        std::fs::create_dir(&cwd).expect("mkdir");
        let (end, out, err) = run(&mut runner, &cwd, "pwd; /usr/bin/env | grep -v '^PWD\\|^SHLVL\\|^_='; echo e >&2");
        let expected = format!("{}\nPATH=/usr/bin:/bin\n", cwd.canonicalize().expect("exists").display());
        assert_eq!((end, out, &*err), (CommandEnd::Exited(0), expected, "e\n"));
    }
    let (end, out, _) = run(&mut runner, dir.path(), "exit 3");
    assert_eq!((end, &*out), (CommandEnd::Exited(3), ""), "nothing left of the run before");
}

#[test]
fn programs_are_looked_up_from_the_directory_of_the_run() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("temp dir");
    let mut runner = runner(dir.path());
    for name in ["one", "two"] {
        let cwd = dir.path().join(name);
        std::fs::create_dir_all(cwd.join("bin")).expect("mkdir");
        let tool = cwd.join("bin").join(name);
        std::fs::write(&tool, "#!/bin/sh\nexit 7\n").expect("write");
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let (argv, env) = ([name.to_owned()], [("PATH".to_owned(), "bin".to_owned())]);
        let spec = CommandSpec { argv: &argv, env: &env, cwd: &cwd, timeout: None };
        assert_eq!(runner.run(&spec, &Stopper::default()).end, CommandEnd::Exited(7));
    }
}

#[test]
fn ends_of_all_kinds() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut runner = runner(dir.path());
    assert_eq!(run(&mut runner, dir.path(), "kill -9 $$").0, CommandEnd::Signalled(9));
    let report = run_for(&mut runner, dir.path(), "sleep 100", Some(Duration::from_millis(50)));
    assert_eq!(report.end, CommandEnd::TimedOut);
    match run_for(&mut runner, &dir.path().join("gone"), "true", None).end {
        CommandEnd::NotStarted(text) => assert!(text.contains("gone"), "{text}"),
        other => panic!("{other:?}"),
    }
    // A session of its own and no parent: still found and killed.
    let report = run_for(&mut runner, dir.path(), "setsid sleep 1000 & exit 0", None);
    assert_eq!((report.end, report.killed.len()), (CommandEnd::Exited(0), 1));
    // The helper itself, from inside.
    match run_for(&mut runner, dir.path(), "kill -9 $PPID; sleep 1000", None).end {
        CommandEnd::Failed(text) => assert!(text.contains("helper process"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(run(&mut runner, dir.path(), "true").0, CommandEnd::Exited(0), "a new helper");
}

#[test]
fn a_stop_reaches_a_run_before_and_after_it_began() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut runner = runner(dir.path());
    let argv = ["/bin/sh", "-c", "echo > began; sleep 1000"].map(str::to_owned);
    let env = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
    let spec = CommandSpec { argv: &argv, env: &env, cwd: dir.path(), timeout: None };
    let early = Stopper::default();
    early.stop(StopReason::Kill);
    assert_eq!(runner.run(&spec, &early).end, CommandEnd::Stopped(StopReason::Kill));
    assert!(!dir.path().join("began").exists());
    let stopper = Stopper::default();
    let end = std::thread::scope(|scope| {
        let run = scope.spawn(|| runner.run(&spec, &stopper).end);
        while !dir.path().join("began").exists() {
            std::thread::yield_now();
        }
        stopper.stop(StopReason::Kill);
        run.join().expect("no panic")
    });
    assert_eq!(end, CommandEnd::Stopped(StopReason::Kill));
}

#[test]
fn watched_run_tells_what_it_wrote_and_can_be_stopped_for_it() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut runner = runner(dir.path());
    let argv = ["/bin/sh", "-c", "exec yes"].map(str::to_owned);
    let env = [("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
    let spec = CommandSpec { argv: &argv, env: &env, cwd: dir.path(), timeout: None };
    let stopper = Stopper::default();
    let mut most = 0;
    let report = runner.run_watched(&spec, &stopper, &mut |written| {
        most = written;
        if written > 1 << 20 {
            stopper.stop(StopReason::Kill);
        }
    });
    assert_eq!(report.end, CommandEnd::Stopped(StopReason::Kill));
    assert!(most > 1 << 20 && report.stdout_len >= most, "{most} of {}", report.stdout_len);
    assert_eq!(run(&mut runner, dir.path(), "echo again").1, "again\n");
}
