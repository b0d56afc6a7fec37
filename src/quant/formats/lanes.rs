//! Several f32 side by side in registers, one block a lane, so that a search over a block is written
//! once and every lane does in order exactly what the scalar code does.

/// What a lane-wise search needs. All operations are lane by lane and rounded as scalar ones are.
pub(super) trait Lanes: Copy {
    /// Number of lanes.
    const COUNT: usize;
    /// A truth value a lane.
    type Mask: Copy;

    /// The same value in every lane.
    fn splat(value: f32) -> Self;
    /// Lane `l` from `values[l]`; takes the first [`Lanes::COUNT`].
    fn load(values: &[f32]) -> Self;
    /// Lane `l` into `values[l]`.
    fn store(self, values: &mut [f32]);
    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;
    fn div(self, other: Self) -> Self;
    fn sqrt(self) -> Self;
    fn abs(self) -> Self;
    /// `nearest_int(self)` clamped to `[low, high]`, as a float.
    fn round_clamped(self, low: i32, high: i32) -> Self;
    /// `self < other`; false for NaN.
    fn less(self, other: Self) -> Self::Mask;
    /// `self == other`; false for NaN.
    fn equals(self, other: Self) -> Self::Mask;
    fn both(left: Self::Mask, right: Self::Mask) -> Self::Mask;
    /// `yes` where the mask is true, else `no`.
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self;
}

/// Two registers as one: their independent sums overlap in the processor's pipeline.
#[derive(Clone, Copy)]
pub(super) struct Pair<V>(V, V);

impl<V: Lanes> Lanes for Pair<V> {
    const COUNT: usize = 2 * V::COUNT;
    type Mask = (V::Mask, V::Mask);

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self(V::splat(value), V::splat(value))
    }

    #[inline(always)]
    fn load(values: &[f32]) -> Self {
        Self(V::load(values), V::load(&values[V::COUNT..]))
    }

    #[inline(always)]
    fn store(self, values: &mut [f32]) {
        self.0.store(values);
        self.1.store(&mut values[V::COUNT..]);
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(self.0.add(other.0), self.1.add(other.1))
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(self.0.sub(other.0), self.1.sub(other.1))
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(self.0.mul(other.0), self.1.mul(other.1))
    }

    #[inline(always)]
    fn div(self, other: Self) -> Self {
        Self(self.0.div(other.0), self.1.div(other.1))
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        Self(self.0.sqrt(), self.1.sqrt())
    }

    #[inline(always)]
    fn abs(self) -> Self {
        Self(self.0.abs(), self.1.abs())
    }

    #[inline(always)]
    fn round_clamped(self, low: i32, high: i32) -> Self {
        Self(self.0.round_clamped(low, high), self.1.round_clamped(low, high))
    }

    #[inline(always)]
    fn less(self, other: Self) -> Self::Mask {
        (self.0.less(other.0), self.1.less(other.1))
    }

    #[inline(always)]
    fn equals(self, other: Self) -> Self::Mask {
        (self.0.equals(other.0), self.1.equals(other.1))
    }

    #[inline(always)]
    fn both(left: Self::Mask, right: Self::Mask) -> Self::Mask {
        (V::both(left.0, right.0), V::both(left.1, right.1))
    }

    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        Self(V::select(mask.0, yes.0, no.0), V::select(mask.1, yes.1, no.1))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86_64::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::x86_64::*;

    use super::Lanes;

    /// What `nearest_int` adds, keeps and takes off.
    const MAGIC: f32 = 12_582_912.0;
    const KEPT: i32 = 0x007f_ffff;
    const BIAS: i32 = 0x0040_0000;

    /// Eight lanes in an AVX register. Used only in functions compiled for AVX2.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(__m256);

    // SAFETY of the `unsafe` blocks below: the type is named only by functions that require AVX2,
    // which callers enter after detecting it; loads and stores stay within slices whose length is
    // checked.
    impl Lanes for Avx2 {
        const COUNT: usize = 8;
        type Mask = __m256;

        #[inline(always)]
        fn splat(value: f32) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_set1_ps(value) })
        }

        #[inline(always)]
        fn load(values: &[f32]) -> Self {
            let values = &values[..8];
            // SAFETY: see above.
            Self(unsafe { _mm256_loadu_ps(values.as_ptr()) })
        }

        #[inline(always)]
        fn store(self, values: &mut [f32]) {
            let values = &mut values[..8];
            // SAFETY: see above.
            unsafe { _mm256_storeu_ps(values.as_mut_ptr(), self.0) }
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_sub_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_mul_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn div(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_div_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn sqrt(self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_sqrt_ps(self.0) })
        }

        #[inline(always)]
        fn abs(self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0) })
        }

        #[inline(always)]
        fn round_clamped(self, low: i32, high: i32) -> Self {
            // SAFETY: see above.
            Self(unsafe {
                let bits = _mm256_castps_si256(_mm256_add_ps(self.0, _mm256_set1_ps(MAGIC)));
                let kept = _mm256_and_si256(bits, _mm256_set1_epi32(KEPT));
                let nearest = _mm256_sub_epi32(kept, _mm256_set1_epi32(BIAS));
                let clamped = _mm256_max_epi32(nearest, _mm256_set1_epi32(low));
                _mm256_cvtepi32_ps(_mm256_min_epi32(clamped, _mm256_set1_epi32(high)))
            })
        }

        #[inline(always)]
        fn less(self, other: Self) -> Self::Mask {
            // SAFETY: see above.
            unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, other.0) }
        }

        #[inline(always)]
        fn equals(self, other: Self) -> Self::Mask {
            // SAFETY: see above.
            unsafe { _mm256_cmp_ps::<_CMP_EQ_OQ>(self.0, other.0) }
        }

        #[inline(always)]
        fn both(left: Self::Mask, right: Self::Mask) -> Self::Mask {
            // SAFETY: see above.
            unsafe { _mm256_and_ps(left, right) }
        }

        #[inline(always)]
        fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm256_blendv_ps(no.0, yes.0, mask) })
        }
    }

    /// Sixteen lanes in an AVX-512 register. Used only in functions compiled for AVX-512 F.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512(__m512);

    // SAFETY of the `unsafe` blocks below: as for `Avx2`, with AVX-512 F.
    impl Lanes for Avx512 {
        const COUNT: usize = 16;
        type Mask = __mmask16;

        #[inline(always)]
        fn splat(value: f32) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_set1_ps(value) })
        }

        #[inline(always)]
        fn load(values: &[f32]) -> Self {
            let values = &values[..16];
            // SAFETY: see above.
            Self(unsafe { _mm512_loadu_ps(values.as_ptr()) })
        }

        #[inline(always)]
        fn store(self, values: &mut [f32]) {
            let values = &mut values[..16];
            // SAFETY: see above.
            unsafe { _mm512_storeu_ps(values.as_mut_ptr(), self.0) }
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_sub_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn mul(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_mul_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn div(self, other: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_div_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn sqrt(self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_sqrt_ps(self.0) })
        }

        #[inline(always)]
        fn abs(self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_abs_ps(self.0) })
        }

        #[inline(always)]
        fn round_clamped(self, low: i32, high: i32) -> Self {
            // SAFETY: see above.
            Self(unsafe {
                let bits = _mm512_castps_si512(_mm512_add_ps(self.0, _mm512_set1_ps(MAGIC)));
                let kept = _mm512_and_si512(bits, _mm512_set1_epi32(KEPT));
                let nearest = _mm512_sub_epi32(kept, _mm512_set1_epi32(BIAS));
                let clamped = _mm512_max_epi32(nearest, _mm512_set1_epi32(low));
                _mm512_cvtepi32_ps(_mm512_min_epi32(clamped, _mm512_set1_epi32(high)))
            })
        }

        #[inline(always)]
        fn less(self, other: Self) -> Self::Mask {
            // SAFETY: see above.
            unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0) }
        }

        #[inline(always)]
        fn equals(self, other: Self) -> Self::Mask {
            // SAFETY: see above.
            unsafe { _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(self.0, other.0) }
        }

        #[inline(always)]
        fn both(left: Self::Mask, right: Self::Mask) -> Self::Mask {
            left & right
        }

        #[inline(always)]
        fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_mask_blend_ps(mask, no.0, yes.0) })
        }
    }
}
