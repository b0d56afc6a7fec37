//! Checkpoint → GGUF and GGUF → checkpoint, and the tokenizer that both describe.

mod checkpoint_model;
mod error;
mod model_card;
mod model_name;
mod planned;
mod pre_tokenizers;
mod safetensors_writer;
mod sentencepiece;
mod sentencepiece_model;
mod to_checkpoint;
mod to_gguf;
mod tokenizer_files;
mod tokenizer_json;
mod tokenizer_metadata;
pub mod vocabulary;
mod weights;

pub use checkpoint_model::CheckpointModel;
pub use error::ConvertError;
pub use to_checkpoint::{ExportOptions, ExportReport, export};
pub use to_gguf::{ConvertOptions, ConvertReport, convert};
pub use weights::WeightType;
