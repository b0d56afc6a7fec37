//! A Hugging Face checkpoint directory: config, safetensors shards, tokenizer; and fetching one.

pub mod fetch;
