//! The client against servers of this process, with faults and without.

mod harness;

mod execution;
mod fetching;
mod lookups;
