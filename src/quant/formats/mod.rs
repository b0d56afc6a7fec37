//! Block formats: one file each, and the functions through which everything else uses them.
//!
//! A new format is a file that says what its type, layout and arithmetic are (`codec::Decode`, and
//! one of `codec::Encode`, `blocks::Searched` or `super_blocks::SuperBlock`) and ends in a
//! constant, which gets a line in `CODECS` here. Benches, most tests and the command line go through
//! that list. What the tests then ask for: the error that its steps allow (`tolerance` in `tests.rs`),
//! its row in `docs/formats.md`, and vectors of the reference in `tests/data`.

mod affine;
mod arithmetic;
mod blocks;
mod codec;
mod descent;
mod fields;
pub(crate) mod five_bits;
mod float;
mod half_float;
pub(crate) mod iq4_nl;
mod iq4_xs;
mod lanes;
pub(crate) mod mxfp4;
mod nibbles;
mod positive_scales;
mod q2_k;
pub(crate) mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod six_bit_header;
pub(crate) mod six_bit_scales;
mod super_blocks;
mod symmetric;
mod two_bits;
mod uneven_grid;
mod wide;

use crate::gguf::GgmlType;
use crate::support::processor::InstructionSet;
use codec::Codec;

/// ggml's version of the block formats, which llama.cpp writes into every file.
pub const QUANTIZATION_VERSION: u32 = 2;

/// Every format that quantkit knows; see above for what a new one takes.
static CODECS: [&Codec; 16] = [
    &float::F32_CODEC,
    &float::F16_CODEC,
    &float::BF16_CODEC,
    &q4_0::CODEC,
    &q4_1::CODEC,
    &q5_0::CODEC,
    &q5_1::CODEC,
    &q8_0::CODEC,
    &q2_k::CODEC,
    &q3_k::CODEC,
    &q4_k::CODEC,
    &q5_k::CODEC,
    &q6_k::CODEC,
    &iq4_nl::CODEC,
    &iq4_xs::CODEC,
    &mxfp4::CODEC,
];

/// A row that cannot be coded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// quantkit has no code for the format in this direction.
    #[error("{0} cannot be {1} by quantkit")]
    Unsupported(GgmlType, &'static str),
    /// The row's length is no multiple of the block.
    #[error("a row of {columns} weights is not a multiple of {ggml_type}'s block size ({block})")]
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
    /// The weights of a block are so large that its scale overflows.
    #[error("the weights at {index} of the row are too large for {ggml_type}")]
    TooLarge {
        /// The format.
        ggml_type: GgmlType,
        /// Position in the row of the block's first weight.
        index: usize,
    },
}

/// Quantizes one row (or any whole number of blocks) into exactly
/// `ggml_type.row_bytes(weights.len())` bytes, bit for bit as ggml's reference does.
///
/// # Errors
/// A type that quantkit cannot write, a row that is not a whole number of blocks, a weight that is
/// NaN, infinite or too large for the format's scales.
///
/// # Panics
/// If `output` has another length.
pub fn quantize_row(
    ggml_type: GgmlType,
    weights: &[f32],
    output: &mut [u8],
) -> Result<(), CodecError> {
    quantize_row_with(InstructionSet::current(), ggml_type, weights, output)
}

/// [`quantize_row`] with the instructions of one set: the bytes are the same with all of them.
///
/// # Errors
/// As [`quantize_row`].
///
/// # Panics
/// As [`quantize_row`], and if the machine lacks the set.
pub fn quantize_row_with(
    set: InstructionSet,
    ggml_type: GgmlType,
    weights: &[f32],
    output: &mut [u8],
) -> Result<(), CodecError> {
    let Some(&Codec { quantize: Some(quantize), refuses_not_finite, .. }) = find(ggml_type) else {
        return Err(CodecError::Unsupported(ggml_type, "written"));
    };
    let bytes = row_bytes(ggml_type, weights.len())?;
    assert_eq!(output.len(), bytes, "the output has room for the row and no more");
    assert!(set.available(), "the machine has {}", set.name());
    if !refuses_not_finite {
        check_finite(set, weights)?;
    }
    quantize(set, weights, output).map_err(|block| {
        let first = block * ggml_type.block_size();
        let refused = &weights[first..first + ggml_type.block_size()];
        not_finite(first, refused).unwrap_or(CodecError::TooLarge { ggml_type, index: first })
    })
}

/// Quantizes whole rows like [`quantize_row`], weighing each column's error by its importance (the
/// mean squared activation that the column meets, one number a column) where the format does.
///
/// # Errors
/// As [`quantize_row`].
///
/// # Panics
/// If `weights` is no whole number of rows as long as `importance`, or `output` has another length
/// than they take.
pub fn quantize_weighted(
    ggml_type: GgmlType,
    weights: &[f32],
    importance: &[f32],
    output: &mut [u8],
) -> Result<(), CodecError> {
    quantize_weighted_with(InstructionSet::current(), ggml_type, weights, importance, output)
}

/// [`quantize_weighted`] with the instructions of one set: the bytes are the same with all of them.
///
/// # Errors
/// As [`quantize_row`].
///
/// # Panics
/// As [`quantize_weighted`], and if the machine lacks the set.
pub fn quantize_weighted_with(
    set: InstructionSet,
    ggml_type: GgmlType,
    weights: &[f32],
    importance: &[f32],
    output: &mut [u8],
) -> Result<(), CodecError> {
    let Some(weighted) = find(ggml_type).and_then(|codec| codec.weighted) else {
        return quantize_row_with(set, ggml_type, weights, output);
    };
    assert!(weights.len().is_multiple_of(importance.len()), "the weights are whole rows");
    let bytes = row_bytes(ggml_type, importance.len())? * (weights.len() / importance.len());
    assert_eq!(output.len(), bytes, "the output has room for the rows and no more");
    assert!(set.available(), "the machine has {}", set.name());
    check_finite(set, weights)?;
    weighted(set, weights, importance, output).map_err(|block| too_large(ggml_type, block))
}

fn too_large(ggml_type: GgmlType, block: usize) -> CodecError {
    CodecError::TooLarge { ggml_type, index: block * ggml_type.block_size() }
}

/// Whether [`quantize_weighted`] makes other blocks than [`quantize_row`].
pub fn heeds_importance(ggml_type: GgmlType) -> bool {
    find(ggml_type).is_some_and(|codec| codec.weighted.is_some())
}

/// Weights that go through f32 at a time where a format has no shorter way; a multiple of every
/// format's block, and small enough for a core's nearest cache.
const PIECE: usize = 1 << 12;

/// Quantizes what `source` says in `bytes`: [`dequantize_row`] and then [`quantize_row`], in pieces
/// that stay in the processor's nearest cache, or in its registers where that can be.
///
/// # Errors
/// As those two.
///
/// # Panics
/// If `bytes` is not a whole number of blocks, or `output` has another length than they take.
pub fn requantize(
    source: GgmlType,
    bytes: &[u8],
    ggml_type: GgmlType,
    output: &mut [u8],
) -> Result<(), CodecError> {
    requantize_with(InstructionSet::current(), source, bytes, ggml_type, output)
}

/// [`requantize`] with the instructions of one set: the bytes are the same with all of them.
///
/// # Errors
/// As [`requantize`].
///
/// # Panics
/// As [`requantize`], and if the machine lacks the set.
pub fn requantize_with(
    set: InstructionSet,
    source: GgmlType,
    bytes: &[u8],
    ggml_type: GgmlType,
    output: &mut [u8],
) -> Result<(), CodecError> {
    assert!(bytes.len().is_multiple_of(source.block_bytes()), "the input is whole blocks");
    let weights = bytes.len() / source.block_bytes() * source.block_size();
    assert_eq!(output.len(), row_bytes(ggml_type, weights)?, "the output has room and no more");
    assert!(set.available(), "the machine has {}", set.name());
    let direct = find(ggml_type).and_then(|codec| match source {
        GgmlType::F16 => codec.from_f16,
        GgmlType::BF16 => codec.from_bf16,
        _ => None,
    });
    if direct.is_some_and(|quantize| quantize(set, bytes, output).is_ok()) {
        return Ok(());
    }
    // What the direct way refuses is refused again here, with its place and value.
    let mut piece = [0.0; PIECE];
    let piece_bytes = PIECE / source.block_size() * source.block_bytes();
    let piece_output = PIECE / ggml_type.block_size() * ggml_type.block_bytes();
    for (number, (bytes, output)) in
        bytes.chunks(piece_bytes).zip(output.chunks_mut(piece_output)).enumerate()
    {
        let piece = &mut piece[..bytes.len() / source.block_bytes() * source.block_size()];
        dequantize_row_with(set, source, bytes, piece)?;
        quantize_row_with(set, ggml_type, piece, output)
            .map_err(|error| error.moved(number * PIECE))?;
    }
    Ok(())
}

impl CodecError {
    /// The same about a weight `by` weights further on.
    fn moved(self, by: usize) -> Self {
        match self {
            Self::NotFinite { index, value } => Self::NotFinite { index: index + by, value },
            Self::TooLarge { ggml_type, index } => Self::TooLarge { ggml_type, index: index + by },
            other => other,
        }
    }
}

/// Dequantizes one row (or any whole number of blocks), bit for bit as ggml's reference does.
/// Reads every type that [`crate::gguf`] knows how to quantize or that quantkit can read
/// (F32, F16, BF16 included).
///
/// # Errors
/// A type that quantkit cannot read, a row that is not a whole number of blocks.
///
/// # Panics
/// If `bytes` does not have exactly `ggml_type.row_bytes(output.len())` bytes.
pub fn dequantize_row(
    ggml_type: GgmlType,
    bytes: &[u8],
    output: &mut [f32],
) -> Result<(), CodecError> {
    dequantize_row_with(InstructionSet::current(), ggml_type, bytes, output)
}

/// [`dequantize_row`] with the instructions of one set: the weights are the same with all of them.
///
/// # Errors
/// As [`dequantize_row`].
///
/// # Panics
/// As [`dequantize_row`], and if the machine lacks the set.
pub fn dequantize_row_with(
    set: InstructionSet,
    ggml_type: GgmlType,
    bytes: &[u8],
    output: &mut [f32],
) -> Result<(), CodecError> {
    let codec = find(ggml_type).ok_or(CodecError::Unsupported(ggml_type, "read"))?;
    let expected = row_bytes(ggml_type, output.len())?;
    assert_eq!(bytes.len(), expected, "the input holds the row and no more");
    assert!(set.available(), "the machine has {}", set.name());
    (codec.dequantize)(set, bytes, output);
    Ok(())
}

/// Every format that quantkit knows, in the order of the registry.
pub fn known() -> impl Iterator<Item = GgmlType> {
    CODECS.iter().map(|codec| codec.ggml_type)
}

/// What the formats are, a row each, as a Markdown table.
pub fn table() -> String {
    let mut table = String::from(
        "| format | bits a weight | weights a block | bytes a block | layout | built | heeds importance |\n\
         |---|--:|--:|--:|---|---|---|\n",
    );
    for codec in CODECS {
        let Codec { ggml_type, layout, built, .. } = codec;
        let (bits, block) = (ggml_type.bits_per_weight(), ggml_type.block_size());
        let bytes = ggml_type.block_bytes();
        let heeds = if codec.weighted.is_some() { "yes" } else { "no" };
        let row =
            format!("| {ggml_type} | {bits} | {block} | {bytes} | {layout} | {built} | {heeds} |");
        table.push_str(&row);
        table.push('\n');
    }
    table
}

/// Whether [`dequantize_row`] knows the type.
pub fn can_dequantize(ggml_type: GgmlType) -> bool {
    find(ggml_type).is_some()
}

/// Whether [`quantize_row`] knows the type.
pub fn can_quantize(ggml_type: GgmlType) -> bool {
    find(ggml_type).is_some_and(|codec| codec.quantize.is_some())
}

fn find(ggml_type: GgmlType) -> Option<&'static Codec> {
    CODECS.into_iter().find(|codec| codec.ggml_type == ggml_type)
}

fn row_bytes(ggml_type: GgmlType, columns: usize) -> Result<usize, CodecError> {
    ggml_type.row_bytes(columns).ok_or(CodecError::Ragged {
        ggml_type,
        columns,
        block: ggml_type.block_size(),
    })
}

fn check_finite(set: InstructionSet, weights: &[f32]) -> Result<(), CodecError> {
    if arithmetic::all_finite(set, weights) {
        return Ok(());
    }
    not_finite(0, weights).map_or(Ok(()), Err)
}

/// The first weight that is not finite as an error, if there is one; the first of all is number
/// `first`.
fn not_finite(first: usize, weights: &[f32]) -> Option<CodecError> {
    let at = weights.iter().position(|weight| !weight.is_finite())?;
    Some(CodecError::NotFinite { index: first + at, value: weights[at].to_string() })
}

#[cfg(test)]
mod tests;
