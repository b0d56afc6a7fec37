//! The operations that the decoder is written in, each of which passes over the activations of a
//! step once.
//!
//! There are two implementations: [`kernels`] runs quantkit's own CPU kernels over plain buffers
//! that are kept from step to step, and [`tensors`] uses candle's operations on whatever device its
//! tensors are.

mod kernels;
mod tensors;

use std::fmt::Debug;

use candle_core::Result;

use super::cache::{Segment, SegmentStorage};
use super::config::Config;
use super::decoder::BatchItem;
use crate::gguf::GgmlType;
use crate::kernels::attention::AttentionShape;

pub(super) use kernels::KernelOps;
pub(super) use tensors::TensorOps;

/// A weight matrix and what is added to its products.
#[derive(Debug)]
pub(super) struct Weight<O: Ops> {
    pub(super) matrix: O::Matrix,
    pub(super) bias: Option<O::Vector>,
}

/// What the products of the normalized residual stream are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Products {
    /// Three: queries, keys and values.
    QueriesKeysValues,
    /// Two: gate and up.
    GateUp,
    /// One.
    Logits,
}

/// What comes back to the residual stream, by way of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Branch {
    /// What attention gave.
    Attended,
    /// `gate · sigmoid(gate) · up`.
    Gated,
}

/// What matrices are multiplied with.
#[derive(Debug)]
pub(super) enum Input<'a, O: Ops> {
    /// The residual stream, normalized.
    Normalized(&'a O::Vector),
    /// A branch.
    Branch(Branch),
}

/// Whose queries an attention is for: the last rows of each item, in the order of the items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Queries {
    /// Every token's.
    All,
    /// Those of the tokens that give logits.
    Wanted,
}

impl Queries {
    /// How many an item has.
    pub(super) fn count(self, item: &BatchItem<'_>) -> usize {
        match self {
            Self::All => item.tokens.len(),
            Self::Wanted => item.logits,
        }
    }

    /// How many all items have.
    pub(super) fn count_all(self, items: &[BatchItem<'_>]) -> usize {
        items.iter().map(|item| self.count(item)).sum()
    }
}

/// A decoder layer's weights for the norms of its heads, where its family has any.
#[derive(Debug)]
pub(super) struct HeadNorms<V> {
    pub(super) queries: V,
    pub(super) keys: V,
}

/// A back end, for one model.
pub(super) trait Ops: Debug + Send + Sync + Sized + 'static {
    /// A weight matrix in the form that is multiplied fastest.
    type Matrix: Debug + Send + Sync;
    /// Weights of a norm, or a bias.
    type Vector: Debug + Send + Sync;
    /// The activations of a step: the residual stream, one row a token, and what one operation
    /// leaves for the next. Their memory is used again in the next step.
    type Activations: Debug + Default + Send + Sync;

    /// Loads a `rows × columns` matrix whose bytes are in ggml's row layout.
    fn matrix(
        &self,
        kind: GgmlType,
        rows: usize,
        columns: usize,
        bytes: &[u8],
    ) -> Result<Self::Matrix>;

    /// Bytes that a matrix takes in memory.
    fn matrix_bytes(&self, matrix: &Self::Matrix) -> usize;

    /// Loads a vector.
    fn vector(&self, values: Vec<f32>) -> Result<Self::Vector>;

    /// Begins a step of so many tokens with these rows of the residual stream, and the cosines and
    /// sines by which each token's pairs of elements turn, `[tokens, pairs]`.
    fn begin(
        &self,
        activations: &mut Self::Activations,
        tokens: usize,
        residual: &[f32],
        cosines: &[f32],
        sines: &[f32],
    ) -> Result<()>;

    /// Root-mean-square norm of the residual stream, times `norm`, and `normalized · matrixᵀ + bias`
    /// for each of the weights.
    fn multiply_normalized(
        &self,
        activations: &mut Self::Activations,
        norm: &Self::Vector,
        weights: &[Weight<Self>],
        products: Products,
    ) -> Result<()>;

    /// Adds `branch · matrixᵀ + bias` to the residual stream.
    fn add_product(
        &self,
        activations: &mut Self::Activations,
        branch: Branch,
        weight: &Weight<Self>,
    ) -> Result<()>;

    /// Calls `action` with what matrices are multiplied with.
    fn with_input(
        &self,
        activations: &mut Self::Activations,
        input: Input<'_, Self>,
        action: &mut dyn FnMut(&[f32]),
    ) -> Result<()>;

    /// Normalizes queries and keys head by head where the family does that, turns them, and writes
    /// keys and values behind the filled positions of the items' caches.
    fn rotate_and_store(
        &self,
        activations: &mut Self::Activations,
        norms: Option<&HeadNorms<Self::Vector>>,
        layer: usize,
        items: &mut [BatchItem<'_>],
    ) -> Result<()>;

    /// Causal attention of one layer.
    fn attention(
        &self,
        activations: &mut Self::Activations,
        layer: usize,
        items: &[BatchItem<'_>],
        queries: Queries,
    ) -> Result<()>;

    /// Leaves only the last `item.logits` rows of each item in the residual stream and among the
    /// queries. Gives their number.
    fn keep_wanted(
        &self,
        activations: &mut Self::Activations,
        items: &[BatchItem<'_>],
    ) -> Result<usize>;

    /// A copy of the residual stream.
    fn residual(&self, activations: &Self::Activations) -> Result<Vec<f32>>;

    /// The last [`Products::Logits`].
    fn logits<'a>(&self, activations: &'a Self::Activations) -> &'a [f32];

    /// Room for `capacity` positions of keys and values in all layers.
    fn cache_storage(&self, capacity: usize) -> Result<SegmentStorage>;

    /// Appends the filled positions of a segment to those of another one, which has room for them.
    fn append(&self, to: &mut Segment, from: &Segment) -> Result<()>;

    /// Bytes of one token's keys and values over all layers.
    fn cache_bytes_per_token(&self) -> usize;
}

/// The segment that an item's tokens are written to; room in it was reserved.
fn tail<'a>(item: &'a mut BatchItem<'_>) -> Result<&'a mut Segment> {
    match item.cache.tail_mut() {
        Some(tail) => Ok(tail),
        None => candle_core::bail!("no room was reserved in the cache"),
    }
}

/// The attention of every layer.
fn attention_shape(config: &Config) -> AttentionShape {
    AttentionShape {
        heads: config.heads,
        kv_heads: config.kv_heads,
        head_size: config.head_size,
        scale: config.attention_scale,
        softcap: None,
        alibi: None,
        window: None,
    }
}
