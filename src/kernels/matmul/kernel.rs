//! The one table of kernels: a weight type and an instruction set in, functions out.

use super::activations::{self, ActivationKind};
use super::float::{Brain, FloatFormat, Half, Single};
use super::format::{self, QuantizedFormat};
use super::panel::{self, FLOAT_ROWS, QUANTIZED_ROWS};
use super::portable;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::gguf::GgmlType;
use crate::support::processor::InstructionSet;

/// Tokens in the largest tile of any instruction set.
pub(super) const MAX_TILE: usize = 12;

/// How one type of weights is packed and multiplied on one instruction set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel {
    /// Rows in a panel.
    pub(super) panel_rows: usize,
    /// What it reads.
    pub(super) activations: ActivationKind,
    /// Bytes of a panel of so many columns.
    pub(super) panel_bytes: fn(usize) -> usize,
    /// Packs rows in ggml's layout, of so many columns, into a zeroed panel.
    pub(super) pack: fn(&[u8], usize, &mut [u8]),
    multiply: Multiply,
}

/// Panel, columns, activations, tokens, output (tokens × panel rows).
type Multiply = unsafe fn(&[u8], usize, &[u32], usize, &mut [f32]);

impl Kernel {
    /// The kernel for the type, if there is one.
    pub(super) fn select(ggml_type: GgmlType, set: InstructionSet) -> Option<Self> {
        Some(match ggml_type {
            GgmlType::F32 => Self::float::<Single, 4>(set),
            GgmlType::F16 => Self::float::<Half, 2>(set),
            GgmlType::BF16 => Self::float::<Brain, 2>(set),
            GgmlType::Q4_0 => Self::quantized::<format::Q4_0>(set),
            GgmlType::Q4_1 => Self::quantized::<format::Q4_1>(set),
            GgmlType::Q5_0 => Self::quantized::<format::Q5_0>(set),
            GgmlType::Q5_1 => Self::quantized::<format::Q5_1>(set),
            GgmlType::Q8_0 => Self::quantized::<format::Q8_0>(set),
            GgmlType::Q2_K => Self::quantized::<format::Q2K>(set),
            GgmlType::Q3_K => Self::quantized::<format::Q3K>(set),
            GgmlType::Q4_K => Self::quantized::<format::Q4K>(set),
            GgmlType::Q5_K => Self::quantized::<format::Q5K>(set),
            GgmlType::Q6_K => Self::quantized::<format::Q6K>(set),
            GgmlType::IQ4_NL => Self::quantized::<format::Iq4Nl>(set),
            GgmlType::IQ4_XS => Self::quantized::<format::Iq4Xs>(set),
            GgmlType::MXFP4 => Self::quantized::<format::Mxfp4>(set),
            _ => return None,
        })
    }

    fn quantized<F: QuantizedFormat>(set: InstructionSet) -> Self {
        Self {
            panel_rows: QUANTIZED_ROWS,
            activations: ActivationKind::Quantized,
            panel_bytes: panel::quantized_bytes::<F>,
            pack: panel::pack_quantized::<F>,
            multiply: match set {
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512 => avx512::multiply_quantized::<F>,
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 => avx2::multiply_quantized::<F>,
                _ => portable::multiply_quantized::<F>,
            },
        }
    }

    fn float<F: FloatFormat<WIDTH>, const WIDTH: usize>(set: InstructionSet) -> Self {
        Self {
            panel_rows: FLOAT_ROWS,
            activations: ActivationKind::Float,
            panel_bytes: panel::float_bytes::<WIDTH>,
            pack: panel::pack_float::<WIDTH>,
            multiply: match set {
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512 => avx512::multiply_float::<F, WIDTH>,
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 => avx2::multiply_float::<F, WIDTH>,
                _ => portable::multiply_float::<F, WIDTH>,
            },
        }
    }

    /// Multiplies a panel with a tile of tokens; see [`portable::multiply_quantized`].
    pub(super) fn multiply(
        &self,
        panel: &[u8],
        columns: usize,
        activations: &[u32],
        tokens: usize,
        output: &mut [f32],
    ) {
        // SAFETY: `select` is only asked for instruction sets that this machine has.
        unsafe { (self.multiply)(panel, columns, activations, tokens, output) }
    }
}

/// The set that the products use: AVX-512 counts only where VNNI comes with it.
pub(super) fn usable(set: InstructionSet) -> InstructionSet {
    #[cfg(target_arch = "x86_64")]
    if set == InstructionSet::Avx512 && !is_x86_feature_detected!("avx512vnni") {
        return InstructionSet::Avx2;
    }
    set
}

/// Sizes of the tiles that a set's kernels know, largest first.
pub(super) fn tile_sizes(set: InstructionSet) -> &'static [usize] {
    match set {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => avx512::TILES,
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => avx2::TILES,
        _ => portable::TILES,
    }
}

/// Prepares one tile of activations with the set's instructions.
pub(super) fn fill_tile(
    set: InstructionSet,
    kind: ActivationKind,
    inputs: &[f32],
    columns: usize,
    tile: &mut [u32],
) {
    match set {
        // SAFETY: a matrix only carries a set that this machine has.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => unsafe { avx512::fill(kind, inputs, columns, tile) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => unsafe { avx2::fill(kind, inputs, columns, tile) },
        _ => kind.fill(inputs, columns, tile, activations::quantize),
    }
}
