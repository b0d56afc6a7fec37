//! Products with floating-point weights, in f32.

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

use super::{STRIP_TILE, broadcast};
use crate::kernels::matmul::activations::{ActivationKind, Prepared};
use crate::kernels::matmul::destination::Destination;
use crate::kernels::matmul::float::FloatFormat;
use crate::kernels::matmul::kernel::Strips;
use crate::kernels::matmul::panel::FLOAT_ROWS;
use crate::kernels::matmul::product::tiles;
use crate::kernels::prefetch::prefetch;

/// Rows in a register.
const LANES: usize = 16;

/// Columns of a strip: as many as leave room for a tile of tokens in the first-level cache.
const STRIP_COLUMNS: usize = 128;

/// [`super::super::portable::multiply_float`] with AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(in crate::kernels::matmul) fn multiply_float<F: FloatFormat<WIDTH>, const WIDTH: usize>(
    panel: &[u8],
    columns: usize,
    tokens: Prepared<'_>,
    totals: &mut [f32],
) {
    assert!(panel.len() >= FLOAT_ROWS * columns * WIDTH, "the panel is whole");
    assert!(tokens.stride >= ActivationKind::Float.words(columns), "the tokens are whole");
    assert!(totals.len() >= FLOAT_ROWS * tokens.rows, "the totals have room");
    let weights = Packed::<F, WIDTH> { panel: panel.as_ptr(), format: PhantomData };
    let range = 0..columns;
    let totals = totals.as_mut_ptr();
    // SAFETY: the panel, the tokens and the totals are as long as the tile asks: see above.
    unsafe {
        match tokens.rows {
            1 => tile::<_, 2, 1>(weights, range, tokens.starts(), totals),
            2 => tile::<_, 2, 2>(weights, range, tokens.starts(), totals),
            3 => tile::<_, 2, 3>(weights, range, tokens.starts(), totals),
            4 => tile::<_, 2, 4>(weights, range, tokens.starts(), totals),
            rows => unreachable!("no tile has {rows} rows"),
        }
    }
}

/// The strips of a type.
pub(in crate::kernels::matmul) fn float_strips<F: FloatFormat<WIDTH>, const WIDTH: usize>() -> Strips
{
    Strips {
        columns: STRIP_COLUMNS,
        bytes: strip_bytes(STRIP_COLUMNS),
        unpack: unpack::<F, WIDTH>,
        multiply: multiply_strip,
    }
}

const fn strip_bytes(columns: usize) -> usize {
    2 * FLOAT_ROWS * size_of::<f32>() * columns
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn unpack<F: FloatFormat<WIDTH>, const WIDTH: usize>(
    panels: [&[u8]; 2],
    columns: usize,
    range: Range<usize>,
    strip: &mut [u8],
) {
    assert!(
        range.end <= columns && strip.as_ptr().addr().is_multiple_of(64),
        "the strip is a strip"
    );
    assert!(strip.len() >= strip_bytes(range.len()), "the strip has room");
    let strip = strip.as_mut_ptr().cast::<f32>();
    for (index, panel) in panels.into_iter().enumerate() {
        assert!(panel.len() >= FLOAT_ROWS * columns * WIDTH, "the panel is whole");
        let weights = Packed::<F, WIDTH> { panel: panel.as_ptr(), format: PhantomData };
        for (column, from) in range.clone().enumerate() {
            // SAFETY: the panel and the strip have the column: see above.
            unsafe {
                let strip = strip.add((2 * column + index) * FLOAT_ROWS);
                weights.prefetch(from);
                let [low, high] = weights.column(from);
                _mm512_store_ps(strip, low);
                _mm512_store_ps(strip.add(LANES), high);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn multiply_strip(
    strip: &[u8],
    columns_of_panels: usize,
    range: Range<usize>,
    tokens: Prepared<'_>,
    totals: &mut [f32],
    destination: &Destination<'_>,
) {
    assert!(
        range.end <= columns_of_panels && strip.as_ptr().addr().is_multiple_of(64),
        "the strip is a strip"
    );
    assert!(strip.len() >= strip_bytes(range.len()), "the strip is whole");
    let words = ActivationKind::Float.words(columns_of_panels);
    assert!(tokens.stride >= words, "the tokens are whole");
    assert!(totals.len() >= 2 * FLOAT_ROWS * tokens.rows, "the totals have room");
    let before = range.start * 2 * FLOAT_ROWS;
    let weights = Unpacked { strip: strip.as_ptr().cast::<f32>().wrapping_sub(before) };
    for tile_range in tiles(0..tokens.count(), STRIP_TILE) {
        let tokens = tokens.tokens(tile_range.clone());
        // Sums wait for the next columns, if any.
        let at = if range.len() == columns_of_panels { 0 } else { tile_range.start };
        let sums = &mut totals[2 * FLOAT_ROWS * at..][..2 * FLOAT_ROWS * tile_range.len()];
        let totals = sums.as_mut_ptr();
        let columns = range.clone();
        // SAFETY: the strip, the tokens and the totals are as long as the tile asks: see above.
        unsafe {
            match tokens.rows {
                1 => tile::<_, 4, 1>(weights, columns, tokens.starts(), totals),
                2 => tile::<_, 4, 2>(weights, columns, tokens.starts(), totals),
                3 => tile::<_, 4, 3>(weights, columns, tokens.starts(), totals),
                4 => tile::<_, 4, 4>(weights, columns, tokens.starts(), totals),
                5 => tile::<_, 4, 5>(weights, columns, tokens.starts(), totals),
                6 => tile::<_, 4, 6>(weights, columns, tokens.starts(), totals),
                rows => unreachable!("no tile has {rows} rows"),
            }
        }
        if range.end == columns_of_panels {
            destination.put(tile_range.start, sums, 2 * FLOAT_ROWS);
        }
    }
}

/// Weights of `R` registers of rows.
trait Weights<const R: usize>: Copy {
    /// The weights of a column.
    ///
    /// # Safety
    /// There is such a column; the processor has AVX-512.
    unsafe fn column(self, column: usize) -> [__m512; R];

    /// Has the memory send what is needed soon.
    ///
    /// # Safety
    /// As for [`Self::column`].
    unsafe fn prefetch(self, column: usize);
}

/// A panel.
struct Packed<F, const WIDTH: usize> {
    panel: *const u8,
    format: PhantomData<F>,
}

impl<F, const WIDTH: usize> Clone for Packed<F, WIDTH> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F, const WIDTH: usize> Copy for Packed<F, WIDTH> {}

/// How far ahead of the products the memory is asked for a panel.
const AHEAD: usize = 4096;

impl<F: FloatFormat<WIDTH>, const WIDTH: usize> Weights<2> for Packed<F, WIDTH> {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn column(self, column: usize) -> [__m512; 2] {
        // SAFETY: the caller's.
        unsafe {
            let weights = self.panel.add(column * FLOAT_ROWS * WIDTH);
            [F::load_16(weights), F::load_16(weights.add(LANES * WIDTH))]
        }
    }

    #[inline(always)]
    unsafe fn prefetch(self, column: usize) {
        let next = self.panel.wrapping_add(column * FLOAT_ROWS * WIDTH + AHEAD);
        for line in (0..FLOAT_ROWS * WIDTH).step_by(64) {
            prefetch(next.wrapping_add(line));
        }
    }
}

/// Two panels in f32, column by column.
#[derive(Clone, Copy)]
struct Unpacked {
    strip: *const f32,
}

impl Weights<4> for Unpacked {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn column(self, column: usize) -> [__m512; 4] {
        let strip = self.strip.wrapping_add(column * 2 * FLOAT_ROWS);
        // SAFETY: the caller's.
        unsafe {
            [
                _mm512_load_ps(strip),
                _mm512_load_ps(strip.add(LANES)),
                _mm512_load_ps(strip.add(2 * LANES)),
                _mm512_load_ps(strip.add(3 * LANES)),
            ]
        }
    }

    #[inline(always)]
    unsafe fn prefetch(self, _: usize) {}
}

/// Multiplies `R` registers of rows with `T` tokens over some columns; where these are not the
/// first, the totals go on from what they are.
///
/// # Safety
/// `weights` has the columns, each of `tokens` the words of a token, `totals` room for `T` × `R` × 16
/// values.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn tile<W: Weights<R>, const R: usize, const T: usize>(
    weights: W,
    columns: Range<usize>,
    tokens: [*const u32; T],
    totals: *mut f32,
) {
    let mut sums = [[_mm512_setzero_ps(); R]; T];
    // SAFETY: every offset stays below the lengths that the caller promises.
    unsafe {
        if columns.start > 0 {
            for (t, sums) in sums.iter_mut().enumerate() {
                for (register, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(totals.add((t * R + register) * LANES));
                }
            }
        }
        for column in columns {
            weights.prefetch(column);
            let values = weights.column(column);
            for (sums, token) in sums.iter_mut().zip(tokens) {
                let activation = broadcast(token, column);
                for (sum, values) in sums.iter_mut().zip(values) {
                    *sum = _mm512_fmadd_ps(values, activation, *sum);
                }
            }
        }
        for (t, sums) in sums.into_iter().enumerate() {
            for (register, sum) in sums.into_iter().enumerate() {
                _mm512_storeu_ps(totals.add((t * R + register) * LANES), sum);
            }
        }
    }
}
