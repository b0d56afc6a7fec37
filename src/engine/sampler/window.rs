//! The tokens that penalties look at.

use std::collections::{HashMap, VecDeque};

/// The last tokens of a sequence, and how often each of them is there.
#[derive(Debug, Clone)]
pub struct Window {
    size: usize,
    tokens: VecDeque<u32>,
    counts: HashMap<u32, u32>,
}

impl Window {
    /// The last `size` tokens; none yet.
    pub fn new(size: usize) -> Self {
        Self { size, tokens: VecDeque::new(), counts: HashMap::new() }
    }

    /// These come next.
    pub fn extend(&mut self, tokens: &[u32]) {
        for &token in &tokens[tokens.len().saturating_sub(self.size)..] {
            self.push(token);
        }
    }

    /// This one comes next.
    pub fn push(&mut self, token: u32) {
        if self.size == 0 {
            return;
        }
        if self.tokens.len() == self.size
            && let Some(oldest) = self.tokens.pop_front()
            && let Some(count) = self.counts.get_mut(&oldest)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&oldest);
            }
        }
        self.tokens.push_back(token);
        *self.counts.entry(token).or_default() += 1;
    }

    /// Each token that is there, and how often.
    pub fn counts(&self) -> impl Iterator<Item = (u32, u32)> {
        self.counts.iter().map(|(&token, &count)| (token, count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_old_does_not_count() {
        let counts = |size: usize, tokens: &[u32]| -> Vec<(u32, u32)> {
            let mut window = Window::new(size);
            window.extend(&tokens[..2]);
            tokens[2..].iter().for_each(|&token| window.push(token));
            let mut counts: Vec<_> = window.counts().collect();
            counts.sort_unstable();
            counts
        };
        assert_eq!(counts(0, &[7, 8, 9]), []);
        assert_eq!(counts(1, &[7, 8, 9]), [(9, 1)]);
        assert_eq!(counts(3, &[7, 8, 9, 9]), [(8, 1), (9, 2)]);
        assert_eq!(counts(usize::MAX, &[7, 8, 7]), [(7, 2), (8, 1)]);
    }
}
