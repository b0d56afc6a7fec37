//! Keys and values of a sequence, in segments that forks share.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::ops::Ops;
use crate::kernels::attention::KeyValues;

/// Positions that a segment has room for at least.
const SMALLEST_SEGMENT: usize = 16;

/// Positions of a segment that is copied rather than left among many as short.
const SHORT_SEGMENT: usize = 64;

/// So many short segments become one.
const MOST_SHORT_SEGMENTS: usize = 4;

/// A contiguous stretch of a sequence's keys and values, over all layers.
#[derive(Debug)]
pub(super) struct Segment {
    /// The memory, in the back end's own format.
    pub(super) storage: SegmentStorage,
    /// Positions that it has room for.
    pub(super) capacity: usize,
    /// Positions that are filled.
    pub(super) length: usize,
}

/// Keys and values of all layers, as the back end that runs the model holds them.
#[derive(Debug)]
pub(super) enum SegmentStorage {
    /// For our CPU kernels.
    Integers(KeyValues),
    /// `[layers, 2, kv_heads, capacity, head_size]` in f16; keys come first in the second dimension.
    Tensor(Tensor),
}

/// What a sequence remembers. Forks share what the parent held at that time.
#[derive(Debug)]
pub struct SequenceCache {
    /// Filled segments, oldest first. Forks may hold them too, so they never change.
    shared: Vec<Arc<Segment>>,
    /// The segment that grows.
    tail: Option<Segment>,
    length: usize,
    expected: usize,
}

impl SequenceCache {
    /// An empty sequence that will probably grow to `expected_tokens`.
    pub fn new(expected_tokens: usize) -> Self {
        Self { shared: Vec::new(), tail: None, length: 0, expected: expected_tokens }
    }

    /// A sequence that begins with everything that this one holds, which is not copied. This one
    /// may go on growing; both then do so in segments of their own.
    pub fn fork(&mut self, expected_new_tokens: usize) -> Self {
        if let Some(tail) = self.tail.take() {
            self.shared.push(Arc::new(tail));
        }
        Self {
            shared: self.shared.clone(),
            tail: None,
            length: self.length,
            expected: self.length.saturating_add(expected_new_tokens),
        }
    }

    /// Tokens that the sequence holds.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Makes room for `count` more positions in the tail. Without room in the tail, a new segment as
    /// large as the expectation or, beyond that, as the whole sequence follows it, so that little is
    /// ever copied: only of a sequence that is forked again and again as it grows, the short
    /// segments between its forks.
    pub(super) fn reserve<O: Ops>(
        &mut self,
        count: usize,
        context_length: usize,
        ops: &O,
    ) -> Result<()> {
        let has_room = |segment: &Segment| segment.capacity - segment.length >= count;
        if self.tail.is_none() {
            self.tail = self.take_back_last();
        }
        if self.tail.as_ref().is_some_and(has_room) {
            return Ok(());
        }
        self.shared.extend(self.tail.take().filter(|tail| tail.length > 0).map(Arc::new));
        let expected = self.expected.saturating_sub(self.length);
        let wanted = if expected > 0 { expected } else { self.length.max(SMALLEST_SEGMENT) };
        let limit = context_length.saturating_sub(self.length);
        let merged = self.shared.len() - self.short_segments();
        let copied: usize = self.shared[merged..].iter().map(|segment| segment.length).sum();
        let capacity = copied + wanted.min(limit).max(count);
        let mut tail = Segment { storage: ops.cache_storage(capacity)?, capacity, length: 0 };
        for segment in &self.shared[merged..] {
            ops.append(&mut tail, segment)?;
        }
        self.shared.truncate(merged);
        self.tail = Some(tail);
        Ok(())
    }

    /// How many short segments at the end have become too many; 0 if they have not.
    fn short_segments(&self) -> usize {
        let is_short = |segment: &&Arc<Segment>| segment.length <= SHORT_SEGMENT;
        let count = self.shared.iter().rev().take_while(is_short).count();
        if count >= MOST_SHORT_SEGMENTS { count } else { 0 }
    }

    /// The segment that grows, where room was reserved.
    pub(super) fn tail_mut(&mut self) -> Option<&mut Segment> {
        self.tail.as_mut()
    }

    /// The last shared segment, if no fork holds it any more.
    fn take_back_last(&mut self) -> Option<Segment> {
        match Arc::try_unwrap(self.shared.pop()?) {
            Ok(segment) => Some(segment),
            Err(held) => {
                self.shared.push(held);
                None
            }
        }
    }

    /// Counts `count` positions of the tail, written in every layer, as filled.
    pub(super) fn commit(&mut self, count: usize) {
        let tail = self.tail.as_mut().expect("room was reserved");
        tail.length += count;
        self.length += count;
    }

    /// All segments, oldest first, each with its filled positions, `pending` more in the tail.
    pub(super) fn segments(&self, pending: usize) -> impl Iterator<Item = (&Segment, usize)> {
        let shared = self.shared.iter().map(|segment| (&**segment, segment.length));
        shared.chain(self.tail.as_ref().map(|tail| (tail, tail.length + pending)))
    }
}
