//! What builds of a part changed in a snapshot, in a log beside it: a few rows are written instead of the whole file.

use std::path::{Path, PathBuf};

use minibuild_core::Fingerprint;
use minibuild_disk::Look;
use serde::{Deserialize, Serialize};

use super::Doubt;
use super::rows::{ActionRow, ArtifactRow, PrintRow};
use crate::state::{Log, Mark, Opened};

/// A tail longer than this is not added to: the next full build writes a snapshot anew.
const LONGEST: u64 = 32 << 20;

/// What one build changed.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(super) struct Update {
    /// The snapshot it belongs to.
    pub base: Fingerprint,
    /// The state that goes with it from now on.
    pub mark: Mark,
    pub artifacts: Vec<(u32, ArtifactRow)>,
    /// Files with the same content under another fingerprint: how their rows, these and earlier ones, change. After a clean
    /// build there may be one for each action.
    pub prints: Vec<(u32, PrintRow)>,
    pub actions: Vec<(u32, ActionRow)>,
    /// Actions that are something else now, encoded as [`super::rows::Detail`].
    pub details: Vec<(u32, Vec<u8>)>,
    pub looks: Vec<(u32, Look)>,
    /// Further places of records every build needs.
    pub common: Vec<u64>,
    /// Something that others made in a loaded package and that was not declared.
    pub stranger: Option<String>,
}

impl Update {
    /// An update that changes nothing but the state it goes with.
    pub fn new(base: Fingerprint, mark: Mark) -> Self {
        Self { base, mark, ..Self::default() }
    }
}

/// The log beside a snapshot.
pub(super) struct Tail {
    path: PathBuf,
}

impl Tail {
    /// That of the snapshot at `path`.
    pub fn of(path: &Path) -> Self {
        Self { path: path.with_extension("tail") }
    }

    /// All updates of the snapshot `base`, oldest first.
    pub fn read(&self, base: Fingerprint) -> Result<Vec<Update>, Doubt> {
        if !self.path.exists() {
            return Ok(Vec::new());
        }
        let mut updates: Vec<Option<Update>> = Vec::new();
        let take = |_: u64, bytes: &[u8]| updates.push(postcard::from_bytes(bytes).ok());
        let (_, opened) = Log::open(&self.path, version(&base), take).map_err(|e| Doubt::Disk(e.to_string()))?;
        match opened {
            Opened::New | Opened::Whole => {}
            Opened::Torn(_) | Opened::Foreign => return Err(Doubt::Damaged),
        }
        let updates: Option<Vec<Update>> = updates.into_iter().collect();
        updates.filter(|all| all.iter().all(|update| update.base == base)).ok_or(Doubt::Damaged)
    }

    /// Whether [`Self::add`] would add.
    pub fn has_room(&self) -> bool {
        std::fs::metadata(&self.path).map_or(0, |meta| meta.len()) <= LONGEST
    }

    /// Adds an update.
    pub fn add(&self, update: &Update) -> std::io::Result<()> {
        if !self.has_room() {
            return std::fs::remove_file(&self.path);
        }
        let (mut log, _) = Log::open(&self.path, version(&update.base), |_, _| {})?;
        log.append(&postcard::to_allocvec(update).map_err(std::io::Error::other)?);
        log.flush()
    }

    /// There is none any more.
    pub fn remove(&self) -> std::io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// A tail of another snapshot is seen by its header.
fn version(base: &Fingerprint) -> u32 {
    let words = [base.dev, base.ino, base.size, base.mtime_ns.unsigned_abs(), base.ctime_ns.unsigned_abs()];
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    crc32fast::hash(&bytes)
}
