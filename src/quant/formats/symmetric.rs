//! The searches behind Q3_K and Q6_K: blocks of weights `scale · q`, with quants of both signs; and
//! the rounding of their scales.

use super::codec::{extreme, nearest_int};
use super::lanes::{Lanes, MOST_LANES};
use super::super_blocks::{Fit, Found, Header, MOST_BLOCKS};

/// Weights of smaller magnitude are taken for zero.
pub(super) const NEGLIGIBLE: f32 = 1e-15;

/// Finds the scale that explains the weights best among nineteen trial roundings to quants from
/// `LOWEST` to `HIGHEST`, each weight counting by its importance.
#[inline(always)]
pub(super) fn fit<V: Lanes, const LOWEST: i32, const HIGHEST: i32, const BLOCK: usize>(
    weights: &[V; BLOCK],
    importance: &[V; BLOCK],
) -> Fit<V, BLOCK> {
    let zero = V::splat(0.0);
    let (magnitude, extreme) = extreme_lanes(weights);
    let negligible = magnitude.less(V::splat(NEGLIGIBLE));
    let mut weighted = *weights;
    for (weighted, importance) in weighted.iter_mut().zip(importance) {
        *weighted = importance.mul(*weighted);
    }
    let mut winner = V::splat(LOWEST as f32).div(extreme);
    let (products, squares) =
        sums::<V, LOWEST, HIGHEST, BLOCK>(weights, importance, &weighted, winner);
    let mut scale = V::select(squares.differs(zero), products.div(squares), zero);
    let mut best = scale.mul(products);
    for offset in [-9i8, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
        let widened = -(-LOWEST as f32 + 0.1 * f32::from(offset));
        let inverse = V::splat(widened).div(extreme);
        let (products, squares) =
            sums::<V, LOWEST, HIGHEST, BLOCK>(weights, importance, &weighted, inverse);
        let improved = best.mul(squares).less(products.mul(products));
        let better = V::both(zero.less(squares), improved);
        winner = V::select(better, inverse, winner);
        scale = V::select(better, products.div(squares), scale);
        best = V::select(better, scale.mul(products), best);
    }
    let mut sum_importance = zero;
    let mut quants = *weights;
    for i in 0..BLOCK {
        sum_importance = sum_importance.add(importance[i]);
        let quant = winner.mul(weights[i]).round_clamped::<LOWEST, HIGHEST>();
        quants[i] = V::select(negligible, zero, quant.sub(V::splat(LOWEST as f32)));
    }
    Fit {
        scale: V::select(negligible, zero, scale),
        minimum: zero,
        importance: sum_importance,
        quants,
    }
}

/// The sums, by importance, of the products of weights and the quants that an inverse scale gives,
/// and of the squares of the quants. Not a closure, which would be a function of its own and compiled
/// without the instruction set.
#[inline(always)]
fn sums<V: Lanes, const LOWEST: i32, const HIGHEST: i32, const BLOCK: usize>(
    weights: &[V; BLOCK],
    importance: &[V; BLOCK],
    weighted: &[V; BLOCK],
    inverse: V,
) -> (V, V) {
    let (mut products, mut squares) = (V::splat(0.0), V::splat(0.0));
    for i in 0..BLOCK {
        // The inverse comes from the weight of largest magnitude, so no place is far away.
        let quant = inverse.mul(weights[i]).round_near::<LOWEST, HIGHEST>();
        products = products.add(weighted[i].mul(quant));
        squares = squares.add(importance[i].mul(quant).mul(quant));
    }
    (products, squares)
}

/// The largest magnitude, and the first weight that has it.
#[inline(always)]
pub(super) fn extreme_lanes<V: Lanes>(weights: &[V]) -> (V, V) {
    let mut magnitude = V::splat(0.0);
    let mut extreme = magnitude;
    for weight in weights {
        let larger = magnitude.less(weight.abs());
        magnitude = V::select(larger, weight.abs(), magnitude);
        extreme = V::select(larger, *weight, extreme);
    }
    (magnitude, extreme)
}

/// A super-block's scales as multiples, from `lowest` on, of one number.
pub(super) struct Rounded {
    pub(super) scale: f32,
    pub(super) codes: [i32; 16],
}

/// Rounds a super-block's scales so that the one of largest magnitude is `lowest` times a number.
/// None where all scales are negligible.
#[inline(always)]
pub(super) fn round(found: &Found, super_block: usize, lowest: f32) -> Option<Rounded> {
    let scales: [f32; 16] = Found::of(&found.scales, super_block);
    if !scales.iter().all(|scale| scale.is_finite()) {
        // The search's sums overflowed. ggml writes what comes of it; an infinite scale is refused.
        return Some(Rounded { scale: f32::INFINITY, codes: [0; 16] });
    }
    let largest = extreme(&scales);
    if largest == 0.0 {
        return None;
    }
    let inverse = lowest / largest;
    Some(Rounded { scale: 1.0 / inverse, codes: scales.map(|scale| nearest_int(inverse * scale)) })
}

/// The headers of super-blocks, one a lane, whose scales are rounded to the quants of a fit.
#[inline(always)]
pub(super) fn keep_headers<V: Lanes>(fit: &Fit<V, 16>, headers: &mut [Option<Header>]) {
    let mut scales = [0.0; MOST_LANES];
    fit.scale.store(&mut scales);
    let mut codes = [[0; MOST_LANES]; MOST_BLOCKS];
    for (quant, codes) in fit.quants.iter().zip(&mut codes) {
        quant.store_bytes(codes);
    }
    for (lane, header) in headers[..V::COUNT].iter_mut().enumerate() {
        let scales_of = codes.map(|codes| codes[lane]);
        *header = Some(Header { scale: scales[lane], scales: scales_of, ..Header::default() });
    }
}
