//! Reading a GGUF file through a memory map. Nothing in the file is believed before it is checked.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::directory::Directory;
use super::{GgmlType, GgufError, Metadata};
use crate::support::mapped::{map_file, release};
use crate::support::units;

/// A tensor as the file's directory lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its dimensions in GGUF order: the contiguous one (columns) first.
    pub dimensions: Vec<u64>,
    /// Its element type.
    pub ggml_type: GgmlType,
    /// Where its data starts, in bytes from the start of the data section.
    pub offset: u64,
}

impl TensorInfo {
    /// Weights in a row (the contiguous dimension).
    pub fn columns(&self) -> usize {
        self.dimensions.first().map_or(1, |&d| d as usize)
    }

    /// Number of rows: the product of all other dimensions.
    pub fn rows(&self) -> usize {
        self.dimensions.iter().skip(1).map(|&d| d as usize).product()
    }

    /// Number of weights. The reader has checked that it does not overflow.
    pub fn weights(&self) -> u64 {
        self.dimensions.iter().product()
    }

    /// Number of bytes. The reader has checked that it does not overflow and lies in the file.
    pub fn bytes(&self) -> u64 {
        self.weights() / self.ggml_type.block_size() as u64 * self.ggml_type.block_bytes() as u64
    }
}

/// A mapped GGUF file whose directory has been checked against its length.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    map: Mmap,
    directory: Directory,
}

impl GgufFile {
    /// Maps the file and checks its header, metadata and tensor directory.
    ///
    /// # Errors
    /// Anything that is not a complete, consistent GGUF version 2 or 3 file.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let map = map_file(path).map_err(|source| GgufError::io(path, source))?;
        let directory = Directory::parse(path, &map)?;
        let file = Self { path: path.to_path_buf(), map, directory };
        if tracing::enabled!(tracing::Level::INFO) {
            file.log();
        }
        Ok(file)
    }

    /// The file's path as it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The format's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.directory.version
    }

    /// The alignment of every tensor's data, in bytes: a power of two, at least 8.
    pub fn alignment(&self) -> u64 {
        self.directory.alignment
    }

    /// The length of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// The file's metadata.
    pub fn metadata(&self) -> &Metadata {
        &self.directory.metadata
    }

    /// The tensors in directory order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.directory.tensors
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.directory.tensor(name)
    }

    /// The bytes of one of this file's tensors, straight from the map and aligned to at least 8.
    ///
    /// # Panics
    /// If the tensor is another file's and does not lie in this one.
    pub fn tensor_bytes(&self, tensor: &TensorInfo) -> &[u8] {
        &self.map[self.tensor_range(tensor)]
    }

    /// Lets the system take back the memory that holds a tensor's bytes: for tensors that have been
    /// copied. [`GgufFile::tensor_bytes`] reads them from the file again.
    ///
    /// # Panics
    /// As [`GgufFile::tensor_bytes`].
    pub fn release_tensor(&self, tensor: &TensorInfo) {
        release(&self.map, self.tensor_range(tensor));
    }

    fn tensor_range(&self, tensor: &TensorInfo) -> Range<usize> {
        let start = (self.directory.data_start + tensor.offset) as usize;
        start..start + tensor.bytes() as usize
    }

    /// Says in the log what was opened.
    fn log(&self) {
        let mut types = BTreeMap::<String, usize>::new();
        for tensor in self.tensors() {
            *types.entry(tensor.ggml_type.to_string()).or_default() += 1;
        }
        let types: Vec<String> =
            types.iter().map(|(name, count)| format!("{count} {name}")).collect();
        tracing::info!(
            "{} opened: {}, {} tensors ({}), {}",
            self.path.display(),
            self.metadata().string("general.architecture").unwrap_or("no architecture"),
            self.tensors().len(),
            types.join(", "),
            units::bytes(self.file_bytes())
        );
    }
}
