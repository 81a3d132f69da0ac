//! Files on this machine: hashing, fingerprints, trees, publishing, removal.
//!
//! The only crate that knows how files are looked at, read, fingerprinted, captured as outputs, written and
//! removed. It does not know actions, processes, caches or when any of this should happen, and it never prints.
//! Nothing here writes outside `minibuild-out/`: every change goes through [`OutTree`], whose paths are resolved
//! beneath that directory without following symlinks.

mod beneath;
mod capture;
mod captured_entry;
mod clock;
mod error;
mod hash;
mod mode;
mod move_out;
mod out_root;
mod out_tree;
mod private_copy;
mod recheck;
mod regular_file;
mod remove;
mod rename;
mod source;
mod staging;
mod stat;
mod test_logs;
mod trash;
mod tree;
mod writable;

pub use capture::CaptureError;
pub use clock::{FileClock, FsClock, FsInstant, granularity_of};
pub use error::DiskError;
pub use hash::{HashedFile, hash_file, hash_file_until};
pub use mode::set_mode;
pub use move_out::{copy_hashed, touch};
pub use out_root::{adopt_state, prepare_out_root};
pub use out_tree::OutTree;
pub use recheck::{fingerprint_behind, tree_is_unchanged};
pub use regular_file::read_regular_file;
pub use remove::remove_all;
pub use source::{Answer, DiskFs, Look, NameSet, listing_digest};
pub use staging::{Keep, Staged, StagedFile, StagedTree};
pub use stat::{Seen, fingerprint_of, is_absent, look_at, stat_batch, stat_filter};
