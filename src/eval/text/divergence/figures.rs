//! Figures over all positions: those of llama.cpp's `llama-perplexity --kl-divergence`.

use serde::{Deserialize, Serialize};

use super::position::PositionDivergence;
use crate::eval::EvalError;
use crate::eval::statistics::Mean;

/// The divergence of a variant over all scored positions. Logarithms are natural.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Scored positions.
    pub positions: usize,
    /// KL(base ‖ variant), in nats.
    pub kl: Mean,
    /// Its median.
    pub kl_median: f64,
    /// Its 90th percentile.
    pub kl_p90: f64,
    /// Its 99th percentile.
    pub kl_p99: f64,
    /// Its maximum.
    pub kl_maximum: f64,
    /// Share of positions at which both find the same token most likely.
    pub same_top: Mean,
    /// exp of the mean negative log-probability that the base gives to the text's own next token.
    pub base_perplexity: f64,
    /// The same of the variant.
    pub perplexity: f64,
    /// ln(variant's perplexity / base's).
    pub log_perplexity_ratio: Mean,
}

impl Divergence {
    /// Sums positions up.
    ///
    /// # Errors
    /// No position at all, or a figure that is no number.
    pub fn of(positions: &[PositionDivergence]) -> Result<Self, EvalError> {
        if positions.is_empty() {
            return Err(EvalError::Unusable("no position has been compared".to_string()));
        }
        check_finite(positions)?;
        let kl = sorted(positions, |position| position.kl);
        let mean = |value: fn(&PositionDivergence) -> f64| Mean::of(positions.iter().map(value));
        Ok(Self {
            positions: positions.len(),
            kl: mean(|position| position.kl),
            kl_median: percentile(&kl, 0.5),
            kl_p90: percentile(&kl, 0.9),
            kl_p99: percentile(&kl, 0.99),
            kl_maximum: percentile(&kl, 1.0),
            same_top: mean(|position| f64::from(u8::from(position.same_top))),
            base_perplexity: mean(|position| position.base_surprise).mean.exp(),
            perplexity: mean(|position| position.surprise).mean.exp(),
            log_perplexity_ratio: mean(|position| position.surprise - position.base_surprise),
        })
    }
}

/// Sees to it that all figures are numbers.
pub(super) fn check_finite(positions: &[PositionDivergence]) -> Result<(), EvalError> {
    if positions.iter().all(PositionDivergence::is_finite) {
        return Ok(());
    }
    Err(EvalError::Unusable(
        "the logits are not numbers; one of the model files may be damaged".to_string(),
    ))
}

/// What [`Divergence`] leaves out of llama.cpp's figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DivergenceDetails {
    /// Standard error of the base's perplexity.
    pub base_perplexity_standard_error: f64,
    /// Standard error of the variant's perplexity.
    pub perplexity_standard_error: f64,
    /// Correlation, over positions, of the negative log-probabilities that both give to the next
    /// token; null where one of them is the same everywhere.
    pub log_perplexity_correlation: Option<f64>,
    /// The variant's perplexity / the base's.
    pub perplexity_ratio: Mean,
    /// The variant's perplexity − the base's.
    pub perplexity_difference: Mean,
    /// KL(base ‖ variant), in nats.
    pub kl_distribution: Distribution,
    /// Δp: how much more probable the variant finds the text's own next token, from −1 to 1.
    pub probability_change: Mean,
    /// Its distribution.
    pub probability_change_distribution: Distribution,
    /// The root of its mean square.
    pub probability_change_rms: f64,
    /// Standard error of the root.
    pub probability_change_rms_standard_error: f64,
}

impl DivergenceDetails {
    /// Sums positions up, of which there must be some, all with finite figures.
    ///
    /// # Panics
    /// If there is no position.
    pub fn of(positions: &[PositionDivergence]) -> Self {
        let change = PositionDivergence::probability_change;
        let base_log = Mean::of(positions.iter().map(|position| position.base_surprise));
        let log = Mean::of(positions.iter().map(|position| position.surprise));
        let log_ratio = positions.iter().map(|position| position.surprise - position.base_surprise);
        let (base_perplexity, perplexity) = (base_log.exp(), log.exp());
        let squares = Mean::of(positions.iter().map(|position| change(position).powi(2)));
        let root = squares.mean.sqrt();
        Self {
            base_perplexity_standard_error: base_perplexity.standard_error,
            perplexity_standard_error: perplexity.standard_error,
            log_perplexity_correlation: correlation(positions, log, base_log),
            perplexity_ratio: Mean::of(log_ratio).exp(),
            perplexity_difference: difference(positions, perplexity.mean, base_perplexity.mean),
            kl_distribution: Distribution::of(&sorted(positions, |position| position.kl)),
            probability_change: Mean::of(positions.iter().map(change)),
            probability_change_distribution: Distribution::of(&sorted(positions, change)),
            probability_change_rms: root,
            probability_change_rms_standard_error: if root > 0.0 {
                squares.standard_error / (2.0 * root)
            } else {
                0.0
            },
        }
    }
}

/// The difference of perplexities: to first order it varies as the difference of the surprises, each
/// times its perplexity.
fn difference(positions: &[PositionDivergence], perplexity: f64, base_perplexity: f64) -> Mean {
    let weighted = positions
        .iter()
        .map(|position| perplexity * position.surprise - base_perplexity * position.base_surprise);
    let standard_error = Mean::of(weighted).standard_error;
    Mean { mean: perplexity - base_perplexity, standard_error }
}

fn correlation(positions: &[PositionDivergence], log: Mean, base_log: Mean) -> Option<f64> {
    let products = positions
        .iter()
        .map(|position| (position.surprise - log.mean) * (position.base_surprise - base_log.mean));
    let count = positions.len() as f64;
    // Standard errors are those of means: the products' mean has to become one, too.
    let covariance = products.sum::<f64>() / (count * (count - 1.0));
    let correlation = covariance / (log.standard_error * base_log.standard_error);
    correlation.is_finite().then_some(correlation)
}

/// How values are distributed over positions: percentiles, interpolated between neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// The largest value.
    pub maximum: f64,
    /// What 99.9 % of the values do not exceed.
    pub p99_9: f64,
    /// 99 %.
    pub p99: f64,
    /// 95 %.
    pub p95: f64,
    /// 90 %.
    pub p90: f64,
    /// 75 %.
    pub p75: f64,
    /// 50 %.
    pub median: f64,
    /// 25 %.
    pub p25: f64,
    /// 10 %.
    pub p10: f64,
    /// 5 %.
    pub p5: f64,
    /// 1 %.
    pub p1: f64,
    /// 0.1 %.
    pub p0_1: f64,
    /// The smallest value.
    pub minimum: f64,
}

impl Distribution {
    fn of(sorted: &[f64]) -> Self {
        let at = |share: f64| percentile(sorted, share);
        Self {
            maximum: at(1.0),
            p99_9: at(0.999),
            p99: at(0.99),
            p95: at(0.95),
            p90: at(0.9),
            p75: at(0.75),
            median: at(0.5),
            p25: at(0.25),
            p10: at(0.1),
            p5: at(0.05),
            p1: at(0.01),
            p0_1: at(0.001),
            minimum: at(0.0),
        }
    }

    /// All figures, from the largest, with their names.
    pub fn named(&self) -> [(&'static str, f64); 13] {
        [
            ("maximum", self.maximum),
            ("99.9 %", self.p99_9),
            ("99 %", self.p99),
            ("95 %", self.p95),
            ("90 %", self.p90),
            ("75 %", self.p75),
            ("median", self.median),
            ("25 %", self.p25),
            ("10 %", self.p10),
            ("5 %", self.p5),
            ("1 %", self.p1),
            ("0.1 %", self.p0_1),
            ("minimum", self.minimum),
        ]
    }
}

fn sorted(positions: &[PositionDivergence], value: fn(&PositionDivergence) -> f64) -> Vec<f64> {
    let mut values: Vec<f64> = positions.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The value below which `share` of sorted values lie, interpolated between neighbours.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * (place - place.floor())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(kl: f64, same_top: bool) -> PositionDivergence {
        PositionDivergence { kl, same_top, base_surprise: 1.0, surprise: 1.0 + kl }
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} instead of {expected}");
    }

    #[test]
    fn statistics_match_a_calculation_by_hand() {
        let positions = [0.4, 0.1, 0.2, 0.3, 0.0].map(|kl| position(kl, kl < 0.25));
        let all = Divergence::of(&positions).unwrap();
        close(all.kl.mean, 0.2);
        // Σ (x − 0.2)² / 4 = 0.025; / 5 = 0.005
        close(all.kl.standard_error, 0.005f64.sqrt());
        close(all.kl_median, 0.2);
        close(all.kl_p90, 0.36);
        close(all.kl_maximum, 0.4);
        close(all.same_top.mean, 0.6);
        close(all.base_perplexity, 1f64.exp());
        close(all.perplexity, 1.2f64.exp());
        close(all.log_perplexity_ratio.mean, 0.2);
    }

    /// Probabilities of the next token: 1/2, 1/4 and 1/8 of the base, 1/4, 1/4 and 1/4 or 1/16 of
    /// the variant.
    fn halves(last: f64) -> [PositionDivergence; 3] {
        [(1.0, 2.0), (2.0, 2.0), (3.0, last)].map(|(base, variant)| PositionDivergence {
            kl: base,
            same_top: true,
            base_surprise: base * 2f64.ln(),
            surprise: variant * 2f64.ln(),
        })
    }

    #[test]
    fn details_match_a_calculation_by_hand() {
        let details = DivergenceDetails::of(&halves(4.0));
        let ln_2 = 2f64.ln();
        // Base: mean 2 ln 2, standard error ln 2 · √(1/3). Variant: mean 8/3 ln 2, deviations −2/3,
        // −2/3 and 4/3, squares 24/9, / 2 / 3 = 4/9.
        let (base, variant) = (4.0, (8.0 / 3.0 * ln_2).exp());
        close(details.base_perplexity_standard_error, base * ln_2 * (1f64 / 3.0).sqrt());
        close(details.perplexity_standard_error, variant * ln_2 * 2.0 / 3.0);
        // Products 2/3, 0 and 4/3, / 3 / 2 = 1/3; / (√(1/3) · 2/3) = √3 / 2.
        close(details.log_perplexity_correlation.unwrap(), 3f64.sqrt() / 2.0);
        // Ratios 1, 0 and 1: mean 2/3, standard error √(2/3 / 2 / 3) = 1/3, in ln 2.
        close(details.perplexity_ratio.mean, (2.0 / 3.0 * ln_2).exp());
        close(details.perplexity_ratio.standard_error, details.perplexity_ratio.mean * ln_2 / 3.0);
        // As variances of a difference add up: a² + b² − 2 a b r.
        close(details.perplexity_difference.mean, variant - base);
        let (a, b) = (details.perplexity_standard_error, details.base_perplexity_standard_error);
        close(
            details.perplexity_difference.standard_error,
            (a * a + b * b - a * b * 3f64.sqrt()).sqrt(),
        );
        // Changes −1/4, 0 and −1/16: squares 1/16, 0 and 1/256, mean 17/768.
        close(details.probability_change.mean, -5.0 / 48.0);
        let distribution = details.probability_change_distribution;
        close(distribution.minimum, -0.25);
        close(distribution.median, -0.0625);
        close(distribution.maximum, 0.0);
        close(distribution.p25, -0.15625);
        close(distribution.p99, -0.0625 * 0.02);
        close(details.probability_change_rms, (17f64 / 768.0).sqrt());
        let squares = Mean::of([1.0 / 16.0, 0.0, 1.0 / 256.0].into_iter());
        close(
            details.probability_change_rms_standard_error,
            squares.standard_error / 2.0 / details.probability_change_rms,
        );
        assert_eq!(details.kl_distribution.named().map(|(_, kl)| kl)[6], 2.0);
    }

    #[test]
    fn what_does_not_vary_has_no_correlation() {
        let details = DivergenceDetails::of(&halves(2.0));
        assert_eq!(details.log_perplexity_correlation, None);
        let details = DivergenceDetails::of(&[position(0.0, true)]);
        assert_eq!(details.log_perplexity_correlation, None);
        assert_eq!(details.probability_change_rms, 0.0);
        assert_eq!(details.probability_change_rms_standard_error, 0.0);
    }

    #[test]
    fn what_is_no_number_is_an_error() {
        let row = [0.0, 1.0];
        let damaged = PositionDivergence::of(&row, &[0.0, f32::NAN], 0);
        assert!(Divergence::of(&[position(0.1, true), damaged]).is_err());
        assert!(Divergence::of(&[]).is_err());
    }
}
