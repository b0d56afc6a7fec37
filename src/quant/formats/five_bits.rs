//! How Q5_0 and Q5_1 lay out 32 numbers of five bits: the fifth bits together in one little-endian
//! 32-bit word, the low four bits in 16 bytes, number `j` beside number `j + 16`.

use super::codec::field_mut;

pub(crate) const WEIGHTS: usize = 32;
pub(crate) const HALF: usize = WEIGHTS / 2;

/// Joins the fifth bits and the low bits.
#[inline(always)]
pub(crate) fn unpack(high_bits: &[u8; 4], low_bits: &[u8; HALF]) -> [u8; WEIGHTS] {
    let high_bits = u32::from_le_bytes(*high_bits);
    let fifth = |j: usize| ((high_bits >> j) as u8 & 1) << 4;
    let mut quants = [0; WEIGHTS];
    for (j, &pair) in low_bits.iter().enumerate() {
        quants[j] = (pair & 0x0f) | fifth(j);
        quants[j + HALF] = (pair >> 4) | fifth(j + HALF);
    }
    quants
}

/// Writes 32 numbers: their fifth bits at byte `high_at` and their low bits at byte `low_at`.
#[inline(always)]
pub(super) fn pack(quants: &[u8; WEIGHTS], block: &mut [u8], high_at: usize, low_at: usize) {
    let mut high_bits = 0u32;
    for (j, &quant) in quants.iter().enumerate() {
        high_bits |= u32::from((quant >> 4) & 1) << j;
    }
    *field_mut::<4>(block, high_at) = high_bits.to_le_bytes();
    for (j, pair) in field_mut::<HALF>(block, low_at).iter_mut().enumerate() {
        *pair = (quants[j] & 0x0f) | (quants[j + HALF] << 4);
    }
}
