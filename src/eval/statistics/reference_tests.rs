//! Every statistic against the values of scipy, statsmodels and lm-evaluation-harness in
//! `tests/data/statistics.json`, which `scripts/statistics_reference.py` makes.

use serde::Deserialize;

use super::{Outcome, Score, choices, intervals, reliability::Reliability, tests_of_change};
use crate::eval::statistics::paired::{Answer, Paired};

#[derive(Deserialize)]
struct Reference {
    wilson: Vec<Wilson>,
    independent: Vec<Independent>,
    mcnemar: Vec<McNemar>,
    paired: Vec<PairedCase>,
    holm: Vec<Holm>,
    questions_needed: Vec<QuestionsNeeded>,
    pooled: Vec<Pooled>,
    choices: Vec<Choices>,
    reliability: Vec<ReliabilityCase>,
}

#[derive(Deserialize)]
struct Wilson {
    correct: usize,
    questions: usize,
    interval: [f64; 2],
}

#[derive(Deserialize)]
struct Independent {
    first: usize,
    second: usize,
    questions: usize,
    interval: [f64; 2],
}

#[derive(Deserialize)]
struct McNemar {
    lost: usize,
    won: usize,
    p: f64,
}

#[derive(Deserialize)]
struct PairedCase {
    lost: usize,
    won: usize,
    questions: usize,
    difference: f64,
    standard_error: f64,
    interval: [f64; 2],
}

#[derive(Deserialize)]
struct Holm {
    p: Vec<f64>,
    adjusted: Vec<f64>,
}

#[derive(Deserialize)]
struct QuestionsNeeded {
    difference: f64,
    flipped: f64,
    questions: u64,
}

#[derive(Deserialize)]
struct Pooled {
    groups: Vec<(usize, usize)>,
    standard_errors: Vec<f64>,
    accuracy: f64,
    standard_error: f64,
}

#[derive(Deserialize)]
struct Choices {
    base: Vec<f64>,
    variant: Vec<f64>,
    probabilities: Vec<f64>,
    divergence: f64,
}

#[derive(Deserialize)]
struct ReliabilityCase {
    confidences: Vec<f64>,
    correct: Vec<bool>,
    expected_calibration_error: f64,
    overconfidence: f64,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("../../../tests/data/statistics.json")).unwrap()
}

fn near(found: f64, expected: f64) {
    let error = (found - expected).abs();
    assert!(error <= 1e-9 * expected.abs().max(1e-3), "{found} is not {expected}");
}

fn near_both(found: [f64; 2], expected: [f64; 2]) {
    near(found[0], expected[0]);
    near(found[1], expected[1]);
}

#[test]
fn intervals_are_those_of_statsmodels() {
    for case in reference().wilson {
        near_both(intervals::wilson(case.correct, case.questions), case.interval);
    }
    for case in reference().independent {
        let found = intervals::independent_difference(case.first, case.second, case.questions);
        near_both(found, case.interval);
    }
}

#[test]
fn tests_are_those_of_statsmodels() {
    for case in reference().mcnemar {
        near(tests_of_change::mcnemar(case.lost, case.won), case.p);
    }
    for case in reference().holm {
        let found = tests_of_change::holm(&case.p);
        assert_eq!(found.len(), case.adjusted.len());
        found.into_iter().zip(case.adjusted).for_each(|(found, expected)| near(found, expected));
    }
}

#[test]
fn paired_differences_are_those_of_scipy() {
    for case in reference().paired {
        let answer = |right: bool| Answer {
            subject: "astronomy",
            answer: 0,
            prediction: usize::from(!right),
            log_probabilities: &[-1.0, -1.0],
        };
        let lost = |index| index < case.lost;
        let won = |index| (case.lost..case.lost + case.won).contains(&index);
        let baseline: Vec<_> = (0..case.questions).map(|i| answer(!won(i))).collect();
        let variant: Vec<_> = (0..case.questions).map(|i| answer(!lost(i))).collect();
        let found = Paired::of(&baseline, &variant).unwrap();
        near(found.difference, case.difference);
        near(found.standard_error.unwrap(), case.standard_error);
        near_both(found.interval, case.interval);
    }
}

#[test]
fn questions_needed_are_where_the_power_is_reached() {
    for case in reference().questions_needed {
        let found = tests_of_change::questions_needed(case.difference, case.flipped);
        assert_eq!(found, case.questions);
    }
}

#[test]
fn group_scores_are_those_of_the_harness() {
    for case in reference().pooled {
        let groups: Vec<Score> = case
            .groups
            .iter()
            .map(|&(right, questions)| {
                let outcome = |index| Outcome { correct: index < right, choices: 4 };
                Score::of("group", (0..questions).map(outcome))
            })
            .collect();
        for (group, &expected) in groups.iter().zip(&case.standard_errors) {
            near(group.standard_error.unwrap_or(0.0), expected);
        }
        let pooled = Score::pooled("all", &groups);
        near(pooled.accuracy, case.accuracy);
        near(pooled.standard_error.unwrap_or(0.0), case.standard_error);
        assert_eq!(pooled.chance, 0.25);
    }
}

#[test]
fn probabilities_of_choices_are_those_of_scipy() {
    for case in reference().choices {
        let (base, variant) = (choices::normalized(&case.base), choices::normalized(&case.variant));
        for (log, expected) in base.iter().zip(case.probabilities) {
            near(log.exp(), expected);
        }
        near(choices::divergence(&base, &variant), case.divergence);
    }
}

#[test]
fn calibration_errors_are_those_of_numpy() {
    for case in reference().reliability {
        let answers = case.confidences.into_iter().zip(case.correct);
        let found = Reliability::of(answers).unwrap();
        near(found.expected_calibration_error, case.expected_calibration_error);
        near(found.overconfidence, case.overconfidence);
    }
}
