//! How long paths may get that are put together from names.
//!
//! It does not know where the names come from.

use crate::Flaw;

/// Longest path an operating system takes, without the NUL behind it.
const LONGEST_PATH: usize = 4095;

/// Bytes of paths that may still be made.
#[derive(Debug)]
pub struct PathBudget {
    most: usize,
    left: usize,
}

impl PathBudget {
    /// Two million paths of some 60 bytes.
    pub const MOST: usize = 128 << 20;

    /// Returns a budget of so many bytes.
    pub fn of(most: usize) -> Self {
        Self { most, left: most }
    }

    /// Returns the path of `name` in the directory `at`, which is empty for the top.
    ///
    /// # Errors
    /// [`Flaw::TooLarge`] where the path, or all of them together, would be too long.
    pub fn join(&mut self, at: &str, name: &str) -> Result<String, Flaw> {
        let length = if at.is_empty() { name.len() } else { at.len() + 1 + name.len() };
        if length > LONGEST_PATH {
            return Err(Flaw::TooLarge(format!("{LONGEST_PATH} bytes in a path")));
        }
        let left = self.left.checked_sub(length);
        self.left = left.ok_or_else(|| Flaw::TooLarge(format!("{} bytes of paths", self.most)))?;
        let mut path = String::with_capacity(length);
        if !at.is_empty() {
            path.push_str(at);
            path.push('/');
        }
        path.push_str(name);
        Ok(path)
    }
}

impl Default for PathBudget {
    fn default() -> Self {
        Self::of(Self::MOST)
    }
}
