//! A Hugging Face checkpoint directory → a GGUF file with the tensors and metadata that llama.cpp's
//! converter writes. Tensors are streamed from the mapped shards: memory does not grow with the
//! model.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use rayon::prelude::*;

use super::checkpoint_model::CheckpointModel;
use super::error::ConvertError;
use super::weights::{WeightType, too_large_for_f16};
use crate::gguf::{GgmlType, GgufWriter, TensorInfo, TensorPlan};
use crate::quant::source::TensorSource;
use crate::support::interrupt;
use crate::support::path_text;
use crate::support::progress::{Progress, Unit};
use crate::support::same_file::is_same_file;

/// What to convert.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// The checkpoint directory.
    pub input: PathBuf,
    /// The GGUF file to write.
    pub output: PathBuf,
    /// The type of the matrices; the checkpoint's own 16-bit type, or F16, where absent.
    pub weight_type: Option<WeightType>,
}

/// What a conversion wrote.
#[derive(Debug, Clone, Serialize)]
pub struct ConvertReport {
    /// The file.
    #[serde(serialize_with = "path_text::one")]
    pub output: PathBuf,
    /// `general.architecture`.
    pub architecture: &'static str,
    /// Type of the matrices.
    pub weight_type: &'static str,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of weights.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Wall time.
    pub seconds: f64,
}

/// Converts a checkpoint directory into a GGUF file. The file appears only when it is complete.
///
/// # Errors
/// An unknown architecture or tokenizer, missing, unknown or misshapen tensors, unreadable or
/// unwritable files.
pub fn convert(options: &ConvertOptions) -> Result<ConvertReport, ConvertError> {
    let started = Instant::now();
    let model = CheckpointModel::open(&options.input, options.weight_type)?;
    if model.files().iter().any(|input| is_same_file(input, &options.output)) {
        let problem = "the output is a file of the checkpoint; give it another name";
        return Err(ConvertError::unusable(&options.output, problem));
    }
    let plans = model.tensors().iter().map(TensorPlan::of).collect();
    let mut writer = GgufWriter::create(&options.output, model.metadata(), plans)?;
    let tensor_bytes = model.tensors().iter().map(TensorInfo::bytes).sum();
    let progress = Progress::new("convert", tensor_bytes, Unit::Bytes);
    for (index, tensor) in model.tensors().iter().enumerate() {
        interrupt::check()?;
        progress.message(&tensor.name);
        write_tensor(&mut writer, &model, index, &progress)?;
        model.release(index, 0..tensor.bytes() as usize);
    }
    progress.finish();
    model.inputs().check()?;
    writer.finish()?;
    Ok(ConvertReport {
        output: options.output.clone(),
        architecture: model.architecture(),
        weight_type: model.weight_type().ggml_type().name(),
        tensors: model.tensors().len(),
        parameters: model.tensors().iter().map(TensorInfo::weights).sum(),
        tensor_bytes,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Weights that one task converts, and that are converted between two writes.
const TASK_WEIGHTS: usize = 1 << 14;
const PIECE_WEIGHTS: usize = TASK_WEIGHTS << 8;

fn write_tensor(
    writer: &mut GgufWriter,
    model: &CheckpointModel,
    index: usize,
    progress: &Progress,
) -> Result<(), ConvertError> {
    let tensor = &model.tensors()[index];
    let (total, size) = (tensor.weights() as usize, tensor.ggml_type.block_bytes());
    let mut piece = vec![0; total.min(PIECE_WEIGHTS) * size];
    for first in (0..total).step_by(PIECE_WEIGHTS) {
        interrupt::check()?;
        let piece = &mut piece[..(total - first).min(PIECE_WEIGHTS) * size];
        piece.par_chunks_mut(TASK_WEIGHTS * size).enumerate().try_for_each(|(task, output)| {
            let start = first + task * TASK_WEIGHTS;
            fill(model, index, start, output)
        })?;
        progress.advance(piece.len() as u64);
        writer.write(piece)?;
    }
    Ok(())
}

/// Fills `output` with the bytes of a tensor from weight `start` on.
fn fill(
    model: &CheckpointModel,
    index: usize,
    start: usize,
    output: &mut [u8],
) -> Result<(), ConvertError> {
    let tensor = &model.tensors()[index];
    let place = start * tensor.ggml_type.block_bytes();
    let mut buffer = Vec::new();
    output.copy_from_slice(model.bytes(index, place..place + output.len(), &mut buffer));
    if tensor.ggml_type != GgmlType::F16 {
        return Ok(());
    }
    let infinite = |pair: &[u8; 2]| u16::from_le_bytes(*pair) & 0x7fff == 0x7c00;
    let found = output.as_chunks::<2>().0.iter().enumerate().filter(|(_, pair)| infinite(pair));
    match found.filter_map(|(weight, _)| model.overflowed(index, start + weight)).next() {
        None => Ok(()),
        Some(weight) => Err(too_large_for_f16(model.path(), &tensor.name, Some(weight))),
    }
}
