//! `config.json`: typed access to its fields, and an account of those that nobody asked for.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::support::regular_file::read_regular;

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

/// No dimension of a real model comes near; above it, products could overflow.
const LARGEST_COUNT: u64 = 1 << 31;

/// Fields that describe the text part of a model that sees or hears too.
const TEXT_PARTS: [&str; 2] = ["text_config", "llm_config"];

/// Fields that change nothing about what a trained model computes.
const WITHOUT_EFFECT: [&str; 55] = [
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "add_cross_attention",
    "architectures",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_dropout",
    "attn_pdrop",
    "auto_map",
    "bos_token_id",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "dtype",
    "embd_pdrop",
    "embedding_dropout",
    "eos_token_id",
    "finetuning_task",
    "hidden_dropout",
    "hidden_dropout_prob",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "max_window_layers",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "reorder_and_upcast_attn",
    "resid_pdrop",
    "residual_dropout",
    "return_dict",
    "sep_token_id",
    "slow_but_exact",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "unk_token_id",
    "use_cache",
    "vision_config",
    "audio_config",
];

/// Why a directory is not a checkpoint, if it lacks the file at `config`.
fn not_a_checkpoint(directory: &Path, config: &Path) -> Option<String> {
    const EXPECTED: &str = "expected a checkpoint directory with config.json, safetensors files \
                            and a tokenizer";
    if config.exists() {
        return None;
    }
    let has = |name: &str| directory.join(name).exists();
    Some(if !directory.exists() {
        format!("{EXPECTED}, found nothing here")
    } else if !directory.is_dir() {
        match directory.extension().is_some_and(|extension| extension == "gguf") {
            true => format!("{EXPECTED}, found a GGUF file, which needs no conversion"),
            false => format!("{EXPECTED}, found a file: name its directory"),
        }
    } else if has("adapter_config.json") {
        format!("found an adapter{}, not a whole model: {MERGE}", base_model(directory))
    } else if has("params.json") {
        format!(
            "{EXPECTED}, found params.json, which belongs to another format: download the version \
             of the model that is made for transformers"
        )
    } else {
        format!(
            "{EXPECTED}, found no config.json: name the model's own directory, or download one \
             with `quantkit fetch hf:ORG/NAME`"
        )
    })
}

const MERGE: &str = "merge it into its base model first (peft's merge_and_unload, then \
                     save_pretrained), and convert what that writes";

/// What an adapter says of the model that it was trained for.
fn base_model(directory: &Path) -> String {
    let json: Option<Value> = read_regular(&directory.join("adapter_config.json"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let base = json.as_ref().and_then(|json| json.get("base_model_name_or_path")?.as_str());
    base.map(|base| format!(" of {base}")).unwrap_or_default()
}

/// The fields of a `config.json`. `null` counts as absent.
#[derive(Debug)]
pub struct Config {
    fields: Map<String, Value>,
    /// Whether the fields of a text part were laid over those of the whole model.
    has_text_part: bool,
    /// The fields that somebody asked for.
    asked: RefCell<BTreeSet<String>>,
}

impl Config {
    /// Reads `config.json` in a checkpoint directory.
    ///
    /// # Errors
    /// A directory that is not a checkpoint, and a file that cannot be read or is not a JSON object.
    pub fn read(directory: &Path) -> Result<Self, ConfigError> {
        let path = directory.join("config.json");
        if let Some(problem) = not_a_checkpoint(directory, &path) {
            return Err(ConfigError::Unusable { path: directory.to_path_buf(), problem });
        }
        let bytes =
            read_regular(&path).map_err(|source| ConfigError::Io { path: path.clone(), source })?;
        Self::parse(&bytes).map_err(|problem| ConfigError::Unusable { path, problem })
    }

    /// Reads the text of a `config.json`.
    ///
    /// # Errors
    /// Text that is no JSON object.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let json: Value =
            serde_json::from_slice(bytes).map_err(|error| format!("no valid JSON: {error}"))?;
        let Value::Object(mut fields) = json else { return Err("no JSON object".to_string()) };
        let part = TEXT_PARTS.iter().find_map(|name| match fields.remove(*name) {
            Some(Value::Object(part)) => Some(part),
            _ => None,
        });
        let has_text_part = part.is_some();
        // The architecture stays that of the whole model: it says how the tensors are called.
        for (key, value) in part.into_iter().flatten().filter(|(key, _)| key != "architectures") {
            fields.insert(key, value);
        }
        Ok(Self { fields, has_text_part, asked: RefCell::default() })
    }

    /// Whether this is the config of a model with other parts than text.
    pub fn has_text_part(&self) -> bool {
        self.has_text_part
    }

    /// A field.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.asked.borrow_mut().insert(key.to_string());
        self.fields.get(key).filter(|value| !value.is_null())
    }

    /// The first of several names that the config has, and its value.
    pub fn first<'k>(&self, names: &[&'k str]) -> Option<(&'k str, &Value)> {
        // All count as asked for.
        let found: Vec<_> =
            names.iter().filter_map(|&name| Some((name, self.get(name)?))).collect();
        found.into_iter().next()
    }

    /// The first entry of `architectures`.
    ///
    /// # Errors
    /// There is none.
    pub fn architecture(&self) -> Result<&str, String> {
        let name = self.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
        name.ok_or_else(|| "\"architectures\" is missing or names no architecture".to_string())
    }

    /// A whole number above 0, under the first of several names that the config has.
    ///
    /// # Errors
    /// A value that is none.
    pub fn count(&self, names: &[&str]) -> Result<Option<usize>, String> {
        let Some((key, value)) = self.first(names) else { return Ok(None) };
        match value.as_u64() {
            Some(number) if (1..=LARGEST_COUNT).contains(&number) => Ok(Some(number as usize)),
            _ => Err(format!("\"{key}\" is {value}, no number between 1 and {LARGEST_COUNT}")),
        }
    }

    /// [`Config::count`] of a field that has to be there.
    ///
    /// # Errors
    /// It is absent, or no whole number above 0.
    pub fn required_count(&self, names: &[&str]) -> Result<usize, String> {
        self.count(names)?.ok_or_else(|| missing(names))
    }

    /// A finite number, under the first of several names that the config has.
    ///
    /// # Errors
    /// A value that is none.
    pub fn number(&self, names: &[&str]) -> Result<Option<f64>, String> {
        let Some((key, value)) = self.first(names) else { return Ok(None) };
        finite(key, value).map(Some)
    }

    /// Yes or no.
    ///
    /// # Errors
    /// A value that is neither.
    pub fn truth(&self, names: &[&str]) -> Result<Option<bool>, String> {
        let Some((key, value)) = self.first(names) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| format!("\"{key}\" is {value}, not true or false"))
    }

    /// A text.
    ///
    /// # Errors
    /// A value that is none.
    pub fn text(&self, names: &[&str]) -> Result<Option<&str>, String> {
        let Some((key, value)) = self.first(names) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| format!("\"{key}\" is {value}, no text"))
    }

    /// Texts, one a layer and the like.
    ///
    /// # Errors
    /// A value that is not a list of texts.
    pub fn texts(&self, names: &[&str]) -> Result<Option<Vec<&str>>, String> {
        let Some((key, value)) = self.first(names) else { return Ok(None) };
        let texts = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        texts.map(Some).ok_or_else(|| format!("\"{key}\" is {value:.60}, no list of texts"))
    }

    /// The fields that nobody asked for and that may change what the model computes.
    pub fn unknown(&self) -> Vec<(&str, &Value)> {
        let asked = self.asked.borrow();
        let is_unknown = |key: &str, value: &Value| {
            !asked.contains(key)
                && !WITHOUT_EFFECT.contains(&key)
                && !matches!(value, Value::Null | Value::Bool(false))
                && !key.starts_with('_')
        };
        let fields = self.fields.iter().map(|(key, value)| (key.as_str(), value));
        fields.filter(|(key, value)| is_unknown(key, value)).collect()
    }
}

/// The error of a field that has to be there.
pub fn missing(names: &[&str]) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    format!("{} is missing", quoted.join(" or "))
}

/// A finite number.
///
/// # Errors
/// A value that is none.
pub fn finite(key: &str, value: &Value) -> Result<f64, String> {
    match value.as_f64() {
        Some(number) if number.is_finite() => Ok(number),
        _ => Err(format!("\"{key}\" is {value}, no number")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(json: &Value) -> Config {
        Config::parse(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn the_first_name_that_is_there_counts() {
        let config =
            config(&json!({ "n_embd": 8, "hidden_size": null, "eps": 1e-5, "tied": true }));
        assert_eq!(config.count(&["hidden_size", "n_embd"]), Ok(Some(8)));
        assert_eq!(config.count(&["n_inner"]), Ok(None));
        assert_eq!(config.number(&["eps"]), Ok(Some(1e-5)));
        assert_eq!(config.truth(&["tied"]), Ok(Some(true)));
        let problem = config.required_count(&["n_layer", "layers"]).unwrap_err();
        assert_eq!(problem, "\"n_layer\" or \"layers\" is missing");
    }

    #[test]
    fn each_problem_names_the_field_and_what_was_found() {
        let config =
            config(&json!({ "a": -8, "b": "x", "c": 1, "d": u64::MAX, "architectures": [] }));
        assert!(config.count(&["a"]).unwrap_err().contains("\"a\" is -8"));
        assert!(config.count(&["d"]).unwrap_err().contains("no number between"));
        assert!(config.number(&["b"]).unwrap_err().contains("\"b\" is \"x\""));
        assert!(config.truth(&["c"]).unwrap_err().contains("\"c\" is 1"));
        assert!(config.text(&["c"]).unwrap_err().contains("\"c\" is 1, no text"));
        assert!(config.architecture().unwrap_err().contains("names no architecture"));
        assert!(Config::parse(b"[]").is_err() && Config::parse(b"{").is_err());
    }

    #[test]
    fn the_text_part_is_laid_over_the_whole() {
        let config = config(&json!({
            "architectures": ["Seeing"], "hidden_size": 4,
            "text_config": { "architectures": ["Reading"], "hidden_size": 8 },
        }));
        assert!(config.has_text_part());
        assert_eq!(config.architecture(), Ok("Seeing"));
        assert_eq!(config.count(&["hidden_size"]), Ok(Some(8)));
    }

    #[test]
    fn what_nobody_asked_for_is_known() {
        let config = config(&json!({
            "hidden_size": 8, "use_cache": true, "clip_qkv": 3.0, "sliding_window": null,
            "attention_bias": false,
        }));
        config.count(&["hidden_size"]).unwrap();
        assert_eq!(config.unknown(), [("clip_qkv", &json!(3.0))]);
    }
}
