//! One test for each rule of how races are begun, decided and counted.

use minibuild_core::{RaceCounts, Runner, StopReason};

use super::bench::Bench;
use super::fake::End;
use super::fake_remote::{Doing, RemoteEnd};
use super::plan::{
    In::{Out, Source},
    action,
};
use super::session::{Ask, Session, ask, remote};
use crate::machine::{Dynamic, Strategy};

fn one() -> Bench {
    Bench::new(1, vec![action(&[Source(0)])])
}

/// The first thing under way that is such.
fn the(session: &Session<'_>, is_it: impl Fn(&Doing) -> bool) -> Doing {
    session.doing().into_iter().find(|doing| is_it(doing)).expect("it is under way")
}

fn answer_lookups(session: &mut Session<'_>) {
    while let Some(lookup) = session.doing().into_iter().find(|doing| matches!(doing, Doing::LookUp(_))) {
        session.go_on(lookup);
    }
}

fn is_run(doing: &Doing) -> bool {
    matches!(doing, Doing::Run(_))
}

fn is_staging(doing: &Doing) -> bool {
    matches!(doing, Doing::Stage(_))
}

fn is_publishing(doing: &Doing) -> bool {
    matches!(doing, Doing::Publish(_))
}

fn adaptive(targets: &[usize]) -> Ask {
    ask(targets).with(remote()).strategy(Strategy::Dynamic)
}

fn won(session: &Session<'_>) -> (u64, u64, u64) {
    let RaceCounts { run, local_won, remote_won, .. } = session.outcome().races;
    (run, local_won, remote_won)
}

#[test]
fn both_branches_start_and_remote_is_staged_before_local_is_stopped() {
    let mut bench = one();
    let mut session = bench.begin(&ask(&[0]).racing());
    answer_lookups(&mut session);
    assert_eq!(session.started, [0, 0]);
    let run = the(&session, is_run);
    session.go_on(run);
    assert!(!session.is_stopped(0), "a download may still fail");
    let staging = the(&session, is_staging);
    session.go_on(staging);
    assert_eq!(session.stops, [(0, StopReason::LostRace)]);
    session.end(0, End::Stopped);
    let publishing = the(&session, is_publishing);
    session.go_on(publishing);
    assert_eq!(won(&session), (1, 0, 1));
    assert_eq!(session.completed(0).map(|(success, runner, _)| (success, runner)), Some((true, Runner::Remote)));
    assert_eq!(session.outcome().downloads.files, 1);
}

#[test]
fn local_that_ends_meanwhile_wins_and_what_is_staged_is_given_up() {
    let mut bench = one();
    let mut session = bench.begin(&ask(&[0]).racing());
    answer_lookups(&mut session);
    let run = the(&session, is_run);
    session.go_on(run);
    session.end(0, End::ByItself);
    let staging = the(&session, is_staging);
    session.end_remote(staging, RemoteEnd::Stopped);
    assert_eq!((won(&session), session.outcome().downloads.files), ((1, 1, 0), 0));
}

#[test]
fn d17_a_claim_comes_back_when_publishing_fails() {
    let mut bench = one();
    let mut session = bench.begin(&ask(&[0]).racing());
    answer_lookups(&mut session);
    for is_it in [is_run, is_staging] {
        let doing = the(&session, is_it);
        session.go_on(doing);
    }
    session.end(0, End::Stopped);
    let publishing = the(&session, is_publishing);
    session.end_remote(publishing, RemoteEnd::Failure);
    assert_eq!(session.started, [0, 0, 0], "local runs again");
    session.finish(|_| 0);
    assert_eq!(won(&session), (1, 1, 0));
    assert!(session.warnings()[0].contains("cannot be put in its place"), "{:?}", session.warnings());
}

#[test]
fn places_take_distinct_actions_first_and_then_the_tail() {
    let mut bench = Bench::new(2, vec![action(&[Source(0)]), action(&[Source(1)])]);
    let mut session = bench.begin(&adaptive(&[0, 1]));
    assert_eq!(session.started, [0; 0], "the first answer may come at once");
    answer_lookups(&mut session);
    assert_eq!(session.started, [0, 0, 1], "nothing is known of either side yet: both find out");
    session.end(0, End::ByItself);
    assert_eq!(session.started, [0, 0, 1, 1], "nothing else is left for the place here");
    session.end(1, End::ByItself);
    session.finish(|_| 0);
    assert_eq!(won(&session), (2, 2, 0));
}

#[test]
fn a_stop_of_a_loser_is_no_stop_of_the_build() {
    let mut bench = Bench::new(2, vec![action(&[Source(0)]), action(&[Source(1)])]);
    let mut session = bench.begin(&ask(&[0, 1]).racing().jobs(2));
    answer_lookups(&mut session);
    session.end(0, End::ByItself);
    let run = the(&session, |doing| matches!(doing, Doing::Run(run) if run.action.index() == 0));
    session.end_remote(run, RemoteEnd::Stopped);
    assert!(session.outcome.is_none() && !session.is_stopped(1));
    session.finish(|_| 0);
    assert!(!session.outcome().interrupted && !session.outcome().failed);
}

#[test]
fn what_is_compared_runs_to_both_ends() {
    let mut bench = one();
    bench.fake.behaviours[0].random = true;
    let dynamic = Dynamic { compares: true, ..Dynamic::default() };
    let mut session = bench.begin(&Ask { dynamic, ..adaptive(&[0]) });
    answer_lookups(&mut session);
    assert_eq!(session.started, [0, 0]);
    session.end(0, End::ByItself);
    assert!(session.outcome.is_none(), "remote is waited for");
    session.finish(|_| 0);
    assert_eq!(won(&session), (1, 1, 0));
    assert!(session.warnings()[0].contains("makes something else here than remotely"), "{:?}", session.warnings());
}

#[test]
fn compared_sides_wait_for_what_either_lacks() {
    // What 1 reads is in the store only, which loses it: neither side can begin before it is made again.
    for last in [false, true] {
        let mut bench = Bench::new(1, vec![action(&[Source(0)]), action(&[Out(0, 0)])]);
        bench.build(&ask(&[0]).remotely().minimal());
        bench.evict_all();
        let dynamic = Dynamic { compares: true, ..Dynamic::default() };
        let mut session = bench.begin(&Ask { dynamic, ..adaptive(&[1]) });
        session.finish(|doing| if last { doing.len() - 1 } else { 0 });
        assert_eq!((session.announced(1), session.failures().len()), (Some(true), 0));
    }
}

#[test]
fn a_hit_that_is_to_be_compared_waits_for_the_run_here() {
    let mut bench = Bench::new(2, vec![action(&[Source(0)]), action(&[Source(1)])]);
    bench.build(&ask(&[0, 1]).remotely());
    bench.check_out_again();
    let dynamic = Dynamic { compares: true, ..Dynamic::default() };
    // One place: the other's hit comes before its run can start.
    let mut session = bench.begin(&Ask { dynamic, ..adaptive(&[0, 1]) });
    answer_lookups(&mut session);
    session.finish(|_| 0);
    assert_eq!((won(&session), session.failures().len()), ((2, 2, 0), 0));
}
