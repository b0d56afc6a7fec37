//! OLMo 2 (OLMo Team 2024): norms behind attention and the feed-forward network instead of before them,
//! and norms of all queries and of all keys of a position.

use super::layer::{Activation, Attention, FeedForward, FeedForwardKind, HeadNorms, NormKind};
use super::llama::{COMMON, LLAMA, add_attention, add_gated_network};
use super::rope::RopePairs;
use super::tensors::{RowOrder, TensorList, TensorSpec};
use super::{Checkpoint, Dimensions, Family, Field, Layer};

pub(super) const OLMO2: Family = Family {
    name: "OLMo 2",
    gguf: "olmo2",
    checkpoints: &[Checkpoint { architecture: "Olmo2ForCausalLM", model_type: "olmo2" }],
    fields: &[COMMON, OWN],
    tensors,
    layer,
    ..LLAMA
};

/// What OLMo 2 and 3 have beside sizes and positions.
pub(super) const OWN: &[Field] = &[
    Field::OneOf { config: &["hidden_act"], allowed: &["silu"] },
    Field::Tensor { config: "attention_bias", tensor: "blk.0.attn_q.bias", there: true },
];

fn tensors(d: &Dimensions) -> Vec<TensorSpec> {
    post_norm_tensors(d, |layer| [d.heads.at(layer), d.kv_heads.at(layer)])
}

/// The tensors of layers with norms behind attention and the network. `normalized_heads` gives the
/// number of query and of key heads that a layer's norms span.
pub(super) fn post_norm_tensors(
    d: &Dimensions,
    normalized_heads: impl Fn(usize) -> [usize; 2],
) -> Vec<TensorSpec> {
    let mut list = TensorList::new();
    list.matrix("model.embed_tokens", "token_embd", d.vocabulary, d.hidden);
    list.norm("model.norm", "output_norm", d.hidden);
    list.output("lm_head", d);
    for layer in 0..d.layers {
        let [queries, keys] = normalized_heads(layer);
        list.scope(format!("model.layers.{layer}."), format!("blk.{layer}."));
        add_attention(&mut list, d, layer, RowOrder::Same, RowOrder::Same);
        list.norm("self_attn.q_norm", "attn_q_norm", queries * d.head_size);
        list.norm("self_attn.k_norm", "attn_k_norm", keys * d.head_size);
        list.norm("post_attention_layernorm", "post_attention_norm", d.hidden);
        add_gated_network(&mut list, d, layer);
        list.norm("post_feedforward_layernorm", "post_ffw_norm", d.hidden);
    }
    list.finish()
}

pub(super) fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let attention = post_norm_attention(d, index, true)?;
    Ok(Layer::new(attention, post_norm_network(d)?))
}

/// Attention with a norm behind it, and norms of queries and keys: of all heads as one, or of each.
pub(super) fn post_norm_attention(
    d: &Dimensions,
    index: usize,
    whole_rows: bool,
) -> Result<Attention, String> {
    let (kind, epsilon) = (NormKind::Rms, d.epsilon(NormKind::Rms)?);
    Ok(Attention {
        head_norms: Some(HeadNorms { kind, whole_rows, epsilon }),
        rope: Some(d.rope(RopePairs::Halves)?),
        scale: d.attention_scale()?,
        post_norm: Some(d.norm(kind, "post_attention_norm")?),
        ..Attention::new(d.heads.at(index), d.kv_heads.at(index), d.head_size)
    })
}

/// A gated network with a norm behind it.
pub(super) fn post_norm_network(d: &Dimensions) -> Result<FeedForward, String> {
    Ok(FeedForward {
        norm: None,
        kind: FeedForwardKind::Gated,
        activation: Activation::Silu,
        post_norm: Some(d.norm(NormKind::Rms, "post_ffw_norm")?),
    })
}
