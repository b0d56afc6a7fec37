//! How Q5_0 and Q5_1 lay out 32 numbers of five bits: the fifth bits together in one little-endian
//! 32-bit word, the low four bits in 16 bytes, number `j` beside number `j + 16`.

use super::fields::field_mut;
use super::wide::{HALF, WEIGHTS, Wide, pack_nibbles, unpack_nibbles};

/// Joins the fifth bits and the low bits.
#[inline(always)]
pub(crate) fn unpack(high_bits: &[u8; 4], low_bits: &[u8; HALF]) -> [u8; WEIGHTS] {
    unpack_wide::<[f32; WEIGHTS]>(high_bits, low_bits)
}

/// [`unpack`] with registers.
#[inline(always)]
pub(super) fn unpack_wide<W: Wide>(high_bits: &[u8; 4], low_bits: &[u8; HALF]) -> [u8; WEIGHTS] {
    let mut quants = unpack_nibbles(low_bits);
    let fifth = W::scatter_bits::<4>(u32::from_le_bytes(*high_bits));
    for (quant, fifth) in quants.iter_mut().zip(fifth) {
        *quant |= fifth;
    }
    quants
}

/// Writes 32 numbers: their fifth bits at byte `high_at` and their low bits at byte `low_at`.
#[inline(always)]
pub(super) fn pack<W: Wide>(
    quants: &[u8; WEIGHTS],
    block: &mut [u8],
    high_at: usize,
    low_at: usize,
) {
    *field_mut::<4>(block, high_at) = W::gather_bits::<4>(quants).to_le_bytes();
    pack_nibbles(quants, field_mut(block, low_at));
}
