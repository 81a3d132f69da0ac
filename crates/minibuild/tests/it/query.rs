//! `query`: which targets it finds, how it writes them, and where it points when it does not understand.

use minibuild_testkit::Workspace;
use serde_json::Value;

use crate::{genrule, test, workspace};

/// app -> lib -> base; app -> gen -> base; a test of lib; something manual.
fn project() -> Workspace {
    let copy = |name: &str, srcs: &[&str]| genrule(name, srcs, &[&format!("{name}.out")], "cat $SRCS > $OUT");
    workspace()
        .file("base/BUILD.toml", copy("base", &["in"]))
        .file("base/in", "1")
        .file("lib/BUILD.toml", copy("lib", &["//base"]) + &test("lib_test", &[":lib"], "true"))
        .file(
            "app/BUILD.toml",
            copy("app", &["//lib", ":gen"])
                + &copy("gen", &["//base"])
                + &copy("odd", &["//base"])
                + "tags = [\"manual\"]\n",
        )
}

fn ask(ws: &Workspace, args: &[&str]) -> String {
    ws.run(&[&["query"], args].concat()).ok().stdout.lines().collect::<Vec<_>>().join(" ")
}

#[test]
fn each_function_and_operator() {
    let ws = project();
    let cases = [
        ("//...", "//app:app //app:gen //base:base //lib:lib //lib:lib_test"),
        ("//app:all", "//app:app //app:gen"),
        ("//app:odd", "//app:odd"),
        ("deps(//app)", "//app:app //app:gen //base:base //lib:lib"),
        ("deps(//app, 1)", "//app:app //app:gen //lib:lib"),
        ("rdeps(//..., //lib)", "//app:app //lib:lib //lib:lib_test"),
        ("rdeps(//..., //base, 1)", "//app:gen //base:base //lib:lib"),
        ("somepath(//app, //base)", "//app:app //lib:lib //base:base"),
        ("somepath(//base, //app)", ""),
        ("allpaths(//app, //base)", "//app:app //app:gen //base:base //lib:lib"),
        ("kind(test, //...)", "//lib:lib_test"),
        ("filter('^//app:', deps(//app))", "//app:app //app:gen"),
        ("outputs(//lib)", "minibuild-out/bin/lib/lib.out"),
        ("//... - deps(//app)", "//lib:lib_test"),
        ("//... except (deps(//app) union //lib/...)", ""),
        ("deps(//app) ^ //app/...", "//app:app //app:gen"),
        ("set(//app:gen //lib) + //base", "//app:gen //base:base //lib:lib"),
    ];
    for (expression, expected) in cases {
        assert_eq!(ask(&ws, &[expression]), expected, "{expression}");
    }
    // As separate words, and from a directory of a package.
    assert_eq!(ask(&ws, &["//app/...", "-", "//app"]), "//app:gen");
    assert_eq!(ask(&ws, &["//app/...", "-//app"]), "//app:gen");
    let run = ws.invoke(&["query", "deps(:gen, 1)"]).dir("app").run().ok();
    assert_eq!(run.stdout, "//app:gen\n//base:base\n");
    assert!(!ws.path("minibuild-out").exists(), "nothing is made");
}

#[test]
fn json_and_dot() {
    let ws = project();
    let json = |expression: &str| -> Value {
        let text = ws.run(&["query", "--output=json", expression]).ok().stdout;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    let expected = serde_json::json!([
        { "label": "//base:base", "rule": "genrule", "tags": [], "deps": [], "outputs": ["minibuild-out/bin/base/base.out"] },
        {
            "label": "//lib:lib", "rule": "genrule", "tags": [], "deps": ["//base:base"],
            "outputs": ["minibuild-out/bin/lib/lib.out"],
        },
    ]);
    assert_eq!(json("deps(//lib)"), expected);
    let path = "minibuild-out/bin/lib/lib.out";
    assert_eq!(json("outputs(//lib)"), serde_json::json!([{ "path": path, "kind": "file", "label": "//lib:lib" }]));
    assert_eq!(json("//lib - //lib"), serde_json::json!([]));
    let dot = ws.run(&["query", "--output=dot", "allpaths(//app:gen, //base)"]).ok().stdout;
    let expected = "digraph minibuild {\n  node [shape=box];\n  \"//app:gen\";\n  \"//base:base\";\n  \
                    \"//app:gen\" -> \"//base:base\";\n}\n";
    assert_eq!(dot, expected);
}

#[test]
fn what_is_wrong_is_pointed_at() {
    let ws = project();
    let cases: [(&str, &[&str]); 6] = [
        ("deps(//app", &["expected `)`", "query:1:11", "deps(//app"]),
        ("dpes(//app)", &["there is no function `dpes`", "query:1:1", "^^^^", "did you mean `deps`?"]),
        ("deps(//app) + //a b:c", &["query:1:19"]),
        ("deps(//no such)", &["query:1:11"]),
        ("deps(outputs(//app))", &["these are files", "query:1:6"]),
        ("deps(//lib[x])", &["is an output group", "query:1:6"]),
    ];
    for (expression, texts) in cases {
        let run = ws.run(&["query", expression]).code(2).says(texts);
        assert_eq!(run.stdout, "", "{expression}");
    }
    ws.run(&["query", "deps(//lib:lob)"]).code(2).says(&["no target `lob` in package `//lib`", "did you mean `lib`?"]);
    ws.run(&["query", "deps(//nowhere)"]).code(2).says(&["//nowhere"]);
    ws.run(&["query"]).code(2);
    ws.run(&["query", "--output=xml", "//..."]).code(2).says(&["xml"]);
}

#[test]
fn it_takes_no_lock() {
    let ws = workspace();
    let mut gate = ws.gate("g");
    ws.write("BUILD.toml", genrule("a", &[], &["a"], &format!("{}; : > $OUT", gate.pass())));
    let build = ws.start_build(&["//:a"]);
    gate.arrival();
    assert_eq!(ask(&ws, &["//..."]), "//:a");
    gate.open();
    build.wait().ok();
}
