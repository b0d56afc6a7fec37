//! Rows of weights from one type to another, in bounded pieces.

use std::path::Path;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use super::error::ConvertError;
use crate::gguf::GgmlType;
use crate::quant::formats::{self, CodecError};

/// The type of the weights in an output file. Vectors stay F32 in GGUF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats with 5 bits of exponent.
    F16,
    /// 16-bit floats with the exponent of 32-bit ones.
    BF16,
}

impl WeightType {
    /// ggml's type.
    pub fn ggml_type(self) -> GgmlType {
        match self {
            Self::F32 => GgmlType::F32,
            Self::F16 => GgmlType::F16,
            Self::BF16 => GgmlType::BF16,
        }
    }

    /// The type of weights that are of a ggml type, if it is one of these.
    pub(super) fn of(ggml_type: GgmlType) -> Option<Self> {
        [Self::F32, Self::F16, Self::BF16].into_iter().find(|one| one.ggml_type() == ggml_type)
    }

    /// The type of safetensors.
    pub(super) fn safetensors_name(self) -> &'static str {
        self.ggml_type().name()
    }

    /// The type's name in config.json.
    pub(super) fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
        }
    }

    /// Bytes of one weight.
    pub(super) fn bytes(self) -> usize {
        self.ggml_type().block_bytes()
    }
}

/// Weights that one task converts; their f32 values stay in a core's cache.
const TASK_WEIGHTS: usize = 1 << 14;
/// Weights that are converted between two writes.
const PIECE_WEIGHTS: usize = 1 << 22;

/// A matrix in a mapped file, and the order in which its rows are wanted.
pub(super) struct Rows<'a> {
    /// The file and the tensor, to name in errors.
    pub path: &'a Path,
    pub tensor: &'a str,
    pub bytes: &'a [u8],
    pub from: GgmlType,
    pub rows: usize,
    pub columns: usize,
    /// Which row of the file comes as row `index`.
    pub source: &'a (dyn Fn(usize) -> usize + Sync),
    /// What is added to each weight.
    pub added: f32,
}

/// Converts a matrix piece by piece and hands each piece to `write`.
pub(super) fn convert_rows(
    rows: &Rows<'_>,
    to: WeightType,
    mut write: impl FnMut(&[u8]) -> Result<(), ConvertError>,
) -> Result<(), ConvertError> {
    let failed = |error: CodecError| {
        ConvertError::unusable(rows.path, format!("tensor \"{}\": {error}", rows.tensor))
    };
    let ragged = || {
        failed(CodecError::Ragged {
            ggml_type: rows.from,
            columns: rows.columns,
            block: rows.from.block_size(),
        })
    };
    let source_bytes = rows.from.row_bytes(rows.columns).ok_or_else(ragged)?;
    let target_bytes = rows.columns * to.bytes();
    let rows_a_piece = (PIECE_WEIGHTS / rows.columns.max(1)).clamp(1, rows.rows.max(1));
    let rows_a_task = (TASK_WEIGHTS / rows.columns.max(1)).max(1);
    let mut piece = vec![0; rows_a_piece * target_bytes];
    for first in (0..rows.rows).step_by(rows_a_piece) {
        let count = rows_a_piece.min(rows.rows - first);
        let output = &mut piece[..count * target_bytes];
        let overflows = output
            .par_chunks_mut(rows_a_task * target_bytes)
            .enumerate()
            .map(|(task, output)| {
                let mut scratch = vec![0.0; rows.columns];
                let mut overflows = 0;
                for (index, output) in output.chunks_exact_mut(target_bytes).enumerate() {
                    let row = (rows.source)(first + task * rows_a_task + index);
                    let input = &rows.bytes[row * source_bytes..(row + 1) * source_bytes];
                    overflows +=
                        convert_row(rows.from, input, rows.added, to, output, &mut scratch)?;
                }
                Ok(overflows)
            })
            .sum::<Result<usize, CodecError>>()
            .map_err(failed)?;
        if overflows > 0 {
            return Err(too_large_for_f16(rows.path, rows.tensor, None));
        }
        write(output)?;
    }
    Ok(())
}

/// The error of a finite weight that F16 has no room for.
pub(super) fn too_large_for_f16(path: &Path, tensor: &str, weight: Option<f32>) -> ConvertError {
    let weight = weight.map_or_else(|| "a weight".to_string(), |weight| format!("{weight}"));
    ConvertError::unusable(
        path,
        format!(
            "tensor \"{tensor}\": {weight} is too large for F16, whose largest number is 65504; \
             take BF16 or F32 instead (--dtype)"
        ),
    )
}

/// Converts weights, adding a number to each; the number of weights that overflowed.
pub(super) fn convert_row(
    from: GgmlType,
    input: &[u8],
    added: f32,
    to: WeightType,
    output: &mut [u8],
    scratch: &mut [f32],
) -> Result<usize, CodecError> {
    if from == to.ggml_type() && added == 0.0 {
        output.copy_from_slice(input);
        return Ok(0);
    }
    formats::dequantize_row(from, input, scratch)?;
    if added != 0.0 {
        add(scratch, added, from);
    }
    match to {
        WeightType::F32 => {
            for (bytes, weight) in output.chunks_exact_mut(4).zip(&*scratch) {
                bytes.copy_from_slice(&weight.to_le_bytes());
            }
            Ok(0)
        }
        WeightType::F16 => {
            let mut halves = vec![f16::ZERO; scratch.len()];
            halves.convert_from_f32_slice(scratch);
            let mut overflows = 0;
            for ((bytes, half), weight) in output.chunks_exact_mut(2).zip(&halves).zip(&*scratch) {
                bytes.copy_from_slice(&half.to_le_bytes());
                overflows += usize::from(half.is_infinite() && weight.is_finite());
            }
            Ok(overflows)
        }
        WeightType::BF16 => {
            for (bytes, weight) in output.chunks_exact_mut(2).zip(&*scratch) {
                bytes.copy_from_slice(&bf16::from_f32(*weight).to_le_bytes());
            }
            Ok(0)
        }
    }
}

/// Adds a number to each weight. Halves stay halves, as in llama.cpp's converter; all else is added in
/// 32 bits.
fn add(weights: &mut [f32], added: f32, from: GgmlType) {
    for weight in weights {
        *weight += added;
        if from == GgmlType::F16 {
            *weight = f16::from_f32(*weight).to_f32();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn converted(
        from: GgmlType,
        bytes: &[u8],
        added: f32,
        to: WeightType,
    ) -> Result<Vec<u8>, String> {
        let columns = bytes.len() / from.block_bytes() * from.block_size();
        let (path, tensor) = (Path::new("file"), "tensor");
        let rows = Rows { path, tensor, bytes, from, rows: 1, columns, source: &|row| row, added };
        let mut output = Vec::new();
        let done = convert_rows(&rows, to, |piece| {
            output.extend_from_slice(piece);
            Ok(())
        });
        done.map(|()| output).map_err(|error| error.to_string())
    }

    fn bytes_of(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn halves_round_to_even_and_what_they_cannot_hold_is_refused() {
        let values = [1.0, 1.0 + 2_f32.powi(-11), 1.0 + 3.0 * 2_f32.powi(-11), 1e-8];
        let bytes = converted(GgmlType::F32, &bytes_of(&values), 0.0, WeightType::F16).unwrap();
        let halves: Vec<u16> =
            bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
        assert_eq!(halves, [0x3c00, 0x3c00, 0x3c02, 0x0000]);
        let infinite = converted(GgmlType::F32, &bytes_of(&[f32::INFINITY]), 0.0, WeightType::F16);
        assert_eq!(infinite, Ok(vec![0x00, 0x7c]));
        let large = converted(GgmlType::F32, &bytes_of(&[-65_520.0]), 0.0, WeightType::F16);
        assert!(large.unwrap_err().contains("too large for F16"));
    }

    #[test]
    fn what_is_added_to_halves_stays_a_half() {
        let small = f16::from_f32(2_f32.powi(-12));
        let values = |from, bytes: &[u8]| converted(from, bytes, 1.0, WeightType::F32).unwrap();
        assert_eq!(values(GgmlType::F16, &small.to_le_bytes()), bytes_of(&[1.0]));
        assert_eq!(
            values(GgmlType::F32, &bytes_of(&[small.to_f32()])),
            bytes_of(&[1.0 + 2_f32.powi(-12)])
        );
    }

    #[test]
    fn sixteen_bits_survive_the_way_through_thirty_two() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for (from, to) in [(GgmlType::F16, WeightType::F16), (GgmlType::BF16, WeightType::BF16)] {
            let wide = converted(from, &all, 0.0, WeightType::F32).unwrap();
            let narrow = converted(GgmlType::F32, &wide, 0.0, to).unwrap();
            for (before, after) in all.chunks_exact(2).zip(narrow.chunks_exact(2)) {
                let value = u16::from_le_bytes([before[0], before[1]]);
                let is_nan = match to {
                    WeightType::F16 => f16::from_bits(value).is_nan(),
                    _ => bf16::from_bits(value).is_nan(),
                };
                assert!(before == after || is_nan, "{value:#06x}");
            }
        }
    }

    #[test]
    fn rows_come_in_the_order_asked_for() {
        let bytes = bytes_of(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
        let rows = Rows {
            path: Path::new("file"),
            tensor: "tensor",
            bytes: &bytes,
            from: GgmlType::F32,
            rows: 3,
            columns: 2,
            source: &|row| 2 - row,
            added: 0.0,
        };
        let mut output = Vec::new();
        convert_rows(&rows, WeightType::F32, |piece| {
            output.extend_from_slice(piece);
            Ok(())
        })
        .unwrap();
        assert_eq!(output, bytes_of(&[4.0, 5.0, 2.0, 3.0, 0.0, 1.0]));
    }
}
