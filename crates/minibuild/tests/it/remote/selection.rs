//! What counts as asked for: patterns, links, tests beside other targets, what is promoted late (scenarios T).

use std::io::{BufRead as _, BufReader};

use minibuild_testkit::{Event, Workspace};

use super::downloads::{TREE, present};
use super::{Remote, chain, downloaded};
use crate::{genrule, test, with_targets};

const MINIMAL: &str = "--download=minimal";

/// `//:l` is a link to the output of `//:f`.
fn link() -> Workspace {
    let link = "[[genrule]]\nname = \"l\"\nsrcs = [\":f\"]\nout_symlinks = [\"sub/l\"]\ncmd = \"ln -s ../f minibuild-out/bin/sub/l\"\n";
    with_targets(&(genrule("f", &[], &["f"], "echo f > $OUT") + link))
}

fn link_text(ws: &Workspace, path: &str) -> String {
    std::fs::read_link(ws.bin(path)).expect("a link").to_string_lossy().into_owned()
}

#[test]
fn t18_target_of_a_symlink_output_is_fetched_when_it_is_an_output() {
    let (remote, ws) = (Remote::new(), link());
    let run = remote.build(&ws, &["//:l"]).ok();
    assert_eq!((link_text(&ws, "sub/l").as_str(), ws.output("sub/l").as_str()), ("../f", "f\n"));
    assert_eq!(downloaded(&run), [("f", "toplevel")]);
    ws.remove("minibuild-out/bin/f");
    remote.build(&ws, &["//:l"]).ok_without_running();
    assert_eq!(ws.output("sub/l"), "f\n");
}

#[test]
fn t26_regex_on_a_tree_root_fetches_the_tree() {
    let (remote, ws) = (Remote::new(), with_targets(TREE).file("in.txt", "x"));
    let args = ["//...", MINIMAL, "--download-regex=.*/bin/d"];
    let run = remote.build(&ws, &args).ok();
    assert_eq!(downloaded(&run), ["d/n/m/f", "d/plain", "d/run"].map(|path| (path, "regex")));
    assert_eq!(link_text(&ws, "d/link"), "plain");
    remote.build(&ws, &args).ok_without_running();
}

#[test]
fn t26_regex_on_one_file_of_a_tree_fetches_that_file() {
    let (remote, ws) = (Remote::new(), with_targets(TREE).file("in.txt", "x"));
    let next = |regex: &str, expected: &[(&str, &str)], files: &[&str]| {
        let regex = format!("--download-regex={regex}");
        let run = remote.build(&ws, &["//...", MINIMAL, &regex]).ok();
        assert_eq!(downloaded(&run), expected, "{regex}");
        let is_file = |file: &&str| std::fs::symlink_metadata(ws.bin(file)).is_ok_and(|found| found.is_file());
        let there: Vec<&str> = ["d/n/m/f", "d/plain", "d/run"].into_iter().filter(|file| is_file(file)).collect();
        assert_eq!(there, files, "{regex}");
        run
    };
    next(".*/d/n/m/f", &[("d/n/m/f", "regex")], &["d/n/m/f"]);
    assert_eq!(ws.output("d/n/m/f"), "deep\n");
    let sent = remote.sent();
    let run = next(".*/d/n/m/f", &[], &["d/n/m/f"]).ok_without_running();
    run.says_nothing_of("WARNING");
    // What is here stays; what is new comes; what was deleted or changed comes back.
    next(".*/d/run", &[("d/run", "regex")], &["d/n/m/f", "d/run"]).ok_without_running();
    ws.remove("minibuild-out/bin/d/n/m/f");
    next(".*/d/(run|n/m/f)", &[("d/n/m/f", "regex")], &["d/n/m/f", "d/run"]).ok_without_running();
    assert!(remote.sent() > sent);
    // The whole is the whole, and the part is then no part any more.
    let run = remote.build(&ws, &["//..."]).ok_without_running();
    assert_eq!(downloaded(&run).len(), 3);
    assert_eq!(link_text(&ws, "d/link"), "plain");
    next(".*/d/run", &[], &["d/n/m/f", "d/plain", "d/run"]).ok_without_running();
}

#[test]
fn t26_a_part_of_a_tree_is_never_taken_for_the_tree() {
    let reader = genrule("use", &[":tree"], &["use"], "find minibuild-out/bin/d -type f | sort > $OUT");
    let local = reader + "tags = [\"no-remote\"]\n";
    let (remote, ws) = (Remote::new(), with_targets(&[TREE, &local].concat()).file("in.txt", "x"));
    remote.build(&ws, &["//:tree", MINIMAL, "--download-regex=.*/d/run"]).ok();
    let run = remote.build(&ws, &["//:use", MINIMAL, "--download-regex=.*/d/run"]).ok();
    assert_eq!(ws.output("use").lines().count(), 3);
    run.started_only(&["//:use"]);
    // Lost on the server, one wanted file makes the producer run again.
    remote.evict_all();
    ws.remove("minibuild-out/bin/d");
    remote.build(&ws, &["//:tree", MINIMAL, "--download-regex=.*/d/n/m/f"]).ok();
    assert_eq!(ws.output("d/n/m/f"), "deep\n");
    assert!(!ws.has_output("d/run"));
}

#[test]
fn t30_a_link_is_announced_with_what_it_leads_to() {
    let slow = "[[fault]]\nkind = \"latency\"\nmethod = \"BatchReadBlobs\"\nms = 300\n";
    let (remote, ws) = (Remote::with(slow), link());
    let is_whole = || std::fs::metadata(ws.bin("sub/l")).is_ok();
    announced_with(&remote, &ws, &["//:l"], &mut |label| assert!(is_whole(), "`{label}` leads nowhere"));
    ws.remove("minibuild-out/bin/f");
    announced_with(&remote, &ws, &["//:l"], &mut |label| assert!(is_whole(), "`{label}` leads nowhere"));
}

#[test]
fn explain_says_where_the_bytes_of_outputs_are_and_why() {
    let (remote, ws) = (Remote::new(), chain());
    ws.write("BUILD.toml", ws.read("BUILD.toml") + TREE);
    ws.write("minibuild.toml", format!("[remote]\nexecutor = \"{}\"\n", remote.url()));
    let (executor, says) = (remote.executor(), |label: &str, text: &str| {
        let told = ws.run(&["explain", label]).ok().stdout;
        assert!(told.contains(text), "{told}");
    });
    // The second one sees that what was brought here has settled.
    for _ in 0..2 {
        remote.build(&ws, &["//:c", "//:tree", MINIMAL, "--download-regex=.*/d/run"]).ok();
    }
    let held = format!("`minibuild-out/bin/c.txt` is not here: it is held by {}", remote.url());
    says("//:c", &held);
    says("minibuild-out/bin/c.txt", "so does `minibuild fetch`");
    says("//:tree", "`minibuild-out/bin/d` is here in part (1 of 5 entries, by `--download-regex`)");
    remote.build(&ws, &["//:c"]).ok_without_running();
    says("//:c", "`minibuild-out/bin/c.txt` is here: it was fetched, an output of a requested target");
    ws.build(&["//:b", &executor, "--strategy=local"]).ok_without_running();
    ws.write("in.txt", "two\n");
    ws.build(&["//:b", &executor, "--strategy=local"]).ok();
    says("//:b", "`minibuild-out/bin/b.txt` is here: its action made it here");
    says("//:b", "up to date");
    ws.remove("minibuild-out/bin/b.txt");
    says("//:a", "is here: its action made it here");
}

#[test]
fn t29_test_of_mixed_targets() {
    let remote = Remote::new();
    let ws = chain();
    let more = genrule("bin", &[], &["bin.sh"], "printf 'echo tested' > $OUT")
        + &test("t", &[":bin"], "sh minibuild-out/bin/bin.sh");
    ws.write("BUILD.toml", ws.read("BUILD.toml") + &more);
    let executor = remote.executor();
    let run = ws.test(&["//:t", "//:b", &executor, "--strategy=remote"]).ok();
    assert_eq!((downloaded(&run), present(&ws).as_str()), (vec![("b.txt", "toplevel")], "b"));
    assert!(!ws.has_output("bin.sh"));
    assert_eq!(run.tests(), [("//:t", "passed")]);
    assert!(ws.read("minibuild-out/testlogs/t/test.log").contains("tested"));
    let run = ws.test(&["//...", &executor, "--strategy=remote"]).ok().started_only(&["//:c"]);
    assert!(downloaded(&run).contains(&("bin.sh", "toplevel")), "it is a target of its own there");
}

/// Runs a build, looking at the files of each target in the moment in which it is announced.
fn announced(remote: &Remote, ws: &Workspace, args: &[&str]) -> Vec<String> {
    announced_with(remote, ws, args, &mut |_| {})
}

/// The same, with a further look at each.
fn announced_with(remote: &Remote, ws: &Workspace, args: &[&str], look: &mut dyn FnMut(&str)) -> Vec<String> {
    let fifo = ws.outside().join("events.fifo");
    if !fifo.exists() {
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs");
        assert!(made.success());
    }
    let (executor, events) = (remote.executor(), format!("--events={}", fifo.display()));
    let flags = ["build", &events, &executor, "--strategy=remote"];
    let build = ws.invoke(&[&flags[..], args].concat()).without_events().start();
    let reader = BufReader::new(std::fs::File::open(&fifo).expect("opens"));
    let mut seen = Vec::new();
    for line in reader.lines().map(|line| line.expect("reads")).filter(|line| line.contains("\"target_completed\"")) {
        let Ok(Event::TargetCompleted { label, outputs, .. }) = serde_json::from_str(&line) else {
            panic!("no event: {line}")
        };
        for output in outputs {
            let is_there = std::fs::symlink_metadata(ws.path(&output.path)).is_ok();
            assert_eq!(Some(is_there), output.present, "`{}` of `{label}`", output.path);
            assert!(is_there || args.contains(&MINIMAL), "`{}` of `{label}` is announced, but not there", output.path);
        }
        look(&label);
        seen.push(label);
    }
    build.wait().ok();
    seen.sort_unstable();
    seen
}

#[test]
fn t30_a_reader_that_looks_at_once_finds_the_files() {
    let slow = "[[fault]]\nkind = \"latency\"\nmethod = \"BatchReadBlobs\"\nms = 50\njitter_ms = 100\n";
    let (remote, ws) = (Remote::with(slow), chain());
    let flat: String = (0..20)
        .map(|i| genrule(&format!("f{i}"), &["in.txt"], &[&format!("f{i}")], &format!("(cat $SRC; echo {i}) > $OUT")))
        .collect();
    ws.write("BUILD.toml", ws.read("BUILD.toml") + &flat + TREE);
    let all = 3 + 20 + 1;
    assert_eq!(announced(&remote, &ws, &["//...", MINIMAL]).len(), all);
    assert_eq!(announced(&remote, &ws, &["//..."]).len(), all);
    ws.remove("minibuild-out/bin/c.txt");
    ws.remove("minibuild-out/bin/d");
    assert_eq!(announced(&remote, &ws, &["//..."]).len(), all);
}

#[test]
fn t53_unresolved_symlink_output() {
    let link =
        "[[genrule]]\nname = \"l\"\nout_symlinks = [\"l\"]\ncmd = \"ln -s nowhere/at/all minibuild-out/bin/l\"\n";
    let reader = |name: &str| genrule(name, &[":l"], &[name], "readlink minibuild-out/bin/l > $OUT");
    let ws = with_targets(&[link, &reader("there"), &reader("here"), "tags = [\"no-remote\"]\n"].concat());
    let remote = Remote::new();
    remote.build(&ws, &["//:l", MINIMAL]).ok();
    assert!(!ws.has_output("l"));
    remote.build(&ws, &["//:l"]).ok_without_running();
    assert_eq!(link_text(&ws, "l"), "nowhere/at/all");
    remote.build(&ws, &["//..."]).ok();
    assert_eq!((ws.output("there"), ws.output("here")), ("nowhere/at/all\n".into(), "nowhere/at/all\n".into()));
    ws.remove("minibuild-out/bin/l");
    remote.build(&ws, &["//..."]).ok_without_running();
    assert_eq!(link_text(&ws, "l"), "nowhere/at/all");
}

#[test]
fn t59_promoted_while_building() {
    for patterns in [["//:use", "//:a"], ["//:a", "//:use"]] {
        let remote = Remote::new();
        let local = genrule("use", &[":a"], &["use"], "cat $SRC > $OUT") + "tags = [\"no-remote\"]\n";
        let ws = with_targets(&(genrule("a", &[], &["a.txt"], "echo a > $OUT") + &local));
        let run = remote.build(&ws, &patterns).ok();
        let files: Vec<&str> = downloaded(&run).into_iter().map(|(path, _)| path).collect();
        assert_eq!((files, remote.calls(&["Read", "BatchReadBlobs"])), (vec!["a.txt"], 1));
        assert!(run.outputs_of("//:a").iter().all(|output| output.present == Some(true)));
    }
}

#[test]
fn t62_fast_path_with_a_new_mode_pattern_or_deleted_output() {
    let (remote, ws) = (Remote::new(), chain());
    remote.build(&ws, &["//:c", MINIMAL]).ok();
    let next = |args: &[&str], expected: &[(&str, &str)], labels: &[&str]| {
        let run = remote.build(&ws, args).ok_without_running();
        assert_eq!((downloaded(&run).as_slice(), run.targets().len()), (expected, labels.len()), "{args:?}");
        for label in labels {
            assert!(run.outputs_of(label).iter().all(|output| output.present == Some(!args.contains(&MINIMAL))));
        }
    };
    next(&["//:c", MINIMAL], &[], &["//:c"]);
    next(&["//:c"], &[("c.txt", "toplevel")], &["//:c"]);
    next(&["//:c"], &[], &["//:c"]);
    next(&["//:a", "//:c"], &[("a.txt", "toplevel")], &["//:a", "//:c"]);
    ws.remove("minibuild-out/bin/c.txt");
    next(&["//:a", "//:c"], &[("c.txt", "toplevel")], &["//:a", "//:c"]);
    next(&["//:c", "--download=all"], &[("b.txt", "all")], &["//:c"]);
}

#[test]
fn t63_alias_loaded_late_promotes_an_already_finished_intermediate() {
    let (remote, ws) = (Remote::new(), chain());
    remote.build(&ws, &["//:c"]).ok();
    assert_eq!(present(&ws), "c");
    ws.write("late/BUILD.toml", "[[alias]]\nname = \"other\"\nactual = \"//:a\"\n");
    ws.write("later/BUILD.toml", "[[filegroup]]\nname = \"some\"\nsrcs = [\"//late:other\", \"//:b\"]\n");
    let run = remote.build(&ws, &["//:c", "//late:other"]).ok_without_running();
    assert_eq!(downloaded(&run), [("a.txt", "toplevel")]);
    let run = remote.build(&ws, &["//:c", "//later:some"]).ok_without_running();
    assert_eq!(downloaded(&run), [("b.txt", "toplevel")]);
}
