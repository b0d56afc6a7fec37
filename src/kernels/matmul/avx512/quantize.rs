//! Preparing activations with AVX-512.

use std::arch::x86_64::*;

use crate::kernels::matmul::activations::{
    ActivationKind, BLOCK, QuantizedBlock, scale_and_inverse,
};

/// [`ActivationKind::fill`] with AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
pub(in crate::kernels::matmul) fn fill(kind: ActivationKind, input: &[f32], words: &mut [u32]) {
    kind.fill(input, words, |values| quantize(values));
}

/// [`super::super::activations::quantize`] with AVX-512.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
fn quantize(values: &[f32; BLOCK]) -> QuantizedBlock {
    // SAFETY: 32 values are two registers.
    let halves = unsafe {
        [_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(values.as_ptr().add(BLOCK / 2))]
    };
    let [first, second] = halves.map(|half| _mm512_castps_si512(_mm512_abs_ps(half)));
    let largest = _mm512_reduce_max_epu32(_mm512_max_epu32(first, second));
    let (scale, inverse) = scale_and_inverse(f32::from_bits(largest));
    let inverse = _mm512_set1_ps(inverse);
    let integers = halves.map(|half| _mm512_cvtps_epi32(_mm512_mul_ps(half, inverse)));
    let mut codes = [0; BLOCK];
    for (codes, integers) in codes.as_chunks_mut::<16>().0.iter_mut().zip(integers) {
        // SAFETY: 16 codes are one register.
        unsafe { _mm_storeu_si128(codes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(integers)) };
    }
    let rounded = _mm_cvtph_ps(_mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(scale)));
    let sums = integers.map(|integers| _mm512_reduce_add_epi32(integers));
    QuantizedBlock { codes, scale: _mm_cvtss_f32(rounded), sums }
}
