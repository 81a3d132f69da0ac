//! From TOML to a model: packages, rule files, configuration, diagnostics.
//!
//! The only crate that knows TOML. It decides and does no I/O: files and directories are seen through
//! [`minibuild_core::SourceFs`]. It does not know how actions are run, keyed or scheduled.

mod attr;
mod builder;
mod catalog;
mod command;
mod config;
mod defaults;
mod diag;
#[cfg(test)]
mod error_tests;
mod expand;
mod fields;
#[cfg(test)]
mod fuzz_tests;
mod glob;
mod keys;
mod lang;
mod load;
#[cfg(test)]
mod load_tests;
mod package;
mod package_files;
mod path_argument;
mod pattern;
mod provide;
mod render;
mod resolve;
mod rule_table;
mod schema;
mod secrets;
mod settings;
mod source_tree;
mod std_files;
mod suggest;
#[cfg(test)]
mod testing;
mod text;
mod values;
mod walk;

pub use catalog::{Catalog, load_catalog};
pub use config::ConfigInput;
pub use diag::{Diagnostic, Diagnostics, FileId, Severity, Sources, Span};
pub use keys::{KEYS, KeySpec, KeyType, KeyValue, MAX_JOBS};
pub use lang::{ArgOrigin, HostFacts, RuleId, RuleSet, VarDecl, VarType, show_argv};
pub use load::{LOCAL_FILE, LoadFailure, LoadRequest, Loaded, load, load_settings};
pub use pattern::{Pattern, PatternKind, Requested, parse as parse_pattern};
pub use render::render;
pub use schema::SchemaKind;
pub use settings::*;
pub use suggest::did_you_mean;
