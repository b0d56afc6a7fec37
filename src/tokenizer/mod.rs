//! Vocabularies: the tokenizer that a GGUF file's metadata and a checkpoint's files both describe.

mod byte_level;
mod chat_templates;
mod checkpoint_tokens;
mod error;
mod files;
pub mod from_checkpoint;
mod keys;
mod merges;
mod pre_tokenizers;
mod sentencepiece;
mod sentencepiece_model;
mod special_tokens;
mod spelling;
#[cfg(test)]
mod tests;
pub mod to_checkpoint;
mod tokenizer_json;
mod vocabulary;

pub use error::TokenizerError;
pub use keys::token_id;
pub use vocabulary::Vocabulary;
