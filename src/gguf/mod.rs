//! The GGUF container: typed metadata, tensor directory, mapped reading, streaming writing.
//!
//! Source of the format: the GGUF specification in ggml's `docs/gguf.md`, versions 2 and 3.

mod cursor;
mod directory;
mod error;
mod metadata;
mod reader;
#[cfg(test)]
mod tests;
mod types;
mod writer;

pub use directory::{Directory, has_magic};
pub use error::GgufError;
pub use metadata::{Array, Metadata, Value, ValueType};
pub use reader::{GgufFile, TensorInfo};
pub use types::GgmlType;
pub use writer::{GgufWriter, TensorPlan};
