//! Bringing outputs to their places.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use minibuild_core::{
    ArtifactKind, Content, FetchOutcome, OutputMeta, RemoteEvent, StagedOutput, StagingOutcome, StagingRequest, Urgency,
};
use minibuild_remote::Keeper;

use crate::harness::{F, Fixture, Task, file_output, run_id, who};

fn outputs() -> Task {
    let script = "cd minibuild-out/bin; mkdir -p d/e; echo same > d/a; cp d/a d/b; head -c 300000 /dev/zero > d/big; \
        cp d/big big; ln -s a d/l; ln -s nowhere link; echo x > file; chmod +x file";
    Task::new(script)
        .input("minibuild-out/bin/keep", "")
        .output("minibuild-out/bin/d", ArtifactKind::Directory)
        .output("minibuild-out/bin/big", ArtifactKind::File)
        .output("minibuild-out/bin/link", ArtifactKind::Symlink)
        .output("minibuild-out/bin/file", ArtifactKind::File)
}

#[test]
fn outputs_of_all_kinds_come_to_their_places() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let report = client.run(&outputs());
    let mut all = Vec::new();
    for output in &report.outputs {
        let FetchOutcome::Done { stamps, copied } = client.fetch(output) else { panic!("{output:?}") };
        all.push((output.meta.path.file_name().to_owned(), stamps.len(), (copied.files, copied.bytes)));
    }
    assert_eq!(
        all,
        [("d".into(), 4, (1, 5)), ("big".into(), 1, (0, 0)), ("link".into(), 1, (0, 0)), ("file".into(), 1, (0, 0))]
    );
    assert_eq!(
        (fixture.read("minibuild-out/bin/d/b"), fixture.read("minibuild-out/bin/d/l")),
        ("same\n".into(), "same\n".into())
    );
    assert_eq!(fixture.read("minibuild-out/bin/big").len(), 300_000);
    let bin = fixture.workspace().join("minibuild-out/bin");
    assert!(bin.join("d/e").is_dir());
    assert_eq!(std::fs::read_link(bin.join("link")).expect("a link").to_str(), Some("nowhere"));
    let mode = |name: &str| std::fs::metadata(bin.join(name)).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode("file"), mode("big"), mode("d/a"), mode("d")), (0o555, 0o444, 0o444, 0o755));
    let staging = fixture.workspace().join("minibuild-out/.state/staging");
    assert_eq!(std::fs::read_dir(staging).expect("lists").count(), 0);
}

#[test]
fn what_is_not_there_is_lost_and_named() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let missing = file_output("minibuild-out/bin/x", b"nobody has it");
    let FetchOutcome::Lost { digests, why } = client.fetch(&missing) else { panic!("is lost") };
    assert_eq!(digests, [F.digest(b"nobody has it")]);
    assert!(why.contains("is not in the cache"), "{why}");
    assert!(!fixture.workspace().join("minibuild-out/bin/x").exists());
}

#[test]
fn a_file_outside_the_output_tree_is_refused() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let outside = file_output("src/x", b"");
    assert!(matches!(client.fetch(&outside), FetchOutcome::Disk(why) if why.contains("`src/x`")));
}

#[test]
fn many_who_want_one_blob_cause_one_transfer() {
    // By whichever method it comes.
    let slow = |method: &str| format!("[[fault]]\nkind = \"latency\"\nmethod = \"{method}\"\nms = 200\n");
    let fixture = Fixture::with_faults(&(slow("Read") + &slow("BatchReadBlobs")));
    let mut client = fixture.client();
    let report = client.run(&outputs());
    let big = report.outputs.iter().find(|o| o.meta.path.file_name() == "big").expect("is there").clone();
    let calls = || fixture.calls("Read") + fixture.calls("BatchReadBlobs");
    let before = calls();
    let ids: Vec<_> = (0..5)
        .map(|number| {
            let mut output = big.clone();
            output.meta.path = crate::harness::path(&format!("minibuild-out/bin/copy{number}"));
            client.start_fetch(&output, Urgency::Background)
        })
        .collect();
    let mut copied = 0;
    for id in ids {
        let FetchOutcome::Done { copied: count, .. } = client.fetched(id) else { panic!("it is there") };
        copied += count.files;
    }
    assert_eq!((calls() - before, copied), (1, 4));
    assert_eq!(fixture.read("minibuild-out/bin/copy4").len(), 300_000);
}

#[test]
fn what_was_staged_in_vain_goes_to_whoever_keeps_it() {
    let fixture = Fixture::new();
    let kept = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&kept);
    let keeper: Keeper = Arc::new(move |_staged, content| log.lock().expect("not poisoned").push(content.clone()));
    let mut client = fixture.client_with(|config| config.keeper = Some(keeper));
    let report = client.run(&outputs());
    assert_eq!(report.outputs.len(), 4, "{:?}", report.status);
    let contents = || report.outputs.iter().map(|output| output.meta.content.clone());
    for is_kept in [false, true] {
        let run = run_id();
        let staged = |meta: &OutputMeta| StagedOutput {
            path: meta.path.clone(),
            content: meta.content.clone(),
            here: Vec::new(),
        };
        let outputs = report.outputs.iter().map(|output| staged(&output.meta)).collect();
        client.remote().stage(StagingRequest { run, outputs, who: who(F.digest(b"staging")) });
        let outcome = client.wait(|event| match event {
            RemoteEvent::Staged { run: of, outcome } if *of == run => Some(outcome.clone()),
            _ => None,
        });
        assert_eq!(outcome, StagingOutcome::Done);
        match is_kept {
            true => client.remote().keep_staged(run),
            false => client.remote().unstage(run),
        }
        let expected: Vec<Content> = contents().filter(|_| is_kept).collect();
        assert_eq!(*kept.lock().expect("not poisoned"), expected);
    }
    let staging = fixture.workspace().join("minibuild-out/.state/staging");
    assert_eq!(std::fs::read_dir(staging).expect("lists").count(), 0);
}
