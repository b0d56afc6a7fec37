//! How Q2_K and Q3_K pack two bits of each weight: byte `l` of each half's 32 bytes holds weights
//! `l`, `l + 32`, `l + 64` and `l + 96` of that half, lowest bits first.

use super::super_blocks::WEIGHTS;

pub(super) const BYTES: usize = WEIGHTS / 4;

/// The bits of block `b` of 16 weights.
#[inline(always)]
pub(super) fn unpack(packed: &[u8; BYTES], b: usize) -> [u8; 16] {
    let (half, within) = (b / 8, b % 8);
    packed.as_chunks::<16>().0[2 * half + within % 2].map(|byte| (byte >> (2 * (within / 2))) & 3)
}

/// Packs numbers below four.
#[inline(always)]
pub(super) fn pack(numbers: &[u8; WEIGHTS]) -> [u8; BYTES] {
    let mut packed = [0; BYTES];
    let (halves, _) = numbers.as_chunks::<128>();
    for (half, packed) in halves.iter().zip(packed.as_chunks_mut::<32>().0) {
        for (l, byte) in packed.iter_mut().enumerate() {
            *byte = half[l] | (half[l + 32] << 2) | (half[l + 64] << 4) | (half[l + 96] << 6);
        }
    }
    packed
}
