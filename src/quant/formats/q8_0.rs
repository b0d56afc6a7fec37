//! Q8_0: blocks of 32 weights `scale · q` with a signed byte each.
//!
//! Layout: f16 scale, 32 signed bytes.

use super::arithmetic::inverse_or_zero;
use super::codec::{Codec, Decode, Encode};
use super::fields::{field, field_mut, is_finite_f16};
use super::wide::{WEIGHTS, Wide};
use crate::gguf::GgmlType;

const SCALE: usize = 0;
const QUANTS: usize = 2;
const BYTES: usize = QUANTS + WEIGHTS;

pub(super) const CODEC: Codec = Codec::both::<Q8_0, BYTES>();

#[allow(non_camel_case_types)]
struct Q8_0;

impl Decode<WEIGHTS, BYTES> for Q8_0 {
    const TYPE: GgmlType = GgmlType::Q8_0;
    const LAYOUT: &'static str = "f16 scale; a signed byte a weight";
    const BUILT: &'static str = "`scale · q`; the largest magnitude becomes 127";

    #[inline(always)]
    fn decode<W: Wide>(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let scale = W::read_f16(block, SCALE);
        W::from_signed_bytes(field(block, QUANTS)).mul(scale).store(weights);
    }
}

impl Encode<BYTES> for Q8_0 {
    const SHOWS_NOT_FINITE: bool = true;

    #[inline(always)]
    fn encode<W: Wide>(weights: W, block: &mut [u8; BYTES]) {
        let scale = weights.largest_magnitude() / 127.0;
        W::write_f16(block, SCALE, scale);
        let places = weights.mul(inverse_or_zero(scale));
        *field_mut(block, QUANTS) = places.rounded_half_away();
    }

    #[inline(always)]
    fn fits(block: &[u8; BYTES]) -> bool {
        is_finite_f16(block, SCALE)
    }
}
