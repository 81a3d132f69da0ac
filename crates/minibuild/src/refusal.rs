//! Why there was no build at all, with what it means for the exit code.

use std::fmt::Display;

use minibuild_disk::DiskError;
use minibuild_engine::build_error::BuildError;

use crate::{exit, prefix};

/// Why there was no build, with its exit code.
pub(crate) struct Refusal {
    pub code: u8,
    pub text: String,
}

impl Refusal {
    pub fn new(code: u8, text: impl Display) -> Self {
        Self { code, text: prefix::error(text) }
    }

    pub fn bad_input(text: impl Display) -> Self {
        Self::new(exit::BAD_INPUT, text)
    }

    /// Diagnostics, which say themselves how bad they are.
    pub fn diagnostics(text: String) -> Self {
        Self { code: exit::BAD_INPUT, text }
    }

    /// An end asked for before there was a build that could tell of it.
    pub fn interrupted() -> Self {
        Self::new(exit::INTERRUPTED, "the build was interrupted")
    }
}

impl From<DiskError> for Refusal {
    fn from(error: DiskError) -> Self {
        Self::new(exit::BUILD_FAILED, error.render())
    }
}

impl From<BuildError> for Refusal {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Disk(error) => Self::from(error),
            BuildError::Cycle(_) => Self::new(exit::INTERNAL, error),
            BuildError::State { .. } => {
                Self::new(exit::BUILD_FAILED, format!("{error}\nhint: `minibuild clean --all` starts anew"))
            }
        }
    }
}
