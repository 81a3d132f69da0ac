//! Full disks, read-only disks and missing rights. Mounts need root and are skipped loudly without.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use minibuild_core::{ArtifactKind, Content, DeclaredOutput, WrittenFile, WsPath};
use minibuild_disk::{CaptureError, FsClock, OutTree};

fn path(text: &str) -> WsPath {
    WsPath::new(text).expect("a valid path")
}

fn out(name: &str, kind: ArtifactKind) -> DeclaredOutput {
    DeclaredOutput { path: path(&format!("minibuild-out/bin/p/{name}")), kind }
}

/// A small file system of its own, gone when dropped.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().expect("temp dir");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k", "minibuild-test"])
            .arg(dir.path())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("SKIPPED: cannot mount a tmpfs here (root needed)");
            return None;
        }
        Some(Self(dir))
    }

    fn make_read_only(&self) {
        let done = Command::new("mount").args(["-o", "remount,ro"]).arg(self.0.path()).status();
        assert!(done.expect("mount runs").success());
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_said_and_leaves_no_half_file_as_an_output() {
    let Some(mount) = Mount::new() else { return };
    let tree = OutTree::open(mount.path()).expect("output tree");
    let clock = FsClock::open(&mount.path().join("minibuild-out/.state")).expect("clock");
    let file = WrittenFile { path: path("minibuild-out/bin/p/big"), content: vec![1; 1 << 20], executable: false };
    assert!(!tree.is_full());
    let text = tree.write(&file).expect_err("full").render();
    assert!(
        text.contains("cannot write `minibuild-out/bin/p/big`") && text.contains("hint: the disk is full"),
        "{text}"
    );
    assert!(tree.is_full());
    tree.remove(&file.path).expect("removed");
    assert!(!tree.is_full());
    // A copy in place of a symlink needs room too.
    fs::write(mount.path().join("source"), vec![1; 150_000]).expect("fits once");
    std::os::unix::fs::symlink("../../../source", mount.path().join("minibuild-out/bin/p/l")).expect("symlink");
    match tree.capture(&[out("l", ArtifactKind::File)], &clock) {
        Err(CaptureError::Disk(error)) => assert!(error.render().contains("the disk is full"), "{}", error.render()),
        other => panic!("{other:?}"),
    }
    let left: Vec<_> = fs::read_dir(mount.path().join("minibuild-out/bin/p")).expect("there").flatten().collect();
    assert_eq!(left.len(), 1, "no temporary file: {left:?}");
}

#[test]
fn a_read_only_disk_is_said() {
    let Some(mount) = Mount::new() else { return };
    let tree = OutTree::open(mount.path()).expect("output tree");
    // An open clock would be a reason to refuse the remount.
    let elsewhere = tempfile::tempdir().expect("temp dir");
    let clock = FsClock::open(elsewhere.path()).expect("clock");
    fs::create_dir(mount.path().join("minibuild-out/bin/p")).expect("mkdir");
    fs::write(mount.path().join("minibuild-out/bin/p/f"), "x").expect("write");
    mount.make_read_only();
    let check = |result: Result<(), String>, action: &str| {
        let text = result.expect_err(action);
        assert!(
            text.contains(&format!("cannot {action} `")) && text.contains("hint: the file system is mounted read-only"),
            "{text}"
        );
    };
    let prepare = |name, kind| tree.prepare(&[out(name, kind)], &[]).map_err(|e| e.render());
    check(prepare("f", ArtifactKind::File), "remove");
    check(prepare("new/f", ArtifactKind::File), "create");
    check(tree.set_aside(&path("minibuild-out/bin/p/f")).map_err(|e| e.render()), "set aside");
    check(FsClock::open(&mount.path().join("minibuild-out/.state")).map(drop).map_err(|e| e.render()), "write");
    assert!(matches!(tree.capture(&[out("f", ArtifactKind::File)], &clock), Err(CaptureError::Disk(_))));
}

/// Runs one test of this file as another user, since root may do anything. True where that was done.
fn as_nobody(test: &str) -> bool {
    if !nix::unistd::geteuid().is_root() {
        return false;
    }
    let exe = std::env::current_exe().expect("this program");
    let ran = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
        .arg(&exe)
        .args(["--exact", test, "--nocapture"])
        .current_dir("/")
        .output();
    match ran {
        Ok(output) if output.status.success() => {}
        Ok(output) if output.status.code() == Some(101) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        _ => eprintln!("SKIPPED: cannot run this test as another user"),
    }
    true
}

fn locked_tree(at: &Path) -> PathBuf {
    let tree = at.join("minibuild-out/bin/p/t");
    fs::create_dir_all(tree.join("sub/deep")).expect("mkdir");
    for (name, mode) in [("sub/deep/f", 0o000), ("sub/g", 0o200), ("x", 0o100)] {
        fs::write(tree.join(name), name).expect("write");
        fs::set_permissions(tree.join(name), fs::Permissions::from_mode(mode)).expect("chmod");
    }
    for (dir, mode) in [("sub/deep", 0o000), ("sub", 0o555), ("", 0o555)] {
        fs::set_permissions(tree.join(dir), fs::Permissions::from_mode(mode)).expect("chmod");
    }
    tree
}

#[test]
fn what_a_command_locked_is_captured_removed_and_set_aside_without_being_root() {
    if as_nobody("what_a_command_locked_is_captured_removed_and_set_aside_without_being_root") {
        return;
    }
    let dir = tempfile::tempdir().expect("temp dir");
    let tree = OutTree::open(dir.path()).expect("output tree");
    let clock = FsClock::open(&dir.path().join("minibuild-out/.state")).expect("clock");
    let declared = [out("t", ArtifactKind::Directory)];

    let at = locked_tree(dir.path());
    let found = tree.capture(&declared, &clock).expect("captured");
    let Content::Directory(captured) = &found[0].meta.content else { panic!("no tree") };
    let names: Vec<&str> = captured.entries.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(names, ["sub/deep/f", "sub/g", "x"]);

    tree.set_aside(&declared[0].path).expect("set aside");
    assert!(!at.exists());
    locked_tree(dir.path());
    tree.prepare(&declared, &[]).expect("prepared");
    assert_eq!(fs::read_dir(&at).expect("made").count(), 0);
    fs::remove_dir(&at).expect("rm");

    // Outputs in a directory the command made read-only.
    locked_tree(dir.path());
    let inside = [
        out("t/sub/g", ArtifactKind::File),
        out("t/sub/new/h", ArtifactKind::File),
        out("t/d", ArtifactKind::Directory),
    ];
    tree.prepare(&inside, &[]).expect("prepared");
    assert!(!at.join("sub/g").exists() && at.join("sub/new").is_dir() && at.join("d").is_dir());
    locked_tree_again(&at);
    tree.remove(&declared[0].path).expect("removed");
    tree.empty_trash().expect("deletes");
    assert_eq!(fs::read_dir(dir.path().join("minibuild-out/.state/trash")).expect("there").count(), 0);
}

fn locked_tree_again(at: &Path) {
    for dir in ["sub/new", "sub", ""] {
        fs::set_permissions(at.join(dir), fs::Permissions::from_mode(0o555)).expect("chmod");
    }
}
