//! Writing a GGUF v3 file as a stream: header first, then each tensor's bytes in order.

use std::path::Path;

use super::{GgmlType, GgufError, Metadata};

/// A tensor that will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlan {
    /// Its name.
    pub name: String,
    /// Its dimensions in GGUF order: the contiguous one (columns) first.
    pub dimensions: Vec<u64>,
    /// Its element type.
    pub ggml_type: GgmlType,
}

/// A GGUF file under construction. It appears under its name only when [`GgufWriter::finish`]
/// succeeds; dropped before that, it leaves nothing behind.
#[derive(Debug)]
pub struct GgufWriter {}

impl GgufWriter {
    /// Writes header, metadata and tensor directory beside `path`.
    pub fn create(
        path: &Path,
        metadata: &Metadata,
        tensors: Vec<TensorPlan>,
    ) -> Result<Self, GgufError> {
        todo!("{} {} {}", path.display(), metadata.len(), tensors.len())
    }

    /// Appends bytes to the tensor data. Tensors are written in the order of the plan, each in one
    /// or more pieces; padding between them is the writer's business.
    ///
    /// # Errors
    /// I/O errors, and more bytes than the plan has room for.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), GgufError> {
        todo!("{}", bytes.len())
    }

    /// Checks that every tensor is complete, and renames the file to its place.
    pub fn finish(self) -> Result<(), GgufError> {
        todo!()
    }
}
