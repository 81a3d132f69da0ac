//! What the progress display says: texts from counts and from what runs. It knows no terminal.

use std::time::Duration;

use minibuild_core::{Branch, RemoteStage};
use minibuild_engine::machine::{Progress, RunningAction};

/// Running actions that are named; of the others the number is.
const NAMED: usize = 6;
/// Cells of the bar.
const WIDTH: u64 = 40;

/// The bar in three parts – done, could run or runs, unknown – and what runs with its time.
pub fn bar_text(now: Duration, progress: Progress, running: &[RunningAction]) -> String {
    let Progress { total, done, queued, .. } = progress;
    let cells = |count: u64| (count * WIDTH).checked_div(total).unwrap_or(0);
    let full = cells(done);
    let ready = cells(done + queued + progress.running).max(full) - full;
    let rest = WIDTH.saturating_sub(full + ready);
    let repeat = |what: &str, count: u64| what.repeat(usize::try_from(count).unwrap_or(0));
    let mut text =
        format!("[{}{}{}] {done}/{total} {}", repeat("#", full), repeat(">", ready), repeat(".", rest), seconds(now));
    text.push_str(&transfers(progress));
    for action in running.iter().take(NAMED) {
        text.push_str(&format!("\n  {}", describe(now, action, "")));
    }
    if running.len() > NAMED {
        text.push_str(&format!("\n  and {} more", running.len() - NAMED));
    }
    text
}

/// One line for where there is no bar.
pub fn line_text(now: Duration, progress: Progress, running: &[RunningAction]) -> String {
    let first = running.first().map(|action| format!(", {}", describe(now, action, "for ")));
    let Progress { done, total, running, .. } = progress;
    format!("[{done}/{total}] {running} running{}{}", first.unwrap_or_default(), transfers(progress))
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

fn transfers(progress: Progress) -> String {
    let mut text = String::new();
    if progress.fetching > 0 {
        text.push_str(&format!(", {} downloading", progress.fetching));
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
    use super::*;

    fn action(label: &str, side: Branch, stage: Option<RemoteStage>) -> RunningAction {
        let since = Duration::from_secs(1);
        RunningAction { label: label.to_owned(), mnemonic: "Cc".to_owned(), since, side, stage }
    }

    #[test]
    fn the_bar_has_three_parts_and_names_what_runs() {
        let progress = Progress { total: 40, done: 10, running: 1, queued: 9, ..Default::default() };
        let running: Vec<_> = (0..8).map(|i| action(&format!("//x:{i}"), Branch::Local, None)).collect();
        let text = bar_text(Duration::from_secs(3), progress, &running);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], format!("[{}{}{}] 10/40 3s", "#".repeat(10), ">".repeat(10), ".".repeat(20)));
        assert_eq!(lines[1], "  //x:0 (Cc) 2s");
        assert_eq!(lines.last(), Some(&"  and 2 more"));
        assert!(bar_text(Duration::ZERO, Progress::default(), &[]).starts_with("[...."));
    }

    #[test]
    fn remote_actions_say_what_is_done_for_them() {
        let check = |stage, expected: &str| {
            let progress = Progress { total: 2, running: 1, fetching: 3, uploading: 1, ..Default::default() };
            let text = line_text(Duration::from_secs(4), progress, &[action("//x", Branch::Remote, stage)]);
            assert_eq!(text, format!("[0/2] 1 running, //x (Cc{expected}) for 3s, 3 downloading, 1 uploading"));
        };
        check(None, ", remote");
        check(Some(RemoteStage::Uploading(2, 5)), ", uploading 2 of 5");
        check(Some(RemoteStage::Queued), ", queued remotely");
        check(Some(RemoteStage::Running), ", running remotely");
    }
}
