//! `info` and `schema`, which answer on stdout, and the command line itself.

use crate::{genrule, with_targets, workspace};

#[test]
fn info_tells_of_the_workspace_rules_and_shipped_files() {
    let ws = workspace().file("minibuild.toml", "[workspace]\nrules = [\"@std/c.toml\"]\n");
    let overview = ws.run(&["info"]).ok().stdout;
    for text in ["workspace: [ws]\n", "[ws]/minibuild-out/bin", "c_library", "genrule"] {
        assert!(overview.contains(text), "`{text}`: {overview}");
    }
    let rule = ws.run(&["info", "c_library"]).ok().stdout;
    assert!(rule.contains("srcs") && rule.contains("What to compile."), "{rule}");
    let file = ws.run(&["info", "@std/c.toml"]).ok().stdout;
    assert!(file.contains("[rule.c_library]"), "{file}");
    ws.run(&["info", "c_libary"]).code(2).says(&["c_libary", "c_library"]);
    assert!(!ws.path("minibuild-out").exists(), "nothing is made");
}

#[test]
fn info_takes_no_lock() {
    let ws = workspace();
    let mut gate = ws.gate("g");
    ws.write("BUILD.toml", genrule("a", &[], &["a"], &format!("{}; : > $OUT", gate.pass())));
    let build = ws.start_build(&["//:a"]);
    gate.arrival();
    ws.run(&["info"]).ok();
    ws.run(&["schema"]).ok();
    gate.open();
    build.wait().ok();
}

#[test]
fn schemas_are_json_and_know_the_rules_of_the_workspace() {
    let ws = workspace().file("minibuild.toml", "[workspace]\nrules = [\"@std/c.toml\"]\n");
    for kind in ["build", "workspace", "rules"] {
        let text = ws.run(&["schema", kind]).ok().stdout;
        let schema: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{kind}: {e}"));
        assert!(schema.get("$schema").is_some() && schema.get("properties").is_some(), "{kind}");
    }
    let text = ws.run(&["schema"]).ok().stdout;
    let schema: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for rule in ["genrule", "test", "filegroup", "alias", "c_library", "c_binary", "c_test"] {
        assert!(schema["properties"].get(rule).is_some(), "{rule}");
    }
    ws.run(&["schema", "other"]).code(2);
}

#[test]
fn schemas_are_there_outside_of_a_workspace_too() {
    let ws = workspace();
    let run = ws.run(&["-C", "../home", "schema"]).ok();
    assert!(serde_json::from_str::<serde_json::Value>(&run.stdout).is_ok());
}

#[test]
fn outside_of_a_workspace_there_is_nothing_to_build() {
    let ws = workspace();
    for args in [["build", "//..."].as_slice(), &["clean"], &["info"]] {
        let run = ws.run(&[&["-C", "../home"], args].concat()).code(2);
        run.says(&["is in no workspace", "minibuild.toml", "hint: "]);
    }
    ws.run(&["-C", "no/such/dir", "build", "//..."]).code(2).says(&["no/such/dir"]);
    ws.write("file", "");
    ws.run(&["-C", "file", "build", "//..."]).code(2).says(&["/file`: it is not a directory"]);
}

#[test]
fn bad_command_lines_are_exit_code_2() {
    let ws = with_targets("");
    for args in [["build"].as_slice(), &["build", "--no-such-flag", "//..."], &["biuld"], &[], &["build", "--jobs"]] {
        ws.invoke(args).without_events().run().code(2);
    }
    ws.invoke(&["--help"]).without_events().run().ok();
    assert!(ws.invoke(&["--version"]).without_events().run().ok().stdout.starts_with("minibuild "));
}

#[test]
fn an_answer_that_cannot_be_written_is_an_error() {
    let ws = with_targets(&genrule("a", &[], &["a"], ": > $OUT"));
    ws.build(&["//:a"]).ok();
    for command in [
        "query //...",
        "explain //:a",
        "explain --race //:a",
        "explain --argv //:a",
        "compdb",
        "info",
        "info genrule",
        "schema",
        "completions bash",
        "completions man",
        "--help",
        "build --help",
        "--version",
    ] {
        let args: Vec<&str> = command.split(' ').collect();
        let full = ws.invoke(&args).without_events().through(&["/bin/sh", "-c", "exec \"$@\" > /dev/full", "sh"]).run();
        full.code(38).says(&["ERROR: cannot write the answer to stdout: "]);
        ws.invoke(&args).without_events().run().ok();
    }
}

#[test]
fn every_error_begins_with_the_same_word() {
    let ws = with_targets(&genrule("a", &[], &["a"], ": > $OUT"));
    let check = |args: &[&str]| {
        let run = ws.run(args);
        assert!(run.stderr.starts_with("ERROR: "), "{args:?}: {}", run.stderr);
    };
    check(&["build", "//:a", "--var=x"]);
    check(&["build", "//:a", "--no-such-flag"]);
    check(&["build", "//:a", "--jobs=0"]);
    check(&["build", "//:nope"]);
    check(&["build", "//:a", "--download-regex=("]);
    check(&["build", "//:a", "--strategy=remote"]);
    check(&["test", "//:a"]);
    check(&["run", "//:a"]);
    check(&["fetch", "-n", "//:a"]);
    for command in ["query", "explain", "compdb", "info"] {
        check(&[command, "--var=x", "//:a"]);
    }
    check(&["query", "//:a +"]);
    check(&["explain", "//:nope"]);
    check(&["info", "nope"]);
    check(&["completions", "man", "nope"]);
    check(&["serve", "--listen=nowhere"]);
    ws.write("BUILD.toml", "[[nope]]\n");
    for command in ["build", "test", "query", "explain", "compdb"] {
        check(&[command, "//:a"]);
    }
    // The lock, the state, the place of outputs.
    ws.remove("minibuild-out");
    ws.write("minibuild-out", "a file");
    check(&["build", "//:a"]);
    check(&["clean"]);
}
