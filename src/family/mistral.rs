//! Mistral 7B (Jiang et al. 2023) and its successors of the same layers. GGUF has no architecture for
//! them: a file says "llama", and has a window where attention has one.

use super::fields::optional_count;
use super::llama::{COMMON, LLAMA, ROTARY};
use super::{Checkpoint, Dimensions, Family, Field, Layer};
use crate::family::layer::Mixer;

/// The key of the window; a file of llama's architecture that has it is a Mistral.
pub(super) const WINDOW: &str = "attention.sliding_window";

/// A window of all layers; none where config.json has null.
pub(super) const WINDOW_FIELD: Field = optional_count(WINDOW, &["sliding_window"]);

pub(super) const MISTRAL: Family = Family {
    name: "Mistral 7B and Nemo",
    claims: |keys| keys.metadata.get(&keys.name(WINDOW)).is_some(),
    checkpoints: &[Checkpoint { architecture: "MistralForCausalLM", model_type: "mistral" }],
    fields: &[
        COMMON,
        ROTARY,
        &[WINDOW_FIELD, Field::OneOf { config: &["hidden_act"], allowed: &["silu"] }],
    ],
    layer,
    ..LLAMA
};

fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let mut layer = (LLAMA.layer)(d, index)?;
    let Mixer::Attention(attention) = &mut layer.mixer;
    attention.window = window(d)?;
    Ok(layer)
}

/// The window of all layers; a file may say 0 for none.
pub(super) fn window(d: &Dimensions) -> Result<Option<usize>, String> {
    Ok(d.keys().optional_count(WINDOW)?.filter(|&window| window > 0))
}
