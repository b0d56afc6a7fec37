//! AVX-512.

use std::arch::x86_64::*;

use super::arithmetic::JUST_BELOW_HALF;
use super::avx2::{
    MAGNITUDE, SIGN, bytes_of, from_f16, gather_bits, largest_of_8, look_up, range_of_8,
    scatter_bits, to_f16,
};
use super::{HALF, WEIGHTS, Wide, first_extreme, with_first_zeros};

/// An expression for each of two registers (or numbers of registers), as `each_of_4` in `avx2`.
macro_rules! each_of_2 {
    ($registers:expr, $register:ident => $result:expr) => {{
        let [a, b] = $registers;
        [
            {
                let $register = a;
                $result
            },
            {
                let $register = b;
                $result
            },
        ]
    }};
}

/// Two AVX-512 registers. Used only in functions compiled for AVX-512 F, BW, DQ and VL, AVX2, FMA and
/// F16C.
#[derive(Clone, Copy)]
pub(in super::super) struct Wide512([__m512; 2]);

impl Wide512 {
    #[inline(always)]
    fn magnitudes(self) -> [__m512i; 2] {
        // SAFETY: see below.
        each_of_2!(self.0, r => unsafe { _mm512_and_si512(_mm512_castps_si512(r), _mm512_set1_epi32(MAGNITUDE)) })
    }

    #[inline(always)]
    fn largest_bits(self) -> u32 {
        let [a, b] = self.magnitudes();
        // SAFETY: see below.
        unsafe {
            let largest = _mm512_max_epu32(a, b);
            let low = _mm512_castsi512_si256(largest);
            largest_of_8(_mm256_max_epu32(low, _mm512_extracti32x8_epi32::<1>(largest)))
        }
    }
}

/// Bit `j` from lane `j` of two masks.
#[inline(always)]
fn joined([low, high]: [__mmask16; 2]) -> u32 {
    u32::from(low) | u32::from(high) << 16
}

/// The low bytes of 32 whole numbers in order.
#[inline(always)]
fn low_bytes(registers: [__m512i; 2]) -> [u8; WEIGHTS] {
    // SAFETY: reached only where there is AVX-512.
    unsafe {
        let [low, high] = each_of_2!(registers, r => _mm512_cvtepi32_epi8(r));
        bytes_of(_mm256_set_m128i(high, low))
    }
}

// SAFETY of the `unsafe` blocks below: as for `Wide256`, with AVX-512.
impl Wide for Wide512 {
    #[inline(always)]
    fn load(weights: &[f32; WEIGHTS]) -> Self {
        // SAFETY: see above.
        Self(each_of_2!([0, 1], r => unsafe { _mm512_loadu_ps(weights.as_ptr().add(16 * r)) }))
    }

    #[inline(always)]
    fn store(self, weights: &mut [f32; WEIGHTS]) {
        for (r, register) in self.0.into_iter().enumerate() {
            // SAFETY: see above.
            unsafe { _mm512_storeu_ps(weights.as_mut_ptr().add(16 * r), register) }
        }
    }

    #[inline(always)]
    fn from_bytes(bytes: &[u8; WEIGHTS]) -> Self {
        // SAFETY: see above.
        Self(each_of_2!([0, 1], r => unsafe {
            let sixteen = _mm_loadu_si128(bytes.as_ptr().add(16 * r).cast());
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(sixteen))
        }))
    }

    #[inline(always)]
    fn from_signed_bytes(bytes: &[u8; WEIGHTS]) -> Self {
        // SAFETY: see above.
        Self(each_of_2!([0, 1], r => unsafe {
            let sixteen = _mm_loadu_si128(bytes.as_ptr().add(16 * r).cast());
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(sixteen))
        }))
    }

    #[inline(always)]
    fn from_f16s(bytes: &[u8; 2 * WEIGHTS]) -> Self {
        // SAFETY: see above.
        Self(each_of_2!([0, 1], r => unsafe {
            _mm512_cvtph_ps(_mm256_loadu_si256(bytes.as_ptr().add(32 * r).cast()))
        }))
    }

    #[inline(always)]
    fn to_f16s(self, bytes: &mut [u8; 2 * WEIGHTS]) {
        for (r, register) in self.0.into_iter().enumerate() {
            // SAFETY: see above.
            unsafe {
                let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(register);
                _mm256_storeu_si256(bytes.as_mut_ptr().add(32 * r).cast(), halves);
            }
        }
    }

    #[inline(always)]
    fn from_bf16s(bytes: &[u8; 2 * WEIGHTS]) -> Self {
        // SAFETY: see above.
        Self(each_of_2!([0, 1], r => unsafe {
            let sixteen = _mm256_loadu_si256(bytes.as_ptr().add(32 * r).cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(sixteen)))
        }))
    }

    #[inline(always)]
    fn to_bf16s(self, bytes: &mut [u8; 2 * WEIGHTS]) {
        for (r, register) in self.0.into_iter().enumerate() {
            // SAFETY: see above.
            unsafe {
                let bits = _mm512_castps_si512(register);
                let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
                let rounded = _mm512_add_epi32(_mm512_set1_epi32(0x7fff), odd);
                let upper = _mm512_srli_epi32::<16>(_mm512_add_epi32(bits, rounded));
                let sixteen = _mm512_cvtepi32_epi16(upper);
                _mm256_storeu_si256(bytes.as_mut_ptr().add(32 * r).cast(), sixteen);
            }
        }
    }

    #[inline(always)]
    fn from_f16(bits: u16) -> f32 {
        from_f16(bits)
    }

    #[inline(always)]
    fn to_f16(value: f32) -> u16 {
        to_f16(value)
    }

    #[inline(always)]
    fn add(self, number: f32) -> Self {
        // SAFETY: see above.
        Self(each_of_2!(self.0, r => unsafe { _mm512_add_ps(r, _mm512_set1_ps(number)) }))
    }

    #[inline(always)]
    fn sub(self, number: f32) -> Self {
        // SAFETY: see above.
        Self(each_of_2!(self.0, r => unsafe { _mm512_sub_ps(r, _mm512_set1_ps(number)) }))
    }

    #[inline(always)]
    fn mul(self, number: f32) -> Self {
        // SAFETY: see above.
        Self(each_of_2!(self.0, r => unsafe { _mm512_mul_ps(r, _mm512_set1_ps(number)) }))
    }

    #[inline(always)]
    fn largest_magnitude(self) -> f32 {
        f32::from_bits(self.largest_bits())
    }

    #[inline(always)]
    fn extreme(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            let [a, b] = each_of_2!(self.0, r => _mm512_castps_si512(r));
            // A magnitude with its sign below it: of those that tie a negative one is largest.
            let largest = _mm512_max_epu32(_mm512_rol_epi32::<1>(a), _mm512_rol_epi32::<1>(b));
            let high = _mm512_extracti32x8_epi32::<1>(largest);
            let largest = _mm256_max_epu32(_mm512_castsi512_si256(largest), high);
            let extreme = largest_of_8(largest).rotate_right(1);
            let other = _mm512_set1_epi32((extreme ^ SIGN as u32) as i32);
            if _mm512_cmpeq_epi32_mask(a, other) | _mm512_cmpeq_epi32_mask(b, other) != 0 {
                return first_extreme(self);
            }
            // A zero of a block of zeros has no sign.
            f32::from_bits(extreme) + 0.0
        }
    }

    #[inline(always)]
    fn range(self) -> (f32, f32) {
        let [a, b] = self.0;
        // SAFETY: see above.
        let range = unsafe {
            let (smallest, largest) = (_mm512_min_ps(a, b), _mm512_max_ps(a, b));
            let low = _mm512_castps512_ps256;
            let high = _mm512_extractf32x8_ps::<1>;
            range_of_8(
                _mm256_min_ps(low(smallest), high(smallest)),
                _mm256_max_ps(low(largest), high(largest)),
            )
        };
        if range.0 != 0.0 && range.1 != 0.0 {
            return range;
        }
        with_first_zeros(self)
    }

    #[inline(always)]
    fn truncated(self) -> [u8; WEIGHTS] {
        // SAFETY: see above.
        low_bytes(each_of_2!(self.0, r => unsafe { _mm512_cvttps_epi32(r) }))
    }

    #[inline(always)]
    fn truncated_nibbles(self) -> [u8; HALF] {
        // SAFETY: see above.
        unsafe {
            // What did not fit is the smallest number, whose low bits are zero.
            let [low, high] = each_of_2!(self.0, r => {
                _mm512_min_epi32(_mm512_cvttps_epi32(r), _mm512_set1_epi32(15))
            });
            let pairs = _mm512_or_si512(low, _mm512_slli_epi32::<4>(high));
            std::mem::transmute(_mm512_cvtepi32_epi8(pairs))
        }
    }

    #[inline(always)]
    fn rounded_half_away(self) -> [u8; WEIGHTS] {
        // SAFETY: see above.
        low_bytes(each_of_2!(self.0, r => unsafe {
            let sign = _mm512_and_ps(r, _mm512_castsi512_ps(_mm512_set1_epi32(SIGN)));
            let half = _mm512_or_ps(sign, _mm512_set1_ps(JUST_BELOW_HALF));
            _mm512_cvttps_epi32(_mm512_add_ps(r, half))
        }))
    }

    #[inline(always)]
    fn limits_passed<const N: usize>(self, limits: &[f32; N]) -> [u8; WEIGHTS] {
        // SAFETY: see above.
        low_bytes(each_of_2!(self.magnitudes(), magnitude => unsafe {
            let one = _mm512_set1_epi32(1);
            let mut passed = _mm512_setzero_si512();
            for limit in limits {
                let (limit, magnitude) = (_mm512_set1_ps(*limit), _mm512_castsi512_ps(magnitude));
                let less = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(limit, magnitude);
                passed = _mm512_mask_add_epi32(passed, less, passed, one);
            }
            passed
        }))
    }

    #[inline(always)]
    fn negative(self) -> u32 {
        // SAFETY: see above.
        joined(
            each_of_2!(self.0, r => unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(r, _mm512_setzero_ps()) }),
        )
    }

    #[inline(always)]
    fn look_up(table: &[i8; 16], quants: &[u8; WEIGHTS]) -> [u8; WEIGHTS] {
        look_up(table, quants)
    }

    #[inline(always)]
    fn gather_bits<const BIT: u8>(bytes: &[u8; WEIGHTS]) -> u32 {
        gather_bits::<BIT>(bytes)
    }

    #[inline(always)]
    fn scatter_bits<const BIT: u8>(bits: u32) -> [u8; WEIGHTS] {
        scatter_bits::<BIT>(bits)
    }
}
