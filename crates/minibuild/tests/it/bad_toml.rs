//! Mistakes in BUILD.toml, rule files and patterns: each is told with its place, its reason and what to do about it.

use std::os::unix::ffi::OsStrExt as _;

use minibuild_testkit::{Run, Workspace};

use crate::{genrule, with_targets, workspace};

const GOOD: &str = "[[genrule]]\nname = \"a\"\nouts = [\"a\"]\ncmd = \": > $OUT\"\n";

/// Builds everything of a workspace with these files: an error with these texts, nothing run, nothing left.
#[track_caller]
fn check_files(files: &[(&str, &str)], patterns: &[&str], expected: &[&str]) -> Workspace {
    let mut ws = workspace();
    for (path, text) in files {
        ws = ws.file(path, text);
    }
    refused(&ws.build(patterns), expected);
    assert!(ws.outputs().is_empty(), "{:?}", ws.outputs());
    ws
}

/// As [`check_files`] with the text of the root BUILD.toml, which is then mended.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let ws = check_files(&[("BUILD.toml", text)], &["//..."], expected);
    ws.write("BUILD.toml", GOOD);
    ws.build(&["//..."]).ok().started_only(&["//:a"]);
}

#[track_caller]
fn refused(run: &Run, expected: &[&str]) {
    run.clone().code(2).says(expected).started_only(&[]);
}

/// A target `a` with further keys.
fn with(rest: &str) -> String {
    format!("[[genrule]]\nname = \"a\"\n{rest}\n")
}

#[test]
fn what_is_no_toml() {
    check("[[genrule]\n", &["BUILD.toml:1:"]);
    check("[[genrule]]\nname = a\n", &["BUILD.toml:2:8"]);
    check("[[genrule]]\nname = \"a\"\nname = \"b\"\n", &["BUILD.toml:3:1", "name"]);
    check("\u{0}", &["BUILD.toml:1:1"]);
    check(&"[".repeat(100_000), &["BUILD.toml:1:"]);
}

#[test]
fn files_that_are_not_utf8_or_no_files() {
    let ws = workspace();
    std::fs::write(ws.path("BUILD.toml"), b"# \xff\n").expect("writes");
    refused(&ws.build(&["//..."]), &["BUILD.toml", "UTF-8"]);
    ws.remove("BUILD.toml");
    std::fs::create_dir(ws.path("BUILD.toml")).expect("makes a directory");
    refused(&ws.build(&["//:a"]), &["BUILD.toml"]);
}

#[test]
fn unknown_rules_and_attributes() {
    check("[[genrul]]\nname = \"a\"\n", &["BUILD.toml:1:3", "unknown rule `genrul`", "did you mean `genrule`"]);
    check(&with("src = [\"x\"]\nouts = [\"a\"]\ncmd = \":\""), &["BUILD.toml:3:1", "`src`", "did you mean `srcs`"]);
    check("name = \"a\"\n", &["BUILD.toml:1:1", "name"]);
    check("[genrule]\nname = \"a\"\n", &["BUILD.toml:1:", "[[genrule]]"]);
    check("[[c_library]]\nname = \"a\"\n", &["c_library", "@std/c.toml"]);
}

#[test]
fn values_of_the_wrong_type() {
    check(&with("outs = \"a\"\ncmd = \":\""), &["BUILD.toml:3:8", "`outs`"]);
    check(&with("outs = [1]\ncmd = \":\""), &["BUILD.toml:3:9", "`outs`"]);
    check(&with("outs = [\"a\"]\ncmd = [\":\"]"), &["BUILD.toml:4:7", "`cmd`"]);
    check("[[genrule]]\nname = 7\n", &["BUILD.toml:2:8", "`name`"]);
    check(&with("outs = [\"a\"]\ncmd = \":\"\ntimeout = \"10 parsecs\""), &["BUILD.toml:5:11", "10 parsecs"]);
    check(&with("outs = [\"a\"]\ncmd = \":\"\nenv = { \"A=B\" = \"x\" }"), &["BUILD.toml:5:", "A=B"]);
    check(&with("outs = [\"a\"]\ncmd = \":\"\nenv = { OUT = \"x\" }"), &["`OUT` is set by minibuild"]);
}

#[test]
fn what_is_missing() {
    check("[[genrule]]\nouts = [\"a\"]\ncmd = \":\"\n", &["BUILD.toml:1:", "name"]);
    check(&with("outs = [\"a\"]"), &["`cmd`", "`args`"]);
    check(&with("cmd = \":\""), &["outs"]);
    check(&with("outs = [\"a\"]\ncmd = \":\"\nargs = [\"x\"]"), &["`cmd`", "`args`"]);
}

#[test]
fn names_that_are_none_or_taken() {
    check(&(GOOD.to_owned() + GOOD), &["BUILD.toml:6:8", "two targets are named `a`", "first one here"]);
    check(&GOOD.replace("name = \"a\"", "name = \"a b\""), &["BUILD.toml:2:8", "a b"]);
    check(&GOOD.replace("name = \"a\"", "name = \"\""), &["BUILD.toml:2:8"]);
    check(&GOOD.replace("name = \"a\"", "name = \"../a\""), &["BUILD.toml:2:8"]);
}

#[test]
fn outputs_that_are_in_each_others_way() {
    let two = |first: &str, second: &str| genrule("a", &[], &[first], ":") + &genrule("b", &[], &[second], ":");
    check(&two("x", "x"), &["both declare `minibuild-out/bin/x`", "//:a", "//:b"]);
    check(&two("x", "x/y"), &["minibuild-out/bin/x/y", "//:a", "//:b"]);
    check(&two("x/y/z", "x"), &["minibuild-out/bin/x/y/z", "//:a", "//:b"]);
    check(&genrule("a", &[], &["x", "x"], ":"), &["`//:a` declares `minibuild-out/bin/x` twice"]);
    check(&genrule("a", &[], &["../x"], ":"), &["BUILD.toml:4:", "../x"]);
    check(&genrule("a", &[], &["/x"], ":"), &["BUILD.toml:4:", "/x"]);
    check(&genrule("a", &[], &[""], ":"), &["BUILD.toml:4:"]);
    check(&genrule("a", &[], &["x\u{0}y"], ":").replace("\\0", "\\u0000"), &["BUILD.toml:4:"]);
}

#[test]
fn an_output_may_not_cross_a_package_border() {
    let ws = check_files(
        &[("BUILD.toml", &genrule("a", &[], &["sub/x"], ": > $OUT")), ("sub/BUILD.toml", "")],
        &["//..."],
        &["sub/x", "//sub"],
    );
    ws.remove("sub/BUILD.toml");
    ws.build(&["//..."]).ok();
}

#[test]
fn files_and_labels_that_are_not_there() {
    let check = |srcs: &str, expected: &[&str]| {
        let text = with(&format!("srcs = [{srcs}]\nouts = [\"a\"]\ncmd = \": > $OUT\""));
        let files = [("BUILD.toml", text.as_str()), ("real.txt", ""), ("sub/BUILD.toml", GOOD), ("sub/x", "")];
        check_files(&files, &["//:a"], expected);
    };
    check("\"reel.txt\"", &["BUILD.toml:3:9", "`reel.txt`", "real.txt"]);
    check("\":b\"", &["BUILD.toml:3:9", "`b`"]);
    check("\"//sub:aa\"", &["BUILD.toml:3:9", "no target `aa` in package `//sub`", "hint: ", "`:a`"]);
    check("\"//nope:x\"", &["BUILD.toml:3:9", "nope"]);
    check("\"sub/x\"", &["BUILD.toml:3:9", "`sub/x` belongs to the package `//sub`", "filegroup"]);
    check("\"../x\"", &["BUILD.toml:3:9", "../x"]);
    check("\"/etc/passwd\"", &["BUILD.toml:3:9", "/etc/passwd"]);
    check("\"sub\"", &["BUILD.toml:3:9", "sub"]);
    check("\"minibuild-out/bin/x\"", &["BUILD.toml:3:9", "written by minibuild"]);
    check("\"//sub:a:b\"", &["BUILD.toml:3:9"]);
    check("\"\"", &["BUILD.toml:3:9"]);
}

#[test]
fn globs_that_match_nothing_or_enter_packages() {
    let check = |glob: &str, expected: &[&str]| {
        let text = with(&format!("srcs = [{glob}]\nouts = [\"a\"]\ncmd = \": > $OUT\""));
        let files = [("BUILD.toml", text.as_str()), ("d/x.txt", ""), ("sub/BUILD.toml", ""), ("sub/x.txt", "")];
        check_files(&files, &["//:a"], expected);
    };
    check("{ glob = [\"*.nope\"] }", &["BUILD.toml:3:", "matches nothing", "allow_empty"]);
    check("{ glob = [\"sub/*.txt\"] }", &["BUILD.toml:3:", "sub"]);
    check("{ glob = [\"../**\"] }", &["BUILD.toml:3:", "../**"]);
    check("{ glob = [\"[\"] }", &["BUILD.toml:3:"]);
    check("{ glb = [\"*\"] }", &["BUILD.toml:3:", "glb", "glob"]);
}

#[test]
fn globs_stop_at_borders() {
    let text =
        with("srcs = [{ glob = [\"**/*.txt\"], exclude = [\"d/no*\"] }]\nouts = [\"a\"]\ncmd = \"echo $SRCS > $OUT\"");
    let ws =
        with_targets(&text).file("d/x.txt", "").file("d/no.txt", "").file("sub/BUILD.toml", "").file("sub/x.txt", "");
    ws.build(&["//:a"]).ok();
    assert_eq!(ws.output("a"), "d/x.txt\n");
    ws.write("d/y.txt", "");
    ws.build(&["//:a"]).ok().started_only(&["//:a"]);
    assert_eq!(ws.output("a"), "d/x.txt d/y.txt\n");
}

#[test]
fn cycles_are_shown_as_paths() {
    let ring =
        genrule("a", &[":b"], &["a"], ":") + &genrule("b", &[":c"], &["b"], ":") + &genrule("c", &[":a"], &["c"], ":");
    check(&ring, &["cycle", "//:a", "//:b", "//:c"]);
    check(&genrule("a", &[":a"], &["a"], ":"), &["cycle", "//:a"]);
    let alias = "[[alias]]\nname = \"x\"\nactual = \":y\"\n[[filegroup]]\nname = \"y\"\nsrcs = [\":x\"]\n";
    check(alias, &["cycle", "//:x", "//:y"]);
}

#[test]
fn all_errors_of_all_files_come_at_once() {
    let bad = "[[genrule]]\nname = \"a\"\nsrc = []\nouts = 3\n[[nothing]]\n";
    let files = [("BUILD.toml", bad), ("x/BUILD.toml", bad), ("y/BUILD.toml", "[")];
    let expected = [
        "BUILD.toml:3:1",
        "BUILD.toml:4:8",
        "BUILD.toml:5:3",
        "x/BUILD.toml:3:1",
        "x/BUILD.toml:5:3",
        "y/BUILD.toml:1:",
    ];
    check_files(&files, &["//..."], &expected);
}

#[test]
fn the_offending_text_is_underlined() {
    let ws = with_targets(&with("outs = [\"a\"]\ncmd = \":\"\ntags = [\"lokal\"]\nsrx = []"));
    let run = ws.build(&["//..."]).code(2);
    let lines: Vec<&str> = run.stderr.lines().collect();
    let at = lines.iter().position(|line| line.contains("srx = []")).expect("the line is shown");
    assert!(lines[at + 1].contains("^^^"), "{}", run.stderr);
}

#[test]
fn locations_of_nothing_and_names_a_shell_would_split() {
    check(&genrule("a", &[], &["a"], "cat $(location :b) > $OUT"), &["BUILD.toml:5:", "b"]);
    check(&genrule("a", &[], &["a"], "cat $(location :b"), &["BUILD.toml:5:", "$(location"]);
    let files = [("BUILD.toml", genrule("a", &["a b"], &["a"], "cat $SRCS > $OUT")), ("a b", String::new())];
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    check_files(&files, &["//:a"], &["a b", "$(location"]);
    // Alone it is fine.
    let ws = with_targets(&genrule("a", &["a b"], &["a"], "cat \"$SRC\" > $OUT")).file("a b", "x");
    ws.build(&["//:a"]).ok();
    assert_eq!(ws.output("a"), "x");
}

#[test]
fn patterns_that_name_nothing() {
    let check = |pattern: &str, expected: &[&str]| {
        let files = [("BUILD.toml", GOOD), ("lib/BUILD.toml", "[[filegroup]]\nname = \"files\"\n")];
        check_files(&files, &[pattern], expected);
    };
    check("//:b", &["no target `b`", "`:a`"]);
    check("//lib:fils", &["no target `fils` in package `//lib`", "did you mean `files`"]);
    check("//lob:files", &["//lob"]);
    check("//nope/...", &["//nope"]);
    check("//nope:all", &["//nope"]);
    check("//a//b", &["//a//b"]);
    check("//lib:", &["//lib:"]);
    check("//../x:y", &["//../x"]);
    check("/etc/passwd", &["/etc/passwd"]);
    check("//:a[nothing]", &["nothing"]);
}

#[test]
fn file_names_that_are_not_utf8() {
    let ws =
        with_targets(&with("srcs = [{ glob = [\"d/*\"] }]\nouts = [\"a\"]\ncmd = \": > $OUT\"")).file("d/good", "");
    let odd = ws.path("d").join(std::ffi::OsStr::from_bytes(b"odd-\xff"));
    std::fs::write(&odd, "").expect("writes");
    refused(&ws.build(&["//:a"]), &["d/odd-", "UTF-8"]);
    std::fs::remove_file(&odd).expect("removes");
    ws.build(&["//:a"]).ok();
    // Where nobody asks for it, it is nobody's business.
    std::fs::create_dir(ws.path("other")).expect("makes a directory");
    std::fs::write(ws.path("other").join(std::ffi::OsStr::from_bytes(b"\xfe")), "").expect("writes");
    ws.build(&["//..."]).ok();
}

#[test]
fn rule_files_that_are_not_there_or_wrong() {
    let check = |settings: &str, rules: &str, expected: &[&str]| {
        check_files(&[("minibuild.toml", settings), ("rules.toml", rules), ("BUILD.toml", GOOD)], &["//..."], expected);
    };
    check("[workspace]\nrules = [\"nope.toml\"]\n", "", &["nope.toml"]);
    check("[workspace]\nrules = [\"@std/nope.toml\"]\n", "", &["@std/nope.toml", "@std/c.toml"]);
    let mine = "[workspace]\nrules = [\"rules.toml\"]\n";
    check(mine, "[rule.x]\noutpts = []\n", &["rules.toml:2:1", "outpts", "outputs"]);
    check(mine, "[rule.x]\noutputs = [\"{nope}\"]\n", &["rules.toml:2:", "nope"]);
    check(mine, "[rule.genrule]\noutputs = []\n", &["rules.toml:1:", "genrule"]);
    check("[", "", &["minibuild.toml:1:"]);
}

#[test]
fn a_package_that_nobody_asks_for_may_be_wrong() {
    let ws = with_targets(GOOD).file("bad/BUILD.toml", "[");
    ws.build(&["//:a"]).ok();
    ws.build(&["//..."]).code(2).says(&["bad/BUILD.toml:1:"]);
}

#[test]
fn an_error_leaves_what_was_built_before() {
    let ws = with_targets(GOOD);
    ws.build(&["//:a"]).ok();
    let before = ws.outputs();
    ws.write("BUILD.toml", GOOD.to_owned() + "[[genrul]]\n");
    ws.build(&["//:a"]).code(2);
    assert_eq!(ws.outputs(), before);
    ws.write("BUILD.toml", GOOD);
    ws.build(&["//:a"]).ok_without_running();
}
