//! Causal attention over cached keys and values.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod cache;
mod plan;
mod scalar;
mod stream;
#[cfg(test)]
mod tests;
mod tile;
mod vector;
mod work;

use std::ops::Range;

use crate::support::processor::InstructionSet;
use work::{Scratch, Work};

pub use cache::{CacheRows, encode_row};

/// How the elements of keys and values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvType {
    /// 16-bit integers with one f32 scale a row: more precise than f16.
    #[default]
    I16,
    /// 8-bit integers with one f32 scale a row: half the memory.
    I8,
}

impl KvType {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::I16, Self::I8];

    /// What `--kv-type` and results call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::I16 => "i16",
            Self::I8 => "i8",
        }
    }
}

/// The shape shared by all sequences of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`, and head h reads key/value head h / (heads / kv_heads).
    pub kv_heads: usize,
    /// Width of a head.
    pub head_size: usize,
    /// Factor on the scores, usually 1/√head_size.
    pub scale: f32,
}

/// A contiguous stretch of a sequence's cache, in one layer. The rows of `keys` and `values` are
/// laid out `[kv_heads][capacity]`; positions `0..length` are filled.
#[derive(Debug, Clone, Copy)]
pub struct CacheSpan<'a> {
    /// Keys.
    pub keys: CacheRows<'a>,
    /// Values.
    pub values: CacheRows<'a>,
    /// Filled positions.
    pub length: usize,
    /// Allocated positions: the stride between heads, in rows.
    pub capacity: usize,
}

/// One sequence's part of a step. The spans, in order, hold its whole context, the new tokens'
/// keys and values included; the query at `queries.start + i` sees all but the last
/// `queries.len() - 1 - i` positions.
#[derive(Debug, Clone)]
pub struct AttentionItem<'a> {
    /// The rows of the step's query matrix that belong to this sequence.
    pub queries: Range<usize>,
    /// Its context.
    pub spans: Vec<CacheSpan<'a>>,
}

impl AttentionItem<'_> {
    /// Positions that all spans hold together.
    fn context(&self) -> usize {
        self.spans.iter().map(|span| span.length).sum()
    }
}

/// Softmax(Q·Kᵀ·scale)·V for every item, on the current rayon pool. `queries` and `output` are
/// `[rows][heads][head_size]`; rows of `output` that no item names are left as they are.
///
/// # Panics
/// If the parts do not fit together: heads that are no multiple of the key/value heads, an item
/// whose rows lie outside the matrices or are another item's too, an item with more queries than
/// positions, or a span shorter than its lengths say.
pub fn attention(
    shape: AttentionShape,
    queries: &[f32],
    items: &[AttentionItem<'_>],
    output: &mut [f32],
) {
    attention_with(InstructionSet::current(), shape, queries, items, output);
}

/// [`attention`] with the kernels of one instruction set, which the machine must have.
///
/// # Panics
/// As [`attention`], and if the machine lacks the instruction set.
pub fn attention_with(
    instruction_set: InstructionSet,
    shape: AttentionShape,
    queries: &[f32],
    items: &[AttentionItem<'_>],
    output: &mut [f32],
) {
    check(shape, queries, items, output);
    assert!(instruction_set.available(), "this machine lacks {}", instruction_set.name());
    match kernels(instruction_set) {
        Some(kernels) => plan::attention(kernels, shape, queries, items, output),
        None => scalar::attention(shape, queries, items, output),
    }
}

/// The kernels of one instruction set. Both leave in the scratch each row's weighted sum of
/// values, total weight and largest exponent.
struct Kernels {
    /// f32 values in a register.
    lanes: usize,
    /// For up to `lanes × tile::PANEL_VECTORS × tile::MAX_PANELS` rows.
    tile: unsafe fn(&Work<'_>, &mut Scratch),
    /// For up to `stream::MAX_ROWS` rows.
    stream: unsafe fn(&Work<'_>, &mut Scratch),
}

/// The vector kernels of an instruction set that has some.
fn kernels(instruction_set: InstructionSet) -> Option<&'static Kernels> {
    match instruction_set {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512 => Some(&avx512::KERNELS),
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => Some(&avx2::KERNELS),
        _ => None,
    }
}

/// Every length that the kernels rely on.
fn check(shape: AttentionShape, queries: &[f32], items: &[AttentionItem<'_>], output: &[f32]) {
    let AttentionShape { heads, kv_heads, head_size, .. } = shape;
    assert!(head_size > 0 && kv_heads > 0 && heads.is_multiple_of(kv_heads), "bad shape {shape:?}");
    let width = heads * head_size;
    assert_eq!(queries.len(), output.len(), "queries and output differ in shape");
    assert!(queries.len().is_multiple_of(width), "queries are no whole rows of {width}");
    let mut taken = vec![false; queries.len() / width];
    for item in items {
        assert!(item.queries.len() <= item.context(), "more queries than positions");
        for row in &mut taken[item.queries.clone()] {
            assert!(!*row, "two items share a row");
            *row = true;
        }
        for span in &item.spans {
            assert!(span.length <= span.capacity, "a span is longer than its capacity");
            let rows = kv_heads * span.capacity;
            assert!(
                span.keys.hold(rows, head_size) && span.values.hold(rows, head_size),
                "a span's keys or values are shorter than its capacity"
            );
        }
    }
}
