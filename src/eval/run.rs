//! One evaluation from end to end: choose the questions, ask them, score, write.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use super::asking::groups;
use super::candidates::Candidates;
use super::question_set::{Question, QuestionSet};
use super::results::{self, QuestionResult};
use super::scoring::Scorer;
use super::statistics::first_largest;
use super::subjects::nearest;
use super::{EvalError, EvalOptions, EvalSummary, Protocol};
use crate::engine::Build;
use crate::engine::Engine;
use crate::gguf;
use crate::support::atomic_file::check_writable;
use crate::support::interrupt;
use crate::support::progress::{Progress, Unit};

/// Version of [`EvalSummary`]'s fields.
pub const SCHEMA_VERSION: u32 = 1;

/// See [`super::evaluate`].
pub(super) fn evaluate(options: &EvalOptions) -> Result<EvalSummary, EvalError> {
    let set = QuestionSet::find(&options.set)?;
    let questions = select(set.test_questions()?, options)?;
    let groups = groups(questions, &set, options.protocol, shots(options))?;
    let set_sha256 = set.sha256()?;
    let output = options.output.join("summary.json");
    check_writable(&output)
        .map_err(|source| EvalError::Io { path: output.display().to_string(), source })?;
    let model_sha256 = gguf::identify(&options.model)
        .map_err(|source| EvalError::Io { path: options.model.display().to_string(), source })?
        .sha256;
    let engine = Engine::load(&options.model, options.engine)?;

    let started = Instant::now();
    let mut scorer = Scorer::new(engine);
    let total: usize = groups.iter().map(|group| group.questions.len()).sum();
    tracing::info!(
        "{}: {total} questions in {} groups, {} shots",
        options.set.display(),
        groups.len(),
        shots(options)
    );
    let progress = Progress::new("Scoring", total as u64, Unit::Items("questions"));
    let (mut results, mut tokens_naive) = (Vec::with_capacity(total), 0);
    for group in &groups {
        interrupt::check()?;
        let engine = scorer.model();
        let prepared =
            group.candidates(&group.questions, engine.vocabulary(), engine.context_length())?;
        let candidates = prepared
            .into_iter()
            .zip(&group.questions)
            .map(|(candidates, question)| {
                candidates
                    .map_err(|error| EvalError::Unusable(format!("row {}: {error}", question.row)))
            })
            .collect::<Result<Vec<_>, _>>()?;
        tokens_naive += candidates.iter().map(Candidates::naive_tokens).sum::<u64>();
        let sums = scorer.score(&candidates, |done| {
            progress.advance(done as u64);
            interrupt::check().map_err(EvalError::from)
        })?;
        for ((question, candidates), sums) in group.questions.iter().zip(&candidates).zip(sums) {
            results.push(to_result(question, candidates, sums, options.protocol)?);
        }
    }
    progress.finish();
    let seconds = started.elapsed().as_secs_f64();
    results.sort_by_key(|result| result.row);
    warn_of_cut_questions(&results);

    let (overall, categories, subject_scores) = results::scores(&results, options.protocol);
    let tokens_run = scorer.tokens_run();
    let summary = EvalSummary {
        schema_version: SCHEMA_VERSION,
        quantkit_version: env!("CARGO_PKG_VERSION").to_string(),
        build: Build::current(),
        model: options.model.display().to_string(),
        model_sha256,
        set: options.set.display().to_string(),
        set_sha256,
        protocol: options.protocol,
        shots: shots(options),
        limit: options.limit,
        every: options.every,
        subjects: options.subjects.clone(),
        device: options.engine.device.to_string(),
        kv_type: options.engine.kv_type_name().to_string(),
        overall,
        categories,
        subject_scores,
        tokens_run,
        tokens_naive,
        seconds,
        questions_per_second: total as f64 / seconds,
        tokens_per_second: tokens_run as f64 / seconds,
    };
    results::write(&options.output, &results, &summary)?;
    Ok(summary)
}

/// The shots that a run uses: the cloze protocol has none.
fn shots(options: &EvalOptions) -> usize {
    match options.protocol {
        Protocol::Letter => options.shots,
        Protocol::Cloze => 0,
    }
}

/// Every K-th row, of these the wanted subjects, of these the first so many.
fn select(questions: Vec<Question>, options: &EvalOptions) -> Result<Vec<Question>, EvalError> {
    if options.every == 0 {
        return Err(EvalError::Unusable("--every must be at least 1".to_string()));
    }
    let known: BTreeSet<&str> = questions.iter().map(|q| q.subject.as_str()).collect();
    for wanted in &options.subjects {
        if !known.contains(wanted.as_str()) {
            return Err(unknown_subject(wanted, &options.set, &known));
        }
    }
    let selected: Vec<Question> = questions
        .into_iter()
        .step_by(options.every)
        .filter(|q| options.subjects.is_empty() || options.subjects.contains(&q.subject))
        .take(options.limit.unwrap_or(usize::MAX))
        .collect();
    if selected.is_empty() {
        return Err(EvalError::Unusable(format!(
            "{}: no question is left to score: lower --every, raise --limit or name other subjects",
            options.set.display()
        )));
    }
    Ok(selected)
}

fn unknown_subject(wanted: &str, set: &Path, known: &BTreeSet<&str>) -> EvalError {
    let near = nearest(wanted, known.iter().copied());
    let hint = if near.is_empty() {
        "it has none".to_string()
    } else {
        format!("did you mean {}?", near.join(", "))
    };
    EvalError::Unusable(format!("{}: no subject is called {wanted:?}; {hint}", set.display()))
}

fn to_result(
    question: &Question,
    candidates: &Candidates,
    sums: Vec<f64>,
    protocol: Protocol,
) -> Result<QuestionResult, EvalError> {
    if sums.iter().any(|sum| sum.is_nan()) {
        return Err(EvalError::Unusable(format!(
            "row {}: the model's logits are not numbers; the model file may be damaged",
            question.row
        )));
    }
    let choice_tokens: Vec<usize> = candidates.choices().iter().map(Vec::len).collect();
    let log_probabilities = match protocol {
        Protocol::Letter => sums,
        Protocol::Cloze => {
            sums.iter().zip(&choice_tokens).map(|(sum, &tokens)| sum / tokens as f64).collect()
        }
    };
    Ok(QuestionResult {
        row: question.row,
        subject: question.subject.clone(),
        prediction: first_largest(&log_probabilities),
        log_probabilities,
        answer: question.answer,
        context_tokens: candidates.context().len(),
        choice_tokens,
        dropped_tokens: candidates.dropped(),
    })
}

fn warn_of_cut_questions(results: &[QuestionResult]) {
    let cut = results.iter().filter(|result| result.dropped_tokens > 0).count();
    if cut > 0 {
        tracing::warn!(
            "{cut} questions were longer than the model's context and lost their left end \
             (dropped_tokens in questions.parquet); fewer --shots would help"
        );
    }
}
