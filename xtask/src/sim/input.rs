//! Workloads from outside: one JSON object a line.

use std::collections::HashMap;

use minibuild_dynamic::policy::ActionHistory;
use serde::{Deserialize, Serialize};

use super::make::Parameters;
use super::model::{Action, us};

/// What `cargo xtask sim --help` says of the format.
pub const FORMAT: &str = r#"Workloads file: one JSON object a line; every field may be left out (defaults in brackets).

  name              text, repeated in the output
  latency_ms        round trip of one call [50]. A look-up takes one, a hit's outputs `download_ms` more. A remote run
                    after a miss: send_trips + 1 round trips, waiting for a worker, the run, download_ms
  send_trips        round trips to find and send missing blobs [1]
  remote_slots      workers; their queue is first come first served [20]
  local_slots       [8]
  remote_jobs       remote runs the client has under way at most [400]
  kill_ms           from the kill of a local run that lost to its end [1]
  cancel            what a server does when a stream is dropped: "never" (runs it all the same), "queued" (forgets it
                    while it waits for a worker), "always" (kills it too) ["queued"]
  outages           [{"from_ms": 100, "to_ms": 900}, ...]: nothing reaches the server [none]
  error             relative error of what earlier builds tell: true time x evenly 1 - error to 1 + error [0.2]
  seeds             list of numbers; one build for each, results are means [1]

A made graph:
  shape             "wide": three layers, "deep": layers of `width` actions; each action needs two of the layer before.
                    "gen": each needs two of the first half of those before it (bench/gen.py) ["wide"]
  count             actions [600 wide, 60 x width deep, 1000 gen]
  width             [6]
  times             "short" (20-120 ms), "long" (2-12 s), "mixed" (20 ms-12 s), {"range": [LOW, HIGH]} in ms; each
                    factor of ten alike ["mixed"]
  remote_factor     a worker's time / time here [1], with independent `noise` for each action [0.1]
  hit_ratio         share of actions the cache has [0]
  download_ms       [1]
  stragglers        share of remote runs that take straggler_factor [10] times as long, unforeseen [0]

An explicit graph (then the fields of a made one are ignored):
  actions           [{"id": "a", "deps": ["b", 0], "local_ms": 12.5, "remote_ms": 11, "download_ms": 3, "hit": false,
                      "mnemonic": "Compile", "sides": "both" | "local" | "remote",
                      "predicted": {"local_ms": 12, "remote_ms": 14, "download_ms": 2}}, ...]
                    deps are ids or indices, in any order. remote_ms is the run on a worker alone [local_ms].
                    `predicted` is what earlier builds tell [the true times with `error`]; `"predicted": null` means
                    that this action is new. The strategies `*_cold` know nothing from earlier builds in any case.

Output: one JSON object a line with `name`, `actions`, `bound_ms` (the greater of `critical_path_ms` and `fluid_ms`) and
`strategies`: for each its makespan_ms, duplicated_local_ms and its share of all local work, duplicated_remote_ms, and
how many actions were local, remote, hits, and raced. `*_cold` have no history and priorities without known times.
"#;

/// A dependency.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Dep {
    /// By position.
    Index(usize),
    /// By `id`.
    Id(String),
}

/// Where an action may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sides {
    /// On either side.
    #[default]
    Both,
    /// Here only.
    Local,
    /// On workers only.
    Remote,
}

/// What earlier builds tell of an action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Predicted {
    /// A run here; 0 if there was none.
    pub local_ms: f64,
    /// A run on a worker; 0 if there was none.
    pub remote_ms: f64,
    /// Bringing outputs here.
    pub download_ms: f64,
}

/// One action of an explicit graph.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ActionLine {
    /// Its name for `deps`.
    #[serde(default)]
    pub id: Option<String>,
    /// What it needs.
    #[serde(default)]
    pub deps: Vec<Dep>,
    /// A run here.
    pub local_ms: f64,
    /// A run on a worker.
    #[serde(default)]
    pub remote_ms: Option<f64>,
    /// Bringing its outputs here.
    #[serde(default)]
    pub download_ms: f64,
    /// Whether the cache has it.
    #[serde(default)]
    pub hit: bool,
    /// Its kind.
    #[serde(default)]
    pub mnemonic: Option<String>,
    /// Where it may run.
    #[serde(default)]
    pub sides: Sides,
    /// What earlier builds tell: left out, the truth with an error; `null`, nothing.
    #[serde(default = "measured", deserialize_with = "given")]
    pub predicted: Option<Option<Predicted>>,
}

impl ActionLine {
    fn history(&self) -> Option<ActionHistory> {
        let known = |ms: f64| if ms > 0.0 { ms.round().max(1.0) as u32 } else { 0 };
        self.predicted.map(|given| {
            let given = given.unwrap_or_default();
            ActionHistory {
                local_ms: known(given.local_ms),
                exec_ms: known(given.remote_ms),
                download_ms: known(given.download_ms),
                rss_mib: 0,
            }
        })
    }
}

fn measured() -> Option<Option<Predicted>> {
    None
}

fn given<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Option<Predicted>>, D::Error> {
    Option::<Predicted>::deserialize(deserializer).map(Some)
}

/// Reads a whole file of workloads.
///
/// # Errors
/// Which line is wrong, and why.
pub fn parse(text: &str) -> Result<Vec<Parameters>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parse = |(at, line): (usize, &str)| -> Result<Parameters, String> {
        let mut parameters: Parameters =
            serde_json::from_str(line).map_err(|error| format!("line {}: {error}", at + 1))?;
        if parameters.name.is_empty() {
            parameters.name = format!("line {}", at + 1);
        }
        if parameters.seeds.is_empty() {
            parameters.seeds = vec![1];
        }
        Ok(parameters)
    };
    lines.map(parse).collect()
}

/// An explicit graph.
#[derive(Debug)]
pub struct Graph {
    /// Each after what it needs, with what was said to be known of it, if anything was said.
    pub actions: Vec<(Action, Option<ActionHistory>)>,
    /// Names of their mnemonics.
    pub mnemonics: Vec<String>,
}

/// Puts the actions of an explicit graph in order.
///
/// # Errors
/// An unknown or double name, or a cycle.
pub fn graph(name: &str, lines: &[ActionLine]) -> Result<Graph, String> {
    let mut by_id: HashMap<&str, usize> = HashMap::new();
    for (at, line) in lines.iter().enumerate() {
        if let Some(id) = &line.id
            && by_id.insert(id, at).is_some()
        {
            return Err(format!("{name}: two actions have the id `{id}`"));
        }
    }
    let resolve = |dep: &Dep| match dep {
        Dep::Index(at) if *at < lines.len() => Ok(*at),
        Dep::Index(at) => Err(format!("{name}: there is no action {at}")),
        Dep::Id(id) => by_id.get(id.as_str()).copied().ok_or_else(|| format!("{name}: there is no action `{id}`")),
    };
    let mut needs = Vec::with_capacity(lines.len());
    for line in lines {
        let mut own = line.deps.iter().map(resolve).collect::<Result<Vec<usize>, String>>()?;
        own.sort_unstable();
        own.dedup();
        needs.push(own);
    }
    let order = order(&needs).ok_or_else(|| format!("{name}: the actions need each other in a circle"))?;
    let mut place = vec![0u32; lines.len()];
    order.iter().enumerate().for_each(|(new, &old)| place[old] = new as u32);
    let mut mnemonics: Vec<String> = Vec::new();
    let actions = order.iter().map(|&old| {
        let deps = needs[old].iter().map(|&need| place[need]).collect();
        (action(&lines[old], deps, &mut mnemonics), lines[old].history())
    });
    let actions = actions.collect();
    Ok(Graph { actions, mnemonics })
}

fn action(line: &ActionLine, deps: Vec<u32>, mnemonics: &mut Vec<String>) -> Action {
    let name = line.mnemonic.as_deref().unwrap_or("Action");
    let mnemonic = mnemonics.iter().position(|known| known == name).unwrap_or_else(|| {
        mnemonics.push(name.to_owned());
        mnemonics.len() - 1
    });
    Action {
        deps,
        local: us(line.local_ms),
        exec: us(line.remote_ms.unwrap_or(line.local_ms)),
        download: us(line.download_ms),
        hit: line.hit,
        here: line.sides != Sides::Remote,
        there: line.sides != Sides::Local,
        mnemonic: mnemonic as u32,
        history: ActionHistory::default(),
    }
}

/// An order in which each comes after what it needs, else as given; `None` with a cycle.
fn order(needs: &[Vec<usize>]) -> Option<Vec<usize>> {
    let mut pending: Vec<usize> = needs.iter().map(Vec::len).collect();
    let mut consumers = vec![Vec::new(); needs.len()];
    for (at, own) in needs.iter().enumerate() {
        own.iter().for_each(|&need| consumers[need].push(at));
    }
    let mut ready: std::collections::BinaryHeap<std::cmp::Reverse<usize>> =
        pending.iter().enumerate().filter(|(_, count)| **count == 0).map(|(at, _)| std::cmp::Reverse(at)).collect();
    let mut order = Vec::with_capacity(needs.len());
    while let Some(std::cmp::Reverse(at)) = ready.pop() {
        order.push(at);
        for &consumer in &consumers[at] {
            pending[consumer] -= 1;
            if pending[consumer] == 0 {
                ready.push(std::cmp::Reverse(consumer));
            }
        }
    }
    (order.len() == needs.len()).then_some(order)
}
