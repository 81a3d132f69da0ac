//! The server as a client of its protocols sees it.

mod harness;

mod cache;
mod cas;
mod coding;
mod execution;
mod faults;
mod process;
mod tls;
