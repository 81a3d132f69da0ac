//! The client against servers of this process, with faults and without.

mod harness;

mod configs;
mod execution;
mod faults;
mod fetching;
mod lookups;
mod uploads;
