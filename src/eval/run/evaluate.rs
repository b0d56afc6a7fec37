//! One evaluation from end to end: choose the questions, ask them, score, write.

use std::path::{Path, PathBuf};

use super::asking::{Group, groups};
use super::baseline::Baseline;
use super::candidates::Candidates;
use super::journal::Scored;
use super::plan::{self, Block};
use super::question_set::{Question, QuestionSet};
use super::record::Settings;
use super::scoring::{Scorer, needed_tokens, shared_prefix};
use super::selection::{select, shots};
use super::session::Session;
use super::{EvalError, EvalOptions, Evaluated};
use crate::engine::Engine;
use crate::gguf;
use crate::storage::{self, Output};
use crate::support::interrupt;
use crate::support::units;

/// Questions of a group that are looked at to find what its contexts begin with.
const PREFIX_SAMPLE: usize = 16;

/// The questions of a run.
pub(super) struct Selected {
    pub groups: Vec<Group>,
    /// Those of the shard.
    pub blocks: Vec<Block>,
    set_sha256: String,
    /// Questions of all shards.
    total: usize,
}

impl Selected {
    /// Reads the set, chooses and groups the questions, and takes the shard's.
    pub fn of(options: &EvalOptions) -> Result<Self, EvalError> {
        let set = QuestionSet::find(&options.set)?;
        let questions = select(set.test_questions()?, options)?;
        let total = questions.len();
        let groups = groups(questions, &set, options.protocol, shots(options))?;
        let by_group: Vec<&[Question]> = groups.iter().map(|group| &group.questions[..]).collect();
        let blocks = plan::blocks(&by_group, options.shard);
        Ok(Self { blocks, groups, set_sha256: set.sha256()?, total })
    }

    /// The shard's questions.
    pub fn questions(&self) -> impl Iterator<Item = &Question> {
        let of_block = |block: &Block| &self.groups[block.group].questions[block.questions.clone()];
        self.blocks.iter().flat_map(of_block)
    }

    /// The run that this one is to be compared with, if there is one and it is of these questions.
    ///
    /// # Errors
    /// A run that cannot be read or compared with.
    pub fn baseline(&self, options: &EvalOptions) -> Result<Option<Baseline>, EvalError> {
        let Some(directory) = &options.baseline else { return Ok(None) };
        let baseline = Baseline::read(directory)?;
        baseline.check(&self.settings(options), self.questions(), &options.output)?;
        Ok(Some(baseline))
    }

    /// The settings of a run of these questions. What depends on the model is still empty.
    pub fn settings(&self, options: &EvalOptions) -> Settings {
        Settings {
            model: String::new(),
            model_sha256: String::new(),
            endpoint: None,
            set: options.set.display().to_string(),
            set_sha256: self.set_sha256.clone(),
            protocol: options.protocol,
            shots: shots(options),
            limit: options.limit,
            limit_seeded: options.limit_seeded,
            every: options.every,
            subjects: options.subjects.clone(),
            questions: self.total,
            shard: options.shard,
            device: String::new(),
            kv_type: String::new(),
        }
    }
}

/// See [`super::evaluate`].
pub(super) fn evaluate(options: &EvalOptions) -> Result<Evaluated, EvalError> {
    let selected = Selected::of(options)?;
    let baseline = selected.baseline(options)?;
    let output = Output::at(&options.output)?;
    Session::check_output(&output)?;
    let model = local_model(&options.model)?;
    let model_sha256 = gguf::identify(&model)
        .map_err(|source| EvalError::Io { path: model.display().to_string(), source })?
        .sha256;
    let settings = Settings {
        model: options.model.display().to_string(),
        model_sha256,
        device: options.engine.device.to_string(),
        kv_type: options.engine.kv_type_name().to_string(),
        ..selected.settings(options)
    };
    Session::check_journal(options, &output, &settings)?;
    let engine = Engine::load(&model, options.engine)?;
    let mut session = Session::open(options, output, settings, selected.questions())?;
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
                needed_tokens(candidates, prefix),
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
