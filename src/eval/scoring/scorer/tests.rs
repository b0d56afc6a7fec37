//! Tests of the scorer on a stand-in for a model.

use std::collections::HashMap;

use super::*;
use crate::eval::asking::Completion;

const VOCABULARY: usize = 97;

/// A stand-in whose logits depend on everything that a sequence holds.
#[derive(Default)]
struct Fake {
    sequences: HashMap<usize, Vec<u32>>,
    /// The length that each sequence was begun for.
    begun_for: HashMap<usize, usize>,
    /// As [`Engine::original_context`].
    original_context: Option<usize>,
    /// Tokens of each sequence that no parent holds for it.
    own: HashMap<usize, usize>,
    created: usize,
    steps: usize,
    largest_step: usize,
    logits: Vec<f32>,
    ends: Vec<usize>,
    most_held: usize,
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

    fn original_context(&self) -> Option<usize> {
        self.original_context
    }

    fn start(&mut self, longest: usize, _: usize) -> usize {
        self.created += 1;
        self.sequences.insert(self.created, Vec::new());
        self.begun_for.insert(self.created, longest);
        self.created
    }

    fn fork(&mut self, parent: usize, _: usize) -> usize {
        let held = self.sequences[&parent].clone();
        self.created += 1;
        self.sequences.insert(self.created, held);
        self.begun_for.insert(self.created, self.begun_for[&parent]);
        self.created
    }

    fn end(&mut self, sequence: usize) {
        assert!(self.sequences.remove(&sequence).is_some(), "ended twice");
        self.own.remove(&sequence);
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
            *self.own.entry(sequence).or_default() += tokens.len();
            let held = self.sequences.get_mut(&sequence).unwrap();
            let is_long = |tokens| self.original_context.is_some_and(|most| tokens > most);
            assert!(is_long(self.begun_for[&sequence]) || !is_long(held.len() + tokens.len()));
            for (index, &token) in tokens.iter().enumerate() {
                held.push(token);
                let last = index + 1 == tokens.len();
                if wanted == LogitsFor::All || (wanted == LogitsFor::Last && last) {
                    self.logits.extend((0..VOCABULARY).map(|token| logit(held, token)));
                }
            }
            self.ends.push(self.logits.len() / VOCABULARY);
        }
        self.most_held = self.most_held.max(self.own.values().sum());
        Ok(StepLogits::new(VOCABULARY, &self.logits, &self.ends))
    }
}

/// Each choice's tokens run one at a time from the start.
fn naive(candidates: &Candidates) -> Vec<f64> {
    candidates
        .choices()
        .iter()
        .enumerate()
        .map(|(number, choice)| {
            let mut held = candidates.context().to_vec();
            let mut sum = 0.0;
            for (index, &token) in choice.iter().enumerate() {
                let row: Vec<f64> = (0..VOCABULARY).map(|t| f64::from(logit(&held, t))).collect();
                let normalizer = row.iter().map(|x| x.exp()).sum::<f64>().ln();
                if index >= candidates.uncounted(number) {
                    sum += row[token as usize] - normalizer;
                }
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

fn check_within(group: &[Candidates], cache_tokens: usize) -> Scorer<Fake> {
    check_on(Fake::default(), group, cache_tokens)
}

fn check_on(model: Fake, group: &[Candidates], cache_tokens: usize) -> Scorer<Fake> {
    let mut scorer = Scorer::new(model, cache_tokens);
    let prefix = shared_prefix(group);
    let mut results = Vec::new();
    scorer
        .score(
            &prefix,
            group,
            |_| false,
            |wave| {
                assert_eq!(wave.questions.start, results.len());
                results.extend(wave.sums);
                assert_eq!(wave.questions.end, results.len());
                Ok::<(), EngineError>(())
            },
        )
        .unwrap();
    assert_eq!(results.len(), group.len());
    for (candidates, result) in group.iter().zip(&results) {
        for (ours, plain) in result.iter().zip(naive(candidates)) {
            assert!((ours - plain).abs() < 1e-5, "{ours} is not {plain}");
        }
    }
    assert_eq!(scorer.model.sequences.len(), usize::from(!prefix.is_empty()));
    scorer
}

fn check(group: &[Candidates]) -> Scorer<Fake> {
    check_within(group, usize::MAX)
}

/// Sentences with a blank, of which what follows it counts; some begin with the blank.
#[test]
fn what_fills_a_blank_is_run_and_does_not_count() {
    let completion = |before: &str, choice: &str| Completion {
        context: format!("{before}{choice}"),
        continuation: " went home".to_string(),
    };
    let questions: Vec<Candidates> = ["Then ", "", "After a while "]
        .iter()
        .map(|before| {
            let both = [completion(before, "Ann"), completion(before, "Benjamin B")];
            let tokens = |text: &str| Ok(text.bytes().map(|b| u32::from(b) % 90).collect());
            Candidates::of_completions(&both, tokens).unwrap()
        })
        .collect();
    assert!(questions[1].context().is_empty());
    check(&questions);
    check(&questions[1..2]);
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
    assert_eq!(scorer.tokens_run, 300 + once as u64);
    assert!(naive > 20 * scorer.tokens_run);
    assert!(scorer.model.largest_step <= STEP_TOKENS);
    assert!(scorer.model.steps < 20);
}

#[test]
fn a_prefix_is_kept_until_another_is_needed() {
    let questions = group(40, 300, 10_000);
    let prefix = shared_prefix(&questions);
    let mut scorer = Scorer::new(Fake::default(), usize::MAX);
    let mut own = 0;
    let mut count = |wave: Wave| {
        own += wave.tokens_run;
        Ok::<(), EngineError>(())
    };
    for block in questions.chunks(15) {
        scorer.score(&prefix, block, |_| false, &mut count).unwrap();
    }
    scorer.score(&[], &group(3, 0, 10_000), |_| false, &mut count).unwrap();
    assert_eq!(scorer.tokens_run, prefix.len() as u64 + own);
    assert!(scorer.model.sequences.is_empty());
}

/// Waves are the same whichever of them are left out, and so are their results.
#[test]
fn what_is_done_is_left_out() {
    let questions = group(60, 300, 10_000);
    let prefix = shared_prefix(&questions);
    let waves = |is_done: &dyn Fn(usize) -> bool| {
        let mut waves = Vec::new();
        let mut scorer = Scorer::new(Fake::default(), usize::MAX);
        scorer
            .score(&prefix, &questions, is_done, |wave| {
                waves.push(wave);
                Ok::<(), EngineError>(())
            })
            .unwrap();
        (waves, scorer.tokens_run)
    };
    let (all, _) = waves(&|_| false);
    assert!(all.len() > 2);
    for done in 0..=all.len() {
        let first = all.get(done).map_or(60, |wave| wave.questions.start);
        let (rest, tokens_run) = waves(&|question| question < first);
        assert_eq!(rest, all[done..]);
        assert_eq!(tokens_run == 0, done == all.len());
    }
}

#[test]
fn a_smaller_cache_makes_smaller_waves() {
    let questions = group(60, 300, 10_000);
    let scorer = Scorer::new(Fake::default(), 0);
    let needed: usize =
        questions.iter().map(|candidates| scorer.needed_tokens(candidates, &[])).max().unwrap();
    let (large, small) = (check(&questions), check_within(&questions, 304 + 2 * needed));
    assert!(small.model.steps > 2 * large.model.steps);
    assert_eq!(small.tokens_run, large.tokens_run);
    assert!(large.model.most_held > small.model.most_held);
    assert!(small.model.most_held <= 304 + 2 * needed);
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

/// The stand-in refuses a sequence that was begun as a short one and becomes a long one.
#[test]
fn long_questions_run_a_short_prefix_for_themselves() {
    let questions = group(60, 300, 10_000);
    let run = |original_context| {
        let model = Fake { original_context, ..Fake::default() };
        check_on(model, &questions, usize::MAX).tokens_run
    };
    let long = questions.iter().filter(|candidates| candidates.longest() > 330).count() as u64;
    assert!(0 < long && long < 60);
    assert_eq!(run(Some(330)), run(None) + 300 * long);
    // The prefix is long itself, as all that begins with it, or all are short.
    assert_eq!(run(Some(200)), run(None));
    assert_eq!(run(Some(1000)), run(None));
}

#[test]
fn an_error_of_the_caller_ends_the_scoring() {
    let mut scorer = Scorer::new(Fake::default(), usize::MAX);
    let stopped = scorer.score(&[], &group(200, 100, 10_000), |_| false, |_| Err(Stop));
    assert!(matches!(stopped, Err(Stop)));
    assert!(scorer.tokens_run < 1000);
}

#[derive(Debug)]
struct Stop;

impl From<EngineError> for Stop {
    fn from(_: EngineError) -> Self {
        Self
    }
}
