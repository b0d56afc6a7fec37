//! The loops with NEON, with and without its dot products.

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Arithmetic, MultiplyAdd, MultiplyAddLoop, multiply_add_loop};
use crate::support::processor::InstructionSet;

pub(super) fn multiply_add_loop(
    set: InstructionSet,
    arithmetic: Arithmetic,
) -> Option<MultiplyAddLoop> {
    if set != InstructionSet::Neon {
        return None;
    }
    Some(match arithmetic {
        Arithmetic::Int8 if set.uses_dot_product() => {
            multiply_add_loop!("SDOT, 128 bits", Dot8, 4 x 3, "neon,dotprod")
        }
        Arithmetic::Int8 => multiply_add_loop!("SMULL and SADALP, 128 bits", Pairs8, 4 x 3, "neon"),
        Arithmetic::Int16 => multiply_add_loop!("SMLAL, 128 bits", Long16, 3 x 3, "neon"),
        Arithmetic::Float => multiply_add_loop!("FMLA, 128 bits", Float, 4 x 3, "neon"),
    })
}

/// 16 products in four sums.
struct Dot8;

impl MultiplyAdd for Dot8 {
    type Operand = int8x16_t;
    type Sums = int32x4_t;
    const OPERATIONS: u64 = 32;

    #[inline(always)]
    unsafe fn zero() -> int32x4_t {
        // SAFETY: the caller has the instruction set.
        unsafe { vdupq_n_s32(0) }
    }

    #[inline(always)]
    unsafe fn load(source: *const u8) -> int8x16_t {
        // SAFETY: the caller's pointers cover a register, and it has the instruction set.
        unsafe { vld1q_s8(source.cast()) }
    }

    #[inline(always)]
    unsafe fn add(mut sums: int32x4_t, left: int8x16_t, right: int8x16_t) -> int32x4_t {
        // SAFETY: the instruction changes nothing but `sums`; the caller has the instruction set.
        unsafe {
            asm!(
                "sdot {sums:v}.4s, {left:v}.16b, {right:v}.16b",
                sums = inout(vreg) sums, left = in(vreg) left, right = in(vreg) right,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sums
    }
}

/// The same without dot products.
struct Pairs8;

impl MultiplyAdd for Pairs8 {
    type Operand = int8x16_t;
    type Sums = int32x4_t;
    const OPERATIONS: u64 = 32;

    #[inline(always)]
    unsafe fn zero() -> int32x4_t {
        // SAFETY: the caller has the instruction set.
        unsafe { vdupq_n_s32(0) }
    }

    #[inline(always)]
    unsafe fn load(source: *const u8) -> int8x16_t {
        // SAFETY: the caller's pointers cover a register, and it has the instruction set.
        unsafe { vld1q_s8(source.cast()) }
    }

    #[inline(always)]
    unsafe fn add(sums: int32x4_t, left: int8x16_t, right: int8x16_t) -> int32x4_t {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe {
            let low = vmull_s8(vget_low_s8(left), vget_low_s8(right));
            vpadalq_s16(vpadalq_s16(sums, low), vmull_high_s8(left, right))
        }
    }
}

/// Eight products in eight sums.
struct Long16;

impl MultiplyAdd for Long16 {
    type Operand = int16x8_t;
    type Sums = int32x4x2_t;
    const OPERATIONS: u64 = 16;

    #[inline(always)]
    unsafe fn zero() -> int32x4x2_t {
        // SAFETY: the caller has the instruction set.
        unsafe { int32x4x2_t(vdupq_n_s32(0), vdupq_n_s32(0)) }
    }

    #[inline(always)]
    unsafe fn load(source: *const u8) -> int16x8_t {
        // SAFETY: the caller's pointers cover a register, and it has the instruction set.
        unsafe { vld1q_s16(source.cast()) }
    }

    #[inline(always)]
    unsafe fn add(sums: int32x4x2_t, left: int16x8_t, right: int16x8_t) -> int32x4x2_t {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe {
            let low = vmlal_s16(sums.0, vget_low_s16(left), vget_low_s16(right));
            int32x4x2_t(low, vmlal_high_s16(sums.1, left, right))
        }
    }
}

/// Four products in four sums.
struct Float;

impl MultiplyAdd for Float {
    type Operand = float32x4_t;
    type Sums = float32x4_t;
    const OPERATIONS: u64 = 8;

    #[inline(always)]
    unsafe fn zero() -> float32x4_t {
        // SAFETY: the caller has the instruction set.
        unsafe { vdupq_n_f32(0.0) }
    }

    #[inline(always)]
    unsafe fn load(source: *const u8) -> float32x4_t {
        // SAFETY: the caller's pointers cover a register, and it has the instruction set.
        unsafe { vld1q_f32(source.cast()) }
    }

    #[inline(always)]
    unsafe fn add(sums: float32x4_t, left: float32x4_t, right: float32x4_t) -> float32x4_t {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { vfmaq_f32(sums, left, right) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::tests::check;
    use super::*;

    /// The assembler only takes the instruction where it is enabled.
    #[target_feature(enable = "neon,dotprod")]
    fn check_dot_product(product: f64, sum: impl Fn(int32x4_t) -> f64) {
        check::<Dot8>(product, sum);
    }

    /// Each kind that this machine has, given the product of two 16-bit operands.
    pub(in super::super) fn check_all(product16: f64) {
        let product8 = 63.0 * 63.0;
        // SAFETY: every ARM processor of 64 bits has NEON.
        let sum = |sums| f64::from(unsafe { vaddvq_s32(sums) });
        check::<Pairs8>(product8, sum);
        if InstructionSet::Neon.has_dot_product() {
            // SAFETY: the dot products are there.
            unsafe { check_dot_product(product8, sum) };
        }
        // SAFETY: as above.
        let pair = |sums: int32x4x2_t| f64::from(unsafe { vaddvq_s32(vaddq_s32(sums.0, sums.1)) });
        check::<Long16>(product16, pair);
    }
}
