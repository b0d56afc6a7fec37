//! Choosing the next token from a row of logits.

mod candidates;
mod sampling;
mod window;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{EngineError, Probabilities};
use crate::kernels::elementwise::position_of_largest;
use candidates::{Candidate, Ranked};
use window::Window;

pub use sampling::{Filter, Sampling};

/// Draws one sequence's tokens and remembers what its penalties need.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    random: StdRng,
    /// The last tokens, the prompt's included: those that the repeat penalty looks at.
    recent: Window,
    /// What was generated, where that counts.
    generated: Window,
    /// What the last token was drawn from.
    candidates: Vec<Candidate>,
    /// The temperature at the end of the filters of the last draw.
    temperature: f32,
}

impl Sampler {
    /// A sampler for a sequence that begins with `prompt`.
    ///
    /// # Errors
    /// Options out of their range.
    pub fn new(sampling: Sampling, prompt: &[u32]) -> Result<Self, EngineError> {
        sampling.check()?;
        let mut recent =
            Window::new(if sampling.looks_back() { sampling.repeat_window } else { 0 });
        recent.extend(prompt);
        let counts_all = sampling.counts() && !sampling.counts_recent;
        let generated = Window::new(if counts_all { usize::MAX } else { 0 });
        Ok(Self {
            random: StdRng::seed_from_u64(sampling.seed),
            recent,
            generated,
            candidates: Vec::new(),
            temperature: sampling.temperature,
            sampling,
        })
    }

    /// Chooses a token from a row of logits (natural logarithms, any constant offset) and
    /// remembers it.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        let token = if self.sampling.is_plain() {
            let token = position_of_largest(logits) as u32;
            self.candidates.clear();
            self.candidates.push(Candidate { token, logit: 0.0 });
            token
        } else {
            self.collect_candidates(logits);
            self.draw()
        };
        self.recent.push(token);
        self.generated.push(token);
        token
    }

    /// The probabilities that the last token was drawn by: its own, and those of the `top` likeliest that
    /// all filters had left over. Tokens without a chance are not told.
    pub fn drawn(&mut self, token: u32, top: usize) -> Probabilities {
        let temperature = if self.temperature > 0.0 { self.temperature } else { 1.0 };
        let mut ranked = Ranked::new(&mut self.candidates);
        let best = ranked.best().map_or(0.0, |best| best.logit);
        let weight = |c: &Candidate| f64::from((c.logit - best) / temperature).exp();
        let told = |c: &Candidate, total: f64| (c.token, (weight(c) / total).ln());
        ranked.sort(top);
        let total: f64 = ranked.all().iter().map(weight).sum();
        let own = ranked.all().iter().find(|c| c.token == token).map_or(best, |c| c.logit);
        let has_chance = |c: &&Candidate| weight(c) > 0.0;
        Probabilities {
            token,
            log_probability: told(&Candidate { token, logit: own }, total).1,
            rank: 1 + ranked.all().iter().filter(|c| c.logit > own).count(),
            top: ranked.all().iter().take(top).filter(has_chance).map(|c| told(c, total)).collect(),
        }
    }

    /// Copies the logits, with biases added and penalties taken off.
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
        self.penalize();
    }

    /// A positive logit of a recent token is divided by the repeat penalty, a negative one multiplied
    /// (Keskar et al. 2019, CTRL, section 4.1). Then the presence and frequency penalties come off.
    fn penalize(&mut self) {
        let Sampling { repeat_penalty, presence_penalty, frequency_penalty, .. } = self.sampling;
        if repeat_penalty != 1.0 {
            for (token, _) in self.recent.counts() {
                let Some(candidate) = self.candidates.get_mut(token as usize) else { continue };
                if candidate.logit > 0.0 {
                    candidate.logit /= repeat_penalty;
                } else {
                    candidate.logit *= repeat_penalty;
                }
            }
        }
        if !self.sampling.counts() {
            return;
        }
        let counted = if self.sampling.counts_recent { &self.recent } else { &self.generated };
        for (token, count) in counted.counts() {
            if let Some(candidate) = self.candidates.get_mut(token as usize) {
                candidate.logit -= presence_penalty + frequency_penalty * count as f32;
            }
        }
    }

    /// Applies the filters to the candidates, in their order, and draws one.
    fn draw(&mut self) -> u32 {
        self.temperature = 1.0;
        let mut ranked = Ranked::new(&mut self.candidates);
        let Some(mut best) = ranked.best() else { return 0 };
        if self.sampling.temperature == 0.0 {
            ranked.only(best);
            return best.token;
        }
        for filter in &self.sampling.order {
            let temperature = self.temperature;
            let weight = |c: &Candidate| f64::from((c.logit - best.logit) / temperature).exp();
            match filter {
                Filter::TopK if self.sampling.top_k > 0 => ranked.keep(self.sampling.top_k),
                Filter::TopP if self.sampling.top_p < 1.0 => {
                    let kept = ranked.shortest_prefix(weight, f64::from(self.sampling.top_p));
                    ranked.keep(kept);
                }
                Filter::MinP if self.sampling.min_p > 0.0 => {
                    let least = f64::from(self.sampling.min_p);
                    let likely = ranked.all().iter().filter(|c| weight(c) >= least).count();
                    ranked.keep(likely.max(1));
                }
                Filter::Typical if self.sampling.typical_p < 1.0 => {
                    ranked.keep_typical(weight, f64::from(self.sampling.typical_p));
                    best = ranked.best().unwrap_or(best);
                }
                Filter::Temperature => self.temperature = self.sampling.temperature,
                _ => {}
            }
        }
        let temperature = self.temperature;
        let weight = |c: &Candidate| f64::from((c.logit - best.logit) / temperature).exp();
        let chosen = ranked.shortest_prefix(weight, self.random.random::<f64>()) - 1;
        ranked.all()[chosen].token
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
    fn a_penalty_leaves_a_bias_and_may_look_at_the_prompt() {
        let logits = [1.0, 0.9, 0.8];
        let first = |sampling: Sampling| Sampler::new(sampling, &[2, 0]).unwrap().sample(&logits);
        let biased = vec![(2, 5.0)];
        let repeat = Sampling { repeat_penalty: 2.0, logit_bias: biased, ..Sampling::default() };
        assert_eq!(first(repeat), 2);
        let presence = Sampling { presence_penalty: 0.5, ..Sampling::default() };
        assert_eq!(first(presence.clone()), 0);
        let recent = Sampling { counts_recent: true, ..presence };
        assert_eq!(first(recent.clone()), 1);
        assert_eq!(first(Sampling { repeat_window: 0, ..recent }), 0);
    }

    #[test]
    fn filters_act_in_their_order_and_the_draw_can_be_told() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.15f32.ln(), 0.05f32.ln()];
        let told = |order: &[Filter]| {
            let sampling = Sampling {
                temperature: 0.1,
                top_p: 0.6,
                order: order.to_vec(),
                ..Sampling::default()
            };
            let mut sampler = Sampler::new(sampling, &[]).unwrap();
            let token = sampler.sample(&logits);
            sampler.drawn(token, 9).top
        };
        // Sharpened first, the likeliest alone has more than 0.6.
        assert_eq!(told(&[Filter::Temperature, Filter::TopP]), [(0, 0.0)]);
        assert_eq!(told(&[Filter::TopP, Filter::Temperature]).len(), 2);
        let plain = told(&[Filter::TopP]);
        assert!((plain[0].1.exp() - 0.625).abs() < 1e-6, "{plain:?}");
    }

    #[test]
    fn figures_out_of_range_are_named() {
        let sampling = Sampling { top_p: 1.5, ..Sampling::default() };
        let error = Sampler::new(sampling, &[]).unwrap_err().to_string();
        assert!(error.contains("top-p") && error.contains("1.5"), "{error}");
    }
}
