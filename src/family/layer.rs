//! A decoder as data: what a family's layers compute, in the order in which they compute it.
//!
//! Tensors are named by their part of a GGUF name: `attn_q` stands for `blk.N.attn_q.weight`, and for
//! `blk.N.attn_q.bias` where the file has one.

use super::rope::Rope;

/// Everything of a decoder that is not in its layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Factor on the token embeddings.
    pub embedding_scale: f32,
    /// A norm of the embeddings, before the first layer.
    pub embedding_norm: Option<Norm>,
    /// Whether each position has an embedding of its own, which is added to the token's (`position_embd`).
    pub learned_positions: bool,
    /// Further embeddings of each token, a row a layer.
    pub layer_embeddings: Option<LayerEmbeddings>,
    /// The norm before the output matrix.
    pub output_norm: Norm,
    /// Factor on the logits.
    pub logit_scale: f32,
    /// Logits l become c · tanh(l / c).
    pub logit_softcap: Option<f32>,
}

impl Frame {
    /// Tokens in, one norm, logits out.
    pub fn new(output_norm: Norm) -> Self {
        Self {
            embedding_scale: 1.0,
            embedding_norm: None,
            learned_positions: false,
            layer_embeddings: None,
            output_norm,
            logit_scale: 1.0,
            logit_softcap: None,
        }
    }
}

/// Embeddings that each layer has for each token (Gemma 3n and 4):
/// `(norm(scale · x · per_layer_model_projᵀ) + table_scale · per_layer_token_embd[token]) · input_scale`.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerEmbeddings {
    /// Elements of a layer's row.
    pub width: usize,
    /// Factor on what is looked up.
    pub table_scale: f32,
    /// Factor on what is projected from the token's embedding.
    pub projection_scale: f32,
    /// The norm of each layer's projected row.
    pub projection_norm: Norm,
    /// Factor on the sum.
    pub input_scale: f32,
}

/// One layer: a mixer of positions, then a feed-forward network, each added to the residual stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// What mixes positions.
    pub mixer: Mixer,
    /// What follows it.
    pub feed_forward: FeedForward,
    /// Whether the feed-forward network reads what the mixer read, rather than what it left.
    pub parallel: bool,
    /// Factor on what is added to the residual stream.
    pub residual_scale: f32,
    /// What each layer does with its own embeddings of the tokens, at its end.
    pub layer_embedding: Option<LayerEmbedding>,
    /// A number that the residual stream is multiplied with at the end (`layer_output_scale`).
    pub output_scale: Option<&'static str>,
}

impl Layer {
    /// Attention, then the network, with nothing beside them.
    pub fn new(attention: Attention, feed_forward: FeedForward) -> Self {
        Self {
            mixer: Mixer::Attention(attention),
            feed_forward,
            parallel: false,
            residual_scale: 1.0,
            layer_embedding: None,
            output_scale: None,
        }
    }
}

/// What mixes positions.
#[derive(Debug, Clone, PartialEq)]
pub enum Mixer {
    /// Softmax attention over keys and values.
    Attention(Attention),
}

/// Causal softmax attention.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// The norm of its input.
    pub norm: Option<Norm>,
    /// Where queries, keys and values come from.
    pub projection: Projection,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_size: usize,
    /// Norms of queries and keys, before they are turned.
    pub head_norms: Option<HeadNorms>,
    /// The ε of an RMS norm of each head of values, without weights.
    pub value_norm: Option<f32>,
    /// How positions turn queries and keys; `None` where they do not.
    pub rope: Option<Rope>,
    /// Linear biases: the largest exponent of the slopes (Press et al. 2022).
    pub alibi: Option<f32>,
    /// A query sees its own position and those before it, this many in all.
    pub window: Option<usize>,
    /// Scores s become c · tanh(s / c).
    pub softcap: Option<f32>,
    /// Factor on the scores.
    pub scale: f32,
    /// A factor on queries that grows with their position.
    pub temperature: Option<Temperature>,
    /// The matrix behind it.
    pub output: &'static str,
    /// A norm of what the matrix gives.
    pub post_norm: Option<Norm>,
    /// The layer whose keys and values it reads, where those are not its own.
    pub shares_with: Option<usize>,
}

impl Attention {
    /// Llama's: a norm, separate projections, scores divided by the root of the head's width.
    pub fn new(heads: usize, kv_heads: usize, head_size: usize) -> Self {
        Self {
            norm: None,
            projection: Projection::Split,
            heads,
            kv_heads,
            head_size,
            head_norms: None,
            value_norm: None,
            rope: None,
            alibi: None,
            window: None,
            softcap: None,
            scale: (head_size as f64).sqrt().recip() as f32,
            temperature: None,
            output: "attn_output",
            post_norm: None,
            shares_with: None,
        }
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_size
    }

    /// Width of all key heads, or of all value heads, together.
    pub fn key_width(&self) -> usize {
        self.kv_heads * self.head_size
    }
}

/// Where queries, keys and values come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projection {
    /// `attn_q`, `attn_k` and `attn_v`.
    Split,
    /// `attn_q`, and `attn_k` for keys and, normalized otherwise, for values.
    SharedKeyValue,
    /// `attn_qkv`: the rows of all queries, then those of all keys, then those of all values.
    Fused,
    /// `attn_q` alone: keys and values are another layer's.
    QueriesOnly,
}

/// Norms of queries and keys: `attn_q_norm` and `attn_k_norm`. Their weights are for one head, which all
/// heads share, or for all of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HeadNorms {
    /// How they normalize.
    pub kind: NormKind,
    /// Whether all heads of a position are normalized as one.
    pub whole_rows: bool,
    /// Added to the mean square, or to the variance.
    pub epsilon: f32,
}

/// A factor on queries: `1 + scale · ln(1 + ⌊position / original context⌋)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Temperature {
    /// Factor on the logarithm.
    pub scale: f32,
    /// Positions up to which it is 1.
    pub original_context: usize,
}

impl Temperature {
    /// The factor of a position's queries.
    pub fn factor(self, position: usize) -> f32 {
        let exceeded = (position / self.original_context) as f32;
        1.0 + self.scale * exceeded.ln_1p()
    }
}

/// A feed-forward network.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedForward {
    /// The norm of its input.
    pub norm: Option<Norm>,
    /// Its matrices.
    pub kind: FeedForwardKind,
    /// What goes between them.
    pub activation: Activation,
    /// A norm of what it gives.
    pub post_norm: Option<Norm>,
}

impl FeedForward {
    /// A norm, then `down(activation(gate) · up)`.
    pub fn gated(norm: Norm, activation: Activation) -> Self {
        Self { norm: Some(norm), kind: FeedForwardKind::Gated, activation, post_norm: None }
    }

    /// A norm, then `down(activation(up))`.
    pub fn plain(norm: Norm, activation: Activation) -> Self {
        Self { norm: Some(norm), kind: FeedForwardKind::Plain, activation, post_norm: None }
    }
}

/// The matrices of a feed-forward network; `ffn_down` is the last of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedForwardKind {
    /// `activation(ffn_gate) · ffn_up`.
    Gated,
    /// The same, with the rows of the gate and then those of up in one matrix, `ffn_up`.
    FusedGated,
    /// `activation(ffn_up)`.
    Plain,
}

/// The functions between the matrices of a feed-forward network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · sigmoid(x).
    Silu,
    /// x · Φ(x), its Φ approximated by tanh (Hendrycks and Gimpel 2016).
    GeluTanh,
    /// x · Φ(x).
    Gelu,
}

/// A layer's own embedding of a token: the residual stream gains
/// `norm((activation(x · inp_gateᵀ) · embedding) · projᵀ)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerEmbedding {
    /// What goes through the gate.
    pub activation: Activation,
    /// The norm of what is added.
    pub post_norm: Norm,
}

/// A norm of rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Norm {
    /// How it normalizes.
    pub kind: NormKind,
    /// Its tensor: `attn_norm`, `output_norm`.
    pub tensor: &'static str,
    /// Added to the mean square, or to the variance.
    pub epsilon: f32,
}

/// How a norm normalizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// By the root of the mean square (Zhang and Sennrich 2019).
    Rms,
    /// By mean and variance (Ba et al. 2016).
    Layer,
}
