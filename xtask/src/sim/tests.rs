//! Tests of the simulator.

use super::model::{Action, Workload, us};

/// An action with no surprise.
pub fn action(deps: &[u32], local_ms: u32, exec_ms: u32) -> Action {
    Action {
        deps: deps.to_vec(),
        local: us(local_ms.into()),
        exec: us(exec_ms.into()),
        download: 0,
        hit: false,
        here: true,
        there: true,
        mnemonic: 0,
        history: Default::default(),
    }
}

/// A workload of these, one slot here and one worker, no latency.
pub fn workload(actions: Vec<Action>) -> Workload {
    Workload {
        name: "test".to_owned(),
        actions,
        rtt: 0,
        send_trips: 1.0,
        jobs: 1,
        workers: 1,
        remote_jobs: 400,
        kill: 0,
        cancel: Default::default(),
        outages: Vec::new(),
        mnemonics: vec!["Action".to_owned()],
        history: Default::default(),
    }
}

use super::make::{Parameters, Shape, Times};
use super::{STRATEGIES, input, make, run_seed, strategy};

#[test]
fn small_builds_take_as_long_as_they_must() {
    let check = |load: &Workload, name: &str, expected_ms: u64| {
        let outcome = strategy(name, load).expect("runs");
        assert_eq!(outcome.makespan, expected_ms * 1000, "{name}");
    };
    let mut chain = workload(vec![action(&[], 100, 50), action(&[0], 100, 50)]);
    chain.rtt = 10_000;
    check(&chain, "local", 200);
    // Each: look-up, sending, and the round trip of the execution.
    check(&chain, "remote", 160);
    chain.actions[1].hit = true;
    check(&chain, "remote", 90);
    check(&workload(vec![action(&[], 100, 100); 4]), "local", 400);
    check(&workload(vec![action(&[], 100, 100); 4]), "adaptive", 200);
    // Both sides take the same action first, each time.
    check(&workload(vec![action(&[], 100, 100); 4]), "race_all", 400);
}

#[test]
fn an_outage_is_survived_by_every_strategy() {
    let parameters = Parameters {
        count: 60,
        times: Times::Short,
        remote_slots: 4,
        outages: vec![make::OutageAt { from_ms: 200.0, to_ms: 3_000.0 }],
        ..Parameters::default()
    };
    let (actions, run) = run_seed(&parameters, 1).expect("every strategy ends");
    for (name, outcome) in STRATEGIES.iter().zip(&run.outcomes) {
        assert_eq!(outcome.local + outcome.remote + outcome.hits, actions, "{name}");
    }
    let of = |name: &str| run.outcomes[STRATEGIES.iter().position(|n| *n == name).expect("known")].makespan;
    assert!(of("remote") > 3_000_000, "nothing came through before");
    assert!(of("adaptive") < of("remote"));
}

#[test]
fn the_small_grid_keeps_the_rules_of_every_strategy() {
    for parameters in make::grid() {
        let parameters = Parameters { count: 36, ..parameters };
        let (actions, run) = run_seed(&parameters, 7).expect("no strategy breaks the contract or stands still");
        for (name, outcome) in STRATEGIES.iter().zip(&run.outcomes) {
            let at = format!("{}: {name}", parameters.name);
            assert_eq!(outcome.local + outcome.remote + outcome.hits, actions, "{at}");
            assert!(outcome.makespan >= run.bound.time(), "{at}: {outcome:?} {:?}", run.bound);
        }
        assert_eq!(run.outcomes[0].local, actions);
        assert_eq!(run.outcomes[0].wasted_here + run.outcomes[1].wasted_here, 0, "one side has no races");
    }
}

#[test]
fn a_seed_determines_everything() {
    let parameters =
        Parameters { shape: Shape::Gen, count: 200, stragglers: 0.1, hit_ratio: 0.3, ..Parameters::default() };
    let outcomes = |seed| run_seed(&parameters, seed).expect("runs").1.outcomes;
    assert_eq!(outcomes(3), outcomes(3));
    assert_ne!(outcomes(3), outcomes(4));
}

#[test]
fn workloads_from_outside_are_read() {
    let text = r#"
{"name": "x", "latency_ms": 10, "error": 0, "actions": [
  {"id": "a", "deps": ["b", 2], "local_ms": 5, "sides": "local"}, {"id": "b", "local_ms": 7.5, "remote_ms": 3,
  "predicted": {"local_ms": 9}}, {"local_ms": 1, "hit": true, "predicted": null}]}"#
        .replace('\n', "");
    let parsed = input::parse(&text).expect("valid");
    let load = parsed[0].make(1).expect("valid");
    assert_eq!(load.rtt, 10_000);
    let names: Vec<(u64, usize)> = load.actions.iter().map(|a| (a.local, a.deps.len())).collect();
    assert_eq!(names, [(7_500, 0), (1_000, 0), (5_000, 2)], "each after what it needs");
    let known: Vec<(u32, u32)> = load.actions.iter().map(|a| (a.history.local_ms, a.history.exec_ms)).collect();
    assert_eq!(known, [(9, 0), (0, 0), (5, 5)]);
    assert!(!load.actions[2].there);
}

#[test]
fn wrong_workloads_are_refused() {
    let check = |line: &str, expected: &str| {
        let made = input::parse(line).and_then(|all| all[0].make(1));
        let error = made.expect_err(line);
        assert!(error.contains(expected), "{error}");
    };
    check("{", "line 1");
    check(r#"{"latency": 5}"#, "unknown field `latency`");
    check(r#"{"actions": [{"local_ms": 1, "deps": [1]}]}"#, "no action 1");
    check(r#"{"actions": [{"local_ms": 1, "deps": ["x"]}]}"#, "no action `x`");
    check(r#"{"actions": [{"local_ms": 1, "deps": [0]}]}"#, "circle");
    check(r#"{"actions": [{"id": "a", "local_ms": 1}, {"id": "a", "local_ms": 1}]}"#, "two actions");
}
