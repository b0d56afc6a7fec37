//! A few query rows (decode): each key and value is read once, and all rows use it while it is at
//! hand. Keys lie across the lanes when they are scored, the elements of values when they are added
//! up.

use super::store::{KvType, TILE};
use super::vector::{Vector, prefetch};
use super::work::{Block, Element, KEY_BLOCK, RowScratch, Scratch, Work, place};

/// Rows from which on the tile kernel is the faster one.
pub(super) const MAX_ROWS: usize = 8;

/// Rows that share the loads of a key or value.
const ROWS_AT_ONCE: usize = 4;

/// Fills `sums`, `maxima` and `totals` for up to [`MAX_ROWS`] rows. `KEYS` registers of keys, and
/// `WIDTH` registers of a row's sums, are worked on at once.
///
/// # Safety
/// `V`'s instruction set; lengths as [`super::attention`] checks them.
#[inline(always)]
pub(super) unsafe fn attend<V: Vector, const KEYS: usize, const WIDTH: usize>(
    work: &Work<'_>,
    scratch: &mut Scratch,
) {
    let rows = &mut scratch.rows;
    let size = work.shape.head_size;
    rows.prepare(work, work.rows.len());
    for block in work.blocks() {
        // SAFETY: `prepare` made room for these rows and this head size; the blocks are there.
        unsafe {
            match block.kind {
                KvType::I16 => {
                    attend_block::<V, i16, KEYS, WIDTH>(work, rows, block.in_place(size));
                }
                KvType::I8 => attend_block::<V, i8, KEYS, WIDTH>(work, rows, block.in_place(size)),
            }
        }
    }
}

/// Lets all rows see a block.
#[inline(always)]
unsafe fn attend_block<V: Vector, E: Element, const KEYS: usize, const WIDTH: usize>(
    work: &Work<'_>,
    rows: &mut RowScratch,
    block: Block<E>,
) {
    let size = work.shape.head_size;
    let count = work.rows.len();
    // SAFETY: the caller's.
    unsafe {
        let mut row = 0;
        while row < count {
            match (count - row).min(ROWS_AT_ONCE) {
                1 => score::<V, E, KEYS, 1>(rows, row, block, size),
                2 => score::<V, E, KEYS, 2>(rows, row, block, size),
                3 => score::<V, E, KEYS, 3>(rows, row, block, size),
                _ => score::<V, E, KEYS, 4>(rows, row, block, size),
            }
            row += ROWS_AT_ONCE;
        }
        for row in 0..count {
            exponentiate::<V, E>(rows, row, block, work.shape.softcap);
        }
        row = 0;
        while row < count {
            match (count - row).min(ROWS_AT_ONCE) {
                1 => accumulate::<V, E, WIDTH, 1>(rows, row, block),
                2 => accumulate::<V, E, WIDTH, 2>(rows, row, block),
                3 => accumulate::<V, E, WIDTH, 3>(rows, row, block),
                _ => accumulate::<V, E, WIDTH, 4>(rows, row, block),
            }
            row += ROWS_AT_ONCE;
        }
    }
}

/// `scores[row][key] = keys[key] · queries[row]`, but for all scales, for the block's keys rounded up
/// to a register.
#[inline(always)]
unsafe fn score<V: Vector, E: Element, const KEYS: usize, const ROWS: usize>(
    rows: &mut RowScratch,
    first: usize,
    block: Block<E>,
    size: usize,
) {
    let mut key = 0;
    while key < block.length {
        // SAFETY: whole tiles of keys are there, and a register's lanes divide their length.
        unsafe {
            if key + (KEYS - 1) * V::LANES < block.length {
                score_keys::<V, E, KEYS, ROWS>(rows, first, block, size, key);
                key += KEYS * V::LANES;
            } else {
                score_keys::<V, E, 1, ROWS>(rows, first, block, size, key);
                key += V::LANES;
            }
        }
    }
}

#[inline(always)]
unsafe fn score_keys<V: Vector, E: Element, const KEYS: usize, const ROWS: usize>(
    rows: &mut RowScratch,
    first: usize,
    block: Block<E>,
    size: usize,
    key: usize,
) {
    let stride = rows.padded;
    // SAFETY: rows `first..first + ROWS` are there, and KEYS registers of keys from `key` on.
    unsafe {
        let queries = rows.queries.as_ptr().cast::<i16>().add(first * rows.query_stride);
        let mut starts = [block.keys; KEYS];
        for (index, start) in starts.iter_mut().enumerate() {
            let key = key + index * V::LANES;
            *start = start.add(key / TILE * TILE * stride + key % TILE * 2);
        }
        let mut sums = [[V::no_sums(); KEYS]; ROWS];
        for pair in 0..size.div_ceil(2) {
            let mut keys = [V::no_pairs(); KEYS];
            for (keys, start) in keys.iter_mut().zip(starts) {
                let address = start.add(pair * TILE * 2);
                prefetch(address.wrapping_add(KEY_BLOCK * stride));
                *keys = E::load_pairs::<V>(address);
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let query = V::splat_pair(queries.add(row * rows.query_stride + 2 * pair));
                for (sum, keys) in sums.iter_mut().zip(keys) {
                    *sum = V::add_products(*sum, keys, query);
                }
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            let scores = rows.scores.as_mut_ptr().add((first + row) * KEY_BLOCK + key);
            for (index, sum) in sums.into_iter().enumerate() {
                V::from_sums(sum).store(scores.add(index * V::LANES));
            }
        }
    }
}

/// Turns a row's scores into integer weights relative to its new maximum, and updates its maximum,
/// total, factor and step.
#[inline(always)]
unsafe fn exponentiate<V: Vector, E: Element>(
    rows: &mut RowScratch,
    row: usize,
    block: Block<E>,
    softcap: Option<f32>,
) {
    let position = place(block.position);
    let (begin, end) = (rows.firsts[row] - position, rows.ends[row] - position);
    let end = end.min(place(block.length));
    let old = rows.maxima[row];
    let keys = block.length.next_multiple_of(V::LANES);
    // SAFETY: a row has KEY_BLOCK scores and weights, a multiple of the lanes, and there are scales
    // for whole tiles.
    unsafe {
        let scores = rows.scores.as_mut_ptr().add(row * KEY_BLOCK);
        let weights = rows.weights.as_mut_ptr().cast::<i16>().add(row * KEY_BLOCK);
        let scale = V::splat(rows.scales[row]);
        let mut largest = V::splat(old);
        for key in (0..keys).step_by(V::LANES) {
            let scales = V::load(block.key_scales.add(key)).multiply(scale);
            let mut score = V::load(scores.add(key)).multiply(scales);
            if let Some(softcap) = softcap {
                score = score.soft_cap(softcap);
            }
            let key_number = place(key);
            score = score.keep_lanes(begin - key_number, end - key_number);
            largest = largest.larger(score);
            score.store(scores.add(key));
        }
        let maximum = largest.largest();
        let maxima = V::splat(maximum);
        let mut total = V::splat(0.0);
        let mut sum = V::splat(0.0);
        let mut peak = V::splat(0.0);
        for key in (0..keys).step_by(V::LANES) {
            let weight = V::load(scores.add(key)).subtract(maxima).exp2();
            total = total.add(weight);
            let weight = weight.multiply(V::load(block.value_scales.add(key)));
            sum = sum.add(weight);
            peak = peak.larger(weight);
            weight.store(scores.add(key));
        }
        let step = V::weight_step(V::splat(sum.total()), V::splat(peak.largest()));
        let inverse = V::splat(1.0).divide(step);
        for key in (0..keys).step_by(V::LANES) {
            V::load(scores.add(key)).multiply(inverse).store_rounded(weights.add(key));
        }
        let factor = (old - maximum).exp2();
        rows.maxima[row] = maximum;
        rows.totals[row] = rows.totals[row] * factor + total.total();
        rows.factors[row] = factor;
        rows.steps[row] = step.largest();
    }
}

/// `sums[row] = sums[row] · factor + step · Σ_key weights[row][key] · values[key]` for `ROWS` rows
/// from `first` on.
#[inline(always)]
unsafe fn accumulate<V: Vector, E: Element, const WIDTH: usize, const ROWS: usize>(
    rows: &mut RowScratch,
    first: usize,
    block: Block<E>,
) {
    let mut column = 0;
    while column < rows.padded {
        // SAFETY: the columns stay within the padded head size, a multiple of the lanes.
        unsafe {
            if column + WIDTH * V::LANES <= rows.padded {
                accumulate_columns::<V, E, WIDTH, ROWS>(rows, first, block, column);
                column += WIDTH * V::LANES;
            } else {
                accumulate_columns::<V, E, 1, ROWS>(rows, first, block, column);
                column += V::LANES;
            }
        }
    }
}

#[inline(always)]
unsafe fn accumulate_columns<V: Vector, E: Element, const WIDTH: usize, const ROWS: usize>(
    rows: &mut RowScratch,
    first: usize,
    block: Block<E>,
    column: usize,
) {
    let stride = rows.padded;
    // SAFETY: rows `first..first + ROWS`, columns `column..column + WIDTH · LANES` and the block's
    // pairs of values are there.
    unsafe {
        let values = block.values.add(2 * column);
        let weights = rows.weights.as_ptr().cast::<i16>().add(first * KEY_BLOCK);
        let mut registers = [[V::no_sums(); WIDTH]; ROWS];
        for pair in 0..block.length.div_ceil(2) {
            let mut pairs = [V::no_pairs(); WIDTH];
            for (index, pairs) in pairs.iter_mut().enumerate() {
                let address = values.add((pair * stride + index * V::LANES) * 2);
                prefetch(address.wrapping_add(KEY_BLOCK * stride));
                *pairs = E::load_pairs::<V>(address);
            }
            for (row, registers) in registers.iter_mut().enumerate() {
                let weight = V::splat_pair(weights.add(row * KEY_BLOCK + 2 * pair));
                for (register, pairs) in registers.iter_mut().zip(pairs) {
                    *register = V::add_products(*register, pairs, weight);
                }
            }
        }
        for (row, registers) in registers.into_iter().enumerate() {
            let row = first + row;
            let (factor, step) = (V::splat(rows.factors[row]), V::splat(rows.steps[row]));
            let sums = rows.sums.as_mut_ptr().add(row * stride + column);
            for (index, register) in registers.into_iter().enumerate() {
                let target = sums.add(index * V::LANES);
                let past = V::load(target).multiply(factor);
                V::from_sums(register).multiply_add(step, past).store(target);
            }
        }
    }
}
