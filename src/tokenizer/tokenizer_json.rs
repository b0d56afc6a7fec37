//! `tokenizer.json`, as far as it is looked at.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::error::TokenizerError;
use crate::checkpoint::optional_files::read_optional;

/// The whole file.
#[derive(Debug, Deserialize)]
pub(super) struct TokenizerJson {
    #[serde(default)]
    pub added_tokens: Vec<AddedTokenJson>,
    #[serde(default)]
    pub normalizer: Value,
    #[serde(default)]
    pub pre_tokenizer: Value,
    #[serde(default)]
    pub post_processor: Value,
    pub model: ModelJson,
}

/// An entry of `added_tokens`.
#[derive(Debug, Deserialize)]
pub(super) struct AddedTokenJson {
    pub id: u32,
    pub content: String,
    #[serde(default)]
    pub special: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    #[serde(default)]
    pub single_word: bool,
    #[serde(default)]
    pub normalized: bool,
}

/// `model`, when it is BPE.
#[derive(Debug, Deserialize)]
pub(super) struct ModelJson {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Not a map for other kinds of model.
    #[serde(default)]
    pub vocab: VocabularyJson,
    #[serde(default)]
    pub merges: Vec<MergeJson>,
    #[serde(default)]
    pub byte_fallback: bool,
    #[serde(default)]
    pub ignore_merges: bool,
    pub dropout: Option<f64>,
    pub continuing_subword_prefix: Option<String>,
    pub end_of_word_suffix: Option<String>,
}

impl ModelJson {
    /// The vocabulary of a BPE model.
    ///
    /// # Errors
    /// One that is empty, or none.
    pub(super) fn vocabulary(&self) -> Result<&HashMap<String, u32>, String> {
        match &self.vocab {
            VocabularyJson::Map(vocabulary) if !vocabulary.is_empty() => Ok(vocabulary),
            _ => Err("the tokenizer's vocabulary is empty or no map of tokens".to_string()),
        }
    }
}

/// Tokens by their text, or something else that another kind of model has.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum VocabularyJson {
    Map(HashMap<String, u32>),
    Other(serde::de::IgnoredAny),
}

impl Default for VocabularyJson {
    fn default() -> Self {
        Self::Map(HashMap::new())
    }
}

/// A merge: `"a b"` or, since spaces within tokens are allowed, `["a", "b"]`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum MergeJson {
    Joined(String),
    Pair(String, String),
}

impl MergeJson {
    /// The merge as GGUF writes it: `a b`, with `Ġ` for a space within a token.
    pub(super) fn joined(&self) -> String {
        match self {
            Self::Joined(text) => text.clone(),
            Self::Pair(left, right) => {
                format!("{} {}", left.replace(' ', "Ġ"), right.replace(' ', "Ġ"))
            }
        }
    }

    /// The two tokens.
    pub(super) fn halves(&self) -> (&str, &str) {
        match self {
            Self::Joined(text) => text.split_once(' ').unwrap_or((text, "")),
            Self::Pair(left, right) => (left, right),
        }
    }
}

/// Reads `tokenizer.json`; `None` where there is none.
pub(super) fn read(directory: &Path) -> Result<Option<TokenizerJson>, TokenizerError> {
    let path = directory.join("tokenizer.json");
    let Some(bytes) = read_optional(&path)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| TokenizerError::unusable(&path, format!("no tokenizer: {error}")))
}
