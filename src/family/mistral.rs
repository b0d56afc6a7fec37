//! Mistral 7B (Jiang et al. 2023) and its successors of the same layers. GGUF has no architecture for
//! them: a file says "llama", and has the key of the window where attention has one.

use super::layer::Mixer;
use super::llama::{COMMON, LLAMA, ROTARY};
use super::windows::{self, WINDOW};
use super::{Checkpoint, Dimensions, Family, Field, Layer};

pub(super) const MISTRAL: Family = Family {
    name: "Mistral 7B and Nemo",
    claims: |keys| keys.metadata.get(&keys.name(WINDOW)).is_some(),
    checkpoints: &[Checkpoint { architecture: "MistralForCausalLM", model_type: "mistral" }],
    fields: &[COMMON, ROTARY, OWN],
    layer,
    ..LLAMA
};

/// What a Mistral has beside what llama has.
pub(super) const OWN: &[Field] =
    &[windows::OF_ALL_LAYERS, Field::OneOf { config: &["hidden_act"], allowed: &["silu"] }];

fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let mut layer = (LLAMA.layer)(d, index)?;
    let Mixer::Attention(attention) = &mut layer.mixer;
    attention.window = windows::of_file(&d.keys())?;
    Ok(layer)
}
