//! Random courses of edits, built in two workspaces: one that may use snapshots, and one whose snapshots are removed before
//! each build. Exit codes, events and outputs are the same.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use minibuild_testkit::{Event, Random, Run, Snapshot, Workspace, difference};

use super::snapshots;
use crate::workspace;

const SOURCES: usize = 8;
const TARGETS: usize = 14;

/// What is done to both workspaces, by the same random numbers.
fn edit(ws: &Workspace, random: &mut Random) {
    let source = format!("p{}/s{}", random.below(2), random.below(SOURCES));
    match random.below(14) {
        13 => ws.write("p0/only", format!("only {}\n", random.below(4))),
        0..=3 => ws.write(&source, format!("word{}\n", random.below(4))),
        // The same again, by another file.
        4 => {
            let text = fs::read(ws.path(&source)).unwrap_or_default();
            fs::write(ws.outside().join("new"), text).expect("writes");
            fs::rename(ws.outside().join("new"), ws.path(&source)).expect("renames");
        }
        5 | 6 => drop(fs::remove_file(ws.bin(&format!("p0/t{}", random.below(TARGETS))))),
        7 => {
            let output = ws.bin(&format!("p1/t{}", random.below(TARGETS)));
            drop(fs::remove_file(&output));
            fs::create_dir_all(output.parent().expect("has one")).expect("makes");
            fs::write(output, "mine\n").expect("writes");
        }
        8 => ws.write(&format!("p0/g/{}", random.below(3)), "globbed\n"),
        9 => drop(fs::remove_file(ws.path(&format!("p0/g/{}", random.below(3))))),
        10 => ws.write("p1/BUILD.toml", targets(1, random.below(2) == 0)),
        11 => drop(fs::remove_dir_all(ws.bin("p0/tree"))),
        _ => ws.write(&source, "fail\n"),
    }
}

fn targets(package: usize, is_shouting: bool) -> String {
    let mut text = String::new();
    for number in 0..TARGETS {
        let first = format!("s{}", number % SOURCES);
        let second = match number {
            0 => "s1".to_owned(),
            _ => format!("//p{}:t{}", if number % 5 == 0 { 0 } else { package }, number / 2),
        };
        let cmd = match (number % 4, is_shouting && number % 7 == 0) {
            // Often the same again, so that a change stops.
            (0, _) => "! grep -q fail $SRCS && cat $SRCS | wc -l > $OUT",
            (_, true) => "! grep -q fail $SRCS && echo loud && cat $SRCS > $OUT",
            _ => "! grep -q fail $SRCS && cat $SRCS > $OUT",
        };
        let _ = writeln!(
            text,
            "[[genrule]]\nname = \"t{number}\"\nsrcs = [{first:?}, {second:?}]\nouts = [\"t{number}\"]\ncmd = {cmd:?}"
        );
    }
    if package == 0 {
        text.push_str("[[filegroup]]\nname = \"some\"\nsrcs = [\"s6\", \"s7\", \":t2\"]\n[[filegroup]]\nname = \"plain\"\nsrcs = [\"s0\", \"only\"]\n");
        text.push_str(
            "[[genrule]]\nname = \"tree\"\nsrcs = [{ glob = [\"g/*\"], allow_empty = true }, \"s0\"]\nout_dirs = [\"tree\"]\ncmd = \"cp $SRCS $OUT_DIR\"\n\
             [[genrule]]\nname = \"after\"\nsrcs = [\":tree\"]\nouts = [\"after\"]\ncmd = \"ls minibuild-out/bin/p0/tree > $OUT\"\n\
             [[test]]\nname = \"check\"\nsrcs = [\":t3\"]\ncmd = \"! grep -q word3 $SRC\"\n",
        );
    }
    text
}

fn made() -> Workspace {
    let ws = workspace();
    ws.write("p0/only", "only\n");
    for package in 0..2 {
        ws.write(&format!("p{package}/BUILD.toml"), targets(package, false));
        for source in 0..SOURCES {
            ws.write(&format!("p{package}/s{source}"), "word\n");
        }
    }
    ws
}

/// Events by what they say, times and the order of independent ones left out.
fn told(run: &Run) -> Vec<String> {
    let mut told: Vec<String> = Vec::new();
    for event in &run.events {
        let text = match event {
            Event::ActionCompleted { action, success, runner, reason, outputs, .. } => {
                format!("{action} {success} {runner} {reason} {outputs:?}")
            }
            Event::TargetCompleted { label, success, outputs } => format!("{label} {success} {outputs:?}"),
            Event::TestCompleted { label, status, .. } => format!("{label} {status}"),
            Event::Message { level, text } => format!("{level} {text}"),
            Event::BuildFinished { exit_code, actions, downloads, .. } => {
                format!("{exit_code} {actions:?} {downloads:?}")
            }
            _ => continue,
        };
        told.push(text);
    }
    told.sort();
    told
}

fn outputs(ws: &Workspace) -> BTreeMap<&'static str, Snapshot> {
    BTreeMap::from([("bin", ws.outputs()), ("logs", ws.snapshot("minibuild-out/testlogs"))])
}

/// One course. Gives how often a snapshot was used.
fn course(seed: u64, steps: usize) -> usize {
    let (short, full) = (made(), made());
    let mut random = Random::new(seed);
    let mut used = 0;
    for step in 0..steps {
        let flags: &[&str] = match random.below(6) {
            0 => &["test", "//p0/...", "-k", "-j1"],
            1 => &["build", "//...", "-k", "-j2", "--download=minimal"],
            2 => &["build", "//...", "-k", "-j2", "--events-detail=all"],
            _ => &["build", "//...", "-k", "-j2"],
        };
        snapshots_of(&full);
        let runs = [&short, &full].map(|ws| ws.run(flags));
        used += usize::from(runs[0].why_no_snapshot() == "used");
        assert_ne!(runs[1].why_no_snapshot(), "used");
        let [short_told, full_told] = runs.each_ref().map(told);
        assert_eq!(short_told, full_told, "seed {seed}, step {step}, {flags:?}");
        let [short_made, full_made] = [&short, &full].map(outputs);
        for (name, tree) in &short_made {
            assert_eq!(difference(tree, &full_made[name]), Vec::<String>::new(), "seed {seed}, step {step}: {name}");
        }
        for _ in 0..random.below(3) {
            let mut same = random.clone();
            edit(&short, &mut random);
            edit(&full, &mut same);
        }
    }
    used
}

/// Removes the snapshots of a workspace that is to have none.
fn snapshots_of(ws: &Workspace) {
    if ws.path("minibuild-out/.state").is_dir() {
        snapshots(ws).iter().for_each(|path| fs::remove_file(path).expect("removes"));
    }
}

#[test]
fn both_ways_say_and_make_the_same() {
    let long: u64 = std::env::var("MINIBUILD_LONG").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let used: usize = (0..3 * long).map(|seed| course(seed, 12)).sum();
    assert!(used > 5, "snapshots were used {used} times");
}
