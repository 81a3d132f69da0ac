//! Results that should not be: trees with names that lead out, paths nobody asked for, blobs that are bombs. Each is put into
//! the action cache of a server that passes on what it is given.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use minibuild_core::{Digest, DigestFunction};
use minibuild_reapi::decode::digest_message;
use minibuild_reapi::proto::{Message as _, execution as proto};
use minibuild_testkit::{Workspace, difference};

use crate::remote::{Remote, runners};
use crate::{genrule, with_targets};

const F: DigestFunction = DigestFunction::Sha256;
const UNCHECKED: &str = "[server]\nunchecked = true\n";

/// One action with a file and a tree, built from `in.txt`.
fn workspace() -> Workspace {
    with_targets(
        "[[genrule]]\nname = \"a\"\nsrcs = [\"in.txt\"]\nouts = [\"f\"]\nout_dirs = [\"d\"]\n\
         cmd = \"cp $SRC $OUT; mkdir $OUT_DIR/sub; cp $SRC $OUT_DIR/sub/x\"\n",
    )
    .file("in.txt", "one\n")
}

/// A server whose action cache holds the result of that action.
struct Poisoned {
    remote: Remote,
    key: String,
    result: proto::ActionResult,
}

impl Poisoned {
    fn new() -> Self {
        let remote = Remote::with(UNCHECKED);
        remote.build(&workspace(), &["//..."]).ok();
        let files = files_below(&remote.dir.path().join("server/ac"));
        let [path] = files.as_slice() else { panic!("one action has one result: {files:?}") };
        let key = path.file_name().expect("a hash").to_string_lossy().into_owned();
        let result = proto::ActionResult::decode(&*http(&remote, "GET", &format!("/ac/{key}"), b"")).expect("a result");
        Self { remote, key, result }
    }

    fn put(&self, content: &[u8]) -> Option<proto::Digest> {
        let digest = F.digest(content);
        http(&self.remote, "PUT", &format!("/cas/{}", digest.hex()), content);
        Some(digest_message(&digest))
    }

    /// The cache answers with this from now on. A build of its own does not believe it, and makes the right files.
    #[track_caller]
    fn is_refused(&self, what: &str, result: &proto::ActionResult) {
        for protocol in ["grpc", "http"] {
            http(&self.remote, "PUT", &format!("/ac/{}", self.key), &result.encode_to_vec());
            let ws = workspace();
            let cache = self.remote.cache().replace("grpc://", &format!("{protocol}://"));
            let run = ws.build(&["//...", "--download=all", &cache]).ok();
            assert_eq!((run.counts().local, run.counts().total), (1, 1), "{what}: {}", run.stderr);
            check_files(&ws, what);
        }
    }
}

/// Nothing but what the action makes, and nothing beside the workspace.
#[track_caller]
fn check_files(ws: &Workspace, what: &str) {
    let honest = workspace();
    honest.build(&["//..."]).ok();
    assert_eq!(difference(&honest.outputs(), &ws.outputs()), Vec::<String>::new(), "{what}");
    let names = |dir: &Path| -> Vec<_> {
        std::fs::read_dir(dir).expect("lists").map(|e| e.expect("entry").file_name()).collect()
    };
    let sorted = |dir: &Path| {
        let mut names = names(dir);
        names.sort();
        names
    };
    assert_eq!(sorted(ws.root()), sorted(honest.root()), "{what}");
    assert_eq!(sorted(ws.outside()), sorted(honest.outside()), "{what}");
}

fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).expect("lists").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// One request; the body of the answer, which has to be a good one.
#[track_caller]
fn http(remote: &Remote, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let url = remote.url();
    let mut stream = TcpStream::connect(url.trim_start_matches("grpc://")).expect("connects");
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).expect("sends");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("answers");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    assert!(head.starts_with("HTTP/1.1 20"), "{method} {path}: {head}");
    answer[end + 4..].to_vec()
}

fn file(name: &str, digest: &Option<proto::Digest>) -> proto::FileNode {
    proto::FileNode { name: name.to_owned(), digest: digest.clone(), ..Default::default() }
}

fn link(name: &str, target: &str) -> proto::SymlinkNode {
    proto::SymlinkNode { name: name.to_owned(), target: target.to_owned(), ..Default::default() }
}

#[test]
fn t57_trees_that_lead_out_or_are_none() {
    let poisoned = Poisoned::new();
    let x = poisoned.put(b"evil\n");
    let directory = |files: &[&str], links: &[(&str, &str)], dirs: &[(&str, &proto::Directory)]| proto::Directory {
        files: files.iter().map(|name| file(name, &x)).collect(),
        symlinks: links.iter().map(|(name, target)| link(name, target)).collect(),
        directories: dirs
            .iter()
            .map(|(name, child)| proto::DirectoryNode {
                name: (*name).to_owned(),
                digest: Some(digest_message(&F.digest(&child.encode_to_vec()))),
            })
            .collect(),
        ..Default::default()
    };
    let tree = |root: proto::Directory, children: Vec<proto::Directory>| {
        proto::Tree { root: Some(root), children }.encode_to_vec()
    };
    let leaf = directory(&["x"], &[], &[]);
    let long = "n".repeat(300);
    let bad_names = ["..", ".", "", "/etc/passwd", "a/b", "a\0b", long.as_str()];
    let mut trees: Vec<(String, Vec<u8>)> = Vec::new();
    for name in bad_names {
        trees.push((format!("file {name:?}"), tree(directory(&[name], &[], &[]), vec![])));
        trees.push((format!("link {name:?}"), tree(directory(&[], &[(name, "x")], &[]), vec![])));
        trees.push((format!("directory {name:?}"), tree(directory(&[], &[], &[(name, &leaf)]), vec![leaf.clone()])));
    }
    for target in ["/etc/passwd", "../../../../x", "../f", "", "nowhere", "a\0b"] {
        trees.push((format!("target {target:?}"), tree(directory(&[], &[("l", target)], &[]), vec![])));
    }
    trees.push(("not sorted".into(), tree(directory(&["b", "a"], &[], &[]), vec![])));
    trees.push(("twice".into(), tree(directory(&["a", "a"], &[], &[]), vec![])));
    trees.push(("file and link".into(), tree(directory(&["a"], &[("a", "b")], &[]), vec![])));
    trees.push(("file and directory".into(), tree(directory(&["a"], &[], &[("a", &leaf)]), vec![leaf.clone()])));
    trees.push(("a child that is not there".into(), tree(directory(&[], &[], &[("a", &leaf)]), vec![])));
    trees.push(("no root".into(), proto::Tree { root: None, children: vec![leaf.clone()] }.encode_to_vec()));
    trees.push(("no tree".into(), b"\xff\xff no tree".to_vec()));
    for (what, bytes) in trees {
        let mut result = poisoned.result.clone();
        result.output_directories[0].tree_digest = poisoned.put(&bytes);
        poisoned.is_refused(&what, &result);
    }
}

#[test]
fn trees_with_children_nobody_needs_are_taken() {
    let poisoned = Poisoned::new();
    let x = poisoned.put(b"one\n");
    let leaf = |name: &str| proto::Directory { files: vec![file(name, &x)], ..Default::default() };
    let node = |name: &str, child: &proto::Directory| proto::DirectoryNode {
        name: name.to_owned(),
        digest: Some(digest_message(&F.digest(&child.encode_to_vec()))),
    };
    let directories = vec![node("a", &leaf("x")), node("b", &leaf("y")), node("c", &leaf("x"))];
    let root = proto::Directory { directories, ..Default::default() };
    let children = vec![leaf("unused"), leaf("y"), leaf("x"), leaf("x")];
    let tree = proto::Tree { root: Some(root.clone()), children };
    let mut result = poisoned.result.clone();
    result.output_directories[0].tree_digest = poisoned.put(&tree.encode_to_vec());
    http(&poisoned.remote, "PUT", &format!("/ac/{}", poisoned.key), &result.encode_to_vec());
    let ws = workspace();
    let run = poisoned.remote.build_cached(&ws, &["//..."]).ok();
    assert_eq!(runners(&run), [("//:a", "remote_cache")], "{}", run.stderr);
    assert_eq!(ws.snapshot("minibuild-out/bin/d").keys().collect::<Vec<_>>(), ["a", "a/x", "b", "b/y", "c", "c/x"]);
    let tree = run.outputs_of("//:a").iter().find(|output| output.kind == "directory").expect("a tree");
    assert_eq!(tree.digest, F.digest(&root.encode_to_vec()).to_string(), "its root's, never the message's");
}

#[test]
fn trees_that_double_at_each_level() {
    let poisoned = Poisoned::new();
    let mut children = vec![proto::Directory::default()];
    for _ in 0..40 {
        let below = Some(digest_message(&F.digest(&children[0].encode_to_vec())));
        let node = |name: &str| proto::DirectoryNode { name: name.to_owned(), digest: below.clone() };
        children.insert(0, proto::Directory { directories: vec![node("a"), node("b")], ..Default::default() });
    }
    let root = Some(children.remove(0));
    let mut result = poisoned.result.clone();
    result.output_directories[0].tree_digest = poisoned.put(&proto::Tree { root, children }.encode_to_vec());
    poisoned.is_refused("2^40 directories", &result);
}

#[test]
fn results_with_paths_nobody_asked_for() {
    let poisoned = Poisoned::new();
    let x = poisoned.put(b"evil\n");
    let path = |path: &str| {
        let mut result = poisoned.result.clone();
        result.output_files[0] = proto::OutputFile { path: path.to_owned(), digest: x.clone(), ..Default::default() };
        result
    };
    for bad in [
        "../../evil",
        "/evil",
        "in.txt",
        "minibuild-out/bin/../../evil",
        "minibuild-out/bin/d/sub",
        "",
        "minibuild-out/bin/f\0",
    ] {
        poisoned.is_refused(&format!("path {bad:?}"), &path(bad));
    }
    let mut twice = poisoned.result.clone();
    twice.output_files.push(path("minibuild-out/bin/f").output_files.remove(0));
    poisoned.is_refused("twice", &twice);
}

#[test]
fn results_with_digests_that_are_none() {
    let poisoned = Poisoned::new();
    let digest = |hash: &str, size_bytes: i64| Some(proto::Digest { hash: hash.to_owned(), size_bytes });
    let hash = F.digest(b"one\n").hex();
    let bad = [
        None,
        digest("", 0),
        digest("../../etc/passwd", 4),
        digest(&hash, -1),
        digest(&hash[..10], 4),
        digest(&hash.to_uppercase(), 4),
        digest(&hash, i64::MAX),
        digest(&hash, 5),
    ];
    for digest in bad {
        let mut result = poisoned.result.clone();
        result.output_files[0].digest.clone_from(&digest);
        poisoned.is_refused(&format!("file digest {digest:?}"), &result);
        let mut result = poisoned.result.clone();
        result.output_directories[0].tree_digest.clone_from(&digest);
        poisoned.is_refused(&format!("tree digest {digest:?}"), &result);
    }
}

#[test]
fn t58_a_bomb_is_not_unpacked() {
    let content = "0123456789abcdef".repeat(1 << 16);
    let digest: Digest = F.digest(content.as_bytes());
    let bomb = format!(
        "[[fault]]\nkind = \"long\"\nmethod = \"Read\"\ndigest = \"{}\"\nbytes = 1099511627776\n",
        digest.hex()
    );
    let remote = Remote::with(&bomb);
    let target = genrule("a", &["in.txt"], &["f"], "cp $SRC $OUT");
    let build = |args: &[&str]| {
        let ws = with_targets(&target).file("in.txt", &content);
        let run = remote.build(&ws, &[&["//..."], args].concat()).code(39);
        run.says(&["minibuild-out/bin/f", &digest.to_string()]);
        assert!(!ws.has_output("f"));
    };
    build(&[]);
    build(&["--remote-retries=0"]);
}
