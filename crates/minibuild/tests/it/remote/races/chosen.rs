//! How sides are chosen by `--dynamic-policy=adaptive`, the default.

use minibuild_testkit::{Event, Run, Workspace};

use super::{Remote, branches, runners, sides};
use crate::{genrule, with_targets};

impl Remote {
    /// A build that chooses sides by itself.
    #[track_caller]
    fn adapt(&self, ws: &Workspace, args: &[&str]) -> Run {
        ws.build(&[&[&*self.executor(), "--strategy=dynamic"], args].concat())
    }

    /// A build that knows how long its actions take here, and how soon the server answers, which has all it needs.
    #[track_caller]
    fn adapt_at_last(&self, ws: &Workspace) -> Run {
        ws.build(&["//..."]).ok();
        // Until a hit was seen nothing is known of the link, and what is idle may start.
        ws.write("src", "1");
        self.adapt(ws, &["//..."]).ok();
        ws.write("src", "2");
        self.adapt(ws, &["//..."]).ok()
    }

    /// Has the server know what these sources make.
    #[track_caller]
    fn knows(&self, rules: &str, sources: &[&str]) {
        let ws = with_targets(rules);
        for source in sources {
            ws.write("src", source);
            self.build(&ws, &["--download=minimal", "//..."]).ok();
        }
    }
}

/// Reasons of branches that were started here.
fn local_starts(run: &Run) -> Vec<&str> {
    let started = run.events.iter().filter_map(|event| match event {
        Event::BranchStarted { branch, reason, .. } if branch == "local" => Some(reason.as_str()),
        _ => None,
    });
    started.collect()
}

/// Actions that take so long here.
fn actions(names: &[&str], here: &str) -> String {
    let of =
        |name: &&str| genrule(name, &["src"], &[name], &sides(&format!("{here}; cat src > $OUT"), "cat src > $OUT"));
    names.iter().map(of).collect()
}

#[test]
fn d06_remote_cache_hit_beats_local() {
    let remote = Remote::new();
    // Long beside any answer of a busy machine.
    let rules = actions(&["a", "b"], "sleep 3");
    remote.knows(&rules, &["1", "2"]);
    let ws = with_targets(&rules).file("src", "0");
    let run = remote.adapt_at_last(&ws);
    assert_eq!(run.counts().remote_cache, 2, "{:?}", runners(&run));
    assert_eq!(local_starts(&run), Vec::<&str>::new(), "the answer takes far less than a run here");
    assert_eq!(ws.output("b"), "2");
}

#[test]
fn d06_what_was_learnt_of_a_cache_outlives_the_workspace() {
    // Connecting takes longer than the first answer of a cache is waited for of which nothing is known.
    let remote = Remote::with("[[fault]]\nkind = \"latency\"\nmethod = \"GetCapabilities\"\nms = 120\n");
    let rules = actions(&["a", "b", "c"], "sleep 3");
    let ws = with_targets(&rules).file("src", "0");
    remote.build(&ws, &["//..."]).ok();
    let kept = ws.home().join(".local/state/minibuild/answer-times");
    let text = std::fs::read_to_string(&kept).expect("a build with the strategy `remote` learns, too");
    // The answers of a busy machine are not near: as many, and each within a millisecond.
    let [header, line] = text.lines().collect::<Vec<_>>()[..] else { panic!("it is of one cache: {text}") };
    let [key, count, ..] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("it has no count: {text}") };
    std::fs::write(&kept, format!("{header}\n{key} {count} 0.001000 0.000100\n")).expect("writes");
    ws.run(&["clean", "--all"]).ok();
    let run = remote.adapt(&ws, &["//..."]).ok();
    assert_eq!(run.counts().remote_cache, 3, "{:?}", runners(&run));
    assert_eq!(local_starts(&run), Vec::<&str>::new(), "the cache is known to answer soon");
}

#[test]
fn what_lies_in_the_place_of_what_was_learnt_is_no_error() {
    let remote = Remote::new();
    let ws = with_targets(&actions(&["a"], "true")).file("src", "0");
    let state = ws.path("in-the-way");
    ws.write("in-the-way", "a file");
    let state_home = state.display().to_string();
    let args = ["build", &*remote.executor(), "--strategy=remote", "//..."];
    let run = ws.invoke(&args).env("XDG_STATE_HOME", &state_home).run().ok();
    assert_eq!(runners(&run), vec![("//:a", "remote")]);
    assert!(!ws.home().join(".local").exists());
    assert!(!run.stderr.contains("in-the-way"), "{}", run.stderr);
}

#[test]
fn d06_a_slow_link_is_not_waited_for() {
    let remote = Remote::with("[[fault]]\nkind = \"latency\"\nmethod = \"GetActionResult\"\nms = 500\n");
    let rules = actions(&["a"], "sleep 0.05");
    remote.knows(&rules, &["1", "2"]);
    let ws = with_targets(&rules).file("src", "0");
    let run = remote.adapt_at_last(&ws);
    assert_eq!(local_starts(&run).len(), 1, "{:?}", branches(&run));
    let explained = ws.run(&["explain", "--race", "//:a"]).ok().stdout;
    let reason = local_starts(&run)[0];
    assert!(explained.contains("ms here") && explained.contains(reason), "{explained}");
}

#[test]
fn d32_slow_remote_never_blocks() {
    let (remote, ws) = (Remote::new(), with_targets(""));
    let mut there = ws.gate("there");
    let there_hangs = there.pass();
    ws.write("BUILD.toml", genrule("a", &[], &["a"], &sides("echo here > $OUT", &there_hangs)));
    // Nothing is known of it; then it is known to be slow there.
    for round in 0..2 {
        let run = remote.adapt(&ws, &["//..."]).ok();
        assert_eq!((runners(&run), ws.output("a").as_str()), (vec![("//:a", "local")], "here\n"), "round {round}");
        ws.run(&["clean", "--all"]).ok();
    }
    there.open();
}
