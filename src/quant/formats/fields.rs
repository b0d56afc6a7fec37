//! The fields of a block's bytes.

use super::half_float::{f16_to_f32, f32_to_f16};

/// The field of `N` bytes that starts at byte `at` of a block.
#[inline(always)]
pub(super) fn field<const N: usize>(block: &[u8], at: usize) -> &[u8; N] {
    block[at..at + N].try_into().expect("the range has N bytes")
}

/// The field of `N` bytes that starts at byte `at` of a block, to write to.
#[inline(always)]
pub(super) fn field_mut<const N: usize>(block: &mut [u8], at: usize) -> &mut [u8; N] {
    (&mut block[at..at + N]).try_into().expect("the range has N bytes")
}

/// Reads the f16 at byte `at` of a block.
#[inline(always)]
pub(super) fn read_f16(block: &[u8], at: usize) -> f32 {
    f16_to_f32(u16::from_le_bytes(*field::<2>(block, at)))
}

/// Writes an f16, rounded to nearest even, at byte `at` of a block.
#[inline(always)]
pub(super) fn write_f16(block: &mut [u8], at: usize, value: f32) {
    *field_mut::<2>(block, at) = f32_to_f16(value).to_le_bytes();
}

/// Whether the f16 at byte `at` of a block is a number. Weights of 10^5 and more can have a scale
/// that f16 does not hold.
#[inline(always)]
pub(super) fn is_finite_f16(block: &[u8], at: usize) -> bool {
    const EXPONENT: u16 = 0x7c00;
    u16::from_le_bytes(*field::<2>(block, at)) & EXPONENT != EXPONENT
}
