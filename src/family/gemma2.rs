//! Gemma 2 (Gemma Team 2024): Gemma with norms after attention and the network too, caps on scores and
//! logits, and windows on every other layer.

use serde_json::{Map, Value as Json};

use super::fields::{Exported, Keys, number};
use super::gemma::{self, GEMMA, LATER, PLAIN_ROPE, SIZES, TIED};
use super::layer::{Mixer, NormKind};
use super::llama;
use super::tensors::{RowOrder, TensorList, TensorSpec};
use super::windows::{self, PATTERN, WINDOW};
use super::{Checkpoint, Dimensions, Family, Field, Frame, Layer};
use crate::checkpoint::config::Config;

/// The last of each group of this many layers has no window.
const PERIOD: usize = 2;

/// Layers of the 27B model, whose scores have a scale of their own.
const LAYERS_OF_27B: usize = 46;

const SCORE_CAP: &str = "attn_logit_softcapping";

/// The key, and config.json's name, of the cap on logits.
pub(super) const LOGIT_CAP: &str = "final_logit_softcapping";

/// What llama.cpp takes where a file does not say it.
const USUAL_SCORE_CAP: f64 = 50.0;
const USUAL_LOGIT_CAP: f64 = 30.0;
const USUAL_WINDOW: usize = 4096;

pub(super) const GEMMA2: Family = Family {
    name: "Gemma 2",
    gguf: "gemma2",
    checkpoints: &[Checkpoint { architecture: "Gemma2ForCausalLM", model_type: "gemma2" }],
    fields: &[
        SIZES,
        &[
            number(SCORE_CAP, &[SCORE_CAP]),
            number(LOGIT_CAP, &[LOGIT_CAP]),
            WINDOWS,
            SCALE,
            PLAIN_ROPE,
            TIED,
        ],
        LATER,
    ],
    tensors,
    frame,
    layer,
    ..GEMMA
};

const WINDOWS: Field = Field::Special {
    gguf: &[WINDOW, PATTERN],
    write: |config, keys| windows::write_unless_usual(config, keys, PERIOD),
    export: |file, config| windows::export(file, config, PERIOD),
};

const SCALE: Field = Field::Special {
    gguf: &["attention.scale"],
    write: |config, keys| write_scale(config, keys, LAYERS_OF_27B),
    export: |file, config| export_scale(file, config, LAYERS_OF_27B),
};

/// What `query_pre_attn_scalar` is where config.json has none, and the number of heads.
const USUAL_SCALAR: f64 = 256.0;
pub(super) const USUAL_HEADS: usize = 8;

/// The sizes that llama.cpp derives the scale of the scores from.
struct Sizes {
    layers: usize,
    hidden: usize,
    heads: usize,
    head_size: usize,
}

impl Sizes {
    /// The number by whose root llama.cpp divides scores. Files do not say it: it is the head's width
    /// but in the 27B model, which it knows by its layers.
    fn scalar(&self, layers_of_27b: usize) -> usize {
        if self.layers == layers_of_27b { self.hidden / self.heads } else { self.head_size }
    }
}

/// Writes the scale of the scores where it is not the one that llama.cpp derives. llama.cpp does not
/// read that key.
pub(super) fn write_scale(
    config: &Config,
    keys: &mut Keys<'_>,
    layers_of_27b: usize,
) -> Result<(), String> {
    let name = "query_pre_attn_scalar";
    let scalar = config.number(&[name])?.unwrap_or(USUAL_SCALAR);
    let sizes = Sizes {
        layers: config.required_count(&["num_hidden_layers"])?,
        hidden: config.required_count(&["hidden_size"])?,
        heads: config.count(&["num_attention_heads"])?.unwrap_or(USUAL_HEADS),
        head_size: gemma::head_size(config)?,
    };
    if scalar <= 0.0 {
        return Err(format!("\"{name}\" is {scalar}, expected a number above 0"));
    }
    if scalar != sizes.scalar(layers_of_27b) as f64 {
        keys.float("attention.scale", scalar.sqrt().recip());
    }
    Ok(())
}

/// The number that scores are divided by the root of.
pub(super) fn export_scale(
    file: &Exported<'_>,
    config: &mut Map<String, Json>,
    layers_of_27b: usize,
) -> Result<(), String> {
    let sizes = Sizes {
        layers: file.keys.count("block_count")?,
        hidden: file.keys.count("embedding_length")?,
        heads: file.keys.count("attention.head_count")?,
        head_size: llama::head_size(file)?,
    };
    let key = "attention.scale";
    let scalar = match file.keys.optional_positive(key)? {
        Some(scale) => scale.powi(-2),
        None => sizes.scalar(layers_of_27b) as f64,
    };
    if (scalar - scalar.round()).abs() > 1e-5 * scalar {
        return Err(format!(
            "{} means scores over the root of {scalar}; config.json's \"query_pre_attn_scalar\" is a \
             whole number",
            file.keys.name(key)
        ));
    }
    config.insert("query_pre_attn_scalar".into(), (scalar.round() as u64).into());
    Ok(())
}

/// Factor on the scores.
pub(super) fn scale(d: &Dimensions, layers_of_27b: usize) -> Result<f32, String> {
    let sizes =
        Sizes { layers: d.layers, hidden: d.hidden, heads: d.heads.at(0), head_size: d.head_size };
    let derived = (sizes.scalar(layers_of_27b) as f64).sqrt().recip();
    Ok(d.keys().optional_positive("attention.scale")?.unwrap_or(derived) as f32)
}

fn tensors(d: &Dimensions) -> Vec<TensorSpec> {
    let mut list = TensorList::new();
    embeddings(&mut list, d);
    for layer in 0..d.layers {
        list.scope(format!("model.layers.{layer}."), format!("blk.{layer}."));
        projections(&mut list, d, layer);
        norms_and_network(&mut list, d, layer);
    }
    gemma::shifted(list.finish())
}

/// The tensors outside the layers.
pub(super) fn embeddings(list: &mut TensorList, d: &Dimensions) {
    list.matrix("model.embed_tokens", "token_embd", d.vocabulary, d.hidden);
    list.norm("model.norm", "output_norm", d.hidden);
    list.output("lm_head", d);
}

/// A layer's matrices of attention, whose heads are all of the same width.
pub(super) fn projections(list: &mut TensorList, d: &Dimensions, layer: usize) {
    let (queries, keys) = (d.heads.at(layer) * d.head_size, d.kv_heads.at(layer) * d.head_size);
    list.linear("self_attn.q_proj", "attn_q", queries, d.hidden, RowOrder::Same);
    list.linear("self_attn.k_proj", "attn_k", keys, d.hidden, RowOrder::Same);
    list.linear("self_attn.v_proj", "attn_v", keys, d.hidden, RowOrder::Same);
    list.linear("self_attn.o_proj", "attn_output", d.hidden, queries, RowOrder::Same);
}

/// A layer's four norms and its feed-forward network.
pub(super) fn norms_and_network(list: &mut TensorList, d: &Dimensions, layer: usize) {
    let feed_forward = d.feed_forward.at(layer);
    list.norm("input_layernorm", "attn_norm", d.hidden);
    list.norm("post_attention_layernorm", "post_attention_norm", d.hidden);
    list.norm("pre_feedforward_layernorm", "ffn_norm", d.hidden);
    list.norm("post_feedforward_layernorm", "post_ffw_norm", d.hidden);
    list.matrix("mlp.gate_proj", "ffn_gate", feed_forward, d.hidden);
    list.matrix("mlp.up_proj", "ffn_up", feed_forward, d.hidden);
    list.matrix("mlp.down_proj", "ffn_down", d.hidden, feed_forward);
}

fn frame(d: &Dimensions) -> Result<Frame, String> {
    let cap = d.keys().optional_positive(LOGIT_CAP)?.unwrap_or(USUAL_LOGIT_CAP);
    Ok(Frame { logit_softcap: Some(cap as f32), ..gemma::frame(d)? })
}

fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let mut layer = layer_with_post_norms(d, index)?;
    let Mixer::Attention(attention) = &mut layer.mixer;
    let keys = d.keys();
    attention.softcap = Some(keys.optional_positive(SCORE_CAP)?.unwrap_or(USUAL_SCORE_CAP) as f32);
    attention.scale = scale(d, LAYERS_OF_27B)?;
    if windows::has_window(d, index, PERIOD)? {
        attention.window = Some(keys.optional_count(WINDOW)?.unwrap_or(USUAL_WINDOW));
    }
    Ok(layer)
}

/// Gemma's layer with norms of what attention and the network give.
pub(super) fn layer_with_post_norms(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let mut layer = gemma::layer(d, index)?;
    let Mixer::Attention(attention) = &mut layer.mixer;
    attention.post_norm = Some(d.norm(NormKind::Rms, "post_attention_norm")?);
    layer.feed_forward.post_norm = Some(d.norm(NormKind::Rms, "post_ffw_norm")?);
    Ok(layer)
}
