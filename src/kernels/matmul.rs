//! Matrix products of f32 activations with weights in any format.

use rayon::prelude::*;

use crate::gguf::GgmlType;
use crate::quant::formats::{CodecError, can_dequantize, dequantize_row};

/// A weight matrix prepared once at load for the machine's best kernel.
#[derive(Debug)]
pub struct PackedMatrix {
    ggml_type: GgmlType,
    rows: usize,
    columns: usize,
    bytes: Vec<u8>,
}

impl PackedMatrix {
    /// Packs `rows × columns` weights whose bytes are in ggml's row layout.
    ///
    /// # Errors
    /// A format that no kernel knows, named; a row that is no whole number of blocks.
    ///
    /// # Panics
    /// If `bytes` does not hold exactly `rows` rows.
    pub fn pack(
        ggml_type: GgmlType,
        rows: usize,
        columns: usize,
        bytes: &[u8],
    ) -> Result<Self, CodecError> {
        if !can_dequantize(ggml_type) {
            return Err(CodecError::Unsupported(ggml_type, "multiplied"));
        }
        let row_bytes = ggml_type.row_bytes(columns).ok_or(CodecError::Ragged {
            ggml_type,
            columns,
            block: ggml_type.block_size(),
        })?;
        assert_eq!(Some(bytes.len()), rows.checked_mul(row_bytes), "the bytes of all rows");
        Ok(Self { ggml_type, rows, columns, bytes: bytes.to_vec() })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// `output[t][r] = Σ_c inputs[t][c] · weights[r][c]` for `tokens` rows of inputs, on the
    /// current rayon pool. `inputs` is `tokens × columns`, `output` is `tokens × rows`, both
    /// row-major.
    ///
    /// # Panics
    /// If a slice has another length.
    pub fn multiply(&self, tokens: usize, inputs: &[f32], output: &mut [f32]) {
        assert_eq!(inputs.len(), tokens * self.columns, "inputs are tokens × columns");
        assert_eq!(output.len(), tokens * self.rows, "output is tokens × rows");
        if output.is_empty() || self.columns == 0 {
            output.fill(0.0);
            return;
        }
        let row_bytes = self.bytes.len() / self.rows;
        let columns_of_output: Vec<Vec<f32>> = self
            .bytes
            .par_chunks_exact(row_bytes)
            .with_min_len(8)
            .map_init(
                || vec![0.0; self.columns],
                |weights, row| {
                    dequantize_row(self.ggml_type, row, weights).expect("checked when packed");
                    inputs.chunks_exact(self.columns).map(|input| dot(input, weights)).collect()
                },
            )
            .collect();
        for (token, output) in output.chunks_exact_mut(self.rows).enumerate() {
            for (value, column) in output.iter_mut().zip(&columns_of_output) {
                *value = column[token];
            }
        }
    }
}

/// A dot product in eight interleaved partial sums.
fn dot(left: &[f32], right: &[f32]) -> f32 {
    let (left, left_rest) = left.as_chunks::<8>();
    let (right, right_rest) = right.as_chunks::<8>();
    let mut sums = [0.0f32; 8];
    for (left, right) in left.iter().zip(right) {
        for lane in 0..8 {
            sums[lane] += left[lane] * right[lane];
        }
    }
    let rest: f32 = left_rest.iter().zip(right_rest).map(|(left, right)| left * right).sum();
    sums.iter().sum::<f32>() + rest
}
