//! The action graph: dense ids, keys, what is ready, what is dirty.
//!
//! Pure: everything known of the world is handed in. It does not know files, processes, the clock or TOML.

mod depfile;
mod key;
mod manifest;
mod root_cache;
mod schedule;
mod topology;

pub use depfile::{DepfileError, parse_depfile};
pub use key::{ActionKey, Facts, HostFacts, HostToolFact, InputFact, PrunedKey};
pub use manifest::{Change, diff, note_why, reason, summarise, why};
pub use root_cache::RootCache;
pub use schedule::critical_path;
pub use topology::{ActionGraph, CycleError, Node, NodeKind};
