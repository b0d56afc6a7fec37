//! Command R7B (Cohere 2024): attention and the feed-forward network side by side behind one LayerNorm
//! without bias; three of four layers have a window and a rotary embedding, the fourth has neither.
//!
//! Queries and keys are turned in pairs of neighbours on both sides.

use serde_json::Value as Json;

use super::fields::{Keys, number};
use super::layer::{Activation, Attention, FeedForward, Frame, Layer, NormKind};
use super::llama::{HEAD_SIZE, LLAMA, ROTARY, SIZES, add_attention, add_gated_network};
use super::rope::{self, RopePairs, RopeParameters};
use super::tensors::{RowOrder, TensorList, TensorSpec};
use super::windows::{self, PATTERN, WINDOW};
use super::{Checkpoint, Dimensions, Family, Field, nothing_computed};
use crate::checkpoint::config::Config;

/// Every fourth layer is without a window, where nothing else is said.
const PERIOD: usize = 4;

const LOGIT_SCALE: &str = "logit_scale";

pub(super) const COHERE2: Family = Family {
    name: "Command R7B",
    gguf: "cohere2",
    checkpoints: &[Checkpoint { architecture: "Cohere2ForCausalLM", model_type: "cohere2" }],
    fields: &[
        SIZES,
        &[
            ROPE,
            number("attention.layer_norm_epsilon", &["layer_norm_eps"]),
            HEAD_SIZE,
            Field::FileType,
            number(LOGIT_SCALE, &["logit_scale"]),
            WINDOWS,
        ],
        ROTARY,
        &[
            NO_SCALING,
            FIXED,
            Field::OneOf { config: &["hidden_act"], allowed: &["silu"] },
            Field::Tensor { config: "attention_bias", tensor: "blk.0.attn_q.bias", there: true },
        ],
    ],
    tied: true,
    tensors,
    computed_names: &[],
    computed: nothing_computed,
    frame,
    layer,
    ..LLAMA
};

/// llama.cpp runs whole heads that turn and nothing that is stretched.
const ROPE: Field = Field::Special {
    gguf: &["rope.freq_base"],
    write: |config, keys| {
        let parameters = RopeParameters::read(config)?;
        parameters.check_plain(&[])?;
        rope::write(&parameters, keys)
    },
    export: |file, config| {
        config.insert("rotary_pct".into(), 1.0.into());
        rope::export(file, config)
    },
};

const NO_SCALING: Field = Field::Special {
    gguf: &["rope.scaling.type"],
    write: |_, keys| {
        keys.text("rope.scaling.type", "none");
        Ok(())
    },
    export: |_, _| Ok(()),
};

/// Which layers have a window; llama.cpp's converter leaves out what is the family's own pattern.
const WINDOWS: Field = Field::Special {
    gguf: &[WINDOW, PATTERN],
    write: write_windows,
    export: |file, config| windows::export(file, config, PERIOD),
};

fn write_windows(config: &Config, keys: &mut Keys<'_>) -> Result<(), String> {
    let window = config.required_count(&["sliding_window"])?;
    let period = config.count(&["sliding_window_pattern", "layer_switch"])?.unwrap_or(PERIOD);
    let layers = windows::read(config, |layer| windows::is_between(period, layer))?;
    let mut usual = (0..layers.len()).map(|layer| windows::is_between(PERIOD, layer));
    if layers.iter().all(|&slides| usual.next() == Some(slides)) {
        return keys.count(WINDOW, window);
    }
    windows::write(keys, window, &layers)
}

/// What published files say of the layout, which transformers does not read.
const FIXED: Field = Field::Special { gguf: &[], write: check_layout, export: |_, _| Ok(()) };

fn check_layout(config: &Config, _: &mut Keys<'_>) -> Result<(), String> {
    let all = [
        ("order_of_interleaved_layers", Json::from("local_attn_first")),
        ("position_embedding_type", "rope_gptj".into()),
        ("use_embedding_sharing", true.into()),
        ("use_gated_activation", true.into()),
        ("use_parallel_block", true.into()),
        ("use_parallel_embedding", true.into()),
        ("use_qk_norm", false.into()),
    ];
    for (name, usual) in all {
        match config.get(name) {
            Some(other) if *other != usual => {
                return Err(format!(
                    "\"{name}\" is {other}, but quantkit runs this architecture with {usual} only"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

fn tensors(d: &Dimensions) -> Vec<TensorSpec> {
    let mut list = TensorList::new();
    list.matrix("model.embed_tokens", "token_embd", d.vocabulary, d.hidden);
    list.norm("model.norm", "output_norm", d.hidden);
    list.output("lm_head", d);
    for layer in 0..d.layers {
        list.scope(format!("model.layers.{layer}."), format!("blk.{layer}."));
        list.norm("input_layernorm", "attn_norm", d.hidden);
        add_attention(&mut list, d, layer, RowOrder::Same, RowOrder::Same);
        add_gated_network(&mut list, d, layer);
    }
    list.finish()
}

fn frame(d: &Dimensions) -> Result<Frame, String> {
    let scale = d.keys().optional_positive(LOGIT_SCALE)?;
    Ok(Frame {
        logit_scale: scale.ok_or("the metadata lacks cohere2.logit_scale")? as f32,
        ..Frame::new(d.norm(NormKind::Layer, "output_norm")?)
    })
}

fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let norm = d.norm(NormKind::Layer, "attn_norm")?;
    let window = windows::of_layer(d, index, PERIOD)?;
    let attention = Attention {
        norm: Some(norm),
        rope: if window.is_some() { Some(d.rope(RopePairs::Neighbours)?) } else { None },
        window,
        scale: d.attention_scale()?,
        ..Attention::new(d.heads.at(index), d.kv_heads.at(index), d.head_size)
    };
    let network = FeedForward::gated(norm, Activation::Silu);
    Ok(Layer { parallel: true, ..Layer::new(attention, network) })
}
