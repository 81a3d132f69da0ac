//! The shipped C rules on a small project: which edits compile what.

use minibuild_testkit::{Run, Workspace};

use crate::workspace;

/// A library of two files over three headers, and a program.
fn project() -> Workspace {
    let targets = r#"
        [[c_library]]
        name = "lib"
        srcs = ["one.c", "two.c", "private.h"]
        hdrs = ["lib.h"]
        [[c_binary]]
        name = "app"
        srcs = ["main.c"]
        deps = [":lib"]
    "#;
    workspace()
        .file("minibuild.toml", "[workspace]\nrules = [\"@std/c.toml\"]\n")
        .file("BUILD.toml", targets)
        .file("lib.h", "int one(void);\nint two(void);\n")
        .file("private.h", "#define ONE 1\n")
        .file("one.c", "#include \"lib.h\"\n#include \"private.h\"\nint one(void) { return ONE; }\n")
        .file("two.c", "int two(void) { return 2; }\n")
        .file(
            "main.c",
            "#include <stdio.h>\n#include \"lib.h\"\nint main(void) { printf(\"%d\\n\", one() + two()); return 0; }\n",
        )
}

fn compiled(run: &Run) -> Vec<&str> {
    let objects = run.ran_actions().into_iter().filter(|path| path.ends_with(".o"));
    objects.filter_map(|path| path.rsplit('/').next()).collect()
}

fn says(ws: &Workspace, expected: &str) {
    assert_eq!(ws.run(&["run", "//:app"]).ok().stdout.trim_end(), expected);
}

#[test]
fn a_program_is_built_and_runs() {
    let ws = project();
    let run = ws.build(&["//..."]).ok();
    assert_eq!(run.ran_mnemonics(), ["CArchive", "CCompile", "CCompile", "CCompile", "CLink"]);
    says(&ws, "3");
    ws.build(&["//..."]).ok_without_running();
}

#[test]
fn a_comment_is_exactly_one_compile() {
    let ws = project();
    ws.build(&["//..."]).ok();
    ws.write("two.c", ws.read("two.c") + "/* nothing */\n");
    let run = ws.build(&["//..."]).ok();
    assert_eq!(run.ran_mnemonics(), ["CCompile"]);
    assert_eq!(compiled(&run), ["two.c.o"]);
    ws.build(&["//..."]).ok_without_running();
}

#[test]
fn a_header_compiles_exactly_its_users() {
    let ws = project();
    ws.build(&["//..."]).ok();
    ws.write("private.h", "#define ONE 10\n");
    let run = ws.build(&["//..."]).ok();
    assert_eq!(compiled(&run), ["one.c.o"], "two.c declares the header, but does not read it");
    says(&ws, "12");
    ws.write("lib.h", ws.read("lib.h") + "/* nothing */\n");
    let run = ws.build(&["//..."]).ok();
    assert_eq!(compiled(&run), ["main.c.o", "one.c.o"]);
    assert_eq!(run.ran().len(), 2, "equal objects link nothing");
    ws.build(&["//..."]).ok_without_running();
}

#[test]
fn a_header_that_is_read_from_now_on_counts_from_now_on() {
    let ws = project();
    ws.build(&["//..."]).ok();
    ws.write("two.c", "#include \"private.h\"\nint two(void) { return 2 * ONE; }\n");
    assert_eq!(compiled(&ws.build(&["//..."]).ok()), ["two.c.o"]);
    ws.write("private.h", "#define ONE 5\n");
    assert_eq!(compiled(&ws.build(&["//..."]).ok()), ["one.c.o", "two.c.o"]);
    says(&ws, "15");
}

#[test]
fn t66_a_new_header_that_shadows_a_read_one_compiles_again() {
    let targets = r#"
        [[c_binary]]
        name = "app"
        srcs = ["main.c", { glob = ["first/*.h", "second/*.h"] }]
        local_includes = ["first", "second"]
    "#;
    let ws = workspace()
        .file("minibuild.toml", "[workspace]\nrules = [\"@std/c.toml\"]\n")
        .file("BUILD.toml", targets)
        .file("first/other.h", "")
        .file("second/value.h", "#define VALUE 1\n")
        .file(
            "main.c",
            "#include <stdio.h>\n#include <value.h>\nint main(void) { printf(\"%d\\n\", VALUE); return 0; }\n",
        );
    ws.build(&["//..."]).ok();
    says(&ws, "1");
    ws.write("first/value.h", "#define VALUE 2\n");
    assert_eq!(compiled(&ws.build(&["//..."]).ok()), ["main.c.o"]);
    says(&ws, "2");
    ws.remove("first/value.h");
    ws.build(&["//..."]).ok();
    says(&ws, "1");
}

/// `as --MD` names what `.file` directives say.
#[test]
fn a_name_in_a_depfile_that_is_no_file_is_no_input() {
    let cmd = "echo \"$OUT: $SRC gone/ghost.s\" > $(location t.d); cp $SRC $OUT";
    let target = "name = \"t\"\nsrcs = [\"a.s\"]\nouts = [\"t\"]\ndepfile = \"t.d\"";
    let ws = workspace().file("BUILD.toml", format!("[[genrule]]\n{target}\ncmd = '''{cmd}'''\n")).file("a.s", "a\n");
    ws.build(&["//:t"]).ok();
    ws.build(&["--strategy=remote", "--remote-executor=embedded", "//:t"]).ok();
    // Once it is a file, it may have been read.
    ws.write("gone/ghost.s", "");
    ws.write("a.s", "b\n");
    ws.build(&["//:t"]).code(1).says(&["it read `gone/ghost.s`, which no attribute declares"]);
}

#[test]
fn an_undeclared_header_is_an_error_that_names_it() {
    let ws = project();
    ws.write("secret.h", "#define ONE 1\n");
    ws.write("two.c", "#include \"secret.h\"\nint two(void) { return 2; }\n");
    ws.build(&["//..."]).code(1).says(&["//:lib (CCompile) failed: it read `secret.h`, which no attribute declares"]);
    let targets = ws.read("BUILD.toml").replace("\"private.h\"", "\"private.h\", \"secret.h\"");
    ws.write("BUILD.toml", targets);
    ws.build(&["//..."]).ok();
}

#[test]
fn a_compile_error_is_shown_and_mended() {
    let ws = project();
    ws.write("two.c", "int two(void) { return nothing; }\n");
    ws.build(&["//..."]).code(1).says(&["//:lib (CCompile) failed: exit code 1", "two.c:1", "nothing"]);
    ws.write("two.c", "int two(void) { return 4; }\n");
    ws.build(&["//..."]).ok();
    says(&ws, "5");
}

#[test]
fn a_renamed_source_leaves_nothing_of_the_old_one() {
    let ws = project();
    ws.build(&["//..."]).ok();
    std::fs::rename(ws.path("two.c"), ws.path("zwei.c")).expect("renames");
    ws.write("BUILD.toml", ws.read("BUILD.toml").replace("two.c", "zwei.c"));
    let run = ws.build(&["//..."]).ok();
    assert_eq!(compiled(&run), ["zwei.c.o"]);
    assert!(ws.outputs().keys().all(|path| !path.contains("two.c")), "{:?}", ws.outputs().keys());
    says(&ws, "3");
}

#[test]
fn a_shipped_configuration_changes_flags() {
    let ws = project();
    ws.build(&["//:lib"]).ok();
    assert_eq!(compiled(&ws.build(&["--config=debug", "//:lib"]).ok()).len(), 2);
    ws.build(&["--config=debug", "//:lib"]).ok_without_running();
}

#[test]
fn sources_that_look_like_options_are_files_all_the_same() {
    let ws = workspace()
        .file("minibuild.toml", "[workspace]\nrules = [\"@std/c.toml\"]\n")
        .file(
            "BUILD.toml",
            "[[c_binary]]\nname = \"app\"\nsrcs = [\"-dash.c\", \"@at.c\", \"plain.c\", \"-dash.h\"]\n\
             [[genrule]]\nname = \"g\"\nsrcs = [\"-dash.h\"]\nouts = [\"g\"]\ncmd = \"cat $SRC $SRCS $(location -dash.h) > $OUT\"\n",
        )
        .file("-dash.h", "#define DASH 1\n")
        .file("-dash.c", "#include \"-dash.h\"\nint dash(void) { return DASH; }\n")
        .file("@at.c", "int at(void) { return 1; }\n")
        .file(
            "plain.c",
            "#include <stdio.h>\nint dash(void); int at(void);\nint main(void) { printf(\"%d\\n\", dash() + at()); return 0; }\n",
        );
    ws.build(&["//..."]).ok();
    says(&ws, "2");
    assert_eq!(ws.output("g"), "#define DASH 1\n".repeat(3));
    ws.build(&["//..."]).ok_without_running();
    // The depfile names the header as the workspace does.
    ws.write("-dash.h", "#define DASH 2\n");
    let run = ws.build(&["//:app"]).ok();
    assert_eq!(compiled(&run), ["-dash.c.o"]);
    says(&ws, "3");
    let files = ws.run(&["compdb"]).ok().stdout;
    assert!(files.contains("\"file\":\"./-dash.c\""), "{files}");
}
