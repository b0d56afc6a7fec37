//! The token embedding, and those of the layers: rows that are looked up and dequantized when they are
//! needed.

use super::ModelError;
use super::ops::Norm;
use super::spec::{DecoderSpec, EMBEDDING, tensor_values};
use crate::family::layer;
use crate::gguf::{GgmlType, GgufFile, TensorInfo};
use crate::kernels::elementwise::norm_row;
use crate::quant::formats::{can_dequantize, dequantize_row};

/// The name of the embedding of positions.
const POSITIONS: &str = "position_embd.weight";

/// The name of the embeddings that layers have for themselves, those of a token in one row.
const OF_LAYERS: &str = "per_layer_token_embd.weight";

/// The embedding of a model file.
#[derive(Debug)]
pub(super) struct Embedding {
    tokens: Table,
    /// The layers' own, in models that have them.
    of_layers: Option<Table>,
    /// A row a position, in models that learn them.
    positions: Option<Vec<f32>>,
    /// What embeddings go through before the first layer.
    norm: Option<Norm<Vec<f32>>>,
}

/// A row for each token.
#[derive(Debug)]
pub(super) struct Table {
    tensor: TensorInfo,
    /// What is looked up instead of the file's rows.
    pub(super) other: Option<EmbeddingRows>,
    scale: f32,
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
    pub(super) fn of(file: &GgufFile, spec: &DecoderSpec) -> Result<Self, ModelError> {
        let frame = &spec.frame;
        let of_layers = frame.layer_embeddings.as_ref();
        // The sum with what is projected is scaled, and so are its parts.
        let of_layers =
            of_layers.map(|own| Table::of(file, OF_LAYERS, own.table_scale * own.input_scale));
        Ok(Self {
            tokens: Table::of(file, EMBEDDING, frame.embedding_scale)?,
            of_layers: of_layers.transpose()?,
            positions: if frame.learned_positions { tensor_values(file, POSITIONS)? } else { None },
            norm: frame
                .embedding_norm
                .as_ref()
                .map(|norm| embedding_norm(file, norm))
                .transpose()?,
        })
    }

    /// Number of tokens in the vocabulary.
    pub(super) fn vocabulary(&self) -> usize {
        self.tokens.tensor.rows()
    }

    /// Bytes that are looked up for a token.
    pub(super) fn row_bytes(&self) -> usize {
        self.tokens.row_bytes() + self.of_layers.as_ref().map_or(0, Table::row_bytes)
    }

    /// Whether rows of the tensor of this name are looked up.
    pub(super) fn is_table(&self, name: &str) -> bool {
        name == EMBEDDING || (name == OF_LAYERS && self.of_layers.is_some())
    }

    /// The table of this name.
    pub(super) fn table_mut(&mut self, name: &str) -> Option<&mut Table> {
        [Some(&mut self.tokens), self.of_layers.as_mut()]
            .into_iter()
            .flatten()
            .find(|table| table.tensor.name == name)
    }

    /// Looks up tokens at their positions: what the first layer reads, and what the layers have for
    /// themselves, a row a token in both.
    pub(super) fn look_up(
        &self,
        file: &GgufFile,
        tokens: impl Iterator<Item = (u32, usize)>,
        rows: &mut Vec<f32>,
        of_layers: &mut Vec<f32>,
    ) -> Result<(), ModelError> {
        let mut normalized = Vec::new();
        let width = self.tokens.tensor.columns();
        rows.clear();
        of_layers.clear();
        for (token, position) in tokens {
            rows.resize(rows.len() + width, 0.0);
            let start = rows.len() - width;
            let row = &mut rows[start..];
            self.tokens.look_up(file, token, row)?;
            if let Some(table) = &self.of_layers {
                let start = of_layers.len();
                of_layers.resize(start + table.tensor.columns(), 0.0);
                table.look_up(file, token, &mut of_layers[start..])?;
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

impl Table {
    fn of(file: &GgufFile, name: &str, scale: f32) -> Result<Self, ModelError> {
        let tensor = file.tensor(name).cloned().expect("it was checked with the others");
        if !can_dequantize(tensor.ggml_type) {
            let problem = format!("{name} is {}, which quantkit cannot read", tensor.ggml_type);
            return Err(ModelError::unsupported(file.path(), problem));
        }
        Ok(Self { tensor, other: None, scale })
    }

    /// Bytes of a token's row.
    fn row_bytes(&self) -> usize {
        let bytes = self.other.as_ref().map_or(self.tensor.bytes() as usize, |o| o.bytes.len());
        bytes / self.tensor.rows()
    }

    fn look_up(&self, file: &GgufFile, token: u32, row: &mut [f32]) -> Result<(), ModelError> {
        let (ggml_type, bytes) = match &self.other {
            Some(other) => (other.ggml_type, &other.bytes[..]),
            None => (self.tensor.ggml_type, file.tensor_bytes(&self.tensor)),
        };
        let row_bytes = self.row_bytes();
        let bytes = &bytes[token as usize * row_bytes..][..row_bytes];
        dequantize_row(ggml_type, bytes, row).map_err(|error| {
            ModelError::unsupported(file.path(), format!("{}: {error}", self.tensor.name))
        })?;
        if self.scale != 1.0 {
            row.iter_mut().for_each(|value| *value *= self.scale);
        }
        Ok(())
    }
}

fn embedding_norm(file: &GgufFile, norm: &layer::Norm) -> Result<Norm<Vec<f32>>, ModelError> {
    let values = |ending: &str| tensor_values(file, &format!("{}.{ending}", norm.tensor));
    Ok(Norm {
        kind: norm.kind,
        weight: values("weight")?,
        bias: values("bias")?,
        epsilon: norm.epsilon,
    })
}
