//! What waits is looked at when what is in its way may have ended, and not whenever something happens.

use minibuild_core::{ArtifactKind, Resources};

use super::bench::Bench;
use super::fake::{End, outputs_of};
use super::plan::{
    In::{Out, Source},
    Spec, action, source_path,
};
use super::session::{Ask, Session, ask, cache, remote};
use crate::machine::Strategy;

/// Few enough that the checks of the fake world, which look at everything, take no time.
const MANY: usize = 120;
/// How often each action may be looked at, on the average.
const LOOKS: u64 = 12;

fn looks(session: &Session<'_>) -> u64 {
    session.machine.looks.get()
}

fn many(spec: &Spec, ask: Ask) -> (Bench, Ask) {
    let targets = (0..MANY).collect();
    (Bench::new(1, vec![spec.clone(); MANY]), Ask { targets, ..ask.jobs(2) })
}

fn taking(resources: Resources) -> Spec {
    Spec { resources, ..action(&[Source(0)]) }
}

fn kinds() -> Vec<(&'static str, Spec)> {
    vec![
        ("a pool", taking(Resources { pool: Some("one".into()), ..Default::default() })),
        ("both processors", taking(Resources { cpus: 2, ..Default::default() })),
        ("most of the memory", taking(Resources { memory: 60, ..Default::default() })),
        ("nobody beside it", Spec { exclusive: true, ..action(&[Source(0)]) }),
    ]
}

fn check(asks: &[(&str, Ask)]) {
    for (what, spec) in kinds() {
        for (how, ask) in asks {
            let (mut bench, ask) = many(&spec, ask.clone());
            let session = bench.built(&ask);
            let most = LOOKS * MANY as u64;
            assert!(looks(&session) <= most, "{what}, {how}: {} looks at {MANY} actions", looks(&session));
        }
    }
}

#[test]
fn many_that_wait_for_the_same_are_looked_at_in_proportion() {
    check(&[("no remote side", ask(&[])), ("a remote cache", ask(&[]).with(cache()))]);
}

#[test]
fn many_of_which_some_run_remotely_are_looked_at_in_proportion() {
    let dynamic = ask(&[]).with(remote()).strategy(Strategy::Dynamic);
    check(&[("raced", ask(&[]).racing()), ("dynamic", dynamic)]);
}

/// Action 0 makes two files. [`MANY`] read the first; one reads what all of these make, and one the second file. Others have
/// nothing to do with that.
fn around_a_producer() -> Bench {
    let producer = Spec { outputs: vec![ArtifactKind::File; 2], ..action(&[Source(0)]) };
    let middle = vec![action(&[Out(0, 0)]); MANY];
    let made: Vec<_> = (1..=MANY).map(|number| Out(number, 0)).collect();
    let reader = action(&[&[Source(1)], &made[..]].concat());
    let second = action(&[Source(2), Out(0, 1)]);
    let others = vec![action(&[Source(3)]); MANY];
    Bench::new(4, [vec![producer], middle, vec![reader, second], others].concat())
}

#[test]
fn what_has_to_be_looked_at_again_waits_for_the_one_who_reads_it() {
    let mut bench = around_a_producer();
    bench.fake.behaviours[0].random = true;
    let reader = MANY + 1;
    let all = ask(&(reader..2 * MANY + 3).collect::<Vec<_>>()).jobs(3);
    bench.build(&all);
    let second = outputs_of(&bench.fake.model, 0)[1].clone();
    bench.fake.disk.remove(second.as_str());
    (1..4).for_each(|source| bench.edit(source, "1"));
    let mut session = bench.begin(&all);
    assert!(session.running().contains(&reader) && session.running().contains(&0), "{:?}", session.running());
    session.end(0, End::ByItself);
    let before = looks(&session);
    while let Some(other) = session.running().into_iter().find(|&other| other != reader) {
        session.end(other, End::ByItself);
    }
    assert!(looks(&session) - before <= LOOKS * MANY as u64, "{} looks", looks(&session) - before);
    session.end(reader, End::ByItself);
    session.finish(|_| 0);
    let made_twice = session.started.iter().filter(|&&number| (1..=MANY).contains(&number)).count();
    assert_eq!(made_twice, MANY, "their input is another");
}

#[test]
fn of_many_sources_that_are_read_again_only_the_readers_are_looked_at() {
    let actions = (0..MANY).map(|number| action(&[Source(number)])).collect();
    let mut bench = Bench::new(MANY, actions);
    let mut session = bench.begin(&ask(&(0..MANY).collect::<Vec<_>>()).remotely());
    for source in 0..MANY {
        session.fake.write(&source_path(source), "1".to_owned());
    }
    session.finish(|_| 0);
    assert_eq!(session.warnings().len(), MANY, "each changed before it was sent");
    assert_eq!(session.outcome().counts.remote, MANY as u64);
    assert!(looks(&session) <= LOOKS * MANY as u64, "{} looks", looks(&session));
}
