//! Tokens → the tree of a template, by Jinja's grammar.

mod expressions;
mod statements;

use std::rc::Rc;

use super::ast::Body;
use super::error::TemplateError;
use super::lexer::{Token, TokenKind, tokens};

/// Blocks and expressions inside one another.
const DEPTH: usize = 150;

/// The statements of a template.
///
/// # Errors
/// Text that is no template.
pub(super) fn parse(source: &str) -> Result<Body, TemplateError> {
    let tokens = tokens(source)?;
    let mut parser = Parser { tokens, next: 0, depth: 0, loops: 0, macros: Vec::new() };
    let body = parser.body(&[])?;
    match parser.peek() {
        TokenKind::End => Ok(body),
        other => Err(parser.fail(format!("unexpected {}", other.describe()))),
    }
}

struct Parser {
    tokens: Vec<Token>,
    next: usize,
    depth: usize,
    /// Loops around that `break` can leave.
    loops: usize,
    /// What the enclosing macros mention, the innermost last.
    macros: Vec<Mentions>,
}

/// Names with a meaning that a macro's body mentions.
#[derive(Debug, Clone, Copy, Default)]
struct Mentions {
    varargs: bool,
    kwargs: bool,
    caller: bool,
}

impl Mentions {
    fn add(&mut self, other: Self) {
        self.varargs |= other.varargs;
        self.kwargs |= other.kwargs;
        self.caller |= other.caller;
    }
}

impl Parser {
    fn peek(&self) -> &TokenKind {
        self.look(0)
    }

    /// The kind of the token that comes after `further` others.
    fn look(&self, further: usize) -> &TokenKind {
        self.tokens.get(self.next + further).map_or(&TokenKind::End, |token| &token.kind)
    }

    fn line(&self) -> usize {
        self.tokens.get(self.next).or(self.tokens.last()).map_or(1, |token| token.line)
    }

    fn advance(&mut self) -> TokenKind {
        let kind = self.peek().clone();
        self.next += 1;
        kind
    }

    fn fail(&self, problem: impl Into<String>) -> TemplateError {
        TemplateError::syntax(self.line(), problem)
    }

    /// Runs a part of the parser one level deeper.
    fn deeper<T>(
        &mut self,
        part: impl FnOnce(&mut Self) -> Result<T, TemplateError>,
    ) -> Result<T, TemplateError> {
        if self.depth == DEPTH {
            let problem = format!("it is nested more than {DEPTH} deep");
            return Err(TemplateError::limit(problem).at(self.line()));
        }
        self.depth += 1;
        let result = part(self);
        self.depth -= 1;
        result
    }

    /// Runs a part of the parser that `break` and `continue` do not reach out of.
    fn apart<T>(
        &mut self,
        part: impl FnOnce(&mut Self) -> Result<T, TemplateError>,
    ) -> Result<T, TemplateError> {
        let loops = std::mem::take(&mut self.loops);
        let result = part(self);
        self.loops = loops;
        result
    }

    fn is_sign(&self, sign: &str) -> bool {
        matches!(self.peek(), TokenKind::Sign(found) if *found == sign)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), TokenKind::Name(found) if **found == *name)
    }

    /// Whether the sign comes next; passes it.
    fn skip_sign(&mut self, sign: &str) -> bool {
        let found = self.is_sign(sign);
        self.next += usize::from(found);
        found
    }

    /// Whether the word comes next; passes it.
    fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.next += usize::from(found);
        found
    }

    fn expect_sign(&mut self, sign: &str) -> Result<(), TemplateError> {
        if self.skip_sign(sign) {
            return Ok(());
        }
        Err(self.fail(format!("expected \"{sign}\", found {}", self.peek().describe())))
    }

    fn expect_name(&mut self) -> Result<Rc<str>, TemplateError> {
        match self.peek() {
            TokenKind::Name(name) => {
                let name = name.clone();
                self.next += 1;
                Ok(name)
            }
            other => Err(self.fail(format!("expected a name, found {}", other.describe()))),
        }
    }

    fn expect_kind(&mut self, kind: &TokenKind) -> Result<(), TemplateError> {
        if self.peek() == kind {
            self.next += 1;
            return Ok(());
        }
        let found = self.peek().describe();
        Err(self.fail(format!("expected {}, found {found}", kind.describe())))
    }
}
