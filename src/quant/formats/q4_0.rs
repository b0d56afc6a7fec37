//! Q4_0: blocks of 32 weights `scale · (q − 8)` with four bits each.
//!
//! Layout: f16 scale, 16 bytes; byte `j` holds weight `j` in its low and weight `j + 16` in its high
//! half. The weight of largest magnitude becomes −8, the end of the range that has one step more.

use super::block_lanes::Lanes;
use super::block_symmetric;
use super::blocks::{self, Block, Fit, Searched, Spread};
use super::codec::{
    Codec, Decode, Encode, extreme, field, field_mut, inverse_or_zero, is_finite_f16, read_f16,
    truncate, write_f16,
};
use crate::gguf::GgmlType;

const WEIGHTS: usize = 32;
const HALF: usize = WEIGHTS / 2;
const SCALE: usize = 0;
const QUANTS: usize = 2;
const BYTES: usize = QUANTS + HALF;

pub(super) const CODEC: Codec = Codec {
    weighted: Some(blocks::quantize_weighted::<Q4_0, WEIGHTS, BYTES>),
    ..Codec::both::<Q4_0, WEIGHTS, BYTES>()
};

#[allow(non_camel_case_types)]
struct Q4_0;

impl Decode<WEIGHTS, BYTES> for Q4_0 {
    const TYPE: GgmlType = GgmlType::Q4_0;

    #[inline(always)]
    fn decode(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let scale = read_f16(block, SCALE);
        let pairs = *field::<HALF>(block, QUANTS);
        let (low, high) = weights.split_at_mut(HALF);
        for (weight, pair) in low.iter_mut().zip(pairs) {
            *weight = (f32::from(pair & 0x0f) - 8.0) * scale;
        }
        for (weight, pair) in high.iter_mut().zip(pairs) {
            *weight = (f32::from(pair >> 4) - 8.0) * scale;
        }
    }
}

impl Encode<WEIGHTS, BYTES> for Q4_0 {
    #[inline(always)]
    fn encode(weights: &[f32; WEIGHTS], block: &mut [u8; BYTES]) {
        let scale = extreme(weights) / -8.0;
        let inverse = inverse_or_zero(scale);
        let quants = weights.map(|weight| (truncate(weight * inverse + 8.5) as i8).min(15) as u8);
        pack(scale, &quants, block);
    }

    #[inline(always)]
    fn fits(block: &[u8; BYTES]) -> bool {
        is_finite_f16(block, SCALE)
    }
}

impl Searched<WEIGHTS, BYTES> for Q4_0 {
    const SPREAD: Spread = Spread::Row;

    #[inline(always)]
    fn search<V: Lanes>(weights: &Block<V>, importance: &Block<V>) -> Fit<V> {
        block_symmetric::search::<V, -8, 7>(weights, importance)
    }

    #[inline(always)]
    fn write(weights: &[f32; WEIGHTS], found: &[Fit<f32>], block: &mut [u8; BYTES]) -> bool {
        pack(found[0].scale, &found[0].quants::<-8, 7>(weights), block);
        Self::fits(block)
    }
}

#[inline(always)]
fn pack(scale: f32, quants: &[u8; WEIGHTS], block: &mut [u8; BYTES]) {
    write_f16(block, SCALE, scale);
    for (j, pair) in field_mut::<HALF>(block, QUANTS).iter_mut().enumerate() {
        *pair = quants[j] | (quants[j + HALF] << 4);
    }
}
