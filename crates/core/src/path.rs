//! Workspace-relative paths.

use std::borrow::Borrow;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A path below the workspace root: relative, `/`-separated, UTF-8, no empty, `.` or `..` segment, no NUL.
/// The empty path is the root itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WsPath(Arc<str>);

/// Why a text is no workspace-relative path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Starts with `/`.
    #[error("`{0}` is absolute; a path relative to the workspace is needed")]
    Absolute(String),
    /// Holds a `.` or `..` segment, an empty one or a trailing slash.
    #[error("`{0}` is not normalised: empty, `.` and `..` segments are not allowed")]
    NotNormalised(String),
    /// Holds a NUL byte.
    #[error("{0:?} holds a NUL character")]
    Nul(String),
}

impl WsPath {
    /// The workspace root.
    pub fn root() -> Self {
        Self(Arc::from(""))
    }

    /// Checks and takes a path.
    ///
    /// # Errors
    /// A [`PathError`] where the text is absolute, not normalised or holds NUL.
    pub fn new(text: &str) -> Result<Self, PathError> {
        if text.is_empty() {
            return Ok(Self::root());
        }
        if text.contains('\0') {
            return Err(PathError::Nul(text.to_owned()));
        }
        if text.starts_with('/') {
            return Err(PathError::Absolute(text.to_owned()));
        }
        if text.split('/').any(|s| s.is_empty() || s == "." || s == "..") {
            return Err(PathError::NotNormalised(text.to_owned()));
        }
        Ok(Self(Arc::from(text)))
    }

    /// This path with a further relative path below it.
    ///
    /// # Errors
    /// As [`WsPath::new`] for the joined text.
    pub fn join(&self, below: &str) -> Result<Self, PathError> {
        if self.0.is_empty() { Self::new(below) } else { Self::new(&format!("{}/{below}", self.0)) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As a path of the operating system, relative to the workspace root.
    pub fn as_path(&self) -> &Path {
        Path::new(&*self.0)
    }

    /// Everything before the last segment; the root for a single segment, `None` for the root.
    pub fn parent(&self) -> Option<&str> {
        if self.0.is_empty() { None } else { Some(self.0.rsplit_once('/').map_or("", |(dir, _)| dir)) }
    }

    /// The last segment; empty for the root.
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// Whether this path is `ancestor` or lies below it.
    pub fn is_at_or_below(&self, ancestor: &str) -> bool {
        ancestor.is_empty()
            || self.0.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl fmt::Display for WsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for WsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Borrow<str> for WsPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<Path> for WsPath {
    fn as_ref(&self) -> &Path {
        self.as_path()
    }
}

impl Serialize for WsPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for WsPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        WsPath::new(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_normalised_relative_paths_are_taken() {
        for good in ["", "a", "a/b", "a b/ä", "...", ".x"] {
            assert_eq!(WsPath::new(good).map(|p| p.to_string()), Ok(good.to_owned()));
        }
        for bad in ["/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a/.", "a\0b"] {
            assert!(WsPath::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn parents_names_and_prefixes() {
        let path = WsPath::new("a/b/c").expect("valid");
        assert_eq!((path.parent(), path.file_name()), (Some("a/b"), "c"));
        assert!(path.is_at_or_below("a/b") && path.is_at_or_below("") && path.is_at_or_below("a/b/c"));
        assert!(!path.is_at_or_below("a/bb") && !path.is_at_or_below("a/b/c/d"));
        assert_eq!(WsPath::root().parent(), None);
        assert_eq!(WsPath::root().join("x").map(|p| p.to_string()), Ok("x".to_owned()));
    }
}
