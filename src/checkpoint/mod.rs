//! A Hugging Face checkpoint directory: config, safetensors shards, tokenizer; and fetching one.

pub mod config;
pub mod fetch;
pub mod optional_files;
pub mod safetensors;
pub mod tensors;

pub use safetensors::{SafetensorsError, SafetensorsFile, SafetensorsHeader, TensorView};
pub use tensors::CheckpointTensors;
