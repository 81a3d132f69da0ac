//! Tests of the machine in a fake world. Each failure names a plan and a course of events that can be replayed.

mod fake;
mod histories;
mod interleavings;
mod plan;
mod rules;
mod session;
