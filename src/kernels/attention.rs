//! Causal attention over cached keys and values.

use std::ops::Range;

use half::f16;

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

/// A contiguous stretch of a sequence's cache, in one layer. `keys` and `values` are laid out
/// `[kv_heads][capacity][head_size]`; positions `0..length` are filled.
#[derive(Debug, Clone, Copy)]
pub struct CacheSpan<'a> {
    /// Keys.
    pub keys: &'a [f16],
    /// Values.
    pub values: &'a [f16],
    /// Filled positions.
    pub length: usize,
    /// Allocated positions: the stride between heads is `capacity * head_size`.
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

/// Softmax(Q·Kᵀ·scale)·V for every item, on the current rayon pool. `queries` and `output` are
/// `[rows][heads][head_size]`.
pub fn attention(
    shape: AttentionShape,
    queries: &[f32],
    items: &[AttentionItem<'_>],
    output: &mut [f32],
) {
    todo!("{shape:?} {} {} {}", queries.len(), items.len(), output.len())
}
