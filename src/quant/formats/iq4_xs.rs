//! IQ4_XS: super-blocks of 256 weights, eight blocks of 32 coded as in IQ4_NL under a six-bit scale
//! each.
//!
//! Layout: f16 scale of the scales, 2 bytes with the high two bits of each scale, 4 bytes with their
//! low four bits (two a byte), 128 bytes of weights.

use super::arithmetic::{inverse_or_zero, nearest_int};
use super::blocks::{self, BLOCK, Block, Fit, Found, Searched, Spread};
use super::codec::{Codec, Decode};
use super::fields::{field, field_mut, is_finite_f16, write_f16};
use super::iq4_nl::{self, decode_pairs, encode_pairs};
use super::lanes::Lanes;
use super::wide::Wide;
use crate::gguf::GgmlType;

const WEIGHTS: usize = 256;
const BLOCKS: usize = WEIGHTS / BLOCK;
const SCALE: usize = 0;
const SCALES_HIGH: usize = 2;
const SCALES_LOW: usize = 4;
const QUANTS: usize = 8;
const BYTES: usize = QUANTS + WEIGHTS / 2;

pub(super) const CODEC: Codec = Codec {
    quantize: Some(blocks::quantize::<Iq4Xs, WEIGHTS, BYTES>),
    weighted: Some(blocks::quantize_weighted::<Iq4Xs, WEIGHTS, BYTES>),
    ..Codec::read_only::<Iq4Xs, WEIGHTS, BYTES>()
};

struct Iq4Xs;

impl Decode<WEIGHTS, BYTES> for Iq4Xs {
    const TYPE: GgmlType = GgmlType::IQ4_XS;
    const LAYOUT: &'static str =
        "f16 scale; 8 blocks of 32 with a 6-bit scale each; 4 bits a weight";
    const BUILT: &'static str = "as IQ4_NL for each block, then scales rounded";

    #[inline(always)]
    fn decode<W: Wide>(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let super_scale = W::read_f16(block, SCALE);
        let scales_high = u16::from_le_bytes(*field::<2>(block, SCALES_HIGH));
        let scales_low = field::<4>(block, SCALES_LOW);
        let (pairs, _) = block[QUANTS..].as_chunks::<16>();
        let (outputs, _) = weights.as_chunks_mut::<32>();
        for (b, (pairs, output)) in pairs.iter().zip(outputs).enumerate() {
            let low = (scales_low[b / 2] >> (4 * (b % 2))) & 0x0f;
            let high = (scales_high >> (2 * b)) as u8 & 3;
            let scale = super_scale * (f32::from(low | (high << 4)) - 32.0);
            decode_pairs::<W>(scale, pairs, output);
        }
    }
}

impl Searched<WEIGHTS, BYTES> for Iq4Xs {
    const SPREAD: Spread = Spread::TwiceBlock;

    #[inline(always)]
    fn search<V: Lanes>(weights: &Block<V>, importance: &Block<V>) -> Fit<V> {
        iq4_nl::search(weights, importance)
    }

    #[inline(always)]
    fn write(weights: &[f32; WEIGHTS], found: &[Found], block: &mut [u8; BYTES]) -> bool {
        const LOWEST: i32 = -32;
        let mut extreme = 0.0f32;
        for fit in found {
            if fit.scale.abs() > extreme.abs() {
                extreme = fit.scale;
            }
        }
        let super_scale = -extreme / 32.0;
        write_f16(block, SCALE, super_scale);
        let inverse = inverse_or_zero(super_scale);
        let (mut scales_high, mut scales_low) = (0, [0; BLOCKS / 2]);
        let (inputs, _) = weights.as_chunks::<BLOCK>();
        let (pairs, _) = block[QUANTS..].as_chunks_mut::<16>();
        for (b, (input, pairs)) in inputs.iter().zip(pairs).enumerate() {
            let quant = nearest_int(inverse * found[b].scale).clamp(LOWEST, -LOWEST - 1);
            encode_pairs(inverse_or_zero(super_scale * quant as f32), input, pairs);
            let raised = (quant - LOWEST) as u16;
            scales_low[b / 2] |= ((raised & 0x0f) as u8) << (4 * (b % 2));
            scales_high |= (raised >> 4) << (2 * b);
        }
        *field_mut::<2>(block, SCALES_HIGH) = scales_high.to_le_bytes();
        *field_mut(block, SCALES_LOW) = scales_low;
        is_finite_f16(block, SCALE) && found.iter().all(|fit| fit.scale.is_finite())
    }
}
