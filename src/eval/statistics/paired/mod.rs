//! Two models on the same questions: what changed, and whether chance explains it.

mod verdict;

use serde::{Deserialize, Serialize};

use super::{choices, intervals, tests_of_change};
use crate::eval::questions::subjects::Category;
pub use verdict::interval_in_points;

/// Differences with a p-value below this are called distinguishable.
pub const SIGNIFICANCE: f64 = 0.05;

/// The difference in accuracy for which [`Paired::questions_for_one_point`] stands.
const ONE_POINT: f64 = 0.01;

/// One model's answer to one question.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Answer<'a> {
    /// The question's subject.
    pub subject: &'a str,
    /// The right choice.
    pub answer: usize,
    /// The choice that it made.
    pub prediction: usize,
    /// Log-probability of each choice.
    pub log_probabilities: &'a [f64],
}

impl Answer<'_> {
    /// Whether the choice that was made is right.
    pub fn correct(&self) -> bool {
        self.prediction == self.answer
    }

    /// The probability of each choice, of 1 over all choices.
    pub fn probabilities(&self) -> Vec<f64> {
        choices::normalized(self.log_probabilities).into_iter().map(f64::exp).collect()
    }

    /// The probability of the right choice; 0 where there is no such choice.
    pub fn probability_of_answer(&self) -> f64 {
        self.probabilities().get(self.answer).copied().unwrap_or(0.0)
    }

    /// The probability of the choice that was made.
    pub fn confidence(&self) -> f64 {
        self.probabilities().get(self.prediction).copied().unwrap_or(0.0)
    }
}

/// What became of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The same choice.
    None,
    /// The baseline was right, the variant is wrong.
    RightToWrong,
    /// The baseline was wrong, the variant is right.
    WrongToRight,
    /// Both are wrong, with different choices.
    WrongToOtherWrong,
}

impl Change {
    /// From the baseline's answer to the variant's.
    pub fn between(baseline: &Answer<'_>, variant: &Answer<'_>) -> Self {
        match (baseline.correct(), variant.correct()) {
            (true, false) => Self::RightToWrong,
            (false, true) => Self::WrongToRight,
            _ if baseline.prediction != variant.prediction => Self::WrongToOtherWrong,
            _ => Self::None,
        }
    }
}

/// A variant against the baseline, question by question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Paired {
    /// Questions that both answered.
    pub questions: usize,
    /// Accuracy of the variant − accuracy of the baseline, from −1 to 1.
    pub difference: f64,
    /// Standard error of the difference: that of a mean of paired differences; absent for one
    /// question.
    pub standard_error: Option<f64>,
    /// 95 % interval of the difference: Bonett and Price's adjusted Wald interval for paired
    /// proportions (2012), which stays meaningful when few answers or none changed.
    pub interval: [f64; 2],
    /// Standard error of the difference, had the two answered different questions; absent for one
    /// question.
    pub unpaired_standard_error: Option<f64>,
    /// 95 % interval of the difference, had the two answered different questions: Newcombe's hybrid
    /// score interval (1998).
    pub unpaired_interval: [f64; 2],
    /// Exact two-sided McNemar test: the probability, were both equally good, of right and wrong
    /// flips as unequal as these.
    pub mcnemar_p: f64,
    /// The baseline was right, the variant is wrong.
    pub right_to_wrong: usize,
    /// The baseline was wrong, the variant is right.
    pub wrong_to_right: usize,
    /// Both are wrong, with different choices.
    pub wrong_to_other_wrong: usize,
    /// Share of the questions on which both made the same choice, from 0 to 1.
    pub agreement: f64,
    /// Mean |p′ − p| of the right choice's probability among the choices, from 0 to 1.
    pub answer_probability_change: f64,
    /// Mean KL(baseline ‖ variant) over the choices' probabilities, in nats.
    pub choice_divergence: f64,
    /// Questions that it takes to see a difference of one point with a probability of 80 %, where
    /// outcomes flip as often as here (Connor 1987).
    pub questions_for_one_point: u64,
    /// In each of MMLU's categories that occurs.
    pub categories: Vec<GroupDifference>,
    /// In each subject, in alphabetical order.
    pub subjects: Vec<GroupDifference>,
}

/// The difference on a category's or a subject's questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupDifference {
    /// The category or subject.
    pub name: String,
    /// Its questions.
    pub questions: usize,
    /// As [`Paired::difference`].
    pub difference: f64,
    /// As [`Paired::interval`].
    pub interval: [f64; 2],
    /// The baseline was right, the variant is wrong.
    pub right_to_wrong: usize,
    /// The baseline was wrong, the variant is right.
    pub wrong_to_right: usize,
    /// Exact McNemar test on this group alone.
    pub mcnemar_p: f64,
    /// The same by Holm's procedure over all categories, or over all subjects.
    pub holm_p: f64,
}

impl Paired {
    /// Compares the answers to the same questions in the same order; `None` for no questions.
    ///
    /// # Panics
    /// If there are more answers of one than of the other.
    pub fn of(baseline: &[Answer<'_>], variant: &[Answer<'_>]) -> Option<Self> {
        assert_eq!(baseline.len(), variant.len(), "answers to the same questions");
        let pairs: Vec<Pair<'_>> = baseline.iter().zip(variant).map(|(b, v)| (*b, *v)).collect();
        if pairs.is_empty() {
            return None;
        }
        let n = pairs.len() as f64;
        let mean = |of: fn(&Pair<'_>) -> f64| pairs.iter().map(of).sum::<f64>() / n;
        let flips = Flips::of(&pairs);
        let same = pairs.iter().filter(|(b, v)| b.prediction == v.prediction).count();
        let right = |of: fn(&Pair<'_>) -> bool| pairs.iter().filter(|pair| of(pair)).count();
        let (before, after) = (right(|(b, _)| b.correct()), right(|(_, v)| v.correct()));
        let wrong_to_other_wrong = pairs
            .iter()
            .filter(|(b, v)| Change::between(b, v) == Change::WrongToOtherWrong)
            .count();
        Some(Self {
            questions: pairs.len(),
            difference: flips.difference(),
            standard_error: flips.standard_error(),
            interval: flips.interval(),
            unpaired_standard_error: unpaired_standard_error(before, after, pairs.len()),
            unpaired_interval: intervals::independent_difference(before, after, pairs.len()),
            mcnemar_p: flips.mcnemar_p(),
            right_to_wrong: flips.lost,
            wrong_to_right: flips.won,
            wrong_to_other_wrong,
            agreement: same as f64 / n,
            answer_probability_change: mean(|(b, v)| {
                (v.probability_of_answer() - b.probability_of_answer()).abs()
            }),
            choice_divergence: mean(|(b, v)| {
                choices::divergence(
                    &choices::normalized(b.log_probabilities),
                    &choices::normalized(v.log_probabilities),
                )
            }),
            questions_for_one_point: tests_of_change::questions_needed(
                ONE_POINT,
                (flips.lost + flips.won) as f64 / n,
            ),
            categories: by_category(&pairs),
            subjects: by_subject(&pairs),
        })
    }

    /// Whether the exact McNemar test tells the difference from chance.
    pub fn distinguishable(&self) -> bool {
        self.mcnemar_p < SIGNIFICANCE
    }

    /// Questions that both were right or both were wrong on, and yet answered differently, and
    /// those whose outcome flipped.
    pub fn changed(&self) -> usize {
        self.right_to_wrong + self.wrong_to_right + self.wrong_to_other_wrong
    }
}

/// The answers of the baseline and of the variant to one question.
type Pair<'a> = (Answer<'a>, Answer<'a>);

/// How many outcomes flipped, of how many.
#[derive(Debug, Clone, Copy)]
struct Flips {
    lost: usize,
    won: usize,
    questions: usize,
}

impl Flips {
    fn of<'p, 'a: 'p>(pairs: impl IntoIterator<Item = &'p Pair<'a>>) -> Self {
        let mut flips = Self { lost: 0, won: 0, questions: 0 };
        for (baseline, variant) in pairs {
            flips.questions += 1;
            flips.lost += usize::from(baseline.correct() && !variant.correct());
            flips.won += usize::from(!baseline.correct() && variant.correct());
        }
        flips
    }

    fn difference(self) -> f64 {
        (self.won as f64 - self.lost as f64) / self.questions as f64
    }

    /// That of a mean of paired differences, which are −1, 0 or 1.
    fn standard_error(self) -> Option<f64> {
        let n = self.questions as f64;
        let variance = (self.won + self.lost) as f64 / n - self.difference().powi(2);
        (self.questions > 1).then(|| (variance.max(0.0) / (n - 1.0)).sqrt())
    }

    fn interval(self) -> [f64; 2] {
        intervals::paired_difference(self.lost, self.won, self.questions)
    }

    fn mcnemar_p(self) -> f64 {
        tests_of_change::mcnemar(self.lost, self.won)
    }
}

fn unpaired_standard_error(before: usize, after: usize, questions: usize) -> Option<f64> {
    let n = questions as f64;
    let variance = |correct: usize| {
        let p = correct as f64 / n;
        p * (1.0 - p) / (n - 1.0)
    };
    (questions > 1).then(|| (variance(before) + variance(after)).sqrt())
}

fn by_category(pairs: &[Pair<'_>]) -> Vec<GroupDifference> {
    let of = |category| {
        let belongs = move |pair: &&Pair<'_>| Category::of(pair.0.subject) == Some(category);
        (category.name().to_string(), Flips::of(pairs.iter().filter(belongs)))
    };
    with_holm(Category::ALL.into_iter().map(of).filter(|(_, flips)| flips.questions > 0).collect())
}

fn by_subject(pairs: &[Pair<'_>]) -> Vec<GroupDifference> {
    let mut subjects: Vec<&str> = pairs.iter().map(|(baseline, _)| baseline.subject).collect();
    subjects.sort_unstable();
    subjects.dedup();
    let of = |subject: &str| {
        let flips = Flips::of(pairs.iter().filter(|(baseline, _)| baseline.subject == subject));
        (subject.to_string(), flips)
    };
    with_holm(subjects.into_iter().map(of).collect())
}

fn with_holm(groups: Vec<(String, Flips)>) -> Vec<GroupDifference> {
    let p_values: Vec<f64> = groups.iter().map(|(_, flips)| flips.mcnemar_p()).collect();
    let adjusted = tests_of_change::holm(&p_values);
    groups
        .into_iter()
        .zip(adjusted)
        .map(|((name, flips), holm_p)| GroupDifference {
            name,
            questions: flips.questions,
            difference: flips.difference(),
            interval: flips.interval(),
            right_to_wrong: flips.lost,
            wrong_to_right: flips.won,
            mcnemar_p: flips.mcnemar_p(),
            holm_p,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64, tolerance: f64) {
        assert!((found - expected).abs() < tolerance, "{found} is not {expected}");
    }

    const EVEN: [f64; 4] = [-1.0; 4];

    fn answer(prediction: usize, answer: usize) -> Answer<'static> {
        Answer { subject: "astronomy", answer, prediction, log_probabilities: &EVEN }
    }

    #[test]
    fn pairs_are_compared_question_by_question() {
        // Right answers 0; the baseline errs on the last two.
        let baseline = [0, 0, 0, 0, 0, 0, 0, 0, 1, 2].map(|p| answer(p, 0));
        let variant = [0, 0, 0, 0, 0, 1, 2, 3, 0, 3].map(|p| answer(p, 0));
        let paired = Paired::of(&baseline, &variant).unwrap();
        assert_eq!((paired.right_to_wrong, paired.wrong_to_right), (3, 1));
        assert_eq!((paired.wrong_to_other_wrong, paired.changed()), (1, 5));
        near(paired.difference, -0.2, 1e-12);
        near(paired.agreement, 0.5, 1e-12);
        // Sample variance of three −1, one 1 and six 0: (0.4 − 0.04) · 10/9; over 10, the root.
        near(paired.standard_error.unwrap(), (0.36f64 / 9.0).sqrt(), 1e-12);
        near(paired.mcnemar_p, 0.625, 1e-12);
        assert!(!paired.distinguishable());
        // Bonett-Price: p12 = 4/12, p21 = 2/12.
        let half = 1.959_963_984_540_054 * ((0.5 - 1.0 / 36.0) / 12.0f64).sqrt();
        near(paired.interval[0], -1.0 / 6.0 - half, 1e-12);
        near(paired.interval[1], -1.0 / 6.0 + half, 1e-12);
        // 8 of 10 and 6 of 10, independently.
        near(paired.unpaired_standard_error.unwrap(), ((0.16 + 0.24) / 9.0f64).sqrt(), 1e-12);
        assert_eq!(paired.unpaired_interval, intervals::independent_difference(8, 6, 10));
    }

    #[test]
    fn equal_answers_have_no_difference_but_still_an_interval() {
        let answers = [answer(1, 1); 50];
        let paired = Paired::of(&answers, &answers).unwrap();
        let figures = (paired.difference, paired.standard_error, paired.mcnemar_p);
        assert_eq!(figures, (0.0, Some(0.0), 1.0));
        let one = Paired::of(&answers[..1], &answers[..1]).unwrap();
        assert_eq!((one.standard_error, one.unpaired_standard_error), (None, None));
        assert_eq!((paired.choice_divergence, paired.answer_probability_change), (0.0, 0.0));
        assert!(paired.interval[0] < 0.0 && paired.interval[1] > 0.0);
        assert_eq!(Paired::of(&[], &[]), None);
    }

    #[test]
    fn probabilities_move_even_where_no_answer_does() {
        let with = |log_probabilities| Answer { log_probabilities, ..answer(0, 0) };
        // 3/4 and 1/4, then 1/2 and 1/2.
        let before = [(0.75f64).ln() - 3.0, (0.25f64).ln() - 3.0];
        let paired = Paired::of(&[with(&before)], &[with(&[-2.0, -2.0])]).unwrap();
        near(paired.answer_probability_change, 0.25, 1e-12);
        near(paired.choice_divergence, 0.75 * 1.5f64.ln() + 0.25 * 0.5f64.ln(), 1e-12);
        assert_eq!(paired.agreement, 1.0);
    }

    #[test]
    fn groups_are_corrected_for_their_number() {
        let in_subject = |subject, lost: usize| {
            (0..20).map(move |index| {
                let before = Answer { subject, ..answer(0, 0) };
                let wrong = usize::from(index < lost);
                (before, Answer { prediction: wrong, ..before })
            })
        };
        let pairs: Vec<Pair<'_>> = in_subject("astronomy", 6)
            .chain(in_subject("philosophy", 0))
            .chain(in_subject("anatomy", 1))
            .chain(in_subject("knitting", 0))
            .collect();
        let (baseline, variant): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
        let paired = Paired::of(&baseline, &variant).unwrap();
        let names: Vec<&str> = paired.subjects.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(names, ["anatomy", "astronomy", "knitting", "philosophy"]);
        near(paired.subjects[1].mcnemar_p, 2.0 / 64.0, 1e-12);
        near(paired.subjects[1].holm_p, 8.0 / 64.0, 1e-12);
        let categories: Vec<(&str, usize)> =
            paired.categories.iter().map(|g| (g.name.as_str(), g.questions)).collect();
        assert_eq!(categories, [("STEM", 40), ("humanities", 20)]);
        near(paired.categories[0].holm_p, 2.0 * 2.0 / 128.0, 1e-12);
    }
}
