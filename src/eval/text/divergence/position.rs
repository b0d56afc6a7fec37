//! What two models say at one position.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::eval::text::base_logits::CodedRow;
use crate::kernels::elementwise::{divergence_above, log_sum_exp, mean_difference};

/// Of log-probabilities from a file, only those above this count for the divergence, as llama.cpp has
/// it: those below may be larger there than they were.
const FILE_FLOOR: f32 = -16.0;

/// What two models say at one position. Written as the list of its figures: a text has many.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(into = "(f64, bool, f64, f64)", from = "(f64, bool, f64, f64)")]
pub struct PositionDivergence {
    /// KL(base ‖ variant), in nats.
    pub kl: f64,
    /// Whether both find the same token most likely.
    pub same_top: bool,
    /// −ln of the probability that the base gives to the next token.
    pub base_surprise: f64,
    /// The same of the variant.
    pub surprise: f64,
}

impl From<PositionDivergence> for (f64, bool, f64, f64) {
    fn from(position: PositionDivergence) -> Self {
        let PositionDivergence { kl, same_top, base_surprise, surprise } = position;
        (kl, same_top, base_surprise, surprise)
    }
}

impl From<(f64, bool, f64, f64)> for PositionDivergence {
    fn from((kl, same_top, base_surprise, surprise): (f64, bool, f64, f64)) -> Self {
        Self { kl, same_top, base_surprise, surprise }
    }
}

impl PositionDivergence {
    /// Compares two rows of logits; `next` is the token that the text goes on with.
    ///
    /// With z and z′ the logits and p the base's probabilities, KL = Σ p (z − z′) − ln Σ eᶻ +
    /// ln Σ eᶻ′: for equal rows exactly 0, and otherwise to within about 2e-7.
    ///
    /// # Panics
    /// If the rows are not of one length, or `next` lies outside them.
    pub fn of(base: &[f32], variant: &[f32], next: u32) -> Self {
        let (base_sum, variant_sum) = (log_sum_exp(base), log_sum_exp(variant));
        let kl = mean_difference(base, variant) - base_sum + variant_sum;
        let next = next as usize;
        Self {
            // Rounding may leave a hair below 0. A NaN stays one.
            kl: if kl < 0.0 { 0.0 } else { kl },
            same_top: first_largest(base) == first_largest(variant),
            base_surprise: base_sum - f64::from(base[next]),
            surprise: variant_sum - f64::from(variant[next]),
        }
    }

    /// Compares a row from a file with one of logits; `values` is room for the former. Codes are
    /// rounded, so that the divergence is off by some 1e-5 and may be below 0. `None` where the row
    /// of the file holds no log-probabilities.
    ///
    /// # Panics
    /// If the rows are not of one length, or `next` lies outside them.
    pub(super) fn of_coded(
        base: CodedRow<'_>,
        variant: &[f32],
        next: u32,
        values: &mut Vec<f32>,
    ) -> Option<Self> {
        base.decode_into(values);
        // Those that were raised can add e⁻¹⁶ each to a sum of 1; the rest is for the rounding.
        let slack = 0.01 + values.len() as f64 * f64::from(FILE_FLOOR).exp();
        if values.iter().any(|&value| value.is_nan() || f64::from(value) > slack) {
            return None;
        }
        let variant_sum = log_sum_exp(variant);
        let (kl, total) = divergence_above(FILE_FLOOR, values, variant, variant_sum);
        ((total - 1.0).abs() <= slack).then(|| Self {
            kl,
            same_top: first_largest(values) == first_largest(variant),
            base_surprise: -f64::from(base.log_probability(next)),
            surprise: variant_sum - f64::from(variant[next as usize]),
        })
    }

    /// How much more probable the variant finds the next token, from −1 to 1.
    pub fn probability_change(&self) -> f64 {
        (-self.surprise).exp() - (-self.base_surprise).exp()
    }

    pub(super) fn is_finite(&self) -> bool {
        [self.kl, self.base_surprise, self.surprise].into_iter().all(f64::is_finite)
    }
}

fn first_largest(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, &value) in values.iter().enumerate() {
        if value > values[best] {
            best = index;
        }
    }
    best
}

/// The divergence at each row of logits of a window's scored positions. `next` are the tokens that
/// follow them; a step that scores nothing has none.
pub fn compare_rows(base: &[f32], variant: &[f32], next: &[u32]) -> Vec<PositionDivergence> {
    if next.is_empty() {
        return Vec::new();
    }
    let width = base.len() / next.len();
    base.par_chunks(width)
        .zip(variant.par_chunks(width))
        .zip(next)
        .map(|((base, variant), &next)| PositionDivergence::of(base, variant, next))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_scores_nothing_has_no_divergence() {
        assert!(compare_rows(&[], &[], &[]).is_empty());
    }

    #[test]
    fn rows_are_compared_one_by_one() {
        let (base, variant) = ([[1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0]], [[0.5; 4], [2.0; 4]]);
        let found = compare_rows(base.as_flattened(), variant.as_flattened(), &[0, 1]);
        let each = |row: usize| PositionDivergence::of(&base[row], &variant[row], row as u32);
        assert_eq!(found, [each(0), each(1)]);
        assert_ne!(found[0], found[1]);
    }

    #[test]
    fn a_position_matches_a_calculation_by_hand() {
        // p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4).
        let logits = |probabilities: [f32; 3], shift: f32| probabilities.map(|p| p.ln() + shift);
        let (base, variant) = (logits([0.5, 0.25, 0.25], 3.0), logits([0.25, 0.5, 0.25], -7.0));
        let found = PositionDivergence::of(&base, &variant, 1);
        // 1/2 ln 2 + 1/4 ln 1/2 + 0 = 1/4 ln 2
        assert!((found.kl - 0.25 * 2f64.ln()).abs() < 1e-6, "{found:?}");
        assert!(!found.same_top);
        assert!((found.base_surprise - 4f64.ln()).abs() < 1e-6);
        assert!((found.surprise - 2f64.ln()).abs() < 1e-6);
        assert!((found.probability_change() - 0.25).abs() < 1e-6);
    }

    #[test]
    fn equal_rows_do_not_diverge_at_all() {
        let row: Vec<f32> = (0..5000).map(|index| (index * 31 % 97) as f32 / 7.0).collect();
        let found = PositionDivergence::of(&row, &row, 17);
        assert_eq!((found.kl, found.same_top), (0.0, true));
        assert_eq!(found.surprise, found.base_surprise);
    }
}
