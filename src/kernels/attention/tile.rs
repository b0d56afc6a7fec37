//! Many query rows at once (prefill). The rows lie across the lanes: a score, a weight or an
//! output element of up to three registers of rows is one broadcast key or value element times
//! those registers, and the softmax never crosses lanes.

use super::vector::Vector;
use super::work::{Block, KEY_BLOCK, Panel, Scratch, Work};

/// Registers of rows in a panel, at most: what the micro-kernels hold next to their sums.
pub(super) const PANEL_VECTORS: usize = 3;

/// Panels in a tile, at most. They share the widening of each block of keys and values.
pub(super) const MAX_PANELS: usize = 4;

/// Fills `scratch.sums`, `maxima` and `totals` for up to `MAX_PANELS × PANEL_VECTORS × LANES` rows.
/// `UNROLL` is how many keys (or output elements) share a load of the rows; it divides both
/// [`KEY_BLOCK`] and the padded head size.
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
        let vectors = work.rows.len().div_ceil(V::LANES);
        match vectors.div_ceil(vectors.div_ceil(PANEL_VECTORS)) {
            1 => attend_panels::<V, UNROLL, 1>(work, scratch),
            2 => attend_panels::<V, UNROLL, 2>(work, scratch),
            _ => attend_panels::<V, UNROLL, 3>(work, scratch),
        }
    }
}

#[inline(always)]
unsafe fn attend_panels<V: Vector, const UNROLL: usize, const VECTORS: usize>(
    work: &Work<'_>,
    scratch: &mut Scratch,
) {
    let lanes = VECTORS * V::LANES;
    let size = work.shape.head_size;
    let count = work.rows.len().div_ceil(lanes);
    scratch.prepare(size, count * lanes);
    scratch.prepare_panels(count, lanes);
    // SAFETY: `prepare` made room for this many rows and lanes, and for this head size.
    unsafe {
        lay_queries::<V>(work, scratch, count, lanes);
        let panel_rows = |panel: usize| {
            let first = work.rows.start + panel * lanes;
            first..work.rows.end.min(first + lanes)
        };
        for block in work.blocks() {
            scratch.widen::<V>(block);
            let Scratch { panels, keys, values, weights, padded, .. } = &mut *scratch;
            for (index, panel) in panels[..count].iter_mut().enumerate() {
                let rows = panel_rows(index);
                let end = block.position + block.length;
                if block.position >= work.visible(rows.end - 1) {
                    continue;
                }
                let length = block.length;
                score::<V, UNROLL, VECTORS>(panel, keys, weights, *padded, size, length);
                if end > work.visible(rows.start) {
                    hide_the_future::<V, VECTORS>(panel, weights, block);
                }
                exponentiate::<V, VECTORS>(panel, weights, length);
                accumulate::<V, UNROLL, VECTORS>(panel, values, weights, *padded, length);
            }
        }
        collect_results::<V>(scratch, count, lanes);
    }
}

/// Lays the scaled queries across the panels' lanes. Lanes without a row hold zeros.
#[inline(always)]
unsafe fn lay_queries<V: Vector>(
    work: &Work<'_>,
    scratch: &mut Scratch,
    count: usize,
    lanes: usize,
) {
    let scale = work.exponent_scale();
    let padded = scratch.padded;
    for (index, row) in work.rows.clone().enumerate() {
        let query = &mut scratch.queries[index * padded..];
        for (query, element) in query.iter_mut().zip(work.query(row)) {
            *query = element * scale;
        }
        let seen = i32::try_from(work.visible(row)).unwrap_or(i32::MAX);
        scratch.panels[index / lanes].limits[index % lanes] = seen;
    }
    let rows = scratch.queries.chunks(lanes * padded);
    for (panel, rows) in scratch.panels[..count].iter_mut().zip(rows) {
        // SAFETY: a panel's queries are `lanes` rows of `padded` elements, multiples of the lanes
        // of a register both, on either side.
        unsafe { transpose::<V>(rows, padded, &mut panel.queries, lanes) };
    }
}

/// Brings the panels' results into rows.
#[inline(always)]
unsafe fn collect_results<V: Vector>(scratch: &mut Scratch, count: usize, lanes: usize) {
    let Scratch { panels, sums, maxima, totals, padded, .. } = scratch;
    for (index, panel) in panels[..count].iter().enumerate() {
        let rows = index * lanes..(index + 1) * lanes;
        // SAFETY: as in `lay_queries`, the other way round.
        unsafe { transpose::<V>(&panel.sums, lanes, &mut sums[rows.start * *padded..], *padded) };
        maxima[rows.clone()].copy_from_slice(&panel.maxima[..lanes]);
        totals[rows].copy_from_slice(&panel.totals[..lanes]);
    }
}

/// `target[column][row] = source[row][column]`; `source` has rows of `columns` elements, `target`
/// rows of `rows`.
#[inline(always)]
unsafe fn transpose<V: Vector>(source: &[f32], columns: usize, target: &mut [f32], rows: usize) {
    assert!(source.len() >= rows * columns && target.len() >= rows * columns);
    for row in (0..rows).step_by(V::LANES) {
        for column in (0..columns).step_by(V::LANES) {
            // SAFETY: the block lies within both, as just checked; the callers' rows and columns
            // are multiples of the lanes.
            unsafe {
                let source = source.as_ptr().add(row * columns + column);
                let target = target.as_mut_ptr().add(column * rows + row);
                V::transpose(source, columns, target, rows);
            }
        }
    }
}

/// `weights[key][row] = keys[key] · queries[row]`, for `length` keys rounded up to `UNROLL`: the
/// keys beyond are left over from an earlier block, and nobody reads their scores.
#[inline(always)]
unsafe fn score<V: Vector, const UNROLL: usize, const VECTORS: usize>(
    panel: &Panel,
    keys: &[f32],
    weights: &mut [f32],
    padded: usize,
    size: usize,
    length: usize,
) {
    let lanes = VECTORS * V::LANES;
    let queries = panel.queries.as_ptr();
    for key in (0..length).step_by(UNROLL) {
        // SAFETY: the scratch holds KEY_BLOCK keys, a multiple of UNROLL.
        unsafe {
            let keys = keys.as_ptr().add(key * padded);
            let mut scores = [[V::splat(0.0); VECTORS]; UNROLL];
            for column in 0..size {
                let rows = load::<V, VECTORS>(queries.add(column * lanes));
                for (key, scores) in scores.iter_mut().enumerate() {
                    let element = V::splat(*keys.add(key * padded + column));
                    for (score, row) in scores.iter_mut().zip(rows) {
                        *score = element.multiply_add(row, *score);
                    }
                }
            }
            let target = weights.as_mut_ptr().add(key * lanes);
            for (key, scores) in scores.into_iter().enumerate() {
                store(scores, target.add(key * lanes));
            }
        }
    }
}

/// Scores of positions that a row must not see become -∞.
#[inline(always)]
unsafe fn hide_the_future<V: Vector, const VECTORS: usize>(
    panel: &Panel,
    weights: &mut [f32],
    block: Block<'_>,
) {
    for key in 0..block.length {
        let position = i32::try_from(block.position + key).unwrap_or(i32::MAX);
        for vector in 0..VECTORS {
            // SAFETY: `weights` and `limits` hold VECTORS registers a key.
            unsafe {
                let limits = panel.limits.as_ptr().add(vector * V::LANES);
                let index = (key * VECTORS + vector) * V::LANES;
                let scores = weights.as_mut_ptr().add(index);
                V::load(scores).hide_from(limits, position).store(scores);
            }
        }
    }
}

/// Turns scores into weights relative to the new maxima, and updates maxima, totals and factors.
#[inline(always)]
unsafe fn exponentiate<V: Vector, const VECTORS: usize>(
    panel: &mut Panel,
    weights: &mut [f32],
    length: usize,
) {
    let lanes = VECTORS * V::LANES;
    let weights = weights.as_mut_ptr();
    // SAFETY: `weights` holds `lanes` values a key; the others hold `lanes` values.
    unsafe {
        let old = load::<V, VECTORS>(panel.maxima.as_ptr());
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
        let mut factors = load::<V, VECTORS>(panel.totals.as_ptr());
        let past = factors;
        for (vector, factor) in factors.iter_mut().enumerate() {
            *factor = old[vector].subtract(maxima[vector]).exp2();
            totals[vector] = past[vector].multiply_add(*factor, totals[vector]);
        }
        store(maxima, panel.maxima.as_mut_ptr());
        store(totals, panel.totals.as_mut_ptr());
        store(factors, panel.factors.as_mut_ptr());
    }
}

/// `sums[element][row] = sums[element][row] · factor + Σ_key weights[key][row] · values[key][element]`.
#[inline(always)]
unsafe fn accumulate<V: Vector, const UNROLL: usize, const VECTORS: usize>(
    panel: &mut Panel,
    values: &[f32],
    weights: &[f32],
    padded: usize,
    length: usize,
) {
    let lanes = VECTORS * V::LANES;
    let weights = weights.as_ptr();
    for element in (0..padded).step_by(UNROLL) {
        // SAFETY: the padded head size is a multiple of UNROLL, and `length` keys are there.
        unsafe {
            let factors = load::<V, VECTORS>(panel.factors.as_ptr());
            let values = values.as_ptr().add(element);
            let target = panel.sums.as_mut_ptr().add(element * lanes);
            let mut sums = [[V::splat(0.0); VECTORS]; UNROLL];
            for (element, sums) in sums.iter_mut().enumerate() {
                *sums = load(target.add(element * lanes));
                for (sum, factor) in sums.iter_mut().zip(factors) {
                    *sum = sum.multiply(factor);
                }
            }
            for key in 0..length {
                let rows = load::<V, VECTORS>(weights.add(key * lanes));
                for (element, sums) in sums.iter_mut().enumerate() {
                    let value = V::splat(*values.add(key * padded + element));
                    for (sum, weight) in sums.iter_mut().zip(rows) {
                        *sum = value.multiply_add(weight, *sum);
                    }
                }
            }
            for (element, sums) in sums.into_iter().enumerate() {
                store(sums, target.add(element * lanes));
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
