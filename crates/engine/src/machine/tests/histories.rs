//! Random histories: builds of a random plan with whatever may happen between and during them. Each build that ends
//! well is compared with one from nothing (see [`Session`]), and one right after it starts nothing.

use minibuild_core::{ActionKind, ArtifactKind, Resources};
use minibuild_dynamic::policy::Running;
use proptest::prelude::*;

use super::fake::{End, Fake, outputs_of};
use super::fake_remote::{Asked, Doing, RemoteEnd};
use super::plan::{In, Plan, Spec, action, source_path, test};
use super::session::{Ask, Session, cache, remote, state_dir};
use crate::machine::{Dynamic, Foreseen, Lease, RacePolicy, RemoteGoals, StoreGoals, Strategy, Uploads, Verdict};

/// Decisions, taken from bytes so that a failing history can be shrunk; zero when they are used up.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or_default()) % limit.max(1)
    }

    /// True once in `n` times.
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    /// Some numbers below `limit`, each once.
    fn some_below(&mut self, limit: usize) -> Vec<usize> {
        (0..limit).filter(|_| self.one_in(2)).collect()
    }

    /// Inputs of action `number`: sources, outputs of earlier actions, sets.
    fn inputs(&mut self, plan: &Plan, most: usize) -> Vec<In> {
        let count = self.below(most + 1);
        let mut inputs: Vec<In> = (0..count).map(|_| self.input(plan)).collect();
        inputs.dedup();
        inputs
    }

    fn input(&mut self, plan: &Plan) -> In {
        let producers: Vec<usize> = (0..plan.actions.len()).filter(|&a| !plan.actions[a].outputs.is_empty()).collect();
        match self.below(4) {
            0 | 1 if !producers.is_empty() => {
                let from = producers[producers.len() - 1 - self.below(producers.len())];
                In::Out(from, self.below(plan.actions[from].outputs.len()))
            }
            2 if !plan.sets.is_empty() => In::Set(self.below(plan.sets.len())),
            _ => In::Source(self.below(plan.sources)),
        }
    }

    fn spec(&mut self, plan: &Plan) -> Spec {
        let inputs = self.inputs(plan, 3);
        let mut spec = if self.one_in(6) { test(&inputs) } else { action(&inputs) };
        spec.exclusive = self.one_in(10);
        spec.resources = self.resources();
        match self.below(16) {
            15 => spec.no_local = true,
            14 => spec.no_remote = true,
            13 => spec.no_cache = true,
            0..=7 => spec.hermetic = true,
            _ => {}
        }
        if spec.kind == ActionKind::Test {
            return spec;
        }
        match self.below(8) {
            5 => spec.outputs.push(ArtifactKind::Directory),
            6 => spec.outputs = vec![ArtifactKind::Directory],
            7 => spec.outputs = vec![ArtifactKind::Symlink, ArtifactKind::File],
            4 if inputs.is_empty() => spec.kind = ActionKind::Write,
            _ => {}
        }
        if self.one_in(3) && spec.kind == ActionKind::Spawn {
            spec.discoverable = self.inputs(plan, 4);
        }
        spec
    }

    fn resources(&mut self) -> Resources {
        match self.below(12) {
            0 => Resources { pool: Some("one".into()), ..Default::default() },
            1 => Resources { pool: Some("two".into()), memory: 30, ..Default::default() },
            2 => Resources { cpus: 1 + u32::try_from(self.below(4)).unwrap_or(0), ..Default::default() },
            3 => Resources { memory: [60, 40, 200][self.below(3)], ..Default::default() },
            _ => Resources::default(),
        }
    }

    fn plan(&mut self) -> Plan {
        let mut plan = Plan { sources: 1 + self.below(4), ..Default::default() };
        for _ in 0..=self.below(8) {
            let spec = self.spec(&plan);
            plan.actions.push(spec);
            if self.one_in(3) {
                let items = self.inputs(&plan, 3);
                plan.sets.push(items);
            }
        }
        plan
    }

    fn ask(&mut self, actions: usize) -> Ask {
        let mut targets = self.some_below(actions);
        if targets.is_empty() {
            targets.push(actions - 1);
        }
        let bytes = self.below(4);
        let asked = Ask {
            targets,
            all_bytes: bytes == 3,
            toplevel_bytes: bytes != 2,
            jobs: 1 + self.below(4),
            ahead: 0,
            keep_going: self.one_in(2),
            fresh_tests: self.one_in(8),
            streams_tests: self.one_in(8),
            strategy: [Strategy::Local, Strategy::Remote, Strategy::Dynamic, Strategy::Dynamic][self.below(4)],
            dynamic: Dynamic {
                duplicates: None,
                policy: [RacePolicy::Adaptive, RacePolicy::Race][self.below(2)],
                compares: self.one_in(8),
                answer: [Running::default(), Running { count: 9, mean: 0.002, deviation: 0.0 }][self.below(2)],
            },
            remote: (!self.one_in(4)).then(|| self.remote()),
            stores: StoreGoals { local: self.one_in(2), disk_cache: self.one_in(3) },
        };
        // As a build does it: with one side and several jobs.
        let is_ahead = bytes == 2 && asked.jobs > 1 && asked.remote.is_none();
        if is_ahead { asked.ahead(3) } else { asked }
    }

    fn remote(&mut self) -> RemoteGoals {
        let usual = if self.one_in(4) { cache() } else { remote() };
        RemoteGoals {
            store: if self.one_in(6) { "elsewhere" } else { "here" }.to_owned(),
            jobs: 1 + self.below(4),
            uploads: [usual.uploads, Uploads::Never, Uploads::Hermetic, Uploads::Always][self.below(4)],
            waits_for_uploads: self.one_in(2),
            falls_back: !self.one_in(4),
            caches: !self.one_in(12),
            lease: [None, Some(lease(0)), Some(lease(3600))][self.below(3)],
            ..usual
        }
    }

    /// Stores lose something.
    fn evict(&mut self, fake: &mut Fake) {
        match self.below(4) {
            3 => fake.stores.blobs.retain(|_| self.below(3) == 0),
            0 => fake.remote.evict(|_| true),
            n => fake.remote.evict(|_| self.below(3) >= n),
        }
    }

    /// Another checkout builds the same without a look into caches, and its results take the place of others there.
    fn build_elsewhere(&mut self, fake: &mut Fake) {
        let mut other = fake.clone();
        other.disk.retain(|path, _| !path.starts_with("minibuild-out"));
        other.remote.stores.clear();
        other.stores = Default::default();
        (0..=self.below(2)).for_each(|_| other.skip_random_run());
        let ask = self.ask(fake.plan.actions.len());
        Session::begin(&mut other, state_dir().path(), &ask).finish(|_| 0);
        for (name, store) in other.remote.stores {
            let shared = fake.remote.stores.entry(name).or_default();
            shared.insert(store.blobs);
            shared.cache.extend(store.cache);
        }
        fake.stores.blobs.extend(other.stores.blobs);
        fake.stores.results.extend(other.stores.results);
        fake.texts.extend(other.texts);
    }

    /// Something happens between two builds.
    fn meddle(&mut self, fake: &mut Fake) {
        let action = self.below(fake.plan.actions.len());
        let behaviour = &mut fake.behaviours[action];
        match self.below(22) {
            20 | 21 => {
                behaviour.random = true;
                self.build_elsewhere(fake);
            }
            16 | 17 => self.evict(fake),
            18 => fake.remote.stores.values_mut().for_each(|store| store.cache.clear()),
            19 => fake.disk.retain(|path, _| !path.starts_with("minibuild-out")),
            12..=15 => {
                for path in outputs_of(&fake.model, action) {
                    fake.disk.remove(path.as_str());
                }
                fake.behaviours[action].random = true;
            }
            0..=2 => {
                let source = source_path(self.below(fake.plan.sources));
                let text = self.below(3).to_string();
                fake.write(&source, text);
            }
            3 | 4 => {
                for path in outputs_of(&fake.model, action) {
                    fake.disk.remove(path.as_str());
                }
            }
            5 => drop(outputs_of(&fake.model, action).first().and_then(|path| fake.disk.remove(path.as_str()))),
            6 => {
                if let Some(path) = outputs_of(&fake.model, action).last() {
                    fake.write(path.as_str(), "tampered".to_owned());
                }
            }
            7 => behaviour.command = u32::try_from(self.below(3)).unwrap_or_default(),
            8 => behaviour.fails = !behaviour.fails,
            9 => behaviour.random = true,
            10 => drop(fake.disk.remove(&source_path(self.below(fake.plan.sources)))),
            _ => {
                behaviour.undeclared = !behaviour.undeclared;
                behaviour.was_undeclared = true;
            }
        }
    }
}

/// What is only remote is asked for at once where it never was, and again after so many seconds.
fn lease(since: u64) -> Lease {
    Lease { interval: std::time::Duration::from_secs(1), now_unix: since }
}

/// Carries one history out.
fn carry_out(bytes: &[u8]) -> Tally {
    let mut choices = Choices(bytes.iter());
    let dir = state_dir();
    let mut fake = Fake::new(choices.plan());
    if std::env::var_os("MINIBUILD_HISTORY").is_some() {
        println!("{:#?}", fake.plan);
    }
    let mut tally = Tally { histories: 1, ..Tally::default() };
    fake.stores.are_slow = choices.one_in(2);
    while !choices.is_empty() && tally.builds < 12 {
        let ask = choices.ask(fake.plan.actions.len());
        let is_good = one_build(&mut fake, dir.path(), &ask, &mut choices);
        tally.count(&fake, is_good);
        if is_good {
            let again = Ask { fresh_tests: false, ..ask };
            let mut session = Session::begin(&mut fake, dir.path(), &again);
            assert!(session.outcome.is_some(), "a second build starts {:?}", session.doing());
            assert_eq!(session.fake.remote.asked, Asked::default(), "a second build asks");
            session.interrupt();
            tally.builds += 1;
        }
        for _ in 0..choices.below(4) {
            choices.meddle(&mut fake);
        }
    }
    tally
}

/// What happened in histories.
#[derive(Debug, Default)]
struct Tally {
    histories: u64,
    builds: u64,
    good: u64,
    asked: Asked,
}

impl Tally {
    fn count(&mut self, fake: &Fake, is_good: bool) {
        self.add(&Self { builds: 1, good: u64::from(is_good), asked: fake.remote.asked, histories: 0 });
    }

    fn add(&mut self, other: &Self) {
        self.histories += other.histories;
        self.builds += other.builds;
        self.good += other.good;
        self.asked.lookups += other.asked.lookups;
        self.asked.runs += other.asked.runs;
        self.asked.fetches += other.asked.fetches;
        self.asked.uploads += other.asked.uploads;
        self.asked.checks += other.asked.checks;
        self.asked.stagings += other.asked.stagings;
        self.asked.publishes += other.asked.publishes;
    }
}

/// How much goes wrong in a build besides what its actions do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Luck {
    /// Nothing.
    Good,
    /// The remote side does, now and then.
    Flaky,
    /// All sorts of things.
    Bad,
}

/// True if it ended well and everything of it may be relied on.
fn one_build(fake: &mut Fake, dir: &std::path::Path, ask: &Ask, choices: &mut Choices<'_>) -> bool {
    let luck = [Luck::Good, Luck::Flaky, Luck::Bad, Luck::Bad][choices.below(4)];
    let must_end_well = luck == Luck::Good && nothing_is_wrong(fake, ask);
    // What remote stores have lost can only be known by asking them.
    let foreseen =
        (luck == Luck::Good && ask.remote.is_none() && !ask.stores.any()).then(|| Session::preview(fake, dir, ask));
    let mut session = Session::begin(fake, dir, ask);
    let mut is_edited = false;
    while session.outcome.is_none() {
        if luck == Luck::Bad && choices.one_in(40) {
            session.interrupt();
            continue;
        }
        if luck == Luck::Bad && choices.one_in(30) {
            let source = source_path(choices.below(session.fake.plan.sources));
            session.fake.write(&source, format!("meanwhile {}", choices.below(3)));
            is_edited = true;
        }
        if luck != Luck::Good && choices.one_in(24) {
            choices.evict(session.fake);
        }
        let doing = session.doing();
        match doing[choices.below(doing.len())] {
            Doing::Local(action) => {
                let end = local_end(&session, action, luck, choices);
                session.end(action, end);
            }
            doing @ Doing::Here(_) => session.go_on(doing),
            doing => {
                let end = remote_end(&session, doing, luck, choices);
                session.end_remote(doing, end);
            }
        }
    }
    let outcome = session.outcome();
    let is_good = !(outcome.failed || outcome.tests_failed || outcome.interrupted || outcome.lost);
    assert!(is_good || !must_end_well, "nothing is wrong, and yet: {outcome:?} {:?}", session.failures());
    if let Some(foreseen) = foreseen {
        check_foreseen(&foreseen, &session.started, is_good);
    }
    is_good && !session.is_mixed && !is_edited
}

/// Whoever ran was said to run, perhaps; and if nobody had to, nobody did.
fn check_foreseen(foreseen: &[Foreseen], started: &[usize], is_good: bool) {
    for Foreseen { action, verdict, .. } in foreseen {
        let may_run = matches!(verdict, Verdict::Runs(_) | Verdict::MayRun(_));
        assert!(may_run || !started.contains(&action.index()), "{action:?} ran, which was to be {verdict:?}");
        assert!(
            !is_good || !matches!(verdict, Verdict::Fails(_)),
            "all went well, but {action:?} was to be {verdict:?}"
        );
    }
    let has_to_run = |f: &&Foreseen| matches!(f.verdict, Verdict::Runs(_));
    let first = foreseen.iter().find(has_to_run);
    assert!(!is_good || first.is_none() || !started.is_empty(), "nobody ran, but {first:?} was to");
    assert!(first.is_some() || started.is_empty(), "{started:?} ran, but nobody had to");
}

fn local_end(session: &Session<'_>, action: usize, luck: Luck, choices: &mut Choices<'_>) -> End {
    match choices.below(16) {
        0..=9 if session.is_stopped(action) => End::Stopped,
        15 if luck == Luck::Bad && !session.is_mixed => End::ChangedInput,
        14 => End::LeftProcess,
        _ => End::ByItself,
    }
}

fn remote_end(session: &Session<'_>, doing: Doing, luck: Luck, choices: &mut Choices<'_>) -> RemoteEnd {
    let is_stopped = session.is_told_to_stop(doing);
    match choices.below(16) {
        0..=9 if is_stopped => RemoteEnd::Stopped,
        14 | 15 if luck != Luck::Good => RemoteEnd::Unreachable,
        13 if luck != Luck::Good && session.can_be_lost(doing) => RemoteEnd::Lost,
        12 if luck == Luck::Bad
            && matches!(doing, Doing::Run(_) | Doing::Fetch(_) | Doing::Stage(_) | Doing::Publish(_)) =>
        {
            RemoteEnd::Failure
        }
        _ => RemoteEnd::ByItself,
    }
}

/// Whether a build has no reason to fail.
fn nothing_is_wrong(fake: &Fake, ask: &Ask) -> bool {
    let executes = ask.remote.as_ref().is_some_and(|remote| remote.executes);
    let can_run = |spec: &Spec| !spec.no_local || executes && !spec.no_remote && spec.kind != ActionKind::Write;
    fake.plan.actions.iter().all(can_run)
        && (0..fake.plan.sources).all(|source| fake.disk.contains_key(&source_path(source)))
        // A server may remember what an action that misbehaved made.
        && fake.behaviours.iter().all(|behaviour| !behaviour.fails && !behaviour.was_undeclared)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_history_ends_as_a_build_from_nothing(bytes in proptest::collection::vec(any::<u8>(), 20..400)) {
        carry_out(&bytes);
    }
}

/// `MINIBUILD_HISTORY` holds the bytes a failed test printed.
#[test]
fn one_history_again() {
    let Ok(text) = std::env::var("MINIBUILD_HISTORY") else { return };
    let bytes: Vec<u8> = text.split([',', ' ', '[', ']']).filter_map(|byte| byte.parse().ok()).collect();
    println!("{:?}", carry_out(&bytes));
}

/// The long form: `MINIBUILD_LONG` says for how many seconds.
#[test]
fn many_more_histories() {
    let Some(seconds) = std::env::var("MINIBUILD_LONG").ok().and_then(|text| text.parse().ok()) else { return };
    let began = std::time::Instant::now();
    let (mut tally, mut random) = (Tally::default(), began.elapsed().as_nanos() as u64 | 1);
    let seed = std::env::var("MINIBUILD_SEED").ok().and_then(|text| text.parse().ok());
    random = seed.unwrap_or(random);
    while began.elapsed().as_secs() < seconds {
        let mut bytes = Vec::new();
        let length = 20 + tally.histories % 600;
        for _ in 0..length {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            bytes.push((random >> 32) as u8);
        }
        let result = std::panic::catch_unwind(|| carry_out(&bytes));
        tally.add(&result.unwrap_or_else(|panic| {
            eprintln!("this history fails: {bytes:?}");
            std::panic::resume_unwind(panic)
        }));
    }
    println!("{tally:?}");
}
