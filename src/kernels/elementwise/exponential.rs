//! The exponential function, without branches or calls, so that loops over it are vectorised.

/// `e^x`, as [`exponential_in_range`] has it; x is clamped to its range.
#[inline(always)]
pub(super) fn exponential(x: f32) -> f32 {
    exponential_in_range(x.clamp(-87.0, 88.0))
}

/// `e^x` to within 2 units in the last place, for x in −87…88. NaN stays NaN.
///
/// Cody and Waite's reduction `x = n·ln 2 + r` and the Taylor polynomial of `e^r`, whose
/// remainder for |r| ≤ ln 2 / 2 is below 2⁻²⁵.
#[inline(always)]
pub(super) fn exponential_in_range(x: f32) -> f32 {
    /// Adding 1.5·2²³ rounds to a whole number and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first with few enough bits that n times it is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let rounded = x * std::f32::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut polynomial = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        polynomial = polynomial * r + coefficient;
    }
    // 2^n, its exponent taken from the low bits: as a factor, so that NaN stays NaN.
    polynomial * f32::from_bits((rounded.to_bits() << 23).wrapping_add(0x3F80_0000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exponential_is_right_to_a_few_units() {
        for step in -8700..=8800 {
            let x = step as f32 * 0.01;
            let expected = f64::from(x).exp();
            let error = (f64::from(exponential(x)) / expected - 1.0).abs();
            assert!(error < 3e-7, "e^{x}: off by {error:e}");
        }
        assert!(exponential(f32::NAN).is_nan());
    }
}
