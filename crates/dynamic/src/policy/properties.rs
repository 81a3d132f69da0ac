//! What holds for every sequence of events: no side twice, no slot too many, and everything comes to an end.

use std::collections::BTreeMap;
use std::time::Duration;

use minibuild_core::{ActionId, Branch};
use proptest::prelude::*;

use super::*;

/// An action as a world sees it.
#[derive(Clone, Debug, Default)]
struct Under {
    ready: Ready,
    is_told: bool,
    here: bool,
    asked: bool,
    /// 1 sent, 2 queued, 3 executing.
    there: u8,
    tried_here: bool,
    tried_there: bool,
    /// Its start came back and is not offered yet.
    parked_here: bool,
    parked_there: bool,
    is_done: bool,
}

/// Acts on the policy with choices drawn by proptest, and checks each answer.
struct Checked {
    policy: Policy,
    jobs: usize,
    remote_jobs: usize,
    actions: Vec<Under>,
    now: u64,
    is_open: bool,
    log: Vec<String>,
}

impl Checked {
    fn tell(&mut self, event: Event) {
        self.log.push(format!("{} {event:?}", self.now));
        self.policy.take(event, Duration::from_micros(self.now));
    }

    fn decide(&mut self) -> Result<(), TestCaseError> {
        for step in self.policy.decide(Duration::from_micros(self.now)) {
            self.log.push(format!("{} -> {step:?}", self.now));
            match step {
                Step::WakeAt(time) => prop_assert!(time > Duration::from_micros(self.now), "{step:?} is past"),
                Step::LookUp(action) => {
                    let under = &mut self.actions[action.index()];
                    prop_assert!(under.is_told && !under.asked && under.ready.may_look_up, "{step:?}");
                    under.asked = true;
                }
                Step::Start(action, Branch::Local, _) => {
                    let under = &mut self.actions[action.index()];
                    prop_assert!(under.ready.here && !under.tried_here && !under.is_done, "{step:?}");
                    (under.here, under.tried_here) = (true, true);
                }
                Step::Start(action, Branch::Remote, _) => {
                    let under = &mut self.actions[action.index()];
                    prop_assert!(under.ready.there && !under.tried_there && !under.is_done, "{step:?}");
                    (under.there, under.tried_there) = (1, true);
                }
            }
        }
        let here = self.actions.iter().filter(|under| under.here).count();
        let there = self.actions.iter().filter(|under| under.there > 0).count();
        prop_assert!(here <= self.jobs, "{here} run here");
        prop_assert!(there <= self.remote_jobs, "{there} run there");
        let exclusive = self.actions.iter().any(|under| under.here && under.ready.exclusive);
        prop_assert!(!exclusive || here == 1, "an exclusive one is not alone");
        Ok(())
    }

    /// The action is over: whatever else runs of it is stopped.
    fn finish(&mut self, at: usize) {
        self.actions[at].is_done = true;
        (self.actions[at].parked_here, self.actions[at].parked_there) = (false, false);
        if std::mem::take(&mut self.actions[at].here) {
            self.tell(ended_here(at, Ended::Lost));
        }
        if std::mem::take(&mut self.actions[at].there) > 0 {
            self.tell(ended_there(at, Ended::Lost));
        }
    }

    /// Something that may happen to the action does. A failure only while another side is left.
    fn happen(&mut self, at: usize, choice: u8) {
        let under = self.actions[at].clone();
        if !under.is_told {
            self.actions[at].is_told = true;
            return self.tell(Event::Ready(ActionId::new(at), under.ready));
        }
        let other_left = |tried: bool, may: bool| may && !tried;
        let left_there = under.parked_there || other_left(under.tried_there, under.ready.there);
        let left_here = under.parked_here || other_left(under.tried_here, under.ready.here);
        match choice {
            0 if under.asked => {
                self.actions[at].asked = false;
                self.tell(Event::LookedUp { action: ActionId::new(at), hit: true, took: None });
                if !under.is_done {
                    self.finish(at);
                }
            }
            1 | 2 if under.asked => {
                self.actions[at].asked = false;
                self.actions[at].ready.may_look_up = false;
                let action = ActionId::new(at);
                self.tell(if choice == 1 {
                    Event::LookedUp { action, hit: false, took: None }
                } else {
                    Event::LookUpFailed(action)
                });
            }
            3 if under.here => {
                self.actions[at].here = false;
                self.tell(ended_here(at, Ended::Won));
                self.finish(at);
            }
            4 if under.here && (under.there > 0 || left_there) => {
                self.actions[at].here = false;
                self.tell(ended_here(at, Ended::Failed));
            }
            5 if under.there == 1 => {
                self.actions[at].there = 2;
                self.tell(Event::RemoteQueued(ActionId::new(at)));
            }
            6 if under.there > 0 && under.there < 3 => {
                self.actions[at].there = 3;
                self.tell(Event::RemoteExecuting(ActionId::new(at)));
            }
            7 if under.there > 0 => {
                self.actions[at].there = 0;
                self.tell(ended_there(at, Ended::Won));
                self.finish(at);
            }
            8 if under.there > 0 && (under.here || left_here) => {
                self.actions[at].there = 0;
                self.tell(ended_there(at, Ended::Failed));
            }
            9 => {
                self.is_open = !self.is_open;
                self.tell(Event::Breaker(self.is_open));
            }
            10 if under.here => {
                (self.actions[at].here, self.actions[at].parked_here) = (false, true);
                self.tell(ended_here(at, Ended::Returned));
            }
            11 if under.there > 0 => {
                (self.actions[at].there, self.actions[at].parked_there) = (0, true);
                self.tell(ended_there(at, Ended::Returned));
            }
            12 if under.parked_here => {
                (self.actions[at].parked_here, self.actions[at].tried_here) = (false, false);
                self.tell(Event::Offered(ActionId::new(at), Branch::Local));
            }
            13 if under.parked_there => {
                (self.actions[at].parked_there, self.actions[at].tried_there) = (false, false);
                self.tell(Event::Offered(ActionId::new(at), Branch::Remote));
            }
            14 if under.parked_here && !under.asked && under.there == 0 && !under.parked_there => {
                self.restart(at);
            }
            _ => {}
        }
    }

    /// Eight answers were seen, most of them hits: only then is a start without a look-up considered.
    fn warm_up(&mut self) {
        let start = Duration::ZERO;
        let others = self.actions.len()..self.actions.len() + 8;
        for action in others.clone().map(ActionId::new) {
            let ready = Ready { there: true, may_look_up: true, ..Ready::default() };
            self.policy.take(Event::Ready(action, ready), start);
        }
        assert!(self.policy.decide(start).len() >= 8);
        for at in others.clone() {
            let took = Some(Duration::from_millis(300));
            self.policy.take(Event::LookedUp { action: ActionId::new(at), hit: at > others.start, took }, start);
        }
        for step in self.policy.decide(start) {
            if let Step::Start(action, Branch::Remote, _) = step {
                self.policy.take(ended_there(action.index(), Ended::Won), start);
            }
        }
    }

    /// The action is looked at again and has to be brought to an end like a new one.
    fn restart(&mut self, at: usize) {
        self.tell(Event::Withdrawn(ActionId::new(at)));
        let ready = self.actions[at].ready.clone();
        self.actions[at] = Under { ready: ready.clone(), is_told: true, ..Under::default() };
        self.tell(Event::Ready(ActionId::new(at), ready));
    }

    /// Nothing fails any more and everything ends: no action may be left.
    fn run_out(&mut self) -> Result<(), TestCaseError> {
        for round in 0..10_000 {
            if self.actions.iter().all(|under| under.is_done) {
                return Ok(());
            }
            self.now += 1_000_000;
            // Answers and ends in turn, so that each rule has its chance.
            let at = round % self.actions.len();
            let under = &self.actions[at];
            let choice = match () {
                () if under.asked => 1,
                () if under.here => 3,
                () if under.there > 0 => 7,
                () if under.parked_here => 12,
                () => 13,
            };
            self.happen(at, choice);
            self.decide()?;
        }
        let left: Vec<usize> = (0..self.actions.len()).filter(|&at| !self.actions[at].is_done).collect();
        Err(TestCaseError::fail(format!("left: {left:?} of {:#?}", self.actions)))
    }
}

fn ended_here(at: usize, how: Ended) -> Event {
    Event::LocalEnded { action: ActionId::new(at), how, wall: Duration::from_millis(3), max_rss: 1 << 20 }
}

fn ended_there(at: usize, how: Ended) -> Event {
    let times = RemoteTimes { exec: Duration::from_millis(2), ..RemoteTimes::default() };
    Event::RemoteEnded { action: ActionId::new(at), how, times }
}

fn any_ready() -> impl Strategy<Value = Ready> {
    let sides = prop_oneof![6 => Just((true, true)), 1 => Just((true, false)), 1 => Just((false, true))];
    let times = (0u32..5, 0u32..3, 0u32..200);
    (sides, any::<bool>(), proptest::bool::weighted(0.1), times, 0u64..5, 0u32..2).prop_map(
        |((here, there), may_look_up, exclusive, (local, exec, rss_mib), seconds, mnemonic)| Ready {
            here,
            there,
            may_look_up,
            exclusive: exclusive && here,
            urgency: Urgency { failed_last: seconds == 0, remaining: Duration::from_secs(seconds) },
            mnemonic: MnemonicId(mnemonic),
            history: ActionHistory { local_ms: local * 100, exec_ms: exec * 100, download_ms: 0, rss_mib },
            fetch: Duration::ZERO,
        },
    )
}

/// What a link of some speed is known for, from nothing at all to an answer that outlasts most runs here.
fn any_history() -> impl Strategy<Value = History> {
    prop_oneof![Just(None), Just(Some(0.005)), Just(Some(0.3))].prop_map(|answer| {
        let known = |mean: f64| Running { count: 20, mean, deviation: 0.0 };
        let endpoint = answer.map(|answer| EndpointHistory {
            answer: known(answer),
            overhead: known(2.0 * answer),
            ..EndpointHistory::default()
        });
        History { endpoint: endpoint.unwrap_or_default(), ..History::default() }
    })
}

fn any_config() -> impl Strategy<Value = Config> {
    let mode = prop_oneof![3 => Just(Mode::Adaptive), 1 => Just(Mode::Race)];
    (mode, 1usize..4, 1usize..5, prop_oneof![Just(0u64), Just(150 << 20)])
        .prop_map(|(mode, jobs, remote_jobs, memory)| Config { mode, jobs, remote_jobs, memory, ..Config::default() })
}

type Choices = Vec<(prop::sample::Index, u8, u32)>;

fn run(config: &Config, history: &History, ready: &[Ready], choices: &Choices) -> Result<Vec<String>, TestCaseError> {
    let actions: Vec<Under> = ready.iter().map(|ready| Under { ready: ready.clone(), ..Under::default() }).collect();
    let mut checked = Checked {
        policy: Policy::new(config.clone(), history.clone(), vec!["A".to_owned(), "B".to_owned()]),
        jobs: config.jobs,
        remote_jobs: config.remote_jobs,
        actions,
        now: 0,
        is_open: false,
        log: Vec::new(),
    };
    checked.warm_up();
    for (at, choice, wait) in choices {
        checked.now += u64::from(*wait);
        let at = at.index(ready.len());
        checked.happen(at, *choice);
        checked.decide()?;
    }
    checked.run_out()?;
    Ok(checked.log)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn slots_are_kept_and_everything_ends(
        config in any_config(),
        history in any_history(),
        ready in proptest::collection::vec(any_ready(), 1..25),
        choices in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..15, 0u32..200_000), 0..250),
    ) {
        run(&config, &history, &ready, &choices)?;
    }

    #[test]
    fn equal_events_give_equal_steps(
        ready in proptest::collection::vec(any_ready(), 1..15),
        choices in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..15, 0u32..200_000), 0..80),
    ) {
        let config = Config { jobs: 2, ..Config::default() };
        let history = History::default();
        prop_assert_eq!(run(&config, &history, &ready, &choices)?, run(&config, &history, &ready, &choices)?);
    }

    #[test]
    fn events_out_of_place_are_dropped(events in proptest::collection::vec((0usize..4, 0u8..10), 0..60)) {
        let mut policy = Policy::new(Config::default(), History::default(), Vec::new());
        let mut started = BTreeMap::new();
        for (at, kind) in events {
            let action = ActionId::new(at);
            let event = match kind {
                0 => Event::Ready(action, Ready { here: true, there: true, may_look_up: at > 1, ..Ready::default() }),
                1 => Event::LookedUp { action, hit: at == 0, took: None },
                2 => Event::LookUpFailed(action),
                3 => ended_here(at, Ended::Returned),
                4 => ended_there(at, Ended::Returned),
                5 => Event::RemoteQueued(action),
                6 => Event::RemoteExecuting(action),
                7 => Event::Offered(action, Branch::Local),
                8 => Event::Withdrawn(action),
                _ => Event::Breaker(at % 2 == 0),
            };
            policy.take(event, Duration::from_millis(1));
            for step in policy.decide(Duration::from_millis(1)) {
                if let Step::Start(action, branch, _) = step {
                    *started.entry((action, branch == Branch::Local)).or_insert(0u32) += 1;
                }
            }
        }
        prop_assert!(policy.running_here <= 1);
    }
}
