//! Qwen2 and 2.5 (Yang et al. 2024): llama's layers with biases on queries, keys and values.

use serde_json::{Map, Value as Json};

use super::fields::{Exported, Keys};
use super::layer::Mixer;
use super::llama::{COMMON, LLAMA, llama_layer, llama_tensors};
use super::rope::RopePairs;
use super::tensors::{RowOrder, TensorSpec};
use super::windows::{self, PATTERN, WINDOW};
use super::{Checkpoint, Dimensions, Family, Field, Layer};
use crate::checkpoint::config::Config;

pub(super) const QWEN2: Family = Family {
    name: "Qwen2 and 2.5",
    gguf: "qwen2",
    checkpoints: &[Checkpoint { architecture: "Qwen2ForCausalLM", model_type: "qwen2" }],
    fields: &[COMMON, OWN],
    tensors,
    layer,
    ..LLAMA
};

/// What Qwen2 and 3 have beside [`COMMON`].
pub(super) const OWN: &[Field] =
    &[Field::OneOf { config: &["hidden_act"], allowed: &["silu"] }, WINDOWS];

/// Windows of the layers from `max_window_layers` on. llama.cpp writes and reads no key for them; it
/// ignores these, and attends to everything.
const WINDOWS: Field =
    Field::Special { gguf: &[WINDOW, PATTERN], write: write_windows, export: export_windows };

fn write_windows(config: &Config, keys: &mut Keys<'_>) -> Result<(), String> {
    if !config.truth(&["use_sliding_window"])?.unwrap_or(false) {
        config.get("sliding_window");
        config.get("layer_types");
        return Ok(());
    }
    let first = config.number(&["max_window_layers"])?.unwrap_or(28.0);
    let layers = windows::read(config, |layer| layer as f64 >= first)?;
    windows::write(keys, config.required_count(&["sliding_window"])?, &layers)
}

fn export_windows(file: &Exported<'_>, config: &mut Map<String, Json>) -> Result<(), String> {
    let has_windows = windows::of_file(&file.keys)?.is_some();
    config.insert("use_sliding_window".into(), has_windows.into());
    if has_windows { windows::export(file, config, ALL) } else { Ok(()) }
}

/// The period of a file's windows that does not say which layers have one: all do.
const ALL: usize = 0;

pub(super) fn tensors(d: &Dimensions) -> Vec<TensorSpec> {
    llama_tensors(d, RowOrder::Same, RowOrder::Same)
}

/// Llama's layer with halves that turn, and a window where the file says so.
pub(super) fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let mut layer = llama_layer(d, index, RopePairs::Halves)?;
    let Mixer::Attention(attention) = &mut layer.mixer;
    attention.window = windows::of_layer(d, index, ALL)?;
    Ok(layer)
}
