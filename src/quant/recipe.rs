//! Recipes: which tensor gets which format.
//!
//! The choices are llama.cpp's (`src/llama-quant.cpp`), so that a file made here has the types of
//! one made there: tensors that matter more than their size (the output matrix, some layers' value
//! and down projections) get more bits, norms and other small tensors stay as they are, and a
//! tensor whose rows are no whole number of blocks falls back to a format with smaller blocks.

use super::selection::{Choice, Reason};
use crate::gguf::{GgmlType, Metadata, TensorInfo};

/// Why no types could be chosen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecipeError {
    /// llama.cpp treats this architecture in a way of its own.
    #[error(
        "{recipe} has choices of its own for the {architecture} architecture, which quantkit does not know"
    )]
    Architecture {
        /// The recipe.
        recipe: &'static str,
        /// The file's `general.architecture`.
        architecture: String,
    },
    /// The recipe goes by layers and the file does not say how many there are.
    #[error("{recipe} needs the number of layers, and the file has no {key}")]
    NoLayerCount {
        /// The recipe.
        recipe: &'static str,
        /// The metadata key that was looked for.
        key: String,
    },
}

/// A named choice of formats; one row of the table.
#[derive(Debug, PartialEq)]
pub struct Recipe {
    /// The name that users know, such as `Q4_K_M`.
    pub name: &'static str,
    /// llama.cpp's number for it, which goes into the metadata as `general.file_type`.
    pub file_type: u32,
    /// The format of all tensors that nothing else is said about.
    pub default: GgmlType,
    /// Exceptions for attention value projections; the first that holds counts.
    attention_value: &'static [Exception],
    /// Exceptions for feed-forward down projections.
    feed_forward_down: &'static [Exception],
    /// The format of attention output projections in models of eight experts.
    attention_output_of_eight_experts: Option<GgmlType>,
}

/// A format for some of the layers.
#[derive(Debug, PartialEq)]
struct Exception {
    layers: Layers,
    format: GgmlType,
}

/// Which layers an exception is for.
#[derive(Debug, PartialEq)]
enum Layers {
    /// The first so many.
    First(usize),
    /// The first eighth.
    FirstEighth,
    /// The first and last eighth and every third between them.
    Sensitive,
}

impl Layers {
    fn contains(&self, layer: usize, layers: usize) -> bool {
        let eighth = layers / 8;
        match *self {
            Self::First(count) => layer < count,
            Self::FirstEighth => layer < eighth,
            Self::Sensitive => {
                layer < eighth || layer >= layers.saturating_mul(7) / 8 || (layer - eighth) % 3 == 2
            }
        }
    }
}

const fn uniform(name: &'static str, file_type: u32, default: GgmlType) -> Recipe {
    Recipe {
        name,
        file_type,
        default,
        attention_value: &[],
        feed_forward_down: &[],
        attention_output_of_eight_experts: None,
    }
}

const SENSITIVE_IN_Q6_K: &[Exception] =
    &[Exception { layers: Layers::Sensitive, format: GgmlType::Q6_K }];

/// Every recipe.
static RECIPES: [Recipe; 13] = [
    uniform("F32", 0, GgmlType::F32),
    uniform("F16", 1, GgmlType::F16),
    uniform("BF16", 32, GgmlType::BF16),
    uniform("Q8_0", 7, GgmlType::Q8_0),
    uniform("Q6_K", 18, GgmlType::Q6_K),
    uniform("Q5_1", 9, GgmlType::Q5_1),
    uniform("Q5_0", 8, GgmlType::Q5_0),
    uniform("Q4_1", 3, GgmlType::Q4_1),
    uniform("Q4_0", 2, GgmlType::Q4_0),
    Recipe {
        attention_value: SENSITIVE_IN_Q6_K,
        feed_forward_down: SENSITIVE_IN_Q6_K,
        ..uniform("Q5_K_M", 17, GgmlType::Q5_K)
    },
    uniform("Q5_K_S", 16, GgmlType::Q5_K),
    Recipe {
        attention_value: SENSITIVE_IN_Q6_K,
        feed_forward_down: SENSITIVE_IN_Q6_K,
        attention_output_of_eight_experts: Some(GgmlType::Q5_K),
        ..uniform("Q4_K_M", 15, GgmlType::Q4_K)
    },
    Recipe {
        attention_value: &[Exception { layers: Layers::First(4), format: GgmlType::Q5_K }],
        feed_forward_down: &[Exception { layers: Layers::FirstEighth, format: GgmlType::Q5_K }],
        attention_output_of_eight_experts: Some(GgmlType::Q5_K),
        ..uniform("Q4_K_S", 14, GgmlType::Q4_K)
    },
];

impl Recipe {
    /// The recipe with this name, in any case.
    pub fn from_name(name: &str) -> Option<&'static Self> {
        RECIPES.iter().find(|recipe| recipe.name.eq_ignore_ascii_case(name))
    }

    /// The names of all recipes, from most to fewest bits.
    pub fn names() -> impl Iterator<Item = &'static str> {
        RECIPES.iter().map(|recipe| recipe.name)
    }

    /// Chooses a format for each tensor, in the order in which llama.cpp writes them: by layer, and
    /// by name within a layer, after the tensors that belong to none.
    ///
    /// # Errors
    /// Architectures that llama.cpp treats in a way of their own, and a missing layer count.
    pub fn choose<'a>(
        &self,
        metadata: &Metadata,
        tensors: &'a [TensorInfo],
    ) -> Result<Vec<Choice<'a>>, RecipeError> {
        let model = self.model_facts(metadata, tensors)?;
        let mut ordered: Vec<&TensorInfo> = tensors.iter().collect();
        ordered.sort_by_key(|tensor| (layer_of(&tensor.name), tensor.name.as_str()));
        let mut seen = Seen::default();
        Ok(ordered.into_iter().map(|tensor| self.choose_one(&model, &mut seen, tensor)).collect())
    }

    fn choose_one<'a>(
        &self,
        model: &ModelFacts,
        seen: &mut Seen,
        tensor: &'a TensorInfo,
    ) -> Choice<'a> {
        if !may_change(tensor) {
            return Choice { tensor, format: tensor.ggml_type, reason: Reason::Kept };
        }
        if self.default.block_size() == 1 {
            return Choice { tensor, format: self.default, reason: Reason::Default };
        }
        let wanted = self.wanted_format(model, seen, tensor);
        let columns = tensor.columns();
        let format = fallback(wanted, columns);
        let reason =
            if format == wanted { Reason::Default } else { Reason::Fallback { wanted, columns } };
        Choice { tensor, format, reason }
    }

    fn wanted_format(&self, model: &ModelFacts, seen: &mut Seen, tensor: &TensorInfo) -> GgmlType {
        let role = Role::of(&tensor.name);
        match role {
            Role::Output => self.output_format(tensor),
            Role::TokenEmbedding if model.tied_output => self.output_format(tensor),
            Role::AttentionValue => {
                let layer = seen.attention_value;
                seen.attention_value += 1;
                if model.experts == 8 {
                    return GgmlType::Q8_0;
                }
                let format = self.exception(self.attention_value, layer, model.attention_values);
                // Eight query heads share a value head there: more bits cost next to nothing.
                let cheap = matches!(format, GgmlType::Q3_K | GgmlType::Q4_K);
                if model.is_70b && cheap { GgmlType::Q5_K } else { format }
            }
            Role::AttentionKey if model.experts == 8 => GgmlType::Q8_0,
            Role::AttentionOutput if model.experts == 8 => {
                self.attention_output_of_eight_experts.unwrap_or(self.default)
            }
            Role::FeedForwardDown => {
                // The experts of one layer may be tensors of their own, so count by name there.
                let by_name = layer_of(&tensor.name).filter(|_| model.experts > 1);
                let layer = by_name.unwrap_or(seen.feed_forward_down);
                seen.feed_forward_down += 1;
                self.exception(self.feed_forward_down, layer, model.layers)
            }
            _ => self.default,
        }
    }

    /// The output matrix, or the token embedding that doubles as one.
    fn output_format(&self, tensor: &TensorInfo) -> GgmlType {
        let ragged = !tensor.columns().is_multiple_of(self.default.block_size());
        if ragged || self.default == GgmlType::Q8_0 { GgmlType::Q8_0 } else { GgmlType::Q6_K }
    }

    fn exception(&self, exceptions: &[Exception], layer: usize, layers: usize) -> GgmlType {
        exceptions
            .iter()
            .find(|exception| exception.layers.contains(layer, layers))
            .map_or(self.default, |exception| exception.format)
    }

    fn model_facts(
        &self,
        metadata: &Metadata,
        tensors: &[TensorInfo],
    ) -> Result<ModelFacts, RecipeError> {
        const WITH_CHOICES_OF_THEIR_OWN: [&str; 2] = ["falcon", "glm5-next"];
        let architecture = metadata.string("general.architecture").unwrap_or_default();
        if self.default.block_size() > 1 && WITH_CHOICES_OF_THEIR_OWN.contains(&architecture) {
            return Err(RecipeError::Architecture {
                recipe: self.name,
                architecture: architecture.to_string(),
            });
        }
        let number = |name: &str| metadata.unsigned(&format!("{architecture}.{name}"));
        let layers = number("block_count").map(|layers| layers as usize);
        if layers.is_none() && !self.feed_forward_down.is_empty() {
            return Err(RecipeError::NoLayerCount {
                recipe: self.name,
                key: format!("{architecture}.block_count"),
            });
        }
        let heads = number("attention.head_count");
        let shares_heads = number("attention.head_count_kv").is_some_and(|kv| Some(kv) != heads);
        let experts = number("expert_count").unwrap_or(0);
        let is_70b = match (architecture, layers) {
            ("llama", Some(80)) => shares_heads && experts != 8,
            ("qwen2" | "deci" | "olmo", Some(80)) | ("jais2", Some(68)) => true,
            _ => false,
        };
        let attention_values =
            tensors.iter().filter(|tensor| Role::of(&tensor.name) == Role::AttentionValue).count();
        Ok(ModelFacts {
            layers: layers.unwrap_or(0),
            experts,
            is_70b,
            attention_values,
            tied_output: !tensors.iter().any(|tensor| Role::of(&tensor.name) == Role::Output),
        })
    }
}

/// What a recipe needs to know of a model.
struct ModelFacts {
    layers: usize,
    experts: u64,
    /// llama.cpp's size class of that name.
    is_70b: bool,
    /// How many attention value tensors there are.
    attention_values: usize,
    /// Whether the token embedding doubles as the output matrix.
    tied_output: bool,
}

/// How many tensors of the roles that go by layer came before.
#[derive(Default)]
struct Seen {
    attention_value: usize,
    feed_forward_down: usize,
}

/// What a tensor does, as far as recipes care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Output,
    TokenEmbedding,
    /// Value projections, and fused projections that hold one.
    AttentionValue,
    AttentionKey,
    AttentionOutput,
    FeedForwardDown,
    Other,
}

impl Role {
    fn of(name: &str) -> Self {
        const BY_PART: [(&str, Role); 6] = [
            ("attn_qkv.weight", Role::AttentionValue),
            ("attn_kv_b.weight", Role::AttentionValue),
            ("attn_v.weight", Role::AttentionValue),
            ("attn_k.weight", Role::AttentionKey),
            ("attn_output.weight", Role::AttentionOutput),
            ("ffn_down", Role::FeedForwardDown),
        ];
        match name {
            "output.weight" => Self::Output,
            "token_embd.weight" | "per_layer_token_embd.weight" => Self::TokenEmbedding,
            _ => BY_PART
                .iter()
                .find(|(part, _)| name.contains(part))
                .map_or(Self::Other, |&(_, role)| role),
        }
    }
}

/// Whether a tensor is a matrix of weights large and harmless enough to be coded anew.
fn may_change(tensor: &TensorInfo) -> bool {
    /// Parts of the names of small or sensitive matrices that llama.cpp leaves alone.
    const UNTOUCHED: [&str; 37] = [
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
        "position_embd.weight",
        "token_types.weight",
    ];
    let is_matrix = tensor.dimensions.iter().skip(1).any(|&size| size > 1);
    is_matrix
        && tensor.name.ends_with("weight")
        && !UNTOUCHED.iter().any(|part| tensor.name.contains(part))
}

/// The layer that a tensor named `blk.N.…` belongs to.
fn layer_of(name: &str) -> Option<usize> {
    let (number, _) = name.strip_prefix("blk.")?.split_once('.')?;
    number.parse().ok()
}

/// `wanted`, or what stands in for it where rows of `columns` weights are no whole number of blocks.
fn fallback(wanted: GgmlType, columns: usize) -> GgmlType {
    let fits = |format: GgmlType| columns.is_multiple_of(format.block_size());
    if fits(wanted) {
        return wanted;
    }
    let smaller = match wanted {
        GgmlType::Q2_K | GgmlType::Q3_K => GgmlType::Q4_0,
        GgmlType::Q4_K => GgmlType::Q5_0,
        GgmlType::Q5_K => GgmlType::Q5_1,
        GgmlType::Q6_K => GgmlType::Q8_0,
        GgmlType::IQ4_XS => GgmlType::IQ4_NL,
        _ => GgmlType::F16,
    };
    if fits(smaller) { smaller } else { GgmlType::F16 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::Value;

    fn tensor(name: &str, dimensions: &[u64]) -> TensorInfo {
        TensorInfo {
            name: name.to_string(),
            dimensions: dimensions.to_vec(),
            ggml_type: GgmlType::F16,
            offset: 0,
        }
    }

    fn metadata(architecture: &str, numbers: &[(&str, u32)]) -> Metadata {
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", Value::String(architecture.to_string()));
        for (name, number) in numbers {
            metadata.set(format!("{architecture}.{name}"), Value::U32(*number));
        }
        metadata
    }

    /// Formats by tensor name.
    fn formats(recipe: &str, metadata: &Metadata, tensors: &[TensorInfo]) -> Vec<(String, String)> {
        let recipe = Recipe::from_name(recipe).unwrap();
        let choices = recipe.choose(metadata, tensors).unwrap();
        choices
            .iter()
            .map(|choice| (choice.tensor.name.clone(), choice.format.name().to_string()))
            .collect()
    }

    fn format_of(recipe: &str, metadata: &Metadata, name: &str, dimensions: &[u64]) -> String {
        formats(recipe, metadata, &[tensor(name, dimensions)])[0].1.clone()
    }

    #[test]
    fn names_and_numbers_are_unique() {
        for (index, recipe) in RECIPES.iter().enumerate() {
            assert_eq!(Recipe::from_name(&recipe.name.to_lowercase()), Some(recipe));
            assert!(!RECIPES[..index].iter().any(|other| other.file_type == recipe.file_type));
        }
    }

    #[test]
    fn sensitive_layers_are_both_ends_and_every_third_between() {
        let sensitive: Vec<usize> =
            (0..30).filter(|&layer| Layers::Sensitive.contains(layer, 30)).collect();
        assert_eq!(sensitive, [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29]);
    }

    #[test]
    fn tensors_come_by_layer_and_name_and_layers_past_nine_in_order() {
        let names =
            ["blk.10.attn_q.weight", "blk.2.ffn_up.weight", "blk.2.attn_q.weight", "output.weight"];
        let tensors = names.map(|name| tensor(name, &[256, 256]));
        let metadata = metadata("llama", &[("block_count", 11)]);
        let order: Vec<String> =
            formats("Q4_0", &metadata, &tensors).into_iter().map(|(name, _)| name).collect();
        assert_eq!(order, [names[3], names[2], names[1], names[0]]);
    }

    #[test]
    fn a_tied_embedding_is_treated_as_the_output() {
        let metadata = metadata("llama", &[("block_count", 1)]);
        let embedding = tensor("token_embd.weight", &[256, 512]);
        let output = tensor("output.weight", &[256, 512]);
        let tied = formats("Q4_K_M", &metadata, std::slice::from_ref(&embedding));
        assert_eq!(tied, [("token_embd.weight".to_string(), "Q6_K".to_string())]);
        let untied = formats("Q4_K_M", &metadata, &[embedding, output]);
        assert_eq!(untied[0].1, "Q6_K");
        assert_eq!(untied[1].1, "Q4_K");
        assert_eq!(format_of("Q8_0", &metadata, "output.weight", &[256, 512]), "Q8_0");
    }

    #[test]
    fn rows_that_are_no_whole_number_of_blocks_fall_back() {
        let metadata = metadata("llama", &[("block_count", 8)]);
        let of = |recipe, name, columns| format_of(recipe, &metadata, name, &[columns, 64]);
        assert_eq!(of("Q4_K_M", "blk.0.attn_q.weight", 576), "Q5_0");
        assert_eq!(of("Q4_K_M", "blk.0.attn_v.weight", 576), "Q8_0");
        assert_eq!(of("Q5_K_S", "blk.0.attn_q.weight", 576), "Q5_1");
        assert_eq!(of("Q4_0", "output.weight", 576), "Q8_0");
        assert_eq!(of("Q4_K_M", "blk.0.attn_q.weight", 100), "F16");
        assert_eq!(of("Q8_0", "blk.0.attn_q.weight", 100), "F16");
        let recipe = Recipe::from_name("Q4_K_M").unwrap();
        let tensors = [tensor("blk.0.attn_q.weight", &[576, 64])];
        let choices = recipe.choose(&metadata, &tensors).unwrap();
        assert_eq!(choices[0].wanted(), Some(GgmlType::Q4_K));
    }

    #[test]
    fn norms_vectors_and_small_matrices_stay() {
        let metadata = metadata("llama", &[("block_count", 1)]);
        for (name, dimensions) in [
            ("blk.0.attn_norm.weight", &[256u64] as &[u64]),
            ("blk.0.attn_q.bias", &[256, 256]),
            ("blk.0.ffn_gate_inp.weight", &[256, 8]),
            ("blk.0.ssm_conv1d.weight", &[256, 256]),
            ("blk.0.attn_q.weight", &[256, 1]),
            ("rope_freqs.weight", &[64]),
        ] {
            assert_eq!(format_of("Q4_0", &metadata, name, dimensions), "F16", "{name}");
        }
    }

    #[test]
    fn eight_experts_and_70b_get_more_bits_for_attention() {
        let experts = metadata("llama", &[("block_count", 8), ("expert_count", 8)]);
        let of = |name| format_of("Q4_K_M", &experts, name, &[256, 256]);
        assert_eq!(of("blk.1.attn_v.weight"), "Q8_0");
        assert_eq!(of("blk.1.attn_k.weight"), "Q8_0");
        assert_eq!(of("blk.1.attn_output.weight"), "Q5_K");
        assert_eq!(of("blk.1.attn_q.weight"), "Q4_K");
        assert_eq!(of("blk.7.ffn_down_exps.weight"), "Q6_K");
        let large = metadata(
            "llama",
            &[("block_count", 80), ("attention.head_count", 64), ("attention.head_count_kv", 8)],
        );
        let tensors: Vec<TensorInfo> = (0..80)
            .map(|layer| tensor(&format!("blk.{layer}.attn_v.weight"), &[256, 256]))
            .collect();
        let values = formats("Q4_K_M", &large, &tensors);
        assert_eq!((values[9].1.as_str(), values[10].1.as_str()), ("Q6_K", "Q5_K"));
    }

    #[test]
    fn what_is_not_known_is_said() {
        let recipe = Recipe::from_name("Q4_K_M").unwrap();
        let error = recipe.choose(&metadata("falcon", &[]), &[]).unwrap_err();
        assert!(error.to_string().contains("falcon"), "{error}");
        let error = recipe.choose(&metadata("llama", &[]), &[]).unwrap_err();
        assert!(error.to_string().contains("llama.block_count"), "{error}");
        assert!(Recipe::from_name("F16").unwrap().choose(&metadata("falcon", &[]), &[]).is_ok());
    }
}
