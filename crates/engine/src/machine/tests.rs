//! Tests of the machine in a fake world. Each failure names a plan and a course of events that can be replayed.

mod bench;
mod checks;
mod fake;
mod fake_remote;
mod fake_store;
mod histories;
mod input_root;
mod interleavings;
mod ledger;
mod plan;
mod queues;
mod rules;
mod rules_races;
mod rules_remote;
mod rules_store;
mod session;
