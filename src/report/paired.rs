//! Two models on the same questions: what changed, and whether chance explains it.

use serde::{Deserialize, Serialize};
use statrs::distribution::{Binomial, DiscreteCDF};

/// The 97.5th percentile of the standard normal distribution.
const Z: f64 = 1.959_963_984_540_054;

/// Differences with a McNemar p below this are called distinguishable.
pub const SIGNIFICANCE: f64 = 0.05;

/// One model's answer to one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The choice that it made.
    pub prediction: i64,
    /// Whether that was right.
    pub correct: bool,
}

/// A variant against the baseline, question by question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// Questions that both answered.
    pub questions: usize,
    /// Accuracy of the variant − accuracy of the baseline, from −1 to 1.
    pub difference: f64,
    /// Standard error of the difference: that of a mean of paired differences.
    pub standard_error: f64,
    /// 95 % interval of the difference: Bonett and Price's adjusted Wald interval for paired
    /// proportions (2012), which stays meaningful when few answers or none changed.
    pub interval: [f64; 2],
    /// Exact two-sided McNemar test: the probability, were both equally good, of right and wrong
    /// flips as unequal as these.
    pub mcnemar_p: f64,
    /// The baseline was right, the variant is wrong.
    pub right_to_wrong: usize,
    /// The baseline was wrong, the variant is right.
    pub wrong_to_right: usize,
    /// Share of the questions on which both made the same choice, from 0 to 1.
    pub agreement: f64,
}

impl Paired {
    /// Compares the answers to the same questions in the same order; `None` for no questions.
    ///
    /// # Panics
    /// If there are more answers of one than of the other.
    pub fn of(baseline: &[Answer], variant: &[Answer]) -> Option<Self> {
        assert_eq!(baseline.len(), variant.len(), "answers to the same questions");
        let pairs = || baseline.iter().zip(variant);
        let right_to_wrong = pairs().filter(|(b, v)| b.correct && !v.correct).count();
        let wrong_to_right = pairs().filter(|(b, v)| !b.correct && v.correct).count();
        let same = pairs().filter(|(b, v)| b.prediction == v.prediction).count();
        let questions = baseline.len();
        if questions == 0 {
            return None;
        }
        let n = questions as f64;
        let (lost, won) = (right_to_wrong as f64, wrong_to_right as f64);
        let difference = (won - lost) / n;
        let variance = (won + lost) / n - difference * difference;
        let standard_error =
            if questions < 2 { 0.0 } else { (variance.max(0.0) / (n - 1.0)).sqrt() };
        Some(Self {
            questions,
            difference,
            standard_error,
            interval: adjusted_wald(lost, won, n),
            mcnemar_p: mcnemar(right_to_wrong as u64, wrong_to_right as u64),
            right_to_wrong,
            wrong_to_right,
            agreement: same as f64 / n,
        })
    }

    /// Whether the exact McNemar test tells the difference from chance.
    pub fn distinguishable(&self) -> bool {
        self.mcnemar_p < SIGNIFICANCE
    }
}

fn adjusted_wald(lost: f64, won: f64, n: f64) -> [f64; 2] {
    let (lost, won) = ((lost + 1.0) / (n + 2.0), (won + 1.0) / (n + 2.0));
    let centre = won - lost;
    let half = Z * ((won + lost - centre * centre) / (n + 2.0)).sqrt();
    [(centre - half).max(-1.0), (centre + half).min(1.0)]
}

/// Exact two-sided McNemar test on the two counts of discordant pairs.
fn mcnemar(lost: u64, won: u64) -> f64 {
    match Binomial::new(0.5, lost + won) {
        Ok(binomial) if lost + won > 0 => (2.0 * binomial.cdf(lost.min(won))).min(1.0),
        _ => 1.0,
    }
}

/// 95 % Wilson score interval of a proportion; `[0, 1]` for no questions.
pub fn wilson_interval(correct: usize, questions: usize) -> [f64; 2] {
    if questions == 0 {
        return [0.0, 1.0];
    }
    let n = questions as f64;
    let p = correct as f64 / n;
    let z2 = Z * Z;
    let centre = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z / (1.0 + z2 / n) * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    [(centre - half).max(0.0), (centre + half).min(1.0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64, tolerance: f64) {
        assert!((found - expected).abs() < tolerance, "{found} is not {expected}");
    }

    #[test]
    fn mcnemar_gives_the_binomial_tail() {
        // 2 · (1 + 13 + 78 + 286) / 2^13
        near(mcnemar(10, 3), 0.092_285_156_25, 1e-12);
        near(mcnemar(3, 10), 0.092_285_156_25, 1e-12);
        near(mcnemar(1, 9), 22.0 / 1024.0, 1e-12);
        assert_eq!(mcnemar(4, 4), 1.0);
        assert_eq!(mcnemar(0, 0), 1.0);
    }

    #[test]
    fn wilson_interval_matches_the_textbook() {
        let [low, high] = wilson_interval(8, 10);
        near(low, 0.490_16, 1e-5);
        near(high, 0.943_32, 1e-5);
        assert_eq!(wilson_interval(0, 5)[0], 0.0);
        assert_eq!(wilson_interval(0, 0), [0.0, 1.0]);
    }

    #[test]
    fn pairs_are_compared_question_by_question() {
        let answer =
            |prediction: i64, right: i64| Answer { prediction, correct: prediction == right };
        // Right answers 0; the baseline errs on the last two.
        let baseline = [0, 0, 0, 0, 0, 0, 0, 0, 1, 2].map(|p| answer(p, 0));
        let variant = [0, 0, 0, 0, 0, 1, 2, 3, 0, 3].map(|p| answer(p, 0));
        let paired = Paired::of(&baseline, &variant).unwrap();
        assert_eq!((paired.right_to_wrong, paired.wrong_to_right), (3, 1));
        near(paired.difference, -0.2, 1e-12);
        near(paired.agreement, 0.5, 1e-12);
        // Sample variance of three −1, one 1 and six 0: (0.4 − 0.04) · 10/9; over 10, the root.
        near(paired.standard_error, (0.36f64 / 9.0).sqrt(), 1e-12);
        near(paired.mcnemar_p, 0.625, 1e-12);
        assert!(!paired.distinguishable());
        // Bonett-Price: p12 = 4/12, p21 = 2/12.
        let half = Z * ((0.5 - 1.0 / 36.0) / 12.0f64).sqrt();
        near(paired.interval[0], -1.0 / 6.0 - half, 1e-12);
        near(paired.interval[1], -1.0 / 6.0 + half, 1e-12);
    }

    #[test]
    fn equal_answers_have_no_difference_but_still_an_interval() {
        let answers = [Answer { prediction: 1, correct: true }; 50];
        let paired = Paired::of(&answers, &answers).unwrap();
        assert_eq!((paired.difference, paired.standard_error, paired.mcnemar_p), (0.0, 0.0, 1.0));
        assert!(paired.interval[0] < 0.0 && paired.interval[1] > 0.0);
        assert_eq!(Paired::of(&[], &[]), None);
    }
}
