//! AVX2 and AVX-512.

use std::arch::x86_64::*;

use super::super::arithmetic::{BIAS, KEPT, MAGIC};
use super::{Grid, Lanes};

/// Clamped whole numbers, to be looked up by the low bits that `value + MAGIC` has: entry `e` is for
/// the one whose low bits are `e` among the `SIZE` whole numbers around the range.
const fn clamped_by_low_bits<const SIZE: usize>(low: i32, high: i32) -> [f32; SIZE] {
    let size = SIZE as i32;
    let first = low - (size - (high - low + 1)) / 2;
    assert!(first <= low - 4 && first + size > high + 4, "four beyond the range have entries");
    let mut table = [0.0; SIZE];
    let mut number = first;
    while number < first + size {
        let clamped = if number < low {
            low
        } else if number > high {
            high
        } else {
            number
        };
        table[number.rem_euclid(size) as usize] = clamped as f32;
        number += 1;
    }
    table
}

/// Eight lanes in an AVX register. Used only in functions compiled for AVX2.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx2(__m256);

impl Avx2 {
    #[inline(always)]
    fn nearest(self) -> __m256i {
        // SAFETY: see below.
        unsafe {
            let bits = _mm256_castps_si256(_mm256_add_ps(self.0, _mm256_set1_ps(MAGIC)));
            let kept = _mm256_and_si256(bits, _mm256_set1_epi32(KEPT));
            _mm256_sub_epi32(kept, _mm256_set1_epi32(BIAS))
        }
    }
}

// SAFETY of the `unsafe` blocks below: the type is named only by functions that require AVX2, which
// callers enter after detecting it; loads and stores stay within slices whose length is checked.
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
    fn round_clamped<const LOW: i32, const HIGH: i32>(self) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            let clamped = _mm256_max_epi32(self.nearest(), _mm256_set1_epi32(LOW));
            _mm256_cvtepi32_ps(_mm256_min_epi32(clamped, _mm256_set1_epi32(HIGH)))
        })
    }

    #[inline(always)]
    fn round_near<const LOW: i32, const HIGH: i32>(self) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            // Clamping before the magic number is taken off needs no conversion.
            let moved = _mm256_add_ps(self.0, _mm256_set1_ps(MAGIC));
            let moved = _mm256_max_ps(moved, _mm256_set1_ps(MAGIC + LOW as f32));
            let moved = _mm256_min_ps(moved, _mm256_set1_ps(MAGIC + HIGH as f32));
            _mm256_sub_ps(moved, _mm256_set1_ps(MAGIC))
        })
    }

    #[inline(always)]
    fn round_to_byte(self) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            _mm256_cvtepi32_ps(_mm256_and_si256(self.nearest(), _mm256_set1_epi32(0xff)))
        })
    }

    #[inline(always)]
    fn less(self, other: Self) -> Self::Mask {
        // SAFETY: see above.
        unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, other.0) }
    }

    #[inline(always)]
    fn differs(self, other: Self) -> Self::Mask {
        // SAFETY: see above.
        unsafe { _mm256_cmp_ps::<_CMP_NEQ_UQ>(self.0, other.0) }
    }

    #[inline(always)]
    fn both(left: Self::Mask, right: Self::Mask) -> Self::Mask {
        // SAFETY: see above.
        unsafe { _mm256_and_ps(left, right) }
    }

    #[inline(always)]
    fn bits(mask: Self::Mask) -> u64 {
        // SAFETY: see above.
        u64::from(unsafe { _mm256_movemask_ps(mask) } as u8)
    }

    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_blendv_ps(no.0, yes.0, mask) })
    }

    #[inline(always)]
    fn store_bytes(self, bytes: &mut [u8]) {
        let bytes: &mut [u8; 8] = (&mut bytes[..8]).try_into().expect("eight bytes");
        // SAFETY: see above.
        let low_bytes = unsafe {
            let whole = _mm256_cvttps_epi32(self.0);
            let words = _mm_packus_epi32(
                _mm256_castsi256_si128(whole),
                _mm256_extracti128_si256::<1>(whole),
            );
            _mm_cvtsi128_si64(_mm_packus_epi16(words, words))
        };
        *bytes = low_bytes.to_le_bytes();
    }

    /// A search in the middles that halves what is left: twice among those of a table, by the
    /// results so far.
    #[inline(always)]
    fn nearest_of(self, grid: &Grid) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            let table = |values: &[f32; 8]| _mm256_loadu_ps(values.as_ptr());
            let less = |middle| _mm256_cmp_ps::<_CMP_LT_OQ>(self.0, middle);
            // A comparison that holds is −1. The sums of them that choose from a table run from 0
            // down, and a table is asked for their last three bits.
            let deeper = |sum: __m256i, less: __m256| {
                _mm256_add_epi32(_mm256_add_epi32(sum, sum), _mm256_castps_si256(less))
            };
            let upper = less(_mm256_set1_ps(grid.middles[7]));
            let (low, high) = (grid.middles[3], grid.middles[11]);
            let half = _mm256_blendv_ps(_mm256_set1_ps(high), _mm256_set1_ps(low), upper);
            let sum = deeper(_mm256_castps_si256(upper), less(half));
            let quarter = _mm256_permutevar8x32_ps(table(&grid.halvings.quarters), sum);
            let sum = deeper(sum, less(quarter));
            let eighth = _mm256_permutevar8x32_ps(table(&grid.halvings.eighths), sum);
            let below = _mm256_permutevar8x32_ps(table(&grid.halvings.below), sum);
            let above = _mm256_permutevar8x32_ps(table(&grid.halvings.above), sum);
            _mm256_blendv_ps(above, below, less(eighth))
        })
    }

    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm256_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn transpose<const N: usize>(values: &[f32], stride: usize) -> [Self; N] {
        const { assert!(N.is_multiple_of(8)) };
        let mut columns = [Self::splat(0.0); N];
        for (tile, columns) in columns.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            // Loops, because closures are not compiled for the instruction set of their function.
            let mut rows = *columns;
            for (l, row) in rows.iter_mut().enumerate() {
                *row = Self::load(&values[l * stride + 8 * tile..]);
            }
            // SAFETY: see above.
            *columns = unsafe { transpose_8x8(rows) };
        }
        columns
    }
}

/// Register `i`, lane `l` from register `l`, lane `i`.
#[inline(always)]
unsafe fn transpose_8x8(rows: [Avx2; 8]) -> [Avx2; 8] {
    // SAFETY: the caller has AVX2.
    unsafe {
        // Pairs of rows interleaved, then pairs of pairs, then halves exchanged.
        let mut pairs = rows;
        for i in 0..4 {
            pairs[2 * i].0 = _mm256_unpacklo_ps(rows[2 * i].0, rows[2 * i + 1].0);
            pairs[2 * i + 1].0 = _mm256_unpackhi_ps(rows[2 * i].0, rows[2 * i + 1].0);
        }
        // Quad `4 h + i` is column `i` (and `i + 4` in the upper half) of rows `4 h` to `4 h + 3`.
        let mut quads = rows;
        for h in 0..2 {
            for i in 0..2 {
                let (first, second) = (pairs[4 * h + i].0, pairs[4 * h + 2 + i].0);
                quads[4 * h + 2 * i].0 = _mm256_shuffle_ps::<0x44>(first, second);
                quads[4 * h + 2 * i + 1].0 = _mm256_shuffle_ps::<0xee>(first, second);
            }
        }
        let mut columns = rows;
        for i in 0..4 {
            columns[i].0 = _mm256_permute2f128_ps::<0x20>(quads[i].0, quads[4 + i].0);
            columns[4 + i].0 = _mm256_permute2f128_ps::<0x31>(quads[i].0, quads[4 + i].0);
        }
        columns
    }
}

/// Sixteen lanes in an AVX-512 register. Used only in functions compiled for AVX-512 F, DQ, BW and
/// VL.
#[derive(Clone, Copy)]
pub(in super::super) struct Avx512(__m512);

impl Avx512 {
    #[inline(always)]
    fn nearest(self) -> __m512i {
        // SAFETY: see below.
        unsafe {
            let bits = _mm512_castps_si512(_mm512_add_ps(self.0, _mm512_set1_ps(MAGIC)));
            let kept = _mm512_and_si512(bits, _mm512_set1_epi32(KEPT));
            _mm512_sub_epi32(kept, _mm512_set1_epi32(BIAS))
        }
    }
}

// SAFETY of the `unsafe` blocks below: as for `Avx2`, with AVX-512.
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
    fn round_clamped<const LOW: i32, const HIGH: i32>(self) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            let clamped = _mm512_max_epi32(self.nearest(), _mm512_set1_epi32(LOW));
            _mm512_cvtepi32_ps(_mm512_min_epi32(clamped, _mm512_set1_epi32(HIGH)))
        })
    }

    #[inline(always)]
    fn round_near<const LOW: i32, const HIGH: i32>(self) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            let moved = _mm512_add_ps(self.0, _mm512_set1_ps(MAGIC));
            match HIGH - LOW {
                ..8 => {
                    let table = const { &clamped_by_low_bits::<16>(LOW, narrow(LOW, HIGH, 7)) };
                    let table = _mm512_loadu_ps(table.as_ptr());
                    _mm512_permutexvar_ps(_mm512_castps_si512(moved), table)
                }
                8..16 => {
                    let table = const { &clamped_by_low_bits::<32>(LOW, narrow(LOW, HIGH, 15)) };
                    let first = _mm512_loadu_ps(table.as_ptr());
                    let second = _mm512_loadu_ps(table.as_ptr().add(16));
                    _mm512_permutex2var_ps(first, _mm512_castps_si512(moved), second)
                }
                _ => {
                    let moved = _mm512_max_ps(moved, _mm512_set1_ps(MAGIC + LOW as f32));
                    let moved = _mm512_min_ps(moved, _mm512_set1_ps(MAGIC + HIGH as f32));
                    _mm512_sub_ps(moved, _mm512_set1_ps(MAGIC))
                }
            }
        })
    }

    #[inline(always)]
    fn round_to_byte(self) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            _mm512_cvtepi32_ps(_mm512_and_si512(self.nearest(), _mm512_set1_epi32(0xff)))
        })
    }

    #[inline(always)]
    fn less(self, other: Self) -> Self::Mask {
        // SAFETY: see above.
        unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, other.0) }
    }

    #[inline(always)]
    fn differs(self, other: Self) -> Self::Mask {
        // SAFETY: see above.
        unsafe { _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(self.0, other.0) }
    }

    #[inline(always)]
    fn both(left: Self::Mask, right: Self::Mask) -> Self::Mask {
        left & right
    }

    #[inline(always)]
    fn bits(mask: Self::Mask) -> u64 {
        u64::from(mask)
    }

    #[inline(always)]
    fn select(mask: Self::Mask, yes: Self, no: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_mask_blend_ps(mask, no.0, yes.0) })
    }

    #[inline(always)]
    fn store_bytes(self, bytes: &mut [u8]) {
        let bytes = &mut bytes[..16];
        // SAFETY: see above.
        unsafe {
            let low_bytes = _mm512_cvtepi32_epi8(_mm512_cvttps_epi32(self.0));
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), low_bytes);
        }
    }

    #[inline(always)]
    fn nearest_of(self, grid: &Grid) -> Self {
        // SAFETY: see above.
        Self(unsafe {
            // The tables are asked for the last five bits of the cell's number.
            let cell = _mm512_mul_ps(self.0, _mm512_set1_ps(Grid::CELLS));
            let cell = _mm512_castps_si512(_mm512_add_ps(cell, _mm512_set1_ps(MAGIC)));
            let look_up = |table: &[f32; 32]| {
                let first = _mm512_loadu_ps(table.as_ptr());
                let second = _mm512_loadu_ps(table.as_ptr().add(16));
                _mm512_permutex2var_ps(first, cell, second)
            };
            let middle = look_up(&grid.cells.middle);
            let less = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(self.0, middle);
            _mm512_mask_blend_ps(less, look_up(&grid.cells.above), look_up(&grid.cells.below))
        })
    }

    #[inline(always)]
    fn smaller(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_min_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        // SAFETY: see above.
        Self(unsafe { _mm512_max_ps(self.0, other.0) })
    }

    #[inline(always)]
    fn transpose<const N: usize>(values: &[f32], stride: usize) -> [Self; N] {
        const { assert!(N.is_multiple_of(8)) };
        let mut columns = [Self::splat(0.0); N];
        for (tile, columns) in columns.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let mut rows = *columns;
            for (l, row) in rows.iter_mut().enumerate() {
                let low = Avx2::load(&values[l * stride + 8 * tile..]).0;
                let high = Avx2::load(&values[(l + 8) * stride + 8 * tile..]).0;
                // SAFETY: see above.
                row.0 = unsafe { _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high) };
            }
            // SAFETY: see above.
            *columns = unsafe { transpose_two_8x8(rows) };
        }
        columns
    }
}

/// The range's upper end where the branch that asks is the one taken, else one that its table can
/// be made for.
const fn narrow(low: i32, high: i32, width: i32) -> i32 {
    if high - low <= width { high } else { low + width }
}

/// [`transpose_8x8`] of the low and of the high halves: lane `8 h + l` of register `i` from lane
/// `8 h + i` of register `l`.
#[inline(always)]
unsafe fn transpose_two_8x8(rows: [Avx512; 8]) -> [Avx512; 8] {
    // SAFETY: the caller has AVX-512.
    unsafe {
        let mut pairs = rows;
        for i in 0..4 {
            pairs[2 * i].0 = _mm512_unpacklo_ps(rows[2 * i].0, rows[2 * i + 1].0);
            pairs[2 * i + 1].0 = _mm512_unpackhi_ps(rows[2 * i].0, rows[2 * i + 1].0);
        }
        let mut quads = rows;
        for h in 0..2 {
            for i in 0..2 {
                let (first, second) = (pairs[4 * h + i].0, pairs[4 * h + 2 + i].0);
                quads[4 * h + 2 * i].0 = _mm512_shuffle_ps::<0x44>(first, second);
                quads[4 * h + 2 * i + 1].0 = _mm512_shuffle_ps::<0xee>(first, second);
            }
        }
        // Quarters of a quad are column `i` of rows 0 to 7, `i + 4` of those, and the same of rows 8
        // to 15.
        let even = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27);
        let odd = _mm512_add_epi32(even, _mm512_set1_epi32(4));
        let mut columns = rows;
        for i in 0..4 {
            columns[i].0 = _mm512_permutex2var_ps(quads[i].0, even, quads[4 + i].0);
            columns[4 + i].0 = _mm512_permutex2var_ps(quads[i].0, odd, quads[4 + i].0);
        }
        columns
    }
}
