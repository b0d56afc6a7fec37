//! Log-probabilities of choices, with every shared prefix run once.
//!
//! A group of questions shares the tokens that their contexts begin with (the description and the
//! shots of a subject); they are run once and forked for each question. A question's context is run
//! once and forked for its choices. The last token of a choice is never run, since nothing is
//! asked after it. Questions are packed into steps of about [`STEP_TOKENS`] tokens.
//!
//! A model with LongRoPE computes a prefix otherwise in a short sequence than in a long one. A long question
//! behind a short prefix therefore runs that prefix for itself. All choices of a question are computed
//! alike, by the longest.

use std::ops::Range;

use rayon::prelude::*;

use crate::engine::{Engine, EngineError, Logits, LogitsFor, SequenceId, StepItem, StepLogits};
use crate::eval::asking::{Candidates, common_prefix};
use crate::kernels::elementwise::log_sum_exp;

/// About how many tokens a step should hold: enough to use the weights well, few enough for their
/// activations to stay small.
const STEP_TOKENS: usize = 512;
/// At most about this many bytes of logits come out of a step.
const STEP_LOGITS_BYTES: usize = 128 << 20;
/// A prefix shorter than this is not worth a sequence of its own.
const SHORTEST_SHARED_PREFIX: usize = 16;

/// What scoring needs of an engine.
pub(in crate::eval) trait Model {
    /// A handle to a sequence.
    type Sequence: Copy + Sync;
    /// Width of a row of logits.
    fn vocabulary_size(&self) -> usize;
    /// See [`Engine::original_context`].
    fn original_context(&self) -> Option<usize>;
    /// See [`Engine::start_with_room`].
    fn start(&mut self, longest: usize, room: usize) -> Self::Sequence;
    /// See [`Engine::fork`].
    fn fork(&mut self, parent: Self::Sequence, expected_new_tokens: usize) -> Self::Sequence;
    /// See [`Engine::end`].
    fn end(&mut self, sequence: Self::Sequence);
    /// See [`Engine::step`].
    fn step(
        &mut self,
        items: &[(Self::Sequence, &[u32], LogitsFor)],
    ) -> Result<StepLogits<'_>, EngineError>;
}

impl Model for Engine {
    type Sequence = SequenceId;

    fn vocabulary_size(&self) -> usize {
        self.vocabulary().size
    }

    fn original_context(&self) -> Option<usize> {
        Engine::original_context(self)
    }

    fn start(&mut self, longest: usize, room: usize) -> SequenceId {
        self.start_with_room(longest, room)
    }

    fn fork(&mut self, parent: SequenceId, expected_new_tokens: usize) -> SequenceId {
        Engine::fork(self, parent, expected_new_tokens)
    }

    fn end(&mut self, sequence: SequenceId) {
        Engine::end(self, sequence);
    }

    fn step(
        &mut self,
        items: &[(SequenceId, &[u32], LogitsFor)],
    ) -> Result<StepLogits<'_>, EngineError> {
        let items: Vec<StepItem<'_>> = items
            .iter()
            .map(|&(sequence, tokens, logits)| StepItem { sequence, tokens, logits })
            .collect();
        Engine::step(self, &items)
    }
}

/// A prefix that many questions share, and the sequence that holds it.
#[derive(Debug, Clone, Copy)]
struct Shared<'a, S> {
    sequence: S,
    tokens: &'a [u32],
}

/// Questions that went through the model together.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::eval) struct Wave {
    /// Which of the block's questions.
    pub questions: Range<usize>,
    /// For each of them, the log-probability of each choice: the sum over its tokens.
    pub sums: Vec<Vec<f64>>,
    /// Tokens that were run for them, those of the shared prefix left out.
    pub tokens_run: u64,
}

/// Runs candidates through a model.
#[derive(Debug)]
pub(in crate::eval) struct Scorer<M: Model> {
    model: M,
    cache_tokens: usize,
    prefix: Option<(Vec<u32>, M::Sequence)>,
    tokens_run: u64,
}

impl<M: Model> Scorer<M> {
    /// A scorer that holds at most the keys and values of `cache_tokens` tokens at a time, if no
    /// single question needs more (see [`Scorer::needed_tokens`]).
    pub fn new(model: M, cache_tokens: usize) -> Self {
        Self { model, cache_tokens, prefix: None, tokens_run: 0 }
    }

    /// The model.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// Scores the questions of a block, wave after wave. How they are packed into waves depends on
    /// the prefix, the questions and the budget alone; waves of which `is_done` says that every
    /// question is done are left out.
    ///
    /// The prefix (see [`shared_prefix`]) is run when it is first needed and kept for the blocks
    /// that follow with the same one. `after_wave` gets each wave's results; its error ends the
    /// scoring.
    pub fn score<E: From<EngineError>>(
        &mut self,
        prefix: &[u32],
        block: &[Candidates],
        is_done: impl Fn(usize) -> bool,
        mut after_wave: impl FnMut(Wave) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut start = 0;
        while start < block.len() {
            let end = start + self.wave_length(&block[start..], prefix);
            let questions = start..end;
            start = end;
            if questions.clone().all(&is_done) {
                continue;
            }
            let shared = self.hold(prefix)?.map(|sequence| Shared { sequence, tokens: prefix });
            let before = self.tokens_run;
            let sums = self.score_wave(&block[questions.clone()], shared)?;
            after_wave(Wave { questions, sums, tokens_run: self.tokens_run - before })?;
        }
        Ok(())
    }

    /// The sequence that holds the prefix; `None` for an empty one.
    fn hold(&mut self, prefix: &[u32]) -> Result<Option<M::Sequence>, EngineError> {
        if let Some((tokens, sequence)) = &self.prefix
            && tokens == prefix
        {
            return Ok(Some(*sequence));
        }
        if let Some((_, sequence)) = self.prefix.take() {
            self.model.end(sequence);
        }
        if prefix.is_empty() {
            return Ok(None);
        }
        let sequence = self.model.start(prefix.len(), prefix.len());
        for chunk in prefix.chunks(STEP_TOKENS) {
            self.step(&[(sequence, chunk, LogitsFor::None)])?;
        }
        self.prefix = Some((prefix.to_vec(), sequence));
        Ok(Some(sequence))
    }

    /// How many of the next questions go into the model together.
    fn wave_length(&self, questions: &[Candidates], prefix: &[u32]) -> usize {
        let row_bytes = self.model.vocabulary_size().max(1) * size_of::<f32>();
        let most_rows = (STEP_LOGITS_BYTES / row_bytes).min(STEP_TOKENS);
        let (mut context_tokens, mut choice_tokens) = (0, 0);
        let mut cached = round_up(prefix.len());
        let fitting = questions.iter().take_while(|candidates| {
            let prefix = self.usable(prefix, candidates);
            context_tokens += own_context(candidates, prefix).len();
            choice_tokens +=
                candidates.choices().iter().map(|choice| choice.len() - 1).sum::<usize>();
            cached += own_tokens_cached(candidates, prefix);
            context_tokens <= STEP_TOKENS
                && choice_tokens <= most_rows
                && cached <= self.cache_tokens
        });
        fitting.count().max(1)
    }

    /// Two steps: the contexts, then all but the last tokens of their choices.
    fn score_wave(
        &mut self,
        wave: &[Candidates],
        shared: Option<Shared<'_, M::Sequence>>,
    ) -> Result<Vec<Vec<f64>>, EngineError> {
        let mut contexts = Vec::with_capacity(wave.len());
        for candidates in wave {
            contexts.push(self.begin_context(candidates, shared)?);
        }
        let items: Vec<_> = contexts
            .iter()
            .filter(|(_, tokens)| !tokens.is_empty())
            .map(|&(sequence, tokens)| (sequence, tokens, LogitsFor::Last))
            .collect();
        // Without a context no choice's first token counts.
        let mut sums: Vec<Vec<f64>> =
            wave.iter().map(|candidates| vec![0.0; candidates.choices().len()]).collect();
        if !items.is_empty() {
            let logits = self.step(&items)?;
            let with_context: Vec<_> = wave
                .iter()
                .zip(&mut sums)
                .filter(|(candidates, _)| !candidates.context().is_empty())
                .collect();
            with_context.into_par_iter().enumerate().for_each(|(item, (candidates, sums))| {
                *sums = first_log_probabilities(candidates, logits.item(item));
            });
        }

        let mut branches = Vec::new();
        for (question, candidates) in wave.iter().enumerate() {
            for (choice, tokens) in
                candidates.choices().iter().enumerate().filter(|(_, t)| t.len() > 1)
            {
                let sequence = self.model.fork(contexts[question].0, tokens.len() - 1);
                branches.push((question, choice, sequence, tokens));
            }
        }
        if !branches.is_empty() {
            let items: Vec<_> = branches
                .iter()
                .map(|&(_, _, sequence, tokens)| {
                    (sequence, &tokens[..tokens.len() - 1], LogitsFor::All)
                })
                .collect();
            let logits = self.step(&items)?;
            let further: Vec<f64> = branches
                .par_iter()
                .enumerate()
                .map(|(item, &(question, choice, _, tokens))| {
                    let uncounted = wave[question].uncounted(choice);
                    further_log_probability(tokens, uncounted, logits.item(item))
                })
                .collect();
            for (&(question, choice, _, _), further) in branches.iter().zip(further) {
                sums[question][choice] += further;
            }
        }

        let forks = branches.iter().map(|&(_, _, sequence, _)| sequence);
        for sequence in forks.chain(contexts.iter().map(|&(sequence, _)| sequence)) {
            self.model.end(sequence);
        }
        Ok(sums)
    }

    /// A sequence for a question's context, and those of its tokens that the sequence does not hold
    /// yet: at most a step's worth.
    fn begin_context<'a>(
        &mut self,
        candidates: &'a Candidates,
        shared: Option<Shared<'_, M::Sequence>>,
    ) -> Result<(M::Sequence, &'a [u32]), EngineError> {
        let prefix = self.usable(shared.map_or(&[], |shared| shared.tokens), candidates);
        let own = own_context(candidates, prefix);
        let sequence = match shared.filter(|_| own.len() < candidates.context().len()) {
            Some(shared) => self.model.fork(shared.sequence, own.len()),
            None => self.model.start(candidates.longest(), own.len()),
        };
        let mut rest = own;
        while rest.len() > STEP_TOKENS {
            let (chunk, later) = rest.split_at(STEP_TOKENS);
            self.step(&[(sequence, chunk, LogitsFor::None)])?;
            rest = later;
        }
        Ok((sequence, rest))
    }

    /// The prefix, if the model computes it for this question as it does for itself.
    fn usable<'p>(&self, prefix: &'p [u32], candidates: &Candidates) -> &'p [u32] {
        let is_long = |tokens| self.model.original_context().is_some_and(|most| tokens > most);
        if is_long(prefix.len()) == is_long(candidates.longest()) { prefix } else { &[] }
    }

    /// Tokens of the cache that a question needs, all other questions' aside: its own and the prefix's.
    pub fn needed_tokens(&self, candidates: &Candidates, prefix: &[u32]) -> usize {
        let usable = self.usable(prefix, candidates);
        round_up(prefix.len()) + own_tokens_cached(candidates, usable)
    }

    fn step(
        &mut self,
        items: &[(M::Sequence, &[u32], LogitsFor)],
    ) -> Result<StepLogits<'_>, EngineError> {
        self.tokens_run += items.iter().map(|(_, tokens, _)| tokens.len() as u64).sum::<u64>();
        self.model.step(items)
    }
}

fn own_tokens_cached(candidates: &Candidates, prefix: &[u32]) -> usize {
    let choices = candidates.choices().iter().map(|choice| round_up(choice.len() - 1));
    round_up(own_context(candidates, prefix).len()) + choices.sum::<usize>()
}

/// The cache hands out room for whole tiles of positions.
fn round_up(tokens: usize) -> usize {
    tokens.next_multiple_of(16)
}

/// The tokens that all contexts of some questions begin with, if running them once is worth while.
/// A context that was cut on the left begins elsewhere and is left out.
///
/// The questions are a sample of those that the prefix will be used for: a context that does not
/// begin with it is run by itself, so a sample that is not typical costs time only.
pub(in crate::eval) fn shared_prefix(sample: &[Candidates]) -> Vec<u32> {
    let mut whole = sample
        .iter()
        .filter(|candidates| candidates.dropped() == 0 && !candidates.context().is_empty());
    let (Some(first), true) = (whole.next(), sample.len() > 1) else { return Vec::new() };
    // At least one token of each context is left to its own sequence, for its logits.
    let length = whole.fold(first.context().len() - 1, |length, candidates| {
        let context = candidates.context();
        common_prefix(&first.context()[..length], &context[..context.len() - 1])
    });
    if length < SHORTEST_SHARED_PREFIX { Vec::new() } else { first.context()[..length].to_vec() }
}

/// The tokens of a context past the shared prefix; all of them when it does not begin with that.
fn own_context<'a>(candidates: &'a Candidates, shared: &[u32]) -> &'a [u32] {
    let context = candidates.context();
    context.strip_prefix(shared).filter(|own| !own.is_empty()).unwrap_or(context)
}

/// The log-probability of each choice's first token, from the logits after the context; 0 where it
/// does not count.
fn first_log_probabilities(candidates: &Candidates, logits: Logits<'_>) -> Vec<f64> {
    let row = logits.row(0);
    let normalizer = log_sum_exp(row);
    candidates
        .choices()
        .iter()
        .enumerate()
        .map(|(index, choice)| match candidates.uncounted(index) {
            0 => f64::from(row[choice[0] as usize]) - normalizer,
            _ => 0.0,
        })
        .collect()
}

/// The log-probability of a choice's tokens after the first that count, from the logits of all but
/// the last.
fn further_log_probability(choice: &[u32], uncounted: usize, logits: Logits<'_>) -> f64 {
    (uncounted.max(1)..choice.len())
        .map(|index| {
            let row = logits.row(index - 1);
            f64::from(row[choice[index] as usize]) - log_sum_exp(row)
        })
        .sum()
}

#[cfg(test)]
mod tests;
