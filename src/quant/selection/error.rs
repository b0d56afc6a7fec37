//! The error of selections.

use crate::gguf::GgmlType;
use crate::quant::recipe::RecipeError;

/// Why no formats could be chosen.
#[derive(Debug, thiserror::Error)]
pub enum SelectionError {
    /// The recipe does not know what to do with the model.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// There is no mixture of this name.
    #[error(
        "{recipe} is one format for every matrix: say --pure, or take {recipe}_MOE for a model of \
         experts"
    )]
    OnlyPure {
        /// The recipe.
        recipe: &'static str,
    },
    /// A pattern that names no tensor of the model.
    #[error(
        "{option} {pattern:?} matches none of the model's tensors, which are called {examples} \
         and so on (quantkit inspect lists them)"
    )]
    NoMatch {
        /// The option that has it.
        option: &'static str,
        /// The pattern.
        pattern: String,
        /// The names of some tensors.
        examples: String,
    },
    /// A rule that names only tensors that stay as they are.
    #[error(
        "--tensor-type {pattern:?} names only tensors that are never quantized, such as {tensor}: \
         norms and others that need their precision"
    )]
    NeverChanged {
        /// The rule's pattern.
        pattern: String,
        /// The first of the tensors.
        tensor: String,
    },
    /// A format was asked for by name that the tensor's rows do not allow.
    #[error(
        "{tensor} has rows of {columns} weights, which is not a multiple of the block size ({}) \
         of {format}, the type that {asked_by} asks for", format.block_size()
    )]
    Ragged {
        /// The tensor.
        tensor: String,
        /// Weights in its rows.
        columns: usize,
        /// The format.
        format: GgmlType,
        /// Who asked for it.
        asked_by: &'static str,
    },
    /// The plan has a format that quantkit cannot write.
    #[error("the plan wants {tensor} as {format}, which quantkit cannot write")]
    Unwritable {
        /// The tensor.
        tensor: String,
        /// The format.
        format: GgmlType,
    },
    /// The plan changes a tensor that no recipe changes.
    #[error(
        "the plan wants {tensor} as {format}, but norms and other tensors that need their precision \
         stay as they are, here {found}; take it out of the plan"
    )]
    NotToBeChanged {
        /// The tensor.
        tensor: String,
        /// The plan's format for it.
        format: GgmlType,
        /// The one that it has.
        found: GgmlType,
    },
    /// The plan is for another architecture.
    #[error("the plan is for a model of the {planned} architecture, and this one's is {found:?}")]
    OtherArchitecture {
        /// The plan's.
        planned: String,
        /// The model's.
        found: String,
    },
    /// The plan names tensors that the model does not have.
    #[error("the plan is for another model: it names {names}, which this one does not have")]
    NotInModel {
        /// Their names.
        names: String,
    },
    /// The plan does not name tensors that it should.
    #[error("the plan is for another model: it does not say what becomes of {names}")]
    NotInPlan {
        /// Their names.
        names: String,
    },
    /// The plan's model has tensors of other shapes.
    #[error(
        "the plan is for another model: the tensors are called the same, but their shapes differ \
         (tensors_sha256)"
    )]
    OtherShapes,
}
