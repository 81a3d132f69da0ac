//! The picture of the results, written by hand: for each strategy its makespans over all workloads, sorted.

use std::fmt::Write;

use super::{Measured, Run};

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Top of the scale, as a multiple of the lower bound.
const MOST: f64 = 16.0;

const LINES: [(usize, &str, &str); 6] = [
    (0, "local only", "#8c564b"),
    (1, "remote only", "#7f7f7f"),
    (2, "race-all", "#d62728"),
    (3, "hold-back", "#ff7f0e"),
    (9, "adaptive, cold", "#1f77b4"),
    (4, "adaptive", "#2ca02c"),
];

/// Makespans as multiples of the lower bound, on a scale of doublings.
pub fn picture(results: &[Measured]) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"14\">Makespan as a multiple of the lower bound, each strategy's workloads \
         sorted</text>\n"
    );
    for tick in [1.0, 1.25, 1.5, 2.0, 4.0, 8.0, 16.0] {
        let y = height(tick);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{tick}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            y + 4.0,
        );
    }
    for (at, (strategy, name, colour)) in LINES.iter().enumerate() {
        let _ = writeln!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
            points(results, *strategy)
        );
        let y = TOP + 20.0 + at as f64 * 20.0;
        let x = WIDTH - RIGHT + 14.0;
        let _ = writeln!(
            svg,
            "<line x1=\"{x}\" x2=\"{}\" y1=\"{y}\" y2=\"{y}\" stroke=\"{colour}\" stroke-width=\"3\"/>\
             <text x=\"{}\" y=\"{}\">{name}</text>",
            x + 20.0,
            x + 26.0,
            y + 4.0,
        );
    }
    let _ = writeln!(
        svg,
        "<text x=\"{LEFT}\" y=\"{:.0}\">{} workloads; less is better; above {MOST} is cut off</text>\n</svg>",
        HEIGHT - 18.0,
        results.len(),
    );
    svg
}

fn height(multiple: f64) -> f64 {
    let part = multiple.clamp(1.0, MOST).log2() / MOST.log2();
    HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP)
}

fn points(results: &[Measured], strategy: usize) -> String {
    let ratio = |run: &Run| run.outcomes[strategy].makespan as f64 / (run.bound.time() as f64).max(1.0);
    let mean = |result: &Measured| result.runs.iter().map(ratio).sum::<f64>() / result.runs.len().max(1) as f64;
    let mut values: Vec<f64> = results.iter().map(mean).collect();
    values.sort_by(f64::total_cmp);
    let step = (WIDTH - LEFT - RIGHT) / values.len().saturating_sub(1).max(1) as f64;
    let point = |(at, value): (usize, &f64)| format!("{:.1},{:.1}", LEFT + step * at as f64, height(*value));
    values.iter().enumerate().map(point).collect::<Vec<String>>().join(" ")
}
