//! Many query rows at once (prefill). The rows lie across the lanes: a score, or an element of the
//! output, of up to three registers of rows is one broadcast pair of a key's or of two values'
//! elements times those registers, and the softmax never crosses lanes.

use super::store::TILE;
use super::vector::{Vector, fold_halves};
use super::work::{Block, KEY_BLOCK, RowScratch, Scratch, Work};

/// Registers of rows, at most: what the micro-kernels hold next to their sums.
pub(super) const MAX_VECTORS: usize = 3;

/// Fills `sums`, `maxima` and `totals` for up to `MAX_VECTORS × LANES` rows. `UNROLL` is how many
/// keys (or output elements) share a load of the rows; it divides [`TILE`].
///
/// # Safety
/// `V`'s instruction set; lengths as [`super::attention`] checks them.
#[inline(always)]
pub(super) unsafe fn attend<V: Vector, const UNROLL: usize>(
    work: &Work<'_>,
    scratch: &mut Scratch,
) {
    // SAFETY: the caller's.
    unsafe {
        match work.rows.len().div_ceil(V::LANES) {
            0 | 1 => attend_rows::<V, UNROLL, 1>(work, scratch),
            2 => attend_rows::<V, UNROLL, 2>(work, scratch),
            _ => attend_rows::<V, UNROLL, 3>(work, scratch),
        }
    }
}

#[inline(always)]
unsafe fn attend_rows<V: Vector, const UNROLL: usize, const VECTORS: usize>(
    work: &Work<'_>,
    scratch: &mut Scratch,
) {
    let lanes = VECTORS * V::LANES;
    let size = work.shape.head_size;
    let Scratch { widened, rows } = scratch;
    rows.prepare(work, lanes);
    // SAFETY: `prepare` made room for this many rows.
    unsafe { lay_queries::<V>(rows, lanes) };
    // What every row sees.
    let common = work.visible(work.rows.end - 1).start..work.visible(work.rows.start).end;
    // Whether scores are exponents of two before `exponentiate`.
    let are_exponents = work.shape.softcap.is_some() || work.shape.alibi.is_some();
    for part in work.parts() {
        rows.begin_part();
        rows.laid_sums.clear(rows.padded * lanes, 0.0);
        for block in part.blocks() {
            // SAFETY: `prepare` made room for this many rows and this head size; the blocks are there.
            unsafe {
                let block = block.widen::<V>(size, widened);
                score::<V, UNROLL, VECTORS>(rows, block, size);
                if let Some(softcap) = work.shape.softcap {
                    cap::<V>(&mut rows.scores, &rows.scales, lanes, block.length, softcap);
                }
                if work.shape.alibi.is_some() {
                    bias::<V, VECTORS>(rows, block, work.shape.softcap.is_none());
                }
                if block.position < common.start || block.position + block.length > common.end {
                    hide::<V, VECTORS>(rows, block);
                }
                exponentiate::<V, VECTORS>(rows, block, are_exponents);
                accumulate::<V, UNROLL, VECTORS>(rows, block, size);
            }
        }
        // SAFETY: as above.
        unsafe { collect_sums::<V>(rows, lanes) };
        rows.end_part(work);
    }
}

/// Lays the queries' pairs across the lanes.
#[inline(always)]
unsafe fn lay_queries<V: Vector>(rows: &mut RowScratch, lanes: usize) {
    let pairs = rows.query_stride / 2;
    rows.laid_queries.grow(pairs * lanes);
    let (source, target) = (&rows.queries, &mut rows.laid_queries);
    // SAFETY: a pair has the size of an f32, and `prepare` made the pairs a multiple of the lanes.
    unsafe { transpose::<V>(source, pairs, target, lanes) };
}

/// Brings the sums into rows.
#[inline(always)]
unsafe fn collect_sums<V: Vector>(rows: &mut RowScratch, lanes: usize) {
    // SAFETY: the padded head size and `lanes` are multiples of a register's lanes.
    unsafe { transpose::<V>(&rows.laid_sums, lanes, &mut rows.sums, rows.padded) };
}

/// `target[column][row] = source[row][column]`; `source` has rows of `columns` elements, `target`
/// rows of `rows`.
///
/// # Safety
/// `V`'s instruction set; rows and columns are multiples of the lanes.
#[inline(always)]
unsafe fn transpose<V: Vector>(source: &[f32], columns: usize, target: &mut [f32], rows: usize) {
    assert!(source.len() >= rows * columns && target.len() >= rows * columns);
    for row in (0..rows).step_by(V::LANES) {
        for column in (0..columns).step_by(V::LANES) {
            // SAFETY: the block lies within both, as just checked.
            unsafe {
                let source = source.as_ptr().add(row * columns + column);
                let target = target.as_mut_ptr().add(column * rows + row);
                V::transpose(source, columns, target, rows);
            }
        }
    }
}

/// `scores[key][row] = keys[key] · queries[row]`, but for the queries' scales, for the block's keys
/// rounded up to `UNROLL`.
#[inline(always)]
unsafe fn score<V: Vector, const UNROLL: usize, const VECTORS: usize>(
    rows: &mut RowScratch,
    block: Block<i16>,
    size: usize,
) {
    let lanes = VECTORS * V::LANES;
    let queries = rows.laid_queries.as_ptr().cast::<i16>();
    let scores = rows.scores.as_mut_ptr();
    let mut key = 0;
    while key < block.length {
        // SAFETY: whole tiles of keys and scales are there, and UNROLL divides their length.
        unsafe {
            let keys = block.keys.add(key / TILE * TILE * rows.padded + key % TILE * 2);
            let mut sums = [[V::no_sums(); VECTORS]; UNROLL];
            for pair in 0..size.div_ceil(2) {
                let queries = load_pairs::<V, VECTORS>(queries.add(pair * lanes * 2));
                for (index, sums) in sums.iter_mut().enumerate() {
                    let element = V::splat_pair(keys.add((pair * TILE + index) * 2));
                    for (sum, query) in sums.iter_mut().zip(queries) {
                        *sum = V::add_products(*sum, query, element);
                    }
                }
            }
            for (index, sums) in sums.into_iter().enumerate() {
                let scale = V::splat(*block.key_scales.add(key + index));
                for (vector, sum) in sums.into_iter().enumerate() {
                    let target = scores.add((key + index) * lanes + vector * V::LANES);
                    V::from_sums(sum).multiply(scale).store(target);
                }
            }
        }
        key += UNROLL;
    }
}

/// Scores of the queries' scales become `log₂ e · cap · tanh(natural score / cap)`.
#[inline(always)]
unsafe fn cap<V: Vector>(
    scores: &mut [f32],
    scales: &[f32],
    lanes: usize,
    length: usize,
    softcap: f32,
) {
    assert!(scores.len() >= length * lanes && scales.len() >= lanes);
    for lane in (0..lanes).step_by(V::LANES) {
        // SAFETY: as just checked.
        unsafe {
            let scale = V::load(scales.as_ptr().add(lane));
            for key in 0..length {
                let place = scores.as_mut_ptr().add(key * lanes + lane);
                V::load(place).multiply(scale).soft_cap(softcap).store(place);
            }
        }
    }
}

/// Adds ALiBi's biases to scores, which become exponents of two if they are not yet.
#[inline(always)]
unsafe fn bias<V: Vector, const VECTORS: usize>(
    rows: &mut RowScratch,
    block: Block<i16>,
    scaled: bool,
) {
    let lanes = VECTORS * V::LANES;
    let scores = rows.scores.as_mut_ptr();
    // SAFETY: there are `lanes` scores a key, and as many scales, slopes and positions.
    unsafe {
        let mut scales = [V::splat(1.0); VECTORS];
        if scaled {
            scales = load::<V, VECTORS>(rows.scales.as_ptr());
        }
        let slopes = load::<V, VECTORS>(rows.slopes.as_ptr());
        let positions = load::<V, VECTORS>(rows.positions.as_ptr());
        for key in 0..block.length {
            let position = V::splat((block.position + key) as f32);
            let mut scores_of_key = load::<V, VECTORS>(scores.add(key * lanes));
            for (vector, score) in scores_of_key.iter_mut().enumerate() {
                let bias = position.subtract(positions[vector]).multiply(slopes[vector]);
                *score = score.multiply_add(scales[vector], bias);
            }
            store(scores_of_key, scores.add(key * lanes));
        }
    }
}

/// Scores of positions that a row must not see become -∞.
#[inline(always)]
unsafe fn hide<V: Vector, const VECTORS: usize>(rows: &mut RowScratch, block: Block<i16>) {
    let lanes = VECTORS * V::LANES;
    let scores = rows.scores.as_mut_ptr();
    for key in 0..block.length {
        let position = super::work::place(block.position + key);
        for lane in (0..lanes).step_by(V::LANES) {
            // SAFETY: there are `lanes` scores a key, and as many firsts and ends.
            unsafe {
                let (firsts, ends) = (rows.firsts.as_ptr().add(lane), rows.ends.as_ptr().add(lane));
                let scores = scores.add(key * lanes + lane);
                V::load(scores).keep_if_seen(firsts, ends, position).store(scores);
            }
        }
    }
}

/// Turns scores into integer weights relative to the new maxima, and updates maxima, totals, factors
/// and steps.
#[inline(always)]
unsafe fn exponentiate<V: Vector, const VECTORS: usize>(
    rows: &mut RowScratch,
    block: Block<i16>,
    are_exponents: bool,
) {
    let lanes = VECTORS * V::LANES;
    let scores = rows.scores.as_mut_ptr();
    let weights = rows.weights.as_mut_ptr().cast::<i16>();
    // SAFETY: `scores` holds `lanes` values a key, `weights` as many pairs for two keys; the others
    // hold `lanes` values; values have scales for whole tiles.
    unsafe {
        let mut scales = [V::splat(1.0); VECTORS];
        if !are_exponents {
            scales = load::<V, VECTORS>(rows.scales.as_ptr());
        }
        let mut largest = [V::splat(f32::NEG_INFINITY); VECTORS];
        for key in 0..block.length {
            let scores = load::<V, VECTORS>(scores.add(key * lanes));
            for (largest, score) in largest.iter_mut().zip(scores) {
                *largest = largest.larger(score);
            }
        }
        let old = load::<V, VECTORS>(rows.maxima.as_ptr());
        let mut maxima = old;
        for (vector, maximum) in maxima.iter_mut().enumerate() {
            *maximum = maximum.larger(largest[vector].multiply(scales[vector]));
        }
        let Weights { mut totals, sums, peaks } =
            weigh::<V, VECTORS>(scores, block, scales, maxima);
        let mut factors = old;
        let mut steps = old;
        let mut inverses = old;
        let past = load::<V, VECTORS>(rows.totals.as_ptr());
        for vector in 0..VECTORS {
            factors[vector] = old[vector].subtract(maxima[vector]).exp2();
            totals[vector] = past[vector].multiply_add(factors[vector], totals[vector]);
            steps[vector] = V::weight_step(sums[vector], peaks[vector]);
            inverses[vector] = V::splat(1.0).divide(steps[vector]);
        }
        store(maxima, rows.maxima.as_mut_ptr());
        store(totals, rows.totals.as_mut_ptr());
        store(factors, rows.factors.as_mut_ptr());
        store(steps, rows.steps.as_mut_ptr());
        for pair in 0..block.length.div_ceil(2) {
            let first = load::<V, VECTORS>(scores.add(2 * pair * lanes));
            let mut second = [V::splat(0.0); VECTORS];
            if 2 * pair + 1 < block.length {
                second = load::<V, VECTORS>(scores.add((2 * pair + 1) * lanes));
            }
            for vector in 0..VECTORS {
                let target = weights.add((pair * lanes + vector * V::LANES) * 2);
                let second = second[vector].multiply(inverses[vector]);
                first[vector].multiply(inverses[vector]).store_pairs(second, target);
            }
        }
    }
}

/// What [`weigh`] finds out about the weights of each row.
struct Weights<V, const VECTORS: usize> {
    /// Their sum.
    totals: [V; VECTORS],
    /// The sum of their products with the values' scales.
    sums: [V; VECTORS],
    /// The largest of these products.
    peaks: [V; VECTORS],
}

/// Turns scores into weights times the values' scales. The sums are in the order that [`Vector::total`]
/// has where keys lie across the lanes.
#[inline(always)]
unsafe fn weigh<V: Vector, const VECTORS: usize>(
    scores: *mut f32,
    block: Block<i16>,
    scales: [V; VECTORS],
    maxima: [V; VECTORS],
) -> Weights<V, VECTORS> {
    let lanes = VECTORS * V::LANES;
    // SAFETY: the caller's: `scores` holds `lanes` values a key, and values have scales.
    unsafe {
        let mut totals = [[V::splat(0.0); VECTORS]; TILE];
        let mut sums = totals;
        let mut peaks = [V::splat(0.0); VECTORS];
        for first in 0..V::LANES.min(block.length) {
            let (mut total, mut sum) = ([V::splat(0.0); VECTORS], [V::splat(0.0); VECTORS]);
            for key in (first..block.length).step_by(V::LANES) {
                let step = V::splat(*block.value_scales.add(key));
                let mut scores_of_key = load::<V, VECTORS>(scores.add(key * lanes));
                for (vector, score) in scores_of_key.iter_mut().enumerate() {
                    let exponent = score.multiply_subtract(scales[vector], maxima[vector]);
                    let weight = exponent.exp2();
                    total[vector] = total[vector].add(weight);
                    *score = weight.multiply(step);
                    sum[vector] = sum[vector].add(*score);
                    peaks[vector] = peaks[vector].larger(*score);
                }
                store(scores_of_key, scores.add(key * lanes));
            }
            totals[first] = total;
            sums[first] = sum;
        }
        let add = |mut one: [V; VECTORS], other: [V; VECTORS]| {
            for (one, other) in one.iter_mut().zip(other) {
                *one = one.add(other);
            }
            one
        };
        Weights {
            totals: fold_halves(&mut totals[..V::LANES], add),
            sums: fold_halves(&mut sums[..V::LANES], add),
            peaks,
        }
    }
}

/// `sums[element][row] = sums[element][row] · factor + step · Σ_key weights[key][row] · values[key][element]`.
#[inline(always)]
unsafe fn accumulate<V: Vector, const UNROLL: usize, const VECTORS: usize>(
    rows: &mut RowScratch,
    block: Block<i16>,
    size: usize,
) {
    let lanes = VECTORS * V::LANES;
    let weights = rows.weights.as_ptr().cast::<i16>();
    let target = rows.laid_sums.as_mut_ptr();
    let mut element = 0;
    while element < size {
        // SAFETY: the padded head size is a multiple of UNROLL, and pairs of values are whole.
        unsafe {
            let values = block.values.add(2 * element);
            let mut sums = [[V::no_sums(); VECTORS]; UNROLL];
            for pair in 0..block.length.div_ceil(2) {
                let weights = load_pairs::<V, VECTORS>(weights.add(pair * lanes * 2));
                for (index, sums) in sums.iter_mut().enumerate() {
                    let value = V::splat_pair(values.add((pair * rows.padded + index) * 2));
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum = V::add_products(*sum, weight, value);
                    }
                }
            }
            let factors = load::<V, VECTORS>(rows.factors.as_ptr());
            let steps = load::<V, VECTORS>(rows.steps.as_ptr());
            for (index, sums) in sums.into_iter().enumerate() {
                for (vector, sum) in sums.into_iter().enumerate() {
                    let target = target.add((element + index) * lanes + vector * V::LANES);
                    let past = V::load(target).multiply(factors[vector]);
                    V::from_sums(sum).multiply_add(steps[vector], past).store(target);
                }
            }
        }
        element += UNROLL;
    }
}

#[inline(always)]
unsafe fn load<V: Vector, const VECTORS: usize>(source: *const f32) -> [V; VECTORS] {
    // SAFETY: the caller's pointer covers VECTORS registers.
    unsafe {
        let mut vectors = [V::splat(0.0); VECTORS];
        for (index, vector) in vectors.iter_mut().enumerate() {
            *vector = V::load(source.add(index * V::LANES));
        }
        vectors
    }
}

#[inline(always)]
unsafe fn load_pairs<V: Vector, const VECTORS: usize>(source: *const i16) -> [V::Pairs; VECTORS] {
    // SAFETY: the caller's pointer covers VECTORS registers.
    unsafe {
        let mut vectors = [V::load_pairs(source); VECTORS];
        for (index, vector) in vectors.iter_mut().enumerate().skip(1) {
            *vector = V::load_pairs(source.add(2 * index * V::LANES));
        }
        vectors
    }
}

#[inline(always)]
unsafe fn store<V: Vector, const VECTORS: usize>(vectors: [V; VECTORS], target: *mut f32) {
    for (vector, value) in vectors.into_iter().enumerate() {
        // SAFETY: the caller's pointer covers VECTORS registers.
        unsafe { value.store(target.add(vector * V::LANES)) };
    }
}

const _: () = assert!(KEY_BLOCK.is_multiple_of(TILE));
