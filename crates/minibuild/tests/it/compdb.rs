//! `compdb`: the compilation database of the shipped rules and of rules it knows nothing of.

use serde_json::{Value, json};

use crate::{genrule, workspace};

fn entries(text: &str) -> Vec<Value> {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn files(text: &str) -> Vec<String> {
    let mut files: Vec<_> = entries(text).iter().map(|e| e["file"].as_str().unwrap_or_default().to_owned()).collect();
    files.sort();
    files
}

#[test]
fn compilations_and_nothing_else() {
    let ws = workspace()
        .file("minibuild.toml", "[workspace]\nrules = [\"@std/c.toml\"]\n")
        .file(
            "lib/BUILD.toml",
            "[[c_library]]\nname = \"lib\"\nsrcs = [\"a.c\", \"b.cc\", \":made\"]\nhdrs = [\"a.h\"]\n".to_owned()
                + &genrule("made", &[], &["made.c"], "echo 'int made;' > $OUT")
                + "[[genrule]]\nname = \"own\"\nsrcs = [\"own.c\"]\nouts = [\"own.o\"]\n"
                + "args = [\"cc\", \"-c\", \"$(location own.c)\", \"-o\", \"minibuild-out/bin/lib/own.o\"]\n",
        )
        .file("lib/a.c", "#include \"a.h\"\n")
        .file("lib/own.c", "")
        .file("lib/b.cc", "")
        .file("lib/a.h", "")
        .file("app/BUILD.toml", "[[c_binary]]\nname = \"app\"\nsrcs = [\"main.c\"]\ndeps = [\"//lib\"]\n")
        .file("app/main.c", "int main(void) { return 0; }\n");
    let made = "minibuild-out/bin/lib/made.c";
    let all = ws.run(&["compdb"]).ok().stdout;
    assert_eq!(files(&all), ["app/main.c", "lib/a.c", "lib/b.cc", "lib/own.c", made]);
    let own = entries(&all).into_iter().find(|entry| entry["file"] == "lib/own.c");
    let out = "minibuild-out/bin/lib/own.o";
    let expected = json!({
        "directory": "[ws]", "file": "lib/own.c", "output": out, "arguments": ["cc", "-c", "lib/own.c", "-o", out],
    });
    assert_eq!(own, Some(expected));
    assert_eq!(files(&ws.run(&["compdb", "//app"]).ok().stdout), ["app/main.c", "lib/a.c", "lib/b.cc", made]);
    assert_eq!(ws.run(&["compdb", "//lib:made"]).ok().stdout, "[]\n");
    let debug = ws.run(&["compdb", "--config=debug", "//app"]).ok().stdout;
    let has_debug = |entry: &Value| entry["arguments"].as_array().is_some_and(|list| list.contains(&json!("-O0")));
    assert!(entries(&debug).iter().all(has_debug), "{debug}");
    ws.run(&["compdb", "//nowhere"]).code(2).says(&["//nowhere"]);
    assert!(!ws.path("minibuild-out").exists(), "nothing is made");
}

#[test]
fn the_compiler_takes_what_it_says() {
    let ws = workspace()
        .file("minibuild.toml", "[workspace]\nrules = [\"@std/c.toml\"]\n")
        .file("BUILD.toml", "[[c_library]]\nname = \"a\"\nsrcs = [\"a.c\"]\ndefines = [\"TWO=2\"]\n")
        .file("a.c", "int two[TWO];\n");
    let text = ws.run(&["compdb"]).ok().stdout;
    let arguments: Vec<String> = serde_json::from_value(entries(&text)[0]["arguments"].clone()).expect("a list");
    let syntax: Vec<&String> = arguments.iter().take_while(|arg| *arg != "-MMD").collect();
    let mut compiler = std::process::Command::new(syntax[0]);
    compiler.args(&syntax[1..]).args(["-fsyntax-only", "a.c"]).current_dir(ws.root());
    assert!(compiler.status().expect("the compiler runs").success());
}
