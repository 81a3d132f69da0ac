//! `cargo xtask bench-picture TABLE`: the times of a table that `scripts/bench` printed, as a picture.
//!
//! Bars on a scale of decades, one for each tool beside the others of its build. It measures nothing.

use std::fmt::Write;
use std::path::Path;

const WIDTH: f64 = 860.0;
const LEFT: f64 = 230.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 60.0;
const BAR: f64 = 16.0;
const GAP: f64 = 14.0;
const COLOURS: [&str; 4] = ["#2ca02c", "#1f77b4", "#ff7f0e", "#7f7f7f"];

/// What a table says: tools, and for each build its name and their seconds.
#[derive(Debug, PartialEq)]
struct Times {
    tools: Vec<String>,
    builds: Vec<(String, Vec<f64>)>,
}

/// Draws `docs/bench.svg` of the table in this file.
pub fn run(root: &Path, table: &str) -> bool {
    let picture = std::fs::read_to_string(table).map_err(|error| format!("cannot read `{table}`: {error}"));
    let picture = picture.and_then(|text| Ok(draw(&read(&text)?)));
    let path = root.join("docs/bench.svg");
    let written = picture
        .and_then(|svg| std::fs::write(&path, svg).map_err(|e| format!("cannot write `{}`: {e}", path.display())));
    match &written {
        Ok(()) => println!("{}", path.display()),
        Err(problem) => eprintln!("bench-picture: {problem}"),
    }
    written.is_ok()
}

/// Reads the first Markdown table of a text: columns `TOOL s` are times.
fn read(text: &str) -> Result<Times, String> {
    let rows = text.lines().filter_map(|line| line.trim().strip_prefix('|')?.strip_suffix('|'));
    let mut rows = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    let head = rows.next().ok_or("there is no table in it")?;
    let time = |(at, name): (usize, &&str)| Some((at, name.strip_suffix(" s")?.to_owned()));
    let columns: Vec<(usize, String)> =
        head.iter().enumerate().filter_map(time).filter(|(_, tool)| !tool.ends_with(" cpu")).collect();
    if columns.is_empty() {
        return Err("no column of its table is named as `minibuild s`".to_owned());
    }
    let mut builds = Vec::new();
    for row in rows.filter(|row| !row.iter().all(|cell| cell.starts_with('-'))) {
        let name = row.first().copied().unwrap_or_default();
        let seconds = |(at, _): &(usize, String)| {
            let cell = row.get(*at).copied().unwrap_or_default();
            let seconds = cell.parse::<f64>().ok().filter(|seconds| seconds.is_finite() && *seconds > 0.0);
            seconds.ok_or_else(|| format!("`{cell}` of `{name}` is no time"))
        };
        builds.push((name.to_owned(), columns.iter().map(seconds).collect::<Result<Vec<f64>, String>>()?));
    }
    if builds.is_empty() {
        return Err("its table has no rows".to_owned());
    }
    Ok(Times { tools: columns.into_iter().map(|(_, tool)| tool).collect(), builds })
}

/// Bars on decades, from the one the shortest time lies in.
fn draw(times: &Times) -> String {
    let all = || times.builds.iter().flat_map(|(_, seconds)| seconds).copied();
    let least = all().fold(f64::INFINITY, f64::min).log10().floor();
    let most = all().fold(0.0, f64::max).log10().ceil().max(least + 1.0);
    let x = |seconds: f64| LEFT + (seconds.log10() - least) / (most - least) * (WIDTH - LEFT - RIGHT);
    let group = times.tools.len() as f64 * BAR + GAP;
    let bottom = TOP + times.builds.len() as f64 * group;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"20\" y=\"22\" font-size=\"14\">Seconds of wall time, less is better</text>\n",
        bottom + 30.0
    );
    for decade in (least as i32)..=(most as i32) {
        let (seconds, at) = (10f64.powi(decade), x(10f64.powi(decade)));
        let _ = writeln!(
            svg,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{seconds}</text>",
            bottom + 16.0
        );
    }
    for (at, tool) in times.tools.iter().enumerate() {
        let left = LEFT + at as f64 * 120.0;
        let _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"36\" width=\"12\" height=\"12\" fill=\"{}\"/><text x=\"{}\" y=\"46\">{}</text>",
            colour(at),
            left + 18.0,
            escaped(tool)
        );
    }
    for (row, (build, seconds)) in times.builds.iter().enumerate() {
        let top = TOP + row as f64 * group + GAP / 2.0;
        let middle = top + (group - GAP) / 2.0 + 4.0;
        let _ =
            writeln!(svg, "<text x=\"{}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>", LEFT - 8.0, escaped(build));
        for (at, &time) in seconds.iter().enumerate() {
            let y = top + at as f64 * BAR;
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{}\" fill=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{time}</text>",
                (x(time) - LEFT).max(1.0),
                BAR - 2.0,
                colour(at),
                x(time) + 5.0,
                y + 11.0
            );
        }
    }
    svg + "</svg>\n"
}

fn colour(at: usize) -> &'static str {
    COLOURS[at % COLOURS.len()]
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "Medians of 3\n\n| build | minibuild s | ninja s | ratio | minibuild cpu s | ninja MB |\n\
        |---|---:|---:|---:|---:|---:|\n| clean, 10 < 20 | 1.500 | 3.000 | 0.50 | 9 | 7 |\n| null | 0.020 | 0.2 | 0.1 | 9 | 7 |\n";

    #[test]
    fn times_are_found_in_a_table() {
        let times = read(TABLE).expect("a table");
        assert_eq!(times.tools, ["minibuild", "ninja"]);
        let builds = [("clean, 10 < 20".to_owned(), vec![1.5, 3.0]), ("null".to_owned(), vec![0.02, 0.2])];
        assert_eq!(times.builds, builds);
    }

    #[test]
    fn what_is_no_table_of_times_is_said() {
        for (text, part) in [
            ("", "no table"),
            ("| build | a |\n", "no column"),
            ("| build | a s |\n|---|---|\n", "no rows"),
            ("| build | a s |\n|---|---|\n| x | – |\n", "`–` of `x`"),
            ("| build | a s |\n|---|---|\n| x | 0 |\n", "`0` of `x`"),
        ] {
            let problem = read(text).expect_err(text);
            assert!(problem.contains(part), "{problem}");
        }
    }

    #[test]
    fn longer_times_have_longer_bars() {
        let svg = draw(&read(TABLE).expect("a table"));
        let bars: Vec<f64> = svg
            .lines()
            .filter(|line| line.contains("height=\"14\""))
            .filter_map(|line| line.split("width=\"").nth(1)?.split('"').next()?.parse().ok())
            .collect();
        assert_eq!(bars.len(), 4);
        assert!(bars[2] < bars[3] && bars[3] < bars[0] && bars[0] < bars[1], "{bars:?}");
        assert!(svg.contains("10 &lt; 20") && !svg.contains("NaN"));
    }
}
