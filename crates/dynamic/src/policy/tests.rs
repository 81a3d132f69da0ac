//! Who starts where and why: each rule with the least that makes it apply.

use std::time::Duration;

use minibuild_core::{ActionId, Branch};

use super::*;

/// A policy that is told things at times in milliseconds.
struct Bench {
    policy: Policy,
    now: u64,
}

/// History of an endpoint that answers in `answer` ms, with as much for sending, and ran actions as fast as here.
fn endpoint(answer: f64) -> History {
    let known = |seconds: f64| Running { count: 20, mean: seconds, deviation: 0.0 };
    let endpoint = EndpointHistory {
        answer: known(answer / 1e3),
        overhead: known(2.0 * answer / 1e3),
        ratio: known(1.0),
        has_fast_hit: answer <= 20.0,
        ..EndpointHistory::default()
    };
    History { endpoint, ..History::default() }
}

fn bench(jobs: usize, history: History) -> Bench {
    with(Config { jobs, ..Config::default() }, history)
}

fn with(config: Config, history: History) -> Bench {
    Bench { policy: Policy::new(config, history, vec!["Compile".to_owned()]), now: 0 }
}

fn id(number: usize) -> ActionId {
    ActionId::new(number)
}

/// An action with both sides that took this long, milliseconds; 0 for unknown.
fn both(local_ms: u32, exec_ms: u32) -> Ready {
    Ready {
        here: true,
        there: true,
        may_look_up: true,
        history: ActionHistory { local_ms, exec_ms, ..ActionHistory::default() },
        ..Ready::default()
    }
}

impl Bench {
    fn at(&mut self, now: u64) -> &mut Self {
        self.now = now;
        self
    }

    fn take(&mut self, event: Event) -> &mut Self {
        self.policy.take(event, Duration::from_millis(self.now));
        self
    }

    fn ready(&mut self, number: usize, ready: Ready) -> &mut Self {
        self.take(Event::Ready(id(number), ready))
    }

    fn missed(&mut self, number: usize) -> &mut Self {
        self.take(Event::LookedUp { action: id(number), hit: false, took: None })
    }

    fn ended_here(&mut self, number: usize, how: Ended, ms: u64) -> &mut Self {
        let wall = Duration::from_millis(ms);
        self.take(Event::LocalEnded { action: id(number), how, wall, max_rss: 0 })
    }

    fn ended_there(&mut self, number: usize, how: Ended) -> &mut Self {
        self.take(Event::RemoteEnded { action: id(number), how, times: RemoteTimes::default() })
    }

    /// What is decided, `?` for a look-up, `l` and `r` for starts, with reasons on demand.
    fn steps(&mut self) -> String {
        let steps = self.policy.decide(Duration::from_millis(self.now));
        let show = |step: &Step| match step {
            Step::LookUp(action) => Some(format!("?{}", action.index())),
            Step::Start(action, Branch::Local, _) => Some(format!("l{}", action.index())),
            Step::Start(action, Branch::Remote, _) => Some(format!("r{}", action.index())),
            Step::WakeAt(_) => None,
        };
        steps.iter().filter_map(show).collect::<Vec<String>>().join(" ")
    }

    fn reasons(&mut self) -> Vec<Reason> {
        let steps = self.policy.decide(Duration::from_millis(self.now));
        let reason = |step: &Step| match step {
            Step::Start(_, _, reason) => Some(*reason),
            _ => None,
        };
        steps.iter().filter_map(reason).collect()
    }
}

#[test]
fn what_has_one_side_starts_there() {
    let mut bench = bench(1, History::default());
    bench.ready(0, Ready { here: true, ..Ready::default() });
    bench.ready(1, Ready { there: true, ..Ready::default() });
    assert_eq!(bench.reasons(), [Reason::OnlySide, Reason::OnlySide]);
    bench.ready(2, Ready { there: true, may_look_up: true, ..Ready::default() });
    assert_eq!(bench.steps(), "?2");
    assert_eq!(bench.missed(2).steps(), "r2");
    bench.ready(3, Ready { here: true, may_look_up: true, ..Ready::default() }).ended_here(0, Ended::Won, 5);
    assert_eq!(bench.steps(), "?3", "a cache alone is asked, and waited for");
    assert_eq!(bench.missed(3).steps(), "l3");
    let away = Duration::from_millis(9);
    bench.ready(4, Ready { here: true, there: true, may_look_up: true, fetch: away, ..Ready::default() });
    bench.ended_here(3, Ended::Won, 5);
    assert_eq!(bench.steps(), "?4", "nothing is brought here for what the cache may have");
}

#[test]
fn cold_an_idle_slot_starts_at_once_unless_a_hit_was_fast() {
    let mut bench = bench(1, History::default());
    assert_eq!(bench.ready(0, both(0, 0)).steps(), "?0", "a first answer may come at once");
    bench.at(8).take(Event::LookedUp { action: id(0), hit: true, took: None });
    assert_eq!(bench.ready(1, both(0, 0)).steps(), "?1", "a hit came within 20 ms");
    // An answer that does not come is not waited for.
    assert_eq!(bench.at(40).steps(), "l1");
}

#[test]
fn cold_a_slow_hit_does_not_make_the_next_wait() {
    let mut bench = bench(1, History::default());
    assert_eq!(bench.ready(0, both(0, 0)).steps(), "?0");
    assert_eq!(bench.at(61).reasons(), [Reason::IdleCold], "it does not come at once");
    bench.at(300).take(Event::LookedUp { action: id(0), hit: true, took: None }).ended_here(0, Ended::Lost, 300);
    assert_eq!(bench.ready(1, Ready { history: ActionHistory::default(), ..both(0, 0) }).steps(), "l1 ?1");
}

#[test]
fn cold_the_first_answer_is_waited_for_once() {
    let mut bench = bench(2, History::default());
    assert_eq!(bench.ready(0, both(0, 0)).steps(), "?0");
    assert_eq!(bench.at(61).steps(), "l0");
    assert_eq!(bench.at(62).ready(1, both(0, 0)).steps(), "l1 ?1");
}

/// Only how soon the cache answers is known, and no hit was seen.
fn answers_only(answer: f64) -> History {
    let mut history = History::default();
    history.endpoint.know_answer(endpoint(answer).endpoint.answer);
    history
}

#[test]
fn cold_what_is_known_to_answer_soon_is_waited_for_while_it_connects() {
    let mut bench = bench(2, answers_only(2.0));
    assert_eq!(bench.ready(0, both(0, 0)).ready(1, both(0, 0)).steps(), "?0 ?1");
    assert_eq!(bench.at(200).steps(), "");
    // From here on it is connected to: the other was asked no longer ago than now.
    bench.take(Event::LookedUp { action: id(0), hit: true, took: Some(Duration::from_millis(2)) });
    assert_eq!(bench.at(250).steps(), "");
    bench.take(Event::LookedUp { action: id(1), hit: true, took: Some(Duration::from_millis(2)) });
    assert_eq!(bench.ready(2, both(0, 0)).steps(), "?2");
    assert_eq!(bench.at(351).reasons(), [Reason::IdleCold], "an answer that does not come is not waited for");
}

#[test]
fn cold_what_answered_soon_and_does_not_now_is_given_up() {
    let mut bench = bench(1, answers_only(2.0));
    assert_eq!(bench.ready(0, both(0, 0)).steps(), "?0");
    assert_eq!(bench.at(499).steps(), "");
    assert_eq!(bench.at(501).steps(), "l0");
}

#[test]
fn cold_what_is_known_to_answer_late_is_not_waited_for() {
    let mut bench = bench(1, answers_only(50.0));
    assert_eq!(bench.ready(0, both(0, 0)).steps(), "l0 ?0");
}

#[test]
fn an_answer_to_another_question_says_how_soon_the_cache_answers() {
    let mut bench = bench(1, History::default());
    assert_eq!(bench.policy.learnt_answer(), None);
    bench.take(Event::Answered { hit: false, took: Duration::from_millis(3) });
    assert_eq!(bench.policy.learnt_answer().and_then(|answer| answer.get()), Some(0.003));
}

#[test]
fn a_short_answer_is_waited_for_and_a_long_one_not() {
    let cases = [(1.0, 1000, "?0"), (500.0, 50, "l0 ?0"), (20.0, 1000, "?0")];
    for (answer, local, expected) in cases {
        let mut bench = bench(1, endpoint(answer));
        assert_eq!(bench.ready(0, both(local, local)).steps(), expected, "{answer} {local}");
    }
}

#[test]
fn after_a_miss_the_side_that_is_sooner_starts() {
    for (local, exec, expected) in [(1000, 1000, "l0"), (1000, 100, "r0"), (100, 1000, "l0")] {
        let mut bench = bench(1, endpoint(10.0));
        // Ratios that vary say nothing of one side by the other.
        bench.policy.predict.endpoint.ratio.deviation = 1.0;
        let first = bench.ready(0, both(local, exec)).steps();
        let then = bench.at(10).missed(0).steps();
        let all = format!("{first} {then}");
        assert!(all.split(' ').any(|step| step == expected), "{local} {exec}: {all}");
        assert!(!all.contains(if expected == "l0" { "r0" } else { "l0" }), "{local} {exec}: {all}");
    }
}

#[test]
fn sides_with_even_chances_both_try_within_the_budget() {
    let try_after = |done: usize| {
        let mut bench = bench(1, endpoint(1.0));
        for number in 0..done {
            bench.ready(number, Ready { here: true, ..Ready::default() }).steps();
            bench.ended_here(number, Ended::Won, 1000);
        }
        bench.ready(100, both(1000, 1000));
        assert_eq!(bench.steps(), "?100");
        bench.at(1).missed(100).steps()
    };
    assert_eq!(try_after(20), "l100 r100");
    assert_eq!(try_after(1), "l100", "nothing was done yet of which a part might be wasted");
}

#[test]
fn free_slots_of_both_sides_take_distinct_actions_first() {
    let mut bench = bench(2, endpoint(1.0));
    for number in 0..6 {
        bench.ready(number, both(1000, 1000));
    }
    assert_eq!(bench.steps(), "?0 ?1 ?2 ?3 ?4 ?5");
    bench.at(1);
    for number in 0..6 {
        bench.missed(number);
    }
    assert_eq!(bench.steps(), "l0 l1 r2 r3 r4 r5");
}

#[test]
fn a_free_slot_takes_what_waits_in_the_remote_queue() {
    let mut bench = bench(1, endpoint(1.0));
    for number in 0..4 {
        bench.ready(number, both(1000, 1000));
    }
    bench.steps();
    bench.at(1);
    for number in 0..4 {
        bench.missed(number);
    }
    assert_eq!(bench.steps(), "l0 r1 r2 r3");
    bench.at(3).take(Event::RemoteQueued(id(1))).take(Event::RemoteExecuting(id(1)));
    bench.take(Event::RemoteQueued(id(2))).take(Event::RemoteQueued(id(3)));
    assert_eq!(bench.steps(), "");
    bench.at(500).ended_here(0, Ended::Won, 500);
    let reasons = bench.reasons();
    assert!(matches!(reasons[..], [Reason::TakenFromQueue { .. }]), "{reasons:?}");
}

#[test]
fn one_that_hangs_remotely_is_run_here() {
    let mut bench = bench(1, endpoint(1.0));
    bench.policy.predict.endpoint.ratio.deviation = 1.0;
    for number in 0..40 {
        bench.ready(100 + number, Ready { may_look_up: false, ..both(1000, 1000) });
    }
    bench.ready(0, both(1000, 500));
    bench.steps();
    bench.at(1).missed(0).steps();
    bench.take(Event::RemoteQueued(id(0))).take(Event::RemoteExecuting(id(0)));
    // The others are done: what is left is one that should have been back for long.
    for number in 0..40 {
        let action = 100 + number;
        bench.ended_here(action, Ended::Won, 1000).ended_there(action, Ended::Won).take(Event::Withdrawn(id(action)));
    }
    let mut started = String::new();
    for now in 1..5_000 {
        started += &bench.at(now).steps();
        if !started.is_empty() {
            break;
        }
    }
    assert_eq!(started, "l0");
    assert!(bench.now < 1_700, "{}", bench.now);
}

#[test]
fn a_local_run_that_is_late_gets_a_remote_side() {
    let mut bench = bench(1, endpoint(400.0));
    assert_eq!(bench.ready(0, both(50, 50)).steps(), "l0 ?0");
    assert_eq!(bench.at(400).missed(0).reasons(), [Reason::LocalLate { local: 50, since: 400 }]);
}

#[test]
fn an_open_breaker_sends_nothing_and_asks_nothing() {
    let mut bench = bench(1, endpoint(1.0));
    bench.take(Event::Breaker(true));
    bench.ready(0, both(1000, 10)).ready(1, both(1000, 10));
    assert_eq!(bench.reasons(), [Reason::Outage]);
    bench.take(Event::Breaker(false));
    assert_eq!(bench.steps(), "r1");
}

#[test]
fn the_side_that_is_left_is_tried_after_a_failure() {
    let mut bench = bench(1, endpoint(1.0));
    bench.policy.predict.endpoint.ratio.deviation = 1.0;
    bench.ready(0, both(1000, 10)).steps();
    assert_eq!(bench.at(1).missed(0).steps(), "r0");
    assert_eq!(bench.ended_there(0, Ended::Failed).reasons(), [Reason::RemoteFailed]);
    bench.ready(1, both(10, 1000)).steps();
    bench.at(2).missed(1).ended_here(0, Ended::Won, 1);
    assert_eq!(bench.steps(), "l1");
    assert_eq!(bench.ended_here(1, Ended::Failed, 1).reasons(), [Reason::LocalFailed]);
}

#[test]
fn a_returned_start_is_made_again_when_offered() {
    let mut bench = bench(1, History::default());
    bench.ready(0, Ready { here: true, ..Ready::default() });
    assert_eq!(bench.steps(), "l0");
    assert_eq!(bench.ended_here(0, Ended::Returned, 0).steps(), "");
    assert_eq!(bench.take(Event::Offered(id(0), Branch::Local)).steps(), "l0");
}

#[test]
fn memory_bounds_local_starts_but_for_a_lone_one() {
    let config = Config { jobs: 4, memory: 100 << 20, ..Config::default() };
    let mut bench = with(config, History::default());
    let big =
        |rss_mib| Ready { here: true, history: ActionHistory { rss_mib, ..Default::default() }, ..Ready::default() };
    bench.ready(0, big(500)).ready(1, big(60)).ready(2, big(60)).ready(3, big(30));
    assert_eq!(bench.steps(), "l0", "alone it always may");
    assert_eq!(bench.ended_here(0, Ended::Won, 1).steps(), "l1 l3");
}

#[test]
fn an_exclusive_action_runs_alone() {
    let mut bench = bench(2, History::default());
    bench.ready(0, Ready { here: true, ..Ready::default() });
    bench.ready(1, Ready { here: true, exclusive: true, ..Ready::default() });
    assert_eq!(bench.steps(), "l0");
    assert_eq!(bench.ended_here(0, Ended::Won, 1).steps(), "l1");
    assert_eq!(bench.ready(2, Ready { here: true, ..Ready::default() }).steps(), "");
    assert_eq!(bench.ended_here(1, Ended::Won, 1).steps(), "l2");
}

#[test]
fn the_urgent_comes_first() {
    let mut bench = bench(1, History::default());
    for (number, failed_last, seconds) in [(0, false, 1), (1, false, 9), (2, true, 0)] {
        let urgency = Urgency { failed_last, remaining: Duration::from_secs(seconds) };
        bench.ready(number, Ready { here: true, urgency, ..Ready::default() });
    }
    assert_eq!(bench.steps(), "l2");
    assert_eq!(bench.ended_here(2, Ended::Won, 1).steps(), "l1");
}

#[test]
fn race_starts_both_and_after_a_hit_local_later() {
    let mut bench = with(Config { jobs: 2, mode: Mode::Race, ..Config::default() }, History::default());
    assert_eq!(bench.ready(0, both(10, 10)).steps(), "?0 l0");
    assert_eq!(bench.missed(0).steps(), "r0", "on both sides at once");
    assert_eq!(bench.ready(1, both(10, 10)).steps(), "?1 l1");
    bench.take(Event::LookedUp { action: id(1), hit: true, took: None }).ended_here(1, Ended::Lost, 1);
    assert_eq!(bench.ready(2, both(10, 10)).steps(), "?2");
    assert_eq!(bench.missed(2).steps(), "r2");
    assert_eq!(bench.at(999).steps(), "");
    assert_eq!(bench.at(1000).reasons(), [Reason::RaceDelayed]);
    bench.ended_here(2, Ended::Won, 1);
    // A head start is for a side that runs.
    assert_eq!(bench.ready(3, both(10, 10)).steps(), "?3");
    assert_eq!(bench.missed(3).steps(), "r3");
    assert_eq!(bench.ended_there(3, Ended::Failed).steps(), "l3");
}

#[test]
fn history_survives_and_keeps_other_mnemonics() {
    let mut kept = History::default();
    kept.mnemonics.insert("Link".to_owned(), MnemonicHistory::default());
    let mut bench = bench(1, kept);
    bench.ready(0, Ready { here: true, ..Ready::default() }).steps();
    bench.ended_here(0, Ended::Won, 700);
    let history = bench.policy.history();
    assert_eq!(history.mnemonics.keys().collect::<Vec<_>>(), ["Compile", "Link"]);
    assert_eq!(history.mnemonics["Compile"].local.get(), Some(0.7));
    let mut again = self::bench(1, history);
    again.ready(0, both(0, 0)).steps();
    assert!(again.policy.predict.mean_local().is_some_and(|time| (time - 7e5).abs() < 1.0));
}

#[test]
fn reasons_are_sentences() {
    let reason = Reason::IdleSlowCache { answer: 500, local: 50 };
    assert_eq!(reason.to_string(), "a slot is idle, and the cache answers in 500 ms where local takes 50 ms");
}

/// Eight answers, six of them hits, after 280 ms each: waiting is not worth it, nor is a start beside the question.
fn slow_cache_with_hits(jobs: usize) -> Bench {
    let mut bench = bench(jobs, endpoint(280.0));
    for number in 0..8 {
        bench.ready(number, Ready { here: false, ..both(300, 300) });
    }
    bench.steps();
    bench.at(280);
    for number in 0..6 {
        bench.take(Event::LookedUp { action: id(number), hit: true, took: None });
    }
    for number in 6..8 {
        bench.missed(number).steps();
        bench.ended_there(number, Ended::Won);
    }
    bench.steps();
    bench
}

#[test]
fn a_start_without_a_look_up_that_comes_back_is_looked_up() {
    let mut bench = slow_cache_with_hits(2);
    bench.ready(10, both(300, 0)).ready(11, both(300, 0));
    assert_eq!(bench.steps(), "l10 l11", "neither is looked up");
    bench.ended_here(11, Ended::Returned, 0);
    assert_eq!(bench.steps(), "?11", "its slot here is gone: the cache is asked after all");
    bench.take(Event::Offered(id(11), Branch::Local)).missed(11);
    assert_eq!(bench.steps(), "l11");
}

#[test]
fn a_start_without_a_look_up_that_comes_back_in_an_outage_starts_once_it_is_offered() {
    let mut bench = slow_cache_with_hits(2);
    bench.ready(10, Ready { there: false, may_look_up: false, ..both(300, 0) }).ready(11, both(300, 0));
    bench.steps();
    bench.ended_here(11, Ended::Returned, 0).take(Event::Breaker(true));
    assert_eq!(bench.steps(), "r11", "it may run nowhere else for now");
    bench.ended_there(11, Ended::Failed);
    assert_eq!(bench.steps(), "");
    bench.take(Event::Offered(id(11), Branch::Local));
    assert_eq!(bench.reasons(), [Reason::RemoteFailed]);
}
