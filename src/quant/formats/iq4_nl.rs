//! IQ4_NL: blocks of 32 weights `scale · value[q]` with four bits each, the values unevenly spaced.
//!
//! Layout: f16 scale, 16 bytes; byte `j` holds weight `j` in its low and weight `j + 16` in its high
//! half.

use super::codec::{Codec, Decode, field, read_f16};
use crate::gguf::GgmlType;

const WEIGHTS: usize = 32;
const HALF: usize = WEIGHTS / 2;
const SCALE: usize = 0;
const QUANTS: usize = 2;
const BYTES: usize = QUANTS + HALF;

/// The sixteen values, denser around zero where weights are.
pub(crate) const VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

pub(super) const CODEC: Codec = Codec::read_only::<Iq4Nl, WEIGHTS, BYTES>();

struct Iq4Nl;

impl Decode<WEIGHTS, BYTES> for Iq4Nl {
    const TYPE: GgmlType = GgmlType::IQ4_NL;

    #[inline(always)]
    fn decode(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        decode_pairs(read_f16(block, SCALE), field(block, QUANTS), weights);
    }
}

/// Looks 32 weights up and scales them.
#[inline(always)]
pub(super) fn decode_pairs(scale: f32, pairs: &[u8; HALF], weights: &mut [f32; WEIGHTS]) {
    for (j, &pair) in pairs.iter().enumerate() {
        weights[j] = scale * f32::from(VALUES[usize::from(pair & 0x0f)]);
        weights[j + HALF] = scale * f32::from(VALUES[usize::from(pair >> 4)]);
    }
}
