//! A course: rounds of edits, disturbances, interrupted builds and checked builds on two workspaces that share a server and a
//! disk cache.
//!
//! Each round, and each step of it, draws from random numbers of its own. So a course can be repeated with some rounds left
//! out, which is how the shortest one is found that shows a fault.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use minibuild_testkit::{Ending, Random, Run, Running, Signal, Workspace, kill, wait_until_dead};

use super::check::{BuildCheck, BuildExcuses, left_after_clean};
use super::definition::{CourseTraits, TargetDefinition, random_targets};
use super::disk::SmallDisk;
use super::disturbance::{Disturbance, random_disturbance, thin};
use super::expected::BuildInputs;
use super::faults::{FaultProfile, FaultyServer};
use super::request::{BuildRequest, CourseOffer};
use super::sources::{NEUTRAL_EDITS, SourceEdit, SourceState, random_edit};

/// What a course has besides two workspaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CourseKind {
    /// A disk cache.
    Local,
    /// A disk cache and a faulty server.
    Faults,
    /// Small disks that are full at times.
    Disk,
}

/// No build of a course takes as long.
const LIMIT: Duration = Duration::from_secs(100);

/// A workspace and its sources as they should be.
struct CourseWorkspace {
    ws: Workspace,
    /// Unmounted before the workspace is removed.
    disk: Option<SmallDisk>,
    sources: SourceState,
    /// How the sources were at some time.
    saved: SourceState,
    /// About how long a build takes.
    usual: Duration,
    /// The state is not known to have forgotten an output.
    is_state_whole: bool,
}

/// One course.
pub struct Course<'a> {
    kind: CourseKind,
    seed: u64,
    traits: CourseTraits,
    targets: Vec<TargetDefinition>,
    workspaces: Vec<CourseWorkspace>,
    shared: &'a Workspace,
    server: Option<FaultyServer<'a>>,
    log: Vec<String>,
    builds: usize,
}

/// Random numbers of one step.
fn stream(seed: u64, round: usize, step: u64) -> Random {
    let mixed = Random::new(seed ^ (round as u64) << 32 ^ step << 52).number();
    Random::new(mixed)
}

/// What happens while a build runs that is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    NeutralEdit,
    Edit,
    ThinDiskCache,
    RestartServer,
}

/// How a build is interrupted.
#[derive(Clone, Copy, Debug)]
enum Interruption {
    Kill,
    KillWithHelpers,
    Send(Signal),
    SendTwice(Signal),
}

const INTERRUPTIONS: &[Interruption] = &[
    Interruption::Kill,
    Interruption::Kill,
    Interruption::KillWithHelpers,
    Interruption::Send(Signal::SIGINT),
    Interruption::Send(Signal::SIGTERM),
    Interruption::Send(Signal::SIGHUP),
    Interruption::SendTwice(Signal::SIGINT),
];

impl<'a> Course<'a> {
    /// The workspaces of a course before their first build; `None` where a small disk is not to be had.
    pub fn new(kind: CourseKind, seed: u64, shared: &'a Workspace, binary: &str) -> Option<Self> {
        let mut random = stream(seed, 0, 0);
        let traits = CourseTraits::random(&mut random, kind == CourseKind::Faults, kind == CourseKind::Disk);
        let targets = random_targets(&mut random, &traits);
        let store_size = [None, None, Some("0"), Some("1MiB")][random.below(4)];
        let sources = SourceState::new(&mut random, &targets, store_size, traits.has_links);
        let server = (kind == CourseKind::Faults).then(|| FaultyServer::start(shared));
        let mut workspaces = Vec::new();
        for _ in 0..2 {
            let ws = Workspace::new(binary);
            let kib = 2000 + random.below(4000);
            let disk = if kind == CourseKind::Disk { Some(SmallDisk::mount(ws.root(), kib)?) } else { None };
            sources.apply(&ws);
            disk.iter().for_each(SmallDisk::keep_reserve);
            let usual = Duration::from_millis(100);
            let (sources, saved) = (sources.clone(), sources.clone());
            workspaces.push(CourseWorkspace { ws, disk, sources, saved, usual, is_state_whole: true });
        }
        Some(Self { kind, seed, traits, targets, workspaces, shared, server, log: Vec::new(), builds: 0 })
    }

    /// Builds so far.
    pub fn builds(&self) -> usize {
        self.builds
    }

    /// One round.
    pub fn round(&mut self, round: usize) {
        self.log.push(format!("round {round}"));
        let mut random = stream(self.seed, round, 1);
        let which = random.below(2);
        self.change_server(round, &mut random);
        self.disks().for_each(|disk| {
            disk.free();
            disk.free_reserve();
        });
        self.edit(round, which, &mut random);
        for step in 0..[0, 0, 1, 1, 2][random.below(5)] {
            self.disturb(round, 40 + step, which, &mut random);
        }
        self.disks().for_each(SmallDisk::keep_reserve);
        for step in 0..[0, 0, 0, 1, 2][random.below(5)] {
            self.interrupt(which, &mut stream(self.seed, round, 50 + step));
        }
        if random.below(6) == 0 {
            self.build_both(&mut stream(self.seed, round, 60));
        } else {
            self.build_one(which, &mut stream(self.seed, round, 60));
        }
    }

    /// Cleans both workspaces: nothing that was thrown away is kept for ever.
    pub fn end(&mut self) {
        self.disks().for_each(SmallDisk::free);
        for which in [0, 1] {
            let run = self.workspaces[which].ws.run(&["clean"]);
            self.log.push(format!("  {which}: minibuild clean: {:?}", run.ending));
            let mut problems = left_after_clean(&self.workspaces[which].ws);
            problems.extend((run.ending != Ending::Exited(0)).then(|| format!("`clean` ended with {:?}", run.ending)));
            if !problems.is_empty() {
                self.fail(which, &problems, &run);
            }
        }
    }

    fn disks(&self) -> impl Iterator<Item = &SmallDisk> {
        self.workspaces.iter().filter_map(|workspace| workspace.disk.as_ref())
    }

    fn change_server(&mut self, round: usize, random: &mut Random) {
        let chance = random.below(6);
        let mut random = stream(self.seed, round, 10);
        let Some(server) = &mut self.server else { return };
        if chance > 1 && round > 1 {
            return;
        }
        let is_killed = random.below(2) == 0;
        server.stop(is_killed);
        let profile = FaultProfile::random(&mut random);
        let is_thinned = random.below(4) == 0;
        if is_thinned {
            thin(&server.store(), &mut random);
        }
        self.log.push(format!("  server restarted, killed: {is_killed}, thinned: {is_thinned}\n{}", profile.text));
        server.set_profile(profile);
        server.resume();
    }

    /// Changes sources: here or in both workspaces alike, back to what they were, or to what the other's are.
    fn edit(&mut self, round: usize, which: usize, random: &mut Random) {
        let manner = random.below(12);
        let count = random.below(4);
        match manner {
            0 => {
                self.log.push(format!("  {which}: as the other's sources"));
                let sources = self.workspaces[1 - which].sources.clone();
                self.workspaces[which].switch(sources);
                return;
            }
            1 | 2 => {
                self.log.push(format!("  {which}: back to the saved sources"));
                let saved = self.workspaces[which].saved.clone();
                self.workspaces[which].switch(saved);
                return;
            }
            3 => {
                self.log.push(format!("  {which}: sources are saved"));
                self.workspaces[which].saved = self.workspaces[which].sources.clone();
            }
            _ => {}
        }
        let places = if manner > 7 { vec![which] } else { vec![0, 1] };
        for step in 0..count {
            let edit = random_edit(random);
            for &place in &places {
                let workspace = &mut self.workspaces[place];
                let mut numbers = stream(self.seed, round, 20 + step as u64);
                let said = workspace.sources.edit(&workspace.ws, edit, &mut numbers, &self.targets);
                self.log.push(format!("  {place}: {said}"));
            }
        }
        self.mend_failing(round, which, random);
    }

    /// Sources that make commands fail do not stay for long.
    fn mend_failing(&mut self, round: usize, which: usize, random: &mut Random) {
        if random.below(3) == 0 {
            return;
        }
        let workspace = &mut self.workspaces[which];
        let failing = workspace.sources.files.iter().filter(|(_, file)| file.text.starts_with("fail"));
        let paths: Vec<String> = failing.map(|(path, _)| path.clone()).collect();
        for path in paths {
            self.log.push(format!("  {which}: {path} fails no more, round {round}"));
            workspace.sources.mend(&workspace.ws, &path);
        }
    }

    fn disturb(&mut self, round: usize, step: u64, which: usize, random: &mut Random) {
        let disturbance = random_disturbance(random);
        let disk_cache = self.disk_cache();
        let workspace = &mut self.workspaces[which];
        let is_declared = |number: usize| !workspace.sources.targets[number].is_dropped;
        let numbers = &mut stream(self.seed, round, step);
        let said = disturbance.strike(&workspace.ws, &disk_cache, &self.targets, is_declared, numbers);
        self.log.push(format!("  {which}: {said}"));
        match disturbance {
            Disturbance::CutState | Disturbance::DamageState | Disturbance::RemoveState => {
                workspace.is_state_whole = false;
            }
            Disturbance::CleanAll | Disturbance::RemoveAllOutputs => workspace.is_state_whole = true,
            _ => {}
        }
    }

    fn disk_cache(&self) -> PathBuf {
        self.shared.outside().join("cache")
    }

    fn request(&self, which: usize, random: &mut Random) -> BuildRequest {
        let offer = CourseOffer {
            server: self.server.as_ref().map(|server| server.address.clone()),
            disk_cache: self.disk_cache().display().to_string(),
            has_no_local: self.traits.has_no_local,
            is_small_disk: self.kind == CourseKind::Disk,
        };
        let edits = &self.workspaces[which].sources.targets;
        BuildRequest::random(random, &offer, &self.targets, |number| edits[number].is_dropped)
    }

    fn start(&mut self, which: usize, request: &BuildRequest) -> Running {
        self.builds += 1;
        let words = request.arguments();
        let env: Vec<String> = request.env.iter().map(|(name, value)| format!("{name}={value} ")).collect();
        self.log.push(format!("  {which}: {}minibuild {}", env.concat(), words.join(" ")));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut invocation = self.workspaces[which].ws.invoke(&words);
        for (name, value) in &request.env {
            invocation = invocation.env(name, value);
        }
        invocation.start()
    }

    /// Waits until a build has gone on for a random part of its usual time.
    fn wait_a_while(&self, which: usize, build: &Running, random: &mut Random) {
        let usual = self.workspaces[which].usual.as_micros();
        let part = random.below(usize::try_from(usual).unwrap_or(1).max(1));
        // That it may have ended by then is of no matter.
        let _ = wait_until_dead(build.pid(), Duration::from_micros(part as u64));
    }

    /// Starts a build and stops it somewhere on its way.
    fn interrupt(&mut self, which: usize, random: &mut Random) {
        let request = self.request(which, random);
        let interruption = INTERRUPTIONS[random.below(INTERRUPTIONS.len())];
        let room = self.fill_disk(which, random);
        let build = self.start(which, &request);
        self.wait_a_while(which, &build, random);
        self.log.push(format!("  {which}: {interruption:?}"));
        let helpers = if matches!(interruption, Interruption::KillWithHelpers) { build.helpers() } else { Vec::new() };
        helpers.iter().for_each(|&pid| kill(pid, Signal::SIGSTOP));
        match interruption {
            Interruption::Kill | Interruption::KillWithHelpers => build.signal(Signal::SIGKILL),
            Interruption::Send(signal) => build.signal(signal),
            Interruption::SendTwice(signal) => {
                build.signal(signal);
                self.wait_a_while(which, &build, random);
                build.signal(signal);
            }
        }
        let run = build.wait_within(LIMIT);
        helpers.iter().for_each(|&pid| kill(pid, Signal::SIGKILL));
        self.workspaces[which].ws.nothing_is_left_running();
        let excuses = BuildExcuses { is_interrupted: true, ..self.excuses(room) };
        self.check(which, &request, excuses, &run, &[ProblemKind::Code]);
    }

    /// Fills a small disk; whether a build may fail for it.
    fn fill_disk(&mut self, which: usize, random: &mut Random) -> bool {
        let Some(disk) = &self.workspaces[which].disk else { return false };
        if random.below(2) == 0 {
            let room = disk.fill(random);
            self.log.push(format!("  {which}: {} KiB are left on the disk", room >> 10));
        }
        true
    }

    fn excuses(&self, may_be_full: bool) -> BuildExcuses {
        let faults = self.server.as_ref().map(FaultyServer::excuses).unwrap_or_default();
        BuildExcuses { faults, may_be_full, ..BuildExcuses::default() }
    }

    fn build_both(&mut self, random: &mut Random) {
        let requests = [0, 1].map(|which| self.request(which, random));
        let may_be_full = [0, 1].map(|which| self.fill_disk(which, random));
        let builds = [0, 1].map(|which| self.start(which, &requests[which]));
        let runs = builds.map(|build| build.wait_within(LIMIT));
        for which in [0, 1] {
            self.finish(which, &requests[which], self.excuses(may_be_full[which]), &runs[which], random.below(2) == 0);
        }
    }

    fn build_one(&mut self, which: usize, random: &mut Random) {
        let request = self.request(which, random);
        let may_be_full = self.fill_disk(which, random);
        let began = Instant::now();
        let build = self.start(which, &request);
        let (meanwhile, broke) = self.meanwhile(which, &build, random);
        let run = build.wait_within(LIMIT);
        self.workspaces[which].usual = (self.workspaces[which].usual + began.elapsed()) / 2;
        let mut excuses = BuildExcuses { has_edits: meanwhile == Meanwhile::Edit, ..self.excuses(may_be_full) };
        excuses.faults.may_break |= broke;
        self.finish(which, &request, excuses, &run, random.below(2) == 0);
    }

    /// Does something while a build runs; whether the server was away.
    fn meanwhile(&mut self, which: usize, build: &Running, random: &mut Random) -> (Meanwhile, bool) {
        let meanwhile = match random.below(14) {
            0 => Meanwhile::NeutralEdit,
            1 if self.kind != CourseKind::Disk => Meanwhile::Edit,
            2 => Meanwhile::ThinDiskCache,
            3 if self.server.is_some() => Meanwhile::RestartServer,
            _ => return (Meanwhile::Nothing, false),
        };
        self.wait_a_while(which, build, random);
        self.log.push(format!("  {which}: meanwhile {meanwhile:?}"));
        match meanwhile {
            Meanwhile::NeutralEdit => self.edit_now(which, NEUTRAL_EDITS[random.below(NEUTRAL_EDITS.len())], random),
            Meanwhile::Edit => self.edit_now(which, SourceEdit::Write, random),
            Meanwhile::ThinDiskCache => thin(&self.disk_cache(), random),
            Meanwhile::RestartServer => self.restart_server(which, build, random),
            Meanwhile::Nothing => {}
        }
        (meanwhile, meanwhile == Meanwhile::RestartServer)
    }

    fn edit_now(&mut self, which: usize, edit: SourceEdit, random: &mut Random) {
        let workspace = &mut self.workspaces[which];
        let said = workspace.sources.edit(&workspace.ws, edit, random, &self.targets);
        self.log.push(format!("  {which}: {said}"));
    }

    fn restart_server(&mut self, which: usize, build: &Running, random: &mut Random) {
        if let Some(server) = &mut self.server {
            server.stop(random.below(2) == 0);
        }
        self.wait_a_while(which, build, random);
        if let Some(server) = &mut self.server {
            server.resume();
        }
    }

    /// Checks a build, and that the same again runs nothing.
    fn finish(&mut self, which: usize, request: &BuildRequest, excuses: BuildExcuses, run: &Run, repeats: bool) {
        self.workspaces[which].ws.nothing_is_left_running();
        self.check(which, request, excuses, run, &[ProblemKind::Code, ProblemKind::Content]);
        if excuses.may_be_full && run.ending != Ending::Exited(0) {
            return self.build_with_room(which, request);
        }
        if !repeats || run.ending != Ending::Exited(0) || excuses.has_edits {
            return;
        }
        let again = self.start(which, request).wait_within(LIMIT);
        let started = again.ran();
        if !started.is_empty() && !excuses.may_be_full {
            self.fail(which, &[format!("the same build again runs {started:?}")], &again);
        }
        self.check(which, request, excuses, &again, &[ProblemKind::Code, ProblemKind::Content]);
    }

    /// After a full disk and with room again a build is right.
    fn build_with_room(&mut self, which: usize, request: &BuildRequest) {
        self.disks().for_each(SmallDisk::free);
        self.log.push(format!("  {which}: the disk has room again"));
        let run = self.start(which, request).wait_within(LIMIT);
        let excuses = BuildExcuses { may_be_full: true, ..BuildExcuses::default() };
        self.check(which, request, excuses, &run, &[ProblemKind::Code, ProblemKind::Content]);
    }

    fn check(&mut self, which: usize, request: &BuildRequest, excuses: BuildExcuses, run: &Run, kinds: &[ProblemKind]) {
        self.log.push(format!("  {which}: {:?}", run.ending));
        let workspace = &self.workspaces[which];
        let inputs = BuildInputs { targets: &self.targets, sources: &workspace.sources, is_other: request.is_other };
        let check = BuildCheck { inputs, ws: &workspace.ws, request, excuses };
        let mut problems = check.code_problems(run);
        problems.extend(check.stray_files(run));
        if kinds.contains(&ProblemKind::Content) && !excuses.has_edits {
            problems.extend(check.content_problems(run));
            if workspace.is_state_whole {
                problems.extend(check.leftovers(run));
            }
        }
        if !problems.is_empty() {
            self.fail(which, &problems, run);
        }
    }

    fn fail(&self, which: usize, problems: &[String], run: &Run) -> ! {
        let mut told = problems.to_vec();
        told.truncate(20);
        let place = self.workspaces[which].ws.root().display();
        panic!("in {place}:\n{}\nstderr of the last build:\n{}", told.join("\n"), run.stderr);
    }
}

impl Drop for Course<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the course of seed {} so far:\n{}", self.seed, self.log.join("\n"));
        }
    }
}

/// What is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ProblemKind {
    Code,
    Content,
}

impl CourseWorkspace {
    /// Takes other sources, as a checkout does.
    fn switch(&mut self, sources: SourceState) {
        self.sources = sources.replace(&self.sources, &self.ws);
    }
}

#[test]
fn streams_of_steps_differ() {
    let numbers: std::collections::BTreeSet<u64> =
        (0..4).flat_map(|round| (0..70).map(move |step| stream(9, round, step).number())).collect();
    assert_eq!(numbers.len(), 280);
    assert_eq!(stream(9, 1, 2).number(), stream(9, 1, 2).number());
}
