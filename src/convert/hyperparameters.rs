//! A model's dimensions: config.json ↔ GGUF metadata, under the keys of llama.cpp's converter.

use super::families::{Family, ROPE_FREQUENCIES};
use super::rope;
use crate::checkpoint::config::{ModelConfig, RopeScaling};
use crate::gguf::{self, Metadata, ModelKeys, Value};

/// Appends `llama.*` (or another family's keys) and `general.file_type`.
pub(super) fn write(
    metadata: &mut Metadata,
    family: &Family,
    config: &ModelConfig,
    file_type: u32,
) -> Result<(), String> {
    let family = family.gguf;
    let mut number = |key: &str, value: usize| -> Result<(), String> {
        let value = u32::try_from(value).map_err(|_| format!("{key} = {value} is too large"))?;
        metadata.set(format!("{family}.{key}"), Value::U32(value));
        Ok(())
    };
    number("block_count", config.num_hidden_layers)?;
    if let Some(context) = config.max_position_embeddings {
        number("context_length", context)?;
    }
    number("embedding_length", config.hidden_size)?;
    number("feed_forward_length", config.intermediate_size)?;
    number("attention.head_count", config.num_attention_heads)?;
    number("attention.head_count_kv", config.num_key_value_heads)?;
    write_rope(metadata, family, config);
    set_float(metadata, family, "attention.layer_norm_rms_epsilon", config.rms_norm_eps);
    let head_dim = config.head_dim() as u32;
    if config.explicit_head_dim.is_some() {
        metadata.set(format!("{family}.attention.key_length"), Value::U32(head_dim));
        metadata.set(format!("{family}.attention.value_length"), Value::U32(head_dim));
    }
    metadata.set("general.file_type", Value::U32(file_type));
    metadata.set(format!("{family}.vocab_size"), Value::U32(config.vocab_size as u32));
    metadata.set(format!("{family}.rope.dimension_count"), Value::U32(head_dim));
    Ok(())
}

fn set_float(metadata: &mut Metadata, family: &str, key: &str, value: f64) {
    metadata.set(format!("{family}.{key}"), Value::F32(value as f32));
}

fn write_rope(metadata: &mut Metadata, family: &str, config: &ModelConfig) {
    let mut kind = |name: &str| {
        metadata.set(format!("{family}.rope.scaling.type"), Value::String(name.to_string()));
    };
    match &config.rope_scaling {
        None | Some(RopeScaling::Llama3 { .. }) => {}
        Some(RopeScaling::Linear { factor }) => {
            kind("linear");
            set_float(metadata, family, "rope.scaling.factor", *factor);
        }
        Some(RopeScaling::Yarn {
            factor,
            original_context,
            extrapolation_factor,
            attention_factor,
            beta_fast,
            beta_slow,
        }) => {
            kind("yarn");
            set_float(metadata, family, "rope.scaling.factor", *factor);
            metadata.set(
                format!("{family}.rope.scaling.original_context_length"),
                Value::U32(*original_context),
            );
            for (key, value) in [
                ("yarn_ext_factor", extrapolation_factor),
                ("yarn_attn_factor", attention_factor),
                ("yarn_beta_fast", beta_fast),
                ("yarn_beta_slow", beta_slow),
            ] {
                if let Some(value) = value {
                    set_float(metadata, family, &format!("rope.scaling.{key}"), *value);
                }
            }
        }
    }
    if let Some(theta) = config.rope_theta {
        set_float(metadata, family, "rope.freq_base", theta);
    }
}

/// What the GGUF file's tensors add to its metadata.
#[derive(Debug)]
pub(super) struct TensorFacts {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Whether there is no output matrix.
    pub tied: bool,
    /// llama 3's divisors of the rotary frequencies.
    pub rope_divisors: Option<Vec<f32>>,
}

/// The config that a GGUF file's metadata describes. Token ids are left out.
pub(super) fn read(
    metadata: &Metadata,
    family: &Family,
    facts: &TensorFacts,
) -> Result<ModelConfig, String> {
    let reader = Reader { metadata, family: family.gguf };
    let heads = reader.dimension("attention.head_count")?;
    let hidden_size = reader.dimension("embedding_length")?;
    let explicit_head_dim = match reader.optional_dimension("attention.key_length")? {
        Some(length) => Some(length),
        None => reader.optional_dimension("rope.dimension_count")?,
    };
    let config = ModelConfig {
        architecture: family.architectures[0].to_string(),
        vocab_size: facts.vocab_size,
        hidden_size,
        intermediate_size: reader.dimension("feed_forward_length")?,
        num_hidden_layers: reader.dimension("block_count")?,
        num_attention_heads: heads,
        num_key_value_heads: reader.optional_dimension("attention.head_count_kv")?.unwrap_or(heads),
        explicit_head_dim,
        max_position_embeddings: reader.optional_dimension("context_length")?,
        rms_norm_eps: reader
            .float("attention.layer_norm_rms_epsilon")?
            .ok_or_else(|| reader.missing("attention.layer_norm_rms_epsilon"))?,
        rope_theta: reader.float("rope.freq_base")?,
        rope_scaling: reader.rope_scaling(facts)?,
        tie_word_embeddings: facts.tied,
        bos_token_id: None,
        eos_token_ids: Vec::new(),
        pad_token_id: None,
        name_or_path: None,
    };
    config.check()?;
    reader.check_attention_scale(config.head_dim())?;
    for key in ["attention.value_length", "rope.dimension_count"] {
        match reader.optional_dimension(key)? {
            Some(length) if length != config.head_dim() => {
                return Err(format!(
                    "{}.{key} is {length}, but heads are {} wide; a config.json of this \
                     architecture cannot say that",
                    family.gguf,
                    config.head_dim()
                ));
            }
            _ => {}
        }
    }
    if reader.optional_dimension("expert_count")?.is_some() {
        return Err("mixtures of experts are not supported".to_string());
    }
    Ok(config)
}

struct Reader<'a> {
    metadata: &'a Metadata,
    family: &'static str,
}

impl Reader<'_> {
    fn missing(&self, key: &str) -> String {
        format!("{}.{key} is missing", self.family)
    }

    fn optional_dimension(&self, key: &str) -> Result<Option<usize>, String> {
        let key = format!("{}.{key}", self.family);
        let Some(value) = self.metadata.get(&key) else { return Ok(None) };
        match self.metadata.unsigned(&key) {
            Some(0) => Ok(None),
            Some(number) if number <= 1 << 31 => Ok(Some(number as usize)),
            _ => Err(format!("{key} is {value:?}, no number between 0 and 2^31")),
        }
    }

    fn dimension(&self, key: &str) -> Result<usize, String> {
        self.optional_dimension(key)?.ok_or_else(|| self.missing(key))
    }

    fn float(&self, key: &str) -> Result<Option<f64>, String> {
        let key = format!("{}.{key}", self.family);
        let Some(value) = self.metadata.get(&key) else { return Ok(None) };
        match self.metadata.float(&key) {
            Some(number) if number.is_finite() => Ok(Some(shortest(number))),
            _ => Err(format!("{key} is {value:?}, no finite number")),
        }
    }

    /// What the engine applies, as config.json says it: a value is left out where it is what
    /// transformers assumes.
    fn rope_scaling(&self, facts: &TensorFacts) -> Result<Option<RopeScaling>, String> {
        let keys = ModelKeys { metadata: self.metadata, architecture: self.family };
        let scaling = gguf::RopeScaling::read(&keys)?;
        if let Some(divisors) = &facts.rope_divisors {
            if scaling != gguf::RopeScaling::None {
                return Err(format!(
                    "the file has both {} and {}.rope.scaling.*; a config.json cannot say that",
                    ROPE_FREQUENCIES, self.family
                ));
            }
            let base = self.float("rope.freq_base")?.unwrap_or(rope::DEFAULT_BASE);
            return rope::llama3_scaling(divisors, base).map(Some);
        }
        let unless = |default: f64, value| (value != default).then(|| shortest(value));
        Ok(match scaling {
            gguf::RopeScaling::None => None,
            gguf::RopeScaling::Linear { factor } => {
                Some(RopeScaling::Linear { factor: shortest(factor) })
            }
            gguf::RopeScaling::Yarn {
                factor,
                original_context,
                magnitude,
                extrapolation,
                beta_fast,
                beta_slow,
            } => Some(RopeScaling::Yarn {
                factor: shortest(factor),
                original_context,
                extrapolation_factor: unless(gguf::YARN_EXTRAPOLATION, extrapolation),
                attention_factor: unless(gguf::yarn_magnitude(factor), magnitude),
                beta_fast: unless(gguf::YARN_BETA_FAST, beta_fast),
                beta_slow: unless(gguf::YARN_BETA_SLOW, beta_slow),
            }),
        })
    }

    /// Refuses a scale of the attention scores other than the one that transformers computes.
    fn check_attention_scale(&self, head_dim: usize) -> Result<(), String> {
        let usual = (head_dim as f64).sqrt().recip();
        match self.float("attention.scale")? {
            Some(scale) if (scale - usual).abs() > 1e-6 * usual => Err(format!(
                "{}.attention.scale is {scale}, but heads of {head_dim} are scaled by {usual:.6}; \
                 a config.json of this architecture cannot say that",
                self.family
            )),
            _ => Ok(()),
        }
    }
}

/// A number that was a 32-bit float, as the decimal number that people wrote: 1e-5, not
/// 9.99999974737875e-6.
fn shortest(number: f64) -> f64 {
    let narrow = number as f32;
    if f64::from(narrow) == number { narrow.to_string().parse().unwrap_or(number) } else { number }
}
