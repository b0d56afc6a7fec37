//! An evaluation from end to end, of a model that runs here.

use std::path::{Path, PathBuf};

use super::earlier;
use super::options::EvalOptions;
use super::record::Settings;
use super::selected::Selected;
use super::session::{Evaluated, Session};
use crate::engine::{Engine, EngineError};
use crate::eval::EvalError;
use crate::eval::asking::{Candidates, Group};
use crate::eval::questions::Question;
use crate::eval::scoring::{Scored, Scorer, shared_prefix};
use crate::gguf::{self, GgufFile};
use crate::storage::{self, Output};
use crate::support::interrupt;
use crate::support::units;

/// Questions of a group that are looked at to find what its contexts begin with.
const PREFIX_SAMPLE: usize = 16;

/// Scores the model, writes `run.json`, `questions.parquet` and `summary.json` into the output
/// directory, and with a baseline `comparison.json`, and returns the last two. Results are kept in a
/// journal there as they come; a run that was stopped goes on from it, and one that is finished is
/// not scored again.
///
/// # Errors
/// A model, set, baseline or output that cannot be used, a journal or a finished run of other
/// settings, an interruption.
pub fn evaluate(options: &EvalOptions) -> Result<Evaluated, EvalError> {
    let selected = Selected::of(options)?;
    let baseline = selected.baseline(options)?;
    let output = Output::at(&options.output)?;
    Session::check_output(&output)?;
    let model = GgufFile::open(&local_model(&options.model)?).map_err(EngineError::from)?;
    let identity = gguf::identify(&model)?;
    let settings = Settings {
        model: options.model.display().to_string(),
        model_sha256: identity.sha256,
        device: options.engine.device.to_string(),
        kv_type: options.engine.kv_type_name().to_string(),
        activations: Some(options.engine.activations.bits()),
        ..selected.settings(options)
    };
    Session::check_journal(options, &output, &settings)?;
    if let Some(evaluated) = earlier::finished(options, &output, &settings, baseline.as_ref())? {
        output.close();
        return Ok(evaluated);
    }
    let engine = Engine::load_file(model, options.engine)?;
    let questions = selected.questions();
    let mut session = Session::open(options, output, settings, identity.inputs, questions)?;
    score(&selected, engine, options.cache_bytes, &mut session)?;
    session.finish(baseline.as_ref())
}

/// The model's file on this machine; all parts of a split one are fetched with it.
fn local_model(model: &Path) -> Result<PathBuf, EvalError> {
    if !storage::is_address(model) {
        return Ok(model.to_path_buf());
    }
    let parts = gguf::parts_by_name(model).unwrap_or_else(|| vec![model.to_path_buf()]);
    let given = parts.iter().position(|part| part == model).unwrap_or(0);
    Ok(storage::fetch_files(&parts)?.swap_remove(given))
}

/// Scores what the session does not have yet.
fn score(
    selected: &Selected,
    engine: Engine,
    cache_bytes: u64,
    session: &mut Session<'_>,
) -> Result<(), EvalError> {
    let bytes_per_token = engine.cache_bytes_per_token().max(1) as u64;
    let cache_tokens = usize::try_from(cache_bytes / bytes_per_token).unwrap_or(usize::MAX);
    let mut scorer = Scorer::new(engine, cache_tokens);
    let mut prefix: Option<(usize, Vec<u32>)> = None;
    for block in &selected.blocks {
        let group = &selected.groups[block.group];
        let questions = &group.questions[block.questions.clone()];
        if questions.iter().all(|question| session.is_done(question.row)) {
            continue;
        }
        interrupt::check()?;
        if prefix.as_ref().is_none_or(|(of, _)| *of != block.group) {
            prefix = Some((block.group, group_prefix(group, scorer.model())?));
        }
        let prefix = prefix.as_ref().map_or(&[][..], |(_, tokens)| tokens);
        let (questions, candidates) = candidates(group, questions, scorer.model(), session)?;
        for (question, candidates) in questions.iter().zip(&candidates) {
            check_budget(
                question,
                scorer.needed_tokens(candidates, prefix),
                cache_tokens,
                bytes_per_token,
            )?;
        }
        // The group's first questions answer for the prefix, wherever it is run again.
        let opens_group = block.questions.start == 0;
        let done: Vec<bool> =
            questions.iter().map(|question| session.is_done(question.row)).collect();
        scorer.score(
            prefix,
            &candidates,
            |index| done[index],
            |wave| {
                let own = wave.questions.clone();
                let prefix_tokens =
                    if opens_group && own.start == 0 { prefix.len() as u64 } else { 0 };
                let scored =
                    wave_results(&questions[own.clone()], &candidates[own.clone()], wave.sums)?;
                let naive = candidates[own].iter().map(Candidates::naive_tokens).sum();
                session.append(scored, wave.tokens_run + prefix_tokens, naive)?;
                interrupt::check().map_err(EvalError::from)
            },
        )?;
    }
    Ok(())
}

/// What all contexts of a group probably begin with. The sample does not depend on the shard or on
/// what is done already.
fn group_prefix(group: &Group, engine: &Engine) -> Result<Vec<u32>, EvalError> {
    let step = group.questions.len().div_ceil(PREFIX_SAMPLE).max(1);
    let sample: Vec<Question> = group.questions.iter().step_by(step).cloned().collect();
    let sample = group.candidates(&sample, engine.vocabulary(), engine.context_length())?;
    Ok(shared_prefix(&sample.into_iter().flatten().collect::<Vec<_>>()))
}

/// A block's questions as tokens. Those that cannot be scored go into the session with the reason,
/// and are left out.
fn candidates<'a>(
    group: &Group,
    questions: &'a [Question],
    engine: &Engine,
    session: &mut Session<'_>,
) -> Result<(Vec<&'a Question>, Vec<Candidates>), EvalError> {
    let all = group.candidates(questions, engine.vocabulary(), engine.context_length())?;
    let (mut kept, mut scorable, mut unscored) = (Vec::new(), Vec::new(), Vec::new());
    for (question, candidates) in questions.iter().zip(all) {
        match candidates {
            Ok(candidates) => {
                kept.push(question);
                scorable.push(candidates);
            }
            Err(_) if session.is_done(question.row) => {}
            Err(reason) => unscored.push(Scored::unscored(question.row, reason)),
        }
    }
    if !unscored.is_empty() {
        session.append(unscored, 0, 0)?;
    }
    Ok((kept, scorable))
}

fn check_budget(
    question: &Question,
    needed: usize,
    cache_tokens: usize,
    bytes_per_token: u64,
) -> Result<(), EvalError> {
    if needed <= cache_tokens {
        return Ok(());
    }
    Err(EvalError::Unusable(format!(
        "row {}: needs {} of keys and values, and --cache allows {}: run the same command with a \
         larger --cache to go on",
        question.row,
        units::bytes(needed as u64 * bytes_per_token),
        units::bytes(cache_tokens as u64 * bytes_per_token),
    )))
}

/// The results of a wave; an error where the model did not give numbers.
fn wave_results(
    questions: &[&Question],
    candidates: &[Candidates],
    sums: Vec<Vec<f64>>,
) -> Result<Vec<Scored>, EvalError> {
    let scored = questions.iter().zip(candidates).zip(sums);
    scored
        .map(|((question, candidates), sums)| {
            if sums.iter().any(|sum| sum.is_nan()) {
                return Err(EvalError::Unusable(format!(
                    "row {}: the model's logits are not numbers; the model file may be damaged",
                    question.row
                )));
            }
            Ok(Scored {
                row: question.row,
                sums,
                context_tokens: candidates.context().len(),
                choice_tokens: candidates.counted_tokens(),
                dropped_tokens: candidates.dropped(),
                unscored: None,
            })
        })
        .collect()
}
