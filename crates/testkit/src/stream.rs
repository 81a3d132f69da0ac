//! What holds of the events of every build, whatever it is about.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::{Event, Line};

/// What is wrong with the events of one invocation that ended with `exit_code`; nothing if all is well.
pub fn check_stream(lines: &[Line], exit_code: i32) -> Vec<String> {
    let mut problems = Vec::new();
    if !matches!(lines.first().map(|l| &l.event), Some(Event::BuildStarted { .. })) {
        problems.push("the first event is not `build_started`".to_owned());
    }
    if !lines.is_sorted_by_key(|line| line.time_ms) {
        problems.push("times go backwards".to_owned());
    }
    check_end(lines, exit_code, &mut problems);
    check_actions(lines, &mut problems);
    check_digests(lines, &mut problems);
    problems
}

fn check_end(lines: &[Line], code: i32, problems: &mut Vec<String>) {
    let Some(Event::BuildFinished { exit_code, success, actions, .. }) = lines.last().map(|l| &l.event) else {
        problems.push("the last event is not `build_finished`".to_owned());
        return;
    };
    let became_program = *success && matches!(&lines[0].event, Event::BuildStarted { command, .. } if command == "run");
    if *success != (*exit_code == 0) || (*exit_code != code && !became_program) {
        problems.push(format!("`build_finished` says {exit_code}, {success}; the process ended with {code}"));
    }
    let known = actions.up_to_date + actions.disk_cache + actions.remote_cache + actions.local + actions.remote;
    if known + actions.failed > actions.total || (*success && known != actions.total) {
        problems.push(format!("the counts do not add up: {actions:?}"));
    }
    let locals = last_runners(lines).into_values().filter(|runner| *runner == "local").count() as u64;
    if locals != actions.local {
        problems.push(format!("{locals} actions completed with runner `local`, but {} are counted", actions.local));
    }
    let ends = lines.iter().filter(|line| matches!(line.event, Event::BuildFinished { .. })).count();
    if ends != 1 {
        problems.push(format!("`build_finished` comes {ends} times"));
    }
}

/// Who ran each action, the last time where it ran more than once: it is counted once.
fn last_runners(lines: &[Line]) -> BTreeMap<&str, &str> {
    let mut runners: BTreeMap<&str, &str> = BTreeMap::new();
    for line in lines {
        match &line.event {
            // A second look at what ran in this build finds it up to date.
            Event::ActionCompleted { action, success: true, runner, .. } if runner == "up_to_date" => {
                runners.entry(action).or_insert(runner);
            }
            Event::ActionCompleted { action, success: true, runner, .. } => drop(runners.insert(action, runner)),
            Event::ActionCompleted { action, success: false, .. } => drop(runners.remove(action.as_str())),
            _ => {}
        }
    }
    runners
}

/// An action completes after it was started; each start has one end, and so has each branch.
fn check_actions(lines: &[Line], problems: &mut Vec<String>) {
    let mut branches: BTreeMap<(&str, &str), i32> = BTreeMap::new();
    let mut started: BTreeSet<&str> = BTreeSet::new();
    for line in lines {
        match &line.event {
            Event::ActionStarted { action, .. } => drop(started.insert(action)),
            Event::BranchStarted { action, branch, .. } => *branches.entry((action, branch)).or_default() += 1,
            Event::BranchFinished { action, branch, .. } => *branches.entry((action, branch)).or_default() -= 1,
            Event::ActionCompleted { action, runner, success: true, .. }
                if runner == "local" && !started.contains(action.as_str()) =>
            {
                problems.push(format!("`{action}` completed locally, but was not started"));
            }
            _ => {}
        }
    }
    for ((action, branch), open) in branches.iter().filter(|(_, open)| **open != 0) {
        problems.push(format!("the {branch} branch of `{action}` has {open} more starts than ends"));
    }
}

fn check_digests(lines: &[Line], problems: &mut Vec<String>) {
    for line in lines {
        let (Event::ActionCompleted { outputs, .. } | Event::TargetCompleted { outputs, .. }) = &line.event else {
            continue;
        };
        for output in outputs {
            let (hash, size) = output.digest.split_once('/').unwrap_or_default();
            let is_hash = hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if !is_hash || size.parse::<u64>().is_err() {
                problems.push(format!("`{}` has the digest `{}`", output.path, output.digest));
            }
            if !matches!(output.kind.as_str(), "file" | "directory" | "symlink") {
                problems.push(format!("`{}` is of kind `{}`", output.path, output.kind));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::parse;

    const START: &str =
        r#"{"event":"build_started","build_id":"1","command":"build","patterns":[],"options":[],"time_ms":0}"#;

    fn end(code: i32, total: u64, local: u64) -> String {
        format!(
            r#"{{"event":"build_finished","exit_code":{code},"success":{},"wall_ms":1,"critical_path_ms":0,
            "actions":{{"total":{total},"up_to_date":0,"disk_cache":0,"remote_cache":0,"local":{local},"remote":0,"failed":0}},
            "downloads":{{"files":0,"bytes":0,"files_copied":0}},"uploads":{{"files":0,"bytes":0}},
            "races":{{"run":0,"local_won":0,"remote_won":0,"wasted_local_ms":0,"wasted_remote_ms":0}},"time_ms":9}}"#,
            code == 0
        )
        .replace('\n', "")
    }

    #[test]
    fn a_good_stream_passes_and_each_fault_is_found() {
        let run = r#"{"event":"action_started","action":"a","label":"//:a","mnemonic":"M","time_ms":1}"#;
        let branch = r#"{"event":"branch_started","action":"a","branch":"local","reason":"r","time_ms":1}"#;
        let ended = r#"{"event":"branch_finished","action":"a","branch":"local","outcome":"won","ms":1,"time_ms":2}"#;
        let completed = r#"{"event":"action_completed","action":"a","label":"//:a","mnemonic":"M","success":true,
            "runner":"local","exit_code":0,"wall_ms":1,"reason":"r","outputs":[],"time_ms":2}"#
            .replace('\n', "");
        let check = |lines: &[&str], code: i32, expected: &str| {
            let lines = parse(&(lines.join("\n") + "\n")).expect("parses");
            let problems = check_stream(&lines, code).join("; ");
            assert!(
                problems.contains(expected) && problems.is_empty() == expected.is_empty(),
                "{expected}: {problems}"
            );
        };
        check(&[START, run, branch, ended, &completed, &end(0, 1, 1)], 0, "");
        check(&[START, &end(2, 0, 0)], 2, "");
        check(&[START, &end(2, 0, 0)], 1, "ended with 1");
        check(&[&START.replace("\"build\"", "\"run\""), &end(0, 0, 0)], 42, "");
        check(&[START, &end(0, 3, 1)], 0, "do not add up");
        check(&[START, &completed, &end(0, 1, 1)], 0, "was not started");
        check(&[START, run, branch, &completed, &end(0, 1, 1)], 0, "more starts than ends");
        check(&[run, &end(0, 0, 0)], 0, "first event");
        check(&[START], 0, "last event");
        check(&[START, run, &completed, &end(1, 2, 0)], 1, "are counted");
        let elsewhere = completed.replace("\"local\"", "\"remote\"");
        check(&[START, run, &completed, run, &elsewhere, &end(0, 1, 1)], 0, "1 are counted");
    }
}
