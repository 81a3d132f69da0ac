//! Ordinary runs: what a command gets, what is reported of it, and what cannot be started.

mod common;

use common::{Workspace, one, out, path, request, shell};
use minibuild_core::{
    ArtifactKind, Content, DigestFunction, ExecutionStatus, Executor, ExecutorEvent, ExpectedInput, WrittenFile,
};

#[test]
fn a_file_is_made_captured_and_read_only() {
    let mut ws = Workspace::new();
    let report = ws.succeed(shell("echo text > minibuild-out/bin/pkg/f", vec![out("f", ArtifactKind::File)]));
    let found = one(&report.outputs);
    let expected = Content::File { digest: DigestFunction::Sha256.digest(b"text\n"), executable: false };
    assert_eq!(found.meta.content, expected);
    assert_eq!(found.stamps.len(), 1);
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::metadata(ws.out_path(name)).expect("made").permissions().mode() & 0o7777
    };
    assert_eq!(mode("f"), 0o444);
    assert!(report.killed.is_empty() && report.stdout.is_empty() && report.stderr.is_empty());
    assert!(report.cost.max_rss > 0 && !report.cost.wall.is_zero());
}

#[test]
fn the_environment_is_what_was_asked_plus_tmpdir() {
    let mut ws = Workspace::new();
    let mut asked = request(&["env"], vec![]);
    asked.command.env.insert("A".into(), "b=c\nd".into());
    let report = ws.succeed(asked.clone());
    let tmp = ws.root().join("minibuild-out/.state/tmp/slot0/tmp");
    let mut lines: Vec<String> = String::from_utf8(report.stdout).expect("text").lines().map(str::to_owned).collect();
    lines.sort();
    let tmpdir = format!("TMPDIR={}", tmp.display());
    assert_eq!(lines, ["A=b=c", "PATH=/usr/local/bin:/usr/bin:/bin", &tmpdir, "d"]);
    asked.command.env.insert("TMPDIR".into(), "/own".into());
    let report = ws.succeed(asked);
    assert!(String::from_utf8_lossy(&report.stdout).contains("TMPDIR=/own\n"));
}

#[test]
fn a_command_has_its_directory_and_default_signals() {
    let mut ws = Workspace::new();
    let report =
        ws.succeed(shell("pwd; readlink /proc/self/fd/0; exec grep -E 'Sig(Ign|Blk)' /proc/self/status", vec![]));
    let text = String::from_utf8(report.stdout).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], [&ws.root().display().to_string(), "/dev/null"]);
    let set = |line: &str| u64::from_str_radix(line.split('\t').nth(1).expect("a value"), 16).expect("hexadecimal");
    // The C library's own two real-time signals are its own matter.
    assert_eq!((set(lines[2]), set(lines[3]) & !(0b11 << 31)), (0, 0), "{text}");
}

#[test]
fn a_command_has_three_descriptors_and_the_lock() {
    let list = shell("ls /proc/$$/fd; true", vec![]);
    let check = |ws: &mut Workspace, expected: &str| {
        assert_eq!(String::from_utf8(ws.succeed(list.clone()).stdout).expect("text"), expected);
    };
    let _foreign = rustix::io::dup(std::io::stderr()).expect("a descriptor without close-on-exec");
    check(&mut Workspace::new(), "0\n1\n2\n");
    let lock = tempfile::tempfile().expect("a file");
    check(&mut Workspace::with(1, Some(lock.into())), "0\n1\n2\n3\n");
}

#[test]
fn stdout_and_stderr_are_kept_apart_to_the_byte() {
    let mut ws = Workspace::new();
    let report = ws.succeed(shell("printf 'a\\000\\377b'; printf 'x\\ny' >&2", vec![]));
    assert_eq!((&report.stdout[..], &report.stderr[..]), (&b"a\0\xffb"[..], &b"x\ny"[..]));
    let report = ws.succeed(shell("printf c", vec![]));
    assert_eq!((&report.stdout[..], &report.stderr[..]), (&b"c"[..], &b""[..]), "nothing of the run before");
    let report = ws.succeed(shell("head -c 3000000 /dev/zero", vec![]));
    assert_eq!(report.stdout.len(), 3_000_000);
}

#[test]
fn exit_codes_and_signals() {
    let mut ws = Workspace::new();
    for code in [1, 2, 126, 127, 137, 255] {
        let report = ws.run(shell(&format!("echo gone wrong >&2; exit {code}"), vec![out("f", ArtifactKind::File)]));
        assert_eq!(report.status, ExecutionStatus::Exited(code));
        assert_eq!(report.stderr, b"gone wrong\n");
        assert!(report.outputs.is_empty());
    }
    for signal in [2, 9, 11, 15] {
        let report = ws.run(shell(&format!("kill -{signal} $$"), vec![]));
        assert_eq!(report.status, ExecutionStatus::Signalled(signal));
    }
    ws.succeed(shell("yes | head -n 1", vec![]));
}

#[test]
fn what_cannot_be_started_says_why() {
    let mut ws = Workspace::new();
    std::fs::write(ws.root().join("plain"), "text").expect("write");
    let script = |name: &str, text: &str| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::write(ws.root().join(name), text).expect("write");
        std::fs::set_permissions(ws.root().join(name), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    };
    script("bad-interpreter", "#!/no/such/interpreter\n");
    script("no-format", "\x01\x02");
    let mut check = |argv: &[&str], expected: &str| {
        let report = ws.run(request(argv, vec![]));
        match &report.status {
            ExecutionStatus::NotStarted(text) => assert!(text.contains(expected), "{text}"),
            other => panic!("{argv:?}: {other:?}"),
        }
    };
    check(&["no-such-program-here"], "cannot find program `no-such-program-here` in `PATH` (/usr/local/bin:");
    check(&["./no/such"], "cannot run `./no/such`: there is no such file");
    check(&["./plain"], "cannot run `./plain`: it is not executable");
    check(&["/usr"], "it is a directory");
    check(&["./bad-interpreter"], "interpreter");
    check(&["./no-format"], "hint: a script needs");
    check(&["/bin/true", &"x".repeat(200_000)], "too long");
    check(&["/bin/true", "a\0b"], "NUL");
    check(&[""], "empty program name");
    ws.succeed(request(&["true"], vec![]));
}

#[test]
fn many_arguments_arrive_in_order() {
    let mut ws = Workspace::new();
    let words: Vec<String> = (0..4000).map(|i| format!("argument-{i}-{}", "x".repeat(20))).collect();
    let mut argv = vec!["printf", "%s\\n"];
    argv.extend(words.iter().map(|word| &**word));
    let report = ws.succeed(request(&argv, vec![]));
    assert_eq!(String::from_utf8(report.stdout).expect("text"), words.join("\n") + "\n");
    let long = "y".repeat(1000);
    let mut argv = vec!["/bin/true"];
    argv.extend(std::iter::repeat_n(&*long, 10_000));
    let report = ws.run(request(&argv, vec![]));
    assert!(
        matches!(&report.status, ExecutionStatus::NotStarted(text) if text.contains("rspfile")),
        "{:?}",
        report.status
    );
}

#[test]
fn tmpdir_is_private_and_empty_each_time() {
    let mut ws = Workspace::new();
    let script = "test -z \"$(ls -A $TMPDIR)\"; mkdir -p $TMPDIR/a/b; echo x > $TMPDIR/a/b/c; chmod 555 $TMPDIR/a/b";
    for _ in 0..3 {
        ws.succeed(shell(script, vec![]));
    }
    assert_eq!(std::fs::read_dir(ws.root().join("minibuild-out/.state/tmp/slot0/tmp")).expect("there").count(), 0);
}

#[test]
fn response_files_are_there_and_actions_may_consist_of_them() {
    let mut ws = Workspace::new();
    let file = |name: &str, executable| WrittenFile {
        path: path(&format!("minibuild-out/bin/pkg/{name}")),
        content: b"one two\n".to_vec(),
        executable,
    };
    let mut asked =
        shell("cat minibuild-out/bin/pkg/args.rsp > minibuild-out/bin/pkg/f", vec![out("f", ArtifactKind::File)]);
    asked.command.files.push(file("args.rsp", false));
    for _ in 0..2 {
        let report = ws.succeed(asked.clone());
        let expected = Content::File { digest: DigestFunction::Sha256.digest(b"one two\n"), executable: false };
        assert_eq!(one(&report.outputs).meta.content, expected);
        assert!(!ws.out_path("args.rsp").exists(), "it is no output");
    }
    asked.command.argv[3].push_str("; exit 1");
    assert_eq!(ws.run(asked).status, ExecutionStatus::Exited(1));
    assert!(ws.out_path("args.rsp").exists(), "a failure can be repeated by hand");
    let mut write = request(&[], vec![out("w", ArtifactKind::File)]);
    write.command.files.push(file("w", true));
    let report = ws.succeed(write);
    let expected = Content::File { digest: DigestFunction::Sha256.digest(b"one two\n"), executable: true };
    assert_eq!(one(&report.outputs).meta.content, expected);
}

#[test]
fn depfiles_are_read_and_never_stale() {
    let mut ws = Workspace::new();
    let mut asked = shell("echo 'f: a b' > minibuild-out/bin/pkg/f.d", vec![]);
    asked.depfile = Some(path("minibuild-out/bin/pkg/f.d"));
    assert_eq!(ws.succeed(asked.clone()).depfile.as_deref(), Some(&b"f: a b\n"[..]));
    assert!(!ws.out_path("f.d").exists(), "it is in the report");
    std::fs::write(ws.out_path("f.d"), "stale").expect("write");
    asked.command.argv[3] = "true".into();
    assert_eq!(ws.succeed(asked).depfile, None);
}

#[test]
fn inputs_changed_meanwhile_are_named() {
    let mut ws = Workspace::new();
    for name in ["same", "changed", "gone"] {
        std::fs::write(ws.root().join(name), name).expect("write");
    }
    let mut asked = shell("echo more >> changed; rm gone", vec![]);
    for name in ["same", "changed", "gone"] {
        let seen = minibuild_disk::stat_batch(ws.root(), &[name], 1)[0].expect("there");
        asked.verify.push(ExpectedInput { path: path(name), content: file(name), fingerprint: seen.fingerprint });
    }
    assert_eq!(ws.succeed(asked).changed_inputs, [path("changed"), path("gone")]);
}

fn file(text: &str) -> Content {
    Content::File { digest: DigestFunction::default().digest(text.as_bytes()), executable: false }
}

/// Times and other names of a file are not its content.
#[test]
fn inputs_with_other_times_and_the_same_content_are_not_named() {
    let mut ws = Workspace::new();
    let names = ["touched", "linked", "mode", "replaced", "executable", "relinked", "retargeted", "outside", "other"];
    for name in &names[..5] {
        std::fs::write(ws.root().join(name), name).expect("write");
    }
    let outside = tempfile::tempdir().expect("temporary directory");
    for name in ["outside", "other"] {
        std::fs::write(outside.path().join(name), name).expect("write");
        std::os::unix::fs::symlink(outside.path().join(name), ws.root().join(name)).expect("links");
    }
    for name in ["relinked", "retargeted"] {
        std::os::unix::fs::symlink(name, ws.root().join(name)).expect("links");
    }
    let command = format!(
        "touch touched; ln linked another; chmod 600 mode; cp replaced x; mv x replaced; chmod +x executable; \
         rm relinked retargeted; ln -s relinked relinked; ln -s xxxxxxxxxx retargeted; touch {0}/outside; \
         echo OTHE > {0}/other",
        outside.path().display()
    );
    let mut asked = shell(&command, vec![]);
    for name in names {
        let at = ws.root().join(name);
        let (content, fingerprint) = match name {
            "relinked" | "retargeted" => {
                let seen = minibuild_disk::stat_batch(ws.root(), &[name], 1)[0].expect("there");
                (Content::Symlink { target: name.into() }, seen.fingerprint)
            }
            _ => (file(name), minibuild_disk::fingerprint_behind(&at).expect("there")),
        };
        asked.verify.push(ExpectedInput { path: path(name), content, fingerprint });
    }
    assert_eq!(ws.succeed(asked.clone()).changed_inputs, [path("executable"), path("retargeted"), path("other")]);
    asked.command.argv[3] = "true".into();
    assert_eq!(ws.succeed(asked).changed_inputs, [path("executable"), path("retargeted"), path("other")]);
}

#[test]
fn slots_work_at_the_same_time_and_one_too_many_waits() {
    let mut ws = Workspace::with(2, None);
    ws.make_pipe("a");
    ws.make_pipe("b");
    // Each waits for the other, so both have to run at once.
    let first = ws.start(shell("echo 1 > a; read x < b", vec![]));
    let second = ws.start(shell("read x < a; echo 2 > b", vec![]));
    let third = ws.start(shell("true", vec![]));
    let mut ended = Vec::new();
    while ended.len() < 3 {
        if let ExecutorEvent::Finished(report) = ws.event() {
            assert!(report.run != third || !ended.is_empty(), "there was no slot for it");
            ended.push((report.run, report.status));
        }
    }
    ended.sort_by_key(|(run, _)| *run);
    assert_eq!(ended, [first, second, third].map(|run| (run, ExecutionStatus::Exited(0))));
    ws.executor.shutdown();
}
