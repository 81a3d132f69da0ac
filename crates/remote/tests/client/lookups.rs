//! Asking the action cache.

use minibuild_core::{ArtifactKind, CacheAnswer, ExecutionStatus};

use crate::harness::{Fixture, Task};

const OUT: &str = "minibuild-out/bin/out";

fn copy() -> Task {
    Task::new("mkdir -p minibuild-out/bin; cat in > minibuild-out/bin/out; echo told")
        .input("in", "text\n")
        .output(OUT, ArtifactKind::File)
}

#[test]
fn a_result_is_a_hit_with_its_logs_and_one_call() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    assert!(matches!(client.look_up(&copy()), CacheAnswer::Miss));
    let report = client.run(&copy());
    let before = fixture.counts();
    let CacheAnswer::Hit(hit) = client.look_up(&copy()) else { panic!("is there") };
    assert_eq!((hit.outputs, hit.stdout, hit.from_cache), (report.outputs, report.stdout, true));
    assert_eq!(hit.status, ExecutionStatus::Exited(0));
    let after = fixture.counts();
    let calls = |counts: &minibuild_server::Counts| counts.methods.values().map(|m| m.calls).sum::<u64>();
    assert_eq!(calls(&after) - calls(&before), 1);
}

#[test]
fn a_result_without_what_is_wanted_is_a_miss() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    client.run(&copy());
    let wanted =
        [(OUT, ArtifactKind::Directory), (OUT, ArtifactKind::Symlink), ("minibuild-out/bin/other", ArtifactKind::File)];
    let request = copy().request();
    for (name, kind) in wanted {
        let mut lookup = copy();
        lookup.outputs = vec![crate::harness::output(name, kind)];
        let run = crate::harness::run_id();
        client.remote().look_up(minibuild_core::CacheLookup {
            run,
            who: request.who.clone(),
            outputs: lookup.outputs,
            depfile: None,
        });
        let answer = client.wait(|event| match event {
            minibuild_core::RemoteEvent::LookedUp { run: of, answer } if *of == run => Some(answer.clone()),
            _ => None,
        });
        assert!(matches!(answer, CacheAnswer::Miss), "{name} {kind:?}: {answer:?}");
    }
}

#[test]
fn a_cache_that_is_down_has_failed() {
    let mut fixture = Fixture::new();
    fixture.shutdown();
    let mut client = fixture.client_with(|config| config.retries = 0);
    let CacheAnswer::Failed(why) = client.look_up(&copy()) else { panic!("it is down") };
    assert!(why.contains(fixture.address()), "{why}");
}
