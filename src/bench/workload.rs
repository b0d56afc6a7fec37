//! Prompts of an exact number of tokens.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Makes prompts of random tokens, each with another first token until all have had their turn, so
/// that no engine can answer one from another's cached prefix. (Prompts that begin with the same
/// token, a vocabulary apart, differ at random from the second on.) What the tokens say does not
/// matter: a dense model does the same work for every token.
#[derive(Debug)]
pub(super) struct Prompts {
    vocabulary: u32,
    forbidden: Vec<u32>,
    made: u32,
    random: StdRng,
}

impl Prompts {
    /// Prompts over `vocabulary` tokens without the `forbidden` ones.
    ///
    /// # Panics
    /// If every token is forbidden.
    pub fn new(vocabulary: usize, forbidden: Vec<u32>, seed: u64) -> Self {
        let vocabulary = u32::try_from(vocabulary).unwrap_or(u32::MAX);
        assert!((0..vocabulary).any(|token| !forbidden.contains(&token)), "no token to draw from");
        Self { vocabulary, forbidden, made: 0, random: StdRng::seed_from_u64(seed) }
    }

    /// The next prompt.
    pub fn next(&mut self, tokens: usize) -> Vec<u32> {
        let mut prompt: Vec<u32> = (0..tokens).map(|_| self.draw()).collect();
        if let Some(first) = prompt.first_mut() {
            // Counting up the first token keeps prompts apart from their very beginning.
            loop {
                *first = self.made % self.vocabulary;
                self.made = self.made.wrapping_add(1);
                if !self.forbidden.contains(first) {
                    break;
                }
            }
        }
        prompt
    }

    fn draw(&mut self) -> u32 {
        loop {
            let token = self.random.random_range(0..self.vocabulary);
            if !self.forbidden.contains(&token) {
                return token;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_have_the_length_asked_for_and_differ_from_the_first_token() {
        let mut prompts = Prompts::new(100, vec![0, 3], 7);
        let made: Vec<Vec<u32>> = (0..98).map(|_| prompts.next(40)).collect();
        let mut first: Vec<u32> = made.iter().map(|prompt| prompt[0]).collect();
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), 98);
        for prompt in &made {
            assert_eq!(prompt.len(), 40);
            assert!(prompt.iter().all(|&token| token < 100 && token != 0 && token != 3));
        }
        assert_eq!(Prompts::new(100, vec![0, 3], 7).next(40), made[0], "a seed repeats");
    }
}
