//! The tokenizer of a GGUF file, rebuilt from its metadata.

use std::sync::OnceLock;

use tokenizers::{AddedToken, Tokenizer};

use super::error::{TokenizerError, unbuildable};
use super::keys::{TokenType, TokenizerKeys};
use super::{byte_level, sentencepiece};
use crate::gguf::Metadata;

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
    /// Whether the model was trained on texts that end with `eos` (`tokenizer.ggml.add_eos_token`).
    pub add_eos: bool,
    /// The tokens with a role, by the names that transformers has for them (`bos_token`).
    pub roles: Vec<(&'static str, u32)>,
    /// The Jinja chat template.
    pub chat_template: Option<String>,
    kind: Kind,
    pieces: Vec<String>,
    types: Vec<TokenType>,
    /// The same tokenizer, but special tokens in the text are text; made when first needed.
    literal: OnceLock<Tokenizer>,
}

/// `tokenizer.ggml.model`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `gpt2`: BPE over bytes, each of which is one printable character.
    ByteLevel,
    /// `llama`: SentencePiece's BPE, whose merges follow from scores.
    ScoredBpe,
    /// `gemma4`: the same with a list of merges.
    MergedBpe,
    /// `t5`: SentencePiece's unigram model.
    Unigram,
}

impl Kind {
    fn of(keys: TokenizerKeys<'_>) -> Result<Self, TokenizerError> {
        match keys.text("model")? {
            Some("gpt2") if keys.text("pre")? == Some("gemma4") => Ok(Self::MergedBpe),
            Some("gpt2") => Ok(Self::ByteLevel),
            Some("llama") => Ok(Self::ScoredBpe),
            Some("gemma4") => Ok(Self::MergedBpe),
            Some("t5") => Ok(Self::Unigram),
            Some(other) => Err(TokenizerError::vocabulary(format!(
                "tokenizer.ggml.model is \"{other}\"; quantkit knows \"gpt2\" (byte-level BPE), \
                 \"llama\" and \"gemma4\" (SentencePiece BPE) and \"t5\" (SentencePiece unigram)"
            ))),
            None => Err(TokenizerError::vocabulary(
                "the file has no tokenizer: tokenizer.ggml.model is missing",
            )),
        }
    }

    /// The ids of `bos` and `eos` where the file names none.
    fn default_ids(self) -> (Option<u32>, Option<u32>) {
        match self {
            Self::ByteLevel | Self::MergedBpe => (None, None),
            Self::ScoredBpe => (Some(1), Some(2)),
            Self::Unigram => (None, Some(1)),
        }
    }
}

/// Roles besides `bos` and `eos`: transformers' names, and those of their ids in GGUF.
const ROLES: [(&str, &str); 4] = [
    ("unk_token", "unknown"),
    ("sep_token", "seperator"),
    ("pad_token", "padding"),
    ("mask_token", "mask"),
];

/// Spellings of the tokens with which the known chat formats end a turn. GGUF has no list of them.
const END_OF_TURN: [&str; 33] = [
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
    "_<EOT>",
    "<turn|>",
    "<|tool_response>",
    "<|flush|>",
    "<|calls|>",
    "[e~[",
    // Parts of a file to fill in: a text that goes on with one of them is over, too.
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

impl Vocabulary {
    /// Rebuilds the tokenizer that `tokenizer.ggml.*` describes (byte-level BPE or SentencePiece).
    ///
    /// # Errors
    /// Missing or inconsistent metadata, an unknown kind of vocabulary or pre-tokenizer.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, TokenizerError> {
        let keys = TokenizerKeys(metadata);
        let kind = Kind::of(keys)?;
        let pieces =
            keys.texts("tokens")?.filter(|pieces| !pieces.is_empty()).ok_or_else(|| {
                TokenizerError::vocabulary("tokenizer.ggml.tokens is missing or empty")
            })?;
        let types = keys.types(pieces.len())?;
        let (mut tokenizer, puts_bos) = match kind {
            Kind::ByteLevel => {
                let rule = byte_level::rule(keys)?;
                (byte_level::tokenizer(keys, pieces, rule)?, rule.add_bos)
            }
            Kind::ScoredBpe => (sentencepiece::scored_bpe(keys, pieces, &types)?, true),
            Kind::MergedBpe => (sentencepiece::merged_bpe(keys, pieces, &types)?, true),
            Kind::Unigram => (sentencepiece::unigram(keys, pieces, &types)?, false),
        };
        let model_name = metadata.string("general.name").unwrap_or_default();
        add_tokens(&mut tokenizer, pieces, &types, model_name)?;

        let inside = |id: &u32| (*id as usize) < pieces.len();
        let (default_bos, default_eos) = kind.default_ids();
        let bos = keys.id("bos", pieces.len())?.or(default_bos).filter(inside);
        let eos = keys.id("eos", pieces.len())?.or(default_eos).filter(inside);
        // Files of Gemma 4 that say otherwise are wrong; llama.cpp does not believe them either.
        let says_bos = keys.truth("add_bos_token")?.filter(|_| kind != Kind::MergedBpe);
        let add_bos = says_bos.unwrap_or(puts_bos);
        if add_bos && bos.is_none() {
            return Err(TokenizerError::vocabulary(
                "the model expects a beginning-of-sequence token, but tokenizer.ggml.bos_token_id \
                 is missing",
            ));
        }
        let says_eos = keys.truth("add_eos_token")?;
        if says_eos == Some(true) && kind != Kind::Unigram {
            tracing::warn!(
                "the file says that texts end with the end-of-sequence token \
                 (tokenizer.ggml.add_eos_token). Prompts and texts that are scored go on, so it is \
                 left out"
            );
        }
        Ok(Self {
            end_of_generation: end_of_generation(keys, pieces, eos)?,
            tokenizer,
            size: pieces.len(),
            bos,
            eos,
            add_bos,
            add_eos: says_eos.unwrap_or(kind == Kind::Unigram),
            roles: roles(keys, pieces.len(), bos, eos)?,
            chat_template: chat_template(metadata)?,
            kind,
            pieces: pieces.to_vec(),
            types,
            literal: OnceLock::new(),
        })
    }

    /// The tokens of a text. With `special`, text that spells a special token becomes that token,
    /// and `bos` is put first where the model expects it and the text does not begin with it.
    ///
    /// `eos` is never put last, whatever [`Vocabulary::add_eos`] says: whoever asks has more to
    /// come behind the text (a prompt, a context, a window), and a model that has read `eos` goes on
    /// with something else. (llama.cpp does not generate or measure with files that say so;
    /// lm-evaluation-harness would count a wrong token.)
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TokenizerError> {
        self.encode_with(text, special, special)
    }

    /// [`Vocabulary::encode`] with its two halves apart: whether `bos` is put first where the model
    /// expects it, and whether text that spells a special token becomes that token.
    pub fn encode_with(
        &self,
        text: &str,
        add_bos: bool,
        special: bool,
    ) -> Result<Vec<u32>, TokenizerError> {
        let tokenizer = if special { &self.tokenizer } else { self.literal() };
        let encoding = tokenizer.encode_fast(text, false).map_err(|error| {
            TokenizerError::vocabulary(format!("the text cannot be tokenized: {error}"))
        })?;
        let tokens = encoding.get_ids();
        match self.bos {
            Some(bos) if add_bos && self.add_bos && tokens.first() != Some(&bos) => {
                Ok([&[bos], tokens].concat())
            }
            _ => Ok(tokens.to_vec()),
        }
    }

    /// How another vocabulary differs, in a sentence; `None` if the same token has the same number in both.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self.pieces.len() != other.pieces.len() {
            let (one, two) = (self.pieces.len(), other.pieces.len());
            return Some(format!("one vocabulary has {one} tokens, the other {two}"));
        }
        let differs = |(_, (one, two)): &(usize, (&String, &String))| one != two;
        let (token, (one, two)) =
            self.pieces.iter().zip(&other.pieces).enumerate().find(differs)?;
        Some(format!("token {token} is {one:?} in one vocabulary and {two:?} in the other"))
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
                let byte = sentencepiece::byte_token(piece);
                byte.map_or_else(|| piece.clone().into_bytes(), |byte| vec![byte])
            }
            (Kind::ByteLevel, _) => byte_level::bytes(piece),
            _ => piece.replace(sentencepiece::SPACE, " ").into_bytes(),
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

/// The template under `tokenizer.chat_template`.
fn chat_template(metadata: &Metadata) -> Result<Option<String>, TokenizerError> {
    let Some(value) = metadata.get("tokenizer.chat_template") else { return Ok(None) };
    match metadata.string("tokenizer.chat_template") {
        Some(template) => Ok(Some(template.to_string())),
        None => Err(TokenizerError::vocabulary(format!(
            "tokenizer.chat_template should be a text, found a value of type {}",
            value.value_type().name()
        ))),
    }
}

/// The tokens with a role, of `count` tokens.
fn roles(
    keys: TokenizerKeys<'_>,
    count: usize,
    bos: Option<u32>,
    eos: Option<u32>,
) -> Result<Vec<(&'static str, u32)>, TokenizerError> {
    let mut roles = Vec::new();
    roles.extend(bos.map(|id| ("bos_token", id)));
    roles.extend(eos.map(|id| ("eos_token", id)));
    for (role, name) in ROLES {
        let Some(number) = keys.stated_id(name)? else { continue };
        match u32::try_from(number) {
            Ok(id) if (id as usize) < count => roles.push((role, id)),
            // Chat templates alone read these, and a model runs without them.
            _ => tracing::warn!(
                "tokenizer.ggml.{name}_token_id is {number}, but there are {count} tokens: chat \
                 templates get no {role}"
            ),
        }
    }
    Ok(roles)
}

fn end_of_generation(
    keys: TokenizerKeys<'_>,
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
        tokens.extend(keys.id(name, pieces.len())?);
    }
    tokens.sort_unstable();
    tokens.dedup();
    Ok(tokens)
}

/// Whether white space behind the special token `piece` belongs to it. GGUF has no key for that;
/// Phi-3's tokenizer does it, and llama.cpp knows it by the model's name.
pub(super) fn strips_after(model_name: &str, piece: &str) -> bool {
    let name = model_name.to_lowercase();
    (name.contains("phi-3") || name.contains("phi3"))
        && !["<unk>", "<s>", "<|endoftext|>"].contains(&piece)
}

/// Control and unknown tokens are special: text spells them only where special tokens are asked
/// for. User-defined tokens are found in any text.
fn add_tokens(
    tokenizer: &mut Tokenizer,
    pieces: &[String],
    types: &[TokenType],
    model_name: &str,
) -> Result<(), TokenizerError> {
    let added = pieces.iter().zip(types).filter_map(|(piece, kind)| {
        let special = match kind {
            TokenType::Control | TokenType::Unknown => true,
            TokenType::UserDefined => false,
            _ => return None,
        };
        let token = AddedToken::from(piece.clone(), special).normalized(false);
        Some(token.rstrip(strips_after(model_name, piece)))
    });
    tokenizer.add_tokens(added).map_err(unbuildable)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Array, Value};

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
    fn a_text_goes_on_whatever_the_file_says_of_its_end() {
        let mut metadata = byte_level_metadata("gpt-2");
        metadata.set("tokenizer.ggml.add_eos_token", Value::Bool(true));
        let vocabulary = Vocabulary::from_metadata(&metadata).unwrap();
        assert!(vocabulary.add_eos);
        for special in [false, true] {
            assert_eq!(vocabulary.encode("ab", special).unwrap(), [8]);
        }
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
