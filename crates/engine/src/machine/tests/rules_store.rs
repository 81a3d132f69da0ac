//! One test for each rule of stores on this machine.

use minibuild_core::{ActionId, Runner};

use super::bench::{Bench, chain};
use super::plan::{In::Source, Spec, action, source_path};
use super::session::{ask, cache, remote};
use crate::machine::{StoreGoals, Strategy};

/// Builds with both contents of the source, and goes back to the first.
fn switched(bench: &mut Bench, target: usize) {
    for (text, expected) in [("0", target + 1), ("1", target + 1)] {
        bench.edit(0, text);
        assert_eq!(bench.build(&ask(&[target]).keeping()).len(), expected);
    }
    bench.edit(0, "0");
}

#[test]
fn what_was_replaced_comes_back_without_a_run() {
    let mut bench = chain(3);
    switched(&mut bench, 2);
    for text in ["0", "1", "0"] {
        bench.edit(0, text);
        let session = bench.built(&ask(&[2]).keeping());
        assert_eq!((session.started.len(), session.fetched.len()), (0, 1));
        assert_eq!(session.outcome().counts.up_to_date, 3);
        assert!(bench.has(2) && !bench.has(0), "nobody needs what lies between");
    }
}

#[test]
fn without_a_store_it_runs_again() {
    let mut bench = chain(1);
    switched(&mut bench, 0);
    bench.fake.stores = Default::default();
    assert_eq!(bench.build(&ask(&[0])), [0]);
}

#[test]
fn what_a_store_lost_is_made_again() {
    let mut bench = chain(2);
    switched(&mut bench, 1);
    bench.fake.stores.blobs.clear();
    bench.fake.stores.results.clear();
    assert_eq!(bench.build(&ask(&[1]).keeping()), [0, 1], "the second needs the first's bytes");
    assert!(bench.has(1));
}

#[test]
fn an_input_comes_back_for_who_runs() {
    let mut bench = chain(2);
    switched(&mut bench, 0);
    let session = bench.built(&ask(&[1]).keeping());
    assert_eq!((&session.started[..], session.fetched.len()), (&[1][..], 1));
}

#[test]
fn one_who_runs_remotely_is_sent_what_only_a_store_here_has() {
    let mut bench = chain(2);
    switched(&mut bench, 0);
    let session = bench.built(&ask(&[1]).keeping().with(remote()).strategy(Strategy::Remote));
    assert_eq!(session.started, [1], "who made its input does not run again");
    assert_eq!(session.completed(1).map(|(_, runner, _)| runner), Some(Runner::Remote));
}

#[test]
fn the_disk_cache_is_asked_before_a_remote_one_and_serves_another_checkout() {
    let mut bench = chain(2);
    bench.build(&ask(&[1]).keeping());
    bench.check_out_again();
    let session = bench.built(&ask(&[1]).keeping().with(cache()));
    let counts = session.outcome().counts;
    assert_eq!((session.started.len(), counts.disk_cache, session.fake.remote.asked.lookups), (0, 2, 0));
    let (_, runner, reason) = session.completed(0).expect("it is told");
    assert_eq!((runner, &*reason), (Runner::DiskCache, "the disk cache had its result"));
    assert!(bench.has(1) && !bench.has(0));
    assert_eq!(bench.build(&ask(&[1]).keeping()), [0; 0]);
}

#[test]
fn a_result_whose_blobs_are_gone_is_none() {
    let mut bench = chain(2);
    bench.build(&ask(&[1]).keeping());
    bench.check_out_again();
    bench.fake.stores.blobs.clear();
    assert_eq!(bench.build(&ask(&[1]).keeping()), [0, 1]);
}

#[test]
fn a_result_that_only_unread_inputs_set_apart_is_in_the_cache_under_both_keys() {
    let spec = Spec { discoverable: vec![Source(1), Source(2), Source(3)], ..action(&[Source(0)]) };
    let mut bench = Bench::new(4, vec![spec]);
    bench.build(&ask(&[0]).keeping());
    let read = bench.fake.depfile_names(ActionId::new(0));
    let unread = (1..4).find(|&source| !read.contains(&source_path(source))).expect("one is left out");
    bench.edit(unread, "other");
    assert_eq!(bench.build(&ask(&[0]).keeping()), [0; 0]);
    bench.check_out_again();
    let session = bench.built(&ask(&[0]).keeping());
    assert_eq!((session.started.len(), session.outcome().counts.disk_cache), (0, 1));
}

#[test]
fn what_may_be_in_no_cache_is_not_looked_up() {
    let mut bench = Bench::new(1, vec![action(&[Source(0)])]);
    bench.fake.plan.actions[0].no_cache = true;
    let plan = bench.fake.plan.clone();
    bench.fake.replan(plan);
    let only_cache = StoreGoals { local: false, disk_cache: true };
    let asked = super::session::Ask { stores: only_cache, ..ask(&[0]) };
    bench.build(&asked);
    assert!(bench.fake.stores.results.is_empty());
    bench.check_out_again();
    assert_eq!(bench.build(&asked), [0]);
}
