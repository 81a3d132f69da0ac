//! What is kept on this machine for later: the local store of a workspace and the disk cache.
//!
//! The only crate that knows how blobs and results are kept, shared between processes, limited and collected. Whatever
//! it finds may be gone or wrong: that is a miss. It does not know what a build wants, nor when.

mod blobs;
mod budget;
mod cache;
mod collect;
mod entry;
mod local;
mod queue;
mod restore;
mod side;

pub use local::stored;
pub use side::{CacheConfig, Stores, StoresConfig};
