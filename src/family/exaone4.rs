//! EXAONE 4.0 (LG AI Research 2025): norms behind attention and the feed-forward network, and of each
//! query and key head. In the 32B, most layers have a window, and the others no rotary embedding.

use super::fields::Keys;
use super::layer::Layer;
use super::llama::{COMMON, LLAMA, VOCABULARY};
use super::olmo2::{post_norm_attention, post_norm_network, post_norm_tensors};
use super::tensors::TensorSpec;
use super::windows::{self, PATTERN, WINDOW};
use super::{Checkpoint, Dimensions, Family, Field};
use crate::checkpoint::config::Config;

/// Every fourth layer is without a window, where nothing else is said.
const PERIOD: usize = 4;

pub(super) const EXAONE4: Family = Family {
    name: "EXAONE 4.0",
    gguf: "exaone4",
    checkpoints: &[Checkpoint { architecture: "Exaone4ForCausalLM", model_type: "exaone4" }],
    fields: &[
        COMMON,
        &[VOCABULARY, WINDOWS, Field::OneOf { config: &["hidden_act"], allowed: &["silu"] }],
    ],
    tensors,
    layer,
    ..LLAMA
};

/// llama.cpp reads them in the model of 64 layers only; in others it attends to everything, and turns
/// queries and keys everywhere.
const WINDOWS: Field = Field::Special {
    gguf: &[WINDOW, PATTERN],
    write: write_windows,
    export: |file, config| windows::export(file, config, PERIOD),
};

fn write_windows(config: &Config, keys: &mut Keys<'_>) -> Result<(), String> {
    // A period, or a text, where the list of layers is what counts.
    let pattern = config.get("sliding_window_pattern");
    let Some(window) = config.count(&["sliding_window"])? else {
        return windows::check_none(config);
    };
    let period = match pattern {
        Some(_) if config.get("layer_types").is_none() => {
            config.required_count(&["sliding_window_pattern"])?
        }
        _ => PERIOD,
    };
    let layers = windows::read(config, |layer| windows::is_between(period, layer))?;
    windows::write(keys, window, &layers)
}

fn tensors(d: &Dimensions) -> Vec<TensorSpec> {
    post_norm_tensors(d, |_| [1, 1])
}

fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let mut attention = post_norm_attention(d, index, false)?;
    attention.window = windows::of_layer(d, index, PERIOD)?;
    if windows::of_file(&d.keys())?.is_some() && attention.window.is_none() {
        attention.rope = None;
    }
    Ok(Layer::new(attention, post_norm_network(d)?))
}
