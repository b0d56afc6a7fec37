//! Q4_1: blocks of 32 weights `scale · q + minimum` with four bits each.
//!
//! Layout: f16 scale, f16 minimum, 16 bytes; byte `j` holds weight `j` in its low and weight
//! `j + 16` in its high half.

use super::affine::{self, WEIGHTED_TRIALS};
use super::arithmetic::inverse_or_zero;
use super::blocks::{self, Block, Fit, Found, Searched, Spread};
use super::codec::{Codec, Decode, Encode};
use super::fields::{field, field_mut, is_finite_f16, write_f16};
use super::lanes::Lanes;
use super::wide::{HALF, WEIGHTS, Wide, pack_nibbles, unpack_nibbles};
use crate::gguf::GgmlType;

const SCALE: usize = 0;
const MINIMUM: usize = 2;
const QUANTS: usize = 4;
const BYTES: usize = QUANTS + HALF;

pub(super) const CODEC: Codec = Codec {
    weighted: Some(blocks::quantize_weighted::<Q4_1, WEIGHTS, BYTES>),
    ..Codec::both::<Q4_1, BYTES>()
};

#[allow(non_camel_case_types)]
struct Q4_1;

impl Decode<WEIGHTS, BYTES> for Q4_1 {
    const TYPE: GgmlType = GgmlType::Q4_1;
    const LAYOUT: &'static str = "f16 scale and minimum; 4 bits a weight";
    const BUILT: &'static str = "`scale · q + minimum` from the smallest to the largest weight; with importance, the best of 38 fits of scale and minimum";

    #[inline(always)]
    fn decode<W: Wide>(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let quants = unpack_nibbles(field(block, QUANTS));
        let (scale, minimum) = (W::read_f16(block, SCALE), W::read_f16(block, MINIMUM));
        W::from_bytes(&quants).mul(scale).add(minimum).store(weights);
    }
}

impl Encode<BYTES> for Q4_1 {
    const SHOWS_NOT_FINITE: bool = false;

    #[inline(always)]
    fn encode<W: Wide>(weights: W, block: &mut [u8; BYTES]) {
        let (minimum, maximum) = weights.range();
        let scale = (maximum - minimum) / 15.0;
        W::write_f16(block, SCALE, scale);
        W::write_f16(block, MINIMUM, minimum);
        let places = weights.sub(minimum).mul(inverse_or_zero(scale)).add(0.5);
        *field_mut(block, QUANTS) = places.truncated_nibbles();
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
        let (fit, quants) =
            affine::fit_with_quants::<V, 15, WEIGHTS>(&WEIGHTED_TRIALS, weights, importance);
        Fit { scale: fit.scale, minimum: fit.minimum, quants: Some(quants) }
    }

    #[inline(always)]
    fn write(_: &[f32; WEIGHTS], found: &[Found], block: &mut [u8; BYTES]) -> bool {
        write_f16(block, SCALE, found[0].scale);
        write_f16(block, MINIMUM, -found[0].minimum);
        pack_nibbles(&found[0].quants, field_mut(block, QUANTS));
        Self::fits(block)
    }
}
