//! Gemma (Gemma Team 2024): llama's layers with GELU, embeddings that are scaled by the root of their
//! width, and norms whose weights in the checkpoint are what exceeds 1.

use super::fields::{count, number};
use super::layer::{Activation, NormKind};
use super::llama::{self, llama_layer, llama_tensors};
use super::rope::{self, RopePairs, RopeParameters};
use super::tensors::{RowOrder, TensorSpec};
use super::{Checkpoint, Dimensions, Family, Field, Frame, Layer, claims_all, nothing_computed};
use crate::checkpoint::config::Config;

pub(super) const GEMMA: Family = Family {
    name: "Gemma",
    gguf: "gemma",
    claims: claims_all,
    checkpoints: &[Checkpoint { architecture: "GemmaForCausalLM", model_type: "gemma" }],
    fields: &[SIZES, &[PLAIN_ROPE, PLAIN_SCALE, TIED, ACTIVATION, NO_BIASES, CAUSAL]],
    tied: true,
    ignored: &["lm_head.weight"],
    tensors,
    computed_names: &[],
    computed: nothing_computed,
    frame,
    layer,
};

/// What llama.cpp's converter writes for the first two generations.
pub(super) const SIZES: &[Field] = &[
    count("context_length", &["max_position_embeddings"]),
    count("embedding_length", &["hidden_size"]),
    count("block_count", &["num_hidden_layers"]),
    count("feed_forward_length", &["intermediate_size"]),
    count("attention.head_count", &["num_attention_heads"]),
    count("attention.head_count_kv", &["num_key_value_heads", "num_attention_heads"]),
    number("attention.layer_norm_rms_epsilon", &["rms_norm_eps"]),
    HEAD_SIZE,
    Field::FileType,
];

/// Early configs say "gelu" of models that were trained with the approximation by tanh.
const ACTIVATION: Field = Field::OneOf {
    config: &["hidden_act", "hidden_activation"],
    allowed: &["gelu_pytorch_tanh", "gelu"],
};

/// What quantkit runs of the later generations.
pub(super) const LATER: &[Field] = &[
    Field::OneOf { config: &["hidden_activation", "hidden_act"], allowed: &["gelu_pytorch_tanh"] },
    NO_BIASES,
    CAUSAL,
];

const NO_BIASES: Field = Field::Always { config: "attention_bias", value: false };

/// Tokens see those before them. Of later models that see, images may be an exception, but no text is.
const CAUSAL: Field = Field::Special {
    gguf: &[],
    write: |config, _| match config.get("use_bidirectional_attention") {
        Some(value) if *value != false && *value != "vision" => Err(format!(
            "\"use_bidirectional_attention\" is {value}, but quantkit runs causal models only"
        )),
        _ => Ok(()),
    },
    export: |_, _| Ok(()),
};

/// llama.cpp knows no output matrix beside the embedding.
pub(super) const TIED: Field = Field::Always { config: "tie_word_embeddings", value: true };

/// One rotary embedding, whose base llama.cpp's converter does not write as all models have the usual one.
pub(super) const PLAIN_ROPE: Field = Field::Special {
    gguf: &["rope.freq_base"],
    write: |config, keys| rope::write_plain(&RopeParameters::read(config)?, keys, &[]),
    export: rope::export,
};

/// Scores are divided by the root of the head's width, and a config.json cannot say otherwise.
const PLAIN_SCALE: Field = Field::Special {
    gguf: &[],
    write: |_, _| Ok(()),
    export: |file, _| llama::check_attention_scale(file),
};

/// The width of a head where config.json has none.
pub(super) const USUAL_HEAD_SIZE: usize = 256;

/// The width of a head, which is not the hidden size over the heads.
pub(super) const HEAD_SIZE: Field = Field::Special {
    gguf: &["attention.key_length", "attention.value_length"],
    write: |config, keys| {
        let size = head_size(config)?;
        keys.count("attention.key_length", size)?;
        keys.count("attention.value_length", size)
    },
    export: |file, config| {
        config.insert("head_dim".into(), llama::head_size(file)?.into());
        Ok(())
    },
};

/// The width of a head.
pub(super) fn head_size(config: &Config) -> Result<usize, String> {
    Ok(config.count(&["head_dim"])?.unwrap_or(USUAL_HEAD_SIZE))
}

fn tensors(d: &Dimensions) -> Vec<TensorSpec> {
    shifted(llama_tensors(d, RowOrder::Same, RowOrder::Same))
}

/// The tensors, with 1 added to the weights of norms.
pub(super) fn shifted(specs: Vec<TensorSpec>) -> Vec<TensorSpec> {
    let is_norm = |spec: &TensorSpec| spec.gguf.ends_with("_norm.weight");
    specs.into_iter().map(|spec| if is_norm(&spec) { spec.plus(1.0) } else { spec }).collect()
}

pub(super) fn frame(d: &Dimensions) -> Result<Frame, String> {
    let embedding_scale = (d.hidden as f64).sqrt() as f32;
    Ok(Frame { embedding_scale, ..Frame::new(d.norm(NormKind::Rms, "output_norm")?) })
}

pub(super) fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let mut layer = llama_layer(d, index, RopePairs::Halves)?;
    layer.feed_forward.activation = Activation::GeluTanh;
    Ok(layer)
}
