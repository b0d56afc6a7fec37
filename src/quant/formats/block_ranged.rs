//! The search behind Q4_1 and Q5_1 where importance is known: a scale and a minimum. Each trial is a
//! range from which the quants follow, which in turn have a best scale and minimum.

use super::block_lanes::Lanes;
use super::blocks::{Block, Fit};

/// Trials after the first, and the offsets to the number of levels that make their ranges.
const STEPS: u8 = 36;
const FIRST: f32 = -0.9;
const STEP: f32 = 0.05;

/// The scale and the minimum of least weighted squared error, for quants from 0 to `HIGH`.
#[inline(always)]
pub(super) fn search<V: Lanes, const HIGH: i32>(
    weights: &Block<V>,
    importance: &Block<V>,
) -> Fit<V> {
    let zero = V::splat(0.0);
    let (mut minimum, mut maximum) = (weights[0], weights[0]);
    let mut sum_importance = importance[0];
    let mut sum_weights = importance[0].mul(weights[0]);
    for (&weight, &importance) in weights.iter().zip(importance).skip(1) {
        minimum = V::select(weight.less(minimum), weight, minimum);
        maximum = V::select(maximum.less(weight), weight, maximum);
        sum_importance = sum_importance.add(importance);
        sum_weights = sum_weights.add(importance.mul(weight));
    }
    minimum = V::select(zero.less(minimum), zero, minimum);
    let varied = minimum.less(maximum);
    let lowest = minimum;

    let levels_above = V::splat(HIGH as f32);
    let round = |inverse: V, minimum: V| {
        let mut quants = *weights;
        for quant in &mut quants {
            *quant = inverse.mul(quant.sub(minimum)).round_clamped::<0, HIGH>();
        }
        quants
    };
    let error = |quants: &Block<V>, scale: V, minimum: V| {
        let mut error = zero;
        for i in 0..weights.len() {
            let difference = scale.mul(quants[i]).add(minimum).sub(weights[i]);
            error = error.add(importance[i].mul(difference.mul(difference)));
        }
        error
    };

    let (mut inverse, mut base) = (levels_above.div(maximum.sub(minimum)), minimum);
    let mut scale = V::splat(1.0).div(inverse);
    let mut least_error = error(&round(inverse, minimum), scale, minimum);
    for step in 0..=STEPS {
        // The trials start from the best minimum so far, not from the block's.
        let widened = FIRST + STEP * f32::from(step) + HIGH as f32;
        let trial = V::splat(widened).div(maximum.sub(minimum));
        let quants = round(trial, minimum);
        let (mut sum_quants, mut sum_squares, mut sum_products) = (zero, zero, zero);
        for i in 0..weights.len() {
            let weighted = importance[i].mul(quants[i]);
            sum_quants = sum_quants.add(weighted);
            sum_squares = sum_squares.add(weighted.mul(quants[i]));
            sum_products = sum_products.add(weighted.mul(weights[i]));
        }
        let determinant = sum_importance.mul(sum_squares).sub(sum_quants.mul(sum_quants));
        let slope = sum_importance.mul(sum_products).sub(sum_weights.mul(sum_quants));
        let offset = sum_squares.mul(sum_weights).sub(sum_quants.mul(sum_products));
        let (slope, offset) = (slope.div(determinant), offset.div(determinant));
        let positive = zero.less(offset);
        let trial_minimum = V::select(positive, zero, offset);
        let trial_scale = V::select(positive, sum_products.div(sum_squares), slope);
        let trial_error = error(&quants, trial_scale, trial_minimum);
        let better = V::both(zero.less(determinant), trial_error.less(least_error));
        least_error = V::select(better, trial_error, least_error);
        scale = V::select(better, trial_scale, scale);
        inverse = V::select(better, trial, inverse);
        base = V::select(better, minimum, base);
        minimum = V::select(better, trial_minimum, minimum);
    }
    // A block without range has no scale, and with nothing to multiply quants of zero.
    Fit {
        scale: V::select(varied, scale, zero),
        minimum: V::select(varied, minimum, lowest),
        inverse: V::select(varied, inverse, zero),
        base: V::select(varied, base, zero),
    }
}
