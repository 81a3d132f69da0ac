//! The toplevel downloader: which outputs are brought here, when, and why.
//!
//! Pure. [`Planner`] knows of each artifact where its bytes are – here, in the remote store, on their way – who wants
//! them and who waits for them; events go in as calls, fetches come out as [`Step`]s. [`Wishes`] are what the user asked
//! for. It does not know what is in a file, how an action is run, or how bytes travel.

mod planner;
mod wishes;

pub use planner::{Ended, Planner, Step};
pub use wishes::{Mode, Wishes};
