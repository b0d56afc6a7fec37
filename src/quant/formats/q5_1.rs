//! Q5_1: blocks of 32 weights `scale · q + minimum` with five bits each.
//!
//! Layout: f16 scale, f16 minimum, 4 bytes with the fifth bit of every weight (bit `j` is weight
//! `j`'s), 16 bytes whose byte `j` holds the low four bits of weight `j` and of weight `j + 16`.

use super::block_lanes::Lanes;
use super::block_ranged;
use super::blocks::{self, Block, Fit, Searched, Spread};
use super::codec::{
    Codec, Decode, Encode, field, inverse_or_zero, is_finite_f16, range, read_f16, truncate,
    write_f16,
};
use super::five_bits::{self, HALF, WEIGHTS};
use crate::gguf::GgmlType;

const SCALE: usize = 0;
const MINIMUM: usize = 2;
const HIGH_BITS: usize = 4;
const QUANTS: usize = 8;
const BYTES: usize = QUANTS + HALF;

pub(super) const CODEC: Codec = Codec {
    weighted: Some(blocks::quantize_weighted::<Q5_1, WEIGHTS, BYTES>),
    ..Codec::both::<Q5_1, WEIGHTS, BYTES>()
};

#[allow(non_camel_case_types)]
struct Q5_1;

impl Decode<WEIGHTS, BYTES> for Q5_1 {
    const TYPE: GgmlType = GgmlType::Q5_1;

    #[inline(always)]
    fn decode(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let scale = read_f16(block, SCALE);
        let minimum = read_f16(block, MINIMUM);
        let quants = five_bits::unpack(field(block, HIGH_BITS), field(block, QUANTS));
        for (weight, quant) in weights.iter_mut().zip(quants) {
            *weight = f32::from(quant) * scale + minimum;
        }
    }
}

impl Encode<WEIGHTS, BYTES> for Q5_1 {
    #[inline(always)]
    fn encode(weights: &[f32; WEIGHTS], block: &mut [u8; BYTES]) {
        let (minimum, maximum) = range(weights);
        let scale = (maximum - minimum) / 31.0;
        let inverse = inverse_or_zero(scale);
        write_f16(block, SCALE, scale);
        write_f16(block, MINIMUM, minimum);
        let quants = weights.map(|weight| truncate((weight - minimum) * inverse + 0.5) as u8);
        five_bits::pack(&quants, block, HIGH_BITS, QUANTS);
    }

    #[inline(always)]
    fn fits(block: &[u8; BYTES]) -> bool {
        is_finite_f16(block, SCALE) && is_finite_f16(block, MINIMUM)
    }
}

impl Searched<WEIGHTS, BYTES> for Q5_1 {
    const SPREAD: Spread = Spread::Row;

    #[inline(always)]
    fn search<V: Lanes>(weights: &Block<V>, importance: &Block<V>) -> Fit<V> {
        block_ranged::search::<V, 31>(weights, importance)
    }

    #[inline(always)]
    fn write(weights: &[f32; WEIGHTS], found: &[Fit<f32>], block: &mut [u8; BYTES]) -> bool {
        write_f16(block, SCALE, found[0].scale);
        write_f16(block, MINIMUM, found[0].minimum);
        five_bits::pack(&found[0].quants::<0, 31>(weights), block, HIGH_BITS, QUANTS);
        Self::fits(block)
    }
}
