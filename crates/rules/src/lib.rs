//! The language of rule files: compiled once, expanded for each target.
//!
//! The only crate that knows what stands in rule files. It decides and does no I/O, and knows neither packages nor configuration:
//! the loader resolves what a target gives ([`attr`]) and takes what a rule makes of it ([`provide`]).

pub mod attr;
pub mod builder;
pub mod lang;
pub mod path_argument;
pub mod provide;
pub mod std_files;
