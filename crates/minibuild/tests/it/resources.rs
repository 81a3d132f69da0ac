//! Pools and processors of actions that run here.

use crate::{genrule, with_targets};
use minibuild_testkit::{Event, Run};

/// Most runs at once among the actions whose id holds `name`.
fn most_at_once(run: &Run, name: &str) -> usize {
    let (mut now, mut most) = (0_usize, 0);
    for event in &run.events {
        match event {
            Event::BranchStarted { action, .. } if action.contains(name) => now += 1,
            Event::BranchFinished { action, .. } if action.contains(name) => now -= 1,
            _ => {}
        }
        most = most.max(now);
    }
    most
}

#[test]
fn a_pool_has_so_many_places_and_others_go_ahead() {
    let ws = with_targets("").file("minibuild.toml", "[build]\npools = { link = 2 }\n");
    let mut gate = ws.gate("g");
    let pass = format!("{}; : > $OUT", gate.pass());
    let mut targets = String::new();
    for number in 0..4 {
        targets += &(genrule(&format!("link{number}"), &[], &[&format!("link{number}")], &pass) + "pool = \"link\"\n");
    }
    targets += &genrule("other", &[], &["other"], &pass);
    ws.write("BUILD.toml", targets);
    let build = ws.start_build(&["-j5", "//..."]);
    // Two of the pool, and the one that is in none.
    for _ in 0..3 {
        gate.arrival();
    }
    // One for each of the five.
    for _ in 0..5 {
        gate.open();
    }
    let run = build.wait().ok();
    assert_eq!((most_at_once(&run, "link"), run.ran().len()), (2, 5));
}

#[test]
fn processors_are_counted_and_more_than_there_are_is_all() {
    let mut targets = String::new();
    for number in 0..3 {
        targets += &(genrule(&format!("wide{number}"), &[], &[&format!("wide{number}")], ": > $OUT") + "cpus = 99\n");
        targets += &genrule(&format!("thin{number}"), &[], &[&format!("thin{number}")], ": > $OUT");
    }
    let run = with_targets(&targets).build(&["-j3", "//..."]).ok();
    assert_eq!(most_at_once(&run, "wide"), 1);
    let mut open: Vec<&str> = Vec::new();
    for event in &run.events {
        match event {
            Event::BranchStarted { action, .. } => open.push(action),
            Event::BranchFinished { action, .. } => open.retain(|other| other != action),
            _ => {}
        }
        assert!(open.len() < 2 || open.iter().all(|action| !action.contains("wide")), "{open:?}");
    }
}
