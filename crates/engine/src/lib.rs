//! The build loop: state, scheduling, the drivers of executors.
//!
//! [`machine`] decides, [`build`] drives, [`world`] and [`tools`] look, [`state`] remembers, and [`snapshot`] spares a build with little to do most of
//! this. It does not know TOML,
//! the terminal or the command line.

mod begun;
pub mod build;
pub mod build_error;
mod links;
pub mod lock;
pub mod machine;
pub mod moment;
mod parts;
pub mod preview;
pub mod reporter;
pub mod snapshot;
pub mod state;
mod streamed;
mod sweep;
mod tool_version;
pub mod tools;
mod undeclared;
pub mod world;
