//! Taking what a command made as its outputs: existence, kind, permissions, digests and stamps.
//!
//! Outputs become read-only here. It does not know the command or whether it succeeded.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use minibuild_core::{
    ArtifactKind, Content, DeclaredOutput, EntryKind, FoundOutput, OutputMeta, OutputProblem, Stamp, WsPath,
};
use rustix::fs::Mode;
use rustix::io::Errno;

use crate::captured_entry::{Fault, OPEN_OUTPUT, make_read_only, noun, open_output, publish_file, read_link};
use crate::clock::{FileClock, FsInstant};
use crate::hash::{hash_open_file, hash_seen_file};
use crate::out_tree::{DirCache, OutTree};
use crate::private_copy::replace_with_copy;
use crate::stat::{fingerprint_of, look_at};
use crate::{DiskError, tree};

/// Why outputs could not be captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// They are not as declared: the command's fault.
    #[error("outputs are not as declared")]
    Problems(Vec<OutputProblem>),
    /// The file system failed: not the command's fault.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl OutTree {
    /// Captures declared outputs in order, made read-only first (0444 or 0555, directories of trees 0755).
    ///
    /// A symlink where a file was declared is replaced by a copy of the file it leads to if that lies in the
    /// workspace; a file that shares its bytes with another name (hard link) by a private copy.
    ///
    /// # Errors
    /// All [`OutputProblem`]s found, or the first failure of the file system.
    pub fn capture(&self, outputs: &[DeclaredOutput], clock: &dyn FileClock) -> Result<Vec<FoundOutput>, CaptureError> {
        if outputs.is_empty() {
            return Ok(Vec::new());
        }
        let now = clock.now()?;
        let mut cache = DirCache::default();
        let mut found = Vec::with_capacity(outputs.len());
        let mut problems = Vec::new();
        for output in outputs {
            match self.capture_one(output, now, &mut cache, &mut problems) {
                Ok(one) => found.push(one),
                Err(Fault::Problem(path, what)) => problems.push(OutputProblem { path, what }),
                Err(Fault::Disk(error)) => return Err(error.into()),
            }
        }
        if problems.is_empty() { Ok(found) } else { Err(CaptureError::Problems(problems)) }
    }

    fn capture_one(
        &self,
        output: &DeclaredOutput,
        now: FsInstant,
        cache: &mut DirCache,
        problems: &mut Vec<OutputProblem>,
    ) -> Result<FoundOutput, Fault> {
        let path = &output.path;
        if output.kind == ArtifactKind::File
            && let Some((content, stamp)) = self.capture_plain(path, now)?
        {
            return Ok(FoundOutput { meta: OutputMeta { path: path.clone(), content }, stamps: vec![stamp] });
        }
        let (parent, name) = self.split(path)?;
        let dir = match self.open_dir_cached(cache, parent) {
            Ok(dir) => dir,
            Err(error) => return Err(parent_fault(path, error)),
        };
        let (content, stamps) = match output.kind {
            ArtifactKind::Directory => {
                expect_kind(dir, path, name, EntryKind::Directory)?;
                tree::capture(dir, path, name, (now, self.function(), self.stop()), problems)?
            }
            ArtifactKind::Symlink => capture_link(dir, path, name, now)?,
            ArtifactKind::File | ArtifactKind::Source => self.capture_file(dir, path, name, now)?,
        };
        Ok(FoundOutput { meta: OutputMeta { path: path.clone(), content }, stamps })
    }

    /// The common case with few calls: a regular file with one name, which can be read. `None` where it is not that.
    fn capture_plain(&self, path: &WsPath, now: FsInstant) -> Result<Option<(Content, Stamp)>, Fault> {
        let reading = |e: io::Error| Fault::reading(path.as_str(), e);
        let Some(mut file) = self.open_at_once(path, OPEN_OUTPUT)?.map(File::from) else { return Ok(None) };
        let mut stat = rustix::fs::fstat(&file).map_err(|e| reading(e.into()))?;
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() || stat.st_nlink > 1 {
            return Ok(None);
        }
        if make_read_only(&file, stat.st_mode, path.as_str())? {
            stat = rustix::fs::fstat(&file).map_err(|e| reading(e.into()))?;
        }
        let hashed = hash_seen_file(&mut file, fingerprint_of(&stat), self.function(), now, Some(self.stop()))
            .map_err(reading)?;
        Ok(Some((Content::File { digest: hashed.digest, executable: hashed.executable() }, hashed.stamp)))
    }

    fn capture_file(
        &self,
        dir: BorrowedFd<'_>,
        path: &WsPath,
        name: &str,
        now: FsInstant,
    ) -> Result<(Content, Vec<Stamp>), Fault> {
        let mut file = match open_output(dir, name) {
            Err(Errno::LOOP) => self.copy_link_target(dir, path, name)?,
            // What cannot be opened is of another kind, or said to be unreadable.
            Err(error) => {
                expect_kind(dir, path, name, EntryKind::File)?;
                return Err(Fault::reading(path.as_str(), error.into()));
            }
            Ok(file) => {
                expect_regular(&file, dir, path, name)?;
                publish_file(dir, path.as_str(), name, file)?
            }
        };
        let hashed = hash_open_file(&mut file, self.function(), now, Some(self.stop()))
            .map_err(|e| Fault::reading(path.as_str(), e))?;
        Ok((Content::File { digest: hashed.digest, executable: hashed.executable() }, vec![hashed.stamp]))
    }

    /// A symlink where a file was declared.
    fn copy_link_target(&self, dir: BorrowedFd<'_>, path: &WsPath, name: &str) -> Result<File, Fault> {
        let link = self.workspace().join(path.as_path());
        let target = match std::fs::canonicalize(&link) {
            Ok(target) => target,
            Err(_) => return Err(Fault::problem(path.as_str(), "is a symlink that leads nowhere")),
        };
        let root = std::fs::canonicalize(self.workspace())
            .map_err(|e| DiskError::new("resolve", self.workspace().display().to_string(), e))?;
        let out =
            std::fs::canonicalize(self.workspace().join(minibuild_core::OUT_ROOT)).unwrap_or_else(|_| root.clone());
        if !target.starts_with(&root) && !target.starts_with(&out) {
            let what = "is a symlink that leaves the workspace (declare it in `out_symlinks` to keep it as it is)";
            return Err(Fault::problem(path.as_str(), what));
        }
        // The path is canonical and every process of the action is dead: nothing swaps a link in.
        let from = rustix::fs::open(&target, OPEN_OUTPUT, Mode::empty());
        let from = File::from(from.map_err(|e| Fault::reading(path.as_str(), e.into()))?);
        if !from.metadata().is_ok_and(|meta| meta.is_file()) {
            return Err(Fault::problem(path.as_str(), "is a symlink to something that is no regular file"));
        }
        replace_with_copy(dir, name, from).map_err(|e| DiskError::new("copy", path.as_str(), e).into())
    }
}

fn capture_link(
    dir: BorrowedFd<'_>,
    path: &WsPath,
    name: &str,
    now: FsInstant,
) -> Result<(Content, Vec<Stamp>), Fault> {
    expect_kind(dir, path, name, EntryKind::Symlink)?;
    let (target, stamp) = read_link(dir, path.as_str(), name, now)?;
    Ok((Content::Symlink { target }, vec![stamp]))
}

fn expect_regular(file: &File, dir: BorrowedFd<'_>, path: &WsPath, name: &str) -> Result<(), Fault> {
    let stat = rustix::fs::fstat(file).map_err(|e| Fault::reading(path.as_str(), e.into()))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return Ok(());
    }
    expect_kind(dir, path, name, EntryKind::File)
}

fn expect_kind(dir: BorrowedFd<'_>, path: &WsPath, name: &str, expected: EntryKind) -> Result<(), Fault> {
    let kind = match look_at(dir, name) {
        Ok(seen) => seen.kind,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Fault::problem(path.as_str(), "was not made"));
        }
        Err(error) => return Err(Fault::reading(path.as_str(), error)),
    };
    if kind == expected {
        return Ok(());
    }
    let what = format!("is {}, but was declared as {}", noun(kind), noun(expected));
    Err(Fault::problem(path.as_str(), what))
}

/// The directory an output should lie in cannot be opened: the command moved, replaced or locked it.
fn parent_fault(path: &WsPath, error: DiskError) -> Fault {
    match error.os_error().raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NOTDIR) => Fault::problem(path.as_str(), "was not made"),
        Some(Errno::LOOP) => Fault::problem(path.as_str(), "lies behind a symlink"),
        Some(Errno::ACCESS) => Fault::problem(path.as_str(), "cannot be read: permission denied"),
        _ => Fault::Disk(error),
    }
}
