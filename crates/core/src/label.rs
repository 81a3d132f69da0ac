//! Labels of targets.

use std::fmt;
use std::sync::Arc;

/// The name of a target in the whole workspace: `//package:name`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label {
    package: Arc<str>,
    name: Arc<str>,
}

/// Why a text is no label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// Neither `//…` nor `:…`.
    #[error("`{0}` is no label: expected `//package:name`, `//package` or `:name`")]
    NotALabel(String),
    /// A bad package part.
    #[error("`{0}` is no package path: segments of letters, digits and `_.+=,@~-`, separated by `/`")]
    Package(String),
    /// A bad name part.
    #[error("`{0}` is no target name: letters, digits and `_.+=,@~-` only")]
    Name(String),
}

/// Whether `text` may name a target or be one segment of a package path.
fn is_segment(text: &str) -> bool {
    !text.is_empty()
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.+=,@~-".contains(&b))
}

impl Label {
    /// A label of its two parts; the package is `""` at the workspace root.
    ///
    /// # Errors
    /// A [`LabelError`] naming the part that is not allowed.
    pub fn new(package: &str, name: &str) -> Result<Self, LabelError> {
        if !Self::is_package(package) {
            return Err(LabelError::Package(package.to_owned()));
        }
        if !Self::is_name(name) {
            return Err(LabelError::Name(name.to_owned()));
        }
        Ok(Self { package: Arc::from(package), name: Arc::from(name) })
    }

    /// Reads `//pkg:name`, `//pkg` (= `//pkg:last segment`) or `:name`, the last relative to `current` package.
    ///
    /// # Errors
    /// A [`LabelError`] saying what is wrong.
    pub fn parse(text: &str, current: &str) -> Result<Self, LabelError> {
        if let Some(name) = text.strip_prefix(':') {
            return Self::new(current, name);
        }
        let Some(rest) = text.strip_prefix("//") else { return Err(LabelError::NotALabel(text.to_owned())) };
        match rest.split_once(':') {
            Some((package, name)) => Self::new(package, name),
            None if rest.is_empty() => Err(LabelError::NotALabel(text.to_owned())),
            None => Self::new(rest, rest.rsplit_once('/').map_or(rest, |(_, last)| last)),
        }
    }

    /// Whether the text may be the path of a package; `""` is the root package.
    pub fn is_package(text: &str) -> bool {
        text.is_empty() || text.split('/').all(is_segment)
    }

    /// Whether the text may be the name of a target.
    pub fn is_name(text: &str) -> bool {
        is_segment(text)
    }

    /// The package path, `""` at the root.
    pub fn package(&self) -> &str {
        &self.package
    }

    /// The name within the package.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "//{}:{}", self.package, self.name)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Label {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_labels() {
        let show = |text| Label::parse(text, "cur").map(|l| l.to_string());
        assert_eq!(show("//a/b:c"), Ok("//a/b:c".into()));
        assert_eq!(show("//a/b"), Ok("//a/b:b".into()));
        assert_eq!(show(":x"), Ok("//cur:x".into()));
        assert_eq!(show("//:x"), Ok("//:x".into()));
        for bad in
            ["", "//", "x", "a:b", "//a:", "//a b:c", "//a//b:c", "//a/:c", "//../a:c", "///a", "//a:b:c", "//a:b/c"]
        {
            assert!(show(bad).is_err(), "{bad:?}");
        }
    }
}
