//! Kinds of actions beside plain commands: written files, response files, host tools, tags, very many and very deep.

use std::fs;

use minibuild_testkit::Workspace;

use crate::{genrule, with_targets, workspace};

fn with_rules(rules: &str, targets: &str) -> Workspace {
    workspace()
        .file("minibuild.toml", "[workspace]\nrules = [\"rules.toml\"]\n")
        .file("rules.toml", rules)
        .file("BUILD.toml", targets)
}

#[test]
fn a_written_file_needs_no_command() {
    let rules = r##"
        [rule.launcher]
        outputs = ["{write.bin}"]
        run = { executable = "{write.bin}" }
        [rule.launcher.attrs]
        lines = { type = "strings", doc = "What it says." }
        [rule.launcher.action.write]
        outs = { bin = "{name}.sh" }
        executable = true
        write = ["#!/bin/sh", "echo '{lines}'"]
    "##;
    let ws = with_rules(rules, "[[launcher]]\nname = \"l\"\nlines = [\"one\", \"two\"]\n");
    assert_eq!(ws.run(&["run", "//:l"]).ok().stdout, "one\ntwo\n");
    assert_eq!(ws.output("l.sh"), "#!/bin/sh\necho 'one'\necho 'two'\n");
    ws.build(&["//:l"]).ok_without_running();
    ws.write("BUILD.toml", "[[launcher]]\nname = \"l\"\nlines = [\"three\"]\n");
    assert_eq!(ws.run(&["run", "//:l"]).ok().stdout, "three\n");
}

const JOIN: &str = r#"
    [rule.join]
    outputs = ["{join.out}"]
    [rule.join.attrs]
    words = { type = "strings", doc = "Words." }
    [rule.join.action.join]
    outs = { out = "{name}.txt" }
    args = ["{out.out}", { response_file = "lines", items = ["{words}"] }]
    cmd = 'out=$1; shift; case $1 in @*) cat "${1#@}" ;; *) printf "%s\n" "$@" ;; esac > "$out"'
"#;

#[test]
fn long_argument_lists_go_through_a_response_file() {
    let target = |words: usize| {
        let words: Vec<String> = (0..words).map(|i| format!("word-{i}")).collect();
        format!("[[join]]\nname = \"j\"\nwords = {words:?}\n")
    };
    let ws = with_rules(JOIN, &target(3));
    ws.build(&["//:j"]).ok();
    assert_eq!(ws.output("j.txt"), "word-0\nword-1\nword-2\n");
    ws.write("BUILD.toml", target(20_000));
    ws.build(&["//:j"]).ok();
    assert_eq!(ws.output("j.txt").lines().count(), 20_000);
    ws.build(&["//:j"]).ok_without_running();
    ws.write("BUILD.toml", target(20_001));
    ws.build(&["//:j"]).ok().started_only(&["//:j"]);
    assert_eq!(ws.output("j.txt").lines().last(), Some("word-20000"));
}

#[test]
fn a_host_tool_is_part_of_the_key() {
    let tool = |ws: Workspace, dir: &str, text: &str| {
        ws.program(&format!("../{dir}/mytool"), &format!("#!/bin/sh\necho {text}\n"))
    };
    let ws = with_targets(&(genrule("a", &[], &["a"], "mytool > $OUT") + "host_tools = [\"mytool\"]\n"));
    let path = format!("{0}/first:{0}/second:/usr/bin:/bin", ws.outside().display());
    ws.write("minibuild.toml", format!("[env]\nPATH = {path:?}\n"));
    let ws = tool(ws, "second", "one");
    ws.build(&["//:a"]).ok();
    assert_eq!(ws.output("a"), "one\n");
    ws.build(&["//:a"]).ok_without_running();
    let ws = tool(ws, "second", "two");
    ws.build(&["//:a"]).ok().started_only(&["//:a"]);
    // One that comes before it in the search.
    let ws = tool(ws, "first", "three");
    ws.build(&["//:a"]).ok().started_only(&["//:a"]);
    assert_eq!(ws.output("a"), "three\n");
    fs::remove_dir_all(ws.outside().join("first")).expect("removes");
    ws.build(&["//:a"]).ok();
    assert_eq!(ws.output("a"), "two\n");
}

#[test]
fn a_host_tool_that_comes_later_runs_its_users_again() {
    let ws =
        with_targets(&(genrule("a", &[], &["a"], "mytool > $OUT || echo none > $OUT") + "host_tools = [\"mytool\"]\n"));
    ws.write("minibuild.toml", format!("[env]\nPATH = \"{}/tools:/usr/bin:/bin\"\n", ws.outside().display()));
    ws.build(&["//:a"]).ok();
    assert_eq!(ws.output("a"), "none\n");
    ws.build(&["//:a"]).ok_without_running();
    let ws = ws.program("../tools/mytool", "#!/bin/sh\necho here\n");
    ws.build(&["//:a"]).ok().started_only(&["//:a"]);
    assert_eq!(ws.output("a"), "here\n");
}

#[test]
fn an_action_that_may_run_nowhere_names_both_reasons() {
    let check = |rest: &str, expected: &[&str]| {
        let ws = with_targets(&(genrule("a", &[], &["a"], ": > $OUT") + rest));
        ws.build(&["//:a"]).code(1).says(&["//:a (Genrule) failed: it may run "]).says(expected).started_only(&[]);
    };
    check("tags = [\"no-local\"]\n", &["tag `no-local`", "no remote executor"]);
    check("tags = [\"no-local\", \"no-remote\"]\n", &["tag `no-local`", "tag `no-remote`"]);
    check("platform = { OSFamily = \"plan9\" }\n", &["`OSFamily` is `plan9`", "no remote executor"]);
    let ws = with_targets(
        &(genrule("a", &[], &["a"], ": > $OUT") + "platform = { OSFamily = \"Linux\" }\ntags = [\"local\"]\n"),
    );
    ws.build(&["//:a"]).ok();
}

#[test]
fn what_is_stored_in_no_cache_is_still_incremental() {
    let ws =
        with_targets(&(genrule("a", &["in"], &["a"], "cat $SRC > $OUT") + "tags = [\"no-cache\"]\n")).file("in", "1");
    ws.build(&["//:a"]).ok();
    ws.build(&["//:a"]).ok_without_running();
}

#[test]
fn earlier_results_are_known_when_their_inputs_come_back() {
    let ws = with_targets(&genrule("a", &["in"], &["a"], "cat $SRC > $OUT")).file("in", "0");
    for content in ["1", "2", "3", "4"] {
        ws.write("in", content);
        ws.build(&["//:a"]).ok().started_only(&["//:a"]);
    }
    // The last four; without bytes on disk, since those of the older ones are not kept here.
    for content in ["1", "3", "2", "4"] {
        ws.write("in", content);
        ws.build(&["--download=minimal", "//:a"]).ok_without_running();
    }
    ws.build(&["//:a"]).ok();
    assert_eq!(ws.output("a"), "4");
}

#[test]
fn back_and_forth_is_always_right() {
    let targets = genrule("a", &["in"], &["a"], "cat $SRC > $OUT")
        + &genrule("b", &[":a"], &["b"], "cat $SRC > $OUT")
        + &genrule("c", &[":b"], &["c"], "cat $SRC > $OUT");
    let ws = with_targets(&targets);
    for (mode, content) in
        [("all", "1"), ("minimal", "2"), ("toplevel", "1"), ("minimal", "2"), ("toplevel", "2"), ("all", "1")]
    {
        ws.write("in", content);
        ws.build(&["--download", mode, "//:c"]).ok();
        if mode != "minimal" {
            assert_eq!(ws.output("c"), content);
        }
        for intermediate in ["a", "b"] {
            assert!(
                !ws.has_output(intermediate) || ws.output(intermediate) == content,
                "{intermediate} is of another build"
            );
        }
    }
}

#[test]
fn d42_an_action_with_four_thousand_inputs() {
    let target = "[[genrule]]\nname = \"a\"\nsrcs = [{ glob = [\"d/**\"] }]\nouts = [\"a\"]\ncmd = \"cat d/*/* | wc -l > $OUT\"\n";
    let ws = with_targets(target);
    for number in 0..4000 {
        ws.write(&format!("d/{}/{number}", number % 10), "line\n");
    }
    ws.build(&["//:a"]).ok();
    assert_eq!(ws.output("a").trim(), "4000");
    ws.write("d/7/7", "line\nline\n");
    ws.build(&["//:a"]).ok().started_only(&["//:a"]);
    assert_eq!(ws.output("a").trim(), "4001");
}

#[test]
fn a_very_deep_graph() {
    let mut targets = genrule("f0", &["in"], &["f0"], "cat $SRC > $OUT");
    for number in 1..3000 {
        targets += &format!("[[filegroup]]\nname = \"f{number}\"\nsrcs = [\":f{}\"]\n", number - 1);
    }
    targets += &genrule("last", &[":f2999"], &["last"], "cat $SRC > $OUT");
    let ws = with_targets(&targets).file("in", "1");
    ws.build(&["//:last"]).ok().started_only(&["//:f0", "//:last"]);
    ws.write("in", "2");
    ws.build(&["//:last"]).ok();
    assert_eq!(ws.output("last"), "2");
}

#[test]
fn a_long_chain_of_actions() {
    let mut targets = genrule("c0", &["in"], &["c0"], "cat $SRC > $OUT");
    for number in 1..200 {
        targets += &genrule(
            &format!("c{number}"),
            &[&format!(":c{}", number - 1)],
            &[&format!("c{number}")],
            "cat $SRC > $OUT",
        );
    }
    let ws = with_targets(&targets).file("in", "1");
    ws.build(&["//:c199"]).ok();
    fs::remove_dir_all(ws.bin("")).expect("removes");
    ws.write("BUILD.toml", targets.replace("name = \"c199\"", "name = \"c199\"\nenv = { X = \"1\" }"));
    ws.build(&["//:c199"]).ok();
    assert_eq!(ws.output("c199"), "1");
}

#[test]
fn names_with_spaces_and_letters_of_other_languages() {
    let ws =
        with_targets(&genrule("a", &["mit Leerzeichen/größe 1.txt"], &["aus gabe/ü.txt"], "cat \"$SRC\" > \"$OUT\""))
            .file("mit Leerzeichen/größe 1.txt", "x");
    ws.build(&["//:a"]).ok();
    assert_eq!(ws.output("aus gabe/ü.txt"), "x");
    ws.build(&["//:a"]).ok_without_running();
}

#[test]
fn a_workspace_reached_through_a_symlink() {
    let ws = with_targets(&genrule("a", &["in"], &["a"], "cat $SRC > $OUT")).file("in", "1");
    ws.build(&["//:a"]).ok();
    let ws = ws.link("../other-name", "ws");
    ws.run(&["-C", "../other-name", "build", "//:a"]).ok_without_running();
}

#[test]
fn a_workspace_that_was_moved_is_still_right() {
    let ws = with_targets(&genrule("a", &["in"], &["a"], "cat $SRC > $OUT")).file("in", "1");
    ws.build(&["//:a"]).ok();
    let elsewhere = ws.outside().join("moved");
    fs::rename(ws.root(), &elsewhere).expect("renames");
    fs::create_dir(ws.root()).expect("makes a directory");
    ws.run(&["-C", "../moved", "build", "//:a"]).ok_without_running();
}
