//! `--profile`: a Chrome trace in which runs, waits and the critical path are found.

use std::fs;

use minibuild_testkit::Workspace;
use serde_json::Value;

use crate::{genrule, with_targets};

/// Builds with `--profile` and gives its rows.
fn profile(ws: &Workspace, args: &[&str]) -> Vec<Value> {
    let path = ws.outside().join("profile.json");
    let flag = format!("--profile={}", path.display());
    ws.run(&[&["build", &flag], args].concat()).ok();
    let text = fs::read_to_string(path).expect("the profile is there");
    let whole: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert!(whole["otherData"]["build_id"].is_string(), "{text}");
    whole["traceEvents"].as_array().expect("a list").clone()
}

/// The number of the track with that name.
fn track(rows: &[Value], name: &str) -> Option<u64> {
    let is_it = |row: &&Value| row["name"] == "process_name" && row["args"]["name"] == name;
    rows.iter().find(is_it).and_then(|row| row["pid"].as_u64())
}

/// Slices of a track: lane, name, start and end.
fn slices<'a>(rows: &'a [Value], name: &str) -> Vec<(u64, &'a str, u64, u64)> {
    let track = track(rows, name);
    let on_track = rows.iter().filter(|row| row["ph"] == "X" && track.is_some() && row["pid"].as_u64() == track);
    let number = |row: &Value, key: &str| row[key].as_u64().unwrap_or_else(|| panic!("no `{key}` in {row}"));
    let slice = |row: &'a Value| {
        let start = number(row, "ts");
        (number(row, "tid"), row["name"].as_str().unwrap_or_default(), start, start + number(row, "dur"))
    };
    on_track.map(slice).collect()
}

fn names(slices: &[(u64, &str, u64, u64)]) -> Vec<String> {
    let mut names: Vec<String> = slices.iter().map(|(_, name, ..)| (*name).to_owned()).collect();
    names.sort();
    names
}

/// `slow` waits for `a`, and five more need nothing.
fn project() -> Workspace {
    let mut targets = genrule("a", &["in"], &["a"], "cat $SRC > $OUT");
    targets += &genrule("slow", &[":a"], &["slow"], "sleep 0.3; cat $SRC > $OUT");
    for name in ["b", "c", "d", "e", "f"] {
        targets += &genrule(name, &["in"], &[name], "cat $SRC > $OUT");
    }
    with_targets(&targets).file("in", "1")
}

#[test]
fn runs_are_on_slots_and_the_longest_chain_is_marked() {
    let ws = project();
    let rows = profile(&ws, &["-j2", "//..."]);
    let mut local = slices(&rows, "local");
    assert_eq!(names(&local), ["//:a", "//:b", "//:c", "//:d", "//:e", "//:f", "//:slow"]);
    assert!(local.iter().all(|(lane, ..)| *lane < 2), "there are two slots: {local:?}");
    local.sort_by_key(|(lane, _, start, _)| (*lane, *start));
    let overlap = local.windows(2).find(|pair| pair[0].0 == pair[1].0 && pair[0].3 > pair[1].2);
    assert_eq!(overlap, None, "one at a time on a slot");
    let path = slices(&rows, "critical path");
    assert_eq!(path.iter().map(|(_, name, ..)| *name).collect::<Vec<_>>(), ["//:a", "//:slow"]);
    let run = |name: &str| rows.iter().find(|row| row["ph"] == "X" && row["name"] == name).cloned().unwrap_or_default();
    assert_eq!(run("//:slow")["args"]["critical_path"], true);
    assert_eq!(run("//:b")["args"]["critical_path"], false);
    assert_eq!(run("//:slow")["args"]["action"], "minibuild-out/bin/slow");
    assert_eq!(run("//:slow")["args"]["runner"], "local");
    assert!(run("//:slow")["args"]["reason"].is_string());
    assert!(!slices(&rows, "waiting: queued").is_empty(), "seven do not run at once on two slots");
    assert!(rows.iter().any(|row| row["ph"] == "C" && row["args"]["queued"].as_u64() > Some(0)));
    assert_eq!(names(&slices(&rows, "minibuild")), ["build", "load", "look at files", "start"]);
    let rows = profile(&ws, &["//..."]);
    assert_eq!((track(&rows, "local"), track(&rows, "critical path")), (None, None), "nothing ran");
}

#[test]
fn remote_runs_have_stages_and_outputs_are_downloads() {
    let ws = project();
    let rows = profile(&ws, &["--remote-executor=embedded", "--strategy=remote", "//:slow"]);
    let remote = slices(&rows, "remote");
    for name in ["//:a", "//:slow", "running"] {
        assert!(remote.iter().any(|slice| slice.1 == name), "{name}: {remote:?}");
    }
    assert_eq!(names(&slices(&rows, "downloads")), ["minibuild-out/bin/slow"]);
    assert_eq!(slices(&rows, "critical path").len(), 2);
}

#[test]
fn a_profile_that_cannot_be_written_is_exit_code_38() {
    let ws = project();
    ws.run(&["build", "--profile=no/such/dir/p", "//:a"]).code(38).says(&["ERROR: the profile", "no/such/dir/p"]);
    assert!(ws.has_output("a"), "the build itself went well");
    ws.write("BUILD.toml", genrule("bad", &[], &["bad"], "exit 1"));
    ws.run(&["build", "--profile=no/such/dir/p", "//:bad"]).code(1).says(&["WARNING: the profile"]);
}
