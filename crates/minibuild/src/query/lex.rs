//! Query expressions as tokens. Knows characters, not what an expression means.

use std::ops::Range;

/// A token with its place in the text, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Where it stands.
    pub at: Range<usize>,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `(`.
    Open,
    /// `)`.
    Close,
    /// `,`.
    Comma,
    /// `+`, `-`, `^` or one of their names.
    Operator(Operator),
    /// A pattern, a regular expression, a number or the name of a function.
    Word(String),
    /// A word in quotes, which is never a keyword.
    Quoted(String),
    /// After the last token.
    End,
}

/// What is done with two sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// What is in either.
    Union,
    /// What is in the first only.
    Except,
    /// What is in both.
    Intersect,
}

/// What is wrong with an expression, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// In words.
    pub message: String,
    /// Where, in bytes.
    pub at: Range<usize>,
    /// What to do.
    pub hint: Option<String>,
}

impl Flaw {
    /// A flaw without advice.
    pub fn new(at: Range<usize>, message: impl Into<String>) -> Self {
        Self { message: message.into(), at, hint: None }
    }

    /// With advice.
    pub fn hint(mut self, text: impl Into<String>) -> Self {
        self.hint = Some(text.into());
        self
    }
}

/// The tokens of an expression; the last is [`Kind::End`].
///
/// # Errors
/// A quote that does not end.
pub fn tokens(text: &str) -> Result<Vec<Token>, Flaw> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let (kind, end) = match first {
            _ if first.is_whitespace() => {
                at += first.len_utf8();
                continue;
            }
            '(' => (Kind::Open, at + 1),
            ')' => (Kind::Close, at + 1),
            ',' => (Kind::Comma, at + 1),
            '+' => (Kind::Operator(Operator::Union), at + 1),
            '-' => (Kind::Operator(Operator::Except), at + 1),
            '^' => (Kind::Operator(Operator::Intersect), at + 1),
            '"' | '\'' => quoted(text, at, first)?,
            _ => word(text, at),
        };
        tokens.push(Token { kind, at: at..end });
        at = end;
    }
    tokens.push(Token { kind: Kind::End, at: text.len()..text.len() });
    Ok(tokens)
}

fn quoted(text: &str, at: usize, quote: char) -> Result<(Kind, usize), Flaw> {
    let inside = &text[at + 1..];
    let length = inside.find(quote).ok_or_else(|| Flaw::new(at..text.len(), "this quote does not end"))?;
    Ok((Kind::Quoted(inside[..length].to_owned()), at + length + 2))
}

/// A word ends before white space, an operator, a bracket or a comma; a `-` inside is part of it unless `//` follows.
fn word(text: &str, at: usize) -> (Kind, usize) {
    let rest = &text[at..];
    let ends = |(index, c): (usize, char)| {
        c.is_whitespace() || "(),+^\"'".contains(c) || c == '-' && rest[index + 1..].starts_with("//")
    };
    let length = rest.char_indices().find(|found| ends(*found)).map_or(rest.len(), |(index, _)| index);
    let kind = match &rest[..length] {
        "union" => Kind::Operator(Operator::Union),
        "except" => Kind::Operator(Operator::Except),
        "intersect" => Kind::Operator(Operator::Intersect),
        word => Kind::Word(word.to_owned()),
    };
    (kind, at + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let shown = match tokens(text) {
            Ok(tokens) => tokens.iter().map(|token| show(&token.kind)).collect::<Vec<_>>().join(" "),
            Err(flaw) => format!("{:?} {}", flaw.at, flaw.message),
        };
        assert_eq!(shown, expected, "{text}");
    }

    fn show(kind: &Kind) -> String {
        match kind {
            Kind::Open => "(".into(),
            Kind::Close => ")".into(),
            Kind::Comma => ",".into(),
            Kind::Operator(operator) => format!("{operator:?}"),
            Kind::Word(word) => word.clone(),
            Kind::Quoted(word) => format!("<{word}>"),
            Kind::End => "end".into(),
        }
    }

    #[test]
    fn words_and_operators() {
        check("", "end");
        check("deps(//a:b,2)", "deps ( //a:b , 2 ) end");
        check("//a-b:c-d - //x", "//a-b:c-d Except //x end");
        check("//a:b-//c", "//a:b Except //c end");
        check("//a+//b^ :c", "//a Union //b Intersect :c end");
        check("a union b except c intersect d", "a Union b Except c Intersect d end");
        check("'a union' \"x,(y\"", "<a union> <x,(y> end");
        check("filter(.*\u{e9}x$, //...)", "filter ( .*\u{e9}x$ , //... ) end");
        check("a 'b", "2..4 this quote does not end");
    }

    #[test]
    fn places_are_those_of_the_text() {
        let all = tokens(" \u{e9}a (").expect("they are tokens");
        let places: Vec<_> = all.into_iter().map(|token| token.at).collect();
        assert_eq!(places, [1..4, 5..6, 6..6]);
    }
}
