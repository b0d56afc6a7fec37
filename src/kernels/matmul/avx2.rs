//! The kernels with AVX2, FMA and F16C, with and without AVX-VNNI: one register holds 8 rows, half a
//! quantized panel.

use std::arch::x86_64::*;

use super::activations::{ActivationKind, Prepared};
use super::float::FloatFormat;
use super::format::QuantizedFormat;
use super::generic::{Limit, RowVector, multiply_float, multiply_quantized};
use super::panel::{FLOAT_ROWS, QUANTIZED_ROWS, quantized_bytes};

/// Tokens that are multiplied at a time, at most.
pub(super) const TILE: usize = 4;

/// [`ActivationKind::fill`], compiled for AVX2.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn fill(kind: ActivationKind, input: &[f32], words: &mut [u32]) {
    kind.fill(input, words);
}

multiply_quantized!(
    multiply_quantized, "avx2,fma,f16c", Rows<false>, { 1 => 2, 2 => 2, 3 => 1, 4 => 1 });
multiply_quantized!(
    multiply_quantized_vnni, "avx2,fma,f16c,avxvnni", Rows<true>, { 1 => 2, 2 => 2, 3 => 2, 4 => 2 });
multiply_float!(multiply_float, "avx2,fma,f16c", Rows<false>, { 1 => 4, 2 => 4, 3 => 2, 4 => 2 });

/// 256-bit registers; `VNNI` says whether there is AVX-VNNI.
struct Rows<const VNNI: bool>;

// SAFETY of the `unsafe` blocks below: the caller has the instruction set; pointers are good for a
// register.
impl<const VNNI: bool> RowVector for Rows<VNNI> {
    const LANES: usize = 8;
    /// Without VNNI pairs of products are added up in i16.
    const LIMIT: Option<Limit> =
        if VNNI { None } else { Some(Limit { largest: i16::MAX as usize, products_a_quad: 2 }) };
    const SIGNED_BYTES: bool = !VNNI;

    type Integers = __m256i;
    type Floats = __m256;
    type Products = __m256i;

    #[inline(always)]
    unsafe fn splat(integer: i32) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_set1_epi32(integer) }
    }

    #[inline(always)]
    unsafe fn load_bytes(source: *const u8) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_loadu_si256(source.cast()) }
    }

    #[inline(always)]
    unsafe fn low_nibbles(bytes: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_and_si256(bytes, _mm256_set1_epi8(0x0f)) }
    }

    #[inline(always)]
    unsafe fn high_nibbles(bytes: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { Self::low_nibbles(_mm256_srli_epi16::<4>(bytes)) }
    }

    #[inline(always)]
    unsafe fn look_up(table: &'static [u8; 16], indices: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe {
            let table = _mm_loadu_si128(table.as_ptr().cast());
            _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), indices)
        }
    }

    #[inline(always)]
    unsafe fn bits(bytes: __m256i, from: usize, to: usize, mask: u8) -> __m256i {
        // SAFETY: see above.
        unsafe {
            // Bits of neighbouring bytes come along; the mask drops them.
            let moved = if from <= to {
                _mm256_sll_epi16(bytes, _mm_cvtsi32_si128((to - from) as i32))
            } else {
                _mm256_srl_epi16(bytes, _mm_cvtsi32_si128((from - to) as i32))
            };
            _mm256_and_si256(moved, _mm256_set1_epi8(mask as i8))
        }
    }

    #[inline(always)]
    unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see above.
        unsafe { _mm256_or_si256(a, b) }
    }

    #[inline(always)]
    unsafe fn begin(sum: __m256i) -> __m256i {
        // SAFETY: see above.
        if VNNI { sum } else { unsafe { _mm256_setzero_si256() } }
    }

    #[inline(always)]
    unsafe fn add_quad<const T: usize>(
        products: &mut [__m256i; T],
        codes: __m256i,
        tokens: &[*const u32; T],
        quad: usize,
        signed: bool,
    ) {
        // SAFETY: see above.
        unsafe {
            let signed_codes = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
            let magnitudes = _mm256_abs_epi8(signed_codes);
            for (product, token) in products.iter_mut().zip(tokens) {
                let values = _mm256_set1_epi32(token.add(quad).read() as i32);
                *product = if VNNI {
                    _mm256_dpbusd_avx_epi32(*product, codes, values)
                } else if signed {
                    // |code| is at most 128 and activations are at most 127 either way.
                    let values = _mm256_sign_epi8(values, signed_codes);
                    _mm256_add_epi16(*product, _mm256_maddubs_epi16(magnitudes, values))
                } else {
                    _mm256_add_epi16(*product, _mm256_maddubs_epi16(codes, values))
                };
            }
        }
    }

    #[inline(always)]
    unsafe fn end(sum: __m256i, products: __m256i) -> __m256i {
        if VNNI {
            return products;
        }
        // SAFETY: see above.
        unsafe { _mm256_add_epi32(sum, _mm256_madd_epi16(products, _mm256_set1_epi16(1))) }
    }

    #[inline(always)]
    unsafe fn broadcast(value: f32) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    unsafe fn load_powers(source: *const u8) -> __m256 {
        // SAFETY: see above; eight bytes are read.
        unsafe {
            let exponents = _mm256_cvtepu8_epi32(_mm_loadl_epi64(source.cast()));
            let normal = _mm256_sub_epi32(exponents, _mm256_set1_epi32(1));
            let normal = _mm256_slli_epi32::<23>(normal);
            // Exponents 0 and 1 are those of subnormal numbers.
            let subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), exponents);
            let is_normal = _mm256_cmpgt_epi32(exponents, _mm256_set1_epi32(1));
            _mm256_castsi256_ps(_mm256_blendv_epi8(subnormal, normal, is_normal))
        }
    }

    #[inline(always)]
    unsafe fn load_halves(source: *const u8) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(source.cast())) }
    }

    #[inline(always)]
    unsafe fn load_factors(source: *const u8) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(source.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_nibble_factors(source: *const u8) -> (__m256, __m256) {
        // SAFETY: see above; eight bytes are read.
        unsafe {
            let pairs = _mm256_cvtepu8_epi32(_mm_loadl_epi64(source.cast()));
            let low = _mm256_and_si256(pairs, _mm256_set1_epi32(0x0f));
            (_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(_mm256_srli_epi32::<4>(pairs)))
        }
    }

    #[inline(always)]
    unsafe fn load_weights<F: FloatFormat<WIDTH>, const WIDTH: usize>(source: *const u8) -> __m256 {
        // SAFETY: see above.
        unsafe { F::load_8(source) }
    }

    #[inline(always)]
    unsafe fn as_floats(integers: __m256i) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_castsi256_ps(integers) }
    }

    #[inline(always)]
    unsafe fn multiply(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    unsafe fn multiply_add(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see above.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    unsafe fn store(values: __m256, target: *mut f32) {
        // SAFETY: see above.
        unsafe { _mm256_storeu_ps(target, values) }
    }
}
