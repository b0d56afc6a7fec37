//! One tensor in one format, in memory, as `quantize` would write it; and what that does to its
//! weights.

use rayon::prelude::*;

use super::SearchError;
use crate::gguf::{GgmlType, GgufFile, TensorInfo};
use crate::quant::formats::{self, CodecError};
use crate::quant::importance::Importance;
use crate::quant::pipeline::QuantizeError;
use crate::quant::weighing;

/// About how many weights a task codes: their f32 values stay in a core's cache.
const TASK_WEIGHTS: usize = 1 << 14;

/// The tensors of a file and the importance of their columns.
#[derive(Debug, Clone, Copy)]
pub(super) struct Coder<'a> {
    pub(super) file: &'a GgufFile,
    pub(super) importance: Option<&'a Importance>,
}

impl Coder<'_> {
    /// The tensor's bytes in the format.
    pub(super) fn encode(
        &self,
        tensor: &TensorInfo,
        format: GgmlType,
    ) -> Result<Vec<u8>, SearchError> {
        if format == tensor.ggml_type {
            return Ok(self.file.tensor_bytes(tensor).to_vec());
        }
        let row_bytes = self.row_bytes(tensor, format)?;
        let mut coded = vec![0; row_bytes * tensor.rows()];
        let task_rows = (TASK_WEIGHTS / tensor.columns()).max(1);
        self.each_task(tensor, task_rows)
            .zip(coded.par_chunks_mut(task_rows * row_bytes))
            .enumerate()
            .try_for_each(|(task, (source, output))| {
                let coded = dequantized(tensor.ggml_type, source)
                    .and_then(|weights| self.code(tensor, format, &weights, output));
                coded
                    .map_err(|error| self.error(tensor, task * task_rows * tensor.columns(), error))
            })?;
        Ok(coded)
    }

    /// The tensor's weights as the format keeps them, as f32 bytes.
    pub(super) fn rounded(
        &self,
        tensor: &TensorInfo,
        format: GgmlType,
    ) -> Result<Vec<u8>, SearchError> {
        let coded = self.encode(tensor, format)?;
        let row_bytes = self.row_bytes(tensor, format)?;
        let task_rows = (TASK_WEIGHTS / tensor.columns()).max(1);
        let mut values = vec![0; tensor.rows() * tensor.columns() * size_of::<f32>()];
        coded
            .par_chunks(task_rows * row_bytes)
            .zip(values.par_chunks_mut(task_rows * tensor.columns() * size_of::<f32>()))
            .try_for_each(|(coded, values)| {
                let weights = dequantized(format, coded)?;
                for (bytes, weight) in values.as_chunks_mut().0.iter_mut().zip(weights) {
                    *bytes = weight.to_le_bytes();
                }
                Ok(())
            })
            .map_err(|source| self.error(tensor, 0, source))?;
        Ok(values)
    }

    /// The squared difference of the tensor's weights from those that the format keeps, each times
    /// its column's importance where that is known: in proportion to the error of the matrix's
    /// outputs.
    pub(super) fn squared_error(
        &self,
        tensor: &TensorInfo,
        format: GgmlType,
    ) -> Result<f64, SearchError> {
        if format == tensor.ggml_type {
            return Ok(0.0);
        }
        let coded = self.encode(tensor, format)?;
        let row_bytes = self.row_bytes(tensor, format)?;
        let task_rows = (TASK_WEIGHTS / tensor.columns()).max(1);
        let importance = weighing::of_tensor(self.importance, tensor);
        let errors: Result<Vec<f64>, CodecError> = self
            .each_task(tensor, task_rows)
            .zip(coded.par_chunks(task_rows * row_bytes))
            .map(|(source, coded)| {
                let weights = dequantized(tensor.ggml_type, source)?;
                let rounded = dequantized(format, coded)?;
                let rows = weights
                    .chunks_exact(tensor.columns())
                    .zip(rounded.chunks_exact(tensor.columns()));
                Ok(rows.map(|(weights, rounded)| row_error(weights, rounded, importance)).sum())
            })
            .collect();
        // Summed in order, so that the sum is the same every time.
        Ok(errors.map_err(|source| self.error(tensor, 0, source))?.into_iter().sum())
    }

    fn each_task<'s>(
        &'s self,
        tensor: &TensorInfo,
        rows: usize,
    ) -> impl IndexedParallelIterator<Item = &'s [u8]> {
        let bytes = self.file.tensor_bytes(tensor);
        bytes.par_chunks((bytes.len() / tensor.rows().max(1) * rows).max(1))
    }

    fn code(
        &self,
        tensor: &TensorInfo,
        format: GgmlType,
        weights: &[f32],
        output: &mut [u8],
    ) -> Result<(), CodecError> {
        match weighing::of_tensor(self.importance, tensor) {
            Some(importance) => formats::quantize_weighted(format, weights, importance, output),
            None => formats::quantize_row(format, weights, output),
        }
    }

    fn row_bytes(&self, tensor: &TensorInfo, format: GgmlType) -> Result<usize, SearchError> {
        let (ggml_type, columns) = (format, tensor.columns());
        let ragged = CodecError::Ragged { ggml_type, columns, block: format.block_size() };
        format.row_bytes(columns).ok_or_else(|| self.error(tensor, 0, ragged))
    }

    /// `first` is the number in the tensor of the first of the weights that were coded.
    fn error(&self, tensor: &TensorInfo, first: usize, source: CodecError) -> SearchError {
        QuantizeError::of_tensor(self.file.path(), tensor, first, source).into()
    }
}

fn row_error(weights: &[f32], rounded: &[f32], importance: Option<&[f32]>) -> f64 {
    let difference = |(weight, rounded): (&f32, &f32)| f64::from(weight - rounded).powi(2);
    let differences = weights.iter().zip(rounded).map(difference);
    match importance {
        Some(importance) => {
            differences.zip(importance).map(|(square, &weight)| square * f64::from(weight)).sum()
        }
        None => differences.sum(),
    }
}

fn dequantized(format: GgmlType, bytes: &[u8]) -> Result<Vec<f32>, CodecError> {
    let mut weights = vec![0.0; bytes.len() / format.block_bytes() * format.block_size()];
    formats::dequantize_row(format, bytes, &mut weights)?;
    Ok(weights)
}
