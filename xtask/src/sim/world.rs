//! The world of a simulated build: both pools, the link, and what they tell a scheduler, event by event.
//!
//! Every strategy runs in this one world. A scheduler is told what an engine is told, when an engine would be told it:
//! half a round trip after it happened there. `docs/design/policy.md` describes the costs.

mod server;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use minibuild_core::{ActionId, Branch};
use minibuild_dynamic::policy::{Ended, Event, MnemonicId, Policy, Ready, RemoteTimes, Step, Urgency};

use super::model::{Us, Workload};
use server::Server;

/// Someone who decides.
pub trait Scheduler {
    /// Takes notice.
    fn take(&mut self, event: Event, now: Duration);
    /// Answers what has to be done.
    fn decide(&mut self, now: Duration) -> Vec<Step>;
}

impl Scheduler for Policy {
    fn take(&mut self, event: Event, now: Duration) {
        self.take(event, now);
    }

    fn decide(&mut self, now: Duration) -> Vec<Step> {
        self.decide(now)
    }
}

/// How a simulated build went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// From the begin to the last result.
    pub makespan: Us,
    /// Run here in vain, by runs that lost.
    pub wasted_here: Us,
    /// Run on workers in vain.
    pub wasted_there: Us,
    /// Actions whose result came from a run here, from a worker, from the cache.
    pub local: usize,
    /// See `local`.
    pub remote: usize,
    /// See `local`.
    pub hits: usize,
    /// Actions that ran on both sides at once for some time.
    pub races: usize,
    /// Decisions asked for.
    pub decisions: u64,
}

/// Something that happens at its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Answer(u32),
    LocalEnd(u32),
    Arrive(u32),
    HearQueued(u32),
    HearExecuting(u32),
    WorkerDone(u32),
    RemoteEnd(u32),
    Dropped(u32),
    OutageBegins(u32),
    OutageNoticed(u32),
    OutageEnds(u32),
    Wake,
}

impl Happening {
    fn is_remote(self) -> bool {
        match self {
            Self::Answer(_)
            | Self::Arrive(_)
            | Self::HearQueued(_)
            | Self::HearExecuting(_)
            | Self::WorkerDone(_)
            | Self::RemoteEnd(_)
            | Self::Dropped(_) => true,
            Self::LocalEnd(_) | Self::OutageBegins(_) | Self::OutageNoticed(_) | Self::OutageEnds(_) | Self::Wake => {
                false
            }
        }
    }
}

/// An action's state.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    pending: u32,
    is_done: bool,
    /// Since when it runs here, and when that ends.
    local: Option<(Us, Us)>,
    /// It lost and is being killed.
    is_killed: bool,
    is_asked: bool,
    /// Whether the client waits for a remote run.
    is_sent: bool,
    has_raced: bool,
    queued_at: Us,
    begun_at: Us,
}

/// How long an outage lasts before calls are given up.
const NOTICE: Us = 1_000_000;

/// One build under way.
pub struct World<'w> {
    load: &'w Workload,
    now: Us,
    queue: BinaryHeap<Reverse<(Us, u64, Happening)>>,
    count: u64,
    states: Vec<State>,
    consumers: Vec<Vec<u32>>,
    remaining: Vec<Us>,
    server: Server,
    left: usize,
    outage: Outage,
    returned: Vec<u32>,
    events: Vec<Event>,
    /// What was decided and heard, a line each, if wanted.
    log: Option<Vec<String>>,
    outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outage {
    No,
    Unnoticed,
    Noticed,
}

impl<'w> World<'w> {
    /// A world in which nothing has happened yet.
    pub fn new(load: &'w Workload) -> Self {
        let mut consumers = vec![Vec::new(); load.actions.len()];
        let mut states = vec![State::default(); load.actions.len()];
        for (at, action) in load.actions.iter().enumerate() {
            states[at].pending = action.deps.len() as u32;
            action.deps.iter().for_each(|&need| consumers[need as usize].push(at as u32));
        }
        Self {
            remaining: load.remaining(),
            server: Server::new(load.workers, load.cancel),
            left: load.actions.len(),
            load,
            now: 0,
            queue: BinaryHeap::new(),
            count: 0,
            states,
            consumers,
            outage: Outage::No,
            returned: Vec::new(),
            events: Vec::new(),
            log: None,
            outcome: Outcome::default(),
        }
    }

    /// Runs the build to its end, and gives what was decided and heard.
    ///
    /// # Errors
    /// As [`World::run`].
    pub fn trace(mut self, scheduler: &mut dyn Scheduler) -> Result<Vec<String>, String> {
        self.log = Some(Vec::new());
        self.run_all(scheduler)?;
        Ok(self.log.unwrap_or_default())
    }

    /// Runs the build to its end.
    ///
    /// # Errors
    /// If the scheduler leaves actions undone with nothing under way, or breaks its contract.
    pub fn run(mut self, scheduler: &mut dyn Scheduler) -> Result<Outcome, String> {
        self.run_all(scheduler)?;
        Ok(self.outcome)
    }

    fn run_all(&mut self, scheduler: &mut dyn Scheduler) -> Result<(), String> {
        for (number, &(begin, end)) in self.load.outages.iter().enumerate() {
            let number = number as u32;
            self.at(begin, Happening::OutageBegins(number));
            if end > begin + NOTICE {
                self.at(begin + NOTICE, Happening::OutageNoticed(number));
            }
            self.at(end.max(begin), Happening::OutageEnds(number));
        }
        for action in 0..self.load.actions.len() as u32 {
            if self.states[action as usize].pending == 0 {
                self.tell_ready(action);
            }
        }
        while self.left > 0 {
            self.settle(scheduler)?;
            if self.left == 0 {
                break;
            }
            let Some(&Reverse((time, _, _))) = self.queue.peek() else {
                return Err(format!("{}: {} actions are left and nothing happens", self.load.name, self.left));
            };
            self.now = time;
            while let Some(&Reverse((time, _, happening))) = self.queue.peek()
                && time == self.now
            {
                self.queue.pop();
                self.happen(happening);
            }
        }
        self.outcome.makespan = self.now;
        self.outcome.wasted_there = self.server.wasted();
        Ok(())
    }

    /// Tells what happened and does what is answered, until nothing follows at this time.
    fn settle(&mut self, scheduler: &mut dyn Scheduler) -> Result<(), String> {
        let now = Duration::from_micros(self.now);
        loop {
            if let Some(log) = &mut self.log {
                log.extend(self.events.iter().map(|event| told(now, event)));
            }
            self.events.drain(..).for_each(|event| scheduler.take(event, now));
            self.outcome.decisions += 1;
            for step in scheduler.decide(now) {
                if let Some(log) = &mut self.log {
                    log.extend(decided(now, &step));
                }
                self.execute(step)?;
            }
            if self.events.is_empty() {
                return Ok(());
            }
        }
    }

    fn execute(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::WakeAt(time) => self.at(time.as_micros() as Us, Happening::Wake),
            Step::LookUp(action) => self.look_up(action.index() as u32),
            Step::Start(action, Branch::Local, _) => self.start_here(action.index() as u32)?,
            Step::Start(action, Branch::Remote, _) => self.send(action.index() as u32)?,
        }
        Ok(())
    }

    fn look_up(&mut self, action: u32) {
        if self.outage == Outage::Noticed {
            return self.events.push(Event::LookUpFailed(id(action)));
        }
        self.states[action as usize].is_asked = true;
        let row = &self.load.actions[action as usize];
        let brings = if row.hit { row.download } else { 0 };
        self.at(self.now + self.load.rtt + brings, Happening::Answer(action));
    }

    fn start_here(&mut self, action: u32) -> Result<(), String> {
        let state = &mut self.states[action as usize];
        if state.local.is_some() || state.is_done || !self.load.actions[action as usize].here {
            return Err(format!("{}: action {action} may not start here now", self.load.name));
        }
        let end = self.now + self.load.actions[action as usize].local;
        state.local = Some((self.now, end));
        self.note_race(action);
        self.at(end, Happening::LocalEnd(action));
        Ok(())
    }

    fn send(&mut self, action: u32) -> Result<(), String> {
        let state = &mut self.states[action as usize];
        if state.is_sent || state.is_done || !self.load.actions[action as usize].there {
            return Err(format!("{}: action {action} may not be sent now", self.load.name));
        }
        state.is_sent = true;
        if self.outage == Outage::Noticed {
            self.fail_remote(action);
            return Ok(());
        }
        self.note_race(action);
        self.at(self.now + self.load.send_time() + self.load.rtt / 2, Happening::Arrive(action));
        Ok(())
    }

    fn note_race(&mut self, action: u32) {
        let state = &mut self.states[action as usize];
        if state.local.is_some() && state.is_sent && !state.has_raced {
            state.has_raced = true;
            self.outcome.races += 1;
        }
    }

    fn happen(&mut self, happening: Happening) {
        let half = self.load.rtt / 2;
        match happening {
            Happening::Wake => {}
            Happening::Answer(action) => self.hear_answer(action),
            Happening::LocalEnd(action) => self.end_local(action),
            Happening::Arrive(action) => {
                // A request that an outage swallowed is given up when that is noticed.
                if self.outage == Outage::No && self.states[action as usize].is_sent {
                    self.states[action as usize].queued_at = self.now;
                    self.at(self.now + half, Happening::HearQueued(action));
                    self.server.arrive(action);
                    self.begin_on_workers();
                }
            }
            Happening::HearQueued(action) => self.hear(action, Event::RemoteQueued(id(action))),
            Happening::HearExecuting(action) => self.hear(action, Event::RemoteExecuting(id(action))),
            Happening::WorkerDone(action) => {
                let exec = self.load.actions[action as usize].exec;
                if let Some(ran) = self.server.finish(action, self.now, exec) {
                    let wanted = self.states[action as usize].is_sent && self.outage == Outage::No;
                    if wanted {
                        let brings = self.load.actions[action as usize].download;
                        self.at(self.now + half + brings, Happening::RemoteEnd(action));
                    } else {
                        self.server.add_waste(ran);
                    }
                    self.begin_on_workers();
                }
            }
            Happening::RemoteEnd(action) => self.end_remote(action),
            Happening::Dropped(action) => {
                if self.server.drop_stream(action, self.now) {
                    self.begin_on_workers();
                }
            }
            Happening::OutageBegins(_) => self.outage = Outage::Unnoticed,
            Happening::OutageNoticed(_) => self.notice_outage(),
            Happening::OutageEnds(_) => self.end_outage(),
        }
    }

    fn begin_on_workers(&mut self) {
        while let Some(action) = self.server.begin(self.now) {
            self.states[action as usize].begun_at = self.now;
            self.at(self.now + self.load.rtt / 2, Happening::HearExecuting(action));
            self.at(self.now + self.load.actions[action as usize].exec, Happening::WorkerDone(action));
        }
    }

    fn hear(&mut self, action: u32, event: Event) {
        if self.outage == Outage::No && self.states[action as usize].is_sent {
            self.events.push(event);
        }
    }

    fn hear_answer(&mut self, action: u32) {
        if self.outage != Outage::No || !self.states[action as usize].is_asked {
            return;
        }
        self.states[action as usize].is_asked = false;
        let hit = self.load.actions[action as usize].hit;
        self.events.push(Event::LookedUp { action: id(action), hit, took: None });
        if hit && !self.states[action as usize].is_done {
            self.outcome.hits += 1;
            self.finish(action);
            self.stop_local(action);
            self.drop_remote(action);
        }
    }

    fn end_local(&mut self, action: u32) {
        let state = &mut self.states[action as usize];
        // The end that was due before it was killed is none.
        let Some((since, _)) = state.local.filter(|(_, end)| *end == self.now) else { return };
        let killed = state.is_killed;
        let wall = self.now - since;
        state.local = None;
        let how = if killed { Ended::Lost } else { Ended::Won };
        self.events.push(Event::LocalEnded { action: id(action), how, wall: Duration::from_micros(wall), max_rss: 0 });
        if !killed {
            self.outcome.local += 1;
            self.finish(action);
            self.drop_remote(action);
        }
    }

    fn stop_local(&mut self, action: u32) {
        let state = &mut self.states[action as usize];
        let is_killed = std::mem::replace(&mut state.is_killed, true);
        if let Some((since, end)) = state.local.as_mut().filter(|_| !is_killed) {
            *end = self.now + self.load.kill;
            self.outcome.wasted_here += self.now - *since;
            self.at(self.now + self.load.kill, Happening::LocalEnd(action));
        }
    }

    fn end_remote(&mut self, action: u32) {
        let state = &mut self.states[action as usize];
        if !state.is_sent || self.outage != Outage::No {
            return;
        }
        state.is_sent = false;
        let row = &self.load.actions[action as usize];
        let times = RemoteTimes {
            queue: Duration::from_micros(state.begun_at - state.queued_at),
            exec: Duration::from_micros(row.exec),
            download: Duration::from_micros(row.download),
        };
        self.events.push(Event::RemoteEnded { action: id(action), how: Ended::Won, times });
        self.outcome.remote += 1;
        self.finish(action);
        self.stop_local(action);
    }

    /// The local run won: nobody waits for the remote one any more.
    fn drop_remote(&mut self, action: u32) {
        if std::mem::take(&mut self.states[action as usize].is_sent) {
            let times = RemoteTimes::default();
            self.events.push(Event::RemoteEnded { action: id(action), how: Ended::Lost, times });
            self.at(self.now + self.load.rtt / 2, Happening::Dropped(action));
        }
    }

    fn finish(&mut self, action: u32) {
        self.states[action as usize].is_done = true;
        self.left -= 1;
        for consumer in std::mem::take(&mut self.consumers[action as usize]) {
            let pending = &mut self.states[consumer as usize].pending;
            *pending -= 1;
            if *pending == 0 {
                self.tell_ready(consumer);
            }
        }
    }

    fn tell_ready(&mut self, action: u32) {
        let row = &self.load.actions[action as usize];
        let ready = Ready {
            here: row.here,
            there: row.there,
            may_look_up: true,
            exclusive: false,
            urgency: Urgency { failed_last: false, remaining: Duration::from_micros(self.remaining[action as usize]) },
            mnemonic: MnemonicId(row.mnemonic),
            history: row.history,
            fetch: Duration::ZERO,
        };
        self.events.push(Event::Ready(id(action), ready));
    }

    /// A remote run cannot reach the server: local decides, or it is tried again after the outage.
    fn fail_remote(&mut self, action: u32) {
        self.states[action as usize].is_sent = false;
        let how = if self.load.actions[action as usize].here { Ended::Failed } else { Ended::Returned };
        self.returned.push(action);
        self.events.push(Event::RemoteEnded { action: id(action), how, times: RemoteTimes::default() });
    }

    fn notice_outage(&mut self) {
        self.outage = Outage::Noticed;
        self.events.push(Event::Breaker(true));
        self.server.lose_all(self.now);
        // Streams broke and requests were lost, whatever comes of them there.
        self.queue.retain(|Reverse((_, _, happening))| !happening.is_remote());
        for action in 0..self.states.len() as u32 {
            let state = &mut self.states[action as usize];
            if std::mem::take(&mut state.is_asked) {
                self.events.push(Event::LookUpFailed(id(action)));
            }
            if self.states[action as usize].is_sent {
                self.fail_remote(action);
            }
        }
    }

    fn end_outage(&mut self) {
        if self.outage == Outage::Unnoticed {
            // Too short to be given up: what was lost is asked for again at once.
            self.notice_outage();
        }
        self.outage = Outage::No;
        self.events.push(Event::Breaker(false));
        for action in std::mem::take(&mut self.returned) {
            self.events.push(Event::Offered(id(action), Branch::Remote));
        }
    }

    fn at(&mut self, time: Us, happening: Happening) {
        self.count += 1;
        self.queue.push(Reverse((time, self.count, happening)));
    }
}

fn id(action: u32) -> ActionId {
    ActionId::new(action as usize)
}

fn told(now: Duration, event: &Event) -> String {
    let what = match event {
        Event::Ready(action, _) => format!("{} is ready", action.index()),
        Event::LookedUp { action, hit: true, .. } => format!("{} hit", action.index()),
        Event::LookedUp { action, hit: false, .. } => format!("{} miss", action.index()),
        Event::Answered { hit, .. } => format!("the cache answered, hit: {hit}"),
        Event::LookUpFailed(action) => format!("{} could not be looked up", action.index()),
        Event::LocalEnded { action, how, wall, .. } => {
            format!("{} ended here: {how:?} after {wall:.1?}", action.index())
        }
        Event::RemoteQueued(action) => format!("{} waits there", action.index()),
        Event::RemoteExecuting(action) => format!("{} runs there", action.index()),
        Event::RemoteEnded { action, how, .. } => format!("{} ended there: {how:?}", action.index()),
        Event::Offered(action, _) => format!("{} may be tried again", action.index()),
        Event::Withdrawn(action) => format!("{} is withdrawn", action.index()),
        Event::Breaker(is_open) => format!("breaker open: {is_open}"),
    };
    format!("{:10.1} ms  {what}", now.as_secs_f64() * 1e3)
}

fn decided(now: Duration, step: &Step) -> Option<String> {
    let what = match step {
        Step::LookUp(action) => format!("look {} up", action.index()),
        Step::Start(action, branch, reason) => format!("start {} {branch:?}: {reason}", action.index()),
        Step::WakeAt(_) => return None,
    };
    Some(format!("{:10.1} ms  -> {what}", now.as_secs_f64() * 1e3))
}
