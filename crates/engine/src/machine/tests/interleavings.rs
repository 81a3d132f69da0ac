//! Small builds in every way they can go: each order in which runs end, each way a run can end, an interrupt at each
//! moment and again. A way is replayed from the start, since state cannot be copied; two ways that led to the same
//! machine and disk are one.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use minibuild_core::{ActionId, ArtifactKind};

use super::fake::{End, Fake, outputs_of};
use super::fake_remote::{Asked, Doing, RemoteEnd};
use super::plan::{In, Plan, Spec, action, test};
use super::session::{Ask, Session, ask, cache, remote, state_dir};
use crate::machine::Strategy;

use In::{Out, Set, Source};

/// One thing that can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Ends(usize, End),
    EndsRemote(Doing, RemoteEnd),
    Interrupt,
}

/// Whether it goes as it should.
fn is_trouble(step: &Move) -> bool {
    match step {
        Move::Ends(_, end) => matches!(end, End::Failure | End::ChangedInput),
        Move::EndsRemote(_, end) => !matches!(end, RemoteEnd::ByItself | RemoteEnd::Stopped),
        Move::Interrupt => true,
    }
}

/// What can happen to something remote now.
fn remote_moves(session: &Session<'_>, doing: Doing) -> Vec<Move> {
    let mut ends = vec![RemoteEnd::ByItself, RemoteEnd::Unreachable];
    if matches!(doing, Doing::Run(_) | Doing::Fetch(_) | Doing::Stage(_) | Doing::Publish(_)) {
        ends.push(RemoteEnd::Failure);
    }
    if session.can_be_lost(doing) {
        ends.push(RemoteEnd::Lost);
    }
    if session.is_told_to_stop(doing) {
        ends.push(RemoteEnd::Stopped);
    }
    ends.into_iter().map(|end| Move::EndsRemote(doing, end)).collect()
}

/// What can happen now. A third interrupt is like the second.
fn moves(session: &Session<'_>, so_far: &[Move]) -> Vec<Move> {
    let mut moves = Vec::new();
    for action in session.running() {
        moves.extend([Move::Ends(action, End::ByItself), Move::Ends(action, End::Failure)]);
        if session.is_stopped(action) {
            moves.push(Move::Ends(action, End::Stopped));
        }
        let reads_source = session.fake.inputs(ActionId::new(action)).0.first().is_some_and(|id| id.index() == 0);
        if reads_source && !so_far.iter().any(|m| matches!(m, Move::Ends(_, End::ChangedInput))) {
            moves.push(Move::Ends(action, End::ChangedInput));
        }
    }
    if so_far.iter().filter(|m| **m == Move::Interrupt).count() < 2 {
        moves.push(Move::Interrupt);
    }
    for doing in session.fake.remote.doing() {
        moves.extend(remote_moves(session, doing));
    }
    moves.extend(session.fake.stores.doing().map(|number| Move::EndsRemote(Doing::Here(number), RemoteEnd::ByItself)));
    moves
}

/// Everything that decides what can happen from here on.
fn picture(session: &Session<'_>) -> String {
    let machine = &session.machine;
    let mut text = format!("{:?} {:?} {:?} {:?}", machine.status, machine.pending, machine.released, machine.stopping);
    let mut forced: Vec<_> = machine.forced.iter().collect();
    forced.sort_unstable();
    let bytes = machine.bytes.picture();
    let _ = write!(text, "{forced:?} {bytes} {:?} {:?} {:?}", machine.attempts, machine.outcome, machine.known);
    for (path, entry) in &session.fake.disk {
        let _ = write!(text, "{path} {}", entry.text);
    }
    let mut races: Vec<_> = machine.running.iter().map(|(action, running)| (action, &running.race)).collect();
    races.sort_by_key(|(action, _)| **action);
    let _ = write!(text, "{races:?} {:?}", machine.runs);
    for (action, run) in &session.fake.runs {
        let _ = write!(text, "{action:?} {:?}", run.stop);
    }
    if let Some(chooser) = &machine.chooser {
        let _ = write!(text, "{:?}", chooser.policy);
    }
    let mut held: Vec<_> = machine.held_starts.all().collect();
    held.sort_unstable_by_key(|(rank, _)| *rank);
    let _ = write!(text, "{held:?} {:?} {}", machine.use_waiters.picture(), session.fake.stores.picture());
    let lookups = machine.lookups.iter().map(|(action, lookup)| (action, lookup.question));
    let _ = write!(text, "{:?}", lookups.collect::<std::collections::BTreeMap<_, _>>());
    if session.ask.remote.is_some() {
        picture_remote(session, &mut text);
    }
    text
}

fn picture_remote(session: &Session<'_>, text: &mut String) {
    let (machine, remote) = (&session.machine, &session.fake.remote);
    let mut missed: Vec<_> = machine.missed.iter().collect();
    missed.sort_unstable();
    let mut local_only: Vec<_> = machine.local_only.iter().collect();
    local_only.sort_unstable();
    let mut lost: Vec<_> = machine.lost.iter().collect();
    lost.sort_unstable();
    let _ = write!(text, "{missed:?} {local_only:?} {lost:?} {:?} {}", machine.runners, remote.fetches_stopped);
    let lookups: Vec<_> = machine.lookups.iter().map(|(a, l)| (a, l.generation == machine.generation)).collect();
    let _ = write!(text, "{lookups:?} {:?} {:?}", remote.lookups.keys(), remote.uploads.keys());
    for (run, state) in &remote.runs {
        let _ = write!(text, "{run:?} {:?}", state.stop);
    }
    for fetch in remote.fetches.values() {
        let _ = write!(text, "{} {:?}", fetch.path, fetch.content);
    }
    for staging in remote.stagings.values() {
        let _ = write!(text, "{:?} {}", staging.request.run, staging.is_stopped);
    }
    let _ = write!(text, "{:?} {:?}", remote.staged.keys(), remote.publishing.keys());
    for store in remote.stores.values() {
        let _ = write!(text, "{:?} {:?}", store.blobs, store.cache);
    }
}

#[derive(Debug, Default)]
struct Explored {
    states: usize,
    ends: usize,
}

impl Explored {
    fn add(&mut self, other: &Self) {
        self.states += other.states;
        self.ends += other.ends;
    }
}

/// A situation to start from: disk, and a directory with the state that belongs to it.
struct Situation<'a> {
    fake: &'a Fake,
    dir: &'a Path,
    ask: Ask,
    /// How much may go wrong in one way.
    most_trouble: usize,
}

impl Situation<'_> {
    fn explore(&self) -> Explored {
        let mut explored = Explored::default();
        let mut seen = BTreeSet::new();
        let mut open: Vec<Vec<Move>> = vec![Vec::new()];
        while let Some(way) = open.pop() {
            let mut fake = self.fake.clone();
            // What is not flushed is forgotten with the session, so that the next way starts afresh.
            let session = self.go(&mut fake, self.dir, &way, false);
            if !seen.insert(picture(&session)) {
                continue;
            }
            explored.states += 1;
            if session.outcome.is_some() {
                explored.ends += 1;
                self.build_after(&way);
                continue;
            }
            assert!(!session.doing().is_empty(), "nothing is under way, and the build is not over: {way:?}");
            let has_luck = way.iter().filter(|step| is_trouble(step)).count() < self.most_trouble;
            let next = moves(&session, &way).into_iter().filter(|step| has_luck || !is_trouble(step));
            open.extend(next.map(|next| [&way[..], &[next]].concat()));
        }
        explored
    }

    fn go<'f>(&self, fake: &'f mut Fake, dir: &Path, way: &[Move], keeps_state: bool) -> Session<'f> {
        let mut session = Session::begin(fake, dir, &self.ask);
        session.keeps_state = keeps_state;
        // What differs in nothing but its time is the same.
        session.tick = 0;
        for step in way {
            match *step {
                Move::Ends(action, end) => session.end(action, end),
                Move::EndsRemote(doing, end) => session.end_remote(doing, end),
                Move::Interrupt => session.interrupt(),
            }
        }
        session
    }

    /// However a build ended, the next one is right.
    fn build_after(&self, way: &[Move]) {
        let dir = state_dir();
        for name in ["records", "manifests"] {
            let from = self.dir.join(name);
            if from.exists() {
                std::fs::copy(from, dir.path().join(name)).expect("copied");
            }
        }
        let mut fake = self.fake.clone();
        self.go(&mut fake, dir.path(), way, true);
        let mut session = Session::begin(&mut fake, dir.path(), &self.ask);
        session.finish(|_| 0);
        let outcome = session.outcome();
        assert!(!outcome.failed && !outcome.tests_failed, "the build after {way:?} fails");
        let session = Session::begin(&mut fake, dir.path(), &self.ask);
        assert!(session.outcome.is_some(), "the second build after {way:?} starts {:?}", session.doing());
        assert_eq!(session.fake.remote.asked, Asked::default(), "the second build after {way:?} asks");
    }
}

/// Explores a build from nothing, and builds after `meddle` touched what a first one left.
fn check(name: &str, plan: Plan, targets: &[usize], meddle: impl Fn(&mut Fake)) {
    let fake = Fake::new(plan);
    let mut all = Explored::default();
    let all_ways = [(2, true, true), (2, false, false), (1, true, true), (2, false, true), (2, true, false)];
    let is_long = std::env::var_os("MINIBUILD_LONG").is_some();
    for &(jobs, keep_going, toplevel_bytes) in all_ways.iter().skip(if is_long { 0 } else { 3 }) {
        let ask = Ask { keep_going, toplevel_bytes, ..ask(targets).jobs(jobs) };
        let dir = state_dir();
        all.add(&Situation { fake: &fake, dir: dir.path(), ask: ask.clone(), most_trouble: usize::MAX }.explore());
        let mut fake = fake.clone();
        Session::begin(&mut fake, dir.path(), &ask).finish(|_| 0);
        meddle(&mut fake);
        all.add(&Situation { fake: &fake, dir: dir.path(), ask, most_trouble: usize::MAX }.explore());
    }
    println!("{name}: {} states, {} ends", all.states, all.ends);
    assert!(all.ends > 100);
}

fn delete(fake: &mut Fake, action: usize) {
    for path in outputs_of(&fake.model, action) {
        fake.disk.remove(path.as_str());
    }
}

fn edit(fake: &mut Fake, source: usize) {
    fake.write(&super::plan::source_path(source), "1".to_owned());
}

#[test]
fn every_way_a_diamond_can_go() {
    let plan = || {
        let actions =
            vec![action(&[Source(0)]), action(&[Out(0, 0)]), action(&[Out(0, 0)]), action(&[Out(1, 0), Out(2, 0)])];
        Plan::new(1, actions)
    };
    check("diamond", plan(), &[3], |fake| edit(fake, 0));
    check("diamond without intermediates", plan(), &[3], |fake| {
        for action in 0..4 {
            delete(fake, action);
        }
    });
}

#[test]
fn every_way_bytes_are_made_again_and_differ() {
    // 1 and 3 have to run; for 3 the bytes of 0 are missing, which makes others than before: 2 has used them.
    let actions = vec![action(&[Source(0)]), action(&[Source(1)]), action(&[Out(0, 0)]), action(&[Set(0), Out(1, 0)])];
    let plan = Plan { sources: 2, sets: vec![vec![Out(0, 0)]], actions };
    check("healing", plan.clone(), &[2, 3], |fake| {
        fake.behaviours[0].random = true;
        delete(fake, 0);
        edit(fake, 1);
    });
    check("healing of a known end", plan, &[2, 3], |fake| {
        fake.behaviours[0].random = true;
        delete(fake, 0);
        delete(fake, 2);
        edit(fake, 1);
    });
}

#[test]
fn every_way_an_output_is_replaced_beside_its_reader() {
    let two = Spec { outputs: vec![ArtifactKind::File, ArtifactKind::Directory], ..action(&[Source(0)]) };
    let actions =
        vec![two, action(&[Out(0, 0), Source(1)]), action(&[Out(0, 1), Source(1)]), test(&[Out(0, 0), Out(1, 0)])];
    check("replaced", Plan::new(2, actions), &[1, 2, 3], |fake| {
        fake.behaviours[0].random = true;
        fake.disk.remove("minibuild-out/bin/p/a0.1");
        edit(fake, 1);
    });
}

#[test]
fn every_way_tests_and_an_exclusive_one_can_go() {
    let alone = Spec { exclusive: true, ..test(&[Out(0, 0)]) };
    let plan = Plan::new(2, vec![action(&[Source(0)]), test(&[Out(0, 0)]), alone, test(&[Source(1)])]);
    check("tests", plan, &[1, 2, 3], |fake| edit(fake, 0));
}

/// Explores builds with a remote side after `meddle` touched what a first one left, in each mode. Two things go wrong
/// in each way, four in the long form.
fn check_remote(name: &str, plan: Plan, asked: &Ask, meddle: impl Fn(&mut Fake)) {
    let is_long = std::env::var_os("MINIBUILD_LONG").is_some();
    let mut all = Explored::default();
    for (keep_going, toplevel_bytes) in [(true, true), (false, false)] {
        let ask = Ask { keep_going, toplevel_bytes, ..asked.clone() };
        let mut fake = Fake::new(plan.clone());
        let dir = state_dir();
        Session::begin(&mut fake, dir.path(), &ask).finish(|_| 0);
        meddle(&mut fake);
        let most_trouble = if is_long { 4 } else { 2 };
        all.add(&Situation { fake: &fake, dir: dir.path(), ask, most_trouble }.explore());
    }
    println!("{name}: {} states, {} ends", all.states, all.ends);
    assert!(all.ends > 10);
}

#[test]
fn every_way_a_remote_chain_can_go() {
    let plan = Plan::new(2, vec![action(&[Source(0)]), action(&[Out(0, 0)]), action(&[Out(1, 0), Source(1)])]);
    let asked = ask(&[1, 2]).remotely();
    check_remote("chain, everything changed", plan.clone(), &asked, |fake| edit(fake, 0));
    check_remote("chain, evicted", plan, &asked, |fake| {
        fake.remote.evict(|_| true);
        edit(fake, 1);
    });
}

#[test]
fn every_way_a_local_action_gets_remote_inputs() {
    let there =
        Spec { no_local: true, outputs: vec![ArtifactKind::File, ArtifactKind::Directory], ..action(&[Source(0)]) };
    let here = |inputs: &[In]| Spec { no_remote: true, ..action(inputs) };
    let plan = Plan::new(2, vec![there, here(&[Out(0, 0), Source(1)]), here(&[Out(0, 1), Source(1)])]);
    let asked = ask(&[1, 2]).with(remote()).jobs(2);
    check_remote("mixed", plan.clone(), &asked, |fake| {
        delete(fake, 0);
        edit(fake, 1);
    });
    check_remote("mixed, differs when it is made again", plan, &asked, |fake| {
        fake.behaviours[0].random = true;
        fake.remote.evict(|_| true);
        delete(fake, 0);
        edit(fake, 1);
    });
}

#[test]
fn every_way_a_cache_can_go() {
    let plan = Plan::new(2, vec![action(&[Source(0)]), action(&[Source(1)]), action(&[Out(0, 0), Out(1, 0)])]);
    let asked = ask(&[2]).with(cache()).jobs(2);
    check_remote("cache", plan.clone(), &asked, |fake| {
        delete(fake, 2);
        edit(fake, 1);
    });
    check_remote("cache, evicted", plan, &asked, |fake| {
        fake.remote.evict(|_| true);
        (0..3).for_each(|action| delete(fake, action));
    });
}

/// How much goes wrong at most in one way, where each thing that does multiplies the ways.
fn most_trouble() -> usize {
    if std::env::var_os("MINIBUILD_LONG").is_some() { 2 } else { 1 }
}

/// A producer of two outputs that makes others each time, a reader of each, and a source that both readers read.
fn two_readers() -> Plan {
    let two = Spec { outputs: vec![ArtifactKind::File, ArtifactKind::Directory], ..action(&[Source(0)]) };
    Plan::new(2, vec![two, action(&[Out(0, 0), Source(1)]), action(&[Out(0, 1), Source(1)])])
}

/// A first build here of a plan whose action 0 makes something else each time, where caches have the result of another
/// checkout under its key. One output of it is gone, and the readers have to run again.
fn beside_another_result(there: &Ask, first: &Ask) -> (Fake, tempfile::TempDir) {
    let mut other = Fake::new(two_readers());
    other.behaviours[0].random = true;
    Session::begin(&mut other, state_dir().path(), there).finish(|_| 0);
    let mut fake = Fake::new(two_readers());
    fake.behaviours[0].random = true;
    fake.skip_random_run();
    let dir = state_dir();
    Session::begin(&mut fake, dir.path(), first).finish(|_| 0);
    fake.remote.stores = other.remote.stores;
    fake.stores.blobs.extend(other.stores.blobs);
    fake.stores.results = other.stores.results;
    fake.texts.extend(other.texts);
    fake.disk.remove("minibuild-out/bin/p/a0.1");
    edit(&mut fake, 1);
    (fake, dir)
}

#[test]
fn every_way_a_remote_cache_has_another_result() {
    let mut all = Explored::default();
    for keep_going in [true, false] {
        let ask = Ask { keep_going, ..ask(&[1, 2]).with(cache()).jobs(2) };
        let (fake, dir) = beside_another_result(&ask, &Ask { remote: None, ..ask.clone() });
        all.add(&Situation { fake: &fake, dir: dir.path(), ask, most_trouble: most_trouble() }.explore());
    }
    println!("another result in a remote cache: {} states, {} ends", all.states, all.ends);
    assert!(all.ends > 10);
}

#[test]
fn every_way_a_disk_cache_has_another_result() {
    let mut all = Explored::default();
    for keep_going in [true, false] {
        let ask = Ask { keep_going, ..ask(&[1, 2]).keeping().jobs(2) };
        let mut first = ask.clone();
        first.stores.disk_cache = false;
        let (mut fake, dir) = beside_another_result(&ask, &first);
        // The local store has one of the outputs, and takes its time to copy it.
        let one = fake.disk.remove("minibuild-out/bin/p/a0.0").expect("was made");
        fake.stores.blobs.extend(one.content().blobs());
        fake.stores.are_slow = true;
        all.add(&Situation { fake: &fake, dir: dir.path(), ask, most_trouble: most_trouble() }.explore());
    }
    println!("another result in a disk cache: {} states, {} ends", all.states, all.ends);
    assert!(all.ends > 10);
}

#[test]
fn every_way_both_sides_find_another_result() {
    let there = ask(&[1, 2]).with(remote()).strategy(Strategy::Dynamic).jobs(2);
    let (fake, dir) = beside_another_result(&there, &Ask { remote: None, strategy: Strategy::Local, ..there.clone() });
    let all = Situation { fake: &fake, dir: dir.path(), ask: there, most_trouble: 1 }.explore();
    println!("another result, both sides: {} states, {} ends", all.states, all.ends);
    assert!(all.ends > 10);
}

#[test]
fn every_way_both_sides_can_go() {
    let plan = Plan::new(2, vec![action(&[Source(0)]), action(&[Out(0, 0)]), action(&[Out(0, 0), Source(1)])]);
    let asked = ask(&[1, 2]).with(remote()).strategy(Strategy::Dynamic);
    check_remote("both sides", plan, &asked, |fake| {
        fake.behaviours[0].random = true;
        fake.remote.evict(|_| true);
        edit(fake, 1);
    });
}

/// Explores races of both branches, with what the loser left in the way.
fn check_races(name: &str, plan: Plan, asked: &Ask, meddle: impl Fn(&mut Fake)) {
    check_remote(name, plan, &asked.clone().racing(), meddle);
}

#[test]
fn every_way_a_race_can_go() {
    let two = Spec { outputs: vec![ArtifactKind::File, ArtifactKind::Directory], ..action(&[Source(0)]) };
    let check = |name, targets: &[usize], plan: &Plan| {
        check_races(name, plan.clone(), &ask(targets), |fake| edit(fake, 0));
    };
    check("a race", &[0], &Plan::new(1, vec![two.clone()]));
    let plan = Plan::new(1, vec![two, action(&[Out(0, 1)])]);
    check("a race with a reader of its output", &[1], &plan);
    check_races("a race, and what it made before is lost", plan, &ask(&[0, 1]), |fake| {
        fake.behaviours[0].random = true;
        fake.remote.evict(|_| true);
        delete(fake, 0);
        delete(fake, 1);
    });
}
