//! The quantized kernels with AVX-512 (F, BW, DQ, VL) where VNNI is missing: one register holds 16
//! rows.

use std::arch::x86_64::*;

use super::activations::{ActivationKind, Prepared};
use super::float::FloatFormat;
use super::format::QuantizedFormat;
use super::generic::{Limit, RowVector, multiply_quantized};
use super::panel::{QUANTIZED_ROWS, quantized_bytes};

/// Tokens that are multiplied at a time, at most.
pub(super) const TILE: usize = 8;

multiply_quantized!(
    multiply_quantized, "avx512f,avx512bw,avx512dq,avx512vl", Rows,
    { 1 => 1, 2 => 1, 3 => 1, 4 => 1, 5 => 1, 6 => 1, 7 => 1, 8 => 1 });

/// 512-bit registers.
struct Rows;

// SAFETY of the `unsafe` blocks below: the caller has the instruction set; pointers are good for a
// register.
impl RowVector for Rows {
    const LANES: usize = 16;
    /// Pairs of products are added up in i16.
    const LIMIT: Option<Limit> = Some(Limit { largest: i16::MAX as usize, products_a_quad: 2 });
    const SIGNED_BYTES: bool = true;

    type Integers = __m512i;
    type Floats = __m512;
    type Products = __m512i;

    #[inline(always)]
    unsafe fn splat(integer: i32) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_set1_epi32(integer) }
    }

    #[inline(always)]
    unsafe fn load_bytes(source: *const u8) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_loadu_si512(source.cast()) }
    }

    #[inline(always)]
    unsafe fn low_nibbles(bytes: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_and_si512(bytes, _mm512_set1_epi8(0x0f)) }
    }

    #[inline(always)]
    unsafe fn high_nibbles(bytes: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { Self::low_nibbles(_mm512_srli_epi16::<4>(bytes)) }
    }

    #[inline(always)]
    unsafe fn look_up(table: &'static [u8; 16], indices: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe {
            let table = _mm_loadu_si128(table.as_ptr().cast());
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), indices)
        }
    }

    #[inline(always)]
    unsafe fn bits(bytes: __m512i, from: usize, to: usize, mask: u8) -> __m512i {
        // SAFETY: see above.
        unsafe {
            // Bits of neighbouring bytes come along; the mask drops them.
            let moved = if from <= to {
                _mm512_sll_epi16(bytes, _mm_cvtsi32_si128((to - from) as i32))
            } else {
                _mm512_srl_epi16(bytes, _mm_cvtsi32_si128((from - to) as i32))
            };
            _mm512_and_si512(moved, _mm512_set1_epi8(mask as i8))
        }
    }

    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_or_si512(a, b) }
    }

    #[inline(always)]
    unsafe fn begin(_: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn add_quad<const T: usize>(
        products: &mut [__m512i; T],
        codes: __m512i,
        tokens: &[*const u32; T],
        quad: usize,
        signed: bool,
    ) {
        // SAFETY: see above.
        unsafe {
            let signed_codes = _mm512_xor_si512(codes, _mm512_set1_epi8(-128));
            let magnitudes = _mm512_abs_epi8(signed_codes);
            let negative = _mm512_movepi8_mask(signed_codes);
            let zero = _mm512_setzero_si512();
            for (product, token) in products.iter_mut().zip(tokens) {
                let values = _mm512_set1_epi32(token.add(quad).read() as i32);
                *product = if signed {
                    // |code| is at most 128 and activations are at most 127 either way.
                    let values = _mm512_mask_sub_epi8(values, negative, zero, values);
                    _mm512_add_epi16(*product, _mm512_maddubs_epi16(magnitudes, values))
                } else {
                    _mm512_add_epi16(*product, _mm512_maddubs_epi16(codes, values))
                };
            }
        }
    }

    #[inline(always)]
    unsafe fn end(sum: __m512i, products: __m512i) -> __m512i {
        // SAFETY: see above.
        unsafe { _mm512_add_epi32(sum, _mm512_madd_epi16(products, _mm512_set1_epi16(1))) }
    }

    #[inline(always)]
    unsafe fn broadcast(value: f32) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load_powers(source: *const u8) -> __m512 {
        // SAFETY: see above.
        unsafe {
            let exponents = _mm512_cvtepu8_epi32(_mm_loadu_si128(source.cast()));
            let exponents = _mm512_cvtepi32_ps(_mm512_sub_epi32(exponents, _mm512_set1_epi32(128)));
            _mm512_scalef_ps(_mm512_set1_ps(1.0), exponents)
        }
    }

    #[inline(always)]
    unsafe fn load_halves(source: *const u8) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(source.cast())) }
    }

    #[inline(always)]
    unsafe fn load_factors(source: *const u8) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(source.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_nibble_factors(source: *const u8) -> (__m512, __m512) {
        // SAFETY: see above.
        unsafe {
            let pairs = _mm512_cvtepu8_epi32(_mm_loadu_si128(source.cast()));
            let low = _mm512_and_si512(pairs, _mm512_set1_epi32(0x0f));
            (_mm512_cvtepi32_ps(low), _mm512_cvtepi32_ps(_mm512_srli_epi32::<4>(pairs)))
        }
    }

    #[inline(always)]
    unsafe fn load_weights<F: FloatFormat<WIDTH>, const WIDTH: usize>(source: *const u8) -> __m512 {
        // SAFETY: see above.
        unsafe { F::load_16(source) }
    }

    #[inline(always)]
    unsafe fn as_floats(integers: __m512i) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_castsi512_ps(integers) }
    }

    #[inline(always)]
    unsafe fn multiply(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see above.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn store(values: __m512, target: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm512_storeu_ps(target, values) }
    }
}
