//! Preparing, capturing and removing outputs, each in a fresh workspace.

use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use minibuild_core::{
    ArtifactKind, Content, DeclaredOutput, DigestFunction, FoundOutput, TreeEntry, TreeNode, WrittenFile, WsPath,
};
use minibuild_disk::{CaptureError, DiskError, FileClock, FsClock, FsInstant, OutTree};

struct Workspace {
    dir: tempfile::TempDir,
    tree: OutTree,
    clock: FsClock,
}

fn path(text: &str) -> WsPath {
    WsPath::new(text).expect("a valid path")
}

fn out(name: &str, kind: ArtifactKind) -> DeclaredOutput {
    DeclaredOutput { path: path(&format!("minibuild-out/bin/p/{name}")), kind }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("there").permissions().mode() & 0o7777
}

impl Workspace {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let tree = OutTree::open(dir.path()).expect("output tree");
        let clock = FsClock::open(&dir.path().join("minibuild-out/.state")).expect("clock");
        fs::create_dir_all(dir.path().join("minibuild-out/bin/p")).expect("mkdir");
        Self { dir, tree, clock }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join("minibuild-out/bin/p").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).expect("write");
    }

    fn capture(&self, name: &str, kind: ArtifactKind) -> Result<FoundOutput, Vec<String>> {
        match self.tree.capture(&[out(name, kind)], &self.clock) {
            Ok(mut found) => Ok(found.remove(0)),
            Err(CaptureError::Problems(problems)) => {
                let short = |p: minibuild_core::OutputProblem| {
                    let path = p.path.strip_prefix("minibuild-out/bin/p/").map_or(p.path.clone(), str::to_owned);
                    format!("{path} {}", p.what)
                };
                Err(problems.into_iter().map(short).collect())
            }
            Err(CaptureError::Disk(error)) => panic!("{}", error.render()),
        }
    }

    fn entries(&self, name: &str) -> Vec<String> {
        let found = self.capture(name, ArtifactKind::Directory).expect("captured");
        let Content::Directory(tree) = found.meta.content else { panic!("no tree") };
        assert_eq!(tree.root, minibuild_reapi::tree_root(&tree.entries));
        let describe = |entry: &TreeEntry| match &entry.node {
            TreeNode::File { digest, executable } => format!("{} {} {executable}", entry.path, digest.size),
            TreeNode::Symlink { target } => format!("{} -> {target}", entry.path),
            TreeNode::EmptyDirectory => format!("{}/", entry.path),
        };
        let stamped = tree.entries.iter().filter(|entry| !matches!(entry.node, TreeNode::EmptyDirectory)).count();
        assert_eq!(found.stamps.len(), stamped);
        tree.entries.iter().map(describe).collect()
    }
}

#[test]
fn files_become_read_only_and_keep_their_executable_bit() {
    let ws = Workspace::new();
    for (before, after, executable) in [
        (0o644, 0o444, false),
        (0o755, 0o555, true),
        (0o444, 0o444, false),
        (0o700, 0o555, true),
        (0o4755, 0o555, true),
    ] {
        ws.write("f", "text");
        chmod(&ws.at("f"), before);
        let found = ws.capture("f", ArtifactKind::File).expect("captured");
        let digest = DigestFunction::Sha256.digest(b"text");
        assert_eq!(found.meta.content, Content::File { digest, executable });
        assert_eq!(mode(&ws.at("f")), after);
        assert!(!found.stamps[0].trusted, "just written");
        fs::remove_file(ws.at("f")).expect("rm");
    }
}

#[test]
fn a_stamp_is_trusted_once_the_clock_has_moved_on() {
    struct Later(Duration);
    impl FileClock for Later {
        fn now(&self) -> Result<FsInstant, DiskError> {
            Ok(FsInstant::of_all_devices(i64::MAX - 1, self.0))
        }
    }
    let ws = Workspace::new();
    ws.write("f", "text");
    chmod(&ws.at("f"), 0o444);
    let trusted = |clock: &dyn FileClock| {
        ws.tree.capture(&[out("f", ArtifactKind::File)], clock).expect("captured")[0].stamps[0].trusted
    };
    assert!(trusted(&Later(Duration::from_millis(20))));
    assert!(!trusted(&Later(Duration::MAX)));
    assert!(!trusted(&ws.clock));
}

#[test]
fn what_is_not_as_declared_is_said() {
    let ws = Workspace::new();
    let check = |name: &str, kind, expected: &str| {
        assert_eq!(ws.capture(name, kind).expect_err(name), [format!("{name} {expected}")]);
    };
    ws.write("file", "x");
    fs::create_dir(ws.at("dir")).expect("mkdir");
    symlink("file", ws.at("link")).expect("symlink");
    nix::unistd::mkfifo(&ws.at("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    std::os::unix::net::UnixListener::bind(ws.at("socket")).expect("socket");
    use ArtifactKind::{Directory, File, Symlink};
    check("missing", File, "was not made");
    check("missing/below", File, "was not made");
    check("file/below", File, "was not made");
    check("dir", File, "is a directory, but was declared as a file");
    check("file", Directory, "is a file, but was declared as a directory");
    check("link", Directory, "is a symlink, but was declared as a directory");
    check("file", Symlink, "is a file, but was declared as a symlink");
    check("pipe", File, "is a special file (device, socket or pipe), but was declared as a file");
    check("socket", File, "is a special file (device, socket or pipe), but was declared as a file");
    symlink("dir", ws.at("to-dir")).expect("symlink");
    ws.write("dir/f", "x");
    check("to-dir/f", File, "lies behind a symlink");
}

#[test]
fn a_symlink_for_a_file_becomes_a_copy_if_it_stays_in_the_workspace() {
    let ws = Workspace::new();
    fs::write(ws.dir.path().join("source"), "text").expect("write");
    chmod(&ws.dir.path().join("source"), 0o755);
    symlink("../../../source", ws.at("link")).expect("symlink");
    let found = ws.capture("link", ArtifactKind::File).expect("captured");
    let digest = DigestFunction::Sha256.digest(b"text");
    assert_eq!(found.meta.content, Content::File { digest, executable: true });
    assert!(ws.at("link").symlink_metadata().expect("there").is_file());
    assert_eq!((mode(&ws.at("link")), mode(&ws.dir.path().join("source"))), (0o555, 0o755));
    let refused = |target: &str, part: &str| {
        let _ = fs::remove_file(ws.at("link"));
        symlink(target, ws.at("link")).expect("symlink");
        let problems = ws.capture("link", ArtifactKind::File).expect_err(target);
        assert!(problems[0].contains(part), "{problems:?}");
    };
    refused("nowhere", "leads nowhere");
    refused("/etc/passwd", "leaves the workspace");
    refused("link", "leads nowhere");
    refused(".", "no regular file");
    let found = ws.capture("link", ArtifactKind::Symlink).expect("captured");
    assert_eq!(found.meta.content, Content::Symlink { target: ".".into() });
}

#[test]
fn a_hard_link_to_an_input_becomes_a_copy() {
    let ws = Workspace::new();
    let source = ws.dir.path().join("source");
    fs::write(&source, "text").expect("write");
    nix::unistd::linkat(nix::fcntl::AT_FDCWD, &source, nix::fcntl::AT_FDCWD, &ws.at("f"), nix::fcntl::AtFlags::empty())
        .expect("link");
    ws.capture("f", ArtifactKind::File).expect("captured");
    assert_eq!((mode(&source), mode(&ws.at("f"))), (0o644, 0o444));
    fs::write(&source, "changed").expect("write");
    assert_eq!(fs::read_to_string(ws.at("f")).expect("read"), "text");
}

#[test]
fn trees_hold_files_links_and_empty_directories_in_order() {
    let ws = Workspace::new();
    fs::create_dir_all(ws.at("t/sub/empty")).expect("mkdir");
    fs::create_dir_all(ws.at("t/a")).expect("mkdir");
    for (name, text) in [("t/sub/f", "12"), ("t/a-b", "1"), ("t/a/z", "123"), ("t/\u{e4}", "")] {
        ws.write(name, text);
    }
    chmod(&ws.at("t/sub/f"), 0o700);
    symlink("../a/z", ws.at("t/sub/link")).expect("symlink");
    symlink("sub", ws.at("t/to-dir")).expect("symlink");
    chmod(&ws.at("t/sub"), 0o555);
    let expected = [
        "a-b 1 false",
        "a/z 3 false",
        "sub/empty/",
        "sub/f 2 true",
        "sub/link -> ../a/z",
        "to-dir -> sub",
        "\u{e4} 0 false",
    ];
    assert_eq!(ws.entries("t"), expected);
    assert_eq!((mode(&ws.at("t/sub")), mode(&ws.at("t/sub/f")), mode(&ws.at("t/a-b"))), (0o755, 0o555, 0o444));
    fs::create_dir(ws.at("none")).expect("mkdir");
    assert_eq!(ws.entries("none"), Vec::<String>::new());
}

#[test]
fn all_that_is_wrong_in_a_tree_is_told_at_once() {
    let ws = Workspace::new();
    fs::create_dir_all(ws.at("t/sub")).expect("mkdir");
    ws.write("t/good", "x");
    ws.write("outside", "x");
    symlink("/etc/passwd", ws.at("t/absolute")).expect("symlink");
    symlink("nowhere", ws.at("t/dangling")).expect("symlink");
    symlink("../../outside", ws.at("t/sub/out")).expect("symlink");
    nix::unistd::mkfifo(&ws.at("t/sub/pipe"), nix::sys::stat::Mode::S_IRWXU).expect("fifo");
    fs::write(ws.at("t").join(std::ffi::OsStr::from_bytes(b"bad\xff")), "x").expect("write");
    let mut problems = ws.capture("t", ArtifactKind::Directory).expect_err("wrong");
    problems.sort();
    let expected = [
        "t/absolute is a symlink to `/etc/passwd`, which leaves its directory",
        "t/bad\u{fffd} has a name that is not UTF-8",
        "t/dangling is a symlink to `nowhere`, which does not exist",
        "t/sub/out is a symlink to `../../outside`, which leaves its directory",
        "t/sub/pipe is a special file (device, socket or pipe)",
    ];
    assert_eq!(problems, expected);
    let mut deep = ws.at("deep");
    for _ in 0..250 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).expect("mkdir");
    let problems = ws.capture("deep", ArtifactKind::Directory).expect_err("too deep");
    assert!(problems.len() == 1 && problems[0].ends_with("is nested more than 200 directories deep"), "{problems:?}");
}

#[test]
fn preparing_removes_what_lies_there_and_makes_directories() {
    use ArtifactKind::{Directory, File, Symlink};
    let ws = Workspace::new();
    let outputs = [
        out("new/deep/f", File),
        out("new/deep/d", Directory),
        out("file", File),
        out("tree", Directory),
        out("l", Symlink),
    ];
    for _ in 0..2 {
        ws.tree.prepare(&outputs, &[&path("minibuild-out/bin/p/x.d")]).expect("prepared");
        assert!(ws.at("new/deep/d").is_dir() && fs::read_dir(ws.at("tree")).expect("a directory").next().is_none());
        for absent in ["new/deep/f", "file", "l", "x.d"] {
            assert!(ws.at(absent).symlink_metadata().is_err(), "{absent}");
        }
        fs::create_dir_all(ws.at("file/now/a/tree")).expect("mkdir");
        fs::create_dir(ws.at("tree/sub")).expect("mkdir");
        ws.write("tree/sub/f", "x");
        chmod(&ws.at("tree/sub"), 0o555);
        ws.write("x.d", "x");
        ws.write("new/deep/f", "x");
        symlink("nowhere", ws.at("l")).expect("symlink");
    }
    ws.tree.empty_trash().expect("deletes");
    let trash = ws.dir.path().join("minibuild-out/.state/trash");
    assert_eq!(fs::read_dir(trash).expect("there").count(), 0);
}

#[test]
fn stray_files_and_links_in_the_way_are_replaced_and_never_followed() {
    let ws = Workspace::new();
    fs::create_dir(ws.dir.path().join("precious")).expect("mkdir");
    fs::write(ws.dir.path().join("precious/f"), "mine").expect("write");
    ws.write("stray", "x");
    symlink("../../../precious", ws.at("evil")).expect("symlink");
    let outputs =
        [out("stray/f", ArtifactKind::File), out("evil/f", ArtifactKind::File), out("evil/d", ArtifactKind::Directory)];
    ws.tree.remove(&outputs[1].path).expect("nothing to remove behind a link");
    ws.tree.set_aside(&outputs[1].path).expect("nothing to set aside behind a link");
    ws.tree.prepare(&outputs, &[]).expect("prepared");
    assert!(ws.at("stray").is_dir() && ws.at("evil").symlink_metadata().expect("there").is_dir());
    assert_eq!(fs::read_to_string(ws.dir.path().join("precious/f")).expect("untouched"), "mine");
    assert_eq!(fs::read_dir(ws.dir.path().join("precious")).expect("there").count(), 1);
}

#[test]
fn nothing_outside_the_output_tree_is_changed() {
    let ws = Workspace::new();
    fs::write(ws.dir.path().join("source"), "mine").expect("write");
    for text in ["source", "minibuild-out", "minibuild-output/x", ""] {
        let declared = DeclaredOutput { path: path(text), kind: ArtifactKind::File };
        let file = WrittenFile { path: path(text), content: vec![], executable: false };
        for error in [
            ws.tree.prepare(&[declared], &[]),
            ws.tree.write(&file),
            ws.tree.remove(&path(text)),
            ws.tree.set_aside(&path(text)),
        ] {
            let text = error.expect_err("refused").render();
            assert!(text.contains("not below `minibuild-out`"), "{text}");
        }
    }
    assert_eq!(fs::read_to_string(ws.dir.path().join("source")).expect("untouched"), "mine");
}

#[test]
fn written_files_are_read_only_and_replace_anything() {
    let ws = Workspace::new();
    let file = WrittenFile { path: path("minibuild-out/bin/p/sub/w"), content: b"text".to_vec(), executable: true };
    fs::create_dir_all(ws.at("sub/w/was/a/tree")).expect("mkdir");
    for _ in 0..2 {
        ws.tree.write(&file).expect("written");
        assert_eq!((fs::read(ws.at("sub/w")).expect("read"), mode(&ws.at("sub/w"))), (b"text".to_vec(), 0o555));
    }
    assert_eq!(ws.tree.read(&file.path).expect("read").as_deref(), Some(&b"text"[..]));
    assert_eq!(ws.tree.read(&path("minibuild-out/bin/no/such")).expect("absent is fine"), None);
}

#[test]
fn many_actions_may_prepare_below_one_new_directory() {
    let ws = Workspace::new();
    ws.write("shared", "a stray file where all want a directory");
    std::thread::scope(|scope| {
        for number in 0..8 {
            let tree = &ws.tree;
            scope.spawn(move || {
                let output = out(&format!("shared/x/y/{number}/f"), ArtifactKind::File);
                tree.prepare(&[output], &[]).expect("prepared");
            });
        }
    });
    assert_eq!(fs::read_dir(ws.at("shared/x/y")).expect("made").count(), 8);
}

/// The lock is held until all else is gone; nothing is left of what a build could come upon half deleted.
#[test]
fn everything_but_the_lock_goes_first() {
    let dir = tempfile::tempdir().expect("temp dir");
    let state = minibuild_disk::prepare_out_root(dir.path()).expect("prepares");
    let tree = OutTree::open(dir.path()).expect("opens");
    for file in ["bin/a/b/f", "own", ".state/store/cas/x", ".state/records", ".state/lock", ".state/trash/old/f"] {
        let path = dir.path().join("minibuild-out").join(file);
        fs::create_dir_all(path.parent().expect("has one")).expect("mkdir");
        fs::write(path, file).expect("write");
    }
    std::os::unix::fs::symlink(dir.path(), dir.path().join("minibuild-out/link")).expect("symlink");
    fs::set_permissions(dir.path().join("minibuild-out/bin/a/b"), fs::Permissions::from_mode(0o500)).expect("chmod");
    let inode = |path: &std::path::Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).expect("there"));
    let before = inode(&state.join("lock"));
    tree.sweep_trash().expect("sweeps");
    tree.remove_contents("lock").expect("removes");
    let names = |path: &std::path::Path| -> Vec<_> {
        fs::read_dir(path).expect("lists").map(|entry| entry.expect("entry").file_name()).collect()
    };
    assert_eq!(names(&dir.path().join("minibuild-out")), [".state"]);
    assert_eq!(names(&state), ["lock"]);
    assert_eq!(inode(&state.join("lock")), before);
    tree.remove_empty_root();
    assert!(state.exists(), "another process may use it");
    fs::remove_file(state.join("lock")).expect("removes");
    tree.remove_empty_root();
    assert!(!dir.path().join("minibuild-out").exists());
}
