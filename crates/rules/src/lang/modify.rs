//! What modifiers make of a path. Pure text.

use std::borrow::Cow;

use minibuild_core::BIN_ROOT;

use super::template::Modifier;

/// Applies modifiers from left to right; `package` is that of the target, `""` at the root.
pub fn apply<'t>(path: &'t str, mods: &[Modifier], package: &str) -> Cow<'t, str> {
    let mut text = Cow::Borrowed(path);
    for modifier in mods {
        text = match text {
            Cow::Borrowed(path) => one(path, *modifier, package),
            Cow::Owned(path) => Cow::Owned(one(&path, *modifier, package).into_owned()),
        };
    }
    text
}

fn one<'t>(path: &'t str, modifier: Modifier, package: &str) -> Cow<'t, str> {
    let (dir, name) =
        path.rsplit_once('/').map_or((".", path), |(dir, name)| (if dir.is_empty() { "/" } else { dir }, name));
    Cow::Borrowed(match modifier {
        Modifier::Name => name,
        Modifier::Stem => split_ending(name).0,
        Modifier::Ext => split_ending(name).1,
        Modifier::Dir => dir,
        Modifier::Rel => relative(path, package),
        Modifier::Bin if path == "." => BIN_ROOT,
        Modifier::Bin => return Cow::Owned(format!("{BIN_ROOT}/{path}")),
    })
}

/// `a.tar.gz` is `a.tar` and `gz`; a dot at the start begins no ending.
fn split_ending(name: &str) -> (&str, &str) {
    match name.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() && name != ".." => (stem, ending),
        _ => (name, ""),
    }
}

fn relative<'t>(path: &'t str, package: &str) -> &'t str {
    let path = below(path, BIN_ROOT);
    if package.is_empty() { path } else { below(path, package) }
}

/// The path below a directory, `.` for the directory itself; a path elsewhere stays.
fn below<'t>(path: &'t str, dir: &str) -> &'t str {
    match path.strip_prefix(dir) {
        Some("") => ".",
        Some(rest) => rest.strip_prefix('/').unwrap_or(path),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Modifier::{Bin, Dir, Ext, Name, Rel, Stem};

    #[test]
    fn modifiers() {
        let check = |path: &str, mods: &[Modifier], expected: &str| {
            assert_eq!(apply(path, mods, "lib/x"), expected, "{path} {mods:?}");
        };
        check("d/a.tar.gz", &[Name], "a.tar.gz");
        check("d/a.tar.gz", &[Stem], "a.tar");
        check("d/a.tar.gz", &[Ext], "gz");
        check("d/a.tar.gz", &[Dir], "d");
        check("a.tar.gz", &[Dir], ".");
        check("Makefile", &[Ext], "");
        check(".bashrc", &[Stem], ".bashrc");
        check(".bashrc", &[Ext], "");
        check("lib/x/sub/a.c", &[Rel], "sub/a.c");
        check("minibuild-out/bin/lib/x/gen/a.c", &[Rel], "gen/a.c");
        check("minibuild-out/bin/lib/xy/a.c", &[Rel], "lib/xy/a.c");
        check("other/a.c", &[Rel], "other/a.c");
        check("lib/x", &[Rel], ".");
        check("lib/x/sub/a.c", &[Rel, Dir], "sub");
        check("lib/x/sub/a.tar.gz", &[Rel, Stem, Stem], "a");
        check("lib/x/inc", &[Bin], "minibuild-out/bin/lib/x/inc");
        check(".", &[Bin], "minibuild-out/bin");
        check("minibuild-out/bin", &[Rel], ".");
        assert_eq!(apply("a.c", &[Rel], ""), "a.c");
    }
}
