//! Splitting a model into several files and joining them again: tensors are copied as they are.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::split::{self, PartLimit};
use super::{GgufError, GgufFile, GgufWriter, TensorInfo, TensorPlan};
use crate::support::input_file::InputError;
use crate::support::interrupt::{self, Interrupted};
use crate::support::path_text;
use crate::support::progress::{Progress, Unit};
use crate::support::same_file::is_same_file;

/// Bytes that are copied between two looks at the clock and at Ctrl-C.
const PIECE_BYTES: usize = 8 << 20;

/// Why a model could not be split or joined. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum RegroupError {
    /// A file cannot be read or written.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The input changed meanwhile.
    #[error(transparent)]
    Input(#[from] InputError),
    /// An output would replace an input.
    #[error("{}: this file is read, so it cannot be written; give another name", .0.display())]
    SameFile(PathBuf),
    /// The user stopped it.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// What was read and written.
#[derive(Debug, Clone, Serialize)]
pub struct RegroupReport {
    /// The files that were read.
    #[serde(serialize_with = "path_text::several")]
    pub inputs: Vec<PathBuf>,
    /// The files that were written.
    #[serde(serialize_with = "path_text::several")]
    pub outputs: Vec<PathBuf>,
    /// Number of tensors.
    pub tensors: usize,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Wall time.
    pub seconds: f64,
}

/// Writes the model of `input` as parts `PREFIX-00001-of-00003.gguf` and so on, the same bytes as
/// `llama-gguf-split --split` writes but for the key that they have in common. A model that is split
/// already is divided anew.
///
/// # Errors
/// See [`RegroupError`].
pub fn split_model(
    input: &Path,
    prefix: &Path,
    limit: PartLimit,
) -> Result<RegroupReport, RegroupError> {
    let started = Instant::now();
    let file = GgufFile::open(input)?;
    let plans = file.tensors().iter().map(TensorPlan::of).collect();
    let prefix = split::part_prefix(prefix);
    let writer = GgufWriter::create_split(&prefix, file.metadata(), plans, limit)?;
    copy(&file, writer, started, "splitting")
}

/// Writes the model whose first part is `input` as one file, the same bytes as
/// `llama-gguf-split --merge` writes.
///
/// # Errors
/// See [`RegroupError`]; a file that is no part of a split model.
pub fn join_model(input: &Path, output: &Path) -> Result<RegroupReport, RegroupError> {
    let started = Instant::now();
    let file = GgufFile::open(input)?;
    if !split::is_part(file.metadata()) {
        return Err(GgufError::malformed(
            input,
            "this file is no part of a split model but a whole one; there is nothing to join",
        )
        .into());
    }
    let plans = file.tensors().iter().map(TensorPlan::of).collect();
    let writer = GgufWriter::create(output, &split::joined_metadata(file.metadata()), plans)?;
    copy(&file, writer, started, "joining")
}

fn copy(
    file: &GgufFile,
    mut writer: GgufWriter,
    started: Instant,
    what: &str,
) -> Result<RegroupReport, RegroupError> {
    let outputs: Vec<PathBuf> = writer.paths().map(Path::to_path_buf).collect();
    let is_read = |output: &&PathBuf| file.part_paths().any(|input| is_same_file(input, output));
    if let Some(output) = outputs.iter().find(is_read) {
        return Err(RegroupError::SameFile(output.clone()));
    }
    let tensor_bytes = file.tensors().iter().map(TensorInfo::bytes).sum();
    let progress = Progress::new(what, tensor_bytes, Unit::Bytes);
    for tensor in file.tensors() {
        progress.message(&tensor.name);
        for piece in file.tensor_bytes(tensor).chunks(PIECE_BYTES) {
            interrupt::check()?;
            writer.write(piece)?;
            progress.advance(piece.len() as u64);
        }
        file.release_tensor(tensor);
    }
    file.inputs().check()?;
    writer.finish()?;
    progress.finish();
    Ok(RegroupReport {
        inputs: file.part_paths().map(Path::to_path_buf).collect(),
        outputs,
        tensors: file.tensors().len(),
        tensor_bytes,
        seconds: started.elapsed().as_secs_f64(),
    })
}
