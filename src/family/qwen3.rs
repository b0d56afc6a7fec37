//! Qwen3 (Yang et al. 2025): llama's layers with a norm of each query and key head.

use super::layer::{HeadNorms, Mixer, NormKind};
use super::llama::{COMMON, LLAMA};
use super::qwen2::{self, OWN};
use super::tensors::{TensorList, TensorSpec};
use super::{Checkpoint, Dimensions, Family, Field, Layer};

pub(super) const QWEN3: Family = Family {
    name: "Qwen3",
    gguf: "qwen3",
    checkpoints: &[Checkpoint { architecture: "Qwen3ForCausalLM", model_type: "qwen3" }],
    fields: &[
        COMMON,
        OWN,
        &[Field::Tensor { config: "attention_bias", tensor: "blk.0.attn_q.bias", there: true }],
    ],
    tensors,
    layer,
    ..LLAMA
};

fn tensors(d: &Dimensions) -> Vec<TensorSpec> {
    let mut list = TensorList::new();
    for layer in 0..d.layers {
        list.scope(format!("model.layers.{layer}."), format!("blk.{layer}."));
        list.norm("self_attn.q_norm", "attn_q_norm", d.head_size);
        list.norm("self_attn.k_norm", "attn_k_norm", d.head_size);
    }
    [qwen2::tensors(d), list.finish()].concat()
}

fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let mut layer = qwen2::layer(d, index)?;
    let Mixer::Attention(attention) = &mut layer.mixer;
    let epsilon = d.epsilon(NormKind::Rms)?;
    attention.head_norms = Some(HeadNorms { kind: NormKind::Rms, whole_rows: false, epsilon });
    Ok(layer)
}
