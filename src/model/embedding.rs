//! The token embedding: rows that are looked up and dequantized when they are needed.

use super::ModelError;
use crate::gguf::{GgmlType, GgufFile, TensorInfo};
use crate::quant::formats::{can_dequantize, dequantize_row};

/// The name of the token embedding.
pub(super) const EMBEDDING: &str = "token_embd.weight";

/// The token embedding of a model file.
#[derive(Debug)]
pub(super) struct Embedding {
    tensor: TensorInfo,
    /// What is looked up instead of the file's rows.
    pub(super) other: Option<EmbeddingRows>,
}

/// Weights of the embedding that are not the file's.
#[derive(Debug)]
pub(super) struct EmbeddingRows {
    /// Their format.
    pub(super) ggml_type: GgmlType,
    /// In ggml's row layout.
    pub(super) bytes: Vec<u8>,
}

impl Embedding {
    /// The embedding of a file whose tensors have been checked.
    pub(super) fn of(file: &GgufFile) -> Result<Self, ModelError> {
        let tensor = file.tensor(EMBEDDING).cloned().expect("it was checked with the others");
        if !can_dequantize(tensor.ggml_type) {
            let problem =
                format!("{EMBEDDING} is {}, which quantkit cannot read", tensor.ggml_type);
            return Err(ModelError::unsupported(file.path(), problem));
        }
        Ok(Self { tensor, other: None })
    }

    /// Number of tokens in the vocabulary.
    pub(super) fn vocabulary(&self) -> usize {
        self.tensor.rows()
    }

    /// Bytes of a token's row.
    pub(super) fn row_bytes(&self) -> usize {
        let bytes = self.other.as_ref().map_or(self.tensor.bytes() as usize, |o| o.bytes.len());
        bytes / self.vocabulary()
    }

    /// Writes the rows of tokens, one behind another.
    pub(super) fn look_up(
        &self,
        file: &GgufFile,
        tokens: impl Iterator<Item = u32>,
        rows: &mut [f32],
    ) -> Result<(), ModelError> {
        let (ggml_type, bytes) = match &self.other {
            Some(other) => (other.ggml_type, &other.bytes[..]),
            None => (self.tensor.ggml_type, file.tensor_bytes(&self.tensor)),
        };
        let row_bytes = self.row_bytes();
        for (token, row) in tokens.zip(rows.chunks_exact_mut(self.tensor.columns())) {
            let bytes = &bytes[token as usize * row_bytes..][..row_bytes];
            dequantize_row(ggml_type, bytes, row).map_err(|error| {
                ModelError::unsupported(file.path(), format!("{EMBEDDING}: {error}"))
            })?;
        }
        Ok(())
    }
}
