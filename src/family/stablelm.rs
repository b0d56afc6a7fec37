//! StableLM 3B, 1.6B, 12B and Zephyr (Bellagente et al. 2024): llama's layers with LayerNorm and a rotary
//! embedding of part of each head. The 12B has one norm for attention and the feed-forward network, side
//! by side, and a norm for each query and key head.

use super::fields::{Absent, count, number};
use super::gpt_neox::{export_partial_rotary, write_partial_rotary};
use super::layer::{Activation, Attention, FeedForward, HeadNorms, NormKind};
use super::llama::LLAMA;
use super::rope::RopePairs;
use super::tensors::{RowOrder, TensorList, TensorSpec};
use super::{Checkpoint, Dimensions, Family, Field, Layer, layer_norm_frame, nothing_computed};

const PARALLEL: &str = "use_parallel_residual";

pub(super) const STABLELM: Family = Family {
    name: "StableLM 3B and 2",
    gguf: "stablelm",
    checkpoints: &[Checkpoint { architecture: "StableLmForCausalLM", model_type: "stablelm" }],
    fields: &[&[
        count("context_length", &["max_position_embeddings"]),
        count("embedding_length", &["hidden_size"]),
        count("block_count", &["num_hidden_layers"]),
        count("feed_forward_length", &["intermediate_size"]),
        PARTIAL_ROTARY,
        count("attention.head_count", &["num_attention_heads"]),
        count("attention.head_count_kv", &["num_key_value_heads", "num_attention_heads"]),
        Field::Truth { config: &[PARALLEL], gguf: PARALLEL, absent: Absent::Means(false) },
        number("attention.layer_norm_epsilon", &["layer_norm_eps"]),
        Field::FileType,
        Field::OneOf { config: &["hidden_act"], allowed: &["silu"] },
        Field::Tensor { config: "use_qkv_bias", tensor: "blk.0.attn_q.bias", there: true },
        Field::Tensor { config: "qk_layernorm", tensor: "blk.0.attn_q_norm.weight", there: true },
    ]],
    tensors,
    computed_names: &[],
    computed: nothing_computed,
    frame: layer_norm_frame,
    layer,
    ..LLAMA
};

const PARTIAL_ROTARY: Field = Field::Special {
    gguf: &["rope.dimension_count", "rope.freq_base"],
    write: |config, keys| write_partial_rotary(config, keys, 0.25),
    export: export_partial_rotary,
};

fn tensors(d: &Dimensions) -> Vec<TensorSpec> {
    let mut list = TensorList::new();
    list.matrix("model.embed_tokens", "token_embd", d.vocabulary, d.hidden);
    list.layer_norm("model.norm", "output_norm", d.hidden);
    list.output("lm_head", d);
    for layer in 0..d.layers {
        let (heads, key_heads) = (d.heads.at(layer), d.kv_heads.at(layer));
        let (queries, keys) = (heads * d.head_size, key_heads * d.head_size);
        let feed_forward = d.feed_forward.at(layer);
        list.scope(format!("model.layers.{layer}."), format!("blk.{layer}."));
        list.layer_norm("input_layernorm", "attn_norm", d.hidden);
        list.linear("self_attn.q_proj", "attn_q", queries, d.hidden, RowOrder::Same);
        list.linear("self_attn.k_proj", "attn_k", keys, d.hidden, RowOrder::Same);
        list.linear("self_attn.v_proj", "attn_v", keys, d.hidden, RowOrder::Same);
        list.linear("self_attn.o_proj", "attn_output", d.hidden, queries, RowOrder::Same);
        if has_head_norms(d, layer) {
            list.add(head_norms("self_attn.q_layernorm", "attn_q_norm", heads, d.head_size));
            list.add(head_norms("self_attn.k_layernorm", "attn_k_norm", key_heads, d.head_size));
        }
        if !is_parallel(d, layer) {
            list.layer_norm("post_attention_layernorm", "ffn_norm", d.hidden);
        }
        list.linear("mlp.gate_proj", "ffn_gate", feed_forward, d.hidden, RowOrder::Same);
        list.linear("mlp.up_proj", "ffn_up", feed_forward, d.hidden, RowOrder::Same);
        list.linear("mlp.down_proj", "ffn_down", d.hidden, feed_forward, RowOrder::Same);
    }
    list.finish()
}

/// The weights of the norms of all heads: a tensor a head in the checkpoint, one in GGUF.
fn head_norms(checkpoint: &str, gguf: &str, heads: usize, head_size: usize) -> TensorSpec {
    let checkpoint = (0..heads).map(|head| format!("{checkpoint}.norms.{head}.weight")).collect();
    let norms = TensorSpec::matrix("", format!("{gguf}.weight"), heads, head_size);
    TensorSpec { checkpoint, ..norms }
}

/// Whether queries and keys have norms; the tensors alone say so, on either side.
fn has_head_norms(d: &Dimensions, layer: usize) -> bool {
    d.layer_has(layer, "attn_q_norm.weight")
        || d.has(&format!("model.layers.{layer}.self_attn.q_layernorm.norms.0.weight"))
}

/// Whether attention and the network stand side by side, behind one norm. llama.cpp's converter writes
/// yes where config.json says nothing, which means no: a second norm tells.
fn is_parallel(d: &Dimensions, layer: usize) -> bool {
    let has_second_norm = d.layer_has(layer, "ffn_norm.weight")
        || d.has(&format!("model.layers.{layer}.post_attention_layernorm.weight"));
    matches!(d.keys().optional_truth(PARALLEL), Ok(Some(true))) && !has_second_norm
}

fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let norm = d.norm(NormKind::Layer, "attn_norm")?;
    let head_norms = HeadNorms { kind: NormKind::Layer, whole_rows: false, epsilon: norm.epsilon };
    let attention = Attention {
        norm: Some(norm),
        head_norms: has_head_norms(d, index).then_some(head_norms),
        rope: Some(d.rope(RopePairs::Halves)?),
        ..Attention::new(d.heads.at(index), d.kv_heads.at(index), d.head_size)
    };
    let parallel = is_parallel(d, index);
    let network_norm = if parallel { norm } else { d.norm(NormKind::Layer, "ffn_norm")? };
    let feed_forward = FeedForward::gated(network_norm, Activation::Silu);
    Ok(Layer { parallel, ..Layer::new(attention, feed_forward) })
}
