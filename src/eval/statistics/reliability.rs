//! Whether a model is right as often as it is sure: expected calibration error and its bins.

use serde::{Deserialize, Serialize};

/// Bins of confidence, all of the same width, as Guo et al. (2017) have them.
pub const BINS: usize = 15;

/// How well a model's confidence tells how often it is right.
///
/// Confidence is the largest of the choices' probabilities. Bin k of [`BINS`] holds confidences
/// above (k − 1) / 15 up to k / 15.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reliability {
    /// Expected calibration error: the mean over all questions of |accuracy − mean confidence| of
    /// the question's bin, from 0 to 1.
    pub expected_calibration_error: f64,
    /// Mean confidence over all questions − accuracy: above 0 for a model that is too sure.
    pub overconfidence: f64,
    /// The bins that hold questions, by confidence.
    pub bins: Vec<ReliabilityBin>,
}

/// The questions of which a model was about equally sure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// How many.
    pub questions: usize,
    /// Their mean confidence.
    pub confidence: f64,
    /// The share that was answered right.
    pub accuracy: f64,
}

impl Reliability {
    /// Of confidences from 0 to 1 and whether the answers were right; `None` for no answers.
    pub fn of(answers: impl IntoIterator<Item = (f64, bool)>) -> Option<Self> {
        let mut sums = [(0usize, 0f64, 0usize); BINS];
        for (confidence, correct) in answers {
            let bin = (confidence * BINS as f64).ceil() as usize;
            let (questions, confidences, right) = &mut sums[bin.clamp(1, BINS) - 1];
            *questions += 1;
            *confidences += confidence;
            *right += usize::from(correct);
        }
        let total = sums.iter().map(|(questions, ..)| questions).sum::<usize>();
        if total == 0 {
            return None;
        }
        let gap = |confidences: f64, right: usize| (confidences - right as f64) / total as f64;
        Some(Self {
            expected_calibration_error: sums.iter().map(|&(_, c, r)| gap(c, r).abs()).sum(),
            overconfidence: sums.iter().map(|&(_, c, r)| gap(c, r)).sum(),
            bins: sums
                .iter()
                .filter(|(questions, ..)| *questions > 0)
                .map(|&(questions, confidences, right)| ReliabilityBin {
                    questions,
                    confidence: confidences / questions as f64,
                    accuracy: right as f64 / questions as f64,
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_the_mean_gap_of_the_bins() {
        // Two bins: 0.9 twice, right once; 0.3 twice, right once.
        let answers = [(0.9, true), (0.9, false), (0.3, true), (0.3, false)];
        let found = Reliability::of(answers).unwrap();
        assert!((found.expected_calibration_error - 0.3).abs() < 1e-12);
        assert!((found.overconfidence - 0.1).abs() < 1e-12);
        assert_eq!(found.bins.len(), 2);
        assert_eq!((found.bins[0].questions, found.bins[0].accuracy), (2, 0.5));
        assert_eq!(Reliability::of([]), None);
    }

    #[test]
    fn the_ends_belong_to_the_outer_bins() {
        let found = Reliability::of([(0.0, false), (1.0, true)]).unwrap();
        assert_eq!(found.expected_calibration_error, 0.0);
        assert_eq!(found.bins.len(), 2);
        // A bin's upper end belongs to it.
        let found = Reliability::of([(1.0 / 3.0, true), (0.3, true)]).unwrap();
        assert_eq!(found.bins.len(), 1);
    }
}
