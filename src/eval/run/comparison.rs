//! What two runs of the same questions say of each other: the content of `comparison.json`.

use serde::{Deserialize, Serialize};

use super::question_results::QuestionResult;
use crate::eval::statistics::Score;
use crate::eval::statistics::paired::{Change, Paired};
use crate::eval::statistics::reliability::Reliability;

/// Two runs compared question by question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunComparison {
    /// Version of the records' fields.
    pub schema_version: u32,
    /// Version of quantkit.
    pub quantkit_version: String,
    /// The run that the other is compared with.
    pub baseline: ComparedRun,
    /// The run that is compared.
    pub run: ComparedRun,
    /// What the run loses or gains, in a plain sentence.
    pub verdict: String,
    /// The statistics of the questions that both have scored.
    pub paired: Paired,
    /// Rows of the questions that only one of the two could be asked; no figure counts them.
    pub left_out: Vec<usize>,
    /// The questions that the two answered differently, by row.
    pub changed: Vec<ChangedAnswer>,
}

/// One of the two runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparedRun {
    /// What it is called in tables and sentences.
    pub name: String,
    /// Its directory as given.
    pub directory: String,
    /// The model's path as given, or its name at a server.
    pub model: String,
    /// SHA-256 of the model file; empty for a model that a server runs.
    pub model_sha256: String,
    /// Its score over all its questions.
    pub overall: Score,
    /// Whether it is right as often as it is sure; absent without questions.
    pub reliability: Option<Reliability>,
}

/// A question that two models answered differently.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangedAnswer {
    /// Row in the set's test split.
    pub row: usize,
    /// The set's own name for the question, where it has one.
    pub id: Option<String>,
    /// Its subject.
    pub subject: String,
    /// What became of the answer.
    pub change: Change,
    /// The right choice.
    pub answer: usize,
    /// The choices of the baseline and of the run.
    pub predictions: [usize; 2],
    /// The probability of each choice, of 1 over all choices, in the baseline and in the run.
    pub probabilities: [Vec<f64>; 2],
}

impl ChangedAnswer {
    /// `None` where both made the same choice.
    pub(super) fn between(before: &QuestionResult, after: &QuestionResult) -> Option<Self> {
        let (old, new) = (before.answer(), after.answer());
        let change = Change::between(&old, &new);
        (change != Change::None).then(|| Self {
            row: before.row,
            id: before.id.clone(),
            subject: before.subject.clone(),
            change,
            answer: before.answer,
            predictions: [before.prediction, after.prediction],
            probabilities: [old.probabilities(), new.probabilities()],
        })
    }
}
