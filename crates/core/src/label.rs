//! Labels of targets.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The name of a target in the whole workspace: `//package:name`.
///
/// One text, since there are several labels for each target of a large workspace. Neither part can hold a colon, so texts
/// are equal where the parts are.
#[derive(Clone)]
pub struct Label {
    /// `package:name`.
    text: Arc<str>,
    /// Bytes of the package.
    package: usize,
}

impl PartialEq for Label {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Label {}

impl Hash for Label {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl Ord for Label {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.package(), self.name()).cmp(&(other.package(), other.name()))
    }
}

impl PartialOrd for Label {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
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
        Self::check(package, name)?;
        let mut text = String::with_capacity(package.len() + 1 + name.len());
        text.push_str(package);
        text.push(':');
        text.push_str(name);
        Ok(Self { text: Arc::from(text), package: package.len() })
    }

    fn check(package: &str, name: &str) -> Result<(), LabelError> {
        if !Self::is_package(package) {
            return Err(LabelError::Package(package.to_owned()));
        }
        if !Self::is_name(name) {
            return Err(LabelError::Name(name.to_owned()));
        }
        Ok(())
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
            Some((package, name)) => {
                Self::check(package, name)?;
                Ok(Self { text: Arc::from(rest), package: package.len() })
            }
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
        &self.text[..self.package]
    }

    /// The name within the package.
    pub fn name(&self) -> &str {
        &self.text[self.package + 1..]
    }
}

/// Equal to the label as it is written.
impl PartialEq<str> for Label {
    fn eq(&self, other: &str) -> bool {
        other.strip_prefix("//") == Some(&*self.text)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("//")?;
        f.write_str(&self.text)
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
    fn labels_are_ordered_by_package_then_name() {
        let mut labels: Vec<Label> = ["//a.b:a", "//a:z", "//a/b:c", "//a:a", "//:z", "//a-b:b"]
            .iter()
            .map(|text| Label::parse(text, "").expect("valid"))
            .collect();
        labels.sort();
        let texts: Vec<String> = labels.iter().map(Label::to_string).collect();
        assert_eq!(texts, ["//:z", "//a:a", "//a:z", "//a-b:b", "//a.b:a", "//a/b:c"]);
        assert_eq!(Label::new("a/b", "b"), Label::parse("//a/b", ""));
        assert!(labels.iter().zip(&texts).all(|(label, text)| label == text.as_str()) && labels[0] != *"//:y");
    }

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
