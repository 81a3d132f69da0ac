//! Which branch of an action starts when: what happens is told to the [`Policy`], and what it answers is done.
//!
//! There is a policy where there is a remote side; without one `start` takes what is ready, most urgent first. What a
//! policy cannot know – places of pools, outputs in use, inputs that are not where a branch needs them – makes a start come
//! back: it is held, and offered again as soon as nothing is in its way.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use minibuild_core::{ActionId, ArtifactId, Branch, RunId};
use minibuild_dynamic::policy::{
    Config, Ended, Event as Told, History, MnemonicId, Mode, Policy, Ready, Reason, RemoteTimes, Step as Choice,
    Urgency,
};
use minibuild_dynamic::race::{Event as Heard, Work};
use rustc_hash::FxHashMap;

use super::evaluate::FlatInputs;
use super::held_starts::{Cause, Rank};
use super::race::{Running, work_of};
use super::remote::Sides;
use super::{Goals, Machine, RacePolicy, Status, Step, key_path};

/// Bytes a second that come from a remote store, as long as nothing better is known.
const USUAL_RATE: f64 = 50e6;
/// Downloads of fewer bytes say nothing of the rate.
const TELLING_SIZE: u64 = 1 << 18;
/// When a server that was given up is first asked for a sign of life, and how long that is put off at most.
const FIRST_PROBE: Duration = Duration::from_millis(1_050);
const LAST_PROBE: Duration = Duration::from_secs(30);
/// Share of the budget for speculative starts in that for all work done twice.
const SPECULATION: f64 = 0.07 / 0.18;

/// The policy of one build, and what is between it and the machine.
pub(super) struct Chooser {
    pub(super) policy: Policy,
    mnemonics: FxHashMap<Box<str>, MnemonicId>,
    /// When the policy wants to be asked again.
    wake: Option<Duration>,
    /// Servers that are given up for now.
    outages: BTreeSet<String>,
    /// When they are asked for a sign of life, and after which pause again.
    probe: Option<(Duration, Duration)>,
    /// Bytes a second.
    rate: f64,
}

impl Chooser {
    /// `mnemonics` are those of all actions.
    pub(super) fn new(goals: &Goals, history: Option<&History>, mnemonics: BTreeSet<&str>) -> Self {
        let (mode, race_delay) = match (goals.dynamic.compares, goals.dynamic.policy) {
            (true, _) => (Mode::Race, Duration::ZERO),
            (false, RacePolicy::Race) => (Mode::Race, Config::default().race_delay),
            (false, RacePolicy::Adaptive) => (Mode::Adaptive, Duration::ZERO),
        };
        let usual = Config::default();
        let duplicates = goals.dynamic.duplicates.unwrap_or(usual.critical_duplicates);
        let config = Config {
            mode,
            race_delay,
            jobs: goals.jobs,
            remote_jobs: goals.remote.as_ref().map_or(1, |remote| remote.jobs),
            memory: goals.memory,
            duplicates: duplicates * SPECULATION,
            critical_duplicates: duplicates,
        };
        let mut history = history.cloned().unwrap_or_default();
        history.endpoint.know_answer(goals.dynamic.answer);
        let ids = mnemonics.iter().zip(0..).map(|(&name, id)| (name.into(), MnemonicId(id))).collect();
        let names = mnemonics.iter().map(|&name| name.to_owned()).collect();
        Self {
            policy: Policy::new(config, history, names),
            mnemonics: ids,
            wake: None,
            outages: BTreeSet::new(),
            probe: None,
            rate: USUAL_RATE,
        }
    }

    /// When it wants to be asked again.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        self.wake.into_iter().chain(self.probe.map(|(at, _)| at)).min()
    }
}

impl Machine {
    /// Tells the policy what happened.
    pub(super) fn tell_policy(&mut self, event: Told) {
        if let Some(chooser) = &mut self.chooser {
            chooser.policy.take(event, self.now);
        }
    }

    /// The policy has to bring the action to an end. `asks` says whether the cache may have its result.
    pub(super) fn offer_action(&mut self, action: ActionId, sides: Sides, asks: bool) {
        let fetch = if sides.here { self.time_to_fetch(action) } else { Duration::ZERO };
        let urgency = self.urgency_of(action);
        let history = self.state.action(&key_path(&self.model, action)).map(|known| known.times).unwrap_or_default();
        let row = self.model.action(action);
        let exclusive = self.is_exclusive(action);
        let Some(chooser) = &mut self.chooser else { return };
        let ready = Ready {
            here: sides.here,
            there: sides.there,
            may_look_up: asks,
            exclusive,
            urgency,
            mnemonic: chooser.mnemonics.get(&*row.mnemonic).copied().unwrap_or_default(),
            history,
            fetch,
        };
        self.held_starts.remove_all(action);
        chooser.policy.take(Told::Ready(action, ready), self.now);
    }

    /// How urgent the action is among others.
    pub(super) fn urgency_of(&self, action: ActionId) -> Urgency {
        let failed_last = self.state.action(&key_path(&self.model, action)).is_some_and(|record| record.failed);
        Urgency { failed_last, remaining: self.remaining[self.node(action)] }
    }

    /// Predicted time to bring the inputs here that are not.
    fn time_to_fetch(&mut self, action: ActionId) -> Duration {
        let inputs = self.flat_inputs(action);
        let Some(chooser) = &self.chooser else { return Duration::ZERO };
        let is_there = |id: &&ArtifactId| self.bytes.here(**id).is_none() && self.bytes.is_there(**id);
        let sizes = inputs.artifacts.iter().filter(is_there).filter_map(|id| self.known[id.index()].as_ref());
        let (count, bytes) = sizes.fold((0, 0), |(n, sum), content| (n + 1, sum + content.digest_and_size().1));
        match count {
            0 => Duration::ZERO,
            // At least one round trip.
            _ => Duration::from_secs_f64(bytes as f64 / chooser.rate) + Duration::from_millis(1),
        }
    }

    /// Learns how fast bytes come.
    pub(super) fn note_rate(&mut self, bytes: u64, time: Duration) {
        if let Some(chooser) = self.chooser.as_mut().filter(|_| bytes >= TELLING_SIZE && !time.is_zero()) {
            chooser.rate = (chooser.rate + bytes as f64 / time.as_secs_f64()) / 2.0;
        }
    }

    /// A server was given up for now, or serves again.
    pub(super) fn take_outage(&mut self, server: String, is_open: bool) {
        let Some(chooser) = &mut self.chooser else { return };
        match is_open {
            true => chooser.outages.insert(server),
            false => chooser.outages.remove(&server),
        };
        let is_out = !chooser.outages.is_empty();
        chooser.probe = is_out.then_some((self.now + FIRST_PROBE, FIRST_PROBE * 2));
        self.tell_policy(Told::Breaker(is_out));
    }

    /// Asks servers that were given up for a sign of life, from time to time.
    pub(super) fn probe_if_due(&mut self) {
        let Some(chooser) = &mut self.chooser else { return };
        if let Some((at, pause)) = chooser.probe
            && at <= self.now
        {
            chooser.probe = Some((self.now + pause, (pause * 2).min(LAST_PROBE)));
            self.steps.push(Step::Probe);
        }
    }

    /// Starts that are held are offered where nothing is in their way any more.
    pub(super) fn offer_held(&mut self) {
        if self.chooser.is_none() || self.held_starts.is_empty() {
            return;
        }
        let mut held = std::mem::take(&mut self.held_starts);
        held.look_at_inputs(|id, branch| self.is_missing(id, branch));
        self.held_starts = held;
        // What is offered takes its part in advance: no more is offered than may start.
        let mut usage = self.usage.clone();
        let mut is_blocked = false;
        let nothing_runs = self.running_here == 0;
        while let Some(rank) = self.held_starts.first(is_blocked, nothing_runs, |pool| self.has_place_in(pool, &usage))
        {
            let (_, action, branch) = rank;
            if !self.is_open_for(action, branch) {
                self.held_starts.remove(action, branch);
                continue;
            }
            let cause = match branch {
                Branch::Remote => self.user_of(action).map(Cause::InUse),
                Branch::Local if is_blocked => Some(Cause::Behind),
                Branch::Local => self.hindrance_here(action, &usage),
            };
            if let Some(cause) = cause {
                is_blocked |= cause == Cause::Room;
                self.hold_start(rank, cause);
                continue;
            }
            self.held_starts.remove(action, branch);
            if branch == Branch::Local {
                self.take_resources(action, &mut usage);
            }
            self.tell_policy(Told::Offered(action, branch));
        }
    }

    /// Does what the policy wants; false if it wants nothing now.
    pub(super) fn choose(&mut self) -> bool {
        let Some(chooser) = &mut self.chooser else { return false };
        chooser.wake = chooser.wake.filter(|wake| *wake > self.now);
        let mut any = false;
        for choice in chooser.policy.decide(self.now) {
            match choice {
                Choice::WakeAt(time) => {
                    if let Some(chooser) = &mut self.chooser {
                        chooser.wake = Some(time);
                    }
                    continue;
                }
                Choice::LookUp(action) => self.ask_cache(action),
                Choice::Start(action, branch, reason) => self.start_chosen(action, branch, reason),
            }
            any = true;
        }
        any
    }

    fn start_chosen(&mut self, action: ActionId, branch: Branch, reason: Reason) {
        if !self.is_open_for(action, branch) || self.stopping.is_some() {
            return self.return_start(action, branch);
        }
        if let Some(cause) = self.hindrance(action, branch) {
            return self.park(action, branch, cause);
        }
        let inputs = self.flat_inputs(action);
        let missing = self.missing_inputs(&inputs, branch);
        if !missing.is_empty() {
            return self.lack_inputs(action, branch, &inputs, &missing);
        }
        self.start(action, branch, &inputs, Some(reason));
        if !self.running.get(&action).is_some_and(|running| running.runs_on(branch)) {
            self.return_start(action, branch);
        }
    }

    /// Whether this branch of the action may start, as far as the action itself goes.
    pub(super) fn is_open_for(&self, action: ActionId, branch: Branch) -> bool {
        match self.status_of(action) {
            Status::Queued | Status::LookingUp | Status::Running => {
                self.running.get(&action).is_none_or(|running| running.race.may_start(work_of(branch)))
            }
            _ => false,
        }
    }

    fn hindrance(&self, action: ActionId, branch: Branch) -> Option<Cause> {
        match branch {
            Branch::Remote => self.user_of(action).map(Cause::InUse),
            Branch::Local => {
                let is_blocked = || self.held_starts.is_blocked(self.rank_of(action, branch)).then_some(Cause::Behind);
                self.hindrance_here(action, &self.usage).or_else(is_blocked)
            }
        }
    }

    pub(super) fn rank_of(&self, action: ActionId, branch: Branch) -> Rank {
        (Reverse(self.urgency_of(action)), action, branch)
    }

    /// The start does not happen.
    fn return_start(&mut self, action: ActionId, branch: Branch) {
        self.tell_policy(match branch {
            Branch::Local => Told::LocalEnded { action, how: Ended::Returned, wall: Duration::ZERO, max_rss: 0 },
            Branch::Remote => Told::RemoteEnded { action, how: Ended::Returned, times: RemoteTimes::default() },
        });
    }

    fn park(&mut self, action: ActionId, branch: Branch, cause: Cause) {
        self.return_start(action, branch);
        self.hold_start(self.rank_of(action, branch), cause);
    }

    /// Inputs are not where the branch needs them. Where the other can do without, it may; those that can be brought here
    /// are, whoever wins. Else the action waits for them as a whole.
    fn lack_inputs(&mut self, action: ActionId, branch: Branch, inputs: &FlatInputs, missing: &[ArtifactId]) {
        let running = self.running.get(&action).filter(|running| running.has_begun());
        if running.is_some_and(|running| running.needs(branch)) {
            if branch == Branch::Local {
                // The other side was tried; what is missing here is brought next.
                self.local_only.insert(action);
            }
            self.return_start(action, branch);
            return self.refuse(action, branch);
        }
        let other = other_side(branch);
        let may_do_without = running.is_some()
            || self.sides(action).is_ok_and(|sides| sides.allow(other))
                && self.missing_inputs(inputs, other).is_empty();
        if !may_do_without {
            self.return_start(action, branch);
            return self.await_inputs(action, missing);
        }
        self.park(action, branch, Cause::Inputs(missing.to_vec()));
        if branch == Branch::Local {
            self.fetch_inputs(action);
        }
    }

    /// Begins the action's race with a question to the cache, or asks beside what runs.
    fn ask_cache(&mut self, action: ActionId) {
        let is_open = matches!(self.status_of(action), Status::Queued | Status::Running);
        if is_open && self.stopping.is_none() && (self.running.contains_key(&action) || self.begin_with_key(action)) {
            self.tell_race(action, Heard::Start(Work::LookUp));
        }
        if self.running.get(&action).is_none_or(|running| running.look_up.is_none()) {
            self.tell_policy(Told::LookUpFailed(action));
        }
    }

    /// False if the action has failed for want of a key.
    fn begin_with_key(&mut self, action: ActionId) -> bool {
        let command = self.command_of(action);
        let inputs = self.flat_inputs(action);
        let run = RunId { action, attempt: self.attempts[action.index()] };
        let made = self.facts(action, &command, &inputs).and_then(|facts| {
            let key = facts.key().map_err(|problem| problem.to_string())?;
            Ok((key, facts.manifest()))
        });
        match made {
            Ok((key, manifest)) => self.begin_race(action, run, key, manifest, command),
            Err(problem) => {
                self.fail_without_run(action, &problem);
                return false;
            }
        }
        true
    }

    /// The action goes on only with the branch it needs. A policy that took it for decided hears of it anew.
    pub(super) fn choose_again(&mut self, action: ActionId) {
        let Some(chooser) = &self.chooser else { return };
        let is_held = |branch| self.held_starts.has(action, branch);
        if chooser.policy.may_start(action) && !is_held(Branch::Local) && !is_held(Branch::Remote) {
            return;
        }
        let Ok(sides) = self.sides(action) else { return };
        // As long as nothing has begun the other side is as good a begin.
        let begun = self.running.get(&action).filter(|running| running.has_begun());
        let may = |branch| sides.allow(branch) && begun.is_none_or(|running| running.needs(branch));
        let sides = Sides { here: may(Branch::Local), there: may(Branch::Remote) };
        self.close_choice(action, Ended::Returned, RemoteTimes::default());
        self.offer_action(action, sides, false);
    }

    /// A cached result was beyond reach: beside a local run that goes on, it may be run remotely after all.
    pub(super) fn offer_remote_again(&mut self, action: ActionId) {
        let may_run = |running: &Running| running.runs_on(Branch::Local) && running.race.may_start(Work::Execute);
        if self.running.get(&action).is_some_and(may_run)
            && let Ok(sides) = self.sides(action)
        {
            self.offer_action(action, Sides { here: false, ..sides }, false);
        }
    }

    /// Nothing of the action is under way any more, and no start of it is wanted.
    pub(super) fn close_choice(&mut self, action: ActionId, remote: Ended, times: RemoteTimes) {
        if self.chooser.is_none() {
            return;
        }
        self.tell_policy(Told::LookUpFailed(action));
        self.return_start(action, Branch::Local);
        self.tell_policy(Told::RemoteEnded { action, how: remote, times });
        self.tell_policy(Told::Withdrawn(action));
    }

    /// The action is no longer to be started: of a race in which nothing has begun nothing is left.
    pub(super) fn abandon(&mut self, action: ActionId) {
        if self.chooser.is_none() {
            return;
        }
        self.tell_policy(Told::LookUpFailed(action));
        self.tell_policy(Told::Withdrawn(action));
        if self.running.get(&action).is_some_and(|running| !running.has_begun())
            && let Some(running) = self.running.remove(&action)
        {
            // Its answers are for nobody now.
            let row = action.index();
            self.attempts[row] = running.race.next_attempt().0.max(self.attempts[row] + 1);
        }
    }

    /// Keeps what the policy learnt, for later builds.
    pub(super) fn keep_history(&mut self) {
        self.outcome.answer = self.chooser.as_ref().and_then(|chooser| chooser.policy.learnt_answer());
        if let (Some(chooser), Some(store)) = (&self.chooser, self.store) {
            let history = chooser.policy.history();
            if history != History::default() {
                self.state.record_history(store, history);
            }
        }
    }

    /// Whether anything is under way, or will be by itself: else the build would wait for ever.
    pub(super) fn is_stalled(&self) -> bool {
        let is_waiting = |running: &Running| {
            !running.runs_on(Branch::Local) && !running.runs_on(Branch::Remote) && running.is_waiting()
        };
        self.chooser.as_ref().is_some_and(|chooser| chooser.wake_at().is_none())
            && self.queued > 0
            && self.running_here + self.running_there == 0
            && self.running.values().all(is_waiting)
            && self.lookups.is_empty()
            && self.rehashing.is_empty()
            && self.bytes.under_way() == 0
            && self.uploading.is_empty()
    }
}

fn other_side(branch: Branch) -> Branch {
    match branch {
        Branch::Local => Branch::Remote,
        Branch::Remote => Branch::Local,
    }
}
