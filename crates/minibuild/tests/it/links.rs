//! Sources that are symlinks: everything on the way and behind counts, here and remotely.

use std::fs;

use minibuild_testkit::{Run, Workspace};

use crate::{genrule, with_targets};

/// Builds `//:a`, which has to run and make this text, and then has nothing to do.
fn becomes(ws: &Workspace, args: &[&str], text: &str) {
    let build = || -> Run { ws.build(&[args, &["//:a"]].concat()) };
    build().ok().started_only(&["//:a"]);
    assert_eq!(ws.output("a"), text);
    build().ok_without_running();
    build().ok_without_running();
}

fn relink(ws: Workspace, path: &str, target: &str) -> Workspace {
    fs::remove_file(ws.path(path)).expect("removes");
    ws.link(path, target)
}

/// Every edit of something that links lead to is seen, whatever lies on the way.
fn every_edit_is_seen(args: &[&str]) {
    let ws = with_targets(&genrule("a", &["l", "dir", "f"], &["a"], "cat l dir/* $(readlink -f f) > $OUT"))
        .file("one/x", "1 ")
        .file("two/x", "2 ")
        .file("lib/y", "y ")
        .file("other/y", "z ")
        .file("deep/real/f", "f ")
        .file("deep/up", "u ")
        .link("cur", "one")
        .link("l", "cur/x")
        .link("deep/real/inner", "../../lib/y")
        .link("dir", "deep/real")
        .link("to-real", "deep/real")
        .link("f", "to-real/../up");
    becomes(&ws, args, "1 f y u ");
    ws.write("one/x", "3 ");
    becomes(&ws, args, "3 f y u ");
    ws.write("lib/y", "Y ");
    becomes(&ws, args, "3 f Y u ");
    ws.write("deep/up", "U ");
    becomes(&ws, args, "3 f Y U ");
    let ws = relink(ws, "cur", "two");
    becomes(&ws, args, "2 f Y U ");
    let ws = relink(ws, "deep/real/inner", "../../other/y");
    becomes(&ws, args, "2 f z U ");
    let ws = ws.file("deep/real/more", "m ");
    becomes(&ws, args, "2 f z m U ");
    ws.remove("deep/real/f");
    becomes(&ws, args, "2 z m U ");
    ws.remove("deep/real/inner");
    becomes(&ws, args, "2 m U ");
}

#[test]
fn every_edit_behind_a_link_is_seen_here() {
    every_edit_is_seen(&[]);
}

#[test]
fn every_edit_behind_a_link_is_seen_remotely() {
    every_edit_is_seen(&["--remote-executor=embedded", "--strategy=remote"]);
}

#[test]
fn a_link_to_the_root_has_no_outputs_behind_it() {
    for args in [&[][..], &["--remote-executor=embedded", "--strategy=remote"]] {
        let ws = with_targets(&genrule("a", &["root"], &["a"], "cat root/f root/d/g > $OUT"))
            .file("f", "f")
            .file("d/g", "g")
            .link("d/again", "..")
            .link("root", ".");
        becomes(&ws, args, "fg");
        ws.write("d/g", "h");
        becomes(&ws, args, "fh");
    }
}

#[test]
fn a_file_declared_through_a_link_that_is_an_input_too() {
    for args in [&[][..], &["--remote-executor=embedded", "--strategy=remote"]] {
        let ws = with_targets(&genrule("a", &["cur", "cur/x", "cur/l"], &["a"], "cat cur/x cur/l > $OUT"))
            .file("d/one/x", "1")
            .file("d/y", "y")
            .link("d/one/l", "../y")
            .link("cur", "d/one");
        becomes(&ws, args, "1y");
        ws.write("d/one/x", "2");
        becomes(&ws, args, "2y");
        ws.write("d/y", "z");
        becomes(&ws, args, "2z");
    }
}

#[test]
fn headers_behind_links_count_as_read() {
    let ws = with_targets(
        "[[c_binary]]\nname = \"a\"\nsrcs = [\"a.c\"]\nhdrs = [\"l.h\", \"all.inc\"]\ncopts = [\"-Iall.inc\"]\n",
    )
    .file("minibuild.toml", "[workspace]\nrules = [\"@std/c.toml\"]\n")
    .file("a.c", "#include <stdio.h>\n#include \"l.h\"\n#include \"x.h\"\nint main(void) { puts(L X); return 0; }\n")
    .file("real/l.h", "#define L \"1\"\n")
    .file("lib/x.h", "#define X \"x\"\n")
    .file("lib/unread.h", "")
    .link("l.h", "real/l.h")
    .link("all.inc", "lib");
    let says = |text: &str| assert_eq!(ws.run(&["run", "//:a"]).ok().stdout, text);
    says("1x\n");
    ws.build(&["//:a"]).ok_without_running();
    ws.write("lib/x.h", "#define X \"y\"\n");
    says("1y\n");
    ws.write("real/l.h", "#define L \"2\"\n");
    says("2y\n");
    ws.write("lib/unread.h", "#define U\n");
    ws.build(&["//:a"]).ok_without_running();
}

#[test]
fn what_leaves_the_workspace_is_an_error_unless_followed() {
    let targets = genrule("a", &["dir"], &["a"], "cat dir/* > $OUT");
    let ws = with_targets(&targets).file("real/f", "f").link("dir", "real").link("real/out", "../../secret");
    fs::write(ws.outside().join("secret"), "1").expect("writes");
    ws.build(&["//:a"]).code(1).says(&["the symlink `real/out` leaves the workspace (to `../../secret`)"]);
    ws.write("minibuild.toml", "[build]\nexternal_links = \"follow\"\n");
    for (args, texts) in [(&[][..], ["1", "2"]), (&["--remote-executor=embedded", "--strategy=remote"], ["3", "4"])] {
        for text in texts {
            fs::write(ws.outside().join("secret"), text).expect("writes");
            becomes(&ws, args, &format!("f{text}"));
        }
    }
}

#[test]
fn an_input_that_only_gets_other_times_or_names_is_no_change() {
    for cmd in ["touch $SRC; cat $SRC > $OUT", "ln $SRC $OUT", "chmod 600 $SRC; cat $SRC > $OUT"] {
        let ws = with_targets(&genrule("a", &["in"], &["a"], cmd)).file("in", "1");
        let run = ws.build(&["//:a"]).ok();
        assert!(!run.stderr.contains("changed while"), "{cmd}: {}", run.stderr);
        ws.build(&["//:a"]).ok_without_running();
        ws.build(&["//:a"]).ok_without_running();
    }
    let ws = with_targets(&genrule("a", &["in"], &["a"], "cat $SRC > $OUT; echo 2 > $SRC")).file("in", "1\n");
    ws.build(&["//:a"]).ok().says(&["`in` changed while `//:a` ran"]);
    assert_eq!(ws.output("a"), "1\n");
    ws.build(&["//:a"]).ok();
    assert_eq!(ws.output("a"), "2\n");
}

#[test]
fn what_an_output_link_leads_to_is_made_again_if_its_bytes_are_nowhere() {
    let link =
        "[[genrule]]\nname = \"l\"\nsrcs = [\":a\"]\nout_symlinks = [\"l\"]\ncmd = \"ln -s a minibuild-out/bin/l\"\n";
    let ws = with_targets(&(genrule("a", &["in"], &["a"], "cp $SRC $OUT") + link)).file("in", "1\n");
    ws.build(&["//:l"]).ok();
    for removed in ["minibuild-out/bin/a", "minibuild-out/bin"] {
        let _ = std::fs::remove_dir_all(ws.path(removed)).or_else(|_| std::fs::remove_file(ws.path(removed)));
        let _ = std::fs::remove_dir_all(ws.path("minibuild-out/.state/store"));
        let run = ws.build(&["//:l"]).ok();
        assert_eq!(run.targets(), [("//:l", true)]);
        assert_eq!(ws.output("l"), "1\n");
    }
}

/// `c` reads `m`, a link to the link `l`, which leads to what `a` makes, and `s`, a link to a source.
fn reads_through_output_links() -> Workspace {
    let link = |name: &str, input: &str, to: &str| {
        let head = format!("[[genrule]]\nname = {name:?}\nsrcs = [{input:?}]\nout_symlinks = [{name:?}]\n");
        head + &format!("cmd = \"ln -s {to} minibuild-out/bin/{name}\"\n")
    };
    let links = link("l", ":a", "a") + &link("m", ":l", "l") + &link("s", "src", "../../src");
    let reader = genrule("c", &[":m", ":s"], &["c"], "cat $SRCS > $OUT");
    let ws = with_targets(&(genrule("a", &["in"], &["a"], "cp $SRC $OUT") + &links + &reader));
    ws.file("in", "1\n").file("src", "s\n")
}

#[test]
fn what_output_links_lead_to_is_an_input_of_their_readers() {
    for flags in [&[][..], &["--strategy=remote", "--remote-executor=embedded"]] {
        let ws = reads_through_output_links();
        let build = |expected: &str| {
            ws.build(&[flags, &["//:c"]].concat()).ok();
            assert_eq!(ws.output("c"), expected, "{flags:?}");
            ws.build(&[flags, &["//:c"]].concat()).ok_without_running();
        };
        build("1\ns\n");
        ws.write("in", "2\n");
        build("2\ns\n");
        ws.write("src", "t\n");
        build("2\nt\n");
        // Its bytes are nowhere, and `c` has to run.
        std::fs::remove_file(ws.bin("a")).or_else(|e| if flags.is_empty() { Err(e) } else { Ok(()) }).expect("removes");
        let _ = std::fs::remove_dir_all(ws.path("minibuild-out/.state/store"));
        let targets = ws.read("BUILD.toml").replace("cat $SRCS >", "cat $SRCS $SRCS >");
        ws.write("BUILD.toml", targets);
        build("2\nt\n2\nt\n");
    }
}
