//! Ministral 3 (Mistral AI 2025), and the text part of Mistral Small 3.1 and its successors: Mistral's
//! layers; in Ministral 3, with YaRN of another magnitude and queries that grow with their position.

use serde_json::{Map, Value as Json, json};

use super::fields::{Exported, Keys};
use super::layer::{Mixer, Temperature};
use super::llama::{AFTER_ROPE, ROTARY, SIZES};
use super::mistral::{self, MISTRAL};
use super::rope::{self, RopeParameters};
use super::{Checkpoint, Dimensions, Family, Field, Layer, RopeScaling, claims_all};
use crate::checkpoint::config::Config;
use crate::gguf::ModelKeys;

const MULTIPLIER: &str = "rope.scaling.yarn_log_multiplier";
const TEMPERATURE: &str = "attention.temperature_scale";
/// config.json's name of it, among the parameters of the rotary embedding.
const BETA: &str = "llama_4_scaling_beta";

pub(super) const MISTRAL3: Family = Family {
    name: "Ministral 3, Mistral Small 3.1 and 3.2",
    gguf: "mistral3",
    claims: claims_all,
    checkpoints: &[
        Checkpoint { architecture: "Ministral3ForCausalLM", model_type: "ministral3" },
        Checkpoint { architecture: "Mistral3ForConditionalGeneration", model_type: "mistral3" },
    ],
    fields: &[SIZES, &[ROPE], AFTER_ROPE, ROTARY, &[GROWTH, TEXT_PART], mistral::OWN],
    layer,
    ..MISTRAL
};

/// The rotary embedding, but for the magnitude that another key says.
const ROPE: Field = Field::Special {
    gguf: &["rope.freq_base", "rope.scaling.type"],
    write: write_rope,
    // GROWTH does it all.
    export: |_, _| Ok(()),
};

/// YaRN's magnitude, and the growth of queries.
const GROWTH: Field =
    Field::Special { gguf: &[MULTIPLIER, TEMPERATURE], write: write_growth, export: export_rope };

fn write_rope(config: &Config, keys: &mut Keys<'_>) -> Result<(), String> {
    let mut rope = RopeParameters::read(config)?;
    if multiplier(&rope)?.is_some() {
        rope = rope.without(&["mscale", "mscale_all_dim"]);
    }
    let more: &[&str] = if grows(config)? { &[BETA, "max_position_embeddings"] } else { &[] };
    rope::write_with(&rope, keys, more)
}

fn write_growth(config: &Config, keys: &mut Keys<'_>) -> Result<(), String> {
    let rope = RopeParameters::read(config)?;
    if let Some(multiplier) = multiplier(&rope)? {
        keys.float(MULTIPLIER, multiplier);
    }
    if !grows(config)? {
        return Ok(());
    }
    if rope.kind() != "yarn" {
        return Err(format!(
            "\"rope_type\" is \"{}\", but quantkit runs this architecture with yarn only",
            rope.kind()
        ));
    }
    keys.float(TEMPERATURE, rope.required(BETA)?);
    Ok(())
}

/// Whether queries grow with their position: Ministral 3's do, those of earlier models do not.
fn grows(config: &Config) -> Result<bool, String> {
    match config.text(&["model_type"])? {
        Some("ministral3") => Ok(true),
        // A config without its text part's type means the first of these models.
        None | Some("mistral" | "mistral3") => Ok(false),
        Some(other) => Err(format!(
            "\"model_type\" of the text part is \"{other}\", but quantkit knows ministral3 and mistral"
        )),
    }
}

/// What YaRN's magnitude is divided by, over ln(factor), where the key can say it: the key means that
/// `mscale` is 1.
fn multiplier(rope: &RopeParameters) -> Result<Option<f64>, String> {
    let (scale, all) = (rope.number("mscale")?, rope.number("mscale_all_dim")?);
    let stated = rope.number("attention_factor")?.or(rope.number("attn_factor")?);
    let is_usual = rope.kind() == "yarn" && scale == Some(1.0) && stated.is_none();
    Ok(all.filter(|&all| is_usual && all != 0.0))
}

/// Fields of the other parts, which say nothing of the text model.
const TEXT_PART: Field = Field::Special {
    gguf: &[],
    write: |config, _| {
        for name in [
            "image_token_index",
            "image_token_id",
            "multimodal_projector_bias",
            "projector_hidden_act",
            "spatial_merge_size",
            "vision_feature_layer",
        ] {
            config.get(name);
        }
        Ok(())
    },
    export: |_, _| Ok(()),
};

/// Ministral 3 has all in `rope_parameters`; a file without growth is exported as a Mistral.
fn export_rope(file: &Exported<'_>, config: &mut Map<String, Json>) -> Result<(), String> {
    rope::export(file, config)?;
    let temperature = file.number(TEMPERATURE)?.filter(|&scale| scale != 0.0);
    let yarn = config["rope_scaling"]["rope_type"] == "yarn";
    if yarn && let Some(multiplier) = file.number(MULTIPLIER)? {
        config["rope_scaling"]["mscale"] = json!(1.0);
        config["rope_scaling"]["mscale_all_dim"] = json!(multiplier);
    }
    let Some(temperature) = temperature else {
        config.insert("architectures".into(), json!(["MistralForCausalLM"]));
        config.insert("model_type".into(), json!("mistral"));
        return Ok(());
    };
    if !yarn {
        return Err(format!(
            "the file has {} without yarn; a config.json of this architecture cannot say that",
            file.keys.name(TEMPERATURE)
        ));
    }
    let mut parameters = config.remove("rope_scaling").unwrap_or_default();
    parameters["rope_theta"] = config.remove("rope_theta").unwrap_or_default();
    parameters[BETA] = json!(temperature);
    for (key, name) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
        if let Some(value) = file.number(&format!("rope.scaling.{key}"))? {
            parameters[name] = json!(value);
        }
    }
    config.insert("rope_parameters".into(), parameters);
    Ok(())
}

fn layer(d: &Dimensions, index: usize) -> Result<Layer, String> {
    let mut layer = (MISTRAL.layer)(d, index)?;
    let Mixer::Attention(attention) = &mut layer.mixer;
    if let Some(rope) = &mut attention.rope {
        apply_multiplier(&d.keys(), &mut rope.scaling)?;
    }
    attention.temperature = temperature(d)?;
    Ok(layer)
}

/// Gives YaRN the magnitude that the file's multiplier says, unless another key states it.
fn apply_multiplier(keys: &ModelKeys<'_>, scaling: &mut RopeScaling) -> Result<(), String> {
    let multiplier = keys.optional_number(MULTIPLIER)?.filter(|&multiplier| multiplier != 0.0);
    let stated = keys.optional_number("rope.scaling.yarn_attn_factor")?;
    if let (RopeScaling::Yarn { factor, magnitude, .. }, Some(multiplier), None) =
        (scaling, multiplier, stated)
    {
        *magnitude /= 0.1 * multiplier * factor.max(1.0).ln() + 1.0;
    }
    Ok(())
}

fn temperature(d: &Dimensions) -> Result<Option<Temperature>, String> {
    let scale = d.keys().optional_number(TEMPERATURE)?.filter(|&scale| scale != 0.0);
    let original = d.keys().optional_count("rope.scaling.original_context_length")?;
    let original_context = original.filter(|&context| context > 0).unwrap_or(d.context);
    Ok(scale.map(|scale| Temperature { scale: scale as f32, original_context }))
}
