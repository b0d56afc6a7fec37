//! `config.json`: a model's architecture and dimensions.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

/// A `config.json` that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A field is missing, of the wrong type or out of range.
    #[error("{}: {problem}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What was expected and what was found.
        problem: String,
    },
}

/// How a model's rotary position embedding is stretched beyond the context that it was trained on.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// All positions divided by `factor`.
    Linear {
        /// How many times longer the context became.
        factor: f64,
    },
    /// YaRN (Peng et al. 2023).
    Yarn {
        /// How many times longer the context became.
        factor: f64,
        /// The context before.
        original_context: u32,
        /// Weight of the extrapolated part; 1 where absent.
        extrapolation_factor: Option<f64>,
        /// Scale of the attention; derived from `factor` where absent.
        attention_factor: Option<f64>,
        /// Rotations from which on a dimension keeps its frequency; 32 where absent.
        beta_fast: Option<f64>,
        /// Rotations up to which a dimension is interpolated; 1 where absent.
        beta_slow: Option<f64>,
    },
    /// Llama 3.1's: long wavelengths divided by `factor`, short ones kept, a ramp between.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// `original_context / low_freq_factor` is the wavelength above which all is divided.
        low_freq_factor: f64,
        /// `original_context / high_freq_factor` is the wavelength below which all is kept.
        high_freq_factor: f64,
        /// The context before.
        original_context: u32,
    },
}

/// The fields of `config.json` that describe a decoder. Dimensions are in elements.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The first of `architectures`: `LlamaForCausalLM`.
    pub architecture: String,
    /// Tokens in the embedding table.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head, where the file states it.
    pub explicit_head_dim: Option<usize>,
    /// The longest context, where the file states it.
    pub max_position_embeddings: Option<usize>,
    /// Added to the mean square before its root is taken.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies, where the file states it; 10,000 otherwise.
    pub rope_theta: Option<f64>,
    /// Context extension.
    pub rope_scaling: Option<RopeScaling>,
    /// Whether the output matrix is the embedding table.
    pub tie_word_embeddings: bool,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// End-of-sequence tokens.
    pub eos_token_ids: Vec<u32>,
    /// Padding token.
    pub pad_token_id: Option<u32>,
    /// Where the model came from, as an older transformers wrote it.
    pub name_or_path: Option<String>,
}

/// No dimension of a real model comes near; above it, products could overflow.
const LARGEST_DIMENSION: u64 = 1 << 31;

/// The activation of every supported family's feed-forward block.
const ACTIVATION: &str = "silu";

/// No real model has as many; each one costs memory before any tensor is looked for.
const MOST_LAYERS: usize = 10_000;

impl ModelConfig {
    /// Reads and checks `config.json` in a checkpoint directory.
    ///
    /// # Errors
    /// A missing or malformed file, a missing field, dimensions that do not fit together.
    pub fn read(directory: &Path) -> Result<Self, ConfigError> {
        let path = directory.join("config.json");
        let bytes = std::fs::read(&path)
            .map_err(|source| ConfigError::Io { path: path.clone(), source })?;
        Self::parse(&bytes).map_err(|problem| ConfigError::Unusable { path, problem })
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.explicit_head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let json: Value =
            serde_json::from_slice(bytes).map_err(|error| format!("no valid JSON: {error}"))?;
        let Value::Object(object) = json else { return Err("no JSON object".to_string()) };
        let fields = Fields(&object);
        if let Some(other) = fields.text("hidden_act").filter(|name| *name != ACTIVATION) {
            return Err(format!("\"hidden_act\" is \"{other}\"; only {ACTIVATION} is supported"));
        }
        let config = Self {
            architecture: architecture(&object)?,
            vocab_size: fields.dimension("vocab_size")?,
            hidden_size: fields.dimension("hidden_size")?,
            intermediate_size: fields.dimension("intermediate_size")?,
            num_hidden_layers: fields.dimension("num_hidden_layers")?,
            num_attention_heads: fields.dimension("num_attention_heads")?,
            num_key_value_heads: match fields.optional_dimension("num_key_value_heads")? {
                Some(heads) => heads,
                None => fields.dimension("num_attention_heads")?,
            },
            explicit_head_dim: fields.optional_dimension("head_dim")?,
            max_position_embeddings: fields.optional_dimension("max_position_embeddings")?,
            rms_norm_eps: fields.required("rms_norm_eps", fields.number("rms_norm_eps")?)?,
            rope_theta: rope_theta(&fields)?,
            rope_scaling: rope_scaling(&fields)?,
            tie_word_embeddings: fields.truth("tie_word_embeddings")?.unwrap_or(false),
            bos_token_id: fields.token("bos_token_id"),
            eos_token_ids: fields.tokens("eos_token_id"),
            pad_token_id: fields.token("pad_token_id"),
            name_or_path: fields.text("_name_or_path").map(str::to_string),
        };
        config.check()?;
        Ok(config)
    }

    /// Whether the dimensions fit together.
    pub fn check(&self) -> Result<(), String> {
        let heads = self.num_attention_heads;
        if self.explicit_head_dim.is_none() && !self.hidden_size.is_multiple_of(heads) {
            return Err(format!(
                "hidden_size {} is no multiple of num_attention_heads {heads}, and there is no \
                 head_dim",
                self.hidden_size
            ));
        }
        if !heads.is_multiple_of(self.num_key_value_heads) {
            return Err(format!(
                "num_attention_heads {heads} is no multiple of num_key_value_heads {}",
                self.num_key_value_heads
            ));
        }
        if self.num_hidden_layers > MOST_LAYERS {
            return Err(format!(
                "num_hidden_layers is {}, more than {MOST_LAYERS}",
                self.num_hidden_layers
            ));
        }
        if !self.head_dim().is_multiple_of(2) {
            return Err(format!("the head dimension {} is odd", self.head_dim()));
        }
        Ok(())
    }

    /// The fields as `config.json` has them. Rotary embedding and weight type are written as
    /// transformers 4 does; later versions read that too.
    pub fn to_json(&self, model_type: &str, dtype: &str) -> Value {
        let eos = match &self.eos_token_ids[..] {
            [] => Value::Null,
            [one] => json!(one),
            several => json!(several),
        };
        json!({
            "architectures": [self.architecture],
            "model_type": model_type,
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim(),
            "hidden_act": ACTIVATION,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta.unwrap_or(10_000.0),
            "rope_scaling": self.rope_scaling.as_ref().map(RopeScaling::to_json),
            "tie_word_embeddings": self.tie_word_embeddings,
            "attention_bias": false,
            "mlp_bias": false,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": eos,
            "pad_token_id": self.pad_token_id,
            "torch_dtype": dtype,
            "use_cache": true,
        })
    }
}

impl RopeScaling {
    /// The value of `rope_scaling` in `config.json`.
    fn to_json(&self) -> Value {
        match self {
            Self::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
            Self::Yarn {
                factor,
                original_context,
                extrapolation_factor,
                attention_factor,
                beta_fast,
                beta_slow,
            } => {
                let mut object = json!({
                    "rope_type": "yarn",
                    "factor": factor,
                    "original_max_position_embeddings": original_context,
                });
                let optional = [
                    ("extrapolation_factor", extrapolation_factor),
                    ("attention_factor", attention_factor),
                    ("beta_fast", beta_fast),
                    ("beta_slow", beta_slow),
                ];
                for (key, value) in optional {
                    if let Some(value) = value {
                        object[key] = json!(value);
                    }
                }
                object
            }
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_context,
            }),
        }
    }
}

fn architecture(object: &Map<String, Value>) -> Result<String, String> {
    let name = object.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
    name.map(str::to_string)
        .ok_or_else(|| "\"architectures\" is missing or names no architecture".to_string())
}

/// transformers 5 keeps everything about the rotary embedding in `rope_parameters`.
fn rope_fields<'a>(fields: &Fields<'a>) -> Option<Fields<'a>> {
    ["rope_parameters", "rope_scaling"]
        .iter()
        .find_map(|key| fields.0.get(*key))
        .and_then(Value::as_object)
        .map(Fields)
}

fn rope_theta(fields: &Fields<'_>) -> Result<Option<f64>, String> {
    let nested = rope_fields(fields).map(|rope| rope.number("rope_theta")).transpose()?;
    match nested.flatten() {
        Some(theta) => Ok(Some(theta)),
        None => fields.number("rope_theta"),
    }
}

fn rope_scaling(fields: &Fields<'_>) -> Result<Option<RopeScaling>, String> {
    let Some(rope) = rope_fields(fields) else { return Ok(None) };
    let Some(kind) = rope.text("rope_type").or_else(|| rope.text("type")) else { return Ok(None) };
    let factor = || rope.required("rope_scaling.factor", rope.number("factor")?);
    let original_context = || -> Result<u32, String> {
        let key = "original_max_position_embeddings";
        let context = match rope.optional_dimension(key)? {
            Some(context) => Some(context),
            None => fields.optional_dimension(key)?,
        };
        Ok(rope.required(key, context)? as u32)
    };
    Ok(Some(match kind {
        "default" => return Ok(None),
        "linear" => RopeScaling::Linear { factor: factor()? },
        "yarn" => RopeScaling::Yarn {
            factor: factor()?,
            original_context: original_context()?,
            extrapolation_factor: rope.number("extrapolation_factor")?,
            attention_factor: match rope.number("attention_factor")? {
                Some(factor) => Some(factor),
                None => rope.number("attn_factor")?,
            },
            beta_fast: rope.number("beta_fast")?,
            beta_slow: rope.number("beta_slow")?,
        },
        "llama3" => RopeScaling::Llama3 {
            factor: factor()?,
            low_freq_factor: rope.number("low_freq_factor")?.unwrap_or(1.0),
            high_freq_factor: rope.number("high_freq_factor")?.unwrap_or(4.0),
            original_context: original_context()?,
        },
        other => {
            return Err(format!(
                "rope scaling of type \"{other}\" is not supported; linear, yarn and llama3 are"
            ));
        }
    }))
}

/// Typed access to a JSON object; `null` counts as absent.
struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, String> {
        value.ok_or_else(|| format!("\"{key}\" is missing"))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(format!("\"{key}\" is {value}, no number")),
        }
    }

    fn optional_dimension(&self, key: &str) -> Result<Option<usize>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64() {
            Some(number) if (1..=LARGEST_DIMENSION).contains(&number) => Ok(Some(number as usize)),
            _ => Err(format!("\"{key}\" is {value}, no number between 1 and {LARGEST_DIMENSION}")),
        }
    }

    fn dimension(&self, key: &str) -> Result<usize, String> {
        self.required(key, self.optional_dimension(key)?)
    }

    fn truth(&self, key: &str) -> Result<Option<bool>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| format!("\"{key}\" is {value}, not true or false"))
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(Value::as_str)
    }

    fn token(&self, key: &str) -> Option<u32> {
        self.get(key)?.as_u64().and_then(|id| id.try_into().ok())
    }

    fn tokens(&self, key: &str) -> Vec<u32> {
        let as_token = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
        match self.get(key) {
            Some(Value::Array(ids)) => ids.iter().filter_map(as_token).collect(),
            Some(id) => as_token(id).into_iter().collect(),
            None => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": 32, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "rms_norm_eps": 1e-5,
        })
    }

    fn parse(json: &Value) -> Result<ModelConfig, String> {
        ModelConfig::parse(json.to_string().as_bytes())
    }

    #[test]
    fn absent_fields_have_transformers_defaults() {
        let config = parse(&minimal()).unwrap();
        assert_eq!(config.num_key_value_heads, 2);
        assert_eq!(config.head_dim(), 4);
        assert!(!config.tie_word_embeddings);
        assert_eq!(config.rope_scaling, None);
    }

    #[test]
    fn both_spellings_of_rope_scaling_are_read() {
        let scaling = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192 });
        let mut old = minimal();
        old["rope_scaling"] = scaling.clone();
        old["rope_theta"] = json!(5e5);
        let mut new = minimal();
        new["rope_parameters"] = scaling;
        new["rope_parameters"]["rope_theta"] = json!(5e5);
        let (old, new) = (parse(&old).unwrap(), parse(&new).unwrap());
        assert_eq!(old, new);
        assert_eq!(old.rope_theta, Some(5e5));
        assert!(matches!(old.rope_scaling, Some(RopeScaling::Llama3 { factor: 8.0, .. })));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut config = parse(&minimal()).unwrap();
        config.explicit_head_dim = Some(4);
        config.rope_theta = Some(1e4);
        config.eos_token_ids = vec![2, 7];
        config.rope_scaling = Some(RopeScaling::Yarn {
            factor: 4.0,
            original_context: 2048,
            extrapolation_factor: None,
            attention_factor: Some(1.25),
            beta_fast: Some(32.0),
            beta_slow: None,
        });
        let written = config.to_json("llama", "float16");
        assert_eq!(parse(&written).unwrap(), config);
    }

    #[test]
    fn each_problem_names_the_field() {
        for (key, value, expected) in [
            ("hidden_size", json!(null), "\"hidden_size\" is missing"),
            ("hidden_size", json!(-8), "\"hidden_size\" is -8"),
            ("hidden_size", json!(9), "hidden_size 9 is no multiple"),
            ("hidden_size", json!(u64::MAX), "no number between"),
            ("num_key_value_heads", json!(3), "num_key_value_heads 3"),
            ("hidden_act", json!("gelu"), "\"hidden_act\" is \"gelu\""),
            ("architectures", json!([]), "\"architectures\" is missing"),
            ("rope_scaling", json!({ "type": "longrope" }), "\"longrope\" is not supported"),
            ("rope_scaling", json!({ "type": "linear" }), "factor\" is missing"),
        ] {
            let mut config = minimal();
            config[key] = value;
            let problem = parse(&config).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        }
    }
}
