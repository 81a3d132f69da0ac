//! What the executor makes of outputs that are not as declared, and of a disk that fails.

mod common;

use std::process::Command;

use common::{Workspace, out, path, shell};
use minibuild_core::{ArtifactKind, Content, ExecutionStatus};

#[test]
fn missing_and_wrong_outputs_are_all_named() {
    let mut ws = Workspace::new();
    let outputs = vec![
        out("missing", ArtifactKind::File),
        out("good", ArtifactKind::File),
        out("dir", ArtifactKind::File),
        out("file", ArtifactKind::Directory),
    ];
    let script = "cd minibuild-out/bin/pkg; touch good; mkdir dir; rmdir file; touch file";
    let report = ws.run(shell(script, outputs));
    let ExecutionStatus::BadOutputs(problems) = report.status else { panic!("{:?}", report.status) };
    let told: Vec<String> =
        problems.iter().map(|p| format!("{} {}", p.path.rsplit('/').next().unwrap_or(""), p.what)).collect();
    let expected = [
        "missing was not made",
        "dir is a directory, but was declared as a file",
        "file is a file, but was declared as a directory",
    ];
    assert_eq!(told, expected);
    assert!(report.outputs.is_empty());
}

#[test]
fn declared_directories_exist_empty_before_the_command() {
    let mut ws = Workspace::new();
    for _ in 0..2 {
        let script = "cd minibuild-out/bin/pkg/t; test -z \"$(ls -A)\"; mkdir -p a/empty; echo x > a/f; ln -s a/f l; chmod 555 a";
        let report = ws.succeed(shell(script, vec![out("t", ArtifactKind::Directory)]));
        let Content::Directory(tree) = &report.outputs[0].meta.content else { panic!("no tree") };
        let paths: Vec<&str> = tree.entries.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["a/empty", "a/f", "l"]);
    }
}

#[test]
fn old_outputs_are_gone_before_the_command_even_if_it_fails() {
    let mut ws = Workspace::new();
    ws.succeed(shell("echo 1 > minibuild-out/bin/pkg/f", vec![out("f", ArtifactKind::File)]));
    let report = ws.run(shell("test -e minibuild-out/bin/pkg/f && exit 4; exit 5", vec![out("f", ArtifactKind::File)]));
    assert_eq!(report.status, ExecutionStatus::Exited(5));
    assert!(!ws.out_path("f").exists());
}

#[test]
fn what_a_failed_command_left_stays_for_inspection() {
    let mut ws = Workspace::new();
    let report = ws.run(shell("echo half > minibuild-out/bin/pkg/f; exit 1", vec![out("f", ArtifactKind::File)]));
    assert_eq!(report.status, ExecutionStatus::Exited(1));
    assert_eq!(std::fs::read_to_string(ws.out_path("f")).expect("there"), "half\n");
}

#[test]
fn a_full_disk_is_an_error_of_the_infrastructure_and_the_slot_goes_on() {
    let dir = tempfile::tempdir().expect("temp dir");
    let root = dir.path().canonicalize().expect("exists");
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=512k", "minibuild-test"]).arg(&root).status();
    if !mount.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: cannot mount a tmpfs here (root needed)");
        return;
    }
    let mut ws = Workspace::at(root.clone(), None, 1, None);
    let mut asked = shell("true", vec![]);
    asked.command.files.push(minibuild_core::WrittenFile {
        path: path("minibuild-out/bin/pkg/args"),
        content: vec![b'x'; 1 << 20],
        executable: false,
    });
    let report = ws.run(asked);
    let full =
        matches!(&report.status, ExecutionStatus::Infrastructure(text) if text.contains("hint: the disk is full"));
    assert!(full, "{:?}", report.status);
    std::fs::remove_file(root.join("minibuild-out/bin/pkg/args")).expect("the half file is there");
    // The command's own log does not fit: the command is told, and what fitted is reported.
    let report = ws.run(shell("head -c 1000000 /dev/zero", vec![]));
    assert_eq!(report.status, ExecutionStatus::Exited(1));
    assert!(!report.stdout.is_empty() && report.stdout.len() < 1_000_000);
    ws.succeed(shell("true", vec![]));
    drop(ws);
    let _ = Command::new("umount").arg("--lazy").arg(&root).status();
}

#[test]
fn depfile_that_is_too_large_is_a_bad_output() {
    let mut ws = Workspace::new();
    let mut asked = shell("truncate -s 100M minibuild-out/bin/pkg/f.d", vec![]);
    asked.depfile = Some(path("minibuild-out/bin/pkg/f.d"));
    let report = ws.run(asked);
    let ExecutionStatus::BadOutputs(problems) = report.status else { panic!("{:?}", report.status) };
    assert!(problems[0].what.starts_with("is larger than 64 MiB"), "{problems:?}");
}

#[test]
fn output_beyond_memory_stays_in_files() {
    let mut ws = Workspace::new();
    let print = |length: usize| format!("head -c {length} /dev/zero; echo error >&2");
    let report = ws.run(shell(&print(10 << 20), vec![]));
    let whole: Vec<u64> = report
        .whole_output
        .iter()
        .map(|path| std::fs::metadata(ws.root().join(path.as_path())).expect("it is there").len())
        .collect();
    assert_eq!(whole, [10 << 20, 6]);
    assert!(report.stdout.len() < 1 << 20 && report.stderr == b"error\n");
    let report = ws.run(shell(&print((10 << 20) - 6), vec![]));
    assert!(report.whole_output.is_empty() && report.stdout.len() == (10 << 20) - 6);
}
