//! The transport and the storage against servers: the embedded one with and without faults, and worse ones.

mod downloads;
mod faults;
mod harness;
mod uploads;
