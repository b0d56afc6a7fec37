//! Causal attention over cached keys and values, in integers.
//!
//! Queries are rounded to 16 bits as keys are; products with keys are added up exactly; the softmax
//! is in f32; its weights are rounded to 16 bits with a step of their own for each row and 64 keys,
//! and their products with values are again added up exactly. The module `store` says why nothing
//! overflows.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod plan;
mod scalar;
mod store;
mod stream;
#[cfg(test)]
mod tests;
mod tile;
mod vector;
mod work;

use std::ops::Range;

use crate::kernels::elementwise::Rows;
use crate::support::processor::{InstructionSet, Level};
use crate::support::team::Team;
use work::{Scratch, Work};

pub use plan::AttentionScratch;
pub use store::{KeyValues, KvLayer, KvShape, KvType, LayerWriter};
pub use work::KEY_BLOCK;

/// The shape shared by all sequences of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`, and head h reads key/value head h / (heads / kv_heads).
    pub kv_heads: usize,
    /// Width of a head.
    pub head_size: usize,
    /// Factor on the scores, usually 1/√head_size. Positive.
    pub scale: f32,
    /// Scores s become c · tanh(s / c).
    pub softcap: Option<f32>,
    /// The largest bias of ALiBi (Press, Smith and Lewis, "Train Short, Test Long: Attention with
    /// Linear Biases Enables Input Length Extrapolation", 2022), usually 8: to every score, after
    /// any cap, the head's slope times the key's position minus the query's is added.
    pub alibi: Option<f32>,
    /// A query sees its own position and the ones before it, this many in all.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// Query heads that read one key/value head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// ALiBi's slope of a query head: of n heads, n a power of two, head i has 2^(−m·(i + 1) / n),
    /// where m is the largest bias. Heads beyond the last power of two have the slopes that twice
    /// as many heads would have and these have not.
    pub fn slope(&self, head: usize) -> Option<f32> {
        let largest = self.alibi?;
        let whole = 1 << self.heads.ilog2();
        let part = if head < whole {
            (head + 1) as f32 / whole as f32
        } else {
            (2 * (head - whole) + 1) as f32 / (2 * whole) as f32
        };
        Some((-largest * part).exp2())
    }
}

/// One layer's attention.
#[derive(Debug, Clone, Copy)]
pub struct AttentionLayer<'a> {
    /// Its shape.
    pub shape: AttentionShape,
    /// Which of the stores' layers has its keys and values.
    pub slot: usize,
    /// "Attention sinks" (gpt-oss): one more score for each query head, which takes its share of the
    /// softmax but has no value. Neither scaled nor capped.
    pub sinks: Option<&'a [f32]>,
}

impl AttentionLayer<'_> {
    /// The layer of the stores that is at `slot`, without sinks.
    pub fn new(shape: AttentionShape, slot: usize) -> Self {
        Self { shape, slot, sinks: None }
    }
}

/// A contiguous stretch of a sequence: the positions `0..length` of a store.
#[derive(Debug, Clone, Copy)]
pub struct Span<'a> {
    /// Keys and values.
    pub store: &'a KeyValues,
    /// Filled positions.
    pub length: usize,
}

/// One sequence's part of a step. The spans, in order, hold its whole context, the new tokens'
/// keys and values included; the query at `queries.start + i` sees all but the last
/// `queries.len() - 1 - i` positions.
#[derive(Debug, Clone)]
pub struct AttentionItem<'a> {
    /// The rows of the step's query matrix that belong to this sequence.
    pub queries: Range<usize>,
    /// Its context.
    pub spans: &'a [Span<'a>],
}

impl AttentionItem<'_> {
    /// Positions that all spans hold together.
    fn context(&self) -> usize {
        self.spans.iter().map(|span| span.length).sum()
    }

    /// The positions that one of its tokens sees.
    fn visible(&self, token: usize, window: Option<usize>) -> Range<usize> {
        let end = self.context() - (self.queries.len() - 1 - token);
        end.saturating_sub(window.unwrap_or(usize::MAX))..end
    }
}

/// Softmax(Q·Kᵀ·scale)·V of a layer for every item. `queries` are rows of `heads · head_size`,
/// `output` is `[rows][heads · head_size]`; rows of `output` that no item names are left as they
/// are. A row that sees something that is not finite becomes NaN.
///
/// # Panics
/// If the parts do not fit together: heads that are no multiple of the key/value heads, an item
/// whose rows lie outside the matrices or are another item's too, an item with more queries than
/// positions, a store whose layer has another shape or that is shorter than its span, a window of
/// nothing, or sinks that are not one a query head.
pub fn attention(
    team: &Team,
    layer: AttentionLayer<'_>,
    queries: Rows<'_>,
    items: &[AttentionItem<'_>],
    output: &mut [f32],
    scratch: &mut AttentionScratch,
) {
    attention_with(Level::current(), team, layer, queries, items, output, scratch);
}

/// [`attention`] with the kernels of one level, which the machine must have.
///
/// # Panics
/// As [`attention`], and if the machine lacks the level.
pub fn attention_with(
    level: Level,
    team: &Team,
    layer: AttentionLayer<'_>,
    queries: Rows<'_>,
    items: &[AttentionItem<'_>],
    output: &mut [f32],
    scratch: &mut AttentionScratch,
) {
    check(layer, queries, items, output, scratch);
    assert!(Level::available().any(|one| one == level), "this machine lacks {}", level.name());
    let step = Step { layer, queries, items };
    match kernels(level) {
        Some(kernels) => plan::attention(kernels, team, step, output, scratch),
        None => scalar::attention(team, step, output),
    }
}

/// What one call of [`attention`] reads.
#[derive(Debug, Clone, Copy)]
struct Step<'a> {
    layer: AttentionLayer<'a>,
    queries: Rows<'a>,
    items: &'a [AttentionItem<'a>],
}

/// The kernels of one instruction set. Both leave in the scratch each row's weighted sum of
/// values, total weight and largest exponent.
struct Kernels {
    /// f32 values in a register.
    lanes: usize,
    /// For up to `lanes × tile::MAX_VECTORS` rows.
    tile: unsafe fn(&Work<'_>, &mut Scratch),
    /// For up to `stream::MAX_ROWS` rows.
    stream: unsafe fn(&Work<'_>, &mut Scratch),
}

/// The vector kernels of a level that has some.
fn kernels(Level { set, dot_product }: Level) -> Option<&'static Kernels> {
    match (set, dot_product) {
        #[cfg(target_arch = "x86_64")]
        (InstructionSet::Avx512, true) => Some(&avx512::KERNELS_VNNI),
        #[cfg(target_arch = "x86_64")]
        (InstructionSet::Avx512, false) => Some(&avx512::KERNELS),
        #[cfg(target_arch = "x86_64")]
        (InstructionSet::Avx2, true) => Some(&avx2::KERNELS_VNNI),
        #[cfg(target_arch = "x86_64")]
        (InstructionSet::Avx2, false) => Some(&avx2::KERNELS),
        #[cfg(target_arch = "aarch64")]
        (InstructionSet::Neon, _) => Some(&neon::KERNELS),
        _ => None,
    }
}

/// Every length that the kernels rely on.
fn check(
    layer: AttentionLayer<'_>,
    queries: Rows<'_>,
    items: &[AttentionItem<'_>],
    output: &[f32],
    scratch: &mut AttentionScratch,
) {
    let AttentionLayer { shape, slot, sinks } = layer;
    let AttentionShape { heads, kv_heads, head_size, .. } = shape;
    assert!(head_size > 0 && kv_heads > 0 && heads.is_multiple_of(kv_heads), "bad shape {shape:?}");
    assert!(shape.window != Some(0), "a window of nothing");
    assert!(sinks.is_none_or(|sinks| sinks.len() == heads), "a sink for each of {heads} heads");
    assert_eq!(queries.width(), heads * head_size, "queries of another width");
    assert_eq!(queries.count() * queries.width(), output.len(), "queries and output differ");
    scratch.claim_rows(queries.count(), items.iter().map(|item| item.queries.clone()));
    for item in items {
        assert!(item.queries.len() <= item.context(), "more queries than positions");
        for Span { store, length } in item.spans {
            assert!(*length <= store.capacity(), "a span is longer than its store");
            let held = store.shape().layer(slot);
            assert_eq!(held, Some(KvLayer { kv_heads, head_size }), "layer {slot} of a store");
        }
    }
}
