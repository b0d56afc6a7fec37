//! The error of recipes.

/// Why no types could be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipeError {
    /// The recipe goes by layers and the file does not say how many there are.
    #[error("{recipe} needs the number of layers, and the file has no {key}")]
    NoLayerCount {
        /// The recipe.
        recipe: &'static str,
        /// The metadata key that was looked for.
        key: String,
    },
    /// A tensor's name does not say which layer of a model of experts it belongs to.
    #[error("{tensor} should belong to one of the model's {layers} layers (blk.0. and so on)")]
    Layer {
        /// The tensor.
        tensor: String,
        /// How many layers there are.
        layers: usize,
    },
}
