//! Bringing outputs back to their places: copied, hashed on the way, then renamed in.
//!
//! It does not know why they are wanted.

use std::fs::File;

use minibuild_core::{
    Blob, BlobSource, Content, Copied, Digest, FetchOutcome, FetchRequest, StopFlag, TreeMeta, TreeNode,
};
use minibuild_disk::{DiskError, FileClock, OutTree, Staged, copy_hashed};
use rustix::fs::{Mode, OFlags};

use crate::blobs::BlobDir;
use crate::cache::{DiskCache, lacks};
use crate::local::LocalStore;

/// Where blobs are read from, and where outputs are put.
pub(crate) struct Places<'a> {
    pub tree: &'a OutTree,
    pub clock: &'a dyn FileClock,
    pub local: &'a LocalStore,
    pub cache: Option<&'a DiskCache>,
    pub stop: &'a StopFlag,
}

enum Failure {
    /// It is not here, or no longer what it should be.
    Absent,
    Disk(DiskError),
}

impl From<DiskError> for Failure {
    fn from(error: DiskError) -> Self {
        Self::Disk(error)
    }
}

impl Places<'_> {
    /// The stores, the private one first.
    fn stores(&self) -> impl Iterator<Item = &BlobDir> {
        self.local.blobs().into_iter().chain(self.cache.and_then(DiskCache::blobs))
    }

    /// Whether a blob is in a store; it counts as used then.
    pub fn has(&self, digest: &Digest) -> bool {
        digest.size == 0 || self.stores().any(|blobs| blobs.has(digest))
    }

    /// A blob to be read, and by that used. What it holds is to be checked.
    pub fn open(&self, digest: &Digest) -> Option<File> {
        self.stores().find_map(|blobs| blobs.get(digest))
    }

    /// Puts an output in its place; `None` where some of it is not here, or no longer what it was.
    pub fn restore(&self, request: &FetchRequest) -> Option<FetchOutcome> {
        let is_here = |digest: &Digest| {
            request.here.iter().any(|blob| blob.digest == *digest) || self.stores().any(|blobs| blobs.has(digest))
        };
        if lacks(&request.content, is_here) {
            return None;
        }
        match self.put(request) {
            Ok(done) => Some(done),
            Err(Failure::Absent) => None,
            Err(Failure::Disk(_)) if self.stop.is_set() => Some(FetchOutcome::Stopped),
            Err(Failure::Disk(error)) => Some(FetchOutcome::Disk(error.render())),
        }
    }

    fn put(&self, request: &FetchRequest) -> Result<FetchOutcome, Failure> {
        let mut copied = Copied::default();
        let (staged, tree) = match &request.content {
            Content::Symlink { target } => (self.tree.stage_symlink(target)?, None),
            Content::File { digest, executable } => {
                copied += one(digest);
                (self.file(digest, *executable, &request.here)?, None)
            }
            Content::Directory(tree) => (self.directory(tree, &request.here, &mut copied)?, Some(&**tree)),
        };
        let stamps = self.tree.publish(staged, &request.path, tree, self.clock)?;
        Ok(FetchOutcome::Done { stamps, copied })
    }

    fn directory(&self, tree: &TreeMeta, here: &[Blob], copied: &mut Copied) -> Result<Staged, Failure> {
        let staged = self.tree.stage_tree(tree)?;
        for entry in &tree.entries {
            if let TreeNode::File { digest, executable } = &entry.node {
                staged.add(&entry.path, self.file(digest, *executable, here)?)?;
                *copied += one(digest);
            }
        }
        Ok(staged.finish())
    }

    fn file(&self, digest: &Digest, executable: bool, here: &[Blob]) -> Result<Staged, Failure> {
        if digest.size == 0 {
            return Ok(self.tree.stage_unnamed_file()?.finish(executable)?);
        }
        for blobs in self.stores() {
            let Some(from) = blobs.get(digest) else { continue };
            match self.copy(&from, digest, executable)? {
                Some(staged) => return Ok(staged),
                None => blobs.remove(digest),
            }
        }
        for blob in here.iter().filter(|blob| blob.digest == *digest) {
            if let BlobSource::File { path, .. } = &blob.source
                && let Some(from) = open(&self.tree.workspace().join(path.as_path()))
                && let Some(staged) = self.copy(&from, digest, executable)?
            {
                return Ok(staged);
            }
        }
        Err(Failure::Absent)
    }

    /// A copy, if it is what it should be.
    fn copy(&self, from: &File, digest: &Digest, executable: bool) -> Result<Option<Staged>, Failure> {
        let staged = self.tree.stage_unnamed_file()?;
        let copied = copy_hashed(from, staged.file(), self.tree.function(), self.stop);
        let copied = copied.map_err(|error| DiskError::new("copy", digest.to_string(), error))?;
        if copied != *digest {
            return Ok(None);
        }
        Ok(Some(staged.finish(executable)?))
    }
}

fn one(digest: &Digest) -> Copied {
    Copied { files: 1, bytes: digest.size }
}

fn open(path: &std::path::Path) -> Option<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty()).ok().map(File::from)
}
