//! `--profile FILE`: where the time of a build went, as a Chrome trace for Perfetto or `chrome://tracing`.
//!
//! Made of what the reporter is told: slots are lanes of a track, each kind of waiting is a track, and the longest chain of runs
//! is drawn once more at the top. It decides nothing and knows no secrets: names are labels and paths.

mod lanes;
mod path;
mod record;
mod trace;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use minibuild_core::{ActionId, Branch, BranchOutcome, BuildEvent, Model, Runner, StopFlag};
use minibuild_engine::moment::Moment;
use serde_json::{Value, json};

use crate::background::OutputFile;

use self::record::{Ran, Record, Span, Waiting};
use self::trace::{Mark, Slice, Trace};

/// Tracks, in the order in which they are shown.
const PHASES: u32 = 1;
const CRITICAL: u32 = 2;
const HERE: u32 = 3;
const THERE: u32 = 4;
const FETCHES: u32 = 5;
const UPLOADS: u32 = 6;
/// The first of those of waits.
const WAITS: u32 = 7;
/// Waits of one kind drawn side by side; more are in the chart and in the runs' details only.
const MAX_WAIT_LANES: u32 = 100;

/// The profile of one invocation, if one is wanted.
pub struct Profile {
    wanted: Option<Wanted>,
    error: Option<String>,
}

struct Wanted {
    file: OutputFile,
    path: PathBuf,
    record: Record,
    model: Option<Arc<Model>>,
    /// What the parts of minibuild's own work are called, with their ends.
    phases: Vec<(&'static str, Duration)>,
    /// Outcome of runs by action id: runner, success and reason.
    completed: HashMap<String, (Runner, bool, String)>,
    /// How the branches of actions ended, each time they did.
    branches: HashMap<(String, Branch), VecDeque<BranchOutcome>>,
}

impl Profile {
    /// Makes the file; one that cannot be is said at the end of the build.
    pub fn open(path: Option<&Path>, stop: &StopFlag) -> Self {
        let Some(path) = path else { return Self { wanted: None, error: None } };
        match OutputFile::create(path, stop) {
            Ok(file) => {
                let wanted = Wanted {
                    file,
                    path: path.to_owned(),
                    record: Record::default(),
                    model: None,
                    phases: Vec::new(),
                    completed: HashMap::new(),
                    branches: HashMap::new(),
                };
                Self { wanted: Some(wanted), error: None }
            }
            Err(error) => Self { wanted: None, error: Some(cannot_write(path, &error)) },
        }
    }

    /// Whether anything is noted.
    pub fn is_wanted(&self) -> bool {
        self.wanted.is_some()
    }

    /// A part of the work before the build is done.
    pub fn phase(&mut self, name: &'static str, end: Duration) {
        if let Some(wanted) = &mut self.wanted {
            wanted.phases.push((name, end));
        }
    }

    /// What actions are called.
    pub fn loaded(&mut self, model: &Arc<Model>) {
        if let Some(wanted) = &mut self.wanted {
            wanted.model = Some(Arc::clone(model));
        }
    }

    /// Takes note of an event.
    pub fn event(&mut self, event: &BuildEvent) {
        let Some(wanted) = &mut self.wanted else { return };
        match event {
            BuildEvent::ActionCompleted { action, success, runner, reason, .. } => {
                wanted.completed.insert(action.clone(), (*runner, *success, reason.clone()));
            }
            BuildEvent::BranchFinished { action, branch, outcome, .. } => {
                wanted.branches.entry((action.clone(), *branch)).or_default().push_back(*outcome);
            }
            _ => {}
        }
    }

    /// Takes note of what happened.
    pub fn moment(&mut self, now: Duration, moment: &Moment) {
        if let Some(wanted) = &mut self.wanted {
            wanted.record.take(now, moment);
        }
    }

    /// Writes it; why it is missing, if it is.
    pub fn finish(self, build_id: &str, now: Duration) -> Option<String> {
        let Some(mut wanted) = self.wanted else { return self.error };
        wanted.record.close(now);
        let path = wanted.path.clone();
        wanted.write(build_id, now).err().map(|error| cannot_write(&path, &error))
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> String {
    format!("the profile cannot be written to `{}`: {error}", path.display())
}

impl Wanted {
    fn write(mut self, build_id: &str, now: Duration) -> io::Result<()> {
        let nothing = Arc::new(Model::default());
        let model = self.model.clone().unwrap_or(nothing);
        for ran in &mut self.record.runs {
            let outcomes = self.branches.get_mut(&(model.action_key_path(ran.action), ran.side));
            ran.outcome = outcomes.and_then(VecDeque::pop_front);
        }
        let mut times: HashMap<ActionId, Duration> = HashMap::new();
        for ran in self.record.runs.iter().filter(|ran| !has_lost(ran)) {
            times.insert(ran.action, ran.span.end.saturating_sub(ran.span.start));
        }
        let path = path::critical_path(&model, &times);
        let critical: HashSet<ActionId> = path.iter().copied().collect();
        let mut waits: HashMap<ActionId, [Duration; Waiting::ALL.len()]> = HashMap::new();
        for wait in &self.record.waits {
            waits.entry(wait.action).or_default()[wait.what as usize] += wait.span.end.saturating_sub(wait.span.start);
        }
        let mut out = Trace::begin(BufWriter::new(&self.file))?;
        let sheet = Sheet { model: &model, completed: &self.completed, critical, waits };
        sheet.names(&self.record, &mut out)?;
        self.write_phases(&mut out, now)?;
        sheet.runs(&self.record, &path, &mut out)?;
        sheet.transfers(&self.record, &mut out)?;
        sheet.waiting(&self.record, &mut out)?;
        out.end(&json!({ "build_id": build_id, "version": env!("CARGO_PKG_VERSION") }))?;
        self.file.finish()
    }

    /// minibuild's own work, one part after the other; the last is the build itself.
    fn write_phases(&self, out: &mut Trace<BufWriter<&OutputFile>>, now: Duration) -> io::Result<()> {
        let begun = self.record.begun.map(|at| ("look at files", at));
        let mut start = Duration::ZERO;
        for (name, end) in self.phases.iter().copied().chain(begun).chain([("build", now)]) {
            out.slice(slice(PHASES, name, "phase", Span { start, end, lane: 0 }, Value::Null))?;
            start = end;
        }
        Ok(())
    }
}

fn slice<'a>(track: u32, name: &'a str, category: &'a str, span: Span, details: Value) -> Slice<'a> {
    let Span { start, end, lane } = span;
    Slice { track, lane, name, category, start, end, mark: Mark::None, details }
}

/// What is needed to draw actions.
struct Sheet<'a> {
    model: &'a Model,
    completed: &'a HashMap<String, (Runner, bool, String)>,
    critical: HashSet<ActionId>,
    waits: HashMap<ActionId, [Duration; Waiting::ALL.len()]>,
}

type Out<'a> = Trace<BufWriter<&'a OutputFile>>;

impl Sheet<'_> {
    /// Names of the tracks that have something on them.
    fn names(&self, record: &Record, out: &mut Out<'_>) -> io::Result<()> {
        out.track(PHASES, "minibuild")?;
        let is_there = |side| record.runs.iter().any(|ran| ran.side == side);
        let tracks = [
            (CRITICAL, "critical path", !self.critical.is_empty()),
            (HERE, "local", is_there(Branch::Local)),
            (THERE, "remote", is_there(Branch::Remote)),
            (FETCHES, "downloads", !record.fetches.is_empty()),
            (UPLOADS, "uploads", !record.uploads.is_empty()),
        ];
        for (track, name, _) in tracks.into_iter().filter(|(.., is_used)| *is_used) {
            out.track(track, name)?;
        }
        let slots = record.runs.iter().filter(|ran| ran.side == Branch::Local).map(|ran| ran.span.lane + 1).max();
        for lane in 0..slots.unwrap_or_default() {
            out.lane(HERE, lane, &format!("slot {}", lane + 1))?;
        }
        for what in Waiting::ALL {
            if record.waits.iter().any(|wait| wait.what == what) {
                out.track(WAITS + what as u32, &format!("waiting: {}", what.name()))?;
            }
        }
        Ok(())
    }

    fn runs(&self, record: &Record, path: &[ActionId], out: &mut Out<'_>) -> io::Result<()> {
        let mut last: HashMap<ActionId, &Ran> = HashMap::new();
        for ran in &record.runs {
            if !has_lost(ran) {
                last.insert(ran.action, ran);
            }
            let track = if ran.side == Branch::Local { HERE } else { THERE };
            self.run(ran, track, ran.span, out)?;
            self.stages(ran, out)?;
        }
        for ran in path.iter().filter_map(|action| last.get(action)) {
            self.run(ran, CRITICAL, Span { lane: 0, ..ran.span }, out)?;
        }
        Ok(())
    }

    fn run(&self, ran: &Ran, track: u32, span: Span, out: &mut Out<'_>) -> io::Result<()> {
        let mut label = self.model.label_of(ran.action).to_string();
        let mnemonic = &self.model.action(ran.action).mnemonic;
        let mark = match has_lost(ran) {
            true => Mark::Lost,
            false if self.critical.contains(&ran.action) => Mark::Critical,
            false => Mark::None,
        };
        if mark == Mark::Lost {
            // Not every viewer has the colours.
            label.push_str(" (lost)");
        }
        let run = slice(track, &label, mnemonic, span, self.details(ran));
        out.slice(Slice { mark, ..run })
    }

    fn details(&self, ran: &Ran) -> Value {
        let id = self.model.action_key_path(ran.action);
        let mut details = json!({ "action": id, "critical_path": self.critical.contains(&ran.action) });
        if let Some((runner, success, reason)) = self.completed.get(&id) {
            details["runner"] = json!(runner);
            details["success"] = json!(success);
            details["reason"] = json!(reason);
        }
        if let Some(outcome) = ran.outcome {
            details["branch"] = json!(ran.side);
            details["outcome"] = json!(outcome);
        }
        let waits = self.waits.get(&ran.action).copied().unwrap_or_default();
        for what in Waiting::ALL {
            let mut time = waits[what as usize];
            for (span, _) in stages(ran).filter(|(_, stage)| *stage == Some(what)) {
                time += span.end.saturating_sub(span.start);
            }
            if !time.is_zero() {
                details[format!("{} ms", what.name())] = json!(time.as_micros() as f64 / 1000.0);
            }
        }
        details
    }

    /// What a remote run is made of, below it.
    fn stages(&self, ran: &Ran, out: &mut Out<'_>) -> io::Result<()> {
        for (span, stage) in stages(ran) {
            let name = stage.map_or("running", Waiting::name);
            out.slice(slice(THERE, name, "stage", span, Value::Null))?;
        }
        Ok(())
    }

    fn transfers(&self, record: &Record, out: &mut Out<'_>) -> io::Result<()> {
        for (path, span) in &record.fetches {
            out.slice(slice(FETCHES, path, "download", *span, Value::Null))?;
        }
        for (action, span) in &record.uploads {
            let label = self.model.label_of(*action).to_string();
            out.slice(slice(UPLOADS, &label, "upload", *span, Value::Null))?;
        }
        Ok(())
    }

    fn waiting(&self, record: &Record, out: &mut Out<'_>) -> io::Result<()> {
        for wait in record.waits.iter().filter(|wait| wait.span.lane < MAX_WAIT_LANES) {
            let label = self.model.label_of(wait.action).to_string();
            out.slice(slice(WAITS + wait.what as u32, &label, wait.what.name(), wait.span, Value::Null))?;
        }
        for (at, counts) in &record.counts {
            let named = Waiting::ALL.iter().map(|what| (what.name().to_owned(), json!(counts[*what as usize])));
            out.counts(PHASES, "waiting", *at, Value::Object(named.collect()))?;
        }
        Ok(())
    }
}

/// Whether the action's other branch won a race against it.
fn has_lost(ran: &Ran) -> bool {
    ran.outcome == Some(BranchOutcome::Lost)
}

/// The stages of a remote run with their times.
fn stages(ran: &Ran) -> impl Iterator<Item = (Span, Option<Waiting>)> {
    let ends = ran.stages.iter().skip(1).map(|(_, at)| *at).chain([ran.span.end]);
    ran.stages.iter().zip(ends).map(|((stage, start), end)| (Span { start: *start, end, ..ran.span }, *stage))
}
