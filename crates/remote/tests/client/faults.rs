//! Servers and connections that fail while an action runs.

use std::time::Duration;

use minibuild_core::{ArtifactKind, BlobSource, CacheAnswer, Digest, ExecutionStatus, FetchOutcome, RemoteStage};
use minibuild_testkit::{Fate, Proxy};

use crate::harness::{Client, F, Fixture, Task, exit_code, infrastructure};

const OUT: &str = "minibuild-out/bin/out";

fn copy(salt: &str) -> Task {
    Task::new("mkdir -p minibuild-out/bin; cat in > minibuild-out/bin/out; echo told")
        .input("in", "text\n")
        .output(OUT, ArtifactKind::File)
        .salt(salt)
}

fn proxy(fixture: &Fixture) -> Proxy {
    Proxy::start(fixture.address().trim_start_matches("grpc://").parse().expect("an address"))
}

fn client_of(fixture: &Fixture, proxy: &Proxy) -> Client {
    fixture.client_with(|config| config.executor = Some(format!("grpc://{}", proxy.address())))
}

fn fault(kind: &str, rest: &str) -> String {
    format!("[[fault]]\nkind = \"{kind}\"\n{rest}\n")
}

#[test]
fn a_stream_cut_anywhere_is_taken_up_again_and_nothing_runs_twice() {
    let fixture = Fixture::new();
    let mut runs = 0;
    // The second connection is that of the streams; all it says fits into so many bytes.
    for bytes in (0..1200).step_by(40) {
        let proxy = proxy(&fixture);
        proxy.plan(&[Fate::Pass, Fate::CutAfter(bytes)]);
        let mut client = client_of(&fixture, &proxy);
        let report = client.run(&copy(&format!("{bytes}")));
        assert_eq!((exit_code(&report), &*report.stdout), (0, &b"told\n"[..]), "cut after {bytes}");
        runs += 1;
        assert_eq!(fixture.counts().actions.run, runs, "cut after {bytes}");
    }
    assert!(fixture.calls("WaitExecution") > 0 && fixture.calls("Execute") > runs, "{:?}", fixture.counts());
}

#[test]
fn an_action_that_runs_is_taken_up_after_a_cut() {
    let fixture = Fixture::with_faults(&fault("slow", "ms = 300"));
    let proxy = proxy(&fixture);
    let mut client = client_of(&fixture, &proxy);
    let request = copy("").request();
    let run = request.run;
    client.remote().start(request);
    for number in 1..=3 {
        fixture.wait_for("a stream", |counts| counts.calls("Execute") + counts.calls("WaitExecution") >= number);
        proxy.cut();
    }
    assert_eq!(exit_code(&client.finished(run)), 0);
    assert_eq!(fixture.counts().actions.run, 1);
}

#[test]
fn streams_that_break_after_each_message_end_with_the_result() {
    for method in ["Execute", "WaitExecution"] {
        for bytes in 0..3 {
            let faults = fault("break", &format!("method = \"{method}\"\nbytes = {bytes}\ntimes = 2"));
            let also = fault("break", "method = \"Execute\"\nbytes = 1\ntimes = 1");
            let faults = if method == "Execute" { faults } else { format!("{faults}{also}") };
            let fixture = Fixture::with_faults(&faults);
            let report = fixture.client().run(&copy(""));
            assert_eq!(exit_code(&report), 0, "{method} after {bytes}");
            assert_eq!(fixture.counts().actions.run, 1, "{method} after {bytes}");
        }
    }
}

#[test]
fn a_forgotten_operation_is_looked_up_and_executed_anew() {
    let forget = fault("forget", "method = \"Execute\"\ntimes = 1");
    let cut = fault("break", "method = \"Execute\"\nbytes = 1\ntimes = 1");
    let fixture = Fixture::with_faults(&format!("{forget}{cut}"));
    let report = fixture.client().run(&copy(""));
    assert_eq!(exit_code(&report), 0);
    assert!(fixture.calls("WaitExecution") == 1 && fixture.calls("GetActionResult") == 1, "{:?}", fixture.counts());
}

#[test]
fn a_server_that_was_started_anew_runs_the_action_again() {
    let mut fixture = Fixture::new();
    let mut client = fixture.client();
    let request = Task::new("test -e minibuild-out || true; sleep 1000").request();
    let run = request.run;
    client.remote().start(request);
    client.stage(run, RemoteStage::Running);
    fixture.shutdown();
    // The next one cannot run it any longer than it takes to fail.
    fixture.restart(&fault("fail", "exit_code = 3"));
    assert_eq!(exit_code(&client.finished(run)), 3);
}

#[test]
fn errors_that_pass_are_tried_again() {
    for (method, code) in [
        ("Execute", "UNAVAILABLE"),
        ("Execute", "INTERNAL"),
        ("Execute", "NOT_FOUND"),
        ("Execute", "FAILED_PRECONDITION"),
        ("Execute", "RESOURCE_EXHAUSTED"),
        ("Execute", "ABORTED"),
        ("FindMissingBlobs", "UNAVAILABLE"),
        ("GetCapabilities", "UNAVAILABLE"),
    ] {
        let faults = fault("error", &format!("method = \"{method}\"\ncode = \"{code}\"\ntimes = 1"));
        let fixture = Fixture::with_faults(&faults);
        let report = fixture.client().run(&copy(""));
        assert_eq!(exit_code(&report), 0, "{method} {code}");
        assert_eq!(fixture.counts().actions.run, 1, "{method} {code}");
    }
}

#[test]
fn refusals_that_stay_are_told_with_server_and_properties() {
    for code in ["FAILED_PRECONDITION", "INTERNAL", "PERMISSION_DENIED", "INVALID_ARGUMENT"] {
        let faults = fault("error", &format!("method = \"Execute\"\ncode = \"{code}\""));
        let fixture = Fixture::with_faults(&faults);
        let mut task = copy("");
        task.platform = vec![("Pool".to_owned(), "large".to_owned())];
        let report = fixture.client().run(&task);
        let why = infrastructure(&report);
        assert!(why.contains(fixture.address()), "{why}");
        let names_pool = why.contains("Pool=large");
        assert_eq!(names_pool, matches!(code, "FAILED_PRECONDITION" | "INVALID_ARGUMENT"), "{why}");
    }
}

#[test]
fn a_platform_the_server_does_not_have_is_told() {
    let fixture = Fixture::new();
    let mut task = copy("");
    task.platform = vec![("OSFamily".to_owned(), "plan9".to_owned())];
    let report = fixture.client().run(&task);
    assert!(infrastructure(&report).contains("OSFamily=plan9"), "{report:?}");
}

#[test]
fn blobs_lost_before_the_run_are_uploaded_again() {
    let input = F.digest(b"text\n").hex();
    // The worker finds that it is gone, and says so.
    let fixture = Fixture::with_faults(&fault("lost", &format!("digest = \"{input}\"\ntimes = 1")));
    let mut client = fixture.client();
    let report = client.run(&copy("first"));
    assert_eq!(exit_code(&report), 0);
    let sent = client.remote().transfer_counts().files;
    assert_eq!(sent, copy("first").request().blobs.len() as u64 + 1, "that one twice");
    // The client believes that all is there.
    let fixture = Fixture::new();
    let mut client = fixture.client();
    client.run(&copy("first"));
    fixture.server().evict_all();
    let report = client.run(&copy("second"));
    assert_eq!(exit_code(&report), 0);
}

/// A server does not see what lies below a directory that is missing.
#[test]
fn after_an_eviction_all_inputs_are_uploaded_at_once() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let deep = |salt: &str| {
        Task::new("mkdir -p minibuild-out/bin; cat a/b/c/d/e/f/g/h/in > minibuild-out/bin/out")
            .input("a/b/c/d/e/f/g/h/in", "text\n")
            .output("minibuild-out/bin/out", ArtifactKind::File)
            .salt(salt)
    };
    client.run(&deep("first"));
    for salt in ["second", "third"] {
        fixture.server().evict_all();
        let before = fixture.calls("Execute");
        assert_eq!(exit_code(&client.run(&deep(salt))), 0);
        assert_eq!(fixture.calls("Execute"), before + 2, "one that is refused, and one that runs");
    }
}

#[test]
fn an_input_that_only_the_server_had_is_lost_after_an_eviction() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    client.run(&copy("first"));
    fixture.server().evict_all();
    let mut task = copy("second");
    task.inputs_elsewhere = true;
    let report = client.run(&task);
    assert_eq!(report.status, ExecutionStatus::LostInputs(vec![F.digest(b"text\n")]));
    assert!(task.request().blobs.iter().any(|blob| blob.source == BlobSource::Elsewhere));
}

#[test]
fn a_cached_result_without_its_tree_is_a_miss_and_made_again() {
    let task = Task::new("mkdir -p minibuild-out/bin/d; echo x > minibuild-out/bin/d/x")
        .output("minibuild-out/bin/d", ArtifactKind::Directory);
    let fixture = Fixture::new();
    let mut client = fixture.client();
    assert_eq!(exit_code(&client.run(&task)), 0);
    fixture.server().evict_all();
    assert!(matches!(client.look_up(&task), CacheAnswer::Miss));
    assert_eq!(exit_code(&client.run(&task)), 0);
    assert_eq!(fixture.counts().actions.run, 2);
}

#[test]
fn an_action_killed_by_the_server_is_executed_again() {
    // `fail` without an exit code is the server's own failure.
    let fixture = Fixture::with_faults(&fault("fail", "code = \"CANCELLED\"\ntimes = 2"));
    let report = fixture.client().run(&copy(""));
    assert_eq!(exit_code(&report), 0, "{report:?}");
}

#[test]
fn two_endpoints_without_a_common_store_are_refused() {
    let (first, second) = (Fixture::new(), Fixture::new());
    let mut client = first.client_with(|config| config.cache = Some(second.address().to_owned()));
    let report = client.run(&copy(""));
    assert!(infrastructure(&report).contains("share one content-addressable storage"), "{report:?}");
    assert_eq!(first.calls("Execute"), 0);
}

#[test]
fn a_cache_only_server_executes_nothing() {
    let fixture = Fixture::with_faults("[server]\ncache_only = true\n");
    let report = fixture.client().run(&copy(""));
    assert!(infrastructure(&report).contains("does not execute"), "{report:?}");
}

#[test]
fn corrupt_blobs_are_read_again_and_then_given_up() {
    let bytes = "y".repeat(200_000);
    let digest: Digest = F.digest(bytes.as_bytes());
    for (times, is_there) in [(1, true), (0, false)] {
        let faults = fault("corrupt", &format!("digest = \"{}\"\ntimes = {times}", digest.hex()));
        let fixture = Fixture::with_faults(&faults);
        let mut client = fixture.client();
        let script = "mkdir -p minibuild-out/bin; cat in > minibuild-out/bin/out";
        let task = Task::new(script).input("in", &bytes).output(OUT, ArtifactKind::File);
        let report = client.run(&task);
        assert_eq!(exit_code(&report), 0);
        match client.fetch(&report.outputs[0]) {
            FetchOutcome::Done { .. } => assert!(is_there && fixture.read(OUT) == bytes),
            FetchOutcome::Lost { digests, why } => {
                assert!(!is_there && digests == [digest] && why.contains("something else"), "{why}");
                assert!(!fixture.workspace().join(OUT).exists());
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn stopped_fetches_are_answered_and_leave_nothing() {
    let slow = |method: &str| fault("latency", &format!("method = \"{method}\"\nms = 60000"));
    let fixture = Fixture::with_faults(&(slow("Read") + &slow("BatchReadBlobs")));
    let mut client = fixture.client();
    let task = Task::new("mkdir -p minibuild-out/bin; head -c 300000 /dev/zero > minibuild-out/bin/out")
        .output(OUT, ArtifactKind::File);
    let report = client.run(&task);
    let ids: Vec<_> =
        (0..200).map(|_| client.start_fetch(&report.outputs[0], minibuild_core::Urgency::Background)).collect();
    fixture.wait_for("the transfer", |counts| counts.calls("Read") + counts.calls("BatchReadBlobs") > 0);
    client.remote().stop_fetches();
    for id in ids {
        assert_eq!(client.fetched(id), FetchOutcome::Stopped);
    }
    client.shutdown();
    assert!(!fixture.workspace().join(OUT).exists());
    let staging = fixture.workspace().join("minibuild-out/.state/staging");
    assert_eq!(std::fs::read_dir(staging).expect("lists").count(), 0);
}

#[test]
fn a_silent_connection_is_noticed() {
    let fixture = Fixture::with_faults(&fault("slow", "ms = 100"));
    let proxy = proxy(&fixture);
    proxy.plan(&[Fate::Pass, Fate::StallAfter(200)]);
    let address = format!("grpc://{}", proxy.address());
    let mut client = fixture.client_with(|config| {
        config.executor = Some(address);
        config.timeout = Duration::from_secs(2);
    });
    assert_eq!(exit_code(&client.run(&copy(""))), 0);
    assert_eq!(fixture.counts().actions.run, 1);
}
