//! `explain` and `--dry-run`: each kind of change is named with its old and its new value, before the build that it would
//! cause and after it; and nothing is run, written or waited for.

use std::fs;

use minibuild_testkit::{Workspace, write_program};

use crate::{genrule, test, with_targets, workspace};

/// What is changed, and what has to be said of it.
struct Case {
    name: &'static str,
    change: fn(&Workspace),
    /// Flags of the commands after the change.
    flags: &'static [&'static str],
    says: &'static [&'static str],
}

const RULES: &str = r#"
[vars]
mode = { type = "strings", default = ["-O0"], doc = "Flags." }
tool = { type = "tool", default = "/nonexistent", version = ["--version"], doc = "A tool." }

[rule.made]
doc = "Makes a file."
outputs = ["{make.out}"]
[rule.made.attrs.srcs]
type = "files"
doc = "What is read."
[rule.made.attrs.hdrs]
type = "files"
doc = "What may be read."
[rule.made.attrs.flags]
type = "strings"
doc = "More flags."
[rule.made.action.make]
mnemonic = "Make"
timeout = "10m"
outs = { out = "{name}.out" }
depfile = "{name}.d"
inputs = ["{hdrs}"]
args = ["{vars.tool}", "{out.depfile}", "{out.out}", "{vars.mode}", "{flags}", "{srcs}"]
"#;

/// The tool copies its sources and says that it read `used.h`.
fn tool(version: &str) -> String {
    let depfile = r#"d=$1; o=$2; shift 2; echo "$o: used.h" > $d"#;
    format!("#!/bin/sh\nif [ \"$1\" = --version ]; then echo {version}; exit; fi\n{depfile}\necho \"$@\" > $o\n")
}

fn project() -> Workspace {
    let ws = workspace().file("rules.toml", RULES).file("a.txt", "1").file("used.h", "1").file("unused.h", "1");
    write_program(&ws.outside().join("tool"), &tool("one"));
    let tool = ws.outside().join("tool").display().to_string();
    let configuration = format!(
        "[workspace]\nrules = [\"rules.toml\"]\n[vars]\ntool = {tool:?}\n[env]\nGREETING = \"hello\"\n[build]\nsalt = \"s1\"\n"
    );
    ws.file("minibuild.toml", configuration)
        .file("BUILD.toml", "[[made]]\nname = \"x\"\nsrcs = [\"a.txt\"]\nhdrs = [{ glob = [\"*.h\"] }]\n")
}

fn replace(ws: &Workspace, path: &str, old: &str, new: &str) {
    let text = ws.read(path);
    assert!(text.contains(old), "`{old}` is in {path}");
    ws.write(path, text.replace(old, new));
}

fn cases() -> Vec<Case> {
    vec![
        Case {
            name: "source",
            change: |ws| ws.write("a.txt", "22"),
            flags: &[],
            says: &["input `a.txt` changed: 6b86b273ff34/1 -> 785f3ec7eb32/2"],
        },
        Case {
            name: "discovered header",
            change: |ws| {
                ws.write("unused.h", "3");
                ws.write("used.h", "22");
            },
            flags: &[],
            says: &["input `used.h` changed: 6b86b273ff34/1 -> 785f3ec7eb32/2"],
        },
        Case { name: "input added", change: |ws| ws.write("new.h", ""), flags: &[], says: &["input `new.h` is new"] },
        Case {
            name: "input removed",
            change: |ws| ws.remove("unused.h"),
            flags: &[],
            says: &["input `unused.h` is gone"],
        },
        Case {
            name: "flag",
            change: |ws| replace(ws, "BUILD.toml", "srcs =", "flags = [\"-g\"]\nsrcs ="),
            flags: &[],
            says: &["argument 4 is new: `-g`"],
        },
        Case {
            name: "--var",
            change: |_| {},
            flags: &["--var", "mode=[\"-O2\"]"],
            says: &["argument 3 changed: `-O0` -> `-O2`"],
        },
        Case {
            name: "environment",
            change: |ws| replace(ws, "minibuild.toml", "hello", "good bye"),
            flags: &[],
            says: &["variable `GREETING` changed: `hello` -> `good bye`"],
        },
        Case {
            name: "host tool",
            change: |ws| {
                let path = ws.outside().join("tool");
                fs::remove_file(&path).expect("removes");
                write_program(&path, &tool("two"));
            },
            flags: &[],
            // What the other one says of its version only a build asks: see `tools`.
            says: &["tool `[base]/tool` changed: ", " one -> "],
        },
        Case {
            name: "salt",
            change: |ws| replace(ws, "minibuild.toml", "s1", "s2"),
            flags: &[],
            says: &["`[build] salt` changed: `s1` -> `s2`"],
        },
        Case {
            name: "platform",
            change: |ws| replace(ws, "BUILD.toml", "srcs =", "platform = { container = \"img:2\" }\nsrcs ="),
            flags: &[],
            says: &["platform property `container` is new: `img:2`"],
        },
        Case {
            name: "timeout",
            change: |ws| replace(ws, "rules.toml", "10m", "20m"),
            flags: &[],
            says: &["the timeout changed: `600s` -> `1200s`"],
        },
        Case {
            name: "tag",
            change: |ws| replace(ws, "BUILD.toml", "srcs =", "tags = [\"no-cache\"]\nsrcs ="),
            flags: &[],
            says: &["whether it may be cached is new: `no-cache`"],
        },
        Case {
            name: "output deleted",
            change: |ws| ws.remove("minibuild-out/bin/x.out"),
            flags: &[],
            says: &["output `minibuild-out/bin/x.out` is not on disk"],
        },
    ]
}

#[test]
fn each_kind_of_change_is_named_with_old_and_new_value() {
    for Case { name, change, flags, says } in cases() {
        let ws = project();
        ws.build(&["//:x"]).ok();
        change(&ws);
        let explain = |words: &[&str]| {
            let text = ws.run(&[&["explain"], flags, words].concat()).ok().stdout;
            text.replace(&ws.outside().display().to_string(), "[base]")
        };
        let before = explain(&["//:x"]);
        for text in [&["//:x Make minibuild-out/bin/x.out\n  would run:\n"], says].concat() {
            assert!(before.contains(text), "{name}: `{text}` is not in\n{before}");
        }
        assert!(!before.contains("unused.h` changed"), "{name}: what was not read is no reason:\n{before}");
        let dry = ws.run(&[&["build", "-n"], flags, &["//:x"]].concat()).ok_without_running();
        let dry = dry.says(&["1 action: 1 would run. Nothing was run."]);
        let said = dry.stderr.replace(&ws.outside().display().to_string(), "[base]");
        assert!(says.iter().all(|text| said.contains(text)), "{name}: {said}");
        let run = ws.run(&[&["build"], flags, &["//:x"]].concat()).ok().started_only(&["//:x"]);
        let reason = run.reason("//:x").replace(&ws.outside().display().to_string(), "[base]");
        assert!(says.iter().all(|text| reason.contains(text)), "{name}: {reason}");
        let after = explain(&["//:x"]);
        for text in [&["  up to date; it last ran because\n"], says].concat() {
            assert!(after.contains(text), "{name}: `{text}` is not in\n{after}");
        }
        ws.run(&[&["build", "-n"], flags, &["//:x"]].concat()).ok().says(&["1 action: 1 up to date. Nothing was run."]);
    }
}

#[test]
fn a_variable_is_named_where_an_argument_comes_from_it() {
    let ws = project();
    ws.build(&["//:x"]).ok();
    let text = ws.run(&["explain", "--var", "mode=[\"-O2\"]", "//:x"]).ok().stdout;
    assert!(text.contains("argument 3 changed: `-O0` -> `-O2` (vars.mode)"), "{text}");
    replace(&ws, "BUILD.toml", "srcs =", "flags = [\"-g\"]\nsrcs =");
    let text = ws.run(&["explain", "//:x"]).ok().stdout;
    assert!(text.contains("argument 4 is new: `-g` (flags = BUILD.toml:3:"), "{text}");
}

/// b copies a, c copies b, t tests c.
fn chain() -> Workspace {
    with_targets(
        &(genrule("a", &["in"], &["a.out"], "cat $SRC > $OUT")
            + &genrule("b", &[":a"], &["b.out"], "cat $SRC > $OUT")
            + &genrule("c", &[":b"], &["c.out"], "cat $SRC > $OUT")
            + &test("t", &[":c"], "test -s $SRC")),
    )
    .file("in", "1")
}

#[test]
fn before_the_first_build_nothing_is_known_and_nothing_is_made() {
    let ws = chain();
    let text = ws.run(&["explain", "//:b"]).ok().stdout;
    for line in [
        "//:b Genrule",
        "its input `minibuild-out/bin/a.out` was not made yet",
        "Of what it needs:",
        "nothing is known of it yet",
    ] {
        assert!(text.contains(line), "`{line}`: {text}");
    }
    ws.run(&["build", "-n", "//:c"]).ok_without_running().says(&["3 actions: 3 would run."]);
    ws.run(&["test", "--dry-run", "//..."]).ok_without_running().says(&["4 actions: 4 would run."]);
    assert!(!ws.path("minibuild-out").exists(), "nothing is made");
}

#[test]
fn what_depends_on_a_change_may_run() {
    let ws = chain();
    ws.test(&["//..."]).ok();
    ws.run(&["test", "-n", "//..."]).ok_without_running().says(&["4 actions: 4 up to date."]);
    ws.write("in", "2");
    let dry = ws.run(&["test", "-n", "//..."]).ok_without_running();
    let dry = dry.says(&["//:a (Genrule) would run: input `in` changed", "4 actions: 1 would run, 3 may run."]);
    dry.says(&["//:b (Genrule) may run: its input `minibuild-out/bin/a.out` is made anew"]);
    let text = ws.run(&["explain", "//:c"]).ok().stdout;
    for line in ["may run, if", "input `minibuild-out/bin/b.out` of //:b", "Of what it needs:", "input `in` changed"] {
        assert!(text.contains(line), "`{line}`: {text}");
    }
    // By path, of an output and of a test's log; from below, and as an absolute path.
    let absolute = ws.bin("a.out").display().to_string();
    for path in ["minibuild-out/bin/a.out", &absolute] {
        let text = ws.run(&["explain", path]).ok().stdout;
        assert!(
            text.starts_with("//:a Genrule minibuild-out/bin/a.out\n  would run:\n    input `in` changed"),
            "{text}"
        );
    }
    let text = ws.run(&["explain", "minibuild-out/testlogs/t/test.log"]).ok().stdout;
    assert!(text.starts_with("//:t "), "{text}");
}

#[test]
fn bytes_that_a_run_needs_are_made_again() {
    let ws = chain();
    ws.build(&["//:c"]).ok();
    ws.remove("minibuild-out/bin/b.out");
    ws.run(&["build", "-n", "//:c"]).ok().says(&["3 actions: 3 up to date."]);
    ws.remove("minibuild-out/bin/c.out");
    let dry = ws.run(&["build", "-n", "//:c"]).ok_without_running();
    dry.says(&["its output `minibuild-out/bin/b.out` is not on disk and `//:c` needs it", "1 up to date, 2 would run"]);
    ws.build(&["//:c"]).ok().started_only(&["//:b", "//:c"]);
}

#[test]
fn what_only_the_remote_store_has_is_not_made_again() {
    let ws = chain();
    let remote = ["--remote-executor=embedded", "--strategy=remote"];
    ws.run(&[&["build", "--download=minimal"], &remote[..], &["//:c"]].concat()).ok();
    assert!(!ws.has_output("c.out"));
    let dry = ws.run(&[&["build", "-n"], &remote[..], &["//:c"]].concat()).ok_without_running();
    dry.says(&["3 actions: 3 up to date."]);
    assert!(!ws.has_output("c.out"), "nothing is brought here");
    // Without that store nobody has them.
    ws.run(&["build", "-n", "//:c"]).ok_without_running().says(&["3 actions: 3 would run."]);
    ws.write("in", "2");
    let dry = ws.run(&[&["build", "-n"], &remote[..], &["//:c"]].concat()).ok_without_running();
    dry.says(&["1 would run, 2 may run", "Caches, which may have results, were not asked."]);
}

#[test]
fn a_run_that_failed_is_the_reason() {
    let ws = with_targets(&genrule("a", &["in"], &["a.out"], "grep good $SRC > $OUT")).file("in", "bad");
    ws.build(&["//:a"]).code(1);
    let text = ws.run(&["explain", "//:a"]).ok().stdout;
    assert!(text.contains("would run:\n    it failed when it last ran"), "{text}");
    ws.remove("in");
    let text = ws.run(&["explain", "//:a"]).code(2);
    assert!(text.stderr.contains("`in`"), "{}", text.stderr);
}

#[test]
fn of_a_group_and_an_alias_it_is_told_who_makes_the_files() {
    let groups = "[[filegroup]]\nname = \"g\"\nsrcs = [\":a\", \"in\"]\n[[alias]]\nname = \"l\"\nactual = \":a\"\n\
                  [[filegroup]]\nname = \"s\"\nsrcs = [\"in\"]\n";
    let ws = with_targets(&(genrule("a", &["in"], &["a.out"], "cat $SRC > $OUT") + groups)).file("in", "1");
    for label in ["//:g", "//:l", "//:a"] {
        let text = ws.run(&["explain", label]).ok().stdout;
        assert!(text.starts_with("//:a Genrule minibuild-out/bin/a.out\n  would run:"), "{label}: {text}");
    }
    ws.run(&["explain", "//:s"]).code(2).says(&["`//:s` has no actions"]);
}

#[test]
fn what_cannot_be_explained_is_an_error() {
    let ws = chain();
    ws.run(&["explain", "//:z"]).code(2).says(&["no target `z`"]);
    ws.run(&["explain", "in"]).code(2).says(&["`in` is a source file"]);
    ws.run(&["explain", "minibuild-out/bin/none"]).code(2).says(&["nobody makes `minibuild-out/bin/none`"]);
    ws.run(&["explain", "/etc/passwd"]).code(2).says(&["outside of the workspace"]);
    ws.run(&["explain"]).code(2);
    ws.run(&["fetch", "-n", "//:a"]).code(2).says(&["`fetch` runs nothing"]);
}

#[test]
fn neither_takes_a_lock_nor_touches_the_state() {
    let ws = workspace();
    let mut gate = ws.gate("g");
    let targets = genrule("a", &[], &["a"], &format!("{}; : > $OUT", gate.pass()));
    ws.write("BUILD.toml", targets + &genrule("b", &["in"], &["b"], "cat $SRC > $OUT"));
    ws.write("in", "1");
    ws.build(&["//:b"]).ok();
    ws.write("in", "2");
    let build = ws.start_build(&["//:a"]);
    gate.arrival();
    let state = || ["records", "manifests"].map(|name| fs::read(ws.path(&format!("minibuild-out/.state/{name}"))).ok());
    let before = state();
    ws.run(&["explain", "//:b"]).ok();
    ws.run(&["build", "-n", "//..."]).ok().says(&["2 would run"]);
    assert!(before == state(), "the state is as it was");
    gate.open();
    build.wait().ok();
}
