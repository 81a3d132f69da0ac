//! Workloads made from a few parameters: shapes of graphs, distributions of times, and what earlier builds would tell.

use minibuild_dynamic::policy::{ActionHistory, EndpointHistory, History, MnemonicHistory, Running};
use serde::{Deserialize, Serialize};

use super::model::{Action, Cancel, Us, Workload, ms, us};
use super::rng::Rng;

/// How actions depend on each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Three layers; each action needs two of the layer before.
    Wide,
    /// Layers of [`Parameters::width`] actions; each action needs two of the layer before.
    Deep,
    /// The rule of the benchmark generator: each action needs two of the first half of those before it.
    Gen,
}

/// How long actions take here, each factor of ten alike.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Times {
    /// 20 to 120 ms.
    Short,
    /// 2 to 12 s.
    Long,
    /// 20 ms to 12 s.
    Mixed,
    /// As given, milliseconds.
    Range(f64, f64),
}

impl Times {
    fn range(self) -> (f64, f64) {
        match self {
            Self::Short => (20.0, 120.0),
            Self::Long => (2_000.0, 12_000.0),
            Self::Mixed => (20.0, 12_000.0),
            Self::Range(low, high) => (low, high),
        }
    }
}

/// A period without the server.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct OutageAt {
    /// Its begin.
    pub from_ms: f64,
    /// Its end.
    pub to_ms: f64,
}

/// What a workload is made from.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parameters {
    /// Its name.
    pub name: String,
    /// Round trip of a call.
    pub latency_ms: f64,
    /// Round trips for finding and sending missing blobs.
    pub send_trips: f64,
    /// Workers.
    pub remote_slots: usize,
    /// Slots here.
    pub local_slots: usize,
    /// Remote runs the client has under way at most.
    pub remote_jobs: usize,
    /// From a kill to the end of the last process.
    pub kill_ms: f64,
    /// What the server does when a stream is dropped.
    pub cancel: Cancel,
    /// Shape of the graph.
    pub shape: Shape,
    /// How many actions; 0 for the shape's own number.
    pub count: usize,
    /// Actions of a layer of a deep graph.
    pub width: usize,
    /// How long actions take here.
    pub times: Times,
    /// A worker's time as part of the time here.
    pub remote_factor: f64,
    /// Independent error of that for each action: 0.1 is ± 10 %.
    pub noise: f64,
    /// Share of actions of which the cache has a result.
    pub hit_ratio: f64,
    /// Bringing outputs here.
    pub download_ms: f64,
    /// Share of remote runs that take `straggler_factor` times as long.
    pub stragglers: f64,
    /// See `stragglers`.
    pub straggler_factor: f64,
    /// Error of what earlier builds tell, of each time alike and independent: 0.2 is ± 20 %.
    pub error: f64,
    /// When the server is away.
    pub outages: Vec<OutageAt>,
    /// Seeds of the random choices: each gives one build.
    pub seeds: Vec<u64>,
    /// An explicit graph instead of a made one.
    pub actions: Vec<super::input::ActionLine>,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            name: String::new(),
            latency_ms: 50.0,
            send_trips: 1.0,
            remote_slots: 20,
            local_slots: 8,
            remote_jobs: 400,
            kill_ms: 1.0,
            cancel: Cancel::Queued,
            shape: Shape::Wide,
            count: 0,
            width: 6,
            times: Times::Mixed,
            remote_factor: 1.0,
            noise: 0.1,
            hit_ratio: 0.0,
            download_ms: 1.0,
            stragglers: 0.0,
            straggler_factor: 10.0,
            error: 0.2,
            outages: Vec::new(),
            seeds: vec![1],
            actions: Vec::new(),
        }
    }
}

impl Parameters {
    /// The workload of a seed.
    ///
    /// # Errors
    /// What is wrong with an explicit graph.
    pub fn make(&self, seed: u64) -> Result<Workload, String> {
        let mut rng = Rng::new(seed);
        let (actions, mnemonics) = match self.actions.is_empty() {
            true => (self.invent(&mut rng), CLASSES.map(str::to_owned).to_vec()),
            false => self.explicit(&mut rng)?,
        };
        let mut load = Workload {
            name: self.name.clone(),
            actions,
            rtt: us(self.latency_ms),
            send_trips: self.send_trips.clamp(0.0, 1000.0),
            jobs: self.local_slots.max(1),
            workers: self.remote_slots,
            remote_jobs: self.remote_jobs.max(1),
            kill: us(self.kill_ms),
            cancel: self.cancel,
            outages: self.outages.iter().map(|outage| (us(outage.from_ms), us(outage.to_ms))).collect(),
            mnemonics,
            history: History::default(),
        };
        load.history = earlier_builds(&load, self.error, &mut rng);
        Ok(load)
    }

    fn invent(&self, rng: &mut Rng) -> Vec<Action> {
        let count = match (self.count, self.shape) {
            (0, Shape::Wide) => 600,
            (0, Shape::Deep) => 60 * self.width.max(1),
            (0, Shape::Gen) => 1000,
            (count, _) => count,
        };
        let (low, high) = self.times.range();
        let mut actions = Vec::with_capacity(count);
        for at in 0..count {
            let local = rng.decades(low, high);
            let noise = rng.between(1.0 - self.noise, 1.0 + self.noise);
            let straggles = rng.unit() < self.stragglers;
            let exec = local * self.remote_factor * noise * if straggles { self.straggler_factor } else { 1.0 };
            let action = Action {
                deps: self.deps(at, count, rng),
                local: us(local),
                exec: us(exec),
                download: us(self.download_ms),
                hit: rng.unit() < self.hit_ratio,
                here: true,
                there: true,
                mnemonic: class(local),
                history: ActionHistory::default(),
            };
            // Nothing foretells a straggler.
            let usual = us(local * self.remote_factor * noise);
            actions.push(Action { history: self.remembered(&action, usual, rng), ..action });
        }
        actions
    }

    fn deps(&self, at: usize, count: usize, rng: &mut Rng) -> Vec<u32> {
        let width = match self.shape {
            Shape::Wide => count.div_ceil(3).max(1),
            Shape::Deep => self.width.max(1),
            Shape::Gen => {
                let chosen =
                    if at == 0 { Vec::new() } else { (0..2).map(|_| rng.below((at / 2).max(1)) as u32).collect() };
                return unique(chosen);
            }
        };
        let layer = at / width;
        if layer == 0 {
            return Vec::new();
        }
        unique((0..2).map(|_| ((layer - 1) * width + rng.below(width)) as u32).collect())
    }

    fn explicit(&self, rng: &mut Rng) -> Result<(Vec<Action>, Vec<String>), String> {
        let graph = super::input::graph(&self.name, &self.actions)?;
        let remember = |(action, given): (Action, Option<ActionHistory>)| {
            let history = given.unwrap_or_else(|| self.remembered(&action, action.exec, rng));
            Action { history, ..action }
        };
        Ok((graph.actions.into_iter().map(remember).collect(), graph.mnemonics))
    }

    /// What earlier builds measured of an action that usually runs for `exec` on a worker.
    fn remembered(&self, action: &Action, exec: Us, rng: &mut Rng) -> ActionHistory {
        let mut about = |time: Us| (ms(time) * rng.between(1.0 - self.error, 1.0 + self.error)).round().max(1.0) as u32;
        ActionHistory {
            local_ms: about(action.local),
            exec_ms: about(exec),
            download_ms: about(action.download),
            rss_mib: 0,
        }
    }
}

fn unique(mut list: Vec<u32>) -> Vec<u32> {
    list.sort_unstable();
    list.dedup();
    list
}

/// Mnemonics of made actions, by their time: as in a real build, like actions take like times.
const CLASSES: [&str; 4] = ["Copy", "Compile", "Archive", "Link"];

fn class(local_ms: f64) -> u32 {
    match local_ms {
        time if time < 100.0 => 0,
        time if time < 1_000.0 => 1,
        time if time < 5_000.0 => 2,
        _ => 3,
    }
}

/// What earlier builds would have kept of mnemonics and endpoint.
fn earlier_builds(load: &Workload, error: f64, rng: &mut Rng) -> History {
    let mut about = |value: f64| {
        let mean = value * rng.between(1.0 - error, 1.0 + error);
        Running { count: 20, mean, deviation: value * error / 2.0 }
    };
    let mut history = History::default();
    for (id, name) in load.mnemonics.iter().enumerate() {
        let own: Vec<&Action> = load.actions.iter().filter(|action| action.mnemonic as usize == id).collect();
        if own.is_empty() {
            continue;
        }
        let mean = |time: fn(&Action) -> Us| own.iter().map(|a| time(a) as f64).sum::<f64>() / own.len() as f64 / 1e6;
        let own = MnemonicHistory {
            local: about(mean(|a| a.local)),
            exec: about(mean(|a| a.exec)),
            download: about(mean(|a| a.download)),
            rss: Running::default(),
        };
        history.mnemonics.insert(name.clone(), own);
    }
    let rtt = load.rtt as f64 / 1e6;
    history.endpoint = EndpointHistory {
        answer: about(rtt),
        overhead: about(rtt * (1.0 + load.send_trips)),
        queue: Running::default(),
        ratio: Running::default(),
        workers: 0.0,
        has_fast_hit: load.rtt <= 20_000,
    };
    history
}

/// The workloads of the bar.
pub fn grid() -> Vec<Parameters> {
    let mut all = Vec::new();
    for latency in [1.0, 50.0, 500.0] {
        for slots in [2, 20, 200] {
            for hits in [0.0, 0.5, 1.0] {
                for times in [Times::Short, Times::Long, Times::Mixed] {
                    for shape in [Shape::Wide, Shape::Deep] {
                        all.push(Parameters {
                            name: format!(
                                "{latency} ms, {slots} workers, {} % hits, {times:?}, {shape:?}",
                                hits * 100.0
                            )
                            .to_lowercase(),
                            latency_ms: latency,
                            remote_slots: slots,
                            hit_ratio: hits,
                            times,
                            shape,
                            seeds: vec![1, 2, 3, 4, 5],
                            ..Parameters::default()
                        });
                    }
                }
            }
        }
    }
    all
}
