//! What is simulated: actions with their true times, the link, both pools.
//!
//! Times are microseconds of virtual time. Nothing here knows a strategy, and no strategy sees the true times.

use minibuild_dynamic::policy::{ActionHistory, History};

/// Microseconds.
pub type Us = u64;

/// Microseconds of so many milliseconds; what is no number, negative or absurd is cut.
pub fn us(ms: f64) -> Us {
    (ms.clamp(0.0, 1e12) * 1e3) as Us
}

/// Milliseconds.
pub fn ms(us: Us) -> f64 {
    us as f64 / 1e3
}

/// One action with the truth about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// Indices of the actions it needs.
    pub deps: Vec<u32>,
    /// A run here.
    pub local: Us,
    /// A run on a worker.
    pub exec: Us,
    /// Bringing its outputs here after a hit or a remote run.
    pub download: Us,
    /// Whether the cache has its result.
    pub hit: bool,
    /// Whether it may run here.
    pub here: bool,
    /// Whether it may run on a worker.
    pub there: bool,
    /// Index into [`Workload::mnemonics`].
    pub mnemonic: u32,
    /// What earlier builds tell of it, with their error.
    pub history: ActionHistory,
}

/// When the server forgets an execution whose client dropped its stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cancel {
    /// Never: it is run to its end.
    Never,
    /// While it waits for a worker.
    #[default]
    Queued,
    /// Also while it runs.
    Always,
}

/// A build to simulate.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Its name in tables.
    pub name: String,
    /// Each after what it needs.
    pub actions: Vec<Action>,
    /// From a request to its response.
    pub rtt: Us,
    /// Round trips before a remote run is asked for: finding missing blobs and sending them.
    pub send_trips: f64,
    /// Slots here.
    pub jobs: usize,
    /// Workers.
    pub workers: usize,
    /// How many remote runs the client has under way at most.
    pub remote_jobs: usize,
    /// From a kill to the end of the last process.
    pub kill: Us,
    /// What the server does when a stream is dropped.
    pub cancel: Cancel,
    /// From and until when the server cannot be reached; in order, not overlapping.
    pub outages: Vec<(Us, Us)>,
    /// Names of the mnemonics.
    pub mnemonics: Vec<String>,
    /// What earlier builds tell of mnemonics and endpoint.
    pub history: History,
}

impl Workload {
    /// The same without anything known from earlier builds.
    pub fn cold(&self) -> Self {
        let forget = |action: &Action| Action { history: ActionHistory::default(), ..action.clone() };
        let actions = self.actions.iter().map(forget).collect();
        Self { actions, history: History::default(), ..self.clone() }
    }

    /// From being ready to the result, if it is had remotely and a worker is free.
    pub fn remote_time(&self, action: &Action) -> Us {
        match action.hit {
            true => self.rtt + action.download,
            false => self.rtt + self.send_time() + self.rtt + action.exec + action.download,
        }
    }

    /// Finding what is missing, and sending it.
    pub fn send_time(&self) -> Us {
        (self.rtt as f64 * self.send_trips) as Us
    }

    /// Sum of all local times.
    pub fn local_work(&self) -> Us {
        self.actions.iter().map(|action| action.local).sum()
    }

    /// Predicted time from each action's start to the end of the longest chain behind it, as the engine computes it:
    /// from local times of earlier builds, or 100 ms.
    pub fn remaining(&self) -> Vec<Us> {
        let mut remaining = vec![0; self.actions.len()];
        for (at, action) in self.actions.iter().enumerate().rev() {
            let own = match action.history {
                ActionHistory { local_ms: 0, exec_ms: 0, .. } => 100,
                ActionHistory { local_ms: 0, exec_ms, .. } => exec_ms,
                ActionHistory { local_ms, .. } => local_ms,
            };
            let total = remaining[at] + Us::from(own) * 1000;
            remaining[at] = total;
            for &need in &action.deps {
                let slot = &mut remaining[need as usize];
                *slot = total.max(*slot);
            }
        }
        remaining
    }
}
