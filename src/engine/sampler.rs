//! Choosing the next token from a row of logits.

use std::collections::VecDeque;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::EngineError;
use crate::kernels::elementwise::position_of_largest;

/// How tokens are chosen. The default is greedy: always the most likely token.
///
/// The filters act in the order repeat penalty, top-k, top-p, min-p, temperature: top-p and min-p
/// see the model's own probabilities, before the temperature flattens or sharpens them.
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
        ];
        for (name, value, in_range, range) in rules {
            if !in_range || !value.is_finite() {
                return Err(EngineError::Unusable(format!("{name} must be {range}, not {value}")));
            }
        }
        Ok(())
    }
}

/// Draws one sequence's tokens and remembers what its repeat penalty needs.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    random: StdRng,
    recent: VecDeque<u32>,
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
            candidates: Vec::new(),
            sampling,
        })
    }

    /// Chooses a token from a row of logits (natural logarithms, any constant offset) and
    /// remembers it.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        let token = if self.sampling.temperature == 0.0 && self.sampling.repeat_penalty == 1.0 {
            position_of_largest(logits) as u32
        } else {
            self.collect_candidates(logits);
            self.draw()
        };
        self.remember(token);
        token
    }

    fn remember(&mut self, token: u32) {
        if self.recent.len() == self.sampling.repeat_window {
            self.recent.pop_front();
        }
        if self.sampling.repeat_window > 0 {
            self.recent.push_back(token);
        }
    }

    /// Copies the logits, with those of recent tokens lowered: a positive one is divided by the
    /// penalty, a negative one multiplied (Keskar et al. 2019, CTRL, section 4.1).
    fn collect_candidates(&mut self, logits: &[f32]) {
        self.candidates.clear();
        self.candidates.extend(
            logits
                .iter()
                .enumerate()
                .map(|(token, &logit)| Candidate { token: token as u32, logit }),
        );
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
        let by_likelihood =
            |a: &Candidate, b: &Candidate| b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token));
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let candidates = &mut self.candidates;
        if temperature == 0.0 {
            return candidates.iter().min_by(|a, b| by_likelihood(a, b)).map_or(0, |c| c.token);
        }
        if top_k > 0 && top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, by_likelihood);
            candidates.truncate(top_k);
        }
        candidates.sort_unstable_by(by_likelihood);
        let Some(best) = candidates.first().map(|candidate| candidate.logit) else { return 0 };
        if top_p < 1.0 {
            let weights =
                candidates.iter().map(|candidate| f64::from(candidate.logit - best).exp());
            let kept = shortest_prefix(&weights.collect::<Vec<_>>(), f64::from(top_p));
            candidates.truncate(kept);
        }
        if min_p > 0.0 {
            let kept = candidates.partition_point(|c| (c.logit - best).exp() >= min_p);
            candidates.truncate(kept.max(1));
        }
        let weights: Vec<f64> =
            candidates.iter().map(|c| f64::from((c.logit - best) / temperature).exp()).collect();
        let chosen = shortest_prefix(&weights, self.random.random::<f64>()) - 1;
        candidates[chosen].token
    }
}

/// The length (at least 1) of the shortest prefix whose sum reaches `fraction` of the whole.
fn shortest_prefix(weights: &[f64], fraction: f64) -> usize {
    let target = weights.iter().sum::<f64>() * fraction;
    let mut sum = 0.0;
    for (index, weight) in weights.iter().enumerate() {
        sum += weight;
        if sum >= target {
            return index + 1;
        }
    }
    weights.len().max(1)
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
    fn the_repeat_penalty_makes_way_for_others() {
        let sampling = Sampling { repeat_penalty: 2.0, repeat_window: 2, ..Sampling::default() };
        assert_eq!(draws(sampling, &[1.0, 0.9, 0.8], 4), [0, 1, 2, 0]);
    }

    #[test]
    fn figures_out_of_range_are_named() {
        let sampling = Sampling { top_p: 1.5, ..Sampling::default() };
        let error = Sampler::new(sampling, &[]).unwrap_err().to_string();
        assert!(error.contains("top-p") && error.contains("1.5"), "{error}");
    }
}
