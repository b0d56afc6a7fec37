//! Where a model's weights come from: a GGUF file, or whatever can pass for one.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::gguf::{GgufFile, Metadata, TensorInfo};
use crate::support::input_file::Inputs;

/// A model that is read like a GGUF file, any tensor in pieces and by many threads at once.
pub trait TensorSource: Sync {
    /// What to call the model in messages: its file or directory.
    fn path(&self) -> &Path;

    /// The files that are read, which no output may replace.
    fn files(&self) -> Vec<PathBuf>;

    /// The open files that the weights come from, which must not change while they are read.
    fn inputs(&self) -> Inputs;

    /// The metadata that the model's GGUF file has, or would have.
    fn metadata(&self) -> &Metadata;

    /// The tensors in the order that they have, or would have, in a GGUF file.
    fn tensors(&self) -> &[TensorInfo];

    /// Bytes `range` of the tensor at `index` of [`TensorSource::tensors`], whole blocks of its
    /// type. They lie in `buffer` where they have to be made first, and in the file's map otherwise.
    ///
    /// # Panics
    /// If there is no such tensor, or the range reaches past its end.
    fn bytes<'a>(&'a self, index: usize, range: Range<usize>, buffer: &'a mut Vec<u8>) -> &'a [u8];

    /// The value of an infinite weight of the tensor at `index` where it is a finite one that was too
    /// large for F16, as which [`TensorSource::bytes`] gives it.
    fn overflowed(&self, _index: usize, _weight: usize) -> Option<f32> {
        None
    }

    /// Says that bytes will soon be asked for, so that the system can read them from the disk
    /// meanwhile.
    ///
    /// # Panics
    /// As [`TensorSource::bytes`].
    fn expect(&self, index: usize, range: Range<usize>);

    /// Says that bytes will not be asked for again, so that the system can take back the memory
    /// into which their file is mapped.
    ///
    /// # Panics
    /// As [`TensorSource::bytes`].
    fn release(&self, index: usize, range: Range<usize>);
}

impl TensorSource for GgufFile {
    fn path(&self) -> &Path {
        self.path()
    }

    fn files(&self) -> Vec<PathBuf> {
        self.part_paths().map(Path::to_path_buf).collect()
    }

    fn inputs(&self) -> Inputs {
        self.inputs()
    }

    fn metadata(&self) -> &Metadata {
        self.metadata()
    }

    fn tensors(&self) -> &[TensorInfo] {
        self.tensors()
    }

    fn bytes<'a>(&'a self, index: usize, range: Range<usize>, _: &'a mut Vec<u8>) -> &'a [u8] {
        &self.tensor_bytes(&self.tensors()[index])[range]
    }

    fn expect(&self, index: usize, range: Range<usize>) {
        self.expect_bytes(&self.tensors()[index], range);
    }

    fn release(&self, index: usize, range: Range<usize>) {
        self.release_bytes(&self.tensors()[index], range);
    }
}
