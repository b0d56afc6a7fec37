//! Gemma 3 (Gemma Team 2025): Gemma 2 with norms of heads instead of caps, windows on five of six layers,
//! and another rotary base for them.
//!
//! Of a checkpoint that sees too, the text part alone becomes a GGUF file.

use serde_json::{Map, Value as Json};

use super::fields::{Absent, Exported, Keys, count, optional_number};
use super::gemma::{self, GEMMA, HEAD_SIZE, LATER};
use super::gemma2::{
    self, LOGIT_CAP, USUAL_HEADS, embeddings, export_scale, layer_with_post_norms,
    norms_and_network, projections, write_scale,
};
use super::layer::{HeadNorms, Mixer, NormKind};
use super::rope::{self, DEFAULT_BASE, Divisors, LOCAL_BASE_KEY, Rope, RopePairs, RopeParameters};
use super::rope_scaling::RopeScaling;
use super::tensors::{TensorList, TensorSpec};
use super::windows::{self, PATTERN, WINDOW};
use super::{Checkpoint, Dimensions, Family, Field, Frame, Layer};
use crate::checkpoint::config::Config;
use crate::gguf::ModelKeys;

/// The last of each group of this many layers has no window.
const PERIOD: usize = 6;

/// Layers of the 27B model, whose scores have a scale of their own.
const LAYERS_OF_27B: usize = 62;

/// What config.json may leave out: tokens of context, and key heads.
pub(super) const USUAL_CONTEXT: usize = 131_072;
pub(super) const USUAL_KEY_HEADS: usize = 4;

/// The base of layers without a window where config.json has none.
pub(super) const GLOBAL_BASE: f64 = 1e6;

pub(super) const GEMMA3: Family = Family {
    name: "Gemma 3 (text)",
    gguf: "gemma3",
    checkpoints: &[
        Checkpoint { architecture: "Gemma3ForCausalLM", model_type: "gemma3_text" },
        Checkpoint { architecture: "Gemma3ForConditionalGeneration", model_type: "gemma3" },
    ],
    fields: &[
        &[
            count("block_count", &["num_hidden_layers"]),
            usual("context_length", &["max_position_embeddings"], USUAL_CONTEXT),
            count("embedding_length", &["hidden_size"]),
            count("feed_forward_length", &["intermediate_size"]),
            usual("attention.head_count", &["num_attention_heads"], USUAL_HEADS),
            usual("attention.head_count_kv", &["num_key_value_heads"], USUAL_KEY_HEADS),
            ROPES,
            Field::Number {
                config: &["rms_norm_eps"],
                gguf: "attention.layer_norm_rms_epsilon",
                absent: Absent::Means(1e-6),
            },
            HEAD_SIZE,
            Field::FileType,
            optional_number(LOGIT_CAP, &[LOGIT_CAP]),
            WINDOWS,
            SCALE,
            IMAGES,
        ],
        LATER,
    ],
    ignored: &[],
    tensors,
    frame,
    layer,
    ..GEMMA
};

/// A number that config.json may leave out, as those of checkpoints that see do.
pub(super) const fn usual(
    gguf: &'static str,
    config: &'static [&'static str],
    absent: usize,
) -> Field {
    Field::Count { config, gguf, absent: Absent::Means(absent) }
}

const WINDOWS: Field = Field::Special {
    gguf: &[WINDOW, PATTERN],
    write: |config, keys| {
        if windows::of_config(config, PERIOD)?.contains(&true) {
            return windows::write_unless_usual(config, keys, PERIOD);
        }
        // llama.cpp takes a file without a window for one of a model without.
        config.get("sliding_window");
        Ok(())
    },
    export: |file, config| {
        windows::export(file, config, if has_windows(&file.keys)? { PERIOD } else { 1 })
    },
};

fn has_windows(keys: &ModelKeys<'_>) -> Result<bool, String> {
    Ok(keys.optional_count(WINDOW)?.is_some_and(|window| window > 0))
}

const SCALE: Field = Field::Special {
    gguf: &["attention.scale"],
    write: |config, keys| write_scale(config, keys, LAYERS_OF_27B),
    export: |file, config| export_scale(file, config, LAYERS_OF_27B),
};

/// What a checkpoint that sees says of images, which are no text.
const IMAGES: Field = Field::Special {
    gguf: &[],
    write: |config, _| {
        let names =
            ["boi_token_index", "eoi_token_index", "image_token_index", "mm_tokens_per_image"];
        config.first(&names);
        Ok(())
    },
    export: |_, _| Ok(()),
};

/// A rotary embedding for layers without a window, which may be stretched, and one for those with.
const ROPES: Field = Field::Special {
    gguf: &["rope.freq_base", "rope.scaling.type", LOCAL_BASE_KEY],
    write: write_ropes,
    export: export_ropes,
};

fn write_ropes(config: &Config, keys: &mut Keys<'_>) -> Result<(), String> {
    let all = RopeParameters::read(config)?;
    let base = all.number("rope_theta")?.unwrap_or(GLOBAL_BASE);
    let local_base = config.number(&["rope_local_base_freq"])?.unwrap_or(DEFAULT_BASE);
    let local = all.of_layers("sliding_attention")?;
    let global = match all.of_layers("full_attention")? {
        Some(global) => global,
        None => all,
    };
    global.allow(&["default", "linear"])?;
    rope::write_scaling(&global, keys, &[])?;
    keys.float("rope.freq_base", global.number("rope_theta")?.unwrap_or(base));
    let local_base = match local {
        None => local_base,
        Some(local) => {
            local.check(&[])?;
            local.allow(&["default"])?;
            local.number("rope_theta")?.unwrap_or(local_base)
        }
    };
    keys.float(LOCAL_BASE_KEY, local_base);
    Ok(())
}

/// As transformers 4 spells it; later versions read that too.
fn export_ropes(file: &Exported<'_>, config: &mut Map<String, Json>) -> Result<(), String> {
    rope::export(file, config)?;
    let base = file.number(LOCAL_BASE_KEY)?.unwrap_or(DEFAULT_BASE);
    config.insert("rope_local_base_freq".into(), base.into());
    Ok(())
}

fn tensors(d: &Dimensions) -> Vec<TensorSpec> {
    let mut list = TensorList::new();
    embeddings(&mut list, d);
    for layer in 0..d.layers {
        list.scope(format!("model.layers.{layer}."), format!("blk.{layer}."));
        projections(&mut list, d, layer);
        list.norm("self_attn.q_norm", "attn_q_norm", d.head_size);
        list.norm("self_attn.k_norm", "attn_k_norm", d.head_size);
        norms_and_network(&mut list, d, layer);
    }
    gemma::shifted(list.finish())
}

/// Gemma's frame, with a cap on the logits where the file has one.
pub(super) fn frame(d: &Dimensions) -> Result<Frame, String> {
    let cap = d.keys().optional_positive(LOGIT_CAP)?;
    Ok(Frame { logit_softcap: cap.map(|cap| cap as f32), ..gemma::frame(d)? })
}

fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let mut layer = layer_with_post_norms(d, index)?;
    let Mixer::Attention(attention) = &mut layer.mixer;
    attention.scale = gemma2::scale(d, LAYERS_OF_27B)?;
    let epsilon = d.epsilon(NormKind::Rms)?;
    attention.head_norms = Some(HeadNorms { kind: NormKind::Rms, whole_rows: false, epsilon });
    if has_windows(&d.keys())? && windows::has_window(d, index, PERIOD)? {
        attention.window = d.keys().optional_count(WINDOW)?;
        attention.rope = Some(local_rope(d, d.rotary_size()?, d.head_size)?);
    }
    Ok(layer)
}

/// The rotary embedding of layers with a window, which turns `size` elements of a head.
pub(super) fn local_rope(d: &Dimensions, size: usize, head_size: usize) -> Result<Rope, String> {
    if size == 0 || !size.is_multiple_of(2) || size > head_size {
        return Err(format!(
            "{size} elements turn in layers with a window, expected an even number from 2 up to the \
             head's {head_size}"
        ));
    }
    Ok(Rope {
        pairs: RopePairs::Halves,
        size,
        base: d.keys().optional_positive(LOCAL_BASE_KEY)?.unwrap_or(DEFAULT_BASE),
        scaling: RopeScaling::None,
        divisors: Divisors::None,
    })
}
