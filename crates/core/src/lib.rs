//! Values, events and ports that every other crate speaks in.
//!
//! This crate decides nothing and touches nothing: it knows what a digest, a path, a label, an action or an
//! event *is*, and the traits (ports) through which the deciding crates reach the world. It does not know TOML,
//! protobuf, processes, the clock or the file system.

mod digest;
mod event;
mod excerpt;
mod exec;
mod fs;
mod ids;
mod label;
mod model;
mod parallel;
mod path;
mod redact;
mod remote;
mod stop;
mod store;
mod visible;

pub use digest::{Digest, DigestFunction, DigestParseError, Hasher};
pub use event::*;
pub use excerpt::{LONGEST_OUTPUT, excerpt, excerpt_of};
pub use exec::*;
pub use fs::*;
pub use ids::*;
pub use label::{Label, LabelError};
pub use model::*;
pub use parallel::map_parallel;
pub use path::{PathError, WsPath};
pub use redact::{HIDDEN, shown_url};
pub use remote::*;
pub use stop::StopFlag;
pub use store::*;
pub use visible::{visible, visible_line};

/// The directory below the workspace root that holds everything minibuild writes.
pub const OUT_ROOT: &str = "minibuild-out";
/// Where declared outputs lie: `minibuild-out/bin/<package>/<out>`.
pub const BIN_ROOT: &str = "minibuild-out/bin";
/// Where logs of tests lie: `minibuild-out/testlogs/<package>/<name>/test.log`.
pub const TEST_LOG_ROOT: &str = "minibuild-out/testlogs";
/// Private state, versioned; nothing in it is a contract.
pub const STATE_ROOT: &str = "minibuild-out/.state";
/// Where output of commands lies that is too long to be kept in memory, until the next build.
pub const LONG_OUTPUT_ROOT: &str = "minibuild-out/.state/output";
/// The `PATH` every action sees unless its rule or the configuration sets another.
pub const ACTION_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// File that marks the workspace root.
pub const WORKSPACE_FILE: &str = "minibuild.toml";
/// File that makes a directory a package.
pub const BUILD_FILE: &str = "BUILD.toml";
