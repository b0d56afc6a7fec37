//! IQ4_XS: super-blocks of 256 weights, eight blocks of 32 coded as in IQ4_NL under a six-bit scale
//! each.
//!
//! Layout: f16 scale of the scales, 2 bytes with the high two bits of each scale, 4 bytes with their
//! low four bits (two a byte), 128 bytes of weights.

use super::codec::{Codec, Decode, field, read_f16};
use super::iq4_nl::decode_pairs;
use crate::gguf::GgmlType;

const WEIGHTS: usize = 256;
const SCALE: usize = 0;
const SCALES_HIGH: usize = 2;
const SCALES_LOW: usize = 4;
const QUANTS: usize = 8;
const BYTES: usize = QUANTS + WEIGHTS / 2;

pub(super) const CODEC: Codec = Codec::read_only::<Iq4Xs, WEIGHTS, BYTES>();

struct Iq4Xs;

impl Decode<WEIGHTS, BYTES> for Iq4Xs {
    const TYPE: GgmlType = GgmlType::IQ4_XS;

    #[inline(always)]
    fn decode(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let super_scale = read_f16(block, SCALE);
        let scales_high = u16::from_le_bytes(*field::<2>(block, SCALES_HIGH));
        let scales_low = field::<4>(block, SCALES_LOW);
        let (pairs, _) = block[QUANTS..].as_chunks::<16>();
        let (outputs, _) = weights.as_chunks_mut::<32>();
        for (b, (pairs, output)) in pairs.iter().zip(outputs).enumerate() {
            let low = (scales_low[b / 2] >> (4 * (b % 2))) & 0x0f;
            let high = (scales_high >> (2 * b)) as u8 & 3;
            let scale = super_scale * (f32::from(low | (high << 4)) - 32.0);
            decode_pairs(scale, pairs, output);
        }
    }
}
