//! Matrix products of f32 activations with weights in any format.
//!
//! Weights are repacked once, at load, into panels of rows (`panel`); a product prepares its inputs
//! once (`activations`) and hands panels × tiles of tokens to a kernel (`kernel`). F32, F16 and
//! BF16 weights are multiplied with f32 inputs in f32; for quantized weights the inputs are rounded
//! to eight bits in blocks of 32, as ggml does for its 32-weight formats, and each group of weights
//! is multiplied in integers, exactly.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod float;
mod format;
mod kernel;
mod panel;
mod portable;
mod product;
#[cfg(test)]
mod tests;

use rayon::prelude::*;

use self::kernel::Kernel;
use crate::gguf::GgmlType;
use crate::quant::formats::CodecError;
use crate::support::processor::InstructionSet;

/// A weight matrix prepared once at load for the machine's best kernel.
///
/// It takes about as many bytes as the weights did; the bytes it was packed from are not kept.
#[derive(Debug)]
pub struct PackedMatrix {
    rows: usize,
    columns: usize,
    set: InstructionSet,
    kernel: Kernel,
    panel_bytes: usize,
    panels: AlignedBytes,
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
        Self::pack_for(InstructionSet::current(), ggml_type, rows, columns, bytes)
    }

    /// Packs for an instruction set, which the machine must have.
    fn pack_for(
        set: InstructionSet,
        ggml_type: GgmlType,
        rows: usize,
        columns: usize,
        bytes: &[u8],
    ) -> Result<Self, CodecError> {
        assert!(set.available(), "kernels are picked for this machine");
        let set = kernel::usable(set);
        let kernel = Kernel::select(ggml_type, set)
            .ok_or(CodecError::Unsupported(ggml_type, "multiplied"))?;
        let row_bytes = ggml_type.row_bytes(columns).ok_or(CodecError::Ragged {
            ggml_type,
            columns,
            block: ggml_type.block_size(),
        })?;
        assert_eq!(
            Some(bytes.len()),
            rows.checked_mul(row_bytes),
            "the bytes are those of all rows"
        );
        let panel_bytes = (kernel.panel_bytes)(columns);
        let mut panels = AlignedBytes::zeroed(rows.div_ceil(kernel.panel_rows) * panel_bytes);
        if panel_bytes > 0 {
            panels
                .as_mut_slice()
                .par_chunks_exact_mut(panel_bytes)
                .zip(bytes.par_chunks(kernel.panel_rows * row_bytes))
                .for_each(|(panel, rows)| (kernel.pack)(rows, columns, panel));
        }
        Ok(Self { rows, columns, set, kernel, panel_bytes, panels })
    }

    /// Output features.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Bytes of memory that the packed weights take.
    pub fn packed_bytes(&self) -> usize {
        self.panels.as_slice().len()
    }

    /// `output[t][r] = Σ_c inputs[t][c] · weights[r][c]` for `tokens` rows of inputs, on the
    /// current rayon pool. `inputs` is `tokens × columns`, `output` is `tokens × rows`, both
    /// row-major.
    ///
    /// # Panics
    /// If a slice has another length.
    pub fn multiply(&self, tokens: usize, inputs: &[f32], output: &mut [f32]) {
        multiply_many(&[self], tokens, inputs, &mut [output]);
    }

    fn panel(&self, index: usize) -> &[u8] {
        &self.panels.as_slice()[index * self.panel_bytes..][..self.panel_bytes]
    }

    fn panel_count(&self) -> usize {
        self.rows.div_ceil(self.kernel.panel_rows)
    }
}

/// [`PackedMatrix::multiply`] by several matrices with the same inputs (query, key and value; gate
/// and up): the inputs are prepared once and the work is divided once, which is what counts when
/// there are few tokens. `outputs[i]` is `tokens × matrices[i].rows()`.
///
/// Call it from inside the rayon pool that is to do the work ([`rayon::ThreadPool::install`] around
/// the whole step): entering a pool costs more than a small product.
///
/// # Panics
/// If the matrices' columns differ, their number is not that of the outputs, or a slice has another
/// length.
pub fn multiply_many(
    matrices: &[&PackedMatrix],
    tokens: usize,
    inputs: &[f32],
    outputs: &mut [&mut [f32]],
) {
    assert_eq!(matrices.len(), outputs.len(), "an output for each matrix");
    for (matrix, output) in matrices.iter().zip(outputs.iter()) {
        assert_eq!(inputs.len(), tokens * matrix.columns, "inputs are tokens × columns");
        assert_eq!(output.len(), tokens * matrix.rows, "output is tokens × rows");
        assert_eq!(matrix.set, matrices[0].set, "all are packed for one instruction set");
    }
    if tokens == 0 || inputs.is_empty() {
        outputs.iter_mut().for_each(|output| output.fill(0.0));
        return;
    }
    product::multiply(matrices, tokens, inputs, outputs);
}

/// Bytes that begin at a cache line, so that a panel's registers never straddle two.
#[derive(Debug)]
struct AlignedBytes {
    storage: Vec<u8>,
    start: usize,
    length: usize,
}

impl AlignedBytes {
    const LINE: usize = 64;

    fn zeroed(length: usize) -> Self {
        let storage = vec![0; length + Self::LINE - 1];
        let start = storage.as_ptr().align_offset(Self::LINE).min(Self::LINE - 1);
        Self { storage, start, length }
    }

    fn as_slice(&self) -> &[u8] {
        &self.storage[self.start..][..self.length]
    }

    fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.storage[self.start..][..self.length]
    }
}
