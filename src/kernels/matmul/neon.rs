//! The kernels with NEON, with and without the dot products of ARMv8.2: one register holds 4 rows, a
//! quarter of a quantized panel.

use std::arch::aarch64::*;
use std::arch::asm;

use super::activations::{ActivationKind, Prepared};
use super::float::FloatFormat;
use super::format::QuantizedFormat;
use super::generic::{Limit, RowVector, multiply_float, multiply_quantized};
use super::panel::{FLOAT_ROWS, QUANTIZED_ROWS, quantized_bytes};

/// Tokens that are multiplied at a time, at most.
pub(super) const TILE: usize = 8;

multiply_quantized!(
    multiply_quantized, "neon", Rows<false>,
    { 1 => 4, 2 => 2, 3 => 2, 4 => 1, 5 => 1, 6 => 1, 7 => 1, 8 => 1 });
multiply_quantized!(
    multiply_quantized_dot, "neon,dotprod", Rows<true>,
    { 1 => 4, 2 => 4, 3 => 2, 4 => 2, 5 => 1, 6 => 1, 7 => 1, 8 => 1 });
multiply_float!(
    multiply_float, "neon", Rows<false>,
    { 1 => 8, 2 => 8, 3 => 4, 4 => 4, 5 => 2, 6 => 2, 7 => 2, 8 => 2 });

/// 128-bit registers; `DOT` says whether there are dot products.
struct Rows<const DOT: bool>;

// SAFETY of the `unsafe` blocks below: the caller has the instruction set; pointers are good for a
// register.
impl<const DOT: bool> RowVector for Rows<DOT> {
    const LANES: usize = 4;
    /// Without dot products each product of a quad has an i16 of its own.
    const LIMIT: Option<Limit> =
        if DOT { None } else { Some(Limit { largest: i16::MAX as usize, products_a_quad: 1 }) };
    const SIGNED_BYTES: bool = true;

    type Integers = uint8x16_t;
    type Floats = float32x4_t;
    /// The sums of four rows in i32; or the products of two rows each in i16.
    type Products = (int16x8_t, int16x8_t);

    #[inline(always)]
    unsafe fn splat(integer: i32) -> uint8x16_t {
        // SAFETY: see above.
        unsafe { vreinterpretq_u8_s32(vdupq_n_s32(integer)) }
    }

    #[inline(always)]
    unsafe fn load_bytes(source: *const u8) -> uint8x16_t {
        // SAFETY: see above.
        unsafe { vld1q_u8(source) }
    }

    #[inline(always)]
    unsafe fn low_nibbles(bytes: uint8x16_t) -> uint8x16_t {
        // SAFETY: see above.
        unsafe { vandq_u8(bytes, vdupq_n_u8(0x0f)) }
    }

    #[inline(always)]
    unsafe fn high_nibbles(bytes: uint8x16_t) -> uint8x16_t {
        // SAFETY: see above.
        unsafe { vshrq_n_u8::<4>(bytes) }
    }

    #[inline(always)]
    unsafe fn look_up(table: &'static [u8; 16], indices: uint8x16_t) -> uint8x16_t {
        // SAFETY: see above.
        unsafe { vqtbl1q_u8(vld1q_u8(table.as_ptr()), indices) }
    }

    #[inline(always)]
    unsafe fn bits(bytes: uint8x16_t, from: usize, to: usize, mask: u8) -> uint8x16_t {
        // SAFETY: see above.
        unsafe {
            let moved = vshlq_u8(bytes, vdupq_n_s8(to as i8 - from as i8));
            vandq_u8(moved, vdupq_n_u8(mask))
        }
    }

    #[inline(always)]
    unsafe fn or(a: uint8x16_t, b: uint8x16_t) -> uint8x16_t {
        // SAFETY: see above.
        unsafe { vorrq_u8(a, b) }
    }

    #[inline(always)]
    unsafe fn begin(sum: uint8x16_t) -> Self::Products {
        // SAFETY: see above.
        unsafe {
            let none = vdupq_n_s16(0);
            if DOT { (vreinterpretq_s16_u8(sum), none) } else { (none, none) }
        }
    }

    #[inline(always)]
    unsafe fn add_quad<const T: usize>(
        products: &mut [Self::Products; T],
        codes: uint8x16_t,
        tokens: &[*const u32; T],
        quad: usize,
        signed: bool,
    ) {
        // SAFETY: see above. Unsigned codes have at most six bits, so that they are signed too.
        unsafe {
            let zero = if signed { vdupq_n_u8(0x80) } else { vdupq_n_u8(0) };
            let codes = vreinterpretq_s8_u8(veorq_u8(codes, zero));
            for (products, token) in products.iter_mut().zip(tokens) {
                if DOT {
                    let values = vreinterpretq_s8_u32(vld1q_u32(token.add(quad / 4 * 4)));
                    products.0 = match quad % 4 {
                        0 => add_dot_products::<0>(products.0, codes, values),
                        1 => add_dot_products::<1>(products.0, codes, values),
                        2 => add_dot_products::<2>(products.0, codes, values),
                        _ => add_dot_products::<3>(products.0, codes, values),
                    };
                } else {
                    let values = vreinterpretq_s8_u32(vld1q_dup_u32(token.add(quad)));
                    products.0 = vmlal_s8(products.0, vget_low_s8(codes), vget_low_s8(values));
                    products.1 = vmlal_high_s8(products.1, codes, values);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn end(sum: uint8x16_t, (low, high): Self::Products) -> uint8x16_t {
        // SAFETY: see above.
        unsafe {
            if DOT {
                return vreinterpretq_u8_s16(low);
            }
            // Four products of a row lie side by side: two pairwise sums, in i32, make them one.
            let pairs = vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
            vreinterpretq_u8_s32(vaddq_s32(vreinterpretq_s32_u8(sum), pairs))
        }
    }

    #[inline(always)]
    unsafe fn broadcast(value: f32) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    unsafe fn load_powers(source: *const u8) -> float32x4_t {
        // SAFETY: see above; four bytes are read.
        unsafe {
            let exponents = widened(source);
            let normal = vshlq_n_u32::<23>(vsubq_u32(exponents, vdupq_n_u32(1)));
            // Exponents 0 and 1 are those of subnormal numbers.
            let shifts = vreinterpretq_s32_u32(exponents);
            let subnormal = vshlq_u32(vdupq_n_u32(0x0020_0000), shifts);
            let is_normal = vcgtq_u32(exponents, vdupq_n_u32(1));
            vreinterpretq_f32_u32(vbslq_u32(is_normal, normal, subnormal))
        }
    }

    #[inline(always)]
    unsafe fn load_halves(source: *const u8) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(source))) }
    }

    #[inline(always)]
    unsafe fn load_factors(source: *const u8) -> float32x4_t {
        // SAFETY: see above; four bytes are read.
        unsafe {
            let bytes = vdup_n_u32(source.cast::<u32>().read_unaligned());
            let words = vmovl_s8(vreinterpret_s8_u32(bytes));
            vcvtq_f32_s32(vmovl_s16(vget_low_s16(words)))
        }
    }

    #[inline(always)]
    unsafe fn load_nibble_factors(source: *const u8) -> (float32x4_t, float32x4_t) {
        // SAFETY: see above; four bytes are read.
        unsafe {
            let pairs = widened(source);
            let low = vandq_u32(pairs, vdupq_n_u32(0x0f));
            (vcvtq_f32_u32(low), vcvtq_f32_u32(vshrq_n_u32::<4>(pairs)))
        }
    }

    #[inline(always)]
    unsafe fn load_weights<F: FloatFormat<WIDTH>, const WIDTH: usize>(
        source: *const u8,
    ) -> float32x4_t {
        // SAFETY: see above.
        unsafe { F::load_4(source) }
    }

    #[inline(always)]
    unsafe fn as_floats(integers: uint8x16_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vreinterpretq_f32_u8(integers) }
    }

    #[inline(always)]
    unsafe fn multiply(a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: see above.
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    unsafe fn store(values: float32x4_t, target: *mut f32) {
        // SAFETY: see above.
        unsafe { vst1q_f32(target, values) }
    }
}

/// Four bytes from memory, a lane each.
///
/// # Safety
/// They can be read; inlined into a function that was compiled for NEON.
#[inline(always)]
unsafe fn widened(source: *const u8) -> uint32x4_t {
    // SAFETY: the caller's.
    unsafe {
        let bytes = vdup_n_u32(source.cast::<u32>().read_unaligned());
        vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(bytes))))
    }
}

/// Adds to each i32 of `sums` the products of its four codes with quad `QUAD` of `values`. (The
/// intrinsic for it is not yet stable.)
///
/// # Safety
/// Inlined into a function that was compiled for `dotprod`.
#[inline(always)]
unsafe fn add_dot_products<const QUAD: usize>(
    sums: int16x8_t,
    codes: int8x16_t,
    values: int8x16_t,
) -> int16x8_t {
    let mut sums = sums;
    // SAFETY: the instruction reads and writes registers only; the caller's processor has it.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {codes:v}.16b, {values:v}.4b[{quad}]",
            sums = inout(vreg) sums,
            codes = in(vreg) codes,
            values = in(vreg) values,
            quad = const QUAD,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}
