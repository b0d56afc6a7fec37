//! The token embedding: rows that are looked up and dequantized when they are needed.

use super::ModelError;
use super::spec::{DecoderSpec, EMBEDDING};
use crate::family::layer::{self, NormKind};
use crate::gguf::{GgmlType, GgufFile, TensorInfo};
use crate::kernels::elementwise::{Norm, norm_row};
use crate::quant::formats::{can_dequantize, dequantize_row};

/// The name of the embedding of positions.
const POSITIONS: &str = "position_embd.weight";

/// The embedding of a model file.
#[derive(Debug)]
pub(super) struct Embedding {
    tensor: TensorInfo,
    /// What is looked up instead of the file's rows.
    pub(super) other: Option<EmbeddingRows>,
    scale: f32,
    /// A row a position, in models that learn them.
    positions: Option<Vec<f32>>,
    norm: Option<EmbeddingNorm>,
}

/// Weights of the embedding that are not the file's.
#[derive(Debug)]
pub(super) struct EmbeddingRows {
    /// Their format.
    pub(super) ggml_type: GgmlType,
    /// In ggml's row layout.
    pub(super) bytes: Vec<u8>,
}

/// What embeddings go through before the first layer.
#[derive(Debug)]
struct EmbeddingNorm {
    kind: NormKind,
    weight: Vec<f32>,
    bias: Option<Vec<f32>>,
    epsilon: f32,
}

impl Embedding {
    /// The embedding of a file whose tensors have been checked.
    pub(super) fn of(file: &GgufFile, spec: &DecoderSpec) -> Result<Self, ModelError> {
        let tensor = file.tensor(EMBEDDING).cloned().expect("it was checked with the others");
        if !can_dequantize(tensor.ggml_type) {
            let problem =
                format!("{EMBEDDING} is {}, which quantkit cannot read", tensor.ggml_type);
            return Err(ModelError::unsupported(file.path(), problem));
        }
        let frame = &spec.frame;
        Ok(Self {
            tensor,
            other: None,
            scale: frame.embedding_scale,
            positions: if frame.learned_positions { values(file, POSITIONS)? } else { None },
            norm: frame
                .embedding_norm
                .as_ref()
                .map(|norm| embedding_norm(file, norm))
                .transpose()?,
        })
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

    /// Writes the rows of tokens at their positions, one behind another: what the first layer reads.
    pub(super) fn look_up(
        &self,
        file: &GgufFile,
        tokens: impl Iterator<Item = (u32, usize)>,
        rows: &mut [f32],
    ) -> Result<(), ModelError> {
        let (ggml_type, bytes) = match &self.other {
            Some(other) => (other.ggml_type, &other.bytes[..]),
            None => (self.tensor.ggml_type, file.tensor_bytes(&self.tensor)),
        };
        let row_bytes = self.row_bytes();
        let mut normalized = Vec::new();
        for ((token, position), row) in tokens.zip(rows.chunks_exact_mut(self.tensor.columns())) {
            let bytes = &bytes[token as usize * row_bytes..][..row_bytes];
            dequantize_row(ggml_type, bytes, row).map_err(|error| {
                ModelError::unsupported(file.path(), format!("{EMBEDDING}: {error}"))
            })?;
            if self.scale != 1.0 {
                row.iter_mut().for_each(|value| *value *= self.scale);
            }
            if let Some(positions) = &self.positions {
                let learned = &positions[position * row.len()..][..row.len()];
                row.iter_mut().zip(learned).for_each(|(value, learned)| *value += learned);
            }
            if let Some(norm) = &self.norm {
                normalized.resize(row.len(), 0.0);
                norm_row(norm.of_kernels(), row, &mut normalized);
                row.copy_from_slice(&normalized);
            }
        }
        Ok(())
    }
}

impl EmbeddingNorm {
    fn of_kernels(&self) -> Norm<'_> {
        let (weight, epsilon) = (Some(&self.weight[..]), self.epsilon);
        match self.kind {
            NormKind::Rms => Norm::Rms { weight, epsilon },
            NormKind::Layer => Norm::Layer { weight, bias: self.bias.as_deref(), epsilon },
        }
    }
}

fn embedding_norm(file: &GgufFile, norm: &layer::Norm) -> Result<EmbeddingNorm, ModelError> {
    let name = |ending: &str| format!("{}.{ending}", norm.tensor);
    Ok(EmbeddingNorm {
        kind: norm.kind,
        weight: values(file, &name("weight"))?.expect("it was checked with the others"),
        bias: values(file, &name("bias"))?,
        epsilon: norm.epsilon,
    })
}

/// The weights of a tensor, if the file has it.
fn values(file: &GgufFile, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
    let Some(tensor) = file.tensor(name) else { return Ok(None) };
    let mut values = vec![0f32; tensor.columns() * tensor.rows()];
    dequantize_row(tensor.ggml_type, file.tensor_bytes(tensor), &mut values).map_err(|error| {
        ModelError::unsupported(file.path(), format!("the tensor {name}: {error}"))
    })?;
    Ok(Some(values))
}
