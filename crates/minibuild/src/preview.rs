//! What a build would do, for `explain` and `--dry-run`: asks the engine and puts its answers in words.

use minibuild_core::{DigestFunction, Model};
use minibuild_engine::build_error::BuildError;
use minibuild_engine::machine::{Foreseen, Goals, Maybe, Verdict};
use minibuild_engine::preview::Preview;
use minibuild_graph::HostFacts;
use minibuild_loader::{ExternalLinks, Loaded};

use crate::workspace::{self, Workspace};

/// What would become of each action that `goals` need.
///
/// # Errors
/// Where the state cannot be read.
pub fn foresee(
    workspace: &Workspace,
    loaded: &Loaded,
    goals: Goals,
    function: DigestFunction,
) -> Result<Vec<Foreseen>, BuildError> {
    let settings = &loaded.settings;
    let host = workspace::host();
    let preview = Preview {
        root: &workspace.root,
        state_dir: &workspace.root.join(minibuild_core::STATE_ROOT),
        model: loaded.model.clone(),
        commands: loaded.commands.clone(),
        goals,
        host: HostFacts { os: host.os, isa: host.arch, salt: settings.salt.clone(), function },
        env: &settings.env,
        follow_external: settings.external_links == ExternalLinks::Follow,
        ignored: &settings.ignore,
        boot_id: &workspace::boot_id(),
        threads: workspace::cores(),
        stored: minibuild_store::stored(&workspace.root, function),
    };
    preview.foresee()
}

/// Counts of actions by what would become of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Those whose result is known.
    pub up_to_date: u64,
    /// Those that would run.
    pub run: u64,
    /// Those that would if an input comes out different.
    pub may_run: u64,
    /// Those that could not run.
    pub fail: u64,
}

impl Counts {
    /// The counts of a list.
    pub fn of(list: &[Foreseen]) -> Self {
        let mut counts = Self::default();
        for foreseen in list {
            *match foreseen.verdict {
                Verdict::UpToDate(_) => &mut counts.up_to_date,
                Verdict::Runs(_) => &mut counts.run,
                Verdict::MayRun(_) => &mut counts.may_run,
                Verdict::Fails(_) => &mut counts.fail,
            } += 1;
        }
        counts
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.up_to_date + self.run + self.may_run + self.fail
    }

    /// `12 actions: 4 up to date, 3 would run, 5 may run.`
    pub fn text(&self) -> String {
        let named = [
            (self.up_to_date, "up to date"),
            (self.run, "would run"),
            (self.may_run, "may run"),
            (self.fail, "cannot run"),
        ];
        let parts: Vec<String> = named.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
        let (total, s) = (self.total(), if self.total() == 1 { "" } else { "s" });
        format!("{total} action{s}{}{}.", if parts.is_empty() { "" } else { ": " }, parts.join(", "))
    }
}

/// One line about an action that would not be left alone.
pub fn line(model: &Model, foreseen: &Foreseen) -> Option<String> {
    let what = match &foreseen.verdict {
        Verdict::UpToDate(_) => return None,
        Verdict::Runs(why) => format!("would run: {}", why.in_short()),
        Verdict::MayRun(Maybe::Bytes(output, consumer)) => {
            let (path, label) = (&model.artifact(*output).path, model.label_of(*consumer));
            format!("may run: its output `{path}` is not on disk and `{label}`, which may run, would need it")
        }
        Verdict::MayRun(Maybe::Inputs(inputs)) => {
            let more = inputs.len().saturating_sub(1);
            let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
            let first = inputs.first().map(|&id| model.artifact(id).path.as_str()).unwrap_or_default();
            format!("may run: its input `{first}` is made anew{more}")
        }
        Verdict::Fails(why) => format!("cannot run: {why}"),
    };
    let mnemonic = &model.action(foreseen.action).mnemonic;
    Some(format!("{} ({mnemonic}) {what}", model.label_of(foreseen.action)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_name_only_what_there_is() {
        let check = |counts: Counts, expected: &str| assert_eq!(counts.text(), expected);
        check(Counts::default(), "0 actions.");
        check(Counts { run: 1, ..Default::default() }, "1 action: 1 would run.");
        let counts = Counts { up_to_date: 4, run: 3, may_run: 5, fail: 1 };
        check(counts, "13 actions: 4 up to date, 3 would run, 5 may run, 1 cannot run.");
    }
}
