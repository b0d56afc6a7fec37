//! What a recipe needs to know of a model and its tensors.

use std::fmt;

use super::RecipeError;
use crate::gguf::{Array, Metadata, TensorInfo, Value};

/// What a recipe needs to know of a model.
#[derive(Debug)]
pub(super) struct ModelFacts {
    pub(super) is_falcon: bool,
    pub(super) is_glm5_next: bool,
    /// Whether all matrices of more than two dimensions are experts.
    pub(super) only_experts_are_stacked: bool,
    /// 0 where the file does not say.
    pub(super) layers: usize,
    /// 0 where there are none.
    pub(super) experts: u64,
    /// Query heads that share a value head.
    pub(super) queries_per_value: u64,
    /// llama.cpp's size class of that name.
    pub(super) is_70b: bool,
    /// How many attention value tensors there are.
    pub(super) attention_values: usize,
    /// Whether the token embedding doubles as the output matrix.
    pub(super) tied_output: bool,
    /// Whether the importance of columns is known.
    pub(super) has_importance: bool,
}

/// A layer, and how many there are.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    pub(super) layer: usize,
    pub(super) layers: usize,
}

impl ModelFacts {
    pub(super) fn new(metadata: &Metadata, tensors: &[TensorInfo], has_importance: bool) -> Self {
        let architecture = metadata.string("general.architecture").unwrap_or_default();
        let key = |name: &str| format!("{architecture}.{name}");
        let layers = metadata.unsigned(&key("block_count")).map(|layers| layers as usize);
        let heads = of_first_layer(metadata, &key("attention.head_count"));
        let value_heads = of_first_layer(metadata, &key("attention.head_count_kv")).or(heads);
        let experts = metadata.unsigned(&key("expert_count")).unwrap_or(0);
        let is_70b = match (architecture, layers) {
            ("llama", Some(80)) => heads != value_heads && experts != 8,
            ("qwen2" | "deci" | "olmo", Some(80)) | ("jais2", Some(68)) => true,
            _ => false,
        };
        let count =
            |role: Role| tensors.iter().filter(|tensor| Role::of(&tensor.name) == role).count();
        Self {
            is_falcon: architecture == "falcon",
            is_glm5_next: architecture == "glm5-next",
            only_experts_are_stacked: architecture != "bailingmoe3",
            layers: layers.unwrap_or(0),
            experts,
            queries_per_value: heads
                .unwrap_or(0)
                .checked_div(value_heads.unwrap_or(0))
                .unwrap_or(0),
            is_70b,
            attention_values: count(Role::AttentionValue),
            tied_output: count(Role::Output) == 0,
            has_importance,
        }
    }
}

/// A number that a file may give for all layers at once or for each.
fn of_first_layer(metadata: &Metadata, key: &str) -> Option<u64> {
    match metadata.get(key)? {
        Value::Array(Array::U32(numbers)) => numbers.first().map(|&number| number.into()),
        Value::Array(Array::I32(numbers)) => numbers.first()?.to_owned().try_into().ok(),
        _ => metadata.unsigned(key),
    }
}

/// What a tensor does, as far as recipes care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The output matrix.
    Output,
    /// The token embedding, or one for each layer.
    TokenEmbedding,
    /// Value projections, and fused projections that hold one.
    AttentionValue,
    /// Key projections.
    AttentionKey,
    /// Output projections of attention.
    AttentionOutput,
    /// Feed-forward up or gate projections.
    FeedForwardUp,
    /// Feed-forward down projections.
    FeedForwardDown,
    /// Everything else.
    Other,
}

impl Role {
    /// The role of the tensor with this name.
    pub fn of(name: &str) -> Self {
        const BY_PART: [(&str, Role); 8] = [
            ("attn_qkv.weight", Role::AttentionValue),
            ("attn_kv_b.weight", Role::AttentionValue),
            ("attn_v.weight", Role::AttentionValue),
            ("attn_k.weight", Role::AttentionKey),
            ("attn_output.weight", Role::AttentionOutput),
            ("ffn_up", Role::FeedForwardUp),
            ("ffn_gate", Role::FeedForwardUp),
            ("ffn_down", Role::FeedForwardDown),
        ];
        match name {
            "output.weight" => Self::Output,
            "token_embd.weight" | PER_LAYER_EMBEDDING => Self::TokenEmbedding,
            _ => BY_PART
                .iter()
                .find(|(part, _)| name.contains(part))
                .map_or(Self::Other, |&(_, role)| role),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Output => "output matrix",
            Self::TokenEmbedding => "token embedding",
            Self::AttentionValue => "attention value",
            Self::AttentionKey => "attention key",
            Self::AttentionOutput => "attention output",
            Self::FeedForwardUp => "feed-forward up",
            Self::FeedForwardDown => "feed-forward down",
            Self::Other => "other matrix",
        })
    }
}

/// The name of the embedding that some models have for each layer.
pub const PER_LAYER_EMBEDDING: &str = "per_layer_token_embd.weight";

/// Parts of the names of small or sensitive matrices that llama.cpp leaves alone.
const UNTOUCHED: [&str; 35] = [
    "_norm.weight",
    "ffn_gate_inp.weight",
    "ffn_gate_tid2eid.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "indexer.k_proj.weight",
    "indexer.q_proj.weight",
    "time_mix_first.weight",
    "time_mix_w0.weight",
    "time_mix_w1.weight",
    "time_mix_w2.weight",
    "time_mix_v0.weight",
    "time_mix_v1.weight",
    "time_mix_v2.weight",
    "time_mix_a0.weight",
    "time_mix_a1.weight",
    "time_mix_a2.weight",
    "time_mix_g1.weight",
    "time_mix_g2.weight",
    "time_mix_decay_w1.weight",
    "time_mix_decay_w2.weight",
    "time_mix_lerp_fused.weight",
    "attn_rel_b.weight",
    ".position_embd",
    "sam.pos_embd",
    "sam.neck.",
    "sam.net_",
    ".rel_pos",
    ".patch_embd",
    ".patch_merger",
    "a.rvq.codebook",
    "mm.a.code_embd",
];

/// More of them in the glm5-next architecture.
const UNTOUCHED_IN_GLM5_NEXT: [&str; 14] = [
    "hc_",
    "indexer.attn_q_b",
    "indexer.attn_k",
    "indexer.proj",
    "indexer_compressor_gate",
    "indexer_compressor_ape",
    "ssm_f_a.weight",
    "ssm_f_b.weight",
    "ssm_g_a.weight",
    "ssm_g_b.weight",
    "ssm_beta.weight",
    "attn_kv_a_mqa.weight",
    "attn_k_b.weight",
    "attn_v_b.weight",
];

/// Whether a tensor is a matrix of weights large and harmless enough to be coded anew.
pub fn may_change(metadata: &Metadata, tensor: &TensorInfo) -> bool {
    let name = tensor.name.as_str();
    let named = |parts: &[&str]| parts.iter().any(|part| name.contains(part));
    let is_matrix = tensor.dimensions.iter().skip(1).any(|&size| size > 1);
    let is_glm5_next = metadata.string("general.architecture") == Some("glm5-next");
    is_matrix
        && name.ends_with("weight")
        && !["position_embd.weight", "token_types.weight"].contains(&name)
        && !named(&UNTOUCHED)
        && !(is_glm5_next && named(&UNTOUCHED_IN_GLM5_NEXT))
}

/// The layer that a tensor named `blk.N.…` belongs to.
pub fn layer_of(name: &str) -> Option<usize> {
    let (number, _) = name.strip_prefix("blk.")?.split_once('.')?;
    number.parse().ok()
}

/// The layer that a tensor says it belongs to, where that is one of the model's.
pub(super) fn checked_layer(name: &str, layers: usize) -> Result<usize, RecipeError> {
    layer_of(name)
        .filter(|&layer| layer < layers)
        .ok_or_else(|| RecipeError::Layer { tensor: name.to_string(), layers })
}
