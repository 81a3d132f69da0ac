//! The scenarios of downloads where actions run here, and a cache that somebody else filled has their results
//! (scenarios T).

use minibuild_testkit::{Run, Workspace, difference};

use super::downloads::{TREE, heals, present};
use super::{Remote, chain, downloaded};
use crate::{genrule, with_targets};

const MINIMAL: &str = "--download=minimal";

/// A cache that a build of all of such a workspace filled, and another such workspace.
fn filled(make: impl Fn() -> Workspace) -> (Remote, Workspace) {
    let remote = Remote::new();
    remote.build_cached(&make(), &["//..."]).ok();
    (remote, make())
}

pub(super) fn tree() -> Workspace {
    with_targets(TREE).file("in.txt", "x")
}

/// Nothing ran, whatever came from the cache.
#[track_caller]
pub(super) fn hits(run: &Run, expected: u64) {
    let counts = run.counts();
    assert_eq!((counts.remote_cache, counts.local, counts.failed), (expected, 0, 0), "{}", run.stderr);
}

#[test]
fn t01_t02_t03_modes() {
    let check = |mode: &str, there: &str, files: &[(&str, &str)]| {
        let (remote, ws) = filled(chain);
        let run = remote.build_cached(&ws, &["//:c", mode]).ok();
        hits(&run, 3);
        assert_eq!((present(&ws).as_str(), downloaded(&run).as_slice()), (there, files), "{mode}");
    };
    check("--download=all", "abc", &[("a.txt", "all"), ("b.txt", "all"), ("c.txt", "toplevel")]);
    check("--download=toplevel", "c", &[("c.txt", "toplevel")]);
    check(MINIMAL, "", &[]);
}

#[test]
fn t04_no_change_rebuild_runs_nothing() {
    for mode in ["--download=all", "--download=toplevel", MINIMAL] {
        let (remote, ws) = filled(chain);
        remote.build_cached(&ws, &["//:c", mode]).ok();
        let before = remote.all_calls();
        remote.build_cached(&ws, &["//:c", mode]).ok_without_running();
        assert_eq!(remote.all_calls(), before, "{mode}");
        remote.stop();
        remote.build_cached(&ws, &["//:c", mode]).ok_without_running();
    }
}

#[test]
fn t05_change_toplevel_target() {
    let (remote, ws) = filled(chain);
    remote.build_cached(&ws, &["//:b"]).ok();
    let run = remote.build_cached(&ws, &["//:a"]).ok_without_running();
    assert_eq!((present(&ws).as_str(), downloaded(&run)), ("ab", vec![("a.txt", "toplevel")]));
}

#[test]
fn t06_delete_toplevel_output() {
    let (remote, ws) = filled(chain);
    remote.build_cached(&ws, &["//:c"]).ok();
    let asked = remote.calls(&["GetActionResult"]);
    ws.remove("minibuild-out/bin/c.txt");
    let run = remote.build_cached(&ws, &["//:c"]).ok_without_running();
    assert_eq!((ws.output("c.txt").as_str(), downloaded(&run)), ("ONE\nb\nc\n", vec![("c.txt", "toplevel")]));
    assert_eq!(remote.calls(&["GetActionResult"]), asked);
}

#[test]
fn t11_mode_minimal_toplevel_all_minimal() {
    let (remote, ws) = filled(chain);
    remote.build_cached(&ws, &["//:c", MINIMAL]).ok();
    let next = |mode: &str| {
        let run = remote.build_cached(&ws, &["//:c", mode]).ok_without_running();
        downloaded(&run).len()
    };
    let counts = ["--download=toplevel", "--download=all", MINIMAL].map(next);
    assert_eq!(counts, [1, 2, 0]);
}

#[test]
fn t12_several_toplevel_targets() {
    let (remote, ws) = filled(chain);
    let run = remote.build_cached(&ws, &["//:a", "//:c"]).ok();
    hits(&run, 3);
    assert_eq!(downloaded(&run), [("a.txt", "toplevel"), ("c.txt", "toplevel")]);
}

#[test]
fn t13_alias_and_filegroup_forward_their_files() {
    let (remote, ws) = filled(chain);
    let more =
        "[[alias]]\nname = \"other\"\nactual = \":a\"\n[[filegroup]]\nname = \"some\"\nsrcs = [\":b\", \"in.txt\"]\n";
    ws.write("BUILD.toml", ws.read("BUILD.toml") + more);
    let run = remote.build_cached(&ws, &["//:other", "//:some"]).ok();
    hits(&run, 2);
    assert_eq!(downloaded(&run), [("a.txt", "toplevel"), ("b.txt", "toplevel")]);
}

#[test]
fn t14_t16_trees() {
    let local = tree();
    local.build(&["//..."]).ok();
    let (remote, ws) = filled(tree);
    let run = remote.build_cached(&ws, &["//...", MINIMAL]).ok();
    hits(&run, 1);
    assert!(!ws.has_output("d"));
    let run = remote.build_cached(&ws, &["//..."]).ok_without_running();
    assert_eq!(downloaded(&run), ["d/n/m/f", "d/plain", "d/run"].map(|path| (path, "toplevel")));
    assert_eq!(difference(&local.outputs(), &ws.outputs()), Vec::<String>::new());
}

#[test]
fn t15_tree_replaced_by_a_smaller_tree() {
    let small = || {
        let cmd = "ln -s plain $OUT_DIR/link; mkdir -p $OUT_DIR/empty $OUT_DIR/n/m; echo deep > $OUT_DIR/n/m/f";
        with_targets(&TREE.replace(cmd, "true")).file("in.txt", "x")
    };
    let (remote, ws) = filled(tree);
    let smaller = small();
    remote.build_cached(&smaller, &["//..."]).ok();
    remote.build_cached(&ws, &["//..."]).ok();
    ws.write("BUILD.toml", smaller.read("BUILD.toml"));
    let run = remote.build_cached(&ws, &["//..."]).ok();
    hits(&run, 1);
    assert_eq!(difference(&smaller.outputs(), &ws.outputs()), Vec::<String>::new());
}

#[test]
fn t17_executable_bit_kept() {
    let cmd = "echo 1 > $OUT; chmod +x $OUT; echo 1 > minibuild-out/bin/y";
    let make = || with_targets(&genrule("a", &[], &["x", "y"], cmd));
    let local = make();
    local.build(&["//..."]).ok();
    let (remote, ws) = filled(make);
    let run = remote.build_cached(&ws, &["//..."]).ok();
    hits(&run, 1);
    assert_eq!(difference(&local.outputs(), &ws.outputs()), Vec::<String>::new());
}

/// What is known of the cache is no longer so.
fn evicted(make: impl Fn() -> Workspace, pattern: &str) -> (Remote, Workspace) {
    let (remote, ws) = filled(make);
    remote.build_cached(&ws, &[pattern, MINIMAL]).ok();
    remote.evict_all();
    (remote, ws)
}

#[test]
fn t37_evicted_intermediate_needed_by_an_action() {
    let (remote, ws) = evicted(chain, "//:b");
    ws.write("in.txt", "one\n");
    ws.write("BUILD.toml", ws.read("BUILD.toml").replace("echo c", "echo 'c'"));
    let run = remote.build_cached(&ws, &["//:c"]).ok();
    heals(&run, &ws);
    assert_eq!(run.counts().local, 3, "{}", run.stderr);
}

#[test]
fn t39_evicted_toplevel_output() {
    let (remote, ws) = evicted(chain, "//:c");
    let run = remote.build_cached(&ws, &["//:c"]).ok();
    heals(&run, &ws);
    remote.build_cached(&ws, &["//:c"]).ok_without_running();
}

#[test]
fn t40_evicted_tree() {
    let (remote, ws) = evicted(tree, "//...");
    remote.build_cached(&ws, &["//..."]).ok();
    let local = tree();
    local.build(&["//..."]).ok();
    assert_eq!(difference(&local.outputs(), &ws.outputs()), Vec::<String>::new());
}

#[test]
fn t41_chain_of_ten_all_evicted() {
    let make = || {
        let link = |i: usize| {
            let src = i.checked_sub(1).map_or("in.txt".to_owned(), |before| format!(":g{before}"));
            genrule(&format!("g{i}"), &[&src], &[&i.to_string()], "(cat $SRC; echo x) > $OUT")
        };
        with_targets(&(0..10).map(link).collect::<String>()).file("in.txt", "")
    };
    let (remote, ws) = evicted(make, "//:g8");
    let run = remote.build_cached(&ws, &["//:g9"]).ok();
    assert_eq!((ws.output("9").lines().count(), run.counts().failed), (10, 0));
}

#[test]
fn t42_stale_action_cache_entry_naming_lost_blobs() {
    let (remote, ws) = filled(chain);
    // Each blob is lost when it is read: the cache still names it.
    remote.restart("[[fault]]\nkind = \"lost\"\nonce = true\n");
    heals(&remote.build_cached(&ws, &["//:c"]).ok(), &ws);
    remote.build_cached(&ws, &["//:c"]).ok_without_running();
}
