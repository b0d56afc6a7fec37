//! What a run has found: the content of `summary.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::plan::Shard;
use super::question_results::QuestionResult;
use crate::engine::Build;
use crate::eval::asking::Protocol;
use crate::eval::statistics::Score;

/// A question that the model could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unscored {
    /// Row in the test split.
    pub row: usize,
    /// Its subject.
    pub subject: String,
    /// Why.
    pub reason: String,
}

/// The result of scoring one model on one set: the content of `summary.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvalSummary {
    /// Version of this record's fields.
    pub schema_version: u32,
    /// Version of quantkit.
    pub quantkit_version: String,
    /// The build that ran.
    pub build: Build,
    /// The model's path as given.
    pub model: String,
    /// SHA-256 of the model file; empty for a model that a server runs.
    pub model_sha256: String,
    /// The address of the server that ran the model.
    pub endpoint: Option<String>,
    /// The set's path as given.
    pub set: String,
    /// SHA-256 over the set's files.
    pub set_sha256: String,
    /// How it was asked.
    pub protocol: Protocol,
    /// Shots before each question.
    pub shots: usize,
    /// `--limit`: at most this many questions of each subject.
    pub limit: Option<usize>,
    /// `--limit-seeded`.
    pub limit_seeded: Option<usize>,
    /// `--every`.
    pub every: usize,
    /// `--subjects`.
    pub subjects: Vec<String>,
    /// `--shard`: which part of the questions this is.
    pub shard: Option<Shard>,
    /// Which of the set's questions these are, in words.
    pub selection: String,
    /// Where it ran: `cpu` or `cuda:N`.
    pub device: String,
    /// Elements of the key-value cache: `i16`, `i8` or `f16`.
    pub kv_type: String,
    /// Bits that activations are rounded to in products with quantized weights: 8 or 16; absent for
    /// a server, which does not say.
    pub activations: Option<u8>,
    /// Over all questions.
    pub overall: Score,
    /// Over MMLU's four categories (those present).
    pub categories: Vec<Score>,
    /// Over each subject, in alphabetical order.
    pub subject_scores: Vec<Score>,
    /// Over all questions by other measures that the protocol has, by their names in
    /// lm-evaluation-harness; empty for most protocols.
    pub other_scores: Vec<Score>,
    /// Questions that the model could not be asked; no score counts them.
    pub unscored: Vec<Unscored>,
    /// Questions that lost their left end to fit the model's context; `dropped_tokens` of
    /// `questions.parquet` says which and by how much.
    #[serde(default)]
    pub shortened: usize,
    /// Tokens that went through the model. What an interruption or another shard made necessary a
    /// second time is not counted again.
    pub tokens_run: u64,
    /// Tokens that a scorer without prefix sharing would have run.
    pub tokens_naive: u64,
    /// Wall time of the scoring, loading excluded.
    pub seconds: f64,
    /// Questions a second.
    pub questions_per_second: f64,
    /// Tokens run a second.
    pub tokens_per_second: f64,
}

impl EvalSummary {
    /// Whether this can be the summary of these results: as many questions and right answers, over all
    /// and in each subject.
    pub(super) fn is_of(&self, results: &[QuestionResult]) -> bool {
        let mut found: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for result in results {
            let (questions, correct) = found.entry(&result.subject).or_default();
            *questions += 1;
            *correct += usize::from(result.answer().correct());
        }
        let told: BTreeMap<&str, (usize, usize)> = self
            .subject_scores
            .iter()
            .map(|score| (score.name.as_str(), (score.questions, score.correct)))
            .collect();
        let correct: usize = found.values().map(|(_, correct)| correct).sum();
        (self.overall.questions, self.overall.correct) == (results.len(), correct) && found == told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::run::assemble::{Totals, assemble};
    use crate::eval::run::question_results::tests::result;
    use crate::eval::run::record::tests::settings;

    #[test]
    fn results_are_those_of_their_summary_only() {
        let results = vec![result(0, "anatomy", 1), result(14, "astronomy", 2)];
        let all = assemble(settings(), vec![], results.clone(), vec![], Totals::default());
        let mut summary = all.summary;
        assert!(summary.is_of(&results));
        assert!(!summary.is_of(&results[..1]), "a question less");
        let named = |name: &str, score: &Score| Score { name: name.to_string(), ..score.clone() };
        let [anatomy, astronomy] = [0, 1].map(|index| &summary.subject_scores[index]);
        let swapped = vec![named("astronomy", anatomy), named("anatomy", astronomy)];
        summary.subject_scores = swapped;
        assert!(!summary.is_of(&results), "other subjects were right");
    }
}
