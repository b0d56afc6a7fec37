//! The scores of a run, over all its questions and over groups of them.

use super::question_results::QuestionResult;
use crate::eval::asking::Protocol;
use crate::eval::questions::subjects::Category;
use crate::eval::scoring::OtherReadings;
use crate::eval::statistics::{Outcome, Score};

/// Overall score, scores of the categories that occur, scores of the subjects by name.
///
/// The standard errors of groups of subjects are those that the protocol's own tool reports:
/// lm-evaluation-harness pools those of the subjects, llama.cpp takes all questions as one sample.
pub(super) fn scores(
    results: &[QuestionResult],
    protocol: Protocol,
) -> (Score, Vec<Score>, Vec<Score>) {
    let mut names: Vec<&str> = results.iter().map(|result| result.subject.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let group = |name: &str, belongs: &dyn Fn(&str) -> bool| {
        let outcomes = results.iter().filter(|result| belongs(&result.subject));
        Score::of(name, outcomes.map(QuestionResult::outcome))
    };
    let subjects: Vec<Score> =
        names.into_iter().map(|name| group(name, &|subject| subject == name)).collect();
    let together = |name: &str, belongs: &dyn Fn(&str) -> bool| match protocol {
        Protocol::Letter | Protocol::Chat | Protocol::ClozeNormalized => {
            let groups: Vec<&Score> = subjects.iter().filter(|s| belongs(&s.name)).collect();
            Score::pooled(name, groups)
        }
        Protocol::Cloze => group(name, belongs),
    };
    let overall = together("all", &|_| true);
    let categories = Category::ALL
        .into_iter()
        .map(|category| {
            together(category.name(), &|subject| Category::of(subject) == Some(category))
        })
        .filter(|score| score.questions > 0)
        .collect();
    (overall, categories, subjects)
}

/// Scores by the other measures of a protocol, under their names in lm-evaluation-harness; none
/// where the protocol has none.
pub(super) fn other_scores(results: &[QuestionResult]) -> Vec<Score> {
    let score = |name: &str, prediction: fn(&OtherReadings) -> usize| {
        let outcomes = results.iter().filter_map(|result| {
            let correct = prediction(result.others.as_ref()?) == result.answer;
            Some(Outcome { correct, ..result.outcome() })
        });
        Score::of(name, outcomes)
    };
    let scores =
        [score("acc", |others| others.by_sum), score("acc_norm", |others| others.by_characters)];
    scores.into_iter().filter(|score| score.questions > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::run::question_results::tests::result;

    #[test]
    fn scores_are_grouped_by_category_and_subject() {
        let results = [
            result(0, "virology", 1),
            result(1, "astronomy", 0),
            result(2, "anatomy", 1),
            result(3, "knitting", 1),
        ];
        let (overall, categories, subjects) = scores(&results, Protocol::Cloze);
        assert_eq!((overall.questions, overall.correct), (4, 3));
        let named = |scores: &[Score]| -> Vec<(String, usize, usize)> {
            scores.iter().map(|s| (s.name.clone(), s.questions, s.correct)).collect()
        };
        assert_eq!(named(&categories), [("STEM".into(), 2, 1), ("other".into(), 1, 1)]);
        assert_eq!(
            named(&subjects),
            [
                ("anatomy".into(), 1, 1),
                ("astronomy".into(), 1, 0),
                ("knitting".into(), 1, 1),
                ("virology".into(), 1, 1)
            ]
        );
        assert!((overall.standard_error.unwrap() - 0.25).abs() < 1e-12);
        // A question a subject has no variance within subjects.
        let (pooled, ..) = scores(&results, Protocol::Letter);
        assert_eq!((pooled.questions, pooled.correct, pooled.standard_error), (4, 3, None));
    }
}
