//! A forward pass in stages, with matrices that can be exchanged: for measuring what a change to
//! one of them does. Everything before the changed layer need not be run again.

use std::ops::Range;
use std::sync::Arc;

use super::Decoder;
use crate::gguf::GgmlType;
use crate::model::ModelError;
use crate::model::embedding::EmbeddingRows;
use crate::model::forward::{AnyMatrix, Embedded};

/// The residual stream of one sequence's tokens, from its beginning, before some layer.
#[derive(Debug, Clone)]
pub struct Residual {
    /// `[tokens, hidden]`.
    values: Vec<f32>,
    /// What layers have of the tokens for themselves, `[tokens, layers · width]`.
    layer_embeddings: Arc<[f32]>,
}

/// Other weights for one of a decoder's matrices, ready to be exchanged with its own.
#[derive(Debug)]
pub struct StandIn {
    name: String,
    /// Packed; an embedding has none unless it is the output matrix too.
    matrix: Option<AnyMatrix>,
    /// Looked up row by row: an embedding alone. There is none where it is the file's.
    embedding: Option<EmbeddingRows>,
}

impl Decoder {
    /// The embeddings of a sequence's tokens.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn begin(&mut self, tokens: &[u32]) -> Result<Residual, ModelError> {
        let (mut values, mut of_layers) = (Vec::new(), Vec::new());
        let tokens = tokens.iter().copied().zip(0..);
        self.embedding.look_up(&self.file, tokens, &mut values, &mut of_layers)?;
        let embedded = Embedded { residual: &values, layers: &of_layers };
        let layer_embeddings = self.model.layer_embeddings(embedded)?.into();
        Ok(Residual { values, layer_embeddings })
    }

    /// Runs the sequence through some layers.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn run_layers(
        &mut self,
        layers: Range<usize>,
        residual: &Residual,
    ) -> Result<Residual, ModelError> {
        let layer_embeddings = residual.layer_embeddings.clone();
        let embedded = Embedded { residual: &residual.values, layers: &layer_embeddings };
        let values = self.model.run_layers(layers, embedded)?;
        Ok(Residual { values, layer_embeddings })
    }

    /// The logits of some of the sequence's positions, `rows × vocabulary`, after the last layer.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn finish(
        &mut self,
        residual: &Residual,
        positions: Range<usize>,
    ) -> Result<Vec<f32>, ModelError> {
        let hidden = self.spec.dimensions.hidden;
        let rows = &residual.values[positions.start * hidden..positions.end * hidden];
        Ok(self.model.output(rows)?.to_vec())
    }

    /// Makes other weights ready for the place of a matrix's: as many rows and columns, in ggml's
    /// row layout. Where the embedding is the output matrix too, they are for both.
    ///
    /// # Errors
    /// A tensor that is no matrix of the model, and a format that cannot be run.
    ///
    /// # Panics
    /// If `bytes` is not what the matrix takes in this format.
    pub fn stand_in(
        &self,
        name: &str,
        ggml_type: GgmlType,
        bytes: Vec<u8>,
    ) -> Result<StandIn, ModelError> {
        let unsupported = |problem: &dyn std::fmt::Display| {
            ModelError::unsupported(self.file.path(), format!("{name}: {problem}"))
        };
        let tensor = self.file.tensor(name);
        let tensor = tensor.ok_or_else(|| unsupported(&"the model has no such tensor"))?;
        let pack = || {
            self.model
                .pack(ggml_type, tensor.rows(), tensor.columns(), &bytes)
                .map_err(|error| unsupported(&error))
        };
        let matrix = if self.model.has_matrix(name) { Some(pack()?) } else { None };
        let is_embedding = self.embedding.is_table(name);
        if matrix.is_none() && !is_embedding {
            return Err(unsupported(&"this tensor is no matrix that can be exchanged"));
        }
        let embedding = is_embedding.then_some(EmbeddingRows { ggml_type, bytes });
        Ok(StandIn { name: name.to_string(), matrix, embedding })
    }

    /// Exchanges a matrix of this model with its stand-in; a second time undoes it.
    pub fn exchange(&mut self, stand_in: &mut StandIn) {
        if let Some(table) = self.embedding.table_mut(&stand_in.name) {
            std::mem::swap(&mut table.other, &mut stand_in.embedding);
        }
        if let Some(other) = &mut stand_in.matrix {
            self.model.exchange(&stand_in.name, other);
        }
    }
}
