//! Who wins, and what is then kept, shown and counted.

use minibuild_testkit::Workspace;

use super::super::transfers::{HALF, SIZE, staged, stops};
use super::{Remote, branches, downloaded, one, races, runners, sides};
use crate::{genrule, with_targets};

fn workspace() -> Workspace {
    with_targets("")
}

#[test]
fn d04_local_wins_before_remote() {
    let (remote, ws) = (Remote::new(), workspace());
    let (mut here, mut there) = (ws.gate("here"), ws.gate("there"));
    ws.write(
        "BUILD.toml",
        one(
            &format!("{}; echo said here; echo a > $OUT", here.pass()),
            &format!("{}; echo said there; echo b > $OUT", there.pass()),
        ),
    );
    let build = remote.start_race(&ws, &["//..."]);
    here.arrival();
    there.arrival();
    here.open();
    let run = build.wait().ok().says(&["said here", "1 race (1 won here, 0 remotely"]);
    run.clone().says_nothing_of("said there");
    assert_eq!((races(&run), runners(&run)), ((1, 1, 0), vec![("//:a", "local")]));
    assert_eq!(branches(&run), [("remote", "lost"), ("local", "won")]);
    assert_eq!(ws.output("a"), "a\n");
    remote.race(&ws, &["//..."]).ok_without_running();
}

#[test]
fn d05_remote_wins_before_local() {
    let (remote, ws) = (Remote::new(), workspace());
    let (mut here, mut there) = (ws.gate("here"), ws.gate("there"));
    ws.write(
        "BUILD.toml",
        one(
            &format!("echo said here; echo b > $OUT; {}", here.pass()),
            &format!("{}; echo said there; echo a > $OUT", there.pass()),
        ),
    );
    let build = remote.start_race(&ws, &["//..."]);
    here.arrival();
    there.arrival();
    there.open();
    let run = build.wait().ok().says(&["said there", "1 race (0 won here, 1 remotely"]);
    run.clone().says_nothing_of("said here");
    assert_eq!((races(&run), runners(&run)), ((1, 0, 1), vec![("//:a", "remote")]));
    assert_eq!(branches(&run), [("local", "lost"), ("remote", "won")]);
    assert_eq!((ws.output("a").as_str(), downloaded(&run)), ("a\n", vec![("a", "toplevel")]));
    ws.nothing_is_left_running();
    remote.race(&ws, &["//..."]).ok_without_running();
}

#[test]
fn the_losers_part_is_marked_in_the_profile() {
    let (remote, ws) = (Remote::new(), workspace());
    let (mut here, mut there) = (ws.gate("here"), ws.gate("there"));
    let (here_text, there_text) = (here.pass(), format!("{}; echo a > $OUT", there.pass()));
    ws.write("BUILD.toml", one(&here_text, &there_text));
    let path = ws.outside().join("profile.json");
    let build = remote.start_race(&ws, &["//...", &format!("--profile={}", path.display())]);
    here.arrival();
    there.arrival();
    there.open();
    build.wait().ok();
    let text = std::fs::read_to_string(path).expect("the profile is there");
    let whole: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let rows = whole["traceEvents"].as_array().expect("a list");
    let slices = |track: &str| {
        let named = rows.iter().find(|row| row["name"] == "process_name" && row["args"]["name"] == track);
        let number = &named.unwrap_or_else(|| panic!("no track `{track}`"))["pid"];
        let runs = rows.iter().filter(|row| row["ph"] == "X" && row["pid"] == *number && row["cat"] == "Genrule");
        let told =
            runs.map(|row| (row["name"].to_string(), row["cname"].to_string(), row["args"]["outcome"].to_string()));
        told.collect::<Vec<_>>()
    };
    let row = |name: &str, colour: &str, outcome: &str| {
        [(name, colour, outcome)].map(|(a, b, c)| (format!("{a:?}"), format!("{b:?}"), format!("{c:?}")))
    };
    assert_eq!(slices("local"), row("//:a (lost)", "grey", "lost"));
    assert_eq!(slices("remote"), row("//:a", "terrible", "won"));
    assert_eq!(slices("critical path"), row("//:a", "terrible", "won"));
}

#[test]
fn d07_local_finishes_while_remote_downloads() {
    let hang = |method: &str| format!("[[fault]]\nkind = \"hang\"\nmethod = {method:?}\n");
    let (remote, ws) = (Remote::with(&(hang("BatchReadBlobs") + &hang("Read"))), workspace());
    let (mut here, there) = (ws.gate("here"), "echo there > $OUT");
    ws.write("BUILD.toml", one(&format!("{}; echo here > $OUT", here.pass()), there));
    let build = remote.start_race(&ws, &["//..."]);
    here.arrival();
    build.wait_until("the output is being brought", || remote.calls(&["BatchReadBlobs", "Read"]) > 0);
    here.open();
    let run = build.wait().ok();
    assert_eq!((races(&run), ws.output("a").as_str(), downloaded(&run)), ((1, 1, 0), "here\n", vec![]));
    remote.race(&ws, &["//..."]).ok_without_running();
}

#[test]
fn d07_what_came_of_the_loser_is_kept() {
    let (remote, ws) = (stops("hang", 0), workspace());
    let mut here = ws.gate("here");
    let make = |text: &str| format!("echo {text} > $BIN/a; yes {text} | head -c {SIZE} > $BIN/b");
    let command =
        sides(&format!("{}; {}", here.pass(), make("here")), &make("there")).replace("$BIN", "minibuild-out/bin");
    ws.write("BUILD.toml", genrule("x", &[], &["a", "b"], &command));
    let build = remote.start_race(&ws, &["//..."]);
    here.arrival();
    build.wait_until("one output and a part of the other are here", || {
        staged(&ws).len() == 2 && staged(&ws).iter().any(|&size| size > HALF / 2)
    });
    here.open();
    let run = build.wait().ok();
    assert_eq!((races(&run), ws.output("a").as_str(), staged(&ws)), ((1, 1, 0), "here\n", vec![]));
    assert!(ws.output("b").starts_with("here\nhere\n") && ws.output("b").len() as u64 == SIZE);
    let texts = |part: &str| {
        let files = crate::store::kept(&ws, part).into_iter();
        files.map(|path| std::fs::read_to_string(path).expect("reads")).collect::<Vec<_>>()
    };
    assert_eq!(texts("cas"), ["there\n"]);
    let [part] = &texts("partial")[..] else { panic!("one is kept") };
    assert!(part.starts_with("there\nthere\n") && part.len() as u64 <= HALF);
}

#[test]
fn d17b_remote_download_fails_before_the_claim() {
    let fails = |method: &str| format!("[[fault]]\nkind = \"error\"\nmethod = {method:?}\ncode = \"NOT_FOUND\"\n");
    let (remote, ws) = (Remote::with(&(fails("BatchReadBlobs") + &fails("Read"))), workspace());
    let mut here = ws.gate("here");
    let there = "echo there > $OUT";
    ws.write("BUILD.toml", one(&format!("{}; echo here > $OUT", here.pass()), there));
    let build = remote.start_race(&ws, &["//...", "--remote-retries=0"]);
    let local = here.arrival();
    build.wait_until("the output was asked for", || remote.calls(&["BatchReadBlobs", "Read"]) > 0);
    assert!(minibuild_testkit::is_alive(local), "local was stopped for nothing");
    here.open();
    let run = build.wait().ok();
    assert_eq!((races(&run), ws.output("a").as_str()), ((1, 1, 0), "here\n"));
}

#[test]
fn d35_compare_mode() {
    let (remote, ws) = (Remote::new(), workspace());
    ws.write("BUILD.toml", one("echo here > $OUT", "echo there > $OUT") + &genrule("b", &[], &["b"], "echo b > $OUT"));
    let run = remote.race(&ws, &["//...", "--compare"]).ok();
    let warnings = run.messages("warning");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("`//:a` makes something else here than remotely"), "{warnings:?}");
    assert_eq!((races(&run), ws.output("a").as_str()), ((2, 2, 0), "here\n"));
}

#[test]
fn d38_minimal_and_remote_wins() {
    let (remote, ws) = (Remote::new(), workspace());
    let (mut here, mut there) = (ws.gate("here"), ws.gate("there"));
    let tree = format!(
        "[[genrule]]\nname = \"d\"\nout_dirs = [\"d\"]\ncmd = {:?}\n",
        sides(&format!("echo t > $OUT_DIR/x.tmp; {}", here.pass()), &format!("{}; echo x > $OUT_DIR/x", there.pass()),)
    );
    let reader = genrule("r", &[":d"], &["r"], "ls minibuild-out/bin/d > $OUT") + "tags = [\"no-remote\"]\n";
    ws.write("BUILD.toml", tree + &reader);
    let build = remote.start_race(&ws, &["//:d", "--download=minimal"]);
    here.arrival();
    there.arrival();
    there.open();
    let run = build.wait().ok();
    assert_eq!((races(&run), downloaded(&run)), ((1, 0, 1), vec![]));
    assert!(!ws.has_output("d"), "what the loser left is there");
    let run = remote.race(&ws, &["//:r"]).ok();
    assert_eq!((ws.output("r").as_str(), run.counts().up_to_date), ("x\n", 1));
}
