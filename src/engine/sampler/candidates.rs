//! The tokens that may come next.

use std::borrow::Borrow;
use std::cmp::Ordering;

/// A token that may come next.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    pub token: u32,
    pub logit: f32,
}

/// The likeliest first; of equals, the smaller number.
pub fn by_likelihood(a: &impl Borrow<Candidate>, b: &impl Borrow<Candidate>) -> Ordering {
    let (a, b) = (a.borrow(), b.borrow());
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// Candidates that are put in order, the likeliest first, only as far as somebody looks: the tail
/// of a vocabulary is long.
pub struct Ranked<'a> {
    candidates: &'a mut Vec<Candidate>,
    /// So many are in their places.
    sorted: usize,
}

impl<'a> Ranked<'a> {
    /// Nothing is in its place yet.
    pub fn new(candidates: &'a mut Vec<Candidate>) -> Self {
        Self { candidates, sorted: 0 }
    }

    /// All of them.
    pub fn all(&self) -> &[Candidate] {
        self.candidates
    }

    /// The likeliest.
    pub fn best(&self) -> Option<Candidate> {
        self.candidates.iter().min_by(by_likelihood).copied()
    }

    /// Leaves nothing but this one.
    pub fn only(&mut self, candidate: Candidate) {
        self.candidates.clear();
        self.candidates.push(candidate);
        self.sorted = 1;
    }

    /// Forgets all but the likeliest.
    pub fn keep(&mut self, count: usize) {
        if self.sorted < count && count < self.candidates.len() {
            self.candidates[self.sorted..]
                .select_nth_unstable_by(count - 1 - self.sorted, by_likelihood);
        }
        self.candidates.truncate(count);
        self.sorted = self.sorted.min(count);
    }

    /// Puts the first `count` in their places.
    pub fn sort(&mut self, count: usize) {
        let count = count.clamp(self.sorted, self.candidates.len());
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
    pub fn shortest_prefix(&mut self, weight: impl Fn(&Candidate) -> f64, fraction: f64) -> usize {
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

    /// Locally typical sampling (Meister et al. 2023): keeps the tokens whose surprise is nearest to the one
    /// that is to be expected, until their probabilities reach `fraction`. At least one stays.
    pub fn keep_typical(&mut self, weight: impl Fn(&Candidate) -> f64, fraction: f64) {
        let total: f64 = self.candidates.iter().map(&weight).sum();
        let mut surprises: Vec<(f64, f64, Candidate)> = self
            .candidates
            .iter()
            .map(|candidate| (weight(candidate) / total, candidate))
            .filter(|(probability, _)| *probability > 0.0)
            .map(|(probability, candidate)| (probability, -probability.ln(), *candidate))
            .collect();
        let expected: f64 =
            surprises.iter().map(|(probability, surprise, _)| probability * surprise).sum();
        let distance = |surprise: f64| (surprise - expected).abs();
        surprises.sort_by(|a, b| distance(a.1).total_cmp(&distance(b.1)));
        let mut sum = 0.0;
        let mut kept = Vec::new();
        for (probability, _, candidate) in surprises {
            kept.push(candidate);
            sum += probability;
            if sum > fraction {
                break;
            }
        }
        if !kept.is_empty() {
            *self.candidates = kept;
            self.sorted = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
                let mut candidates = candidates.clone();
                let mut ranked = Ranked::new(&mut candidates);
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
    fn the_typical_are_those_of_the_expected_surprise() {
        // Surprises 0.69, 1.2, 1.9, 3.0; expected 1.14.
        let likely = [0.5f32, 0.3, 0.15, 0.05];
        let kept = |fraction: f64| -> Vec<u32> {
            let mut candidates: Vec<Candidate> =
                (0..).zip(likely).map(|(token, p)| Candidate { token, logit: p.ln() }).collect();
            let mut ranked = Ranked::new(&mut candidates);
            ranked.keep_typical(|c| f64::from(c.logit).exp(), fraction);
            candidates.iter().map(|candidate| candidate.token).collect()
        };
        assert_eq!(kept(0.2), [1]);
        assert_eq!(kept(0.7), [1, 0]);
        assert_eq!(kept(0.9), [1, 0, 2]);
        assert_eq!(kept(1.0), [1, 0, 2, 3]);
    }
}
