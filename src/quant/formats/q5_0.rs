//! Q5_0: blocks of 32 weights `scale · (q − 16)` with five bits each.
//!
//! Layout: f16 scale, 4 bytes with the fifth bit of every weight (bit `j` is weight `j`'s), 16 bytes
//! whose byte `j` holds the low four bits of weight `j` and of weight `j + 16`.

use super::arithmetic::inverse_or_zero;
use super::blocks::{self, Block, Fit, Found, Searched, Spread};
use super::codec::{Codec, Decode, Encode};
use super::fields::{field, is_finite_f16, write_f16};
use super::five_bits;
use super::lanes::Lanes;
use super::symmetric;
use super::wide::{HALF, WEIGHTS, Wide, at_most};
use crate::gguf::GgmlType;

const SCALE: usize = 0;
const HIGH_BITS: usize = 2;
const QUANTS: usize = 6;
const BYTES: usize = QUANTS + HALF;

pub(super) const CODEC: Codec = Codec {
    weighted: Some(blocks::quantize_weighted::<Q5_0, WEIGHTS, BYTES>),
    ..Codec::both::<Q5_0, BYTES>()
};

#[allow(non_camel_case_types)]
struct Q5_0;

impl Decode<WEIGHTS, BYTES> for Q5_0 {
    const TYPE: GgmlType = GgmlType::Q5_0;
    const LAYOUT: &'static str = "f16 scale; fifth bits in a 32-bit word; 4 bits a weight";
    const BUILT: &'static str = "as Q4_0: `scale · (q − 16)`";

    #[inline(always)]
    fn decode<W: Wide>(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let quants = five_bits::unpack_wide::<W>(field(block, HIGH_BITS), field(block, QUANTS));
        W::from_bytes(&quants).sub(16.0).mul(W::read_f16(block, SCALE)).store(weights);
    }
}

impl Encode<BYTES> for Q5_0 {
    const SHOWS_NOT_FINITE: bool = true;

    #[inline(always)]
    fn encode<W: Wide>(weights: W, block: &mut [u8; BYTES]) {
        let scale = weights.extreme() / -16.0;
        W::write_f16(block, SCALE, scale);
        let places = weights.mul(inverse_or_zero(scale)).add(16.5);
        five_bits::pack::<W>(&at_most::<31>(places.truncated()), block, HIGH_BITS, QUANTS);
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
        let (scale, quants) =
            symmetric::fit_with_quants::<V, -16, 15, WEIGHTS>(weights, importance);
        Fit { scale, minimum: V::splat(0.0), quants: Some(quants) }
    }

    #[inline(always)]
    fn write(_: &[f32; WEIGHTS], found: &[Found], block: &mut [u8; BYTES]) -> bool {
        write_f16(block, SCALE, found[0].scale);
        five_bits::pack::<[f32; WEIGHTS]>(&found[0].quants, block, HIGH_BITS, QUANTS);
        Self::fits(block)
    }
}
