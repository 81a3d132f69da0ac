//! `minibuild explain`: what would run now and why, and why what is up to date last ran. Takes no lock, writes nothing.

use std::collections::HashSet;
use std::fmt::Write as _;

use minibuild_core::{
    ActionId, ArtifactId, ArtifactKind, BIN_ROOT, BUILD_FILE, Model, OUT_ROOT, TEST_LOG_ROOT, WsPath, visible,
};
use minibuild_download::{Mode, Wishes};
use minibuild_engine::machine::{Foreseen, Goal, Goals, Maybe, Place, Verdict, Why};
use minibuild_engine::state::Origin;
use minibuild_graph::{Change, summarise};
use minibuild_loader::{LoadRequest, Loaded, load};

use crate::args::ExplainArgs;
use crate::console::reason_text;
use crate::tell::{self, Complaint, files_of, shown, tell, warn};
use crate::workspace::{self, Workspace};
use crate::{explain_race, preview, remote_side};

/// Causes shown besides the actions asked about.
const MAX_CAUSES: usize = 50;

/// Answers on stdout.
pub fn explain(workspace: &Workspace, args: &ExplainArgs) -> u8 {
    if args.argv { tell::explain_argv(workspace, args) } else { tell(answer(workspace, args)) }
}

/// What is asked about.
enum Subject {
    /// Targets.
    Pattern(String),
    /// What lies at a place of the output tree, and the pattern that loads whoever makes it.
    Path(WsPath, String),
}

fn answer(workspace: &Workspace, args: &ExplainArgs) -> Result<String, Complaint> {
    let subject = subject(workspace, &args.label)?;
    let (Subject::Pattern(pattern) | Subject::Path(_, pattern)) = &subject;
    let request = LoadRequest {
        config: workspace::config_input(&args.config, Vec::new())?,
        patterns: vec![pattern.clone()],
        cwd: workspace.cwd.clone(),
        host: workspace::host(),
        threads: workspace::cores(),
    };
    let loaded = load(&files_of(workspace), &request).map_err(|failure| shown(&failure))?;
    warn(&loaded);
    let (actions, targets) = asked_for(&loaded, &subject)?;
    let state_dir = workspace.root.join(minibuild_core::STATE_ROOT);
    let function = remote_side::choose_function(&loaded.settings.remote, &state_dir).function;
    if args.race {
        return Ok(explain_race::answer(workspace, &loaded, &actions, function)?);
    }
    let goals = goals(workspace, &loaded, targets, function)?;
    let has_cache = goals.remote.as_ref().is_some_and(|remote| remote.caches) || goals.stores.disk_cache;
    let foreseen = preview::foresee(workspace, &loaded, goals, function).map_err(|e| e.to_string())?;
    // What tools say of their versions may be anything.
    Ok(visible(&Writer { loaded: &loaded, has_cache }.write(&foreseen, &actions)).into_owned())
}

/// A label or a pattern, or else a path: one of the output tree, or one of a file that is there.
fn subject(workspace: &Workspace, text: &str) -> Result<Subject, String> {
    let pattern = || Ok(Subject::Pattern(text.to_owned()));
    if text.starts_with("//") || text.starts_with(':') {
        return pattern();
    }
    let below = match text.strip_prefix('/') {
        Some(_) => std::path::Path::new(text).strip_prefix(&workspace.root).ok().and_then(|path| path.to_str()),
        None => Some(text),
    };
    let Some(below) = below else { return Err(format!("`{text}` is outside of the workspace")) };
    let from_root = text.starts_with('/') || below.starts_with(OUT_ROOT);
    let joined =
        if from_root || workspace.cwd.is_empty() { below.to_owned() } else { format!("{}/{below}", workspace.cwd) };
    let Ok(path) = WsPath::new(joined.trim_end_matches('/')) else { return pattern() };
    if path.is_at_or_below(OUT_ROOT) {
        let makers = makers(workspace, &path).ok_or_else(|| format!("nobody makes `{path}`"))?;
        return Ok(Subject::Path(path, makers));
    }
    if workspace.root.join(path.as_path()).is_file() {
        return Err(format!(
            "`{path}` is a source file: no action makes it\nhint: name a target, or a path below `{BIN_ROOT}`"
        ));
    }
    pattern()
}

/// The pattern that loads whoever makes what lies at a path of the output tree.
fn makers(workspace: &Workspace, path: &WsPath) -> Option<String> {
    if let Some(log) = path.as_str().strip_prefix(TEST_LOG_ROOT) {
        let target = log.trim_start_matches('/').strip_suffix("/test.log")?;
        let (package, name) = target.rsplit_once('/').unwrap_or(("", target));
        return Some(format!("//{package}:{name}"));
    }
    let below = path.as_str().strip_prefix(BIN_ROOT)?.trim_start_matches('/');
    let parents =
        std::iter::successors(Some(below), |at| (!at.is_empty()).then(|| at.rsplit_once('/').map_or("", |p| p.0)));
    let package = parents.skip(1).find(|dir| workspace.root.join(dir).join(BUILD_FILE).is_file())?;
    Some(format!("//{package}:all"))
}

/// The actions to be told of, and goals that need them.
fn asked_for(loaded: &Loaded, subject: &Subject) -> Result<(Vec<ActionId>, Vec<Goal>), String> {
    let model = &loaded.model;
    match subject {
        Subject::Path(path, _) if path.is_at_or_below(BIN_ROOT) => {
            let is_it = |id: &ArtifactId| {
                let artifact = model.artifact(*id);
                artifact.path == *path
                    || artifact.kind == ArtifactKind::Directory && path.is_at_or_below(artifact.path.as_str())
            };
            let made = (0..model.artifacts.len()).map(ArtifactId::new).find(is_it);
            let found = made.and_then(|id| Some((id, model.artifact(id).producer?)));
            let (id, action) = found.ok_or_else(|| format!("nobody makes `{path}`"))?;
            let goal =
                Goal { target: model.action(action).target, artifacts: vec![id], runfiles: Vec::new(), test: None };
            Ok((vec![action], vec![goal]))
        }
        _ => {
            let (mut actions, goals) = of_targets(loaded);
            if actions.is_empty() {
                // A group of files has none of its own.
                actions =
                    goals.iter().flat_map(|g| &g.artifacts).filter_map(|&id| model.artifact(id).producer).collect();
            }
            let names: Vec<String> =
                loaded.requested.iter().map(|r| model.target(r.target).label.to_string()).collect();
            match actions.is_empty() {
                true => Err(format!("`{}` has no actions", names.join("`, `"))),
                false => Ok((actions, goals)),
            }
        }
    }
}

/// Requested targets with what they stand for, and each action of theirs, wanted or not. Of an alias, those of its target.
fn of_targets(loaded: &Loaded) -> (Vec<ActionId>, Vec<Goal>) {
    let model = &loaded.model;
    let mut is_asked = vec![false; model.targets.len()];
    let mut goals = Vec::new();
    for requested in &loaded.requested {
        let target = model.target(requested.target);
        is_asked[target.alias_of.unwrap_or(requested.target).index()] = true;
        let mut artifacts = Vec::new();
        model.for_each_artifact(&target.outputs, |id| artifacts.push(id));
        goals.push(Goal { target: requested.target, artifacts, runfiles: Vec::new(), test: target.test });
    }
    let ids = (0..model.actions.len()).map(ActionId::new);
    let actions: Vec<ActionId> = ids.filter(|&id| is_asked[model.action(id).target.index()]).collect();
    let only_looked_at = |&action: &ActionId| Goal {
        target: model.action(action).target,
        artifacts: Vec::new(),
        runfiles: Vec::new(),
        test: Some(action),
    };
    goals.extend(actions.iter().map(only_looked_at));
    goals.retain(|goal| goal.test.is_some() || !goal.artifacts.is_empty());
    (actions, goals)
}

fn goals(
    workspace: &Workspace,
    loaded: &Loaded,
    targets: Vec<Goal>,
    function: minibuild_core::DigestFunction,
) -> Result<Goals, String> {
    let settings = &loaded.settings;
    let mode = match settings.download {
        minibuild_loader::DownloadMode::All => Mode::All,
        minibuild_loader::DownloadMode::Toplevel => Mode::Toplevel,
        minibuild_loader::DownloadMode::Minimal => Mode::Minimal,
    };
    Ok(Goals {
        root: workspace.root.display().to_string(),
        is_absent: minibuild_disk::is_absent,
        targets,
        wishes: Wishes::new(mode, &settings.download_regex).map_err(|e| e.to_string())?,
        runs_nothing: false,
        jobs: 1,
        ahead: 0,
        pools: settings.pools.clone(),
        memory: u64::MAX,
        keep_going: true,
        fresh_tests: !settings.cache_tests,
        streams_tests: false,
        all_events: false,
        strategies: remote_side::strategies(settings),
        dynamic: remote_side::dynamic(settings),
        remote: remote_side::goals(settings, function)?,
        stores: crate::stores::goals(settings),
    })
}

struct Writer<'a> {
    loaded: &'a Loaded,
    /// A remote cache is configured, which a build would ask.
    has_cache: bool,
}

impl Writer<'_> {
    fn write(&self, foreseen: &[Foreseen], asked: &[ActionId]) -> String {
        let asked: HashSet<ActionId> = asked.iter().copied().collect();
        let is_asked = |f: &&Foreseen| asked.contains(&f.action);
        let mut text: String = foreseen.iter().filter(is_asked).map(|f| self.block(f)).collect();
        let is_cause = |f: &&Foreseen| matches!(f.verdict, Verdict::Runs(_) | Verdict::Fails(_)) && !is_asked(f);
        let causes: Vec<&Foreseen> = foreseen.iter().filter(is_cause).collect();
        if !causes.is_empty() {
            text.push_str("Of what it needs:\n\n");
            text.extend(causes.iter().take(MAX_CAUSES).map(|f| self.block(f)));
            if causes.len() > MAX_CAUSES {
                let _ = writeln!(text, "and {} more that would run\n", causes.len() - MAX_CAUSES);
            }
        }
        if self.has_cache && foreseen.iter().any(|f| matches!(f.verdict, Verdict::Runs(_))) {
            text.push_str("A build would ask the remote cache first; nothing was asked here.\n");
        }
        text
    }

    fn block(&self, foreseen: &Foreseen) -> String {
        let model: &Model = &self.loaded.model;
        let action = foreseen.action;
        let (label, mnemonic) = (model.label_of(action), &model.action(action).mnemonic);
        let mut text = format!("{label} {mnemonic} {}\n", model.action_key_path(action));
        let (headline, lines) = match &foreseen.verdict {
            Verdict::UpToDate(why) if why.is_empty() => ("up to date: its result came from a cache", Vec::new()),
            Verdict::UpToDate(why) => ("up to date; it last ran because", why.clone()),
            Verdict::Runs(why) => ("would run:", self.lines(action, why)),
            Verdict::MayRun(Maybe::Bytes(output, consumer)) => {
                let (path, label) = (&model.artifact(*output).path, model.label_of(*consumer));
                (
                    "may run:",
                    vec![format!("its output `{path}` is not on disk and {label}, which may run, would need it")],
                )
            }
            Verdict::MayRun(Maybe::Inputs(inputs)) => {
                let line = |&id: &ArtifactId| {
                    let artifact = model.artifact(id);
                    let of = artifact.producer.map(|producer| format!(" of {}", model.label_of(producer)));
                    format!("input `{}`{}", artifact.path, of.unwrap_or_default())
                };
                (
                    "may run, if one of these inputs, which are made anew, comes out different:",
                    inputs.iter().map(line).collect(),
                )
            }
            Verdict::Fails(why) => ("cannot run:", vec![why.clone()]),
        };
        let _ = writeln!(text, "  {headline}");
        for line in lines {
            let _ = writeln!(text, "    {line}");
        }
        if matches!(foreseen.verdict, Verdict::UpToDate(_)) && !foreseen.outputs.is_empty() {
            text.push_str("  its outputs:\n");
            for output in &foreseen.outputs {
                let path = &model.artifact(output.id).path;
                let _ = writeln!(text, "    `{path}` {}", place_text(&output.place));
            }
        }
        text + "\n"
    }

    fn lines(&self, action: ActionId, why: &Why) -> Vec<String> {
        match why {
            Why::Said(_) => why.in_full(),
            Why::Changed(changes) => changes.iter().map(|change| self.line(action, change)).collect(),
        }
    }

    /// A change; of an argument with what it comes from.
    fn line(&self, action: ActionId, change: &Change) -> String {
        let text = summarise(change);
        if change.kind != "arg" || change.new.is_none() {
            return text;
        }
        let index = change.name.parse().ok();
        match index.and_then(|index| self.loaded.argument_origin(action, index)) {
            Some(origin) => format!("{text} ({origin})"),
            None => text,
        }
    }
}

/// Where the bytes of an output are, and why there, as the end of a sentence.
fn place_text(place: &Place) -> String {
    let absent = "no build needed its bytes so far; one that does brings them, and so does `minibuild fetch`";
    let held = |stores: &[String]| match stores {
        [] => "it would be made again if it were needed whole".to_owned(),
        stores => format!("it is held by {}", stores.join(" and ")),
    };
    match place {
        Place::Here(Origin::Made) => "is here: its action made it here".to_owned(),
        Place::Here(Origin::Found) => "is here: it was found as it should be".to_owned(),
        Place::Here(Origin::Brought(why)) => format!("is here: it was fetched, {}", reason_text(*why)),
        Place::Part(some, all, stores) => {
            format!("is here in part ({some} of {all} entries, by `--download-regex`); {}", held(stores))
        }
        Place::Stores(stores) => format!("is not here: {}; {absent}", held(stores)),
        Place::Nowhere => {
            "is not here, and no store is known to have it: it would be made again if it were needed".to_owned()
        }
    }
}
