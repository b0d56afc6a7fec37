//! [`Vector`] on NEON, which every 64-bit ARM processor has.

use std::arch::aarch64::*;

use super::vector::{EXP2, EXP2_FLOOR, Vector};
use super::work::{Scratch, Work};
use super::{Kernels, stream, tile};

pub(super) const KERNELS: Kernels = Kernels { lanes: 4, tile, stream };

#[target_feature(enable = "neon")]
unsafe fn tile(work: &Work<'_>, scratch: &mut Scratch) {
    // SAFETY: the instruction set is part of the architecture.
    unsafe { tile::attend::<Neon, 4>(work, scratch) }
}

#[target_feature(enable = "neon")]
unsafe fn stream(work: &Work<'_>, scratch: &mut Scratch) {
    // SAFETY: as above.
    unsafe { stream::attend::<Neon, 3, 3>(work, scratch) }
}

/// 4 lanes.
#[derive(Clone, Copy)]
struct Neon(float32x4_t);

// SAFETY of the `unsafe` blocks below: NEON is part of the architecture, and the caller's pointers
// cover what the trait says.
impl Vector for Neon {
    const LANES: usize = 4;

    type Pairs = int16x8_t;
    /// Both products of a pair have a sum of their own, side by side; two lanes a register.
    type Sums = (int32x4_t, int32x4_t);

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(vdupq_n_f32(value)) }
    }

    #[inline(always)]
    unsafe fn load(source: *const f32) -> Self {
        // SAFETY: see above.
        unsafe { Self(vld1q_f32(source)) }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut f32) {
        // SAFETY: see above.
        unsafe { vst1q_f32(target, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(vaddq_f32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn subtract(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(vsubq_f32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn multiply(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(vmulq_f32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn divide(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(vdivq_f32(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn multiply_add(self, other: Self, addend: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(vfmaq_f32(addend.0, self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn multiply_subtract(self, other: Self, subtrahend: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(vfmaq_f32(vnegq_f32(subtrahend.0), self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn larger(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(vbslq_f32(vcgtq_f32(self.0, other.0), self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn smaller(self, other: Self) -> Self {
        // SAFETY: see above.
        unsafe { Self(vbslq_f32(vcltq_f32(self.0, other.0), self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: see above.
        unsafe { vmaxnmvq_f32(self.0) }
    }

    #[inline(always)]
    unsafe fn keep_if_seen(self, firsts: *const i32, ends: *const i32, position: i32) -> Self {
        // SAFETY: see above.
        unsafe {
            let position = vdupq_n_s32(position);
            let begun = vcleq_s32(vld1q_s32(firsts), position);
            let seen = vandq_u32(begun, vcgtq_s32(vld1q_s32(ends), position));
            Self(vbslq_f32(seen, self.0, vdupq_n_f32(f32::NEG_INFINITY)))
        }
    }

    #[inline(always)]
    unsafe fn keep_lanes(self, first: i32, end: i32) -> Self {
        // SAFETY: see above.
        unsafe {
            let lanes = vld1q_s32([0, 1, 2, 3].as_ptr());
            let begun = vcgeq_s32(lanes, vdupq_n_s32(first));
            let kept = vandq_u32(begun, vcltq_s32(lanes, vdupq_n_s32(end)));
            Self(vbslq_f32(kept, self.0, vdupq_n_f32(f32::NEG_INFINITY)))
        }
    }

    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        // SAFETY: see above.
        unsafe {
            let whole = vrndnq_f32(self.0);
            let part = vsubq_f32(self.0, whole);
            let mut power = vdupq_n_f32(EXP2[4]);
            for coefficient in EXP2[..4].iter().rev() {
                power = vfmaq_f32(vdupq_n_f32(*coefficient), power, part);
            }
            // 2^whole is added to the exponent's bits: the power lies in [0.7, 1.5) and the sum
            // stays within the exponent's range for everything that is kept.
            let shift = vshlq_n_s32::<23>(vcvtq_s32_f32(whole));
            let scaled = vaddq_s32(vreinterpretq_s32_f32(power), shift);
            let lost = vcltq_f32(self.0, vdupq_n_f32(EXP2_FLOOR));
            Self(vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_s32(scaled), lost)))
        }
    }

    #[inline(always)]
    unsafe fn transpose(
        source: *const f32,
        source_stride: usize,
        target: *mut f32,
        target_stride: usize,
    ) {
        // SAFETY: see above.
        unsafe {
            let row = |index: usize| vld1q_f32(source.add(index * source_stride));
            // Two rows each: elements 0 and 2, and elements 1 and 3.
            let even = |a, b| vreinterpretq_f64_f32(vtrn1q_f32(a, b));
            let odd = |a, b| vreinterpretq_f64_f32(vtrn2q_f32(a, b));
            let evens = (even(row(0), row(1)), even(row(2), row(3)));
            let odds = (odd(row(0), row(1)), odd(row(2), row(3)));
            let columns = [
                vtrn1q_f64(evens.0, evens.1),
                vtrn1q_f64(odds.0, odds.1),
                vtrn2q_f64(evens.0, evens.1),
                vtrn2q_f64(odds.0, odds.1),
            ];
            for (index, column) in columns.into_iter().enumerate() {
                vst1q_f32(target.add(index * target_stride), vreinterpretq_f32_f64(column));
            }
        }
    }

    #[inline(always)]
    unsafe fn no_pairs() -> Self::Pairs {
        // SAFETY: see above.
        unsafe { vdupq_n_s16(0) }
    }

    #[inline(always)]
    unsafe fn no_sums() -> Self::Sums {
        // SAFETY: see above.
        unsafe { (vdupq_n_s32(0), vdupq_n_s32(0)) }
    }

    #[inline(always)]
    unsafe fn load_pairs(source: *const i16) -> Self::Pairs {
        // SAFETY: see above.
        unsafe { vld1q_s16(source) }
    }

    #[inline(always)]
    unsafe fn splat_pair(source: *const i16) -> Self::Pairs {
        // SAFETY: see above.
        unsafe { vreinterpretq_s16_s32(vdupq_n_s32(source.cast::<i32>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn add_products(sums: Self::Sums, left: Self::Pairs, right: Self::Pairs) -> Self::Sums {
        // SAFETY: see above.
        unsafe {
            let low = vmlal_s16(sums.0, vget_low_s16(left), vget_low_s16(right));
            (low, vmlal_high_s16(sums.1, left, right))
        }
    }

    #[inline(always)]
    unsafe fn from_sums(sums: Self::Sums) -> Self {
        // SAFETY: see above.
        unsafe { Self(vcvtq_f32_s32(vpaddq_s32(sums.0, sums.1))) }
    }

    #[inline(always)]
    unsafe fn store_pairs(self, second: Self, target: *mut i16) {
        // SAFETY: see above.
        unsafe {
            let first = vmovn_s32(vcvtnq_s32_f32(self.0));
            let second = vmovn_s32(vcvtnq_s32_f32(second.0));
            vst2_s16(target, int16x4x2_t(first, second));
        }
    }

    #[inline(always)]
    unsafe fn store_rounded(self, target: *mut i16) {
        // SAFETY: see above.
        unsafe { vst1_s16(target, vmovn_s32(vcvtnq_s32_f32(self.0))) }
    }

    #[inline(always)]
    unsafe fn widen(source: *const i8, target: *mut i16) {
        // SAFETY: see above.
        unsafe { vst1q_s16(target, vmovl_s8(vld1_s8(source))) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vector::tests::check_exp2;

    #[test]
    fn exp2_is_accurate() {
        // SAFETY: NEON is part of the architecture.
        unsafe { check_exp2::<super::Neon>() }
    }
}
