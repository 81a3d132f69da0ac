//! All interleavings of small worlds: who asks, the thread that serves, and helpers that take, end and die.

use std::collections::{HashSet, VecDeque};

use minibuild_core::{ActionId, RunId, StopReason};

use super::*;

const DEPTH: usize = 8;

/// What one world may see.
#[derive(Clone, Copy)]
struct Bounds {
    seats: usize,
    runs: usize,
    failures: u8,
    deaths: u8,
    stops: u8,
    /// Tokens beside that which everybody has; `None` where nobody counts.
    tokens: Option<u8>,
}

/// A helper, and what lies on the ways to it and back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Helper {
    is_up: bool,
    is_dead: bool,
    queue: VecDeque<(u64, bool)>,
    running: Option<u64>,
    /// Ended well, and not told yet.
    untold: Option<u64>,
    /// It waits for leave after a bad end.
    is_held: bool,
    leave: u8,
    /// Reports that were not read.
    line: VecDeque<(u64, bool)>,
    /// The run it was told to end, if that runs.
    is_stopped: bool,
    token: bool,
}

/// What is beyond the desk.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    helpers: Vec<Helper>,
    tokens: Option<u8>,
    has_own_token: bool,
    /// Told to have begun.
    begun: Vec<bool>,
    /// Taken by a helper.
    taken: Vec<bool>,
}

impl Lines<u8> for World {
    fn push(&mut self, seat: usize, seq: u64, _: &u8, rings: bool) -> bool {
        let helper = &mut self.helpers[seat];
        assert!(helper.is_up, "there is nobody");
        assert!(helper.token, "it works without a token");
        helper.queue.push_back((seq, rings));
        true
    }

    fn drain(&mut self, seat: usize) -> Vec<u64> {
        self.helpers[seat].queue.drain(..).map(|(seq, _)| seq).collect()
    }

    fn stop(&mut self, seat: usize, seq: u64, _: StopReason) {
        let helper = &mut self.helpers[seat];
        helper.is_stopped |= helper.running == Some(seq);
        let is_known = helper.is_dead || helper.running == Some(seq) || helper.untold == Some(seq);
        assert!(is_known || helper.line.iter().any(|&(told, _)| told == seq), "the stop of {seq} comes to nothing");
    }

    fn go_on(&mut self, seat: usize) {
        self.helpers[seat].leave += 1;
    }

    fn begins(&mut self, run: RunId) {
        assert!(!std::mem::replace(&mut self.begun[run.action.index()], true), "{run:?} begins twice");
    }

    fn take_token(&mut self, seat: usize) -> bool {
        assert!(!self.helpers[seat].token);
        let has = match &mut self.tokens {
            Some(tokens) if self.has_own_token => {
                let has = *tokens > 0;
                *tokens -= u8::from(has);
                has
            }
            _ => {
                self.has_own_token = true;
                true
            }
        };
        self.helpers[seat].token = has;
        has
    }

    fn give_back(&mut self, seat: usize, _: bool) {
        assert!(std::mem::take(&mut self.helpers[seat].token), "no token of {seat}");
        let others = self.helpers.iter().filter(|helper| helper.token).count();
        match &mut self.tokens {
            // Who is left has the one that everybody has.
            Some(tokens) if others > 0 => *tokens += 1,
            _ => self.has_own_token = others > 0,
        }
    }
}

/// Where the thread that serves is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Listen,
    Give,
    Finish,
    Prepare,
    Wait,
    Asleep { naps: bool },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    desk: Desk<u8>,
    world: World,
    phase: Phase,
    is_rung: bool,
    /// By who asks, stops or took note.
    is_called: bool,
    /// Runs that are over for the desk, and whose reports are being made.
    being_finished: Vec<u64>,
    being_prepared: Option<(u64, u8)>,
    asked: usize,
    /// Ends of each run that were told.
    ends: Vec<u8>,
    /// The caller has heard something, and has not yet said that it took note.
    has_news: bool,
    left: (u8, u8, u8),
}

fn run(number: usize) -> RunId {
    RunId { action: ActionId::new(number), attempt: 0 }
}

impl State {
    fn new(bounds: Bounds) -> Self {
        let world = World {
            helpers: vec![Helper::default(); bounds.seats],
            tokens: bounds.tokens,
            has_own_token: false,
            begun: vec![false; bounds.runs],
            taken: vec![false; bounds.runs],
        };
        Self {
            desk: Desk::new(bounds.seats, DEPTH),
            world,
            phase: Phase::Listen,
            is_rung: false,
            is_called: false,
            being_finished: Vec::new(),
            being_prepared: None,
            asked: 0,
            ends: vec![0; bounds.runs],
            has_news: false,
            left: (bounds.failures, bounds.deaths, bounds.stops),
        }
    }

    /// All states that may come next; those that somebody has to want come second.
    fn next(&self, bounds: Bounds) -> (Vec<State>, Vec<State>) {
        let (mut must, mut may) = (Vec::new(), Vec::new());
        let step = |change: &dyn Fn(&mut State)| {
            let mut next = self.clone();
            change(&mut next);
            next
        };
        // The caller.
        if self.asked < bounds.runs {
            must.push(step(&|s| s.ask()));
        }
        if self.has_news {
            must.push(step(&|s| {
                s.has_news = false;
                s.desk.go_on(&mut s.world);
                s.is_called |= s.desk.is_low();
            }));
        }
        if self.left.2 > 0 {
            let runs = (0..self.asked).filter(|&at| self.ends[at] == 0).map(|at| Some(run(at)));
            for which in runs.chain([None]) {
                may.push(step(&|s| s.stop(which)));
            }
        }
        // The thread that serves.
        must.extend(self.serve());
        // The helpers.
        for at in 0..bounds.seats {
            self.help(at, &mut must, &mut may);
        }
        (must, may)
    }

    fn ask(&mut self) {
        self.desk.go_on(&mut self.world);
        self.desk.ask(run(self.asked), u8::try_from(self.asked).expect("few"));
        self.asked += 1;
        self.is_called |= self.desk.has_idle();
        self.has_news = true;
    }

    fn stop(&mut self, which: Option<RunId>) {
        self.left.2 -= 1;
        for (stopped, _) in self.desk.stop(which, StopReason::Kill, &mut self.world) {
            assert!(!self.world.taken[stopped.action.index()], "{stopped:?} was taken and is said not to run");
            self.end(stopped.action.index());
        }
        self.is_called = true;
    }

    fn end(&mut self, at: usize) {
        self.ends[at] += 1;
        assert_eq!(self.ends[at], 1, "run {at} ends twice");
        self.has_news = true;
    }

    fn serve(&self) -> Option<State> {
        let mut s = self.clone();
        s.phase = match self.phase {
            Phase::Listen => {
                for at in 0..s.world.helpers.len() {
                    while let Some((seq, good)) = s.world.helpers[at].line.pop_front() {
                        s.desk.ended(at, seq, good, &mut s.world).expect("what ends was given");
                        s.being_finished.push(seq);
                    }
                    if s.world.helpers[at].is_dead {
                        let lost = s.desk.lost(at, &mut s.world);
                        s.being_finished.extend(lost.into_iter().map(|(seq, _)| seq));
                        let token = s.world.helpers[at].token;
                        assert!(!token, "a token is lost");
                        s.world.helpers[at] = Helper::default();
                        // The real one does this later, from another thread.
                        s.desk.set_free(at);
                        s.is_called = true;
                    }
                }
                Phase::Give
            }
            Phase::Give => {
                s.give();
                Phase::Finish
            }
            Phase::Finish => {
                if let Some(seq) = s.being_finished.pop() {
                    let run = s.desk.run_of(seq).expect("known until it is reported");
                    s.desk.forget(seq);
                    s.end(run.action.index());
                }
                if s.being_finished.is_empty() { Phase::Prepare } else { Phase::Finish }
            }
            Phase::Prepare => {
                if let Some((seq, work)) = s.being_prepared.take() {
                    if s.desk.prepared(seq, work).is_some() {
                        s.desk.forget(seq);
                        s.end(usize::from(work));
                    } else if s.desk.has_idle() {
                        s.give();
                    }
                }
                s.being_prepared = s.desk.next_to_prepare();
                if s.being_prepared.is_some() {
                    Phase::Prepare
                } else {
                    s.give();
                    Phase::Wait
                }
            }
            Phase::Wait if s.desk.has_asked() => Phase::Listen,
            Phase::Wait if s.is_called => {
                s.is_called = false;
                s.give();
                Phase::Wait
            }
            Phase::Wait => Phase::Asleep { naps: s.desk.may_nap() },
            Phase::Asleep { naps } => {
                // A nap ends by itself, and only the dead do not ring before.
                let is_told = |helper: &Helper| helper.is_dead || !naps && !helper.line.is_empty();
                let has_token = s.desk.lacks_tokens() && s.world.tokens.is_some_and(|tokens| tokens > 0);
                if !s.is_rung && !s.is_called && !has_token && !s.world.helpers.iter().any(is_told) {
                    return None;
                }
                s.is_rung = false;
                Phase::Listen
            }
        };
        Some(s)
    }

    fn give(&mut self) {
        loop {
            self.desk.give(&mut self.world);
            let Some(at) = self.desk.seat_to_bring_up() else { return };
            assert!(!self.world.helpers[at].is_up);
            self.world.helpers[at].is_up = true;
            self.desk.came_up(at);
        }
    }

    fn help(&self, at: usize, must: &mut Vec<State>, may: &mut Vec<State>) {
        let helper = &self.world.helpers[at];
        if !helper.is_up || helper.is_dead {
            return;
        }
        let step = |list: &mut Vec<State>, change: &dyn Fn(&mut Helper) -> bool| {
            let mut next = self.clone();
            next.is_rung |= change(&mut next.world.helpers[at]);
            if let Some(seq) = next.world.helpers[at].running {
                let run = next.desk.run_of(seq).expect("what runs was not reported");
                next.world.taken[run.action.index()] = true;
            }
            list.push(next);
        };
        if helper.leave > 0 {
            step(must, &|h| {
                assert!(std::mem::take(&mut h.is_held), "leave that nobody asked for");
                h.leave -= 1;
                false
            });
        } else if helper.is_held {
        } else if helper.running.is_some() {
            step(must, &|h| {
                h.untold = h.running.take();
                // One that was told to end does not end well.
                if std::mem::take(&mut h.is_stopped) {
                    h.line.extend(h.untold.take().map(|seq| (seq, false)));
                    h.is_held = true;
                }
                h.is_held
            });
            if self.left.0 > 0 && !helper.is_stopped {
                let mut failing = self.clone();
                failing.left.0 -= 1;
                let h = &mut failing.world.helpers[at];
                h.line.extend(h.running.take().map(|seq| (seq, false)));
                h.is_held = true;
                failing.is_rung = true;
                may.push(failing);
            }
        } else if !helper.queue.is_empty() {
            // The next one starts before the last one is told of.
            step(must, &|h| {
                let (seq, rings) = h.queue.pop_front().expect("there is one");
                h.running = Some(seq);
                h.line.extend(h.untold.take().map(|seq| (seq, true)));
                rings
            });
        } else if helper.untold.is_some() {
            step(must, &|h| {
                h.line.extend(h.untold.take().map(|seq| (seq, true)));
                true
            });
        }
        if self.left.1 > 0 {
            let mut dying = self.clone();
            dying.left.1 -= 1;
            let h = &mut dying.world.helpers[at];
            (h.is_dead, h.running, h.untold) = (true, None, None);
            may.push(dying);
        }
    }

    /// Nobody has anything left to do.
    fn check_rest(&self) {
        assert!(self.desk.is_empty(), "somebody waits for ever: {self:#?}");
        assert!(self.ends.iter().all(|&ends| ends == 1));
        assert!(self.world.helpers.iter().all(|helper| !helper.token && helper.queue.is_empty()));
    }

    /// What holds whenever the thread that serves sleeps.
    fn check_sleep(&self) {
        let Phase::Asleep { naps } = self.phase else { return };
        if naps && !self.is_rung && !self.is_called {
            let rings = |helper: &Helper| helper.queue.iter().any(|&(_, rings)| rings);
            assert!(self.world.helpers.iter().all(|helper| helper.is_dead || rings(helper)), "a nap without a bell");
        }
    }
}

/// How many states the world has.
fn explore(bounds: Bounds) -> usize {
    let first = State::new(bounds);
    let mut seen = HashSet::from([first.clone()]);
    let mut open = vec![first];
    while let Some(state) = open.pop() {
        state.check_sleep();
        let (must, may) = state.next(bounds);
        if must.is_empty() {
            state.check_rest();
        }
        for next in must.into_iter().chain(may) {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    seen.len()
}

const QUIET: Bounds = Bounds { seats: 2, runs: 3, failures: 0, deaths: 0, stops: 0, tokens: None };

#[test]
fn every_run_ends_once_whatever_comes_in_between() {
    let states = explore(Bounds { failures: 1, stops: 1, ..QUIET })
        + explore(Bounds { deaths: 1, stops: 1, ..QUIET })
        + explore(Bounds { seats: 1, failures: 1, deaths: 1, stops: 1, ..QUIET });
    assert!(states > 10_000, "{states}");
}

#[test]
fn who_lacks_a_token_goes_on_when_there_is_one() {
    let states = explore(Bounds { tokens: Some(0), failures: 1, ..QUIET })
        + explore(Bounds { tokens: Some(1), seats: 3, ..QUIET });
    assert!(states > 1_000, "{states}");
}

#[test]
fn whoever_sleeps_is_woken_before_the_queues_are_empty() {
    let states = explore(Bounds { seats: 1, runs: 7, ..QUIET })
        + explore(Bounds { seats: 1, runs: 6, failures: 1, ..QUIET })
        + explore(Bounds { seats: 1, runs: 6, deaths: 1, ..QUIET });
    assert!(states > 1_000, "{states}");
}

/// A world with one seat whose queue gets what is ready.
fn given(count: usize) -> (Desk<u8>, World) {
    let mut state = State::new(Bounds { seats: 1, runs: count, ..QUIET });
    for at in 0..count {
        state.desk.ask(run(at), 0);
        let (seq, work) = state.desk.next_to_prepare().expect("asked for");
        assert_eq!(state.desk.prepared(seq, work), None);
    }
    state.give();
    (state.desk, state.world)
}

#[test]
fn the_bell_is_rung_when_little_is_left() {
    let rings = |world: &World| world.helpers[0].queue.iter().map(|&(_, rings)| rings).collect::<Vec<bool>>();
    for count in 1..5 {
        let (desk, world) = given(count);
        assert_eq!(rings(&world), vec![false; count]);
        assert!(!desk.may_nap());
    }
    let (desk, world) = given(8);
    assert_eq!(rings(&world), [false, false, false, false, true, false, false, false]);
    assert!(desk.may_nap() && !desk.is_low());
    // No more than a queue holds.
    let (_, world) = given(20);
    assert_eq!(rings(&world).len(), 1 + DEPTH);
}

#[test]
fn a_queue_that_is_filled_bit_by_bit_rings_once() {
    let (mut desk, mut world) = given(8);
    let mut seen = Vec::new();
    for at in 8..40 {
        // One is taken, ends and is told of; one more is asked for.
        let (seq, rings) = world.helpers[0].queue.pop_front().expect("there is one");
        seen.extend(rings.then_some(at));
        desk.ended(0, seq, true, &mut world).expect("given");
        world.begun.push(false);
        desk.ask(run(at), 0);
        let (seq, work) = desk.next_to_prepare().expect("asked for");
        assert_eq!(desk.prepared(seq, work), None);
        desk.give(&mut world);
    }
    // The first one where three are left, later ones as the last that was given when there was none.
    assert_eq!(seen, [12, 19, 26, 33]);
}

#[test]
fn nothing_is_taken_from_others_by_who_may_not_work() {
    let mut state = State::new(Bounds { runs: 4, tokens: Some(0), ..QUIET });
    for at in 0..4 {
        state.desk.ask(run(at), 0);
        let (seq, work) = state.desk.next_to_prepare().expect("asked for");
        assert_eq!(state.desk.prepared(seq, work), None);
    }
    state.give();
    let queue = |state: &State, at: usize| state.world.helpers[at].queue.len();
    assert_eq!((queue(&state, 0), queue(&state, 1)), (4, 0));
    // What was taken back and given again would ring otherwise.
    let before = state.clone();
    state.give();
    assert!(state == before && state.desk.lacks_tokens());
    state.world.tokens = Some(1);
    state.give();
    assert_eq!((queue(&state, 0), queue(&state, 1)), (2, 2));
}
