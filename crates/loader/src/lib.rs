//! Turns packages and configuration into a model.
//!
//! The only crate that knows packages, labels, globs, patterns and settings. It decides and does no I/O: files and directories
//! are seen through [`minibuild_core::SourceFs`]. It does not know how actions are run, keyed or scheduled.

mod catalog;
mod command;
mod config;
mod defaults;
#[cfg(test)]
mod error_tests;
mod expand;
mod fields;
#[cfg(test)]
mod fuzz_tests;
mod glob;
mod keys;
mod load;
#[cfg(test)]
mod load_tests;
mod package;
mod package_files;
mod pattern;
mod resolve;
mod rule_table;
mod schema;
mod secrets;
mod settings;
mod source_tree;
#[cfg(test)]
mod testing;
mod values;

pub use catalog::{Catalog, load_catalog};
pub use config::ConfigInput;
pub use keys::{KEYS, KeySpec, KeyType, KeyValue, MAX_JOBS};
pub use load::{LOCAL_FILE, LoadFailure, LoadRequest, Loaded, load, load_settings};
pub use minibuild_diagnostics::diag::{Diagnostic, Diagnostics, FileId, Severity, Sources, Span};
pub use minibuild_diagnostics::render::render;
pub use minibuild_diagnostics::suggest::did_you_mean;
pub use minibuild_rules::lang::HostFacts;
pub use pattern::{Pattern, PatternKind, Requested, parse as parse_pattern};
pub use schema::SchemaKind;
pub use settings::*;
