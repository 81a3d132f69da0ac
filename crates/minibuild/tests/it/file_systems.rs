//! File systems that lack what others have, limits, and a checkout that brings its own `minibuild-out`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;

use minibuild_testkit::{Refusal, Signal, Workspace, with_refused};

use crate::{genrule, test, with_targets};

/// Local and remote builds, an edit, a tree with read-only directories, `clean`.
fn lives(ws: &Workspace) {
    ws.build(&["//..."]).ok();
    ws.build(&["//..."]).ok();
    assert_eq!(ws.output("a"), "1\n");
    for text in ["2\n", "3\n"] {
        ws.write("in", text);
        ws.build(&["//..."]).ok();
        assert_eq!((ws.output("a").as_str(), ws.output("t/d/f").as_str()), (text, text));
    }
    ws.write("in", "4\n");
    ws.build(&["--remote-executor=embedded", "//..."]).ok();
    assert_eq!(ws.output("t/d/f"), "4\n");
    ws.run(&["clean"]).ok();
    ws.build(&["//..."]).ok();
    assert_eq!(ws.output("t/d/f"), "4\n");
    let cache = format!("--disk-cache={}", ws.outside().join("cache").display());
    ws.write("in", "5\n");
    for hits in [0, 2] {
        ws.run(&["clean", "--all"]).ok();
        assert!(!ws.path("minibuild-out").exists());
        let run = ws.build(&[&cache, "//..."]).ok();
        assert_eq!((run.counts().disk_cache, run.messages("warning").len()), (hits, 0), "{}", run.stderr);
    }
}

#[test]
fn builds_live_without_what_a_file_system_may_lack() {
    let refusals: [&[Refusal]; 3] = [&[Refusal::RenameFlags], &[Refusal::FileModes], &[Refusal::OpenBeneath]];
    for refusals in refusals {
        // The command leaves a directory in `$TMPDIR`, which is moved away.
        let cmd = "mkdir -p ${TMPDIR:-tmp}/x $OUT_DIR/d && cp $SRC $OUT_DIR/d/f";
        let ws = with_targets(
            &(genrule("a", &["in"], &["a"], "mkdir -p ${TMPDIR:-tmp}/y; cat $SRC > $OUT")
                + &format!("[[genrule]]\nname = \"t\"\nsrcs = [\"in\"]\nout_dirs = [\"t\"]\ncmd = {cmd:?}\n")),
        )
        .file("in", "1\n");
        // A workspace keeps cells and cannot be shared with the thread, but be given to it.
        if with_refused(refusals, move || lives(&ws)).is_none() {
            return;
        }
    }
}

#[test]
fn a_file_system_without_locks_is_told_with_a_way_out() {
    let ws = plain();
    let run = with_refused(&[Refusal::Locks], move || ws.build(&["//:a"]));
    if let Some(run) = run {
        run.code(1).says(&["cannot take the lock `", "no locks (flock)", "hint: make `minibuild-out` a symlink"]);
    }
}

fn plain() -> Workspace {
    with_targets(&genrule("a", &[], &["a"], "echo x > $OUT"))
}

#[test]
fn a_checkout_that_leads_minibuild_out_elsewhere_harms_nothing() {
    let ws = plain();
    let victim = ws.outside().join("victim");
    fs::create_dir_all(victim.join("bin")).expect("makes");
    fs::write(victim.join("bin/mine"), "mine").expect("writes");
    let ws = ws.link("minibuild-out", "../victim");
    for args in [&["build", "//:a"][..], &["clean"], &["clean", "--all"], &["test", "//..."]] {
        let run = ws.run(args).code(1);
        run.says(&["cannot use `", "minibuild-out`: it is a symlink to `../victim`", "hint: remove the link"]);
    }
    let left: Vec<_> = fs::read_dir(&victim).expect("lists").map(|e| e.expect("entry").file_name()).collect();
    assert_eq!((left.len(), fs::read_to_string(victim.join("bin/mine")).expect("reads")), (1, "mine".to_owned()));
}

#[test]
fn a_checkout_with_links_in_its_state_harms_nothing() {
    let ws = plain();
    let home = ws.home();
    let mine = home.join("mine");
    let untouched = || {
        assert_eq!(fs::read_to_string(&mine).expect("reads"), "mine");
        assert_eq!(fs::read_dir(home.join("dir")).expect("lists").count(), 1);
        assert!(!home.join("new").exists());
    };
    fs::write(&mine, "mine").expect("writes");
    fs::create_dir(home.join("dir")).expect("makes");
    fs::write(home.join("dir/mine"), "mine").expect("writes");
    let state = ws.path("minibuild-out/.state");
    for args in
        [&["clean"][..], &["build", "//:a"], &["build", "--remote-executor=embedded", "//:a"], &["clean", "--all"]]
    {
        let _ = fs::remove_dir_all(ws.path("minibuild-out"));
        fs::create_dir_all(state.join("store")).expect("makes");
        for name in ["lock", "records", "manifests", "records.new", "clock", "jobserver", "origin", "store/size"] {
            symlink(&mine, state.join(name)).expect("links");
        }
        for name in ["embedded", "tmp", "trash", "staging", "testlogs", "store/cas", "../bin", "../testlogs"] {
            symlink(home.join("dir"), state.join(name)).expect("links");
        }
        for name in ["../.gitignore", "../CACHEDIR.TAG"] {
            symlink(home.join("new"), state.join(name)).expect("links");
        }
        ws.run(args).ok();
        untouched();
    }
    ws.build(&["//:a"]).ok();
    ws.remove("minibuild-out");
    let ws = ws.link("minibuild-out/.state", "../../home/dir");
    ws.build(&["//:a"]).code(1).says(&["minibuild-out/.state`: it is a symlink", "hint: remove it"]);
    ws.run(&["clean", "--all"]).code(1);
    untouched();
}

#[test]
fn clean_all_empties_what_a_linked_output_directory_leads_to() {
    let ws = plain();
    let disk = ws.outside().join("big-disk");
    fs::create_dir(&disk).expect("makes");
    let ws = ws.link("minibuild-out", "../big-disk");
    ws.build(&["//:a"]).ok();
    ws.run(&["clean"]).ok();
    assert!(!ws.has_output("a") && disk.join(".state").is_dir());
    ws.build(&["//:a"]).ok();
    ws.run(&["clean", "--all"]).ok();
    assert_eq!(fs::read_dir(&disk).expect("lists").count(), 0);
    assert!(fs::symlink_metadata(ws.path("minibuild-out")).expect("stays").is_symlink());
    ws.build(&["//:a"]).ok();
    assert_eq!(fs::read_to_string(disk.join("bin/a")).expect("reads"), "x\n");
}

#[test]
fn clean_all_removes_what_cannot_be_listed_or_written() {
    let ws = plain();
    ws.build(&["//:a"]).ok();
    fs::create_dir_all(ws.path("minibuild-out/bin/d/e")).expect("makes");
    fs::write(ws.path("minibuild-out/own"), "").expect("writes");
    for dir in ["minibuild-out/bin/d/e", "minibuild-out/bin/d", "minibuild-out/.state/store"] {
        if let Ok(meta) = fs::metadata(ws.path(dir)) {
            let mut mode = meta.permissions();
            mode.set_mode(0o500);
            fs::set_permissions(ws.path(dir), mode).expect("changes");
        }
    }
    ws.run(&["clean", "--all"]).ok();
    assert!(!ws.path("minibuild-out").exists());
}

/// A binary that is started with a limit of the shell's `ulimit`.
fn limited(limit: &str) -> Workspace {
    let script = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("limited-{}", std::process::id()));
    fs::write(&script, format!("#!/bin/sh\nulimit {limit}\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_minibuild")))
        .expect("writes");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("changes");
    Workspace::new(&script.display().to_string())
}

#[test]
fn a_limit_of_file_sizes_is_an_error_that_is_told() {
    let targets: String = (0..400).map(|n| genrule(&format!("t{n}"), &[], &[&format!("t{n}")], ": > $OUT")).collect();
    let ws = limited("-f 16").file("BUILD.toml", &targets);
    ws.invoke(&["build", "//..."])
        .without_events()
        .run()
        .code(1)
        .says(&["File too large", "hint: files may not become that large"]);
    // Commands have the usual effect of it.
    let big = genrule("big", &[], &["big"], "head -c 100000 /dev/zero > $OUT");
    let ws = limited("-f 16").file("BUILD.toml", big);
    ws.invoke(&["build", "//..."]).without_events().run().code(1).says(&["//:big (Genrule) failed"]);
}

#[test]
fn what_a_failed_or_stopped_run_left_surprises_no_later_build() {
    let cmd = "cp $SRC $OUT; test \"$(cat $SRC)\" != bad";
    let targets = |cmd: &str| genrule("a", &["in"], &["a"], cmd) + &genrule("b", &[":a"], &["b"], "cat $SRC > $OUT");
    let ws = with_targets(&targets(cmd)).file("in", "good");
    ws.build(&["//:b"]).ok();
    ws.write("in", "bad");
    ws.build(&["//:b"]).code(1);
    ws.write("in", "good");
    ws.build(&["//:b"]).ok().says_nothing_of("changed by something else");
    // From now on it is a surprise again.
    let _ = fs::remove_file(ws.bin("a"));
    fs::write(ws.bin("a"), "other").expect("writes");
    ws.build(&["//:b"]).ok().says(&["`minibuild-out/bin/a` was changed by something else than its action"]);
    let mut gate = ws.gate("g");
    ws.write("BUILD.toml", targets(&format!("cp $SRC $OUT; {}", gate.pass())));
    let build = ws.start_build(&["//:b"]);
    gate.arrival();
    build.signal(Signal::SIGINT);
    build.wait().code(8);
    ws.write("BUILD.toml", targets(cmd));
    ws.build(&["//:b"]).ok().says_nothing_of("changed by something else");
}

#[test]
fn cached_tests_have_their_logs_after_clean() {
    let ws = with_targets(&(test("t", &["in"], "cat $SRC") + &test("u", &["in"], "echo u"))).file("in", "said\n");
    let log = |name: &str| ws.read(&format!("minibuild-out/testlogs/{name}/test.log"));
    ws.test(&["//..."]).ok();
    ws.test(&["//..."]).ok_without_running();
    for _ in 0..2 {
        ws.run(&["clean"]).ok();
        assert!(!ws.path("minibuild-out/testlogs").exists());
        ws.test(&["//..."]).ok_without_running();
        assert_eq!((log("t").as_str(), log("u").as_str()), ("said\n", "u\n"));
    }
    ws.run(&["clean"]).ok();
    ws.write("in", "other\n");
    ws.test(&["//:t"]).ok();
    assert_eq!(log("t"), "other\n");
    ws.test(&["//..."]).ok();
    assert_eq!(log("u"), "u\n");
    ws.remove("minibuild-out/testlogs");
    ws.test(&["//..."]).ok_without_running();
    assert!(log("t").contains("deleted since"), "{}", log("t"));
}

#[test]
fn an_output_that_is_a_link_to_an_input_is_a_copy_here_and_remotely() {
    for args in [&[][..], &["--remote-executor=embedded", "--strategy=remote"]] {
        let ws = with_targets(
            &(genrule("a", &["s"], &["a"], "ln -s ../../s $OUT")
                + &genrule("b", &[":a", "l"], &["b"], "ln -s a $OUT")
                + &genrule("c", &["l", ":b"], &["c"], "ln -s ../../l $OUT")
                + &genrule("d", &[":c"], &["d"], "cat $SRC > $OUT")),
        )
        .file("s", "s\n")
        .file("x/y", "y\n")
        .link("l", "x/y");
        ws.build(&[args, &["//..."]].concat()).ok();
        for (name, text) in [("a", "s\n"), ("b", "s\n"), ("c", "y\n"), ("d", "y\n")] {
            assert_eq!(ws.output(name), text, "{args:?} {name}");
            assert!(fs::symlink_metadata(ws.bin(name)).expect("is there").is_file(), "{name}");
        }
        ws.build(&[args, &["//..."]].concat()).ok_without_running();
        ws.write("BUILD.toml", genrule("e", &["s"], &["e"], "ln -s ../../none $OUT"));
        ws.build(&[args, &["//..."]].concat()).code(1).says(&["is a symlink"]);
    }
}

#[test]
fn depfiles_and_response_files_of_runs_that_came_to_nothing_do_not_stay() {
    let target = |cmd: &str| {
        let files = "outs = [\"t\"]\ndepfile = \"t.d\"\nrspfile = { path = \"t.rsp\", content = \"$SRCS\" }";
        format!("[[genrule]]\nname = \"t\"\nsrcs = [\"in\"]\n{files}\ncmd = {cmd:?}\n")
    };
    let make = "echo \"$OUT: in\" > $(location t.d); cp in $OUT";
    let ws = with_targets(&target(make)).file("in", "1");
    let left = || ["t.d", "t.rsp"].map(|name| ws.bin(name).exists());
    ws.build(&["//:t"]).ok();
    assert_eq!(left(), [false, false]);
    // A failure keeps what it takes to repeat the command by hand, until the next build.
    ws.write("BUILD.toml", target(&format!("{make}; exit 1")));
    ws.build(&["//:t"]).code(1);
    assert_eq!(left(), [false, true]);
    ws.write("BUILD.toml", target(make));
    ws.build(&["//:t"]).ok();
    assert_eq!(left(), [false, false]);
    let mut gate = ws.gate("g");
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        ws.write("BUILD.toml", target(&format!("{make}; {}", gate.pass())));
        let build = ws.invoke(&["build", "//:t"]).without_events().start();
        gate.arrival();
        build.signal(signal);
        build.wait();
        ws.nothing_is_left_running();
        ws.write("BUILD.toml", target(make));
        ws.build(&["//:t"]).ok();
        assert_eq!(left(), [false, false], "{signal}");
    }
}
