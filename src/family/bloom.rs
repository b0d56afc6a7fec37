//! BLOOM (Scao et al. 2022): linear biases instead of positions (ALiBi), LayerNorm, also of the
//! embeddings, and GELU.
//!
//! The checkpoint has the rows of each head's query, key and value together.

use serde_json::{Map, Value as Json};

use super::fields::{Exported, Keys, count, number};
use super::layer::{Activation, Attention, FeedForward, NormKind, Projection};
use super::tensors::{RowOrder, TensorList, TensorSpec};
use super::{Checkpoint, Dimensions, Family, Field, Frame, Layer, claims_all, nothing_computed};
use crate::checkpoint::config::Config;

/// The largest exponent of the slopes, as in the paper (Press et al. 2022).
const LARGEST_BIAS: f32 = 8.0;

pub(super) const BLOOM: Family = Family {
    name: "BLOOM",
    gguf: "bloom",
    claims: claims_all,
    checkpoints: &[Checkpoint { architecture: "BloomForCausalLM", model_type: "bloom" }],
    fields: &[&[
        CONTEXT,
        count("embedding_length", &["hidden_size", "n_embed"]),
        FEED_FORWARD,
        count("block_count", &["n_layer", "num_hidden_layers"]),
        count("attention.head_count", &["n_head", "num_attention_heads"]),
        KEY_HEADS,
        number("attention.layer_norm_epsilon", &["layer_norm_epsilon"]),
        Field::FileType,
        Field::Always { config: "apply_residual_connection_post_layernorm", value: false },
    ]],
    tied: true,
    ignored: &["lm_head.weight"],
    tensors,
    computed_names: &[],
    computed: nothing_computed,
    frame,
    layer,
};

/// ALiBi has no longest context; llama.cpp writes the width of the residual stream where config.json says
/// nothing.
const CONTEXT: Field = Field::Special {
    gguf: &["context_length"],
    write: |config, keys| {
        let context = config.count(&["seq_length"])?;
        let hidden = config.required_count(&["hidden_size", "n_embed"])?;
        keys.count("context_length", context.unwrap_or(hidden))
    },
    export: |file, config| {
        config.insert("seq_length".into(), file.keys.count("context_length")?.into());
        Ok(())
    },
};

const FEED_FORWARD: Field = Field::Special {
    gguf: &["feed_forward_length"],
    write: |config, keys| {
        keys.count("feed_forward_length", 4 * config.required_count(&["hidden_size", "n_embed"])?)
    },
    export: check_feed_forward,
};

/// Every query head has a key head.
const KEY_HEADS: Field = Field::Special {
    gguf: &["attention.head_count_kv"],
    write: write_key_heads,
    export: |_, _| Ok(()),
};

fn write_key_heads(config: &Config, keys: &mut Keys<'_>) -> Result<(), String> {
    let heads = config.required_count(&["n_head", "num_attention_heads"])?;
    keys.count("attention.head_count_kv", heads)
}

/// Refuses a width that a config.json of this architecture cannot say.
pub(super) fn check_feed_forward(
    file: &Exported<'_>,
    _: &mut Map<String, Json>,
) -> Result<(), String> {
    let width = file.keys.count("feed_forward_length")?;
    let hidden = file.keys.count("embedding_length")?;
    if width == 4 * hidden {
        return Ok(());
    }
    Err(format!(
        "{} is {width}, but a config.json of this architecture means four times the {hidden} of the \
         residual stream",
        file.keys.name("feed_forward_length")
    ))
}

fn tensors(d: &Dimensions) -> Vec<TensorSpec> {
    let mut list = TensorList::new();
    list.scope("transformer.", "");
    list.matrix("word_embeddings", "token_embd", d.vocabulary, d.hidden);
    list.layer_norm("word_embeddings_layernorm", "token_embd_norm", d.hidden);
    list.layer_norm("ln_f", "output_norm", d.hidden);
    for layer in 0..d.layers {
        let feed_forward = d.feed_forward.at(layer);
        let grouped = RowOrder::Grouped { groups: d.heads.at(layer), queries: 1 };
        list.scope(format!("transformer.h.{layer}."), format!("blk.{layer}."));
        list.layer_norm("input_layernorm", "attn_norm", d.hidden);
        list.linear("self_attention.query_key_value", "attn_qkv", 3 * d.hidden, d.hidden, grouped);
        list.linear("self_attention.dense", "attn_output", d.hidden, d.hidden, RowOrder::Same);
        list.layer_norm("post_attention_layernorm", "ffn_norm", d.hidden);
        list.linear("mlp.dense_h_to_4h", "ffn_up", feed_forward, d.hidden, RowOrder::Same);
        list.linear("mlp.dense_4h_to_h", "ffn_down", d.hidden, feed_forward, RowOrder::Same);
    }
    list.finish()
}

fn frame(d: &Dimensions) -> Result<Frame, String> {
    let embedding_norm = Some(d.norm(NormKind::Layer, "token_embd_norm")?);
    Ok(Frame { embedding_norm, ..Frame::new(d.norm(NormKind::Layer, "output_norm")?) })
}

fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let attention = Attention {
        norm: Some(d.norm(NormKind::Layer, "attn_norm")?),
        projection: Projection::Fused,
        alibi: Some(LARGEST_BIAS),
        ..Attention::new(d.heads.at(index), d.kv_heads.at(index), d.head_size)
    };
    let feed_forward =
        FeedForward::plain(d.norm(NormKind::Layer, "ffn_norm")?, Activation::GeluTanh);
    Ok(Layer::new(attention, feed_forward))
}
