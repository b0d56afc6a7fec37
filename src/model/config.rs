//! What a GGUF file's metadata says about its decoder, checked for sense.

use super::ModelError;
use super::rope::RopePairs;
use crate::gguf::{GgufFile, Metadata, ModelKeys, RopeScaling};

/// What sets one family of decoders apart from another; the rest is common to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// `general.architecture`, which is also the prefix of the family's metadata keys.
    pub architecture: &'static str,
    /// Which elements of a head the rotary embedding turns together.
    pub rope_pairs: RopePairs,
    /// Whether queries and keys are normalised head by head before the rotary embedding.
    pub head_norms: bool,
}

/// The families that quantkit runs. Biases need no entry: they are used where the file has them.
pub const FAMILIES: [Family; 3] = [
    // Llama, Mistral, SmolLM and all others that are converted under this name.
    Family { architecture: "llama", rope_pairs: RopePairs::Neighbours, head_norms: false },
    Family { architecture: "qwen2", rope_pairs: RopePairs::Halves, head_norms: false },
    Family { architecture: "qwen3", rope_pairs: RopePairs::Halves, head_norms: true },
];

/// The shape and constants of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Its family.
    pub family: Family,
    /// Tokens of context that it was trained for.
    pub context_length: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Width of the feed-forward layer.
    pub feed_forward: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_size: usize,
    /// Factor on the attention scores.
    pub attention_scale: f32,
    /// The ε of the RMS norms.
    pub norm_epsilon: f32,
    /// Elements of a head that the rotary embedding turns; the others pass unchanged.
    pub rotary_size: usize,
    /// The base θ of the rotary embedding.
    pub rope_base: f64,
    /// How the rotary embedding stretches beyond the original context.
    pub rope_scaling: RopeScaling,
}

impl Config {
    /// Reads the decoder's metadata.
    ///
    /// # Errors
    /// An architecture that is not in [`FAMILIES`]; a key that is missing, of the wrong type, or
    /// makes no sense together with another.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, ModelError> {
        Self::from_metadata(file.metadata())
            .map_err(|problem| ModelError::unsupported(file.path(), problem))
    }

    fn from_metadata(metadata: &Metadata) -> Result<Self, String> {
        let family = family(metadata)?;
        let keys = ModelKeys { metadata, architecture: family.architecture };
        if let Some(experts) = keys.optional_count("expert_count")?.filter(|&count| count > 0) {
            return Err(format!(
                "the model is a mixture of {experts} experts, which quantkit cannot run yet"
            ));
        }
        let hidden = keys.count("embedding_length")?;
        let heads = keys.count("attention.head_count")?;
        let kv_heads = keys.optional_count("attention.head_count_kv")?.unwrap_or(heads);
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(format!("{heads} query heads cannot share {kv_heads} key/value heads"));
        }
        let head_size = keys.optional_count("attention.key_length")?.unwrap_or(hidden / heads);
        let value_size = keys.optional_count("attention.value_length")?.unwrap_or(head_size);
        if head_size == 0 || value_size != head_size {
            return Err(format!(
                "keys of {head_size} and values of {value_size} elements a head: quantkit needs \
                 them alike and above 0"
            ));
        }
        let rotary_size = keys.optional_count("rope.dimension_count")?.unwrap_or(head_size);
        if rotary_size == 0 || !rotary_size.is_multiple_of(2) || rotary_size > head_size {
            return Err(format!(
                "{}.rope.dimension_count is {rotary_size}, expected an even number from 2 \
                 up to the head's {head_size}",
                family.architecture
            ));
        }
        let scale = keys.optional_positive("attention.scale")?;
        Ok(Self {
            family,
            context_length: keys.count("context_length")?,
            hidden,
            layers: keys.count("block_count")?,
            feed_forward: keys.count("feed_forward_length")?,
            heads,
            kv_heads,
            head_size,
            attention_scale: scale.unwrap_or((head_size as f64).sqrt().recip()) as f32,
            norm_epsilon: norm_epsilon(&keys)?,
            rotary_size,
            rope_base: keys.optional_positive("rope.freq_base")?.unwrap_or(10_000.0),
            rope_scaling: RopeScaling::read(&keys)?,
        })
    }

    /// Width of all query heads together.
    pub fn query_width(&self) -> usize {
        self.heads * self.head_size
    }

    /// Width of all key (or value) heads together.
    pub fn key_width(&self) -> usize {
        self.kv_heads * self.head_size
    }
}

fn family(metadata: &Metadata) -> Result<Family, String> {
    let architecture = metadata
        .string("general.architecture")
        .ok_or("the metadata has no text under general.architecture")?;
    let known = FAMILIES.iter().find(|family| family.architecture == architecture);
    known.copied().ok_or_else(|| {
        let names: Vec<_> = FAMILIES.iter().map(|family| family.architecture).collect();
        format!("the architecture {architecture:?} is unknown; quantkit runs {}", names.join(", "))
    })
}

fn norm_epsilon(keys: &ModelKeys<'_>) -> Result<f32, String> {
    let key = "attention.layer_norm_rms_epsilon";
    let epsilon = keys.optional_positive(key)?;
    epsilon
        .map(|epsilon| epsilon as f32)
        .ok_or_else(|| format!("the metadata lacks {}", keys.name(key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Array, Value};

    fn metadata(changes: &[(&str, Option<Value>)]) -> Metadata {
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", Value::String("llama".into()));
        for (key, value) in [
            ("context_length", 2048),
            ("embedding_length", 64),
            ("block_count", 2),
            ("feed_forward_length", 128),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
        ] {
            metadata.set(format!("llama.{key}"), Value::U32(value));
        }
        metadata.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
        for (key, value) in changes {
            match value {
                Some(value) => metadata.set(*key, value.clone()),
                None => drop(metadata.remove(key)),
            }
        }
        metadata
    }

    #[test]
    fn defaults_follow_the_format() {
        let config = Config::from_metadata(&metadata(&[])).unwrap();
        assert_eq!((config.head_size, config.rotary_size, config.rope_base), (16, 16, 10_000.0));
        assert_eq!((config.attention_scale, config.rope_scaling), (0.25, RopeScaling::None));
    }

    #[test]
    fn errors_name_the_key_and_what_was_found() {
        let array = Value::Array(Array::U32(vec![4, 4]));
        let cases = [
            ("general.architecture", Some(Value::String("gpt9".into())), "llama, qwen2"),
            ("general.architecture", None, "general.architecture"),
            ("llama.block_count", None, "llama.block_count"),
            ("llama.block_count", Some(Value::U32(0)), "at least 1"),
            ("llama.attention.head_count", Some(array), "llama.attention.head_count"),
            ("llama.attention.head_count", Some(Value::U64(1 << 40)), "4294967295"),
            ("llama.attention.head_count_kv", Some(Value::U32(3)), "3 key/value heads"),
            ("llama.rope.dimension_count", Some(Value::U32(18)), "even number from 2"),
            ("llama.rope.freq_base", Some(Value::F32(f32::NAN)), "above 0"),
            ("llama.rope.scaling.type", Some(Value::String("dynamic".into())), "yarn"),
            ("llama.expert_count", Some(Value::U32(8)), "8 experts"),
            ("llama.attention.value_length", Some(Value::U32(8)), "alike"),
        ];
        for (key, value, expected) in cases {
            let error = Config::from_metadata(&metadata(&[(key, value)])).unwrap_err();
            assert!(error.contains(expected), "{key}: {error}");
        }
    }
}
