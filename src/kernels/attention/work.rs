//! What one kernel call computes, and the memory that it computes in.

use std::ops::{Deref, DerefMut, Range};

use super::store::{HeadMemory, KvType, TILE, padded};
use super::vector::Vector;
use super::{AttentionItem, AttentionShape};
use crate::kernels::dispatch::for_each_instruction_set;
use crate::kernels::elementwise::Rows;

/// Keys that are scored and weighted together: the weights of one row and block are rounded to 16
/// bits with a step of their own. Where every span of a context begins at a multiple of this, the
/// spans change no bit of the results.
pub const KEY_BLOCK: usize = 64;

/// Blocks of a part. A row's result is put together from those of its parts, which begin at multiples
/// of so many blocks: always in the same order, however the parts were shared out.
const BLOCKS_PER_PART: usize = 8;

/// Elements that a cache line of f32 holds; scratch rows are padded to whole lines.
const LINE: usize = 16;

/// The largest exponent of a row that has seen nothing. Finite, so that a block of which a row sees
/// nothing does not subtract an infinity from another.
pub(super) const NO_MAXIMUM: f32 = f32::MIN;

/// A stretch of the query rows of one item and one key/value head, against a stretch of the keys.
/// The heads of a group count as rows: row r is token `r / group` and head `r % group`.
#[derive(Debug, Clone)]
pub(super) struct Work<'a> {
    pub(super) shape: AttentionShape,
    /// The layer of the stores.
    pub(super) slot: usize,
    /// The whole query matrix of the step.
    pub(super) queries: Rows<'a>,
    pub(super) item: &'a AttentionItem<'a>,
    pub(super) kv_head: usize,
    pub(super) rows: Range<usize>,
    /// Blocks of the item's spans, of which each begins with a new block.
    pub(super) blocks: Range<usize>,
}

/// Neighbouring positions within one span, as integers of type `E`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block<E> {
    /// Tiles of keys.
    pub(super) keys: *const E,
    /// Pairs of values.
    pub(super) values: *const E,
    /// One a key.
    pub(super) key_scales: *const f32,
    /// One a value.
    pub(super) value_scales: *const f32,
    /// The first one's position in the context.
    pub(super) position: usize,
    pub(super) length: usize,
}

/// A type of stored integers.
pub(super) trait Element: Copy {
    /// `LANES` pairs.
    ///
    /// # Safety
    /// `V`'s instruction set; `source` points to that many pairs.
    unsafe fn load_pairs<V: Vector>(source: *const Self) -> V::Pairs;
}

impl Element for i16 {
    #[inline(always)]
    unsafe fn load_pairs<V: Vector>(source: *const Self) -> V::Pairs {
        // SAFETY: the caller's.
        unsafe { V::load_pairs(source) }
    }
}

impl Element for i8 {
    #[inline(always)]
    unsafe fn load_pairs<V: Vector>(source: *const Self) -> V::Pairs {
        // The compiler leaves them in a register.
        let mut wide = [0; 2 * TILE];
        // SAFETY: the caller's; no register has more lanes than a tile has positions.
        unsafe {
            V::widen(source, wide.as_mut_ptr());
            V::load_pairs(wide.as_ptr())
        }
    }
}

impl<'a> Work<'a> {
    /// Query heads that read one key/value head.
    pub(super) fn group(&self) -> usize {
        self.shape.group()
    }

    /// A row's query.
    pub(super) fn query(&self, row: usize) -> &'a [f32] {
        let size = self.shape.head_size;
        let (token, head) = self.token_and_head(row);
        &self.queries.row(token)[head * size..][..size]
    }

    /// The row of the step's matrices and the query head that a row stands for.
    pub(super) fn token_and_head(&self, row: usize) -> (usize, usize) {
        let token = self.item.queries.start + row / self.group();
        (token, self.kv_head * self.group() + row % self.group())
    }

    /// The positions that a row sees.
    pub(super) fn visible(&self, row: usize) -> Range<usize> {
        self.item.visible(row / self.group(), self.shape.window)
    }

    /// The positions that some row sees.
    pub(super) fn visible_to_any(&self) -> Range<usize> {
        self.visible(self.rows.start).start..self.visible(self.rows.end - 1).end
    }

    /// The factor that turns a query's dot products into exponents of two.
    pub(super) fn exponent_scale(&self) -> f32 {
        self.shape.scale * std::f32::consts::LOG2_E
    }

    /// The work part by part, in order.
    pub(super) fn parts(&self) -> impl Iterator<Item = Self> + use<'a> {
        let work = self.clone();
        parts(self.blocks.clone()).map(move |blocks| Work { blocks, ..work.clone() })
    }

    /// The blocks, in order.
    pub(super) fn blocks(&self) -> impl Iterator<Item = StoredBlock<'a>> + use<'a> {
        let Work { slot, kv_head, item, blocks, .. } = self.clone();
        let (mut before, mut position) = (0, 0);
        item.spans.iter().flat_map(move |span| {
            let count = span.length.div_ceil(KEY_BLOCK);
            let from = blocks.start.clamp(before, before + count) - before;
            let to = blocks.end.clamp(before, before + count) - before;
            let first = position;
            before += count;
            position += span.length;
            (from..to).map(move |index| {
                let start = index * KEY_BLOCK;
                StoredBlock {
                    memory: span.store.head(slot, kv_head),
                    kind: span.store.kind(),
                    start,
                    position: first + start,
                    length: KEY_BLOCK.min(span.length - start),
                }
            })
        })
    }
}

/// Cuts blocks into parts.
pub(super) fn parts(blocks: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let Range { mut start, end } = blocks;
    std::iter::from_fn(move || {
        let next = ((start / BLOCKS_PER_PART + 1) * BLOCKS_PER_PART).min(end);
        let part = start..next;
        start = next;
        (!part.is_empty()).then_some(part)
    })
}

/// A block as it lies in its store.
#[derive(Debug, Clone, Copy)]
pub(super) struct StoredBlock<'a> {
    memory: HeadMemory<'a>,
    pub(super) kind: KvType,
    /// The first position within the store, a multiple of [`KEY_BLOCK`].
    start: usize,
    /// The first one's position in the context.
    pub(super) position: usize,
    pub(super) length: usize,
}

impl StoredBlock<'_> {
    /// The block where it lies.
    ///
    /// # Safety
    /// `E` is the type of its kind; the positions are in the store.
    #[inline(always)]
    pub(super) unsafe fn in_place<E: Element>(&self, head_size: usize) -> Block<E> {
        let first = self.start * padded(head_size);
        // SAFETY: the caller's.
        unsafe {
            Block {
                keys: self.memory.keys.cast::<E>().add(first),
                values: self.memory.values.cast::<E>().add(first),
                key_scales: self.memory.key_scales.add(self.start),
                value_scales: self.memory.value_scales.add(self.start),
                position: self.position,
                length: self.length,
            }
        }
    }

    /// The block in 16 bits, in place or widened.
    ///
    /// # Safety
    /// `V`'s instruction set; the positions are in the store.
    #[inline(always)]
    pub(super) unsafe fn widen<V: Vector>(
        &self,
        head_size: usize,
        widened: &mut Widened,
    ) -> Block<i16> {
        // SAFETY: the caller's; whole tiles are there.
        unsafe {
            match self.kind {
                KvType::I16 => self.in_place(head_size),
                KvType::I8 => {
                    let Block { keys, values, key_scales, value_scales, position, length } =
                        self.in_place::<i8>(head_size);
                    let elements = length.next_multiple_of(TILE) * padded(head_size);
                    widen::<V>(keys, elements, &mut widened.keys);
                    widen::<V>(values, elements, &mut widened.values);
                    let keys = widened.keys.integers().as_ptr();
                    let values = widened.values.integers().as_ptr();
                    Block { keys, values, key_scales, value_scales, position, length }
                }
            }
        }
    }
}

/// Widens integers, a multiple of a tile of them.
///
/// # Safety
/// `V`'s instruction set; `source` points to `elements` integers.
#[inline(always)]
unsafe fn widen<V: Vector>(source: *const i8, elements: usize, target: &mut Lines) {
    target.grow(elements / 2);
    let target = target.integers().as_mut_ptr();
    let mut element = 0;
    while element < elements {
        // SAFETY: the caller's; the target just grew.
        unsafe { V::widen(source.add(element), target.add(element)) };
        element += 2 * V::LANES;
    }
}

/// f32 values that begin on a cache line.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<Line>);

#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; LINE]);

impl Lines {
    /// At least `length` values; new ones are zero.
    pub(super) fn grow(&mut self, length: usize) {
        let lines = length.div_ceil(LINE);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0.0; LINE]));
        }
    }

    /// At least `length` values, of which the first `length` become `value`.
    pub(super) fn clear(&mut self, length: usize, value: f32) {
        self.grow(length);
        self[..length].fill(value);
    }

    /// The values' memory as twice as many integers.
    pub(super) fn integers(&mut self) -> &mut [i16] {
        // SAFETY: two integers take a value's place, and any bits are integers.
        unsafe {
            std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * LINE * 2)
        }
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

/// A block whose integers have fewer than 16 bits in the store.
#[derive(Debug, Default)]
pub(super) struct Widened {
    keys: Lines,
    values: Lines,
}

/// A thread's working memory, kept between calls.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) widened: Widened,
    pub(super) rows: RowScratch,
}

/// What belongs to the rows of a call.
#[derive(Debug, Default)]
pub(super) struct RowScratch {
    /// The head size rounded up to whole cache lines: the stride of most rows below.
    pub(super) padded: usize,
    /// The queries as 16-bit integers: `[rows][query_stride]`.
    pub(super) queries: Lines,
    /// The head size rounded up to whole cache lines of pairs.
    pub(super) query_stride: usize,
    /// The tile kernel's queries: `[query_stride / 2][lanes][2]`.
    pub(super) laid_queries: Lines,
    /// What each row's sums of products are multiplied by, after the keys' scales, to be exponents.
    pub(super) scales: Lines,
    /// With ALiBi, what a position of distance adds to each row's exponents, …
    pub(super) slopes: Lines,
    /// … and each row's own position.
    pub(super) positions: Lines,
    /// The positions that each row sees.
    pub(super) firsts: Vec<i32>,
    pub(super) ends: Vec<i32>,
    /// A block's scores, then its weights: `[rows][KEY_BLOCK]`; in the tile kernel
    /// `[KEY_BLOCK][lanes]`.
    pub(super) scores: Lines,
    /// A block's weights as 16-bit integers, in pairs of keys: `[rows][KEY_BLOCK]`; in the tile
    /// kernel `[KEY_BLOCK / 2][lanes][2]`.
    pub(super) weights: Lines,
    /// A part's result: each row's weighted sum of the values, `[rows][padded]`, relative to
    /// 2^maximum.
    pub(super) sums: Lines,
    /// The tile kernel's sums, `[padded][lanes]`.
    pub(super) laid_sums: Lines,
    /// Each row's largest exponent in the part so far.
    pub(super) maxima: Lines,
    /// Each row's sum of weights in the part so far, relative to 2^maximum.
    pub(super) totals: Lines,
    /// What each row's sums shrink by in the current block.
    pub(super) factors: Lines,
    /// The step between each row's integer weights in the current block.
    pub(super) steps: Lines,
    /// The result of all parts so far: a [`Partial`] for each row.
    pub(super) partials: Vec<f32>,
}

impl RowScratch {
    /// Makes room for `lanes` rows, of which the work's are used, rounds their queries, and forgets
    /// the last result.
    pub(super) fn prepare(&mut self, work: &Work<'_>, lanes: usize) {
        let size = padded(work.shape.head_size);
        self.padded = size;
        let stride = size.next_multiple_of(2 * LINE);
        self.query_stride = stride;
        self.queries.grow(lanes * stride / 2);
        self.scales.clear(lanes, f32::MIN_POSITIVE);
        self.firsts.clear();
        self.ends.clear();
        let elements = self.queries.integers().chunks_exact_mut(stride);
        for ((row, elements), scale) in work.rows.clone().zip(elements).zip(self.scales.iter_mut())
        {
            let step = super::store::round_query(work.query(row), elements);
            *scale = (step * work.exponent_scale()).max(f32::MIN_POSITIVE);
            if step.is_nan() {
                *scale = f32::NAN;
            }
            let visible = work.visible(row);
            self.firsts.push(place(visible.start));
            self.ends.push(place(visible.end));
        }
        if work.shape.alibi.is_some() {
            self.prepare_biases(work, lanes);
        }
        // Lanes without a row see what the last one sees, so that they hide nothing.
        let last =
            (self.firsts.last().copied().unwrap_or(0), self.ends.last().copied().unwrap_or(0));
        self.firsts.resize(lanes, last.0);
        self.ends.resize(lanes, last.1);
        self.queries.integers()[work.rows.len() * stride..lanes * stride].fill(0);
        self.scores.grow(KEY_BLOCK * lanes);
        self.weights.grow(KEY_BLOCK * lanes / 2);
        self.sums.grow(size * lanes);
        self.maxima.grow(lanes);
        self.totals.grow(lanes);
        self.factors.grow(lanes);
        self.steps.grow(lanes);
        self.partials.clear();
        for _ in work.rows.clone() {
            let start = self.partials.len();
            self.partials.resize(start + Partial::length(work.shape.head_size), 0.0);
            Partial::clear(&mut self.partials[start..]);
        }
    }

    /// Forgets the last part's result.
    pub(super) fn begin_part(&mut self) {
        let lanes = self.firsts.len();
        self.maxima[..lanes].fill(NO_MAXIMUM);
        self.totals[..lanes].fill(0.0);
    }

    /// Adds the part's result to those before.
    pub(super) fn end_part(&mut self, work: &Work<'_>) {
        let size = work.shape.head_size;
        let partials = self.partials.chunks_exact_mut(Partial::length(size));
        for (index, partial) in partials.enumerate() {
            let sums = &self.sums[index * self.padded..][..size];
            Partial::add(partial, sums, self.maxima[index], self.totals[index]);
        }
    }

    /// Lanes without a row have no slope.
    fn prepare_biases(&mut self, work: &Work<'_>, lanes: usize) {
        self.slopes.clear(lanes, 0.0);
        self.positions.clear(lanes, 0.0);
        for (index, row) in work.rows.clone().enumerate() {
            let slope = work.shape.slope(work.token_and_head(row).1).unwrap_or(0.0);
            self.slopes[index] = slope * std::f32::consts::LOG2_E;
            self.positions[index] = (work.visible(row).end - 1) as f32;
        }
    }
}

/// What a row has found in some of its parts: the weighted sum of their values, their largest exponent,
/// and the sum of their weights, both sums relative to 2^exponent. They follow each other in memory.
pub(super) struct Partial;

impl Partial {
    /// Values that it takes.
    pub(super) fn length(head_size: usize) -> usize {
        head_size + 2
    }

    /// One that has seen nothing.
    pub(super) fn clear(partial: &mut [f32]) {
        let [.., maximum, total] = partial else { unreachable!("it has two values at least") };
        (*maximum, *total) = (NO_MAXIMUM, 0.0);
    }

    /// Adds what was found in a later part. Parts of which the row sees nothing change no bit.
    pub(super) fn add(partial: &mut [f32], sums: &[f32], maximum: f32, total: f32) {
        let (past_sums, [past_maximum, past_total]) =
            partial.split_last_chunk_mut().expect("it has two values at least");
        if maximum == NO_MAXIMUM {
            return;
        }
        if *past_maximum == NO_MAXIMUM {
            past_sums.copy_from_slice(sums);
            (*past_maximum, *past_total) = (maximum, total);
            return;
        }
        let larger = if maximum > *past_maximum { maximum } else { *past_maximum };
        let factors = [*past_maximum - larger, maximum - larger].map(f32::exp2);
        add_scaled(past_sums, factors[0], sums, factors[1]);
        (*past_maximum, *past_total) = (larger, *past_total * factors[0] + total * factors[1]);
    }
}

for_each_instruction_set! {
    /// `target = target · factor + source · other_factor`.
    fn add_scaled(target: &mut [f32], factor: f32, source: &[f32], other_factor: f32) {
        for (target, source) in target.iter_mut().zip(source) {
            *target = *target * factor + source * other_factor;
        }
    }
}

/// A position or a number of keys as the kernels compare it.
pub(super) fn place(position: usize) -> i32 {
    i32::try_from(position).unwrap_or(i32::MAX)
}

/// No sum of integer weights times integer values reaches 2³¹.
const _: () = assert!((super::vector::WEIGHT_SUM as i64 + KEY_BLOCK as i64 / 2) * 32_767 < 1 << 31);
