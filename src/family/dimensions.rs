//! The numbers of a model that its family's tensors and layers are made of: a GGUF file's metadata,
//! checked for sense.

use std::collections::HashSet;

use super::layer::{Norm, NormKind};
use super::rope::{DEFAULT_BASE, Divisors, FREQUENCY_DIVISORS, Rope, RopePairs};
use super::rope_scaling::RopeScaling;
use super::{Family, Field};
use crate::gguf::{Metadata, ModelKeys};

/// No real model has as many; each one costs memory before any tensor is looked for.
const MOST_LAYERS: usize = 10_000;

/// Keys that a file of any family may have; those that [`Dimensions`] reads, and those that change
/// nothing here.
const COMMON_KEYS: [&str; 24] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.scale",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
    "vocab_size",
];

/// A number that all layers share, or each has for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PerLayer {
    /// All layers'.
    All(usize),
    /// One a layer.
    Each(Vec<usize>),
}

impl PerLayer {
    /// That of a layer.
    pub fn at(&self, layer: usize) -> usize {
        match self {
            Self::All(number) => *number,
            Self::Each(numbers) => numbers[layer],
        }
    }
}

/// The numbers of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Dimensions {
    /// Tokens in the embedding table.
    pub vocabulary: usize,
    /// Tokens of context that the model was trained for.
    pub context: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Width inside the feed-forward network.
    pub feed_forward: PerLayer,
    /// Query heads.
    pub heads: PerLayer,
    /// Key and value heads.
    pub kv_heads: PerLayer,
    /// Width of a head.
    pub head_size: usize,
    metadata: Metadata,
    architecture: &'static str,
    tensors: HashSet<String>,
}

impl Dimensions {
    /// Reads the metadata of a model whose embedding table has `vocabulary` rows, and which has tensors of
    /// these names, in GGUF or in a checkpoint.
    ///
    /// # Errors
    /// A key that is missing, of the wrong type, or makes no sense together with another.
    pub fn read(
        family: &Family,
        metadata: &Metadata,
        vocabulary: usize,
        tensors: impl IntoIterator<Item = String>,
    ) -> Result<Self, String> {
        let keys = ModelKeys { metadata, architecture: family.gguf };
        let hidden = keys.count("embedding_length")?;
        let layers = keys.count("block_count")?;
        if layers > MOST_LAYERS {
            return Err(format!("block_count is {layers}, more than {MOST_LAYERS}"));
        }
        let per_layer = |key: &str| match keys.optional_counts(key, layers)? {
            Some(numbers) => Ok::<_, String>(Some(PerLayer::Each(numbers))),
            None => Ok(keys.optional_count(key)?.map(PerLayer::All)),
        };
        let required = |key: &str| {
            per_layer(key)?.ok_or_else(|| format!("the metadata lacks {}", keys.name(key)))
        };
        let heads = required("attention.head_count")?;
        let kv_heads = per_layer("attention.head_count_kv")?.unwrap_or_else(|| heads.clone());
        for layer in 0..layers {
            let (heads, kv_heads) = (heads.at(layer), kv_heads.at(layer));
            if kv_heads == 0 || heads == 0 || !heads.is_multiple_of(kv_heads) {
                return Err(format!(
                    "{heads} query heads cannot share {kv_heads} key/value heads (layer {layer})"
                ));
            }
        }
        let head_size = match keys.optional_count("attention.key_length")? {
            Some(size) => size,
            None => hidden / heads.at(0),
        };
        let value_size = keys.optional_count("attention.value_length")?.unwrap_or(head_size);
        if head_size == 0 || value_size != head_size {
            return Err(format!(
                "keys of {head_size} and values of {value_size} elements a head: quantkit needs \
                 them alike and above 0"
            ));
        }
        Ok(Self {
            vocabulary,
            context: keys.count("context_length")?,
            hidden,
            layers,
            feed_forward: required("feed_forward_length")?,
            heads,
            kv_heads,
            head_size,
            metadata: of_architecture(metadata, family.gguf),
            architecture: family.gguf,
            tensors: tensors.into_iter().collect(),
        })
    }

    /// The metadata keys of the model's architecture.
    pub fn keys(&self) -> ModelKeys<'_> {
        ModelKeys { metadata: &self.metadata, architecture: self.architecture }
    }

    /// Whether the model has a tensor, by its name on the side that it was read from.
    pub fn has(&self, tensor: &str) -> bool {
        self.tensors.contains(tensor)
    }

    /// Whether layer `layer` has a tensor, by its part of the name: `attn_norm_2.weight`.
    pub fn layer_has(&self, layer: usize, part: &str) -> bool {
        self.has(&format!("blk.{layer}.{part}"))
    }

    /// A norm with the model's ε.
    ///
    /// # Errors
    /// The metadata has no ε for this kind of norm.
    pub fn norm(&self, kind: NormKind, tensor: &'static str) -> Result<Norm, String> {
        Ok(Norm { kind, tensor, epsilon: self.epsilon(kind)? })
    }

    /// The ε of a kind of norm.
    ///
    /// # Errors
    /// The metadata has none.
    pub fn epsilon(&self, kind: NormKind) -> Result<f32, String> {
        let key = match kind {
            NormKind::Rms => "attention.layer_norm_rms_epsilon",
            NormKind::Layer => "attention.layer_norm_epsilon",
        };
        let epsilon = self.keys().optional_positive(key)?;
        let missing = || format!("the metadata lacks {}", self.keys().name(key));
        epsilon.map(|epsilon| epsilon as f32).ok_or_else(missing)
    }

    /// Factor on attention scores where the metadata has one; 1/√head size otherwise.
    ///
    /// # Errors
    /// A value that is no number above 0.
    pub fn attention_scale(&self) -> Result<f32, String> {
        let scale = self.keys().optional_positive("attention.scale")?;
        Ok(scale.unwrap_or((self.head_size as f64).sqrt().recip()) as f32)
    }

    /// The rotary embedding that the common keys describe.
    ///
    /// # Errors
    /// Keys of the wrong type or out of range, a kind of scaling that quantkit does not know.
    pub fn rope(&self, pairs: RopePairs) -> Result<Rope, String> {
        let keys = self.keys();
        Ok(Rope {
            pairs,
            size: self.rotary_size()?,
            base: keys.optional_positive("rope.freq_base")?.unwrap_or(DEFAULT_BASE),
            scaling: RopeScaling::read(&keys)?,
            divisors: Divisors::Tensor(FREQUENCY_DIVISORS),
        })
    }

    /// Elements of a head that the rotary embedding turns.
    ///
    /// # Errors
    /// An odd number, or one above the head's width.
    pub fn rotary_size(&self) -> Result<usize, String> {
        let key = "rope.dimension_count";
        let size = self.keys().optional_count(key)?.unwrap_or(self.head_size);
        if size == 0 || !size.is_multiple_of(2) || size > self.head_size {
            return Err(format!(
                "{} is {size}, expected an even number from 2 up to the head's {}",
                self.keys().name(key),
                self.head_size
            ));
        }
        Ok(size)
    }

    /// The keys that the family does not know, with their prefix.
    pub fn unknown_keys<'a>(&'a self, family: &'a Family) -> impl Iterator<Item = &'a str> {
        let known: Vec<String> = COMMON_KEYS
            .iter()
            .chain(family.fields().flat_map(Field::keys))
            .map(|key| self.keys().name(key))
            .collect();
        let keys = self.metadata.iter().map(|(key, _)| key);
        keys.filter(move |key| !known.iter().any(|known| known == key))
    }
}

/// The keys of one architecture.
fn of_architecture(metadata: &Metadata, architecture: &str) -> Metadata {
    let prefix = format!("{architecture}.");
    let mut own = Metadata::new();
    for (key, value) in metadata.iter().filter(|(key, _)| key.starts_with(&prefix)) {
        own.set(key, value.clone());
    }
    own
}
