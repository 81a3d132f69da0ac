//! Running actions.

use std::time::Duration;

use minibuild_core::{ArtifactKind, BlobSource, Content, ExecutionStatus, RemoteStage, StopReason, TreeNode};

use crate::harness::{F, Fixture, Task, content, exit_code, infrastructure};

const OUT: &str = "minibuild-out/bin/out";

fn copy() -> Task {
    Task::new("mkdir -p minibuild-out/bin; cat in > minibuild-out/bin/out; echo told; echo warned >&2")
        .input("in", "text\n")
        .output(OUT, ArtifactKind::File)
}

#[test]
fn an_action_runs_and_its_result_is_a_hit_afterwards() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let report = client.run(&copy());
    assert_eq!(exit_code(&report), 0);
    assert_eq!(content(&report, OUT), Content::File { digest: F.digest(b"text\n"), executable: false });
    assert_eq!((&*report.stdout, &*report.stderr), (&b"told\n"[..], &b"warned\n"[..]));
    assert!(!report.from_cache && report.outputs[0].stamps.is_empty());
    let sent = client.remote().transfer_counts();
    assert!(sent.files >= 4 && sent.bytes > 0, "{sent:?}");
    let again = client.run(&copy());
    assert!(again.from_cache);
    assert_eq!(again.outputs, report.outputs);
    assert_eq!(fixture.counts().actions.run, 1);
}

#[test]
fn inputs_may_lie_in_files() {
    let fixture = Fixture::new();
    fixture.write("src/in", "from a file");
    let task = Task::new("mkdir -p minibuild-out/bin; cp src/in minibuild-out/bin/out")
        .file("src/in", "from a file")
        .output(OUT, ArtifactKind::File);
    let report = fixture.client().run(&task);
    assert_eq!(content(&report, OUT), Content::File { digest: F.digest(b"from a file"), executable: false });
}

#[test]
fn an_input_that_changed_is_named() {
    let fixture = Fixture::new();
    fixture.write("src/in", "something else");
    let task = Task::new("true").file("src/in", "what was hashed");
    let report = fixture.client().run(&task);
    assert!(infrastructure(&report).contains("`src/in`"), "{report:?}");
    assert_eq!(report.changed_inputs.iter().map(|path| path.as_str()).collect::<Vec<_>>(), ["src/in"]);
    assert_eq!(fixture.counts().actions.run, 0);
}

#[test]
fn inputs_that_nobody_has_are_lost() {
    let fixture = Fixture::new();
    let mut task = copy();
    task.inputs_elsewhere = true;
    let report = fixture.client().run(&task);
    assert_eq!(report.status, ExecutionStatus::LostInputs(vec![F.digest(b"text\n")]));
}

#[test]
fn directories_links_and_executables_come_as_they_are() {
    let fixture = Fixture::new();
    let script = "cd minibuild-out/bin; mkdir -p d/empty d/sub; echo x > d/sub/x; chmod +x d/sub/x; ln -s sub/x d/l; \
        ln -s nowhere dangling; echo y > exe; chmod +x exe";
    let task = Task::new(script)
        .input("minibuild-out/bin/keep", "")
        .output("minibuild-out/bin/d", ArtifactKind::Directory)
        .output("minibuild-out/bin/dangling", ArtifactKind::Symlink)
        .output("minibuild-out/bin/exe", ArtifactKind::File);
    let report = fixture.client().run(&task);
    assert_eq!(exit_code(&report), 0, "{report:?}");
    let Content::Directory(tree) = content(&report, "minibuild-out/bin/d") else { panic!("{report:?}") };
    let shown: Vec<(&str, bool)> = tree
        .entries
        .iter()
        .map(|e| (e.path.as_str(), matches!(e.node, TreeNode::File { executable: true, .. })))
        .collect();
    assert_eq!(shown, [("empty", false), ("l", false), ("sub/x", true)]);
    assert_eq!((tree.size, tree.root), (2, minibuild_reapi::tree_root(&tree.entries)));
    assert_eq!(content(&report, "minibuild-out/bin/dangling"), Content::Symlink { target: "nowhere".into() });
    assert!(matches!(content(&report, "minibuild-out/bin/exe"), Content::File { executable: true, .. }));
}

#[test]
fn failures_come_with_code_and_logs_and_without_outputs() {
    let fixture = Fixture::new();
    let task = Task::new("echo oops >&2; exit 7").output(OUT, ArtifactKind::File);
    let report = fixture.client().run(&task);
    assert_eq!((exit_code(&report), &*report.stderr, report.outputs.len()), (7, &b"oops\n"[..], 0));
}

#[test]
fn outputs_that_are_missing_or_of_another_kind_are_named() {
    let fixture = Fixture::new();
    let task = Task::new("mkdir -p minibuild-out/bin/dir; echo log")
        .output("minibuild-out/bin/none", ArtifactKind::File)
        .output("minibuild-out/bin/dir", ArtifactKind::Directory);
    let report = fixture.client().run(&task);
    let ExecutionStatus::BadOutputs(problems) = &report.status else { panic!("{report:?}") };
    assert_eq!(problems.len(), 1);
    assert_eq!((&*problems[0].path, &*problems[0].what), ("minibuild-out/bin/none", "was not made"));
    assert_eq!(&*report.stdout, b"log\n");
}

#[test]
fn depfiles_come_with_their_bytes() {
    let fixture = Fixture::new();
    let mut task = Task::new("mkdir -p minibuild-out/bin; echo 'out: in' > minibuild-out/bin/x.d");
    task.depfile = Some("minibuild-out/bin/x.d");
    let report = fixture.client().run(&task);
    assert_eq!(report.depfile.as_deref(), Some(&b"out: in\n"[..]));
}

#[test]
fn what_runs_too_long_is_told_with_its_logs() {
    let fixture = Fixture::new();
    let mut task = Task::new("echo begun; sleep 100").output(OUT, ArtifactKind::File);
    task.timeout = Some(Duration::from_millis(300));
    let report = fixture.client().run(&task);
    assert_eq!((&report.status, &*report.stdout), (&ExecutionStatus::TimedOut, &b"begun\n"[..]));
}

#[test]
fn a_stopped_run_is_answered_at_once_and_once() {
    let fixture = Fixture::new();
    let mut client = fixture.client_with(|config| config.cancel = true);
    let request = Task::new("sleep 1000").request();
    let run = request.run;
    client.remote().start(request);
    client.stage(run, RemoteStage::Running);
    client.remote().stop(run, StopReason::LostRace);
    assert_eq!(client.finished(run).status, ExecutionStatus::Stopped(StopReason::LostRace));
    fixture.wait_for("the operation being cancelled", |counts| counts.actions.cancelled == 1);
    client.remote().stop(run, StopReason::Kill);
    client.shutdown();
    assert!(client.rest().iter().all(|event| !matches!(event, minibuild_core::RemoteEvent::Finished(_))));
}

#[test]
fn without_the_option_a_stop_cancels_nothing_on_the_server() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let request = Task::new("sleep 1000").request();
    let run = request.run;
    client.remote().start(request);
    client.stage(run, RemoteStage::Running);
    client.remote().stop(run, StopReason::Interrupt);
    client.finished(run);
    client.shutdown();
    assert_eq!((fixture.calls("CancelOperation"), fixture.counts().actions.cancelled), (0, 0));
}

#[test]
fn a_shutdown_answers_what_is_open() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    let request = Task::new("sleep 1000").request();
    let run = request.run;
    client.remote().start(request);
    client.stage(run, RemoteStage::Running);
    client.shutdown();
    assert!(infrastructure(&client.finished(run)).contains("shut down"));
}

#[test]
fn blobs_are_sent_once() {
    let fixture = Fixture::new();
    let mut client = fixture.client();
    client.run(&copy());
    let before = client.remote().transfer_counts();
    client.run(&copy().salt("other"));
    let sent = client.remote().transfer_counts().files - before.files;
    assert_eq!(sent, 1, "the action alone is new");
    let is_bytes = |blob: &&minibuild_core::Blob| matches!(blob.source, BlobSource::Bytes(_));
    assert_eq!(before.files, copy().request().blobs.iter().filter(is_bytes).count() as u64);
}
