//! How large a model file is, and what its weights take.

use serde::{Deserialize, Serialize};

use crate::gguf::GgufFile;

/// The size of a model file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelSize {
    /// The whole file.
    pub file_bytes: u64,
    /// The tensors alone.
    pub tensor_bytes: u64,
    /// Number of weights.
    pub weights: u64,
    /// Bits of tensor data for each weight.
    pub bits_per_weight: f64,
    /// The types of the tensors, the one that takes the most bytes first.
    pub types: Vec<TypeShare>,
}

/// The tensors of one type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TypeShare {
    /// ggml's name of the type.
    pub name: String,
    /// Tensors of the type.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl ModelSize {
    /// The size of an open GGUF file.
    pub fn of(file: &GgufFile) -> Self {
        let mut types: Vec<TypeShare> = Vec::new();
        let (mut weights, mut tensor_bytes) = (0, 0);
        for tensor in file.tensors() {
            weights += tensor.weights();
            tensor_bytes += tensor.bytes();
            let name = tensor.ggml_type.name();
            match types.iter_mut().find(|share| share.name == name) {
                Some(share) => {
                    share.tensors += 1;
                    share.bytes += tensor.bytes();
                }
                None => types.push(TypeShare {
                    name: name.to_string(),
                    tensors: 1,
                    bytes: tensor.bytes(),
                }),
            }
        }
        types.sort_by_key(|share| std::cmp::Reverse(share.bytes));
        let bits_per_weight = tensor_bytes as f64 * 8.0 / (weights.max(1)) as f64;
        Self { file_bytes: file.file_bytes(), tensor_bytes, weights, bits_per_weight, types }
    }
}
