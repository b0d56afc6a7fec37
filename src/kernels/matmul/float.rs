//! Floating-point weights as the kernels see them; every one is exact in f32.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::{bf16, f16};

/// A floating-point type of `WIDTH` bytes.
pub(super) trait FloatFormat<const WIDTH: usize> {
    /// The value of a weight.
    fn value(bytes: [u8; WIDTH]) -> f32;

    /// The values of 4 weights.
    ///
    /// # Safety
    /// `weights` points to them.
    #[cfg(target_arch = "aarch64")]
    unsafe fn load_4(weights: *const u8) -> float32x4_t;

    /// The values of 8 weights.
    ///
    /// # Safety
    /// `weights` points to them; the processor has AVX2 and F16C.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_8(weights: *const u8) -> __m256;

    /// The values of 16 weights.
    ///
    /// # Safety
    /// `weights` points to them; the processor has AVX-512 F.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_16(weights: *const u8) -> __m512;
}

/// F32.
pub(super) struct Single;

impl FloatFormat<4> for Single {
    fn value(bytes: [u8; 4]) -> f32 {
        f32::from_le_bytes(bytes)
    }

    #[cfg(target_arch = "aarch64")]
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_4(weights: *const u8) -> float32x4_t {
        // SAFETY: the caller's.
        unsafe { vreinterpretq_f32_u8(vld1q_u8(weights)) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load_8(weights: *const u8) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_loadu_ps(weights.cast()) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load_16(weights: *const u8) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_loadu_ps(weights.cast()) }
    }
}

/// F16.
pub(super) struct Half;

impl FloatFormat<2> for Half {
    fn value(bytes: [u8; 2]) -> f32 {
        f16::from_le_bytes(bytes).to_f32()
    }

    #[cfg(target_arch = "aarch64")]
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_4(weights: *const u8) -> float32x4_t {
        // SAFETY: the caller's.
        unsafe { vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(weights))) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load_8(weights: *const u8) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(weights.cast())) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load_16(weights: *const u8) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(weights.cast())) }
    }
}

/// BF16: the upper half of an f32.
pub(super) struct Brain;

impl FloatFormat<2> for Brain {
    fn value(bytes: [u8; 2]) -> f32 {
        bf16::from_le_bytes(bytes).to_f32()
    }

    #[cfg(target_arch = "aarch64")]
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load_4(weights: *const u8) -> float32x4_t {
        // SAFETY: the caller's.
        let bits = unsafe { vreinterpret_u16_u8(vld1_u8(weights)) };
        vreinterpretq_f32_u32(vshll_n_u16::<16>(bits))
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load_8(weights: *const u8) -> __m256 {
        // SAFETY: the caller's.
        let bits = unsafe { _mm_loadu_si128(weights.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load_16(weights: *const u8) -> __m512 {
        // SAFETY: the caller's.
        let bits = unsafe { _mm256_loadu_si256(weights.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
    }
}
