//! The rule files that ship inside the binary, by the names of `[workspace] rules`. Knows texts, not what is in them.

/// Name and text of each.
const FILES: &[(&str, &str)] = &[
    ("@std/c.toml", include_str!("../std/c.toml")),
    ("@std/python.toml", include_str!("../std/python.toml")),
    ("@std/rust.toml", include_str!("../std/rust.toml")),
];

/// The text of a built-in rule file such as `@std/c.toml`.
pub fn find(name: &str) -> Option<&'static str> {
    FILES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// The file that declares a rule.
pub fn declaring(rule: &str) -> Option<&'static str> {
    let header = format!("\n[rule.{rule}]\n");
    FILES.iter().find(|(_, text)| text.contains(&header)).map(|(name, _)| *name)
}

/// All names.
pub fn names<'a>() -> impl Iterator<Item = &'a str> {
    FILES.iter().map(|(name, _)| *name)
}
