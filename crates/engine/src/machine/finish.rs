//! What the end of a run means.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use minibuild_core::{
    ActionId, ArtifactId, Branch, CommandLine, Content, DownloadReason, ExecutionReport, Fingerprint, FoundOutput,
    Level, OutputMeta, PublishedOutput, Runner, TestStatus, WsPath,
};
use minibuild_dynamic::policy::{Ended, RemoteTimes};
use minibuild_dynamic::race::{FailureClass, Loser, Outcome, Winner};
use minibuild_graph::parse_depfile;

use super::fetch::fingerprint_of;
use super::race::Report;
use super::{MAX_ATTEMPTS, Machine, Made, Name, Running, Shown, Status, Step, Stopping};
use crate::state::{FileRecord, Origin, PrunedRecord, ResultRecord};

/// As many symlinks on one way as the kernel follows.
const MAX_LINKS: u32 = 40;

impl Machine {
    /// A race is over, and with it this go at the action.
    pub(super) fn finish_race(&mut self, action: ActionId, outcome: Outcome<Report>) {
        let Some(mut running) = self.running.remove(&action) else { return };
        let row = action.index();
        self.attempts[row] = running.race.next_attempt().0.max(self.attempts[row] + 1);
        self.end_choice(action, &running, &outcome);
        let is_found = !running.has_begun_a_run() && matches!(outcome, Outcome::Won { .. });
        self.runs[row] += u32::from(!is_found);
        let is_race = running.local.is_some() && running.remote.is_some();
        self.outcome.races.run += u64::from(is_race);
        match outcome {
            Outcome::Won { winner, loser, has_leftovers } => {
                if has_leftovers {
                    self.delete_leftovers(action, &running.published);
                }
                let races = &mut self.outcome.races;
                match winner.branch {
                    Branch::Local => races.local_won += u64::from(is_race),
                    Branch::Remote => races.remote_won += u64::from(is_race),
                }
                self.compare(action, &winner, &loser);
                if is_found && self.status_of(action) != Status::Running {
                    self.emit_action_started(action);
                }
                self.note_sides(action, &mut running, &winner);
                self.take_win(action, running, winner);
            }
            Outcome::Failed { first, second, has_leftovers } => {
                if has_leftovers {
                    self.delete_leftovers(action, &[]);
                }
                if running.is_refused && first.class < FailureClass::Command && self.runs[row] <= MAX_ATTEMPTS {
                    self.keep_failure(action, &running, [Some(first), second]);
                    self.take_refused(action);
                } else {
                    self.take_failures(action, running, first, second);
                }
            }
            Outcome::Stopped { has_leftovers, .. } => {
                if has_leftovers {
                    self.delete_leftovers(action, &[]);
                }
                self.take_stopped(action);
            }
            Outcome::Bug(what) => {
                self.outcome.internal = Some(format!("bug: {what}"));
                self.fail_without_run(action, what);
            }
        }
    }

    /// Tells the policy how it ended.
    fn end_choice(&mut self, action: ActionId, running: &Running, outcome: &Outcome<Report>) {
        let (how, times) = match outcome {
            Outcome::Won { winner, .. } if winner.branch == Branch::Remote && !winner.is_cached => {
                (Ended::Won, self.remote_times(running, winner.report.cost.wall))
            }
            Outcome::Won { .. } => (Ended::Lost, RemoteTimes::default()),
            Outcome::Failed { .. } => (Ended::Failed, RemoteTimes::default()),
            Outcome::Stopped { .. } | Outcome::Bug(_) => (Ended::Returned, RemoteTimes::default()),
        };
        self.close_choice(action, how, times);
    }

    /// Remembers how long the action took on the side that won, and how its sides were chosen.
    fn note_sides(&mut self, action: ActionId, running: &mut Running, winner: &Winner<Report>) {
        let model = Arc::clone(&self.model);
        let name = Name::of(&model, action);
        let mut times = self.state.action(&name.path).map(|known| known.times).unwrap_or_default();
        let cost = &winner.report.cost;
        match winner.branch {
            Branch::Local => times.record_local(cost.wall, cost.max_rss),
            Branch::Remote if winner.is_cached || winner.report.from_cache => {}
            Branch::Remote => {
                let took = self.remote_times(running, cost.wall);
                times.record_remote(took.exec, took.download);
            }
        }
        let has_choice = self.chooser.is_some() && self.sides(action).is_ok_and(|sides| sides.here && sides.there);
        let sides = if has_choice { std::mem::take(&mut running.ended) } else { Vec::new() };
        self.state.note_sides(name.as_ref(), times, sides);
    }

    fn take_win(&mut self, action: ActionId, mut running: Running, winner: Winner<Report>) {
        let read = running.run_mut(winner.branch).and_then(|run| run.read.take());
        let report = *winner.report;
        let runner = match winner.branch {
            Branch::Local => Runner::Local,
            Branch::Remote if winner.is_cached || report.from_cache => Runner::RemoteCache,
            Branch::Remote => Runner::Remote,
        };
        match winner.branch {
            Branch::Local => {
                self.upload_result(action, &running, &report);
                self.store_result(action, &running, &report);
            }
            Branch::Remote => self.take_published_outputs(action, &running.published, &report),
        }
        let mut made = running.made;
        if runner == Runner::RemoteCache {
            made.reason = "a remote cache had its result".to_owned();
        }
        self.succeed(action, made, report, read, runner);
    }

    /// What a run left could not be moved away, as was told. It is deleted where it lies, but for places that have been
    /// taken by what was published; should that fail, too, the next build looks again.
    fn delete_leftovers(&mut self, action: ActionId, published: &[PublishedOutput]) {
        self.littered.insert(action);
        let model = Arc::clone(&self.model);
        let places = model.action(action).outputs.iter().map(|&id| &model.artifact(id).path);
        let left = places.filter(|path| published.iter().all(|output| output.path != **path));
        self.steps.extend(left.cloned().map(Step::Delete));
    }

    /// What was staged lies in its places.
    fn take_published_outputs(&mut self, action: ActionId, published: &[PublishedOutput], report: &ExecutionReport) {
        let model = Arc::clone(&self.model);
        for output in published {
            let is_it = |id: &&ArtifactId| model.artifact(**id).path == output.path;
            let found = report.outputs.iter().find(|found| found.meta.path == output.path);
            let (Some(&id), Some(found)) = (model.action(action).outputs.iter().find(is_it), found) else { continue };
            let why = self.bytes.wanted(id).unwrap_or(DownloadReason::Toplevel);
            let content = found.meta.content.clone();
            self.put_here(id, content.clone(), fingerprint_of(&content, &output.stamps));
            self.count_files(&output.path, &content, why, output.copied);
            let record = FileRecord { content, stamps: output.stamps.clone(), origin: Origin::Brought(why) };
            self.state.record_file(&output.path, record);
        }
    }

    pub(super) fn take_stopped(&mut self, action: ActionId) {
        let model = Arc::clone(&self.model);
        self.state.record_stop(Name::of(&model, action).as_ref(), output_paths(&model, action));
        self.set_status(action, Status::Queued);
    }

    /// Where both branches came to their ends, whether they made the same.
    fn compare(&mut self, action: ActionId, winner: &Winner<Report>, loser: &Loser<Report>) {
        if !self.goals.dynamic.compares {
            return;
        }
        let Loser::Succeeded(other) = loser else { return };
        let label = self.model.label_of(action);
        let (here, there) = match winner.branch {
            Branch::Local => (&winner.report, other),
            Branch::Remote => (other, &winner.report),
        };
        let mut differences = Vec::new();
        for output in &here.outputs {
            let same = |o: &&FoundOutput| o.meta.path == output.meta.path;
            let found = there.outputs.iter().find(same).map(|o| &o.meta.content);
            if found != Some(&output.meta.content) {
                let there = found.map_or("nothing".to_owned(), |content| content.digest_and_size().0.to_string());
                let here = output.meta.content.digest_and_size().0;
                differences.push(format!("`{}` is {here} here and {there} remotely", output.meta.path));
            }
        }
        if !differences.is_empty() {
            let text = format!("`{label}` makes something else here than remotely: {}", differences.join("; "));
            self.message(Level::Warning, text);
        }
    }

    /// The result is known: takes it over, remembers it, tells everybody.
    pub(super) fn succeed(
        &mut self,
        action: ActionId,
        made: Made,
        report: ExecutionReport,
        read: Option<Vec<WsPath>>,
        runner: Runner,
    ) {
        let row = self.node(action);
        self.forced.remove(&action);
        self.earlier_failures.remove(&action);
        let is_outdated = self.outdated.remove(&action);
        let result = self.result_of(action, &made, &report, read.filter(|_| !is_outdated), runner);
        let changed = match runner {
            Runner::Local => self.take_outputs(action, &report.outputs),
            _ => {
                // A local run that was killed may have left one; those that end have none.
                let depfile = self.model.action(action).depfile.clone();
                self.steps.extend(depfile.map(Step::Discard));
                self.take_known_result(action, &result)
            }
        };
        if report.changed_inputs.is_empty() {
            self.unrecorded.remove(&action);
            self.record(action, result, &report);
        } else {
            self.unrecorded.insert(action);
            let names: Vec<String> = report.changed_inputs.iter().map(|p| format!("`{p}`")).collect();
            let label = self.model.label_of(action);
            let text =
                format!("{} changed while `{label}` ran; its result is used now and not remembered", names.join(", "));
            self.message(Level::Warning, text);
        }
        self.set_done(action, runner);
        if matches!(runner, Runner::Local | Runner::Remote) {
            self.chain[row] += report.cost.wall;
        }
        self.emit_completed(action, true, runner, 0, report.cost.wall, made.reason);
        self.finish_test(action, TestStatus::Passed, &report);
        if !report.stdout.is_empty() || !report.stderr.is_empty() {
            self.show(action, None, made.command, report);
        }
        let node = self.graph.node(action);
        self.after_done(action);
        for free in self.release(node) {
            self.settle(free);
        }
        if changed {
            self.reopen_consumers(action);
        }
        if is_outdated {
            self.reopen(action);
        }
    }

    /// Takes over what was made; true if a result that consumers may have used is no longer the same.
    fn take_outputs(&mut self, action: ActionId, found: &[FoundOutput]) -> bool {
        let mut changed = false;
        let model = Arc::clone(&self.model);
        for (&id, output) in model.action(action).outputs.iter().zip(found) {
            let fingerprint = fingerprint_of(&output.meta.content, &output.stamps);
            self.put_here(id, output.meta.content.clone(), fingerprint);
            changed |= self.learn(id, &output.meta.content, Some(fingerprint), false);
            // Also of a result that is not remembered: it is what lies there.
            let (content, stamps) = (output.meta.content.clone(), output.stamps.clone());
            let record = FileRecord { content, stamps, origin: Origin::Made };
            self.state.record_file(&output.meta.path, record);
        }
        changed
    }

    /// Takes over what an artifact is now; true if consumers may have used something else.
    pub(super) fn learn(
        &mut self,
        id: ArtifactId,
        content: &Content,
        on_disk: Option<Fingerprint>,
        is_remote: bool,
    ) -> bool {
        let known = &mut self.known[id.index()];
        let changed = known.as_ref().is_some_and(|old| old != content);
        if known.is_none() || changed {
            *known = Some(content.clone());
        }
        if changed {
            debug_assert!(!self.bytes.is_on_its_way(id), "bug: an output becomes another while it is fetched");
            self.generation += 1;
            self.roots.get_mut().forget();
        }
        self.bytes.set_place(id, on_disk, is_remote);
        changed
    }

    fn result_of(
        &mut self,
        action: ActionId,
        made: &Made,
        report: &ExecutionReport,
        read: Option<Vec<WsPath>>,
        runner: Runner,
    ) -> ResultRecord {
        let pruned = read.and_then(|read| {
            let inputs = self.flat_inputs(action);
            let facts = self.facts(action, &made.command, &inputs).ok()?;
            let key = facts.pruned_key(|path| read.binary_search(path).is_ok()).ok()?;
            Some(PrunedRecord { key: key.0, read })
        });
        let outputs: Vec<OutputMeta> = report.outputs.iter().map(|o| o.meta.clone()).collect();
        let manifest = self.state.record_manifest(&made.manifest);
        let is_remote = matches!(runner, Runner::Remote | Runner::RemoteCache);
        let held_by = self.store.filter(|_| is_remote).into_iter().collect();
        ResultRecord { key: made.key, pruned, outputs, manifest, held_by }
    }

    fn record(&mut self, action: ActionId, result: ResultRecord, report: &ExecutionReport) {
        let model = Arc::clone(&self.model);
        let name = Name::of(&model, action);
        let mut wall = report.cost.wall;
        if wall.is_zero() {
            // A cache that does not say how long it took says nothing.
            wall = self.state.action(&name.path).map_or(wall, |known| Duration::from_millis(known.wall_ms.into()));
        }
        self.state.record_result(name.as_ref(), result, wall, report.cost.max_rss);
    }

    /// The discoverable inputs the depfile names, sorted; `None` where there is no depfile to go by.
    pub(super) fn read_inputs(
        &mut self,
        action: ActionId,
        report: &ExecutionReport,
    ) -> Result<Option<Vec<WsPath>>, String> {
        let Some(path) = self.model.action(action).depfile.clone() else { return Ok(None) };
        let Some(bytes) = &report.depfile else { return Ok(None) };
        let names = parse_depfile(bytes).map_err(|e| format!("its depfile `{path}` cannot be read: {e}"))?;
        let inputs = self.flat_inputs(action);
        let empty = CommandLine::default();
        let facts = self.facts(action, &empty, &inputs)?;
        let declared: BTreeMap<&str, (&Content, bool)> =
            facts.inputs.iter().map(|i| (i.path.as_str(), (i.content, i.discoverable))).collect();
        let mut read = Vec::new();
        let mut undeclared = Vec::new();
        for name in names {
            let Some(name) = inside_workspace(&name, &self.goals.root) else { continue };
            match declared_as(&declared, &name) {
                Some(inputs) => read.extend(inputs.iter().filter_map(|input| WsPath::new(input).ok())),
                None if self.is_own(action, &name) => {}
                // Assemblers name what `.file` directives say, and preprocessors what was piped to them. Nobody can have
                // read what is not there, and nothing could declare it.
                None if (self.goals.is_absent)(&Path::new(&self.goals.root).join(&name)) => {}
                None => undeclared.push(format!("`{name}`")),
            }
        }
        if !undeclared.is_empty() {
            let list = undeclared.join(", ");
            return Err(format!(
                "it read {list}, which no attribute declares as an input (its depfile `{path}` says so)"
            ));
        }
        read.sort_unstable();
        read.dedup();
        Ok(Some(read))
    }

    /// Whether a path is one of the action's own outputs, or private to minibuild.
    fn is_own(&self, action: ActionId, name: &str) -> bool {
        let below = |ancestor: &str| WsPath::new(name).is_ok_and(|p| p.is_at_or_below(ancestor));
        below(minibuild_core::STATE_ROOT)
            || self.model.action(action).outputs.iter().any(|&id| below(self.model.artifact(id).path.as_str()))
    }

    /// An action that cannot even be started.
    pub(super) fn fail_without_run(&mut self, action: ActionId, why: &str) {
        self.emit_completed(action, false, Runner::Local, 1, Duration::ZERO, why.to_owned());
        let shown = Shown {
            label: self.model.label_of(action).to_string(),
            mnemonic: self.model.action(action).mnemonic.to_string(),
            failure: Some(why.to_owned()),
            command: CommandLine::default(),
            stdout: Vec::new(),
            stderr: Vec::new(),
            whole_output: Vec::new(),
            test: None,
        };
        self.steps.push(Step::Show(Box::new(shown)));
        self.fail_build();
        self.fail(action);
    }

    /// A failure that is no test's verdict.
    pub(super) fn fail_build(&mut self) {
        self.outcome.failed = true;
        if !self.goals.keep_going {
            self.stop_all(Stopping::FailFast);
        }
    }

    pub(super) fn fail(&mut self, action: ActionId) {
        self.set_status(action, Status::Failed);
        self.forced.remove(&action);
        let model = Arc::clone(&self.model);
        self.state.record_failure(Name::of(&model, action).as_ref(), output_paths(&model, action));
        self.skip_consumers(action);
        self.announce_goals_of(action);
    }

    /// Nothing that needs a failed or skipped action can be built; what is done already stays so.
    pub(super) fn skip_consumers(&mut self, action: ActionId) {
        let mut stack = vec![action];
        while let Some(failed) = stack.pop() {
            for consumer in self.graph.consumers(failed) {
                let undecided = [
                    Status::Waiting,
                    Status::LookingUp,
                    Status::Queued,
                    Status::AwaitingInputs,
                    Status::Rehashing,
                    Status::Reopened,
                ];
                if !undecided.contains(&self.status_of(consumer)) {
                    continue;
                }
                self.set_status(consumer, Status::Skipped);
                self.bytes.end_waiting(consumer);
                self.announce_goals_of(consumer);
                stack.push(consumer);
            }
        }
    }

    /// Everything that follows from a known result besides the release of those that wait for it.
    pub(super) fn after_done(&mut self, action: ActionId) {
        self.fetch_wanted(action);
        let model = Arc::clone(&self.model);
        for &id in &model.action(action).outputs {
            if !self.bytes.is_on_its_way(id) {
                self.wake_waiters(id);
            }
        }
        self.announce_goals_of(action);
    }

    /// A finished action made something else than before: consumers that used its old result are looked at again.
    pub(super) fn reopen_consumers(&mut self, action: ActionId) {
        for consumer in self.readers(action) {
            match self.status_of(consumer) {
                Status::Done => self.reopen(consumer),
                Status::Running => drop(self.outdated.insert(consumer)),
                _ => {}
            }
        }
    }
}

fn output_paths(model: &minibuild_core::Model, action: ActionId) -> impl Iterator<Item = WsPath> {
    model.action(action).outputs.iter().map(|&id| model.artifact(id).path.clone())
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The path relative to the workspace `root`, normalised; `None` for one outside of it.
fn inside_workspace(name: &str, root: &str) -> Option<String> {
    let relative = match name.strip_prefix('/') {
        None => name,
        Some(_) => name.strip_prefix(root)?.strip_prefix('/')?,
    };
    let mut segments: Vec<&str> = Vec::new();
    for segment in relative.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()?),
            other => segments.push(other),
        }
    }
    (!segments.is_empty()).then(|| segments.join("/"))
}

/// The discoverable inputs by which a name was read: symlinks on the way, and the file or directory they lead to. `None` for
/// a name that no input accounts for.
fn declared_as(declared: &BTreeMap<&str, (&Content, bool)>, name: &str) -> Option<Vec<String>> {
    let mut read = Vec::new();
    let mut at = String::new();
    let mut left: Vec<&str> = name.rsplit('/').collect();
    let mut links = 0;
    while let Some(segment) = left.pop() {
        match segment {
            "" | "." => continue,
            ".." => {
                at.truncate(at.rfind('/').unwrap_or(0));
                continue;
            }
            _ => {}
        }
        let above = at.len();
        if !at.is_empty() {
            at.push('/');
        }
        at.push_str(segment);
        let Some(&(content, discoverable)) = declared.get(at.as_str()) else { continue };
        read.extend(discoverable.then(|| at.clone()));
        match content {
            Content::Directory(_) => return Some(read),
            Content::File { .. } => return left.iter().all(|segment| segment.is_empty()).then_some(read),
            Content::Symlink { target } => {
                links += 1;
                if links > MAX_LINKS || target.starts_with('/') {
                    return Some(read);
                }
                at.truncate(above);
                left.extend(target.rsplit('/'));
            }
        }
    }
    // A link is an input with all it leads to, even where that is not known here.
    (links > 0).then_some(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_depfiles_are_read_through_links() {
        let file = Content::File { digest: minibuild_core::DigestFunction::Sha256.digest(b"x"), executable: false };
        let link = |target: &str| Content::Symlink { target: target.to_owned() };
        let (to_real, to_root, mid) = (link("real"), link("."), link("../real/./x.h"));
        let declared: BTreeMap<&str, (&Content, bool)> = BTreeMap::from([
            ("plain.h", (&file, false)),
            ("real/x.h", (&file, true)),
            ("inc", (&to_real, true)),
            ("root", (&to_root, true)),
            ("d/l.h", (&mid, true)),
        ]);
        let check = |name: &str, expected: Option<&[&str]>| {
            let expected = expected.map(|list| list.iter().map(|&path| path.to_owned()).collect());
            assert_eq!(declared_as(&declared, name), expected, "{name}");
        };
        check("plain.h", Some(&[]));
        check("real/x.h", Some(&["real/x.h"]));
        check("inc/x.h", Some(&["inc", "real/x.h"]));
        check("root/inc/x.h", Some(&["root", "inc", "real/x.h"]));
        check("d/l.h", Some(&["d/l.h", "real/x.h"]));
        check("other.h", None);
        check("plain.h/x", None);
    }

    #[test]
    fn names_of_depfiles_inside_and_outside_of_the_workspace() {
        let check =
            |name, expected: Option<&str>| assert_eq!(inside_workspace(name, "/w/s").as_deref(), expected, "{name}");
        check("a.h", Some("a.h"));
        check("./x/../a.h", Some("a.h"));
        check("/w/s/x//a.h", Some("x/a.h"));
        check("/w/s", None);
        check("/w/st/a.h", None);
        check("/usr/include/stdio.h", None);
        check("../a.h", None);
        check(".", None);
    }
}
