//! Edits between builds whose outputs are remote (scenarios T).

use minibuild_testkit::{Workspace, difference};

use super::{Remote, downloaded};
use crate::{genrule, with_targets, workspace};

const MINIMAL: &str = "--download=minimal";

/// A tree with a file for each line of `in.txt`, and consumers on both sides.
fn lines() -> Workspace {
    let tree = "[[genrule]]\nname = \"tree\"\nsrcs = [\"in.txt\"]\nout_dirs = [\"d\"]\n\
        cmd = \"while read -r name; do mkdir -p $OUT_DIR/$name; echo $name > $OUT_DIR/$name/f; done < $SRC\"\n";
    let sum = |name: &str| genrule(name, &[":tree"], &[name], "find minibuild-out/bin/d -type f | sort > $OUT");
    with_targets(&[tree, &sum("there"), &sum("here"), "tags = [\"no-remote\"]\n"].concat()).file("in.txt", "a\nb\nc\n")
}

#[test]
fn t56_incremental_tree_change_across_restart() {
    for mode in ["--download=toplevel", MINIMAL] {
        let (remote, ws) = (Remote::new(), lines());
        remote.build(&ws, &["//...", mode]).ok();
        for text in ["a\nb\nc\nd\n", "a\nd\n", "a\nb\nc\n", "e\n"] {
            remote.restart("");
            let clean = lines();
            clean.write("in.txt", text);
            clean.build(&["//..."]).ok();
            ws.write("in.txt", text);
            remote.build(&ws, &["//...", mode]).ok();
            remote.build(&ws, &["//...", mode]).ok_without_running();
            // What only this machine made, and has no more, is made again.
            let run = remote.build(&ws, &["//..."]).ok();
            assert!(run.ran().iter().all(|label| *label == "//:here"), "{:?}", run.ran());
            assert_eq!(difference(&clean.outputs(), &ws.outputs()), Vec::<String>::new(), "{mode}: {}", run.stderr);
        }
    }
}

#[test]
fn t66_new_header_shadows_a_read_one() {
    let remote = Remote::new();
    let targets = "[[c_binary]]\nname = \"app\"\nsrcs = [\"main.c\", { glob = [\"first/*.h\", \"second/*.h\"] }]\n\
        local_includes = [\"first\", \"second\"]\n";
    let ws = workspace()
        .file("minibuild.toml", "[workspace]\nrules = [\"@std/c.toml\"]\n")
        .file("BUILD.toml", targets)
        .file("first/other.h", "")
        .file("second/value.h", "#define VALUE 1\n")
        .file("main.c", "#include <value.h>\nint main(void) { return VALUE; }\n");
    let returns = |expected: i32| {
        remote.build(&ws, &["//...", MINIMAL]).ok();
        let executor = remote.executor();
        let code = ws.run(&["run", "//:app", &executor, "--strategy=remote", MINIMAL]);
        code.code(expected);
    };
    returns(1);
    let read = remote.ran();
    ws.write("first/other.h", "// not read\n");
    returns(1);
    assert_eq!(remote.ran(), read, "a header that is not read runs nothing");
    ws.write("first/value.h", "#define VALUE 2\n");
    returns(2);
    ws.remove("first/value.h");
    returns(1);
}

#[test]
fn t67_symlinked_source_target_edited() {
    let remote = Remote::new();
    let ws = with_targets(&genrule("a", &["l", "dir"], &["a"], "cat l dir/f > $OUT"))
        .file("real/file", "1\n")
        .file("real/dir/f", "x\n")
        .link("mid", "real/file")
        .link("l", "mid")
        .link("dir", "real/dir");
    let becomes = |text: &str| {
        let run = remote.build(&ws, &["//:a"]).ok().started_only(&["//:a"]);
        assert_eq!((ws.output("a").as_str(), downloaded(&run)), (text, vec![("a", "toplevel")]));
        remote.build(&ws, &["//:a"]).ok_without_running();
    };
    becomes("1\nx\n");
    ws.write("real/file", "2\n");
    becomes("2\nx\n");
    ws.write("real/dir/f", "y\n");
    becomes("2\ny\n");
}
