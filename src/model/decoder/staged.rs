//! A forward pass in stages, with matrices that can be exchanged: for measuring what a change to
//! one of them does. Everything before the changed layer need not be run again.

use std::ops::Range;

use candle_core::Tensor;

use super::{BatchItem, Decoder, EMBEDDING};
use crate::gguf::GgmlType;
use crate::model::ops::Matrix;
use crate::model::{ModelError, SequenceCache};

/// The residual stream of one sequence's tokens, from its beginning, before some layer.
#[derive(Debug, Clone)]
pub struct Residual {
    hidden: Tensor,
}

/// Other weights for one of a decoder's matrices, ready to be exchanged with its own.
#[derive(Debug)]
pub struct StandIn {
    name: String,
    /// Packed; the embedding has none unless it is the output matrix too.
    matrix: Option<Matrix>,
    /// Looked up row by row: the embedding alone. There is none where it is the file's.
    embedding: Option<EmbeddingRows>,
}

/// Weights of the embedding that are not the file's.
#[derive(Debug)]
pub(super) struct EmbeddingRows {
    /// Their format.
    pub(super) ggml_type: GgmlType,
    /// In ggml's row layout.
    pub(super) bytes: Vec<u8>,
}

impl Decoder {
    /// The embeddings of a sequence's tokens.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn begin(&self, tokens: &[u32]) -> Result<Residual, ModelError> {
        let mut cache = SequenceCache::new(tokens.len());
        let items = [BatchItem { cache: &mut cache, tokens, logits: 0 }];
        Ok(Residual { hidden: self.embed(&items)? })
    }

    /// Runs the sequence through some layers.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn run_layers(
        &self,
        layers: Range<usize>,
        residual: &Residual,
    ) -> Result<Residual, ModelError> {
        let ops = &*self.ops;
        // Only the number of tokens counts from here on.
        let tokens = vec![0; residual.hidden.dims()[0]];
        let mut cache = SequenceCache::new(tokens.len());
        cache.reserve(tokens.len(), &self.config, ops)?;
        let items = [BatchItem { cache: &mut cache, tokens: &tokens, logits: 0 }];
        let rope = self.rope_table(&items)?;
        let mut hidden = residual.hidden.clone();
        for (index, layer) in self.weights.layers.iter().enumerate().take(layers.end) {
            if index >= layers.start {
                hidden = self.layer(index, layer, &hidden, &rope, &items, &mut ())?;
            }
        }
        Ok(Residual { hidden })
    }

    /// The logits of some of the sequence's positions, `rows × vocabulary`, after the last layer.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn finish(
        &self,
        residual: &Residual,
        positions: Range<usize>,
    ) -> Result<Vec<f32>, ModelError> {
        let rows = residual.hidden.narrow(0, positions.start, positions.len())?;
        Ok(self.output(&rows)?)
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
            self.ops
                .matrix(ggml_type, tensor.rows(), tensor.columns(), &bytes)
                .map_err(|error| unsupported(&error))
        };
        let matrix = if self.weights.has_matrix(name) { Some(pack()?) } else { None };
        let is_embedding = name == EMBEDDING;
        if matrix.is_none() && !is_embedding {
            return Err(unsupported(&"this tensor is no matrix that can be exchanged"));
        }
        let embedding = is_embedding.then_some(EmbeddingRows { ggml_type, bytes });
        Ok(StandIn { name: name.to_string(), matrix, embedding })
    }

    /// Exchanges a matrix of this model, loaded by [`Decoder::load_separately`], with its stand-in;
    /// a second time undoes it.
    pub fn exchange(&mut self, stand_in: &mut StandIn) {
        if stand_in.name == EMBEDDING {
            std::mem::swap(&mut self.embedding_rows, &mut stand_in.embedding);
        }
        if let Some(other) = &mut stand_in.matrix {
            let own = self.weights.matrix_mut(&stand_in.name).expect("it was there before");
            std::mem::swap(own, other);
        }
    }
}
