//! Bringing outputs to their places.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex, MutexGuard};

use minibuild_core::{
    ArtifactKind, Content, Digest, ExecutionReport, FetchOutcome, OutputMeta, RemoteEvent, RunId, StagedOutput,
    StagingOutcome, StagingRequest, Urgency,
};
use minibuild_disk::{Keep, OutTree, Staged, StagedFile};

use crate::harness::{Client, F, Fixture, Task, file_output, run_id, who};

/// Keeps what it is given.
#[derive(Default)]
struct Shelf(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    whole: Vec<(Staged, Content)>,
    parts: Vec<(StagedFile, Digest)>,
}

impl Shelf {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().expect("not poisoned")
    }

    fn whole(&self) -> Vec<Content> {
        self.kept().whole.iter().map(|(_, content)| content.clone()).collect()
    }
}

impl Keep for Shelf {
    fn adopt(&self, staged: Staged, content: &Content) {
        self.kept().whole.push((staged, content.clone()));
    }

    fn adopt_part(&self, part: StagedFile, digest: &Digest) {
        self.kept().parts.push((part, *digest));
    }

    fn part(&self, digest: &Digest) -> Option<StagedFile> {
        let mut kept = self.kept();
        let at = kept.parts.iter().position(|(_, of)| of == digest)?;
        Some(kept.parts.remove(at).0)
    }

    fn open(&self, _digest: &Digest) -> Option<File> {
        None
    }
}

/// Has all outputs of a run brought near their places.
fn stage(client: &Client, run: RunId, report: &ExecutionReport) {
    let one =
        |meta: &OutputMeta| StagedOutput { path: meta.path.clone(), content: meta.content.clone(), here: Vec::new() };
    let outputs = report.outputs.iter().map(|output| one(&output.meta)).collect();
    client.remote().stage(StagingRequest { run, outputs, who: who(F.digest(b"staging")) });
}

/// What came of it.
fn staged(client: &mut Client, run: RunId) -> StagingOutcome {
    client.wait(|event| match event {
        RemoteEvent::Staged { run: of, outcome } if *of == run => Some(outcome.clone()),
        _ => None,
    })
}

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
    let keeper = Arc::new(Shelf::default());
    let mut client = fixture.client_with(|config| config.keeper = Some(keeper.clone()));
    let report = client.run(&outputs());
    assert_eq!(report.outputs.len(), 4, "{:?}", report.status);
    let contents = || report.outputs.iter().map(|output| output.meta.content.clone());
    for is_kept in [false, true] {
        let run = run_id();
        stage(&client, run, &report);
        assert_eq!(staged(&mut client, run), StagingOutcome::Done);
        match is_kept {
            true => client.remote().keep_staged(run),
            false => client.remote().unstage(run),
        }
        let expected: Vec<Content> = contents().filter(|_| is_kept).collect();
        assert_eq!(keeper.whole(), expected);
    }
    keeper.kept().whole.clear();
    let staging = fixture.workspace().join("minibuild-out/.state/staging");
    assert_eq!(std::fs::read_dir(staging).expect("lists").count(), 0);
}

#[test]
fn what_came_before_a_stop_is_kept_and_the_rest_is_brought_later() {
    const SIZE: usize = 6_000_000;
    let noise = format!("seq 1 1000000 | head -c {SIZE}");
    let script =
        format!("cd minibuild-out/bin; mkdir d; echo small > d/small; {noise} > d/large; cp d/large large; echo x > x");
    let task = Task::new(&script)
        .input("minibuild-out/bin/keep", "")
        .output("minibuild-out/bin/d", ArtifactKind::Directory)
        .output("minibuild-out/bin/large", ArtifactKind::File)
        .output("minibuild-out/bin/x", ArtifactKind::File);
    let hang =
        format!("[server]\nno_zstd = true\n[[fault]]\nkind = \"hang\"\nmethod = \"Read\"\nbytes = {}\n", SIZE / 2);
    let mut fixture = Fixture::with_faults(&hang);
    let shelf = Arc::new(Shelf::default());
    let mut client = fixture.client_with(|config| config.keeper = Some(shelf.clone()));
    let report = client.run(&task);
    let run = run_id();
    stage(&client, run, &report);
    let staging = fixture.workspace().join("minibuild-out/.state/staging");
    let sizes = || {
        let entries = std::fs::read_dir(&staging).expect("lists").flatten();
        entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).collect::<Vec<_>>()
    };
    fixture.wait_for("a part of it", |_| sizes().iter().any(|&size| size > SIZE as u64 / 4) && sizes().len() == 3);
    client.remote().stop_staging(run);
    assert_eq!(staged(&mut client, run), StagingOutcome::Stopped);
    fixture.wait_for("what is left of it", |_| shelf.kept().parts.len() == 1);
    let kept: Vec<&str> = report
        .outputs
        .iter()
        .filter(|o| shelf.whole().contains(&o.meta.content))
        .map(|o| o.meta.path.file_name())
        .collect();
    assert_eq!(kept, ["d", "x"], "a directory for the files it has");
    client.shutdown();

    fixture.shutdown();
    fixture.restart("[server]\nno_zstd = true\n");
    let mut client = fixture.client_with(|config| config.keeper = Some(shelf.clone()));
    let large = report.outputs.iter().find(|output| output.meta.path.file_name() == "large").expect("there");
    let FetchOutcome::Done { copied, .. } = client.fetch(large) else { panic!("it is there") };
    assert_eq!((copied.files, shelf.kept().parts.len()), (0, 0));
    let text = fixture.read("minibuild-out/bin/large");
    assert!(
        F.digest(text.as_bytes())
            == F.digest(&std::process::Command::new("sh").args(["-c", &noise]).output().expect("runs").stdout)
    );
    let received = client.remote().received();
    assert!((SIZE as u64 / 2..SIZE as u64 * 3 / 4).contains(&received), "{received}");
}

#[test]
fn first_bytes_that_are_not_those_of_the_blob_only_cost_time() {
    let fixture = Fixture::with_faults("[server]\nno_zstd = true\n");
    let shelf = Arc::new(Shelf::default());
    let mut client = fixture.client_with(|config| config.keeper = Some(shelf.clone()));
    let script = "head -c 3000000 /dev/zero > minibuild-out/bin/large";
    let task =
        Task::new(script).input("minibuild-out/bin/keep", "").output("minibuild-out/bin/large", ArtifactKind::File);
    let report = client.run(&task);
    let large = &report.outputs[0];
    let Content::File { digest, .. } = large.meta.content else { panic!("a file") };
    let tree = OutTree::open(&fixture.workspace()).expect("opens");
    for (length, byte) in [(2_000_000, 1), (3_000_000, 1), (4_000_000, 0), (3_000_000, 0)] {
        let part = tree.stage_file().expect("stages");
        std::io::Write::write_all(&mut part.file(), &vec![byte; length]).expect("writes");
        shelf.adopt_part(part, &digest);
        assert!(matches!(client.fetch(large), FetchOutcome::Done { .. }), "{length} {byte}");
        let bytes = std::fs::read(fixture.workspace().join("minibuild-out/bin/large")).expect("reads");
        assert!(F.digest(&bytes) == digest && shelf.kept().parts.is_empty(), "{length} {byte}");
    }
}
