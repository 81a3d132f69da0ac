//! Publishing staged outputs over whatever lies at their places, each in a fresh workspace.

use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use minibuild_core::{DigestFunction, Stamp, TreeEntry, TreeMeta, TreeNode, WsPath};
use minibuild_disk::{DiskError, FileClock, FsInstant, OutTree, Staged, look_at};

/// Says that everything was written long ago.
struct Later;

impl FileClock for Later {
    fn now(&self) -> Result<FsInstant, DiskError> {
        Ok(FsInstant::of_all_devices(i64::MAX, Duration::from_millis(20)))
    }
}

struct Fixture {
    dir: tempfile::TempDir,
    tree: OutTree,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let tree = OutTree::open(dir.path()).expect("output tree");
        Self { dir, tree }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join("minibuild-out/bin").join(name)
    }

    fn file(&self, text: &str, executable: bool) -> Staged {
        let staged = self.tree.stage_file().expect("stages");
        staged.file().write_all(text.as_bytes()).expect("writes");
        staged.finish(executable).expect("finishes")
    }

    /// Stages a tree whose files hold their own paths.
    fn directory(&self, meta: &TreeMeta) -> Staged {
        let staged = self.tree.stage_tree(meta).expect("stages");
        for entry in &meta.entries {
            if let TreeNode::File { executable, .. } = entry.node {
                staged.add(&entry.path, self.file(entry.path.as_str(), executable)).expect("adds");
            }
        }
        staged.finish()
    }

    fn publish(&self, staged: Staged, name: &str, tree: Option<&TreeMeta>) -> Vec<Stamp> {
        self.tree.publish(staged, &path(name), tree, &Later).expect("publishes")
    }

    fn staged_things(&self) -> usize {
        fs::read_dir(self.dir.path().join("minibuild-out/.state/staging")).expect("lists").count()
    }
}

fn path(name: &str) -> WsPath {
    WsPath::new(&format!("minibuild-out/bin/{name}")).expect("a path")
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("there").mode() & 0o7777
}

fn meta(files: &[&str], others: Vec<(&str, TreeNode)>) -> TreeMeta {
    let file = |name: &str| {
        let digest = DigestFunction::Sha256.digest(name.as_bytes());
        TreeNode::File { digest, executable: name.ends_with(".sh") }
    };
    let all = files.iter().map(|name| (*name, file(name))).chain(others);
    let entry = |(name, node)| TreeEntry { path: WsPath::new(name).expect("a path"), node };
    let mut entries: Vec<TreeEntry> = all.map(entry).collect();
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    TreeMeta { root: minibuild_reapi::tree_root(&entries), size: 0, entries }
}

fn listing(top: &Path) -> Vec<String> {
    let all = walkdir::WalkDir::new(top).min_depth(1).sort_by_file_name();
    let name = |entry: walkdir::DirEntry| entry.path().strip_prefix(top).expect("below").display().to_string();
    all.into_iter().map(|entry| name(entry.expect("listed"))).collect()
}

#[test]
fn a_file_replaces_whatever_lies_at_its_place() {
    type Before = fn(&Path);
    let before: [(&str, Before); 8] = [
        ("nothing", |_| {}),
        ("file", |p| fs::write(p, "old").expect("writes")),
        ("dangling symlink", |p| symlink("nowhere", p).expect("links")),
        ("symlink to a directory", |p| symlink("..", p).expect("links")),
        ("empty directory", |p| fs::create_dir(p).expect("makes")),
        ("full directory", |p| fs::create_dir_all(p.join("a/b")).expect("makes")),
        ("read-only directory", |p| {
            fs::create_dir_all(p.join("a")).expect("makes");
            fs::set_permissions(p, Permissions::from_mode(0o555)).expect("chmod");
        }),
        ("read-only parent", |p| {
            fs::write(p, "old").expect("writes");
            fs::set_permissions(p.parent().expect("has one"), Permissions::from_mode(0o555)).expect("chmod");
        }),
    ];
    for (what, prepare) in before {
        let fixture = Fixture::new();
        let place = fixture.at("p/out");
        fs::create_dir_all(fixture.at("p")).expect("makes");
        prepare(&place);
        let stamps = fixture.publish(fixture.file("new", true), "p/out", None);
        assert_eq!(fs::read_to_string(&place).expect("is there"), "new", "{what}");
        assert_eq!(mode(&place), 0o555, "{what}");
        let seen = look_at(rustix::fs::CWD, &place).expect("looks");
        assert_eq!(stamps, [Stamp { fingerprint: seen.fingerprint, trusted: true }], "{what}");
        assert_eq!(fixture.staged_things(), 0, "{what}");
    }
}

#[test]
fn parents_are_made_and_what_is_in_their_way_goes() {
    let fixture = Fixture::new();
    fs::write(fixture.at("file"), "in the way").expect("writes");
    symlink("nowhere", fixture.at("link")).expect("links");
    for name in ["file/sub/out", "link/out", "new/deep/out"] {
        fixture.publish(fixture.file(name, false), name, None);
        assert_eq!(fs::read_to_string(fixture.at(name)).expect("is there"), name);
        assert_eq!(mode(&fixture.at(name)), 0o444);
    }
    let outside = WsPath::new("src/file").expect("a path");
    let refused = fixture.tree.publish(fixture.file("x", false), &outside, None, &Later);
    assert!(refused.is_err_and(|e| e.path() == "src/file"));
    assert!(!fixture.dir.path().join("src").exists());
}

#[test]
fn a_tree_replaces_a_larger_tree_and_a_file() {
    let fixture = Fixture::new();
    let large = meta(&["a", "b/c/d.sh", "b/e"], vec![("empty/deep", TreeNode::EmptyDirectory)]);
    let stamps = fixture.publish(fixture.directory(&large), "t", Some(&large));
    assert_eq!(listing(&fixture.at("t")), ["a", "b", "b/c", "b/c/d.sh", "b/e", "empty", "empty/deep"]);
    assert_eq!(stamps.len(), 3);
    let at = |name: &str| look_at(rustix::fs::CWD, fixture.at(name)).expect("looks").fingerprint;
    let fingerprints: Vec<_> = stamps.iter().map(|stamp| stamp.fingerprint).collect();
    assert_eq!(fingerprints, [at("t/a"), at("t/b/c/d.sh"), at("t/b/e")]);
    let modes = ["t", "t/b", "t/b/c", "t/empty/deep", "t/a", "t/b/c/d.sh"].map(|name| mode(&fixture.at(name)));
    assert_eq!(modes, [0o755, 0o755, 0o755, 0o755, 0o444, 0o555]);

    let small = meta(&["b/e"], vec![("l", TreeNode::Symlink { target: "b/e".into() })]);
    let stamps = fixture.publish(fixture.directory(&small), "t", Some(&small));
    assert_eq!((listing(&fixture.at("t")).join(" ").as_str(), stamps.len()), ("b b/e l", 2));
    assert_eq!(fs::read_link(fixture.at("t/l")).expect("a link"), Path::new("b/e"));

    fs::write(fixture.at("f"), "a file").expect("writes");
    fixture.publish(fixture.directory(&small), "f", Some(&small));
    assert!(fixture.at("f/b/e").exists());
    let nothing = meta(&[], vec![]);
    assert!(fixture.publish(fixture.directory(&nothing), "f", Some(&nothing)).is_empty());
    assert!(listing(&fixture.at("f")).is_empty() && fixture.at("f").is_dir());
}

#[test]
fn symlinks_are_published_as_they_are() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.at("l/x")).expect("makes");
    let stamps = fixture.publish(fixture.tree.stage_symlink("../dangling").expect("stages"), "l", None);
    assert_eq!(fs::read_link(fixture.at("l")).expect("a link"), Path::new("../dangling"));
    assert_eq!(stamps[0].fingerprint, look_at(rustix::fs::CWD, fixture.at("l")).expect("looks").fingerprint);
}

#[test]
fn what_is_not_published_goes() {
    let fixture = Fixture::new();
    let large = meta(&["a/b"], vec![]);
    let (file, tree) = (fixture.file("x", false), fixture.directory(&large));
    let open = fixture.tree.stage_file().expect("stages");
    assert_eq!(fixture.staged_things(), 3);
    drop((file, tree, open));
    assert_eq!(fixture.staged_things(), 0);
    std::mem::forget(fixture.file("killed", false));
    std::mem::forget(fixture.directory(&large));
    assert_eq!(fixture.staged_things(), 2);
    fixture.tree.sweep_staging().expect("sweeps");
    assert_eq!(fixture.staged_things(), 0);
    fixture.tree.empty_trash().expect("deletes");
    assert!(listing(&fixture.dir.path().join("minibuild-out/.state/trash")).is_empty());
}

#[test]
fn copies_are_equal_and_their_own() {
    let fixture = Fixture::new();
    let first = fixture.tree.stage_file().expect("stages");
    let bytes = "x".repeat(300_000);
    first.file().write_all(bytes.as_bytes()).expect("writes");
    let second = fixture.tree.stage_file().expect("stages");
    second.copy_from(first.file()).expect("copies");
    fixture.publish(first.finish(false).expect("finishes"), "one", None);
    fixture.publish(second.finish(false).expect("finishes"), "two", None);
    assert_eq!(fs::read_to_string(fixture.at("two")).expect("is there"), bytes);
    let ino = |name| fs::metadata(fixture.at(name)).expect("there").ino();
    assert_ne!(ino("one"), ino("two"));
}
