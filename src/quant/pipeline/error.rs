//! The error of quantizing a file.

use std::path::{Path, PathBuf};

use crate::gguf::{GgmlType, GgufError, TensorInfo};
use crate::quant::formats::CodecError;
use crate::quant::selection::SelectionError;
use crate::quant::weighing::WeighingError;
use crate::support::input_file::InputError;
use crate::support::interrupt::Interrupted;

/// Why a file could not be quantized. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// The input cannot be read or the output cannot be written.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The input changed meanwhile.
    #[error(transparent)]
    Input(#[from] InputError),
    /// An output would replace a file that is read.
    #[error("{}: the output is {what}; give it another name", path.display())]
    SameFile {
        /// The output.
        path: PathBuf,
        /// Which of the files that are read it is.
        what: &'static str,
    },
    /// The input's weights have been quantized before.
    #[error(
        "{}: already quantized ({tensor} is {ggml_type}); quantizing again would add to its error, \
         so start from an F32, F16 or BF16 file, or allow it with --allow-requantize", path.display()
    )]
    AlreadyQuantized {
        /// The input.
        path: PathBuf,
        /// A quantized tensor.
        tensor: String,
        /// Its type.
        ggml_type: GgmlType,
    },
    /// No formats could be chosen for the model's tensors.
    #[error("{}: {source}", path.display())]
    Selection {
        /// The input.
        path: PathBuf,
        /// What is missing.
        source: SelectionError,
    },
    /// The importance is not what the model or the recipe takes.
    #[error("{}: {source}", path.display())]
    Weighing {
        /// The input.
        path: PathBuf,
        /// What is wrong.
        source: WeighingError,
    },
    /// A tensor holds what cannot be coded.
    #[error("{}: {tensor}{}: {source}", path.display(), place(*.position))]
    Tensor {
        /// The input.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The weight, where it is a weight's fault.
        position: Option<WeightPosition>,
        /// What is wrong.
        source: CodecError,
    },
    /// A weight of a checkpoint is too large for the type that its matrices are read as.
    #[error(
        "{}: {tensor}{}: {value} is too large for F16, as which these weights are read; make a GGUF \
         file with quantkit convert --dtype bf16 (or f32) and quantize that", path.display(),
        place(Some(*.position))
    )]
    Overflow {
        /// The input.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The weight.
        position: WeightPosition,
        /// Its value in the checkpoint.
        value: f32,
    },
    /// The user stopped it.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// Where in a tensor a weight is; all numbers are from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WeightPosition {
    /// The expert, where the tensor holds the matrices of several.
    pub expert: Option<usize>,
    /// The row of its matrix.
    pub row: usize,
    /// The column.
    pub column: usize,
}

impl WeightPosition {
    /// Of the weight with this number in the tensor, as it lies in the file.
    pub(super) fn of(tensor: &TensorInfo, weight: usize) -> Self {
        let rows_per_expert = tensor.dimensions.get(1).map_or(1, |&rows| rows as usize);
        let row = weight / tensor.columns();
        let is_of_experts = tensor.dimensions.len() > 2;
        Self {
            expert: is_of_experts.then(|| row / rows_per_expert),
            row: if is_of_experts { row % rows_per_expert } else { row },
            column: weight % tensor.columns(),
        }
    }
}

impl QuantizeError {
    /// A codec's refusal of some of a tensor's weights; `first` is the number of the first of them
    /// in the tensor.
    pub(crate) fn of_tensor(
        path: &Path,
        tensor: &TensorInfo,
        first: usize,
        mut source: CodecError,
    ) -> Self {
        let position = match &mut source {
            CodecError::NotFinite { index, .. } | CodecError::TooLarge { index, .. } => {
                let position = WeightPosition::of(tensor, first + *index);
                *index = position.column;
                Some(position)
            }
            _ => None,
        };
        Self::Tensor { path: path.to_path_buf(), tensor: tensor.name.clone(), position, source }
    }
}

fn place(position: Option<WeightPosition>) -> String {
    let Some(WeightPosition { expert, row, column }) = position else { return String::new() };
    let expert = expert.map_or(String::new(), |expert| format!(", expert {expert}"));
    format!("{expert}, row {row}, column {column}")
}
