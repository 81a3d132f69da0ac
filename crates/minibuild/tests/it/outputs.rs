//! What actions may make: trees, symlinks, modes; and what becomes of outputs nobody declares any more.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use minibuild_testkit::{Entry, Workspace};

use crate::{genrule, with_targets, workspace};

/// A target that makes a tree with a command, and one that lists it.
fn tree(cmd: &str) -> Workspace {
    let targets = format!(
        "[[genrule]]\nname = \"tree\"\nsrcs = [\"in\"]\nout_dirs = [\"t\"]\ncmd = {cmd:?}\n\n{}",
        genrule("list", &[":tree"], &["list"], "cd $SRC; find . | LC_ALL=C sort > ../list")
    );
    with_targets(&targets).file("in", "1")
}

fn mode(ws: &Workspace, path: &str) -> u32 {
    fs::symlink_metadata(ws.bin(path)).expect("it is there").permissions().mode() & 0o7777
}

#[test]
fn a_tree_keeps_modes_symlinks_and_empty_directories() {
    let cmd = "cd $OUT_DIR; mkdir -p a/b empty; echo x > a/b/f; echo y > run; chmod +x run; ln -s a/b/f link";
    let ws = tree(cmd);
    ws.build(&["//:list"]).ok();
    assert_eq!(ws.output("list"), ".\n./a\n./a/b\n./a/b/f\n./empty\n./link\n./run\n");
    assert_eq!((mode(&ws, "t/a/b/f"), mode(&ws, "t/run")), (0o444, 0o555));
    assert_eq!(fs::read_link(ws.bin("t/link")).expect("a symlink"), std::path::Path::new("a/b/f"));
    let run = ws.build(&["//:tree"]).ok_without_running();
    let [output] = run.outputs_of("//:tree") else { panic!("one output") };
    assert_eq!((output.kind.as_str(), output.size), ("directory", 4));
}

#[test]
fn an_empty_tree_is_an_output() {
    let ws = tree(":");
    ws.build(&["//:list"]).ok();
    assert_eq!(ws.output("list"), ".\n");
    ws.build(&["//..."]).ok_without_running();
    // The same tree again: whoever uses it does not run.
    ws.write("in", "2");
    ws.build(&["//:list"]).ok().started_only(&["//:tree"]);
}

#[test]
fn t15_a_tree_replaced_by_a_smaller_one_leaves_nothing() {
    let ws = tree("for i in $(seq $(cat $SRC)); do mkdir -p $OUT_DIR/d$i; echo $i > $OUT_DIR/d$i/f; done");
    ws.write("in", "3");
    ws.build(&["//:list"]).ok();
    assert_eq!(ws.output("list"), ".\n./d1\n./d1/f\n./d2\n./d2/f\n./d3\n./d3/f\n");
    ws.write("in", "1");
    ws.build(&["//:list"]).ok();
    assert_eq!(ws.output("list"), ".\n./d1\n./d1/f\n");
    assert_eq!(ws.snapshot("minibuild-out/bin/t").len(), 2);
}

#[test]
fn a_tree_with_read_only_directories_is_replaced_and_cleaned() {
    let ws = tree("mkdir $OUT_DIR/d; cp $SRC $OUT_DIR/d/f; chmod 0555 $OUT_DIR/d $OUT_DIR");
    ws.build(&["//:list"]).ok();
    ws.write("in", "2");
    ws.build(&["//:list"]).ok().started_only(&["//:tree", "//:list"]);
    assert_eq!(ws.output("t/d/f"), "2");
    ws.run(&["clean"]).ok();
    assert!(!ws.has_output("t"));
}

#[test]
fn a_declared_directory_exists_and_is_empty_before_the_run() {
    let ws = tree("test -d $OUT_DIR; test -z \"$(ls -A $OUT_DIR)\"; cp $SRC $OUT_DIR/f");
    ws.build(&["//:tree"]).ok();
    ws.write("in", "2");
    ws.build(&["//:tree"]).ok();
}

#[test]
fn old_outputs_are_gone_before_the_run() {
    let ws =
        with_targets(&genrule("a", &["in"], &["d/a"], "test -d minibuild-out/bin/d; test ! -e $OUT; cat $SRC > $OUT"))
            .file("in", "1");
    ws.build(&["//:a"]).ok();
    ws.write("in", "2");
    ws.build(&["//:a"]).ok();
    assert_eq!(ws.output("d/a"), "2");
}

#[test]
fn outputs_are_read_only_and_keep_their_executable_bit() {
    let ws = with_targets(&genrule(
        "a",
        &[],
        &["plain", "run"],
        "for o in $OUTS; do echo > $o; done; chmod 700 minibuild-out/bin/run",
    ));
    ws.build(&["//:a"]).ok();
    assert_eq!((mode(&ws, "plain"), mode(&ws, "run")), (0o444, 0o555));
}

#[test]
fn a_mode_is_part_of_the_content() {
    let targets = genrule("a", &["in"], &["a"], "echo > $OUT; chmod $(cat $SRC) $OUT")
        + &genrule("b", &[":a"], &["b"], "if test -x $SRC; then echo yes; else echo no; fi > $OUT");
    let ws = with_targets(&targets).file("in", "600");
    ws.build(&["//:b"]).ok();
    assert_eq!(ws.output("b"), "no\n");
    ws.write("in", "700");
    ws.build(&["//:b"]).ok().started_only(&["//:a", "//:b"]);
    assert_eq!(ws.output("b"), "yes\n");
    ws.write("in", "755");
    ws.build(&["//:b"]).ok().started_only(&["//:a"]);
}

#[test]
fn the_executable_bit_of_a_source_counts() {
    let ws = with_targets(&genrule("a", &["in"], &["a"], "if test -x $SRC; then echo yes; else echo no; fi > $OUT"))
        .file("in", "");
    ws.build(&["//:a"]).ok();
    fs::set_permissions(ws.path("in"), fs::Permissions::from_mode(0o755)).expect("changes");
    ws.build(&["//:a"]).ok().started_only(&["//:a"]);
    assert_eq!(ws.output("a"), "yes\n");
    fs::set_permissions(ws.path("in"), fs::Permissions::from_mode(0o700)).expect("changes");
    ws.build(&["//:a"]).ok_without_running();
}

#[test]
fn declared_symlinks_are_kept_as_they_are() {
    let target = r#"
        [[genrule]]
        name = "l"
        out_symlinks = ["l"]
        cmd = "ln -s nowhere/at/all minibuild-out/bin/l"
    "#;
    let ws = with_targets(target);
    let run = ws.build(&["//:l"]).ok();
    assert_eq!(run.outputs_of("//:l")[0].kind, "symlink");
    assert_eq!(ws.outputs()["l"], Entry::Symlink("nowhere/at/all".into()));
    ws.build(&["//:l"]).ok_without_running();
}

#[test]
fn a_symlink_where_a_file_was_declared() {
    let check = |link: &str, expected: &str| {
        let ws = with_targets(&genrule("l", &["in"], &["l"], &format!("ln -s {link} $OUT"))).file("in", "x");
        ws.build(&["//:l"]).code(1).says(&["its outputs are not as declared: `minibuild-out/bin/l`", expected]);
    };
    check("nowhere", "nowhere");
    check("/etc/hostname", "/etc/hostname");
    check("../../../../out", "../../../../out");
}

#[test]
fn t31_t32_whatever_lies_where_an_output_goes_is_replaced() {
    let put = |what: &str| {
        let ws = with_targets(&genrule("a", &[], &["d/a"], "echo x > $OUT"));
        let place = ws.bin("d/a");
        fs::create_dir_all(place.parent().expect("a parent")).expect("makes directories");
        match what {
            "directory" => fs::create_dir_all(place.join("x/y")).expect("makes directories"),
            "link to a directory" => std::os::unix::fs::symlink(ws.outside(), &place).expect("links"),
            "dangling link" => std::os::unix::fs::symlink("nowhere", &place).expect("links"),
            _ => {
                fs::remove_dir(place.parent().expect("a parent")).expect("removes");
                fs::write(place.parent().expect("a parent"), "a file").expect("writes");
            }
        }
        ws.build(&["//:a"]).ok();
        assert_eq!(ws.output("d/a"), "x\n", "{what}");
        assert!(matches!(ws.outputs()["d/a"], Entry::File(0o444, _)), "{what}");
    };
    for what in ["directory", "link to a directory", "dangling link", "file instead of the parent"] {
        put(what);
    }
}

#[test]
fn t33_an_unwritable_parent_directory_is_handled() {
    let ws = with_targets(&genrule("a", &["in"], &["d/a"], "cat $SRC > $OUT")).file("in", "1");
    ws.build(&["//:a"]).ok();
    fs::set_permissions(ws.bin("d"), fs::Permissions::from_mode(0o555)).expect("changes");
    ws.write("in", "2");
    ws.build(&["//:a"]).ok();
    assert_eq!(ws.output("d/a"), "2");
}

#[test]
fn outputs_of_a_removed_target_disappear() {
    let keep = genrule("keep", &[], &["keep", "gone/also"], "for o in $OUTS; do : > $o; done");
    let gone = genrule("gone", &[], &["gone/file"], ": > $OUT");
    let dir = "[[genrule]]\nname = \"tree\"\nout_dirs = [\"t\"]\ncmd = \": > $OUT_DIR/f\"\n";
    let ws = with_targets(&format!("{keep}{gone}{dir}"));
    ws.build(&["//..."]).ok();
    ws.write("BUILD.toml", &keep);
    ws.build(&["//:keep"]).ok_without_running();
    assert!(!ws.has_output("gone/file") && !ws.has_output("t"));
    assert!(ws.has_output("keep") && ws.has_output("gone/also"));
}

#[test]
fn a_renamed_output_moves() {
    let ws = with_targets(&genrule("a", &[], &["old", "same"], "for o in $OUTS; do echo > $o; done"));
    ws.build(&["//:a"]).ok();
    ws.write("BUILD.toml", ws.read("BUILD.toml").replace("\"old\"", "\"new\""));
    ws.build(&["//:a"]).ok();
    assert!(!ws.has_output("old") && ws.has_output("new") && ws.has_output("same"));
}

#[test]
fn one_of_several_outputs_is_renamed() {
    let ws = with_targets(&genrule("a", &[], &["same", "old"], "for o in $OUTS; do echo > $o; done"));
    ws.build(&["//:a"]).ok();
    ws.write("BUILD.toml", ws.read("BUILD.toml").replace("\"old\"", "\"new\""));
    ws.build(&["//:a"]).ok();
    assert!(!ws.has_output("old") && ws.has_output("new") && ws.has_output("same"));
    ws.write("BUILD.toml", ws.read("BUILD.toml").replace(", \"new\"", ""));
    ws.build(&["//:a"]).ok();
    assert_eq!(ws.outputs().len(), 1);
}

#[test]
fn what_a_failed_action_left_disappears_with_its_target() {
    let ws =
        with_targets(&(genrule("a", &[], &["a"], "echo half > $OUT; exit 1") + &genrule("b", &[], &["b"], ": > $OUT")));
    ws.build(&["-k", "//..."]).code(1);
    assert_eq!(ws.output("a"), "half\n", "it stays for inspection");
    ws.write("BUILD.toml", genrule("b", &[], &["b"], ": > $OUT"));
    ws.build(&["//..."]).ok_without_running();
    assert_eq!(ws.outputs().len(), 1);
}

#[test]
fn an_output_can_become_a_directory_and_back() {
    let as_file = genrule("a", &[], &["x"], "echo file > $OUT");
    let below = genrule("a", &[], &["x/y"], "echo below > $OUT");
    let ws = with_targets(&as_file);
    for _ in 0..2 {
        ws.write("BUILD.toml", &as_file);
        ws.build(&["//:a"]).ok();
        assert_eq!(ws.output("x"), "file\n");
        ws.write("BUILD.toml", &below);
        ws.build(&["//:a"]).ok();
        assert_eq!(ws.output("x/y"), "below\n");
    }
}

#[test]
fn an_output_can_change_its_target() {
    let ws = with_targets(&(genrule("a", &[], &["x"], "echo a > $OUT") + &genrule("b", &[], &["y"], "echo b > $OUT")));
    ws.build(&["//..."]).ok();
    ws.write("BUILD.toml", genrule("a", &[], &["y"], "echo a > $OUT") + &genrule("b", &[], &["x"], "echo b > $OUT"));
    ws.build(&["//..."]).ok();
    assert_eq!((ws.output("x"), ws.output("y")), ("b\n".into(), "a\n".into()));
    ws.build(&["//..."]).ok_without_running();
}

#[test]
fn packages_that_are_not_loaded_keep_their_outputs() {
    let target = genrule("a", &[], &["a"], ": > $OUT");
    let ws = workspace().file("x/BUILD.toml", &target).file("z/BUILD.toml", &target);
    ws.build(&["//..."]).ok();
    ws.build(&["//x:a"]).ok_without_running();
    assert!(ws.has_output("z/a"));
}

#[test]
fn a_source_symlink_brings_its_target_in() {
    let ws = with_targets(&genrule("a", &["l"], &["a"], "cat $SRC > $OUT"))
        .file("real/file", "1")
        .link("mid", "real/file")
        .link("l", "mid");
    ws.build(&["//:a"]).ok();
    ws.build(&["//:a"]).ok_without_running();
    ws.write("real/file", "2");
    ws.build(&["//:a"]).ok().started_only(&["//:a"]);
    assert_eq!(ws.output("a"), "2");
    ws.write("real/other", "3");
    fs::remove_file(ws.path("mid")).expect("removes");
    let ws = ws.link("mid", "real/other");
    ws.build(&["//:a"]).ok().started_only(&["//:a"]);
    assert_eq!(ws.output("a"), "3");
}

#[test]
fn t67_the_target_of_a_source_symlink_to_a_directory_counts() {
    let ws = with_targets(&genrule("a", &["l"], &["a"], "cat $SRC/* > $OUT")).file("real/file", "1").link("l", "real");
    let run = ws.build(&["//:a"]).ok();
    drop(run);
    ws.write("real/file", "2");
    ws.build(&["//:a"]).ok().started_only(&["//:a"]);
    assert_eq!(ws.output("a"), "2");
    ws.write("real/more", "3");
    ws.build(&["//:a"]).ok().started_only(&["//:a"]);
    assert_eq!(ws.output("a"), "23");
    ws.build(&["//:a"]).ok_without_running();
}

#[test]
fn source_symlinks_that_lead_nowhere_in_circles_or_outside_are_errors() {
    let check = |target: &str, expected: &[&str]| {
        let ws = with_targets(&genrule("a", &["l"], &["a"], "cat $SRC > $OUT")).link("l", target).link("circle", "l");
        fs::write(ws.outside().join("secret"), "").expect("writes");
        let run = ws.build(&["//:a"]).says(expected).started_only(&[]);
        assert!(matches!(run.ending, minibuild_testkit::Ending::Exited(1 | 2)), "{:?}", run.ending);
        let ws = {
            ws.remove("l");
            ws.file("l", "now a file")
        };
        ws.build(&["//:a"]).ok();
    };
    check("nowhere", &["`l`", "nowhere"]);
    check("circle", &["`l`"]);
    check("../secret", &["the symlink `l` leaves the workspace", "external_links"]);
    check("/etc/hostname", &["the symlink `l` leaves the workspace", "external_links"]);
}

#[test]
fn external_links_can_be_followed() {
    let ws = with_targets(&genrule("a", &["l"], &["a"], "cat $SRC > $OUT"))
        .file("minibuild.toml", "[build]\nexternal_links = \"follow\"\n")
        .link("l", "../secret");
    fs::write(ws.outside().join("secret"), "1").expect("writes");
    ws.build(&["//:a"]).ok();
    ws.build(&["//:a"]).ok_without_running();
    fs::write(ws.outside().join("secret"), "2").expect("writes");
    ws.build(&["//:a"]).ok().started_only(&["//:a"]);
    assert_eq!(ws.output("a"), "2");
}

#[test]
fn the_output_directory_ignores_itself() {
    let ws = with_targets(&genrule("a", &[], &["a"], ": > $OUT"));
    ws.build(&["//:a"]).ok();
    assert_eq!(ws.read("minibuild-out/.gitignore"), "*\n");
    assert!(ws.read("minibuild-out/CACHEDIR.TAG").starts_with("Signature: 8a477f597d28d172789f06886806bc55"));
}

/// As a run that was killed leaves it: with the right content, perhaps, but never published.
#[test]
fn a_writable_output_is_made_read_only_again() {
    let ws = with_targets(&genrule(
        "a",
        &[],
        &["f", "x"],
        "echo f > $OUT; echo x > minibuild-out/bin/x; chmod +x minibuild-out/bin/x",
    ));
    ws.build(&["//..."]).ok();
    let mode = |path: &str| fs::metadata(ws.bin(path)).expect("it is there").permissions().mode() & 0o777;
    for path in ["f", "x"] {
        fs::set_permissions(ws.bin(path), fs::Permissions::from_mode(mode(path) | 0o200)).expect("sets");
    }
    ws.build(&["//..."]).ok_without_running();
    assert_eq!((mode("f"), mode("x")), (0o444, 0o555));
}
