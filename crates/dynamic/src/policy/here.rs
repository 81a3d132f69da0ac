//! What starts on this machine.
//!
//! A free slot takes, in this order: what may run nowhere else; what waits for either side and is sooner done here than
//! there; what waits in the remote queue; what the cache is still asked for, if waiting for the answer costs more than it
//! saves; and last, as a second branch, what runs remotely and is predicted to end earlier here.

use minibuild_core::{ActionId, Branch};

use super::Policy;
use super::live::{Live, Local, Remote, Run};
use super::micros::Us;
use super::port::{Reason, Step};
use super::predict::Guess;

/// How many of a queue's ends are looked at: a bound on the time of a decision.
const LOOK: usize = 12;
/// Waiting for an answer that takes less than this part of the local run is always right.
const SHORT_WAIT: f64 = 0.03;
/// Below this share of hits none is waited for.
const HITS_ARE_RARE: f64 = 0.05;
/// Expected waste below this part of the local run needs no budget.
const SMALL_RISK: f64 = 0.02;
/// Answers after which the share of hits is believed enough not to ask at all.
const ANSWERS: u64 = 8;
/// Above it, one is.
const HITS_ARE_SURE: f64 = 0.8;
/// Time a speculative start must be expected to save, for each unit of expected waste.
const WORTH: f64 = 0.1;
/// Times within this factor are even: either side may be first, and an idle slot tries.
pub(super) const EVEN: f64 = 1.1;
/// When a local run of which nothing is known counts as long.
const UNKNOWN: Us = 100_000;
/// An urgent action that is away is taken back if local needs at most this part of what remote still needs.
const CLEARLY: f64 = 0.75;
/// Answers are later than this part of the usual time only if something is wrong.
const LATE_ANSWER: f64 = 1.5;
const LATE_ANSWER_MIN: f64 = 20_000.0;
/// How long the first answer of all is waited for, connecting included.
const FIRST_ANSWER: Us = 60_000;
/// The same, of a cache that is known to answer soon: names, TLS and what it can do take several calls. One that is down
/// fails sooner.
const NEAR_FIRST_ANSWER: Us = 500_000;
/// For how many local starts, for each slot, inputs are brought here at once.
const FETCHES: usize = 2;

/// What to do with an action whose cache answer is out.
enum Speculation {
    /// Start here, with this expected waste.
    Start(Reason, f64),
    /// Start here and do not ask.
    StartUnasked(Reason),
    /// Wait for the answer.
    Hold,
}

/// A local start to make.
struct Pick {
    action: ActionId,
    reason: Reason,
    risk: f64,
}

impl Pick {
    fn sure(action: ActionId, reason: Reason) -> Option<Self> {
        Some(Self { action, reason, risk: 0.0 })
    }
}

impl Policy {
    fn has_slot_here(&self) -> bool {
        self.running_here < self.config.jobs && !self.is_exclusive_running
    }

    /// Whether its memory is free (a lone action always has enough), and its inputs are here or can be brought next.
    fn fits(&self, live: &Live) -> bool {
        if live.fetch > 0 && self.table.fetching >= FETCHES * self.config.jobs {
            return false;
        }
        let limit = self.config.memory;
        limit == 0 || self.running_here == 0 || self.memory_here.saturating_add(self.predict.memory(live)) <= limit
    }

    /// Asks for what became ready, most urgent first, or starts it at once where a slot is idle and waiting is wrong.
    pub(super) fn look_at_fresh(&mut self, now: Us) {
        let fresh = self.table.all_fresh();
        // Others that wait already come first, and there are as many slots as there are.
        let mut idle = self.config.jobs.saturating_sub(self.running_here);
        idle = idle.saturating_sub(self.table.only_here.len() + self.table.waiting.len() + self.table.asking.len());
        for action in fresh {
            let Some(&live) = self.table.get(action) else { continue };
            let may_start = live.local == Local::Idle && !live.exclusive && idle > 0 && self.has_slot_here();
            // One that is parked here will be offered again, and needs no cache until then.
            if self.is_breaker_open && live.local != Local::Closed {
                self.table.change(action, |live| live.remote = live.after_miss());
                continue;
            }
            if may_start && self.fits(&live) {
                match self.speculate(&live, now) {
                    Speculation::Start(reason, risk) => {
                        idle -= 1;
                        self.start_here(&Pick { action, reason, risk }, now);
                    }
                    Speculation::StartUnasked(reason) => {
                        idle -= 1;
                        self.start_here(&Pick { action, reason, risk: 0.0 }, now);
                        continue;
                    }
                    Speculation::Hold => {}
                }
            }
            self.ask(action, now);
        }
    }

    pub(super) fn ask(&mut self, action: ActionId, now: Us) {
        if self.table.get(action).is_some_and(|live| live.remote == Remote::Fresh && !live.is_over) {
            self.first_asked.get_or_insert(now);
            self.table.change(action, |live| live.remote = Remote::Asking { since: now });
            self.steps.push(Step::LookUp(action));
        }
    }

    /// Fills slots with actions that run nowhere yet, or will not for a while.
    pub(super) fn start_distinct_here(&mut self, now: Us) {
        while self.has_slot_here() {
            let pick = self
                .pick_only_here()
                .or_else(|| self.pick_waiting())
                .or_else(|| self.pick_away(now))
                .or_else(|| self.pick_queued(now))
                .or_else(|| self.pick_asking(now));
            let Some(pick) = pick else { break };
            self.start_here(&pick, now);
            self.alone_now.push(pick.action);
        }
        self.start_exclusive(now);
    }

    /// Fills slots with second branches of what runs remotely.
    pub(super) fn start_second_here(&mut self, now: Us) {
        while self.has_slot_here() {
            let Some(pick) = self.pick_flight(now) else { break };
            self.start_here(&pick, now);
        }
    }

    /// In policy `race`: whatever may run here, most urgent first.
    pub(super) fn start_raced_here(&mut self, now: Us) {
        while self.has_slot_here() {
            let mut candidates = self.table.only_here.iter().take(LOOK).map(|&(_, action)| action);
            let Some(action) = candidates.find(|&action| self.table.get(action).is_some_and(|live| self.fits(live)))
            else {
                break;
            };
            let reason = match self.table.get(action).map(|live| live.remote) {
                Some(Remote::Closed | Remote::Parked) => Reason::OnlySide,
                _ if self.has_hit => Reason::RaceDelayed,
                _ => Reason::Race,
            };
            self.start_here(&Pick { action, reason, risk: 0.0 }, now);
        }
        self.start_exclusive(now);
    }

    /// One that must be alone starts when nothing runs here.
    fn start_exclusive(&mut self, now: Us) {
        if self.running_here > 0 {
            return;
        }
        if let Some(&(_, action)) = self.table.exclusive.first() {
            self.start_here(&Pick { action, reason: Reason::OnlySide, risk: 0.0 }, now);
        }
    }

    fn start_here(&mut self, pick: &Pick, now: Us) {
        let Some(&live) = self.table.get(pick.action) else { return };
        let memory = self.predict.memory(&live);
        let predicted = self.predict.local(&live).map_or(UNKNOWN, |time| time as Us);
        self.running_here += 1;
        self.memory_here = self.memory_here.saturating_add(memory);
        self.is_exclusive_running |= live.exclusive;
        self.budget.charge(pick.risk);
        let run = Run { since: now, predicted, memory, risk: pick.risk };
        self.table.change(pick.action, |live| live.local = Local::Running(run));
        self.steps.push(Step::Start(pick.action, Branch::Local, pick.reason));
    }

    fn pick_only_here(&self) -> Option<Pick> {
        let mut candidates = self.table.only_here.iter().take(LOOK).map(|&(_, action)| action);
        let action = candidates.find(|&action| self.table.get(action).is_some_and(|live| self.fits(live)))?;
        let failed = self.table.get(action).is_some_and(|live| live.remote_failed);
        Pick::sure(action, if failed { Reason::RemoteFailed } else { Reason::OnlySide })
    }

    /// The most urgent that is sooner done here; where the urgent ones are better off remotely, one whose turn there is
    /// last.
    fn pick_waiting(&self) -> Option<Pick> {
        let ahead = self.workers.in_flight + self.table.only_there.len();
        let count = self.table.waiting.len();
        let first = self.table.waiting.iter().take(LOOK).enumerate();
        let last = self.table.waiting.iter().rev().take(LOOK.min(count.saturating_sub(LOOK))).enumerate();
        let first = first.map(|(at, &(_, action))| (ahead + at, action));
        let last = last.map(|(at, &(_, action))| (ahead + count - 1 - at, action));
        first.chain(last).find_map(|(ahead, action)| {
            let live = self.table.get(action).filter(|live| self.fits(live))?;
            if self.is_breaker_open {
                return Pick::sure(action, Reason::Outage);
            }
            let Some(local) = self.predict.local(live) else { return Pick::sure(action, Reason::IdleCold) };
            let wait = self.wait_there(ahead);
            let remote = wait + self.predict.remote(live)?;
            if local > remote {
                return None;
            }
            let (local, remote) = (as_ms(local), as_ms(remote));
            Pick::sure(
                action,
                match wait > 0.0 {
                    true => Reason::RemoteBusy { local, remote },
                    false => Reason::LocalSooner { local, remote },
                },
            )
        })
    }

    /// The most urgent of what is away and clearly sooner done here.
    fn pick_away(&self, now: Us) -> Option<Pick> {
        self.table.away.iter().take(LOOK).find_map(|&(_, action)| {
            let live = self.table.get(action).filter(|live| self.fits(live))?;
            if self.is_breaker_open {
                return Pick::sure(action, Reason::Outage);
            }
            self.second_branch(action, live, now, CLEARLY)
        })
    }

    /// Of what waits for a worker, the one whose turn is last.
    fn pick_queued(&self, now: Us) -> Option<Pick> {
        self.table.queued.iter().rev().take(LOOK).find_map(|&(_, action)| {
            let live = self.table.get(action).filter(|live| self.fits(live))?;
            self.second_branch(action, live, now, 1.0)
        })
    }

    /// A local start beside a remote run, if it is predicted to need at most `part` of the time that one still needs.
    fn second_branch(&self, action: ActionId, live: &Live, now: Us, part: f64) -> Option<Pick> {
        let remote = self.rest_there(live, now)?;
        let is_queued = matches!(live.remote, Remote::Queued { .. });
        let guess = self.predict.local_guess(live);
        if is_queued && !guess.is_some_and(Guess::is_informed) {
            return Pick::sure(action, Reason::IdleCold);
        }
        let local = guess?.time;
        let risk = self.risk_of_losing(live, local, remote);
        let affordable = self.budget.affords(risk, self.config.critical_duplicates, self.work_ahead());
        if local > remote * part || !affordable {
            return None;
        }
        let (local, remote) = (as_ms(local), as_ms(remote));
        let reason = match is_queued {
            true => Reason::TakenFromQueue { local, remote },
            false => Reason::BothTry { local, remote },
        };
        Some(Pick { action, reason, risk })
    }

    fn pick_asking(&self, now: Us) -> Option<Pick> {
        self.table.asking.iter().take(LOOK).find_map(|&(_, action)| {
            let live = self.table.get(action).filter(|live| self.fits(live))?;
            match self.speculate(live, now) {
                Speculation::Start(reason, risk) => Some(Pick { action, reason, risk }),
                Speculation::StartUnasked(_) | Speculation::Hold => None,
            }
        })
    }

    /// Of what runs remotely, one that is predicted to be back late, and not clearly sooner than it would be done here.
    fn pick_flight(&self, now: Us) -> Option<Pick> {
        self.table.flight.iter().rev().take(LOOK).find_map(|&(_, action)| {
            let live = self.table.get(action).filter(|live| self.fits(live))?;
            self.second_branch(action, live, now, EVEN)
        })
    }

    /// Whether an action that the cache is (or would be) asked for starts in an idle slot.
    fn speculate(&self, live: &Live, now: Us) -> Speculation {
        if self.is_breaker_open {
            return Speculation::Start(Reason::Outage, 0.0);
        }
        let elapsed = match live.remote {
            Remote::Asking { since } => now.saturating_sub(since) as f64,
            _ => 0.0,
        };
        // Where the cache is the only other side, and where inputs would have to be brought here, a hit spares more.
        if !live.there || live.fetch > 0 {
            return Speculation::Hold;
        }
        let Some(answer) = self.predict.answer() else {
            // One that is this soon spares the question of what to do without it; what comes later does not wait again.
            let is_late = self.first_asked.is_some_and(|first| now.saturating_sub(first) > FIRST_ANSWER);
            return if is_late { Speculation::Start(Reason::IdleCold, 0.0) } else { Speculation::Hold };
        };
        let is_late = elapsed > (answer * LATE_ANSWER).max(LATE_ANSWER_MIN);
        let rest = if is_late { elapsed } else { (answer - elapsed).max(0.0) };
        let Some(guess) = self.predict.local_guess(live) else {
            let holds = self.predict.is_near() && !self.is_near_answer_late(live, answer, now);
            return if holds { Speculation::Hold } else { Speculation::Start(Reason::IdleCold, 0.0) };
        };
        let is_cold = !guess.is_informed() && self.predict.answers < ANSWERS && !self.predict.is_near();
        if is_cold {
            return Speculation::Start(Reason::IdleCold, 0.0);
        }
        let local = guess.time;
        let hits = self.predict.hit_share(live.mnemonic);
        if rest <= local * SHORT_WAIT && hits >= HITS_ARE_RARE {
            return Speculation::Hold;
        }
        // After a miss it would be sent: what is sooner done there is not worth a start here.
        let sent = self.predict.remote(live).filter(|_| live.there).map_or(f64::INFINITY, |remote| {
            self.wait_there(self.workers.in_flight + self.table.waiting.len()) + remote
        });
        if rest + sent < local {
            return Speculation::Hold;
        }
        let risk = hits * probability_less(rest, local, guess.error) * rest.min(local);
        let held_miss = rest + local.min(sent);
        let saved = (1.0 - hits) * (held_miss - local.min(rest + sent)) + hits * (rest - local).max(0.0);
        let reason = match hits < HITS_ARE_RARE {
            true => Reason::IdleLikelyMiss { hits: (hits * 100.0) as u8 },
            false => Reason::IdleSlowCache { answer: as_ms(rest), local: as_ms(local) },
        };
        let ahead = self.work_ahead();
        let is_small = risk <= local * SMALL_RISK;
        if saved >= risk * WORTH && (is_small || self.budget.affords(risk, self.config.duplicates, ahead)) {
            return Speculation::Start(reason, risk);
        }
        let held = hits * rest + (1.0 - hits) * held_miss;
        if held < local * (1.0 + hits * hits * guess.error) {
            return Speculation::Hold;
        }
        // One that may never come is not waited for.
        let affordable = is_late || self.budget.affords(risk, self.config.critical_duplicates, ahead);
        // What is known of its like does not outweigh an answer that is all but certain.
        let is_known = live.history.local_ms > 0 || (guess.is_informed() && hits < HITS_ARE_SURE);
        let may_skip = live.remote == Remote::Fresh && is_known;
        match affordable && !(may_skip && self.predict.answers >= ANSWERS) {
            true => Speculation::Start(reason, risk),
            false if may_skip => Speculation::StartUnasked(reason),
            false => Speculation::Hold,
        }
    }

    /// Whether the answer of a near cache does not come, though it is connected to, or should be by now.
    fn is_near_answer_late(&self, live: &Live, answer: f64, now: Us) -> bool {
        // What earlier builds saw again and again is worth a wait of as long as an unknown run is taken to be.
        let patience = if self.predict.was_near { UNKNOWN as f64 } else { LATE_ANSWER_MIN };
        match (live.remote, self.first_answered) {
            (Remote::Asking { since }, Some(first)) => {
                now.saturating_sub(since.max(first)) as f64 > (answer * LATE_ANSWER).max(patience)
            }
            (_, Some(_)) => false,
            (_, None) => self.first_asked.is_some_and(|first| now.saturating_sub(first) > NEAR_FIRST_ANSWER),
        }
    }

    /// Work of which it is known that it has to be done, microseconds of local time.
    pub(super) fn work_ahead(&self) -> f64 {
        self.table.len() as f64 * self.predict.mean_local().unwrap_or(0.0)
    }

    /// Expected time lost here if a run of `local` starts beside a remote one that needs `remote`.
    pub(super) fn risk_of_losing(&self, live: &Live, local: f64, remote: f64) -> f64 {
        let error = self.predict.local_guess(live).map_or(1.0, |guess| guess.error);
        probability_less(remote, local, error) * remote.min(local)
    }

    /// When an idle slot should look again at what it left alone.
    pub(super) fn set_wake(&mut self, now: Us) {
        if let Some(&(late, _)) = self.table.alone.iter().find(|(late, _)| *late > now) {
            self.wake_at(late);
        }
        if !self.has_slot_here() {
            return;
        }
        if let Some(&(end, _)) = self.table.flight.first() {
            self.wake_at(end.max(now + 1));
        }
        let answer = self.predict.answer().unwrap_or(FIRST_ANSWER as f64 / LATE_ANSWER);
        let late = (answer * LATE_ANSWER).max(LATE_ANSWER_MIN) as Us + 1;
        let asked =
            self.table.asking.iter().take(LOOK).filter_map(|(_, action)| match self.table.get(*action)?.remote {
                Remote::Asking { since } => Some(since),
                _ => None,
            });
        // Late ones are looked at again in growing distances.
        let due = asked.map(|since| (since + late).max(now.saturating_add((now - since) / 2 + 1))).min();
        if let Some(due) = due {
            self.wake_at(due);
        }
    }
}

/// How likely `a` is less than `b`, both predicted with this relative error.
fn probability_less(a: f64, b: f64, error: f64) -> f64 {
    let spread = error * a.hypot(b);
    if spread <= 0.0 {
        return 0.5;
    }
    1.0 / (1.0 + (-1.702 * (b - a) / spread).exp())
}

pub(super) fn as_ms(time: f64) -> u32 {
    (time / 1e3).round() as u32
}
