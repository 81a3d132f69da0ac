//! One test for each rule about where actions run, what is asked of caches, and which bytes come here.

use std::time::Duration;

use minibuild_core::{ArtifactKind, BlobSource, Level, Runner, StopReason};

use super::bench::{Bench, chain};
use super::fake::{End, outputs_of};
use super::fake_remote::{Asked, Doing, RemoteEnd, blobs_of};
use super::plan::{In, Spec, action, test};
use super::session::{Ask, Session, ask, cache, remote};
use crate::machine::{Lease, RemoteGoals, Strategy, Uploads};

use In::{Out, Source};

fn path_of(bench: &Bench, action: usize) -> String {
    outputs_of(&bench.fake.model, action)[0].to_string()
}

fn only_remote(inputs: &[In]) -> Spec {
    Spec { no_local: true, ..action(inputs) }
}

fn only_here(inputs: &[In]) -> Spec {
    Spec { no_remote: true, ..action(inputs) }
}

/// The one thing of this kind that is under way.
fn the(session: &Session<'_>, is_meant: impl Fn(&Doing) -> bool) -> Doing {
    let found: Vec<Doing> = session.doing().into_iter().filter(is_meant).collect();
    assert_eq!(found.len(), 1, "{:?}", session.doing());
    found[0]
}

fn is_run(doing: &Doing) -> bool {
    matches!(doing, Doing::Run(_))
}

fn is_fetch(doing: &Doing) -> bool {
    matches!(doing, Doing::Fetch(_))
}

/// Answers all questions to caches with what they have.
fn answer_lookups(session: &mut Session<'_>) {
    while let Some(doing) = session.doing().into_iter().find(|doing| matches!(doing, Doing::LookUp(_))) {
        session.go_on(doing);
    }
}

fn counts(session: &Session<'_>) -> (u64, u64, u64, u64) {
    let counts = session.outcome().counts;
    (counts.up_to_date, counts.remote_cache, counts.local, counts.remote)
}

#[test]
fn d01_a_remote_only_tag_never_starts_local() {
    for strategy in [Strategy::Local, Strategy::Remote, Strategy::Dynamic] {
        let mut bench = Bench::new(1, vec![only_remote(&[Source(0)]), only_remote(&[Out(0, 0)])]);
        let session = bench.built(&ask(&[1]).with(remote()).strategy(strategy).jobs(4));
        assert_eq!(counts(&session), (0, 0, 0, 2));
    }
}

#[test]
fn d02_a_local_only_tag_never_starts_remote() {
    for strategy in [Strategy::Local, Strategy::Remote, Strategy::Dynamic] {
        let mut bench = Bench::new(1, vec![only_here(&[Source(0)]), only_here(&[Out(0, 0)])]);
        let session = bench.built(&ask(&[1]).with(remote()).strategy(strategy));
        assert_eq!(counts(&session), (0, 0, 2, 0));
        assert_eq!(session.fake.remote.asked, Asked::default(), "nor is a cache asked");
    }
}

#[test]
fn d03_neither_side_eligible_names_both_reasons() {
    let mut bench = Bench::new(1, vec![Spec { no_local: true, ..only_here(&[Source(0)]) }]);
    let session = bench.built(&ask(&[0]).remotely());
    assert_eq!(
        session.failures(),
        ["it may run not on this machine (tag `no-local`) and not remotely (tag `no-remote`)"]
    );
}

#[test]
fn t05_another_toplevel_target_is_fetched_and_runs_nothing() {
    let mut bench = chain(2);
    let first = bench.built(&ask(&[1]).remotely()).fetched.clone();
    assert_eq!(first, [path_of(&bench, 1)]);
    let second = bench.built(&ask(&[0]).remotely());
    assert_eq!((second.started.len(), second.fake.remote.asked), (0, Asked { fetches: 1, ..Asked::default() }));
    assert!(bench.has(0));
}

#[test]
fn t06_a_deleted_toplevel_output_is_fetched_and_nothing_else_is_asked() {
    let mut bench = chain(3);
    bench.build(&ask(&[2]).remotely());
    bench.delete(2);
    let session = bench.built(&ask(&[2]).remotely());
    assert_eq!(session.fake.remote.asked, Asked { fetches: 1, ..Asked::default() });
    assert_eq!((counts(&session), session.outcome().downloads.files), ((3, 0, 0, 0), 1));
    assert!(bench.has(2) && !bench.has(0) && !bench.has(1));
}

#[test]
fn t08_a_deleted_intermediate_is_not_missed() {
    let mut bench = chain(2);
    bench.build(&ask(&[1]).remotely().all());
    assert!(bench.has(0));
    bench.delete(0);
    let session = bench.built(&ask(&[1]).remotely());
    assert_eq!((session.fake.remote.asked, session.started.len()), (Asked::default(), 0));
}

#[test]
fn t09_a_modified_output_is_restored_from_its_digest() {
    let mut bench = chain(2);
    bench.build(&ask(&[1]).remotely());
    let path = path_of(&bench, 1);
    let before = bench.fake.disk[&path].text.clone();
    bench.fake.write(&path, "tampered".to_owned());
    let session = bench.built(&ask(&[1]).remotely());
    assert_eq!(session.fake.remote.asked, Asked { fetches: 1, ..Asked::default() });
    assert_eq!(bench.fake.disk[&path].text, before);
}

#[test]
fn t11_another_download_mode_runs_nothing() {
    let tree = Spec { outputs: vec![ArtifactKind::Directory, ArtifactKind::Symlink], ..action(&[Source(0)]) };
    let mut bench = Bench::new(1, vec![tree, action(&[Out(0, 0)]), action(&[Out(0, 1), Out(1, 0)])]);
    let asked = ask(&[2]).remotely();
    let modes = [(asked.clone().minimal(), 0), (asked.clone(), 1), (asked.clone().all(), 3), (asked.minimal(), 0)];
    for (round, (ask, fetches)) in modes.into_iter().enumerate() {
        let session = bench.built(&ask);
        assert_eq!(session.started.is_empty(), round > 0);
        assert_eq!(session.fake.remote.asked.fetches, fetches);
        assert_eq!(session.fake.remote.asked.lookups > 0, round == 0);
        let again = bench.built(&ask);
        assert_eq!(again.fake.remote.asked, Asked::default(), "a second build asks nothing");
    }
}

#[test]
fn t21_two_consumers_make_one_download() {
    let mut bench = Bench::new(1, vec![only_remote(&[Source(0)]), only_here(&[Out(0, 0)]), only_here(&[Out(0, 0)])]);
    let session = bench.built(&ask(&[1, 2]).with(remote()).jobs(2).minimal());
    assert_eq!((session.fetched.len(), counts(&session)), (1, (0, 0, 2, 1)));
}

#[test]
fn t35_what_only_another_store_had_is_not_fetched() {
    let mut bench = chain(2);
    bench.build(&ask(&[1]).remotely().minimal());
    let elsewhere = RemoteGoals { store: "elsewhere".to_owned(), ..remote() };
    let session = bench.built(&ask(&[1]).with(elsewhere).strategy(Strategy::Remote));
    assert_eq!(session.started, [0, 1], "the fake store panics when it is asked for what it never had");
    bench.delete(1);
    let back = bench.built(&ask(&[1]).remotely());
    assert!(back.outcome().counts.total == 2 && back.announced(1) == Some(true));
}

#[test]
fn t35_what_the_other_store_has_anyway_is_found_by_one_question() {
    let mut bench = chain(3);
    bench.build(&ask(&[2]).remotely().minimal());
    // It has the blobs, and knows no result.
    let mut other = bench.fake.remote.stores["here"].clone();
    other.cache.clear();
    bench.fake.remote.stores.insert("elsewhere".to_owned(), other);
    let elsewhere = RemoteGoals { store: "elsewhere".to_owned(), ..remote() };
    let session = bench.built(&ask(&[0, 1, 2]).with(elsewhere.clone()).strategy(Strategy::Remote));
    assert_eq!(session.started, []);
    assert_eq!(session.fake.remote.asked, Asked { checks: 1, fetches: 3, ..Asked::default() });
    bench.delete(2);
    let again = bench.built(&ask(&[2]).with(elsewhere).strategy(Strategy::Remote));
    assert_eq!(again.fake.remote.asked, Asked { fetches: 1, ..Asked::default() }, "the answer is remembered");
}

#[test]
fn what_only_the_store_has_is_kept_alive_where_it_is_spoken_to_anyway() {
    let leased = |now_unix| {
        let lease = Some(Lease { interval: Duration::from_secs(100), now_unix });
        ask(&[0, 1, 2]).with(RemoteGoals { lease, ..remote() }).strategy(Strategy::Remote).minimal()
    };
    let mut bench = Bench::new(3, (0..3).map(|n| action(&[Source(n)])).collect());
    let asked = |bench: &mut Bench, ask: &Ask| {
        let mut session = bench.begin(ask);
        // The last thing that is under way is answered first.
        session.finish(|doing| doing.len() - 1);
        session.fake.remote.asked
    };
    bench.build(&ask(&[0, 1, 2]).remotely().minimal());
    assert_eq!(asked(&mut bench, &leased(1000)), Asked::default(), "it connects for nobody");
    bench.edit(0, "1");
    assert_eq!(asked(&mut bench, &leased(1000)).checks, 1);
    bench.edit(0, "2");
    assert_eq!(asked(&mut bench, &leased(1099)).checks, 0, "it is not due");
    bench.edit(0, "3");
    assert_eq!(asked(&mut bench, &leased(1101)).checks, 1);
}

#[test]
fn what_a_lease_finds_lost_is_made_again_only_when_it_is_needed() {
    let lease = Some(Lease { interval: Duration::from_secs(100), now_unix: 1000 });
    let goals = RemoteGoals { lease, ..remote() };
    let mut bench = Bench::new(3, vec![action(&[Source(0)]), action(&[Source(1)]), action(&[Out(1, 0), Source(2)])]);
    let asked = ask(&[0, 1, 2]).remotely().minimal();
    bench.build(&asked);
    bench.evict_all();
    bench.edit(0, "1");
    let mut session = bench.begin(&asked.clone().with(goals));
    let check = the(&session, |doing| matches!(doing, Doing::Check(_)));
    session.go_on(check);
    session.finish(|_| 0);
    assert_eq!(session.started, [0], "nobody needs the others");
    bench.edit(2, "1");
    let session = bench.built(&asked);
    assert_eq!(session.started, [1, 2], "that it was lost is known before it is missed");
}

#[test]
fn t36_without_the_remote_side_what_is_only_there_is_built_here() {
    let mut bench = chain(3);
    bench.build(&ask(&[2]).remotely().minimal());
    assert_eq!(bench.build(&ask(&[2]).minimal()), [], "known is known");
    assert_eq!(bench.build(&ask(&[2])), [0, 1, 2]);
}

#[test]
fn t37_an_evicted_input_of_a_local_action_heals() {
    let mut bench = Bench::new(2, vec![only_remote(&[Source(0)]), only_here(&[Out(0, 0), Source(1)])]);
    let asked = ask(&[1]).with(remote()).minimal();
    bench.build(&asked);
    bench.check_out_again();
    bench.build(&Ask { targets: vec![0], ..asked.clone() });
    bench.evict_all();
    let session = bench.built(&asked);
    assert_eq!((session.started.clone(), counts(&session)), (vec![0, 1], (0, 0, 1, 1)));
}

#[test]
fn t38_an_evicted_input_of_a_remote_action_heals() {
    let mut bench = Bench::new(2, vec![action(&[Source(0)]), action(&[Out(0, 0), Source(1)])]);
    bench.build(&ask(&[1]).remotely().minimal());
    bench.evict_all();
    bench.edit(1, "1");
    let session = bench.built(&ask(&[1]).remotely());
    assert_eq!(session.started, [1, 0, 1]);
    assert_eq!(counts(&session), (0, 0, 0, 2));
}

#[test]
fn t41_a_chain_of_ten_all_evicted_heals_in_one_build() {
    for asked in [ask(&[9]).remotely(), ask(&[9]).with(remote()), ask(&[9]).with(remote()).strategy(Strategy::Dynamic)]
    {
        let mut bench = chain(10);
        bench.build(&ask(&[9]).remotely().minimal());
        bench.evict_all();
        let session = bench.built(&asked);
        assert_eq!(session.announced(9), Some(true));
        let (_, _, here, there) = counts(&session);
        assert_eq!(here + there, 10);
        let runs = if asked.strategy == Strategy::Dynamic { 30 } else { 20 };
        assert!(session.started.len() <= runs, "each is tried and run: {:?}", session.started);
    }
}

#[test]
fn t42_a_stale_entry_of_the_action_cache_is_bypassed() {
    for asked in [ask(&[1]).remotely(), ask(&[1]).with(cache())] {
        let mut bench = chain(2);
        bench.build(&ask(&[1]).remotely().minimal());
        bench.check_out_again();
        bench.evict_all();
        let session = bench.built(&asked);
        assert_eq!(session.announced(1), Some(true));
        assert_eq!(session.outcome().counts.remote_cache, 0, "both ran after all");
    }
}

#[test]
fn t43_evicted_again_and_again_ends_as_lost() {
    let mut bench = chain(1);
    let goals = RemoteGoals { falls_back: false, ..remote() };
    let mut session = bench.begin(&ask(&[0]).with(goals).strategy(Strategy::Remote));
    while session.outcome.is_none() {
        let doing = session.doing()[0];
        session.end_remote(doing, if is_fetch(&doing) { RemoteEnd::Lost } else { RemoteEnd::ByItself });
    }
    assert!(session.outcome().lost);
    assert_eq!(session.started.len(), 5);
    let failure = session.failures()[0].to_owned();
    let path = session.fake.model.artifact(session.fake.plan.artifact(0, 0)).path.to_string();
    assert!(failure.starts_with(&format!("`{path}` (")) && failure.contains("cannot be had"), "{failure}");
}

#[test]
fn t43_evicted_again_and_again_is_made_here_if_wanted() {
    let mut bench = chain(1);
    let mut session = bench.begin(&ask(&[0]).with(remote()).strategy(Strategy::Remote));
    while session.running().is_empty() {
        let doing = session.doing()[0];
        session.end_remote(doing, if is_fetch(&doing) { RemoteEnd::Lost } else { RemoteEnd::ByItself });
    }
    assert_eq!((session.started.len(), session.warnings().len()), (3, 1));
    session.finish(|_| 0);
    assert_eq!(counts(&session), (0, 0, 1, 0));
}

#[test]
fn t43_inputs_lost_again_and_again_end_as_lost() {
    let mut bench = chain(2);
    let goals = RemoteGoals { falls_back: false, ..remote() };
    let mut session = bench.begin(&ask(&[1]).with(goals).strategy(Strategy::Remote));
    while session.outcome.is_none() {
        let doing = session.doing()[0];
        let is_lost = is_run(&doing) && session.can_be_lost(doing);
        session.end_remote(doing, if is_lost { RemoteEnd::Lost } else { RemoteEnd::ByItself });
    }
    assert!(session.outcome().lost && session.started.len() <= 12, "{:?}", session.started);
}

/// The input is here by then, or on its way, or at neither place.
#[test]
fn t44_lost_inputs_that_come_here_are_sent_and_not_made_again() {
    for is_here_first in [true, false] {
        let mut bench = chain(2);
        let goals = RemoteGoals { falls_back: false, ..remote() };
        let mut session = bench.begin(&ask(&[0, 1]).with(goals).strategy(Strategy::Remote));
        answer_lookups(&mut session);
        session.go_on(the(&session, is_run));
        answer_lookups(&mut session);
        let (fetch, run) = (the(&session, is_fetch), the(&session, is_run));
        assert!(session.can_be_lost(run), "its input is only there");
        if is_here_first {
            session.go_on(fetch);
            session.end_remote(run, RemoteEnd::Lost);
        } else {
            session.end_remote(run, RemoteEnd::Lost);
            assert_eq!(session.started, [0, 1], "it waits for the download");
            session.end_remote(fetch, RemoteEnd::Lost);
        }
        session.finish(|_| 0);
        assert!(!session.outcome().lost && session.announced(1) == Some(true));
        assert_eq!(session.started.iter().filter(|&&action| action == 0).count(), if is_here_first { 1 } else { 2 });
    }
}

/// A server that is away for a while has what it had.
#[test]
fn bytes_that_cannot_be_reached_are_asked_for_again_and_made_by_no_server() {
    let mut bench = chain(1);
    let goals = RemoteGoals { falls_back: false, ..remote() };
    let asked = ask(&[0]).with(goals).strategy(Strategy::Remote);
    let mut session = bench.begin(&asked);
    answer_lookups(&mut session);
    session.go_on(the(&session, is_run));
    session.end_remote(the(&session, is_fetch), RemoteEnd::Unreachable);
    session.end_remote(the(&session, is_fetch), RemoteEnd::Unreachable);
    session.finish(|_| 0);
    assert_eq!((session.announced(0), session.started.clone()), (Some(true), vec![0]));
    drop(session);
    bench.delete(0);
    let mut session = bench.begin(&asked);
    while session.outcome.is_none() {
        session.end_remote(the(&session, is_fetch), RemoteEnd::Unreachable);
    }
    let (outcome, failure) = (session.outcome(), session.announced(0));
    assert_eq!((outcome.remote_failed, outcome.lost, failure), (true, false, Some(false)));
    assert_eq!(session.started, [0; 0]);
    drop(session);
    assert_eq!(bench.build(&asked), [0; 0], "the store is still known to have it");
}

#[test]
fn bytes_that_cannot_be_reached_are_made_here_if_wanted() {
    for asked in [ask(&[0]).remotely(), ask(&[0]).with(remote()).strategy(Strategy::Dynamic)] {
        let mut bench = chain(1);
        bench.build(&ask(&[0]).remotely().minimal());
        let mut session = bench.begin(&asked);
        while session.running().is_empty() {
            session.end_remote(the(&session, is_fetch), RemoteEnd::Unreachable);
        }
        session.finish(|_| 0);
        assert_eq!((counts(&session), session.announced(0)), ((0, 0, 1, 0), Some(true)));
        assert!(session.warnings()[0].contains("cannot be downloaded: no route; `//p:a0` runs here"));
    }
}

#[test]
fn t48_the_others_are_fetched_when_one_failed() {
    let mut bench = Bench::new(1, vec![action(&[Source(0)]); 3]);
    bench.fake.behaviours[1].fails = true;
    let session = bench.built(&ask(&[0, 1, 2]).remotely().keep_going());
    assert_eq!([0, 1, 2].map(|target| session.announced(target)), [Some(true), Some(false), Some(true)]);
}

#[test]
fn t49_fetches_of_a_failed_build_are_stopped() {
    let mut bench = Bench::new(1, vec![action(&[Source(0)]), action(&[Source(0)])]);
    bench.fake.behaviours[1].fails = true;
    let mut session = bench.begin(&ask(&[0, 1]).remotely());
    answer_lookups(&mut session);
    let runs = session.doing();
    session.go_on(runs[0]);
    let fetch = the(&session, is_fetch);
    session.go_on(runs[1]);
    assert!(session.is_told_to_stop(fetch));
    session.go_on(fetch);
    assert_eq!((session.announced(0), session.outcome().failed), (Some(false), true));
    bench.fake.behaviours[1].fails = false;
    assert_eq!(bench.build(&ask(&[0, 1]).remotely()), [1], "what was finished is known");
}

#[test]
fn t64_other_digests_after_healing_reach_finished_consumers() {
    let actions = vec![action(&[Source(0)]), action(&[Out(0, 0)]), action(&[Out(0, 0), Source(1)])];
    let mut bench = Bench::new(2, actions);
    bench.fake.behaviours[0].random = true;
    bench.build(&ask(&[1, 2]).remotely().minimal());
    bench.evict_all();
    bench.edit(1, "1");
    let session = bench.built(&ask(&[1, 2]).remotely().minimal());
    let mut started = session.started.clone();
    started.sort_unstable();
    started.dedup();
    assert_eq!((started, counts(&session)), (vec![0, 1, 2], (0, 0, 0, 3)));
}

#[test]
fn a_cache_serves_what_another_checkout_uploaded() {
    let mut bench = chain(3);
    let asked = ask(&[2]).with(cache());
    assert_eq!(counts(&bench.built(&asked)), (0, 0, 3, 0));
    bench.check_out_again();
    let session = bench.built(&asked);
    assert_eq!((counts(&session), session.fetched.len()), ((0, 3, 0, 0), 1));
    assert_eq!(session.completed(2).map(|c| c.1), Some(Runner::RemoteCache));
}

#[test]
fn lookups_and_fetches_take_no_place() {
    let actions = vec![only_remote(&[Source(0)]), only_here(&[Out(0, 0)]), action(&[Source(0)]), test(&[Source(0)])];
    let mut bench = Bench::new(1, actions);
    let one = RemoteGoals { jobs: 1, ..remote() };
    let mut session = bench.begin(&ask(&[1, 2, 3]).with(one));
    assert_eq!(session.doing().len(), 3, "all that can be asked is asked at once");
    answer_lookups(&mut session);
    assert_eq!((session.remote_runs(), session.running().len()), (vec![0], 1));
    session.go_on(the(&session, is_run));
    the(&session, is_fetch);
    assert_eq!(session.running().len(), 1);
    session.finish(|_| 0);
}

#[test]
fn a_late_answer_after_a_stop_changes_nothing() {
    let mut bench = Bench::new(1, vec![only_here(&[Source(0)]), action(&[Source(0)])]);
    let mut session = bench.begin(&ask(&[0, 1]).with(remote()));
    session.interrupt();
    let lookup = the(&session, |doing| matches!(doing, Doing::LookUp(_)));
    session.go_on(lookup);
    assert_eq!(session.started, [0]);
    session.go_on(Doing::Local(0));
    assert!(session.outcome().interrupted);
}

#[test]
fn an_interrupt_stops_runs_and_fetches_there() {
    let mut bench = Bench::new(1, vec![action(&[Source(0)]), action(&[Source(0)])]);
    let mut session = bench.begin(&ask(&[0, 1]).remotely());
    answer_lookups(&mut session);
    let run = session.doing()[0];
    session.go_on(run);
    session.interrupt();
    session.interrupt();
    assert_eq!(session.stops, [(1, StopReason::Interrupt), (1, StopReason::Kill)]);
    session.finish(|_| 0);
    assert!(session.outcome().interrupted && !session.outcome().remote_failed);
}

#[test]
fn a_side_that_goes_away_during_a_stop_is_no_failure() {
    let mut bench = chain(1);
    let mut session = bench.begin(&ask(&[0]).remotely());
    answer_lookups(&mut session);
    session.interrupt();
    let run = the(&session, is_run);
    session.end_remote(run, RemoteEnd::Unreachable);
    let outcome = session.outcome();
    assert!(outcome.interrupted && !outcome.failed && !outcome.remote_failed);
}

#[test]
fn what_cannot_be_run_there_runs_here_if_wanted() {
    for falls_back in [true, false] {
        let mut bench = chain(2);
        let goals = RemoteGoals { falls_back, ..remote() };
        let mut session = bench.begin(&ask(&[1]).with(goals).strategy(Strategy::Remote));
        answer_lookups(&mut session);
        let run = the(&session, is_run);
        session.end_remote(run, RemoteEnd::Unreachable);
        session.finish(|_| 0);
        assert_eq!(session.outcome().remote_failed, !falls_back);
        assert_eq!(counts(&session), if falls_back { (0, 0, 1, 1) } else { (0, 0, 0, 0) });
        assert_eq!(session.warnings().len(), usize::from(falls_back));
    }
}

#[test]
fn where_both_sides_may_run_it_local_always_may_decide() {
    let mut bench = Bench::new(1, vec![action(&[Source(0)]), action(&[Source(0)])]);
    let goals = RemoteGoals { falls_back: false, ..remote() };
    let mut session = bench.begin(&ask(&[0, 1]).with(goals).strategy(Strategy::Dynamic));
    answer_lookups(&mut session);
    assert_eq!((session.running().len(), session.remote_runs().len()), (1, 2));
    while let Some(run) = session.doing().into_iter().find(is_run) {
        session.end_remote(run, RemoteEnd::Unreachable);
    }
    session.finish(|_| 0);
    assert_eq!(counts(&session), (0, 0, 2, 0));
}

#[test]
fn a_cache_that_cannot_be_asked_is_counted_and_missed() {
    let mut bench = chain(1);
    let mut session = bench.begin(&ask(&[0]).with(cache()));
    let lookup = session.doing()[0];
    session.end_remote(lookup, RemoteEnd::Unreachable);
    session.finish(|_| 0);
    assert_eq!((session.outcome().cache_errors, counts(&session)), (1, (0, 0, 1, 0)));
}

#[test]
fn only_clean_and_wanted_results_are_uploaded() {
    let spec = action(&[Source(0)]);
    let uploads = |spec: Spec, uploads, end| {
        let mut bench = Bench::new(1, vec![spec]);
        let mut session = bench.begin(&ask(&[0]).with(RemoteGoals { uploads, ..cache() }));
        answer_lookups(&mut session);
        session.end(0, end);
        session.fake.remote.asked.uploads
    };
    assert_eq!(uploads(spec.clone(), Uploads::Always, End::ByItself), 1);
    assert_eq!(uploads(spec.clone(), Uploads::Never, End::ByItself), 0);
    assert_eq!(uploads(spec.clone(), Uploads::Hermetic, End::ByItself), 0);
    assert_eq!(uploads(Spec { hermetic: true, ..spec.clone() }, Uploads::Hermetic, End::ByItself), 1);
    assert_eq!(uploads(Spec { no_cache: true, ..spec.clone() }, Uploads::Always, End::ByItself), 0);
    for end in [End::ChangedInput, End::LeftProcess, End::Failure] {
        assert_eq!(uploads(spec.clone(), Uploads::Always, end), 0, "{end:?}");
    }
}

#[test]
fn the_end_waits_for_uploads_where_that_is_wanted() {
    for waits_for_uploads in [true, false] {
        let mut bench = chain(1);
        let mut session = bench.begin(&ask(&[0]).with(RemoteGoals { waits_for_uploads, ..cache() }));
        answer_lookups(&mut session);
        session.go_on(Doing::Local(0));
        assert_eq!(session.outcome.is_none(), waits_for_uploads);
        session.finish(|_| 0);
    }
}

#[test]
fn a_full_disk_fails_whoever_needs_the_bytes() {
    let mut bench = Bench::new(1, vec![only_remote(&[Source(0)]), only_here(&[Out(0, 0)]), action(&[Source(0)])]);
    let mut session = bench.begin(&ask(&[1, 2]).with(remote()).jobs(2).keep_going());
    answer_lookups(&mut session);
    session.go_on(the(&session, is_run));
    let fetch = the(&session, is_fetch);
    session.end_remote(fetch, RemoteEnd::Failure);
    session.finish(|_| 0);
    assert_eq!((session.announced(1), session.announced(2)), (Some(false), Some(true)));
    let is_error = |event: &&minibuild_core::BuildEvent| {
        matches!(event, minibuild_core::BuildEvent::Message { level: Level::Error, .. })
    };
    assert_eq!(session.events.iter().filter(is_error).count(), 1);
}

/// 0, 1 and 2 read source 0; 1 runs here. All are under way, and the source changes.
fn changed_meanwhile(bench: &mut Bench) -> Session<'_> {
    let mut session = bench.begin(&ask(&[0, 1, 2]).remotely());
    answer_lookups(&mut session);
    session.fake.write("p/s0", "other".to_owned());
    session
}

fn three_readers() -> Bench {
    Bench::new(1, vec![action(&[Source(0)]), only_here(&[Source(0)]), action(&[Source(0)])])
}

#[test]
fn a_source_that_changed_before_it_was_sent_is_read_again() {
    let mut bench = three_readers();
    let mut session = changed_meanwhile(&mut bench);
    let run = session.doing().into_iter().find(is_run).expect("it runs");
    session.go_on(run);
    let read = the(&session, |doing| matches!(doing, Doing::Rehash(_)));
    session.go_on(read);
    assert_eq!(session.warnings(), ["`p/s0` changed before it could be sent to the remote side"]);
    session.finish(|_| 0);
    assert_eq!(session.outcome().counts.total, 3);
    assert!([0, 1, 2].iter().all(|&target| session.announced(target) == Some(true)));
    let count = |action| session.started.iter().filter(|&&started| started == action).count();
    assert_eq!([count(0), count(1), count(2)], [2, 2, 2], "each with what it holds now");
    assert_eq!(bench.build(&ask(&[0, 1, 2]).remotely()), []);
}

#[test]
fn a_source_that_keeps_changing_is_named() {
    let mut bench = chain(1);
    let mut session = bench.begin(&ask(&[0]).remotely());
    let mut edits = 0;
    while session.outcome.is_none() {
        let doing = session.doing()[0];
        if is_run(&doing) {
            edits += 1;
            session.fake.write("p/s0", edits.to_string());
        }
        session.go_on(doing);
    }
    assert_eq!((edits, session.started.len()), (2, 2));
    assert_eq!(session.failures(), ["`p/s0` changed before it could be sent to the remote side"]);
    assert!(session.outcome().failed && !session.outcome().remote_failed);
}

#[test]
fn a_source_that_was_only_touched_keeps_its_key() {
    let mut bench = chain(1);
    let mut session = bench.begin(&ask(&[0]).remotely());
    answer_lookups(&mut session);
    session.fake.write("p/s0", "0".to_owned());
    session.finish(|_| 0);
    assert_eq!((session.started.len(), session.fake.remote.asked.lookups), (2, 1));
    assert_eq!(session.announced(0), Some(true));
}

#[test]
fn a_source_that_is_gone_when_it_is_read_again_fails_its_readers() {
    let mut bench = chain(1);
    let mut session = bench.begin(&ask(&[0]).remotely());
    answer_lookups(&mut session);
    session.fake.disk.remove("p/s0");
    session.finish(|_| 0);
    assert_eq!(session.failures(), ["it is gone"]);
}

#[test]
fn an_interrupt_waits_for_nothing_that_is_read_again() {
    let mut bench = chain(1);
    let mut session = bench.begin(&ask(&[0]).remotely());
    answer_lookups(&mut session);
    session.fake.write("p/s0", "1".to_owned());
    session.go_on(the(&session, is_run));
    session.interrupt();
    assert!(session.outcome().interrupted);
}

#[test]
fn a_run_with_what_a_source_held_before_is_remembered_as_such() {
    // When the sources change the store has those of 0, and 1 makes them be read again.
    let compiles = Spec { discoverable: vec![Source(1), Source(2), Source(3)], ..action(&[Source(0)]) };
    let mut bench = Bench::new(4, vec![compiles, action(&[Source(0), Source(1)])]);
    let path = path_of(&bench, 0);
    let mut session = bench.begin(&ask(&[0, 1]).remotely().minimal());
    answer_lookups(&mut session);
    let runs = session.doing();
    let old_key = session.fake.remote.runs.values().next().expect("it runs").request.who.key;
    let sent = blobs_of(&session.fake.disk["p/s0"].content());
    (0..4).for_each(|source| session.fake.write(&format!("p/s{source}"), "1".to_owned()));
    session.go_on(runs[1]);
    while let Some(doing) = session.doing().into_iter().find(|doing| matches!(doing, Doing::Rehash(_))) {
        session.go_on(doing);
    }
    session.fake.remote.store().insert(sent);
    session.go_on(runs[0]);
    let old = session.machine.state.action(&path).expect("it ran").results[0].clone();
    assert!(old.key == old_key && old.pruned.is_none(), "unread headers are not what they were: {old:?}");
    session.finish(|_| 0);
    assert_eq!((session.announced(0), session.started.iter().filter(|&&a| a == 0).count()), (Some(true), 2));
}

#[test]
fn an_answer_for_inputs_that_are_others_by_now_is_not_taken() {
    // 1 is asked for while 0, whose bytes 2 needs, is made again and differs.
    let actions = vec![action(&[Source(0)]), action(&[Out(0, 0)]), only_here(&[Out(0, 0)])];
    let mut bench = Bench::new(1, actions);
    bench.fake.behaviours[0].random = true;
    let asked = ask(&[1, 2]).with(cache()).minimal();
    bench.build(&asked);
    bench.check_out_again();
    bench.evict_all();
    let mut session = bench.begin(&asked);
    session.go_on(session.doing()[0]);
    let lookup = the(&session, |doing| matches!(doing, Doing::LookUp(_)));
    session.go_on(the(&session, is_fetch));
    session.end(0, End::ByItself);
    session.go_on(lookup);
    assert_eq!(session.fake.remote.asked.lookups, 3, "it is asked for again");
    session.finish(|_| 0);
    assert_eq!(counts(&session), (0, 0, 3, 0));
}

#[test]
fn a_result_of_inputs_that_are_others_by_now_is_not_uploaded() {
    for is_outdated in [false, true] {
        let mut bench = chain(1);
        let goals = RemoteGoals { uploads: Uploads::Always, ..cache() };
        let mut session = bench.begin(&ask(&[0]).with(goals));
        answer_lookups(&mut session);
        if is_outdated {
            session.machine.outdated.insert(minibuild_core::ActionId::new(0));
        }
        session.end(0, End::ByItself);
        let is_uploaded = session.doing().iter().any(|doing| matches!(doing, Doing::Upload(_)));
        assert_eq!(is_uploaded, !is_outdated);
        session.finish(|_| 0);
    }
}

// What was wrong once.

#[test]
fn what_a_remote_action_waits_for_starts_here_at_once() {
    let write = Spec { kind: minibuild_core::ActionKind::Write, ..action(&[]) };
    let mut bench = Bench::new(1, vec![write, action(&[Out(0, 0), Source(0)])]);
    bench.build(&ask(&[1]).remotely());
    bench.delete(0);
    bench.edit(0, "1");
    let mut session = bench.begin(&ask(&[1]).remotely());
    answer_lookups(&mut session);
    assert_eq!(session.running(), [0]);
    session.finish(|_| 0);
}

#[test]
fn bytes_of_a_result_that_is_not_remembered_are_known_to_be_there() {
    let mut bench = chain(1);
    let mut session = bench.begin(&ask(&[0]));
    session.end(0, End::ChangedInput);
    bench.edit(0, "0");
    let session = bench.built(&ask(&[0]).remotely());
    assert_eq!((session.started.len(), session.fetched.len()), (1, 0), "the same bytes were made there");
}

#[test]
fn what_a_failed_run_left_is_removed_for_a_result_that_stays_elsewhere() {
    let mut bench = chain(1);
    let asked = ask(&[0]).remotely().minimal();
    bench.build(&asked);
    bench.edit(0, "1");
    bench.fake.behaviours[0].fails = true;
    bench.build(&ask(&[0]));
    assert!(bench.has(0));
    bench.edit(0, "0");
    assert_eq!(bench.build(&asked), []);
    assert!(!bench.has(0));
}

#[test]
fn an_upload_says_nothing_of_another_result() {
    // 0 makes one of three things; 1 is run on the new one, then finds the old one known while that is uploaded.
    let mut bench = Bench::new(2, vec![action(&[Source(0)]), action(&[Out(0, 0)]), only_here(&[Out(0, 0), Source(1)])]);
    let here = ask(&[1, 2]).minimal();
    bench.build(&here);
    let asked = here.with(RemoteGoals { uploads: Uploads::Hermetic, ..cache() });
    let first = bench.fake.disk[&path_of(&bench, 1)].content();
    bench.fake.plan.actions[1].hermetic = true;
    bench.fake.replan(bench.fake.plan.clone());
    bench.fake.behaviours[0].command = 1;
    let mut session = bench.begin(&asked);
    while session.fake.remote.uploads.is_empty() {
        let doing = session.doing();
        session.go_on(doing[0]);
    }
    let upload = the(&session, |doing| matches!(doing, Doing::Upload(_)));
    let (key, _) = *session.machine.uploading.values().next().expect("under way");
    // As if it had found the old result since.
    let path = path_of_session(&session, 1);
    let record = session.machine.state.action(&path).expect("known").results.clone();
    assert!(record.len() > 1 && record[0].key == key);
    session.machine.state.promote_result(&path, 1);
    session.go_on(upload);
    let record = session.machine.state.action(&path).expect("known");
    let held: Vec<bool> = record.results.iter().map(|result| !result.held_by.is_empty()).collect();
    assert_eq!((record.results[0].outputs[0].content.clone(), held[..2].to_vec()), (first, vec![false, true]));
}

fn path_of_session(session: &Session<'_>, action: usize) -> String {
    outputs_of(&session.fake.model, action)[0].to_string()
}

#[test]
fn bytes_that_are_here_under_another_name_are_sent_from_here() {
    let constant = || action(&[Source(0)]);
    let mut bench = Bench::new(2, vec![constant(), constant(), action(&[Out(0, 0), Out(1, 0), Source(1)])]);
    // Both make the same.
    bench.build(&ask(&[0, 1, 2]).remotely().minimal());
    bench.build(&ask(&[1]).remotely());
    bench.edit(1, "1");
    let mut session = bench.begin(&ask(&[2]).remotely());
    answer_lookups(&mut session);
    let request = &session.fake.remote.runs.values().next().expect("it runs").request;
    assert!(request.blobs.iter().all(|blob| blob.source != BlobSource::Elsewhere), "{:?}", request.blobs);
    session.finish(|_| 0);
}

#[test]
fn a_followed_link_is_sent_by_what_it_leads_to() {
    let mut bench = chain(1);
    let mut session = bench.begin(&ask(&[0]));
    let link = minibuild_core::Fingerprint { mode: 0o120_777, ino: 7, ..Default::default() };
    session.machine.bytes.set_here(minibuild_core::ArtifactId::new(0), Some(link));
    let action = minibuild_core::ActionId::new(0);
    let inputs = session.machine.flat_inputs(action);
    let command = session.machine.command_of(action);
    let facts = session.machine.facts(action, &command, &inputs).expect("usable");
    let (_, request) =
        session.machine.remote_request(session.machine.run_id(action), &facts, &inputs).expect("no contradiction");
    let is_unsure = |blob: &&minibuild_core::Blob| matches!(blob.source, BlobSource::File { fingerprint: None, .. });
    assert_eq!(request.blobs.iter().filter(is_unsure).count(), 1);
    session.finish(|_| 0);
}

#[test]
fn what_a_hit_took_elsewhere_is_no_time_of_this_build() {
    let mut bench = chain(1);
    bench.fake.behaviours[0].wall = 70;
    let asked = ask(&[0]).with(cache());
    assert_eq!(bench.built(&asked).outcome().critical_path.as_millis(), 70);
    bench.check_out_again();
    let session = bench.built(&asked);
    assert_eq!((counts(&session), session.outcome().critical_path.as_millis()), ((0, 1, 0, 0), 0));
}

#[test]
fn no_remote_jobs_are_one() {
    let mut bench = chain(1);
    let session = bench.built(&ask(&[0]).with(RemoteGoals { jobs: 0, ..remote() }).strategy(Strategy::Remote));
    assert_eq!(counts(&session), (0, 0, 0, 1));
}
