//! The bars, and the table of what was measured.

use std::fmt::Write;

use super::{Measured, Run};

/// Places of strategies in [`super::STRATEGIES`], with history; the cold ones lie [`COLD`] further.
const LOCAL: usize = 0;
const REMOTE: usize = 1;
const RACE: usize = 2;
const HOLD: usize = 3;
const ADAPTIVE: usize = 4;
const COLD: usize = 5;

/// One promise with what was measured.
struct Bar {
    what: &'static str,
    limit: f64,
    measured: f64,
    /// The worst single build, where the bar is about means over seeds.
    worst_build: Option<f64>,
    /// Where the worst was.
    at: String,
}

impl Bar {
    fn passed(&self) -> bool {
        self.measured <= self.limit
    }
}

/// All of it.
pub struct Report<'r> {
    results: &'r [Measured],
    bars: Vec<Bar>,
}

/// A ratio of makespans in one build.
type Ratio = fn(&Run, usize) -> f64;

fn time(run: &Run, strategy: usize) -> f64 {
    run.outcomes[strategy].makespan as f64
}

fn to_better(run: &Run, cold: usize) -> f64 {
    time(run, ADAPTIVE + cold) / time(run, LOCAL + cold).min(time(run, REMOTE + cold)).max(1.0)
}

fn to_race(run: &Run, cold: usize) -> f64 {
    time(run, ADAPTIVE + cold) / time(run, RACE + cold).max(1.0)
}

fn to_bound(run: &Run, cold: usize) -> f64 {
    time(run, ADAPTIVE + cold) / (run.bound.time() as f64).max(1.0)
}

impl Measured {
    /// Mean over the seeds.
    fn mean(&self, ratio: Ratio, cold: usize) -> f64 {
        self.runs.iter().map(|run| ratio(run, cold)).sum::<f64>() / self.runs.len().max(1) as f64
    }

    fn worst(&self, ratio: Ratio, cold: usize) -> f64 {
        self.runs.iter().map(|run| ratio(run, cold)).fold(0.0, f64::max)
    }
}

/// The value below or at which this part of `values` lies.
fn quantile(values: impl Iterator<Item = f64>, part: f64) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let at = ((sorted.len() as f64 * part).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or(0.0)
}

impl<'r> Report<'r> {
    /// Measures all bars.
    pub fn of(results: &'r [Measured]) -> Self {
        let everywhere = |what, limit, ratio: Ratio, cold| {
            let worst = results.iter().max_by(|a, b| a.mean(ratio, cold).total_cmp(&b.mean(ratio, cold)));
            Bar {
                what,
                limit,
                measured: worst.map_or(0.0, |result| result.mean(ratio, cold)),
                worst_build: Some(results.iter().map(|r| r.worst(ratio, cold)).fold(0.0, f64::max)),
                at: worst.map(|result| result.parameters.name.clone()).unwrap_or_default(),
            }
        };
        let part = |what, limit, measured| Bar { what, limit, measured, worst_build: None, at: String::new() };
        let means = |ratio: Ratio, cold| results.iter().map(move |result| result.mean(ratio, cold));
        let duplicated = |cold| results.iter().map(move |result| result.duplicated(ADAPTIVE + cold));
        let bars = vec![
            everywhere("with history: / better of local and remote, everywhere", 1.05, to_better, 0),
            everywhere("with history: / race-all, everywhere", 1.05, to_race, 0),
            part("with history: / lower bound, median", 1.10, quantile(means(to_bound, 0), 0.5)),
            part("with history: duplicated local work, 9 of 10", 0.10, quantile(duplicated(0), 0.9)),
            part("with history: duplicated local work, all", 0.30, quantile(duplicated(0), 1.0)),
            everywhere("cold: / better of local and remote, everywhere", 1.12, to_better, COLD),
            part("cold: / better of local and remote, 95 %", 1.03, quantile(means(to_better, COLD), 0.95)),
            everywhere("cold: / race-all, everywhere", 1.15, to_race, COLD),
        ];
        Self { results, bars }
    }

    /// Whether all bars are met.
    pub fn passed(&self) -> bool {
        self.bars.iter().all(Bar::passed)
    }

    /// For a terminal.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}", self.bar_table(), self.strategy_table(), self.worst_table())
    }

    /// For the documents.
    pub fn document(&self) -> String {
        let builds: usize = self.results.iter().map(|result| result.runs.len()).sum();
        format!(
            "# The policy's results\n\nWritten by `cargo xtask sim`: {} workloads, {builds} builds for each strategy. What is \
             simulated: [policy.md](policy.md).\n\n{}\n## Strategies\n\n{}\n![makespans](policy-results.svg)\n\n## Worst \
             workloads\n\n{}\n## All workloads\n\nMakespans are means over the seeds, as multiples of the lower bound; \
             `dup` is the local work done in vain.\n\n{}",
            self.results.len(),
            self.bar_table(),
            self.strategy_table(),
            self.worst_table(),
            self.all_table(),
        )
    }

    fn bar_table(&self) -> String {
        let mut text = String::from(
            "| bar | at most | measured | worst single build | | worst workload |\n|---|---|---|---|---|---|\n",
        );
        for bar in &self.bars {
            let verdict = if bar.passed() { "PASS" } else { "FAIL" };
            let worst = bar.worst_build.map(|worst| format!("{worst:.3}")).unwrap_or_default();
            let line =
                format!("| {} | {:.2} | {:.3} | {worst} | {verdict} | {} |", bar.what, bar.limit, bar.measured, bar.at);
            let _ = writeln!(text, "{line}");
        }
        text
    }

    /// How each strategy fares over all workloads.
    fn strategy_table(&self) -> String {
        let mut text = String::from(
            "| strategy | / bound: median | 90 % | worst | / better of local and remote: median | worst | duplicated here: mean | 90 % | worst |\n\
             |---|---|---|---|---|---|---|---|---|\n",
        );
        for (at, name) in super::STRATEGIES.iter().enumerate() {
            let cold = if at >= COLD { COLD } else { 0 };
            let mean = |value: &dyn Fn(&Run) -> f64, result: &Measured| {
                result.runs.iter().map(value).sum::<f64>() / result.runs.len().max(1) as f64
            };
            let to_bound = |run: &Run| time(run, at) / (run.bound.time() as f64).max(1.0);
            let to_better = |run: &Run| time(run, at) / time(run, LOCAL + cold).min(time(run, REMOTE + cold)).max(1.0);
            let bound: Vec<f64> = self.results.iter().map(|r| mean(&to_bound, r)).collect();
            let better: Vec<f64> = self.results.iter().map(|r| mean(&to_better, r)).collect();
            let wasted: Vec<f64> = self.results.iter().map(|r| r.duplicated(at)).collect();
            let of = |values: &[f64], part| quantile(values.iter().copied(), part);
            let average = wasted.iter().sum::<f64>() / wasted.len().max(1) as f64;
            let _ = writeln!(
                text,
                "| {name} | {:.3} | {:.2} | {:.2} | {:.3} | {:.3} | {:.1} % | {:.1} % | {:.1} % |",
                of(&bound, 0.5),
                of(&bound, 0.9),
                of(&bound, 1.0),
                of(&better, 0.5),
                of(&better, 1.0),
                average * 100.0,
                of(&wasted, 0.9) * 100.0,
                of(&wasted, 1.0) * 100.0,
            );
        }
        text
    }

    fn worst_table(&self) -> String {
        let mut text = String::from("| what | workload | ratio |\n|---|---|---|\n");
        let lists: [(&str, Ratio, usize); 4] = [
            ("/ better", to_better, 0),
            ("/ race-all", to_race, 0),
            ("cold / better", to_better, COLD),
            ("cold / race-all", to_race, COLD),
        ];
        for (what, ratio, cold) in lists {
            let mut sorted: Vec<&Measured> = self.results.iter().collect();
            sorted.sort_by(|a, b| b.mean(ratio, cold).total_cmp(&a.mean(ratio, cold)));
            for result in sorted.iter().take(10) {
                let _ = writeln!(text, "| {what} | {} | {:.3} |", result.parameters.name, result.mean(ratio, cold));
            }
        }
        let mut sorted: Vec<&Measured> = self.results.iter().collect();
        sorted.sort_by(|a, b| b.duplicated(ADAPTIVE).total_cmp(&a.duplicated(ADAPTIVE)));
        for result in sorted.iter().take(10) {
            let _ = writeln!(text, "| duplicated | {} | {:.3} |", result.parameters.name, result.duplicated(ADAPTIVE));
        }
        text
    }

    fn all_table(&self) -> String {
        let mut text = String::from(
            "| workload | bound | local | remote | race-all | hold-back | adaptive | dup | adaptive cold | dup |\n\
             |---|---|---|---|---|---|---|---|---|---|\n",
        );
        for result in self.results {
            let count = result.runs.len().max(1) as f64;
            let bound = result.runs.iter().map(|run| run.bound.time() as f64).sum::<f64>() / count;
            let of = |at: usize| result.runs.iter().map(|run| time(run, at)).sum::<f64>() / count / bound.max(1.0);
            let _ = writeln!(
                text,
                "| {} | {:.1} s | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} % | {:.2} | {:.1} % |",
                result.parameters.name,
                bound / 1e6,
                of(LOCAL),
                of(REMOTE),
                of(RACE),
                of(HOLD),
                of(ADAPTIVE),
                result.duplicated(ADAPTIVE) * 100.0,
                of(ADAPTIVE + COLD),
                result.duplicated(ADAPTIVE + COLD) * 100.0,
            );
        }
        text
    }
}
