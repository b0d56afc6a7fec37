//! Q5_1: blocks of 32 weights `scale · q + minimum` with five bits each.
//!
//! Layout: f16 scale, f16 minimum, 4 bytes with the fifth bit of every weight (bit `j` is weight
//! `j`'s), 16 bytes whose byte `j` holds the low four bits of weight `j` and of weight `j + 16`.

use super::affine::{self, WEIGHTED_TRIALS};
use super::arithmetic::inverse_or_zero;
use super::blocks::{self, Block, Fit, Found, Searched, Spread};
use super::codec::{Codec, Decode, Encode};
use super::fields::{field, is_finite_f16, write_f16};
use super::five_bits;
use super::lanes::Lanes;
use super::wide::{HALF, WEIGHTS, Wide};
use crate::gguf::GgmlType;

const SCALE: usize = 0;
const MINIMUM: usize = 2;
const HIGH_BITS: usize = 4;
const QUANTS: usize = 8;
const BYTES: usize = QUANTS + HALF;

pub(super) const CODEC: Codec = Codec {
    weighted: Some(blocks::quantize_weighted::<Q5_1, WEIGHTS, BYTES>),
    ..Codec::both::<Q5_1, BYTES>()
};

#[allow(non_camel_case_types)]
struct Q5_1;

impl Decode<WEIGHTS, BYTES> for Q5_1 {
    const TYPE: GgmlType = GgmlType::Q5_1;
    const LAYOUT: &'static str =
        "f16 scale and minimum; fifth bits in a 32-bit word; 4 bits a weight";
    const BUILT: &'static str = "as Q4_1";

    #[inline(always)]
    fn decode<W: Wide>(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let quants = five_bits::unpack_wide::<W>(field(block, HIGH_BITS), field(block, QUANTS));
        let (scale, minimum) = (W::read_f16(block, SCALE), W::read_f16(block, MINIMUM));
        W::from_bytes(&quants).mul(scale).add(minimum).store(weights);
    }
}

impl Encode<BYTES> for Q5_1 {
    const SHOWS_NOT_FINITE: bool = false;

    #[inline(always)]
    fn encode<W: Wide>(weights: W, block: &mut [u8; BYTES]) {
        let (minimum, maximum) = weights.range();
        let scale = (maximum - minimum) / 31.0;
        W::write_f16(block, SCALE, scale);
        W::write_f16(block, MINIMUM, minimum);
        let places = weights.sub(minimum).mul(inverse_or_zero(scale)).add(0.5);
        five_bits::pack::<W>(&places.truncated(), block, HIGH_BITS, QUANTS);
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
        let (fit, quants) =
            affine::fit_with_quants::<V, 31, WEIGHTS>(&WEIGHTED_TRIALS, weights, importance);
        Fit { scale: fit.scale, minimum: fit.minimum, quants: Some(quants) }
    }

    #[inline(always)]
    fn write(_: &[f32; WEIGHTS], found: &[Found], block: &mut [u8; BYTES]) -> bool {
        write_f16(block, SCALE, found[0].scale);
        write_f16(block, MINIMUM, -found[0].minimum);
        five_bits::pack::<[f32; WEIGHTS]>(&found[0].quants, block, HIGH_BITS, QUANTS);
        Self::fits(block)
    }
}
