//! Q4_0: blocks of 32 weights `scale · (q − 8)` with four bits each.
//!
//! Layout: f16 scale, 16 bytes; byte `j` holds weight `j` in its low and weight `j + 16` in its high
//! half. The weight of largest magnitude becomes −8, the end of the range that has one step more.

use super::arithmetic::inverse_or_zero;
use super::blocks::{self, Block, Fit, Found, Searched, Spread};
use super::codec::{Codec, Decode, Encode};
use super::fields::{field, field_mut, is_finite_f16, write_f16};
use super::lanes::Lanes;
use super::symmetric;
use super::wide::{HALF, WEIGHTS, Wide, pack_nibbles, unpack_nibbles};
use crate::gguf::GgmlType;

const SCALE: usize = 0;
const QUANTS: usize = 2;
const BYTES: usize = QUANTS + HALF;

pub(super) const CODEC: Codec = Codec {
    weighted: Some(blocks::quantize_weighted::<Q4_0, WEIGHTS, BYTES>),
    ..Codec::both::<Q4_0, BYTES>()
};

#[allow(non_camel_case_types)]
struct Q4_0;

impl Decode<WEIGHTS, BYTES> for Q4_0 {
    const TYPE: GgmlType = GgmlType::Q4_0;
    const LAYOUT: &'static str = "f16 scale; 4 bits a weight";
    const BUILT: &'static str = "`scale · (q − 8)`; the weight of largest magnitude becomes −8; with importance, the best of 19 scales";

    #[inline(always)]
    fn decode<W: Wide>(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let quants = unpack_nibbles(field(block, QUANTS));
        W::from_bytes(&quants).sub(8.0).mul(W::read_f16(block, SCALE)).store(weights);
    }
}

impl Encode<BYTES> for Q4_0 {
    const SHOWS_NOT_FINITE: bool = true;

    #[inline(always)]
    fn encode<W: Wide>(weights: W, block: &mut [u8; BYTES]) {
        let scale = weights.extreme() / -8.0;
        W::write_f16(block, SCALE, scale);
        let places = weights.mul(inverse_or_zero(scale)).add(8.5);
        *field_mut(block, QUANTS) = places.truncated_nibbles();
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
        let (scale, quants) = symmetric::fit_with_quants::<V, -8, 7, WEIGHTS>(weights, importance);
        Fit { scale, minimum: V::splat(0.0), quants: Some(quants) }
    }

    #[inline(always)]
    fn write(_: &[f32; WEIGHTS], found: &[Found], block: &mut [u8; BYTES]) -> bool {
        write_f16(block, SCALE, found[0].scale);
        pack_nibbles(&found[0].quants, field_mut(block, QUANTS));
        Self::fits(block)
    }
}
