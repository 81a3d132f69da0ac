//! The short way of a build: from the snapshot of an earlier one, without loading.
//!
//! Nothing to do is told as the full way would tell it; a part that changed is built alone. Where something changed that loading
//! depends on, it is loaded, and what is not what it was is such a part. Any doubt is given back, with
//! nothing told and nothing run, and the full way is gone. It does not know how a snapshot is made.

use std::path::Path;
use std::sync::Arc;

use minibuild_core::{ActionCounts, BuildEvent, DigestFunction, StoreSide};
use minibuild_disk::{DiskFs, OutTree, fingerprint_behind};
use minibuild_engine::build::AtEnd;
use minibuild_engine::machine::{Goal, Outcome};
use minibuild_engine::reporter::Reporter as _;
use minibuild_engine::snapshot::{
    Changes, Doubt, Fresh, Key, Part, Question, Remembered, Snapshot, Surroundings, remember,
};
use minibuild_loader::{ConfigInput, Loaded, Settings};

use crate::event_sinks::EventSinks;
use crate::refusal::Refusal;
use crate::remote_side::{self, FunctionChoice};
use crate::session::{BuildParts, Kind, Place, Session};
use crate::{stores, workspace};

/// What would be downloaded may lie here under another path, of which a part does not know.
const IN_PART_WITH_REMOTE: Doubt = Doubt::Request("something is to be done, and a remote side is configured");

/// Names the snapshot of a request: all that decides about the loaded graph, the keys of its actions and what is asked
/// for, besides files, which a snapshot looks at itself. What is applied on the graph is not among it: where actions run,
/// what is downloaded, what is shown.
pub fn key(session: &Session<'_>, settings: &Settings, input: &ConfigInput, function: DigestFunction) -> Key {
    let host = workspace::host();
    let exe = fingerprint_behind(Path::new("/proc/self/exe")).ok();
    let mut texts: Vec<String> = vec![
        format!("{} {exe:?} {:?} {function:?}", env!("CARGO_PKG_VERSION"), session.kind),
        format!("{} {} {}", host.os, host.arch, workspace::boot_id()),
        session.workspace.root.display().to_string(),
        session.workspace.cwd.clone(),
        format!("{:?}", loading_settings(settings)),
    ];
    // Unknown variables are warned of by each load. The values of those that are settings are in these.
    for (name, value) in &input.environment {
        texts.push(name.clone());
        texts.extend(name.starts_with("MINIBUILD_VAR_").then(|| value.clone()));
    }
    // That there are such actions is checked by each load.
    let mnemonics: Vec<String> = settings.strategy_by_mnemonic.keys().cloned().collect();
    let lists = [&session.patterns, &input.configs, &mnemonics];
    for list in lists {
        texts.push(list.len().to_string());
        texts.extend(list.iter().cloned());
    }
    texts.extend(input.vars.iter().flat_map(|(name, value)| [name.clone(), value.clone()]));
    if let Some((path, bytes)) = &input.user_file {
        texts.extend([path.clone(), DigestFunction::Blake3.digest(bytes).to_string()]);
    }
    Key::new(texts.iter().map(String::as_str))
}

/// The settings without those that are applied on a loaded graph.
fn loading_settings(settings: &Settings) -> Settings {
    let applied = Settings::default();
    Settings {
        jobs: applied.jobs,
        keep_going: applied.keep_going,
        strategy: applied.strategy,
        strategy_by_mnemonic: applied.strategy_by_mnemonic,
        download: applied.download,
        download_regex: applied.download_regex,
        on_remote_failure: applied.on_remote_failure,
        show_result: applied.show_result,
        progress: applied.progress,
        color: applied.color,
        verbose: applied.verbose,
        test_output: applied.test_output,
        cache_tests: applied.cache_tests,
        remote: applied.remote,
        disk_cache: applied.disk_cache,
        disk_cache_size: applied.disk_cache_size,
        store_size: applied.store_size,
        dynamic: applied.dynamic,
        ..settings.clone()
    }
}

/// What has a full build leave a snapshot.
pub fn remember_at_end<'a>(key: Key, files: &'a DiskFs, loaded: &'a Loaded, root: &'a Path) -> AtEnd<'a> {
    Box::new(move |ended, outcome| {
        if outcome.other_function.is_some() || outcome.internal.is_some() {
            return;
        }
        let state_dir = &root.join(minibuild_core::STATE_ROOT);
        let (env, packages) = (&loaded.settings.env, &loaded.packages[..]);
        let remembered = Remembered { key, looks: files.looks(), env, root, state_dir, packages };
        // Without a snapshot the next build takes longer, no more.
        let _ = remember(remembered, ended);
    })
}

/// Builds from the snapshot of this key.
///
/// # Errors
/// A refusal is the build's end; a doubt sends it the full way.
pub fn take(
    session: &Session<'_>,
    key: Key,
    settings: &Settings,
    choice: FunctionChoice,
    files: &DiskFs,
    place: &Place<'_>,
    told: &mut EventSinks<'_>,
) -> Result<Result<Outcome, Doubt>, Refusal> {
    let has_remote = match refused(session, settings, choice) {
        Ok(has_remote) => has_remote,
        Err(doubt) => return Ok(Err(doubt)),
    };
    let root = &session.workspace.root;
    let wishes = session.wishes(settings)?;
    let question = Question {
        root,
        files,
        clock: &**place.clock,
        function: choice.function,
        threads: workspace::cores(),
        wishes: &wishes,
    };
    let snapshot = match Snapshot::open(root, key, choice.function) {
        Ok(snapshot) => snapshot,
        Err(doubt) => return Ok(Err(doubt)),
    };
    let found = snapshot.check(&question).and_then(|changes| {
        let part = match changes.is_empty() {
            true => None,
            false if has_remote => return Err(IN_PART_WITH_REMOTE),
            false => Some(snapshot.part(&changes, &workspace::boot_id(), choice.function)?),
        };
        let tale = Tale::new(&snapshot, part.as_ref(), session, told)?;
        Ok((changes, part, tale))
    });
    match found {
        Err(doubt) => Ok(Err(doubt)),
        Ok((changes, None, tale)) => {
            let tree = OutTree::open(root)?;
            tree.sweep_staging()?;
            tree.sweep_trash()?;
            // Should it not be possible, the same is hashed again next time.
            let _ = snapshot.keep(changes);
            Ok(Ok(tale.tell(Outcome::default(), told)))
        }
        Ok((changes, Some(part), tale)) => {
            let outcome = build_part(session, &snapshot, changes, part, settings, choice, place, told)?;
            if outcome.other_function.is_some() {
                return Ok(Err(Doubt::Request("the server's digests are of another function")));
            }
            Ok(Ok(tale.tell(outcome, told)))
        }
    }
}

/// Builds what was loaded because the snapshot of this key could not be sure of it any more.
///
/// # Errors
/// As [`take`].
pub fn take_loaded(
    session: &Session<'_>,
    key: Key,
    loaded: &Loaded,
    choice: FunctionChoice,
    files: &DiskFs,
    place: &Place<'_>,
    told: &mut EventSinks<'_>,
) -> Result<Result<Outcome, Doubt>, Refusal> {
    let goals = session.requested(loaded)?;
    match renew(session, key, loaded, &goals, choice, files, place) {
        Ok(()) => take(session, key, &loaded.settings, choice, files, place, told),
        Err(doubt) => Ok(Err(doubt)),
    }
}

/// Makes the snapshot of this key one of what was loaded.
fn renew(
    session: &Session<'_>,
    key: Key,
    loaded: &Loaded,
    goals: &[Goal],
    choice: FunctionChoice,
    files: &DiskFs,
    place: &Place<'_>,
) -> Result<(), Doubt> {
    let settings = &loaded.settings;
    let has_remote = refused(session, settings, choice)?;
    if !loaded.warnings.list.is_empty() {
        return Err(Doubt::Request("warnings are told by each load"));
    }
    let root = &session.workspace.root;
    let state_dir = &root.join(minibuild_core::STATE_ROOT);
    let snapshot = Snapshot::open(root, key, choice.function)?;
    let fresh = Fresh { model: &loaded.model, commands: &*loaded.commands, goals };
    let packages = &loaded.packages[..];
    let remembered = Remembered { key, looks: files.looks(), env: &settings.env, root, state_dir, packages };
    let reload = snapshot.reloaded(fresh, &remembered)?;
    if has_remote && reload.changed() > 0 {
        return Err(IN_PART_WITH_REMOTE);
    }
    let tree = OutTree::open(root).map_err(|e| Doubt::Disk(e.render()))?;
    let tree = Arc::new(tree.hashed_with(choice.function).stopped_by(place.line.stop.clone()));
    let mut stores = stores::goals(settings).any().then(|| stores::open(settings, &tree, place.clock, place.line));
    let store = stores.as_ref().map(|stores| stores as &dyn StoreSide);
    let boot_id = &workspace::boot_id();
    let written = reload.write(remembered, &Surroundings { tree: &tree, store, boot_id, function: choice.function });
    // The build's own come after these.
    stores.iter_mut().for_each(|stores| stores.shutdown(false));
    written
}

/// Whether there is a remote side; what a snapshot cannot answer is a doubt.
fn refused(session: &Session<'_>, settings: &Settings, choice: FunctionChoice) -> Result<bool, Doubt> {
    if !matches!(session.kind, Kind::Build | Kind::Test) {
        return Err(Doubt::Request("only `build` and `test` use one"));
    }
    if session.flags.profile.is_some() {
        return Err(Doubt::Request("a profile names every action"));
    }
    if session.kind == Kind::Test && !settings.cache_tests {
        return Err(Doubt::Request("tests are to be run anew"));
    }
    // Contradicting settings are an error, which the full way tells.
    let remote = remote_side::goals(settings, choice.function);
    remote.map(|remote| remote.is_some()).map_err(|_| Doubt::Request("the settings contradict each other"))
}

#[expect(clippy::too_many_arguments, reason = "what a build needs; called once")]
fn build_part(
    session: &Session<'_>,
    snapshot: &Snapshot,
    changes: Changes,
    part: Part,
    settings: &Settings,
    choice: FunctionChoice,
    place: &Place<'_>,
    told: &mut EventSinks<'_>,
) -> Result<Outcome, Refusal> {
    let rows = part.rows();
    let parts = BuildParts {
        targets: part.goals,
        model: part.model,
        commands: part.commands,
        packages: &[],
        known: part.known,
        state: Some(part.state),
        at_end: Some(Box::new(|ended, outcome| {
            if outcome.other_function.is_none() && outcome.internal.is_none() {
                // Without it the state is not the snapshot's any more, and the next build takes the full way.
                let _ = snapshot.keep_part(&rows, changes, ended);
            }
        })),
    };
    session.carry_out(parts, settings, choice, place, told)
}

/// What is to be told of what was up to date.
struct Tale {
    events: Vec<BuildEvent>,
    /// Targets that are only counted.
    unnamed: usize,
    counts: ActionCounts,
}

impl Tale {
    fn new(
        snapshot: &Snapshot,
        part: Option<&Part>,
        session: &Session<'_>,
        told: &EventSinks<'_>,
    ) -> Result<Self, Doubt> {
        let outside = snapshot.outside(part);
        let counts = outside.counts();
        let all = snapshot.goal_count()?;
        if !told.events.is_open() && !told.console.names(all) && !snapshot.has_tests()? {
            let unnamed = if part.is_none() { all } else { snapshot.untouched_goals(&outside)?.len() };
            return Ok(Self { events: Vec::new(), unnamed, counts });
        }
        let goals = snapshot.untouched_goals(&outside)?;
        let events = snapshot.events(&outside, &goals, session.flags.events_detail.is_some())?;
        Ok(Self { events, unnamed: 0, counts })
    }

    fn tell(self, mut outcome: Outcome, told: &mut EventSinks<'_>) -> Outcome {
        for event in &self.events {
            told.event(event);
        }
        told.console.count_up_to_date(self.unnamed);
        outcome.counts.total += self.counts.total;
        outcome.counts.up_to_date += self.counts.up_to_date;
        outcome
    }
}
