//! What is decided for each tensor, and in which order.

use std::fmt;

use crate::gguf::{GgmlType, TensorInfo};
use crate::quant::recipe::{Role, layer_of};

/// What is decided for one tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice<'a> {
    /// The tensor.
    pub tensor: &'a TensorInfo,
    /// The format it gets.
    pub format: GgmlType,
    /// Why it gets this one.
    pub reason: Reason,
}

/// Why a tensor gets the format that it gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It is the recipe's format for everything that nothing else is said about.
    Default,
    /// The recipe has another format for what the tensor does.
    Exception(Role),
    /// No recipe changes such a tensor.
    Kept,
    /// An option has it stay as it is.
    Left(String),
    /// An option gives it this format.
    Asked(String),
    /// The plan gives it this format.
    Plan,
    /// Its rows are not a whole number of blocks of the format that it was to have.
    Fallback {
        /// The format it was to have.
        wanted: GgmlType,
        /// Weights in a row.
        columns: usize,
        /// The option that asked for it, if one did.
        asked_by: Option<String>,
    },
}

impl Choice<'_> {
    /// The format that was asked for, where the tensor's rows do not allow it.
    pub fn wanted(&self) -> Option<GgmlType> {
        match self.reason {
            Reason::Fallback { wanted, .. } => Some(wanted),
            _ => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => Ok(()),
            Self::Exception(role) => role.fmt(formatter),
            Self::Kept => formatter.write_str("kept"),
            Self::Left(option) => write!(formatter, "kept by {option}"),
            Self::Asked(option) => formatter.write_str(option),
            Self::Plan => formatter.write_str("plan"),
            Self::Fallback { wanted, columns, asked_by: None } => {
                write!(formatter, "{wanted} does not divide {columns}")
            }
            Self::Fallback { wanted, columns, asked_by: Some(option) } => {
                write!(formatter, "{wanted} by {option} does not divide {columns}")
            }
        }
    }
}

/// The tensors in the order in which llama.cpp writes them.
pub(super) fn in_writing_order(tensors: &[TensorInfo]) -> Vec<&TensorInfo> {
    let mut ordered: Vec<&TensorInfo> = tensors.iter().collect();
    ordered.sort_by_key(|tensor| (layer_of(&tensor.name), tensor.name.as_str()));
    ordered
}
