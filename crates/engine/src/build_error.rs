//! Why a build could not be carried out at all.

use minibuild_disk::DiskError;
use minibuild_graph::CycleError;

/// Why a build could not be carried out at all.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file of ours cannot be read or written.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The state cannot be opened.
    #[error("cannot open the state in `{path}`: {source}")]
    State {
        /// The directory.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// A bug of the loader.
    #[error(transparent)]
    Cycle(#[from] CycleError),
}
