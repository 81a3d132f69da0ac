//! Random courses of edits, built in two workspaces: one that may use snapshots, and one whose snapshots are removed before
//! each build. Exit codes, events and outputs are the same.

use std::collections::BTreeMap;
use std::fs;

use minibuild_testkit::{Event, Random, Run, Snapshot, Workspace, difference};

use super::snapshots;
use crate::workspace;

const SOURCES: usize = 8;
const TARGETS: usize = 14;

/// What is done to both workspaces, by the same random numbers.
fn edit(ws: &Workspace, random: &mut Random) {
    let source = format!("p{}/s{}", random.below(2), random.below(SOURCES));
    match random.below(18) {
        14..=17 => {
            let package = random.below(2);
            ws.write(&format!("p{package}/BUILD.toml"), targets(package, &Variant::random(random)));
        }
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
        10 => ws.write("rules/cat.toml", rule(random.below(3))),
        11 => drop(fs::remove_dir_all(ws.bin("p0/tree"))),
        _ => ws.write(&source, "fail\n"),
    }
}

/// How a package file may differ.
#[derive(Default)]
struct Variant {
    comment: usize,
    is_shouting: bool,
    is_reversed: bool,
    /// Of targets that nothing depends on.
    dropped: usize,
    /// Which source some read.
    shift: usize,
    extra: usize,
}

impl Variant {
    fn random(random: &mut Random) -> Self {
        let mut rarely = |below: usize| if random.below(3) == 0 { random.below(below) } else { 0 };
        Self {
            comment: rarely(5),
            is_shouting: rarely(2) == 1,
            is_reversed: rarely(2) == 1,
            dropped: rarely(1 << (TARGETS - TARGETS / 2)),
            shift: rarely(3),
            extra: rarely(4),
        }
    }
}

/// Text of the rule with which some targets are made.
fn rule(variant: usize) -> String {
    let flag = ["-u", "-n", "-b"][variant];
    format!(
        "[rule.cat]\noutputs = [\"{{copy.out}}\"]\n[rule.cat.attrs]\nsrcs = {{ type = \"files\", required = true }}\n\
         [rule.cat.action.copy]\nouts = {{ out = \"{{name}}\" }}\nargs = [\"{{out.out}}\", \"{{srcs}}\"]\n\
         cmd = \"out=$1; shift; {{ echo $out; cat {flag} $*; }} > $out\"\n"
    )
}

/// Each output has its own name in it. Of two that held the same one could be copied from what was kept of the other, or made
/// anew: what comes first is nobody's matter.
fn targets(package: usize, variant: &Variant) -> String {
    let mut parts = vec![format!("# {}\n", variant.comment)];
    for number in 0..TARGETS {
        let is_leaf = number >= TARGETS / 2;
        if is_leaf && variant.dropped >> (number - TARGETS / 2) & 1 != 0 {
            continue;
        }
        let shift = if number % 3 == 0 { variant.shift } else { 0 };
        let first = format!("s{}", (number + shift) % SOURCES);
        let second = match number {
            0 => "s1".to_owned(),
            _ => format!("//p{}:t{}", if number % 5 == 0 { 0 } else { package }, number / 2),
        };
        let cmd = match (number % 4, variant.is_shouting && number % 7 == 0) {
            // Often the same again, so that a change stops.
            (0, _) => "! grep -q fail $SRCS && { echo $OUT; cat $SRCS | wc -l; } > $OUT",
            (_, true) => "! grep -q fail $SRCS && echo loud && { echo $OUT; cat $SRCS; } > $OUT",
            _ => "! grep -q fail $SRCS && { echo $OUT; cat $SRCS; } > $OUT",
        };
        parts.push(format!(
            "[[genrule]]\nname = \"t{number}\"\nsrcs = [{first:?}, {second:?}]\nouts = [\"t{number}\"]\ncmd = {cmd:?}\n"
        ));
    }
    for extra in 0..variant.extra {
        let srcs = if extra % 2 == 0 { "\"s0\", \":t2\"" } else { "\"fresh\"" };
        parts.push(format!("[[cat]]\nname = \"extra{extra}\"\nsrcs = [{srcs}]\n"));
    }
    if variant.is_reversed {
        parts.reverse();
    }
    let mut text = parts.concat();
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
    ws.write("minibuild.toml", "[workspace]\nrules = [\"rules/cat.toml\"]\n");
    ws.write("rules/cat.toml", rule(0));
    ws.write("p0/only", "only\n");
    for package in 0..2 {
        ws.write(&format!("p{package}/BUILD.toml"), targets(package, &Variant::default()));
        ws.write(&format!("p{package}/fresh"), "fresh\n");
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

/// One course. Gives how often a snapshot was used, without and with loading.
fn course(seed: u64, steps: usize) -> [usize; 2] {
    let (short, full) = (made(), made());
    let mut random = Random::new(seed);
    let mut used = [0; 2];
    for step in 0..steps {
        let flags: &[&str] = match random.below(6) {
            0 => &["test", "//p0/...", "-k", "-j1"],
            1 => &["build", "//...", "-k", "-j2", "--download=minimal"],
            2 => &["build", "//...", "-k", "-j2", "--events-detail=all"],
            _ => &["build", "//...", "-k", "-j2"],
        };
        snapshots_of(&full);
        let runs = [&short, &full].map(|ws| ws.run(flags));
        used[0] += usize::from(runs[0].why_no_snapshot() == "used");
        used[1] += usize::from(runs[0].why_no_snapshot().starts_with("used after loading"));
        assert!(!runs[1].why_no_snapshot().starts_with("used"));
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
    let used =
        (0..3 * long).map(|seed| course(seed, 14)).fold([0; 2], |all, used| [all[0] + used[0], all[1] + used[1]]);
    assert!(used.iter().all(|&times| times > 4), "snapshots were used {used:?} times");
}
