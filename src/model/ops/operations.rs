//! The operations that the decoder is written in, each of which passes over the activations of a
//! step once.

use std::fmt::Debug;

use candle_core::Result;

use crate::family::layer::{Activation, NormKind};
use crate::gguf::GgmlType;
use crate::kernels::attention::AttentionShape;
use crate::model::cache::{BatchItem, Memory};

/// What one operation leaves for the next, a row a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Buffer {
    /// The residual stream.
    Residual,
    /// Queries; with keys and values behind them where one matrix makes them all.
    Queries,
    /// Keys.
    Keys,
    /// Values.
    Values,
    /// What attention gave.
    Attended,
    /// The gate of a feed-forward network.
    Gate,
    /// What it is multiplied with, or what goes through the activation alone.
    Up,
    /// What is normalized before it is added to another buffer.
    Branch,
    /// The layers' own embeddings of the tokens, one layer's behind another's.
    LayerEmbeddings,
    /// The logits.
    Logits,
}

impl Buffer {
    /// How many there are.
    pub(in crate::model) const COUNT: usize = 10;
}

/// Some columns of a buffer's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) struct View {
    pub(in crate::model) buffer: Buffer,
    /// The first column.
    pub(in crate::model) start: usize,
    /// How many there are.
    pub(in crate::model) width: usize,
}

impl View {
    /// All of a buffer's columns.
    pub(in crate::model) fn whole(buffer: Buffer, width: usize) -> Self {
        Self { buffer, start: 0, width }
    }
}

/// What matrices are multiplied with.
#[derive(Debug)]
pub(in crate::model) enum Source<'a, V> {
    /// Rows as they are.
    Rows(View),
    /// The norm of each row.
    Normalized(View, &'a Norm<V>),
    /// `activation(rows)`.
    Activated(Activation, View),
    /// `activation(gate) · up`.
    Gated(Activation, View, View),
}

// Derived, it would ask the same of the vectors, which are only borrowed.
impl<V> Clone for Source<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Source<'_, V> {}

/// Where a product goes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::model) enum Slot {
    /// It takes the place of a buffer.
    Buffer(Buffer),
    /// It is added to the residual stream, times a factor.
    Residual(f32),
}

/// A weight matrix and what is added to its products.
#[derive(Debug)]
pub(in crate::model) struct Weight<O: Ops> {
    pub(in crate::model) matrix: O::Matrix,
    pub(in crate::model) bias: Option<O::Vector>,
}

/// A norm with its weights.
#[derive(Debug)]
pub(in crate::model) struct Norm<V> {
    pub(in crate::model) kind: NormKind,
    pub(in crate::model) weight: Option<V>,
    pub(in crate::model) bias: Option<V>,
    pub(in crate::model) epsilon: f32,
}

/// The norms of a layer's heads.
#[derive(Debug)]
pub(in crate::model) struct HeadNorms<V> {
    pub(in crate::model) queries: Norm<V>,
    /// None where keys are another layer's.
    pub(in crate::model) keys: Option<Norm<V>>,
    /// Whether all heads are normalized as one.
    pub(in crate::model) whole_rows: bool,
}

/// A layer's attention, and what happens to queries, keys and values before it.
#[derive(Debug)]
pub(in crate::model) struct AttentionSpec<V> {
    pub(in crate::model) shape: AttentionShape,
    /// Which of the caches' layers has its keys and values.
    pub(in crate::model) slot: usize,
    pub(in crate::model) queries: View,
    /// Keys and values; none where they are another layer's.
    pub(in crate::model) keys_values: Option<[View; 2]>,
    pub(in crate::model) head_norms: Option<HeadNorms<V>>,
    /// Added to the mean square of values, which are normalized head by head without weights.
    pub(in crate::model) value_norm: Option<f32>,
    /// Which of the step's rotations turns queries and keys.
    pub(in crate::model) rotation: Option<usize>,
    /// Whether elements i and i + pairs turn together, rather than 2i and 2i + 1.
    pub(in crate::model) halves: bool,
    /// Whether queries are multiplied with the step's factors.
    pub(in crate::model) has_query_factors: bool,
}

/// The cosines and sines by which each token's pairs of elements turn, `[tokens, pairs]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::model) struct Rotation {
    pub(in crate::model) cosines: Vec<f32>,
    pub(in crate::model) sines: Vec<f32>,
}

/// What a step begins with.
#[derive(Debug, Clone, Copy)]
pub(in crate::model) struct Start<'a> {
    pub(in crate::model) tokens: usize,
    /// `[tokens, hidden]`.
    pub(in crate::model) residual: &'a [f32],
    /// `[tokens, layers · width]`, in models whose layers have embeddings of their own.
    pub(in crate::model) layer_embeddings: &'a [f32],
    /// One for each kind of rotary embedding among the layers.
    pub(in crate::model) rotations: &'a [Rotation],
    /// A factor on each token's queries, in layers that have them.
    pub(in crate::model) query_factors: &'a [f32],
}

/// Whose queries an attention is for: the last rows of each item, in the order of the items.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum Queries {
    /// Every token's.
    All,
    /// Those of the tokens that give logits.
    Wanted,
}

impl Queries {
    /// How many an item has.
    pub(in crate::model) fn count(self, item: &BatchItem<'_>) -> usize {
        match self {
            Self::All => item.tokens.len(),
            Self::Wanted => item.logits,
        }
    }

    /// How many all items have.
    pub(in crate::model) fn count_all(self, items: &[BatchItem<'_>]) -> usize {
        items.iter().map(|item| self.count(item)).sum()
    }
}

/// A back end, for one model.
pub(in crate::model) trait Ops:
    Memory + Debug + Send + Sync + Sized + 'static
{
    /// A weight matrix in the form that is multiplied fastest.
    type Matrix: Debug + Send + Sync;
    /// Weights of a norm, or a bias.
    type Vector: Debug + Send + Sync;
    /// The buffers of a step. Their memory is used again in the next step.
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

    /// Begins a step.
    fn begin(&self, activations: &mut Self::Activations, start: Start<'_>) -> Result<()>;

    /// `source · matrixᵀ + bias` for each of the weights, each to its slot.
    fn multiply(
        &self,
        activations: &mut Self::Activations,
        source: Source<'_, Self::Vector>,
        weights: &[Weight<Self>],
        slots: &[Slot],
    ) -> Result<()>;

    /// Calls `action` with what matrices are multiplied with.
    fn with_input(
        &self,
        activations: &mut Self::Activations,
        source: Source<'_, Self::Vector>,
        action: &mut dyn FnMut(&[f32]),
    ) -> Result<()>;

    /// Adds the norms of each `width` columns of [`Buffer::Branch`] to another buffer, times a factor.
    fn add_normalized(
        &self,
        activations: &mut Self::Activations,
        norm: &Norm<Self::Vector>,
        target: Buffer,
        width: usize,
        factor: f32,
    ) -> Result<()>;

    /// Multiplies the residual stream with a factor.
    fn scale_residual(&self, activations: &mut Self::Activations, factor: f32) -> Result<()>;

    /// Normalizes queries, keys and values head by head where the layer does that, turns queries and
    /// keys, and writes keys and values behind the filled positions of the items' caches.
    fn rotate_and_store(
        &self,
        activations: &mut Self::Activations,
        attention: &AttentionSpec<Self::Vector>,
        items: &mut [BatchItem<'_>],
    ) -> Result<()>;

    /// Causal attention of one layer, to [`Buffer::Attended`].
    fn attention(
        &self,
        activations: &mut Self::Activations,
        attention: &AttentionSpec<Self::Vector>,
        items: &[BatchItem<'_>],
        queries: Queries,
    ) -> Result<()>;

    /// Leaves only the last `item.logits` rows of each item in these buffers. Gives their number.
    fn keep_wanted(
        &self,
        activations: &mut Self::Activations,
        items: &[BatchItem<'_>],
        buffers: &[Buffer],
    ) -> Result<usize>;

    /// Multiplies the logits with a factor, then caps them: l becomes c · tanh(l / c).
    fn scale_logits(
        &self,
        activations: &mut Self::Activations,
        factor: f32,
        softcap: Option<f32>,
    ) -> Result<()>;

    /// A copy of a buffer.
    fn values(&self, activations: &Self::Activations, buffer: Buffer) -> Result<Vec<f32>>;

    /// [`Buffer::Logits`].
    fn logits<'a>(&self, activations: &'a Self::Activations) -> &'a [f32];
}
