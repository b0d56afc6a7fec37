//! How Q4_K and Q5_K pack four bits of each weight: byte `l` of each 32 holds weight `l` of an even
//! block of 32 in its low half and weight `l` of the next block in its high half.

use super::super_blocks::WEIGHTS;

const BLOCK: usize = 32;
pub(super) const BYTES: usize = WEIGHTS / 2;

/// The bits of block `b`.
#[inline(always)]
pub(super) fn unpack(packed: &[u8; BYTES], b: usize) -> [u8; BLOCK] {
    packed.as_chunks::<BLOCK>().0[b / 2].map(|byte| (byte >> (4 * (b % 2))) & 0x0f)
}

/// Packs numbers below sixteen.
#[inline(always)]
pub(super) fn pack(numbers: &[u8; WEIGHTS]) -> [u8; BYTES] {
    let mut packed = [0; BYTES];
    let (pairs, _) = numbers.as_chunks::<{ 2 * BLOCK }>();
    for (pair, packed) in pairs.iter().zip(packed.as_chunks_mut::<BLOCK>().0) {
        for (l, byte) in packed.iter_mut().enumerate() {
            *byte = pair[l] | (pair[l + BLOCK] << 4);
        }
    }
    packed
}
