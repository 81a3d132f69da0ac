//! Version commands of host tools: whatever a tool does when it is asked, the build ends, and says why.

use minibuild_testkit::{Gate, Signal, Workspace, write_program};

use crate::with_targets;

const RULE: &str = r#"
[vars]
tool = { type = "tool", default = "odd-tool", version = ["--version"], doc = "A tool." }
[rule.made]
doc = "Uses the tool."
outputs = ["{make.out}"]
[rule.made.action.make]
outs = { out = "{name}.o" }
args = ["{vars.tool}", "{out.out}"]
"#;

/// A workspace whose `//:a` is made by a tool, and a gate. What the tool does for `--version` is up to `script`.
fn with_tool(script: impl FnOnce(&Gate) -> String) -> (Workspace, Gate) {
    let ws = with_targets("[[made]]\nname = \"a\"\n").file("rules.toml", RULE);
    let gate = ws.gate("g");
    let tools = ws.outside().join("tools");
    let path = format!("[env]\nPATH = \"{}:/usr/bin:/bin\"\n", tools.display());
    ws.write("minibuild.toml", format!("[workspace]\nrules = [\"rules.toml\"]\n{path}"));
    write_tool(&ws, &script(&gate));
    (ws, gate)
}

fn write_tool(ws: &Workspace, script: &str) {
    let text = format!("#!/bin/sh\nif [ \"$1\" != --version ]; then echo made > $1; exit; fi\n{script}\n");
    write_program(&ws.outside().join("tools/odd-tool"), &text);
}

#[test]
fn child_of_a_version_command_that_keeps_its_output_open_is_not_waited_for() {
    let (ws, _gate) = with_tool(|_| "setsid sleep 1000 & sleep 1000 & echo 1.0".to_owned());
    ws.build(&["//..."]).ok();
    ws.nothing_is_left_running();
    // What it printed before its end is its version.
    write_tool(&ws, "echo 1.0");
    ws.build(&["//..."]).ok().started_only(&["//:a"]);
    ws.build(&["//..."]).ok_without_running();
}

#[test]
fn slow_version_command_is_named_and_the_first_signal_ends_it() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let (ws, mut gate) = with_tool(|gate| format!("trap '' TERM INT; {}", gate.pass()));
        let mut build = ws.start_build(&["//..."]);
        gate.arrival();
        build.wait_for_stderr("odd-tool --version` to tell its version, at most 10 s");
        build.signal(signal);
        build.wait().code(8).started_only(&[]);
        ws.nothing_is_left_running();
    }
}

#[test]
fn version_command_that_never_ends_fails_what_needs_it_and_nothing_else() {
    let (ws, mut gate) = with_tool(|gate| format!("trap '' TERM; {}", gate.pass()));
    ws.write("BUILD.toml", ws.read("BUILD.toml") + &crate::genrule("other", &[], &["other"], "echo > $OUT"));
    let texts = ["//:a (make) failed: cannot learn the version of tool `odd-tool`", "did not end within 10 s\nhint: "];
    let run = ws.build(&["-k", "//..."]).code(1).says(&texts);
    assert_eq!(run.targets(), [("//:a", false), ("//:other", true)]);
    gate.arrival();
    ws.nothing_is_left_running();
    // Nothing of it is remembered.
    gate.open();
    ws.build(&["//..."]).ok().started_only(&["//:a"]);
}

#[test]
fn endless_version_is_cut_short_without_taking_memory_or_disk() {
    let (ws, _gate) = with_tool(|_| "exec yes".to_owned());
    let run = ws.invoke(&["build", "//..."]).through(&["prlimit", "--as=4000000000"]).run();
    run.code(1).says(&["cannot learn the version of tool `odd-tool`", "--version` printed more than 1024 KiB"]);
    ws.nothing_is_left_running();
    write_tool(&ws, "head -c 2000000 /dev/zero | tr '\\0' x");
    ws.build(&["//..."]).code(1).says(&["printed more than 1024 KiB"]);
}

#[test]
fn version_that_cannot_be_asked_is_not_taken_for_one() {
    let (ws, _gate) = with_tool(|_| "kill -9 $$".to_owned());
    ws.build(&["//..."]).code(1).says(&["--version` was ended by signal 9"]);
    write_tool(&ws, "echo 1.0");
    ws.build(&["//..."]).ok();
    // A supervisor may have had signals ignored that commands need.
    let ws = with_tool(|_| "echo 1.0".to_owned()).0;
    ws.invoke(&["build", "//..."]).through(&["env", "--ignore-signal=CHLD"]).run().ok();
    ws.build(&["//..."]).ok_without_running();
}

#[test]
fn preview_and_fetch_start_no_tool_and_take_its_version_for_the_last_one() {
    let (ws, _gate) = with_tool(|_| "echo asked >> asked; echo 1.0".to_owned());
    let asked = |ws: &Workspace| std::fs::read_to_string(ws.path("asked")).unwrap_or_default().lines().count();
    let preview = |ws: &Workspace, expected: &str| {
        ws.invoke(&["build", "-n", "//..."]).without_events().run().ok().says(&[expected]);
        ws.invoke(&["explain", "//:a"]).run().ok();
        ws.run(&["fetch", "//:a"]).code(if expected == "would run" { 1 } else { 0 });
    };
    preview(&ws, "would run");
    assert_eq!(asked(&ws), 0);
    ws.build(&["//..."]).ok();
    let before = asked(&ws);
    preview(&ws, "1 up to date");
    // Another inode and other times, but the same program.
    write_tool(&ws, "echo asked >> asked; echo 1.0");
    preview(&ws, "1 up to date");
    write_tool(&ws, "echo asked >> asked; echo 2.0");
    preview(&ws, "would run");
    let explain = |ws: &Workspace| ws.run(&["explain", "//:a"]).ok().stdout;
    assert!(explain(&ws).contains(" (not asked)\n"), "{}", explain(&ws));
    assert_eq!(asked(&ws), before);
    ws.build(&["//..."]).ok();
    assert!(explain(&ws).contains(" 1.0 -> ") && explain(&ws).contains(" 2.0\n"), "{}", explain(&ws));
}
