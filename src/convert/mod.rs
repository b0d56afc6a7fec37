//! Checkpoint → GGUF and GGUF → checkpoint.

mod checkpoint_model;
mod error;
mod model_card;
mod model_name;
mod planned;
mod safetensors_writer;
mod to_checkpoint;
mod to_gguf;
mod weights;

pub use checkpoint_model::CheckpointModel;
pub use error::ConvertError;
pub use to_checkpoint::{ExportOptions, ExportReport, export};
pub use to_gguf::{ConvertOptions, ConvertReport, convert};
pub use weights::WeightType;
