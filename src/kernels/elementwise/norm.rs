//! Norms of rows and of heads.

use crate::kernels::dispatch::for_each_instruction_set;

/// How a row is normalized. Weight and bias have an element a column; a norm without a weight has
/// ones in its place, one without a bias zeros.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Norm<'a> {
    /// `x / √(mean(x²) + ε) · w`: Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019).
    Rms {
        /// w.
        weight: Option<&'a [f32]>,
        /// ε.
        epsilon: f32,
    },
    /// `(x − mean(x)) / √(var(x) + ε) · w + b`, where the variance is the mean squared deviation:
    /// Ba, Kiros and Hinton, "Layer Normalization" (2016).
    Layer {
        /// w.
        weight: Option<&'a [f32]>,
        /// b.
        bias: Option<&'a [f32]>,
        /// ε.
        epsilon: f32,
    },
}

impl<'a> Norm<'a> {
    /// Weight and bias, as far as there are any.
    fn parameters(self) -> impl Iterator<Item = &'a [f32]> {
        let (weight, bias) = match self {
            Self::Rms { weight, .. } => (weight, None),
            Self::Layer { weight, bias, .. } => (weight, bias),
        };
        weight.into_iter().chain(bias)
    }

    /// # Panics
    /// If weight or bias is not for rows of this width.
    pub(in crate::kernels) fn check(self, width: usize) {
        let fits = self.parameters().all(|values| values.len() == width);
        assert!(fits, "the norm has a weight for each of {width} columns");
    }
}

for_each_instruction_set! {
    /// `output = norm(input)` for a row.
    ///
    /// # Panics
    /// If the norm is for rows of another width.
    pub fn norm_row(norm: Norm<'_>, input: &[f32], output: &mut [f32]) {
        for_each_normalized(norm, input, output, |output, value| *output = value);
    }
}

for_each_instruction_set! {
    /// `residual += factor · norm(input)` for a row, as layers whose norms follow their branches
    /// have it.
    ///
    /// # Panics
    /// If the norm is for rows of another width.
    pub fn add_normalized_row(norm: Norm<'_>, input: &[f32], factor: f32, residual: &mut [f32]) {
        for_each_normalized(norm, input, residual, |residual, value| *residual += factor * value);
    }
}

for_each_instruction_set! {
    /// The norm of each head of a row in place. Weight and bias are as long as a head, or as the
    /// whole row where each head has its own.
    ///
    /// # Panics
    /// If the norm's weight or bias has another length.
    pub fn norm_heads(norm: Norm<'_>, head_size: usize, row: &mut [f32]) {
        let fits = |values: &[f32]| [head_size, row.len()].contains(&values.len());
        assert!(norm.parameters().all(fits), "the norm has a weight for a head or for the row");
        for (index, head) in row.chunks_exact_mut(head_size).enumerate() {
            match norm {
                Norm::Rms { weight: Some(weight), epsilon } => {
                    let scale = rms_scale::<HEAD_SUMS>(head, epsilon);
                    for (value, weight) in head.iter_mut().zip(of_head(weight, index, head_size)) {
                        *value *= scale * weight;
                    }
                }
                Norm::Rms { weight: None, epsilon } => {
                    let scale = rms_scale::<HEAD_SUMS>(head, epsilon);
                    for value in head {
                        *value *= scale;
                    }
                }
                Norm::Layer { weight, bias, epsilon } => {
                    let (mean, scale) = mean_and_scale::<HEAD_SUMS>(head, epsilon);
                    for value in &mut *head {
                        *value = (*value - mean) * scale;
                    }
                    if let Some(weight) = weight {
                        let weight = of_head(weight, index, head_size);
                        head.iter_mut().zip(weight).for_each(|(value, weight)| *value *= weight);
                    }
                    if let Some(bias) = bias {
                        let bias = of_head(bias, index, head_size);
                        head.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
                    }
                }
            }
        }
    }
}

/// Independent partial sums over a row: the compiler may not reorder a single one.
const ROW_SUMS: usize = 32;

/// The same over a head, which is shorter.
const HEAD_SUMS: usize = 16;

/// Calls `put` with each element of `target` and the normalized value that belongs to it.
#[inline(always)]
fn for_each_normalized(
    norm: Norm<'_>,
    input: &[f32],
    target: &mut [f32],
    put: impl Fn(&mut f32, f32),
) {
    norm.check(input.len());
    let pairs = target.iter_mut().zip(input);
    match norm {
        Norm::Rms { weight, epsilon } => {
            let scale = rms_scale::<ROW_SUMS>(input, epsilon);
            match weight {
                Some(weight) => {
                    for ((target, value), weight) in pairs.zip(weight) {
                        put(target, value * scale * weight);
                    }
                }
                None => pairs.for_each(|(target, value)| put(target, value * scale)),
            }
        }
        Norm::Layer { weight, bias, epsilon } => {
            let (mean, scale) = mean_and_scale::<ROW_SUMS>(input, epsilon);
            match (weight, bias) {
                (Some(weight), Some(bias)) => {
                    for (((target, value), weight), bias) in pairs.zip(weight).zip(bias) {
                        put(target, (value - mean) * scale * weight + bias);
                    }
                }
                (Some(weight), None) => {
                    for ((target, value), weight) in pairs.zip(weight) {
                        put(target, (value - mean) * scale * weight);
                    }
                }
                (None, Some(bias)) => {
                    for ((target, value), bias) in pairs.zip(bias) {
                        put(target, (value - mean) * scale + bias);
                    }
                }
                (None, None) => {
                    pairs.for_each(|(target, value)| put(target, (value - mean) * scale));
                }
            }
        }
    }
}

/// `1 / √(mean(x²) + ε)`.
#[inline(always)]
fn rms_scale<const SUMS: usize>(values: &[f32], epsilon: f32) -> f32 {
    1.0 / (mean_of::<SUMS>(values, |value| value * value) + epsilon).sqrt()
}

/// `mean(x)` and `1 / √(var(x) + ε)`. The deviations are from the mean itself: the difference of
/// two mean squares would lose what a large mean drowns.
#[inline(always)]
fn mean_and_scale<const SUMS: usize>(values: &[f32], epsilon: f32) -> (f32, f32) {
    let mean = mean_of::<SUMS>(values, |value| value);
    let variance = mean_of::<SUMS>(values, |value| (value - mean) * (value - mean));
    (mean, 1.0 / (variance + epsilon).sqrt())
}

/// The mean of `term` over the values, added up in `SUMS` partial sums.
#[inline(always)]
fn mean_of<const SUMS: usize>(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0f32; SUMS];
    let (chunks, rest) = values.as_chunks::<SUMS>();
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += term(*value);
        }
    }
    for (sum, value) in sums.iter_mut().zip(rest) {
        *sum += term(*value);
    }
    sums.iter().sum::<f32>() / values.len() as f32
}

/// What of a norm's weight or bias belongs to a head: all of it if it is as long as one.
#[inline(always)]
fn of_head(values: &[f32], index: usize, head_size: usize) -> &[f32] {
    let start = index * head_size % values.len();
    &values[start..start + head_size]
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPSILON: f32 = 1e-5;

    /// Far from zero on average, so that a mean that is left out shows.
    fn wave(count: usize, scale: f32) -> Vec<f32> {
        (0..count).map(|i| scale * ((i as f32 * 0.37).sin() + 0.8)).collect()
    }

    /// The definition, in f64.
    fn expected(norm: Norm<'_>, input: &[f32]) -> Vec<f64> {
        let mean_of = |term: &dyn Fn(f64) -> f64| {
            input.iter().map(|&x| term(f64::from(x))).sum::<f64>() / input.len() as f64
        };
        let (mean, weight, bias) = match norm {
            Norm::Rms { weight, .. } => (0.0, weight, None),
            Norm::Layer { weight, bias, .. } => (mean_of(&|x| x), weight, bias),
        };
        let deviation = (mean_of(&|x| (x - mean).powi(2)) + f64::from(EPSILON)).sqrt();
        let at = |values: Option<&[f32]>, index: usize, default: f64| {
            values.map_or(default, |values| f64::from(values[index]))
        };
        let normalized = input.iter().enumerate().map(|(index, &x)| {
            (f64::from(x) - mean) / deviation * at(weight, index, 1.0) + at(bias, index, 0.0)
        });
        normalized.collect()
    }

    fn assert_close(found: &[f32], expected: &[f64], what: &str) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-5, "{what}: {found}, {expected}");
        }
    }

    /// Every norm there is, with parts of these values as weight and bias.
    fn norms<'a>(weight: &'a [f32], bias: &'a [f32]) -> [Norm<'a>; 6] {
        let epsilon = EPSILON;
        let layer = |weight, bias| Norm::Layer { weight, bias, epsilon };
        [
            Norm::Rms { weight: Some(weight), epsilon },
            Norm::Rms { weight: None, epsilon },
            layer(Some(weight), Some(bias)),
            layer(Some(weight), None),
            layer(None, Some(bias)),
            layer(None, None),
        ]
    }

    #[test]
    fn rows_are_normalized_as_defined() {
        for width in [1, 31, 32, 100] {
            let (input, weight, bias) = (wave(width, 3.0), wave(width, 1.0), wave(width, -0.7));
            for norm in norms(&weight, &bias) {
                let normalized = expected(norm, &input);
                let mut output = vec![f32::NAN; width];
                norm_row(norm, &input, &mut output);
                assert_close(&output, &normalized, &format!("{norm:?}"));
                let mut residual = weight.clone();
                add_normalized_row(norm, &input, -0.25, &mut residual);
                let sums: Vec<f64> = weight
                    .iter()
                    .zip(normalized)
                    .map(|(&weight, value)| f64::from(weight) - 0.25 * value)
                    .collect();
                assert_close(&residual, &sums, &format!("added {norm:?}"));
            }
        }
    }

    #[test]
    fn heads_share_a_weight_or_have_their_own() {
        // The last is one head as wide as the row.
        for (heads, head_size) in [(1, 1), (3, 20), (4, 64), (1, 200)] {
            let width = heads * head_size;
            let input = wave(width, 2.0);
            for length in [head_size, width] {
                let (weight, bias) = (wave(length, 1.5), wave(length, -0.4));
                for (which, norm) in norms(&weight, &bias).into_iter().enumerate() {
                    let mut row = input.clone();
                    norm_heads(norm, head_size, &mut row);
                    for (head, input) in input.chunks_exact(head_size).enumerate() {
                        let place = head * head_size;
                        let start = if length == width { place } else { 0 };
                        let own = start..start + head_size;
                        let of_head = norms(&weight[own.clone()], &bias[own])[which];
                        let what = format!("{heads} × {head_size}, {norm:?}");
                        let found = &row[place..place + head_size];
                        assert_close(found, &expected(of_head, input), &what);
                    }
                }
            }
        }
    }

    #[test]
    fn a_large_mean_does_not_drown_the_deviations() {
        let input: Vec<f32> = (0..64).map(|i| 10_000.0 + (i % 2) as f32).collect();
        let norm = Norm::Layer { weight: None, bias: None, epsilon: EPSILON };
        let mut output = vec![0.0; 64];
        norm_row(norm, &input, &mut output);
        assert_close(&output, &expected(norm, &input), "alternating");
    }

    #[test]
    #[should_panic(expected = "a weight for each of 4 columns")]
    fn a_weight_of_another_width_is_refused() {
        norm_row(Norm::Rms { weight: Some(&[1.0; 3]), epsilon: 0.0 }, &[1.0; 4], &mut [0.0; 4]);
    }

    #[test]
    #[should_panic(expected = "a weight for a head or for the row")]
    fn a_weight_of_two_of_three_heads_is_refused() {
        let norm = Norm::Rms { weight: Some(&[1.0; 4]), epsilon: 0.0 };
        norm_heads(norm, 2, &mut [0.0; 6]);
    }
}
