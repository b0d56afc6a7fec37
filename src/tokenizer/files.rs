//! The files of a checkpoint that describe its tokenizer.

use std::collections::HashSet;
use std::path::Path;

use serde_json::{Map, Value as Json};

use super::error::TokenizerError;
use super::sentencepiece_model::{self, SentencePieceModel};
use super::tokenizer_json::{self, TokenizerJson};
use crate::checkpoint::optional_files::{read_object, read_optional};

/// What a directory has of them.
pub(super) struct TokenizerFiles<'a> {
    pub directory: &'a Path,
    /// `general.architecture` of the file that is written.
    pub architecture: &'a str,
    /// tokenizer.model
    pub model: Option<SentencePieceModel>,
    /// tokenizer.json
    pub json: Option<TokenizerJson>,
    /// tokenizer_config.json
    pub config: Option<Map<String, Json>>,
    /// config.json
    pub model_config: Map<String, Json>,
    /// added_tokens.json: ids by their text.
    pub added_tokens: Map<String, Json>,
}

impl<'a> TokenizerFiles<'a> {
    pub(super) fn read(directory: &'a Path, architecture: &'a str) -> Result<Self, TokenizerError> {
        let object = |name: &str| read_object(&directory.join(name));
        let config = object("tokenizer_config.json")?;
        let class = config.as_ref().and_then(|config| config.get("tokenizer_class")?.as_str());
        // Phi-4 keeps Phi-3's architecture, and sometimes its tokenizer.model.
        let is_byte_level = architecture == "phi3" && class == Some("GPT2Tokenizer");
        let path = directory.join("tokenizer.model");
        let model = match read_optional(&path)?.filter(|_| !is_byte_level) {
            Some(bytes) => {
                let unusable = |problem| TokenizerError::unusable(&path, problem);
                Some(sentencepiece_model::read(&bytes).map_err(unusable)?)
            }
            None => None,
        };
        Ok(Self {
            directory,
            architecture,
            model,
            json: tokenizer_json::read(directory)?,
            config,
            model_config: object("config.json")?.unwrap_or_default(),
            added_tokens: object("added_tokens.json")?.unwrap_or_default(),
        })
    }

    /// A field of tokenizer_config.json.
    pub(super) fn config_field(&self, key: &str) -> Option<&Json> {
        self.config.as_ref()?.get(key)
    }

    /// The text of `bos_token` and its like in tokenizer_config.json.
    pub(super) fn special_text(&self, role: &str) -> Option<&str> {
        text_of(self.config_field(&format!("{role}_token"))?)
    }

    /// Texts that tokenizer_config.json calls special.
    pub(super) fn special_texts(&self) -> HashSet<&str> {
        let roles = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"];
        let mut texts: HashSet<&str> =
            roles.iter().filter_map(|role| self.special_text(role)).collect();
        for key in ["additional_special_tokens", "extra_special_tokens"] {
            match self.config_field(key) {
                Some(Json::Array(tokens)) => texts.extend(tokens.iter().filter_map(text_of)),
                Some(Json::Object(tokens)) => texts.extend(tokens.values().filter_map(text_of)),
                _ => {}
            }
        }
        texts
    }

    /// Tokens of tokenizer_config.json's `added_tokens_decoder`: id, text, and whether special.
    pub(super) fn added_tokens_decoder(&self) -> impl Iterator<Item = (u64, &str, bool)> {
        let decoder = self.config_field("added_tokens_decoder").and_then(Json::as_object);
        decoder.into_iter().flatten().filter_map(|(id, token)| {
            let special = token.get("special").and_then(Json::as_bool).unwrap_or(false);
            Some((id.parse().ok()?, token.get("content")?.as_str()?, special))
        })
    }
}

/// A token is written as its text, or as an object with the text in it.
fn text_of(token: &Json) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}
