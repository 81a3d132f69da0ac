//! Many races in one build: nobody gives up for another, nothing waits for ever, and each tree is one side's.

use super::{Remote, races, runners, sides};
use crate::{genrule, with_targets};

#[test]
fn d09_sixty_trees_with_transient_files() {
    for policy in ["race", "adaptive"] {
        let (remote, ws) = (Remote::new(), with_targets(""));
        let target = |n: usize| {
            let work = |wait: String| {
                format!(
                    "echo t > $OUT_DIR/a.tmp; echo t > $OUT_DIR/b.tmp; sleep {wait}; echo x > $OUT_DIR/x; rm $OUT_DIR/*.tmp"
                )
            };
            let command = sides(&work(format!("0.{:02}", 2 + n % 14)), &work("0.05".to_owned()));
            format!("[[genrule]]\nname = \"d{n}\"\nout_dirs = [\"d{n}\"]\ncmd = {command:?}\n")
        };
        ws.write("BUILD.toml", (0..60).map(target).collect::<String>());
        remote.race(&ws, &["//...", "--jobs=8", &format!("--dynamic-policy={policy}")]).ok();
        for n in 0..60 {
            let found = std::fs::read_dir(ws.bin(&format!("d{n}"))).expect("a tree");
            let names: Vec<_> = found.map(|entry| entry.expect("an entry").file_name()).collect();
            assert_eq!(names, ["x"], "{policy}: d{n}");
        }
    }
}

#[test]
fn d08_both_ready_in_the_same_tick() {
    // The protocol itself is explored elsewhere; here the two ends of real runs fall together as often as chance has it.
    const MANY: usize = 60;
    let rounds = if std::env::var_os("MINIBUILD_LONG").is_some() { 170 } else { 2 };
    let (remote, ws) = (Remote::new(), with_targets(""));
    for round in 0..rounds {
        let target = |n: usize| {
            let work = |side: &str| {
                format!("echo t > $OUT_DIR/{side}.tmp; sleep 0.0{}; echo {side} > $OUT_DIR/x; rm $OUT_DIR/*.tmp", n % 7)
            };
            let command = format!(": {round}; {}", sides(&work("local"), &work("remote")));
            format!("[[genrule]]\nname = \"d{n}\"\nout_dirs = [\"d{n}\"]\ncmd = {command:?}\n")
        };
        ws.write("BUILD.toml", (0..MANY).map(target).collect::<String>());
        let run = remote.race(&ws, &["//...", "--jobs=2", "--remote-jobs=2"]).ok();
        assert_eq!(runners(&run).len(), MANY);
        for (label, runner) in runners(&run) {
            let tree = label.trim_start_matches("//:");
            let found = std::fs::read_dir(ws.bin(tree)).expect("a tree");
            let names: Vec<_> = found.map(|entry| entry.expect("an entry").file_name()).collect();
            assert_eq!(names, ["x"], "{label}");
            assert_eq!(ws.output(&format!("{tree}/x")).trim(), runner, "{label}: it is the winner's");
        }
    }
}

#[test]
fn d27_losing_is_no_interrupt() {
    let (remote, ws) = (Remote::new(), with_targets(""));
    let target = |n: usize| genrule(&format!("a{n}"), &[], &[&format!("a{n}")], &format!("echo {n} > $OUT"));
    ws.write("BUILD.toml", (0..1000).map(target).collect::<String>());
    let run = remote.race(&ws, &["//..."]).ok();
    let (all, here, there) = races(&run);
    assert_eq!(all, here + there);
    assert!(all > 100, "only {all} races");
    for n in 0..1000 {
        assert_eq!(ws.output(&format!("a{n}")), format!("{n}\n"));
    }
    ws.nothing_is_left_running();
}

#[test]
fn d30_single_local_slot_no_deadlock() {
    let (remote, ws) = (Remote::new(), with_targets(""));
    let command =
        |n: usize| sides(&format!("sleep 0.0{}; echo x > $OUT", n % 5), &format!("sleep 0.0{}; echo x > $OUT", n % 3));
    let target = |n: usize| match n {
        0..20 => genrule(&format!("a{n}"), &[], &[&format!("a{n}")], &command(n)),
        _ => genrule(&format!("a{n}"), &[&format!(":a{}", n - 20)], &[&format!("a{n}")], &command(n)),
    };
    ws.write("BUILD.toml", (0..60).map(target).collect::<String>());
    for policy in ["race", "adaptive"] {
        remote.restart("");
        remote.evict_all();
        ws.run(&["clean", "--all"]).ok();
        let flags = ["//...", "--jobs=1", "--remote-cache=none", &format!("--dynamic-policy={policy}")];
        assert_eq!(remote.race(&ws, &flags).ok().counts().total, 60);
    }
}

#[test]
fn d31_one_remote_slot_no_deadlock() {
    let (remote, ws) = (Remote::new(), with_targets(""));
    let target = |n: usize| genrule(&format!("a{n}"), &[], &[&format!("a{n}")], &format!("echo {n} > $OUT"));
    ws.write("BUILD.toml", (0..1000).map(target).collect::<String>());
    let run = remote.race(&ws, &["//...", "--remote-jobs=1", "--download=minimal"]).ok();
    assert_eq!(run.counts().total, 1000);
}

#[test]
fn d28_shared_upload_survives_a_lost_race() {
    let (remote, ws) =
        (Remote::with("[[fault]]\nkind = \"latency\"\nmethod = \"Write\"\nms = 700\n"), with_targets(""));
    ws.write("big.bin", vec![7; 9 << 20]);
    let here = genrule("a", &["big.bin"], &["a"], "wc -c < $SRC > $OUT");
    let there =
        genrule("b", &["big.bin"], &["b"], "cksum < $SRC > $OUT; wc -c < $SRC >> $OUT") + "tags = [\"no-local\"]\n";
    ws.write("BUILD.toml", here + &there);
    let run = remote.race(&ws, &["//..."]).ok();
    assert_eq!((run.counts().local, run.counts().remote), (1, 1));
    assert!(ws.output("b").ends_with("9437184\n"));
    assert_eq!(remote.calls(&["Write"]), 1, "the input is sent once");
}
