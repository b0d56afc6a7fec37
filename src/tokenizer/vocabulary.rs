//! The tokenizer of a GGUF file, rebuilt from its metadata.

use std::collections::HashSet;
use std::sync::OnceLock;

use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::byte_level::ByteLevel;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as DecoderSequence;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::prepend::Prepend;
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::utils::Sequence as NormalizerSequence;
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, Tokenizer};

use super::error::TokenizerError;
use super::pre_tokenizers::PreTokenizerRule;
use super::sentencepiece::{self, merges_from_scores};
use crate::gguf::{Array, Metadata, Value};

/// A tokenizer and what the model's metadata says about using it.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    /// The tokenizer; it adds no special tokens by itself and recognises those in the text.
    pub tokenizer: Tokenizer,
    /// Number of tokens.
    pub size: usize,
    /// Beginning-of-sequence token.
    pub bos: Option<u32>,
    /// End-of-sequence token.
    pub eos: Option<u32>,
    /// All tokens that end a turn (eos, eot, …), in ascending order.
    pub end_of_generation: Vec<u32>,
    /// Whether the model expects `bos` at the start of a text (`tokenizer.ggml.add_bos_token`).
    pub add_bos: bool,
    /// The Jinja chat template.
    pub chat_template: Option<String>,
    kind: Kind,
    pieces: Vec<String>,
    types: Vec<TokenType>,
    /// The same tokenizer, but special tokens in the text are text; made when first needed.
    literal: OnceLock<Tokenizer>,
}

/// How pieces stand for bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `tokenizer.ggml.model` = `gpt2`: each byte is one printable character.
    ByteLevel,
    /// `tokenizer.ggml.model` = `llama`: text with `▁` for spaces, and `<0xNN>` tokens for bytes.
    SentencePiece,
}

/// `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

/// Spellings of the tokens with which the known chat formats end a turn. GGUF has no list of them.
const END_OF_TURN: [&str; 16] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|eom_id|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "</s>",
    "<EOT>",
    "[EOT]",
    "[EOS]",
    "<eos>",
    "<｜end▁of▁sentence｜>",
];

impl Vocabulary {
    /// Rebuilds the tokenizer that `tokenizer.ggml.*` describes (byte-level BPE or SentencePiece).
    ///
    /// # Errors
    /// Missing or inconsistent metadata, an unknown kind of vocabulary or pre-tokenizer.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, TokenizerError> {
        let kind = kind(metadata)?;
        let pieces = metadata
            .strings("tokenizer.ggml.tokens")
            .filter(|pieces| !pieces.is_empty())
            .ok_or_else(|| problem("tokenizer.ggml.tokens is missing, empty or no strings"))?
            .to_vec();
        let types = token_types(metadata, pieces.len())?;
        let (mut tokenizer, default_add_bos) = match kind {
            Kind::ByteLevel => byte_level(metadata, &pieces)?,
            Kind::SentencePiece => (sentence_piece(metadata, &pieces, &types)?, true),
        };
        add_tokens(&mut tokenizer, &pieces, &types)?;

        let is_sentence_piece = kind == Kind::SentencePiece;
        let bos = token_id(metadata, "bos", pieces.len())?.or(is_sentence_piece.then_some(1));
        let eos = token_id(metadata, "eos", pieces.len())?.or(is_sentence_piece.then_some(2));
        let inside = |id: &u32| (*id as usize) < pieces.len();
        let (bos, eos) = (bos.filter(inside), eos.filter(inside));
        let add_bos = metadata.bool("tokenizer.ggml.add_bos_token").unwrap_or(default_add_bos);
        if add_bos && bos.is_none() {
            return Err(problem(
                "the model expects a beginning-of-sequence token, but tokenizer.ggml.bos_token_id \
                 is missing",
            ));
        }
        Ok(Self {
            end_of_generation: end_of_generation(metadata, &pieces, eos)?,
            tokenizer,
            size: pieces.len(),
            bos,
            eos,
            add_bos,
            chat_template: metadata.string("tokenizer.chat_template").map(str::to_string),
            kind,
            pieces,
            types,
            literal: OnceLock::new(),
        })
    }

    /// The tokens of a text. With `special`, text that spells a special token becomes that token,
    /// and `bos` is put first where the model expects it and the text does not begin with it.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TokenizerError> {
        let tokenizer = if special { &self.tokenizer } else { self.literal() };
        let encoding = tokenizer.encode_fast(text, false).map_err(|error| {
            TokenizerError::vocabulary(format!("the text cannot be tokenized: {error}"))
        })?;
        let tokens = encoding.get_ids();
        match self.bos {
            Some(bos) if special && self.add_bos && tokens.first() != Some(&bos) => {
                Ok([&[bos], tokens].concat())
            }
            _ => Ok(tokens.to_vec()),
        }
    }

    /// The bytes that one token stands for (they need not be whole UTF-8 characters); nothing for
    /// a token that does not exist. Special tokens give their names.
    pub fn token_bytes(&self, token: u32) -> Vec<u8> {
        let Some(piece) = self.pieces.get(token as usize) else { return Vec::new() };
        match (self.kind, self.types[token as usize]) {
            (_, TokenType::Control | TokenType::UserDefined | TokenType::Unknown) => {
                piece.clone().into_bytes()
            }
            (_, TokenType::Byte) => {
                byte_token(piece).map_or_else(|| piece.clone().into_bytes(), |byte| vec![byte])
            }
            (Kind::ByteLevel, _) => byte_level_bytes(piece),
            (Kind::SentencePiece, _) => piece.replace(sentencepiece::SPACE, " ").into_bytes(),
        }
    }

    /// Whether a token only steers the model (`<|im_start|>`) and is no part of the text.
    pub fn is_control(&self, token: u32) -> bool {
        matches!(self.types.get(token as usize), Some(TokenType::Control | TokenType::Unknown))
    }

    /// A token as the file writes it: in the alphabet of bytes, or with `▁` for spaces.
    pub fn piece(&self, token: u32) -> Option<&str> {
        self.pieces.get(token as usize).map(String::as_str)
    }

    fn literal(&self) -> &Tokenizer {
        self.literal.get_or_init(|| {
            let mut tokenizer = self.tokenizer.clone();
            tokenizer.set_encode_special_tokens(true);
            tokenizer
        })
    }
}

fn problem(text: &str) -> TokenizerError {
    TokenizerError::vocabulary(text)
}

fn kind(metadata: &Metadata) -> Result<Kind, TokenizerError> {
    match metadata.string("tokenizer.ggml.model") {
        Some("gpt2") => Ok(Kind::ByteLevel),
        Some("llama") => Ok(Kind::SentencePiece),
        Some(other) => Err(TokenizerError::vocabulary(format!(
            "tokenizer.ggml.model is \"{other}\"; quantkit knows \"gpt2\" (byte-level BPE) and \
             \"llama\" (SentencePiece)"
        ))),
        None => Err(problem("the file has no tokenizer: tokenizer.ggml.model is missing")),
    }
}

fn token_types(metadata: &Metadata, count: usize) -> Result<Vec<TokenType>, TokenizerError> {
    let Some(value) = metadata.get("tokenizer.ggml.token_type") else {
        return Ok(vec![TokenType::Normal; count]);
    };
    let numbers: Vec<i64> = match value {
        Value::Array(Array::I32(numbers)) => numbers.iter().map(|&n| n.into()).collect(),
        Value::Array(Array::U32(numbers)) => numbers.iter().map(|&n| n.into()).collect(),
        _ => return Err(problem("tokenizer.ggml.token_type is no array of 32-bit numbers")),
    };
    if numbers.len() != count {
        return Err(TokenizerError::vocabulary(format!(
            "tokenizer.ggml.token_type has {} entries, but there are {count} tokens",
            numbers.len()
        )));
    }
    Ok(numbers
        .into_iter()
        .map(|number| match number {
            2 => TokenType::Unknown,
            3 => TokenType::Control,
            4 => TokenType::UserDefined,
            5 => TokenType::Unused,
            6 => TokenType::Byte,
            _ => TokenType::Normal,
        })
        .collect())
}

/// The id under `tokenizer.ggml.<name>_token_id`, if there is one; it is below `count`.
pub fn token_id(
    metadata: &Metadata,
    name: &str,
    count: usize,
) -> Result<Option<u32>, TokenizerError> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    let Some(id) = metadata.unsigned(&key) else { return Ok(None) };
    match u32::try_from(id) {
        // An absent token is sometimes written as the largest number.
        Ok(u32::MAX) => Ok(None),
        Ok(id) if (id as usize) < count => Ok(Some(id)),
        _ => {
            Err(TokenizerError::vocabulary(format!("{key} is {id}, but there are {count} tokens")))
        }
    }
}

fn end_of_generation(
    metadata: &Metadata,
    pieces: &[String],
    eos: Option<u32>,
) -> Result<Vec<u32>, TokenizerError> {
    let mut tokens: Vec<u32> = (0..)
        .zip(pieces)
        .filter(|(_, piece)| END_OF_TURN.contains(&piece.as_str()))
        .map(|(id, _)| id)
        .collect();
    tokens.extend(eos);
    for name in ["eot", "eom"] {
        tokens.extend(token_id(metadata, name, pieces.len())?);
    }
    tokens.sort_unstable();
    tokens.dedup();
    Ok(tokens)
}

/// The tokenizer of a byte-level BPE vocabulary, and whether its kind puts `bos` first by default.
fn byte_level(metadata: &Metadata, pieces: &[String]) -> Result<(Tokenizer, bool), TokenizerError> {
    let rule = PreTokenizerRule::named(metadata.string("tokenizer.ggml.pre").unwrap_or("default"))?;
    let merges = metadata
        .strings("tokenizer.ggml.merges")
        .ok_or_else(|| problem("tokenizer.ggml.merges is missing or no strings"))?;
    let merges = split_merges(merges, pieces)?;
    let model = BPE::builder()
        .vocab_and_merges(vocabulary_map(pieces), merges)
        .ignore_merges(rule.ignore_merges)
        .build()
        .map_err(unbuildable)?;
    let mut tokenizer = Tokenizer::new(model);
    tokenizer.with_normalizer(rule.normalizer()).map_err(unbuildable)?;
    tokenizer.with_pre_tokenizer(Some(rule.build()?));
    tokenizer.with_decoder(Some(ByteLevel::new(true, true, true)));
    Ok((tokenizer, rule.add_bos))
}

/// The tokenizer of a SentencePiece vocabulary, as transformers builds it: BPE over the whole text
/// with spaces written as `▁`, merging in the order of the scores, unknown characters as bytes.
fn sentence_piece(
    metadata: &Metadata,
    pieces: &[String],
    types: &[TokenType],
) -> Result<Tokenizer, TokenizerError> {
    let scores = metadata
        .floats("tokenizer.ggml.scores")
        .ok_or_else(|| problem("tokenizer.ggml.scores is missing or no 32-bit floats"))?;
    if scores.len() != pieces.len() {
        return Err(TokenizerError::vocabulary(format!(
            "tokenizer.ggml.scores has {} entries, but there are {} tokens",
            scores.len(),
            pieces.len()
        )));
    }
    let merges = merges_from_scores(pieces, scores, |id| matches!(types[id], TokenType::Normal));
    let mut builder = BPE::builder()
        .vocab_and_merges(vocabulary_map(pieces), merges)
        .byte_fallback(true)
        .fuse_unk(true);
    let unknown = token_id(metadata, "unknown", pieces.len())?
        .map(|id| id as usize)
        .or_else(|| types.iter().position(|&kind| kind == TokenType::Unknown));
    if let Some(unknown) = unknown {
        builder = builder.unk_token(pieces[unknown].clone());
    }
    let mut tokenizer = Tokenizer::new(builder.build().map_err(unbuildable)?);

    let add_prefix = metadata.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let space = sentencepiece::SPACE.to_string();
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    let mut decoders: Vec<DecoderWrapper> =
        vec![replace(&space, " ")?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if add_prefix {
        normalizers.push(Prepend::new(space.clone()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    normalizers.push(replace(" ", &space)?.into());
    tokenizer.with_normalizer(Some(NormalizerSequence::new(normalizers))).map_err(unbuildable)?;
    tokenizer.with_decoder(Some(DecoderSequence::new(decoders)));
    Ok(tokenizer)
}

fn replace(from: &str, to: &str) -> Result<Replace, TokenizerError> {
    Replace::new(from, to).map_err(unbuildable)
}

fn unbuildable(error: impl std::fmt::Display) -> TokenizerError {
    TokenizerError::vocabulary(format!("the tokenizer cannot be rebuilt: {error}"))
}

fn vocabulary_map(pieces: &[String]) -> Vocab {
    pieces.iter().cloned().zip(0..).collect()
}

/// Checks that both halves of every merge, and what they spell, are tokens.
fn split_merges(
    merges: &[String],
    pieces: &[String],
) -> Result<Vec<(String, String)>, TokenizerError> {
    let known: HashSet<&str> = pieces.iter().map(String::as_str).collect();
    let mut joined = String::new();
    let mut pairs = Vec::with_capacity(merges.len());
    for (rank, merge) in merges.iter().enumerate() {
        let Some((left, right)) = merge.split_once(' ') else {
            return Err(TokenizerError::vocabulary(format!(
                "merge {rank} of tokenizer.ggml.merges is \"{merge}\", not two tokens with a space \
                 between"
            )));
        };
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        for token in [left, right, &joined] {
            if !known.contains(token) {
                return Err(TokenizerError::vocabulary(format!(
                    "merge {rank} of tokenizer.ggml.merges is \"{merge}\", but \"{token}\" is no \
                     token"
                )));
            }
        }
        pairs.push((left.to_string(), right.to_string()));
    }
    Ok(pairs)
}

/// Control and unknown tokens are special: text spells them only where special tokens are asked
/// for. User-defined tokens are found in any text.
fn add_tokens(
    tokenizer: &mut Tokenizer,
    pieces: &[String],
    types: &[TokenType],
) -> Result<(), TokenizerError> {
    let added = pieces.iter().zip(types).filter_map(|(piece, kind)| match kind {
        TokenType::Control | TokenType::Unknown => Some(AddedToken::from(piece.clone(), true)),
        TokenType::UserDefined => Some(AddedToken::from(piece.clone(), false).normalized(false)),
        _ => None,
    });
    tokenizer.add_tokens(added).map_err(unbuildable)?;
    Ok(())
}

/// `<0x0A>` → 10.
pub(super) fn byte_token(piece: &str) -> Option<u8> {
    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    u8::from_str_radix(digits, 16).ok()
}

/// The bytes of a piece in GPT-2's alphabet; characters outside it stand for themselves.
fn byte_level_bytes(piece: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(piece.len());
    for character in piece.chars() {
        match byte_of_character(character) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend(character.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

/// GPT-2's alphabet: printable Latin-1 characters are themselves, the other 68 bytes follow in
/// order from U+0100.
fn byte_of_character(character: char) -> Option<u8> {
    match u32::from(character) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Value {
        Value::String(value.to_string())
    }

    fn texts(values: &[&str]) -> Value {
        Value::Array(Array::String(values.iter().map(|value| value.to_string()).collect()))
    }

    fn integers(values: &[i32]) -> Value {
        Value::Array(Array::I32(values.to_vec()))
    }

    /// Three special tokens, the letters of "ab 12" and two merges.
    fn byte_level_metadata(pre: &str) -> Metadata {
        let mut metadata = Metadata::new();
        metadata.set("tokenizer.ggml.model", text("gpt2"));
        metadata.set("tokenizer.ggml.pre", text(pre));
        let tokens = ["<s>", "</s>", "<tool>", "a", "b", "Ġ", "1", "2", "ab", "12", "Ã", "©"];
        metadata.set("tokenizer.ggml.tokens", texts(&tokens));
        metadata.set("tokenizer.ggml.token_type", integers(&[3, 3, 4, 1, 1, 1, 1, 1, 1, 1, 1, 1]));
        metadata.set("tokenizer.ggml.merges", texts(&["a b", "1 2"]));
        metadata.set("tokenizer.ggml.bos_token_id", Value::U32(0));
        metadata.set("tokenizer.ggml.eos_token_id", Value::U32(1));
        metadata
    }

    #[test]
    fn each_pre_tokenizer_cuts_its_own_way() {
        for (pre, expected) in [("gpt-2", &[8, 5, 9][..]), ("smollm", &[8, 5, 6, 7])] {
            let vocabulary = Vocabulary::from_metadata(&byte_level_metadata(pre)).unwrap();
            assert_eq!(vocabulary.encode("ab 12", true).unwrap(), expected, "{pre}");
        }
    }

    #[test]
    fn special_tokens_are_text_unless_asked_for() {
        let mut metadata = byte_level_metadata("gpt-2");
        metadata.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
        let vocabulary = Vocabulary::from_metadata(&metadata).unwrap();
        assert_eq!(vocabulary.encode("ab</s>", true).unwrap(), [0, 8, 1]);
        assert_eq!(vocabulary.encode("<s>ab", true).unwrap(), [0, 8]);
        // The letters of "</s>" are no tokens of this vocabulary and vanish.
        assert_eq!(vocabulary.encode("ab</s>", false).unwrap(), [8]);
        assert_eq!(vocabulary.encode("ab<tool>", false).unwrap(), [8, 2]);
        assert_eq!(vocabulary.end_of_generation, [1]);
        assert!(vocabulary.is_control(1) && !vocabulary.is_control(2));
    }

    #[test]
    fn tokens_give_their_bytes_even_within_a_character() {
        let vocabulary = Vocabulary::from_metadata(&byte_level_metadata("gpt-2")).unwrap();
        assert_eq!(vocabulary.encode("é", true).unwrap(), [10, 11]);
        assert_eq!(vocabulary.token_bytes(10), [0xc3]);
        assert_eq!(vocabulary.token_bytes(11), [0xa9]);
        assert_eq!(vocabulary.token_bytes(5), b" ");
        assert_eq!(vocabulary.token_bytes(1), b"</s>");
        assert_eq!(vocabulary.token_bytes(99), b"");
    }

    #[test]
    fn the_alphabet_of_bytes_is_complete() {
        let mut bytes: Vec<u8> =
            (0..0x180).filter_map(char::from_u32).filter_map(byte_of_character).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(byte_of_character('Ġ'), Some(b' '));
        assert_eq!(byte_of_character('Ċ'), Some(b'\n'));
    }

    #[test]
    fn sentence_piece_merges_by_score_and_falls_back_to_bytes() {
        let mut metadata = Metadata::new();
        metadata.set("tokenizer.ggml.model", text("llama"));
        let tokens = ["<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "▁a", "ab"];
        metadata.set("tokenizer.ggml.tokens", texts(&tokens));
        metadata.set("tokenizer.ggml.token_type", integers(&[2, 3, 3, 6, 6, 1, 1, 1, 1, 1]));
        let scores = vec![0.0, 0.0, 0.0, 0.0, 0.0, -9.0, -9.0, -9.0, -2.0, -1.0];
        metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
        let vocabulary = Vocabulary::from_metadata(&metadata).unwrap();
        assert_eq!(vocabulary.encode("ab a", true).unwrap(), [1, 5, 9, 8]);
        assert_eq!(vocabulary.encode("é", true).unwrap(), [1, 5, 3, 4]);
        assert_eq!(vocabulary.token_bytes(8), b" a");
        assert_eq!(vocabulary.token_bytes(3), [0xc3]);
        assert_eq!(vocabulary.end_of_generation, [2]);
    }

    #[test]
    fn each_problem_names_the_key() {
        let broken = |key: &str, value: Option<Value>| {
            let mut metadata = byte_level_metadata("gpt-2");
            metadata.remove(key);
            if let Some(value) = value {
                metadata.set(key, value);
            }
            Vocabulary::from_metadata(&metadata).unwrap_err().to_string()
        };
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        assert!(broken(&key("model"), None).contains("no tokenizer"));
        assert!(broken(&key("model"), Some(text("bert"))).contains("quantkit knows"));
        assert!(broken(&key("pre"), Some(text("klingon"))).contains("smollm"));
        assert!(broken(&key("tokens"), None).contains("tokenizer.ggml.tokens"));
        assert!(broken(&key("merges"), None).contains("tokenizer.ggml.merges"));
        assert!(broken(&key("merges"), Some(texts(&["ab"]))).contains("merge 0"));
        assert!(broken(&key("merges"), Some(texts(&["a zz"]))).contains("\"zz\" is no token"));
        assert!(broken(&key("token_type"), Some(integers(&[1]))).contains("1 entries"));
        assert!(broken(&key("eos_token_id"), Some(Value::U32(12))).contains("12 tokens"));
    }
}
