//! Tensors named by regular expressions.

use std::fmt;
use std::str::FromStr;

use regex::{Regex, RegexBuilder};

use super::SelectionError;
use crate::gguf::{GgmlType, TensorInfo};

/// How many of a model's tensors an error shows as examples.
const EXAMPLES: usize = 3;

/// A regular expression that names a tensor where it matches any part of its name, in any case.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

/// A text that is not a regular expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a regular expression: {problem}")]
pub struct PatternError {
    text: String,
    problem: String,
}

impl Pattern {
    /// Whether it names the tensor.
    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }

    /// Refuses a pattern that names none of the tensors: it has a typing error in all likelihood.
    pub(super) fn expect_a_match(
        &self,
        option: &'static str,
        tensors: &[TensorInfo],
    ) -> Result<(), SelectionError> {
        if tensors.iter().any(|tensor| self.matches(&tensor.name)) {
            return Ok(());
        }
        let matrices = tensors.iter().filter(|tensor| tensor.dimensions.len() > 1);
        let examples: Vec<&str> =
            matrices.take(EXAMPLES).map(|tensor| tensor.name.as_str()).collect();
        let examples = examples.join(", ");
        Err(SelectionError::NoMatch { option, pattern: self.to_string(), examples })
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let error = |problem: String| PatternError { text: text.to_string(), problem };
        if text.is_empty() {
            return Err(error("it is empty and would match every tensor".to_string()));
        }
        let regex = RegexBuilder::new(text).case_insensitive(true).build();
        Ok(Self(regex.map_err(|problem| error(problem.to_string()))?))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.as_str())
    }
}

/// A format for all tensors that a pattern names.
#[derive(Debug, Clone)]
pub struct Rule {
    /// The tensors.
    pub pattern: Pattern,
    /// The format.
    pub format: GgmlType,
}
