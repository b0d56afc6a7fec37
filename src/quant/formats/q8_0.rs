//! Q8_0: blocks of 32 weights `scale · q` with a signed byte each.
//!
//! Layout: f16 scale, 32 signed bytes.

use super::codec::{
    Codec, Decode, Encode, field, field_mut, inverse_or_zero, is_finite_f16, largest_magnitude,
    read_f16, round_half_away, write_f16,
};
use crate::gguf::GgmlType;

const WEIGHTS: usize = 32;
const SCALE: usize = 0;
const QUANTS: usize = 2;
const BYTES: usize = QUANTS + WEIGHTS;

pub(super) const CODEC: Codec = Codec::both::<Q8_0, WEIGHTS, BYTES>();

#[allow(non_camel_case_types)]
struct Q8_0;

impl Decode<WEIGHTS, BYTES> for Q8_0 {
    const TYPE: GgmlType = GgmlType::Q8_0;

    #[inline(always)]
    fn decode(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let scale = read_f16(block, SCALE);
        for (weight, &quant) in weights.iter_mut().zip(field::<WEIGHTS>(block, QUANTS)) {
            *weight = f32::from(quant as i8) * scale;
        }
    }
}

impl Encode<WEIGHTS, BYTES> for Q8_0 {
    #[inline(always)]
    fn encode(weights: &[f32; WEIGHTS], block: &mut [u8; BYTES]) {
        let scale = largest_magnitude(weights) / 127.0;
        let inverse = inverse_or_zero(scale);
        write_f16(block, SCALE, scale);
        for (quant, &weight) in field_mut::<WEIGHTS>(block, QUANTS).iter_mut().zip(weights) {
            *quant = round_half_away(weight * inverse) as u8;
        }
    }

    #[inline(always)]
    fn fits(block: &[u8; BYTES]) -> bool {
        is_finite_f16(block, SCALE)
    }
}
