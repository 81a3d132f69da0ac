//! Target patterns of the command line: what they say, and which loaded targets they mean.

use std::sync::Arc;

use minibuild_core::{Label, TargetId};

/// One pattern as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The text.
    pub text: String,
    /// Whether it takes targets away (`-//x`).
    pub subtract: bool,
    /// What it means.
    pub kind: PatternKind,
    /// What a bare word means where there is no such package: a target of the current package.
    pub or_target: Option<Label>,
}

/// What a pattern means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatternKind {
    /// One target, perhaps one of its output groups.
    Target(Label, Option<Arc<str>>),
    /// `//pkg:all`.
    Package(String),
    /// `//pkg/...`.
    Below(String),
}

/// A target that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requested {
    /// The target.
    pub target: TargetId,
    /// One of its output groups; `None` for its outputs.
    pub group: Option<Arc<str>>,
    /// Whether it was named itself, not only matched by a wildcard.
    pub explicit: bool,
}

/// Reads a pattern; relative ones resolve against `cwd`, a directory below the workspace root.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str, cwd: &str) -> Result<Pattern, String> {
    let (subtract, rest) = match text.strip_prefix('-') {
        Some(rest) if rest.starts_with("//") || rest.starts_with(':') => (true, rest),
        _ => (false, text),
    };
    let absolute = if let Some(below) = rest.strip_prefix("//") {
        below.to_owned()
    } else if rest.starts_with(':') {
        format!("{cwd}{rest}")
    } else {
        relative(rest, cwd)
    };
    let kind = kind_of(&absolute, text)?;
    let is_bare = !rest.starts_with("//") && Label::is_name(rest);
    let or_target = if is_bare { Label::new(cwd, rest).ok() } else { None };
    Ok(Pattern { text: text.to_owned(), subtract, kind, or_target })
}

/// `sub`, `sub:name`, `...` and the bare name of a target of the current package.
fn relative(text: &str, cwd: &str) -> String {
    let text = text.strip_prefix("./").unwrap_or(text);
    crate::source_tree::join(cwd, text)
}

fn kind_of(below: &str, text: &str) -> Result<PatternKind, String> {
    if below == "..." {
        return Ok(PatternKind::Below(String::new()));
    }
    if let Some(package) = below.strip_suffix("/...") {
        return package_of(package, text).map(PatternKind::Below);
    }
    if let Some(package) = below.strip_suffix(":all") {
        return package_of(package, text).map(PatternKind::Package);
    }
    let (label, group) = match below.strip_suffix(']').and_then(|t| t.split_once('[')) {
        Some((label, group)) => (label, Some(Arc::from(group))),
        None => (below, None),
    };
    let label = Label::parse(&format!("//{label}"), "").map_err(|error| format!("bad pattern `{text}`: {error}"))?;
    Ok(PatternKind::Target(label, group))
}

fn package_of(package: &str, text: &str) -> Result<String, String> {
    if Label::is_package(package) {
        return Ok(package.to_owned());
    }
    Err(format!("bad pattern `{text}`: `{package}` is no package path"))
}

impl Pattern {
    /// Whether a wildcard matches a package.
    pub fn matches_package(&self, package: &str) -> bool {
        match &self.kind {
            PatternKind::Target(..) => false,
            PatternKind::Package(wanted) => wanted == package,
            PatternKind::Below(top) => crate::source_tree::is_below(package, top),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str, cwd: &str) -> String {
        match parse(text, cwd) {
            Ok(p) => format!("{}{:?}", if p.subtract { "minus " } else { "" }, p.kind),
            Err(e) => e,
        }
    }

    #[test]
    fn forms() {
        for (text, cwd, expected) in [
            ("//a/b:c", "x", r#"Target(//a/b:c, None)"#),
            ("//a/b", "x", r#"Target(//a/b:b, None)"#),
            ("//a:all", "x", r#"Package("a")"#),
            ("//:all", "x", r#"Package("")"#),
            ("//...", "x", r#"Below("")"#),
            ("//a/...", "x", r#"Below("a")"#),
            ("...", "x/y", r#"Below("x/y")"#),
            ("...", "", r#"Below("")"#),
            ("sub/...", "x", r#"Below("x/sub")"#),
            (":t", "x/y", r#"Target(//x/y:t, None)"#),
            (":all", "x", r#"Package("x")"#),
            (":t", "", r#"Target(//:t, None)"#),
            ("sub:t", "x", r#"Target(//x/sub:t, None)"#),
            ("sub", "x", r#"Target(//x/sub:sub, None)"#),
            ("-//a:b", "", r#"minus Target(//a:b, None)"#),
            ("-:b", "a", r#"minus Target(//a:b, None)"#),
            ("//a:b[c]", "", r#"Target(//a:b, Some("c"))"#),
        ] {
            assert_eq!(show(text, cwd), expected, "{text} in {cwd:?}");
        }
        for bad in ["", "//", "//a b", "-x y", "//a:b:c", "//../...", "//a//...", "/a"] {
            assert!(parse(bad, "").is_err(), "{bad}");
        }
    }
}
