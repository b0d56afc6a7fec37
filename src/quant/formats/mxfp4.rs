//! MXFP4: blocks of 32 four-bit floats (E2M1) under one power of two (E8M0).
//!
//! Layout: the exponent byte, 16 bytes; byte `j` holds weight `j` in its low and weight `j + 16` in
//! its high half. Source: OCP Microscaling Formats (MX) Specification 1.0.

use super::codec::{Codec, Decode, field};
use crate::gguf::GgmlType;

const WEIGHTS: usize = 32;
const HALF: usize = WEIGHTS / 2;
const EXPONENT: usize = 0;
const QUANTS: usize = 1;
const BYTES: usize = QUANTS + HALF;

/// Twice the values of E2M1, so that they are whole numbers.
pub(crate) const DOUBLED_VALUES: [i8; 16] =
    [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

pub(super) const CODEC: Codec = Codec::read_only::<Mxfp4, WEIGHTS, BYTES>();

struct Mxfp4;

impl Decode<WEIGHTS, BYTES> for Mxfp4 {
    const TYPE: GgmlType = GgmlType::MXFP4;

    #[inline(always)]
    fn decode(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let scale = half_power_of_two(block[EXPONENT]);
        for (j, &pair) in field::<HALF>(block, QUANTS).iter().enumerate() {
            weights[j] = f32::from(DOUBLED_VALUES[usize::from(pair & 0x0f)]) * scale;
            weights[j + HALF] = f32::from(DOUBLED_VALUES[usize::from(pair >> 4)]) * scale;
        }
    }
}

/// `2^(exponent − 128)`: half of what the exponent byte says, as the values are doubled.
#[inline(always)]
pub(crate) fn half_power_of_two(exponent: u8) -> f32 {
    match exponent {
        // 2^-128 and 2^-127 are subnormal.
        0 => f32::from_bits(0x0020_0000),
        1 => f32::from_bits(0x0040_0000),
        normal => f32::from_bits((u32::from(normal) - 1) << 23),
    }
}
