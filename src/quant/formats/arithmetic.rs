//! The arithmetic that all formats share.
//!
//! The bytes must be those of ggml's reference, so every sum here runs in its order, nothing is
//! fused, and conversions to integers behave as x86's do where the value does not fit.

use crate::support::processor::InstructionSet;

/// Whether no weight is NaN or infinite.
#[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "NEON is always there"))]
pub(super) fn all_finite(set: InstructionSet, weights: &[f32]) -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2")]
        fn avx2(weights: &[f32]) -> bool {
            largest_magnitude(weights).is_finite()
        }
        #[target_feature(enable = "avx512f")]
        fn avx512(weights: &[f32]) -> bool {
            largest_magnitude(weights).is_finite()
        }
        match set {
            // SAFETY: the caller names a set that the machine has.
            InstructionSet::Avx512 => return unsafe { avx512(weights) },
            // SAFETY: as above.
            InstructionSet::Avx2 => return unsafe { avx2(weights) },
            InstructionSet::Scalar | InstructionSet::Neon => {}
        }
    }
    largest_magnitude(weights).is_finite()
}

/// `1 / scale`, and 0 for a scale of 0.
#[inline(always)]
pub(super) fn inverse_or_zero(scale: f32) -> f32 {
    if scale != 0.0 { 1.0 / scale } else { 0.0 }
}

/// The integer part; `i32::MIN` where it does not fit or is NaN, which is what x86's conversion
/// gives, and thereby what ggml's `(int8_t) value` gives when cut to its low byte.
#[inline(always)]
pub(super) fn truncate(value: f32) -> i32 {
    // -2^31 is exact in f32, and so is 2^31, the first value that does not fit.
    const LIMIT: f32 = 2_147_483_648.0;
    if (-LIMIT..LIMIT).contains(&value) {
        // SAFETY: the value has just been found to fit. `as` would check again, in scalar code.
        unsafe { value.to_int_unchecked() }
    } else {
        i32::MIN
    }
}

/// The largest f32 below a half: adding the half itself would carry 0.49999997 over to 1.
pub(super) const JUST_BELOW_HALF: f32 = 0.499_999_97;

/// The nearest integer, halves away from zero (C's `roundf`), for values below 2^22.
#[inline(always)]
pub(super) fn round_half_away(value: f32) -> i32 {
    truncate(value + JUST_BELOW_HALF.copysign(value))
}

/// What [`nearest_int`] adds, 1.5 · 2^23; the bits it keeps; and what it takes off them.
pub(super) const MAGIC: f32 = 12_582_912.0;
pub(super) const KEPT: i32 = 0x007f_ffff;
pub(super) const BIAS: i32 = 0x0040_0000;

/// The nearest integer, halves to even, for values below 2^22: adding 1.5 · 2^23 leaves the integer
/// in the low bits of the mantissa.
#[inline(always)]
pub(super) fn nearest_int(value: f32) -> i32 {
    ((value + MAGIC).to_bits() as i32 & KEPT) - BIAS
}

const SIGN: u32 = 0x8000_0000;

/// The largest magnitude; what is not finite is larger than what is. Magnitudes compare as their bits do, and whole numbers
/// vectorize where floats, whose order of comparison matters, do not.
#[inline(always)]
pub(super) fn largest_magnitude(weights: &[f32]) -> f32 {
    let bits = weights.iter().fold(0, |largest, weight| (weight.to_bits() & !SIGN).max(largest));
    f32::from_bits(bits)
}

/// The weight of largest magnitude, sign kept; the first of them where several tie.
#[inline(always)]
pub(super) fn extreme(weights: &[f32]) -> f32 {
    let largest = largest_magnitude(weights);
    if largest == 0.0 {
        return 0.0;
    }
    let occurs = |wanted: f32| {
        let wanted = wanted.to_bits();
        weights.iter().fold(false, |found, weight| found | (weight.to_bits() == wanted))
    };
    match (occurs(largest), occurs(-largest)) {
        (true, false) => largest,
        (false, true) => -largest,
        _ => weights.iter().copied().find(|weight| weight.abs() == largest).unwrap_or(largest),
    }
}

/// The smallest and the largest of finite weights; the first of them where zeros of both signs tie.
#[inline(always)]
pub(super) fn range(weights: &[f32]) -> (f32, f32) {
    // Signed integers in the order of the floats, which vectorize as floats do not.
    let key = |weight: f32| {
        let bits = weight.to_bits() as i32;
        bits ^ ((bits >> 31) as u32 >> 1) as i32
    };
    let value = |key: i32| f32::from_bits((key ^ ((key >> 31) as u32 >> 1) as i32) as u32);
    let minimum = value(weights.iter().fold(i32::MAX, |least, &weight| key(weight).min(least)));
    let maximum = value(weights.iter().fold(i32::MIN, |most, &weight| key(weight).max(most)));
    let first_zero = || weights.iter().copied().find(|&weight| weight == 0.0).unwrap_or(0.0);
    (
        if minimum == 0.0 { first_zero() } else { minimum },
        if maximum == 0.0 { first_zero() } else { maximum },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_are_the_first_of_those_that_tie() {
        assert_eq!(extreme(&[1.0, -3.0, 3.0, 2.0]), -3.0);
        assert_eq!(extreme(&[1.0, 3.0, -3.0, 2.0]), 3.0);
        assert_eq!(extreme(&[-0.0, 0.0]).to_bits(), 0);
        assert_eq!(range(&[1.0, -3.0, 3.0, 2.0]), (-3.0, 3.0));
        let (minimum, maximum) = range(&[-0.0, 0.0, 2.0]);
        assert_eq!((minimum.to_bits(), maximum), ((-0.0f32).to_bits(), 2.0));
        let (minimum, maximum) = range(&[0.0, -0.0, -2.0]);
        assert_eq!((minimum, maximum.to_bits()), (-2.0, 0));
    }

    #[test]
    fn rounding_is_that_of_c_and_of_the_magic_number() {
        for step in -2_000_000..2_000_000i32 {
            let value = step as f32 / 512.0;
            assert_eq!(round_half_away(value), value.round() as i32, "{value}");
            assert_eq!(nearest_int(value), value.round_ties_even() as i32, "{value}");
        }
        let just_below = f32::from_bits(0.5f32.to_bits() - 1);
        assert_eq!(round_half_away(just_below), 0);
        assert_eq!(round_half_away(-just_below), 0);
    }

    #[test]
    fn conversion_of_what_does_not_fit_is_that_of_x86() {
        for value in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 3e9, -3e9, 2_147_483_648.0] {
            assert_eq!(truncate(value), i32::MIN);
        }
        assert_eq!(truncate(-1.9), -1);
        assert_eq!(truncate(127.9), 127);
    }
}
