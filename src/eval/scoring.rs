//! Log-probabilities of choices, with every shared prefix run once.
//!
//! A group of questions shares the tokens that all their contexts begin with (the description and
//! the shots of a subject); they are run once and forked for each question. A question's context is
//! run once and forked for its choices. The last token of a choice is never run, since nothing is
//! asked after it. Questions are packed into steps of about [`STEP_TOKENS`] tokens.

use rayon::prelude::*;

use super::candidates::{Candidates, common_prefix};
use super::log_softmax::log_sum_exp;
use crate::engine::{Engine, EngineError, Logits, LogitsFor, SequenceId, StepItem, StepLogits};

/// About how many tokens a step should hold: enough to use the weights well, few enough for their
/// activations to stay small.
const STEP_TOKENS: usize = 512;
/// At most about this many bytes of logits come out of a step.
const STEP_LOGITS_BYTES: usize = 128 << 20;
/// A prefix shorter than this is not worth a sequence of its own.
const SHORTEST_SHARED_PREFIX: usize = 16;

/// What scoring needs of an engine.
pub(super) trait Model {
    /// A handle to a sequence.
    type Sequence: Copy + Sync;
    /// Width of a row of logits.
    fn vocabulary_size(&self) -> usize;
    /// See [`Engine::start`].
    fn start(&mut self, expected_tokens: usize) -> Self::Sequence;
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

    fn start(&mut self, expected_tokens: usize) -> SequenceId {
        Engine::start(self, expected_tokens)
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

/// Runs candidates through a model and counts the tokens.
#[derive(Debug)]
pub(super) struct Scorer<M> {
    model: M,
    tokens_run: u64,
}

impl<M: Model> Scorer<M> {
    pub fn new(model: M) -> Self {
        Self { model, tokens_run: 0 }
    }

    /// The model.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// Tokens that went through the model so far.
    pub fn tokens_run(&self) -> u64 {
        self.tokens_run
    }

    /// The log-probability of each choice of each question: the sum over its tokens.
    ///
    /// `after_some` is called with the number of questions just done; its error ends the scoring.
    pub fn score<E: From<EngineError>>(
        &mut self,
        group: &[Candidates],
        mut after_some: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Vec<Vec<f64>>, E> {
        let tokens = shared_prefix(group);
        let shared = if tokens.is_empty() {
            None
        } else {
            let sequence = self.model.start(tokens.len());
            for chunk in tokens.chunks(STEP_TOKENS) {
                self.step(&[(sequence, chunk, LogitsFor::None)])?;
            }
            Some(Shared { sequence, tokens })
        };
        let mut results = Vec::with_capacity(group.len());
        let mut rest = group;
        while !rest.is_empty() {
            let (wave, later) = rest.split_at(self.wave_length(rest, tokens));
            results.extend(self.score_wave(wave, shared)?);
            after_some(wave.len())?;
            rest = later;
        }
        if let Some(shared) = shared {
            self.model.end(shared.sequence);
        }
        Ok(results)
    }

    /// How many of the next questions go into the model together.
    fn wave_length(&self, questions: &[Candidates], shared: &[u32]) -> usize {
        let row_bytes = self.model.vocabulary_size().max(1) * size_of::<f32>();
        let most_rows = (STEP_LOGITS_BYTES / row_bytes).min(STEP_TOKENS);
        let (mut context_tokens, mut choice_tokens) = (0, 0);
        let fitting = questions.iter().take_while(|candidates| {
            context_tokens += own_context(candidates, shared).len();
            choice_tokens +=
                candidates.choices().iter().map(|choice| choice.len() - 1).sum::<usize>();
            context_tokens <= STEP_TOKENS && choice_tokens <= most_rows
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
            .map(|&(sequence, tokens)| (sequence, tokens, LogitsFor::Last))
            .collect();
        let logits = self.step(&items)?;
        let mut sums: Vec<Vec<f64>> = wave
            .par_iter()
            .enumerate()
            .map(|(item, candidates)| first_log_probabilities(candidates, logits.item(item)))
            .collect();

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
                .map(|(item, (_, _, _, tokens))| further_log_probability(tokens, logits.item(item)))
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
        let own = own_context(candidates, shared.map_or(&[], |shared| shared.tokens));
        let sequence = match shared.filter(|_| own.len() < candidates.context().len()) {
            Some(shared) => self.model.fork(shared.sequence, own.len()),
            None => self.model.start(own.len()),
        };
        let mut rest = own;
        while rest.len() > STEP_TOKENS {
            let (chunk, later) = rest.split_at(STEP_TOKENS);
            self.step(&[(sequence, chunk, LogitsFor::None)])?;
            rest = later;
        }
        Ok((sequence, rest))
    }

    fn step(
        &mut self,
        items: &[(M::Sequence, &[u32], LogitsFor)],
    ) -> Result<StepLogits<'_>, EngineError> {
        self.tokens_run += items.iter().map(|(_, tokens, _)| tokens.len() as u64).sum::<u64>();
        self.model.step(items)
    }
}

/// The tokens that all contexts of a group begin with, if running them once is worth while. A
/// context that was cut on the left begins elsewhere and is left out.
fn shared_prefix(group: &[Candidates]) -> &[u32] {
    let mut whole = group.iter().filter(|candidates| candidates.dropped() == 0);
    let (Some(first), true) = (whole.next(), group.len() > 1) else { return &[] };
    // At least one token of each context is left to its own sequence, for its logits.
    let length = whole.fold(first.context().len() - 1, |length, candidates| {
        let context = candidates.context();
        common_prefix(&first.context()[..length], &context[..context.len() - 1])
    });
    if length < SHORTEST_SHARED_PREFIX { &[] } else { &first.context()[..length] }
}

/// The tokens of a context past the shared prefix; all of them when it does not begin with that.
fn own_context<'a>(candidates: &'a Candidates, shared: &[u32]) -> &'a [u32] {
    let context = candidates.context();
    context.strip_prefix(shared).filter(|own| !own.is_empty()).unwrap_or(context)
}

/// The log-probability of each choice's first token, from the logits after the context.
fn first_log_probabilities(candidates: &Candidates, logits: Logits<'_>) -> Vec<f64> {
    let row = logits.row(0);
    let normalizer = log_sum_exp(row);
    candidates
        .choices()
        .iter()
        .map(|choice| f64::from(row[choice[0] as usize]) - normalizer)
        .collect()
}

/// The log-probability of a choice's tokens after the first, from the logits of all but the last.
fn further_log_probability(choice: &[u32], logits: Logits<'_>) -> f64 {
    choice[1..]
        .iter()
        .enumerate()
        .map(|(index, &token)| {
            let row = logits.row(index);
            f64::from(row[token as usize]) - log_sum_exp(row)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const VOCABULARY: usize = 97;

    /// A stand-in whose logits depend on everything that a sequence holds.
    #[derive(Default)]
    struct Fake {
        sequences: HashMap<usize, Vec<u32>>,
        created: usize,
        steps: usize,
        largest_step: usize,
        logits: Vec<f32>,
        ends: Vec<usize>,
    }

    fn logit(held: &[u32], token: usize) -> f32 {
        let hash = held.iter().fold(17u32, |h, &t| h.wrapping_mul(31).wrapping_add(t + 1));
        (hash.wrapping_mul(token as u32 + 3) >> 20) as f32 / 500.0
    }

    impl Model for Fake {
        type Sequence = usize;

        fn vocabulary_size(&self) -> usize {
            VOCABULARY
        }

        fn start(&mut self, _: usize) -> usize {
            self.created += 1;
            self.sequences.insert(self.created, Vec::new());
            self.created
        }

        fn fork(&mut self, parent: usize, _: usize) -> usize {
            let held = self.sequences[&parent].clone();
            self.created += 1;
            self.sequences.insert(self.created, held);
            self.created
        }

        fn end(&mut self, sequence: usize) {
            assert!(self.sequences.remove(&sequence).is_some(), "ended twice");
        }

        fn step(
            &mut self,
            items: &[(usize, &[u32], LogitsFor)],
        ) -> Result<StepLogits<'_>, EngineError> {
            self.steps += 1;
            let tokens = items.iter().map(|(_, tokens, _)| tokens.len()).sum();
            self.largest_step = self.largest_step.max(tokens);
            self.logits.clear();
            self.ends.clear();
            for &(sequence, tokens, wanted) in items {
                assert!(!tokens.is_empty(), "an item has at least one token");
                let held = self.sequences.get_mut(&sequence).unwrap();
                for (index, &token) in tokens.iter().enumerate() {
                    held.push(token);
                    let last = index + 1 == tokens.len();
                    if wanted == LogitsFor::All || (wanted == LogitsFor::Last && last) {
                        self.logits.extend((0..VOCABULARY).map(|token| logit(held, token)));
                    }
                }
                self.ends.push(self.logits.len() / VOCABULARY);
            }
            Ok(StepLogits::new(VOCABULARY, &self.logits, &self.ends))
        }
    }

    /// Each choice's tokens run one at a time from the start.
    fn naive(candidates: &Candidates) -> Vec<f64> {
        candidates
            .choices()
            .iter()
            .map(|choice| {
                let mut held = candidates.context().to_vec();
                let mut sum = 0.0;
                for &token in choice {
                    let row: Vec<f64> =
                        (0..VOCABULARY).map(|t| f64::from(logit(&held, t))).collect();
                    let normalizer = row.iter().map(|x| x.exp()).sum::<f64>().ln();
                    sum += row[token as usize] - normalizer;
                    held.push(token);
                }
                sum
            })
            .collect()
    }

    /// Questions of many lengths behind one preamble of `preamble` tokens.
    fn group(questions: u32, preamble: usize, context_length: usize) -> Vec<Candidates> {
        (0..questions)
            .map(|q| {
                let mut context: Vec<u32> = (0..preamble as u32).map(|t| t % 90).collect();
                context.extend((0..1 + q * 7 % 50).map(|t| (q + t) % 90));
                let choices: Vec<Vec<u32>> = (0..4)
                    .map(|c| (0..=(q + c) % 6).map(|t| (c * 20 + t + q) % 90).collect())
                    .collect();
                Candidates::new(context, choices).fit(context_length).unwrap()
            })
            .collect()
    }

    fn check(group: &[Candidates]) -> Scorer<Fake> {
        let mut scorer = Scorer::new(Fake::default());
        let mut done = 0;
        let results = scorer
            .score(group, |count| {
                done += count;
                Ok::<(), EngineError>(())
            })
            .unwrap();
        assert_eq!(done, group.len());
        for (candidates, result) in group.iter().zip(&results) {
            for (ours, plain) in result.iter().zip(naive(candidates)) {
                assert!((ours - plain).abs() < 1e-5, "{ours} is not {plain}");
            }
        }
        assert!(scorer.model.sequences.is_empty(), "every sequence is ended");
        scorer
    }

    #[test]
    fn shared_prefixes_change_the_work_and_not_the_result() {
        let questions = group(60, 300, 10_000);
        let scorer = check(&questions);
        let naive: u64 = questions.iter().map(Candidates::naive_tokens).sum();
        let once: usize = questions
            .iter()
            .map(|candidates| {
                candidates.context().len() - 300
                    + candidates.choices().iter().map(|choice| choice.len() - 1).sum::<usize>()
            })
            .sum();
        assert_eq!(scorer.tokens_run(), 300 + once as u64);
        assert!(naive > 20 * scorer.tokens_run());
        assert!(scorer.model.largest_step <= STEP_TOKENS);
        assert!(scorer.model.steps < 20);
    }

    #[test]
    fn groups_without_a_prefix_worth_sharing_are_scored_too() {
        check(&group(40, 0, 10_000));
        check(&group(1, 200, 10_000));
        check(&[]);
    }

    #[test]
    fn cut_and_very_long_contexts_are_scored_too() {
        let questions = group(30, 1400, 1420);
        let cut = questions.iter().filter(|candidates| candidates.dropped() > 0).count();
        assert!(0 < cut && cut < questions.len());
        assert!(check(&questions).model.largest_step <= STEP_TOKENS);
    }

    #[test]
    fn an_error_of_the_caller_ends_the_scoring() {
        let mut scorer = Scorer::new(Fake::default());
        let stopped = scorer.score(&group(200, 100, 10_000), |_| Err(Stop));
        assert!(matches!(stopped, Err(Stop)));
        assert!(scorer.tokens_run() < 1000);
    }

    #[derive(Debug)]
    struct Stop;

    impl From<EngineError> for Stop {
        fn from(_: EngineError) -> Self {
            Self
        }
    }
}
