//! [`Vector`] on AVX-512.

use std::arch::x86_64::*;

use super::vector::{EXP2, EXP2_FLOOR, Vector};
use super::work::{Scratch, Work};
use super::{Kernels, stream, tile};

pub(super) const KERNELS: Kernels = Kernels { lanes: 16, tile, stream };

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn tile(work: &Work<'_>, scratch: &mut Scratch) {
    // SAFETY: the instruction set is enabled here, and the caller made sure that it is there.
    unsafe { tile::attend::<Avx512, 8>(work, scratch) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn stream(work: &Work<'_>, scratch: &mut Scratch) {
    // SAFETY: as above.
    unsafe { stream::attend::<Avx512, 4>(work, scratch) }
}

/// 16 lanes.
#[derive(Clone, Copy)]
struct Avx512(__m512);

impl Vector for Avx512 {
    const LANES: usize = 16;

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
    unsafe fn load_short(source: *const i16) -> Self {
        // SAFETY: the caller's pointers cover what the trait says, and the instruction set is there.
        unsafe {
            Self(_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256(source.cast()))))
        }
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
    unsafe fn total(self) -> f32 {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    unsafe fn hide_from(self, limits: *const i32, position: i32) -> Self {
        // SAFETY: the caller's pointers cover what the trait says, and the instruction set is there.
        unsafe {
            let limits = _mm512_loadu_si512(limits.cast());
            let seen = _mm512_cmpgt_epi32_mask(limits, _mm512_set1_epi32(position));
            Self(_mm512_mask_blend_ps(seen, _mm512_set1_ps(f32::NEG_INFINITY), self.0))
        }
    }

    #[inline(always)]
    unsafe fn exp2(self) -> Self {
        // SAFETY: registers only; the caller has the instruction set.
        unsafe {
            let whole =
                _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0);
            let part = _mm512_sub_ps(self.0, whole);
            let mut power = _mm512_set1_ps(EXP2[5]);
            for coefficient in EXP2[..5].iter().rev() {
                power = _mm512_fmadd_ps(power, part, _mm512_set1_ps(*coefficient));
            }
            let kept = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(self.0, _mm512_set1_ps(EXP2_FLOOR));
            Self(_mm512_maskz_scalef_ps(kept, power, whole))
        }
    }

    #[inline(always)]
    unsafe fn dot_rows(query: *const f32, rows: *const f32, stride: usize, columns: usize) -> Self {
        // SAFETY: the caller's pointers cover what the trait says, and the instruction set is there.
        unsafe {
            let mut sums = [_mm512_setzero_ps(); 16];
            for column in (0..columns).step_by(16) {
                let query = _mm512_loadu_ps(query.add(column));
                for (row, sum) in sums.iter_mut().enumerate() {
                    let key = _mm512_loadu_ps(rows.add(row * stride + column));
                    *sum = _mm512_fmadd_ps(query, key, *sum);
                }
            }
            Self(sum_each(sums))
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

/// The sum of vector i's lanes in lane i.
#[inline(always)]
unsafe fn sum_each(vectors: [__m512; 16]) -> __m512 {
    // SAFETY: registers only; the callers have the instruction set.
    unsafe {
        let mut quarters = [_mm512_setzero_ps(); 4];
        for (quarter, four) in quarters.iter_mut().zip(vectors.chunks_exact(4)) {
            let first = _mm512_add_ps(
                _mm512_unpacklo_ps(four[0], four[1]),
                _mm512_unpackhi_ps(four[0], four[1]),
            );
            let second = _mm512_add_ps(
                _mm512_unpacklo_ps(four[2], four[3]),
                _mm512_unpackhi_ps(four[2], four[3]),
            );
            let (first, second) = (_mm512_castps_pd(first), _mm512_castps_pd(second));
            *quarter = _mm512_add_ps(
                _mm512_castpd_ps(_mm512_unpacklo_pd(first, second)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(first, second)),
            );
        }
        let fold = |a, b| {
            _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b),
            )
        };
        fold(fold(quarters[0], quarters[1]), fold(quarters[2], quarters[3]))
    }
}

#[cfg(test)]
mod tests {
    use super::super::vector::tests::check_exp2;
    use crate::support::processor::InstructionSet;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn check() {
        // SAFETY: the instruction set is enabled here.
        unsafe { check_exp2::<super::Avx512>() }
    }

    #[test]
    fn exp2_is_accurate() {
        if InstructionSet::Avx512.available() {
            // SAFETY: the instruction set is there.
            unsafe { check() }
        }
    }
}
