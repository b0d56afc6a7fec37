//! Selections: what a user asks for, from a recipe to single tensors, and the format that each
//! tensor gets from it.

use std::fmt;

use super::recipe::{Recipe, RecipeError};
use crate::gguf::{GgmlType, Metadata, TensorInfo};

/// Which tensor gets which format.
#[derive(Debug, Clone)]
pub struct Selection {
    recipe: &'static Recipe,
}

/// Why no formats could be chosen.
#[derive(Debug, thiserror::Error)]
pub enum SelectionError {
    /// The recipe does not know what to do with the model.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
}

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
    /// The tensor stays as it is.
    Kept,
    /// Its rows are no whole number of blocks of the format that it was to have.
    Fallback {
        /// The format it was to have.
        wanted: GgmlType,
        /// Weights in a row.
        columns: usize,
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
            Self::Kept => formatter.write_str("kept"),
            Self::Fallback { wanted, columns } => {
                write!(formatter, "{wanted} does not divide {columns}")
            }
        }
    }
}

impl Selection {
    /// What the recipe says for every tensor.
    pub fn recipe(recipe: &'static Recipe) -> Self {
        Self { recipe }
    }

    /// What to call it: the recipe's name.
    pub fn name(&self) -> &str {
        self.recipe.name
    }

    /// llama.cpp's number for files of this kind, which goes into the metadata as
    /// `general.file_type`.
    pub fn file_type(&self, _choices: &[Choice]) -> u32 {
        self.recipe.file_type
    }

    /// Chooses a format for each tensor, in the order in which llama.cpp writes them: by layer, and
    /// by name within a layer, after the tensors that belong to none.
    ///
    /// # Errors
    /// See [`SelectionError`].
    pub fn choose<'a>(
        &self,
        metadata: &Metadata,
        tensors: &'a [TensorInfo],
        _has_importance: bool,
    ) -> Result<Vec<Choice<'a>>, SelectionError> {
        Ok(self.recipe.choose(metadata, tensors)?)
    }
}
