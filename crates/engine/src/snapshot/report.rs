//! What is said of a build's targets that nothing concerned.

use minibuild_core::{ActionCounts, BuildEvent, Content, OutputEvent, Runner, TestStatus};
use rustc_hash::FxHashSet;

use super::rows::{NONE, PRESENT};
use super::tables::Section;
use super::{Doubt, Part, Snapshot};

/// What of a snapshot a part takes over.
pub struct Outside {
    /// By action: it is not the part's.
    is_outside: Vec<bool>,
    /// Sources with other content than the snapshot's.
    changed: FxHashSet<u32>,
}

impl Outside {
    /// Counts of the actions that are up to date.
    pub fn counts(&self) -> ActionCounts {
        let count = self.is_outside.iter().filter(|is| **is).count() as u64;
        ActionCounts { total: count, up_to_date: count, ..Default::default() }
    }
}

impl Snapshot {
    pub(super) fn mnemonic(&self, action: usize) -> Result<&str, Doubt> {
        let read = || self.numbers(Section::Mnemonics, self.actions());
        let ids = self.mnemonics.get_or_init(read).as_ref().ok_or(Doubt::Damaged)?;
        let id = *ids.get(action).ok_or(Doubt::Damaged)?;
        self.head.mnemonics.get(id as usize).map(String::as_str).ok_or(Doubt::Damaged)
    }

    /// What is left of the graph beside a part.
    pub fn outside(&self, part: Option<&Part>) -> Outside {
        let mut is_outside = vec![true; self.actions()];
        for &action in part.iter().flat_map(|part| &part.actions) {
            is_outside[action as usize] = false;
        }
        Outside { is_outside, changed: part.map(|part| part.sources.clone()).unwrap_or_default() }
    }

    /// Requested targets none of whose actions and sources is the part's.
    ///
    /// # Errors
    /// Where the snapshot does not check.
    pub fn untouched_goals(&self, outside: &Outside) -> Result<Vec<usize>, Doubt> {
        let (graph, goals) = (self.graph()?, self.goals()?);
        let is_outside = |action: u32| action == NONE || outside.is_outside[action as usize];
        let is_untouched = |goal: &usize| {
            is_outside(goals.tests[*goal])
                && goals
                    .items
                    .get(*goal)
                    .iter()
                    .all(|id| is_outside(graph.producers[*id as usize]) && !outside.changed.contains(id))
        };
        Ok((0..goals.items.len()).filter(is_untouched).collect())
    }

    /// Number of requested targets.
    ///
    /// # Errors
    /// Where the snapshot does not check.
    pub fn goal_count(&self) -> Result<usize, Doubt> {
        Ok(self.goals()?.items.len())
    }

    /// Whether tests are among what is asked for.
    ///
    /// # Errors
    /// Where the snapshot does not check.
    pub fn has_tests(&self) -> Result<bool, Doubt> {
        Ok(self.goals()?.tests.iter().any(|&test| test != NONE))
    }

    /// Tells of all that is up to date what the full way would: of actions of requested targets, or of all of them, and of the
    /// targets `goals`.
    ///
    /// # Errors
    /// Where the snapshot does not check; nothing was told then.
    pub fn events(&self, outside: &Outside, goals: &[usize], all_actions: bool) -> Result<Vec<BuildEvent>, Doubt> {
        let mut events = Vec::new();
        let is_told = self.told_actions(all_actions)?;
        let (graph, table) = (self.graph()?, self.goals()?);
        // A target is done with the last of its actions.
        let end = |goal: usize| {
            let producers = table.items.get(goal).iter().map(|&id| graph.producers[id as usize]);
            producers
                .chain([table.tests[goal]])
                .filter(|&action| action != NONE)
                .map(|action| action as usize + 1)
                .max()
        };
        let mut goals: Vec<(usize, usize)> = goals.iter().map(|&goal| (end(goal).unwrap_or_default(), goal)).collect();
        goals.sort_unstable();
        let mut goals = goals.into_iter().peekable();
        for done in 0..=self.actions() {
            if let Some(action) = done.checked_sub(1).filter(|&action| is_told[action] && outside.is_outside[action]) {
                events.push(self.completed(action)?);
                events.extend(self.cached_test(action)?);
            }
            while let Some((_, goal)) = goals.next_if(|(end, _)| *end <= done) {
                events.push(self.target(goal)?);
            }
        }
        Ok(events)
    }

    fn target(&self, goal: usize) -> Result<BuildEvent, Doubt> {
        let table = self.goals()?;
        let outputs = table.items.get(goal).iter().map(|&id| self.output(id as usize, true));
        Ok(BuildEvent::TargetCompleted {
            label: table.labels.get(table.targets[goal] as usize).to_owned(),
            success: true,
            outputs: outputs.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect(),
        })
    }

    fn told_actions(&self, all_actions: bool) -> Result<Vec<bool>, Doubt> {
        let mut is_told = vec![all_actions; self.actions()];
        let (graph, goals) = (self.graph()?, self.goals()?);
        for goal in 0..goals.items.len() {
            let producers = goals.items.get(goal).iter().map(|&id| graph.producers[id as usize]);
            for action in producers.chain([goals.tests[goal]]).filter(|&action| action != NONE) {
                is_told[action as usize] = true;
            }
        }
        Ok(is_told)
    }

    fn completed(&self, action: usize) -> Result<BuildEvent, Doubt> {
        let graph = self.graph()?;
        let outputs = graph.outputs.get(action).iter().map(|&id| self.output(id as usize, false));
        let label = self.goals()?.labels.get(graph.targets[action] as usize);
        Ok(BuildEvent::ActionCompleted {
            action: match graph.outputs.get(action).first() {
                Some(&output) => self.paths.get(output as usize).to_owned(),
                None => test_log(label),
            },
            label: label.to_owned(),
            mnemonic: self.mnemonic(action)?.to_owned(),
            success: true,
            runner: Runner::UpToDate,
            exit_code: 0,
            wall_ms: 0,
            reason: "its key is unchanged".to_owned(),
            outputs: outputs.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect(),
        })
    }

    /// Only tests have no outputs.
    fn cached_test(&self, action: usize) -> Result<Option<BuildEvent>, Doubt> {
        let graph = self.graph()?;
        if !graph.outputs.get(action).is_empty() {
            return Ok(None);
        }
        let label = self.goals()?.labels.get(graph.targets[action] as usize).to_owned();
        let log = test_log(&label);
        Ok(Some(BuildEvent::TestCompleted { label, status: TestStatus::Cached, attempt: 0, ms: 0, log }))
    }

    fn output(&self, index: usize, with_presence: bool) -> Result<Option<OutputEvent>, Doubt> {
        let content: Option<Content> = self.content(index)?;
        Ok(content.map(|content| {
            let (digest, size) = content.digest_and_size();
            OutputEvent {
                path: self.paths.get(index).to_owned(),
                kind: content.kind(),
                digest,
                size,
                present: with_presence.then_some(self.flags[index] & PRESENT != 0),
            }
        }))
    }
}

/// Where the log of a test lies: see [`minibuild_core::Model::test_log_path`].
pub(super) fn test_log(label: &str) -> String {
    let (package, name) = label.trim_start_matches('/').split_once(':').unwrap_or((label, ""));
    let slash = if package.is_empty() { "" } else { "/" };
    format!("{}/{package}{slash}{name}/test.log", minibuild_core::TEST_LOG_ROOT)
}
