//! Which command goes into which helper's queue, and what a stop has to reach: the deciding half of the local executor.
//!
//! Each helper (a *seat*) works through a queue of its own, so that nobody has to wake up between two commands. What lies in a
//! queue can be taken back as long as the helper has not; who took what is found out by taking back the rest. Pure but for
//! [`Lines`], through which it speaks to the helpers; it does not know processes, files or threads.

use std::collections::VecDeque;

use minibuild_core::{RunId, StopReason};

/// So many are left in the queue when its helper rings the bell.
const LOW: usize = 3;

/// The way to the helpers.
pub(crate) trait Lines<W> {
    /// Lays a command into a helper's queue. The helper that takes one with `rings` rings the bell. False where the queue takes no
    /// more for now, or the helper is dead, which who listens to it finds out.
    fn push(&mut self, seat: usize, seq: u64, work: &W, rings: bool) -> bool;
    /// Takes back what the helper has not taken, in order.
    fn drain(&mut self, seat: usize) -> Vec<u64>;
    /// Has the helper end a run it has taken; one that is over is ignored there.
    fn stop(&mut self, seat: usize, seq: u64, reason: StopReason);
    /// Lets a helper go on whose command came to a bad end.
    fn go_on(&mut self, seat: usize);
    /// A run's command is handed over.
    fn begins(&mut self, run: RunId);
    /// Takes a token for one more helper that works; whether there was one. Always, where nobody counts them.
    fn take_token(&mut self, seat: usize) -> bool;
    /// The helper works no more. A command that came to a bad end may have kept tokens of its own.
    fn give_back(&mut self, seat: usize, kept_some: bool);
}

/// Where a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// Nothing was done yet.
    Asked,
    /// Somebody makes it ready.
    BeingPrepared,
    /// Its command may start.
    Ready,
    /// It lies in the queue of this seat, or runs there.
    Given(usize),
    /// Its command is over; somebody looks at what it made.
    Over,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Entry<W> {
    seq: u64,
    run: RunId,
    stage: Stage,
    stop: Option<StopReason>,
    has_begun: bool,
    /// With whoever prepares it or looks at what it made.
    work: Option<W>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Seat {
    /// There is a helper.
    is_up: bool,
    /// Its last command came to a bad end that the caller may not know of yet: its helper takes nothing.
    is_held: bool,
    /// What was given and not reported yet, in order.
    given: VecDeque<u64>,
    /// The command whose taking rings the bell.
    ring: Option<u64>,
    /// It may work.
    has_token: bool,
}

/// All runs that are under way, and all helpers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Desk<W> {
    /// In the order they came.
    entries: VecDeque<Entry<W>>,
    seats: Vec<Seat>,
    /// Commands that may wait in a helper's queue beside the one that runs.
    depth: usize,
    next_seq: u64,
    /// A helper could have worked if there had been a token.
    lacks_tokens: bool,
}

impl<W> Desk<W> {
    /// For so many helpers, none of which has been started, with queues of a certain length.
    pub(crate) fn new(seats: usize, depth: usize) -> Self {
        let seats = vec![Seat::default(); seats.max(1)];
        Self { entries: VecDeque::new(), seats, depth: depth.max(1), next_seq: 1, lacks_tokens: false }
    }

    /// One more run.
    pub(crate) fn ask(&mut self, run: RunId, work: W) {
        let seq = self.next_seq;
        self.next_seq += 1;
        let entry = Entry { seq, run, stage: Stage::Asked, stop: None, has_begun: false, work: Some(work) };
        self.entries.push_back(entry);
    }

    /// The next run to be made ready.
    pub(crate) fn next_to_prepare(&mut self) -> Option<(u64, W)> {
        let entry = self.entries.iter_mut().find(|entry| entry.stage == Stage::Asked)?;
        let work = entry.work.take()?;
        entry.stage = Stage::BeingPrepared;
        Some((entry.seq, work))
    }

    /// The run is ready, unless a stop was asked for meanwhile: then it is over.
    pub(crate) fn prepared(&mut self, seq: u64, work: W) -> Option<(StopReason, W)> {
        let entry = self.entry_mut(seq)?;
        if let Some(reason) = entry.stop {
            entry.stage = Stage::Over;
            return Some((reason, work));
        }
        (entry.stage, entry.work) = (Stage::Ready, Some(work));
        None
    }

    /// The run is reported: nothing is left of it here.
    pub(crate) fn forget(&mut self, seq: u64) {
        self.entries.retain(|entry| entry.seq != seq);
    }

    /// The most urgent reason for which the run is to end.
    pub(crate) fn stop_asked(&self, seq: u64) -> Option<StopReason> {
        self.entry(seq)?.stop
    }

    /// The run with this number.
    pub(crate) fn run_of(&self, seq: u64) -> Option<RunId> {
        self.entry(seq).map(|entry| entry.run)
    }

    /// Where the run's command runs now.
    pub(crate) fn seat_of(&self, run: RunId) -> Option<usize> {
        self.entries.iter().find(|entry| entry.run == run).and_then(|entry| match entry.stage {
            Stage::Given(at) => Some(at).filter(|&at| self.seats[at].given.front() == Some(&entry.seq)),
            _ => None,
        })
    }

    /// Whether nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether something waits to be prepared.
    pub(crate) fn has_asked(&self) -> bool {
        self.entries.iter().any(|entry| entry.stage == Stage::Asked)
    }

    /// Whether what waits, to be prepared or to be given, should be seen to now, since helpers have little to do.
    pub(crate) fn is_low(&self) -> bool {
        let waits = self.entries.iter().any(|entry| matches!(entry.stage, Stage::Asked | Stage::Ready));
        waits && self.seats.iter().any(|seat| !seat.is_held && seat.given.len() <= LOW + 1)
    }

    /// Whether a helper stands idle that could take what was just asked for.
    pub(crate) fn has_idle(&self) -> bool {
        self.seats.iter().any(|seat| !seat.is_held && seat.given.is_empty())
    }

    /// Whether every helper has enough to do, and will ring the bell before it has not.
    pub(crate) fn may_nap(&self) -> bool {
        self.seats.iter().all(|seat| seat.takes() && seat.will_ring())
    }

    /// Whether a token would be of use.
    pub(crate) fn lacks_tokens(&self) -> bool {
        self.lacks_tokens
    }

    /// A seat that should get a helper now.
    pub(crate) fn seat_to_bring_up(&self) -> Option<usize> {
        let ready = self.entries.iter().filter(|entry| entry.stage == Stage::Ready).count();
        let idle = self.seats.iter().filter(|seat| seat.takes() && seat.given.is_empty()).count();
        // What lies in others' queues is more than none for those that have nothing.
        let spare: usize = self.seats.iter().map(|seat| seat.given.len().saturating_sub(1)).sum();
        if ready + spare <= idle {
            return None;
        }
        self.seats.iter().position(|seat| !seat.is_up && !seat.is_held)
    }

    /// The seat has a helper now.
    pub(crate) fn came_up(&mut self, seat: usize) {
        self.seats[seat].is_up = true;
    }

    /// There is no helper to be had for the seat: the run that has waited longest is over.
    pub(crate) fn cannot_bring_up(&mut self) -> Option<(u64, W)> {
        let entry = self.entries.iter_mut().find(|entry| entry.stage == Stage::Ready)?;
        entry.stage = Stage::Over;
        Some((entry.seq, entry.work.take()?))
    }

    /// Gives helpers what is ready, each as much as the others.
    pub(crate) fn give(&mut self, lines: &mut impl Lines<W>) {
        self.lacks_tokens = false;
        let waits = |entry: &Entry<W>| entry.stage == Stage::Ready;
        if !self.entries.iter().any(waits) {
            self.take_from_the_longest(lines);
        }
        let mut ready: VecDeque<u64> =
            self.entries.iter().filter(|entry| waits(entry)).map(|entry| entry.seq).collect();
        let mut shares = self.share(ready.len(), lines);
        // Level by level, so that what came first starts first.
        while let Some(at) = (0..shares.len()).filter(|&at| shares[at] > 0).min_by_key(|&at| self.seats[at].given.len())
        {
            let Some(seq) = ready.pop_front() else { break };
            let position = self.seats[at].given.len();
            let total = position + shares[at];
            let rings = total > LOW + 1 && position + LOW + 1 >= total && !self.seats[at].will_ring();
            if self.push(at, seq, rings, lines) {
                shares[at] -= 1;
            } else {
                shares[at] = 0;
                ready.push_front(seq);
            }
        }
        for at in 0..self.seats.len() {
            self.rest(at, false, lines);
        }
    }

    /// The seat gives its token back where it has nothing to do.
    fn rest(&mut self, at: usize, kept_some: bool, lines: &mut impl Lines<W>) {
        let seat = &mut self.seats[at];
        if seat.given.is_empty() && std::mem::take(&mut seat.has_token) {
            lines.give_back(at, kept_some);
        }
    }

    /// How many of `count` commands each helper gets.
    fn share(&mut self, count: usize, lines: &mut impl Lines<W>) -> Vec<usize> {
        let mut shares = vec![0; self.seats.len()];
        for _ in 0..count {
            let idle = self.seats.iter().position(|seat| seat.takes() && !seat.has_token);
            if let Some(at) = idle.filter(|_| !self.lacks_tokens) {
                self.get_token(at, lines);
            }
            let load = |at: &usize| self.seats[*at].given.len() + shares[*at];
            let fits = |at: &usize| self.seats[*at].takes() && self.seats[*at].has_token && load(at) <= self.depth;
            let Some(at) = (0..self.seats.len()).filter(fits).min_by_key(load) else { break };
            shares[at] += 1;
        }
        shares
    }

    fn push(&mut self, at: usize, seq: u64, rings: bool, lines: &mut impl Lines<W>) -> bool {
        let Some(entry) = self.entry_mut(seq) else { return true };
        let Some(work) = &entry.work else { return true };
        if !lines.push(at, seq, work, rings) {
            return false;
        }
        entry.stage = Stage::Given(at);
        let seat = &mut self.seats[at];
        seat.given.push_back(seq);
        if rings {
            seat.ring = Some(seq);
        }
        if seat.given.len() == 1 {
            self.begin(seq, lines);
        }
        true
    }

    /// A helper without work gets what waits behind others' commands, if it may work.
    fn take_from_the_longest(&mut self, lines: &mut impl Lines<W>) {
        let longest = (0..self.seats.len()).max_by_key(|&at| self.seats[at].given.len());
        let Some(longest) = longest.filter(|&at| self.seats[at].given.len() > 1) else { return };
        let Some(idle) = self.seats.iter().position(|seat| seat.takes() && seat.given.is_empty()) else { return };
        if self.seats[idle].has_token || self.get_token(idle, lines) {
            self.take_back(longest, lines);
        }
    }

    fn get_token(&mut self, at: usize, lines: &mut impl Lines<W>) -> bool {
        let has_token = lines.take_token(at);
        self.seats[at].has_token = has_token;
        self.lacks_tokens |= !has_token;
        has_token
    }

    /// What lies in the seat's queue is ready again.
    fn take_back(&mut self, at: usize, lines: &mut impl Lines<W>) {
        for seq in lines.drain(at) {
            let seat = &mut self.seats[at];
            seat.given.retain(|&given| given != seq);
            if seat.ring == Some(seq) {
                seat.ring = None;
            }
            if let Some(entry) = self.entry_mut(seq) {
                entry.stage = Stage::Ready;
            }
        }
    }

    fn begin(&mut self, seq: u64, lines: &mut impl Lines<W>) {
        if let Some(entry) = self.entry_mut(seq)
            && !std::mem::replace(&mut entry.has_begun, true)
        {
            lines.begins(entry.run);
        }
    }

    /// A helper reported the end of a run. `None` where it should not know of it.
    pub(crate) fn ended(&mut self, at: usize, seq: u64, succeeded: bool, lines: &mut impl Lines<W>) -> Option<W> {
        if self.seats[at].given.front() != Some(&seq) {
            return None;
        }
        self.begin(seq, lines);
        let seat = &mut self.seats[at];
        seat.given.pop_front();
        if seat.ring == Some(seq) {
            seat.ring = None;
        }
        seat.is_held = !succeeded;
        if !succeeded {
            self.take_back(at, lines);
        }
        if let Some(&next) = self.seats[at].given.front() {
            self.begin(next, lines);
        }
        self.rest(at, !succeeded, lines);
        let entry = self.entry_mut(seq)?;
        entry.stage = Stage::Over;
        entry.work.take()
    }

    /// The seat's helper is dead or of no use any more. What it had begun is lost; the seat is out of use until [`Self::set_free`].
    pub(crate) fn lost(&mut self, at: usize, lines: &mut impl Lines<W>) -> Vec<(u64, W)> {
        self.take_back(at, lines);
        let seat = &mut self.seats[at];
        let given = std::mem::take(&mut seat.given);
        (seat.is_up, seat.is_held, seat.ring) = (false, true, None);
        self.rest(at, true, lines);
        let mut lost = Vec::new();
        for seq in given {
            self.begin(seq, lines);
            if let Some(entry) = self.entry_mut(seq) {
                entry.stage = Stage::Over;
                lost.extend(entry.work.take().map(|work| (seq, work)));
            }
        }
        lost
    }

    /// The seat may have a helper again.
    pub(crate) fn set_free(&mut self, at: usize) {
        self.seats[at] = Seat::default();
    }

    /// The caller took note of all that it was told, and stopped what it wanted to: helpers whose command came to a bad end go
    /// on.
    pub(crate) fn go_on(&mut self, lines: &mut impl Lines<W>) {
        for (at, seat) in self.seats.iter_mut().enumerate() {
            if seat.is_up && std::mem::take(&mut seat.is_held) {
                lines.go_on(at);
            }
        }
    }

    /// Asks for the end of one run, or of all. Gives those that will not be carried out; others end by and by.
    pub(crate) fn stop(
        &mut self,
        run: Option<RunId>,
        reason: StopReason,
        lines: &mut impl Lines<W>,
    ) -> Vec<(RunId, StopReason)> {
        let is_meant = |entry: &Entry<W>| run.is_none_or(|run| entry.run == run) && entry.stop < Some(reason);
        let meant: Vec<u64> = self.entries.iter().filter(|entry| is_meant(entry)).map(|entry| entry.seq).collect();
        let mut withdrawn = Vec::new();
        for seq in meant {
            if let Some(Stage::Given(at)) = self.entry(seq).map(|entry| entry.stage) {
                self.take_back(at, lines);
                self.rest(at, false, lines);
            }
            let Some(entry) = self.entry_mut(seq) else { continue };
            match entry.stage {
                Stage::Asked | Stage::Ready => {
                    withdrawn.push((entry.run, reason));
                    self.forget(seq);
                }
                Stage::Given(at) => {
                    entry.stop = Some(reason);
                    lines.stop(at, seq, reason);
                }
                Stage::BeingPrepared | Stage::Over => entry.stop = Some(reason),
            }
        }
        withdrawn
    }

    fn entry(&self, seq: u64) -> Option<&Entry<W>> {
        self.entries.iter().find(|entry| entry.seq == seq)
    }

    fn entry_mut(&mut self, seq: u64) -> Option<&mut Entry<W>> {
        self.entries.iter_mut().find(|entry| entry.seq == seq)
    }
}

impl Seat {
    fn takes(&self) -> bool {
        self.is_up && !self.is_held
    }

    /// Whether the bell will be rung by what lies in the queue. What was given first is running.
    fn will_ring(&self) -> bool {
        self.ring.is_some() && self.ring != self.given.front().copied()
    }
}

#[cfg(test)]
mod tests;
