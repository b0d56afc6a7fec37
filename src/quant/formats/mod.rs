//! Block formats: one file each, and the two functions through which everything else uses them.

use crate::gguf::GgmlType;

/// A row that cannot be coded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// quantkit has no code for the format in this direction.
    #[error("{0} cannot be {1} by quantkit")]
    Unsupported(GgmlType, &'static str),
    /// The row's length is no multiple of the block.
    #[error("a row of {columns} weights is no multiple of {ggml_type}'s block of {block}")]
    Ragged {
        /// The format.
        ggml_type: GgmlType,
        /// Weights in the row.
        columns: usize,
        /// Weights in a block.
        block: usize,
    },
    /// A weight is NaN or infinite.
    #[error("weight {index} of the row is {value}, which no block format can hold")]
    NotFinite {
        /// Position in the row.
        index: usize,
        /// The value as text.
        value: String,
    },
}

/// Quantizes one row (or any whole number of blocks) into exactly
/// `ggml_type.row_bytes(weights.len())` bytes, bit for bit as ggml's reference does.
pub fn quantize_row(
    ggml_type: GgmlType,
    weights: &[f32],
    output: &mut [u8],
) -> Result<(), CodecError> {
    todo!("{ggml_type} {} {}", weights.len(), output.len())
}

/// Dequantizes one row (or any whole number of blocks), bit for bit as ggml's reference does.
/// Reads every type that [`crate::gguf`] knows how to quantize or that quantkit can read
/// (F32, F16, BF16 included).
pub fn dequantize_row(
    ggml_type: GgmlType,
    bytes: &[u8],
    output: &mut [f32],
) -> Result<(), CodecError> {
    todo!("{ggml_type} {} {}", bytes.len(), output.len())
}

/// Whether [`dequantize_row`] knows the type.
pub fn can_dequantize(ggml_type: GgmlType) -> bool {
    todo!("{ggml_type}")
}
