//! What has to hold after a build: its exit code can be explained, and what it announced is what the sources say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use minibuild_testkit::{Ending, Entry, Event, Output, Run, Workspace};

use super::definition::{TargetDefinition, TargetShape};
use super::disturbance::FOREIGN_LINK;
use super::expected::{BuildInputs, ExpectedEntry, ExpectedFile, FactTable, hex_digest};
use super::faults::FaultExcuses;
use super::request::{BuildRequest, DownloadMode};

const STAGING: &str = "minibuild-out/.state/staging";
const TRASH: &str = "minibuild-out/.state/trash";

/// What else may have happened to a build.
#[derive(Clone, Copy, Debug, Default)]
pub struct BuildExcuses {
    pub faults: FaultExcuses,
    /// It was sent a signal.
    pub is_interrupted: bool,
    /// Its disk may be full.
    pub may_be_full: bool,
    /// Sources changed while it ran: what it made is looked at after the next build.
    pub has_edits: bool,
}

/// One build that is over.
pub struct BuildCheck<'a> {
    pub inputs: BuildInputs<'a>,
    pub ws: &'a Workspace,
    pub request: &'a BuildRequest,
    pub excuses: BuildExcuses,
}

/// What a build said of its outputs, by path.
type AnnouncedOutputs = BTreeMap<String, Output>;

impl BuildCheck<'_> {
    /// What is wrong with the outputs that the build announced.
    pub fn content_problems(&self, run: &Run) -> Vec<String> {
        let succeeded = self.succeeded(run);
        let announced = announced_outputs(run);
        let mut problems = self.announcement_problems(run, &succeeded);
        problems.extend(self.wrong_contents(run, &announced, &succeeded));
        problems.extend(self.presence_problems(run, &announced));
        problems
    }

    /// The exit codes that the sources and what happened allow.
    fn allowed_codes(&self) -> BTreeSet<i32> {
        let closure = self.closure(&self.request.roots);
        let fails = closure.iter().any(|&number| self.inputs.fails(number));
        let is_bad = self.request.is_test && self.request.roots.iter().any(|&root| self.inputs.has_bad_verdict(root));
        let is_test = |root: &usize| self.inputs.targets[*root].shape == TargetShape::Test;
        let mut codes = BTreeSet::new();
        codes.insert(match (fails, is_bad) {
            _ if self.request.is_test && !self.request.roots.iter().any(is_test) => 4,
            (true, _) => 1,
            (false, true) => 3,
            (false, false) => 0,
        });
        let needs_server = self.request.needs_server
            || closure.iter().any(|&number| self.inputs.targets[number].tags.contains(&"no-local"));
        codes.extend((needs_server && self.excuses.faults.may_break).then_some(34));
        codes.extend((needs_server && self.excuses.faults.may_lose).then_some(39));
        codes.extend(self.excuses.is_interrupted.then_some(8));
        codes.extend(self.excuses.may_be_full.then_some(1));
        if self.excuses.has_edits {
            codes.extend([0, 1, 3]);
        }
        codes
    }

    /// Whether the exit code can be explained.
    pub fn code_problems(&self, run: &Run) -> Vec<String> {
        let allowed = self.allowed_codes();
        let mut problems = Vec::new();
        match run.ending {
            Ending::Exited(code) if allowed.contains(&code) => {}
            Ending::Signalled(9) if self.excuses.is_interrupted => {}
            // A signal may come before the program listens for any.
            Ending::Signalled(1 | 2 | 15) if self.excuses.is_interrupted && run.stderr.is_empty() => {}
            ending => problems.push(format!("it ended with {ending:?}, explicable are {allowed:?}")),
        }
        let is_full = run.stderr.contains("No space left on device") || run.stderr.contains("disk is full");
        if self.excuses.may_be_full
            && run.ending == Ending::Exited(1)
            && !is_full
            && !run.stderr.contains("told to fail")
        {
            problems.push("it failed, and does not say that the disk is full".to_owned());
        }
        problems
    }

    /// All targets whose actions the build needs: `build` makes nothing of a test.
    fn closure(&self, roots: &[usize]) -> BTreeSet<usize> {
        let is_made = |root: &usize| self.request.is_test || self.inputs.targets[*root].shape != TargetShape::Test;
        self.inputs.closure(&roots.iter().copied().filter(is_made).collect::<Vec<_>>())
    }

    fn number(&self, label: &str) -> Option<usize> {
        self.inputs.targets.iter().position(|target| target.label() == label)
    }

    /// Numbers of the requested targets that were announced as successes.
    fn succeeded(&self, run: &Run) -> Vec<usize> {
        let targets = run.targets().into_iter().filter(|(_, success)| *success);
        targets.filter_map(|(label, _)| self.number(label)).collect()
    }

    /// A requested target is announced unless something it needs fails or the build was ended early.
    fn announcement_problems(&self, run: &Run, succeeded: &[usize]) -> Vec<String> {
        let fails = |root: usize| self.closure(&[root]).into_iter().any(|number| self.inputs.fails(number));
        let is_complete = match run.ending {
            Ending::Exited(0) => true,
            Ending::Exited(1 | 3) => self.request.keeps_going && !self.excuses.may_be_full,
            _ => false,
        };
        let mut problems = Vec::new();
        for &root in &self.request.roots {
            let name = self.inputs.targets[root].label();
            match (succeeded.contains(&root), fails(root)) {
                (true, true) => problems.push(format!("{name} is announced, and its commands fail")),
                (false, false) if is_complete && !self.request.is_test => {
                    problems.push(format!("{name} is not announced"));
                }
                _ => {}
            }
        }
        problems
    }

    /// Each output of what was announced, and all that it was made of, says what it has to.
    fn wrong_contents(&self, run: &Run, announced: &AnnouncedOutputs, succeeded: &[usize]) -> Vec<String> {
        let mut facts = FactTable::of_sources(self.inputs.sources);
        let mut problems = Vec::new();
        let (incomplete, repeated) = (incomplete_actions(run), repeated_actions(run));
        // A build that ends at its first failure need not get to the readers of what it made again.
        let is_cut_short = run.ending != Ending::Exited(0) && !self.request.keeps_going;
        let reads_repeated = |number: usize| {
            self.inputs.closure(&[number]).into_iter().any(|at| repeated.contains(&self.inputs.targets[at].label()))
        };
        for number in self.closure(succeeded) {
            let target = &self.inputs.targets[number];
            // A run that made lost bytes again, and failed or was stopped, leaves what it wrote to be looked at.
            let is_open = incomplete.contains(&target.label()) || is_cut_short && reads_repeated(number);
            if target.is_made() && !is_open {
                let is_required = self.is_required(run, succeeded.contains(&number));
                problems.extend(self.target_problems(number, announced, is_required, &mut facts));
            }
        }
        problems
    }

    /// Whether a target's outputs have to be on disk; `is_root` says that it was asked for.
    fn is_required(&self, run: &Run, is_root: bool) -> bool {
        // Such a build says what could not be brought to the disk, or ends at the first failure.
        let is_cut_short = run.ending != Ending::Exited(0) && (self.excuses.may_be_full || !self.request.keeps_going);
        match self.request.download {
            DownloadMode::All => is_root || !is_cut_short,
            DownloadMode::Toplevel => is_root,
            DownloadMode::Minimal => false,
        }
    }

    fn target_problems(
        &self,
        number: usize,
        announced: &AnnouncedOutputs,
        is_required: bool,
        facts: &mut FactTable,
    ) -> Vec<String> {
        let mut problems = Vec::new();
        let target = &self.inputs.targets[number];
        for path in target.outputs() {
            let Some(output) = announced.get(&path).filter(|output| output.kind == "file") else { continue };
            let hash = output.digest.split('/').next().unwrap_or_default();
            // Nothing is known of it yet: the first to tell cannot be wrong.
            let _ = facts.learn_digest(&path, hash);
        }
        // Of a tree that nothing asked for a part may lie there.
        for entry in self.inputs.entries(number, facts) {
            if let Err(problem) = self.check_entry(&entry, is_required, facts) {
                problems.push(format!("{}: {problem}", target.label()));
            }
        }
        if target.shape == TargetShape::Tree {
            problems.extend(self.surplus_entries(number, facts));
        }
        // What was learnt from those on disk may tell all of those that are not.
        for entry in self.inputs.entries(number, facts) {
            if let ExpectedEntry::File(file) = entry
                && let Err(problem) = self.check_absent(&file, facts)
            {
                problems.push(format!("{}: {problem}", target.label()));
            }
        }
        problems
    }

    fn is_there(&self, path: &str) -> bool {
        fs::symlink_metadata(self.ws.path(path)).is_ok()
    }

    fn check_entry(&self, entry: &ExpectedEntry, is_required: bool, facts: &mut FactTable) -> Result<(), String> {
        let (ExpectedEntry::File(ExpectedFile { path, .. })
        | ExpectedEntry::Symlink(path, _)
        | ExpectedEntry::Directory(path)) = entry;
        let Ok(metadata) = fs::symlink_metadata(self.ws.path(path)) else {
            return if is_required { Err(format!("{path} is not there")) } else { Ok(()) };
        };
        match entry {
            ExpectedEntry::Directory(_) if metadata.is_dir() => Ok(()),
            ExpectedEntry::Symlink(_, text) => match fs::read_link(self.ws.path(path)) {
                Ok(found) if found.to_string_lossy() == *text => Ok(()),
                other => Err(format!("{path} is {other:?} instead of a symlink to {text}")),
            },
            ExpectedEntry::File(file) if metadata.is_file() => {
                let mode = metadata.permissions().mode();
                if (mode & 0o111 != 0) != file.is_executable || mode & 0o222 != 0 {
                    return Err(format!("{path} has mode {mode:o}"));
                }
                let bytes = fs::read(self.ws.path(path)).map_err(|error| format!("cannot read {path}: {error}"))?;
                file.compare(&bytes, facts).map_err(|problem| format!("{path}, {problem}"))
            }
            _ => Err(format!("{path} is something else: {:?}", metadata.file_type())),
        }
    }

    fn check_absent(&self, file: &ExpectedFile, facts: &mut FactTable) -> Result<(), String> {
        if self.is_there(&file.path) {
            return Ok(());
        }
        let Some(bytes) = file.render() else { return Ok(()) };
        file.compare(&bytes, facts).map_err(|problem| format!("{} is not here, {problem}", file.path))
    }

    /// Entries of a tree that its command did not make.
    fn surplus_entries(&self, number: usize, facts: &FactTable) -> Vec<String> {
        let root = self.inputs.targets[number].outputs().remove(0);
        let made: BTreeSet<String> = self.inputs.entries(number, facts).iter().map(entry_path).collect();
        let found = self.ws.snapshot(&root);
        let paths = found.keys().map(|name| format!("{root}/{name}"));
        paths.filter(|path| !made.contains(path)).map(|path| format!("{path} should not be there")).collect()
    }

    /// Announced outputs are on disk as announced, or absent as announced.
    fn presence_problems(&self, run: &Run, announced: &AnnouncedOutputs) -> Vec<String> {
        let mut problems = Vec::new();
        let incomplete = incomplete_actions(run);
        let is_incomplete = |output: &Output| {
            let mut makers = self.inputs.targets.iter().filter(|target| target.outputs().contains(&output.path));
            makers.any(|maker| incomplete.contains(&maker.label()))
        };
        for event in &run.events {
            let Event::TargetCompleted { label, success: true, outputs } = event else { continue };
            let outputs = outputs.iter().filter(|output| output.path.starts_with("minibuild-out/"));
            // A run that was to make one again was stopped since the build fails: nothing is left of either.
            for output in outputs.filter(|output| !is_incomplete(output)) {
                problems.extend(self.output_problem(output, announced).map(|problem| format!("{label}: {problem}")));
            }
        }
        problems
    }

    fn output_problem(&self, output: &Output, announced: &AnnouncedOutputs) -> Option<String> {
        let path = &output.path;
        let is_present = output.present == Some(true);
        // What an announced target is made of may be made again for another one, and a random command makes something else
        // then: whoever read it runs again.
        let last = announced.get(path).map_or(&output.digest, |last| &last.digest);
        let is_random = self.inputs.targets.iter().any(|target| target.is_random);
        if *last != output.digest && !is_random {
            return Some(format!("{path} is announced with {} and was made with {last}", output.digest));
        }
        // What was announced as absent may have come later, as an input of another action; what was present and nobody asked
        // for is not brought back where it is made again.
        let is_elsewhere_now = *last != output.digest && self.request.download == DownloadMode::Minimal;
        if is_present && !is_elsewhere_now && !self.is_there(path) {
            return Some(format!("{path} is announced as present, and is not there"));
        }
        if !is_present || output.kind != "file" || !self.is_there(path) {
            return None;
        }
        let bytes = fs::read(self.ws.path(path)).unwrap_or_default();
        let digest = format!("{}/{}", hex_digest(&bytes), bytes.len());
        (digest != *last).then(|| format!("{path} is to have {last}, on disk is {digest}"))
    }

    /// What lies among the outputs, and no target declares.
    pub fn leftovers(&self, run: &Run) -> Vec<String> {
        if run.ending != Ending::Exited(0) || !self.request.loads_all() {
            return Vec::new();
        }
        self.stray_outputs()
    }

    /// What a build that ended by itself left in the directory for what is on its way to a place.
    pub fn stray_files(&self, run: &Run) -> Vec<String> {
        // Where a signal came at the end, the next build deletes it.
        if run.ending != Ending::Exited(0) || self.excuses.is_interrupted {
            return Vec::new();
        }
        left_in(self.ws, STAGING)
    }

    fn stray_outputs(&self) -> Vec<String> {
        let edits = &self.inputs.sources.targets;
        let is_declared = |target: &TargetDefinition, path: &str| {
            !edits[target.number].is_dropped
                && target.outputs().iter().any(|output| {
                    path.strip_prefix(output.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                })
        };
        let mut problems = Vec::new();
        for (name, entry) in self.ws.outputs() {
            let path = format!("minibuild-out/bin/{name}");
            // What was laid where nothing had been made yet is not known to be an output.
            let is_foreign = entry == Entry::Symlink(FOREIGN_LINK.to_owned());
            if entry != Entry::Directory
                && !is_foreign
                && !self.inputs.targets.iter().any(|target| is_declared(target, &path))
            {
                problems.push(format!("{path} is left, and no target declares it"));
            }
        }
        problems
    }
}

/// What lies in a directory of the state, as problems.
fn left_in(ws: &Workspace, dir: &str) -> Vec<String> {
    ws.snapshot(dir).into_keys().map(|name| format!("{dir}/{name} is left")).collect()
}

/// What `clean`, which waits until all is deleted, left of what was on its way to a place or out of it.
pub fn left_after_clean(ws: &Workspace) -> Vec<String> {
    [STAGING, TRASH].iter().flat_map(|dir| left_in(ws, dir)).collect()
}

fn entry_path(entry: &ExpectedEntry) -> String {
    match entry {
        ExpectedEntry::File(file) => file.path.clone(),
        ExpectedEntry::Symlink(path, _) | ExpectedEntry::Directory(path) => path.clone(),
    }
}

/// Labels of the actions whose last run failed or was stopped.
fn incomplete_actions(run: &Run) -> BTreeSet<String> {
    let mut incomplete = BTreeSet::new();
    for event in &run.events {
        match event {
            Event::ActionStarted { label, .. } | Event::ActionCompleted { label, success: false, .. } => {
                incomplete.insert(label.clone());
            }
            Event::ActionCompleted { label, success: true, .. } => drop(incomplete.remove(label)),
            _ => {}
        }
    }
    incomplete
}

/// Labels of the actions that were completed more than once: lost bytes were made again.
fn repeated_actions(run: &Run) -> BTreeSet<String> {
    let (mut completed, mut repeated) = (BTreeSet::new(), BTreeSet::new());
    for event in &run.events {
        if let Event::ActionCompleted { label, success: true, .. } = event
            && !completed.insert(label.clone())
        {
            repeated.insert(label.clone());
        }
    }
    repeated
}

/// The last that the build said of each output.
fn announced_outputs(run: &Run) -> AnnouncedOutputs {
    let mut announced = AnnouncedOutputs::new();
    for event in &run.events {
        if let Event::ActionCompleted { success: true, outputs, .. } = event {
            announced.extend(outputs.iter().map(|output| (output.path.clone(), output.clone())));
        }
    }
    announced
}
