//! One view of GGUF files, safetensors files and checkpoint directories.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::checkpoint::{
    CheckpointTensors, SafetensorsError, SafetensorsFile, TensorView, safetensors,
};
use crate::gguf::{self, GgmlType, GgufError, GgufFile};
use crate::support::interrupt::Interrupted;
use crate::support::regular_file::open_regular;

/// A file that cannot be inspected.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Neither GGUF nor safetensors.
    #[error(
        "{}: expected a GGUF file (starts with \"GGUF\"), a safetensors file or a checkpoint \
         directory, found a file that starts with \"{start}\"; give the model file itself",
        path.display()
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
        /// Its first bytes, escaped.
        start: String,
    },
    /// A damaged GGUF file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// A damaged safetensors file.
    #[error(transparent)]
    Safetensors(#[from] SafetensorsError),
    /// The user has asked to stop.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// An opened model file or checkpoint directory.
#[derive(Debug)]
pub enum Container {
    /// A GGUF file.
    Gguf(GgufFile),
    /// A safetensors file.
    Safetensors(SafetensorsFile),
    /// The safetensors files of a checkpoint directory.
    Checkpoint {
        /// The directory.
        directory: PathBuf,
        /// What its files hold.
        tensors: CheckpointTensors,
    },
}

/// A tensor of any container.
#[derive(Debug, Clone)]
pub struct ContainerTensor<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its element type's name in the container.
    pub type_name: String,
    /// The same as one of ggml's types, where ggml has it.
    pub ggml_type: Option<GgmlType>,
    /// Its shape as the container gives it: columns first in GGUF, last in safetensors.
    pub shape: Vec<u64>,
    /// Its bytes, straight from the map.
    pub bytes: &'a [u8],
}

impl ContainerTensor<'_> {
    /// Number of weights.
    pub fn weights(&self) -> u64 {
        self.shape.iter().product()
    }
}

impl Container {
    /// Opens a file by what it starts with, whatever its name ends in; a name helps only where the
    /// content is not recognised, so that a damaged file is reported as what it should be.
    ///
    /// # Errors
    /// An unknown format, and whatever is wrong with the file.
    pub fn open(path: &Path) -> Result<Self, InspectError> {
        let io = |source| InspectError::Io { path: path.to_path_buf(), source };
        if std::fs::metadata(path).map_err(io)?.is_dir() {
            let tensors = CheckpointTensors::open(path)?;
            return Ok(Self::Checkpoint { directory: path.to_path_buf(), tensors });
        }
        let start = first_bytes(path).map_err(io)?;
        let is_named = |suffix: &str| path.extension().is_some_and(|found| found == suffix);
        if gguf::has_magic(&start) {
            Ok(Self::Gguf(GgufFile::open(path)?))
        } else if safetensors::looks_like_safetensors(&start) || is_named("safetensors") {
            Ok(Self::Safetensors(SafetensorsFile::open(path)?))
        } else if is_named("gguf") {
            Ok(Self::Gguf(GgufFile::open(path)?))
        } else {
            let start = start.escape_ascii().to_string();
            Err(InspectError::UnknownFormat { path: path.to_path_buf(), start })
        }
    }

    /// The path as it was opened.
    pub fn path(&self) -> &Path {
        match self {
            Self::Gguf(file) => file.path(),
            Self::Safetensors(file) => file.path(),
            Self::Checkpoint { directory, .. } => directory,
        }
    }

    /// The bytes of the file, or of all the checkpoint's files with tensors.
    pub fn file_bytes(&self) -> u64 {
        match self {
            Self::Gguf(file) => file.file_bytes(),
            Self::Safetensors(file) => file.file_bytes(),
            Self::Checkpoint { tensors, .. } => {
                tensors.files().iter().map(SafetensorsFile::file_bytes).sum()
            }
        }
    }

    /// All tensors in the container's order.
    pub fn tensors(&self) -> Vec<ContainerTensor<'_>> {
        match self {
            Self::Gguf(file) => file.tensors().iter().map(|info| of_gguf(file, info)).collect(),
            Self::Safetensors(file) => file.iter().map(of_safetensors).collect(),
            Self::Checkpoint { tensors, .. } => tensors.iter().map(of_safetensors).collect(),
        }
    }
}

fn first_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut start = Vec::new();
    open_regular(path)?.take(9).read_to_end(&mut start)?;
    Ok(start)
}

fn of_gguf<'a>(file: &'a GgufFile, info: &'a gguf::TensorInfo) -> ContainerTensor<'a> {
    ContainerTensor {
        name: &info.name,
        type_name: info.ggml_type.name().to_string(),
        ggml_type: Some(info.ggml_type),
        shape: info.dimensions.clone(),
        bytes: file.tensor_bytes(info),
    }
}

fn of_safetensors(tensor: TensorView<'_>) -> ContainerTensor<'_> {
    ContainerTensor {
        name: tensor.name,
        type_name: tensor.dtype.to_string(),
        ggml_type: tensor.float_type().ok(),
        shape: tensor.shape.iter().map(|&dimension| dimension as u64).collect(),
        bytes: tensor.bytes,
    }
}
