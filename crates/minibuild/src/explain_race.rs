//! `minibuild explain --race`: how the sides of actions were chosen, and what is expected of them.

use std::fmt::Write as _;

use minibuild_core::{ActionId, Branch, BranchOutcome, DigestFunction};
use minibuild_dynamic::policy::{ActionHistory, History, MnemonicHistory, Running};
use minibuild_engine::state::{ActionRecord, SideRecord, State};
use minibuild_loader::Loaded;

use crate::answer_times::AnswerTimes;
use crate::remote_side;
use crate::workspace::{self, Workspace};

/// What the state knows of the sides of these actions.
///
/// # Errors
/// Where the state cannot be read, or the settings of the remote side are bad.
pub fn answer(
    workspace: &Workspace,
    loaded: &Loaded,
    actions: &[ActionId],
    function: DigestFunction,
) -> Result<String, String> {
    let state_dir = workspace.root.join(minibuild_core::STATE_ROOT);
    let mut state = State::look(&state_dir, &workspace::boot_id(), function)
        .map_err(|why| format!("cannot read the state in `{}`: {why}", state_dir.display()))?;
    let remote = remote_side::goals(&loaded.settings, function)?;
    let mut history = remote.map(|remote| state.store_id(&remote.store)).map(|store| match state.history(store) {
        Some(history) => history.clone(),
        None => History::default(),
    });
    if let (Some(history), Some(times)) = (&mut history, AnswerTimes::of(&loaded.settings.remote)) {
        history.endpoint.know_answer(times.read());
    }
    let mut text = String::new();
    for &action in actions {
        let model = &loaded.model;
        let mnemonic = &model.action(action).mnemonic;
        let path = model.action_key_path(action);
        let _ = writeln!(text, "{} {mnemonic} {path}", model.label_of(action));
        write_action(&mut text, state.action(&path), mnemonic, history.as_ref());
        text.push('\n');
    }
    if let Some(history) = &history {
        write_endpoint(&mut text, history);
    }
    Ok(text)
}

fn write_action(text: &mut String, record: Option<&ActionRecord>, mnemonic: &str, history: Option<&History>) {
    let times = record.map(|record| record.times).unwrap_or_default();
    let _ = writeln!(text, "  known of it: {}", times_text(&times));
    if let Some(like) = history.and_then(|history| history.mnemonics.get(mnemonic)) {
        let _ = writeln!(text, "  known of all {mnemonic} actions: {}", likes_text(like));
    }
    match record.map(|record| &record.sides[..]).unwrap_or_default() {
        [] => text.push_str(
            "  its last run left no choice: a cache had it, it was not run yet, or one side only may run it\n",
        ),
        sides => {
            text.push_str("  its last run:\n");
            text.extend(sides.iter().map(side_text));
        }
    }
}

fn side_text(side: &SideRecord) -> String {
    let name = if side.branch == Branch::Local { "local " } else { "remote" };
    let outcome = match side.outcome {
        BranchOutcome::Won => "won",
        BranchOutcome::Lost => "lost",
        BranchOutcome::Failed => "failed",
        BranchOutcome::Stopped => "was stopped",
    };
    format!("    {name} {outcome} after {} ms; it was started because: {}\n", side.ms, side.reason)
}

fn times_text(times: &ActionHistory) -> String {
    let known = [
        (times.local_ms, "ms", "here"),
        (times.exec_ms, "ms", "on a worker"),
        (times.download_ms, "ms", "to bring its outputs"),
        (times.rss_mib, "MiB", "of memory here"),
    ];
    let known: Vec<String> =
        known.iter().filter(|(n, ..)| *n > 0).map(|(n, unit, what)| format!("{n} {unit} {what}")).collect();
    if known.is_empty() { "nothing".to_owned() } else { known.join(", ") }
}

fn likes_text(like: &MnemonicHistory) -> String {
    let known = [(&like.local, "here"), (&like.exec, "on a worker"), (&like.download, "to bring outputs")];
    let known: Vec<String> = known.iter().filter_map(|(times, what)| mean_text(times, what)).collect();
    if known.is_empty() { "nothing".to_owned() } else { known.join(", ") }
}

fn mean_text(times: &Running, what: &str) -> Option<String> {
    let mean = times.get()?;
    Some(format!("{:.0} ms {what} (mean of {})", mean * 1e3, times.count))
}

fn write_endpoint(text: &mut String, history: &History) {
    let of = &history.endpoint;
    let mut known: Vec<String> = [(&of.answer, "to answer a look-up"), (&of.overhead, "for calls and sending")]
        .iter()
        .filter_map(|(times, what)| mean_text(times, what))
        .collect();
    known.extend(mean_text(&of.queue, "of waiting for a worker"));
    known.extend(of.ratio.get().map(|ratio| format!("a worker takes {ratio:.2} of the time an action takes here")));
    if of.workers > 0.0 {
        known.push(format!("{:.0} workers were seen at once while actions waited", of.workers));
    }
    if !known.is_empty() {
        let _ = writeln!(text, "Known of the remote side: {}.", known.join("; "));
    }
}
