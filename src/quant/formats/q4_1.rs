//! Q4_1: blocks of 32 weights `scale · q + minimum` with four bits each.
//!
//! Layout: f16 scale, f16 minimum, 16 bytes; byte `j` holds weight `j` in its low and weight
//! `j + 16` in its high half.

use super::block_lanes::Lanes;
use super::block_ranged;
use super::blocks::{self, Block, Fit, Searched, Spread};
use super::codec::{
    Codec, Decode, Encode, field, field_mut, inverse_or_zero, is_finite_f16, range, read_f16,
    truncate, write_f16,
};
use crate::gguf::GgmlType;

const WEIGHTS: usize = 32;
const HALF: usize = WEIGHTS / 2;
const SCALE: usize = 0;
const MINIMUM: usize = 2;
const QUANTS: usize = 4;
const BYTES: usize = QUANTS + HALF;

pub(super) const CODEC: Codec = Codec {
    weighted: Some(blocks::quantize_weighted::<Q4_1, WEIGHTS, BYTES>),
    ..Codec::both::<Q4_1, WEIGHTS, BYTES>()
};

#[allow(non_camel_case_types)]
struct Q4_1;

impl Decode<WEIGHTS, BYTES> for Q4_1 {
    const TYPE: GgmlType = GgmlType::Q4_1;

    #[inline(always)]
    fn decode(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let scale = read_f16(block, SCALE);
        let minimum = read_f16(block, MINIMUM);
        let pairs = *field::<HALF>(block, QUANTS);
        let (low, high) = weights.split_at_mut(HALF);
        for (weight, pair) in low.iter_mut().zip(pairs) {
            *weight = f32::from(pair & 0x0f) * scale + minimum;
        }
        for (weight, pair) in high.iter_mut().zip(pairs) {
            *weight = f32::from(pair >> 4) * scale + minimum;
        }
    }
}

impl Encode<WEIGHTS, BYTES> for Q4_1 {
    #[inline(always)]
    fn encode(weights: &[f32; WEIGHTS], block: &mut [u8; BYTES]) {
        let (minimum, maximum) = range(weights);
        let scale = (maximum - minimum) / 15.0;
        let inverse = inverse_or_zero(scale);
        let quants = weights
            .map(|weight| (truncate((weight - minimum) * inverse + 0.5) as i8).min(15) as u8);
        pack(scale, minimum, &quants, block);
    }

    #[inline(always)]
    fn fits(block: &[u8; BYTES]) -> bool {
        is_finite_f16(block, SCALE) && is_finite_f16(block, MINIMUM)
    }
}

impl Searched<WEIGHTS, BYTES> for Q4_1 {
    const SPREAD: Spread = Spread::Row;

    #[inline(always)]
    fn search<V: Lanes>(weights: &Block<V>, importance: &Block<V>) -> Fit<V> {
        block_ranged::search::<V, 15>(weights, importance)
    }

    #[inline(always)]
    fn write(weights: &[f32; WEIGHTS], found: &[Fit<f32>], block: &mut [u8; BYTES]) -> bool {
        pack(found[0].scale, found[0].minimum, &found[0].quants::<0, 15>(weights), block);
        Self::fits(block)
    }
}

#[inline(always)]
fn pack(scale: f32, minimum: f32, quants: &[u8; WEIGHTS], block: &mut [u8; BYTES]) {
    write_f16(block, SCALE, scale);
    write_f16(block, MINIMUM, minimum);
    for (j, pair) in field_mut::<HALF>(block, QUANTS).iter_mut().enumerate() {
        *pair = quants[j] | (quants[j + HALF] << 4);
    }
}
