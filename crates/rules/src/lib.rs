//! Turns packages, rule files and configuration into a model.
//!
//! The only crate that knows what TOML keys mean. It decides and does no I/O: files and directories are seen through
//! [`minibuild_core::SourceFs`]. It does not know how actions are run, keyed or scheduled.

mod attr;
mod builder;
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
mod lang;
mod load;
#[cfg(test)]
mod load_tests;
mod package;
mod package_files;
mod path_argument;
mod pattern;
mod provide;
mod resolve;
mod rule_table;
mod schema;
mod secrets;
mod settings;
mod source_tree;
mod std_files;
#[cfg(test)]
mod testing;
mod values;

pub use catalog::{Catalog, load_catalog};
pub use config::ConfigInput;
pub use keys::{KEYS, KeySpec, KeyType, KeyValue, MAX_JOBS};
pub use lang::{ArgOrigin, HostFacts, RuleId, RuleSet, VarDecl, VarType, show_argv};
pub use load::{LOCAL_FILE, LoadFailure, LoadRequest, Loaded, load, load_settings};
pub use minibuild_diagnostics::diag::{Diagnostic, Diagnostics, FileId, Severity, Sources, Span};
pub use minibuild_diagnostics::render::render;
pub use minibuild_diagnostics::suggest::did_you_mean;
pub use pattern::{Pattern, PatternKind, Requested, parse as parse_pattern};
pub use schema::SchemaKind;
pub use settings::*;
