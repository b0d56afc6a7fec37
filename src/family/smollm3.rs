//! SmolLM3 (Hugging Face 2025): llama's layers, every fourth of them without a rotary embedding.

use serde_json::{Map, Value as Json};

use super::fields::{Exported, Keys};
use super::layer::Mixer;
use super::llama::{COMMON, LLAMA, ROTARY};
use super::{Checkpoint, Dimensions, Family, Field, Layer};
use crate::checkpoint::config::Config;

pub(super) const SMOLLM3: Family = Family {
    name: "SmolLM3",
    gguf: "smollm3",
    checkpoints: &[Checkpoint { architecture: "SmolLM3ForCausalLM", model_type: "smollm3" }],
    fields: &[
        COMMON,
        ROTARY,
        &[
            WITHOUT_ROTARY,
            Field::Always { config: "use_sliding_window", value: false },
            Field::OneOf { config: &["hidden_act"], allowed: &["silu"] },
            Field::Tensor { config: "attention_bias", tensor: "blk.0.attn_q.bias", there: true },
            Field::Tensor { config: "mlp_bias", tensor: "blk.0.ffn_gate.bias", there: true },
        ],
    ],
    tied: true,
    layer,
    ..LLAMA
};

/// Whether a layer turns queries and keys. No key says so: the pattern is the family's.
fn turns(layer: usize) -> bool {
    !(layer + 1).is_multiple_of(4)
}

const WITHOUT_ROTARY: Field =
    Field::Special { gguf: &[], write: check_pattern, export: export_pattern };

fn check_pattern(config: &Config, _: &mut Keys<'_>) -> Result<(), String> {
    // Without windows, all layers are of one kind.
    config.get("layer_types");
    config.get("sliding_window");
    let layers = config.required_count(&["num_hidden_layers"])?;
    let interval = config.count(&["no_rope_layer_interval"])?.unwrap_or(4);
    let is_usual = match config.get("no_rope_layers") {
        None => interval == 4,
        Some(list) => list.as_array().is_some_and(|list| {
            let numbers = list.iter().map(Json::as_u64).take(layers);
            list.len() >= layers && numbers.eq((0..layers).map(|layer| Some(turns(layer).into())))
        }),
    };
    if is_usual {
        return Ok(());
    }
    Err("\"no_rope_layers\" or \"no_rope_layer_interval\" says other than that every fourth layer is \
         without a rotary embedding, which is all that a GGUF file of this architecture can mean"
        .to_string())
}

fn export_pattern(file: &Exported<'_>, config: &mut Map<String, Json>) -> Result<(), String> {
    let layers = file.keys.count("block_count")?;
    let list: Vec<u8> = (0..layers).map(|layer| turns(layer).into()).collect();
    config.insert("no_rope_layers".into(), list.into());
    config.insert("no_rope_layer_interval".into(), 4.into());
    Ok(())
}

fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let mut layer = (LLAMA.layer)(d, index)?;
    let Mixer::Attention(attention) = &mut layer.mixer;
    if !turns(index) {
        attention.rope = None;
    }
    Ok(layer)
}
