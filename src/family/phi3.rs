//! Phi-3 mini and medium, Phi-3.5 mini, Phi-4 and Phi-4 mini (Abdin et al. 2024): llama's layers with one
//! matrix for queries, keys and values and one for gate and up, a window or LongRoPE.

use serde_json::{Map, Value as Json, json};

use super::fields::{Exported, Keys, count, number, shortest};
use super::layer::{Activation, Attention, FeedForward, FeedForwardKind, NormKind, Projection};
use super::llama::{LLAMA, frame};
use super::longrope::{self, LONG_DIVISORS, MAGNITUDE, ORIGINAL_CONTEXT, SHORT_DIVISORS};
use super::rope::{DEFAULT_BASE, RopePairs, RopeParameters};
use super::tensors::{TensorList, TensorSpec};
use super::windows::{self, WINDOW};
use super::{Checkpoint, Dimensions, Family, Field, Layer};
use crate::checkpoint::config::Config;

const ORIGINAL: &str = "original_max_position_embeddings";

/// What transformers assumes where config.json has no [`ORIGINAL`].
const USUAL_ORIGINAL: usize = 4096;

pub(super) const PHI3: Family = Family {
    name: "Phi-3 and 3.5 mini and medium, Phi-4, Phi-4 mini",
    gguf: "phi3",
    checkpoints: &[Checkpoint { architecture: "Phi3ForCausalLM", model_type: "phi3" }],
    fields: &[&[
        STRETCH,
        count("context_length", &["max_position_embeddings"]),
        ORIGINAL_LENGTH,
        count("embedding_length", &["hidden_size"]),
        count("feed_forward_length", &["intermediate_size"]),
        count("block_count", &["num_hidden_layers"]),
        count("attention.head_count", &["num_attention_heads"]),
        count("attention.head_count_kv", &["num_key_value_heads", "num_attention_heads"]),
        number("attention.layer_norm_rms_epsilon", &["rms_norm_eps"]),
        ROTARY,
        Field::FileType,
        WINDOW_OR_ZERO,
        Field::OneOf { config: &["hidden_act"], allowed: &["silu"] },
    ]],
    tensors,
    computed_names: &[LONG_DIVISORS, SHORT_DIVISORS],
    computed: longrope::divisors,
    frame,
    layer,
    ..LLAMA
};

const STRETCH: Field = Field::Special {
    gguf: &[MAGNITUDE],
    write: |config, keys| {
        let context = config.required_count(&["max_position_embeddings"])?;
        longrope::write_magnitude(&rope(config)?, context, original_context(config)?, keys)
    },
    export: |file, config| {
        config.insert("rope_scaling".into(), longrope::export(file)?);
        Ok(())
    },
};

const ORIGINAL_LENGTH: Field = Field::Special {
    gguf: &[ORIGINAL_CONTEXT],
    write: |config, keys| keys.count(ORIGINAL_CONTEXT, original_context(config)?),
    export: |file, config| {
        let original = file.keys.optional_count(ORIGINAL_CONTEXT)?;
        config.insert(ORIGINAL.into(), json!(original.unwrap_or(USUAL_ORIGINAL)));
        Ok(())
    },
};

const ROTARY: Field = Field::Special {
    gguf: &["rope.dimension_count", "rope.freq_base"],
    write: write_rotary,
    export: export_rotary,
};

/// llama.cpp's converter writes 0 for no window.
const WINDOW_OR_ZERO: Field = Field::Special {
    gguf: &[WINDOW],
    write: |config, keys| keys.count(WINDOW, config.count(&["sliding_window"])?.unwrap_or(0)),
    export: |file, config| {
        let window = file.keys.optional_count(WINDOW)?.filter(|&window| window > 0);
        config.insert("sliding_window".into(), json!(window));
        Ok(())
    },
};

/// What config.json says of the rotary embedding.
fn rope(config: &Config) -> Result<RopeParameters, String> {
    let rope = RopeParameters::read(config)?;
    rope.check(&["partial_rotary_factor"])?;
    if rope.kind() != "default" && !longrope::is_described(&rope) {
        return Err(format!(
            "\"rope_type\" is \"{}\", but quantkit runs this architecture with longrope only",
            rope.kind()
        ));
    }
    Ok(rope)
}

/// The context of the original training. What stands outside of the rotary embedding's fields counts more
/// than what stands inside.
fn original_context(config: &Config) -> Result<usize, String> {
    if let Some(original) = config.count(&[ORIGINAL])? {
        return Ok(original);
    }
    let rope = RopeParameters::read(config)?;
    match rope.number(ORIGINAL)? {
        Some(_) => Ok(rope.original_context()? as usize),
        None => Ok(USUAL_ORIGINAL),
    }
}

fn write_rotary(config: &Config, keys: &mut Keys<'_>) -> Result<(), String> {
    let rope = rope(config)?;
    let heads = config.required_count(&["num_attention_heads"])?;
    let head_size = config.required_count(&["hidden_size"])? / heads;
    let part = rope.number("partial_rotary_factor")?.unwrap_or(1.0);
    keys.count("rope.dimension_count", (part * head_size as f64) as usize)?;
    keys.float("rope.freq_base", rope.number("rope_theta")?.unwrap_or(DEFAULT_BASE));
    Ok(())
}

/// A part of each head stands outside of `rope_scaling`, where all versions of transformers read it.
fn export_rotary(file: &Exported<'_>, config: &mut Map<String, Json>) -> Result<(), String> {
    let base = file.number("rope.freq_base")?.unwrap_or(DEFAULT_BASE);
    config.insert("rope_theta".into(), json!(base));
    let size = file.keys.count("embedding_length")? / file.keys.count("attention.head_count")?;
    let turned = file.keys.optional_count("rope.dimension_count")?.unwrap_or(size);
    if turned != size {
        let part = shortest(turned as f64 / size as f64);
        config.insert("partial_rotary_factor".into(), json!(part));
    }
    Ok(())
}

fn tensors(d: &Dimensions) -> Vec<TensorSpec> {
    let mut list = TensorList::new();
    list.matrix("model.embed_tokens", "token_embd", d.vocabulary, d.hidden);
    list.norm("model.norm", "output_norm", d.hidden);
    list.output("lm_head", d);
    for layer in 0..d.layers {
        let (heads, key_heads) = (d.heads.at(layer), d.kv_heads.at(layer));
        let rows = (heads + 2 * key_heads) * d.head_size;
        let feed_forward = d.feed_forward.at(layer);
        list.scope(format!("model.layers.{layer}."), format!("blk.{layer}."));
        list.norm("input_layernorm", "attn_norm", d.hidden);
        list.matrix("self_attn.qkv_proj", "attn_qkv", rows, d.hidden);
        list.matrix("self_attn.o_proj", "attn_output", d.hidden, heads * d.head_size);
        list.norm("post_attention_layernorm", "ffn_norm", d.hidden);
        list.matrix("mlp.gate_up_proj", "ffn_up", 2 * feed_forward, d.hidden);
        list.matrix("mlp.down_proj", "ffn_down", d.hidden, feed_forward);
    }
    list.finish()
}

fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let attention = Attention {
        norm: Some(d.norm(NormKind::Rms, "attn_norm")?),
        projection: Projection::Fused,
        rope: Some(longrope::rope(d, RopePairs::Halves)?),
        window: windows::of_file(&d.keys())?,
        ..Attention::new(d.heads.at(index), d.kv_heads.at(index), d.head_size)
    };
    let feed_forward = FeedForward {
        kind: FeedForwardKind::FusedGated,
        ..FeedForward::gated(d.norm(NormKind::Rms, "ffn_norm")?, Activation::Silu)
    };
    Ok(Layer::new(attention, feed_forward))
}
