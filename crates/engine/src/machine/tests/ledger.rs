//! The ledger – what is known of outputs, where their bytes are and why – against a naive model, over random sequences of
//! builds, deletions, edits, changes by others, changes of mode, store and targets, evictions and restarts.
//!
//! The model is a few lines: what is wanted is on disk afterwards; what else was on disk and right stays; what was wrong
//! goes; all else stays absent. Exactly what is wanted and was absent is fetched, once, and nothing runs whose sources are
//! those of one of its last four results – unless bytes of such a result, or of one that the action cache still names, are
//! neither here nor in the store that is used.

use std::collections::{BTreeMap, BTreeSet};

use minibuild_core::{ActionId, ArtifactKind, Content};

use super::bench::Bench;
use super::fake::outputs_of;
use super::fake_remote::blobs_of;
use super::plan::{In, Spec, action, source_path};
use super::session::{Ask, Session, ask, remote};
use crate::machine::{RemoteGoals, Status};

/// Steps of one history.
const STEPS: usize = 50;
/// Sources whose texts an action was made of.
type Signature = Vec<(usize, String)>;

/// Numbers that look random, the same for each seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % limit.max(1)
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

struct History {
    bench: Bench,
    random: Random,
    /// The last signatures under which each action was built, newest first.
    built: Vec<Vec<Signature>>,
    store: &'static str,
    /// What happened, for a message.
    log: Vec<String>,
}

#[derive(Default, Debug)]
struct Tally {
    builds: usize,
    fetched: usize,
    ran: usize,
    /// Builds that needed bytes which were nowhere.
    incomplete: usize,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let sources = 1 + random.below(4);
        let mut actions: Vec<Spec> = Vec::new();
        for number in 0..1 + random.below(7) {
            let input = |random: &mut Random| match number > 0 && !random.one_in(3) {
                true => In::Out(random.below(number), 0),
                false => In::Source(random.below(sources)),
            };
            let mut inputs = vec![input(&mut random), input(&mut random)];
            inputs.dedup();
            let mut spec = action(&inputs);
            match random.below(5) {
                0 => spec.outputs = vec![ArtifactKind::Directory],
                1 => spec.outputs.push(ArtifactKind::File),
                _ => {}
            }
            actions.push(spec);
        }
        let built = vec![Vec::new(); actions.len()];
        let bench = Bench::new(sources, actions);
        Self { bench, random, built, store: "here", log: Vec::new() }
    }

    fn step(&mut self, tally: &mut Tally) {
        match self.random.below(16) {
            0 | 1 => {
                let (source, text) =
                    (self.random.below(self.bench.fake.plan.sources), self.random.below(3).to_string());
                self.log.push(format!("edit {source} to {text}"));
                self.bench.edit(source, &text);
            }
            2 | 3 => {
                let number = self.random.below(self.built.len());
                self.log.push(format!("delete {number}"));
                self.bench.delete(number);
            }
            4 => {
                let number = self.random.below(self.built.len());
                let path = outputs_of(&self.bench.fake.model, number)[0].to_string();
                if self.bench.fake.disk.contains_key(&path) {
                    self.log.push(format!("tamper with {number}"));
                    self.bench.fake.write(&path, "tampered".to_owned());
                }
            }
            5 if self.random.one_in(2) => {
                self.log.push("evict".to_owned());
                let random = &mut self.random;
                self.bench.fake.remote.evict(|_| random.one_in(2));
            }
            6 if self.random.one_in(3) => {
                self.store = if self.store == "here" { "elsewhere" } else { "here" };
                self.log.push(format!("now {}", self.store));
            }
            _ => self.build(tally),
        }
    }

    fn ask(&mut self) -> Ask {
        let all: Vec<usize> = (0..self.built.len()).collect();
        let mut targets: Vec<usize> = all.iter().copied().filter(|_| self.random.one_in(2)).collect();
        if targets.is_empty() {
            targets = all;
        }
        let asked = ask(&targets).remotely().with(RemoteGoals { store: self.store.to_owned(), ..remote() });
        let asked = asked.strategy(crate::machine::Strategy::Remote);
        match self.random.below(3) {
            0 => asked.all(),
            1 => asked.minimal(),
            _ => asked,
        }
    }

    fn build(&mut self, tally: &mut Tally) {
        let asked = self.ask();
        self.log.push(format!("build {:?} all {} toplevel {}", asked.targets, asked.all_bytes, asked.toplevel_bytes));
        let signatures: Vec<Signature> = (0..self.built.len()).map(|number| self.signature(number)).collect();
        let before = contents(&self.bench);
        let store = self.bench.fake.remote.stores.get(self.store).cloned().unwrap_or_default();
        let (log, random) = (self.log.clone(), &mut self.random);
        let mut session = self.bench.begin(&asked);
        session.finish(|doing| random.below(doing.len()));
        let done = in_closure(&session);
        let is_known = |number: usize| self.built[number].contains(&signatures[number]);
        let is_lost = |(path, (number, content)): (String, (usize, Option<Content>))| {
            let Some(content) = content.filter(|_| done.contains(&number)) else { return false };
            let is_gone = blobs_of(&content).iter().any(|blob| !store.blobs.contains(blob));
            is_gone && before.get(&path) != Some(&content) && (is_known(number) || store.promises(&content))
        };
        let is_incomplete = known(&session).into_iter().any(is_lost);
        let wrong = check(&session, &asked, &before, is_incomplete);
        assert!(wrong.is_none(), "{}\n{log:#?}", wrong.unwrap_or_default());
        for &number in &done {
            let known = &mut self.built[number];
            let is_known = known.contains(&signatures[number]);
            let ran = session.started.contains(&number);
            assert!(!(ran && is_known && !is_incomplete), "{number} runs though it is known\n{log:#?}");
            known.retain(|old| *old != signatures[number]);
            known.insert(0, signatures[number].clone());
            known.truncate(4);
        }
        tally.builds += 1;
        tally.fetched += session.fetched.len();
        tally.ran += session.started.len();
        tally.incomplete += usize::from(is_incomplete);
    }

    /// The texts of all sources that an action is made of, directly or not.
    fn signature(&self, number: usize) -> Signature {
        let mut sources = BTreeSet::new();
        let mut stack = vec![number];
        while let Some(number) = stack.pop() {
            for input in &self.bench.fake.plan.actions[number].inputs {
                match input {
                    In::Source(source) => drop(sources.insert(*source)),
                    In::Out(from, _) => stack.push(*from),
                    In::Set(_) => unreachable!("there are none"),
                }
            }
        }
        let text = |source: usize| self.bench.fake.disk[&source_path(source)].text.clone();
        sources.into_iter().map(|source| (source, text(source))).collect()
    }
}

/// What lies on the disk below the output root.
fn contents(bench: &Bench) -> BTreeMap<String, Content> {
    let outputs = bench.fake.disk.iter().filter(|(path, _)| path.starts_with(minibuild_core::OUT_ROOT));
    outputs.map(|(path, entry)| (path.clone(), entry.content())).collect()
}

/// The actions that the targets are made of.
fn in_closure(session: &Session<'_>) -> Vec<usize> {
    let is_done = |&number: &usize| session.machine.status_of(ActionId::new(number)) == Status::Done;
    (0..session.fake.plan.actions.len()).filter(is_done).collect()
}

/// What is not as the model says.
fn check(
    session: &Session<'_>,
    asked: &Ask,
    before: &BTreeMap<String, Content>,
    is_incomplete: bool,
) -> Option<String> {
    let outcome = session.outcome();
    if outcome.failed || outcome.lost || outcome.counts.local > 0 {
        return Some(format!("{outcome:?} {:?}", session.failures()));
    }
    let done = in_closure(session);
    let mut absent = BTreeSet::new();
    for (path, (number, content)) in known(session) {
        let now = session.fake.disk.get(&path).map(|entry| entry.content());
        if !done.contains(&number) {
            if now.as_ref() != before.get(&path) {
                return Some(format!("`{path}` was touched, and no target is made of it"));
            }
            continue;
        }
        let is_wanted = asked.all_bytes || asked.toplevel_bytes && asked.targets.contains(&number);
        let was_right = before.get(&path) == content.as_ref();
        let expected = content.filter(|_| is_wanted || was_right);
        if now != expected {
            return Some(format!("`{path}` is {now:?}, not {expected:?}"));
        }
        if is_wanted && !was_right {
            absent.insert(path);
        }
    }
    let fetched: BTreeSet<String> = session.fetched.iter().cloned().collect();
    let is_exact = fetched == absent && fetched.len() == session.fetched.len();
    let is_enough = absent.is_subset(&fetched);
    let is_right = if is_incomplete { is_enough } else { is_exact };
    (!is_right).then(|| format!("fetched {:?}, not {absent:?}", session.fetched))
}

/// Every output with its action, and what it is known to be.
fn known(session: &Session<'_>) -> BTreeMap<String, (usize, Option<Content>)> {
    let model = &session.fake.model;
    let mut all = BTreeMap::new();
    for number in 0..session.fake.plan.actions.len() {
        for &id in &model.action(ActionId::new(number)).outputs {
            let content = session.machine.known[id.index()].clone();
            all.insert(model.artifact(id).path.to_string(), (number, content));
        }
    }
    all
}

/// `MINIBUILD_LEDGER` says how many; the long form has a thousand.
#[test]
fn random_ledgers_agree_with_the_model() {
    let count = std::env::var("MINIBUILD_LEDGER").ok().and_then(|text| text.parse().ok()).unwrap_or(50);
    let mut tally = Tally::default();
    for seed in 1..=count {
        let mut history = History::new(seed);
        for _ in 0..STEPS {
            history.step(&mut tally);
        }
    }
    println!("{count} histories of {STEPS} steps: {tally:?}");
    assert!(tally.builds > 10 * count as usize && tally.fetched > 0 && tally.ran > 0, "{tally:?}");
}
