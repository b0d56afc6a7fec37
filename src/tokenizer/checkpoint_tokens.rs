//! The tokens of a checkpoint: every text with its type, and its score where GGUF wants one.

use std::collections::HashMap;

use super::files::TokenizerFiles;
use super::keys::TokenType;
use super::sentencepiece::byte_token;
use super::sentencepiece_model::Piece;
use super::tokenizer_json::TokenizerJson;

/// All tokens, one for each row of the embedding table.
pub(super) struct Tokens {
    pub texts: Vec<String>,
    pub types: Vec<TokenType>,
    pub scores: Option<Vec<f32>>,
}

/// A token that SentencePiece's model does not know of.
const ADDED_SCORE: f32 = -1000.0;
/// A row of the embedding table that no token uses.
const UNUSED_SCORE: f32 = -10_000.0;

/// Gemma 4's special tokens that its texts show.
const VISIBLE: [&str; 7] = [
    "<|channel>",
    "<channel|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|tool_response>",
    "<tool_response|>",
    "<|\"|>",
];

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

    /// The tokens of tokenizer.model and of the files that add to it.
    pub(super) fn of_model(
        pieces: &[Piece],
        files: &TokenizerFiles<'_>,
        vocab_size: usize,
    ) -> Self {
        let mut tokens = Self::unused(vocab_size, true);
        for (id, piece) in pieces.iter().enumerate().take(vocab_size) {
            // SentencePiece finds its user-defined pieces in the text as it came, spaces and all.
            let text = match piece.kind {
                TokenType::UserDefined => &piece.text.replace('▁', " "),
                _ => &piece.text,
            };
            tokens.set(id, text, piece.kind, piece.score);
        }
        let inside = |id: u64| (id < vocab_size as u64).then_some(id as usize);
        for (text, id) in &files.added_tokens {
            if let Some(id) = id.as_u64().and_then(inside) {
                tokens.set(id, text, TokenType::UserDefined, ADDED_SCORE);
            }
        }
        let is_phi = files.architecture == "phi3";
        for (id, text, special) in files.added_tokens_decoder() {
            match inside(id) {
                Some(id) if is_phi => tokens.set(id, text, added_type(special), ADDED_SCORE),
                Some(id) => tokens.set_added(id, text, special),
                None => {}
            }
        }
        if let Some(json) = files.json.as_ref().filter(|_| is_phi) {
            for token in &json.added_tokens {
                if let Some(id) = inside(token.id.into()) {
                    tokens.set(id, &token.content, added_type(token.special), ADDED_SCORE);
                }
            }
        }
        tokens
    }

    /// The tokens of a byte-level tokenizer.json.
    pub(super) fn of_byte_level(
        json: &TokenizerJson,
        files: &TokenizerFiles<'_>,
        vocab_size: usize,
    ) -> Result<Self, String> {
        let mut tokens = Self::unused(vocab_size, false);
        for (text, id) in json.model.vocabulary()? {
            tokens.set(inside(*id, text, vocab_size)?, text, TokenType::Normal, 0.0);
        }
        tokens.set_all_added(json, files, vocab_size)?;
        Ok(tokens)
    }

    /// SentencePiece's vocabulary as tokenizer.json has it, with merges instead of scores. The
    /// score of a token is minus the rank of the merge that makes it, so that the highest score
    /// merges first again.
    pub(super) fn of_sentencepiece_json(
        json: &TokenizerJson,
        files: &TokenizerFiles<'_>,
        vocab_size: usize,
    ) -> Result<Self, String> {
        let mut ranks: HashMap<String, usize> = HashMap::new();
        for (rank, merge) in json.model.merges.iter().enumerate() {
            let (left, right) = merge.halves();
            ranks.entry(format!("{left}{right}")).or_insert(rank);
        }
        let last = json.model.merges.len();
        let mut tokens = Self::unused(vocab_size, true);
        for (text, id) in json.model.vocabulary()? {
            let (kind, score) = match byte_token(text) {
                Some(_) => (TokenType::Byte, 0.0),
                None => (TokenType::Normal, -(*ranks.get(text).unwrap_or(&last) as f32)),
            };
            tokens.set(inside(*id, text, vocab_size)?, text, kind, score);
        }
        tokens.set_all_added(json, files, vocab_size)?;
        Ok(tokens)
    }

    /// Gemma 4's vocabulary: merges say how it is used, and all scores are the same.
    pub(super) fn of_gemma4(
        json: &TokenizerJson,
        files: &TokenizerFiles<'_>,
        vocab_size: usize,
    ) -> Result<Self, String> {
        let special = files.special_texts();
        let trained = json.model.vocabulary()?;
        let mut tokens = Self::unused(vocab_size, true);
        for (text, id) in trained {
            let kind = match byte_token(text) {
                Some(_) => TokenType::Byte,
                None if special.contains(&**text) => TokenType::Control,
                None => TokenType::Normal,
            };
            tokens.set(inside(*id, text, vocab_size)?, text, kind, ADDED_SCORE);
        }
        for token in &json.added_tokens {
            let id = inside(token.id, &token.content, vocab_size)?;
            let kind = if token.special || special.contains(&*token.content) {
                TokenType::Control
            } else if trained.contains_key(&token.content) {
                TokenType::Normal
            } else {
                TokenType::UserDefined
            };
            tokens.set(id, &token.content, kind, ADDED_SCORE);
        }
        for (text, kind) in tokens.texts.iter().zip(&mut tokens.types) {
            if VISIBLE.contains(&text.as_str()) {
                *kind = TokenType::UserDefined;
            }
        }
        Ok(tokens)
    }

    fn set_all_added(
        &mut self,
        json: &TokenizerJson,
        files: &TokenizerFiles<'_>,
        vocab_size: usize,
    ) -> Result<(), String> {
        let special = files.special_texts();
        for token in &json.added_tokens {
            let id = inside(token.id, &token.content, vocab_size)?;
            let is_special = token.special || special.contains(&*token.content);
            self.set_added(id, &token.content, is_special);
        }
        Ok(())
    }
}

fn added_type(special: bool) -> TokenType {
    if special { TokenType::Control } else { TokenType::UserDefined }
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
