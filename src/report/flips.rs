//! The questions that a variant answered otherwise than the baseline, for the page's list.

use std::collections::HashMap;

use minijinja::{Value, context};

use super::Measured;
use super::words;
use crate::eval::questions::Question;
use crate::eval::run::question_results::{QuestionResult, in_both};
use crate::eval::statistics::paired::Change;
use crate::support::units;

/// At most this many rows go into a page: some 20 MB.
const MOST_ROWS: usize = 20_000;

/// What the list is made of.
#[derive(Debug, Clone, Default)]
pub(super) struct Flips {
    rows: Vec<Row>,
    /// How many there are in all.
    total: usize,
    /// The variants' short labels.
    labels: Vec<String>,
}

/// One question that one variant answered otherwise than the baseline.
#[derive(Debug, Clone)]
struct Row {
    /// Index of the variant among all.
    variant: usize,
    change: Change,
    /// Row in the set.
    question: usize,
    subject: String,
    /// The question's own words, where the set still has it.
    text: Option<String>,
    choices: Vec<Choice>,
    /// The change of the right choice's probability.
    shift: f64,
}

#[derive(Debug, Clone)]
struct Choice {
    text: String,
    /// Probability among the choices, of the baseline and of the variant.
    probabilities: [f64; 2],
    right: bool,
    /// Whether the baseline and the variant made it.
    made: [bool; 2],
}

impl Flips {
    /// Collects all changed answers, those whose right choice's probability moved most first.
    /// `questions` has the words; a row that it lacks goes without.
    pub fn of(measured: &[Measured], baseline: usize, questions: &[Question]) -> Self {
        let by_row: HashMap<usize, &Question> =
            questions.iter().map(|question| (question.row, question)).collect();
        let mut rows = Vec::new();
        for (variant, one) in measured.iter().enumerate().filter(|(index, _)| *index != baseline) {
            for (before, after) in in_both(&measured[baseline].questions, &one.questions) {
                let change = Change::between(&before.answer(), &after.answer());
                if change != Change::None {
                    let words = by_row.get(&before.row).copied();
                    rows.push(Row::of(variant, change, before, after, words));
                }
            }
        }
        rows.sort_by(|a, b| b.shift.abs().total_cmp(&a.shift.abs()));
        let total = rows.len();
        rows.truncate(MOST_ROWS);
        let variants: Vec<_> = measured.iter().map(|one| one.variant.clone()).collect();
        Self { rows, total, labels: words::short_labels(&variants) }
    }

    /// What the page's template takes; nothing where nothing changed.
    pub fn context(&self) -> Value {
        if self.rows.is_empty() {
            return Value::UNDEFINED;
        }
        let mut subjects: Vec<String> = self.rows.iter().map(|row| row.subject.clone()).collect();
        subjects.sort_unstable();
        subjects.dedup();
        let mut variants: Vec<usize> = self.rows.iter().map(|row| row.variant).collect();
        variants.sort_unstable();
        variants.dedup();
        let labels: Vec<String> =
            variants.iter().map(|&index| self.labels[index].clone()).collect();
        let rows: Vec<Value> = self.rows.iter().map(|row| row.context(&self.labels)).collect();
        context! {
            rows,
            subjects,
            variants => labels,
            total => units::count(self.total as u64),
            shown => units::count(self.rows.len() as u64),
            all => self.total == self.rows.len(),
        }
    }
}

impl Row {
    fn of(
        variant: usize,
        change: Change,
        before: &QuestionResult,
        after: &QuestionResult,
        words: Option<&Question>,
    ) -> Self {
        let (before, after) = (before, after.answer());
        let question = before.row;
        let before = before.answer();
        let (p, q) = (before.probabilities(), after.probabilities());
        let choice = |index: usize| Choice {
            text: words.and_then(|words| words.choices.get(index)).cloned().unwrap_or_default(),
            probabilities: [p[index], q.get(index).copied().unwrap_or(0.0)],
            right: index == before.answer,
            made: [index == before.prediction, index == after.prediction],
        };
        Self {
            variant,
            change,
            question,
            subject: before.subject.replace('_', " "),
            text: words.map(|words| words.question.clone()),
            choices: (0..p.len()).map(choice).collect(),
            shift: after.probability_of_answer() - before.probability_of_answer(),
        }
    }

    fn context(&self, labels: &[String]) -> Value {
        let percent = |p: f64| format!("{:.1}", p * 100.0);
        let choices: Vec<Value> = ('A'..='Z')
            .zip(&self.choices)
            .map(|(letter, choice)| {
                context! {
                    letter => letter.to_string(),
                    text => choice.text.as_str(),
                    before => percent(choice.probabilities[0]),
                    after => percent(choice.probabilities[1]),
                    right => choice.right,
                    made_before => choice.made[0],
                    made_after => choice.made[1],
                }
            })
            .collect();
        context! {
            variant => labels[self.variant].as_str(),
            change => match self.change {
                Change::None => "same",
                Change::RightToWrong => "right → wrong",
                Change::WrongToRight => "wrong → right",
                Change::WrongToOtherWrong => "wrong → other wrong",
            },
            question => self.question,
            subject => self.subject.as_str(),
            text => self.text.as_deref(),
            shift => format!("{:+.1}", self.shift * 100.0).replace('-', "−"),
            choices,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::fixtures;

    fn measured(label: &str, predictions: [usize; 4]) -> Measured {
        let questions = predictions.iter().enumerate().map(|(row, &prediction)| {
            let mut log_probabilities = vec![-3.0; 4];
            log_probabilities[prediction] = -1.0 + row as f64 / 10.0;
            QuestionResult { log_probabilities, ..fixtures::result(row * 7, prediction) }
        });
        Measured { variant: fixtures::variant(label, 2, 1.0), questions: questions.collect() }
    }

    #[test]
    fn every_changed_answer_is_listed_and_the_others_are_not() {
        let all = [measured("m.F16", [1, 1, 0, 2]), measured("m.Q4_0", [1, 0, 1, 3])];
        let flips = Flips::of(&all, 0, &[]);
        let mut found: Vec<(usize, Change)> =
            flips.rows.iter().map(|row| (row.question, row.change)).collect();
        found.sort_by_key(|(row, _)| *row);
        let expected = [
            (7, Change::RightToWrong),
            (14, Change::WrongToRight),
            (21, Change::WrongToOtherWrong),
        ];
        assert_eq!(found, expected);
        let shifts: Vec<f64> = flips.rows.iter().map(|row| row.shift.abs()).collect();
        assert!(shifts.is_sorted_by(|a, b| a >= b), "{shifts:?}");
        assert_eq!(flips.total, 3);
        assert!(Flips::of(&all[..1], 0, &[]).context().is_undefined());
    }
}
