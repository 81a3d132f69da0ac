//! What a snapshot is used for.

use std::fs;

use super::{sample, settled, snapshots};
use crate::{test, workspace};

#[test]
fn nothing_to_do_is_told_as_the_full_way_tells_it() {
    let ws = settled();
    let short = ws.build(&["//..."]).ok_without_running().from_snapshot();
    snapshots(&ws).iter().for_each(|path| fs::remove_file(path).expect("removes"));
    let full = ws.build(&["//..."]).ok_without_running();
    assert_eq!(full.why_no_snapshot(), "there is no snapshot of this request");
    assert_eq!(short.counts(), full.counts());
    assert_eq!((short.targets(), short.outputs_of("//:b")), (full.targets(), full.outputs_of("//:b")));
    let lines = |text: &str| text.lines().filter(|l| !l.contains("Elapsed")).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&short.stderr), lines(&full.stderr));
}

#[test]
fn the_first_build_after_a_clean_one_needs_no_load_either() {
    let ws = sample();
    ws.build(&["//..."]).ok();
    // Outputs were hashed too soon after they were written to be trusted: they are hashed once more, and that is kept.
    ws.build(&["//..."]).ok_without_running().from_snapshot();
    ws.build(&["//..."]).ok_without_running().from_snapshot();
}

#[test]
fn a_file_nobody_asked_for_needs_no_load() {
    let ws = settled();
    for name in ["d/.x.txt.swp", "notes.md", "d/other.txt"] {
        ws.write(name, "x");
        ws.build(&["//..."]).ok_without_running().from_snapshot();
    }
    ws.remove("d/other.txt");
    ws.build(&["//..."]).ok_without_running().from_snapshot();
}

#[test]
fn tests_that_ran_meanwhile_concern_only_who_asks_for_them() {
    let ws = settled();
    ws.write("BUILD.toml", ws.read("BUILD.toml") + &test("check", &[":b"], "grep -q in $SRC"));
    let check = || ws.run(&["test", "//..."]);
    ws.build(&["//..."]).ok();
    check().ok().started_only(&["//:check"]);
    ws.build(&["//..."]).ok_without_running().from_snapshot();
    check().ok_without_running().from_snapshot();
    // Another request runs the same test.
    ws.write("in", "into\n");
    ws.run(&["test", "//:check"]).ok().started_only(&["//:a", "//:b", "//:check"]);
    let run = check().ok_without_running().from_snapshot();
    assert_eq!(run.tests(), [("//:check", "cached")]);
}

#[test]
fn an_edited_source_costs_its_cone() {
    let ws = settled();
    for text in ["one\n", "two\n", "three\n"] {
        ws.write("in", text);
        let run = ws.build(&["//..."]).ok().from_snapshot().started_only(&["//:a", "//:b"]);
        assert_eq!((run.counts().total, run.counts().up_to_date, run.counts().local), (5, 3, 2));
        assert_eq!(run.targets().len(), 5);
        assert!(run.reason("//:a").starts_with("input `in` changed"), "{}", run.reason("//:a"));
        assert_eq!(ws.output("b"), text);
        ws.build(&["//..."]).ok_without_running().from_snapshot();
    }
    // The state holds what the parts made: without snapshots nothing runs.
    snapshots(&ws).iter().for_each(|path| fs::remove_file(path).expect("removes"));
    ws.build(&["//..."]).ok_without_running();
}

#[test]
fn equal_outputs_stop_a_change() {
    let ws = workspace()
        .file(
            "BUILD.toml",
            crate::genrule("a", &["in"], &["a"], "wc -l < $SRC > $OUT")
                + &crate::genrule("b", &[":a"], &["b"], "cat $SRC > $OUT"),
        )
        .file("in", "x\n");
    ws.build(&["//..."]).ok();
    ws.build(&["//..."]).ok();
    ws.write("in", "y\n");
    ws.build(&["//..."]).ok().from_snapshot().started_only(&["//:a"]);
    ws.build(&["//..."]).ok_without_running().from_snapshot();
}

#[test]
fn a_failure_is_repaired_without_loading() {
    let ws = workspace()
        .file(
            "BUILD.toml",
            crate::genrule("a", &["in"], &["a"], "grep -q good $SRC && cat $SRC > $OUT")
                + &crate::genrule("b", &[":a"], &["b"], "cat $SRC > $OUT")
                + &crate::genrule("c", &["other"], &["c"], "cat $SRC > $OUT"),
        )
        .file("in", "good\n")
        .file("other", "c\n");
    ws.build(&["//..."]).ok();
    ws.build(&["//..."]).ok();
    ws.write("in", "bad\n");
    for _ in 0..2 {
        let run = ws.build(&["//..."]).code(1).from_snapshot().says(&["//:a (Genrule) failed"]);
        assert_eq!((run.counts().total, run.counts().failed, run.counts().up_to_date), (3, 1, 1));
        assert_eq!(run.targets().iter().filter(|(_, success)| *success).count(), 1);
    }
    ws.write("in", "good again\n");
    ws.build(&["//..."]).ok().from_snapshot().started_only(&["//:a", "//:b"]);
    ws.build(&["//..."]).ok_without_running().from_snapshot();
}

#[test]
fn a_touched_file_is_hashed_once() {
    let ws = settled();
    ws.write("in", "in\n");
    ws.build(&["//..."]).ok_without_running().from_snapshot();
    ws.build(&["//..."]).ok_without_running().from_snapshot();
}

#[test]
fn a_deleted_or_changed_output_is_made_again() {
    let ws = settled();
    ws.remove("minibuild-out/bin/a");
    ws.build(&["//..."]).ok().from_snapshot().started_only(&["//:a"]);
    ws.remove("minibuild-out/bin/b");
    ws.write("minibuild-out/bin/b", "mine\n");
    ws.build(&["//..."]).ok().from_snapshot().started_only(&["//:b"]);
    assert_eq!(ws.output("b"), "in\n");
    ws.build(&["//..."]).ok_without_running().from_snapshot();
}

#[test]
fn tests_that_passed_are_told_of() {
    let ws = workspace()
        .file("BUILD.toml", test("good", &["in"], "grep -q good $SRC") + &test("other", &[], "true"))
        .file("in", "good\n");
    ws.test(&["//..."]).ok();
    ws.test(&["//..."]).ok();
    let run = ws.test(&["//..."]).ok().from_snapshot().says(&["//:good PASSED (cached)", "//:other PASSED (cached)"]);
    assert_eq!(run.tests(), [("//:good", "cached"), ("//:other", "cached")]);
    ws.write("in", "bad\n");
    let run = ws.test(&["//..."]).code(3).from_snapshot();
    assert_eq!(run.tests(), [("//:good", "failed"), ("//:other", "cached")]);
    ws.test(&["//..."]).code(3).from_snapshot();
    ws.write("in", "good\n");
    ws.test(&["//..."]).ok().from_snapshot();
    let run = ws.test(&["//...", "--no-cache-tests"]).ok();
    assert_eq!(run.why_no_snapshot(), "tests are to be run anew");
}

#[test]
fn what_is_applied_on_the_graph_needs_no_other_snapshot() {
    let ws = settled();
    for flags in
        [&["-j1"][..], &["--download=minimal"], &["--download=all"], &["--download-regex=.*"], &["--strategy=local"]]
    {
        ws.build(&[&["//..."], flags].concat()).ok_without_running().from_snapshot();
    }
    let run = ws.build(&["//...", "--events-detail=all"]).ok_without_running().from_snapshot();
    assert_eq!(run.counts().up_to_date, 5);
    ws.build(&["//...", "--strategy=remote"]).code(2).says(&["no remote executor is set"]);
}

#[test]
fn several_requests_have_their_snapshots() {
    let ws = settled();
    ws.build(&["//d:x"]).ok_without_running();
    ws.build(&["//d:x"]).ok_without_running().from_snapshot();
    ws.build(&["//..."]).ok_without_running().from_snapshot();
    ws.write("d/x.txt", "y\n");
    ws.build(&["//d:x"]).ok().from_snapshot().started_only(&["//d:x"]);
    ws.build(&["//..."]).ok().from_snapshot().started_only(&["//:c"]);
    assert_eq!(ws.output("c"), "y\n");
    ws.build(&["//..."]).ok_without_running().from_snapshot();
    for pattern in ["//:a", "//:b", "//:c", "//:all"] {
        ws.build(&[pattern]).ok_without_running();
    }
    let named = snapshots(&ws).iter().filter(|path| path.extension().is_none()).count();
    assert_eq!(named, 4);
}

#[test]
fn trees_and_links_are_looked_at() {
    let tree = "[[genrule]]\nname = \"t\"\nsrcs = [\"in\"]\nout_dirs = [\"t\"]\nout_symlinks = [\"l\"]\ncmd = \"mkdir $OUT_DIR/d && cp $SRC $OUT_DIR/d/f && ln -s t/d/f minibuild-out/bin/l\"\n";
    let ws = workspace()
        .file(
            "BUILD.toml",
            tree.to_owned()
                + &crate::genrule("u", &[":t", "other"], &["u"], "cat minibuild-out/bin/t/d/f other > $OUT"),
        )
        .file("in", "x\n")
        .file("other", "o\n");
    for _ in 0..3 {
        ws.build(&["//..."]).ok();
    }
    ws.build(&["//..."]).ok_without_running().from_snapshot();
    ws.write("other", "p\n");
    ws.build(&["//..."]).ok().from_snapshot().started_only(&["//:u"]);
    assert_eq!(ws.output("u"), "x\np\n");
    ws.write("minibuild-out/bin/t/extra", "");
    ws.build(&["//..."]).ok().from_snapshot().started_only(&["//:t"]);
    ws.remove("minibuild-out/bin/l");
    // The text of a link is known: it takes no run.
    ws.build(&["//..."]).ok_without_running().from_snapshot();
    assert_eq!(ws.read("minibuild-out/bin/l"), "x\n");
    ws.build(&["//..."]).ok_without_running().from_snapshot();
}

#[test]
fn a_source_that_is_asked_for_itself_is_told_as_it_is_now() {
    let group = "[[filegroup]]\nname = \"g\"\nsrcs = [\"in\"]\n";
    let ws = crate::with_targets(group).file("in", "one\n");
    ws.build(&["//:g"]).ok();
    ws.build(&["//:g"]).ok().from_snapshot();
    for text in ["longer\n", "longer still\n"] {
        ws.write("in", text);
        for _ in 0..2 {
            let run = ws.build(&["//:g"]).ok_without_running().from_snapshot();
            assert_eq!(run.outputs_of("//:g")[0].size, text.len() as u64);
        }
    }
}
