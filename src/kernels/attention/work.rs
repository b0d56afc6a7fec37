//! What one kernel call computes, and the memory that it computes in.

use std::ops::{Deref, DerefMut, Range};

use super::vector::Vector;
use super::{AttentionItem, AttentionShape, CacheRows};

/// Keys that are widened, scored and weighted together.
pub(super) const KEY_BLOCK: usize = 64;

/// Elements that a cache line of f32 holds; scratch rows are padded to whole lines.
const LINE: usize = 16;

/// The largest exponent of a row that has seen nothing. Finite, so that a block of which a row sees
/// nothing does not subtract an infinity from another.
const NO_MAXIMUM: f32 = f32::MIN;

/// A stretch of the query rows of one item and one key/value head, against a stretch of the keys.
/// The heads of a group count as rows: row r is token `r / group` and head `r % group`.
#[derive(Debug, Clone)]
pub(super) struct Work<'a> {
    pub(super) shape: AttentionShape,
    /// The whole query matrix of the step.
    pub(super) queries: &'a [f32],
    pub(super) item: &'a AttentionItem<'a>,
    pub(super) kv_head: usize,
    pub(super) rows: Range<usize>,
    /// Positions, none of them hidden from the last row.
    pub(super) keys: Range<usize>,
}

/// Neighbouring positions within one span.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block<'a> {
    /// One row a position.
    pub(super) keys: CacheRows<'a>,
    /// One row a position.
    pub(super) values: CacheRows<'a>,
    /// The first one's position in the context.
    pub(super) position: usize,
    pub(super) length: usize,
}

impl<'a> Work<'a> {
    /// Query heads that read one key/value head.
    pub(super) fn group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// Where a row's values begin in the query and output matrices.
    pub(super) fn offset(&self, row: usize) -> usize {
        let token = self.item.queries.start + row / self.group();
        let head = self.kv_head * self.group() + row % self.group();
        (token * self.shape.heads + head) * self.shape.head_size
    }

    /// A row's query.
    pub(super) fn query(&self, row: usize) -> &'a [f32] {
        &self.queries[self.offset(row)..][..self.shape.head_size]
    }

    /// How many positions a row sees.
    pub(super) fn visible(&self, row: usize) -> usize {
        visible(self.item, row / self.group())
    }

    /// The factor that turns dot products into exponents of two.
    pub(super) fn exponent_scale(&self) -> f32 {
        self.shape.scale * std::f32::consts::LOG2_E
    }

    /// The keys and values in blocks of at most [`KEY_BLOCK`], in order.
    pub(super) fn blocks(&self) -> impl Iterator<Item = Block<'a>> + use<'a> {
        let Work { keys, kv_head, item, .. } = self.clone();
        let size = self.shape.head_size;
        let mut end = 0;
        item.spans.iter().flat_map(move |span| {
            let start = end;
            end += span.length;
            let from = keys.start.max(start).min(end);
            let to = keys.end.min(end).max(from);
            (from..to).step_by(KEY_BLOCK).map(move |position| {
                let length = KEY_BLOCK.min(to - position);
                let first = kv_head * span.capacity + position - start;
                let part = |rows: CacheRows<'a>| rows.part(first, length, size);
                Block { keys: part(span.keys), values: part(span.values), position, length }
            })
        })
    }
}

/// How many positions an item's token sees.
pub(super) fn visible(item: &AttentionItem<'_>, token: usize) -> usize {
    item.context() - (item.queries.len() - 1 - token)
}

/// f32 values that begin on a cache line.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<Line>);

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

impl Lines {
    /// At least `length` values; new ones are zero.
    fn grow(&mut self, length: usize) {
        let lines = length.div_ceil(LINE);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0.0; LINE]));
        }
    }

    /// At least `length` values, of which the first `length` become `value`.
    fn clear(&mut self, length: usize, value: f32) {
        self.grow(length);
        self[..length].fill(value);
    }
}

impl Deref for Lines {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: a line is LINE f32 values without padding.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * LINE) }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * LINE) }
    }
}

/// A thread's working memory, kept between calls.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// The head size that the padding of `keys` and `values` was cleared for.
    head_size: usize,
    /// The head size rounded up to whole cache lines: the stride of most rows below. What lies
    /// beyond the head size is zero.
    pub(super) padded: usize,
    /// The scaled queries: `[rows][padded]`.
    pub(super) queries: Lines,
    /// A block's keys, widened: `[KEY_BLOCK][padded]`.
    pub(super) keys: Lines,
    /// A block's values, widened: `[KEY_BLOCK][padded]`.
    pub(super) values: Lines,
    /// A block's scores, then weights: `[rows][KEY_BLOCK]`; in the tile kernel
    /// `[KEY_BLOCK][lanes]`, for one panel at a time.
    pub(super) weights: Lines,
    /// The tile kernel's rows, a few registers of them together.
    pub(super) panels: Vec<Panel>,
    /// The result: each row's weighted sum of the values, `[rows][padded]`, relative to 2^maximum.
    pub(super) sums: Lines,
    /// Each row's largest exponent so far.
    pub(super) maxima: Lines,
    /// Each row's sum of weights, relative to 2^maximum.
    pub(super) totals: Lines,
    /// What each row's sums shrink by in the current block.
    pub(super) factors: Lines,
}

/// Rows that lie across the lanes of a few registers.
#[derive(Debug, Default)]
pub(super) struct Panel {
    /// The scaled queries: `[padded][lanes]`.
    pub(super) queries: Lines,
    /// The weighted sums of the values: `[padded][lanes]`.
    pub(super) sums: Lines,
    /// Each lane's largest exponent so far.
    pub(super) maxima: Lines,
    /// Each lane's sum of weights, relative to 2^maximum.
    pub(super) totals: Lines,
    /// What each lane's sums shrink by in the current block.
    pub(super) factors: Lines,
    /// How many positions each lane's row sees.
    pub(super) limits: Vec<i32>,
}

impl Scratch {
    /// Makes room for `rows` rows and forgets the last result.
    pub(super) fn prepare(&mut self, head_size: usize, rows: usize) {
        if self.head_size != head_size {
            (self.head_size, self.padded) = (head_size, head_size.next_multiple_of(LINE));
            self.keys.clear(KEY_BLOCK * self.padded, 0.0);
            self.values.clear(KEY_BLOCK * self.padded, 0.0);
        }
        self.queries.clear(self.padded * rows, 0.0);
        self.sums.clear(self.padded * rows, 0.0);
        self.weights.grow(KEY_BLOCK * rows);
        self.factors.grow(rows);
        self.totals.clear(rows, 0.0);
        self.maxima.clear(rows, NO_MAXIMUM);
    }

    /// Makes room for this many panels of so many lanes, which see nothing yet.
    pub(super) fn prepare_panels(&mut self, panels: usize, lanes: usize) {
        self.weights.grow(KEY_BLOCK * lanes);
        if self.panels.len() < panels {
            self.panels.resize_with(panels, Panel::default);
        }
        for panel in &mut self.panels[..panels] {
            panel.queries.grow(self.padded * lanes);
            panel.sums.clear(self.padded * lanes, 0.0);
            panel.factors.grow(lanes);
            panel.totals.clear(lanes, 0.0);
            panel.maxima.clear(lanes, NO_MAXIMUM);
            panel.limits.clear();
            panel.limits.resize(lanes, 0);
        }
    }

    /// Widens a block's keys and values.
    ///
    /// # Safety
    /// `V`'s instruction set; `self` prepared for the block's head size.
    #[inline(always)]
    pub(super) unsafe fn widen<V: Vector>(&mut self, block: Block<'_>) {
        // SAFETY: the caller's.
        unsafe {
            widen_rows::<V>(block.keys, self.head_size, &mut self.keys, self.padded);
            widen_rows::<V>(block.values, self.head_size, &mut self.values, self.padded);
        }
    }
}

/// Widens rows of `size` elements into rows that lie `stride` apart.
#[inline(always)]
unsafe fn widen_rows<V: Vector>(
    source: CacheRows<'_>,
    size: usize,
    target: &mut [f32],
    stride: usize,
) {
    let whole = size - size % V::LANES;
    for ((source, scale), target) in source.rows(size).zip(target.chunks_exact_mut(stride)) {
        let target = &mut target[..size];
        for index in (0..whole).step_by(V::LANES) {
            // SAFETY: `whole` elements are there on both sides.
            unsafe {
                let elements = V::load_short(source.as_ptr().add(index));
                elements.multiply(V::splat(scale)).store(target.as_mut_ptr().add(index));
            }
        }
        for (target, &source) in target[whole..].iter_mut().zip(&source[whole..]) {
            *target = f32::from(source) * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::CacheSpan;
    use super::*;

    #[test]
    fn blocks_follow_the_spans() {
        let head = |kv_head: usize, position: usize| (kv_head * 1000 + position) as f32;
        let span = |first: usize, length: usize, capacity: usize| -> Vec<f32> {
            (0..2 * capacity)
                .map(|index| (index / capacity, index % capacity))
                .map(
                    |(kv_head, place)| {
                        if place < length { head(kv_head, first + place) } else { f32::NAN }
                    },
                )
                .collect()
        };
        let lengths = [3, 0, 70, 129];
        let mut first = 0;
        let data: Vec<_> = lengths
            .iter()
            .map(|&length| {
                let data = span(first, length, length + 5);
                first += length;
                data
            })
            .collect();
        let spans = data
            .iter()
            .zip(lengths)
            .map(|(scales, length)| {
                let rows = CacheRows { elements: &[1; 300][..scales.len()], scales };
                CacheSpan { keys: rows, values: rows, length, capacity: length + 5 }
            })
            .collect();
        let item = AttentionItem { queries: 0..1, spans };
        let shape = AttentionShape { heads: 2, kv_heads: 2, head_size: 1, scale: 1.0 };
        for keys in [0..202, 1..2, 2..4, 10..150, 73..202, 201..202, 5..5] {
            let rows = 0..1;
            let work =
                Work { shape, queries: &[], item: &item, kv_head: 1, rows, keys: keys.clone() };
            let mut seen = Vec::new();
            for block in work.blocks() {
                assert!((1..=KEY_BLOCK).contains(&block.length));
                assert_eq!(block.position, keys.start + seen.len());
                seen.extend(block.keys.rows(1).map(|(key, scale)| f32::from(key[0]) * scale));
            }
            let expected: Vec<f32> = keys.map(|position| head(1, position)).collect();
            assert_eq!(seen, expected);
        }
    }
}
