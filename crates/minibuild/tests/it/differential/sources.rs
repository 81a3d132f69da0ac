//! The sources of one workspace as they should be, and the edits a course makes.
//!
//! Each edit draws from random numbers of its own, so that the same course makes the same edits whatever builds did.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::SystemTime;

use minibuild_testkit::{Random, Workspace};

use super::definition::{HEADERS, PACKAGES, SOURCES, TargetDefinition, TargetEdits, package_text};

/// A regular source file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    pub text: String,
    pub is_executable: bool,
}

/// What a path leads to once every symlink on the way is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolved {
    File(String),
    Directory(String),
}

/// Everything outside of `minibuild-out`.
#[derive(Clone, Debug)]
pub struct SourceState {
    pub files: BTreeMap<String, SourceFile>,
    pub links: BTreeMap<String, String>,
    pub targets: Vec<TargetEdits>,
    comments: [usize; PACKAGES],
}

/// One change of the sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceEdit {
    /// Another text of the same length, written in place.
    Write,
    /// The same, with the old times put back.
    WriteUnseen,
    /// Other bytes, by another file renamed to the place.
    Replace,
    /// The same bytes, by another file renamed to the place.
    ReplaceEqual,
    /// Other times, the same bytes.
    Touch,
    /// Another mode that does not matter.
    ChangeMode,
    /// The executable bit.
    FlipExecutable,
    /// Makes whatever reads the source fail.
    WriteFailing,
    /// Another text of a header.
    WriteHeader,
    /// A file that the glob finds comes or goes.
    FlipGlobbed,
    /// A symlink leads elsewhere.
    Retarget,
    /// A file behind symlinks gets another text.
    WriteBehindLink,
    /// The command of a target.
    ChangeVersion,
    /// A target that nothing reads comes or goes.
    FlipTarget,
    /// The order of a target's inputs.
    ReverseInputs,
    /// A comment in a `BUILD.toml`.
    Comment,
}

/// Each edit, as often as it is to be likely.
const EDITS: &[SourceEdit] = &[
    SourceEdit::Write,
    SourceEdit::Write,
    SourceEdit::Write,
    SourceEdit::Write,
    SourceEdit::Write,
    SourceEdit::WriteUnseen,
    SourceEdit::WriteUnseen,
    SourceEdit::Replace,
    SourceEdit::ReplaceEqual,
    SourceEdit::Touch,
    SourceEdit::Touch,
    SourceEdit::ChangeMode,
    SourceEdit::FlipExecutable,
    SourceEdit::WriteFailing,
    SourceEdit::WriteHeader,
    SourceEdit::WriteHeader,
    SourceEdit::FlipGlobbed,
    SourceEdit::Retarget,
    SourceEdit::WriteBehindLink,
    SourceEdit::ChangeVersion,
    SourceEdit::ChangeVersion,
    SourceEdit::FlipTarget,
    SourceEdit::ReverseInputs,
    SourceEdit::Comment,
];

/// Edits after which no input of any action is another.
pub const NEUTRAL_EDITS: &[SourceEdit] = &[SourceEdit::Touch, SourceEdit::ChangeMode];

pub fn random_edit(random: &mut Random) -> SourceEdit {
    EDITS[random.below(EDITS.len())]
}

/// Always of the same length, and seldom of many kinds, so that contents come back.
fn source_text(random: &mut Random) -> String {
    let used = random.below(HEADERS);
    format!("word{} of a source\nuse h{used}\nuse h{}\n", random.below(8), (used + 1) % HEADERS)
}

impl SourceState {
    pub fn new(random: &mut Random, targets: &[TargetDefinition], store_size: Option<&str>, has_links: bool) -> Self {
        let mut state = Self {
            files: BTreeMap::new(),
            links: BTreeMap::new(),
            targets: vec![TargetEdits::default(); targets.len()],
            comments: [0; PACKAGES],
        };
        state.set("minibuild.toml", workspace_text(store_size));
        state.set("rules.toml", include_str!("rules.toml").to_owned());
        state.set("tools/make.sh", include_str!("make.sh").to_owned());
        state.set("tools/BUILD.toml", "[[filegroup]]\nname = \"make\"\nsrcs = [\"make.sh\"]\n".to_owned());
        for package in 0..PACKAGES {
            state.add_package(random, package, has_links);
        }
        state.render(targets);
        state
    }

    fn add_package(&mut self, random: &mut Random, package: usize, has_links: bool) {
        for number in 0..SOURCES {
            self.set(&format!("p{package}/s{number}"), source_text(random));
        }
        for number in 0..HEADERS {
            self.set(&format!("p{package}/h/h{number}"), "header 0\n".to_owned());
        }
        self.set(&format!("p{package}/g/g0"), "globbed\n".to_owned());
        if !has_links {
            return;
        }
        self.set(&format!("p{package}/d/y0"), "behind 0\n".to_owned());
        self.set(&format!("p{package}/e/z0"), "behind 0\n".to_owned());
        for (name, target) in [("lf", "s0"), ("ld", "d"), ("d/inner", "../s1"), ("d/deep", "../e")] {
            self.links.insert(format!("p{package}/{name}"), target.to_owned());
        }
    }

    fn set(&mut self, path: &str, text: String) {
        self.files.insert(path.to_owned(), SourceFile { text, is_executable: false });
    }

    fn render(&mut self, targets: &[TargetDefinition]) {
        for package in 0..PACKAGES {
            let text = package_text(package, targets, &self.targets, self.comments[package]);
            self.set(&format!("p{package}/BUILD.toml"), text);
        }
    }

    /// Follows all symlinks of a path.
    pub fn resolve(&self, path: &str) -> Option<Resolved> {
        let mut path = path.to_owned();
        // No symlink of a course leads through more of them.
        for _ in 0..10 {
            let Some((link, target)) = self.links.iter().find(|(link, _)| is_at_or_below(&path, link)) else { break };
            let dir = link.rsplit_once('/').map_or("", |(dir, _)| dir);
            path = normal(&format!("{dir}/{target}{}", &path[link.len()..]));
        }
        if self.files.contains_key(&path) {
            return Some(Resolved::File(path));
        }
        let below = format!("{path}/");
        let is_directory = self.files.keys().chain(self.links.keys()).any(|other| other.starts_with(&below));
        is_directory.then_some(Resolved::Directory(path))
    }

    /// What `find -L PATH | LC_ALL=C sort` would print, each with what it leads to.
    pub fn list(&self, path: &str) -> Vec<(String, Resolved)> {
        let mut found = Vec::new();
        let mut pending = vec![path.to_owned()];
        while let Some(path) = pending.pop() {
            let Some(resolved) = self.resolve(&path) else { continue };
            if let Resolved::Directory(real) = &resolved {
                let names = self.names_in(real);
                pending.extend(names.iter().map(|name| format!("{path}/{name}")));
            }
            found.push((path, resolved));
        }
        found.sort_by(|(first, _), (second, _)| first.cmp(second));
        found
    }

    fn names_in(&self, directory: &str) -> Vec<String> {
        let below = format!("{directory}/");
        let paths = self.files.keys().chain(self.links.keys());
        let mut names: Vec<String> = paths
            .filter_map(|path| path.strip_prefix(&below))
            .map(|rest| rest.split('/').next().unwrap_or(rest).to_owned())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Writes what is not so yet.
    pub fn apply(&self, ws: &Workspace) {
        for (path, file) in &self.files {
            if fs::read(ws.path(path)).ok().as_deref() != Some(file.text.as_bytes()) {
                ws.write(path, &file.text);
            }
        }
        for (path, target) in &self.links {
            set_link(&ws.path(path), target);
        }
    }

    /// Writes these sources over others, as a checkout does.
    pub fn replace(self, old: &Self, ws: &Workspace) -> Self {
        for path in old.files.keys().filter(|path| !self.files.contains_key(*path)) {
            ws.remove(path);
        }
        self.apply(ws);
        for (path, file) in &self.files {
            if old.files.get(path).is_none_or(|old| old.is_executable != file.is_executable) {
                let mode = if file.is_executable { 0o755 } else { 0o644 };
                fs::set_permissions(ws.path(path), fs::Permissions::from_mode(mode)).expect("it is ours");
            }
        }
        self
    }

    /// Makes a source one with which no command fails.
    pub fn mend(&mut self, ws: &Workspace, path: &str) {
        let text = self.files[path].text.replacen("fail", "word", 1);
        self.write(ws, path, text, WriteManner::InPlace);
    }

    /// Makes one edit, here and in the workspace; says what was done.
    pub fn edit(
        &mut self,
        ws: &Workspace,
        edit: SourceEdit,
        random: &mut Random,
        targets: &[TargetDefinition],
    ) -> String {
        let source = format!("p{}/s{}", random.below(PACKAGES), random.below(SOURCES));
        match edit {
            SourceEdit::Write => self.write(ws, &source, source_text(random), WriteManner::InPlace),
            SourceEdit::WriteUnseen => self.write(ws, &source, source_text(random), WriteManner::OldTimes),
            SourceEdit::Replace => self.write(ws, &source, source_text(random), WriteManner::Rename),
            SourceEdit::ReplaceEqual => {
                let text = self.files[&source].text.clone();
                self.write(ws, &source, text, WriteManner::Rename)
            }
            SourceEdit::Touch => set_times(&ws.path(&source), SystemTime::now()),
            SourceEdit::ChangeMode => flip_mode(&ws.path(&source), 0o044),
            SourceEdit::FlipExecutable => {
                flip_mode(&ws.path(&source), 0o111);
                let file = self.files.get_mut(&source).expect("sources stay");
                file.is_executable = !file.is_executable;
            }
            SourceEdit::WriteFailing => {
                let text = source_text(random).replacen("word", "fail", 1);
                self.write(ws, &source, text, WriteManner::InPlace);
            }
            SourceEdit::WriteHeader => {
                let path = format!("p{}/h/h{}", random.below(PACKAGES), random.below(HEADERS));
                self.write(ws, &path, format!("header {}\n", random.below(4)), WriteManner::InPlace);
                return format!("{edit:?} {path}");
            }
            SourceEdit::FlipGlobbed => return self.flip_globbed(ws, random),
            SourceEdit::Retarget => return self.retarget(ws, random),
            SourceEdit::WriteBehindLink => return self.write_behind_link(ws, random),
            _ => return self.edit_target(ws, edit, random, targets),
        }
        format!("{edit:?} {source}")
    }

    fn edit_target(
        &mut self,
        ws: &Workspace,
        edit: SourceEdit,
        random: &mut Random,
        targets: &[TargetDefinition],
    ) -> String {
        let number = random.below(targets.len());
        match edit {
            SourceEdit::ChangeVersion => self.targets[number].version = random.below(3),
            SourceEdit::FlipTarget if targets[number].is_leaf => {
                self.targets[number].is_dropped = !self.targets[number].is_dropped;
            }
            SourceEdit::ReverseInputs => self.targets[number].is_reversed = !self.targets[number].is_reversed,
            _ => self.comments[targets[number].package] = random.below(3),
        }
        self.render(targets);
        self.apply(ws);
        format!("{edit:?} {} {:?}", targets[number].label(), self.targets[number])
    }

    fn write(&mut self, ws: &Workspace, path: &str, text: String, manner: WriteManner) {
        let is_executable = self.files.get(path).is_some_and(|file| file.is_executable);
        write_file(&ws.path(path), &text, manner, is_executable);
        self.files.insert(path.to_owned(), SourceFile { text, is_executable });
    }

    fn flip_globbed(&mut self, ws: &Workspace, random: &mut Random) -> String {
        let path = format!("p{}/g/g{}", random.below(PACKAGES), random.below(3));
        if self.files.remove(&path).is_some() {
            ws.remove(&path);
            return format!("remove {path}");
        }
        self.write(ws, &path, "globbed\n".to_owned(), WriteManner::InPlace);
        format!("add {path}")
    }

    fn retarget(&mut self, ws: &Workspace, random: &mut Random) -> String {
        let package = random.below(PACKAGES);
        let source = random.below(SOURCES);
        let (name, target) = match random.below(4) {
            0 => ("lf", format!("s{source}")),
            1 => ("d/inner", format!("../s{source}")),
            2 => ("d/inner", "y0".to_owned()),
            _ => ("ld", ["d", "e"][random.below(2)].to_owned()),
        };
        let path = format!("p{package}/{name}");
        if let Some(old) = self.links.get_mut(&path) {
            old.clone_from(&target);
            set_link(&ws.path(&path), &target);
        }
        format!("{path} -> {target}")
    }

    fn write_behind_link(&mut self, ws: &Workspace, random: &mut Random) -> String {
        let path = format!("p{}/{}", random.below(PACKAGES), ["d/y0", "e/z0"][random.below(2)]);
        let text = format!("behind {}\n", random.below(4));
        if self.files.contains_key(&path) {
            self.write(ws, &path, text, WriteManner::InPlace);
        }
        format!("write {path}")
    }
}

fn workspace_text(store_size: Option<&str>) -> String {
    let size = store_size.map_or(String::new(), |size| format!("store_size = {size:?}\n"));
    format!(
        "[workspace]\nrules = [\"rules.toml\"]\n[build]\npools = {{ single = 1, double = 2 }}\n{size}\
         [config.other.vars]\nflavour = \"other\"\n"
    )
}

fn is_at_or_below(path: &str, base: &str) -> bool {
    path.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A path without `..`.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        match part {
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// How new bytes get into a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum WriteManner {
    InPlace,
    OldTimes,
    Rename,
}

/// Writes a file that may be read-only, and keeps its mode.
pub fn write_file(path: &Path, text: &str, manner: WriteManner, is_executable: bool) {
    let old = fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
    match manner {
        WriteManner::Rename => {
            let beside = path.with_extension("new");
            fs::write(&beside, text).expect("writes a file");
            let mode = if is_executable { 0o755 } else { 0o644 };
            fs::set_permissions(&beside, fs::Permissions::from_mode(mode)).expect("it is ours");
            fs::rename(&beside, path).expect("renames a file");
        }
        WriteManner::InPlace | WriteManner::OldTimes => fs::write(path, text).expect("writes a file"),
    }
    if let (WriteManner::OldTimes, Some(old)) = (manner, old) {
        set_times(path, old);
    }
}

fn set_times(path: &Path, modified: SystemTime) {
    let times = fs::FileTimes::new().set_modified(modified).set_accessed(modified);
    let opened = fs::File::open(path).expect("the source is there");
    opened.set_times(times).expect("it is ours");
}

fn flip_mode(path: &Path, bits: u32) {
    let mode = fs::metadata(path).expect("the source is there").permissions().mode();
    let flipped = if mode & bits == 0 { mode | bits } else { mode & !bits };
    fs::set_permissions(path, fs::Permissions::from_mode(flipped)).expect("it is ours");
}

fn set_link(path: &Path, target: &str) {
    if fs::read_link(path).is_ok_and(|old| old == Path::new(target)) {
        return;
    }
    let _ = fs::remove_file(path);
    fs::create_dir_all(path.parent().expect("it has a parent")).expect("makes directories");
    std::os::unix::fs::symlink(target, path).expect("makes a symlink");
}
