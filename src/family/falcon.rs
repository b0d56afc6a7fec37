//! Falcon (Almazrouei et al. 2023): attention and the feed-forward network side by side, few key heads,
//! LayerNorm, GELU. The 7B has one norm for both; the 40B one for each.
//!
//! The checkpoint has the rows of the queries of a key head, of the key and of its value together.

use serde_json::{Map, Value as Json};

use super::bloom::check_feed_forward;
use super::fields::{Exported, Keys, count, number};
use super::layer::{Activation, Attention, FeedForward, NormKind, Projection};
use super::rope::{self, DEFAULT_BASE, RopePairs, RopeParameters};
use super::tensors::{RowOrder, TensorList, TensorSpec};
use super::{
    Checkpoint, Dimensions, Family, Field, Layer, claims_all, layer_norm_frame, nothing_computed,
};
use crate::checkpoint::config::Config;

/// The norm of attention's input in models with two; the other is the network's.
const ATTENTION_NORM: &str = "attn_norm_2";

pub(super) const FALCON: Family = Family {
    name: "Falcon",
    gguf: "falcon",
    claims: claims_all,
    checkpoints: &[
        Checkpoint { architecture: "FalconForCausalLM", model_type: "falcon" },
        Checkpoint { architecture: "RWForCausalLM", model_type: "RefinedWeb" },
    ],
    fields: &[&[
        // Falcon-RW has both otherwise.
        Field::Always { config: "alibi", value: false },
        Field::Always { config: "parallel_attn", value: true },
        CONTEXT,
        LAYOUT,
        count("embedding_length", &["hidden_size", "n_embed"]),
        FEED_FORWARD,
        count("block_count", &["num_hidden_layers", "n_layer"]),
        count("attention.head_count", &["num_attention_heads", "n_head"]),
        KEY_HEADS,
        number("attention.layer_norm_epsilon", &["layer_norm_epsilon"]),
        Field::FileType,
        Field::OneOf { config: &["activation"], allowed: &["gelu"] },
        Field::Tensor { config: "bias", tensor: "blk.0.attn_qkv.bias", there: true },
    ]],
    tied: true,
    ignored: &[],
    tensors,
    computed_names: &[],
    computed: nothing_computed,
    frame: layer_norm_frame,
    layer,
};

/// Not in the config.json of the published models: all were trained with 2048 tokens.
const CONTEXT: Field = Field::Special {
    gguf: &["context_length", "rope.freq_base"],
    write: write_context,
    export: |file, config| {
        config.insert("max_position_embeddings".into(), file.keys.count("context_length")?.into());
        let base = file.number("rope.freq_base")?.unwrap_or(DEFAULT_BASE);
        config.insert("rope_theta".into(), base.into());
        Ok(())
    },
};

fn write_context(config: &Config, keys: &mut Keys<'_>) -> Result<(), String> {
    keys.count("context_length", config.count(&["max_position_embeddings"])?.unwrap_or(2048))?;
    rope::write_plain(&RopeParameters::read(config)?, keys, &[])
}

/// Says that the rows of queries, keys and values are in GGUF's order.
const LAYOUT: Field = Field::Special {
    gguf: &["tensor_data_layout"],
    write: |_, keys| {
        keys.text("tensor_data_layout", "jploski");
        Ok(())
    },
    export: |_, _| Ok(()),
};

const FEED_FORWARD: Field = Field::Special {
    gguf: &["feed_forward_length"],
    write: |config, keys| {
        let usual = 4 * config.required_count(&["hidden_size", "n_embed"])?;
        match config.count(&["ffn_hidden_size"])? {
            Some(other) if other != usual => Err(format!(
                "\"ffn_hidden_size\" is {other}, but quantkit knows four times the hidden size only"
            )),
            _ => keys.count("feed_forward_length", usual),
        }
    },
    export: check_feed_forward,
};

/// Key heads: `num_kv_heads` in the new architecture, one with `multi_query`, else one a query head.
const KEY_HEADS: Field = Field::Special {
    gguf: &["attention.head_count_kv"],
    write: write_key_heads,
    export: export_key_heads,
};

fn write_key_heads(config: &Config, keys: &mut Keys<'_>) -> Result<(), String> {
    let heads = config.required_count(&["num_attention_heads", "n_head"])?;
    let own = config.count(&["num_kv_heads", "n_head_kv"])?;
    config.get("num_ln_in_parallel_attn");
    let is_new = config.truth(&["new_decoder_architecture"])?.unwrap_or(false);
    let shares = config.truth(&["multi_query"])?.unwrap_or(true);
    let key_heads = match (is_new, shares) {
        (true, _) => own.unwrap_or(heads),
        (false, true) => 1,
        (false, false) => {
            return Err("\"multi_query\" is false without \"new_decoder_architecture\", which \
                        quantkit does not know"
                .to_string());
        }
    };
    keys.count("attention.head_count_kv", key_heads)
}

fn export_key_heads(file: &Exported<'_>, config: &mut Map<String, Json>) -> Result<(), String> {
    let key_heads = file.keys.count("attention.head_count_kv")?;
    let has_two_norms = file.has("blk.0.attn_norm_2.weight");
    let is_new = has_two_norms || key_heads > 1;
    config.insert("num_kv_heads".into(), key_heads.into());
    config.insert("new_decoder_architecture".into(), is_new.into());
    config.insert("multi_query".into(), (!is_new).into());
    let norms = is_new.then_some(if has_two_norms { 2 } else { 1 });
    config.insert("num_ln_in_parallel_attn".into(), norms.into());
    Ok(())
}

fn tensors(d: &Dimensions) -> Vec<TensorSpec> {
    let mut list = TensorList::new();
    list.scope("transformer.", "");
    list.matrix("word_embeddings", "token_embd", d.vocabulary, d.hidden);
    list.layer_norm("ln_f", "output_norm", d.hidden);
    list.scope("", "");
    list.output("lm_head", d);
    for layer in 0..d.layers {
        let feed_forward = d.feed_forward.at(layer);
        let (heads, key_heads) = (d.heads.at(layer), d.kv_heads.at(layer));
        let rows = (heads + 2 * key_heads) * d.head_size;
        let grouped = RowOrder::Grouped { groups: key_heads, queries: heads / key_heads };
        list.scope(format!("transformer.h.{layer}."), format!("blk.{layer}."));
        if has_two_norms(d, layer) {
            list.layer_norm("ln_mlp", "attn_norm", d.hidden);
            list.layer_norm("ln_attn", ATTENTION_NORM, d.hidden);
        } else {
            list.layer_norm("input_layernorm", "attn_norm", d.hidden);
        }
        list.linear("self_attention.query_key_value", "attn_qkv", rows, d.hidden, grouped);
        list.linear("self_attention.dense", "attn_output", d.hidden, d.hidden, RowOrder::Same);
        list.linear("mlp.dense_h_to_4h", "ffn_up", feed_forward, d.hidden, RowOrder::Same);
        list.linear("mlp.dense_4h_to_h", "ffn_down", d.hidden, feed_forward, RowOrder::Same);
    }
    list.finish()
}

/// Whether attention and the network have a norm each; the tensors alone say so, on either side.
fn has_two_norms(d: &Dimensions, layer: usize) -> bool {
    d.layer_has(layer, "attn_norm_2.weight")
        || d.has(&format!("transformer.h.{layer}.ln_attn.weight"))
}

fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let network_norm = d.norm(NormKind::Layer, "attn_norm")?;
    let attention_norm = if has_two_norms(d, index) {
        d.norm(NormKind::Layer, ATTENTION_NORM)?
    } else {
        network_norm
    };
    let attention = Attention {
        norm: Some(attention_norm),
        projection: Projection::Fused,
        rope: Some(d.rope(RopePairs::Halves)?),
        ..Attention::new(d.heads.at(index), d.kv_heads.at(index), d.head_size)
    };
    let feed_forward = FeedForward::plain(network_norm, Activation::Gelu);
    Ok(Layer { parallel: true, ..Layer::new(attention, feed_forward) })
}
