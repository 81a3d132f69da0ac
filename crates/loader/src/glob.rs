//! Which files of a package a glob matches. `**` and `*` stop at the borders of packages and workspaces.

use std::sync::Arc;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use minibuild_core::{DirEntry, EntryKind, SourceFs};

use crate::source_tree::{has_build_file, has_workspace_file, is_reserved_name, join};

/// Greatest length of a pattern, that of a path.
const MAX_LENGTH: usize = 4096;
/// Most alternatives `{…}` of a pattern: the regular expression grows with them, and nests.
const MAX_BRACES: usize = 50;

/// A compiled pattern with the directory it starts in.
struct Pattern {
    matcher: GlobSet,
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
    /// Its fixed directories are no part of the workspace.
    #[error("glob `{pattern}` enters `{dir}`, {why}")]
    Outside { pattern: String, dir: String, why: &'static str },
    /// A directory could not be read.
    #[error("cannot list `{path}`: {reason}")]
    Io { path: String, reason: String },
    /// A name that is not UTF-8 matches, or is that of a directory in which files may match.
    #[error("glob `{pattern}` {verb} `{name}`, whose name is not UTF-8")]
    NotUtf8 { pattern: String, verb: &'static str, name: String },
}

impl GlobError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotUtf8 { .. } => Some("rename it, or leave it out by `exclude`".into()),
            Self::Syntax { .. } | Self::Border { .. } | Self::Outside { .. } | Self::Io { .. } => None,
        }
    }
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
    if text.len() > MAX_LENGTH {
        return Err(bad(format!("it is longer than {MAX_LENGTH} bytes")));
    }
    if text.matches('{').count() > MAX_BRACES {
        return Err(bad(format!("it has more than {MAX_BRACES} alternatives `{{…}}`")));
    }
    let glob = GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build();
    // A set of one: a single glob panics where its regular expression is too large.
    let matcher = glob.and_then(|glob| GlobSetBuilder::new().add(glob).build());
    let matcher = matcher.map_err(|e| bad(e.kind().to_string()))?;
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
    excluded: &[GlobSet],
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
        if !below.is_empty() && (has_build_file(&entries) || has_workspace_file(&entries)) {
            continue;
        }
        let level = if below.is_empty() { 0 } else { below.matches('/').count() + 1 };
        let may_go_on = pattern.depth.is_none_or(|depth| level < depth);
        for entry in entries.iter() {
            let name = match &entry.name {
                Ok(name) => name,
                Err(lossy) => {
                    let path = join(&below, lossy);
                    let enters = may_go_on && entry.kind == EntryKind::Directory;
                    refuse_not_utf8(text, pattern, &path, enters, excluded)?;
                    continue;
                }
            };
            let path = join(&below, name);
            match entry.kind {
                EntryKind::Directory if may_go_on && !is_reserved_name(name) => pending.push(path),
                EntryKind::File | EntryKind::Symlink if pattern.matcher.is_match(&path) => {
                    let is_file =
                        entry.kind == EntryKind::File || fs.kind_behind(&join(dir, &path)) == Some(EntryKind::File);
                    if is_file && !excluded.iter().any(|e| e.is_match(&path)) {
                        found.push(path);
                    }
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn check_prefix(list: &mut Lister<'_>, dir: &str, text: &str, prefix: &str) -> Result<(), GlobError> {
    let mut end = 0;
    while end < prefix.len() {
        end = prefix[end + 1..].find('/').map_or(prefix.len(), |at| end + 1 + at);
        let path = join(dir, &prefix[..end]);
        let outside = |why| Err(GlobError::Outside { pattern: text.to_owned(), dir: path.clone(), why });
        if path.rsplit('/').next().is_some_and(is_reserved_name) {
            return outside("which holds no sources");
        }
        let Ok(entries) = list(&path) else { continue };
        if has_workspace_file(&entries) {
            return outside("which is a workspace of its own");
        }
        if has_build_file(&entries) {
            return Err(GlobError::Border { pattern: text.to_owned(), package: path });
        }
    }
    Ok(())
}

/// Refuses a name that is not UTF-8 where leaving it out could leave out a file that is meant. `exclude` can leave it out.
fn refuse_not_utf8(
    text: &str,
    pattern: &Pattern,
    path: &str,
    may_go_on: bool,
    excluded: &[GlobSet],
) -> Result<(), GlobError> {
    let verb = match may_go_on {
        true => "enters",
        false if pattern.matcher.is_match(path) => "matches",
        false => return Ok(()),
    };
    let is_excluded = |e: &GlobSet| e.is_match(path) || (may_go_on && e.is_match(format!("{path}/")));
    if excluded.iter().any(is_excluded) {
        return Ok(());
    }
    Err(GlobError::NotUtf8 { pattern: text.to_owned(), verb, name: path.to_owned() })
}
