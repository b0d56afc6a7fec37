//! Keys and values of a sequence, in segments that forks share.

use std::any::Any;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{Result, bail};

use crate::kernels::attention::KEY_BLOCK;

/// Positions that a segment has room for at least.
const SMALLEST_SEGMENT: usize = 16;

/// How a back end remembers keys and values.
pub(super) trait Memory {
    /// Keys and values of all layers.
    type Storage: Any + Debug + Send + Sync;

    /// Room for `capacity` positions of keys and values in all layers.
    fn allocate(&self, capacity: usize) -> Result<Self::Storage>;

    /// Copies positions of `from` to the beginning of `to`, which has room for them. The first of them is
    /// a multiple of [`KEY_BLOCK`].
    fn copy(
        &self,
        to: &mut Self::Storage,
        from: &Self::Storage,
        positions: Range<usize>,
    ) -> Result<()>;

    /// Bytes of one token's keys and values in one of the layers that keep any.
    fn bytes_of_slot(&self, slot: usize) -> usize;

    /// Bytes of one token's keys and values over all layers.
    fn bytes_per_token(&self) -> usize;
}

/// What a segment holds, whatever the back end.
trait AnyStorage: Any + Debug + Send + Sync {}

impl<S: Any + Debug + Send + Sync> AnyStorage for S {}

/// A contiguous stretch of a sequence's keys and values, over all layers.
#[derive(Debug)]
pub(super) struct Segment {
    storage: Box<dyn AnyStorage>,
    /// Positions that it has room for.
    capacity: usize,
    /// Positions that are filled.
    pub(super) length: usize,
}

impl Segment {
    /// A number that no other segment has as long as this one lives: where its memory lies.
    fn number(&self) -> usize {
        std::ptr::from_ref(&*self.storage).cast::<()>().addr()
    }

    /// The memory of the back end that made it.
    pub(super) fn storage<S: Any>(&self) -> Result<&S> {
        match (&*self.storage as &dyn Any).downcast_ref() {
            Some(storage) => Ok(storage),
            None => bail!("a cache of another back end"),
        }
    }

    /// [`Segment::storage`], to be written to.
    pub(super) fn storage_mut<S: Any>(&mut self) -> Result<&mut S> {
        match (&mut *self.storage as &mut dyn Any).downcast_mut() {
            Some(storage) => Ok(storage),
            None => bail!("a cache of another back end"),
        }
    }
}

/// One sequence's tokens in a forward pass.
#[derive(Debug)]
pub struct BatchItem<'a> {
    /// What the sequence holds already; the tokens are appended to it.
    pub cache: &'a mut SequenceCache,
    /// The tokens; at least one.
    pub tokens: &'a [u32],
    /// The last this many tokens give logits.
    pub logits: usize,
}

impl BatchItem<'_> {
    /// The positions of the tokens.
    pub(super) fn positions(&self) -> Range<usize> {
        self.cache.length..self.cache.length + self.tokens.len()
    }

    /// The length that the sequence is taken for, from its beginning to its end.
    pub(super) fn sequence_length(&self) -> usize {
        self.cache.taken_for(self.tokens.len())
    }

    /// The segment that the tokens are written to; room in it was reserved.
    pub(super) fn tail(&mut self) -> Result<&mut Segment> {
        match self.cache.tail.as_mut() {
            Some(tail) => Ok(tail),
            None => bail!("no room was reserved in the cache"),
        }
    }
}

/// The beginning of a filled segment, or all of it. Only the last one of a sequence may have a length
/// that is not a multiple of [`KEY_BLOCK`]. Forks may hold it too, so it never changes.
#[derive(Debug, Clone)]
struct Shared {
    segment: Arc<Segment>,
    /// Positions that the sequence sees; at most those that are filled.
    length: usize,
}

impl Shared {
    fn whole(segment: Segment) -> Self {
        Self { length: segment.length, segment: Arc::new(segment) }
    }
}

/// What a sequence remembers. Forks share what the parent held at that time.
#[derive(Debug)]
pub struct SequenceCache {
    /// Oldest first.
    shared: Vec<Shared>,
    /// The segment that grows.
    tail: Option<Segment>,
    length: usize,
    /// The length for which there is to be room in one piece.
    expected: usize,
    /// The length that the sequence is taken for where that makes a difference (LongRoPE): fixed by its
    /// first tokens, since all of its keys have to go together.
    taken_for: usize,
}

impl SequenceCache {
    /// An empty sequence that will grow to `expected_tokens`. It may grow further, except in models that
    /// compute long sequences otherwise than short ones (see [`Decoder::original_context`]).
    ///
    /// [`Decoder::original_context`]: super::Decoder::original_context
    pub fn new(expected_tokens: usize) -> Self {
        Self::with_room(expected_tokens, expected_tokens)
    }

    /// An empty sequence that may grow to `longest` tokens, and gets room for `room` at first.
    pub fn with_room(longest: usize, room: usize) -> Self {
        Self { shared: Vec::new(), tail: None, length: 0, expected: room, taken_for: longest }
    }

    /// A sequence that begins with everything that this one holds, which is not copied. This one
    /// may go on growing; both then do so in segments of their own. The new one is taken for a sequence of
    /// the same length as this one, unless that holds nothing yet.
    pub fn fork(&mut self, expected_new_tokens: usize) -> Self {
        self.fork_at(self.length, expected_new_tokens)
    }

    /// [`SequenceCache::fork`] that begins with the first `length` tokens alone.
    ///
    /// # Panics
    /// If the sequence holds fewer.
    pub fn fork_at(&mut self, length: usize, expected_new_tokens: usize) -> Self {
        assert!(length <= self.length, "{length} of {} tokens", self.length);
        self.shared.extend(self.tail.take().map(Shared::whole));
        let mut left = length;
        let mut shared = Vec::with_capacity(self.shared.len());
        for part in &self.shared {
            let seen = part.length.min(left);
            if seen > 0 {
                shared.push(Shared { segment: Arc::clone(&part.segment), length: seen });
            }
            left -= seen;
        }
        Self {
            shared,
            tail: None,
            length,
            expected: length.saturating_add(expected_new_tokens),
            taken_for: if length == 0 { expected_new_tokens } else { self.taken_for },
        }
    }

    /// Says anew how many tokens are to come, so that there will be room for them in one piece.
    pub fn expect(&mut self, new_tokens: usize) {
        self.expected = self.length.saturating_add(new_tokens);
    }

    /// The segments that the sequence holds, each by a number that no other has, with the positions
    /// that it has room for.
    pub fn held(&self) -> impl Iterator<Item = (usize, usize)> {
        let shared = self.shared.iter().map(|part| &*part.segment);
        shared.chain(&self.tail).map(|segment| (segment.number(), segment.capacity))
    }

    /// The length that the sequence is taken for, if it goes on with `count` tokens.
    fn taken_for(&self, count: usize) -> usize {
        if self.length == 0 { self.taken_for.max(count) } else { self.taken_for }
    }

    /// Tokens that the sequence holds.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Makes room for `count` more positions in the tail. Without room in the tail, a new segment as
    /// large as the expectation or, beyond that, as the whole sequence follows it, so that little is
    /// ever copied.
    ///
    /// Every segment begins at a multiple of [`KEY_BLOCK`], so that a fork has the same bits as a sequence
    /// that was computed whole. The positions behind the last multiple are copied to the new segment.
    pub(super) fn reserve<M: Memory>(
        &mut self,
        count: usize,
        context_length: usize,
        memory: &M,
    ) -> Result<()> {
        let has_room = |segment: &Segment| segment.capacity - segment.length >= count;
        if self.tail.is_none() {
            self.tail = self.take_back_last();
        }
        if self.tail.as_ref().is_some_and(has_room) {
            return Ok(());
        }
        self.shared.extend(self.tail.take().filter(|tail| tail.length > 0).map(Shared::whole));
        let expected = self.expected.saturating_sub(self.length);
        let wanted = if expected > 0 { expected } else { self.length.max(SMALLEST_SEGMENT) };
        let limit = context_length.saturating_sub(self.length);
        let copied = self.length % KEY_BLOCK;
        let capacity = copied + wanted.min(limit).max(count);
        let mut storage = memory.allocate(capacity)?;
        if let Some(last) = self.shared.last_mut().filter(|_| copied > 0) {
            let kept = last.length - copied;
            memory.copy(&mut storage, last.segment.storage()?, kept..last.length)?;
            last.length = kept;
        }
        self.shared.retain(|part| part.length > 0);
        self.tail = Some(Segment { storage: Box::new(storage), capacity, length: copied });
        Ok(())
    }

    /// The last shared segment, if no fork holds it any more. What lies behind the part that this
    /// sequence sees is written over.
    fn take_back_last(&mut self) -> Option<Segment> {
        let Shared { segment, length } = self.shared.pop()?;
        match Arc::try_unwrap(segment) {
            Ok(segment) => Some(Segment { length, ..segment }),
            Err(segment) => {
                self.shared.push(Shared { segment, length });
                None
            }
        }
    }

    /// Counts `count` positions of the tail, written in every layer, as filled.
    pub(super) fn commit(&mut self, count: usize) {
        let tail = self.tail.as_mut().expect("room was reserved");
        tail.length += count;
        self.taken_for = self.taken_for(count);
        self.length += count;
    }

    /// All segments, oldest first, each with its filled positions, `pending` more in the tail.
    pub(super) fn segments(&self, pending: usize) -> impl Iterator<Item = (&Segment, usize)> {
        let shared = self.shared.iter().map(|part| (&*part.segment, part.length));
        shared.chain(self.tail.as_ref().map(|tail| (tail, tail.length + pending)))
    }
}
