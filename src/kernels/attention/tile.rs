//! Many query rows at once (prefill). The rows lie across the lanes: a score, a weight or an
//! output element of up to three registers of rows is one broadcast key or value element times
//! those registers, and the softmax never crosses lanes.

use super::vector::Vector;
use super::work::{Block, KEY_BLOCK, Scratch, Work};

/// Registers of rows that the kernel takes at most.
pub(super) const MAX_VECTORS: usize = 3;

/// Fills `scratch.sums`, `maxima` and `totals` for up to `MAX_VECTORS × LANES` rows. `UNROLL` is
/// how many keys (or output elements) share a load of the rows; it divides both [`KEY_BLOCK`] and
/// the padded head size.
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
            1 => attend_rows::<V, UNROLL, 1>(work, scratch),
            2 => attend_rows::<V, UNROLL, 2>(work, scratch),
            3 => attend_rows::<V, UNROLL, 3>(work, scratch),
            _ => unreachable!("a tile holds 1 to {MAX_VECTORS} registers of rows"),
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
    scratch.prepare(size, lanes);
    gather_queries(work, scratch, lanes);
    let seen_by_all = work.visible(work.rows.start);
    for block in work.blocks() {
        // SAFETY: `prepare` made room for this many lanes and this head size.
        unsafe {
            scratch.widen::<V>(block);
            score::<V, UNROLL, VECTORS>(scratch, size, block.length);
            if block.position + block.length > seen_by_all {
                hide_the_future::<V, VECTORS>(scratch, block);
            }
            exponentiate::<V, VECTORS>(scratch, block.length);
            accumulate::<V, UNROLL, VECTORS>(scratch, block.length);
        }
    }
    let Scratch { sums, columns, padded, .. } = scratch;
    for (row, sums) in sums.chunks_exact_mut(*padded).take(work.rows.len()).enumerate() {
        for (sum, column) in sums[..size].iter_mut().zip(columns.chunks_exact(lanes)) {
            *sum = column[row];
        }
    }
}

/// Lays the scaled queries across the lanes. Lanes without a row hold zeros.
#[inline(always)]
fn gather_queries(work: &Work<'_>, scratch: &mut Scratch, lanes: usize) {
    let scale = work.exponent_scale();
    for (lane, row) in work.rows.clone().enumerate() {
        for (query, element) in scratch.queries.chunks_exact_mut(lanes).zip(work.query(row)) {
            query[lane] = element * scale;
        }
        scratch.limits[lane] = i32::try_from(work.visible(row)).unwrap_or(i32::MAX);
    }
}

/// `weights[key][row] = keys[key] · queries[row]`, for `length` keys rounded up to `UNROLL`: the
/// keys beyond are left over from an earlier block, and nobody reads their scores.
#[inline(always)]
unsafe fn score<V: Vector, const UNROLL: usize, const VECTORS: usize>(
    scratch: &mut Scratch,
    size: usize,
    length: usize,
) {
    let lanes = VECTORS * V::LANES;
    let queries = scratch.queries.as_ptr();
    for key in (0..length).step_by(UNROLL) {
        // SAFETY: the scratch holds KEY_BLOCK keys, a multiple of UNROLL.
        unsafe {
            let keys = scratch.keys.as_ptr().add(key * scratch.padded);
            let mut scores = [[V::splat(0.0); VECTORS]; UNROLL];
            for column in 0..size {
                let rows = load::<V, VECTORS>(queries.add(column * lanes));
                for (key, scores) in scores.iter_mut().enumerate() {
                    let element = V::splat(*keys.add(key * scratch.padded + column));
                    for (score, row) in scores.iter_mut().zip(rows) {
                        *score = element.multiply_add(row, *score);
                    }
                }
            }
            let target = scratch.weights.as_mut_ptr().add(key * lanes);
            for (key, scores) in scores.into_iter().enumerate() {
                store(scores, target.add(key * lanes));
            }
        }
    }
}

/// Scores of positions that a row must not see become -∞.
#[inline(always)]
unsafe fn hide_the_future<V: Vector, const VECTORS: usize>(
    scratch: &mut Scratch,
    block: Block<'_>,
) {
    for key in 0..block.length {
        let position = i32::try_from(block.position + key).unwrap_or(i32::MAX);
        for vector in 0..VECTORS {
            // SAFETY: `weights` and `limits` hold VECTORS registers a key.
            unsafe {
                let limits = scratch.limits.as_ptr().add(vector * V::LANES);
                let index = (key * VECTORS + vector) * V::LANES;
                let scores = scratch.weights.as_mut_ptr().add(index);
                V::load(scores).hide_from(limits, position).store(scores);
            }
        }
    }
}

/// Turns scores into weights relative to the new maxima, and updates maxima, totals and factors.
#[inline(always)]
unsafe fn exponentiate<V: Vector, const VECTORS: usize>(scratch: &mut Scratch, length: usize) {
    let lanes = VECTORS * V::LANES;
    let weights = scratch.weights.as_mut_ptr();
    // SAFETY: `weights` holds `lanes` values a key; the others hold `lanes` values.
    unsafe {
        let old = load::<V, VECTORS>(scratch.maxima.as_ptr());
        let mut maxima = old;
        for key in 0..length {
            let scores = load::<V, VECTORS>(weights.add(key * lanes));
            for (maximum, score) in maxima.iter_mut().zip(scores) {
                *maximum = maximum.larger(score);
            }
        }
        let mut totals = [V::splat(0.0); VECTORS];
        for key in 0..length {
            let mut scores = load::<V, VECTORS>(weights.add(key * lanes));
            for ((score, maximum), total) in scores.iter_mut().zip(maxima).zip(&mut totals) {
                *score = score.subtract(maximum).exp2();
                *total = total.add(*score);
            }
            store(scores, weights.add(key * lanes));
        }
        let mut factors = load::<V, VECTORS>(scratch.totals.as_ptr());
        let past = factors;
        for (vector, factor) in factors.iter_mut().enumerate() {
            *factor = old[vector].subtract(maxima[vector]).exp2();
            totals[vector] = past[vector].multiply_add(*factor, totals[vector]);
        }
        store(maxima, scratch.maxima.as_mut_ptr());
        store(totals, scratch.totals.as_mut_ptr());
        store(factors, scratch.factors.as_mut_ptr());
    }
}

/// `columns[element][row] = columns[element][row] · factor + Σ_key weights[key][row] · values[key][element]`.
#[inline(always)]
unsafe fn accumulate<V: Vector, const UNROLL: usize, const VECTORS: usize>(
    scratch: &mut Scratch,
    length: usize,
) {
    let lanes = VECTORS * V::LANES;
    let weights = scratch.weights.as_ptr();
    for element in (0..scratch.padded).step_by(UNROLL) {
        // SAFETY: the padded head size is a multiple of UNROLL, and `length` keys are there.
        unsafe {
            let factors = load::<V, VECTORS>(scratch.factors.as_ptr());
            let values = scratch.values.as_ptr().add(element);
            let columns = scratch.columns.as_mut_ptr().add(element * lanes);
            let mut sums = [[V::splat(0.0); VECTORS]; UNROLL];
            for (element, sums) in sums.iter_mut().enumerate() {
                *sums = load(columns.add(element * lanes));
                for (sum, factor) in sums.iter_mut().zip(factors) {
                    *sum = sum.multiply(factor);
                }
            }
            for key in 0..length {
                let rows = load::<V, VECTORS>(weights.add(key * lanes));
                for (element, sums) in sums.iter_mut().enumerate() {
                    let value = V::splat(*values.add(key * scratch.padded + element));
                    for (sum, weight) in sums.iter_mut().zip(rows) {
                        *sum = value.multiply_add(weight, *sum);
                    }
                }
            }
            for (element, sums) in sums.into_iter().enumerate() {
                store(sums, columns.add(element * lanes));
            }
        }
    }
}

#[inline(always)]
unsafe fn load<V: Vector, const VECTORS: usize>(source: *const f32) -> [V; VECTORS] {
    // SAFETY: the caller's pointer covers VECTORS registers.
    std::array::from_fn(|vector| unsafe { V::load(source.add(vector * V::LANES)) })
}

#[inline(always)]
unsafe fn store<V: Vector, const VECTORS: usize>(vectors: [V; VECTORS], target: *mut f32) {
    for (vector, value) in vectors.into_iter().enumerate() {
        // SAFETY: the caller's pointer covers VECTORS registers.
        unsafe { value.store(target.add(vector * V::LANES)) };
    }
}

const _: () = assert!(KEY_BLOCK.is_multiple_of(16));
