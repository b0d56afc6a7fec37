//! A few query rows (decode): the keys and values are read once, and all rows use each of them
//! while it is at hand.

use super::vector::Vector;
use super::work::{KEY_BLOCK, Scratch, Work};

/// Rows from which on the tile kernel is the faster one.
pub(super) const MAX_ROWS: usize = 8;

/// Rows whose sums stay in registers together.
const ROWS_AT_ONCE: usize = 4;

/// Minus the lane's number, for hiding the lanes from a position on.
const RAMP: [i32; 16] = [0, -1, -2, -3, -4, -5, -6, -7, -8, -9, -10, -11, -12, -13, -14, -15];

/// Fills `scratch.sums`, `maxima` and `totals` for up to [`MAX_ROWS`] rows. `WIDTH` registers of
/// a row's sums are worked on at once.
///
/// # Safety
/// `V`'s instruction set; lengths as [`super::attention`] checks them.
#[inline(always)]
pub(super) unsafe fn attend<V: Vector, const WIDTH: usize>(work: &Work<'_>, scratch: &mut Scratch) {
    let rows = work.rows.len();
    scratch.prepare(work.shape.head_size, rows);
    let scale = work.exponent_scale();
    for (query, row) in scratch.queries.chunks_exact_mut(scratch.padded).zip(work.rows.clone()) {
        for (query, element) in query.iter_mut().zip(work.query(row)) {
            *query = element * scale;
        }
    }
    for block in work.blocks() {
        // SAFETY: `prepare` made room for these rows and this head size.
        unsafe {
            scratch.widen::<V>(block);
            for (index, row) in work.rows.clone().enumerate() {
                let seen = work.visible(row).saturating_sub(block.position).min(block.length);
                score::<V>(scratch, index, seen);
                exponentiate::<V>(scratch, index);
            }
            let mut row = 0;
            while row < rows {
                match (rows - row).min(ROWS_AT_ONCE) {
                    1 => accumulate::<V, WIDTH, 1>(scratch, row, block.length),
                    2 => accumulate::<V, WIDTH, 2>(scratch, row, block.length),
                    3 => accumulate::<V, WIDTH, 3>(scratch, row, block.length),
                    _ => accumulate::<V, WIDTH, 4>(scratch, row, block.length),
                }
                row += ROWS_AT_ONCE;
            }
        }
    }
}

/// `weights[row][key] = keys[key] · queries[row]` for the first `seen` keys of the block, and -∞
/// for the others.
#[inline(always)]
unsafe fn score<V: Vector>(scratch: &mut Scratch, row: usize, seen: usize) {
    let padded = scratch.padded;
    for key in (0..KEY_BLOCK).step_by(V::LANES) {
        // SAFETY: the scratch holds KEY_BLOCK keys and scores, a multiple of the lanes, and the
        // padded head size is one too; the ramp has as many elements as the widest register.
        unsafe {
            let target = scratch.weights.as_mut_ptr().add(row * KEY_BLOCK + key);
            if key >= seen {
                V::splat(f32::NEG_INFINITY).store(target);
                continue;
            }
            let query = scratch.queries.as_ptr().add(row * padded);
            let keys = scratch.keys.as_ptr().add(key * padded);
            let scores = V::dot_rows(query, keys, padded, padded);
            scores.hide_from(RAMP.as_ptr(), key as i32 - seen as i32).store(target);
        }
    }
}

/// Turns a row's scores into weights relative to its new maximum, and updates its maximum, total
/// and factor.
#[inline(always)]
unsafe fn exponentiate<V: Vector>(scratch: &mut Scratch, row: usize) {
    let weights = scratch.weights[row * KEY_BLOCK..][..KEY_BLOCK].as_mut_ptr();
    let old = scratch.maxima[row];
    // SAFETY: KEY_BLOCK weights are there, a multiple of the lanes.
    unsafe {
        let mut largest = V::splat(old);
        for key in (0..KEY_BLOCK).step_by(V::LANES) {
            largest = largest.larger(V::load(weights.add(key)));
        }
        let maximum = largest.largest();
        let maxima = V::splat(maximum);
        let mut total = V::splat(0.0);
        for key in (0..KEY_BLOCK).step_by(V::LANES) {
            let weight = V::load(weights.add(key)).subtract(maxima).exp2();
            total = total.add(weight);
            weight.store(weights.add(key));
        }
        let factor = (old - maximum).exp2();
        scratch.maxima[row] = maximum;
        scratch.totals[row] = scratch.totals[row] * factor + total.total();
        scratch.factors[row] = factor;
    }
}

/// `sums[row] = sums[row] · factor + Σ_key weights[row][key] · values[key]` for `ROWS` rows from
/// `first` on.
#[inline(always)]
unsafe fn accumulate<V: Vector, const WIDTH: usize, const ROWS: usize>(
    scratch: &mut Scratch,
    first: usize,
    length: usize,
) {
    let mut column = 0;
    while column < scratch.padded {
        // SAFETY: the columns stay within the padded head size, a multiple of the lanes.
        unsafe {
            if column + WIDTH * V::LANES <= scratch.padded {
                accumulate_columns::<V, WIDTH, ROWS>(scratch, first, column, length);
                column += WIDTH * V::LANES;
            } else {
                accumulate_columns::<V, 1, ROWS>(scratch, first, column, length);
                column += V::LANES;
            }
        }
    }
}

#[inline(always)]
unsafe fn accumulate_columns<V: Vector, const WIDTH: usize, const ROWS: usize>(
    scratch: &mut Scratch,
    first: usize,
    column: usize,
    length: usize,
) {
    let padded = scratch.padded;
    // SAFETY: rows `first..first + ROWS`, columns `column..column + WIDTH · LANES` and `length`
    // keys are there.
    unsafe {
        let sums = scratch.sums.as_mut_ptr().add(first * padded + column);
        let values = scratch.values.as_ptr().add(column);
        let weights = scratch.weights.as_ptr().add(first * KEY_BLOCK);
        let mut registers = [[V::splat(0.0); WIDTH]; ROWS];
        for (row, registers) in registers.iter_mut().enumerate() {
            let factor = V::splat(scratch.factors[first + row]);
            for (index, register) in registers.iter_mut().enumerate() {
                *register = V::load(sums.add(row * padded + index * V::LANES)).multiply(factor);
            }
        }
        for key in 0..length {
            let value: [V; WIDTH] =
                std::array::from_fn(|index| V::load(values.add(key * padded + index * V::LANES)));
            for (row, registers) in registers.iter_mut().enumerate() {
                let weight = V::splat(*weights.add(row * KEY_BLOCK + key));
                for (register, value) in registers.iter_mut().zip(value) {
                    *register = weight.multiply_add(value, *register);
                }
            }
        }
        for (row, registers) in registers.into_iter().enumerate() {
            for (index, register) in registers.into_iter().enumerate() {
                register.store(sums.add(row * padded + index * V::LANES));
            }
        }
    }
}

const _: () = assert!(KEY_BLOCK.is_multiple_of(RAMP.len()));
