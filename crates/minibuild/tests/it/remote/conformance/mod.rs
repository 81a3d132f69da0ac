//! One suite for all sides: an action's result is the same wherever it runs.
//!
//! The reference is this machine. Where a server of others differs by its nature, a table says so, and each of its lines has
//! to be true still.

mod cases;

use std::collections::{BTreeMap, BTreeSet};

use minibuild_testkit::{Ending, Event, Output, Peer, PeerKind, Run, Workspace, difference};

use super::Remote;

/// What is known of one action after a build.
#[derive(Debug, Default, PartialEq)]
struct Observed {
    success: bool,
    exit_code: i32,
    outputs: Vec<Output>,
    /// Why it failed, in one line.
    why: String,
    /// Its output as it was shown.
    shown: String,
}

/// A case whose result is another one on some side: the case, what differs, and why.
type Difference = (&'static str, &'static str, &'static str);

/// A build of all cases.
struct Built {
    ws: Workspace,
    run: Run,
    by_case: BTreeMap<String, Observed>,
}

fn build(args: &[&str]) -> Built {
    let ws = cases::workspace();
    let run = ws.build(&[&["//...", "-k", "--show-result=0"], args].concat());
    // Some of the actions fail, and some servers refuse to say how.
    assert!([Ending::Exited(1), Ending::Exited(34)].contains(&run.ending), "{:?}\n{}", run.ending, run.stderr);
    let by_case = observe(&run);
    Built { ws, run, by_case }
}

fn build_on(endpoint: &str) -> Built {
    let executor = format!("--remote-executor={endpoint}");
    build(&[&executor, "--strategy=remote", "--on-remote-failure=fail", "--download=all"])
}

fn observe(run: &Run) -> BTreeMap<String, Observed> {
    let mut observed: BTreeMap<String, Observed> = BTreeMap::new();
    for event in &run.events {
        if let Event::ActionCompleted { label, success, exit_code, outputs, .. } = event {
            let seen =
                Observed { success: *success, exit_code: *exit_code, outputs: outputs.clone(), ..Default::default() };
            observed.insert(name(label).to_owned(), seen);
        }
    }
    take_blocks(&run.stderr, &mut observed);
    observed
}

fn name(label: &str) -> &str {
    label.strip_prefix("//t:").unwrap_or_else(|| panic!("`{label}` is of another package"))
}

/// Blocks begin with the level and the label; how to repeat a command is the same everywhere and left out.
fn take_blocks(stderr: &str, observed: &mut BTreeMap<String, Observed>) {
    let mut current = None;
    for line in stderr.split_inclusive('\n') {
        if let Some((case, why)) = block_start(line) {
            current = observed.get_mut(case);
            current.iter_mut().for_each(|seen| seen.why = why.to_owned());
        } else if ["INFO: ", "ERROR: ", "WARNING: ", "Target "].iter().any(|tag| line.starts_with(tag))
            || line.contains(" targets up-to-date")
        {
            current = None;
        } else if let Some(seen) = &mut current
            && !["  command: ", "  in:      ", "  by hand: "].iter().any(|key| line.starts_with(key))
        {
            seen.shown.push_str(line);
        }
    }
}

fn block_start(line: &str) -> Option<(&str, &str)> {
    if let Some(rest) = line.strip_prefix("INFO: From //t:") {
        return Some((rest.split(' ').next()?, ""));
    }
    let (case, why) = line.strip_prefix("ERROR: //t:")?.split_once(" (Genrule) failed: ")?;
    Some((case, why.trim_end()))
}

/// What differs between two observations, by name.
fn differing(one: &Observed, other: &Observed) -> Vec<&'static str> {
    let parts = [
        ("success", one.success == other.success),
        ("exit_code", one.exit_code == other.exit_code),
        ("outputs", one.outputs == other.outputs),
        ("why", one.why == other.why),
        ("shown", one.shown == other.shown),
    ];
    parts.into_iter().filter(|(_, is_equal)| !is_equal).map(|(part, _)| part).collect()
}

/// Compares a side with this machine, but for the differences that are expected, which have to be there.
#[track_caller]
fn compare(side: &Built, expected: &[&[Difference]]) {
    let local = build(&[]);
    let expected: BTreeSet<(&str, &str)> =
        expected.iter().copied().flatten().map(|(case, part, _)| (*case, *part)).collect();
    let mut problems = Vec::new();
    let mut found = BTreeSet::new();
    for case in cases::all() {
        let (Some(here), Some(there)) = (local.by_case.get(case.name), side.by_case.get(case.name)) else {
            problems.push(format!("{}: no result", case.name));
            continue;
        };
        for part in differing(here, there) {
            found.insert((case.name, part));
            if !expected.contains(&(case.name, part)) {
                problems.push(format!("{}: {part}:\n  here:  {}\n  there: {}", case.name, brief(here), brief(there)));
            }
        }
    }
    problems.extend(expected.difference(&found).map(|(case, part)| format!("{case}: {part}: differs no longer")));
    let same_outputs = |built: &Built| -> BTreeSet<String> {
        built
            .by_case
            .values()
            .filter(|seen| seen.success)
            .flat_map(|seen| seen.outputs.iter().map(|o| o.path.clone()))
            .collect()
    };
    let both: BTreeSet<String> = same_outputs(&local).intersection(&same_outputs(side)).cloned().collect();
    problems.extend(difference(&only(&local.ws, &both), &only(&side.ws, &both)));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The outputs below these paths.
fn only(ws: &Workspace, paths: &BTreeSet<String>) -> minibuild_testkit::Snapshot {
    let is_wanted = |path: &str| {
        let path = format!("minibuild-out/bin/{path}");
        paths.iter().any(|wanted| {
            path.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    ws.outputs().into_iter().filter(|(path, _)| is_wanted(path)).collect()
}

fn brief(seen: &Observed) -> String {
    let text = format!("{seen:?}");
    if text.len() > 1200 { text.chars().take(1200).collect::<String>() + "…" } else { text }
}

/// The protocol knows exit codes, files, directories and symlinks.
const ANY_SERVER: &[Difference] = &[
    ("sigkill", "why", CODE),
    ("sigterm", "why", CODE),
    ("sigsegv", "why", CODE),
    ("no_program", "why", CODE),
    ("no_program", "shown", CODE),
    ("not_a_program", "why", CODE),
    ("not_a_program", "shown", CODE),
    ("too_long_name", "why", "each side has words of its own"),
    ("pipe_for_file", "why", NO_KIND),
    ("tree_with_pipe", "why", NO_KIND),
    ("dangling_for_file", "why", FAR_LINK),
    ("link_out_for_file", "why", FAR_LINK),
];
const CODE: &str = "a server tells it by an exit code, and by what is on standard error";
const NO_KIND: &str = "there is no message for such an output";
const FAR_LINK: &str = "what a link leads to on a server cannot be looked at, only its text";

/// What of that is so for our own servers only.
const OURS: &[Difference] = &[("tree_with_odd_name", "why", "the server refuses what is not UTF-8")];

/// What buildbox-casd does besides.
const CASD: &[Difference] = &[
    ("link", "success", NO_LINK),
    ("link", "exit_code", NO_LINK),
    ("link", "outputs", NO_LINK),
    ("link", "why", NO_LINK),
    ("link_to_tree", "success", NO_LINK),
    ("link_to_tree", "exit_code", NO_LINK),
    ("link_to_tree", "outputs", NO_LINK),
    ("link_to_tree", "why", NO_LINK),
    ("link_to_nothing", "success", NO_LINK),
    ("link_to_nothing", "exit_code", NO_LINK),
    ("link_to_nothing", "outputs", NO_LINK),
    ("link_to_nothing", "why", NO_LINK),
    ("link_out", "success", NO_LINK),
    ("link_out", "exit_code", NO_LINK),
    ("link_out", "outputs", NO_LINK),
    ("link_out", "why", NO_LINK),
    ("no_program", "exit_code", BWRAP),
    ("not_a_program", "exit_code", BWRAP),
    ("tree_with_pipe", "success", LEFT_OUT),
    ("tree_with_pipe", "exit_code", LEFT_OUT),
    ("tree_with_pipe", "outputs", LEFT_OUT),
    ("tree_with_odd_name", "why", "it puts bytes into its messages that are no text there"),
];
const NO_LINK: &str = "an output that is a symlink is an internal error there";
const BWRAP: &str = "its sandbox ends with 1 when it cannot start a command";
const LEFT_OUT: &str = "it leaves out what is neither file, directory nor symlink";

#[test]
fn this_machine() {
    let local = build(&[]);
    for case in cases::all() {
        let seen = &local.by_case[case.name];
        assert_eq!((seen.success, seen.exit_code), (case.success, case.exit_code), "{}: {}", case.name, brief(seen));
    }
}

#[test]
fn the_embedded_server() {
    compare(&build_on("embedded"), &[ANY_SERVER, OURS]);
}

#[test]
fn our_server_and_its_cache() {
    let remote = Remote::new();
    let endpoint = remote.executor().replace("--remote-executor=", "");
    compare(&build_on(&endpoint), &[ANY_SERVER, OURS]);
    let cached = build_on(&endpoint);
    compare(&cached, &[ANY_SERVER, OURS]);
    let succeeded = cases::all().iter().filter(|case| case.success).count();
    assert_eq!(cached.run.counts().remote_cache, succeeded as u64);
}

#[test]
fn casd() {
    let Ok(peer) = Peer::start(PeerKind::Casd) else { return };
    compare(&build_on(peer.endpoint()), &[ANY_SERVER, CASD]);
}
