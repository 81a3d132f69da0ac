//! Manifests: the text of what went into a key, and what differs between two of them.
//!
//! A stored manifest also says why the run it describes came about ([`note_why`]); that is no fact of the key and never a
//! difference.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// One difference between two manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Kind of the fact: `arg`, `env`, `file`, `output`, `depfile`, `platform`, `timeout`, `cache`, `tool`, `host`, `salt`,
    /// `version`, `input`, `discoverable`.
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
    text.push_str(kind);
    text.push('\t');
    push_escaped(text, name);
    text.push('\t');
    push_escaped(text, value);
    text.push('\n');
}

fn push_escaped(text: &mut String, plain: &str) {
    let is_special = |byte: u8| matches!(byte, b'\\' | b'\t' | b'\n' | b'\r');
    if !plain.bytes().any(is_special) {
        return text.push_str(plain);
    }
    for c in plain.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '\t' => text.push_str("\\t"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            other => text.push(other),
        }
    }
}

/// Undoes [`push_escaped`].
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, c == '\\') {
            (_, false) => plain.push(c),
            (_, true) => plain.push(match chars.next() {
                Some('t') => '\t',
                Some('n') => '\n',
                Some('r') => '\r',
                Some(other) => other,
                None => '\\',
            }),
        }
    }
    plain
}

/// Kind of the lines of [`note_why`].
const WHY: &str = "why";
/// Kind of the lines of arguments, which are compared in their order.
const ARG: &str = "arg";

/// Adds to the manifest of a run why it came about, one line for each reason.
pub fn note_why(manifest: &mut String, reasons: &[String]) {
    for (index, reason) in reasons.iter().enumerate() {
        write_line(manifest, WHY, &index.to_string(), reason);
    }
}

/// Why the run of this manifest came about; nothing where no run made it.
pub fn why(manifest: &str) -> Vec<String> {
    facts(manifest).filter(|(kind, ..)| *kind == WHY).map(|(_, _, reason)| unescape(reason)).collect()
}

fn facts(text: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    text.lines().filter_map(|line| {
        let (kind, rest) = line.split_once('\t')?;
        let (name, value) = rest.split_once('\t')?;
        Some((kind, name, value))
    })
}

fn parse(text: &str) -> BTreeMap<(&str, &str), &str> {
    let named = facts(text).filter(|(kind, ..)| ![WHY, ARG].contains(kind));
    named.map(|(kind, name, value)| ((kind, name), value)).collect()
}

fn arguments(text: &str) -> Vec<&str> {
    facts(text).filter(|(kind, ..)| *kind == ARG).map(|(_, _, value)| value).collect()
}

/// What differs, in the order of the manifest's kinds of interest: inputs first.
pub fn diff(old: &str, new: &str) -> Vec<Change> {
    let (before, after) = (parse(old), parse(new));
    let mut changes = diff_arguments(&arguments(old), &arguments(new));
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
    changes.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| natural(&a.name).cmp(&natural(&b.name))));
    changes
}

/// Arguments between those that the two have in common at the start and at the end: one that was put in or left out does
/// not make others of all that follow. Named by their index where they are, or were.
fn diff_arguments(old: &[&str], new: &[&str]) -> Vec<Change> {
    let start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[start..], &new[start..]);
    let end = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let (old, new) = (&old[..old.len() - end], &new[..new.len() - end]);
    let one = |at: usize| {
        let (was, is) = (old.get(at).copied(), new.get(at).copied());
        (was != is).then(|| change(ARG, &(start + at).to_string(), was, is))
    };
    if old.len() == new.len() {
        return (0..old.len()).filter_map(one).collect();
    }
    let gone = old.iter().filter(|arg| !new.contains(arg) || new.is_empty());
    let index = |list: &[&str], arg: &str| list.iter().position(|other| *other == arg).unwrap_or_default() + start;
    let gone = gone.map(|arg| change(ARG, &index(old, arg).to_string(), Some(arg), None));
    let come = new.iter().filter(|arg| !old.contains(arg));
    let come = come.map(|arg| change(ARG, &index(new, arg).to_string(), None, Some(arg)));
    let mut changes: Vec<Change> = gone.chain(come).collect();
    if changes.is_empty() {
        // The same ones, but not as often or in another order.
        changes.push(change(ARG, &start.to_string(), Some(&old.join(" ")), Some(&new.join(" "))));
    }
    changes
}

fn change(kind: &str, name: &str, old: Option<&str>, new: Option<&str>) -> Change {
    Change { kind: kind.to_owned(), name: unescape(name), old: old.map(unescape), new: new.map(unescape) }
}

/// Returns the place of a change among others: what the user is most likely to have done comes first.
fn rank(change: &Change) -> usize {
    // Another tool under another name follows from an argument or variable that says so.
    let is_replaced_tool = change.kind == "tool" && (change.old.is_none() || change.new.is_none());
    let kind = if is_replaced_tool { "tool name" } else { change.kind.as_str() };
    let kinds = ["input", "discoverable", "tool", "arg", "env", "file", "tool name"];
    kinds.iter().position(|&known| known == kind).unwrap_or(9)
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
        "depfile" => "the depfile".to_owned(),
        "platform" => format!("platform property `{name}`"),
        "timeout" => "the timeout".to_owned(),
        "cache" => "whether it may be cached".to_owned(),
        "host" => format!("`{name}` of the platform it is meant for"),
        "salt" => "`[build] salt`".to_owned(),
        _ => "the version of minibuild's keys".to_owned(),
    };
    let is_path = matches!(kind.as_str(), "input" | "discoverable" | "file" | "tool");
    match (old, new) {
        (None, Some(_)) if is_path => format!("{what} is new"),
        (None, Some(new)) => format!("{what} is new: `{}`", one_line(new)),
        (Some(_), None) if is_path => format!("{what} is gone"),
        (Some(old), None) => format!("{what} is gone: `{}`", one_line(old)),
        (Some(old), Some(new)) if is_path => format!("{what} changed: {} -> {}", short(old), short(new)),
        (old, new) => {
            let show = |v: &Option<String>| one_line(v.as_deref().unwrap_or_default());
            format!("{what} changed: `{}` -> `{}`", show(old), show(new))
        }
    }
}

/// Line ends shown as what they are.
fn one_line(text: &str) -> String {
    text.replace('\n', "\\n").replace('\r', "\\r")
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
    fn replaced_tool_is_explained_by_the_argument_that_names_it() {
        let facts = |tool, digest| manifest(&[("tool", tool, digest), ("arg", "0", tool), ("arg", "1", "-c")]);
        let why = |old: &str, new: &str| reason(&diff(old, new)).unwrap_or_default();
        assert_eq!(
            why(&facts("cc", "a/3"), &facts("clang", "b/3")),
            "argument 0 changed: `cc` -> `clang` (and 2 more)"
        );
        assert!(why(&facts("cc", "a/3"), &facts("cc", "b/3")).starts_with("tool `cc` changed: "));
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
            (Some(("arg", "0", "-O2")), Some(("arg", "0", "-O3")), "argument 0 changed: `-O2` -> `-O3`"),
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
    fn arguments_that_come_and_go_leave_the_others_alone() {
        let manifest_of = |args: &str| {
            let lines: Vec<_> = args.split(' ').enumerate().map(|(i, arg)| (i.to_string(), arg)).collect();
            manifest(&lines.iter().map(|(i, arg)| ("arg", i.as_str(), *arg)).collect::<Vec<_>>())
        };
        let check = |old: &str, new: &str, expected: &[&str]| {
            let changes = diff(&manifest_of(old), &manifest_of(new));
            assert_eq!(changes.iter().map(summarise).collect::<Vec<_>>(), expected, "{old} -> {new}");
        };
        check("cc -c x", "cc -g -c x", &["argument 1 is new: `-g`"]);
        check("cc -g -c x", "cc -c x", &["argument 1 is gone: `-g`"]);
        check("cc a b x", "cc c x", &["argument 1 is gone: `a`", "argument 1 is new: `c`", "argument 2 is gone: `b`"]);
        check("cc a b x", "cc b a x", &["argument 1 changed: `a` -> `b`", "argument 2 changed: `b` -> `a`"]);
        check("cc a a", "cc a", &["argument 2 is gone: `a`"]);
        check("x a b", "x b a b a", &["argument 1 changed: `a b` -> `b a b a`"]);
    }

    #[test]
    fn why_is_kept_and_is_no_difference() {
        let plain = manifest(&[("arg", "0", "x")]);
        let mut noted = plain.clone();
        let reasons = ["first:\ta\\b\nc".to_owned(), "second".to_owned()];
        note_why(&mut noted, &reasons);
        assert_eq!(why(&noted), reasons);
        assert_eq!(why(&plain), Vec::<String>::new());
        assert_eq!(diff(&plain, &noted), []);
    }

    #[test]
    fn escaping_is_undone() {
        for text in ["", "a", "a\tb\nc\rd\\e", "\\t", "\\\\n\n"] {
            let mut escaped = String::new();
            push_escaped(&mut escaped, text);
            assert!(!escaped.contains(['\t', '\n', '\r']), "{escaped}");
            assert_eq!(unescape(&escaped), text);
        }
        assert_eq!(unescape("a\\"), "a\\");
    }

    #[test]
    fn inputs_are_named_before_arguments_and_the_rest_is_counted() {
        let with = |arg: &str, input: &str| {
            let mut lines: Vec<(String, &str)> = (0..11).map(|i| (i.to_string(), "same")).collect();
            (lines[9].1, lines[10].1) = (arg, arg);
            let mut lines: Vec<_> = lines.iter().map(|(i, arg)| ("arg", i.as_str(), *arg)).collect();
            lines.push(("input", "z", input));
            manifest(&lines)
        };
        let (old, new) = (with("x", "1"), with("y", "2"));
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
