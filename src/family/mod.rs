//! Model families: what `convert`, `export` and the decoder know of each, a file a family.
//!
//! A family says how both sides call it, which fields of config.json become which metadata keys, its
//! tensors, and what its layers compute. Everything else derives from that.

mod dimensions;
mod fields;
pub mod layer;
mod llama3_rope;
pub mod longrope;
pub mod rope;
mod rope_scaling;
mod tensors;
mod windows;

mod bloom;
mod cohere2;
mod exaone4;
mod falcon;
mod gemma;
mod gemma2;
mod gemma3;
mod gemma4;
mod gpt2;
mod gpt_neox;
mod granite;
mod llama;
mod mistral;
mod mistral3;
mod olmo2;
mod olmo3;
mod phi3;
mod qwen2;
mod qwen3;
mod smollm3;
mod stablelm;
mod starcoder2;

use std::path::Path;

use serde_json::{Map, Value as Json};

use crate::checkpoint::config::Config;
use crate::gguf::{Metadata, ModelKeys};

pub use dimensions::{Dimensions, PerLayer};
pub use fields::{Exported, Field, Keys};
pub use layer::{Frame, Layer};
pub use rope_scaling::RopeScaling;
pub use tensors::{RowOrder, TensorList, TensorSpec};

/// The families that quantkit knows. Of those that share an architecture, the first whose `claims` says
/// so takes a file.
pub const FAMILIES: &[&Family] = &[
    &bloom::BLOOM,
    &cohere2::COHERE2,
    &exaone4::EXAONE4,
    &falcon::FALCON,
    &gemma::GEMMA,
    &gemma2::GEMMA2,
    &gemma3::GEMMA3,
    &gemma4::GEMMA4,
    &gpt2::GPT2,
    &gpt_neox::GPT_NEOX,
    &granite::GRANITE,
    &mistral::MISTRAL,
    &llama::LLAMA,
    &mistral3::MISTRAL3,
    &olmo3::OLMO3,
    &olmo2::OLMO2,
    &phi3::PHI3,
    &qwen2::QWEN2,
    &qwen3::QWEN3,
    &smollm3::SMOLLM3,
    &stablelm::STABLELM,
    &starcoder2::STARCODER2,
];

/// A model family.
#[derive(Debug)]
pub struct Family {
    /// What lists call it.
    pub name: &'static str,
    /// `general.architecture`, which is also the prefix of the family's metadata keys.
    pub gguf: &'static str,
    /// Whether a file of that architecture is one of this family.
    pub claims: fn(&ModelKeys<'_>) -> bool,
    /// How config.json names it; the first is the one that `export` writes.
    pub checkpoints: &'static [Checkpoint],
    /// The fields of config.json and the metadata keys, in the order in which keys are written.
    pub fields: &'static [&'static [Field]],
    /// What an absent `tie_word_embeddings` means.
    pub tied: bool,
    /// Tensors of checkpoints, by the end of their names, that nothing needs.
    pub ignored: &'static [&'static str],
    /// The tensors.
    pub tensors: fn(&Dimensions) -> Vec<TensorSpec>,
    /// The tensors of a GGUF file that a checkpoint has as numbers in config.json.
    pub computed_names: &'static [&'static str],
    /// Those of a model.
    pub computed: fn(&Config, &Dimensions) -> Result<Vec<ComputedTensor>, String>,
    /// What a decoder is outside its layers.
    pub frame: fn(&Dimensions) -> Result<Frame, String>,
    /// What layer so-and-so computes.
    pub layer: fn(&Dimensions, usize) -> Result<Layer, String>,
}

/// How config.json names a family.
#[derive(Debug, Clone, Copy)]
pub struct Checkpoint {
    /// An entry of `architectures`.
    pub architecture: &'static str,
    /// `model_type`.
    pub model_type: &'static str,
}

/// A vector of a GGUF file that config.json spells out.
#[derive(Debug, Clone, PartialEq)]
pub struct ComputedTensor {
    /// Its name.
    pub name: &'static str,
    /// Its values.
    pub values: Vec<f32>,
}

impl Family {
    /// The family of a GGUF file.
    ///
    /// # Errors
    /// An architecture that quantkit does not know, or none.
    pub fn of_gguf(metadata: &Metadata) -> Result<&'static Self, String> {
        let architecture = metadata
            .string("general.architecture")
            .ok_or("the metadata has no text under general.architecture")?;
        let keys = ModelKeys { metadata, architecture };
        let is_it = |family: &&&Self| family.gguf == architecture && (family.claims)(&keys);
        FAMILIES.iter().find(is_it).copied().ok_or_else(|| {
            let known = FAMILIES.iter().map(|family| family.gguf);
            format!(
                "{}; quantize, inspect and split work on files of any architecture",
                unknown(architecture, known)
            )
        })
    }

    /// The family of an entry of config.json's `architectures`.
    ///
    /// # Errors
    /// One that quantkit does not know.
    pub fn of_checkpoint(architecture: &str) -> Result<&'static Self, String> {
        let names = |family: &'static Self| family.checkpoints.iter().map(|one| one.architecture);
        let is_it = |family: &&&'static Self| names(family).any(|name| name == architecture);
        FAMILIES.iter().find(is_it).copied().ok_or_else(|| {
            format!(
                "{}; if another program has converted the model to GGUF, quantize takes that file",
                unknown(architecture, FAMILIES.iter().copied().flat_map(names))
            )
        })
    }

    /// The fields of config.json and the metadata keys.
    pub fn fields(&self) -> impl Iterator<Item = &'static Field> {
        self.fields.iter().copied().flatten()
    }
}

/// Writes a family's metadata keys, with `general.file_type` among them.
///
/// # Errors
/// A field of config.json that is missing, makes no sense, or that quantkit does not honour.
pub fn write(
    family: &Family,
    config: &Config,
    file_type: u32,
    metadata: &mut Metadata,
) -> Result<(), String> {
    let mut keys = Keys::new(metadata, family.gguf, file_type);
    family.fields().try_for_each(|field| field.write(config, &mut keys))
}

/// The fields of config.json that a file's metadata and tensors say.
///
/// # Errors
/// Metadata that is missing, makes no sense, or that a config.json cannot say.
pub fn export(family: &Family, file: &Exported<'_>) -> Result<Map<String, Json>, String> {
    let mut config = Map::new();
    family.fields().try_for_each(|field| field.export(file, &mut config))?;
    if !family.fields().any(|field| field.keys().contains(&"attention.scale")) {
        llama::check_attention_scale(file)?;
    }
    Ok(config)
}

/// Refuses a checkpoint whose weights are quantized already.
///
/// # Errors
/// One that is, with the method and the cure.
pub fn check_quantization(config: &Config) -> Result<(), String> {
    let Some(quantization) = config.get("quantization_config") else { return Ok(()) };
    let method = quantization.get("quant_method").and_then(Json::as_str);
    let method = method.unwrap_or("an unnamed method");
    Err(format!(
        "the weights are quantized already (\"quantization_config\": {method}), which quantkit cannot \
         read; take the 16-bit checkpoint that they were made from"
    ))
}

/// Fields of config.json that change what a model computes, where a family honours them. Where it does
/// not, a model that has them would be run wrongly.
const CHANGING: [&str; 38] = [
    "activation_function",
    "alibi",
    "attention_bias",
    "attention_chunk_size",
    "attention_multiplier",
    "attn_logit_softcapping",
    "clip_qkv",
    "embedding_multiplier",
    "final_logit_softcapping",
    "first_k_dense_replace",
    "hidden_act",
    "hidden_activation",
    "kv_lora_rank",
    "layer_types",
    "logit_scale",
    "logits_scaling",
    "mlp_bias",
    "multi_query",
    "n_routed_experts",
    "no_rope_layers",
    "num_experts",
    "num_local_experts",
    "num_nextn_predict_layers",
    "parallel_attn",
    "partial_rotary_factor",
    "position_embedding_type",
    "qk_layernorm",
    "query_pre_attn_scalar",
    "residual_multiplier",
    "rope_local_base_freq",
    "rope_parameters",
    "rope_scaling",
    "rotary_pct",
    "scale_depth",
    "scale_emb",
    "sliding_window",
    "use_qk_norm",
    "use_sliding_window",
];

/// Refuses a config with a field that changes what the model computes and that its family does not
/// honour, and warns of fields that quantkit has never heard of.
///
/// # Errors
/// The first such field.
pub fn check_unknown(config: &Config, path: &Path) -> Result<(), String> {
    let unknown = config.unknown();
    if let Some((key, value)) = unknown.iter().find(|(key, _)| CHANGING.contains(key)) {
        return Err(format!(
            "\"{key}\" is {value:.60}, which changes what the model computes, and which quantkit does \
             not know for this architecture"
        ));
    }
    if !unknown.is_empty() {
        let names: Vec<&str> = unknown.iter().map(|(key, _)| *key).collect();
        tracing::warn!(
            "{}: quantkit does not know the fields {}; if they change what the model computes, the \
             result is wrong",
            path.display(),
            names.join(", ")
        );
    }
    Ok(())
}

/// The error of an architecture that is not among the known ones: the nearest of them first.
fn unknown(architecture: &str, known: impl Iterator<Item = &'static str>) -> String {
    let mut names: Vec<&str> = known.collect();
    names.sort_unstable();
    names.dedup();
    let list = names.join(", ");
    names.sort_by_key(|name| std::cmp::Reverse(common_start(name, architecture)));
    let nearest = names.first().filter(|name| common_start(name, architecture) >= 3);
    let nearest = nearest.map_or_else(String::new, |name| format!(" (the nearest is {name})"));
    format!("the architecture \"{architecture}\" is not supported{nearest}; quantkit knows {list}")
}

/// How many characters two names have in common at their start, in either case.
fn common_start(left: &str, right: &str) -> usize {
    let pairs = left.chars().zip(right.chars());
    pairs.take_while(|(left, right)| left.eq_ignore_ascii_case(right)).count()
}

/// For families that have an architecture to themselves.
const fn claims_all(_: &ModelKeys<'_>) -> bool {
    true
}

/// Of families whose config.json spells out llama 3's divisors, and nothing else.
fn llama3_divisors(config: &Config, model: &Dimensions) -> Result<Vec<ComputedTensor>, String> {
    let divisors = rope::llama3_divisors(config, model.rotary_size()?)?;
    let tensor = |values| ComputedTensor { name: rope::FREQUENCY_DIVISORS, values };
    Ok(divisors.map(tensor).into_iter().collect())
}

/// Of decoders with nothing but a LayerNorm before the output matrix.
fn layer_norm_frame(model: &Dimensions) -> Result<Frame, String> {
    Ok(Frame::new(model.norm(layer::NormKind::Layer, "output_norm")?))
}

/// Of families whose config.json spells out no tensor.
fn nothing_computed(_: &Config, _: &Dimensions) -> Result<Vec<ComputedTensor>, String> {
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Value;

    #[test]
    fn an_unknown_architecture_is_told_the_nearest_and_all() {
        let problem = Family::of_checkpoint("Qwen3MoeForCausalLM").unwrap_err();
        assert!(problem.contains("the nearest is Qwen3ForCausalLM"), "{problem}");
        assert!(problem.contains("LlamaForCausalLM, "), "{problem}");
        let mut metadata = Metadata::new();
        assert!(Family::of_gguf(&metadata).unwrap_err().contains("general.architecture"));
        metadata.set("general.architecture", Value::String("wavtokenizer-dec".into()));
        let problem = Family::of_gguf(&metadata).unwrap_err();
        assert!(!problem.contains("nearest") && problem.contains("quantize"), "{problem}");
    }

    /// The rows of docs/families.md.
    fn table() -> String {
        let mut rows: Vec<String> = FAMILIES
            .iter()
            .map(|family| {
                let names: Vec<String> = family
                    .checkpoints
                    .iter()
                    .map(|one| format!("`{}`", one.architecture))
                    .collect();
                format!("| {} | `{}` | {} |\n", family.name, family.gguf, names.join(", "))
            })
            .collect();
        rows.sort();
        rows.concat()
    }

    #[test]
    fn the_documented_list_is_the_registry() {
        let documented = include_str!("../../docs/families.md");
        assert!(documented.contains(&table()), "docs/families.md should have\n{}", table());
    }

    #[test]
    fn no_two_families_have_a_name_in_common() {
        let mut names: Vec<&str> = FAMILIES
            .iter()
            .flat_map(|family| family.checkpoints.iter().map(|one| one.architecture))
            .collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
