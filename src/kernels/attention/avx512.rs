//! [`Vector`] on AVX-512, with and without VNNI.

use std::arch::x86_64::*;

use super::vector::{EXP2, EXP2_FLOOR, Vector};
use super::work::{Scratch, Work};
use super::{Kernels, stream, tile};

pub(super) const KERNELS: Kernels = Kernels { lanes: 16, tile, stream };
pub(super) const KERNELS_VNNI: Kernels =
    Kernels { tile: tile_vnni, stream: stream_vnni, ..KERNELS };

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn tile(work: &Work<'_>, scratch: &mut Scratch) {
    // SAFETY: the instruction set is enabled here, and the caller made sure that it is there.
    unsafe { tile::attend::<Avx512<false>, 8>(work, scratch) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn stream(work: &Work<'_>, scratch: &mut Scratch) {
    // SAFETY: as above.
    unsafe { stream::attend::<Avx512<false>, 4, 4>(work, scratch) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,avx512vnni")]
unsafe fn tile_vnni(work: &Work<'_>, scratch: &mut Scratch) {
    // SAFETY: as above.
    unsafe { tile::attend::<Avx512<true>, 8>(work, scratch) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,avx512vnni")]
unsafe fn stream_vnni(work: &Work<'_>, scratch: &mut Scratch) {
    // SAFETY: as above.
    unsafe { stream::attend::<Avx512<true>, 4, 4>(work, scratch) }
}

/// 16 lanes; `VNNI` says whether products of pairs are added up in one step.
#[derive(Clone, Copy)]
struct Avx512<const VNNI: bool>(__m512);

impl<const VNNI: bool> Vector for Avx512<VNNI> {
    const LANES: usize = 16;

    type Pairs = __m512i;
    type Sums = __m512i;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { Self(_mm512_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load(source: *const f32) -> Self {
        // SAFETY: the caller's pointers cover what the trait says, and the instruction set is there.
        unsafe { Self(_mm512_loadu_ps(source)) }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut f32) {
        // SAFETY: the caller's pointers cover what the trait says, and the instruction set is there.
        unsafe { _mm512_storeu_ps(target, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { Self(_mm512_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn subtract(self, other: Self) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { Self(_mm512_sub_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn multiply(self, other: Self) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { Self(_mm512_mul_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn multiply_add(self, other: Self, addend: Self) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { Self(_mm512_fmadd_ps(self.0, other.0, addend.0)) }
    }

    #[inline(always)]
    unsafe fn larger(self, other: Self) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { Self(_mm512_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }

    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe {
            let whole =
                _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0);
            let part = _mm512_sub_ps(self.0, whole);
            let mut power = _mm512_set1_ps(EXP2[4]);
            for coefficient in EXP2[..4].iter().rev() {
                power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(*coefficient));
            }
            let kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(self.0, _mm512_set1_ps(EXP2_FLOOR));
            Self(_mm512_maskz_scalef_ps(kept, power, whole))
        }
    }

    #[inline(always)]
    unsafe fn divide(self, other: Self) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { Self(_mm512_div_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn multiply_subtract(self, other: Self, subtrahend: Self) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { Self(_mm512_fmsub_ps(self.0, other.0, subtrahend.0)) }
    }

    #[inline(always)]
    unsafe fn smaller(self, other: Self) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { Self(_mm512_min_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn keep_if_seen(self, firsts: *const i32, ends: *const i32, position: i32) -> Self {
        // SAFETY: the caller's pointers cover what the trait says, and the instruction set is there.
        unsafe {
            let position = _mm512_set1_epi32(position);
            let begun = _mm512_cmple_epi32_mask(_mm512_loadu_si512(firsts.cast()), position);
            let seen =
                _mm512_mask_cmpgt_epi32_mask(begun, _mm512_loadu_si512(ends.cast()), position);
            Self(_mm512_mask_blend_ps(seen, _mm512_set1_ps(f32::NEG_INFINITY), self.0))
        }
    }

    #[inline(always)]
    unsafe fn keep_lanes(self, first: i32, end: i32) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe {
            let lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
            let begun = _mm512_cmpge_epi32_mask(lanes, _mm512_set1_epi32(first));
            let kept = _mm512_mask_cmplt_epi32_mask(begun, lanes, _mm512_set1_epi32(end));
            Self(_mm512_mask_blend_ps(kept, _mm512_set1_ps(f32::NEG_INFINITY), self.0))
        }
    }

    #[inline(always)]
    unsafe fn no_pairs() -> Self::Pairs {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn no_sums() -> Self::Sums {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn load_pairs(source: *const i16) -> Self::Pairs {
        // SAFETY: the caller's pointers cover what the trait says, and the instruction set is there.
        unsafe { _mm512_loadu_si512(source.cast()) }
    }

    #[inline(always)]
    unsafe fn splat_pair(source: *const i16) -> Self::Pairs {
        // SAFETY: the caller's pointers cover what the trait says, and the instruction set is there.
        unsafe { _mm512_set1_epi32(source.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn add_products(sums: Self::Sums, left: Self::Pairs, right: Self::Pairs) -> Self::Sums {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe {
            if VNNI {
                _mm512_dpwssd_epi32(sums, left, right)
            } else {
                _mm512_add_epi32(sums, _mm512_madd_epi16(left, right))
            }
        }
    }

    #[inline(always)]
    unsafe fn from_sums(sums: Self::Sums) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { Self(_mm512_cvtepi32_ps(sums)) }
    }

    #[inline(always)]
    unsafe fn store_pairs(self, second: Self, target: *mut i16) {
        // SAFETY: the caller's pointers cover what the trait says, and the instruction set is there.
        unsafe {
            let first = _mm512_cvtps_epi32(self.0);
            let second = _mm512_slli_epi32::<16>(_mm512_cvtps_epi32(second.0));
            let pairs = _mm512_mask_blend_epi16(0xAAAA_AAAA, first, second);
            _mm512_storeu_si512(target.cast(), pairs);
        }
    }

    #[inline(always)]
    unsafe fn store_rounded(self, target: *mut i16) {
        // SAFETY: the caller's pointers cover what the trait says, and the instruction set is there.
        unsafe {
            let rounded = _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(self.0));
            _mm256_storeu_si256(target.cast(), rounded);
        }
    }

    #[inline(always)]
    unsafe fn widen(source: *const i8, target: *mut i16) {
        // SAFETY: the caller's pointers cover what the trait says, and the instruction set is there.
        unsafe {
            let wide = _mm512_cvtepi8_epi16(_mm256_loadu_si256(source.cast()));
            _mm512_storeu_si512(target.cast(), wide);
        }
    }

    #[inline(always)]
    unsafe fn transpose(
        source: *const f32,
        source_stride: usize,
        target: *mut f32,
        target_stride: usize,
    ) {
        // SAFETY: the caller's pointers cover what the trait says, and the instruction set is there.
        unsafe {
            // After two rounds, quarter q of `fours[4g + j]` is column 4q + j of rows 4g to 4g + 3.
            let mut fours = [_mm512_setzero_ps(); 16];
            for (group, fours) in fours.chunks_exact_mut(4).enumerate() {
                let row =
                    |index: usize| _mm512_loadu_ps(source.add((4 * group + index) * source_stride));
                let low = |a, b| _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
                let high = |a, b| _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
                let rows = [row(0), row(1), row(2), row(3)];
                let (first, second) = (low(rows[0], rows[1]), low(rows[2], rows[3]));
                fours[0] = _mm512_castpd_ps(_mm512_unpacklo_pd(first, second));
                fours[1] = _mm512_castpd_ps(_mm512_unpackhi_pd(first, second));
                let (first, second) = (high(rows[0], rows[1]), high(rows[2], rows[3]));
                fours[2] = _mm512_castpd_ps(_mm512_unpacklo_pd(first, second));
                fours[3] = _mm512_castpd_ps(_mm512_unpackhi_pd(first, second));
            }
            let even = |a, b| _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
            let odd = |a, b| _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b);
            for index in 0..4 {
                let (first, second) = (fours[index], fours[4 + index]);
                let (third, fourth) = (fours[8 + index], fours[12 + index]);
                let (evens, odds) = (even(first, second), odd(first, second));
                let (more_evens, more_odds) = (even(third, fourth), odd(third, fourth));
                let columns = [
                    even(evens, more_evens),
                    even(odds, more_odds),
                    odd(evens, more_evens),
                    odd(odds, more_odds),
                ];
                for (quarter, column) in columns.into_iter().enumerate() {
                    _mm512_storeu_ps(target.add((4 * quarter + index) * target_stride), column);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vector::tests::check_exp2;
    use crate::support::processor::InstructionSet;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn check() {
        // SAFETY: the instruction set is enabled here.
        unsafe { check_exp2::<super::Avx512<false>>() }
    }

    #[test]
    fn exp2_is_accurate() {
        if InstructionSet::Avx512.available() {
            // SAFETY: the instruction set is there.
            unsafe { check() }
        }
    }
}
