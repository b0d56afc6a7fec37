//! A checkpoint's tokenizer files → `tokenizer.*` metadata, as llama.cpp's converter writes it.
//! What the metadata cannot say is an error, or a warning that names it.

use std::path::Path;

use serde_json::Value as Json;

use super::checkpoint_tokens::Tokens;
use super::error::TokenizerError;
use super::files::TokenizerFiles;
use super::pre_tokenizers::PreTokenizerRule;
use super::spelling::{self, Prefix};
use super::tokenizer_json::TokenizerJson;
use super::{chat_templates, special_tokens};
use crate::gguf::{Array, Metadata, Value};

/// Appends the tokenizer of the checkpoint in `directory`, whose embedding table has `vocab_size`
/// rows. `general.architecture` and `general.name` must be there already.
///
/// # Errors
/// No tokenizer, one of a kind that GGUF or quantkit does not know, or more tokens than rows.
pub fn append(
    metadata: &mut Metadata,
    directory: &Path,
    vocab_size: usize,
) -> Result<(), TokenizerError> {
    let architecture = metadata.string("general.architecture").unwrap_or_default().to_string();
    let name = metadata.string("general.name").unwrap_or_default().to_string();
    let files = TokenizerFiles::read(directory, &architecture)?;
    let told_prefix = files.config_field("add_prefix_space").and_then(Json::as_bool);
    if let Some(add) = told_prefix.filter(|_| LLAMA_KIN.contains(&&*architecture)) {
        metadata.set(SPACE_PREFIX, Value::Bool(add));
    }
    let prefix = append_vocabulary(metadata, &files, vocab_size)?;
    special_tokens::append(metadata, &files, vocab_size);
    chat_templates::append(metadata, &files)?;
    append_family_keys(metadata, &architecture, vocab_size);
    append_prefix(metadata, &architecture, prefix);
    if let Some(json) = &files.json {
        let path = directory.join("tokenizer.json");
        for warning in spelling::warnings(json, prefix, &name) {
            tracing::warn!("{}: {warning}", path.display());
        }
    }
    Ok(())
}

const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";

/// Architectures for which the converter writes what tokenizer_config.json says of the prefix.
const LLAMA_KIN: [&str; 4] = ["llama", "granite", "smollm3", "mistral3"];

/// Appends the kind of vocabulary, its tokens and merges. Gives what stands before a text where
/// that is SentencePiece's affair.
fn append_vocabulary(
    metadata: &mut Metadata,
    files: &TokenizerFiles<'_>,
    vocab_size: usize,
) -> Result<Option<Prefix>, TokenizerError> {
    let path = files.directory.join("tokenizer.json");
    let problem = |problem| TokenizerError::unusable(&path, problem);
    if let Some(json) = &files.json {
        spelling::check_model(&json.model).map_err(problem)?;
    }
    match (&files.model, &files.json) {
        (Some(model), json) => {
            let prefix = match json {
                Some(json) if json.model.byte_fallback => {
                    spelling::prefix(json).map_err(problem)?
                }
                _ => model_prefix(files),
            };
            for warning in model.warnings() {
                let path = files.directory.join("tokenizer.model");
                tracing::warn!("{}: {warning}", path.display());
            }
            let tokens = Tokens::of_model(&model.pieces, files, vocab_size);
            append_tokens(metadata, "llama", Some("default"), tokens);
            Ok(Some(prefix))
        }
        (None, Some(json)) if json.model.kind.as_deref() == Some("BPE") => {
            append_json(metadata, json, files, vocab_size).map_err(problem)
        }
        (None, Some(json)) => Err(problem(format!(
            "the tokenizer is of kind {}; only BPE can be converted",
            json.model.kind.as_deref().unwrap_or("unknown")
        ))),
        (None, None) if files.directory.join("tekken.json").exists() => {
            Err(TokenizerError::unusable(
                files.directory,
                "the tokenizer is tekken.json alone; put the tokenizer.json of the same model \
                 beside it",
            ))
        }
        (None, None) => Err(TokenizerError::unusable(
            files.directory,
            "there is no tokenizer: neither tokenizer.json nor tokenizer.model",
        )),
    }
}

fn append_json(
    metadata: &mut Metadata,
    json: &TokenizerJson,
    files: &TokenizerFiles<'_>,
    vocab_size: usize,
) -> Result<Option<Prefix>, String> {
    let merges = || json.model.merges.iter().map(|merge| merge.joined()).collect();
    if !json.model.byte_fallback {
        let rule = PreTokenizerRule::recognised(json, files.architecture)?;
        if let Some(warning) = rule.warning {
            let path = files.directory.join("tokenizer.json");
            tracing::warn!("{}: {warning}", path.display());
        }
        let tokens = Tokens::of_byte_level(json, files, vocab_size)?;
        append_tokens(metadata, "gpt2", Some(rule.name), tokens);
        append_merges(metadata, merges());
        return Ok(None);
    }
    let prefix = spelling::prefix(json)?;
    if files.architecture == "gemma4" {
        if prefix != Prefix::Never {
            return Err(
                "it puts a space before texts, which Gemma 4's kind of vocabulary in GGUF \
                        does not do"
                    .to_string(),
            );
        }
        append_tokens(metadata, "gemma4", None, Tokens::of_gemma4(json, files, vocab_size)?);
        append_merges(metadata, merges());
    } else {
        let tokens = Tokens::of_sentencepiece_json(json, files, vocab_size)?;
        if let Some(warning) = spelling::merges_warning(json, &tokens) {
            let path = files.directory.join("tokenizer.json");
            tracing::warn!("{}: {warning}", path.display());
        }
        append_tokens(metadata, "llama", Some("default"), tokens);
    }
    Ok(Some(prefix))
}

/// What stands before a text where only tokenizer.model says it. transformers believes
/// tokenizer_config.json first.
fn model_prefix(files: &TokenizerFiles<'_>) -> Prefix {
    let told = files.config_field("add_prefix_space").and_then(Json::as_bool);
    let of_model = files.model.as_ref().is_none_or(|model| model.add_dummy_prefix);
    if told.unwrap_or(of_model) { Prefix::Always } else { Prefix::Never }
}

fn append_tokens(metadata: &mut Metadata, model: &str, pre: Option<&str>, tokens: Tokens) {
    metadata.set("tokenizer.ggml.model", Value::String(model.into()));
    if let Some(pre) = pre {
        metadata.set("tokenizer.ggml.pre", Value::String(pre.into()));
    }
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens.texts)));
    if let Some(scores) = tokens.scores {
        metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    }
    let types = tokens.types.iter().map(|&kind| kind as i32).collect();
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
}

fn append_merges(metadata: &mut Metadata, merges: Vec<String>) {
    if !merges.is_empty() {
        metadata.set("tokenizer.ggml.merges", Value::Array(Array::String(merges)));
    }
}

/// What the converter writes for the models of a family, whatever their files say.
fn append_family_keys(metadata: &mut Metadata, architecture: &str, vocab_size: usize) {
    let mut end_of_turn = |id: u32| {
        if (id as usize) < vocab_size {
            metadata.set("tokenizer.ggml.eot_token_id", Value::U32(id));
        }
    };
    match architecture {
        "gemma" => end_of_turn(107),
        // Code Llama, known by its size.
        "llama" if vocab_size == 32_016 => end_of_turn(32_010),
        _ => {}
    }
    // Granite's small models and SmolLM share this size, and none of them expects `bos`.
    if LLAMA_KIN.contains(&architecture) && vocab_size == 49_152 {
        metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
    }
}

/// Says whether a space stands before texts, where that is not what a reader takes for granted.
fn append_prefix(metadata: &mut Metadata, architecture: &str, prefix: Option<Prefix>) {
    let Some(prefix) = prefix else { return };
    let add = prefix != Prefix::Never && !architecture.starts_with("gemma");
    let taken_for_granted = metadata.bool(SPACE_PREFIX).unwrap_or(true);
    if add != taken_for_granted {
        metadata.set(SPACE_PREFIX, Value::Bool(add));
    }
    if architecture == "gemma4" {
        metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
    }
}
