//! From tokens to an expression. Knows the grammar, and of labels only that they are patterns.

use std::ops::Range;

use minibuild_loader::did_you_mean;
use regex::Regex;

use super::lex::{Flaw, Kind, Operator, Token, tokens};

/// Brackets within brackets; deeper is refused, since reading and answering follow them.
const MAX_NESTING: usize = 200;

/// A part of an expression with its place in the text.
#[derive(Debug)]
pub struct Node {
    /// What it asks.
    pub expr: Expr,
    /// Where it stands, in bytes.
    pub at: Range<usize>,
}

/// What is asked.
#[derive(Debug)]
pub enum Expr {
    /// Targets of patterns, as indices into [`Query::patterns`]; several of a `set(...)`.
    Patterns(Vec<usize>),
    /// What is needed by these, at most so many steps away.
    Deps(Box<Node>, Option<usize>),
    /// What of the first needs the second, at most so many steps away.
    ReverseDeps(Box<Node>, Box<Node>, Option<usize>),
    /// A path from the first to the second.
    SomePath(Box<Node>, Box<Node>),
    /// Everything on a path from the first to the second.
    AllPaths(Box<Node>, Box<Node>),
    /// Those whose rule matches.
    Kind(Regex, Box<Node>),
    /// Those whose label, or path, matches.
    Filter(Regex, Box<Node>),
    /// Files that targets stand for.
    Outputs(Box<Node>),
    /// Sets combined from left to right.
    Chain(Box<Node>, Vec<(Operator, Node)>),
}

/// An expression, and the patterns it names.
#[derive(Debug)]
pub struct Query {
    /// What is asked.
    pub root: Node,
    /// Patterns with their places.
    pub patterns: Vec<(String, Range<usize>)>,
}

const FUNCTIONS: [&str; 8] = ["deps", "rdeps", "somepath", "allpaths", "kind", "filter", "outputs", "set"];

/// Reads an expression.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn parse(text: &str) -> Result<Query, Flaw> {
    let mut parser = Parser { tokens: tokens(text)?, next: 0, nesting: 0, patterns: Vec::new() };
    let root = parser.expression()?;
    match parser.peek() {
        Kind::End => Ok(Query { root, patterns: parser.patterns }),
        Kind::Close => Err(parser.flaw("this `)` closes nothing")),
        _ => Err(parser.flaw("expected an operator or the end").hint(
            "operators are `+` (union), `-` (except) and `^` (intersect); several patterns are `set(A B)`; a name that holds one of `+,^` is put in quotes",
        )),
    }
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    nesting: usize,
    patterns: Vec<(String, Range<usize>)>,
}

impl Parser {
    fn token(&self) -> &Token {
        // The last token is the end, and nobody goes past it.
        &self.tokens[self.next.min(self.tokens.len() - 1)]
    }

    fn peek(&self) -> &Kind {
        &self.token().kind
    }

    fn take(&mut self) -> Token {
        let token = self.token().clone();
        self.next += 1;
        token
    }

    fn flaw(&self, message: impl Into<String>) -> Flaw {
        Flaw::new(self.token().at.clone(), message)
    }

    fn expect(&mut self, kind: &Kind, what: &str) -> Result<Range<usize>, Flaw> {
        if self.peek() == kind { Ok(self.take().at) } else { Err(self.flaw(format!("expected {what}"))) }
    }

    /// Operands with operators between them, all of one precedence.
    fn expression(&mut self) -> Result<Node, Flaw> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(self.flaw(format!("more than {MAX_NESTING} brackets within each other")));
        }
        let first = self.operand()?;
        let mut rest = Vec::new();
        while let Kind::Operator(operator) = *self.peek() {
            self.take();
            rest.push((operator, self.operand()?));
        }
        self.nesting -= 1;
        let Some((_, last)) = rest.last() else { return Ok(first) };
        let at = first.at.start..last.at.end;
        Ok(Node { expr: Expr::Chain(Box::new(first), rest), at })
    }

    fn operand(&mut self) -> Result<Node, Flaw> {
        let token = self.take();
        match token.kind {
            Kind::Open => {
                let inside = self.expression()?;
                let end = self.expect(&Kind::Close, "`)`")?.end;
                Ok(Node { at: token.at.start..end, ..inside })
            }
            Kind::Word(name) if *self.peek() == Kind::Open => self.call(&name, token.at),
            Kind::Word(pattern) | Kind::Quoted(pattern) => Ok(self.pattern(pattern, token.at)),
            _ => Err(Flaw::new(token.at, "expected a pattern, a function or `(`")),
        }
    }

    fn pattern(&mut self, text: String, at: Range<usize>) -> Node {
        self.patterns.push((text, at.clone()));
        Node { expr: Expr::Patterns(vec![self.patterns.len() - 1]), at }
    }

    fn call(&mut self, name: &str, at: Range<usize>) -> Result<Node, Flaw> {
        if !FUNCTIONS.contains(&name) {
            let hint = did_you_mean(name, FUNCTIONS).unwrap_or_else(|| format!("there are {}", FUNCTIONS.join(", ")));
            return Err(Flaw::new(at, format!("there is no function `{name}`")).hint(hint));
        }
        self.take();
        let expr = match name {
            "set" => self.set()?,
            "deps" => Expr::Deps(self.argument()?, self.depth()?),
            "rdeps" => {
                let universe = self.argument()?;
                self.comma()?;
                Expr::ReverseDeps(universe, self.argument()?, self.depth()?)
            }
            "somepath" => self.two().map(|(from, to)| Expr::SomePath(from, to))?,
            "allpaths" => self.two().map(|(from, to)| Expr::AllPaths(from, to))?,
            "kind" => self.matching().map(|(regex, of)| Expr::Kind(regex, of))?,
            "filter" => self.matching().map(|(regex, of)| Expr::Filter(regex, of))?,
            _ => Expr::Outputs(self.argument()?),
        };
        let end = self.expect(&Kind::Close, &format!("`)` after the arguments of `{name}`"))?.end;
        Ok(Node { expr, at: at.start..end })
    }

    fn argument(&mut self) -> Result<Box<Node>, Flaw> {
        self.expression().map(Box::new)
    }

    fn comma(&mut self) -> Result<(), Flaw> {
        self.expect(&Kind::Comma, "`,` and a further argument").map(drop)
    }

    fn two(&mut self) -> Result<(Box<Node>, Box<Node>), Flaw> {
        let first = self.argument()?;
        self.comma()?;
        Ok((first, self.argument()?))
    }

    fn matching(&mut self) -> Result<(Regex, Box<Node>), Flaw> {
        let token = self.take();
        let (Kind::Word(text) | Kind::Quoted(text)) = token.kind else {
            return Err(Flaw::new(token.at, "expected a regular expression")
                .hint("one that holds a bracket, a comma or an operator is put in quotes"));
        };
        let regex = Regex::new(&text).map_err(|error| {
            // The last line says what is wrong; those before it draw the place.
            let why = error.to_string();
            let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Flaw::new(token.at, format!("bad regular expression `{text}`: {why}"))
        })?;
        self.comma()?;
        Ok((regex, self.argument()?))
    }

    fn depth(&mut self) -> Result<Option<usize>, Flaw> {
        if *self.peek() != Kind::Comma {
            return Ok(None);
        }
        self.take();
        let token = self.take();
        let number = match &token.kind {
            Kind::Word(text) => text.parse().ok(),
            _ => None,
        };
        number.map(Some).ok_or_else(|| Flaw::new(token.at, "expected a depth: a whole number, not negative"))
    }

    fn set(&mut self) -> Result<Expr, Flaw> {
        let mut members = Vec::new();
        while let Kind::Word(text) | Kind::Quoted(text) = self.peek() {
            let text = text.clone();
            let at = self.take().at;
            self.patterns.push((text, at));
            members.push(self.patterns.len() - 1);
        }
        match self.peek() {
            Kind::Close => Ok(Expr::Patterns(members)),
            _ => {
                Err(self.flaw("expected a pattern or `)`").hint("`set` takes patterns, with white space between them"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(node: &Node, query: &Query) -> String {
        let depth = |depth: &Option<usize>| depth.map_or_else(String::new, |depth| format!(" {depth}"));
        let show = |node: &Node| show(node, query);
        match &node.expr {
            Expr::Patterns(list) => {
                let names: Vec<_> = list.iter().map(|&index| query.patterns[index].0.as_str()).collect();
                format!("[{}]", names.join(" "))
            }
            Expr::Deps(of, limit) => format!("deps({}{})", show(of), depth(limit)),
            Expr::ReverseDeps(all, of, limit) => format!("rdeps({} {}{})", show(all), show(of), depth(limit)),
            Expr::SomePath(from, to) => format!("somepath({} {})", show(from), show(to)),
            Expr::AllPaths(from, to) => format!("allpaths({} {})", show(from), show(to)),
            Expr::Kind(regex, of) => format!("kind(/{regex}/ {})", show(of)),
            Expr::Filter(regex, of) => format!("filter(/{regex}/ {})", show(of)),
            Expr::Outputs(of) => format!("outputs({})", show(of)),
            Expr::Chain(first, rest) => {
                let rest: String = rest.iter().map(|(op, node)| format!(" {op:?} {}", show(node))).collect();
                format!("({}{rest})", show(first))
            }
        }
    }

    #[test]
    fn expressions() {
        let check = |text: &str, expected: &str| {
            let query = parse(text).unwrap_or_else(|flaw| panic!("{text}: {flaw:?}"));
            assert_eq!(show(&query.root, &query), expected, "{text}");
        };
        check("//a", "[//a]");
        check("//a + b - :c ^ d", "([//a] Union [b] Except [:c] Intersect [d])");
        check("a - (b union c)", "([a] Except ([b] Union [c]))");
        check("deps(//a:all, 3)", "deps([//a:all] 3)");
        check("rdeps(//..., a+b, 1)", "rdeps([//...] ([a] Union [b]) 1)");
        check("somepath(a, allpaths(b,c))", "somepath([a] allpaths([b] [c]))");
        check("kind('c_(library|test)', //...)", "kind(/c_(library|test)/ [//...])");
        check("filter(x$, outputs(set(a b \"c,d\")))", "filter(/x$/ outputs([a b c,d]))");
        check("set() except deps", "([] Except [deps])");
    }

    #[test]
    fn flaws_point_at_their_place() {
        let check = |text: &str, at: Range<usize>, message: &str| {
            let flaw = parse(text).err().unwrap_or_else(|| panic!("{text} is read"));
            assert_eq!((flaw.at.clone(), flaw.message.contains(message)), (at, true), "{text}: {flaw:?}");
        };
        check("", 0..0, "expected a pattern");
        check("deps(//a", 8..8, "expected `)`");
        check("//a //b", 4..7, "expected an operator");
        check("//a)", 3..4, "closes nothing");
        check("dpes(//a)", 0..4, "no function `dpes`");
        check("rdeps(//a)", 9..10, "expected `,`");
        check("deps(//a, x)", 10..11, "expected a depth");
        check("deps(//a, -1)", 10..11, "expected a depth");
        check("kind('(', //a)", 5..8, "bad regular expression");
        check("kind((a), //a)", 5..6, "expected a regular expression");
        check("set(//a, //b)", 7..8, "expected a pattern or `)`");
        check("//a + ", 6..6, "expected a pattern");
        check("somepath(a,b,c)", 12..13, "after the arguments of `somepath`");
        check(&"(".repeat(100_000), 200..201, "more than 200 brackets");
    }

    #[test]
    fn a_long_chain_is_no_deep_one() {
        let text = vec!["//a"; 100_000].join(" + ");
        assert_eq!(parse(&text).map(|query| query.patterns.len()), Ok(100_000));
    }
}
