//! Which files of a package a glob matches. `**` and `*` stop at package borders and directories' edges.

use std::sync::Arc;

use globset::{GlobBuilder, GlobMatcher};
use minibuild_core::{BUILD_FILE, DirEntry, EntryKind, SourceFs};

/// A compiled pattern with the directory it starts in.
struct Pattern {
    matcher: GlobMatcher,
    /// Leading segments without wildcards, the file name not among them; `""` for none.
    prefix: String,
    /// Deepest directory level that can match, counted from the package; `None` for `**`.
    depth: Option<usize>,
}

/// Why a glob gives no files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// The text is no pattern.
    #[error("bad glob `{pattern}`: {reason}")]
    Syntax { pattern: String, reason: String },
    /// Its fixed directories lie in another package.
    #[error("glob `{pattern}` enters the package `//{package}`")]
    Border { pattern: String, package: String },
    /// A directory could not be read.
    #[error("cannot list `{path}`: {reason}")]
    Io { path: String, reason: String },
    /// A name that is not UTF-8 matches.
    #[error("glob `{pattern}` matches `{name}`, whose name is not UTF-8")]
    NotUtf8 { pattern: String, name: String },
}

/// Lists directories, each once.
pub type Lister<'a> = dyn FnMut(&str) -> Result<Arc<[DirEntry]>, std::io::Error> + 'a;

/// Files of the package in `dir` that match one of `patterns` and none of `exclude`, relative to the package, sorted.
///
/// # Errors
/// A [`GlobError`] for the first pattern at fault, with its index in `patterns` (or `exclude`, then counted on).
pub fn expand(
    fs: &dyn SourceFs,
    list: &mut Lister<'_>,
    dir: &str,
    patterns: &[&str],
    exclude: &[&str],
) -> Result<Vec<String>, (usize, GlobError)> {
    let mut excluded = Vec::with_capacity(exclude.len());
    for (index, text) in exclude.iter().enumerate() {
        excluded.push(compile(text).map_err(|e| (patterns.len() + index, e))?.matcher);
    }
    let mut found = Vec::new();
    for (index, text) in patterns.iter().enumerate() {
        let pattern = compile(text).map_err(|e| (index, e))?;
        collect(fs, list, dir, text, &pattern, &excluded, &mut found).map_err(|e| (index, e))?;
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn compile(text: &str) -> Result<Pattern, GlobError> {
    let bad = |reason: String| GlobError::Syntax { pattern: text.to_owned(), reason };
    if text.is_empty() || text.split('/').any(|s| matches!(s, "" | "." | "..")) {
        return Err(bad("it must be relative to the package, without empty, `.` or `..` segments".to_owned()));
    }
    let glob = GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build();
    let matcher = glob.map_err(|e| bad(e.kind().to_string()))?.compile_matcher();
    let is_wild = |s: &str| s.contains(['*', '?', '[', '{', '\\']);
    let segments: Vec<&str> = text.split('/').collect();
    let fixed = segments[..segments.len() - 1].iter().take_while(|s| !is_wild(s)).count();
    // A brace may hold slashes, so it says nothing about the depth.
    let depth = if text.contains("**") || text.contains('{') { None } else { Some(segments.len() - 1) };
    Ok(Pattern { matcher, prefix: segments[..fixed].join("/"), depth })
}

fn collect(
    fs: &dyn SourceFs,
    list: &mut Lister<'_>,
    dir: &str,
    text: &str,
    pattern: &Pattern,
    excluded: &[GlobMatcher],
    found: &mut Vec<String>,
) -> Result<(), GlobError> {
    check_prefix(list, dir, text, &pattern.prefix)?;
    let mut pending = vec![pattern.prefix.clone()];
    while let Some(below) = pending.pop() {
        let entries = match list(&join(dir, &below)) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound || e.kind() == std::io::ErrorKind::NotADirectory => {
                continue;
            }
            Err(e) => return Err(GlobError::Io { path: join(dir, &below), reason: e.to_string() }),
        };
        if !below.is_empty() && is_package(&entries) {
            continue;
        }
        let level = if below.is_empty() { 0 } else { below.matches('/').count() + 1 };
        for entry in entries.iter() {
            let name = match &entry.name {
                Ok(name) => name,
                Err(lossy) => {
                    refuse_not_utf8(text, pattern, &join(&below, lossy))?;
                    continue;
                }
            };
            let path = join(&below, name);
            match entry.kind {
                EntryKind::Directory
                    if pattern.depth.is_none_or(|depth| level < depth)
                        && !(dir.is_empty() && is_never_a_package(&path)) =>
                {
                    pending.push(path);
                }
                EntryKind::File | EntryKind::Symlink if pattern.matcher.is_match(&path) => {
                    let is_link_to_dir = entry.kind == EntryKind::Symlink && fs.is_dir(&join(dir, &path));
                    if !is_link_to_dir && !excluded.iter().any(|e| e.is_match(&path)) {
                        found.push(path);
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Whether the entries are those of a package's directory.
pub fn is_package(entries: &[DirEntry]) -> bool {
    entries.iter().any(|e| e.kind != EntryKind::Directory && e.name.as_deref() == Ok(BUILD_FILE))
}

/// Directories at the workspace root that are no part of the source tree.
pub fn is_never_a_package(path: &str) -> bool {
    path == minibuild_core::OUT_ROOT || path == ".git"
}

fn check_prefix(list: &mut Lister<'_>, dir: &str, text: &str, prefix: &str) -> Result<(), GlobError> {
    let mut end = 0;
    while end < prefix.len() {
        end = prefix[end + 1..].find('/').map_or(prefix.len(), |at| end + 1 + at);
        let path = join(dir, &prefix[..end]);
        if list(&path).is_ok_and(|entries| is_package(&entries)) {
            return Err(GlobError::Border { pattern: text.to_owned(), package: path });
        }
    }
    Ok(())
}

fn refuse_not_utf8(text: &str, pattern: &Pattern, path: &str) -> Result<(), GlobError> {
    if pattern.matcher.is_match(path) {
        return Err(GlobError::NotUtf8 { pattern: text.to_owned(), name: path.to_owned() });
    }
    Ok(())
}

/// Two parts of a path, the first perhaps empty.
pub fn join(dir: &str, below: &str) -> String {
    match (dir.is_empty(), below.is_empty()) {
        (true, _) => below.to_owned(),
        (_, true) => dir.to_owned(),
        _ => format!("{dir}/{below}"),
    }
}

/// Whether `path` is `dir` or lies below it.
pub fn is_below(path: &str, dir: &str) -> bool {
    dir.is_empty() || path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
