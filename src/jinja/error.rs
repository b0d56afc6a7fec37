//! Why a template gave no text.

use std::fmt;

/// A template that cannot be read, refuses its input, goes wrong, or asks for too much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemplateError {
    kind: ErrorKind,
    line: Option<usize>,
    problem: String,
}

/// What sort of error it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The template itself called `raise_exception`: it refuses its input.
    Raised,
    /// The text is no template that can be read.
    Syntax,
    /// Something in it does not work with this input.
    Failed,
    /// It takes more steps, memory or depth than a template may.
    Limit,
}

impl TemplateError {
    /// What sort of error it is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(super) fn raised(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Raised, message)
    }

    pub(super) fn syntax(line: usize, problem: impl Into<String>) -> Self {
        Self::new(ErrorKind::Syntax, problem).at(line)
    }

    pub(super) fn failed(problem: impl Into<String>) -> Self {
        Self::new(ErrorKind::Failed, problem)
    }

    pub(super) fn limit(problem: impl Into<String>) -> Self {
        Self::new(ErrorKind::Limit, problem)
    }

    /// The same error with the line where it happened, unless it has one already.
    pub(super) fn at(self, line: usize) -> Self {
        Self { line: self.line.or(Some(line)), ..self }
    }

    fn new(kind: ErrorKind, problem: impl Into<String>) -> Self {
        Self { kind, line: None, problem: problem.into() }
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == ErrorKind::Raised {
            write!(formatter, "it refuses this conversation: ")?;
        }
        write!(formatter, "{}", self.problem)?;
        match self.line {
            Some(line) => write!(formatter, " (line {line} of the template)"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for TemplateError {}
