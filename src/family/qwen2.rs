//! Qwen2 and 2.5 (Yang et al. 2024): llama's layers with biases on queries, keys and values.

use super::llama::{COMMON, LLAMA, llama_layer, llama_tensors};
use super::rope::RopePairs;
use super::tensors::{RowOrder, TensorSpec};
use super::{Checkpoint, Dimensions, Family, Field, Layer};

pub(super) const QWEN2: Family = Family {
    name: "Qwen2 and 2.5",
    gguf: "qwen2",
    checkpoints: &[Checkpoint { architecture: "Qwen2ForCausalLM", model_type: "qwen2" }],
    fields: &[COMMON, PLAIN],
    tensors,
    layer,
    ..LLAMA
};

/// What quantkit runs of the family.
pub(super) const PLAIN: &[Field] = &[
    Field::OneOf { config: &["hidden_act"], allowed: &["silu"] },
    Field::Always { config: "use_sliding_window", value: false },
    UNUSED_WINDOW,
];

/// The window of layers that have none as long as `use_sliding_window` is false.
const UNUSED_WINDOW: Field = Field::Special {
    gguf: &[],
    write: |config, _| {
        config.get("sliding_window");
        config.get("layer_types");
        Ok(())
    },
    export: |_, _| Ok(()),
};

pub(super) fn tensors(d: &Dimensions) -> Vec<TensorSpec> {
    llama_tensors(d, RowOrder::Same, RowOrder::Same)
}

fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    llama_layer(d, index, RopePairs::Halves)
}
