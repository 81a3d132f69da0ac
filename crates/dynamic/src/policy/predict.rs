//! How long things will take, from this build and earlier ones.
//!
//! The nearest knowledge counts: the action's own runs, then those of its mnemonic, then the other side's time times the
//! usual ratio of both, then the mean of all. Times are microseconds; `None` where nothing is known at all.

use std::time::Duration;

use super::history::{ActionHistory, EndpointHistory, History, MnemonicHistory, Running};
use super::live::Live;
use super::micros::{Us, micros};
use super::port::{MnemonicId, RemoteTimes};

/// A hit that was answered within this makes a link fast, and so do answers of earlier builds.
const FAST_HIT: Us = 20_000;
/// Calls of a remote run besides its stages, in answers of the cache, until one was measured.
const CALLS: f64 = 2.5;
/// How fast the share of hits follows what is seen.
const HIT_MEMORY: f64 = 50.0;
/// Samples after which the ratio of both sides is believed, and its relative deviation up to which it counts as steady.
const RATIO_AFTER: u32 = 8;
const RATIO_STEADY: f64 = 0.2;
/// Standard errors by which two means have to differ for half of that to be believed.
const SURE: f64 = 1.6;
/// A run that was cut off counts as one of this many times what was seen of it.
const CUT: f64 = 1.5;
const MICROS: f64 = 1e6;

/// Relative error of a predicted time: of an action that ran before, of one that is known by its like, and of one of which
/// nothing is known but what others took.
const ERROR_OWN: f64 = 0.2;
const ERROR_LIKE: f64 = 0.4;
const ERROR_ANY: f64 = 1.0;
/// Runs of like actions after which they tell something.
const LIKE_AFTER: u32 = 4;

/// A predicted time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Guess {
    pub time: f64,
    /// Relative.
    pub error: f64,
}

impl Guess {
    /// Whether it is of this action or its like.
    pub fn is_informed(self) -> bool {
        self.error < ERROR_ANY
    }
}

/// Share of hits among answers; recent ones weigh more.
#[derive(Clone, Copy, Debug, Default)]
struct Hits {
    hits: f64,
    answers: f64,
}

impl Hits {
    fn add(&mut self, hit: bool) {
        let keep = 1.0 - 1.0 / HIT_MEMORY;
        self.hits = self.hits * keep + f64::from(u8::from(hit));
        self.answers = self.answers * keep + 1.0;
    }

    /// With `prior` as if it had been seen twice.
    fn share(&self, prior: f64) -> f64 {
        (self.hits + 2.0 * prior) / (self.answers + 2.0)
    }
}

/// Everything predictions are made of.
#[derive(Debug)]
pub(super) struct Predictor {
    names: Vec<String>,
    mnemonics: Vec<MnemonicHistory>,
    pub endpoint: EndpointHistory,
    /// Kept as read: of mnemonics that this build does not have.
    kept: History,
    local: Running,
    exec: Running,
    hits: Hits,
    hits_of: Vec<Hits>,
    /// Answers of this build.
    pub answers: u64,
    /// Whether earlier builds were answered within [`FAST_HIT`], as a mean.
    pub was_near: bool,
    /// Whether this build was answered at all.
    is_answer_learnt: bool,
}

impl Predictor {
    pub fn new(history: History, names: Vec<String>) -> Self {
        let of = |name: &String| history.mnemonics.get(name).copied().unwrap_or_default();
        let mnemonics: Vec<MnemonicHistory> = names.iter().map(of).collect();
        let mean = |part: fn(&MnemonicHistory) -> Running| {
            let mut all = Running::default();
            mnemonics.iter().filter_map(|m| part(m).get()).for_each(|mean| all.add(mean));
            all
        };
        Self {
            local: mean(|m| m.local),
            exec: mean(|m| m.exec),
            hits: Hits::default(),
            hits_of: vec![Hits::default(); names.len()],
            endpoint: history.endpoint,
            answers: 0,
            was_near: history.endpoint.answer.get().is_some_and(|mean| mean * MICROS <= FAST_HIT as f64),
            is_answer_learnt: false,
            mnemonics,
            names,
            kept: history,
        }
    }

    /// What is to be kept for later builds.
    pub fn history(&self) -> History {
        let mut history = self.kept.clone();
        history.endpoint = self.endpoint;
        let named = self.names.iter().zip(&self.mnemonics);
        let known = named.filter(|(_, m)| **m != MnemonicHistory::default());
        history.mnemonics.extend(known.map(|(name, m)| (name.clone(), *m)));
        history
    }

    fn mnemonic(&self, id: MnemonicId) -> MnemonicHistory {
        self.mnemonics.get(id.0 as usize).copied().unwrap_or_default()
    }

    fn mnemonic_mut(&mut self, id: MnemonicId) -> Option<&mut MnemonicHistory> {
        self.mnemonics.get_mut(id.0 as usize)
    }

    /// A local run, inputs brought here included.
    pub fn local(&self, live: &Live) -> Option<f64> {
        self.local_guess(live).map(|guess| guess.time)
    }

    /// The same with how far it may be off.
    pub fn local_guess(&self, live: &Live) -> Option<Guess> {
        let own = self.local_alone(&live.history, live.mnemonic);
        let other = || Some(self.exec_alone(&live.history, live.mnemonic)? / self.ratio());
        let seen = self.mnemonic(live.mnemonic).local.count;
        let error = match live.history.local_ms {
            0 if seen < LIKE_AFTER => ERROR_ANY,
            0 => ERROR_LIKE,
            _ => ERROR_OWN,
        };
        let guess = own.or_else(other).map(|time| Guess { time, error });
        let guess = guess.or_else(|| Some(Guess { time: self.mean_local()?, error: ERROR_ANY }))?;
        Some(Guess { time: guess.time + live.fetch as f64, ..guess })
    }

    /// On a worker.
    pub fn exec(&self, live: &Live) -> Option<f64> {
        let own = self.exec_alone(&live.history, live.mnemonic);
        let other = || Some(self.local_alone(&live.history, live.mnemonic)? * self.ratio());
        own.or_else(other).or_else(|| self.mean_exec())
    }

    fn local_alone(&self, history: &ActionHistory, mnemonic: MnemonicId) -> Option<f64> {
        let own = |ms: u32| (ms > 0).then(|| f64::from(ms) * 1e3);
        let Some(local) = own(history.local_ms) else { return self.like(mnemonic).0 };
        let other = own(history.exec_ms).map(|exec| exec / self.ratio());
        Some(other.map_or(local, |other| local + (other - local) * self.agreement()))
    }

    fn exec_alone(&self, history: &ActionHistory, mnemonic: MnemonicId) -> Option<f64> {
        let own = |ms: u32| (ms > 0).then(|| f64::from(ms) * 1e3);
        let Some(exec) = own(history.exec_ms) else { return self.like(mnemonic).1 };
        let other = own(history.local_ms).map(|local| local * self.ratio());
        Some(other.map_or(exec, |other| exec + (other - exec) * self.agreement()))
    }

    /// What like actions took here and on workers. They were other actions on each side, and of one mnemonic need not
    /// take one time: the less certain it is that the means differ, the nearer they are taken to each other.
    fn like(&self, mnemonic: MnemonicId) -> (Option<f64>, Option<f64>) {
        let MnemonicHistory { local, exec, .. } = self.mnemonic(mnemonic);
        let (Some(here), Some(there)) = (local.get(), exec.get()) else {
            return (local.get().map(|s| s * MICROS), exec.get().map(|s| s * MICROS));
        };
        let (a, b) = (f64::from(local.weight()), f64::from(exec.weight()));
        let both = (here * a + there * b) / (a + b);
        let (apart, doubt) = (here - there, SURE * local.error().hypot(exec.error()));
        let sure = apart * apart / (apart * apart + doubt * doubt).max(f64::MIN_POSITIVE);
        let blend = |own: f64| Some((both + (own - both) * sure) * MICROS);
        (blend(here), blend(there))
    }

    /// How much of one side's time is known by the other's: half, where their ratio hardly varies from action to action.
    /// Both measured the same work, so that together they err less.
    fn agreement(&self) -> f64 {
        let ratio = self.endpoint.ratio;
        if ratio.count < RATIO_AFTER || ratio.mean <= 0.0 {
            return 0.0;
        }
        let spread = ratio.deviation / ratio.mean;
        0.5 * (1.0 - (spread - RATIO_STEADY) / RATIO_STEADY).clamp(0.0, 1.0)
    }

    fn ratio(&self) -> f64 {
        self.endpoint.ratio.get().filter(|ratio| *ratio > 0.0).unwrap_or(1.0)
    }

    /// A whole remote run that finds a worker at once, after a miss: sending, running, bringing.
    pub fn remote(&self, live: &Live) -> Option<f64> {
        Some(self.overhead() + self.exec(live)? + self.download(live))
    }

    /// What a remote run takes besides its stages.
    pub fn overhead(&self) -> f64 {
        let measured = self.endpoint.overhead.get().map(|s| s * MICROS);
        measured.or_else(|| self.answer().map(|answer| answer * CALLS)).unwrap_or(0.0)
    }

    pub fn download(&self, live: &Live) -> f64 {
        own_or(live.history.download_ms, self.mnemonic(live.mnemonic).download).unwrap_or(0.0)
    }

    /// From a look-up to its answer.
    pub fn answer(&self) -> Option<f64> {
        self.endpoint.answer.get().map(|s| s * MICROS)
    }

    /// Whether an answer comes so soon that it is waited for even where nothing else is known.
    pub(crate) fn is_near(&self) -> bool {
        self.endpoint.has_fast_hit || self.was_near
    }

    /// How soon the cache answers, if this build learnt of it.
    pub fn learnt_answer(&self) -> Option<Running> {
        self.is_answer_learnt.then_some(self.endpoint.answer)
    }

    /// Bytes a local run will take.
    pub fn memory(&self, live: &Live) -> u64 {
        let mib = match live.history.rss_mib {
            0 => self.mnemonic(live.mnemonic).rss.get().unwrap_or(0.0),
            own => f64::from(own),
        };
        (mib as u64).saturating_mul(1 << 20)
    }

    /// Share of hits to expect.
    pub fn hit_share(&self, mnemonic: MnemonicId) -> f64 {
        let all = self.hits.share(0.5);
        self.hits_of.get(mnemonic.0 as usize).map_or(all, |own| own.share(all))
    }

    pub fn mean_exec(&self) -> Option<f64> {
        self.exec.get().or_else(|| Some(self.local.get()? * self.ratio())).map(|s| s * MICROS)
    }

    pub fn mean_local(&self) -> Option<f64> {
        self.local.get().or_else(|| Some(self.exec.get()? / self.ratio())).map(|s| s * MICROS)
    }

    pub fn record_answer(&mut self, mnemonic: MnemonicId, took: Us, hit: bool) {
        self.answers += 1;
        self.record_answer_time(took, hit);
        self.hits.add(hit);
        if let Some(own) = self.hits_of.get_mut(mnemonic.0 as usize) {
            own.add(hit);
        }
    }

    /// Of a question that says nothing of what else the cache has.
    pub(crate) fn record_answer_time(&mut self, took: Us, hit: bool) {
        self.is_answer_learnt = true;
        self.endpoint.answer.add(took as f64 / MICROS);
        self.endpoint.has_fast_hit |= hit && took <= FAST_HIT;
    }

    pub fn record_local(&mut self, live: &Live, wall: Us, max_rss: u64) {
        let seconds = wall as f64 / MICROS;
        if let Some(exec) = own_or(live.history.exec_ms, Running::default()).filter(|_| wall > 0) {
            self.endpoint.ratio.add(exec / wall as f64);
        }
        self.local.add(seconds);
        if let Some(own) = self.mnemonic_mut(live.mnemonic) {
            own.local.add(seconds);
            if max_rss > 0 {
                own.rss.add(max_rss as f64 / f64::from(1 << 20));
            }
        }
    }

    /// A local run lost after so long: it would have taken longer.
    pub fn record_cut(&mut self, live: &Live, wall: Us) {
        let seconds = wall as f64 / MICROS;
        if let Some(own) = self.mnemonic_mut(live.mnemonic).filter(|own| seconds > own.local.mean) {
            own.local.add(seconds * CUT);
        }
    }

    /// `total` is from sending to the end as seen here.
    pub fn record_remote(&mut self, live: &Live, total: Us, times: RemoteTimes) {
        let seconds = |time: Duration| time.as_secs_f64();
        let stages = micros(times.queue) + micros(times.exec) + micros(times.download);
        self.endpoint.overhead.add(total.saturating_sub(stages) as f64 / MICROS);
        self.endpoint.queue.add(seconds(times.queue));
        if let Some(local) = own_or(live.history.local_ms, Running::default()).filter(|time| *time > 0.0) {
            self.endpoint.ratio.add(seconds(times.exec) * MICROS / local);
        }
        self.exec.add(seconds(times.exec));
        if let Some(own) = self.mnemonic_mut(live.mnemonic) {
            own.exec.add(seconds(times.exec));
            own.download.add(seconds(times.download));
        }
    }
}

fn own_or(own_ms: u32, mnemonic: Running) -> Option<f64> {
    match own_ms {
        0 => mnemonic.get().map(|seconds| seconds * MICROS),
        own => Some(f64::from(own) * 1e3),
    }
}
