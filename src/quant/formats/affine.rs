//! The search behind Q4_K and Q5_K: super-blocks of eight blocks of 32 weights
//! `scale · q − minimum`, with scales and minimums rounded to six bits under two f16.

use super::codec::{field, is_finite_f16, nearest_int, read_f16, write_f16};
use super::lanes::Lanes;
use super::six_bit_scales;
pub(super) use super::super_blocks::WEIGHTS;
use super::super_blocks::{lanes_of, transpose};

const BLOCKS: usize = WEIGHTS / BLOCK;
pub(super) const BLOCK: usize = 32;

/// Where the shared header of Q4_K and Q5_K has its fields.
pub(super) const SCALE: usize = 0;
pub(super) const MINIMUM: usize = 2;
pub(super) const SCALES: usize = 4;
pub(super) const HEADER: usize = SCALES + six_bit_scales::BYTES;

/// The numbers that make one format's search.
pub(super) struct Search {
    /// Largest quant.
    pub(super) levels: u8,
    /// First and following offsets to the number of levels from which a trial's scale is made.
    pub(super) first: f32,
    pub(super) step: f32,
    /// Trials after the first.
    pub(super) steps: u8,
}

/// The scale and the minimum (as a number to subtract) of one block.
#[derive(Clone, Copy, Default)]
pub(super) struct Fit {
    scale: f32,
    minimum: f32,
}

/// What the search finds for the blocks of a super-block.
pub(super) type Found = [Fit; BLOCKS];

/// Writes the header of what was found, rounds the weights to it and returns the quants.
#[inline(always)]
pub(super) fn quantize(
    search: &Search,
    weights: &[f32; WEIGHTS],
    found: &Found,
    header: &mut [u8; HEADER],
) -> [u8; WEIGHTS] {
    write_header(found, header);
    let (scales, minimums) = read_header(header);
    let mut quants = [0; WEIGHTS];
    let (inputs, _) = weights.as_chunks::<BLOCK>();
    for (b, quants) in quants.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        if scales[b] == 0.0 {
            // Where the block's scale was rounded to nothing ggml leaves the search's quants.
            search.fit(&inputs[b], quants);
            continue;
        }
        for (quant, weight) in quants.iter_mut().zip(&inputs[b]) {
            let nearest = nearest_int((weight + minimums[b]) / scales[b]);
            *quant = nearest.clamp(0, i32::from(search.levels)) as u8;
        }
    }
    quants
}

/// The header's scale and minimum of each block.
#[inline(always)]
pub(super) fn read_header(header: &[u8; HEADER]) -> ([f32; BLOCKS], [f32; BLOCKS]) {
    let (super_scale, super_minimum) = (read_f16(header, SCALE), read_f16(header, MINIMUM));
    let (scales, minimums) = six_bit_scales::unpack(field(header, SCALES));
    (
        scales.map(|scale| super_scale * f32::from(scale)),
        minimums.map(|minimum| super_minimum * f32::from(minimum)),
    )
}

/// Whether the header's two f16 are numbers.
#[inline(always)]
pub(super) fn header_fits(header: &[u8; HEADER]) -> bool {
    is_finite_f16(header, SCALE) && is_finite_f16(header, MINIMUM)
}

#[inline(always)]
fn write_header(fits: &[Fit; BLOCKS], header: &mut [u8; HEADER]) {
    const LARGEST: f32 = 63.0;
    let largest = |numbers: [f32; BLOCKS]| {
        numbers.into_iter().fold(0.0, |largest, n| if n > largest { n } else { largest })
    };
    let to_six_bits = |numbers: [f32; BLOCKS], largest: f32| {
        let inverse = if largest > 0.0 { LARGEST / largest } else { 0.0 };
        numbers.map(|number| (nearest_int(inverse * number) as u8).min(63))
    };
    let scales = fits.map(|fit| fit.scale);
    let minimums = fits.map(|fit| fit.minimum);
    let (largest_scale, largest_minimum) = (largest(scales), largest(minimums));
    let packed = six_bit_scales::pack(
        &to_six_bits(scales, largest_scale),
        &to_six_bits(minimums, largest_minimum),
    );
    write_f16(header, SCALE, largest_scale / LARGEST);
    write_f16(header, MINIMUM, largest_minimum / LARGEST);
    header[SCALES..].copy_from_slice(&packed);
}

impl Search {
    /// Searches block after block.
    pub(super) fn find(&self, weights: &[f32; WEIGHTS]) -> Found {
        let (blocks, _) = weights.as_chunks::<BLOCK>();
        let mut found = Found::default();
        for (fit, block) in found.iter_mut().zip(blocks) {
            *fit = self.fit(block, &mut [0; BLOCK]);
        }
        found
    }

    /// Searches for the blocks of several super-blocks at once, one a lane, doing in each lane
    /// exactly what [`Search::find`] does.
    #[inline(always)]
    pub(super) fn find_in_lanes<V: Lanes>(&self, weights: &[[f32; WEIGHTS]], found: &mut [Found]) {
        let fits = self.fit_lanes(&transpose::<V, BLOCK>(weights));
        let (scales, minimums) = (lanes_of(fits.0), lanes_of(fits.1));
        for (lane, fit) in found.as_flattened_mut().iter_mut().take(V::COUNT).enumerate() {
            *fit = Fit { scale: scales[lane], minimum: -minimums[lane] };
        }
    }

    /// The scales and the minimums, to add, of one block a lane. See [`Search::fit`].
    #[inline(always)]
    fn fit_lanes<V: Lanes>(&self, weights: &[V; BLOCK]) -> (V, V) {
        let zero = V::splat(0.0);
        let highest = i32::from(self.levels);
        let levels = V::splat(highest as f32);
        let importance = importance_lanes(weights);
        let mut minimum = weights[0];
        let mut maximum = weights[0];
        let mut sum_importance = importance[0];
        let mut sum_weights = importance[0].mul(weights[0]);
        for i in 1..BLOCK {
            let weight = weights[i];
            minimum = V::select(weight.less(minimum), weight, minimum);
            maximum = V::select(maximum.less(weight), weight, maximum);
            sum_importance = sum_importance.add(importance[i]);
            sum_weights = sum_weights.add(importance[i].mul(weight));
        }
        minimum = V::select(zero.less(minimum), zero, minimum);
        let constant = maximum.equals(minimum);
        let lowest = minimum;
        let mut quants = [zero; BLOCK];
        let inverse = levels.div(maximum.sub(minimum));
        for i in 0..BLOCK {
            quants[i] = inverse.mul(weights[i].sub(minimum)).round_clamped(0, highest);
        }
        let mut scale = V::splat(1.0).div(inverse);
        let mut least_error = error_lanes(&quants, weights, &importance, scale, minimum);
        for step in 0..=self.steps {
            let widened = self.first + self.step * f32::from(step) + highest as f32;
            let inverse = V::splat(widened).div(maximum.sub(minimum));
            let mut sum_quants = zero;
            let mut sum_squares = zero;
            let mut sum_products = zero;
            for i in 0..BLOCK {
                let quant = inverse.mul(weights[i].sub(minimum)).round_clamped(0, highest);
                quants[i] = quant;
                let weighted = importance[i].mul(quant);
                sum_quants = sum_quants.add(weighted);
                sum_squares = sum_squares.add(weighted.mul(quant));
                sum_products = sum_products.add(weighted.mul(weights[i]));
            }
            let determinant = sum_importance.mul(sum_squares).sub(sum_quants.mul(sum_quants));
            let slope = sum_importance.mul(sum_products).sub(sum_weights.mul(sum_quants));
            let offset = sum_squares.mul(sum_weights).sub(sum_quants.mul(sum_products));
            let (slope, offset) = (slope.div(determinant), offset.div(determinant));
            let positive = zero.less(offset);
            let trial_minimum = V::select(positive, zero, offset);
            let trial_scale = V::select(positive, sum_products.div(sum_squares), slope);
            let trial_error =
                error_lanes(&quants, weights, &importance, trial_scale, trial_minimum);
            let better = V::both(zero.less(determinant), trial_error.less(least_error));
            least_error = V::select(better, trial_error, least_error);
            scale = V::select(better, trial_scale, scale);
            minimum = V::select(better, trial_minimum, minimum);
        }
        (V::select(constant, zero, scale), V::select(constant, lowest, minimum))
    }

    /// Finds the scale and minimum of least weighted squared error among the trials; `quants` gets
    /// the quants of the winner.
    fn fit(&self, weights: &[f32; BLOCK], quants: &mut [u8; BLOCK]) -> Fit {
        let importance = importance(weights);
        let levels = f32::from(self.levels);
        let mut minimum = weights[0];
        let mut maximum = weights[0];
        let mut sum_importance = importance[0];
        let mut sum_weights = importance[0] * weights[0];
        for (&weight, &importance) in weights.iter().zip(&importance).skip(1) {
            if weight < minimum {
                minimum = weight;
            }
            if weight > maximum {
                maximum = weight;
            }
            sum_importance += importance;
            sum_weights += importance * weight;
        }
        if minimum > 0.0 {
            minimum = 0.0;
        }
        if maximum == minimum {
            *quants = [0; BLOCK];
            return Fit { scale: 0.0, minimum: -minimum };
        }
        let round = |inverse: f32, minimum: f32| {
            weights.map(|weight| {
                nearest_int(inverse * (weight - minimum)).clamp(0, i32::from(self.levels)) as u8
            })
        };
        let error = |quants: &[u8; BLOCK], scale: f32, minimum: f32| {
            let mut error = 0.0f32;
            for ((&quant, &weight), &importance) in quants.iter().zip(weights).zip(&importance) {
                let difference = scale * f32::from(quant) + minimum - weight;
                error += importance * (difference * difference);
            }
            error
        };
        let inverse = levels / (maximum - minimum);
        let mut scale = 1.0 / inverse;
        *quants = round(inverse, minimum);
        let mut least_error = error(quants, scale, minimum);
        for step in 0..=self.steps {
            // The trials start from the best minimum so far, not from the block's.
            let widened = self.first + self.step * f32::from(step) + levels;
            let trial = round(widened / (maximum - minimum), minimum);
            let mut sum_quants = 0.0f32;
            let mut sum_squares = 0.0f32;
            let mut sum_products = 0.0f32;
            for ((&quant, &weight), &importance) in trial.iter().zip(weights).zip(&importance) {
                let quant = f32::from(quant);
                sum_quants += importance * quant;
                sum_squares += importance * quant * quant;
                sum_products += importance * quant * weight;
            }
            let determinant = sum_importance * sum_squares - sum_quants * sum_quants;
            if determinant > 0.0 {
                let mut trial_scale =
                    (sum_importance * sum_products - sum_weights * sum_quants) / determinant;
                let mut trial_minimum =
                    (sum_squares * sum_weights - sum_quants * sum_products) / determinant;
                if trial_minimum > 0.0 {
                    trial_minimum = 0.0;
                    trial_scale = sum_products / sum_squares;
                }
                let trial_error = error(&trial, trial_scale, trial_minimum);
                if trial_error < least_error {
                    *quants = trial;
                    least_error = trial_error;
                    scale = trial_scale;
                    minimum = trial_minimum;
                }
            }
        }
        Fit { scale, minimum: -minimum }
    }
}

/// How much each weight's error counts: its magnitude plus the block's root mean square.
#[inline(always)]
fn importance(weights: &[f32; BLOCK]) -> [f32; BLOCK] {
    let mut sum_squares = 0.0f32;
    for weight in weights {
        sum_squares += weight * weight;
    }
    let root_mean_square = (sum_squares / BLOCK as f32).sqrt();
    weights.map(|weight| root_mean_square + weight.abs())
}

/// [`importance`] of one block a lane.
#[inline(always)]
fn importance_lanes<V: Lanes>(weights: &[V; BLOCK]) -> [V; BLOCK] {
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

/// The weighted squared error of one block a lane.
#[inline(always)]
fn error_lanes<V: Lanes>(
    quants: &[V; BLOCK],
    weights: &[V; BLOCK],
    importance: &[V; BLOCK],
    scale: V,
    minimum: V,
) -> V {
    let mut error = V::splat(0.0);
    for i in 0..BLOCK {
        let difference = scale.mul(quants[i]).add(minimum).sub(weights[i]);
        error = error.add(importance[i].mul(difference.mul(difference)));
    }
    error
}
