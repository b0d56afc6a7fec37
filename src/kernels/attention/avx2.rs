//! [`Vector`] on AVX2 with FMA and F16C, with and without AVX-VNNI.

use std::arch::x86_64::*;

use super::vector::{EXP2, EXP2_FLOOR, Vector};
use super::work::{Scratch, Work};
use super::{Kernels, stream, tile};

pub(super) const KERNELS: Kernels = Kernels { lanes: 8, tile, stream };
pub(super) const KERNELS_VNNI: Kernels =
    Kernels { tile: tile_vnni, stream: stream_vnni, ..KERNELS };

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn tile(work: &Work<'_>, scratch: &mut Scratch) {
    // SAFETY: the instruction set is enabled here, and the caller made sure that it is there.
    unsafe { tile::attend::<Avx2<false>, 4>(work, scratch) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn stream(work: &Work<'_>, scratch: &mut Scratch) {
    // SAFETY: as above.
    unsafe { stream::attend::<Avx2<false>, 2, 2>(work, scratch) }
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn tile_vnni(work: &Work<'_>, scratch: &mut Scratch) {
    // SAFETY: as above.
    unsafe { tile::attend::<Avx2<true>, 4>(work, scratch) }
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
unsafe fn stream_vnni(work: &Work<'_>, scratch: &mut Scratch) {
    // SAFETY: as above.
    unsafe { stream::attend::<Avx2<true>, 2, 2>(work, scratch) }
}

/// 8 lanes; `VNNI` says whether products of pairs are added up in one step.
#[derive(Clone, Copy)]
struct Avx2<const VNNI: bool>(__m256);

impl<const VNNI: bool> Vector for Avx2<VNNI> {
    const LANES: usize = 8;

    type Pairs = __m256i;
    type Sums = __m256i;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { Self(_mm256_set1_ps(value)) }
    }

    #[inline(always)]
    unsafe fn load(source: *const f32) -> Self {
        // SAFETY: the caller's pointers cover what the trait says, and the instruction set is there.
        unsafe { Self(_mm256_loadu_ps(source)) }
    }

    #[inline(always)]
    unsafe fn store(self, target: *mut f32) {
        // SAFETY: the caller's pointers cover what the trait says, and the instruction set is there.
        unsafe { _mm256_storeu_ps(target, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { Self(_mm256_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn subtract(self, other: Self) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { Self(_mm256_sub_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn multiply(self, other: Self) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { Self(_mm256_mul_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn multiply_add(self, other: Self, addend: Self) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { Self(_mm256_fmadd_ps(self.0, other.0, addend.0)) }
    }

    #[inline(always)]
    unsafe fn larger(self, other: Self) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { Self(_mm256_max_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { self.lanes().into_iter().fold(f32::NEG_INFINITY, f32::max) }
    }

    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe {
            let whole =
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0);
            let part = _mm256_sub_ps(self.0, whole);
            let mut power = _mm256_set1_ps(EXP2[4]);
            for coefficient in EXP2[..4].iter().rev() {
                power = _mm256_fmadd_ps(power, part, _mm256_set1_ps(*coefficient));
            }
            // 2^whole is added to the exponent's bits: the power lies in [0.7, 1.5) and the sum
            // stays within the exponent's range for everything that is kept.
            let shift = _mm256_slli_epi32::<23>(_mm256_cvtps_epi32(whole));
            let scaled = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(power), shift));
            let kept = _mm256_cmp_ps::<_CMP_NLT_UQ>(self.0, _mm256_set1_ps(EXP2_FLOOR));
            Self(_mm256_and_ps(kept, scaled))
        }
    }

    #[inline(always)]
    unsafe fn divide(self, other: Self) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { Self(_mm256_div_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn multiply_subtract(self, other: Self, subtrahend: Self) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { Self(_mm256_fmsub_ps(self.0, other.0, subtrahend.0)) }
    }

    #[inline(always)]
    unsafe fn smaller(self, other: Self) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { Self(_mm256_min_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn keep_if_seen(self, firsts: *const i32, ends: *const i32, position: i32) -> Self {
        // SAFETY: the caller's pointers cover what the trait says, and the instruction set is there.
        unsafe {
            let position = _mm256_set1_epi32(position);
            let early = _mm256_cmpgt_epi32(_mm256_loadu_si256(firsts.cast()), position);
            let seen = _mm256_cmpgt_epi32(_mm256_loadu_si256(ends.cast()), position);
            let kept = _mm256_castsi256_ps(_mm256_andnot_si256(early, seen));
            Self(_mm256_blendv_ps(_mm256_set1_ps(f32::NEG_INFINITY), self.0, kept))
        }
    }

    #[inline(always)]
    unsafe fn keep_lanes(self, first: i32, end: i32) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe {
            let lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            let early = _mm256_cmpgt_epi32(_mm256_set1_epi32(first), lanes);
            let seen = _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lanes);
            let kept = _mm256_castsi256_ps(_mm256_andnot_si256(early, seen));
            Self(_mm256_blendv_ps(_mm256_set1_ps(f32::NEG_INFINITY), self.0, kept))
        }
    }

    #[inline(always)]
    unsafe fn no_pairs() -> Self::Pairs {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn no_sums() -> Self::Sums {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn load_pairs(source: *const i16) -> Self::Pairs {
        // SAFETY: the caller's pointers cover what the trait says, and the instruction set is there.
        unsafe { _mm256_loadu_si256(source.cast()) }
    }

    #[inline(always)]
    unsafe fn splat_pair(source: *const i16) -> Self::Pairs {
        // SAFETY: the caller's pointers cover what the trait says, and the instruction set is there.
        unsafe { _mm256_set1_epi32(source.cast::<i32>().read_unaligned()) }
    }

    #[inline(always)]
    unsafe fn add_products(sums: Self::Sums, left: Self::Pairs, right: Self::Pairs) -> Self::Sums {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe {
            if VNNI {
                _mm256_dpwssd_avx_epi32(sums, left, right)
            } else {
                _mm256_add_epi32(sums, _mm256_madd_epi16(left, right))
            }
        }
    }

    #[inline(always)]
    unsafe fn from_sums(sums: Self::Sums) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { Self(_mm256_cvtepi32_ps(sums)) }
    }

    #[inline(always)]
    unsafe fn store_pairs(self, second: Self, target: *mut i16) {
        // SAFETY: the caller's pointers cover what the trait says, and the instruction set is there.
        unsafe {
            let first = _mm256_cvtps_epi32(self.0);
            let second = _mm256_slli_epi32::<16>(_mm256_cvtps_epi32(second.0));
            let pairs = _mm256_blend_epi16::<0b1010_1010>(first, second);
            _mm256_storeu_si256(target.cast(), pairs);
        }
    }

    #[inline(always)]
    unsafe fn store_rounded(self, target: *mut i16) {
        // SAFETY: the caller's pointers cover what the trait says, and the instruction set is there.
        unsafe {
            let whole = _mm256_cvtps_epi32(self.0);
            let low = _mm256_castsi256_si128(whole);
            let high = _mm256_extracti128_si256::<1>(whole);
            _mm_storeu_si128(target.cast(), _mm_packs_epi32(low, high));
        }
    }

    #[inline(always)]
    unsafe fn widen(source: *const i8, target: *mut i16) {
        // SAFETY: the caller's pointers cover what the trait says, and the instruction set is there.
        unsafe {
            let wide = _mm256_cvtepi8_epi16(_mm_loadu_si128(source.cast()));
            _mm256_storeu_si256(target.cast(), wide);
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
            // After two rounds, half h of `fours[4g + j]` is column 4h + j of rows 4g to 4g + 3.
            let mut fours = [_mm256_setzero_ps(); 8];
            for (group, fours) in fours.chunks_exact_mut(4).enumerate() {
                let row =
                    |index: usize| _mm256_loadu_ps(source.add((4 * group + index) * source_stride));
                let low = |a, b| _mm256_castps_pd(_mm256_unpacklo_ps(a, b));
                let high = |a, b| _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
                let rows = [row(0), row(1), row(2), row(3)];
                let (first, second) = (low(rows[0], rows[1]), low(rows[2], rows[3]));
                fours[0] = _mm256_castpd_ps(_mm256_unpacklo_pd(first, second));
                fours[1] = _mm256_castpd_ps(_mm256_unpackhi_pd(first, second));
                let (first, second) = (high(rows[0], rows[1]), high(rows[2], rows[3]));
                fours[2] = _mm256_castpd_ps(_mm256_unpacklo_pd(first, second));
                fours[3] = _mm256_castpd_ps(_mm256_unpackhi_pd(first, second));
            }
            for index in 0..4 {
                let (top, bottom) = (fours[index], fours[4 + index]);
                let left = _mm256_permute2f128_ps::<0x20>(top, bottom);
                let right = _mm256_permute2f128_ps::<0x31>(top, bottom);
                _mm256_storeu_ps(target.add(index * target_stride), left);
                _mm256_storeu_ps(target.add((4 + index) * target_stride), right);
            }
        }
    }
}

impl<const VNNI: bool> Avx2<VNNI> {
    #[inline(always)]
    unsafe fn lanes(self) -> [f32; 8] {
        let mut lanes = [0.0; 8];
        // SAFETY: the array has the register's size.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), self.0) };
        lanes
    }
}

#[cfg(test)]
mod tests {
    use super::super::vector::tests::check_exp2;
    use crate::support::processor::InstructionSet;

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn check() {
        // SAFETY: the instruction set is enabled here.
        unsafe { check_exp2::<super::Avx2<false>>() }
    }

    #[test]
    fn exp2_is_accurate() {
        if InstructionSet::Avx2.available() {
            // SAFETY: the instruction set is there.
            unsafe { check() }
        }
    }
}
