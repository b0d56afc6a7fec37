//! The GGUF container: typed metadata, tensor directory, mapped reading, streaming writing.
//!
//! Source of the format: the GGUF specification in ggml's `docs/gguf.md`, versions 2 and 3.

mod cursor;
mod directory;
mod error;
mod identity;
mod metadata;
mod model_keys;
mod part_identity;
mod reader;
mod regroup;
mod split;
#[cfg(test)]
mod tests;
mod types;
mod writer;

pub(crate) use cursor::Cursor;
pub use directory::{Directory, TensorInfo, has_magic};
pub use error::GgufError;
pub use identity::{ModelIdentity, identify};
pub use metadata::{Array, Metadata, Value, ValueType};
pub use model_keys::ModelKeys;
pub use reader::GgufFile;
pub use regroup::{RegroupError, RegroupReport, join_model, split_model};
pub use split::{PartLimit, part_path, part_prefix, parts_by_name, remove_split_keys};
pub use types::GgmlType;
pub use writer::{GgufWriter, TensorPlan};
