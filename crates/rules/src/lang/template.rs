//! The syntax of templates: `{ref}`, `{ref:mod}`, `{{`, `}}`. Knows nothing of what the references mean.

use std::ops::Range;

/// A piece of a template; ranges are bytes of the decoded text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawPiece {
    /// Text, braces undoubled.
    Text(String),
    /// A reference.
    Ref(RawRef),
}

/// A reference as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRef {
    /// With its braces.
    pub whole: Range<usize>,
    /// `a.b.c`.
    pub path: String,
    /// Place of the path.
    pub path_range: Range<usize>,
    /// Modifiers with their places.
    pub mods: Vec<(Modifier, Range<usize>)>,
}

/// What is taken of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Modifier {
    /// Last segment.
    Name,
    /// Last segment without its ending.
    Stem,
    /// The ending.
    Ext,
    /// All but the last segment.
    Dir,
    /// Without output root and package.
    Rel,
    /// The same place in the output tree.
    Bin,
}

/// All modifiers by name.
pub const MODIFIERS: [(&str, Modifier); 6] = [
    ("name", Modifier::Name),
    ("stem", Modifier::Stem),
    ("ext", Modifier::Ext),
    ("dir", Modifier::Dir),
    ("rel", Modifier::Rel),
    ("bin", Modifier::Bin),
];

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Where.
    pub range: Range<usize>,
    /// What.
    pub message: String,
    /// What to do, or the word to find a suggestion for.
    pub help: Help,
}

/// How to help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Help {
    /// A hint.
    Hint(&'static str),
    /// An unknown modifier.
    Modifier(String),
}

/// Reads a template.
///
/// # Errors
/// The first thing wrong.
pub fn parse(text: &str) -> Result<Vec<RawPiece>, SyntaxError> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut at = 0;
    while let Some(found) = text[at..].find(['{', '}']) {
        let brace = at + found;
        plain.push_str(&text[at..brace]);
        let rest = &text[brace..];
        if rest.starts_with("{{") || rest.starts_with("}}") {
            plain.push_str(&rest[..1]);
            at = brace + 2;
        } else if rest.starts_with('}') {
            return Err(error(brace..brace + 1, "`}` without `{`", "write `}}` for a brace"));
        } else {
            let reference = parse_ref(text, brace)?;
            at = reference.whole.end;
            if !plain.is_empty() {
                pieces.push(RawPiece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(RawPiece::Ref(reference));
        }
    }
    plain.push_str(&text[at..]);
    if !plain.is_empty() || pieces.is_empty() {
        pieces.push(RawPiece::Text(plain));
    }
    Ok(pieces)
}

fn error(range: Range<usize>, message: &str, hint: &'static str) -> SyntaxError {
    SyntaxError { range, message: message.to_owned(), help: Help::Hint(hint) }
}

fn parse_ref(text: &str, start: usize) -> Result<RawRef, SyntaxError> {
    let Some(len) = text[start + 1..].find(['{', '}']).filter(|len| text[start + 1 + len..].starts_with('}')) else {
        return Err(error(start..start + 1, "`{` without `}`", "write `{{` for a brace"));
    };
    let whole = start..start + len + 2;
    let mut at = start + 1;
    let mut segments = text[at..at + len].split(':');
    let path = segments.next().unwrap_or_default();
    let path_range = at..at + path.len();
    if !is_path(path) {
        let message = format!("`{}` is no reference", &text[whole.clone()]);
        let help = Help::Hint(
            "a reference is `{name}`, `{attr.provider.field}` or `{name:modifier}`; write `{{` and `}}` for braces",
        );
        return Err(SyntaxError { range: whole, message, help });
    }
    at = path_range.end;
    let mut mods = Vec::new();
    for segment in segments {
        let range = at + 1..at + 1 + segment.len();
        at = range.end;
        let known = MODIFIERS.iter().find(|(name, _)| *name == segment);
        let Some((_, modifier)) = known else {
            let range = if range.is_empty() { at - 1..at } else { range };
            let message = format!("unknown modifier `{segment}`");
            return Err(SyntaxError { range, message, help: Help::Modifier(segment.to_owned()) });
        };
        mods.push((*modifier, range));
    }
    Ok(RawRef { whole, path: path.to_owned(), path_range, mods })
}

/// Whether the text may be a reference: names separated by dots.
pub fn is_path(text: &str) -> bool {
    text.split('.').all(minibuild_diagnostics::source::is_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str) -> String {
        match parse(text) {
            Err(error) => format!("{}@{}..{}", error.message, error.range.start, error.range.end),
            Ok(pieces) => pieces.iter().map(show_piece).collect::<Vec<_>>().join("|"),
        }
    }

    fn show_piece(piece: &RawPiece) -> String {
        match piece {
            RawPiece::Text(text) => format!("'{text}'"),
            RawPiece::Ref(r) => format!("{}{:?}", r.path, r.mods.iter().map(|m| m.0).collect::<Vec<_>>()),
        }
    }

    #[test]
    fn pieces() {
        let check = |text: &str, expected: &str| assert_eq!(show(text), expected, "{text}");
        check("", "''");
        check("a", "'a'");
        check("{a}", "a[]");
        check("-I{a.b:rel:dir}/x", "'-I'|a.b[Rel, Dir]|'/x'");
        check("${{x%/}}{a}", "'${x%/}'|a[]");
        check("{{{a}}}", "'{'|a[]|'}'");
        check("ä{a}ö", "'ä'|a[]|'ö'");
    }

    #[test]
    fn complaints() {
        let check = |text: &str, expected: &str| assert_eq!(show(text), expected, "{text}");
        check("a}", "`}` without `{`@1..2");
        check("a{b", "`{` without `}`@1..2");
        check("{a{b}", "`{` without `}`@0..1");
        check("x{}", "`{}` is no reference@1..3");
        check("{A}", "`{A}` is no reference@0..3");
        check("{a b}", "`{a b}` is no reference@0..5");
        check("{a..b}", "`{a..b}` is no reference@0..6");
        check("{a:}", "unknown modifier ``@2..3");
        check("{a:base}", "unknown modifier `base`@3..7");
        check("{a:dir:nam}", "unknown modifier `nam`@7..10");
    }
}
