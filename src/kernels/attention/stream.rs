//! A few query rows (decode): each key and value is read once, and all rows use it while it is at
//! hand. Keys lie across the lanes when they are scored, the elements of values when they are added
//! up.
//!
//! A row's result has the same bits as that of the module `tile`: both do the same operations on f32
//! values in the same order.

use super::store::{KvType, TILE};
use super::vector::Vector;
use super::work::{Block, Element, KEY_BLOCK, RowScratch, Scratch, Work, place};
use crate::kernels::prefetch::prefetch;

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
    for part in work.parts() {
        rows.begin_part();
        rows.sums.clear(rows.padded * work.rows.len(), 0.0);
        for block in part.blocks() {
            // SAFETY: `prepare` made room for these rows and this head size; the blocks are there.
            unsafe {
                match block.kind {
                    KvType::I16 => {
                        attend_block::<V, i16, KEYS, WIDTH>(work, rows, block.in_place(size));
                    }
                    KvType::I8 => {
                        attend_block::<V, i8, KEYS, WIDTH>(work, rows, block.in_place(size));
                    }
                }
            }
        }
        rows.end_part(work);
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
        row = 0;
        while row < count {
            match (count - row).min(ROWS_AT_ONCE) {
                1 => exponentiate::<V, E, 1>(work, rows, row, block),
                2 => exponentiate::<V, E, 2>(work, rows, row, block),
                3 => exponentiate::<V, E, 3>(work, rows, row, block),
                _ => exponentiate::<V, E, 4>(work, rows, row, block),
            }
            row += ROWS_AT_ONCE;
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

/// Turns rows' scores into integer weights relative to their new maxima, and updates maxima, totals,
/// factors and steps. The rows take turns, since each by itself is a chain of waits.
#[inline(always)]
unsafe fn exponentiate<V: Vector, E: Element, const ROWS: usize>(
    work: &Work<'_>,
    rows: &mut RowScratch,
    first: usize,
    block: Block<E>,
) {
    let softcap = work.shape.softcap;
    let has_alibi = work.shape.alibi.is_some();
    let keys = block.length.next_multiple_of(V::LANES);
    let mut begins = [0; ROWS];
    let mut ends = [0; ROWS];
    let mut hides = keys > block.length;
    for row in 0..ROWS {
        begins[row] = rows.firsts[first + row] - place(block.position);
        ends[row] = (rows.ends[first + row] - place(block.position)).min(place(block.length));
        hides |= begins[row] > 0 || ends[row] < place(block.length);
    }
    // SAFETY: a row has KEY_BLOCK scores and weights, a multiple of the lanes, and there are scales
    // for whole tiles.
    unsafe {
        let scores = rows.scores.as_mut_ptr().add(first * KEY_BLOCK);
        let weights = rows.weights.as_mut_ptr().cast::<i16>().add(first * KEY_BLOCK);
        // What scores are multiplied by to be exponents of two.
        let mut scales = [V::splat(1.0); ROWS];
        let mut old = scales;
        for row in 0..ROWS {
            scales[row] = V::splat(rows.scales[first + row]);
            old[row] = V::splat(rows.maxima[first + row]);
        }
        let within = first_integers::<V>();
        let mut maxima = [V::splat(f32::NEG_INFINITY); ROWS];
        for key in (0..keys).step_by(V::LANES) {
            let key_scales = V::load(block.key_scales.add(key));
            for row in 0..ROWS {
                let place_of_scores = scores.add(row * KEY_BLOCK + key);
                let mut score = V::load(place_of_scores).multiply(key_scales);
                if let Some(softcap) = softcap {
                    score = score.multiply(scales[row]).soft_cap(softcap);
                }
                if has_alibi {
                    let distance = (block.position + key) as f32 - rows.positions[first + row];
                    let slope = V::splat(rows.slopes[first + row]);
                    let bias = within.add(V::splat(distance)).multiply(slope);
                    let scale = if softcap.is_some() { V::splat(1.0) } else { scales[row] };
                    score = score.multiply_add(scale, bias);
                }
                if hides {
                    score = score.keep_lanes(begins[row] - place(key), ends[row] - place(key));
                }
                maxima[row] = maxima[row].larger(score);
                score.store(place_of_scores);
            }
        }
        if softcap.is_some() || has_alibi {
            scales = [V::splat(1.0); ROWS];
        }
        for row in 0..ROWS {
            let largest = V::splat(maxima[row].largest());
            maxima[row] = old[row].larger(largest.multiply(scales[row]));
        }
        let mut totals = [V::splat(0.0); ROWS];
        let mut sums = totals;
        let mut peaks = totals;
        for key in (0..keys).step_by(V::LANES) {
            let value_scales = V::load(block.value_scales.add(key));
            for row in 0..ROWS {
                let place_of_scores = scores.add(row * KEY_BLOCK + key);
                let score = V::load(place_of_scores);
                let weight = score.multiply_subtract(scales[row], maxima[row]).exp2();
                totals[row] = totals[row].add(weight);
                let weight = weight.multiply(value_scales);
                sums[row] = sums[row].add(weight);
                peaks[row] = peaks[row].larger(weight);
                weight.store(place_of_scores);
            }
        }
        let mut inverses = totals;
        for row in 0..ROWS {
            let step = V::weight_step(V::splat(sums[row].total()), V::splat(peaks[row].largest()));
            inverses[row] = V::splat(1.0).divide(step);
            let factor = old[row].subtract(maxima[row]).exp2();
            let row_number = first + row;
            let past = V::splat(rows.totals[row_number]);
            let total = past.multiply_add(factor, V::splat(totals[row].total()));
            rows.maxima[row_number] = first_lane(maxima[row]);
            rows.totals[row_number] = first_lane(total);
            rows.factors[row_number] = first_lane(factor);
            rows.steps[row_number] = first_lane(step);
        }
        for key in (0..keys).step_by(V::LANES) {
            for (row, inverse) in inverses.into_iter().enumerate() {
                let index = row * KEY_BLOCK + key;
                V::load(scores.add(index)).multiply(inverse).store_rounded(weights.add(index));
            }
        }
    }
}

/// 0, 1, 2 and so on, one a lane.
#[inline(always)]
unsafe fn first_integers<V: Vector>() -> V {
    let mut lanes = [0.0; TILE];
    for (index, lane) in lanes.iter_mut().enumerate() {
        *lane = index as f32;
    }
    // SAFETY: no register has more lanes than a tile has positions.
    unsafe { V::load(lanes.as_ptr()) }
}

#[inline(always)]
unsafe fn first_lane<V: Vector>(vector: V) -> f32 {
    let mut lanes = [0.0; TILE];
    // SAFETY: no register has more lanes than a tile has positions.
    unsafe { vector.store(lanes.as_mut_ptr()) };
    lanes[0]
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
