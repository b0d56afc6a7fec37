//! What a tokenizer.json says that GGUF has no key for: an error where ordinary texts would get
//! other tokens, a warning where few do.

use std::collections::HashSet;

use serde_json::Value as Json;

use super::checkpoint_tokens::Tokens;
use super::keys::TokenType;
use super::merges::merges_from_scores;
use super::sentencepiece::SPACE;
use super::tokenizer_json::{AddedTokenJson, ModelJson, TokenizerJson};
use super::vocabulary::strips_after;

/// Where SentencePiece's vocabularies put a space that the text does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefix {
    /// Nowhere.
    Never,
    /// Before a text, and behind every special token.
    Always,
    /// The same, but not before a text that begins with a space (Metaspace).
    AlwaysUnlessThere,
    /// Only before the whole text, and not before one that begins with a space (Metaspace).
    First,
}

/// Refuses options of the model that change how texts are cut.
pub(super) fn check_model(model: &ModelJson) -> Result<(), String> {
    for (name, option) in [
        ("continuing_subword_prefix", &model.continuing_subword_prefix),
        ("end_of_word_suffix", &model.end_of_word_suffix),
    ] {
        if let Some(text) = option.as_ref().filter(|text| !text.is_empty()) {
            return Err(format!("its {name} \"{text}\" has no counterpart in GGUF"));
        }
    }
    Ok(())
}

/// What a SentencePiece-like tokenizer.json puts before texts.
///
/// # Errors
/// A normalizer or pre-tokenizer that does anything but writing spaces as `▁`.
pub(super) fn prefix(json: &TokenizerJson) -> Result<Prefix, String> {
    let mut escapes = false;
    let mut prefix = Prefix::Never;
    for normalizer in members(&json.normalizer, "normalizers") {
        let text = |key: &str| normalizer.get(key).and_then(Json::as_str);
        match text("type") {
            Some("Replace") if is_space(normalizer) && text("content") == Some("▁") => {
                escapes = true;
            }
            Some("Prepend") if text("prepend") == Some("▁") => prefix = Prefix::Always,
            _ => {
                return Err(format!(
                    "its normalizer {normalizer} has no counterpart in GGUF, which only writes \
                     spaces as {SPACE} and puts one before a text"
                ));
            }
        }
    }
    for step in members(&json.pre_tokenizer, "pretokenizers") {
        let text = |key: &str| step.get(key).and_then(Json::as_str);
        let splits = step.get("split").and_then(Json::as_bool).unwrap_or(true);
        match text("type") {
            // No space is left to cut at.
            Some("Split") if escapes && is_space(step) => {}
            Some("Metaspace") if text("replacement") == Some("▁") && !splits => {
                escapes = true;
                prefix = metaspace_prefix(step, prefix);
            }
            _ => {
                return Err(format!(
                    "its pre-tokenizer {step} has no counterpart in GGUF, whose vocabularies of \
                     this kind do not cut texts before they merge"
                ));
            }
        }
    }
    if !escapes {
        return Err(format!("it does not write spaces as {SPACE}, as GGUF's vocabularies do"));
    }
    Ok(prefix)
}

fn metaspace_prefix(step: &Json, so_far: Prefix) -> Prefix {
    let old = step.get("add_prefix_space").and_then(Json::as_bool).unwrap_or(true);
    match step.get("prepend_scheme").and_then(Json::as_str) {
        _ if so_far == Prefix::Always => so_far,
        Some("never") => Prefix::Never,
        Some("first") => Prefix::First,
        None if !old => Prefix::Never,
        _ => Prefix::AlwaysUnlessThere,
    }
}

/// Whether a step looks for a plain space.
fn is_space(step: &Json) -> bool {
    step.get("pattern").and_then(|pattern| pattern.get("String")?.as_str()) == Some(" ")
}

/// The steps of a sequence, or the one step; none for null.
fn members<'a>(value: &'a Json, key: &str) -> Vec<&'a Json> {
    match value.get(key).and_then(Json::as_array) {
        Some(members) => members.iter().collect(),
        None if value.is_null() => Vec::new(),
        None => vec![value],
    }
}

/// Whether an option of an added token is lost, by the model's name and whether a space is put
/// before texts.
type IsLost = fn(&AddedTokenJson, &str, bool) -> bool;

const ADDED_TOKEN_OPTIONS: [(&str, IsLost); 4] = [
    ("lstrip (white space before them belongs to them)", |token, _, _| token.lstrip),
    ("rstrip (white space behind them belongs to them)", |token, name, _| {
        token.rstrip != strips_after(name, &token.content)
    }),
    ("single_word (they are found only as whole words)", |token, _, _| token.single_word),
    ("normalized (they are found after a space was put before the text)", |token, _, prefixed| {
        token.normalized && prefixed
    }),
];

/// What the metadata does not keep of a tokenizer.json that it otherwise can say. `name` is the
/// model's.
pub(super) fn warnings(json: &TokenizerJson, prefix: Option<Prefix>, name: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(dropout) = json.model.dropout.filter(|&dropout| dropout > 0.0) {
        warnings.push(format!("its dropout of {dropout}, which cuts texts by chance, is left out"));
    }
    // Byte-level rules say it by their name; those of SentencePiece's kind have no word for it.
    if json.model.ignore_merges && json.model.byte_fallback {
        warnings.push(
            "its ignore_merges, by which a text that is a token is taken whole, is lost in GGUF. \
             Texts that no merges make up get other tokens"
                .to_string(),
        );
    }
    match prefix {
        Some(Prefix::First) => warnings.push(
            "it puts a space before a whole text only, and not before one that begins with a \
             space. GGUF puts one before every text, also between special tokens"
                .to_string(),
        ),
        Some(Prefix::AlwaysUnlessThere) => warnings.push(
            "it puts no space before a text that begins with one. GGUF puts one before every text"
                .to_string(),
        ),
        _ => {}
    }
    let prefixed = !matches!(prefix, None | Some(Prefix::Never));
    for (option, applies) in ADDED_TOKEN_OPTIONS {
        let tokens: Vec<_> =
            json.added_tokens.iter().filter(|token| applies(token, name, prefixed)).collect();
        if let Some(first) = tokens.first() {
            warnings.push(format!(
                "GGUF does not keep {option} of added tokens; {} have it set otherwise than GGUF \
                 has it, \"{}\" for one. Texts with them get other tokens",
                tokens.len(),
                first.content
            ));
        }
    }
    warnings
}

/// GGUF keeps scores instead of merges: every pair of tokens that spells a third merges. Says so
/// where the merges of tokenizer.json are others.
pub(super) fn merges_warning(json: &TokenizerJson, tokens: &Tokens) -> Option<String> {
    let scores = tokens.scores.as_deref()?;
    let usable = |id: usize| tokens.types[id] == TokenType::Normal;
    let rebuilt = merges_from_scores(&tokens.texts, scores, usable);
    let listed: HashSet<(&str, &str)> =
        json.model.merges.iter().map(|merge| merge.halves()).collect();
    let new: Vec<_> = rebuilt
        .iter()
        .filter(|(left, right)| !listed.contains(&(left.as_str(), right.as_str())))
        .collect();
    let (left, right) = new.first()?;
    Some(format!(
        "GGUF keeps scores instead of its merges, and from those follow {} merges that it does not \
         list, \"{left}\" with \"{right}\" for one. Some texts get other tokens",
        new.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer(added: &str, dropout: &str) -> TokenizerJson {
        let text = format!(
            r#"{{"added_tokens": [{added}], "model": {{"type": "BPE", "dropout": {dropout}}}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn what_is_lost_of_added_tokens_is_told() {
        let json = tokenizer(r#"{"id": 0, "content": "<a>", "special": true}"#, "null");
        assert!(warnings(&json, None, "a model").is_empty());
        for flag in ["lstrip", "rstrip", "single_word"] {
            let added = format!(r#"{{"id": 0, "content": "<a>", "{flag}": true}}"#);
            let [warning] = &warnings(&tokenizer(&added, "null"), None, "a model")[..] else {
                panic!("no warning of {flag}")
            };
            assert!(warning.contains(flag) && warning.contains("\"<a>\""), "{warning}");
        }
        let normalized = tokenizer(r#"{"id": 0, "content": "<a>", "normalized": true}"#, "null");
        assert!(warnings(&normalized, Some(Prefix::Never), "").is_empty());
        assert!(warnings(&normalized, Some(Prefix::Always), "")[0].contains("normalized"));
    }

    #[test]
    fn a_model_by_the_name_of_phi_3_keeps_its_rstrip() {
        let json = tokenizer(r#"{"id": 0, "content": "<|end|>", "rstrip": true}"#, "null");
        assert!(warnings(&json, None, "Phi-3-mini").is_empty());
        assert_eq!(warnings(&json, None, "other").len(), 1);
        let json = tokenizer(r#"{"id": 0, "content": "<|end|>", "rstrip": false}"#, "null");
        assert_eq!(warnings(&json, None, "Phi-3-mini").len(), 1);
    }

    #[test]
    fn merges_that_are_passed_over_are_told() {
        let of = |byte_fallback: bool, ignore_merges: bool| {
            let model = serde_json::json!({
                "type": "BPE", "byte_fallback": byte_fallback, "ignore_merges": ignore_merges,
            });
            let json = serde_json::json!({ "model": model });
            warnings(&serde_json::from_value(json).unwrap(), Some(Prefix::Never), "")
        };
        assert!(of(true, true)[0].contains("ignore_merges"));
        // Of a byte-level vocabulary, the rule's name says it.
        assert!(of(false, true).is_empty() && of(true, false).is_empty());
    }

    #[test]
    fn dropout_and_prefixes_are_told() {
        assert!(warnings(&tokenizer("", "0.1"), None, "")[0].contains("dropout of 0.1"));
        assert!(warnings(&tokenizer("", "0.0"), None, "").is_empty());
        assert!(
            warnings(&tokenizer("", "null"), Some(Prefix::First), "")[0].contains("whole text")
        );
        let unless_there = Some(Prefix::AlwaysUnlessThere);
        assert!(warnings(&tokenizer("", "null"), unless_there, "")[0].contains("begins with one"));
    }
}
