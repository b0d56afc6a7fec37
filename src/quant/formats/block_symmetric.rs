//! The search behind Q4_0 and Q5_0 where importance is known: one scale, quants on both sides of
//! zero. Each trial is a scale from which the quants follow, which in turn have a best scale.

use super::block_lanes::Lanes;
use super::blocks::{Block, Fit};

/// Blocks of smaller magnitude become zero.
pub(super) const NEGLIGIBLE: f32 = 1e-15;

/// The weight of largest magnitude in each lane's block, and that magnitude; the first of them where
/// several tie.
#[inline(always)]
pub(super) fn extreme<V: Lanes>(weights: &Block<V>) -> (V, V) {
    let mut extreme = V::splat(0.0);
    let mut magnitude = extreme;
    for weight in weights {
        let larger = magnitude.less(weight.abs());
        magnitude = V::select(larger, weight.abs(), magnitude);
        extreme = V::select(larger, *weight, extreme);
    }
    (extreme, magnitude)
}

/// The scale of least weighted squared error among nineteen trials, for quants from `LOW` to
/// `HIGH`.
#[inline(always)]
pub(super) fn search<V: Lanes, const LOW: i32, const HIGH: i32>(
    weights: &Block<V>,
    importance: &Block<V>,
) -> Fit<V> {
    let levels = -LOW;
    let zero = V::splat(0.0);
    let (extreme, magnitude) = extreme(weights);
    let mut weighted = *weights;
    for (product, &importance) in weighted.iter_mut().zip(importance) {
        *product = importance.mul(*product);
    }
    // `Σ importance · w · q` and `Σ importance · q²` with the quants that an inverse scale gives.
    let sums = |inverse: V| {
        let (mut products, mut squares) = (zero, zero);
        for i in 0..weights.len() {
            let quant = inverse.mul(weights[i]).round_near::<LOW, HIGH>();
            products = products.add(weighted[i].mul(quant));
            squares = squares.add(importance[i].mul(quant).mul(quant));
        }
        (products, squares)
    };
    let mut inverse = V::splat(-levels as f32).div(extreme);
    let (products, squares) = sums(inverse);
    let mut scale = V::select(squares.equals(zero), zero, products.div(squares));
    let mut best = scale.mul(products);
    for step in (-9..=9).filter(|&step| step != 0) {
        let trial = V::splat(-(levels as f32 + 0.1 * step as f32)).div(extreme);
        let (products, squares) = sums(trial);
        let improved = best.mul(squares).less(products.mul(products));
        let better = V::both(zero.less(squares), improved);
        inverse = V::select(better, trial, inverse);
        scale = V::select(better, products.div(squares), scale);
        best = V::select(better, scale.mul(products), best);
    }
    // The quants of a negligible block are the lowest, which any number far below the range gives.
    let negligible = magnitude.less(V::splat(NEGLIGIBLE));
    let far = V::splat(2.0 * levels as f32);
    Fit {
        scale: V::select(negligible, zero, scale),
        minimum: zero,
        inverse: V::select(negligible, V::splat(1.0), inverse),
        base: V::select(negligible, far, zero),
    }
}
