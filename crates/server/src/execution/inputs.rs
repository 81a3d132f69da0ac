//! The input root of an action: read from the store, laid out in a private directory, looked at afterwards.
//!
//! It does not know commands or outputs.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use minibuild_core::{Digest, DigestFunction};
use minibuild_reapi::decode::{self, Directory, PathBudget};
use minibuild_reapi::status::missing_blobs;
use tonic::Status;

use crate::answer::{bad_message, store_error, to_grpc};
use crate::shared::Shared;
use crate::store::{Pins, Store, StoreError, disk};

/// Directories and files of an input root; a few kilobytes can name each other without end.
const MOST: usize = 2_000_000;
/// Levels of directories.
const DEPTH: usize = 200;

/// What an input root holds, parents before children.
#[derive(Debug, Default)]
pub(crate) struct Inputs {
    directories: Vec<String>,
    files: Vec<InputFile>,
    symlinks: Vec<(String, String)>,
}

#[derive(Debug)]
struct InputFile {
    path: String,
    digest: Digest,
    executable: bool,
}

/// Reads an input root and pins all of it.
///
/// # Errors
/// FAILED_PRECONDITION naming every blob that is missing; INVALID_ARGUMENT where a directory is none.
pub(crate) fn read_inputs(
    shared: &Shared,
    function: DigestFunction,
    root: Digest,
    pins: &mut Pins,
) -> Result<Inputs, Status> {
    let mut reader = Reader { shared, function, known: HashMap::new(), missing: HashSet::new() };
    let (mut inputs, mut paths) = (Inputs::default(), PathBudget::default());
    let mut next = vec![(String::new(), root, 0)];
    while let Some((path, digest, depth)) = next.pop() {
        let Some(directory) = reader.directory(digest, pins)? else { continue };
        if depth > DEPTH || inputs.len() + directory.len() > MOST {
            return Err(Status::invalid_argument("the input root is too deep or too large"));
        }
        let mut at = |name: &str| {
            let joined = paths.join(&path, name);
            joined.map_err(|flaw| Status::invalid_argument(format!("the input root cannot be laid out: {flaw}")))
        };
        for file in &directory.files {
            let (digest, executable) = (file.digest, file.executable);
            inputs.files.push(InputFile { path: at(&file.name)?, digest, executable });
        }
        for (name, target) in &directory.symlinks {
            inputs.symlinks.push((at(name)?, target.clone()));
        }
        for (name, child) in &directory.directories {
            next.push((at(name)?, *child, depth + 1));
        }
        if !path.is_empty() {
            inputs.directories.push(path);
        }
    }
    let files: HashSet<Digest> = inputs.files.iter().map(|file| file.digest).collect();
    files.iter().for_each(|digest| shared.maybe_lose("Execute", function, digest));
    reader.missing.extend(shared.store.pin(function, files.iter(), pins));
    if reader.missing.is_empty() {
        return Ok(inputs);
    }
    let mut missing: Vec<Digest> = reader.missing.into_iter().collect();
    missing.sort_unstable();
    Err(to_grpc(&missing_blobs(function, &missing)))
}

struct Reader<'a> {
    shared: &'a Shared,
    function: DigestFunction,
    known: HashMap<Digest, Arc<Directory>>,
    missing: HashSet<Digest>,
}

impl Reader<'_> {
    /// One directory; `None` where it is missing, which is noted.
    fn directory(&mut self, digest: Digest, pins: &mut Pins) -> Result<Option<Arc<Directory>>, Status> {
        if let Some(known) = self.known.get(&digest) {
            return Ok(Some(Arc::clone(known)));
        }
        self.shared.maybe_lose("Execute", self.function, &digest);
        self.shared.store.pin(self.function, [&digest].into_iter(), pins);
        let Some(bytes) = self.shared.store.read(self.function, &digest).map_err(store_error)? else {
            self.missing.insert(digest);
            return Ok(None);
        };
        let directory = Arc::new(decode::directory(&bytes, self.function).map_err(bad_message)?);
        self.known.insert(digest, Arc::clone(&directory));
        Ok(Some(directory))
    }
}

impl Inputs {
    fn len(&self) -> usize {
        self.directories.len() + self.files.len() + self.symlinks.len()
    }

    /// Whether a directory of the input root has this path.
    pub(crate) fn has_directory(&self, path: &str) -> bool {
        path.is_empty() || self.directories.iter().any(|directory| directory == path)
    }

    /// Lays everything out below `root`, which is there and empty: hard links to files of the store or, where the
    /// action is known to change its inputs, copies.
    pub(crate) fn lay_out(
        &self,
        store: &Store,
        function: DigestFunction,
        root: &Path,
        copy: bool,
    ) -> Result<(), StoreError> {
        for directory in &self.directories {
            let path = root.join(directory);
            fs::create_dir(&path).map_err(|e| disk("create", &path, e))?;
        }
        for file in &self.files {
            place(store, function, file, &root.join(&file.path), copy)?;
        }
        for (path, target) in &self.symlinks {
            let path = root.join(path);
            symlink(target, &path).map_err(|e| disk("create", &path, e))?;
        }
        Ok(())
    }

    /// Drops the blobs whose files are no longer as they were given out; returns how many.
    pub(crate) fn drop_changed(&self, store: &Store, function: DigestFunction) -> usize {
        let mut seen = HashSet::new();
        let mut changed = 0;
        for file in self.files.iter().filter(|file| file.digest.size > 0) {
            if seen.insert((file.digest, file.executable)) && !store.is_intact(function, &file.digest, file.executable)
            {
                store.drop_blob(function, &file.digest);
                changed += 1;
            }
        }
        changed
    }
}

fn place(store: &Store, function: DigestFunction, file: &InputFile, to: &Path, copy: bool) -> Result<(), StoreError> {
    let mode = if file.executable { 0o555 } else { 0o444 };
    if file.digest.size == 0 {
        let made = File::create_new(to).and_then(|made| made.set_permissions(Permissions::from_mode(mode)));
        return Ok(made.map_err(|e| disk("create", to, e))?);
    }
    let gone = || disk("read", to, std::io::Error::other("its blob vanished from the store"));
    let from = store.variant(function, &file.digest, file.executable)?.ok_or_else(gone)?;
    if !copy && rustix::fs::link(&from, to).is_ok() {
        return Ok(());
    }
    // Another file system, or too many links to one file.
    let _writing = store.apart.writing();
    fs::copy(&from, to).map_err(|e| disk("copy", &from, e))?;
    Ok(fs::set_permissions(to, Permissions::from_mode(mode)).map_err(|e| disk("set the mode of", to, e))?)
}
