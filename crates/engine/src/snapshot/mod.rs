//! What a build leaves so that the next one with little to do need not load, make a graph, or read the state.
//!
//! A snapshot in `minibuild-out/.state` holds the wanted part of the graph as columns of numbers, the content and fingerprint of
//! every file it is made of, all that the loader was told, and where the state's records lie. [`Snapshot::check`] looks at
//! all of that again in one pass; what changed gives a [`Part`], a small build of its own that ends like the whole one would.
//! Where the loader would be told something else it is asked once more, and [`Snapshot::reloaded`] finds the actions that are not what
//! they were: a [`Reload`]. Whatever else is not exactly as it was is a [`Doubt`], and the build goes the full way.
//!
//! It does not know TOML, command lines or the terminal, and starts nothing.

mod catch_up;
mod check;
mod details;
mod file;
mod part;
mod plan;
mod record;
mod reload;
mod report;
mod rows;
mod tables;
mod tail;

use std::path::{Path, PathBuf};

use minibuild_core::DigestFunction;

pub use check::{Changes, Question};
pub use part::Part;
pub use record::{PartRows, Remembered, remember};
pub use reload::{Fresh, Reload, Surroundings};
pub use report::Outside;
pub use tables::Snapshot;

/// Names a snapshot: everything it depends on besides files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl Key {
    /// The key of these texts, whatever they are.
    pub fn new<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let mut hasher = DigestFunction::Blake3.hasher();
        for text in texts {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        Self(hasher.finish().hash)
    }

    /// Where its snapshot lies.
    fn path(&self, state_dir: &Path) -> PathBuf {
        let hex: String = self.0[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        state_dir.join(format!("{PREFIX}{hex}"))
    }
}

/// What names of snapshots begin with.
const PREFIX: &str = "snapshot-";
/// Snapshots that are kept: of so many different requests.
const KEPT: usize = 4;

/// Whether a part of `part` actions out of `all` is so large that the full way is no slower.
fn is_much(part: usize, all: usize) -> bool {
    part > all / 2 + 1000
}

/// Why a snapshot does not help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// There is none, or of another request.
    #[error("there is no snapshot of this request")]
    None,
    /// It, or what goes with it, does not check.
    #[error("the snapshot cannot be used")]
    Damaged,
    /// Something else wrote state since.
    #[error("the state was written since the snapshot")]
    OtherState,
    /// The logs are to be rewritten.
    #[error("the state is to be compacted")]
    WantsCompaction,
    /// The loader would be told something else.
    #[error("`{}` changed, which loading depends on", if .0.is_empty() { "//" } else { .0 })]
    Loading(String),
    /// Another build made something in a loaded package that was not declared when this snapshot was written.
    #[error("`{0}` was made meanwhile, and may be declared no more")]
    Stranger(String),
    /// A host program is another.
    #[error("the host tool `{0}` is another")]
    Tool(String),
    /// A host program was not needed before.
    #[error("the host tool `{0}` was not used before")]
    NewTool(String),
    /// A source cannot be used, or is no plain file any more.
    #[error("the source `{0}` is no plain file any more")]
    Source(String),
    /// Something that was not made here is needed here.
    #[error("`{0}` is needed and not on disk")]
    Absent(String),
    /// So much changed that the full way is no slower.
    #[error("most of the graph is concerned")]
    Much,
    /// What is asked for is outside of what a snapshot can answer.
    #[error("{0}")]
    Request(&'static str),
    /// The disk cannot be read.
    #[error("{0}")]
    Disk(String),
}

impl Doubt {
    /// Whether a load could settle it: see [`Snapshot::reloaded`].
    pub fn is_of_loading(&self) -> bool {
        matches!(self, Self::Loading(_) | Self::Stranger(_))
    }
}
