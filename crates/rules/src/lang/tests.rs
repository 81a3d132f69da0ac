//! Tests of the language as a whole: the shipped files, expansion argument for argument, each class of error.

mod docs;
mod errors;
mod expansion;
mod fuzz;
mod harness;
