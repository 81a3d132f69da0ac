//! What the progress display says: texts from counts and from what runs. It knows no terminal.

use std::collections::VecDeque;
use std::time::Duration;

use indicatif::HumanBytes;
use minibuild_core::{Branch, RemoteStage};
use minibuild_engine::machine::{Progress, RunningAction};

/// Running actions that are named; of the others the number is.
const NAMED: usize = 6;
/// Time over which a rate is taken.
const RATE_OVER: Duration = Duration::from_secs(3);
/// Cells of the bar, at most and at least; a terminal that is narrower gets none.
const CELLS: (usize, usize) = (40, 8);

/// How many bytes come in a second, from how many came so far.
#[derive(Debug, Default)]
pub struct Rate {
    /// Looks of the last seconds, oldest first.
    looks: VecDeque<(Duration, u64)>,
}

impl Rate {
    /// The rate of the last seconds; zero after the first look.
    pub fn at(&mut self, now: Duration, received: u64) -> u64 {
        self.looks.push_back((now, received));
        while self.looks.len() > 2 && self.looks[1].0 + RATE_OVER <= now {
            self.looks.pop_front();
        }
        let (since, before) = self.looks.front().copied().unwrap_or_default();
        let time = now.saturating_sub(since).as_secs_f64();
        if time > 0.0 { (received.saturating_sub(before) as f64 / time) as u64 } else { 0 }
    }
}

/// Returns the bar in three parts – done, could run or runs, unknown – and the running actions with their times, in lines of at
/// most `columns` characters.
pub fn bar_text(now: Duration, progress: Progress, rate: u64, running: &[RunningAction], columns: usize) -> String {
    let Progress { total, done, .. } = progress;
    let counts = format!("{done}/{total} {}{}", seconds(now), transfers(progress, rate));
    let room = columns.saturating_sub(counts.chars().count() + "[] ".len());
    let mut lines = Vec::new();
    match room.min(CELLS.0) {
        width if width < CELLS.1 => lines.push(counts),
        width => lines.push(format!("{} {counts}", cells(progress, width))),
    }
    lines.extend(running.iter().take(NAMED).map(|action| format!("  {}", describe(now, action, ""))));
    if running.len() > NAMED {
        lines.push(format!("  and {} more", running.len() - NAMED));
    }
    let cut = |line: &String| line.chars().take(columns).collect::<String>();
    lines.iter().map(cut).collect::<Vec<_>>().join("\n")
}

fn cells(progress: Progress, width: usize) -> String {
    let Progress { total, done, queued, running, .. } = progress;
    let width = width as u64;
    let cells = |count: u64| (count * width).checked_div(total).unwrap_or(0);
    let full = cells(done);
    let ready = cells(done + queued + running).max(full) - full;
    let rest = width.saturating_sub(full + ready);
    let repeat = |what: &str, count: u64| what.repeat(usize::try_from(count).unwrap_or(0));
    format!("[{}{}{}]", repeat("#", full), repeat(">", ready), repeat(".", rest))
}

/// One line for where there is no bar.
pub fn line_text(now: Duration, progress: Progress, rate: u64, running: &[RunningAction]) -> String {
    let first = running.first().map(|action| format!(", {}", describe(now, action, "for ")));
    let Progress { done, total, running, .. } = progress;
    format!("[{done}/{total}] {running} running{}{}", first.unwrap_or_default(), transfers(progress, rate))
}

fn describe(now: Duration, action: &RunningAction, for_: &str) -> String {
    let RunningAction { label, mnemonic, since, side, stage } = action;
    let what = match (side, stage) {
        (Branch::Local, _) => String::new(),
        (Branch::Remote, None) => ", remote".to_owned(),
        (Branch::Remote, Some(RemoteStage::CheckingCache)) => ", checking cache".to_owned(),
        (Branch::Remote, Some(RemoteStage::Uploading(done, all))) => format!(", uploading {done} of {all}"),
        (Branch::Remote, Some(RemoteStage::Queued)) => ", queued remotely".to_owned(),
        (Branch::Remote, Some(RemoteStage::Running)) => ", running remotely".to_owned(),
        (Branch::Remote, Some(RemoteStage::Downloading)) => ", downloading".to_owned(),
    };
    format!("{label} ({mnemonic}{what}) {for_}{}", seconds(now.saturating_sub(*since)))
}

fn transfers(progress: Progress, rate: u64) -> String {
    let mut text = String::new();
    if progress.fetching > 0 {
        let Progress { fetching, files, bytes, .. } = progress;
        text.push_str(&format!(
            ", {fetching} downloading ({}/{} files of {}, {}/s)",
            files.done,
            files.all,
            HumanBytes(bytes.all),
            HumanBytes(rate)
        ));
    }
    if progress.uploading > 0 {
        text.push_str(&format!(", {} uploading", progress.uploading));
    }
    text
}

fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs())
}

#[cfg(test)]
mod tests {
    use minibuild_engine::machine::Share;

    use super::*;

    #[test]
    fn rates_are_of_the_last_seconds() {
        let (mut rate, at) = (Rate::default(), Duration::from_millis);
        assert_eq!(rate.at(at(0), 50), 0);
        assert_eq!(rate.at(at(1000), 1050), 1000);
        assert_eq!(rate.at(at(2000), 5050), 2500);
        assert_eq!(rate.at(at(4000), 5050), 1333, "of the last three seconds");
        assert_eq!(rate.at(at(9000), 5050), 0);
    }

    fn action(label: &str, side: Branch, stage: Option<RemoteStage>) -> RunningAction {
        let since = Duration::from_secs(1);
        RunningAction { label: label.to_owned(), mnemonic: "Cc".to_owned(), since, side, stage }
    }

    #[test]
    fn the_bar_has_three_parts_and_names_what_runs() {
        let progress = Progress { total: 40, done: 10, running: 1, queued: 9, ..Default::default() };
        let running: Vec<_> = (0..8).map(|i| action(&format!("//x:{i}"), Branch::Local, None)).collect();
        let text = bar_text(Duration::from_secs(3), progress, 0, &running, 80);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], format!("[{}{}{}] 10/40 3s", "#".repeat(10), ">".repeat(10), ".".repeat(20)));
        assert_eq!(lines[1], "  //x:0 (Cc) 2s");
        assert_eq!(lines.last(), Some(&"  and 2 more"));
        assert!(bar_text(Duration::ZERO, Progress::default(), 0, &[], 80).starts_with("[...."));
    }

    #[test]
    fn bar_shrinks_with_terminal_and_no_line_is_wider() {
        let progress = Progress { total: 40, done: 20, running: 1, ..Default::default() };
        let running = [action("//a/rather/long/package:and_a_long_name", Branch::Local, None)];
        let bar = |columns| bar_text(Duration::from_secs(3), progress, 0, &running, columns);
        for columns in 0..90 {
            assert!(bar(columns).lines().all(|line| line.chars().count() <= columns), "{columns}");
        }
        assert!(bar(30).starts_with("[#########..........] 20/40 3s\n"), "{}", bar(30));
        assert!(bar(12).starts_with("20/40 3s\n"), "{}", bar(12));
    }

    #[test]
    fn remote_actions_say_what_is_done_for_them() {
        let check = |stage, expected: &str| {
            let progress = Progress {
                total: 2,
                running: 1,
                fetching: 3,
                files: Share { done: 4, all: 9 },
                bytes: Share { done: 0, all: 3 << 20 },
                uploading: 1,
                ..Default::default()
            };
            let text = line_text(Duration::from_secs(4), progress, 1 << 19, &[action("//x", Branch::Remote, stage)]);
            let transfers = "3 downloading (4/9 files of 3.00 MiB, 512.00 KiB/s), 1 uploading";
            assert_eq!(text, format!("[0/2] 1 running, //x (Cc{expected}) for 3s, {transfers}"));
        };
        check(None, ", remote");
        check(Some(RemoteStage::Uploading(2, 5)), ", uploading 2 of 5");
        check(Some(RemoteStage::Queued), ", queued remotely");
        check(Some(RemoteStage::Running), ", running remotely");
    }
}
