//! Which tensor is called what, and how large it is: one table a model family, read in both
//! directions.

use crate::checkpoint::config::ModelConfig;

/// The length of one side of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// Tokens in the vocabulary.
    Vocabulary,
    /// Width of the residual stream.
    Hidden,
    /// Width inside the feed-forward block.
    FeedForward,
    /// All query heads together.
    Queries,
    /// All key or value heads together.
    Keys,
}

impl Side {
    fn length(self, config: &ModelConfig) -> u64 {
        let length = match self {
            Self::Vocabulary => config.vocab_size,
            Self::Hidden => config.hidden_size,
            Self::FeedForward => config.intermediate_size,
            Self::Queries => config.num_attention_heads * config.head_dim(),
            Self::Keys => config.num_key_value_heads * config.head_dim(),
        };
        length as u64
    }
}

/// How the rows of a tensor are ordered within a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RowOrder {
    /// The same on both sides.
    Same,
    /// Hugging Face rotates the two halves of a query head against each other, GGUF neighbours.
    PairedQueries,
    /// The same for key heads.
    PairedKeys,
}

/// A tensor of a family.
#[derive(Debug)]
pub(super) struct TensorRow {
    /// Its Hugging Face name; `{}` stands for the layer.
    hugging_face: &'static str,
    /// Its GGUF name; `{}` stands for the layer.
    gguf: &'static str,
    /// Rows and columns, or just the length of a vector.
    shape: &'static [Side],
    order: RowOrder,
    /// Whether a model of the family may do without it.
    optional: bool,
}

/// A model family that both directions know.
#[derive(Debug)]
pub(super) struct Family {
    /// `general.architecture`.
    pub gguf: &'static str,
    /// `architectures` in config.json; the first is the one that we write.
    pub architectures: &'static [&'static str],
    /// `model_type` in config.json.
    pub model_type: &'static str,
    tensors: &'static [TensorRow],
}

const OUTPUT: &str = "output.weight";

const fn matrix(
    hugging_face: &'static str,
    gguf: &'static str,
    shape: &'static [Side; 2],
) -> TensorRow {
    TensorRow { hugging_face, gguf, shape, order: RowOrder::Same, optional: false }
}

const fn vector(
    hugging_face: &'static str,
    gguf: &'static str,
    shape: &'static [Side; 1],
) -> TensorRow {
    TensorRow { hugging_face, gguf, shape, order: RowOrder::Same, optional: false }
}

const fn ordered(row: TensorRow, order: RowOrder) -> TensorRow {
    TensorRow { order, ..row }
}

const fn optional(row: TensorRow) -> TensorRow {
    TensorRow { optional: true, ..row }
}

use RowOrder::{PairedKeys, PairedQueries};
use Side::{FeedForward, Hidden, Keys, Queries, Vocabulary};

const LLAMA: Family = Family {
    gguf: "llama",
    architectures: &["LlamaForCausalLM", "MistralForCausalLM"],
    model_type: "llama",
    tensors: &[
        matrix("model.embed_tokens.weight", "token_embd.weight", &[Vocabulary, Hidden]),
        vector("model.norm.weight", "output_norm.weight", &[Hidden]),
        optional(matrix("lm_head.weight", OUTPUT, &[Vocabulary, Hidden])),
        vector("model.layers.{}.input_layernorm.weight", "blk.{}.attn_norm.weight", &[Hidden]),
        ordered(
            matrix(
                "model.layers.{}.self_attn.q_proj.weight",
                "blk.{}.attn_q.weight",
                &[Queries, Hidden],
            ),
            PairedQueries,
        ),
        ordered(
            matrix(
                "model.layers.{}.self_attn.k_proj.weight",
                "blk.{}.attn_k.weight",
                &[Keys, Hidden],
            ),
            PairedKeys,
        ),
        matrix("model.layers.{}.self_attn.v_proj.weight", "blk.{}.attn_v.weight", &[Keys, Hidden]),
        matrix(
            "model.layers.{}.self_attn.o_proj.weight",
            "blk.{}.attn_output.weight",
            &[Hidden, Queries],
        ),
        vector(
            "model.layers.{}.post_attention_layernorm.weight",
            "blk.{}.ffn_norm.weight",
            &[Hidden],
        ),
        matrix(
            "model.layers.{}.mlp.gate_proj.weight",
            "blk.{}.ffn_gate.weight",
            &[FeedForward, Hidden],
        ),
        matrix(
            "model.layers.{}.mlp.up_proj.weight",
            "blk.{}.ffn_up.weight",
            &[FeedForward, Hidden],
        ),
        matrix(
            "model.layers.{}.mlp.down_proj.weight",
            "blk.{}.ffn_down.weight",
            &[Hidden, FeedForward],
        ),
    ],
};

const FAMILIES: [&Family; 1] = [&LLAMA];

/// The GGUF tensor that holds llama 3's divisors of the rotary frequencies; checkpoints keep them
/// as numbers in config.json.
pub(super) const ROPE_FREQUENCIES: &str = "rope_freqs.weight";

/// One tensor of one model, on both sides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ModelTensor {
    pub hugging_face: String,
    pub gguf: String,
    /// Rows and columns, or just the length of a vector: the slow dimension first.
    pub shape: Vec<u64>,
    pub order: RowOrder,
    pub optional: bool,
}

impl Family {
    /// The family of a `general.architecture`.
    pub(super) fn of_gguf(architecture: &str) -> Result<&'static Self, String> {
        let known = || FAMILIES.iter().map(|family| family.gguf);
        FAMILIES.iter().copied().find(|family| family.gguf == architecture).ok_or_else(|| {
            format!(
                "the architecture \"{architecture}\" is not supported; quantkit knows {}",
                known().collect::<Vec<_>>().join(", ")
            )
        })
    }

    /// The family of an entry of config.json's `architectures`.
    pub(super) fn of_checkpoint(architecture: &str) -> Result<&'static Self, String> {
        let known = || FAMILIES.iter().flat_map(|family| family.architectures).copied();
        FAMILIES
            .iter()
            .copied()
            .find(|family| family.architectures.contains(&architecture))
            .ok_or_else(|| {
                format!(
                    "the architecture \"{architecture}\" is not supported; quantkit knows {}",
                    known().collect::<Vec<_>>().join(", ")
                )
            })
    }

    /// Every tensor that a model with this config may have. The output matrix is required unless
    /// the config ties it to the embedding.
    pub(super) fn tensors(&self, config: &ModelConfig) -> Vec<ModelTensor> {
        let mut tensors = Vec::new();
        for row in self.tensors {
            let layers = if row.gguf.contains("{}") { config.num_hidden_layers } else { 1 };
            for layer in 0..layers {
                let layer = layer.to_string();
                tensors.push(ModelTensor {
                    hugging_face: row.hugging_face.replace("{}", &layer),
                    gguf: row.gguf.replace("{}", &layer),
                    shape: row.shape.iter().map(|side| side.length(config)).collect(),
                    order: row.order,
                    optional: row.optional && (row.gguf != OUTPUT || config.tie_word_embeddings),
                });
            }
        }
        tensors
    }
}

impl RowOrder {
    /// How many heads the rows are split into, where their order differs.
    pub(super) fn heads(self, config: &ModelConfig) -> Option<usize> {
        match self {
            Self::Same => None,
            Self::PairedQueries => Some(config.num_attention_heads),
            Self::PairedKeys => Some(config.num_key_value_heads),
        }
    }
}

/// The row of the Hugging Face tensor that is row `row` of the GGUF tensor. Within a head of `d`
/// rows, GGUF row `2 i + h` is row `h d/2 + i`.
pub(super) fn hugging_face_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    head * head_dim + (within % 2) * (head_dim / 2) + within / 2
}

/// The inverse of [`hugging_face_row`].
pub(super) fn gguf_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let half = head_dim / 2;
    head * head_dim + (within % half) * 2 + within / half
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_orders_are_each_others_inverse() {
        for head_dim in [2, 4, 6, 64] {
            for row in 0..3 * head_dim {
                assert_eq!(gguf_row(hugging_face_row(row, head_dim), head_dim), row);
                assert_eq!(hugging_face_row(gguf_row(row, head_dim), head_dim), row);
            }
        }
        let halves: Vec<_> = (0..6).map(|row| hugging_face_row(row, 6)).collect();
        assert_eq!(halves, [0, 3, 1, 4, 2, 5]);
    }

    #[test]
    fn an_unknown_architecture_is_told_what_is_known() {
        assert!(Family::of_gguf("mamba").unwrap_err().contains("quantkit knows llama"));
        let problem = Family::of_checkpoint("MambaForCausalLM").unwrap_err();
        assert!(problem.contains("LlamaForCausalLM, MistralForCausalLM"));
    }
}
