//! Q5_0: blocks of 32 weights `scale · (q − 16)` with five bits each.
//!
//! Layout: f16 scale, 4 bytes with the fifth bit of every weight (bit `j` is weight `j`'s), 16 bytes
//! whose byte `j` holds the low four bits of weight `j` and of weight `j + 16`.

use super::block_lanes::Lanes;
use super::block_symmetric;
use super::blocks::{self, Block, Fit, Searched, Spread};
use super::codec::{
    Codec, Decode, Encode, extreme, field, inverse_or_zero, is_finite_f16, read_f16, truncate,
    write_f16,
};
use super::five_bits::{self, HALF, WEIGHTS};
use crate::gguf::GgmlType;

const SCALE: usize = 0;
const HIGH_BITS: usize = 2;
const QUANTS: usize = 6;
const BYTES: usize = QUANTS + HALF;

pub(super) const CODEC: Codec = Codec {
    weighted: Some(blocks::quantize_weighted::<Q5_0, WEIGHTS, BYTES>),
    ..Codec::both::<Q5_0, WEIGHTS, BYTES>()
};

#[allow(non_camel_case_types)]
struct Q5_0;

impl Decode<WEIGHTS, BYTES> for Q5_0 {
    const TYPE: GgmlType = GgmlType::Q5_0;

    #[inline(always)]
    fn decode(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let scale = read_f16(block, SCALE);
        let quants = five_bits::unpack(field(block, HIGH_BITS), field(block, QUANTS));
        for (weight, quant) in weights.iter_mut().zip(quants) {
            *weight = (f32::from(quant) - 16.0) * scale;
        }
    }
}

impl Encode<WEIGHTS, BYTES> for Q5_0 {
    #[inline(always)]
    fn encode(weights: &[f32; WEIGHTS], block: &mut [u8; BYTES]) {
        let scale = extreme(weights) / -16.0;
        let inverse = inverse_or_zero(scale);
        write_f16(block, SCALE, scale);
        let quants = weights.map(|weight| (truncate(weight * inverse + 16.5) as i8).min(31) as u8);
        five_bits::pack(&quants, block, HIGH_BITS, QUANTS);
    }

    #[inline(always)]
    fn fits(block: &[u8; BYTES]) -> bool {
        is_finite_f16(block, SCALE)
    }
}

impl Searched<WEIGHTS, BYTES> for Q5_0 {
    const SPREAD: Spread = Spread::Row;

    #[inline(always)]
    fn search<V: Lanes>(weights: &Block<V>, importance: &Block<V>) -> Fit<V> {
        block_symmetric::search::<V, -16, 15>(weights, importance)
    }

    #[inline(always)]
    fn write(weights: &[f32; WEIGHTS], found: &[Fit<f32>], block: &mut [u8; BYTES]) -> bool {
        write_f16(block, SCALE, found[0].scale);
        five_bits::pack(&found[0].quants::<-16, 15>(weights), block, HIGH_BITS, QUANTS);
        Self::fits(block)
    }
}
