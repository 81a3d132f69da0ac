//! The scenarios of downloads that need no counters, against caches that others wrote, and by HTTP (scenarios T).
//!
//! One server runs them all, each in workspaces of its own whose actions no other scenario has.

use std::cell::Cell;

use minibuild_testkit::{Peer, PeerKind, Run, Workspace, difference};

use super::cache_only::{hits, tree};
use super::downloads::present;
use super::{Remote, downloaded};
use crate::basics::chain;
use crate::{genrule, with_targets};

const MINIMAL: &str = "--download=minimal";

/// A cache under test.
struct Cache<'a> {
    url: String,
    /// Loses all blobs and keeps its results, where that can be arranged.
    evict: Option<&'a dyn Fn()>,
    scenarios: Cell<u32>,
}

impl Cache<'_> {
    #[track_caller]
    fn build(&self, ws: &Workspace, args: &[&str]) -> Run {
        ws.build(&[&[&*format!("--remote-cache={}", self.url)], args].concat())
    }

    /// Workspaces whose actions are another's of no other scenario; the first has filled the cache.
    fn filled(&self, make: impl Fn() -> Workspace) -> (Workspace, Workspace) {
        self.scenarios.set(self.scenarios.get() + 1);
        let own = || {
            let ws = make();
            ws.write("minibuild.toml", format!("[build]\nsalt = \"{}\"\n", self.scenarios.get()));
            ws
        };
        let first = own();
        self.build(&first, &["//...", "--download=all"]).ok();
        (first, own())
    }
}

fn t01_t02_t03_modes(cache: &Cache<'_>) {
    for (mode, there) in [("--download=all", "abc"), ("--download=toplevel", "c"), (MINIMAL, "")] {
        let (_, ws) = cache.filled(chain);
        hits(&cache.build(&ws, &["//:c", mode]).ok(), 3);
        assert_eq!(present(&ws), there, "{mode}");
    }
}

fn t04_t05_t06_t11_nothing_runs(cache: &Cache<'_>) {
    let (_, ws) = cache.filled(chain);
    hits(&cache.build(&ws, &["//:c", MINIMAL]).ok(), 3);
    let next = |args: &[&str], files: &[(&str, &str)]| {
        let run = cache.build(&ws, args).ok_without_running();
        assert_eq!(downloaded(&run), files, "{args:?}");
    };
    next(&["//:c", MINIMAL], &[]);
    next(&["//:c"], &[("c.txt", "toplevel")]);
    next(&["//:a"], &[("a.txt", "toplevel")]);
    ws.remove("minibuild-out/bin/c.txt");
    next(&["//:c"], &[("c.txt", "toplevel")]);
    next(&["//:c", "--download=all"], &[("b.txt", "all")]);
    next(&["//:c", MINIMAL], &[]);
    assert_eq!(ws.output("c.txt"), "ONE\nb\nc\n");
}

fn t12_t13_several_targets(cache: &Cache<'_>) {
    let more =
        "[[alias]]\nname = \"other\"\nactual = \":a\"\n[[filegroup]]\nname = \"some\"\nsrcs = [\":b\", \"in.txt\"]\n";
    let make = || {
        let ws = chain();
        ws.write("BUILD.toml", ws.read("BUILD.toml") + more);
        ws
    };
    let (_, ws) = cache.filled(make);
    let run = cache.build(&ws, &["//:other", "//:some"]).ok();
    hits(&run, 2);
    assert_eq!(downloaded(&run), [("a.txt", "toplevel"), ("b.txt", "toplevel")]);
}

fn t14_t16_t26_trees(cache: &Cache<'_>) {
    let (first, ws) = cache.filled(tree);
    hits(&cache.build(&ws, &["//...", MINIMAL]).ok(), 1);
    assert!(!ws.has_output("d"));
    let run = cache.build(&ws, &["//...", MINIMAL, "--download-regex=.*/d/run"]).ok_without_running();
    assert_eq!(downloaded(&run), [("d/run", "regex")]);
    cache.build(&ws, &["//..."]).ok_without_running();
    assert_eq!(difference(&first.outputs(), &ws.outputs()), Vec::<String>::new());
}

fn t17_executable_bit_kept(cache: &Cache<'_>) {
    let cmd = "echo 1 > $OUT; chmod +x $OUT; echo 1 > minibuild-out/bin/y";
    let (first, ws) = cache.filled(|| with_targets(&genrule("a", &[], &["x", "y"], cmd)));
    hits(&cache.build(&ws, &["//..."]).ok(), 1);
    assert_eq!(difference(&first.outputs(), &ws.outputs()), Vec::<String>::new());
}

fn t37_t39_t40_evicted(cache: &Cache<'_>) {
    let Some(evict) = cache.evict else { return };
    for (make, consumer) in [(chain as fn() -> Workspace, "//:c"), (tree, "//...")] {
        let (first, ws) = cache.filled(make);
        cache.build(&ws, &[consumer, MINIMAL]).ok();
        evict();
        cache.build(&ws, &[consumer, "--download=all"]).ok();
        assert_eq!(difference(&first.outputs(), &ws.outputs()), Vec::<String>::new());
        cache.build(&ws, &[consumer]).ok_without_running();
    }
}

fn all_scenarios(url: &str, evict: Option<&dyn Fn()>) {
    let cache = Cache { url: url.to_owned(), evict, scenarios: Cell::new(0) };
    t01_t02_t03_modes(&cache);
    t04_t05_t06_t11_nothing_runs(&cache);
    t12_t13_several_targets(&cache);
    t14_t16_t26_trees(&cache);
    t17_executable_bit_kept(&cache);
    t37_t39_t40_evicted(&cache);
}

#[test]
fn t01_to_t40_against_the_embedded_server_by_http() {
    let remote = Remote::new();
    all_scenarios(&remote.url().replace("grpc://", "http://"), Some(&|| remote.evict_all()));
}

#[test]
fn t01_to_t26_against_buildgrid() {
    let Ok(peer) = Peer::start(PeerKind::BuildGrid) else { return };
    all_scenarios(peer.endpoint(), None);
}

#[test]
fn t01_to_t26_against_casd() {
    let Ok(peer) = Peer::start(PeerKind::Casd) else { return };
    all_scenarios(peer.endpoint(), None);
}

#[test]
fn t01_to_t40_against_an_http_store() {
    let Ok(peer) = Peer::start(PeerKind::Nginx) else { return };
    let blobs = peer.dir().join("files/cas");
    let evict = || {
        for entry in std::fs::read_dir(&blobs).expect("lists").flatten() {
            std::fs::remove_file(entry.path()).expect("removes");
        }
    };
    all_scenarios(peer.endpoint(), Some(&evict));
}
