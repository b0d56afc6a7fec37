//! Granite 3 (Granite Team, IBM 2024): llama's layers with factors on embeddings, attention scores, what
//! is added to the residual stream, and logits.

use super::fields::{Absent, Exported};
use super::layer::Mixer;
use super::llama::{COMMON, LLAMA, ROTARY};
use super::{Checkpoint, Dimensions, Family, Field, Frame, Layer};

const EMBEDDING_SCALE: &str = "embedding_scale";
const RESIDUAL_SCALE: &str = "residual_scale";
const LOGIT_DIVISOR: &str = "logit_scale";
const ROTARY_SWITCH: &str = "rope.scaling.finetuned";

pub(super) const GRANITE: Family = Family {
    name: "Granite 3",
    gguf: "granite",
    checkpoints: &[Checkpoint { architecture: "GraniteForCausalLM", model_type: "granite" }],
    fields: &[
        COMMON,
        ROTARY,
        &[
            factor("attention.scale", &["attention_multiplier"]),
            factor(EMBEDDING_SCALE, &["embedding_multiplier"]),
            factor(RESIDUAL_SCALE, &["residual_multiplier"]),
            factor(LOGIT_DIVISOR, &["logits_scaling"]),
            Field::Special {
                gguf: &[ROTARY_SWITCH],
                write: |_, _| Ok(()),
                export: |file, _| check_rotary(file),
            },
            Field::OneOf { config: &["hidden_act"], allowed: &["silu"] },
            Field::Tensor { config: "attention_bias", tensor: "blk.0.attn_q.bias", there: true },
            Field::Tensor { config: "mlp_bias", tensor: "blk.0.ffn_gate.bias", there: true },
        ],
    ],
    frame,
    layer,
    ..LLAMA
};

/// A factor that an absent field of config.json leaves at 1.
const fn factor(gguf: &'static str, config: &'static [&'static str]) -> Field {
    Field::Number { config, gguf, absent: Absent::Means(1.0) }
}

/// Refuses a model without rotary embedding, as Granite 4's hybrids are.
fn check_rotary(file: &Exported<'_>) -> Result<(), String> {
    match file.keys.optional_truth(ROTARY_SWITCH)? {
        Some(false) => Err(format!(
            "{} is false, which means no rotary embedding; a config.json of this architecture cannot \
             say that",
            file.keys.name(ROTARY_SWITCH)
        )),
        _ => Ok(()),
    }
}

fn frame(d: &Dimensions) -> Result<Frame, String> {
    let number = |key| d.keys().optional_positive(key);
    Ok(Frame {
        embedding_scale: number(EMBEDDING_SCALE)?.unwrap_or(1.0) as f32,
        logit_scale: number(LOGIT_DIVISOR)?.unwrap_or(1.0).recip() as f32,
        ..(LLAMA.frame)(d)?
    })
}

fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let mut layer = (LLAMA.layer)(d, index)?;
    layer.residual_scale = d.keys().optional_positive(RESIDUAL_SCALE)?.unwrap_or(1.0) as f32;
    let Mixer::Attention(attention) = &mut layer.mixer;
    if d.keys().optional_truth(ROTARY_SWITCH)? == Some(false) {
        attention.rope = None;
    }
    Ok(layer)
}
