//! Manifests: the text of what went into a key, and what differs between two of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// One difference between two manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Kind of the fact: `arg`, `env`, `file`, `output`, `platform`, `timeout`, `tool`, `salt`, `input`,
    /// `discoverable`.
    pub kind: String,
    /// Its name: a path, a variable, the index of an argument.
    pub name: String,
    /// What it was; `None` where it is new.
    pub old: Option<String>,
    /// What it is; `None` where it is gone.
    pub new: Option<String>,
}

/// Appends a line; tabs, line ends and backslashes inside are escaped.
pub(crate) fn write_line(text: &mut String, kind: &str, name: &str, value: &str) {
    let _ = writeln!(text, "{kind}\t{}\t{}", escape(name), escape(value));
}

fn escape(text: &str) -> String {
    if !text.contains(['\\', '\t', '\n', '\r']) {
        return text.to_owned();
    }
    text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
}

fn parse(text: &str) -> BTreeMap<(&str, &str), &str> {
    text.lines()
        .filter_map(|line| {
            let (kind, rest) = line.split_once('\t')?;
            let (name, value) = rest.split_once('\t')?;
            Some(((kind, name), value))
        })
        .collect()
}

/// What differs, in the order of the manifest's kinds of interest: inputs first.
pub fn diff(old: &str, new: &str) -> Vec<Change> {
    let (before, after) = (parse(old), parse(new));
    let mut changes = Vec::new();
    for (&(kind, name), &was) in &before {
        let is = after.get(&(kind, name)).copied();
        if is != Some(was) {
            changes.push(change(kind, name, Some(was), is));
        }
    }
    for (&(kind, name), &is) in &after {
        if !before.contains_key(&(kind, name)) {
            changes.push(change(kind, name, None, Some(is)));
        }
    }
    // An input that moved between the two lists is one change, not two.
    changes.sort_by(|a, b| rank(&a.kind).cmp(&rank(&b.kind)).then_with(|| natural(&a.name).cmp(&natural(&b.name))));
    changes
}

fn change(kind: &str, name: &str, old: Option<&str>, new: Option<&str>) -> Change {
    Change { kind: kind.to_owned(), name: name.to_owned(), old: old.map(str::to_owned), new: new.map(str::to_owned) }
}

fn rank(kind: &str) -> usize {
    ["input", "discoverable", "tool", "arg", "env", "file"].iter().position(|&k| k == kind).unwrap_or(9)
}

/// Numbers sort as numbers.
fn natural(name: &str) -> (u64, &str) {
    (name.parse().unwrap_or(u64::MAX), name)
}

/// One line that says what changed first, and how much more.
pub fn reason(changes: &[Change]) -> Option<String> {
    let first = changes.first()?;
    let more = changes.len() - 1;
    let mut text = summarise(first);
    if more > 0 {
        let _ = write!(text, " (and {more} more)");
    }
    Some(text)
}

/// One change in words.
pub fn summarise(change: &Change) -> String {
    let Change { kind, name, old, new } = change;
    let what = match kind.as_str() {
        "input" | "discoverable" => format!("input `{name}`"),
        "tool" => format!("tool `{name}`"),
        "arg" => format!("argument {name}"),
        "env" => format!("variable `{name}`"),
        "file" => format!("response file `{name}`"),
        "output" => format!("output `{name}`"),
        "platform" => format!("platform property `{name}`"),
        "timeout" => "the timeout".to_owned(),
        _ => "the host platform or `[build] salt`".to_owned(),
    };
    let is_path = matches!(kind.as_str(), "input" | "discoverable" | "file" | "tool");
    match (old, new) {
        (None, Some(_)) if is_path => format!("{what} is new"),
        (None, Some(new)) => format!("{what} is new: `{new}`"),
        (Some(_), None) if is_path => format!("{what} is gone"),
        (Some(old), None) => format!("{what} is gone: `{old}`"),
        (Some(old), Some(new)) if is_path => format!("{what} changed: {} -> {}", short(old), short(new)),
        (old, new) => {
            let show = |v: &Option<String>| v.clone().unwrap_or_default();
            format!("{what} changed: `{}` -> `{}`", show(old), show(new))
        }
    }
}

/// A digest cut to what the eye compares.
fn short(value: &str) -> String {
    match value.split_once('/') {
        Some((hash, rest)) if hash.len() == 64 => format!("{}/{rest}", &hash[..12]),
        _ => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(lines: &[(&str, &str, &str)]) -> String {
        let mut text = String::new();
        for (kind, name, value) in lines {
            write_line(&mut text, kind, name, value);
        }
        text
    }

    #[test]
    fn equal_manifests_differ_in_nothing() {
        let text = manifest(&[("arg", "0", "a\tb\nc\\"), ("env", "A", "")]);
        assert_eq!(diff(&text, &text), []);
        assert_eq!(reason(&[]), None);
    }

    #[test]
    fn each_kind_of_change_is_said() {
        let hex = |c: char| format!("{}/3", c.to_string().repeat(64));
        let (a, b) = (hex('a'), hex('b'));
        let cases = [
            (
                Some(("input", "x.c", a.as_str())),
                Some(("input", "x.c", b.as_str())),
                "input `x.c` changed: aaaaaaaaaaaa/3 -> bbbbbbbbbbbb/3",
            ),
            (None, Some(("input", "x.c", a.as_str())), "input `x.c` is new"),
            (Some(("discoverable", "x.h", a.as_str())), None, "input `x.h` is gone"),
            (Some(("arg", "2", "-O2")), Some(("arg", "2", "-O3")), "argument 2 changed: `-O2` -> `-O3`"),
            (None, Some(("env", "A", "1")), "variable `A` is new: `1`"),
            (Some(("timeout", "", "1s")), Some(("timeout", "", "2s")), "the timeout changed: `1s` -> `2s`"),
            (
                Some(("tool", "cc", a.as_str())),
                Some(("tool", "cc", b.as_str())),
                "tool `cc` changed: aaaaaaaaaaaa/3 -> bbbbbbbbbbbb/3",
            ),
        ];
        for (old, new, expected) in cases {
            let text = |fact: Option<(&str, &str, &str)>| fact.map_or_else(String::new, |f| manifest(&[f]));
            let changes = diff(&text(old), &text(new));
            assert_eq!(reason(&changes).as_deref(), Some(expected));
        }
    }

    #[test]
    fn inputs_are_named_before_arguments_and_the_rest_is_counted() {
        let old = manifest(&[("arg", "10", "x"), ("arg", "9", "x"), ("input", "z", "1")]);
        let new = manifest(&[("arg", "10", "y"), ("arg", "9", "y"), ("input", "z", "2")]);
        let changes = diff(&old, &new);
        let names: Vec<_> = changes.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, ["z", "9", "10"]);
        assert_eq!(reason(&changes).as_deref(), Some("input `z` changed: 1 -> 2 (and 2 more)"));
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        assert_eq!(diff("garbage\nmore\tgarbage\n\n", ""), []);
    }
}
