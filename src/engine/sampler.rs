//! Choosing the next token from a row of logits.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::EngineError;
use crate::kernels::elementwise::position_of_largest;

/// How tokens are chosen. The default is greedy: always the most likely token.
///
/// First, biases are added and penalties taken off. Then the filters act in the order top-k, top-p,
/// min-p, temperature: top-p and min-p see the probabilities before the temperature flattens or
/// sharpens them.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Divides the logits before the draw; 0 chooses the most likely token.
    pub temperature: f32,
    /// Keeps the K most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keeps the most likely tokens whose probabilities first reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this fraction as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Makes tokens of the last [`Sampling::repeat_window`] less likely; 1 does nothing.
    pub repeat_penalty: f32,
    /// How many of the last tokens the penalty looks at.
    pub repeat_window: usize,
    /// Taken off the logit of each token that was generated before; 0 does nothing.
    pub presence_penalty: f32,
    /// Taken off a token's logit for each time that it was generated before; 0 does nothing.
    pub frequency_penalty: f32,
    /// Added to the logits of tokens; −∞ forbids one.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the draws: the same seed and logits give the same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            repeat_window: 64,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl Sampling {
    /// Checks that every figure lies in its range.
    ///
    /// # Errors
    /// The first one that does not, with its range.
    pub fn check(&self) -> Result<(), EngineError> {
        let rules = [
            ("temperature", self.temperature, self.temperature >= 0.0, "0 or more"),
            ("top-p", self.top_p, self.top_p > 0.0 && self.top_p <= 1.0, "above 0 and up to 1"),
            ("min-p", self.min_p, (0.0..=1.0).contains(&self.min_p), "from 0 to 1"),
            ("repeat-penalty", self.repeat_penalty, self.repeat_penalty > 0.0, "above 0"),
            ("presence-penalty", self.presence_penalty, true, "a number"),
            ("frequency-penalty", self.frequency_penalty, true, "a number"),
        ];
        for (name, value, in_range, range) in rules {
            if !in_range || !value.is_finite() {
                return Err(EngineError::Unusable(format!("{name} must be {range}, not {value}")));
            }
        }
        match self.logit_bias.iter().find(|(_, bias)| bias.is_nan()) {
            Some((token, _)) => Err(EngineError::Unusable(format!(
                "logit-bias must be a number, not that of the token {token}"
            ))),
            None => Ok(()),
        }
    }

    /// Whether logits stay as they are.
    fn changes_nothing(&self) -> bool {
        self.repeat_penalty == 1.0
            && self.presence_penalty == 0.0
            && self.frequency_penalty == 0.0
            && self.logit_bias.is_empty()
    }
}

/// Draws one sequence's tokens and remembers what its repeat penalty needs.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    random: StdRng,
    recent: VecDeque<u32>,
    /// How often each token was generated, where that counts.
    generated: HashMap<u32, u32>,
    candidates: Vec<Candidate>,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: u32,
    logit: f32,
}

impl Sampler {
    /// A sampler for a sequence that begins with `prompt`.
    ///
    /// # Errors
    /// Options out of their range.
    pub fn new(sampling: Sampling, prompt: &[u32]) -> Result<Self, EngineError> {
        sampling.check()?;
        let recent = prompt[prompt.len().saturating_sub(sampling.repeat_window)..].iter();
        Ok(Self {
            random: StdRng::seed_from_u64(sampling.seed),
            recent: recent.copied().collect(),
            generated: HashMap::new(),
            candidates: Vec::new(),
            sampling,
        })
    }

    /// Chooses a token from a row of logits (natural logarithms, any constant offset) and
    /// remembers it.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        let is_plain = self.sampling.temperature == 0.0 && self.sampling.changes_nothing();
        let token = if is_plain {
            position_of_largest(logits) as u32
        } else {
            self.collect_candidates(logits);
            self.draw()
        };
        self.remember(token);
        token
    }

    fn remember(&mut self, token: u32) {
        if self.sampling.presence_penalty != 0.0 || self.sampling.frequency_penalty != 0.0 {
            *self.generated.entry(token).or_default() += 1;
        }
        if self.recent.len() == self.sampling.repeat_window {
            self.recent.pop_front();
        }
        if self.sampling.repeat_window > 0 {
            self.recent.push_back(token);
        }
    }

    /// Copies the logits, with biases added and those of recent tokens lowered: a positive one is
    /// divided by the repeat penalty, a negative one multiplied (Keskar et al. 2019, CTRL, section 4.1).
    fn collect_candidates(&mut self, logits: &[f32]) {
        self.candidates.clear();
        self.candidates.extend(
            logits
                .iter()
                .enumerate()
                .map(|(token, &logit)| Candidate { token: token as u32, logit }),
        );
        for &(token, bias) in &self.sampling.logit_bias {
            if let Some(candidate) = self.candidates.get_mut(token as usize) {
                candidate.logit += bias;
            }
        }
        for (&token, &count) in &self.generated {
            if let Some(candidate) = self.candidates.get_mut(token as usize) {
                let Sampling { presence_penalty, frequency_penalty, .. } = self.sampling;
                candidate.logit -= presence_penalty + frequency_penalty * count as f32;
            }
        }
        let penalty = self.sampling.repeat_penalty;
        if penalty == 1.0 {
            return;
        }
        for &token in &self.recent {
            let Some(&logit) = logits.get(token as usize) else { continue };
            self.candidates[token as usize].logit =
                if logit > 0.0 { logit / penalty } else { logit * penalty };
        }
    }

    /// Applies the filters to the candidates and draws one.
    fn draw(&mut self) -> u32 {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let Some(best) = self.candidates.iter().min_by(by_likelihood).copied() else { return 0 };
        if temperature == 0.0 {
            return best.token;
        }
        let relative = |candidate: &Candidate| candidate.logit - best.logit;
        let mut ranked = Ranked { candidates: &mut self.candidates, sorted: 0 };
        if top_k > 0 {
            ranked.keep(top_k);
        }
        if top_p < 1.0 {
            let kept = ranked.shortest_prefix(|c| f64::from(relative(c)).exp(), f64::from(top_p));
            ranked.keep(kept);
        }
        if min_p > 0.0 {
            let likely = ranked.candidates.iter().filter(|c| relative(c).exp() >= min_p).count();
            ranked.keep(likely.max(1));
        }
        let weight = |c: &Candidate| f64::from(relative(c) / temperature).exp();
        let chosen = ranked.shortest_prefix(weight, self.random.random::<f64>()) - 1;
        ranked.candidates[chosen].token
    }
}

fn by_likelihood(a: &impl Borrow<Candidate>, b: &impl Borrow<Candidate>) -> Ordering {
    let (a, b) = (a.borrow(), b.borrow());
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// Candidates that are put in order, the likeliest first, only as far as somebody looks: the tail
/// of a vocabulary is long.
struct Ranked<'a> {
    candidates: &'a mut Vec<Candidate>,
    /// So many are in their places.
    sorted: usize,
}

impl Ranked<'_> {
    /// Forgets all but the likeliest.
    fn keep(&mut self, count: usize) {
        if self.sorted < count && count < self.candidates.len() {
            self.candidates[self.sorted..]
                .select_nth_unstable_by(count - 1 - self.sorted, by_likelihood);
        }
        self.candidates.truncate(count);
        self.sorted = self.sorted.min(count);
    }

    /// Puts the first `count` in their places.
    fn sort(&mut self, count: usize) {
        let rest = &mut self.candidates[self.sorted..];
        let more = count - self.sorted;
        if more < rest.len() {
            rest.select_nth_unstable_by(more, by_likelihood);
        }
        rest[..more].sort_unstable_by(by_likelihood);
        self.sorted = count;
    }

    /// The length (at least 1) of the shortest prefix whose weights' sum reaches `fraction` of the
    /// whole. The prefix is in its place.
    fn shortest_prefix(&mut self, weight: impl Fn(&Candidate) -> f64, fraction: f64) -> usize {
        /// Candidates that are put in order first; four times as many follow each time.
        const FIRST: usize = 64;
        let target = self.candidates.iter().map(&weight).sum::<f64>() * fraction;
        let mut sum = 0.0;
        for index in 0..self.candidates.len() {
            if index == self.sorted {
                self.sort((4 * index).max(FIRST).min(self.candidates.len()));
            }
            sum += weight(&self.candidates[index]);
            if sum >= target {
                return index + 1;
            }
        }
        self.candidates.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(sampling: Sampling, logits: &[f32], count: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling, &[]).unwrap();
        (0..count).map(|_| sampler.sample(logits)).collect()
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(draws(Sampling::default(), &[0.5, 2.0, 2.0, -1.0], 2), [1, 1]);
    }

    #[test]
    fn the_seed_fixes_the_draws() {
        let logits: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin()).collect();
        let sampling = |seed| Sampling { temperature: 1.0, seed, ..Sampling::default() };
        assert_eq!(draws(sampling(7), &logits, 50), draws(sampling(7), &logits, 50));
        assert_ne!(draws(sampling(7), &logits, 50), draws(sampling(8), &logits, 50));
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.7f32.ln(), 0.2f32.ln(), 0.1f32.ln()];
        let tokens = draws(Sampling { temperature: 1.0, ..Sampling::default() }, &logits, 20_000);
        for (token, probability) in [(0, 0.7), (1, 0.2), (2, 0.1)] {
            let share = tokens.iter().filter(|&&t| t == token).count() as f64 / 20_000.0;
            assert!((share - probability).abs() < 0.015, "token {token}: {share}");
        }
    }

    #[test]
    fn filters_keep_only_the_likely() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.15f32.ln(), 0.05f32.ln()];
        let hot = Sampling { temperature: 5.0, ..Sampling::default() };
        let largest = |sampling| *draws(sampling, &logits, 500).iter().max().unwrap();
        assert_eq!(largest(Sampling { top_k: 2, ..hot.clone() }), 1);
        assert_eq!(largest(Sampling { top_p: 0.7, ..hot.clone() }), 1);
        assert_eq!(largest(Sampling { top_p: 0.9, ..hot.clone() }), 2);
        assert_eq!(largest(Sampling { min_p: 0.29, ..hot.clone() }), 2);
        assert_eq!(largest(hot), 3);
    }

    #[test]
    fn candidates_are_in_order_as_far_as_one_looks() {
        let mut state = 1u32;
        let candidates: Vec<Candidate> = (0..3000)
            .map(|token| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                Candidate { token, logit: (state >> 24) as f32 / 20.0 }
            })
            .collect();
        let mut sorted = candidates.clone();
        sorted.sort_by(by_likelihood);
        let weight = |candidate: &Candidate| f64::from(candidate.logit).exp();
        for fraction in [0.0, 0.01, 0.3, 0.9, 0.99999, 1.0] {
            for kept in [1, 60, 1000, 3000] {
                let mut ranked = Ranked { candidates: &mut candidates.clone(), sorted: 0 };
                ranked.keep(kept);
                let total: f64 = sorted[..kept].iter().map(weight).sum();
                let length = ranked.shortest_prefix(weight, fraction);
                let sum_of = |length: usize| sorted[..length].iter().map(weight).sum::<f64>();
                assert!(length == kept || sum_of(length) >= total * fraction * (1.0 - 1e-9));
                assert!(length == 1 || sum_of(length - 1) < total * fraction * (1.0 + 1e-9));
                let tokens = |candidates: &[Candidate]| -> Vec<u32> {
                    candidates[..length].iter().map(|candidate| candidate.token).collect()
                };
                assert_eq!(tokens(ranked.candidates), tokens(&sorted));
            }
        }
    }

    #[test]
    fn the_repeat_penalty_makes_way_for_others() {
        let sampling = Sampling { repeat_penalty: 2.0, repeat_window: 2, ..Sampling::default() };
        assert_eq!(draws(sampling, &[1.0, 0.9, 0.8], 4), [0, 1, 2, 0]);
    }

    #[test]
    fn penalties_count_what_was_generated_and_biases_come_first() {
        let presence = Sampling { presence_penalty: 0.15, ..Sampling::default() };
        assert_eq!(draws(presence, &[1.0, 0.9, 0.8], 4), [0, 1, 0, 0]);
        let frequency = Sampling { frequency_penalty: 0.15, ..Sampling::default() };
        assert_eq!(draws(frequency, &[1.0, 0.9, 0.8], 5), [0, 1, 0, 2, 1]);
        let bias = vec![(2, 5.0), (0, f32::NEG_INFINITY), (9, 1.0)];
        let biased = Sampling { logit_bias: bias, ..Sampling::default() };
        assert_eq!(draws(biased, &[1.0, 0.9, 0.8], 1), [2]);
        let broken = Sampling { logit_bias: vec![(2, f32::NAN)], ..Sampling::default() };
        assert!(broken.check().is_err());
    }

    #[test]
    fn figures_out_of_range_are_named() {
        let sampling = Sampling { top_p: 1.5, ..Sampling::default() };
        let error = Sampler::new(sampling, &[]).unwrap_err().to_string();
        assert!(error.contains("top-p") && error.contains("1.5"), "{error}");
    }
}
