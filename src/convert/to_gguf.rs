//! A Hugging Face checkpoint directory → a GGUF file with the tensors and metadata that llama.cpp's
//! converter writes. Tensors are streamed from the mapped shards: memory does not grow with the
//! model.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::checkpoint_model::{CheckpointModel, Origin};
use super::error::ConvertError;
use super::families::hugging_face_row;
use super::weights::{Rows, WeightType, convert_rows};
use crate::gguf::{GgufWriter, TensorInfo, TensorPlan};
use crate::quant::source::TensorSource;
use crate::support::interrupt;
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

fn write_tensor(
    writer: &mut GgufWriter,
    model: &CheckpointModel,
    index: usize,
    progress: &Progress,
) -> Result<(), ConvertError> {
    let (name, from, head_dim) = match model.origin(index) {
        Origin::Computed(bytes) => return Ok(writer.write(bytes)?),
        Origin::Checkpoint { name, from, head_dim } => (name, *from, *head_dim),
    };
    let tensor = &model.tensors()[index];
    let view = model.view(name);
    let source = |row| head_dim.map_or(row, |head_dim| hugging_face_row(row, head_dim));
    let rows = Rows {
        path: view.path,
        tensor: view.name,
        bytes: view.bytes,
        from,
        rows: tensor.rows(),
        columns: tensor.columns(),
        source: &source,
    };
    let losses = convert_rows(&rows, model.type_of(index), |piece| {
        interrupt::check()?;
        progress.advance(piece.len() as u64);
        Ok(writer.write(piece)?)
    })?;
    losses.warn(view.path, view.name);
    Ok(())
}
