//! Which side does what: tags, strategies, caches, fallbacks, uploads.

use std::collections::BTreeMap;

use minibuild_testkit::{Workspace, difference, free_port};

use super::{Remote, chain, downloaded, runners};
use crate::{genrule, with_targets, workspace};

/// Files, an executable, a tree with a symlink and an empty directory, a symlink, a depfile, a test, a program.
pub(super) fn of_all_kinds() -> Workspace {
    let mut targets =
        genrule("file", &["in.txt"], &["f.txt", "g.txt"], "cat $SRC > $OUT; echo g > minibuild-out/bin/g.txt");
    targets.push_str(&genrule("program", &[], &["run.sh"], "printf '#!/bin/sh\\necho run\\n' > $OUT; chmod +x $OUT"));
    targets.push_str(
        "[[genrule]]\nname = \"tree\"\nsrcs = [\":file\"]\nout_dirs = [\"d\"]\n\
         cmd = \"cp minibuild-out/bin/f.txt $OUT_DIR/x; mkdir -p $OUT_DIR/sub/empty; ln -s ../x $OUT_DIR/sub/link; chmod 755 $OUT_DIR/x\"\n",
    );
    targets.push_str(
        "[[genrule]]\nname = \"link\"\nsrcs = [\":file\"]\nout_symlinks = [\"l\"]\ncmd = \"ln -s f.txt minibuild-out/bin/l\"\n",
    );
    targets.push_str(&genrule(
        "uses",
        &[":tree", ":program"],
        &["u.txt"],
        "(find minibuild-out/bin/d | sort; minibuild-out/bin/run.sh) > $OUT",
    ));
    with_targets(&targets).file("in.txt", "one\n")
}

#[test]
fn remote_builds_equal_local_ones_and_so_do_builds_from_the_cache() {
    let local = of_all_kinds();
    local.build(&["//..."]).ok();
    let remote = Remote::new();
    let ws = of_all_kinds();
    let run = remote.build(&ws, &["//...", "--download=all"]).ok();
    assert_eq!((run.counts().total, run.counts().remote), (5, 5));
    assert_eq!(difference(&local.outputs(), &ws.outputs()), Vec::<String>::new());
    let cached = of_all_kinds();
    let run = remote.build_cached(&cached, &["//...", "--download=all"]).ok();
    assert_eq!((run.counts().remote_cache, run.counts().local), (5, 0));
    assert_eq!(difference(&local.outputs(), &cached.outputs()), Vec::<String>::new());
    assert_eq!(remote.ran(), 5);
}

#[test]
fn embedded_needs_nothing_set_up() {
    let local = of_all_kinds();
    local.build(&["//..."]).ok();
    let ws = of_all_kinds();
    let embedded = ["--remote-executor=embedded", "--strategy=remote", "--download=all", "//..."];
    let run = ws.build(&embedded).ok();
    assert_eq!(run.counts().remote, 5);
    assert_eq!(difference(&local.outputs(), &ws.outputs()), Vec::<String>::new());
    ws.build(&embedded).ok_without_running();
    ws.run(&["clean"]).ok();
    let run = ws.build(&embedded).ok();
    assert_eq!(run.counts().remote + run.counts().local, 0, "the store outlives the build: {:?}", run.counts());
}

#[test]
fn d01_remote_only_tag_never_starts_local() {
    let remote = Remote::new();
    let ws = with_targets(&(genrule("a", &[], &["a"], "echo a > $OUT") + "tags = [\"no-local\"]\n"));
    for strategy in ["local", "remote", "dynamic"] {
        ws.run(&["clean", "--all"]).ok();
        remote.restart("");
        let run =
            ws.build(&["//...", &remote.executor(), &format!("--strategy={strategy}"), "--remote-cache=none"]).ok();
        assert_eq!(runners(&run), [("//:a", "remote")], "{strategy}");
    }
    ws.build(&["//..."]).ok_without_running();
    ws.run(&["clean", "--all"]).ok();
    ws.build(&["//..."]).code(1).says(&["tag `no-local`", "no remote executor is set"]);
}

#[test]
fn d02_local_only_tag_never_starts_remote() {
    let remote = Remote::new();
    for tag in ["no-remote", "local"] {
        let ws = with_targets(&(genrule("a", &[], &["a"], "echo a > $OUT") + &format!("tags = [{tag:?}]\n")));
        let run = remote.build(&ws, &["//..."]).ok();
        assert_eq!(runners(&run), [("//:a", "local")]);
    }
    assert_eq!(remote.ran(), 0);
}

#[test]
fn d03_neither_side_eligible_names_both_reasons() {
    let remote = Remote::new();
    let ws = with_targets(&(genrule("a", &[], &["a"], "echo a > $OUT") + "tags = [\"no-remote\", \"no-local\"]\n"));
    remote.build(&ws, &["//..."]).code(1).says(&["tag `no-local`", "tag `no-remote`"]);
}

#[test]
fn a_foreign_platform_makes_an_action_remote() {
    let remote = Remote::new();
    let ws = with_targets(&(genrule("a", &[], &["a"], "echo a > $OUT") + "platform = { ISA = \"mips\" }\n"));
    ws.build(&["//..."]).code(1).says(&["platform property `ISA` is `mips`"]);
    ws.build(&["//...", &remote.executor(), "--strategy=local"]).code(34).says(&["mips"]);
}

#[test]
fn strategies_by_mnemonic() {
    let remote = Remote::new();
    let ws = with_targets(&(genrule("a", &[], &["a"], "echo a > $OUT") + &crate::test("t", &[], "true")));
    let executor = remote.executor();
    let run = ws.test(&["//...", &executor, "--strategy=local", "--strategy=Test=remote"]).ok();
    assert!(runners(&run).contains(&("//:t", "remote")), "{:?}", runners(&run));
    assert!(runners(&run).contains(&("//:a", "local")), "{:?}", runners(&run));
}

#[test]
fn a_dead_server_is_a_fallback_or_exit_34() {
    let remote = Remote::new();
    remote.stop();
    let ws = chain();
    let quick = ["--remote-retries=0", "--remote-timeout=5s"];
    let args = |more: &[&'static str]| [&["//..."], &quick[..], more].concat();
    let run = remote.build(&ws, &args(&[])).code(34);
    assert_eq!(run.targets().iter().filter(|(_, success)| *success).count(), 0);
    let executor = remote.executor();
    let run = ws.build(&[&args(&["--strategy=remote"])[..], &[&executor]].concat()).ok();
    assert_eq!((run.counts().local, run.counts().remote), (3, 0));
    ws.build(&[&args(&["--strategy=remote"])[..], &[&executor]].concat()).ok_without_running();
    let fresh = chain();
    let cache = remote.cache();
    let run = fresh.build(&[&args(&[])[..], &[&cache]].concat()).ok();
    assert_eq!(run.counts().local, 3, "a dead cache breaks no build");
    run.says(&["cache error"]);
}

#[test]
fn offline_makes_no_call() {
    let remote = Remote::new();
    let ws = chain();
    let executor = remote.executor();
    let run = ws.build(&["//...", &executor, "--offline"]).ok();
    assert_eq!(run.counts().local, 3);
    ws.build(&["//...", &executor, "--offline", "--strategy=remote"]).code(2).says(&["strategy is `remote`"]);
    assert_eq!(remote.all_calls(), 0);
}

#[test]
fn local_results_are_uploaded_and_found_elsewhere() {
    let remote = Remote::new();
    let first = chain();
    let run = remote.build_cached(&first, &["//..."]).ok();
    assert_eq!(run.counts().local, 3);
    let second = chain();
    let run = remote.build_cached(&second, &["//..."]).ok();
    assert_eq!((run.counts().remote_cache, run.counts().local), (3, 0));
    assert_eq!(downloaded(&run), [("a.txt", "toplevel"), ("b.txt", "toplevel"), ("c.txt", "toplevel")]);
    assert_eq!(second.output("c.txt"), "ONE\nb\nc\n");
    let third = chain();
    let run = remote.build_cached(&third, &["//:c", "--download=minimal"]).ok();
    assert_eq!((run.counts().remote_cache, downloaded(&run)), (3, vec![]));
}

#[test]
fn what_may_not_be_uploaded_is_not() {
    let remote = Remote::new();
    let ws = with_targets(
        &[
            genrule("a", &[], &["a"], "echo a > $OUT") + "tags = [\"no-cache\"]\n",
            genrule("b", &[], &["b"], "echo b > $OUT") + "tags = [\"no-remote-cache\"]\n",
            genrule("c", &[], &["c"], "sleep 1000 & echo c > $OUT"),
            genrule("d", &[], &["d"], "echo d > $OUT"),
        ]
        .concat(),
    );
    remote.build_cached(&ws, &["//..."]).ok();
    assert_eq!(remote.calls(&["UpdateActionResult"]), 1);
    ws.run(&["clean", "--all"]).ok();
    let run = remote.build_cached(&ws, &["//..."]).ok();
    assert_eq!((run.counts().remote_cache, run.counts().local), (1, 3));
}

#[test]
fn with_an_executor_only_hermetic_results_are_uploaded() {
    let remote = Remote::new();
    let ws = chain();
    let executor = remote.executor();
    ws.build(&["//...", &executor, "--strategy=local"]).ok();
    assert_eq!(remote.calls(&["UpdateActionResult"]), 0);
    ws.write("minibuild.toml", "[remote]\nupload_local_results = \"always\"\n");
    ws.run(&["clean", "--all"]).ok();
    ws.build(&["//...", &executor, "--strategy=local"]).ok();
    assert_eq!(remote.calls(&["UpdateActionResult"]), 3);
}

#[test]
fn failures_are_remote_too_and_show_their_logs() {
    let remote = Remote::new();
    let ws = with_targets(&genrule("a", &[], &["a"], "echo out; echo err >&2; exit 7"));
    let run = remote.build(&ws, &["//..."]).code(1);
    run.says(&["exit code 7", "out\n", "err\n"]);
    let ws = with_targets(&genrule("a", &[], &["a"], "true"));
    remote.build(&ws, &["//..."]).code(1).says(&["its outputs are not as declared", "minibuild-out/bin/a"]);
    let ws = with_targets(&(genrule("a", &[], &["a"], "sleep 1000") + "timeout = \"200ms\"\n"));
    remote.build(&ws, &["//..."]).code(1).says(&["killed after its timeout"]);
}

#[test]
fn d33_stdout_of_a_remote_action_is_shown() {
    let remote = Remote::new();
    let targets =
        genrule("a", &[], &["a"], "echo a > $OUT") + &genrule("b", &[":a"], &["b"], "echo said by b; cat $SRC > $OUT");
    for _ in 0..2 {
        // Executed first, a cache hit the second time.
        let ws = with_targets(&targets);
        remote.build(&ws, &["//:b", "--download=minimal"]).ok().says(&["From //:b", "said by b"]);
    }
    assert_eq!(remote.ran(), 2);
}

#[test]
fn secrets_are_never_shown() {
    let remote = Remote::new();
    let ws = chain();
    let (executor, secret) = (remote.executor(), "--remote-header=authorization=Bearer s3cret");
    let run = ws.build(&["//...", &executor, secret, "-v", "--explain"]).ok();
    assert!(!format!("{}{}{:?}", run.stdout, run.stderr, run.events).contains("s3cret"));
    let run = ws.build(&["//...", "--remote-cache=http://me:s3cret@127.0.0.1:9", "--remote-retries=0"]);
    assert!(!format!("{}{}{:?}", run.stdout, run.stderr, run.events).contains("s3cret"));
}

#[test]
fn endpoints_that_are_none() {
    let ws = chain();
    let check = |flag: &str, said: &str| {
        ws.build(&["//...", flag]).code(2).says(&[said]);
    };
    check("--remote-executor=grpc://", "no endpoint");
    check("--remote-executor=ftp://x", "no endpoint");
    check("--remote-executor=http://127.0.0.1:1", "no endpoint");
    check("--remote-executor=grpc://127.0.0.1:99999", "127.0.0.1:99999");
    check("--remote-executor=grpc://a b:1", "a b:1");
    let both = ws.build(&["//...", "--remote-executor=grpc://127.0.0.1:1", "--remote-cache=http://127.0.0.1:2"]);
    both.code(2).says(&["http"]);
}

#[test]
fn a_server_that_never_answered_is_told_of_even_if_the_build_was_over_before_it_was_given_up() {
    let ws = workspace();
    let mut gate = ws.gate("g");
    let ws = ws.file("BUILD.toml", genrule("a", &[], &["a"], &format!("{}; echo a > $OUT", gate.wait())));
    let listener = std::net::TcpListener::bind(free_port()).expect("a port");
    let address = listener.local_addr().expect("an address");
    let build = ws.start_build(&["//...", &format!("--remote-executor=grpc://{address}")]);
    // With the second attempt the first has failed.
    for _ in 0..2 {
        drop(listener.accept().expect("an attempt"));
    }
    gate.open();
    let run = build.wait().ok().says(&[&format!("`grpc://{address}` never answered (")]);
    assert_eq!(run.stderr.matches("WARNING").count(), 1, "{}", run.stderr);
}

#[test]
fn http_caches_serve_and_store() {
    let remote = Remote::new();
    let cache = remote.cache().replace("grpc://", "http://");
    let first = of_all_kinds();
    let run = first.build(&["//...", &cache]).ok();
    assert_eq!(run.counts().local, 5);
    let second = of_all_kinds();
    let run = second.build(&["//...", &cache]).ok();
    assert_eq!((run.counts().remote_cache, run.counts().local), (5, 0));
    assert_eq!(difference(&first.outputs(), &second.outputs()), Vec::<String>::new());
}

#[test]
fn d36_server_forgets_the_operation() {
    let remote = Remote::with(
        "[[fault]]\nkind = \"forget\"\ntimes = 2\n[[fault]]\nkind = \"break\"\nmethod = \"Execute\"\ntimes = 2\n",
    );
    let ws = chain();
    let run = remote.build(&ws, &["//..."]).ok();
    assert_eq!(run.counts().remote + run.counts().remote_cache, 3);
    assert_eq!(ws.output("c.txt"), "ONE\nb\nc\n");
}

#[test]
fn d42_four_thousand_inputs() {
    let remote = Remote::new();
    let names: Vec<String> = (0..4000).map(|i| format!("src/f{i}.txt")).collect();
    let ws = with_targets(
        "[[genrule]]\nname = \"all\"\nsrcs = [{ glob = [\"src/*.txt\"] }]\nouts = [\"n\"]\ncmd = \"ls src | wc -l > $OUT\"\n",
    );
    for name in &names {
        ws.write(name, name);
    }
    ws.build(&["//..."]).ok();
    assert_eq!(ws.output("n").trim(), "4000");
    ws.run(&["clean", "--all"]).ok();
    let run = remote.build(&ws, &["//..."]).ok();
    assert_eq!(run.counts().remote, 1);
    assert_eq!(ws.output("n").trim(), "4000");
}

#[test]
fn what_a_cache_has_runs_nowhere_whatever_the_strategy() {
    let remote = Remote::new();
    remote.build(&chain(), &["//..."]).ok();
    let executor = remote.executor();
    let mut counts = BTreeMap::new();
    for strategy in ["local", "remote", "dynamic"] {
        let run = chain().build(&["//...", &executor, &format!("--strategy={strategy}")]).ok();
        counts.insert(strategy, run.counts().remote_cache);
    }
    assert_eq!(counts, BTreeMap::from([("dynamic", 3), ("local", 3), ("remote", 3)]));
    assert_eq!(remote.ran(), 3);
}

#[test]
fn inputs_the_server_loses_are_sent_again_or_made_again() {
    let remote = Remote::with("[[fault]]\nkind = \"lost\"\nmethod = \"Execute\"\ntimes = 2\n");
    let ws = chain();
    let run = remote.build(&ws, &["//:c"]).ok();
    assert_eq!(ws.output("c.txt"), "ONE\nb\nc\n");
    assert_eq!(run.counts().failed, 0);
}

#[test]
fn a_server_that_has_only_blake3_gets_it() {
    let remote = Remote::with("[server]\ndigest_function = \"blake3\"\n");
    let ws = of_all_kinds();
    let run = remote.build(&ws, &["//...", "--download=all"]).ok();
    assert_eq!((run.counts().remote, run.targets().len()), (5, 5));
    let local = of_all_kinds();
    local.build(&["//..."]).ok();
    assert_eq!(difference(&local.outputs(), &ws.outputs()), Vec::<String>::new());
    remote.build(&ws, &["//...", "--download=all"]).ok_without_running();
    let run = remote.build_cached(&of_all_kinds(), &["//..."]).ok();
    assert_eq!(run.counts().remote_cache, 5);
    let fixed = of_all_kinds().file("minibuild.toml", "[remote]\ndigest_function = \"sha256\"\n");
    remote.build(&fixed, &["//..."]).code(34).says(&["SHA256", "BLAKE3"]);
}
