//! Llama (Touvron et al. 2023) and what was built like it: Llama 2 and 3, SmolLM and SmolLM2, 42dot.
//!
//! Queries and keys are turned in pairs of neighbours in GGUF, and of halves in the checkpoint: their
//! rows are reordered on the way.

use serde_json::{Map, Value as Json};

use super::fields::{Exported, Keys, count, number, optional_count};
use super::layer::{Activation, Attention, FeedForward, NormKind};
use super::rope::{self, FREQUENCY_DIVISORS, RopePairs, RopeParameters};
use super::tensors::{RowOrder, TensorList, TensorSpec};
use super::{Checkpoint, Dimensions, Family, Field, Frame, Layer, claims_all, llama3_divisors};
use crate::checkpoint::config::Config;

pub(super) const LLAMA: Family = Family {
    name: "Llama 2 and 3, SmolLM, SmolLM2, 42dot",
    gguf: "llama",
    claims: claims_all,
    checkpoints: &[Checkpoint { architecture: "LlamaForCausalLM", model_type: "llama" }],
    fields: &[
        COMMON,
        ROTARY,
        &[
            Field::OneOf { config: &["hidden_act"], allowed: &["silu"] },
            Field::Tensor { config: "attention_bias", tensor: "blk.0.attn_q.bias", there: true },
            Field::Tensor { config: "mlp_bias", tensor: "blk.0.ffn_gate.bias", there: true },
        ],
    ],
    tied: false,
    ignored: &[],
    tensors,
    computed_names: &[FREQUENCY_DIVISORS],
    computed: llama3_divisors,
    frame,
    layer,
};

/// What llama.cpp's converter writes for every family that has nothing of its own to say.
pub(super) const COMMON: &[Field] = &[
    count("block_count", &["num_hidden_layers"]),
    optional_count("context_length", &["max_position_embeddings"]),
    count("embedding_length", &["hidden_size"]),
    count("feed_forward_length", &["intermediate_size"]),
    count("attention.head_count", &["num_attention_heads"]),
    count("attention.head_count_kv", &["num_key_value_heads", "num_attention_heads"]),
    ROPE,
    number("attention.layer_norm_rms_epsilon", &["rms_norm_eps"]),
    HEAD_SIZE,
    Field::FileType,
];

/// What [`COMMON`] begins with, up to the rotary embedding.
pub(super) const SIZES: &[Field] = COMMON.split_at(6).0;

/// What follows the rotary embedding in [`COMMON`].
pub(super) const AFTER_ROPE: &[Field] = COMMON.split_at(7).1;

/// The size of the vocabulary, which `export` takes from the embedding.
pub(super) const VOCABULARY: Field =
    Field::Special { gguf: &["vocab_size"], write: write_vocabulary, export: export_nothing };

/// What it writes for llama and its kin alone.
pub(super) const ROTARY: &[Field] = &[
    VOCABULARY,
    Field::Special {
        gguf: &["rope.dimension_count"],
        write: write_rotary_size,
        export: check_rotary_size,
    },
];

/// One rotary embedding for all layers.
pub(super) const ROPE: Field = Field::Special {
    gguf: &["rope.freq_base", "rope.scaling.type"],
    write: |config, keys| rope::write(&RopeParameters::read(config)?, keys),
    export: rope::export,
};

/// The width of a head, where config.json states it.
pub(super) const HEAD_SIZE: Field = Field::Special {
    gguf: &["attention.key_length", "attention.value_length"],
    write: write_head_size,
    export: export_head_size,
};

fn write_head_size(config: &Config, keys: &mut Keys<'_>) -> Result<(), String> {
    if let Some(size) = config.count(&["head_dim"])? {
        keys.count("attention.key_length", size)?;
        keys.count("attention.value_length", size)?;
    }
    Ok(())
}

fn export_head_size(file: &Exported<'_>, config: &mut Map<String, Json>) -> Result<(), String> {
    if let Some(size) = file.keys.optional_count("attention.key_length")? {
        config.insert("head_dim".into(), size.into());
    }
    Ok(())
}

/// The width of a head of an exported file.
pub(super) fn head_size(file: &Exported<'_>) -> Result<usize, String> {
    match file.keys.optional_count("attention.key_length")? {
        Some(size) => Ok(size),
        None => Ok(file.keys.count("embedding_length")? / file.keys.count("attention.head_count")?),
    }
}

/// Refuses a scale of the attention scores other than the one that transformers computes.
pub(super) fn check_attention_scale(file: &Exported<'_>) -> Result<(), String> {
    let Some(scale) = file.number("attention.scale")? else { return Ok(()) };
    let size = head_size(file)?;
    let usual = (size as f64).sqrt().recip();
    if (scale - usual).abs() <= 1e-6 * usual {
        return Ok(());
    }
    Err(format!(
        "{} is {scale}, but heads of {size} are scaled by {usual:.6}; a config.json of this \
         architecture cannot say that",
        file.keys.name("attention.scale")
    ))
}

fn write_vocabulary(config: &Config, keys: &mut Keys<'_>) -> Result<(), String> {
    keys.count("vocab_size", config.required_count(&["vocab_size"])?)
}

fn export_nothing(_: &Exported<'_>, _: &mut Map<String, Json>) -> Result<(), String> {
    Ok(())
}

fn write_rotary_size(config: &Config, keys: &mut Keys<'_>) -> Result<(), String> {
    let size = match config.count(&["head_dim"])? {
        Some(size) => size,
        None => {
            let heads = config.required_count(&["num_attention_heads"])?;
            config.required_count(&["hidden_size"])? / heads
        }
    };
    keys.count("rope.dimension_count", size)
}

fn check_rotary_size(file: &Exported<'_>, _: &mut Map<String, Json>) -> Result<(), String> {
    let (key, size) = ("rope.dimension_count", head_size(file)?);
    match file.keys.optional_count(key)? {
        Some(turned) if turned != size => Err(format!(
            "{} is {turned}, but heads are {size} wide; a config.json of this architecture cannot \
             say that",
            file.keys.name(key)
        )),
        _ => Ok(()),
    }
}

fn tensors(d: &Dimensions) -> Vec<TensorSpec> {
    let paired = |heads: usize| RowOrder::Paired { heads };
    llama_tensors(d, paired(d.heads.at(0)), paired(d.kv_heads.at(0)))
}

/// Llama's tensors, with the rows of queries and keys in these orders.
pub(super) fn llama_tensors(
    d: &Dimensions,
    query_order: RowOrder,
    key_order: RowOrder,
) -> Vec<TensorSpec> {
    let mut list = TensorList::new();
    list.matrix("model.embed_tokens", "token_embd", d.vocabulary, d.hidden);
    list.norm("model.norm", "output_norm", d.hidden);
    list.output("lm_head", d);
    for layer in 0..d.layers {
        list.scope(format!("model.layers.{layer}."), format!("blk.{layer}."));
        list.norm("input_layernorm", "attn_norm", d.hidden);
        add_attention(&mut list, d, layer, query_order, key_order);
        list.norm("post_attention_layernorm", "ffn_norm", d.hidden);
        add_gated_network(&mut list, d, layer);
    }
    list.finish()
}

/// Adds the matrices of a layer's attention, in the layer's scope.
pub(super) fn add_attention(
    list: &mut TensorList,
    d: &Dimensions,
    layer: usize,
    query_order: RowOrder,
    key_order: RowOrder,
) {
    let queries = d.heads.at(layer) * d.head_size;
    let keys = d.kv_heads.at(layer) * d.head_size;
    list.linear("self_attn.q_proj", "attn_q", queries, d.hidden, query_order);
    list.linear("self_attn.k_proj", "attn_k", keys, d.hidden, key_order);
    list.linear("self_attn.v_proj", "attn_v", keys, d.hidden, RowOrder::Same);
    list.linear("self_attn.o_proj", "attn_output", d.hidden, queries, RowOrder::Same);
}

/// Adds the matrices of a layer's feed-forward network, in the layer's scope.
pub(super) fn add_gated_network(list: &mut TensorList, d: &Dimensions, layer: usize) {
    let width = d.feed_forward.at(layer);
    list.linear("mlp.gate_proj", "ffn_gate", width, d.hidden, RowOrder::Same);
    list.linear("mlp.up_proj", "ffn_up", width, d.hidden, RowOrder::Same);
    list.linear("mlp.down_proj", "ffn_down", d.hidden, width, RowOrder::Same);
}

pub(super) fn frame(d: &Dimensions) -> Result<Frame, String> {
    Ok(Frame::new(d.norm(NormKind::Rms, "output_norm")?))
}

fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    llama_layer(d, index, RopePairs::Neighbours)
}

/// Llama's layer, with these elements of a head turned together.
pub(super) fn llama_layer(d: &Dimensions, index: usize, pairs: RopePairs) -> Result<Layer, String> {
    let attention = Attention {
        norm: Some(d.norm(NormKind::Rms, "attn_norm")?),
        rope: Some(d.rope(pairs)?),
        scale: d.attention_scale()?,
        ..Attention::new(d.heads.at(index), d.kv_heads.at(index), d.head_size)
    };
    let norm = d.norm(NormKind::Rms, "ffn_norm")?;
    Ok(Layer::new(attention, FeedForward::gated(norm, Activation::Silu)))
}
