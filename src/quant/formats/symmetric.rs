//! The searches behind Q3_K and Q6_K: blocks of weights `scale · q`, with quants of both signs; and
//! the rounding of their scales.

use super::arithmetic::{extreme, nearest_int};
use super::lanes::{Lanes, MOST_LANES};
use super::super_blocks::{Fit, Found, Header, MOST_BLOCKS};

/// Weights of smaller magnitude are taken for zero.
pub(super) const NEGLIGIBLE: f32 = 1e-15;

/// The best of the trial roundings, one block a lane.
struct Trial<V> {
    /// What weights are multiplied with to be rounded.
    inverse: V,
    /// What quants are multiplied with.
    scale: V,
    /// Where all weights are so small that they are taken for zero.
    magnitude: V,
}

/// Finds the scale that explains the weights best among nineteen trial roundings to quants from
/// `LOWEST` to `HIGHEST`, each weight counting by its importance.
#[inline(always)]
fn search<V, const LOWEST: i32, const HIGHEST: i32, const BLOCK: usize>(
    weights: &[V; BLOCK],
    importance: &[V; BLOCK],
) -> Trial<V>
where
    V: Lanes,
{
    let zero = V::splat(0.0);
    let (magnitude, extreme) = extreme_lanes(weights);
    let mut weighted = *weights;
    for (weighted, importance) in weighted.iter_mut().zip(importance) {
        *weighted = importance.mul(*weighted);
    }
    let mut inverse = V::splat(LOWEST as f32).div(extreme);
    let (products, squares) =
        sums::<V, LOWEST, HIGHEST, BLOCK>(weights, importance, &weighted, inverse);
    let mut scale = V::select(squares.differs(zero), products.div(squares), zero);
    let mut best = scale.mul(products);
    for offset in [-9i8, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
        let widened = -(-LOWEST as f32 + 0.1 * f32::from(offset));
        let trial = V::splat(widened).div(extreme);
        let (products, squares) =
            sums::<V, LOWEST, HIGHEST, BLOCK>(weights, importance, &weighted, trial);
        let improved = best.mul(squares).less(products.mul(products));
        let better = V::both(zero.less(squares), improved);
        inverse = V::select(better, trial, inverse);
        scale = V::select(better, products.div(squares), scale);
        best = V::select(better, scale.mul(products), best);
    }
    let negligible = magnitude.less(V::splat(NEGLIGIBLE));
    Trial { inverse, scale: V::select(negligible, zero, scale), magnitude }
}

impl<V: Lanes> Trial<V> {
    /// The quants of the weights, counting from 0; those of blocks taken for zero are 0.
    #[inline(always)]
    fn quants<const LOWEST: i32, const HIGHEST: i32, const BLOCK: usize>(
        &self,
        weights: &[V; BLOCK],
    ) -> [V; BLOCK] {
        let (zero, lowest) = (V::splat(0.0), V::splat(LOWEST as f32));
        let negligible = self.magnitude.less(V::splat(NEGLIGIBLE));
        let mut quants = *weights;
        for quant in &mut quants {
            let nearest = self.inverse.mul(*quant).round_clamped::<LOWEST, HIGHEST>();
            *quant = V::select(negligible, zero, nearest.sub(lowest));
        }
        quants
    }
}

/// [`search`], and the sum of the importance.
#[inline(always)]
pub(super) fn fit<V, const LOWEST: i32, const HIGHEST: i32, const BLOCK: usize>(
    weights: &[V; BLOCK],
    importance: &[V; BLOCK],
) -> Fit<V>
where
    V: Lanes,
{
    let mut sum_importance = V::splat(0.0);
    for importance in importance {
        sum_importance = sum_importance.add(*importance);
    }
    Fit {
        scale: search::<V, LOWEST, HIGHEST, BLOCK>(weights, importance).scale,
        minimum: V::splat(0.0),
        importance: sum_importance,
    }
}

/// The scales that [`fit`] finds, and the quants, counting from 0.
#[inline(always)]
pub(super) fn fit_with_quants<V, const LOWEST: i32, const HIGHEST: i32, const BLOCK: usize>(
    weights: &[V; BLOCK],
    importance: &[V; BLOCK],
) -> (V, [V; BLOCK])
where
    V: Lanes,
{
    let trial = search::<V, LOWEST, HIGHEST, BLOCK>(weights, importance);
    (trial.scale, trial.quants::<LOWEST, HIGHEST, BLOCK>(weights))
}

/// The quants that the search ends with for one block, counting from 0.
pub(super) fn quants<const LOWEST: i32, const HIGHEST: i32, const BLOCK: usize>(
    weights: &[f32; BLOCK],
    importance: &[f32; BLOCK],
) -> [u8; BLOCK] {
    let (_, quants) = fit_with_quants::<f32, LOWEST, HIGHEST, BLOCK>(weights, importance);
    quants.map(|quant| quant as u8)
}

/// The sums of the weights' products with the quants that `inverse` gives, and of the quants'
/// squares, each by importance. Not a closure, which would be a function of its own and compiled
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
    let mut codes = [0; 16];
    for (code, scale) in codes.iter_mut().zip(scales) {
        *code = nearest_int(inverse * scale);
    }
    Some(Rounded { scale: 1.0 / inverse, codes })
}

/// Rounds the scales of super-blocks, one a lane, to quants from `LOWEST` to `HIGHEST` of the scale
/// that a search by the importance of the blocks finds for them.
#[inline(always)]
pub(super) fn round_weighted<V: Lanes, const LOWEST: i32, const HIGHEST: i32>(
    found: &Found,
    first: usize,
    headers: &mut [Option<Header>],
) {
    let blocks = V::transpose::<16>(&found.scales[first * 16..], 16);
    let importance = V::transpose::<16>(&found.importance[first * 16..], 16);
    let trial = search::<V, LOWEST, HIGHEST, 16>(&blocks, &importance);
    let mut scales = [0.0; MOST_LANES];
    trial.scale.store(&mut scales);
    let mut codes = [[0; MOST_LANES]; MOST_BLOCKS];
    for (quant, codes) in trial.quants::<LOWEST, HIGHEST, 16>(&blocks).iter().zip(&mut codes) {
        quant.store_bytes(codes);
    }
    for (lane, header) in headers[..V::COUNT].iter_mut().enumerate() {
        let found: [f32; 16] = Found::of(&found.scales, first + lane);
        // An infinite scale is refused, as in `round`.
        let finite = found.iter().all(|scale| scale.is_finite());
        let scale = if finite { scales[lane] } else { f32::INFINITY };
        let scales = codes.map(|codes| codes[lane]);
        *header = Some(Header { scale, scales, ..Header::default() });
    }
}
