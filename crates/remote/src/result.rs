//! From an `ActionResult` to outputs as the build knows them.
//!
//! Values only: whoever asks has fetched what the result names. It does not know where a result comes from.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use minibuild_core::{
    ArtifactKind, Content, DeclaredOutput, DigestFunction, FoundOutput, OutputMeta, OutputProblem, TreeMeta, WsPath,
};
use minibuild_reapi::decode::{ActionResult, OutputFile, TreeContent};
use minibuild_reapi::proto::{execution as proto, protobuf};
use minibuild_reapi::tree_directories;

use crate::input_root::InputRoot;
use crate::links::{Names, Target, bad_links};

/// The trees of a result, by path of the directory.
pub(crate) type Trees = HashMap<WsPath, Arc<TreeMeta>>;

/// A decoded tree as outputs have it. Its digest is that of the canonical root, whatever the sender's was.
pub(crate) fn tree_meta(content: TreeContent, function: DigestFunction) -> TreeMeta {
    let root = tree_directories(&content.entries, function, &mut |_, _| {});
    TreeMeta { root, size: content.size, entries: content.entries }
}

/// The declared outputs as the result has them, in the order declared, without stamps. A symlink where a file was declared
/// stands for the file it leads to, also if that is an input.
///
/// # Errors
/// What is wrong with each output that is not there or not of its kind.
pub(crate) fn outputs(
    declared: &[DeclaredOutput],
    result: &ActionResult,
    trees: &Trees,
    inputs: impl FnOnce() -> InputRoot,
) -> Result<Vec<FoundOutput>, Vec<OutputProblem>> {
    let mut names = names(result, trees);
    let is_open = |output: &DeclaredOutput| {
        let is_link = result.symlinks.iter().any(|link| link.path == output.path);
        let is_file = matches!(output.kind, ArtifactKind::File | ArtifactKind::Source);
        is_file && is_link && !matches!(names.follow(output.path.as_str()), Target::File(..))
    };
    let root = declared.iter().any(is_open).then(inputs).unwrap_or_default();
    names.add_inputs(&root);
    let mut found = Vec::with_capacity(declared.len());
    let mut problems = Vec::new();
    for output in declared {
        match content(output, result, trees, &names) {
            Ok(content) => {
                let meta = OutputMeta { path: output.path.clone(), content };
                found.push(FoundOutput { meta, stamps: Vec::new() });
            }
            Err(of_one) => problems.extend(of_one),
        }
    }
    if problems.is_empty() { Ok(found) } else { Err(problems) }
}

/// Those of the declared outputs that the result has as declared.
pub(crate) fn found(declared: &[DeclaredOutput], result: &ActionResult, trees: &Trees) -> Vec<FoundOutput> {
    let names = names(result, trees);
    let found = declared.iter().filter_map(|output| {
        let meta = OutputMeta { path: output.path.clone(), content: content(output, result, trees, &names).ok()? };
        Some(FoundOutput { meta, stamps: Vec::new() })
    });
    found.collect()
}

/// The file of a result at this path.
pub(crate) fn file<'a>(result: &'a ActionResult, path: &WsPath) -> Option<&'a OutputFile> {
    let at = result.files.binary_search_by(|file| file.path.cmp(path)).ok()?;
    result.files.get(at)
}

/// How long the command ran, as its worker says.
pub(crate) fn wall(result: &proto::ActionResult) -> Option<Duration> {
    let metadata = result.execution_metadata.as_ref()?;
    let between = |from: Option<&protobuf::Timestamp>, to: Option<&protobuf::Timestamp>| {
        nanos(to?)?.checked_sub(nanos(from?)?).map(Duration::from_nanos)
    };
    let of_command =
        between(metadata.execution_start_timestamp.as_ref(), metadata.execution_completed_timestamp.as_ref());
    of_command
        .or_else(|| between(metadata.worker_start_timestamp.as_ref(), metadata.worker_completed_timestamp.as_ref()))
}

fn nanos(time: &protobuf::Timestamp) -> Option<u64> {
    let seconds = u64::try_from(time.seconds).ok()?.checked_mul(1_000_000_000)?;
    seconds.checked_add(u64::try_from(time.nanos).ok()?)
}

fn names<'a>(result: &'a ActionResult, trees: &'a Trees) -> Names<'a> {
    let mut names = Names::default();
    if result.symlinks.is_empty() {
        return names;
    }
    result.files.iter().for_each(|file| names.file(file.path.as_str(), file.digest, file.executable));
    result.symlinks.iter().for_each(|link| names.link(link.path.as_str(), &link.target));
    trees.iter().for_each(|(path, tree)| names.tree(path.as_str(), tree));
    names
}

fn content(
    output: &DeclaredOutput,
    result: &ActionResult,
    trees: &Trees,
    names: &Names<'_>,
) -> Result<Content, Vec<OutputProblem>> {
    let path = &output.path;
    let link = result.symlinks.iter().find(|link| link.path == *path);
    match (output.kind, link) {
        (ArtifactKind::Symlink, Some(link)) => Ok(Content::Symlink { target: link.target.clone() }),
        (ArtifactKind::File | ArtifactKind::Source, Some(link)) => match names.follow(path.as_str()) {
            Target::File(digest, executable) => Ok(Content::File { digest, executable }),
            _ => Err(problem(
                path,
                &format!("is a symlink to `{}`, which is neither an output nor an input of the action", link.target),
            )),
        },
        (ArtifactKind::File | ArtifactKind::Source, None) => match file(result, path) {
            Some(file) => Ok(Content::File { digest: file.digest, executable: file.executable }),
            None => Err(wrong_kind(path, result, "a file")),
        },
        (ArtifactKind::Directory, None) => match trees.get(path) {
            Some(tree) => directory(path, tree),
            None => Err(wrong_kind(path, result, "a directory")),
        },
        (ArtifactKind::Symlink, None) => Err(wrong_kind(path, result, "a symlink")),
        (ArtifactKind::Directory, Some(_)) => Err(wrong_kind(path, result, "a directory")),
    }
}

fn directory(path: &WsPath, tree: &Arc<TreeMeta>) -> Result<Content, Vec<OutputProblem>> {
    let bad = bad_links(tree);
    if bad.is_empty() {
        return Ok(Content::Directory(Arc::clone(tree)));
    }
    let problem = |(below, what): (String, String)| OutputProblem { path: format!("{path}/{below}"), what };
    Err(bad.into_iter().map(problem).collect())
}

/// What lies at the path instead.
fn wrong_kind(path: &WsPath, result: &ActionResult, declared: &str) -> Vec<OutputProblem> {
    let found = if file(result, path).is_some() {
        "a file"
    } else if result.directories.iter().any(|dir| dir.path == *path) {
        "a directory"
    } else if result.symlinks.iter().any(|link| link.path == *path) {
        "a symlink"
    } else {
        return problem(path, "was not made");
    };
    problem(path, &format!("is {found}, but was declared as {declared}"))
}

fn problem(path: &WsPath, what: &str) -> Vec<OutputProblem> {
    vec![OutputProblem { path: path.as_str().to_owned(), what: what.to_owned() }]
}

#[cfg(test)]
mod tests {
    use minibuild_core::TreeNode;
    use minibuild_reapi::decode::{Limits, OutputDirectory, OutputSymlink, tree};
    use minibuild_reapi::{InputNode, tree_message};

    use super::*;

    const F: DigestFunction = DigestFunction::Sha256;

    fn path(text: &str) -> WsPath {
        WsPath::new(text).expect("a path")
    }

    fn result() -> (ActionResult, Trees) {
        let file = |name: &str| OutputFile {
            path: path(name),
            digest: F.digest(name.as_bytes()),
            executable: true,
            contents: None,
        };
        let link = |name: &str, target: &str| OutputSymlink { path: path(name), target: target.to_owned() };
        let mut entries = vec![("l", InputNode::Symlink { target: "sub" }), ("sub", InputNode::EmptyDirectory)];
        let blob = tree_message(&mut entries, F).expect("a tree");
        let meta = tree_meta(tree(&blob.bytes, F, Limits::default()).expect("decodes"), F);
        assert_eq!(meta.root, blob.root);
        assert_eq!(meta.root, minibuild_reapi::tree_root(&meta.entries));
        let mut bad = meta.clone();
        bad.entries[0].node = TreeNode::Symlink { target: "../..".into() };
        let trees = [(path("d/t"), Arc::new(meta)), (path("d/bad"), Arc::new(bad))];
        let dir = |(path, _): &(WsPath, _)| OutputDirectory { path: path.clone(), tree: Some(blob.root), root: None };
        let result = ActionResult {
            files: vec![file("d/a"), file("d/b")],
            directories: trees.iter().map(dir).collect(),
            symlinks: vec![link("d/l", "b"), link("d/out", "/etc/passwd")],
            ..Default::default()
        };
        (result, trees.into_iter().collect())
    }

    #[test]
    fn each_kind_is_taken_and_each_other_kind_is_named() {
        let (result, trees) = result();
        let check = |name: &str, kind, expected: Result<&str, &str>| {
            let declared = [DeclaredOutput { path: path(name), kind }];
            match (outputs(&declared, &result, &trees, InputRoot::default), expected) {
                (Ok(found), Ok(shown)) => {
                    let got = match &found[0].meta.content {
                        Content::File { digest, executable: true } if *digest == F.digest(b"d/a") => "a",
                        Content::File { digest, executable: true } if *digest == F.digest(b"d/b") => "b",
                        Content::Symlink { target } => target,
                        Content::Directory(tree) if tree.entries.len() == 2 => "tree",
                        other => panic!("{other:?}"),
                    };
                    assert_eq!(got, shown, "{name}");
                }
                (Err(problems), Err(part)) => {
                    assert!(format!("{problems:?}").contains(part), "{name}: {problems:?}");
                }
                (got, _) => panic!("{name}: {got:?} instead of {expected:?}"),
            }
        };
        use ArtifactKind::{Directory, File, Symlink};
        check("d/a", File, Ok("a"));
        check("d/l", File, Ok("b"));
        check("d/l", Symlink, Ok("b"));
        check("d/out", Symlink, Ok("/etc/passwd"));
        check("d/t", Directory, Ok("tree"));
        check("d/out", File, Err("is a symlink to `/etc/passwd`, which is neither an output nor an input"));
        check("d/none", File, Err("was not made"));
        check("d/a", Directory, Err("is a file, but was declared as a directory"));
        check("d/a", Symlink, Err("is a file, but was declared as a symlink"));
        check("d/t", File, Err("is a directory, but was declared as a file"));
        check("d/l", Directory, Err("is a symlink, but was declared as a directory"));
        check("d/bad", Directory, Err("d/bad/l\", what: \"is a symlink to `../..`, which leaves its directory"));
    }

    #[test]
    fn a_link_to_an_input_stands_for_the_file() {
        let link = |name: &str, target: &str| OutputSymlink { path: path(name), target: target.to_owned() };
        let result = ActionResult {
            symlinks: vec![link("o/a", "../src/x"), link("o/b", "a"), link("o/c", "../src/l"), link("o/d", "../src")],
            ..Default::default()
        };
        let x = F.digest(b"x");
        let inputs = || InputRoot {
            files: vec![("src/x".to_owned(), x, true)],
            links: vec![("src/l".to_owned(), "./x".to_owned())],
        };
        for name in ["o/a", "o/b", "o/c"] {
            let declared = [DeclaredOutput { path: path(name), kind: ArtifactKind::File }];
            let found = outputs(&declared, &result, &Trees::default(), inputs).expect("it is a file");
            assert_eq!(found[0].meta.content, Content::File { digest: x, executable: true }, "{name}");
            outputs(&declared, &result, &Trees::default(), InputRoot::default).expect_err("no input is known");
        }
        let declared = [DeclaredOutput { path: path("o/d"), kind: ArtifactKind::File }];
        outputs(&declared, &result, &Trees::default(), inputs).expect_err("it is a directory");
    }

    #[test]
    fn an_input_root_is_read_from_its_messages() {
        use minibuild_core::{Blob, BlobSource, Digest};
        let x = F.digest(b"x");
        let mut entries = vec![
            ("d/x", InputNode::File { digest: x, executable: false }),
            ("l", InputNode::Symlink { target: "d/x" }),
        ];
        let mut blobs = Vec::new();
        let mut add =
            |digest: Digest, bytes: &[u8]| blobs.push(Blob { digest, source: BlobSource::Bytes(bytes.into()) });
        let input_root = minibuild_reapi::input_root(&mut entries, F, &mut add).expect("a root");
        let action = minibuild_reapi::ActionMessage {
            command: x,
            input_root,
            timeout: None,
            do_not_cache: false,
            salt: b"",
            platform: Vec::new(),
        };
        let action = action.encode();
        add(F.digest(&action), &action);
        let root = InputRoot::of(F.digest(&action), &blobs, F);
        assert_eq!(root.files, [("d/x".to_owned(), x, false)]);
        assert_eq!(root.links, [("l".to_owned(), "d/x".to_owned())]);
        assert!(InputRoot::of(x, &blobs, F).files.is_empty());
    }

    #[test]
    fn every_problem_is_told() {
        let (result, trees) = result();
        let declared = ["x", "d/a", "y"].map(|name| DeclaredOutput { path: path(name), kind: ArtifactKind::File });
        let problems = outputs(&declared, &result, &trees, InputRoot::default).expect_err("two are missing");
        assert_eq!(problems.iter().map(|p| &*p.path).collect::<Vec<_>>(), ["x", "y"]);
    }

    #[test]
    fn wall_time_is_the_workers() {
        let at = |seconds, nanos| Some(protobuf::Timestamp { seconds, nanos });
        let mut result = proto::ActionResult::default();
        assert_eq!(wall(&result), None);
        let mut metadata = proto::ExecutedActionMetadata {
            worker_start_timestamp: at(10, 0),
            worker_completed_timestamp: at(13, 0),
            ..Default::default()
        };
        result.execution_metadata = Some(metadata.clone());
        assert_eq!(wall(&result), Some(Duration::from_secs(3)));
        metadata.execution_start_timestamp = at(10, 500_000_000);
        metadata.execution_completed_timestamp = at(12, 0);
        result.execution_metadata = Some(metadata.clone());
        assert_eq!(wall(&result), Some(Duration::from_millis(1500)));
        metadata.execution_completed_timestamp = at(-1, 0);
        metadata.worker_completed_timestamp = at(9, 0);
        result.execution_metadata = Some(metadata);
        assert_eq!(wall(&result), None, "nonsense is no time");
    }
}
