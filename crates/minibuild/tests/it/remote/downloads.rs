//! Which bytes come here, when, and what nobody asked for does not (scenarios T).

use std::os::unix::fs::PermissionsExt as _;

use minibuild_core::DigestFunction;
use minibuild_testkit::{Event, Run, Workspace};

use super::{Remote, chain, downloaded};
use crate::run_cmd::program;
use crate::{genrule, test, with_targets};

/// What of `a.txt`, `b.txt`, `c.txt` is on disk.
pub(super) fn present(ws: &Workspace) -> String {
    ["a", "b", "c"].into_iter().filter(|name| ws.has_output(&format!("{name}.txt"))).collect()
}

/// `out_dirs` with a file, an executable, a symlink, an empty directory and a nested one.
pub(super) const TREE: &str = "[[genrule]]\nname = \"tree\"\nsrcs = [\"in.txt\"]\nout_dirs = [\"d\"]\n\
    cmd = \"\"\"cp $SRC $OUT_DIR/plain; printf '#!/bin/sh\\necho run\\n' > $OUT_DIR/run; chmod 755 $OUT_DIR/run; \
    ln -s plain $OUT_DIR/link; mkdir -p $OUT_DIR/empty $OUT_DIR/n/m; echo deep > $OUT_DIR/n/m/f\"\"\"\n";

fn no_call_but(remote: &Remote, before: u64, allowed: &[&str]) {
    let allowed: u64 = remote.calls(allowed);
    assert!(remote.all_calls() <= before + allowed, "{:?}", remote.counts().methods);
}

#[test]
fn t01_all_downloads_intermediates_and_toplevel() {
    let (remote, ws) = (Remote::new(), chain());
    let run = remote.build(&ws, &["//:c", "--download=all"]).ok();
    assert_eq!(present(&ws), "abc");
    assert_eq!(downloaded(&run), [("a.txt", "all"), ("b.txt", "all"), ("c.txt", "toplevel")]);
}

#[test]
fn t02_toplevel_downloads_only_toplevel() {
    let (remote, ws) = (Remote::new(), chain());
    let run = remote.build(&ws, &["//:c"]).ok();
    assert_eq!(present(&ws), "c");
    assert_eq!(downloaded(&run), [("c.txt", "toplevel")]);
    assert_eq!(ws.output("c.txt"), "ONE\nb\nc\n");
    run.says(&["1 file downloaded (8 B)"]);
}

#[test]
fn t03_minimal_downloads_nothing() {
    let (remote, ws) = (Remote::new(), chain());
    let run = remote.build(&ws, &["//:c", "--download=minimal"]).ok();
    assert_eq!((present(&ws), downloaded(&run)), (String::new(), vec![]));
    let [output] = run.outputs_of("//:c") else { panic!("one output") };
    assert_eq!((output.present, output.size), (Some(false), 8));
    assert_eq!(remote.calls(&["Read", "BatchReadBlobs", "GetTree"]), 0);
    run.says(&["not downloaded", "/8)"]);
}

#[test]
fn t04_no_change_rebuild_runs_nothing() {
    for mode in ["--download=all", "--download=toplevel", "--download=minimal"] {
        let (remote, ws) = (Remote::new(), chain());
        remote.build(&ws, &["//:c", mode]).ok();
        let before = remote.all_calls();
        remote.build(&ws, &["//:c", mode]).ok_without_running();
        if mode == "--download=minimal" {
            ws.remove("minibuild-out/bin");
            remote.build(&ws, &["//:c", mode]).ok_without_running();
        }
        assert_eq!(remote.all_calls(), before, "{mode}");
        remote.stop();
        remote.build(&ws, &["//:c", mode]).ok_without_running();
    }
}

#[test]
fn t05_change_toplevel_target() {
    let (remote, ws) = (Remote::new(), chain());
    remote.build(&ws, &["//:b"]).ok();
    assert_eq!(present(&ws), "b");
    let run = remote.build(&ws, &["//:a"]).ok_without_running();
    assert_eq!((present(&ws).as_str(), downloaded(&run)), ("ab", vec![("a.txt", "toplevel")]));
}

#[test]
fn t06_delete_toplevel_output() {
    let (remote, ws) = (Remote::new(), chain());
    remote.build(&ws, &["//:c"]).ok();
    let before = remote.all_calls();
    ws.remove("minibuild-out/bin/c.txt");
    let run = remote.build(&ws, &["//:c"]).ok_without_running();
    assert_eq!(downloaded(&run), [("c.txt", "toplevel")]);
    assert_eq!(ws.output("c.txt"), "ONE\nb\nc\n");
    assert_eq!(remote.calls(&["Execute"]), 3);
    no_call_but(&remote, before, &["GetCapabilities", "BatchReadBlobs", "Read"]);
}

#[test]
fn t07_delete_toplevel_output_after_an_unrelated_build_in_between() {
    let (remote, ws) = (Remote::new(), chain());
    remote.build(&ws, &["//:c"]).ok();
    ws.remove("minibuild-out/bin/c.txt");
    remote.build(&ws, &["//:a"]).ok_without_running();
    assert_eq!(present(&ws), "a");
    let run = remote.build(&ws, &["//:c"]).ok_without_running();
    assert_eq!(downloaded(&run), [("c.txt", "toplevel")]);
}

#[test]
fn t08_delete_intermediate() {
    let (remote, ws) = (Remote::new(), chain());
    remote.build(&ws, &["//:c", "--download=all"]).ok();
    ws.remove("minibuild-out/bin/a.txt");
    let before = remote.all_calls();
    remote.build(&ws, &["//:c"]).ok_without_running();
    assert_eq!((present(&ws).as_str(), remote.all_calls()), ("bc", before));
}

#[test]
fn t09_modified_intermediate() {
    let (remote, ws) = (Remote::new(), chain());
    remote.build(&ws, &["//:c", "--download=all"]).ok();
    ws.remove("minibuild-out/bin/a.txt");
    ws.write("minibuild-out/bin/a.txt", "meddled\n");
    remote.build(&ws, &["//:c"]).ok_without_running().says(&["a.txt` was changed"]);
    assert_eq!((present(&ws).as_str(), ws.output("c.txt").as_str()), ("bc", "ONE\nb\nc\n"));
}

#[test]
fn t10_modified_toplevel() {
    let (remote, ws) = (Remote::new(), chain());
    remote.build(&ws, &["//:c"]).ok();
    ws.remove("minibuild-out/bin/c.txt");
    ws.write("minibuild-out/bin/c.txt", "meddled\n");
    let run = remote.build(&ws, &["//:c"]).ok_without_running();
    assert_eq!((ws.output("c.txt").as_str(), downloaded(&run).len()), ("ONE\nb\nc\n", 1));
}

#[test]
fn t11_mode_minimal_toplevel_all_minimal() {
    let (remote, ws) = (Remote::new(), chain());
    remote.build(&ws, &["//:c", "--download=minimal"]).ok();
    let next = |mode: &str| {
        let run = remote.build(&ws, &["//:c", mode]).ok_without_running();
        downloaded(&run).into_iter().map(|(path, _)| path.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(next("--download=toplevel"), ["c.txt"]);
    assert_eq!(next("--download=all"), ["a.txt", "b.txt"]);
    assert_eq!(next("--download=minimal"), Vec::<String>::new());
    assert_eq!(present(&ws), "abc");
}

#[test]
fn t12_several_toplevel_targets() {
    let (remote, ws) = (Remote::new(), chain());
    let run = remote.build(&ws, &["//:a", "//:c"]).ok();
    assert_eq!(downloaded(&run), [("a.txt", "toplevel"), ("c.txt", "toplevel")]);
    assert_eq!(run.targets().len(), 2);
}

#[test]
fn t13_alias_and_filegroup_forward_their_files() {
    let (remote, ws) = (Remote::new(), chain());
    let more =
        "[[alias]]\nname = \"other\"\nactual = \":a\"\n[[filegroup]]\nname = \"some\"\nsrcs = [\":b\", \"in.txt\"]\n";
    ws.write("BUILD.toml", ws.read("BUILD.toml") + more);
    let run = remote.build(&ws, &["//:other", "//:some"]).ok();
    assert_eq!(downloaded(&run), [("a.txt", "toplevel"), ("b.txt", "toplevel")]);
}

#[test]
fn t14_tree_artifact_toplevel() {
    let remote = Remote::new();
    let local = with_targets(TREE).file("in.txt", "x");
    local.build(&["//..."]).ok();
    let ws = with_targets(TREE).file("in.txt", "x");
    let run = remote.build(&ws, &["//..."]).ok();
    assert_eq!(ws.outputs(), local.outputs());
    let files = ["d/n/m/f", "d/plain", "d/run"].map(|path| (path, "toplevel"));
    assert_eq!(downloaded(&run), files);
}

#[test]
fn t15_tree_replaced_by_a_smaller_tree() {
    let remote = Remote::new();
    let ws = with_targets(TREE).file("in.txt", "x");
    remote.build(&ws, &["//..."]).ok();
    let small = TREE
        .replace("ln -s plain $OUT_DIR/link; mkdir -p $OUT_DIR/empty $OUT_DIR/n/m; echo deep > $OUT_DIR/n/m/f", "true");
    ws.write("BUILD.toml", &small);
    remote.build(&ws, &["//..."]).ok();
    let local = with_targets(&small).file("in.txt", "x");
    local.build(&["//..."]).ok();
    assert_eq!(ws.outputs(), local.outputs());
}

#[test]
fn t16_minimal_then_toplevel_for_a_tree() {
    let remote = Remote::new();
    let ws = with_targets(TREE).file("in.txt", "x");
    remote.build(&ws, &["//...", "--download=minimal"]).ok();
    assert!(!ws.has_output("d"));
    let run = remote.build(&ws, &["//..."]).ok_without_running();
    assert_eq!(downloaded(&run).len(), 3);
    remote.build(&ws, &["//..."]).ok_without_running();
}

#[test]
fn t17_executable_bit_kept() {
    let remote = Remote::new();
    let ws =
        with_targets(&genrule("a", &[], &["x", "y"], "echo 1 > $OUT; chmod +x $OUT; echo 1 > minibuild-out/bin/y"));
    remote.build(&ws, &["//..."]).ok();
    let mode = |path: &str| std::fs::metadata(ws.bin(path)).expect("it is there").permissions().mode() & 0o777;
    assert_eq!((mode("x"), mode("y")), (0o555, 0o444));
}

#[test]
fn t18_symlink_output_relative_kept() {
    let remote = Remote::new();
    let targets = "[[genrule]]\nname = \"l\"\nouts = [\"f\"]\nout_symlinks = [\"l\"]\ncmd = \"echo f > $OUT; ln -s f minibuild-out/bin/l\"\n";
    let ws = with_targets(targets);
    let run = remote.build(&ws, &["//..."]).ok();
    assert_eq!(std::fs::read_link(ws.bin("l")).expect("a link").to_str(), Some("f"));
    assert_eq!((ws.output("l").as_str(), downloaded(&run)), ("f\n", vec![("f", "toplevel")]));
}

/// a -> local b, with a further output of `a` that nobody needs here.
fn local_consumer() -> Workspace {
    let a = "[[genrule]]\nname = \"a\"\nouts = [\"a.txt\", \"other.txt\"]\ncmd = \"echo a > $OUT; echo o > minibuild-out/bin/other.txt\"\n";
    let b = genrule("b", &["//:a.txt"], &["b.txt"], "cat $SRC > $OUT") + "tags = [\"no-remote\"]\n";
    with_targets(&[a, &b].concat())
}

#[test]
fn t19_local_consumer_fetches_its_remote_inputs_and_only_those() {
    let (remote, ws) = (Remote::new(), local_consumer());
    ws.write("BUILD.toml", ws.read("BUILD.toml").replace("//:a.txt", ":a"));
    let extra = genrule("x", &[], &["x.txt"], "echo x > $OUT");
    ws.write("BUILD.toml", ws.read("BUILD.toml") + &extra);
    let run = remote.build(&ws, &["//:b", "//:x", "--download=minimal"]).ok();
    assert_eq!(downloaded(&run), [("a.txt", "input"), ("other.txt", "input")]);
    assert_eq!((ws.output("b.txt").as_str(), ws.has_output("x.txt")), ("a\n", false));
}

#[test]
fn t20_consumer_of_one_tree_fetches_it_whole() {
    let remote = Remote::new();
    let use_it =
        genrule("use", &[":tree"], &["u"], "cat minibuild-out/bin/d/n/m/f > $OUT") + "tags = [\"no-remote\"]\n";
    let ws = with_targets(&[TREE, &use_it].concat()).file("in.txt", "x");
    let run = remote.build(&ws, &["//:use", "--download=minimal"]).ok();
    assert_eq!((downloaded(&run).len(), ws.output("u").as_str()), (3, "deep\n"));
}

#[test]
fn t21_two_consumers_one_download() {
    let remote = Remote::new();
    let local =
        |name: &str| genrule(name, &[":a"], &[&format!("{name}.txt")], "cat $SRC > $OUT") + "tags = [\"no-remote\"]\n";
    let ws = with_targets(&[genrule("a", &[], &["a.txt"], "echo a > $OUT"), local("b"), local("c")].concat());
    let run = remote.build(&ws, &["//:b", "//:c", "-j2"]).ok();
    assert_eq!(downloaded(&run), [("a.txt", "input")]);
    assert_eq!(remote.calls(&["Read", "BatchReadBlobs"]), 1);
}

#[test]
fn t22_same_digest_two_paths_one_download() {
    let remote = Remote::new();
    let ws =
        with_targets(&(genrule("a", &[], &["x"], "echo same > $OUT") + &genrule("b", &[], &["y"], "echo same > $OUT")));
    remote.build(&ws, &["//...", "--download=minimal"]).ok();
    let run = remote.build(&ws, &["//..."]).ok_without_running();
    assert_eq!((ws.output("x"), ws.output("y")), ("same\n".to_owned(), "same\n".to_owned()));
    let Some(Event::BuildFinished { downloads, .. }) = run.events.last() else { panic!("the last event") };
    assert_eq!((downloads.files, downloads.files_copied), (1, 1));
    assert_eq!(remote.calls(&["Read", "BatchReadBlobs"]), 1);
    ws.remove("minibuild-out/bin/x");
    let run = remote.build(&ws, &["//..."]).ok_without_running();
    let Some(Event::BuildFinished { downloads, .. }) = run.events.last() else { panic!("the last event") };
    assert_eq!((downloads.files, downloads.files_copied), (0, 1), "it is at another place already");
}

#[test]
fn t23_failed_actions_outputs_and_logs_are_there_in_minimal() {
    let remote = Remote::new();
    let ws = with_targets(&genrule("a", &[], &["x", "y"], "echo said; echo made > $OUT; exit 3"));
    let run = remote.build(&ws, &["//...", "--download=minimal"]).code(1);
    assert_eq!(
        (ws.output("x").as_str(), ws.has_output("y"), downloaded(&run)),
        ("made\n", false, vec![("x", "failed")])
    );
    run.says(&["said", "exit code 3"]);
    ws.write("BUILD.toml", genrule("a", &[], &["x", "y"], "echo right | tee $OUT > minibuild-out/bin/y"));
    let run = remote.build(&ws, &["//...", "--download=minimal"]).ok();
    assert!(!ws.has_output("x"), "what the failure left is no output");
    run.says_nothing_of("was changed by something else");
}

#[test]
fn t24_regex_fetches_matches_only_and_t25_changing_it_runs_nothing() {
    let (remote, ws) = (Remote::new(), chain());
    let run = remote.build(&ws, &["//:c", "--download=minimal", "--download-regex=.*/a\\.txt"]).ok();
    assert_eq!(downloaded(&run), [("a.txt", "regex")]);
    let run = remote.build(&ws, &["//:c", "--download=minimal", "--download-regex=.*/[ab].txt"]).ok_without_running();
    assert_eq!(downloaded(&run), [("b.txt", "regex")]);
    remote.build(&ws, &["//:c", "--download-regex=("]).code(2).says(&["no regular expression"]);
}

#[test]
fn t27_test_fetches_logs_not_the_binary() {
    let remote = Remote::new();
    let ws = with_targets(
        &(genrule("bin", &[], &["bin.sh"], "printf 'echo tested' > $OUT")
            + &test("t", &[":bin"], "sh minibuild-out/bin/bin.sh")),
    );
    let executor = remote.executor();
    let run = ws.test(&["//:t", &executor, "--strategy=remote"]).ok();
    assert!(!ws.has_output("bin.sh"));
    assert_eq!(run.tests(), [("//:t", "passed")]);
    assert!(ws.read("minibuild-out/testlogs/t/test.log").contains("tested"));
}

#[test]
fn t28_run_fetches_what_it_runs_in_minimal() {
    let remote = Remote::new();
    let ws = program("cat minibuild-out/bin/tools/data.txt", "data = [\":data\"]\n");
    ws.write("tools/BUILD.toml", ws.read("tools/BUILD.toml") + &genrule("data", &[], &["data.txt"], "echo ran > $OUT"));
    let executor = remote.executor();
    let run = ws.run(&["run", "//tools:prog", &executor, "--strategy=remote", "--download=minimal"]);
    assert_eq!(run.stdout, "ran\n", "{}", run.stderr);
    assert_eq!(downloaded(&run), [("tools/data.txt", "run"), ("tools/prog.bin", "run")]);
}

#[test]
fn t30_target_completed_comes_after_the_files_exist() {
    let remote = Remote::with("[[fault]]\nkind = \"latency\"\nmethod = \"BatchReadBlobs\"\nms = 100\n");
    let ws = chain();
    let run = remote.build(&ws, &["//..."]).ok();
    let at = |wanted: &dyn Fn(&Event) -> bool| run.events.iter().position(wanted).expect("it happened");
    for name in ["a", "b", "c"] {
        let file = at(&|e| matches!(e, Event::FileDownloaded { path, .. } if path.ends_with(&format!("{name}.txt"))));
        let target = at(&|e| matches!(e, Event::TargetCompleted { label, .. } if *label == format!("//:{name}")));
        assert!(file < target, "{name}");
    }
}

#[test]
fn t31_directory_where_a_file_output_goes_is_replaced() {
    let (remote, ws) = (Remote::new(), chain());
    ws.write("minibuild-out/bin/c.txt/deep/file", "x");
    remote.build(&ws, &["//:c"]).ok();
    assert_eq!(ws.output("c.txt"), "ONE\nb\nc\n");
}

#[test]
fn t32_output_path_is_a_dangling_symlink_is_replaced() {
    let remote = Remote::new();
    let ws = chain().link("minibuild-out/bin/c.txt", "nowhere");
    remote.build(&ws, &["//:c"]).ok();
    assert_eq!(ws.output("c.txt"), "ONE\nb\nc\n");
}

#[test]
fn t33_unwritable_parent_directory_is_handled() {
    let remote = Remote::new();
    let ws = with_targets(&genrule("a", &[], &["sub/a.txt"], "echo a > $OUT"));
    remote.build(&ws, &["//:a"]).ok();
    ws.remove("minibuild-out/bin/sub/a.txt");
    std::fs::set_permissions(ws.bin("sub"), std::fs::Permissions::from_mode(0o555)).expect("sets");
    remote.build(&ws, &["//:a"]).ok_without_running();
    assert_eq!(ws.output("sub/a.txt"), "a\n");
}

#[test]
fn t35_endpoint_changed() {
    let (remote, other, ws) = (Remote::new(), Remote::new(), chain());
    remote.build(&ws, &["//:c", "--download=minimal"]).ok();
    let run = other.build(&ws, &["//:c"]).ok();
    assert_eq!(ws.output("c.txt"), "ONE\nb\nc\n");
    assert_eq!(run.counts().failed, 0);
}

#[test]
fn t36_remote_turned_off() {
    let (remote, ws) = (Remote::new(), chain());
    remote.build(&ws, &["//:c", "--download=minimal"]).ok();
    let run = ws.build(&["//:c"]).ok();
    assert_eq!((run.counts().local, ws.output("c.txt").as_str()), (3, "ONE\nb\nc\n"));
}

/// A local consumer at the end of a chain whose blobs are gone.
pub(super) fn heals(run: &Run, ws: &Workspace) {
    assert_eq!((run.counts().failed, ws.output("c.txt").as_str()), (0, "ONE\nb\nc\n"), "{}", run.stderr);
}

#[test]
fn t37_evicted_intermediate_needed_by_a_local_action() {
    let (remote, ws) = (Remote::new(), chain());
    remote.build(&ws, &["//:b", "--download=minimal"]).ok();
    remote.evict_all();
    let local = "tags = [\"no-remote\"]\n";
    ws.write("BUILD.toml", ws.read("BUILD.toml") + local);
    heals(&remote.build(&ws, &["//:c"]).ok(), &ws);
}

#[test]
fn t38_evicted_input_of_a_remote_action() {
    let (remote, ws) = (Remote::new(), chain());
    remote.build(&ws, &["//:b", "--download=minimal"]).ok();
    remote.evict_all();
    heals(&remote.build(&ws, &["//:c"]).ok(), &ws);
}

#[test]
fn t39_evicted_toplevel_output() {
    let (remote, ws) = (Remote::new(), chain());
    remote.build(&ws, &["//:c", "--download=minimal"]).ok();
    remote.evict_all();
    heals(&remote.build(&ws, &["//:c"]).ok(), &ws);
}

#[test]
fn t40_evicted_tree() {
    let remote = Remote::new();
    let ws = with_targets(TREE).file("in.txt", "x");
    remote.build(&ws, &["//...", "--download=minimal"]).ok();
    remote.evict_all();
    remote.build(&ws, &["//..."]).ok();
    assert_eq!(ws.output("d/n/m/f"), "deep\n");
}

#[test]
fn t41_chain_of_ten_all_evicted() {
    let remote = Remote::new();
    let mut targets = genrule("g0", &["in.txt"], &["0"], "cat $SRC > $OUT");
    for i in 1..10 {
        let src = format!(":g{}", i - 1);
        targets.push_str(&genrule(&format!("g{i}"), &[&src], &[&i.to_string()], "(cat $SRC; echo x) > $OUT"));
    }
    let ws = with_targets(&targets).file("in.txt", "1\n");
    remote.build(&ws, &["//:g9", "--download=minimal"]).ok();
    remote.evict_all();
    let last = genrule("last", &[":g9"], &["last"], "cat $SRC > $OUT") + "tags = [\"no-remote\"]\n";
    ws.write("BUILD.toml", targets + &last);
    let run = remote.build(&ws, &["//:last"]).ok();
    assert_eq!(ws.output("last").lines().count(), 10);
    assert_eq!(run.counts().failed, 0);
}

#[test]
fn t42_stale_action_cache_entry_naming_lost_blobs() {
    let remote = Remote::new();
    remote.build(&chain(), &["//:c"]).ok();
    // Each blob is lost when it is read: the cache still names it.
    remote.restart("[[fault]]\nkind = \"lost\"\nonce = true\n");
    let ws = chain();
    let run = remote.build(&ws, &["//:c"]).ok();
    heals(&run, &ws);
}

#[test]
fn t43_evicted_again_and_again() {
    let digest = DigestFunction::Sha256.digest(b"ONE\nb\nc\n");
    let remote = Remote::with(&format!("[[fault]]\nkind = \"lost\"\ndigest = \"{}\"\n", digest.hex()));
    let ws = chain();
    let run = remote.build(&ws, &["//:c"]).code(39);
    run.says(&["//:c", "minibuild-out/bin/c.txt", &digest.to_string()]);
    assert_eq!(remote.ran(), 2 + 5);
}

#[test]
fn t45_corrupt_blob_is_refused_and_fetched_again() {
    let remote = Remote::with("[[fault]]\nkind = \"corrupt\"\ntimes = 1\n");
    let ws = chain();
    remote.build(&ws, &["//:c"]).ok();
    assert_eq!(ws.output("c.txt"), "ONE\nb\nc\n");
    let remote = Remote::with("[[fault]]\nkind = \"corrupt\"\n");
    let ws = chain();
    remote.build(&ws, &["//:c"]).code(39);
    assert!(!ws.has_output("c.txt"));
}

#[test]
fn t52_no_remote_configured_and_any_mode() {
    for mode in ["--download=all", "--download=toplevel", "--download=minimal"] {
        let ws = chain();
        ws.build(&["//:c", mode]).ok();
        ws.build(&["//:c", mode]).ok_without_running();
        assert_eq!(present(&ws), "abc");
    }
}

#[test]
fn t54_empty_tree_consumed_locally() {
    let remote = Remote::new();
    let tree = "[[genrule]]\nname = \"tree\"\nout_dirs = [\"d\"]\ncmd = \"true\"\n";
    let use_it =
        genrule("use", &[":tree"], &["u"], "ls -A minibuild-out/bin/d | wc -l > $OUT") + "tags = [\"no-remote\"]\n";
    let ws = with_targets(&[tree, &use_it].concat());
    remote.build(&ws, &["//:use"]).ok();
    assert_eq!(ws.output("u").trim(), "0");
}

#[test]
fn t55_local_tree_consumed_remotely() {
    let remote = Remote::new();
    let use_it = genrule("use", &[":tree"], &["u"], "cd minibuild-out/bin; (find d | sort; d/run; cat d/link) > u");
    let ws = with_targets(&[&TREE.replace("out_dirs", "tags = [\"no-remote\"]\nout_dirs"), &*use_it].concat())
        .file("in.txt", "x\n");
    remote.build(&ws, &["//:use"]).ok();
    assert_eq!(ws.output("u"), "d\nd/empty\nd/link\nd/n\nd/n/m\nd/n/m/f\nd/plain\nd/run\nrun\nx\n");
}

#[test]
fn t60_fetch_after_minimal() {
    let (remote, ws) = (Remote::new(), chain());
    let executor = remote.executor();
    let fetch = |pattern: &str| ws.run(&["fetch", pattern, &executor]);
    fetch("//:c").code(1).says(&["minibuild build"]);
    remote.build(&ws, &["//:c", "--download=minimal"]).ok();
    let run = fetch("//:b").ok_without_running();
    assert_eq!((downloaded(&run), present(&ws).as_str()), (vec![("b.txt", "fetch")], "b"));
    fetch("//:b").ok_without_running();
    ws.write("in.txt", "two\n");
    let run = fetch("//:c").code(1);
    assert_eq!((run.ran().len(), remote.ran()), (0, 3));
}

#[test]
fn t65_depfile_in_minimal() {
    let remote = Remote::new();
    let files = |ws: Workspace| {
        ws.file("minibuild.toml", "[workspace]\nrules = [\"@std/c.toml\"]\n")
            .file("BUILD.toml", "[[c_library]]\nname = \"l\"\nsrcs = [\"l.c\"]\nhdrs = [\"read.h\", \"unread.h\"]\n")
            .file("l.c", "#include \"read.h\"\nint l(void) { return X; }\n")
            .file("read.h", "#define X 1\n")
            .file("unread.h", "#define Y 1\n")
    };
    let ws = files(crate::workspace());
    let args = ["//...", "--download=minimal"];
    remote.build(&ws, &args).ok();
    ws.write("unread.h", "#define Y 2\n");
    remote.build(&ws, &args).ok_without_running();
    ws.write("read.h", "#define X 2\n");
    assert!(!remote.build(&ws, &args).ok().ran().is_empty());
    ws.write("read.h", "#define X 1\n");
    ws.write("unread.h", "#define Y 1\n");
    let again = files(crate::workspace());
    let run = remote.build(&again, &args).ok();
    assert_eq!(run.counts().remote, 0, "{:?}", run.counts());
    again.write("unread.h", "#define Y 3\n");
    remote.build(&again, &args).ok_without_running();
}

#[test]
fn t68_embedded_restart_keeps_metadata() {
    let ws = chain();
    let embedded = ["--remote-executor=embedded", "--strategy=remote"];
    ws.build(&[&embedded[..], &["//:c", "--download=minimal"]].concat()).ok();
    let run = ws.build(&[&embedded[..], &["//:c"]].concat()).ok_without_running();
    assert_eq!(downloaded(&run), [("c.txt", "toplevel")]);
}
