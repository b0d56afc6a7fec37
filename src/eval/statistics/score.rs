//! Accuracy over a group of questions, and its standard error.

use serde::{Deserialize, Serialize};

/// Accuracy over a group of questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// "all", a category or a subject.
    pub name: String,
    /// Questions scored.
    pub questions: usize,
    /// Answered right.
    pub correct: usize,
    /// `correct / questions`, from 0 to 1.
    pub accuracy: f64,
    /// Standard error of the accuracy; absent where there are too few questions for one.
    pub standard_error: Option<f64>,
    /// Accuracy of guessing: the mean of 1 / number of choices.
    pub chance: f64,
}

/// What became of one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::eval) struct Outcome {
    /// Whether the prediction was the answer.
    pub correct: bool,
    /// How many choices there were.
    pub choices: usize,
}

impl Score {
    /// The score of a group of questions.
    ///
    /// The standard error is that of a mean with the sample's own variance,
    /// `sqrt(p (1 − p) / (n − 1))`, which fewer than two questions do not have.
    pub(in crate::eval) fn of(name: &str, outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        let (mut questions, mut correct, mut guessed) = (0usize, 0usize, 0f64);
        for outcome in outcomes {
            questions += 1;
            correct += usize::from(outcome.correct);
            guessed += 1.0 / outcome.choices as f64;
        }
        let n = questions as f64;
        let accuracy = if questions == 0 { 0.0 } else { correct as f64 / n };
        let standard_error =
            (questions > 1).then(|| (accuracy * (1.0 - accuracy) / (n - 1.0)).sqrt());
        let chance = if questions == 0 { 0.0 } else { guessed / n };
        Self { name: name.to_string(), questions, correct, accuracy, standard_error, chance }
    }

    /// The score of several groups together, with the standard error that lm-evaluation-harness
    /// reports for a group of tasks: from the variance within the groups alone,
    /// `sqrt(Σ (nᵢ − 1) nᵢ seᵢ² / (N − k) / N)` for k groups and N questions; absent where no group
    /// has two questions.
    pub(in crate::eval) fn pooled<'a>(
        name: &str,
        groups: impl IntoIterator<Item = &'a Self, IntoIter: Clone>,
    ) -> Self {
        let groups = groups.into_iter();
        let sum = |of: fn(&Self) -> f64| groups.clone().map(of).sum::<f64>();
        let questions = groups.clone().map(|group| group.questions).sum::<usize>();
        let correct = groups.clone().map(|group| group.correct).sum::<usize>();
        let n = questions as f64;
        let freedom = sum(|group| group.questions as f64 - 1.0);
        let squares = sum(|group| {
            let (n, error) = (group.questions as f64, group.standard_error.unwrap_or(0.0));
            (n - 1.0) * n * error * error
        });
        let share = |sum: f64| if questions == 0 { 0.0 } else { sum / n };
        Self {
            name: name.to_string(),
            questions,
            correct,
            accuracy: share(correct as f64),
            standard_error: (freedom > 0.0).then(|| (squares / freedom / n).sqrt()),
            chance: share(sum(|group| group.chance * group.questions as f64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_match_a_calculation_by_hand() {
        let outcomes = [(true, 4), (false, 4), (false, 2), (true, 4), (false, 4)]
            .map(|(correct, choices)| Outcome { correct, choices });
        let score = Score::of("all", outcomes);
        assert_eq!((score.questions, score.correct), (5, 2));
        assert!((score.accuracy - 0.4).abs() < 1e-12);
        // 0.4 · 0.6 / 4 = 0.06
        assert!((score.standard_error.unwrap() - 0.06f64.sqrt()).abs() < 1e-12);
        assert!((score.chance - 0.3).abs() < 1e-12);
    }

    #[test]
    fn tiny_groups_give_finite_numbers_and_no_standard_error() {
        let one = Score::of("one", [Outcome { correct: true, choices: 4 }]);
        assert_eq!((one.accuracy, one.standard_error, one.chance), (1.0, None, 0.25));
        assert_eq!(Score::pooled("ones", [&one, &one]).standard_error, None);
        let none = Score::of("none", []);
        assert_eq!((none.accuracy, none.standard_error, none.chance), (0.0, None, 0.0));
    }
}
