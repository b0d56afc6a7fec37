//! The tokenizer of a GGUF file, rebuilt from its metadata.

use tokenizers::Tokenizer;

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
    /// All tokens that end a turn (eos, eot, …).
    pub end_of_generation: Vec<u32>,
    /// Whether the model expects `bos` at the start of a text (`tokenizer.ggml.add_bos_token`).
    pub add_bos: bool,
    /// The Jinja chat template.
    pub chat_template: Option<String>,
}

/// A vocabulary that quantkit cannot rebuild.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct VocabularyError(pub String);

impl Vocabulary {
    /// Rebuilds the tokenizer that `tokenizer.ggml.*` describes (byte-level BPE or SentencePiece).
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, VocabularyError> {
        todo!("{}", metadata.len())
    }

    /// The tokens of a text. With `special`, text that spells a special token becomes that token,
    /// and `bos` is put first where the model expects it.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, VocabularyError> {
        todo!("{text} {special}")
    }

    /// The bytes that one token stands for (they need not be whole UTF-8 characters).
    pub fn token_bytes(&self, token: u32) -> Vec<u8> {
        todo!("{token}")
    }
}
