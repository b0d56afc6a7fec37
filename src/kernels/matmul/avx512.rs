//! The kernels with AVX-512 (F, BW, DQ, VL, VNNI): one register holds 16 rows.

mod float;
mod quantize;
mod quantized;
mod weights;

use std::arch::x86_64::*;

pub(super) use float::{float_strips, multiply_float};
pub(super) use quantize::fill;
pub(super) use quantized::{multiply_quantized, quantized_strips};

/// Tokens that are multiplied at a time with weights as they are packed, at most.
pub(super) const TILE: usize = 4;

/// Tokens that unpacked weights of two panels are multiplied with: their sums fill most of the 32
/// registers, and each weight and each activation that is loaded is of use several times.
const STRIP_TILE: usize = 6;

/// One word in every lane, as f32.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn broadcast(words: *const u32, at: usize) -> __m512 {
    // SAFETY: the caller stays within its words.
    unsafe { _mm512_set1_ps(f32::from_bits(words.add(at).read())) }
}
