//! Running actions: who waits for what ([`Board`]), and the workers that do it ([`Workers`]).
//!
//! It does not know connections; what a request or a stream looks like is the services' matter.

mod board;
mod inputs;
mod outputs;
mod worker;

pub(crate) use board::{Board, Job, Joined, Stage, Watch, failed};
pub(crate) use worker::Workers;
