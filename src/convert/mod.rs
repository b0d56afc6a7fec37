//! Checkpoint → GGUF and GGUF → checkpoint, and the tokenizer that both describe.

mod pre_tokenizers;
mod sentencepiece;
pub mod vocabulary;
