//! A checkpoint's tokenizer files → `tokenizer.*` metadata, as llama.cpp's converter writes it.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde_json::{Map, Value as Json};

use super::error::TokenizerError;
use super::pre_tokenizers::PreTokenizerRule;
use super::sentencepiece_model;
use super::tokenizer_json::{self, TokenizerJson, VocabularyJson};
use super::vocabulary::{TokenType, byte_token};
use crate::checkpoint::optional_files::{read_object, read_optional};
use crate::gguf::{Array, Metadata, Value};

/// Every token's text and type, and its score where the vocabulary is SentencePiece's.
struct Tokens {
    texts: Vec<String>,
    types: Vec<TokenType>,
    scores: Option<Vec<f32>>,
}

/// A token that SentencePiece's model does not know of.
const ADDED_SCORE: f32 = -1000.0;
/// A row of the embedding table that no token uses.
const UNUSED_SCORE: f32 = -10_000.0;

/// Appends the tokenizer of the checkpoint in `directory`, whose embedding table has `vocab_size`
/// rows.
///
/// # Errors
/// No tokenizer, one of a kind that GGUF or quantkit does not know, or more tokens than rows.
pub fn append(
    metadata: &mut Metadata,
    directory: &Path,
    vocab_size: usize,
) -> Result<(), TokenizerError> {
    let files = TokenizerFiles::read(directory)?;
    if let Some(add_prefix_space) = files.config_field("add_prefix_space").and_then(Json::as_bool) {
        metadata.set("tokenizer.ggml.add_space_prefix", Value::Bool(add_prefix_space));
    }
    let mut merges = Vec::new();
    let tokens = match (&files.model, &files.json) {
        (Some(model), _) => {
            let path = directory.join("tokenizer.model");
            let pieces = sentencepiece_model::pieces(model)
                .map_err(|problem| TokenizerError::unusable(&path, problem))?;
            Tokens::from_model(pieces, &files, vocab_size)
        }
        (None, Some(json)) if json.model.kind.as_deref() == Some("BPE") => {
            let path = directory.join("tokenizer.json");
            let problem = |problem| TokenizerError::unusable(&path, problem);
            if json.model.byte_fallback {
                Tokens::from_sentence_piece_json(json, &files, vocab_size)
            } else {
                let rule = PreTokenizerRule::recognised(json).map_err(problem)?;
                metadata.set("tokenizer.ggml.model", Value::String("gpt2".into()));
                metadata.set("tokenizer.ggml.pre", Value::String(rule.name().into()));
                merges = json.model.merges.iter().map(|merge| merge.joined()).collect();
                Tokens::from_byte_level_json(json, &files, vocab_size)
            }
            .map_err(problem)?
        }
        (None, Some(json)) => {
            return Err(TokenizerError::unusable(
                &directory.join("tokenizer.json"),
                format!(
                    "the tokenizer is of kind {}; only BPE can be converted",
                    json.model.kind.as_deref().unwrap_or("unknown")
                ),
            ));
        }
        (None, None) => {
            return Err(TokenizerError::unusable(
                directory,
                "there is no tokenizer: neither tokenizer.json nor tokenizer.model",
            ));
        }
    };
    if tokens.scores.is_some() {
        metadata.set("tokenizer.ggml.model", Value::String("llama".into()));
        metadata.set("tokenizer.ggml.pre", Value::String("default".into()));
    }
    metadata.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens.texts)));
    if let Some(scores) = tokens.scores {
        metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    }
    let types = tokens.types.iter().map(|&kind| kind as i32).collect();
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    if !merges.is_empty() {
        metadata.set("tokenizer.ggml.merges", Value::Array(Array::String(merges)));
    }
    append_special_tokens(metadata, &files, vocab_size);
    append_chat_template(metadata, &files)?;
    // Granite's small models and SmolLM share this size, and none of them expects `bos`.
    if vocab_size == 49_152 {
        metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
    }
    Ok(())
}

/// The files that describe a tokenizer.
struct TokenizerFiles<'a> {
    directory: &'a Path,
    model: Option<Vec<u8>>,
    json: Option<TokenizerJson>,
    config: Option<Map<String, Json>>,
    model_config: Map<String, Json>,
    added_tokens: Map<String, Json>,
}

impl<'a> TokenizerFiles<'a> {
    fn read(directory: &'a Path) -> Result<Self, TokenizerError> {
        let object = |name: &str| read_object(&directory.join(name));
        Ok(Self {
            directory,
            model: read_optional(&directory.join("tokenizer.model"))?,
            json: tokenizer_json::read(directory)?,
            config: object("tokenizer_config.json")?,
            model_config: object("config.json")?.unwrap_or_default(),
            added_tokens: object("added_tokens.json")?.unwrap_or_default(),
        })
    }

    /// A field of tokenizer_config.json.
    fn config_field(&self, key: &str) -> Option<&Json> {
        self.config.as_ref()?.get(key)
    }

    /// The text of `bos_token` and its like in tokenizer_config.json.
    fn special_text(&self, name: &str) -> Option<&str> {
        let entry = self.config_field(&format!("{name}_token"))?;
        entry.as_str().or_else(|| entry.get("content")?.as_str())
    }

    /// Texts that tokenizer_config.json gives a role.
    fn special_texts(&self) -> HashSet<&str> {
        ROLES.iter().filter_map(|(role, _)| self.special_text(role)).collect()
    }
}

impl Tokens {
    /// As many unused tokens as the embedding table has rows.
    fn unused(vocab_size: usize, with_scores: bool) -> Self {
        Self {
            texts: (0..vocab_size).map(|id| format!("[PAD{id}]")).collect(),
            types: vec![TokenType::Unused; vocab_size],
            scores: with_scores.then(|| vec![UNUSED_SCORE; vocab_size]),
        }
    }

    fn set(&mut self, id: usize, text: &str, kind: TokenType, score: f32) {
        self.texts[id] = text.to_string();
        self.types[id] = kind;
        if let Some(scores) = &mut self.scores {
            scores[id] = score;
        }
    }

    /// A token that was added to a trained vocabulary.
    fn set_added(&mut self, id: usize, text: &str, special: bool) {
        if special || looks_special(text) {
            self.set(id, text, TokenType::Control, ADDED_SCORE);
        } else {
            self.set(id, &text.replace('▁', " "), TokenType::UserDefined, ADDED_SCORE);
        }
    }

    fn from_model(
        pieces: Vec<sentencepiece_model::Piece>,
        files: &TokenizerFiles<'_>,
        vocab_size: usize,
    ) -> Self {
        let mut tokens = Self::unused(vocab_size, true);
        for (id, piece) in pieces.iter().enumerate().take(vocab_size) {
            // llama.cpp's converter knows user-defined tokens only from the files below.
            let kind = match piece.kind {
                TokenType::UserDefined => TokenType::Normal,
                kind => kind,
            };
            tokens.set(id, &piece.text, kind, piece.score);
        }
        let inside = |id: &u64| *id < vocab_size as u64;
        for (text, id) in &files.added_tokens {
            if let Some(id) = id.as_u64().filter(inside) {
                tokens.set(id as usize, text, TokenType::UserDefined, ADDED_SCORE);
            }
        }
        let decoder = files.config_field("added_tokens_decoder").and_then(Json::as_object);
        for (id, token) in decoder.into_iter().flatten() {
            let id = id.parse().ok().filter(inside);
            if let (Some(id), Some(text)) = (id, token.get("content").and_then(Json::as_str)) {
                let special = token.get("special").and_then(Json::as_bool).unwrap_or(false);
                tokens.set_added(id as usize, text, special);
            }
        }
        tokens
    }

    fn from_byte_level_json(
        json: &TokenizerJson,
        files: &TokenizerFiles<'_>,
        vocab_size: usize,
    ) -> Result<Self, String> {
        let mut tokens = Self::unused(vocab_size, false);
        for (text, id) in trained_vocabulary(json)? {
            tokens.set(inside(*id, text, vocab_size)?, text, TokenType::Normal, 0.0);
        }
        let special = files.special_texts();
        for token in &json.added_tokens {
            let id = inside(token.id, &token.content, vocab_size)?;
            let is_special = token.special || special.contains(&*token.content);
            tokens.set_added(id, &token.content, is_special);
        }
        Ok(tokens)
    }

    /// SentencePiece's vocabulary as tokenizer.json has it, with merges instead of scores. The
    /// score of a token is minus the rank of the merge that makes it, so that the highest score
    /// merges first again.
    fn from_sentence_piece_json(
        json: &TokenizerJson,
        files: &TokenizerFiles<'_>,
        vocab_size: usize,
    ) -> Result<Self, String> {
        let mut ranks: HashMap<String, usize> = HashMap::new();
        for (rank, merge) in json.model.merges.iter().enumerate() {
            ranks.entry(merge.result()).or_insert(rank);
        }
        let last = json.model.merges.len();
        let mut tokens = Self::unused(vocab_size, true);
        for (text, id) in trained_vocabulary(json)? {
            let (kind, score) = match byte_token(text) {
                Some(_) => (TokenType::Byte, 0.0),
                None => (TokenType::Normal, -(*ranks.get(text).unwrap_or(&last) as f32)),
            };
            tokens.set(inside(*id, text, vocab_size)?, text, kind, score);
        }
        let special = files.special_texts();
        for token in &json.added_tokens {
            let id = inside(token.id, &token.content, vocab_size)?;
            let is_special = token.special || special.contains(&*token.content);
            tokens.set_added(id, &token.content, is_special);
        }
        Ok(tokens)
    }
}

fn trained_vocabulary(json: &TokenizerJson) -> Result<&HashMap<String, u32>, String> {
    match &json.model.vocab {
        VocabularyJson::Map(vocabulary) if !vocabulary.is_empty() => Ok(vocabulary),
        _ => Err("the tokenizer's vocabulary is empty or no map of tokens".to_string()),
    }
}

fn inside(id: u32, text: &str, vocab_size: usize) -> Result<usize, String> {
    let id = id as usize;
    if id < vocab_size {
        return Ok(id);
    }
    Err(format!("token \"{text}\" has id {id}, but vocab_size in config.json is {vocab_size}"))
}

/// Some models mark tokens that only steer them as ordinary added ones.
fn looks_special(text: &str) -> bool {
    let enclosed = |start, end| text.starts_with(start) && text.ends_with(end);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || enclosed("<|", "|>")
        || enclosed("<｜", "｜>")
        || enclosed("<unused", ">")
}

/// Roles in tokenizer_config.json and their names in GGUF, in the order of llama.cpp's converter.
/// `cls` has none.
const ROLES: [(&str, Option<&str>); 7] = [
    ("bos", Some("bos")),
    ("eos", Some("eos")),
    ("unk", Some("unknown")),
    ("sep", Some("seperator")),
    ("pad", Some("padding")),
    ("cls", None),
    ("mask", Some("mask")),
];

/// Ids from tokenizer_config.json first, then those that only config.json has; then which of them
/// are added to a text.
fn append_special_tokens(metadata: &mut Metadata, files: &TokenizerFiles<'_>, vocab_size: usize) {
    let inside = |id: &u64| *id < vocab_size as u64;
    let from_tokenizer = |role: &str| {
        let text = files.special_text(role)?;
        let added = &files.json.as_ref()?.added_tokens;
        Some(u64::from(added.iter().find(|token| token.content == text)?.id))
    };
    let from_config =
        |role: &str| files.model_config.get(&format!("{role}_token_id")).and_then(Json::as_u64);
    for source in [&from_tokenizer as &dyn Fn(&str) -> Option<u64>, &from_config] {
        for (role, name) in ROLES {
            if let (Some(name), Some(id)) = (name, source(role).filter(inside)) {
                let key = format!("tokenizer.ggml.{name}_token_id");
                if metadata.get(&key).is_none() {
                    metadata.set(key, Value::U32(id as u32));
                }
            }
        }
    }
    for (role, add) in added_to_a_text(files) {
        metadata.set(format!("tokenizer.ggml.add_{role}_token"), Value::Bool(add));
    }
}

/// Whether `bos`, `eos` and `sep` are added: as tokenizer.json's post-processor does it, or else as
/// tokenizer_config.json says.
fn added_to_a_text(files: &TokenizerFiles<'_>) -> Vec<(&'static str, bool)> {
    let mut added: Vec<(&'static str, bool)> = Vec::new();
    let Some(config) = &files.config else { return added };
    if let Some(json) = &files.json {
        let processors = match json.post_processor.get("processors").and_then(Json::as_array) {
            Some(several) => several.iter().collect(),
            None => vec![&json.post_processor],
        };
        for processor in processors {
            match processor.get("type").and_then(Json::as_str) {
                Some("ByteLevel") => {
                    set_if_absent(&mut added, "bos", false);
                    set_if_absent(&mut added, "eos", false);
                }
                Some("TemplateProcessing") => template_additions(processor, files, &mut added),
                _ => {}
            }
        }
    }
    for role in ["bos", "eos", "sep"] {
        if let Some(add) = config.get(&format!("add_{role}_token")).and_then(Json::as_bool) {
            set_if_absent(&mut added, role, add);
        }
    }
    added
}

fn set_if_absent(added: &mut Vec<(&'static str, bool)>, role: &'static str, add: bool) {
    if !added.iter().any(|(known, _)| *known == role) {
        added.push((role, add));
    }
}

fn set(added: &mut Vec<(&'static str, bool)>, role: &'static str, add: bool) {
    match added.iter_mut().find(|(known, _)| *known == role) {
        Some((_, old)) => *old = add,
        None => added.push((role, add)),
    }
}

/// Reads `<s> $A </s>` and `<s> $A </s> $B </s>` templates.
fn template_additions(
    processor: &Json,
    files: &TokenizerFiles<'_>,
    added: &mut Vec<(&'static str, bool)>,
) {
    fn special(part: &Json) -> Option<&str> {
        part.get("SpecialToken")?.get("id")?.as_str()
    }
    let parts = |key: &str| processor.get(key).and_then(Json::as_array).map_or(&[][..], |v| v);
    let (single, mut pair) = (parts("single"), parts("pair"));
    let (mut first, mut last) = (None, None);
    if single.len() > 1 {
        first = special(&single[0]);
        last = special(&single[single.len() - 1]);
    }
    if let Some(first) = first {
        let expected = [files.special_text("bos"), files.special_text("cls")];
        set(added, "bos", expected.contains(&Some(first)));
    }
    if let Some(last) = last {
        set(added, "eos", files.special_text("eos") == Some(last));
    }
    if first.is_some() && pair.first().and_then(special) == first {
        pair = &pair[1..];
    }
    if last.is_some() && pair.last().and_then(special) == last {
        pair = &pair[..pair.len() - 1];
    }
    let [one, middle @ .., other] = pair else { return };
    let is_sequence = |part: &Json, id: &str| {
        part.get("Sequence").and_then(|s| s.get("id")?.as_str()) == Some(id)
    };
    if !middle.is_empty() && is_sequence(one, "A") && is_sequence(other, "B") {
        let separators = [files.special_text("sep"), files.special_text("eos")];
        let separates =
            |part: &Json| special(part).is_some() && separators.contains(&special(part));
        let add = (separates(&middle[0]) && last.is_none())
            || (middle.len() == 2 && separates(&middle[1]));
        set(added, "sep", add);
    }
}

/// The chat template of tokenizer_config.json, or else of a file of its own.
fn append_chat_template(
    metadata: &mut Metadata,
    files: &TokenizerFiles<'_>,
) -> Result<(), TokenizerError> {
    if files.config.is_none() {
        return Ok(());
    }
    let template = match files.config_field("chat_template") {
        Some(template) => Some(template.clone()),
        None => separate_template(files.directory)?,
    };
    match template {
        Some(Json::String(template)) => {
            metadata.set("tokenizer.chat_template", Value::String(template));
        }
        Some(Json::Array(named)) => append_named_templates(metadata, &named),
        _ => {}
    }
    Ok(())
}

fn separate_template(directory: &Path) -> Result<Option<Json>, TokenizerError> {
    let path = directory.join("chat_template.jinja");
    if let Some(bytes) = read_optional(&path)? {
        let text = String::from_utf8(bytes)
            .map_err(|_| TokenizerError::unusable(&path, "the chat template is not valid UTF-8"))?;
        return Ok(Some(Json::String(text)));
    }
    let object = read_object(&directory.join("chat_template.json"))?;
    Ok(object.and_then(|mut object| object.remove("chat_template")))
}

/// Several templates: the one called `default` is the template, the others keep their names.
fn append_named_templates(metadata: &mut Metadata, named: &[Json]) {
    let mut names = Vec::new();
    let mut default = None;
    for entry in named {
        let text = |key: &str| entry.get(key).and_then(Json::as_str);
        let (Some(name), Some(template)) = (text("name"), text("template")) else { continue };
        if name == "default" {
            default = Some(template);
            continue;
        }
        let name: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let key = format!("tokenizer.chat_template.{name}");
        metadata.set(key, Value::String(template.to_string()));
        names.push(name);
    }
    if !names.is_empty() {
        metadata.set("tokenizer.chat_templates", Value::Array(Array::String(names)));
    }
    if let Some(template) = default {
        metadata.set("tokenizer.chat_template", Value::String(template.to_string()));
    }
}
