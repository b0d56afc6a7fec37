//! MXFP4: blocks of 32 four-bit floats (E2M1) under one power of two (E8M0).
//!
//! Layout: the exponent byte, 16 bytes; byte `j` holds weight `j` in its low and weight `j + 16` in
//! its high half. Source: OCP Microscaling Formats (MX) Specification 1.0.

use super::codec::{Codec, Decode, Encode};
use super::fields::{field, field_mut};
use super::wide::{HALF, WEIGHTS, Wide, pack_nibbles, unpack_nibbles};
use crate::gguf::GgmlType;

const EXPONENT: usize = 0;
const QUANTS: usize = 1;
const BYTES: usize = QUANTS + HALF;

/// Twice the values of E2M1, so that they are whole numbers.
pub(crate) const DOUBLED_VALUES: [i8; 16] =
    [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

pub(super) const CODEC: Codec = Codec::both::<Mxfp4, BYTES>();

struct Mxfp4;

impl Decode<WEIGHTS, BYTES> for Mxfp4 {
    const TYPE: GgmlType = GgmlType::MXFP4;
    const LAYOUT: &'static str = "exponent byte; 4 bits a weight";
    const BUILT: &'static str =
        "E2M1 floats under a power of two that takes the largest magnitude below 8";

    #[inline(always)]
    fn decode<W: Wide>(block: &[u8; BYTES], weights: &mut [f32; WEIGHTS]) {
        let scale = half_power_of_two(block[EXPONENT]);
        let values = W::look_up(&DOUBLED_VALUES, &unpack_nibbles(field(block, QUANTS)));
        W::from_signed_bytes(&values).mul(scale).store(weights);
    }
}

impl Encode<BYTES> for Mxfp4 {
    const SHOWS_NOT_FINITE: bool = false;

    #[inline(always)]
    fn encode<W: Wide>(weights: W, block: &mut [u8; BYTES]) {
        /// Where the nearest value changes, in doubled values; halfway goes to the smaller.
        const MIDDLES: [f32; 7] = [0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0];
        /// The bit of the sign.
        const NEGATIVE: u8 = 3;
        let exponent = exponent(weights.largest_magnitude());
        let scale = half_power_of_two(exponent);
        let mut middles = MIDDLES;
        for middle in &mut middles {
            *middle *= scale;
        }
        let mut quants = weights.limits_passed(&middles);
        let signs = W::scatter_bits::<NEGATIVE>(weights.negative());
        for (quant, sign) in quants.iter_mut().zip(signs) {
            // There is one zero only.
            *quant = if *quant > 0 { *quant | sign } else { 0 };
        }
        block[EXPONENT] = exponent;
        pack_nibbles(&quants, field_mut(block, QUANTS));
    }

    /// Any finite weight has its power of two.
    #[inline(always)]
    fn fits(_: &[u8; BYTES]) -> bool {
        true
    }
}

/// The exponent byte that takes weights of this largest magnitude below 8:
/// `⌊log2 magnitude⌋ − 2 + 127`. It wraps below 2^-125 as ggml's does, where it makes all weights
/// zero.
#[inline(always)]
fn exponent(magnitude: f32) -> u8 {
    const BIAS: i32 = 127;
    if magnitude == 0.0 { 0 } else { (floor_of_rounded_log2(magnitude) - 2 + BIAS) as u8 }
}

/// `⌊log2 magnitude⌋` with the logarithm rounded to f32 before the floor, as in ggml: magnitudes a
/// few steps below a power of two count as that power.
#[inline(always)]
fn floor_of_rounded_log2(magnitude: f32) -> i32 {
    const MANTISSA_BITS: u32 = 23;
    const MANTISSA: u32 = (1 << MANTISSA_BITS) - 1;
    /// No power of two whose logarithm's neighbours are further apart is an f32.
    const MOST_STEPS: u32 = 88;
    // A subnormal's own exponent is lower than its field says.
    let (bits, lowered) = match magnitude < f32::MIN_POSITIVE {
        true => ((magnitude * 2f32.powi(24)).to_bits(), 24),
        false => (magnitude.to_bits(), 0),
    };
    let power = (bits >> MANTISSA_BITS) as i32 - 127 - lowered;
    // How far below the next power of two, in steps of 2^-24 of it.
    let steps = MANTISSA + 1 - (bits & MANTISSA);
    if steps > MOST_STEPS {
        return power;
    }
    // The logarithm is `steps · log2 e` steps of 2^-24 below a whole number, which it is rounded to
    // where the f32 next below that number is more than twice as far.
    let next = power + 1;
    let half_step = match next {
        1.. => (next as u32).next_power_of_two() / 2,
        0 => 0,
        ..0 => 1 << next.unsigned_abs().ilog2(),
    };
    power + i32::from(f64::from(steps) * std::f64::consts::LOG2_E < f64::from(half_step))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponents_are_those_of_the_rounded_logarithm() {
        // Around every power of two, subnormal ones too, and then everywhere.
        let powers = (0..255u32).map(|exponent| exponent << 23).chain((0..23).map(|bit| 1 << bit));
        let around = powers.flat_map(|bits| bits.saturating_sub(300)..bits + 300);
        for bits in around.chain((1..0x7f80_0000).step_by(10_007)).filter(|&bits| bits > 0) {
            let magnitude = f32::from_bits(bits);
            let expected = magnitude.log2().floor() as i32;
            assert_eq!(floor_of_rounded_log2(magnitude), expected, "{magnitude:e}");
        }
    }
}
