//! Tests of whether answers to the same questions changed more one way than the other.

use statrs::distribution::{Binomial, DiscreteCDF};

use super::intervals::Z;

/// The 80th percentile of the standard normal distribution.
const Z_POWER: f64 = 0.841_621_233_572_914_3;

/// The exact two-sided McNemar test: the probability, were both models equally good, of flips at
/// least as unequal as `lost` (right → wrong) and `won` (wrong → right). 1 where nothing flipped.
pub fn mcnemar(lost: usize, won: usize) -> f64 {
    let flips = (lost + won) as u64;
    match Binomial::new(0.5, flips) {
        Ok(binomial) if flips > 0 => (2.0 * binomial.cdf(lost.min(won) as u64)).min(1.0),
        _ => 1.0,
    }
}

/// Holm's adjusted p-values (1979), in the given order: those below a level are of differences that
/// can all be named together, with at most that probability of naming one by chance.
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p_values.len()).collect();
    order.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut largest = 0f64;
    for (rank, &index) in order.iter().enumerate() {
        let factor = (p_values.len() - rank) as f64;
        largest = largest.max((p_values[index] * factor).min(1.0));
        adjusted[index] = largest;
    }
    adjusted
}

/// How many questions McNemar's test at 5 % takes to see a difference of this size in accuracy with
/// a probability of 80 %, where this share of the outcomes flips: Connor's formula (1987),
/// `((z₀.₉₇₅ √ψ + z₀.₈ √(ψ − δ²)) / δ)²`.
///
/// Outcomes cannot differ by more than flip, so a share below the difference counts as it.
pub fn questions_needed(difference: f64, flipped: f64) -> u64 {
    let difference = difference.abs();
    let flipped = flipped.max(difference);
    let root = Z * flipped.sqrt() + Z_POWER * (flipped - difference * difference).sqrt();
    (root / difference).powi(2).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mcnemar_gives_the_binomial_tail() {
        let near = |found: f64, expected: f64| {
            assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
        };
        // 2 · (1 + 13 + 78 + 286) / 2^13
        near(mcnemar(10, 3), 0.092_285_156_25);
        near(mcnemar(3, 10), 0.092_285_156_25);
        near(mcnemar(1, 9), 22.0 / 1024.0);
        assert_eq!(mcnemar(4, 4), 1.0);
        assert_eq!(mcnemar(0, 0), 1.0);
    }

    #[test]
    fn adjusted_p_values_keep_their_order_and_never_pass_one() {
        let adjusted = holm(&[0.04, 0.01, 0.9, 0.03]);
        // 0.03 · 3 is more than 0.04 · 2, so that 0.04 takes the 0.09 of the one before it.
        for (found, expected) in adjusted.iter().zip([0.09, 0.04, 0.9, 0.09]) {
            assert!((found - expected).abs() < 1e-12, "{adjusted:?}");
        }
        assert_eq!(holm(&[0.7, 0.8]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn fewer_flips_need_fewer_questions() {
        assert!(questions_needed(0.01, 0.03) < questions_needed(0.01, 0.2));
        assert_eq!(questions_needed(0.01, 0.0), questions_needed(0.01, 0.01));
    }
}
