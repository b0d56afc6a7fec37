//! The records of a finished run, from the results of its questions.

use std::collections::BTreeSet;

use super::journal::Entry;
use super::question_results::QuestionResult;
use super::record::{self, Part, RunRecord, SCHEMA_VERSION, Settings};
use super::results::Results;
use super::scores::{other_scores, scores};
use super::selection::{self, SEED};
use super::summary::{EvalSummary, Unscored};
use crate::engine::Build;

/// What a run took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Totals {
    pub tokens_run: u64,
    pub tokens_naive: u64,
    pub seconds: f64,
}

impl Totals {
    pub fn add(&mut self, entry: &Entry) {
        self.tokens_run += entry.tokens_run;
        self.tokens_naive += entry.tokens_naive;
        self.seconds += entry.seconds;
    }
}

/// The records of a finished run, from the results of its questions.
pub(super) fn assemble(
    settings: Settings,
    parts: Vec<Part>,
    mut questions: Vec<QuestionResult>,
    mut unscored: Vec<Unscored>,
    totals: Totals,
) -> Results {
    questions.sort_by_key(|question| question.row);
    unscored.sort_by_key(|question| question.row);
    let (overall, categories, subject_scores) = scores(&questions, settings.protocol);
    let rate = |count: f64| if totals.seconds > 0.0 { count / totals.seconds } else { 0.0 };
    let summary = EvalSummary {
        schema_version: SCHEMA_VERSION,
        quantkit_version: env!("CARGO_PKG_VERSION").to_string(),
        build: common_build(&parts),
        model: settings.model.clone(),
        model_sha256: settings.model_sha256.clone(),
        endpoint: settings.endpoint.clone(),
        set: settings.set.clone(),
        set_sha256: settings.set_sha256.clone(),
        protocol: settings.protocol,
        shots: settings.shots,
        limit: settings.limit,
        limit_seeded: settings.limit_seeded,
        every: settings.every,
        subjects: settings.subjects.clone(),
        shard: settings.shard,
        selection: selection::described(&settings),
        device: settings.device.clone(),
        kv_type: settings.kv_type.clone(),
        activations: settings.activations,
        overall,
        categories,
        subject_scores,
        other_scores: other_scores(&questions),
        unscored,
        shortened: questions.iter().filter(|question| question.dropped_tokens > 0).count(),
        tokens_run: totals.tokens_run,
        tokens_naive: totals.tokens_naive,
        seconds: totals.seconds,
        questions_per_second: rate(questions.len() as f64),
        tokens_per_second: rate(totals.tokens_run as f64),
    };
    let run = RunRecord {
        schema_version: SCHEMA_VERSION,
        quantkit_version: env!("CARGO_PKG_VERSION").to_string(),
        commit: record::commit(),
        seed: settings.limit_seeded.map(|_| SEED),
        selection: selection::described(&settings),
        settings,
        parts,
    };
    Results { run, questions, summary }
}

/// The build of all parts; where they differ, no executable's hash and the instruction sets of all.
fn common_build(parts: &[Part]) -> Build {
    let Some(first) = parts.first() else { return Build::current() };
    if parts.iter().all(|part| part.build == first.build) {
        return first.build.clone();
    }
    let sets: BTreeSet<&str> =
        parts.iter().map(|part| part.build.instruction_set.as_str()).collect();
    let instruction_set = sets.into_iter().collect::<Vec<_>>().join(" + ");
    Build { executable_sha256: None, instruction_set }
}
