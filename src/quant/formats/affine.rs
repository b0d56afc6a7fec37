//! The search behind Q4_K and Q5_K: super-blocks of eight blocks of 32 weights
//! `scale · q − minimum`, with scales and minimums rounded to six bits under two f16.

use super::codec::{field, is_finite_f16, nearest_int, read_f16, write_f16};
use super::six_bit_scales;

pub(super) const BLOCKS: usize = 8;
pub(super) const BLOCK: usize = 32;
pub(super) const WEIGHTS: usize = BLOCKS * BLOCK;

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
#[derive(Clone, Copy)]
struct Fit {
    scale: f32,
    minimum: f32,
}

/// Quantizes a super-block: writes the header and returns the quants.
#[inline(always)]
pub(super) fn quantize(
    search: &Search,
    weights: &[f32; WEIGHTS],
    header: &mut [u8; HEADER],
) -> [u8; WEIGHTS] {
    let mut quants = [0; WEIGHTS];
    let (inputs, _) = weights.as_chunks::<BLOCK>();
    let mut fits = [Fit { scale: 0.0, minimum: 0.0 }; BLOCKS];
    for ((fit, input), quants) in fits.iter_mut().zip(inputs).zip(quants.as_chunks_mut().0) {
        *fit = search.fit(input, quants);
    }
    write_header(&fits, header);
    let (scales, minimums) = read_header(header);
    for (b, quants) in quants.as_chunks_mut::<BLOCK>().0.iter_mut().enumerate() {
        // Where the block's scale was rounded to nothing the search's quants stay, as in ggml.
        if scales[b] != 0.0 {
            for (quant, weight) in quants.iter_mut().zip(&inputs[b]) {
                let nearest = nearest_int((weight + minimums[b]) / scales[b]);
                *quant = nearest.clamp(0, i32::from(search.levels)) as u8;
            }
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
    /// Finds the scale and minimum of least weighted squared error among the trials; `quants` gets
    /// the quants of the winner.
    #[inline(always)]
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
