//! Why there was no build at all, with what it means for the exit code.

use minibuild_disk::DiskError;
use minibuild_engine::build::BuildError;

use crate::exit;

/// Why there was no build, with its exit code.
pub(crate) struct Refusal {
    pub code: u8,
    pub text: String,
}

impl Refusal {
    pub fn bad_input(text: impl Into<String>) -> Self {
        Self { code: exit::BAD_INPUT, text: text.into() }
    }

    /// An end asked for before there was a build that could tell of it.
    pub fn interrupted() -> Self {
        Self { code: exit::INTERRUPTED, text: "ERROR: the build was interrupted".to_owned() }
    }
}

impl From<DiskError> for Refusal {
    fn from(error: DiskError) -> Self {
        Self { code: exit::BUILD_FAILED, text: error.render() }
    }
}

impl From<BuildError> for Refusal {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Disk(error) => Self::from(error),
            BuildError::Cycle(_) => Self { code: exit::INTERNAL, text: format!("ERROR: {error}") },
            BuildError::State { .. } => Self {
                code: exit::BUILD_FAILED,
                text: format!("ERROR: {error}\nhint: `minibuild clean --all` starts anew"),
            },
        }
    }
}
