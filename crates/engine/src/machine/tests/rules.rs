//! One test for each rule the machine follows.

use minibuild_core::{ActionId, ArtifactKind, ExecutorEvent, Resources, Runner, StopReason};

use super::bench::{Bench, chain};
use super::fake::End;
use super::plan::{In, Plan, Spec, action, source_path, test};
use super::session::{Ask, ask};
use crate::machine::Event;

use In::{Out, Set, Source};

#[test]
fn a_second_build_starts_nothing() {
    let mut bench = chain(3);
    assert_eq!(bench.build(&ask(&[2])), [0, 1, 2]);
    let again = bench.built(&ask(&[2]));
    assert_eq!(again.started, [] as [usize; 0]);
    let counts = again.outcome().counts;
    assert_eq!((counts.total, counts.up_to_date, counts.local), (3, 3, 0));
    assert_eq!(again.announced(2), Some(true));
    assert!(bench.dir().join("records").exists());
}

#[test]
fn only_what_is_asked_for_is_built() {
    let mut bench = chain(3);
    assert_eq!(bench.build(&ask(&[1])), [0, 1]);
    assert_eq!(bench.build(&ask(&[2])), [2]);
}

#[test]
fn what_failed_last_starts_first_then_the_longest_chain() {
    let heads = vec![action(&[Source(0)]), action(&[Source(0)]), action(&[Source(0)]), action(&[Out(1, 0)])];
    let mut bench = Bench::new(1, heads);
    // All of one length are taken as equally long: 1 has another behind it.
    assert_eq!(bench.build(&ask(&[0, 1, 2, 3])), [1, 0, 2, 3]);
    bench.fake.behaviours[2].fails = true;
    bench.edit(0, "1");
    bench.build(&ask(&[0, 1, 2, 3]).keep_going());
    bench.fake.behaviours[2].fails = false;
    bench.edit(0, "2");
    assert_eq!(bench.build(&ask(&[0, 1, 2, 3])), [2, 1, 0, 3]);
    // Times of the last runs count.
    bench.fake.behaviours[0].wall = 90_000;
    bench.edit(0, "3");
    bench.build(&ask(&[0, 1, 2, 3]));
    bench.edit(0, "4");
    assert_eq!(bench.build(&ask(&[0, 1, 2, 3])), [0, 1, 2, 3]);
}

#[test]
fn as_many_run_as_there_are_slots() {
    for jobs in 1..5 {
        let mut bench = Bench::new(1, vec![action(&[Source(0)]); 4]);
        let session = bench.begin(&ask(&[0, 1, 2, 3]).jobs(jobs));
        assert_eq!(session.running().len(), jobs);
    }
}

#[test]
fn short_runs_are_started_ahead_and_long_ones_are_not() {
    let targets: Vec<usize> = (0..60).collect();
    // So many are given to the executor after the first one took `wall` milliseconds: two run, others wait.
    let given = |wall: u64| {
        let mut bench = Bench::new(1, vec![action(&[Source(0)]); 60]);
        bench.fake.behaviours.iter_mut().for_each(|behaviour| behaviour.wall = wall);
        let mut session = bench.begin(&ask(&targets).jobs(2).ahead(3));
        assert_eq!(session.running().len(), 5, "nothing is known of them");
        session.end(0, End::ByItself);
        session.running().len()
    };
    assert_eq!([1, 5, 10, 20, 1000].map(given), [34, 22, 12, 6, 5]);
    // Of those that ran before it is known how long each took.
    let mut bench = Bench::new(1, vec![action(&[Source(0)]); 60]);
    for (at, behaviour) in bench.fake.behaviours.iter_mut().enumerate() {
        behaviour.wall = if at < 10 { 1000 } else { 1 };
    }
    bench.build(&ask(&targets));
    bench.edit(0, "1");
    let session = bench.begin(&ask(&targets).jobs(2).ahead(3));
    assert_eq!(session.running(), [0, 1, 2, 3, 4], "the long ones come first, and not too many of them");
}

#[test]
fn the_first_failure_stops_what_runs() {
    let mut bench =
        Bench::new(1, vec![action(&[Source(0)]), action(&[Source(0)]), action(&[Source(0)]), action(&[Out(0, 0)])]);
    let mut session = bench.begin(&ask(&[1, 2, 3]).jobs(2));
    session.end(0, End::Failure);
    assert_eq!(session.stops, [(1, StopReason::Interrupt)]);
    session.end(1, End::Stopped);
    let outcome = session.outcome();
    assert!(outcome.failed && !outcome.interrupted && !outcome.tests_failed);
    assert_eq!((outcome.counts.failed, outcome.counts.local), (1, 0));
    assert_eq!(session.started, [0, 1]);
    assert_eq!([1, 2, 3].map(|t| session.announced(t)), [Some(false); 3]);
}

#[test]
fn what_is_finished_during_a_stop_counts() {
    let mut bench = Bench::new(1, vec![action(&[Source(0)]), action(&[Source(0)]), action(&[Out(1, 0)])]);
    let mut session = bench.begin(&ask(&[0, 2]).jobs(2));
    session.end(0, End::Failure);
    session.end(1, End::ByItself);
    assert_eq!(session.outcome().counts.local, 1);
    assert_eq!(bench.build(&ask(&[0, 2])), [0, 2]);
}

#[test]
fn keep_going_builds_what_does_not_need_the_failed() {
    let mut plan =
        Plan::new(1, vec![action(&[Source(0)]), action(&[Set(0)]), action(&[Out(1, 0)]), action(&[Source(0)])]);
    plan.sets = vec![vec![Out(0, 0)]];
    let mut bench = Bench::of(plan);
    let mut session = bench.begin(&ask(&[2, 3]).keep_going());
    session.end(0, End::Failure);
    assert_eq!(session.announced(2), Some(false), "said at once");
    session.finish(|_| 0);
    assert_eq!(session.started, [0, 3]);
    assert_eq!((session.announced(3), session.outcome().failed), (Some(true), true));
    let counts = session.outcome().counts;
    assert_eq!((counts.total, counts.failed, counts.local), (4, 1, 1));
}

#[test]
fn a_failed_test_stops_nothing() {
    let mut bench = Bench::new(1, vec![test(&[Source(0)]), test(&[Source(0)])]);
    bench.fake.behaviours[0].fails = true;
    let session = bench.built(&ask(&[0, 1]));
    assert_eq!(session.started, [0, 1]);
    assert!(session.outcome().tests_failed && !session.outcome().failed);
    assert_eq!((session.announced(0), session.announced(1)), (Some(false), Some(true)));
}

#[test]
fn a_test_that_cannot_be_run_is_a_failed_build() {
    let mut bench = Bench::new(1, vec![test(&[Source(0)])]);
    bench.fake.disk.remove("p/s0");
    let session = bench.built(&ask(&[0]));
    assert!(session.outcome().failed && !session.outcome().tests_failed);
}

#[test]
fn a_known_pass_is_not_run_again_unless_asked() {
    let mut bench = Bench::new(1, vec![test(&[Source(0)])]);
    let fresh = Ask { fresh_tests: true, ..ask(&[0]) };
    assert_eq!(bench.build(&ask(&[0])), [0]);
    assert_eq!(bench.build(&ask(&[0])), []);
    assert_eq!(bench.build(&fresh), [0]);
    // A test that failed when it last ran has not passed, whatever it did before.
    bench.fake.behaviours[0].fails = true;
    assert_eq!(bench.build(&fresh), [0]);
    assert_eq!(bench.build(&ask(&[0])), [0]);
}

#[test]
fn the_first_interrupt_stops_the_second_kills() {
    let mut bench = Bench::new(1, vec![action(&[Source(0)]); 3]);
    let mut session = bench.begin(&ask(&[0, 1, 2]).jobs(2));
    session.interrupt();
    assert_eq!(session.stops, [(0, StopReason::Interrupt), (1, StopReason::Interrupt)]);
    session.end(0, End::Stopped);
    session.interrupt();
    session.interrupt();
    assert_eq!(session.stops[2..], [(1, StopReason::Kill)]);
    session.end(1, End::Stopped);
    assert_eq!(session.started, [0, 1]);
    let outcome = session.outcome().clone();
    assert!(outcome.interrupted && !outcome.failed);
    session.interrupt();
    assert_eq!(bench.build(&ask(&[0, 1, 2])), [0, 1, 2]);
}

#[test]
fn an_interrupt_after_a_failure_kills_only_when_repeated() {
    let mut bench = Bench::new(1, vec![action(&[Source(0)]); 2]);
    let mut session = bench.begin(&ask(&[0, 1]).jobs(2));
    session.end(0, End::Failure);
    session.interrupt();
    session.interrupt();
    assert_eq!(session.stops, [(1, StopReason::Interrupt), (1, StopReason::Kill)]);
    session.end(1, End::Stopped);
    assert!(session.outcome().interrupted && session.outcome().failed);
}

#[test]
fn a_stop_nobody_asked_for_is_a_failure() {
    let mut bench = chain(1);
    let mut session = bench.begin(&ask(&[0]));
    let mut report = session.fake.end(ActionId::new(0), End::Failure);
    report.status = minibuild_core::ExecutionStatus::Stopped(StopReason::Kill);
    session.handle(Event::Executor(ExecutorEvent::Finished(Box::new(report))));
    assert!(session.outcome().failed);
}

#[test]
fn an_exclusive_action_runs_alone() {
    let mut exclusive = test(&[Source(0)]);
    exclusive.exclusive = true;
    let mut bench = Bench::new(1, vec![exclusive.clone(), test(&[Source(0)]), exclusive, test(&[Source(0)])]);
    let mut session = bench.begin(&ask(&[0, 1, 2, 3]).jobs(3));
    assert_eq!(session.started, [0]);
    session.end(0, End::ByItself);
    assert_eq!(session.running(), [1, 3]);
    session.end(3, End::ByItself);
    session.end(1, End::ByItself);
    assert_eq!(session.running(), [2]);
    session.finish(|_| 0);
}

#[test]
fn streamed_tests_run_alone() {
    let targets = vec![test(&[Source(0)]), action(&[Source(0)]), test(&[Source(0)])];
    let mut bench = Bench::new(1, targets);
    let mut session = bench.begin(&Ask { streams_tests: true, ..ask(&[0, 1, 2]) }.jobs(3));
    let mut seen = Vec::new();
    while let [first, ..] = session.running()[..] {
        seen.push(session.running().to_vec());
        session.end(first, End::ByItself);
    }
    seen.sort_unstable();
    assert_eq!(seen, [[0], [1], [2]]);
    session.finish(|_| 0);
}

fn taking(resources: Resources) -> Spec {
    Spec { resources, ..test(&[Source(0)]) }
}

#[test]
fn a_full_pool_holds_back_its_own_only() {
    let pooled = taking(Resources { pool: Some("one".into()), ..Default::default() });
    let mut bench = Bench::new(1, vec![pooled.clone(), pooled.clone(), test(&[Source(0)]), pooled]);
    let mut session = bench.begin(&ask(&[0, 1, 2, 3]).jobs(3));
    assert_eq!(session.running(), [0, 2]);
    session.end(2, End::ByItself);
    assert_eq!(session.running(), [0]);
    session.end(0, End::ByItself);
    assert_eq!(session.running(), [1]);
    session.finish(|_| 0);
}

#[test]
fn an_action_of_several_processors_waits_for_them_and_is_not_overtaken() {
    let wide = taking(Resources { cpus: 2, ..Default::default() });
    let mut bench = Bench::new(1, vec![test(&[Source(0)]), wide, test(&[Source(0)])]);
    let mut session = bench.begin(&ask(&[0, 1, 2]).jobs(2));
    assert_eq!(session.running(), [0], "a place is kept free for the second");
    session.end(0, End::ByItself);
    assert_eq!(session.running(), [1]);
    session.end(1, End::ByItself);
    assert_eq!(session.running(), [2]);
    session.finish(|_| 0);
}

#[test]
fn memory_is_shared_out_and_what_takes_too_much_runs_without_others_that_take_some() {
    let of = |memory| taking(Resources { memory, ..Default::default() });
    let mut bench = Bench::new(1, vec![of(60), of(40), of(500), test(&[Source(0)])]);
    let mut session = bench.begin(&ask(&[0, 1, 2, 3]).jobs(4));
    assert_eq!(session.running(), [0, 1]);
    session.end(0, End::ByItself);
    assert_eq!(session.running(), [1]);
    session.end(1, End::ByItself);
    assert_eq!(session.running(), [2, 3]);
    session.finish(|_| 0);
}

#[test]
fn the_same_outputs_again_run_nothing_downstream() {
    let mut bench = chain(3);
    bench.fake.behaviours[0].constant = true;
    bench.build(&ask(&[2]));
    bench.edit(0, "1");
    let session = bench.built(&ask(&[2]));
    assert_eq!(session.started, [0]);
    let counts = session.outcome().counts;
    assert_eq!((counts.up_to_date, counts.local), (2, 1));
}

#[test]
fn four_results_are_remembered() {
    let mut bench = chain(2);
    for text in ["a", "b", "c", "d"] {
        bench.edit(0, text);
        assert_eq!(bench.build(&ask(&[1]).minimal()), [0, 1]);
    }
    for text in ["a", "d", "b", "c", "a"] {
        bench.edit(0, text);
        assert_eq!(bench.build(&ask(&[1]).minimal()), []);
    }
    bench.edit(0, "e");
    assert_eq!(bench.build(&ask(&[1]).minimal()), [0, 1]);
    bench.edit(0, "d");
    assert_eq!(bench.build(&ask(&[1]).minimal()), [0, 1], "the oldest is forgotten");
}

#[test]
fn switching_back_makes_wanted_bytes_again_and_removes_those_of_the_other_state() {
    let mut bench = chain(2);
    bench.build(&ask(&[1]));
    bench.edit(0, "b");
    bench.build(&ask(&[1]));
    bench.edit(0, "0");
    let session = bench.built(&ask(&[1]));
    assert_eq!(session.started, [0, 1]);
    assert_eq!(session.warnings(), Vec::<&str>::new(), "what is of another state of the sources is nobody's fault");
    assert_eq!(session.completed(1).map(|c| c.2).as_deref(), Some("output `minibuild-out/bin/p/a1.0` is not on disk"));
}

/// An action whose depfile leaves out one of its three headers, and a further one that is no header.
fn compile() -> Spec {
    Spec { discoverable: vec![Source(1), Source(2), Source(3)], ..action(&[Source(0)]) }
}

/// Which of the headers of [`compile`] are read, for the text of source 0.
fn unread(bench: &Bench) -> usize {
    let depfile = bench.fake.depfile_names(ActionId::new(0));
    (1..4).find(|&header| !depfile.contains(&source_path(header))).expect("one is left out")
}

#[test]
fn an_unread_header_runs_nothing() {
    let mut bench = Bench::new(5, vec![compile(), action(&[Out(0, 0)])]);
    bench.build(&ask(&[1]));
    let header = unread(&bench);
    bench.edit(header, "1");
    assert_eq!(bench.build(&ask(&[1])), []);
    assert_eq!(bench.build(&ask(&[1])), []);
    bench.edit(header % 3 + 1, "1");
    assert_eq!(bench.build(&ask(&[1])), [0, 1]);
}

#[test]
fn another_set_of_headers_runs_it() {
    let mut bench = Bench::new(5, vec![compile()]);
    let asked = ask(&[0]).minimal();
    bench.build(&asked);
    let more = Spec { discoverable: vec![Source(1), Source(2), Source(3), Source(4)], ..compile() };
    bench.fake.replan(Plan::new(5, vec![more]));
    assert_eq!(bench.build(&asked), [0]);
    bench.fake.replan(Plan::new(5, vec![compile()]));
    assert_eq!(bench.build(&asked), [], "the first result is remembered");
}

#[test]
fn a_depfile_with_an_undeclared_file_fails() {
    let mut bench = Bench::new(4, vec![compile()]);
    bench.fake.behaviours[0].undeclared = true;
    let session = bench.built(&ask(&[0]));
    assert!(session.outcome().failed);
    let failure = session.shown[0].failure.clone().unwrap_or_default();
    assert!(failure.contains("it read `p/secret.h`"), "{failure}");
    bench.fake.behaviours[0].undeclared = false;
    assert_eq!(bench.build(&ask(&[0])), [0], "nothing was recorded");
}

#[test]
fn wanted_but_absent_outputs_run_their_producer_only() {
    let mut bench = chain(3);
    bench.build(&ask(&[2]));
    bench.delete(2);
    assert_eq!(bench.build(&ask(&[2]).minimal()), []);
    assert_eq!(bench.build(&ask(&[2])), [2]);
    bench.delete(0);
    bench.delete(1);
    assert_eq!(bench.build(&ask(&[2])), [], "absent intermediates nobody needs stay so");
    assert_eq!(bench.build(&Ask { all_bytes: true, ..ask(&[2]) }), [0, 1]);
}

#[test]
fn a_changed_output_is_made_again() {
    let mut bench = chain(2);
    bench.build(&ask(&[1]));
    bench.fake.write("minibuild-out/bin/p/a1.0", "tampered".to_owned());
    assert_eq!(bench.build(&ask(&[1])), [1]);
    bench.fake.write("minibuild-out/bin/p/a0.0", "tampered".to_owned());
    let session = bench.built(&ask(&[1]));
    assert_eq!(session.started, [], "one that nobody needs is only removed");
    let said = "`minibuild-out/bin/p/a0.0` was changed by something else than its action; it is removed";
    assert_eq!(session.warnings(), [said]);
    assert!(!bench.has(0));
}

#[test]
fn absent_inputs_are_made_first_however_deep() {
    let mut bench = chain(4);
    bench.build(&ask(&[3]));
    for action in 0..4 {
        bench.delete(action);
    }
    let session = bench.built(&ask(&[3]));
    assert_eq!(session.started, [0, 1, 2, 3]);
    let counts = session.outcome().counts;
    assert_eq!((counts.total, counts.local, counts.up_to_date), (4, 4, 0), "none is counted twice");
}

#[test]
fn who_waits_for_inputs_holds_no_slot() {
    let mut bench = Bench::new(2, vec![action(&[Source(0)]), action(&[Out(0, 0), Source(1)]), action(&[Source(1)])]);
    bench.build(&ask(&[1, 2]));
    bench.delete(0);
    bench.edit(1, "1");
    let session = bench.begin(&ask(&[1, 2]).jobs(2));
    assert_eq!(session.running(), [0, 2]);
}

#[test]
fn only_the_outputs_that_are_read_are_made_again() {
    let mut bench =
        Bench::new(2, vec![action(&[Source(0)]), action(&[Source(0)]), action(&[Out(0, 0), Out(1, 0), Source(1)])]);
    bench.build(&ask(&[2]));
    bench.delete(1);
    bench.edit(1, "1");
    assert_eq!(bench.build(&ask(&[2])), [1, 2]);
}

/// 0 makes something else each time; 1 and 2 read it, 3 reads both, 4 reads 0 and source 1.
fn unstable() -> Bench {
    let actions = vec![
        action(&[Source(0)]),
        action(&[Out(0, 0)]),
        action(&[Out(0, 0)]),
        action(&[Out(1, 0), Out(2, 0)]),
        action(&[Out(0, 0), Source(1)]),
    ];
    let mut bench = Bench::new(2, actions);
    bench.fake.behaviours[0].random = true;
    bench
}

#[test]
fn other_contents_reach_every_consumer_finished_or_not() {
    for jobs in 1..4 {
        let mut bench = unstable();
        bench.build(&ask(&[3, 4]));
        bench.delete(0);
        bench.edit(1, "1");
        let session = bench.built(&ask(&[3, 4]).jobs(jobs));
        let mut started = session.started.clone();
        started.sort_unstable();
        assert_eq!(started, [0, 1, 2, 3, 4]);
        assert_eq!(session.outcome().counts.local, 5);
        assert_eq!(bench.build(&ask(&[3, 4])), []);
    }
}

/// 0 makes one of three things; 1 reads it, 2 reads 1; 3 reads 0 and source 1, 4 reads 1 and source 2.
fn flipping() -> Bench {
    let actions = vec![
        action(&[Source(0)]),
        action(&[Out(0, 0)]),
        action(&[Out(1, 0)]),
        action(&[Out(0, 0), Source(1)]),
        action(&[Out(1, 0), Source(2)]),
    ];
    let mut bench = Bench::new(3, actions);
    bench.fake.behaviours[0].random = true;
    // Three rounds make everything there is of 0, 1 and 2 known.
    for round in ["a", "b", "c"] {
        bench.edit(1, round);
        bench.edit(2, round);
        bench.delete(0);
        bench.build(&ask(&[2, 3, 4]).minimal());
    }
    bench.delete(0);
    bench
}

#[test]
fn an_old_result_found_on_the_way_reaches_consumers_too() {
    let mut bench = flipping();
    bench.edit(1, "d");
    let session = bench.built(&ask(&[2, 3]).minimal());
    // 1 and 2 are other than before, and known.
    assert_eq!(session.started, [0, 3]);
    assert_eq!(session.outcome().counts.up_to_date, 2);
}

#[test]
fn outputs_are_not_removed_while_they_are_read() {
    let mut bench = flipping();
    bench.edit(1, "d");
    bench.edit(2, "d");
    let mut session = bench.begin(&ask(&[2, 3, 4]).minimal().jobs(3));
    assert_eq!(session.running(), [0, 4]);
    session.end(0, End::ByItself);
    assert_eq!(session.running(), [3, 4], "1 is another now, but 4 reads what it was");
    session.end(4, End::ByItself);
    assert!(session.fake.disk.get("minibuild-out/bin/p/a1.0").is_none_or(|_| session.running().contains(&1)));
    session.finish(|_| 0);
}

#[test]
fn nobody_starts_to_read_what_is_about_to_be_replaced() {
    // 0 is wanted anew for 2 and held back by 1: 3, which could read as 1 does, waits for it.
    let two = Spec { outputs: vec![ArtifactKind::File, ArtifactKind::File], ..action(&[Source(0)]) };
    let reads = |output| action(&[Out(0, output), Source(1)]);
    let mut bench = Bench::new(2, vec![two, reads(0), reads(1), reads(0)]);
    bench.build(&ask(&[1, 2, 3]));
    bench.fake.disk.remove("minibuild-out/bin/p/a0.1");
    bench.edit(1, "1");
    let mut session = bench.begin(&ask(&[1, 2, 3]).jobs(2));
    assert_eq!(session.running(), [1]);
    session.finish(|_| 0);
    assert_eq!(session.started, [1, 0, 2, 3]);
}

#[test]
fn failure_of_a_run_for_bytes_skips_who_needs_them() {
    // Through a set, too; what is known and not needed on disk stays done.
    let mut plan = Plan::new(2, vec![action(&[Source(0)]), action(&[Set(0), Source(1)]), action(&[Out(0, 0)])]);
    plan.sets = vec![vec![Out(0, 0)]];
    let mut bench = Bench::of(plan);
    bench.build(&ask(&[1, 2]));
    bench.delete(0);
    bench.edit(1, "1");
    bench.fake.behaviours[0].fails = true;
    let session = bench.built(&ask(&[1, 2]).keep_going());
    assert_eq!(session.started, [0]);
    assert_eq!((session.announced(1), session.announced(2)), (Some(false), Some(true)));
    let counts = session.outcome().counts;
    assert_eq!((counts.failed, counts.up_to_date, counts.total), (1, 1, 3));
}

#[test]
fn bytes_of_what_failed_already_are_not_waited_for() {
    // 0 fails when it is run for 1; then 3 wants the bytes of 2, which wants those of 0.
    let actions = vec![
        action(&[Source(0)]),
        action(&[Out(0, 0), Source(1)]),
        action(&[Out(0, 0)]),
        action(&[Source(2)]),
        action(&[Out(2, 0), Out(3, 0)]),
    ];
    let mut bench = Bench::new(3, actions);
    bench.build(&ask(&[1, 4]));
    bench.delete(0);
    bench.delete(2);
    bench.edit(1, "1");
    bench.edit(2, "1");
    bench.fake.behaviours[0].fails = true;
    let mut session = bench.begin(&ask(&[1, 4]).keep_going().jobs(2));
    session.end(0, End::ByItself);
    session.finish(|_| 0);
    assert_eq!(session.started, [3, 0]);
    assert_eq!((session.announced(1), session.announced(4)), (Some(false), Some(false)));
}

#[test]
fn outputs_are_not_replaced_while_they_are_read() {
    // 0 has two outputs, one is gone: 1 runs with the other while 2 waits for the one that is gone.
    let mut first = action(&[Source(0)]);
    first.outputs = vec![ArtifactKind::File, ArtifactKind::Directory];
    let actions = vec![first, action(&[Out(0, 0), Source(1)]), action(&[Source(1)]), action(&[Out(0, 1), Out(2, 0)])];
    let mut bench = Bench::new(2, actions);
    bench.build(&ask(&[1, 3]));
    bench.fake.disk.remove("minibuild-out/bin/p/a0.1");
    bench.edit(1, "1");
    let mut session = bench.begin(&ask(&[1, 3]).jobs(2));
    assert_eq!(session.running(), [1, 2]);
    session.end(2, End::ByItself);
    assert_eq!(session.running(), [1], "0 waits until 1 has read its output");
    session.end(1, End::ByItself);
    session.finish(|_| 0);
    assert_eq!(session.started, [2, 1, 0, 3]);
}

#[test]
fn a_result_made_of_changing_inputs_is_used_and_not_remembered() {
    let mut bench = chain(2);
    let mut session = bench.begin(&ask(&[1]));
    session.end(0, End::ChangedInput);
    session.finish(|_| 0);
    assert_eq!(session.announced(1), Some(true));
    assert!(session.warnings()[0].contains("`p/s0` changed while `//p:a0` ran"), "{:?}", session.warnings());
    assert_eq!(bench.build(&ask(&[1])), [0, 1]);
    assert_eq!(bench.build(&ask(&[1])), []);
}

#[test]
fn reports_of_earlier_runs_are_dropped() {
    let mut bench = unstable();
    bench.build(&ask(&[4]));
    bench.edit(0, "1");
    let mut session = bench.begin(&ask(&[4]));
    let report = session.fake.end(ActionId::new(0), End::ByItself);
    let mut stale = report.clone();
    stale.run.attempt += 7;
    session.machine.attempts[0] = report.run.attempt;
    let steps =
        session.machine.handle_event(Event::Executor(ExecutorEvent::Finished(Box::new(stale))), Default::default());
    assert!(steps.is_empty(), "{steps:?}");
    session.handle(Event::Executor(ExecutorEvent::Finished(Box::new(report.clone()))));
    let before = session.events.len();
    session.handle(Event::Executor(ExecutorEvent::Finished(Box::new(report))));
    assert_eq!(session.events.len(), before);
    session.finish(|_| 0);
}

#[test]
fn trees_and_several_outputs_flow_through() {
    let mut tree = action(&[Source(0)]);
    tree.outputs = vec![ArtifactKind::Directory, ArtifactKind::Symlink];
    let mut bench = Bench::new(1, vec![tree, action(&[Out(0, 0)]), action(&[Out(0, 1)])]);
    assert_eq!(bench.build(&ask(&[1, 2])), [0, 1, 2]);
    assert_eq!(bench.build(&ask(&[1, 2])), []);
    // The same path declared as something else is another output.
    let mut file = action(&[Source(0)]);
    file.outputs = vec![ArtifactKind::Directory, ArtifactKind::File];
    bench.fake.replan(Plan::new(1, vec![file, action(&[Out(0, 0)]), action(&[Out(0, 1)])]));
    assert_eq!(bench.build(&ask(&[1, 2])), [0, 2]);
}

#[test]
fn what_a_failed_run_left_where_something_was_removed_is_noticed() {
    let mut bench = chain(2);
    let asked = ask(&[1]).minimal();
    for text in ["b", "0"] {
        bench.build(&asked);
        bench.edit(0, text);
    }
    bench.build(&asked);
    assert!(!bench.has(1), "that of the other source was removed");
    bench.edit(0, "c");
    bench.fake.behaviours[1].fails = true;
    bench.build(&asked);
    assert!(bench.has(1));
    bench.edit(0, "0");
    bench.build(&asked);
    assert!(!bench.has(1), "what a failed run left is no result");
}

#[test]
fn targets_of_several_actions_and_none() {
    let mut bench = Bench::new(1, vec![action(&[Source(0)])]);
    let session = bench.built(&ask(&[]));
    assert_eq!((session.outcome().counts.total, session.outcome().failed), (0, false));
}

#[test]
fn what_may_run_nowhere_fails() {
    let mut bench = Bench::new(1, vec![Spec { no_local: true, ..action(&[Source(0)]) }]);
    let session = bench.built(&ask(&[0]));
    assert_eq!(session.started, [] as [usize; 0]);
    assert!(session.outcome().failed);
    assert_eq!(session.completed(0).map(|c| (c.0, c.1)), Some((false, Runner::Local)));
}
