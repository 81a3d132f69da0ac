//! Symlinks among the sources: each link on the way, and everything it leads to inside the workspace.
//!
//! A path is walked segment by segment as the kernel does it, so a `..` behind a link leaves the link's target. It does
//! not read files.

use std::ffi::OsString;
use std::fs::FileType;
use std::io;
use std::path::{Path, PathBuf};

use minibuild_core::{EntryKind, OUT_ROOT, PathError, WsPath};
use minibuild_disk::{Seen, look_at};
use rustc_hash::FxHashSet;

/// As many symlinks on one way as the kernel follows.
const MAX_LINKS: usize = 40;

/// How symlinks are followed.
#[derive(Clone, Copy)]
pub(crate) struct LinkRules<'a> {
    /// The workspace root.
    pub root: &'a Path,
    /// Directories that are not entered unless a link names them.
    pub ignored: &'a [WsPath],
    /// Symlinks that leave the workspace count as the file they lead to.
    pub follow_external: bool,
}

/// Something a symlink leads to, or a symlink on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LinkEntry {
    /// Where it lies, no segment above it a symlink.
    pub path: WsPath,
    /// As it was seen, symlinks not followed.
    pub seen: Seen,
    /// What it is.
    pub kind: LinkEntryKind,
}

/// The kinds of entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkEntryKind {
    /// A regular file.
    File,
    /// A symlink with this text.
    Link(String),
    /// A symlink that leaves the workspace, and the regular file it leads to.
    External(PathBuf),
}

/// A source with everything that belongs to it.
pub(crate) struct LinkedSource {
    /// Where it lies itself, no segment above it a symlink.
    pub own: WsPath,
    /// Itself, links on the way to it, and everything it leads to.
    pub entries: Vec<LinkEntry>,
}

/// Why a source that is a symlink cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("the symlink `{link}` leads to `{at}`, which does not exist")]
    Dangling { link: WsPath, at: WsPath },
    #[error("the symlink `{link}` leads to `{at}`, which is no regular file")]
    Special { link: WsPath, at: String },
    #[error("the symlink `{0}` leads to too many further symlinks")]
    Circle(WsPath),
    #[error(
        "the symlink `{link}` leaves the workspace (to `{target}`); set `[build] external_links = \"follow\"` to take what it leads to as a file"
    )]
    Leaves { link: WsPath, target: String },
    #[error("the symlink `{0}` leads to a name that is not UTF-8")]
    NotUtf8(WsPath),
    #[error("`{0}` holds {1:?}, a name that is not UTF-8")]
    Name(WsPath, OsString),
    #[error("`{path}` cannot be {verb}: {error}")]
    Io { path: WsPath, verb: &'static str, error: io::Error },
    #[error(transparent)]
    Path(#[from] PathError),
}

impl LinkError {
    fn io(path: &WsPath, verb: &'static str, error: io::Error) -> Self {
        Self::Io { path: path.clone(), verb, error }
    }
}

impl LinkedSource {
    /// Looks at the source at `path`: links on the way, files, and all below directories.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn at(rules: LinkRules<'_>, path: &WsPath) -> Result<Self, LinkError> {
        let mut walk =
            LinkWalk { rules, own: None, found: Vec::new(), visited: FxHashSet::default(), directories: Vec::new() };
        walk.source(path)?;
        while let Some(directory) = walk.directories.pop() {
            walk.take_directory(&directory)?;
        }
        Ok(Self { own: walk.own.unwrap_or_else(|| path.clone()), entries: walk.found })
    }
}

/// A walk from one source.
struct LinkWalk<'a> {
    rules: LinkRules<'a>,
    own: Option<WsPath>,
    found: Vec<LinkEntry>,
    /// Paths that were taken or entered before.
    visited: FxHashSet<WsPath>,
    /// Directories whose entries are still to be taken.
    directories: Vec<WsPath>,
}

/// Where a path leads.
enum Place {
    File,
    Directory(WsPath),
    /// To something that is no file, no directory and no symlink.
    Special(WsPath),
    /// To this path, where nothing is.
    Absent(WsPath),
    /// Out of the workspace, by a link with this text. No link on the way was taken.
    Outside(String),
    /// Into minibuild's own directory, by a link with this text.
    Output(String),
    Circle,
}

impl LinkWalk<'_> {
    fn source(&mut self, path: &WsPath) -> Result<(), LinkError> {
        let (place, link) = self.follow(path)?;
        let link = link.unwrap_or_else(|| path.clone());
        match place {
            Place::File => {}
            Place::Directory(directory) => self.enter(directory),
            Place::Absent(at) => return Err(LinkError::Dangling { link, at }),
            Place::Special(at) => return Err(LinkError::Special { link, at: at.to_string() }),
            Place::Circle => return Err(LinkError::Circle(path.clone())),
            Place::Output(target) => return Err(LinkError::Leaves { link, target }),
            Place::Outside(target) => {
                self.own = Some(path.clone());
                self.take_external(path, &link, &target)?;
            }
        }
        Ok(())
    }

    /// Walks a path; each link on the way is taken, and so is the file in the end. Gives the last link, too.
    fn follow(&mut self, path: &WsPath) -> Result<(Place, Option<WsPath>), LinkError> {
        let taken = self.found.len();
        let walked = self.walk(path)?;
        if matches!(walked.0, Place::Outside(_)) {
            for entry in self.found.drain(taken..) {
                self.visited.remove(&entry.path);
            }
        }
        Ok(walked)
    }

    fn walk(&mut self, path: &WsPath) -> Result<(Place, Option<WsPath>), LinkError> {
        let mut at = WsPath::root();
        let mut left: Vec<String> = path.as_str().rsplit('/').map(str::to_owned).collect();
        let mut last: Option<(WsPath, String)> = None;
        let mut links = 0;
        let ended = |place: fn(String) -> Place, last: Option<(WsPath, String)>| {
            let (link, target) = last.unzip();
            (place(target.unwrap_or_default()), link)
        };
        while let Some(segment) = left.pop() {
            match segment.as_str() {
                "" | "." => continue,
                ".." => {
                    let Some(above) = at.parent() else { return Ok(ended(Place::Outside, last)) };
                    at = WsPath::new(above)?;
                    continue;
                }
                _ => {}
            }
            let next = at.join(&segment)?;
            if left.is_empty() && self.own.is_none() {
                self.own = Some(next.clone());
            }
            if next.is_at_or_below(OUT_ROOT) {
                return Ok(ended(Place::Output, last));
            }
            let is_last = left.iter().all(|segment| segment.is_empty() || segment == ".");
            let link = || last.as_ref().map(|(link, _)| link.clone());
            let seen = match look_at(rustix::fs::CWD, self.rules.root.join(next.as_path())) {
                Ok(seen) => seen,
                Err(error) if is_absent(&error) => return Ok((Place::Absent(next), link())),
                Err(error) => return Err(LinkError::io(&next, "looked at", error)),
            };
            match seen.kind {
                EntryKind::Directory => at = next,
                EntryKind::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Ok((Place::Circle, link()));
                    }
                    let target = self.read_link(&next)?;
                    if target.starts_with('/') {
                        return Ok((Place::Outside(target), Some(next)));
                    }
                    self.take(next.clone(), seen, LinkEntryKind::Link(target.clone()));
                    left.extend(target.rsplit('/').map(str::to_owned));
                    last = Some((next, target));
                }
                EntryKind::File if is_last => {
                    let link = link();
                    self.take(next, seen, LinkEntryKind::File);
                    return Ok((Place::File, link));
                }
                EntryKind::Other if is_last => return Ok((Place::Special(next), link())),
                EntryKind::File | EntryKind::Other => return Ok((Place::Absent(next), link())),
            }
        }
        Ok((Place::Directory(at), last.map(|(link, _)| link)))
    }

    fn read_link(&self, path: &WsPath) -> Result<String, LinkError> {
        let target =
            std::fs::read_link(self.rules.root.join(path.as_path())).map_err(|e| LinkError::io(path, "read", e))?;
        let target = target.into_os_string().into_string();
        target.map_err(|_| LinkError::NotUtf8(path.clone()))
    }

    fn take(&mut self, path: WsPath, seen: Seen, kind: LinkEntryKind) {
        if self.visited.insert(path.clone()) {
            self.found.push(LinkEntry { path, seen, kind });
        }
    }

    fn enter(&mut self, directory: WsPath) {
        if self.visited.insert(directory.clone()) {
            self.directories.push(directory);
        }
    }

    /// Takes all that lies in a directory behind a link.
    fn take_directory(&mut self, directory: &WsPath) -> Result<(), LinkError> {
        let failed = |e: io::Error| LinkError::io(directory, "listed", e);
        let listing = std::fs::read_dir(self.rules.root.join(directory.as_path())).map_err(failed)?;
        let mut entries: Vec<(String, FileType)> = Vec::new();
        for entry in listing {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().into_string();
            let name = name.map_err(|name| LinkError::Name(directory.clone(), name))?;
            entries.push((name, entry.file_type().map_err(failed)?));
        }
        entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (name, kind) in entries {
            let path = directory.join(&name)?;
            if kind.is_dir() {
                if !self.is_ignored(&path) {
                    self.enter(path);
                }
            } else if kind.is_symlink() {
                self.take_link_inside(&path)?;
            } else if kind.is_file()
                && let Ok(seen) = look_at(rustix::fs::CWD, self.rules.root.join(path.as_path()))
            {
                self.take(path, seen, LinkEntryKind::File);
            }
        }
        Ok(())
    }

    /// A directory of other programs, of minibuild, or one the workspace ignores.
    fn is_ignored(&self, path: &WsPath) -> bool {
        [OUT_ROOT, ".git"].contains(&path.file_name()) || self.rules.ignored.contains(path)
    }

    /// A link in a directory behind a link. One that leads nowhere is an entry all the same: editors leave such.
    fn take_link_inside(&mut self, path: &WsPath) -> Result<(), LinkError> {
        let (place, link) = self.follow(path)?;
        match place {
            Place::Directory(directory) => self.enter(directory),
            Place::Outside(target) => self.take_external(path, &link.unwrap_or_else(|| path.clone()), &target)?,
            Place::File | Place::Absent(_) | Place::Special(_) | Place::Output(_) | Place::Circle => {}
        }
        Ok(())
    }

    /// The source or link at `path` leaves the workspace by `link`: it stands for the file it leads to, where that is
    /// allowed.
    fn take_external(&mut self, path: &WsPath, link: &WsPath, target: &str) -> Result<(), LinkError> {
        if !self.rules.follow_external {
            return Err(LinkError::Leaves { link: link.clone(), target: target.to_owned() });
        }
        let full = self.rules.root.join(path.as_path());
        let failed = |e: io::Error| LinkError::io(path, "followed", e);
        let real = std::fs::canonicalize(&full).map_err(failed)?;
        if !real.is_file() {
            return Err(LinkError::Special { link: path.clone(), at: real.display().to_string() });
        }
        let seen = look_at(rustix::fs::CWD, &full).map_err(failed)?;
        self.take(path.clone(), seen, LinkEntryKind::External(real));
        Ok(())
    }
}

/// Where a relative symlink leads, other symlinks not looked at; `None` where that is outside of the workspace.
pub(crate) fn lead(link: &WsPath, target: &str) -> Option<WsPath> {
    let mut names: Vec<&str> = link.parent()?.split('/').collect();
    for name in target.split('/') {
        match name {
            "." => {}
            ".." => drop(names.pop()?),
            name => names.push(name),
        }
    }
    WsPath::new(&names.join("/")).ok()
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A workspace with these links (text with ` -> `) and files.
    fn workspace(entries: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("temporary directory");
        for entry in entries {
            let (path, target) = entry.split_once(" -> ").map_or((*entry, None), |(path, target)| (path, Some(target)));
            let at = dir.path().join("ws").join(path);
            fs::create_dir_all(at.parent().expect("it has a parent")).expect("makes directories");
            match target {
                Some(target) => symlink(target, at).expect("links"),
                None => fs::write(at, path).expect("writes"),
            }
        }
        dir
    }

    fn walk(entries: &[&str], follow_external: bool) -> Result<(String, Vec<String>), LinkError> {
        let dir = workspace(entries);
        let ignored = [WsPath::new("skip").expect("a path")];
        let rules = LinkRules { root: &dir.path().join("ws"), ignored: &ignored, follow_external };
        let source = LinkedSource::at(rules, &WsPath::new("l").expect("a path"))?;
        let text = |entry: &LinkEntry| match &entry.kind {
            LinkEntryKind::File => entry.path.to_string(),
            LinkEntryKind::Link(target) => format!("{} -> {target}", entry.path),
            LinkEntryKind::External(_) => format!("{} external", entry.path),
        };
        let mut found: Vec<String> = source.entries.iter().map(text).collect();
        found.sort();
        Ok((source.own.to_string(), found))
    }

    fn check(entries: &[&str], expected: &[&str]) {
        let (own, found) = walk(entries, false).expect("it can be used");
        assert_eq!((own.as_str(), found), ("l", expected.iter().map(|&text| text.to_owned()).collect()), "{entries:?}");
    }

    #[test]
    fn every_link_on_the_way_is_an_entry() {
        check(&["l -> f", "f"], &["f", "l -> f"]);
        check(&["l -> m", "m -> d/f", "d/f"], &["d/f", "l -> m", "m -> d/f"]);
        check(&["l -> cur/f", "cur -> d1", "d1/f"], &["cur -> d1", "d1/f", "l -> cur/f"]);
        check(&["l -> cur/../f", "cur -> a/b", "a/b/x", "a/f", "f"], &["a/f", "cur -> a/b", "l -> cur/../f"]);
    }

    #[test]
    fn all_below_a_directory_counts_with_its_links() {
        check(
            &["l -> real/", "real/f", "real/inner -> ../lib/y", "real/d -> ../lib", "lib/y", "lib/z", "real/s/t"],
            &["l -> real/", "lib/y", "lib/z", "real/d -> ../lib", "real/f", "real/inner -> ../lib/y", "real/s/t"],
        );
        check(&["l -> d", "d/up -> ..", "d/self -> ../d", "f"], &["d/self -> ../d", "d/up -> ..", "f", "l -> d"]);
        check(
            &["l -> .", "f", "minibuild-out/bin/x", ".git/HEAD", "skip/s", "d/minibuild-out/y", "d/.git/z"],
            &["f", "l -> ."],
        );
        check(&["l -> skip", "skip/s"], &["l -> skip", "skip/s"]);
        check(
            &["l -> d", "d/.#f -> me@host.1", "d/o -> ../minibuild-out/x"],
            &["d/.#f -> me@host.1", "d/o -> ../minibuild-out/x", "l -> d"],
        );
    }

    #[test]
    fn links_that_cannot_be_used_are_errors() {
        let fails = |entries: &[&str], expected: &str| {
            let error = walk(entries, false).expect_err("it cannot be used");
            assert!(error.to_string().contains(expected), "{entries:?}: {error}");
        };
        fails(&["l -> none"], "`l` leads to `none`, which does not exist");
        fails(&["l -> m", "m -> d/none", "d/f"], "`m` leads to `d/none`, which does not exist");
        fails(&["l -> f/x", "f"], "`l` leads to `f`, which does not exist");
        fails(&["l -> m", "m -> l"], "too many further symlinks");
        fails(&["l -> l"], "too many further symlinks");
        fails(&["l -> ../out"], "the symlink `l` leaves the workspace");
        fails(&["l -> /etc/hostname"], "the symlink `l` leaves the workspace");
        fails(&["l -> m/x", "m -> /etc"], "the symlink `m` leaves the workspace");
        fails(&["l -> d", "d/bad -> ../../out"], "the symlink `d/bad` leaves the workspace");
        fails(&["l -> minibuild-out/bin/x", "minibuild-out/bin/x"], "leaves the workspace");
    }

    #[test]
    fn files_from_outside_stand_for_the_links_that_lead_to_them() {
        let follows = |entries: &[&str], expected: &[&str]| {
            let (own, found) = walk(entries, true).expect("it can be used");
            assert_eq!((own.as_str(), found), ("l", expected.iter().map(|&text| text.to_owned()).collect()));
        };
        follows(&["l -> /etc/passwd"], &["l external"]);
        follows(&["l -> m", "m -> ../../../../../../../../etc/passwd"], &["l external"]);
        follows(&["l -> d", "d/p -> /etc/passwd", "d/f"], &["d/f", "d/p external", "l -> d"]);
        let refused = walk(&["l -> d", "d/m -> /etc"], true).expect_err("a directory is no file");
        assert!(refused.to_string().contains("`d/m` leads to `/etc`, which is no regular file"), "{refused}");
    }

    #[test]
    fn a_source_behind_a_link_lies_where_that_leads() {
        let dir = workspace(&["cur -> a/b", "a/b/l -> ../x", "a/x", "x"]);
        let rules = LinkRules { root: &dir.path().join("ws"), ignored: &[], follow_external: false };
        let source = LinkedSource::at(rules, &WsPath::new("cur/l").expect("a path")).expect("it can be used");
        assert_eq!(source.own.as_str(), "a/b/l");
        let paths: Vec<&str> = source.entries.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["cur", "a/b/l", "a/x"]);
    }
}
