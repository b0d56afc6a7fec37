//! The one table of kernels: a weight type and an instruction set in, functions out.

use std::ops::Range;

use super::activations::{ActivationKind, Prepared};
use super::destination::Destination;
use super::float::{Brain, FloatFormat, Half, Single};
use super::format::{self, QuantizedFormat};
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::panel::{self, FLOAT_ROWS, QUANTIZED_ROWS};
use super::portable;
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, avx512_plain};
use crate::gguf::GgmlType;
use crate::support::processor::{InstructionSet, Level};

/// Rows of activations in the largest tile of any instruction set.
pub(super) const MAX_TILE: usize = 8;

/// How one type of weights is packed and multiplied on one instruction set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel {
    /// Rows in a panel.
    pub(super) panel_rows: usize,
    /// How inputs are prepared for it. A matrix of quantized weights may ask for 16 bits instead of 8.
    pub(super) activations: ActivationKind,
    /// Bytes of a panel with this number of columns.
    pub(super) panel_bytes: fn(usize) -> usize,
    /// Packs rows in ggml's layout, with this number of columns, into a zeroed panel.
    pub(super) pack: fn(&[u8], usize, &mut [u8]),
    /// Rows of activations that it multiplies at a time, at most.
    pub(super) tile: usize,
    multiply: Multiply,
    /// What is faster with more tokens than that.
    pub(super) strips: Option<Strips>,
}

/// Panel, columns, tokens, totals (tokens × panel rows).
type Multiply = unsafe fn(&[u8], usize, Prepared<'_>, &mut [f32]);

/// How the weights of two panels are unpacked, some columns at a time, for many tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Strips {
    /// Columns that a strip has, at most: a whole number of blocks.
    pub(super) columns: usize,
    /// Bytes that it takes then.
    pub(super) bytes: usize,
    /// Panels, their columns, those of the strip, the strip.
    pub(super) unpack: Unpack,
    /// Strip, the panels' columns, those of the strip, tokens, totals (tokens × rows of two panels)
    /// which go on from the columns before, where the results go after the last columns.
    pub(super) multiply: MultiplyStrip,
}

type Unpack = unsafe fn([&[u8]; 2], usize, Range<usize>, &mut [u8]);

type MultiplyStrip =
    unsafe fn(&[u8], usize, Range<usize>, Prepared<'_>, &mut [f32], &Destination<'_>);

impl Strips {
    /// Unpacks some columns of two panels.
    pub(super) fn unpack(
        &self,
        panels: [&[u8]; 2],
        columns: usize,
        range: Range<usize>,
        strip: &mut [u8],
    ) {
        // SAFETY: `Kernel::select` is only asked for instruction sets that this machine has.
        unsafe { (self.unpack)(panels, columns, range, strip) }
    }

    /// Adds the products of a strip with tokens to `totals`, which begin at zero with the first
    /// columns; after the last ones it puts them where they belong.
    pub(super) fn multiply(
        &self,
        strip: &[u8],
        columns: usize,
        range: Range<usize>,
        tokens: Prepared<'_>,
        totals: &mut [f32],
        destination: &Destination<'_>,
    ) {
        // SAFETY: as above.
        unsafe { (self.multiply)(strip, columns, range, tokens, totals, destination) }
    }
}

impl Kernel {
    /// The kernel for the type, if there is one.
    pub(super) fn select(ggml_type: GgmlType, level: Level) -> Option<Self> {
        Some(match ggml_type {
            GgmlType::F32 => Self::float::<Single, 4>(level.set),
            GgmlType::F16 => Self::float::<Half, 2>(level.set),
            GgmlType::BF16 => Self::float::<Brain, 2>(level.set),
            GgmlType::Q4_0 => Self::quantized::<format::Q4_0>(level),
            GgmlType::Q4_1 => Self::quantized::<format::Q4_1>(level),
            GgmlType::Q5_0 => Self::quantized::<format::Q5_0>(level),
            GgmlType::Q5_1 => Self::quantized::<format::Q5_1>(level),
            GgmlType::Q8_0 => Self::quantized::<format::Q8_0>(level),
            GgmlType::Q2_K => Self::quantized::<format::Q2K>(level),
            GgmlType::Q3_K => Self::quantized::<format::Q3K>(level),
            GgmlType::Q4_K => Self::quantized::<format::Q4K>(level),
            GgmlType::Q5_K => Self::quantized::<format::Q5K>(level),
            GgmlType::Q6_K => Self::quantized::<format::Q6K>(level),
            GgmlType::IQ4_NL => Self::quantized::<format::Iq4Nl>(level),
            GgmlType::IQ4_XS => Self::quantized::<format::Iq4Xs>(level),
            GgmlType::MXFP4 => Self::quantized::<format::Mxfp4>(level),
            _ => return None,
        })
    }

    fn quantized<F: QuantizedFormat>(level: Level) -> Self {
        let Level { set, dot_product } = level;
        Self {
            panel_rows: QUANTIZED_ROWS,
            activations: ActivationKind::Quantized,
            panel_bytes: panel::quantized_bytes::<F>,
            pack: panel::pack_quantized::<F>,
            tile: match set {
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512 if !dot_product => avx512_plain::TILE,
                _ => tile(set),
            },
            multiply: match set {
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512 if dot_product => avx512::multiply_quantized::<F>,
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512 => avx512_plain::multiply_quantized::<F>,
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 if dot_product => avx2::multiply_quantized_vnni::<F>,
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 => avx2::multiply_quantized::<F>,
                #[cfg(target_arch = "aarch64")]
                InstructionSet::Neon if dot_product => neon::multiply_quantized_dot::<F>,
                #[cfg(target_arch = "aarch64")]
                InstructionSet::Neon => neon::multiply_quantized::<F>,
                _ => portable::multiply_quantized::<F>,
            },
            strips: match set {
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512 if dot_product => Some(avx512::quantized_strips::<F>()),
                _ => None,
            },
        }
    }

    fn float<F: FloatFormat<WIDTH>, const WIDTH: usize>(set: InstructionSet) -> Self {
        Self {
            panel_rows: FLOAT_ROWS,
            activations: ActivationKind::Float,
            panel_bytes: panel::float_bytes::<WIDTH>,
            pack: panel::pack_float::<WIDTH>,
            tile: tile(set),
            multiply: match set {
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512 => avx512::multiply_float::<F, WIDTH>,
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx2 => avx2::multiply_float::<F, WIDTH>,
                #[cfg(target_arch = "aarch64")]
                InstructionSet::Neon => neon::multiply_float::<F, WIDTH>,
                _ => portable::multiply_float::<F, WIDTH>,
            },
            strips: match set {
                #[cfg(target_arch = "x86_64")]
                InstructionSet::Avx512 => Some(avx512::float_strips::<F, WIDTH>()),
                _ => None,
            },
        }
    }

    /// Multiplies a panel with a tile of tokens; see [`portable::multiply_quantized`].
    pub(super) fn multiply(
        &self,
        panel: &[u8],
        columns: usize,
        tokens: Prepared<'_>,
        totals: &mut [f32],
    ) {
        // SAFETY: `select` is only asked for instruction sets that this machine has.
        unsafe { (self.multiply)(panel, columns, tokens, totals) }
    }
}

/// Tokens that a set's kernels multiply at a time, at most.
fn tile(set: InstructionSet) -> usize {
    match set {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => avx512::TILE,
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => avx2::TILE,
        #[cfg(target_arch = "aarch64")]
        InstructionSet::Neon => neon::TILE,
        _ => portable::TILE,
    }
}

/// Prepares one token with the set's instructions.
pub(super) fn fill(set: InstructionSet, kind: ActivationKind, input: &[f32], words: &mut [u32]) {
    match set {
        // SAFETY: a matrix only carries a set that this machine has.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => unsafe { avx512::fill(kind, input, words) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => unsafe { avx2::fill(kind, input, words) },
        _ => kind.fill(input, words),
    }
}
