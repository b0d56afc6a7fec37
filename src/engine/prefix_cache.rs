//! Finished sequences that are kept, for prompts that begin like them.

use std::collections::HashSet;

use super::{Engine, SequenceId};

/// A shorter beginning in common is not worth a sequence in pieces.
pub(super) const SHORTEST_SHARED: usize = 8;

/// A sequence that nobody extends any more.
#[derive(Debug)]
pub(super) struct Kept {
    /// The tokens whose keys and values it holds.
    pub tokens: Vec<u32>,
    pub sequence: SequenceId,
    /// Whether it was computed as a long one: see [`Engine::original_context`].
    pub is_long: bool,
    /// When it was last of use.
    used: u64,
}

impl Kept {
    pub fn new(tokens: Vec<u32>, sequence: SequenceId, is_long: bool) -> Self {
        Self { tokens, sequence, is_long, used: 0 }
    }
}

/// Kept sequences, bounded by the memory of their keys and values; the one that was not of use for the
/// longest time goes first.
#[derive(Debug)]
pub(super) struct PrefixCache {
    budget: u64,
    kept: Vec<Kept>,
    /// The pieces of memory that the kept sequences hold.
    pieces: HashSet<usize>,
    bytes: u64,
    clock: u64,
}

impl PrefixCache {
    /// An empty cache of at most `budget` bytes; with 0 it keeps nothing.
    pub fn new(budget: u64) -> Self {
        Self { budget, kept: Vec::new(), pieces: HashSet::new(), bytes: 0, clock: 0 }
    }

    /// Whether it keeps anything at all.
    pub fn is_on(&self) -> bool {
        self.budget > 0
    }

    /// Bytes of the memory that the kept sequences hold, in whole pieces. What several share counts
    /// once.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a piece of memory is one that a kept sequence holds.
    pub fn holds(&self, piece: usize) -> bool {
        self.pieces.contains(&piece)
    }

    /// How many sequences are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// The sequence that has the longest beginning in common with `tokens`, and how many tokens that is.
    pub fn longest(&self, tokens: &[u32], is_long: bool) -> Option<(usize, usize)> {
        let alike = self.kept.iter().enumerate().filter(|(_, kept)| kept.is_long == is_long);
        let lengths = alike.map(|(index, kept)| (index, common(&kept.tokens, tokens)));
        lengths.max_by_key(|&(_, length)| length).filter(|&(_, length)| length >= SHORTEST_SHARED)
    }

    /// A new sequence that begins with the first `length` tokens of a kept one and expects `new_tokens` more.
    /// Where that is all of the kept one, it is the same sequence, which is kept no longer: its room is
    /// used on.
    pub fn begin(
        &mut self,
        engine: &mut Engine,
        (index, length): (usize, usize),
        new_tokens: usize,
    ) -> SequenceId {
        if length == self.kept[index].tokens.len() {
            let sequence = self.kept.swap_remove(index).sequence;
            self.count(engine);
            engine.expect(sequence, new_tokens);
            return sequence;
        }
        self.clock += 1;
        self.kept[index].used = self.clock;
        engine.fork_at(self.kept[index].sequence, length, new_tokens)
    }

    /// Keeps a sequence, if it fits, and gives up others for it.
    pub fn keep(&mut self, engine: &mut Engine, mut new: Kept) {
        let covers = |long: &Kept, short: &Kept| {
            long.is_long == short.is_long && long.tokens.starts_with(&short.tokens)
        };
        if !self.is_on() || new.tokens.len() < SHORTEST_SHARED {
            return engine.end(new.sequence);
        }
        self.clock += 1;
        if let Some(longer) = self.kept.iter_mut().find(|kept| covers(kept, &new)) {
            longer.used = self.clock;
            return engine.end(new.sequence);
        }
        for index in (0..self.kept.len()).rev() {
            if covers(&new, &self.kept[index]) {
                engine.end(self.kept.swap_remove(index).sequence);
            }
        }
        new.used = self.clock;
        self.kept.push(new);
        self.count(engine);
        while self.bytes > self.budget {
            self.drop_oldest(engine);
        }
    }

    /// Gives up the sequence that was not of use for the longest time; false if there is none.
    pub fn drop_oldest(&mut self, engine: &mut Engine) -> bool {
        let oldest = (0..self.kept.len()).min_by_key(|&index| self.kept[index].used);
        let Some(oldest) = oldest else { return false };
        engine.end(self.kept.swap_remove(oldest).sequence);
        self.count(engine);
        true
    }

    /// Counts anew what the kept sequences hold.
    fn count(&mut self, engine: &Engine) {
        self.pieces.clear();
        let pieces = self.kept.iter().flat_map(|kept| engine.memory_of(kept.sequence));
        let new = pieces.filter(|&(piece, _)| self.pieces.insert(piece));
        self.bytes = new.map(|(_, bytes)| bytes).sum();
    }
}

/// How many tokens two texts have in common at their beginning.
pub(super) fn common(one: &[u32], other: &[u32]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}
