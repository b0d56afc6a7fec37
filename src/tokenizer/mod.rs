//! Vocabularies: the tokenizer that a GGUF file's metadata and a checkpoint's files both describe.

mod error;
pub mod from_checkpoint;
mod pre_tokenizers;
mod sentencepiece;
mod sentencepiece_model;
pub mod to_checkpoint;
mod tokenizer_json;
mod vocabulary;

pub use error::TokenizerError;
pub use vocabulary::{Vocabulary, token_id};
