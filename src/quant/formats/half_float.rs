//! Conversions between f16 or bf16 and f32 without branches or tables, so that loops over them vectorize on
//! any instruction set. Both are exact or round to nearest even, as the processor's own do.

const SIGN: u32 = 0x8000_0000;
const F16_MANTISSA_SHIFT: u32 = 23 - 10;
/// What an f16's exponent needs to become an f32's: 127 − 15, in place.
const REBIAS: u32 = 112 << 23;
/// 2^-14, the smallest normal f16, as f32.
const SMALLEST_NORMAL: u32 = 113 << 23;
/// 2^16, the first power of two that f16 does not hold, as f32.
const TOO_LARGE: u32 = 143 << 23;
const INFINITY: u32 = 255 << 23;
const QUIET: u32 = 1 << 22;

/// The value of an f16.
#[inline(always)]
pub(super) fn f16_to_f32(bits: u16) -> f32 {
    let bits = u32::from(bits);
    let magnitude = (bits & 0x7fff) << F16_MANTISSA_SHIFT;
    let exponent = magnitude & (31 << 23);
    let normal = magnitude + REBIAS;
    // A subnormal is its mantissa in steps of 2^-24: put it below 2^-14 and take that off again.
    let subnormal =
        (f32::from_bits(magnitude | SMALLEST_NORMAL) - f32::from_bits(SMALLEST_NORMAL)).to_bits();
    // A NaN becomes a quiet one.
    let quiet = if magnitude & (0x3ff << F16_MANTISSA_SHIFT) != 0 { QUIET } else { 0 };
    let special = magnitude | INFINITY | quiet;
    let value = if exponent == 0 {
        subnormal
    } else if exponent == 31 << 23 {
        special
    } else {
        normal
    };
    f32::from_bits(value | (bits & 0x8000) << 16)
}

/// The nearest f16, ties to even; infinity from 65,520 on.
#[inline(always)]
pub(super) fn f32_to_f16(value: f32) -> u16 {
    let bits = value.to_bits();
    let magnitude = bits & !SIGN;
    // Where the result is subnormal, adding 0.5 lets the processor round at the right bit.
    const HALF: f32 = 0.5;
    let subnormal =
        (f32::from_bits(magnitude.min(SMALLEST_NORMAL)) + HALF).to_bits() - HALF.to_bits();
    let odd = (magnitude >> F16_MANTISSA_SHIFT) & 1;
    let normal = magnitude.wrapping_sub(REBIAS).wrapping_add(0xfff + odd) >> F16_MANTISSA_SHIFT;
    let special = if magnitude > INFINITY { 0x7e00 } else { 0x7c00 };
    let half = if magnitude >= TOO_LARGE {
        special
    } else if magnitude < SMALLEST_NORMAL {
        subnormal
    } else {
        normal
    };
    (half | (bits & SIGN) >> 16) as u16
}

/// The value of a bf16: the upper half of an f32.
#[inline(always)]
pub(super) fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The bf16 nearest to a number, ties to even; infinity where it is nearer than the largest.
#[inline(always)]
pub(super) fn f32_to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    let odd = (bits >> 16) & 1;
    (bits.wrapping_add(0x7fff + odd) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    #[test]
    fn every_f16_has_its_value_and_comes_back() {
        for bits in 0..=u16::MAX {
            let expected = f16::from_bits(bits).to_f32();
            let value = f16_to_f32(bits);
            if expected.is_nan() {
                assert!(value.is_nan() && f16::from_bits(f32_to_f16(value)).is_nan());
            } else {
                assert_eq!(value.to_bits(), expected.to_bits());
                assert_eq!(f32_to_f16(value), bits);
            }
        }
    }

    #[test]
    fn rounding_is_to_nearest_even_everywhere() {
        for step in 0..=u32::MAX / 509 {
            let value = f32::from_bits(step * 509);
            let expected = f16::from_f32(value);
            if !expected.is_nan() {
                assert_eq!(f32_to_f16(value), expected.to_bits(), "{value:e}");
            }
        }
    }

    #[test]
    fn bf16_is_rounded_to_nearest_even() {
        for step in 0..=u32::MAX / 509 {
            let value = f32::from_bits(step * 509);
            if !value.is_nan() {
                assert_eq!(f32_to_bf16(value), half::bf16::from_f32(value).to_bits(), "{value:e}");
            }
        }
        for bits in 0..=u16::MAX {
            let expected = half::bf16::from_bits(bits).to_f32();
            let value = bf16_to_f32(bits);
            assert!(value.to_bits() == expected.to_bits() || expected.is_nan() && value.is_nan());
        }
    }

    #[test]
    fn halfway_values_go_to_the_even_neighbour() {
        for bits in 0..0x7bff {
            let halfway = (f16_to_f32(bits) + f16_to_f32(bits + 1)) / 2.0;
            assert_eq!(f32_to_f16(halfway), bits + (bits & 1), "{halfway:e}");
        }
    }
}
