//! Importance: how much each column of a matrix matters.

use std::collections::HashMap;

/// The mean squared activation that each column of each matrix meets.
#[derive(Debug, Clone, Default)]
pub struct Importance {
    tensors: HashMap<String, Vec<f32>>,
}

impl Importance {
    /// A tensor's numbers: one a column, expert after expert.
    pub fn of(&self, tensor: &str) -> Option<&[f32]> {
        self.tensors.get(tensor).map(Vec::as_slice)
    }

    /// How many tensors are known.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }
}
