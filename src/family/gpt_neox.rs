//! GPT-NeoX and Pythia (Black et al. 2022; Biderman et al. 2023): attention and the feed-forward network
//! side by side, a rotary embedding of part of each head, LayerNorm, GELU.
//!
//! The checkpoint has the rows of each head's query, key and value together.

use serde_json::{Map, Value as Json};

use super::fields::{Absent, Exported, Keys, count, number, shortest};
use super::layer::{Activation, Attention, FeedForward, NormKind, Projection};
use super::rope::{self, DEFAULT_BASE, RopePairs, RopeParameters};
use super::tensors::{RowOrder, TensorList, TensorSpec};
use super::{
    Checkpoint, Dimensions, Family, Field, Layer, claims_all, layer_norm_frame, nothing_computed,
};
use crate::checkpoint::config::Config;

const PARALLEL: &str = "use_parallel_residual";

pub(super) const GPT_NEOX: Family = Family {
    name: "GPT-NeoX, Pythia",
    gguf: "gptneox",
    claims: claims_all,
    checkpoints: &[Checkpoint { architecture: "GPTNeoXForCausalLM", model_type: "gpt_neox" }],
    fields: &[&[
        count("context_length", &["max_position_embeddings"]),
        count("embedding_length", &["hidden_size"]),
        count("block_count", &["num_hidden_layers"]),
        count("feed_forward_length", &["intermediate_size"]),
        PARTIAL_ROTARY,
        count("attention.head_count", &["num_attention_heads"]),
        Field::Truth { config: &[PARALLEL], gguf: PARALLEL, absent: Absent::Means(true) },
        number("attention.layer_norm_epsilon", &["layer_norm_eps"]),
        Field::OneOf { config: &["hidden_act"], allowed: &["gelu", "gelu_fast", "gelu_new"] },
        Field::Tensor { config: "attention_bias", tensor: "blk.0.attn_qkv.bias", there: true },
    ]],
    tied: false,
    ignored: &[],
    tensors,
    computed_names: &[],
    computed: nothing_computed,
    frame: layer_norm_frame,
    layer,
};

/// The elements of a head that turn, and the base where it is not the usual one, which is all that
/// llama.cpp's converter knows.
const PARTIAL_ROTARY: Field = Field::Special {
    gguf: &["rope.dimension_count", "rope.freq_base"],
    write: |config, keys| write_partial_rotary(config, keys, 0.25),
    export: export_partial_rotary,
};

/// Writes how much of each head turns, `usual` where config.json does not say, and an unusual base.
pub(super) fn write_partial_rotary(
    config: &Config,
    keys: &mut Keys<'_>,
    usual: f64,
) -> Result<(), String> {
    let rope = RopeParameters::read(config)?;
    let heads = config.required_count(&["num_attention_heads"])?;
    let size = config.required_count(&["hidden_size"])? / heads;
    let part = rope.number("partial_rotary_factor")?.unwrap_or(usual);
    keys.count("rope.dimension_count", (part * size as f64) as usize)?;
    rope::write_plain(&rope, keys, &["partial_rotary_factor"])
}

pub(super) fn export_partial_rotary(
    file: &Exported<'_>,
    config: &mut Map<String, Json>,
) -> Result<(), String> {
    let size = file.keys.count("embedding_length")? / file.keys.count("attention.head_count")?;
    let turned = file.keys.optional_count("rope.dimension_count")?.unwrap_or(size);
    let base = file.number("rope.freq_base")?.unwrap_or(DEFAULT_BASE);
    let mut parameters = Map::new();
    parameters.insert("rope_type".into(), "default".into());
    parameters.insert("rope_theta".into(), base.into());
    let part = shortest(turned as f64 / size as f64);
    parameters.insert("partial_rotary_factor".into(), part.into());
    config.insert("rope_parameters".into(), Json::Object(parameters));
    Ok(())
}

fn tensors(d: &Dimensions) -> Vec<TensorSpec> {
    let mut list = TensorList::new();
    list.matrix("gpt_neox.embed_in", "token_embd", d.vocabulary, d.hidden);
    list.layer_norm("gpt_neox.final_layer_norm", "output_norm", d.hidden);
    list.output("embed_out", d);
    for layer in 0..d.layers {
        let feed_forward = d.feed_forward.at(layer);
        let grouped = RowOrder::Grouped { groups: d.heads.at(layer), queries: 1 };
        list.scope(format!("gpt_neox.layers.{layer}."), format!("blk.{layer}."));
        list.layer_norm("input_layernorm", "attn_norm", d.hidden);
        list.linear("attention.query_key_value", "attn_qkv", 3 * d.hidden, d.hidden, grouped);
        list.linear("attention.dense", "attn_output", d.hidden, d.hidden, RowOrder::Same);
        list.layer_norm("post_attention_layernorm", "ffn_norm", d.hidden);
        list.linear("mlp.dense_h_to_4h", "ffn_up", feed_forward, d.hidden, RowOrder::Same);
        list.linear("mlp.dense_4h_to_h", "ffn_down", d.hidden, feed_forward, RowOrder::Same);
    }
    list.finish()
}

fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let attention = Attention {
        norm: Some(d.norm(NormKind::Layer, "attn_norm")?),
        projection: Projection::Fused,
        rope: Some(d.rope(RopePairs::Halves)?),
        ..Attention::new(d.heads.at(index), d.kv_heads.at(index), d.head_size)
    };
    let feed_forward = FeedForward::plain(d.norm(NormKind::Layer, "ffn_norm")?, Activation::Gelu);
    let parallel = d.keys().optional_truth(PARALLEL)?.unwrap_or(true);
    Ok(Layer { parallel, ..Layer::new(attention, feed_forward) })
}
