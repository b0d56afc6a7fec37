//! Matrix products of f32 activations with weights in any format.
//!
//! Weights are repacked once, at load, into panels of rows (`panel`); a product prepares its inputs
//! once (`activations`) and hands panels × tiles of tokens to a kernel (`kernel`). F32, F16 and
//! BF16 weights are multiplied with f32 inputs in f32; for quantized weights the inputs are rounded
//! to eight bits in blocks of 32, as ggml does for its 32-weight formats, or to sixteen
//! ([`ActivationBits`]), and each group of weights is multiplied in integers, exactly.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_plain;
mod destination;
mod float;
mod format;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod generic;
mod kernel;
mod memory;
#[cfg(target_arch = "aarch64")]
mod neon;
mod panel;
mod portable;
mod product;
mod source;
#[cfg(test)]
mod tests;

use rayon::prelude::*;

pub use self::activations::ActivationBits;
use self::activations::ActivationKind;
pub use self::destination::{Target, Update};
use self::kernel::Kernel;
use self::memory::AlignedBytes;
pub use self::product::MAX_MATRICES;
pub use self::source::{Source, Workspace};
use crate::gguf::GgmlType;
use crate::quant::formats::CodecError;
use crate::support::processor::Level;
use crate::support::team::Team;

/// Why weights cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// A format that no kernel knows; a row that is not a whole number of blocks.
    #[error(transparent)]
    Format(#[from] CodecError),
    /// There is no memory for them.
    #[error(
        "no memory for {bytes} bytes of weights: close other programs, or take a smaller model"
    )]
    Memory {
        /// What the packed weights take.
        bytes: usize,
    },
}

/// A weight matrix prepared once at load for the machine's best kernel.
///
/// It takes about as many bytes as the weights did; the bytes it was packed from are not kept.
#[derive(Debug)]
pub struct PackedMatrix {
    rows: usize,
    columns: usize,
    level: Level,
    kernel: Kernel,
    panel_bytes: usize,
    panels: AlignedBytes,
}

impl PackedMatrix {
    /// Packs `rows × columns` weights whose bytes are in ggml's row layout.
    ///
    /// # Errors
    /// See [`PackError`].
    ///
    /// # Panics
    /// If `bytes` does not hold exactly `rows` rows.
    pub fn pack(
        ggml_type: GgmlType,
        rows: usize,
        columns: usize,
        bytes: &[u8],
    ) -> Result<Self, PackError> {
        Self::pack_for(Level::current(), ggml_type, rows, columns, bytes)
    }

    /// Packs for a level, which the machine must have.
    fn pack_for(
        level: Level,
        ggml_type: GgmlType,
        rows: usize,
        columns: usize,
        bytes: &[u8],
    ) -> Result<Self, PackError> {
        assert!(Level::available().any(|one| one == level), "kernels are picked for this machine");
        let kernel = Kernel::select(ggml_type, level)
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
        let length = rows.div_ceil(kernel.panel_rows) * panel_bytes;
        let mut panels = AlignedBytes::zeroed(length).ok_or(PackError::Memory { bytes: length })?;
        if panel_bytes > 0 {
            panels
                .as_mut_slice()
                .par_chunks_exact_mut(panel_bytes)
                .zip(bytes.par_chunks(kernel.panel_rows * row_bytes))
                .for_each(|(panel, rows)| (kernel.pack)(rows, columns, panel));
        }
        Ok(Self { rows, columns, level, kernel, panel_bytes, panels })
    }

    /// The same matrix, for inputs that are rounded to `bits` bits; without this, it is eight. Inputs
    /// of floating-point weights are never rounded.
    #[must_use]
    pub fn with_activations(mut self, bits: ActivationBits) -> Self {
        if self.kernel.activations != ActivationKind::Float {
            self.kernel.activations = ActivationKind::of(bits);
        }
        self
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

    fn panel(&self, index: usize) -> &[u8] {
        &self.panels.as_slice()[index * self.panel_bytes..][..self.panel_bytes]
    }

    fn panel_count(&self) -> usize {
        self.rows.div_ceil(self.kernel.panel_rows)
    }
}

/// Multiplies the rows of `source` with several matrices (query, key and value; gate and up):
/// `targets[i][t][r] = Σ_c source[t][c] · matrices[i][r][c]`. The inputs are prepared once and the
/// work is divided once, which is what counts when there are few tokens.
///
/// A token's results are the same to the bit whatever other tokens there are, however many threads
/// the team has, and on whatever processor.
///
/// # Panics
/// If the matrices' columns differ from the source's, their number is not that of the targets or
/// more than eight, or a slice has another length.
pub fn multiply_many(
    team: &Team,
    matrices: &[&PackedMatrix],
    source: &Source<'_>,
    targets: &mut [Target<'_>],
    workspace: &mut Workspace,
) {
    let (tokens, columns) = (source.tokens(), source.columns());
    if tokens == 0 || matrices.is_empty() {
        return;
    }
    assert_eq!(matrices.len(), targets.len(), "there is a target for each matrix");
    assert!(matrices.len() <= product::MAX_MATRICES, "no more than eight are multiplied together");
    source.check();
    for (matrix, target) in matrices.iter().zip(targets.iter()) {
        assert_eq!(columns, matrix.columns, "the source has the matrix's columns");
        assert_eq!(target.values.len(), tokens * matrix.rows, "the target is tokens × rows");
        let bias = target.bias.map_or(matrix.rows, <[f32]>::len);
        assert_eq!(bias, matrix.rows, "the bias has the matrix's rows");
        assert_eq!(matrix.level, matrices[0].level, "all are packed for one instruction set");
    }
    product::multiply(team, matrices, source, targets, workspace);
}
