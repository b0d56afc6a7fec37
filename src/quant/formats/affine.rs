//! The search behind Q2_K, Q4_K and Q5_K: blocks of weights `scale · q − minimum`, whose scale and
//! minimum are the weighted least squares fit to the best of many trial roundings; and the rounding
//! of the scales and minimums themselves.

use super::codec::nearest_int;
use super::lanes::Lanes;
use super::positive_scales;
use super::super_blocks::{Fit, Found, Header, Importance, WEIGHTS};

/// The trial roundings of a search.
pub(super) struct Trials {
    /// First and following offsets to the number of levels, from which a trial's scale is made.
    pub(super) first: f32,
    pub(super) step: f32,
    /// Trials after the first.
    pub(super) steps: u8,
    /// How a weight's error counts.
    pub(super) error: Error,
}

/// How a weight's error counts, before its importance.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Error {
    Absolute,
    Squared,
}

/// The importance that weights have for themselves: their magnitude plus the block's root mean
/// square.
#[inline(always)]
pub(super) fn own_importance<V: Lanes, const BLOCK: usize>(weights: &[V; BLOCK]) -> [V; BLOCK] {
    let mut sum_squares = V::splat(0.0);
    for weight in weights {
        sum_squares = sum_squares.add(weight.mul(*weight));
    }
    let root_mean_square = sum_squares.div(V::splat(BLOCK as f32)).sqrt();
    let mut importance = *weights;
    for value in &mut importance {
        *value = root_mean_square.add(value.abs());
    }
    importance
}

/// The columns' importance times `√(share · mean square of the super-block + weight²)`.
#[inline(always)]
pub(super) fn scaled_importance<V: Lanes, const BLOCK: usize>(
    weights: &[V; BLOCK],
    importance: &Importance<V, BLOCK>,
    share: f32,
) -> [V; BLOCK] {
    let mean = V::splat(share).mul(importance.sum_squares).div(V::splat(WEIGHTS as f32));
    let mut scaled = importance.columns;
    for (value, weight) in scaled.iter_mut().zip(weights) {
        *value = value.mul(mean.add(weight.mul(*weight)).sqrt());
    }
    scaled
}

/// Finds the scale and minimum of least error among the trials, for quants from 0 to `HIGHEST`.
#[inline(always)]
pub(super) fn fit<V: Lanes, const HIGHEST: i32, const BLOCK: usize>(
    trials: &Trials,
    weights: &[V; BLOCK],
    importance: &[V; BLOCK],
) -> Fit<V, BLOCK> {
    let zero = V::splat(0.0);
    let mut lowest = weights[0];
    let mut highest = weights[0];
    let mut sum_importance = importance[0];
    let mut sum_weights = importance[0].mul(weights[0]);
    for (weight, importance) in weights.iter().zip(importance).skip(1) {
        lowest = weight.smaller(lowest);
        highest = weight.larger(highest);
        sum_importance = sum_importance.add(*importance);
        sum_weights = sum_weights.add(importance.mul(*weight));
    }
    let lowest = V::select(zero.less(lowest), zero, lowest);
    let varied = highest.differs(lowest);

    let mut minimum = lowest;
    let mut inverse = V::splat(HIGHEST as f32).div(highest.sub(minimum));
    let mut scale = V::splat(1.0).div(inverse);
    let mut quants = *weights;
    for quant in &mut quants {
        *quant = inverse.mul(quant.sub(minimum)).round_clamped::<0, HIGHEST>();
    }
    let mut least_error = sum_errors(trials.error, &quants, weights, importance, scale, minimum);
    // The trial that the quants of the winner are made from again.
    let mut winner = (inverse, minimum);
    for step in 0..=trials.steps {
        // The trials start from the best minimum so far, not from the block's.
        let widened = trials.first + trials.step * f32::from(step) + HIGHEST as f32;
        inverse = V::splat(widened).div(highest.sub(minimum));
        let trial = Trial { inverse, minimum };
        let near = trial.all_near::<HIGHEST>(lowest, highest, varied);
        let (sum_quants, sum_squares, sum_products) = if near {
            trial.sums::<HIGHEST, BLOCK, true>(weights, importance, &mut quants)
        } else {
            trial.sums::<HIGHEST, BLOCK, false>(weights, importance, &mut quants)
        };
        let determinant = sum_importance.mul(sum_squares).sub(sum_quants.mul(sum_quants));
        let slope = sum_importance.mul(sum_products).sub(sum_weights.mul(sum_quants));
        let offset = sum_squares.mul(sum_weights).sub(sum_quants.mul(sum_products));
        let (slope, offset) = (slope.div(determinant), offset.div(determinant));
        let positive = zero.less(offset);
        let trial_minimum = V::select(positive, zero, offset);
        let trial_scale = V::select(positive, sum_products.div(sum_squares), slope);
        let trial_error =
            sum_errors(trials.error, &quants, weights, importance, trial_scale, trial_minimum);
        let better = V::both(zero.less(determinant), trial_error.less(least_error));
        winner = (V::select(better, inverse, winner.0), V::select(better, minimum, winner.1));
        least_error = V::select(better, trial_error, least_error);
        scale = V::select(better, trial_scale, scale);
        minimum = V::select(better, trial_minimum, minimum);
    }
    let mut quants = *weights;
    for quant in &mut quants {
        let rounded = winner.0.mul(quant.sub(winner.1)).round_clamped::<0, HIGHEST>();
        *quant = V::select(varied, rounded, zero);
    }
    let minimum = V::select(varied, minimum, lowest);
    Fit {
        scale: V::select(varied, scale, zero),
        minimum: negative(minimum),
        importance: sum_importance,
        quants,
    }
}

/// `-value`, the sign of zero included.
#[inline(always)]
fn negative<V: Lanes>(value: V) -> V {
    value.mul(V::splat(-1.0))
}

/// A grid to which weights are rounded.
#[derive(Clone, Copy)]
struct Trial<V> {
    inverse: V,
    minimum: V,
}

impl<V: Lanes> Trial<V> {
    /// Whether every weight between the two lies so near to the grid that [`Lanes::round_near`] does.
    /// Blocks that are not `varied` do not matter.
    #[inline(always)]
    fn all_near<const HIGHEST: i32>(&self, lowest: V, highest: V, varied: V::Mask) -> bool {
        let (zero, one) = (V::splat(0.0), V::splat(1.0));
        let above = V::splat(-4.0).less(self.place(lowest));
        let below = self.place(highest).less(V::splat(HIGHEST as f32 + 4.0));
        let far = V::select(V::both(above, below), zero, one).differs(zero);
        !V::any(V::both(varied, far))
    }

    #[inline(always)]
    fn place(&self, weight: V) -> V {
        self.inverse.mul(weight.sub(self.minimum))
    }

    /// Rounds the weights, and returns the sums of quants, of their squares and of their products
    /// with the weights, each by importance.
    #[inline(always)]
    fn sums<const HIGHEST: i32, const BLOCK: usize, const NEAR: bool>(
        &self,
        weights: &[V; BLOCK],
        importance: &[V; BLOCK],
        quants: &mut [V; BLOCK],
    ) -> (V, V, V) {
        let zero = V::splat(0.0);
        let (mut sum_quants, mut sum_squares, mut sum_products) = (zero, zero, zero);
        for i in 0..BLOCK {
            let place = self.place(weights[i]);
            let quant = if NEAR {
                place.round_near::<0, HIGHEST>()
            } else {
                place.round_clamped::<0, HIGHEST>()
            };
            quants[i] = quant;
            let weighted = importance[i].mul(quant);
            sum_quants = sum_quants.add(weighted);
            sum_squares = sum_squares.add(weighted.mul(quant));
            sum_products = sum_products.add(weighted.mul(weights[i]));
        }
        (sum_quants, sum_squares, sum_products)
    }
}

#[inline(always)]
fn sum_errors<V: Lanes, const BLOCK: usize>(
    error: Error,
    quants: &[V; BLOCK],
    weights: &[V; BLOCK],
    importance: &[V; BLOCK],
    scale: V,
    minimum: V,
) -> V {
    let mut sum = V::splat(0.0);
    for i in 0..BLOCK {
        let difference = scale.mul(quants[i]).add(minimum).sub(weights[i]);
        let counted = match error {
            Error::Absolute => difference.abs(),
            Error::Squared => difference.mul(difference),
        };
        sum = sum.add(importance[i].mul(counted));
    }
    sum
}

/// Rounds a super-block's scales and minimums to multiples, up to `largest`, of the largest one's
/// `1 / largest`.
#[inline(always)]
pub(super) fn round<const BLOCKS: usize>(
    found: &Found,
    super_block: usize,
    largest: f32,
) -> Header {
    let scales = Found::of::<BLOCKS>(&found.scales, super_block);
    let minimums = Found::of::<BLOCKS>(&found.minimums, super_block);
    let mut header = Header::default();
    header.scale = round_numbers(&scales, largest, &mut header.scales);
    header.minimum = round_numbers(&minimums, largest, &mut header.minimums);
    header
}

#[inline(always)]
fn round_numbers(numbers: &[f32], largest: f32, codes: &mut [u8]) -> f32 {
    let most = numbers.iter().fold(0.0, |most, &number| if number > most { number } else { most });
    let inverse = if most > 0.0 { largest / most } else { 0.0 };
    for (code, number) in codes.iter_mut().zip(numbers) {
        *code = nearest_int(inverse * number) as u8;
    }
    most / largest
}

/// Rounds the scales and minimums of `V::COUNT` super-blocks from `first` on, each to multiples up to
/// `LARGEST` of a number that suits them best by the blocks' importance.
#[inline(always)]
pub(super) fn round_weighted<V: Lanes, const LARGEST: i32, const BLOCKS: usize>(
    found: &Found,
    first: usize,
    headers: &mut [Option<Header>],
) {
    let start = first * BLOCKS;
    let importance = V::transpose::<BLOCKS>(&found.importance[start..], BLOCKS);
    let scales = V::transpose::<BLOCKS>(&found.scales[start..], BLOCKS);
    let minimums = V::transpose::<BLOCKS>(&found.minimums[start..], BLOCKS);
    let scales = positive_scales::round::<V, LARGEST, BLOCKS>(&scales, &importance);
    let minimums = positive_scales::round::<V, LARGEST, BLOCKS>(&minimums, &importance);
    for (lane, header) in headers[..V::COUNT].iter_mut().enumerate() {
        let (scale, scales) = scales.of(lane);
        let (minimum, minimums) = minimums.of(lane);
        *header = Some(Header { scale, minimum, scales, minimums });
    }
}
