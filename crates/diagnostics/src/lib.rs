//! Places in TOML text, complaints about them, and how they are shown.
//!
//! It reads TOML and reports every error with its place; it does not know what the keys mean.

pub mod diag;
pub mod place;
pub mod render;
pub mod source;
pub mod suggest;
pub mod text;
pub mod walk;
