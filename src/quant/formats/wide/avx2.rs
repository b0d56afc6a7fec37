//! AVX2 with F16C, and what AVX-512 takes of it.

use std::arch::x86_64::*;

use super::arithmetic::JUST_BELOW_HALF;
use super::{HALF, WEIGHTS, Wide, at_most, first_extreme, pack_nibbles, with_first_zeros};

/// An expression for each of four registers (or numbers of registers). A closure would not do: where
/// the compiler leaves it a function of its own, it is one without the instruction set.
macro_rules! each_of_4 {
    ($registers:expr, $register:ident => $result:expr) => {{
        let [a, b, c, d] = $registers;
        [
            {
                let $register = a;
                $result
            },
            {
                let $register = b;
                $result
            },
            {
                let $register = c;
                $result
            },
            {
                let $register = d;
                $result
            },
        ]
    }};
}

pub(super) const MAGNITUDE: i32 = 0x7fff_ffff;
pub(super) const SIGN: i32 = i32::MIN;

/// The largest of eight whole numbers without sign.
///
/// # Safety
/// The machine must have AVX2.
#[inline(always)]
pub(super) unsafe fn largest_of_8(magnitudes: __m256i) -> u32 {
    // SAFETY: the caller has AVX2.
    unsafe {
        let low = _mm256_castsi256_si128(magnitudes);
        let largest = _mm_max_epu32(low, _mm256_extracti128_si256::<1>(magnitudes));
        let largest = _mm_max_epu32(largest, _mm_shuffle_epi32::<0b0100_1110>(largest));
        let largest = _mm_max_epu32(largest, _mm_shuffle_epi32::<0b1011_0001>(largest));
        _mm_cvtsi128_si32(largest) as u32
    }
}

/// The smallest of eight floats and the largest of eight.
///
/// # Safety
/// The machine must have AVX2.
#[inline(always)]
pub(super) unsafe fn range_of_8(smallest: __m256, largest: __m256) -> (f32, f32) {
    // SAFETY: the caller has AVX2.
    unsafe {
        let low = _mm256_castps256_ps128;
        let high = _mm256_extractf128_ps::<1>;
        let smallest = _mm_min_ps(low(smallest), high(smallest));
        let largest = _mm_max_ps(low(largest), high(largest));
        let smallest = _mm_min_ps(smallest, _mm_movehl_ps(smallest, smallest));
        let largest = _mm_max_ps(largest, _mm_movehl_ps(largest, largest));
        let smallest = _mm_min_ss(smallest, _mm_movehdup_ps(smallest));
        let largest = _mm_max_ss(largest, _mm_movehdup_ps(largest));
        (_mm_cvtss_f32(smallest), _mm_cvtss_f32(largest))
    }
}

#[inline(always)]
pub(super) fn from_f16(bits: u16) -> f32 {
    // SAFETY: reached only where there is F16C.
    unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits)))) }
}

#[inline(always)]
pub(super) fn to_f16(value: f32) -> u16 {
    // SAFETY: reached only where there is F16C.
    unsafe {
        _mm_cvtsi128_si32(_mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(value))) as u16
    }
}

#[inline(always)]
pub(super) fn look_up(table: &[i8; 16], quants: &[u8; WEIGHTS]) -> [u8; WEIGHTS] {
    // SAFETY: reached only where there is AVX2; the arrays are as long as the registers.
    unsafe {
        let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
        let quants = _mm256_loadu_si256(quants.as_ptr().cast());
        bytes_of(_mm256_shuffle_epi8(table, quants))
    }
}

#[inline(always)]
pub(super) fn gather_bits<const BIT: u8>(bytes: &[u8; WEIGHTS]) -> u32 {
    // SAFETY: reached only where there is AVX2; the array is as long as the register.
    unsafe {
        let bytes = _mm256_loadu_si256(bytes.as_ptr().cast());
        let wanted = _mm256_set1_epi8((1u8 << BIT) as i8);
        let has_it = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, wanted), wanted);
        _mm256_movemask_epi8(has_it) as u32
    }
}

#[inline(always)]
pub(super) fn scatter_bits<const BIT: u8>(bits: u32) -> [u8; WEIGHTS] {
    // SAFETY: reached only where there is AVX2.
    unsafe {
        // Byte `j` gets byte `j / 8` of the bits, of which it looks at bit `j mod 8`.
        let all = _mm256_set1_epi32(bits as i32);
        let which = _mm256_setr_epi64x(
            0,
            0x0101_0101_0101_0101,
            0x0202_0202_0202_0202,
            0x0303_0303_0303_0303,
        );
        let own = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
        let bits = _mm256_and_si256(_mm256_shuffle_epi8(all, which), own);
        let has_it = _mm256_cmpeq_epi8(bits, own);
        bytes_of(_mm256_and_si256(has_it, _mm256_set1_epi8((1u8 << BIT) as i8)))
    }
}

#[inline(always)]
pub(super) fn bytes_of(register: __m256i) -> [u8; WEIGHTS] {
    // SAFETY: both are 32 bytes without a meaning of their own.
    unsafe { std::mem::transmute(register) }
}

/// Four AVX registers. Used only in functions compiled for AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(in super::super) struct Wide256([__m256; 4]);

impl Wide256 {
    #[inline(always)]
    fn magnitudes(self) -> [__m256i; 4] {
        // SAFETY: see below.
        each_of_4!(self.0, r => unsafe { _mm256_and_si256(_mm256_castps_si256(r), _mm256_set1_epi32(MAGNITUDE)) })
    }

    #[inline(always)]
    fn largest_bits(self) -> u32 {
        let [a, b, c, d] = self.magnitudes();
        // SAFETY: see below.
        unsafe { largest_of_8(_mm256_max_epu32(_mm256_max_epu32(a, b), _mm256_max_epu32(c, d))) }
    }
}

/// Bit `j` from the sign of lane `j` of four registers.
#[inline(always)]
fn signs_of(registers: [__m256; 4]) -> u32 {
    // SAFETY: reached only where there is AVX2.
    let [a, b, c, d] = each_of_4!(registers, r => unsafe { _mm256_movemask_ps(r) } as u32);
    a | b << 8 | c << 16 | d << 24
}

/// The low bytes of 32 whole numbers in order.
#[inline(always)]
fn low_bytes(registers: [__m256i; 4]) -> [u8; WEIGHTS] {
    // SAFETY: reached only where there is AVX2.
    unsafe {
        let [a, b, c, d] = each_of_4!(registers, r => _mm256_and_si256(r, _mm256_set1_epi32(0xff)));
        let packed = _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
        // Packing works in halves: put the groups of four in order.
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        bytes_of(_mm256_permutevar8x32_epi32(packed, order))
    }
}

// SAFETY of the `unsafe` blocks below: the type is named only by functions that require AVX2, FMA and
// F16C, which callers enter after detecting them; arrays have the length of what is loaded from or
// stored to them.
impl Wide for Wide256 {
    #[inline(always)]
    fn load(weights: &[f32; WEIGHTS]) -> Self {
        // SAFETY: see above.
        Self(each_of_4!([0, 1, 2, 3], r => unsafe { _mm256_loadu_ps(weights.as_ptr().add(8 * r)) }))
    }

    #[inline(always)]
    fn store(self, weights: &mut [f32; WEIGHTS]) {
        for (r, register) in self.0.into_iter().enumerate() {
            // SAFETY: see above.
            unsafe { _mm256_storeu_ps(weights.as_mut_ptr().add(8 * r), register) }
        }
    }

    #[inline(always)]
    fn from_bytes(bytes: &[u8; WEIGHTS]) -> Self {
        // SAFETY: see above.
        Self(each_of_4!([0, 1, 2, 3], r => unsafe {
            let eight = _mm_loadl_epi64(bytes.as_ptr().add(8 * r).cast());
            _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight))
        }))
    }

    #[inline(always)]
    fn from_signed_bytes(bytes: &[u8; WEIGHTS]) -> Self {
        // SAFETY: see above.
        Self(each_of_4!([0, 1, 2, 3], r => unsafe {
            let eight = _mm_loadl_epi64(bytes.as_ptr().add(8 * r).cast());
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight))
        }))
    }

    #[inline(always)]
    fn from_f16s(bytes: &[u8; 2 * WEIGHTS]) -> Self {
        // SAFETY: see above.
        Self(each_of_4!([0, 1, 2, 3], r => unsafe {
            _mm256_cvtph_ps(_mm_loadu_si128(bytes.as_ptr().add(16 * r).cast()))
        }))
    }

    #[inline(always)]
    fn to_f16s(self, bytes: &mut [u8; 2 * WEIGHTS]) {
        for (r, register) in self.0.into_iter().enumerate() {
            // SAFETY: see above.
            unsafe {
                let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(register);
                _mm_storeu_si128(bytes.as_mut_ptr().add(16 * r).cast(), halves);
            }
        }
    }

    #[inline(always)]
    fn from_bf16s(bytes: &[u8; 2 * WEIGHTS]) -> Self {
        // SAFETY: see above.
        Self(each_of_4!([0, 1, 2, 3], r => unsafe {
            let eight = _mm_loadu_si128(bytes.as_ptr().add(16 * r).cast());
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(eight)))
        }))
    }

    #[inline(always)]
    fn to_bf16s(self, bytes: &mut [u8; 2 * WEIGHTS]) {
        // SAFETY: see above.
        let [a, b, c, d] = each_of_4!(self.0, r => unsafe {
            let bits = _mm256_castps_si256(r);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let rounded = _mm256_add_epi32(_mm256_set1_epi32(0x7fff), odd);
            _mm256_srli_epi32::<16>(_mm256_add_epi32(bits, rounded))
        });
        // Packing works in halves: put the quarters in order.
        // SAFETY: see above.
        unsafe {
            let first = _mm256_permute4x64_epi64::<0b1101_1000>(_mm256_packus_epi32(a, b));
            let second = _mm256_permute4x64_epi64::<0b1101_1000>(_mm256_packus_epi32(c, d));
            _mm256_storeu_si256(bytes.as_mut_ptr().cast(), first);
            _mm256_storeu_si256(bytes.as_mut_ptr().add(32).cast(), second);
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
        Self(each_of_4!(self.0, r => unsafe { _mm256_add_ps(r, _mm256_set1_ps(number)) }))
    }

    #[inline(always)]
    fn sub(self, number: f32) -> Self {
        // SAFETY: see above.
        Self(each_of_4!(self.0, r => unsafe { _mm256_sub_ps(r, _mm256_set1_ps(number)) }))
    }

    #[inline(always)]
    fn mul(self, number: f32) -> Self {
        // SAFETY: see above.
        Self(each_of_4!(self.0, r => unsafe { _mm256_mul_ps(r, _mm256_set1_ps(number)) }))
    }

    #[inline(always)]
    fn largest_magnitude(self) -> f32 {
        f32::from_bits(self.largest_bits())
    }

    #[inline(always)]
    fn extreme(self) -> f32 {
        // SAFETY: see above.
        unsafe {
            // A magnitude with its sign below it: of those that tie a negative one is largest.
            let [a, b, c, d] = each_of_4!(self.0, r => {
                let bits = _mm256_castps_si256(r);
                _mm256_or_si256(_mm256_slli_epi32::<1>(bits), _mm256_srli_epi32::<31>(bits))
            });
            let (ab, cd) = (_mm256_max_epu32(a, b), _mm256_max_epu32(c, d));
            let extreme = largest_of_8(_mm256_max_epu32(ab, cd)).rotate_right(1);
            let other = _mm256_set1_epi32((extreme ^ SIGN as u32) as i32);
            let [a, b, c, d] = each_of_4!(self.0, r => {
                _mm256_cmpeq_epi32(_mm256_castps_si256(r), other)
            });
            let ties = _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
            if _mm256_testz_si256(ties, ties) == 0 {
                return first_extreme(self);
            }
            // A zero of a block of zeros has no sign.
            f32::from_bits(extreme) + 0.0
        }
    }

    #[inline(always)]
    fn range(self) -> (f32, f32) {
        let [a, b, c, d] = self.0;
        // SAFETY: see above.
        let range = unsafe {
            range_of_8(
                _mm256_min_ps(_mm256_min_ps(a, b), _mm256_min_ps(c, d)),
                _mm256_max_ps(_mm256_max_ps(a, b), _mm256_max_ps(c, d)),
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
        low_bytes(each_of_4!(self.0, r => unsafe { _mm256_cvttps_epi32(r) }))
    }

    #[inline(always)]
    fn truncated_nibbles(self) -> [u8; HALF] {
        let mut nibbles = [0; HALF];
        pack_nibbles(&at_most::<15>(self.truncated()), &mut nibbles);
        nibbles
    }

    #[inline(always)]
    fn rounded_half_away(self) -> [u8; WEIGHTS] {
        // SAFETY: see above.
        low_bytes(each_of_4!(self.0, r => unsafe {
            let sign = _mm256_and_ps(r, _mm256_castsi256_ps(_mm256_set1_epi32(SIGN)));
            let half = _mm256_or_ps(sign, _mm256_set1_ps(JUST_BELOW_HALF));
            _mm256_cvttps_epi32(_mm256_add_ps(r, half))
        }))
    }

    #[inline(always)]
    fn limits_passed<const N: usize>(self, limits: &[f32; N]) -> [u8; WEIGHTS] {
        // SAFETY: see above.
        low_bytes(each_of_4!(self.magnitudes(), magnitude => unsafe {
            let mut passed = _mm256_setzero_si256();
            for limit in limits {
                let limit = _mm256_set1_ps(*limit);
                let less = _mm256_cmp_ps::<_CMP_LT_OQ>(limit, _mm256_castsi256_ps(magnitude));
                passed = _mm256_sub_epi32(passed, _mm256_castps_si256(less));
            }
            passed
        }))
    }

    #[inline(always)]
    fn negative(self) -> u32 {
        // SAFETY: see above.
        signs_of(
            each_of_4!(self.0, r => unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(r, _mm256_setzero_ps()) }),
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
