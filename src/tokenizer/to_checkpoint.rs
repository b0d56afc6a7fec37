//! A GGUF file's tokenizer → tokenizer.json and tokenizer_config.json, such that transformers cuts
//! texts as [`Vocabulary`] does.

use serde_json::{Map, Value as Json, json};
use tokenizers::{PostProcessorWrapper, Tokenizer};

use super::error::TokenizerError;
use super::keys::TokenizerKeys;
use super::vocabulary::Vocabulary;
use crate::gguf::Metadata;

/// The text of tokenizer.json.
pub fn tokenizer_json(vocabulary: &Vocabulary) -> Result<String, TokenizerError> {
    let mut tokenizer: Tokenizer = vocabulary.tokenizer.clone();
    let first = vocabulary.bos.filter(|_| vocabulary.add_bos);
    let last = vocabulary.eos.filter(|_| vocabulary.add_eos);
    if first.is_some() || last.is_some() {
        tokenizer.with_post_processor(Some(template(vocabulary, first, last)?));
    }
    tokenizer.to_string(true).map_err(|error| {
        TokenizerError::vocabulary(format!("the tokenizer cannot be written as JSON: {error}"))
    })
}

/// A post-processor that puts `first` before each text and `last` behind it.
fn template(
    vocabulary: &Vocabulary,
    first: Option<u32>,
    last: Option<u32>,
) -> Result<PostProcessorWrapper, TokenizerError> {
    let special = |id: Option<u32>, type_id: u32| {
        let text = id.and_then(|id| vocabulary.piece(id))?;
        Some(json!({ "SpecialToken": { "id": text, "type_id": type_id } }))
    };
    let around = |sequence: &str, type_id: u32| {
        let sequence = json!({ "Sequence": { "id": sequence, "type_id": type_id } });
        [special(first, type_id), Some(sequence), special(last, type_id)].into_iter().flatten()
    };
    let mut special_tokens = Map::new();
    for id in [first, last].into_iter().flatten() {
        if let Some(text) = vocabulary.piece(id) {
            let entry = json!({ "id": text, "ids": [id], "tokens": [text] });
            special_tokens.insert(text.to_string(), entry);
        }
    }
    let template = json!({
        "type": "TemplateProcessing",
        "single": around("A", 0).collect::<Vec<_>>(),
        "pair": around("A", 0).chain(around("B", 1)).collect::<Vec<_>>(),
        "special_tokens": special_tokens,
    });
    serde_json::from_value(template).map_err(|error| {
        TokenizerError::vocabulary(format!("the post-processor cannot be built: {error}"))
    })
}

/// The content of tokenizer_config.json.
pub fn tokenizer_config(
    vocabulary: &Vocabulary,
    metadata: &Metadata,
    context: Option<usize>,
) -> Result<Json, TokenizerError> {
    let mut config = Map::new();
    for (key, field) in [
        ("add_bos_token", "add_bos_token"),
        ("add_eos_token", "add_eos_token"),
        ("add_space_prefix", "add_prefix_space"),
    ] {
        if let Some(truth) = TokenizerKeys(metadata).truth(key)? {
            config.insert(field.to_string(), json!(truth));
        }
    }
    config.insert("added_tokens_decoder".to_string(), added_tokens(vocabulary));
    for &(role, id) in &vocabulary.roles {
        config.insert(role.to_string(), json!(vocabulary.piece(id)));
    }
    if let Some(template) = &vocabulary.chat_template {
        config.insert("chat_template".to_string(), json!(template));
    }
    config.insert("clean_up_tokenization_spaces".to_string(), json!(false));
    if let Some(context) = context {
        config.insert("model_max_length".to_string(), json!(context));
    }
    config.insert("tokenizer_class".to_string(), json!("PreTrainedTokenizerFast"));
    Ok(Json::Object(config))
}

fn added_tokens(vocabulary: &Vocabulary) -> Json {
    let decoder = vocabulary.tokenizer.get_added_tokens_decoder();
    let mut tokens: Vec<_> = decoder.into_iter().collect();
    tokens.sort_by_key(|(id, _)| *id);
    let entries = tokens.into_iter().map(|(id, token)| {
        let entry = json!({
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        });
        (id.to_string(), entry)
    });
    Json::Object(entries.collect())
}
