//! Dynamic execution: how one action runs on both sides and keeps exactly one result, and when it is worth doing so.
//!
//! Pure. [`race`] is the protocol of one action's two branches: who may publish, who is stopped, what becomes of what the
//! loser left. [`policy`] decides which action starts where, and when both sides should try. Neither knows processes,
//! bytes, files or a clock; times are handed in.

pub mod policy;
pub mod race;
