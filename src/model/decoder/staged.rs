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

/// Weights that stand in for those of the file.
#[derive(Debug)]
pub(in crate::model) struct Replacement {
    /// Their format.
    pub(in crate::model) ggml_type: GgmlType,
    /// In ggml's row layout.
    pub(in crate::model) bytes: Vec<u8>,
}

/// What [`Decoder::replace`] took out.
#[derive(Debug)]
pub struct Replaced {
    name: String,
    matrix: Option<Matrix>,
    embedding: Option<Option<Replacement>>,
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

    /// Puts other weights in the place of a matrix's, `rows × columns` in ggml's row layout as in
    /// the file. Where the embedding is the output matrix too, both change. The model must have
    /// been loaded by [`Decoder::load_separately`].
    ///
    /// # Errors
    /// A tensor that is no matrix of the model, and a format that cannot be run.
    pub fn replace(
        &mut self,
        name: &str,
        ggml_type: GgmlType,
        bytes: Vec<u8>,
    ) -> Result<Replaced, ModelError> {
        let unsupported = |problem: String| {
            ModelError::unsupported(self.file.path(), format!("{name}: {problem}"))
        };
        let Some(tensor) = self.file.tensor(name) else {
            return Err(unsupported("the model has no such tensor".to_string()));
        };
        let (rows, columns) = (tensor.rows(), tensor.columns());
        let is_embedding = name == EMBEDDING;
        let target = if is_embedding { self.tied_output() } else { Some(name) };
        let packed = target.map(|_| self.ops.matrix(ggml_type, rows, columns, &bytes)).transpose();
        let packed = packed.map_err(|error| unsupported(error.to_string()))?;
        let embedding =
            is_embedding.then(|| self.replacement.replace(Replacement { ggml_type, bytes }));
        let mut matrix = None;
        if let (Some(packed), Some(target)) = (packed, target) {
            let Some(place) = self.weights.matrix_mut(target) else {
                return Err(unsupported("this tensor is no matrix of a layer".to_string()));
            };
            matrix = Some(std::mem::replace(place, packed));
        }
        Ok(Replaced { name: name.to_string(), matrix, embedding })
    }

    /// Undoes [`Decoder::replace`].
    pub fn put_back(&mut self, replaced: Replaced) {
        let Replaced { name, matrix, embedding } = replaced;
        if let Some(embedding) = embedding {
            self.replacement = embedding;
        }
        let target = if name == EMBEDDING { self.tied_output() } else { Some(name.as_str()) };
        let place = target.and_then(|target| self.weights.matrix_mut(target));
        if let (Some(matrix), Some(place)) = (matrix, place) {
            *place = matrix;
        }
    }

    /// The name under which the output matrix goes where it is the embedding.
    fn tied_output(&self) -> Option<&'static str> {
        self.file.tensor("output.weight").is_none().then_some(EMBEDDING)
    }
}
