//! Where settings and variables come from, and which of them wins.

use minibuild_testkit::Workspace;

use crate::workspace;

const RULES: &str = r#"
    doc = "A rule that writes a variable."
    [vars]
    greeting = { type = "string", default = "default", doc = "What is said." }
    [config.loud.vars]
    greeting = "rule file's config"
    [rule.say]
    doc = "Writes the greeting."
    outputs = ["{write.text}"]
    [rule.say.action.write]
    outs = { text = "{name}.txt" }
    write = ["{vars.greeting}"]
"#;

fn greeting_workspace(settings: &str) -> Workspace {
    workspace()
        .file("minibuild.toml", format!("[workspace]\nrules = [\"say.toml\"]\n{settings}"))
        .file("say.toml", RULES)
        .file("BUILD.toml", "[[say]]\nname = \"hello\"\n")
}

#[test]
fn each_place_of_a_variable_beats_the_one_before() {
    let ws = greeting_workspace("");
    let says = |args: &[&str], env: &[(&str, &str)], expected: &str| {
        let mut invocation = ws.invoke(&[&["build"], args, &["//:hello"]].concat());
        for (name, value) in env {
            invocation = invocation.env(name, value);
        }
        invocation.run().ok();
        assert_eq!(ws.output("hello.txt"), format!("{expected}\n"));
    };
    says(&[], &[], "default");
    std::fs::create_dir_all(ws.home().join(".config/minibuild")).expect("makes directories");
    std::fs::write(ws.home().join(".config/minibuild/config.toml"), "[vars]\ngreeting = \"user\"\n").expect("writes");
    says(&[], &[], "user");
    ws.write("minibuild.toml", "[workspace]\nrules = [\"say.toml\"]\n[vars]\ngreeting = \"workspace\"\n");
    says(&[], &[], "workspace");
    ws.write("minibuild.local.toml", "[vars]\ngreeting = \"local\"\n");
    says(&[], &[], "local");
    says(&["--config=loud"], &[], "rule file's config");
    ws.write("minibuild.toml", ws.read("minibuild.toml") + "[config.loud.vars]\ngreeting = \"config\"\n");
    says(&["--config=loud"], &[], "config");
    says(&["--config=loud"], &[("MINIBUILD_VAR_GREETING", "environment")], "environment");
    says(&["--config=loud", "--var=greeting=flag"], &[("MINIBUILD_VAR_GREETING", "environment")], "flag");
    says(&["--var", "greeting=a=b"], &[], "a=b");
}

#[test]
fn an_output_is_made_again_only_when_its_variable_changes() {
    let ws = greeting_workspace("");
    ws.build(&["//:hello"]).ok().started_only(&["//:hello"]);
    ws.build(&["//:hello", "--var=greeting=default"]).ok_without_running();
    ws.build(&["//:hello", "--var=greeting=other"]).ok().started_only(&["//:hello"]);
}

#[test]
fn conditional_entries_follow_the_variable() {
    let targets = r#"
        [[genrule]]
        name = "a"
        srcs = [{ when = { vars.greeting = "x" }, items = ["x.txt"] }, { when = { vars.greeting = ["y", "z"] }, items = ["y.txt"] }]
        outs = ["a"]
        cmd = "cat $SRC > $OUT"
    "#;
    let ws = greeting_workspace("").file("x.txt", "X").file("y.txt", "Y");
    ws.write("BUILD.toml", targets);
    for (value, expected) in [("x", "X"), ("y", "Y"), ("z", "Y"), ("x", "X")] {
        ws.build(&["//:a", "--var", &format!("greeting={value}")]).ok();
        assert_eq!(ws.output("a"), expected);
    }
}

#[test]
fn mistakes_in_settings_are_told_with_a_suggestion() {
    let check = |args: &[&str], env: Option<(&str, &str)>, expected: &[&str]| {
        let ws = greeting_workspace("");
        let mut invocation = ws.invoke(&[&["build", "//:hello"], args].concat());
        if let Some((name, value)) = env {
            invocation = invocation.env(name, value);
        }
        invocation.run().code(2).says(expected).started_only(&[]);
    };
    check(&["--var=greting=x"], None, &["greting", "did you mean `greeting`"]);
    check(&["--var=greeting"], None, &["`--var greeting` has no `=`", "hint:"]);
    check(&["--config=laud"], None, &["laud", "did you mean `loud`"]);
    check(&["--jobs=none"], None, &["none"]);
    check(&["--jobs=0"], None, &["jobs"]);
    check(&["--download=some"], None, &["some", "toplevel"]);
    check(&[], Some(("MINIBUILD_VAR_GRETING", "x")), &["MINIBUILD_VAR_GRETING"]);
    check(
        &["--strategy=Genrul=local"],
        None,
        &["--strategy: no rule has actions of the mnemonic `Genrul`", "`Genrule`?"],
    );
    check(&[], Some(("MINIBUILD_STRATEGY", "Foo=local")), &["MINIBUILD_STRATEGY: no rule has actions", "there are"]);
}

#[test]
fn a_strategy_of_an_unknown_mnemonic_is_an_error_also_where_nothing_is_to_be_done() {
    let ws = greeting_workspace("");
    ws.build(&["//:hello"]).ok();
    ws.build(&["//:hello"]).ok_without_running().from_snapshot();
    for _ in 0..2 {
        ws.build(&["//:hello", "--strategy=Foo=local"]).code(2).says(&["`Foo`"]);
        ws.build(&["//:hello", "--strategy=Genrule=local"]).ok_without_running();
    }
    ws.write("minibuild.local.toml", "[build.strategy]\nFoo = \"local\"\n");
    ws.build(&["//:hello"]).code(2).says(&["`Foo`", "minibuild.local.toml:1:"]);
    // The user's own file is for all workspaces.
    let dir = ws.home().join(".config/minibuild");
    std::fs::create_dir_all(&dir).expect("makes directories");
    std::fs::rename(ws.path("minibuild.local.toml"), dir.join("config.toml")).expect("moves");
    ws.build(&["//:hello"]).ok();
}

#[test]
fn configuration_that_is_a_pipe_is_an_error_at_once() {
    let ws = greeting_workspace("");
    let dir = ws.home().join(".config/minibuild");
    std::fs::create_dir_all(&dir).expect("makes directories");
    let pipe = dir.join("config.toml");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
    assert!(made.success());
    ws.build(&["//:hello"]).code(2).says(&["cannot read `", "/config.toml`: it is not a regular file"]);
    let elsewhere = ws.path("authorities");
    std::fs::rename(&pipe, &elsewhere).expect("moves");
    ws.write("minibuild.local.toml", format!("[remote]\ntls_ca = \"{}\"\n", elsewhere.display()));
    let args = ["--remote-cache=grpcs://127.0.0.1:1", "//:hello"];
    ws.build(&args).code(2).says(&["/authorities`", "it is not a regular file"]);
}

#[test]
fn unknown_keys_of_the_workspace_file_are_errors_with_their_place() {
    let ws = greeting_workspace("[build]\njbos = 3\n");
    ws.build(&["//:hello"]).code(2).says(&["jbos", "did you mean `jobs`", "minibuild.toml:4:1"]);
    ws.write("minibuild.toml", "[workspace]\nrules = [\"say.toml\"]\n");
    ws.write("minibuild.local.toml", "[worksapce]\n");
    ws.build(&["//:hello"]).code(2).says(&["worksapce", "did you mean `workspace`", "minibuild.local.toml:1:2"]);
    ws.remove("minibuild.local.toml");
    ws.build(&["//:hello"]).ok();
}

#[test]
fn ignored_directories_are_never_packages() {
    let ws = greeting_workspace("ignore = [\"vendor\"]\n")
        .file("vendor/x/BUILD.toml", "not toml [")
        .file(".git/BUILD.toml", "[");
    ws.build(&["//..."]).ok().started_only(&["//:hello"]);
    // Its own outputs neither.
    ws.write("minibuild-out/bin/BUILD.toml", "[");
    ws.build(&["//..."]).ok_without_running();
}
