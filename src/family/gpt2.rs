//! GPT-2 (Radford et al. 2019) and distilgpt2: learned positions, LayerNorm, one matrix for queries, keys
//! and values, GELU, the embedding as the output matrix.
//!
//! The checkpoint's matrices have inputs for rows ("Conv1D").

use serde_json::{Map, Value as Json};

use super::fields::{Exported, Keys, count, number};
use super::layer::{Activation, Attention, FeedForward, NormKind, Projection};
use super::tensors::{TensorList, TensorSpec};
use super::{Checkpoint, Dimensions, Family, Field, Frame, Layer, claims_all, nothing_computed};
use crate::checkpoint::config::Config;

pub(super) const GPT2: Family = Family {
    name: "GPT-2, distilgpt2",
    gguf: "gpt2",
    claims: claims_all,
    checkpoints: &[Checkpoint { architecture: "GPT2LMHeadModel", model_type: "gpt2" }],
    fields: &[&[
        count("block_count", &["n_layer", "num_hidden_layers"]),
        count("context_length", &["n_positions", "n_ctx", "max_position_embeddings"]),
        count("embedding_length", &["n_embd", "hidden_size"]),
        FEED_FORWARD,
        count("attention.head_count", &["n_head", "num_attention_heads"]),
        number("attention.layer_norm_epsilon", &["layer_norm_epsilon"]),
        Field::FileType,
        Field::OneOf {
            config: &["activation_function"],
            allowed: &["gelu_new", "gelu_pytorch_tanh"],
        },
        Field::Always { config: "scale_attn_weights", value: true },
        Field::Always { config: "scale_attn_by_inverse_layer_idx", value: false },
    ]],
    tied: true,
    ignored: &[".attn.bias", ".attn.masked_bias"],
    tensors,
    computed_names: &[],
    computed: nothing_computed,
    frame,
    layer,
};

/// Four times the width of the residual stream, unless config.json says otherwise.
const FEED_FORWARD: Field = Field::Special {
    gguf: &["feed_forward_length"],
    write: write_feed_forward,
    export: export_feed_forward,
};

fn write_feed_forward(config: &Config, keys: &mut Keys<'_>) -> Result<(), String> {
    let hidden = config.required_count(&["n_embd", "hidden_size"])?;
    keys.count("feed_forward_length", config.count(&["n_inner"])?.unwrap_or(4 * hidden))
}

fn export_feed_forward(file: &Exported<'_>, config: &mut Map<String, Json>) -> Result<(), String> {
    let width = file.keys.count("feed_forward_length")?;
    let usual = width == 4 * file.keys.count("embedding_length")?;
    config.insert("n_inner".into(), if usual { Json::Null } else { width.into() });
    Ok(())
}

fn tensors(d: &Dimensions) -> Vec<TensorSpec> {
    let mut list = TensorList::new();
    list.scope("transformer.", "");
    list.matrix("wte", "token_embd", d.vocabulary, d.hidden);
    list.matrix("wpe", "position_embd", d.context, d.hidden);
    list.layer_norm("ln_f", "output_norm", d.hidden);
    list.scope("", "");
    list.output("lm_head", d);
    for layer in 0..d.layers {
        let feed_forward = d.feed_forward.at(layer);
        list.scope(format!("transformer.h.{layer}."), format!("blk.{layer}."));
        list.layer_norm("ln_1", "attn_norm", d.hidden);
        list.conv("attn.c_attn", "attn_qkv", 3 * d.hidden, d.hidden);
        list.conv("attn.c_proj", "attn_output", d.hidden, d.hidden);
        list.layer_norm("ln_2", "ffn_norm", d.hidden);
        list.conv("mlp.c_fc", "ffn_up", feed_forward, d.hidden);
        list.conv("mlp.c_proj", "ffn_down", d.hidden, feed_forward);
    }
    list.finish()
}

fn frame(d: &Dimensions) -> Result<Frame, String> {
    let norm = d.norm(NormKind::Layer, "output_norm")?;
    Ok(Frame { learned_positions: true, ..Frame::new(norm) })
}

fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let attention = Attention {
        norm: Some(d.norm(NormKind::Layer, "attn_norm")?),
        projection: Projection::Fused,
        ..Attention::new(d.heads.at(index), d.kv_heads.at(index), d.head_size)
    };
    let feed_forward =
        FeedForward::plain(d.norm(NormKind::Layer, "ffn_norm")?, Activation::GeluTanh);
    Ok(Layer::new(attention, feed_forward))
}
