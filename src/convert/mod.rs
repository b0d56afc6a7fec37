//! Checkpoint → GGUF and GGUF → checkpoint, and the tokenizer that both describe.

pub mod vocabulary;
