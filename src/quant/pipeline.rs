//! A GGUF file in, a quantized one out, in pieces: memory stays bounded at any model size.

use std::path::{Path, PathBuf};
use std::time::Instant;

use rayon::prelude::*;
use serde::Serialize;

use super::formats::{self, CodecError};
use super::importance::Importance;
use super::selection::{Choice, Reason, Selection, SelectionError};
use super::weighing::{self, WeighingError};
use crate::gguf::{
    GgmlType, GgufError, GgufFile, GgufWriter, Metadata, TensorInfo, TensorPlan, Value, file_bytes,
};
use crate::support::interrupt::{self, Interrupted};
use crate::support::progress::{Progress, Unit};

/// Weights that one task codes at a time: their f32 values stay in a core's cache. A multiple of
/// every format's block.
const TASK_WEIGHTS: usize = 1 << 14;
/// Weights that are coded between two writes; at four bytes a weight, 16 MiB.
const PIECE_WEIGHTS: usize = TASK_WEIGHTS << 8;

/// Why a file could not be quantized. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum QuantizeError {
    /// The input cannot be read or the output cannot be written.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The output would replace the input.
    #[error("{}: the output is the input; give it another name", .0.display())]
    SameFile(PathBuf),
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
    /// The input is one part of several.
    #[error(
        "{}: one of {parts} parts of a model; merge them first \
         (llama.cpp's llama-gguf-split --merge does)", path.display()
    )]
    Split {
        /// The input.
        path: PathBuf,
        /// How many parts the file says there are.
        parts: u64,
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
        /// Row and column of the weight, where it is a weight's fault.
        position: Option<(usize, usize)>,
        /// What is wrong.
        source: CodecError,
    },
    /// The user stopped it.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

fn place(position: Option<(usize, usize)>) -> String {
    position.map_or(String::new(), |(row, column)| format!(", row {row}, column {column}"))
}

/// What was done to one tensor.
#[derive(Debug, Clone, Serialize)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// Its dimensions in GGUF order, columns first.
    pub dimensions: Vec<u64>,
    /// Its type in the input.
    pub old_type: &'static str,
    /// Its type in the output.
    pub new_type: &'static str,
    /// The type that was asked for, where the tensor's rows are no whole number of its blocks.
    pub wanted_type: Option<&'static str>,
    /// Why it has its new type, where there is more to say than that it is the recipe's.
    pub note: String,
    /// Its size in the input.
    pub old_bytes: u64,
    /// Its size in the output.
    pub new_bytes: u64,
}

/// What was done to a file.
#[derive(Debug, Clone, Serialize)]
pub struct QuantizeReport {
    /// The file that was read.
    pub input: PathBuf,
    /// The file that was written, or would have been.
    pub output: PathBuf,
    /// The recipe's name, or the plan's.
    pub recipe: String,
    /// Each tensor in the order of the output.
    pub tensors: Vec<TensorReport>,
    /// Weights in all tensors.
    pub weights: u64,
    /// Bytes of all tensors in the input.
    pub old_bytes: u64,
    /// Bytes of all tensors in the output.
    pub new_bytes: u64,
    /// Bits a weight took in the input.
    pub old_bits_per_weight: f64,
    /// Bits a weight takes in the output.
    pub new_bits_per_weight: f64,
    /// Bytes of the output, metadata included.
    pub file_bytes: u64,
    /// Wall time, opening and writing included.
    pub seconds: f64,
    /// Weights read, coded and written in a second; nothing where nothing was written.
    pub weights_per_second: Option<f64>,
}

/// What is to be done with a file.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Where the result goes.
    pub output: &'a Path,
    /// Which tensor gets which format.
    pub selection: &'a Selection,
    /// How much each column of a matrix matters, for the formats that heed it.
    pub importance: Option<&'a Importance>,
    /// Whether tensors of unknown importance may be coded without it.
    pub allow_partial_importance: bool,
    /// Whether weights that are quantized already may be quantized again.
    pub allow_requantize: bool,
    /// The most bytes of tensors that one part of the output holds; one file where there is none.
    pub split_max_size: Option<u64>,
}

impl<'a> Request<'a> {
    /// One file at `output`, by `selection` and nothing else.
    pub fn new(output: &'a Path, selection: &'a Selection) -> Self {
        Self {
            output,
            selection,
            importance: None,
            allow_partial_importance: false,
            allow_requantize: false,
            split_max_size: None,
        }
    }
}

/// Quantizes `input` as `request` says, on the current rayon pool.
///
/// The output has llama.cpp's order of tensors and metadata: everything that the input says, plus
/// `general.quantization_version` and `general.file_type`.
///
/// # Errors
/// See [`QuantizeError`]; the output appears only when everything went well.
pub fn quantize_file(input: &Path, request: &Request<'_>) -> Result<QuantizeReport, QuantizeError> {
    let started = Instant::now();
    refuse_same_file(input, request.output)?;
    let file = GgufFile::open(input)?;
    let job = Job::new(&file, request)?;
    job.check_importance(request)?;
    let plans = job.plans();
    let mut writer = GgufWriter::create(request.output, &job.metadata, plans)?;
    write_tensors(&file, &job.choices, &mut writer)?;
    writer.finish()?;
    let mut report = job.report(request)?;
    let seconds = started.elapsed().as_secs_f64();
    (report.seconds, report.weights_per_second) = (seconds, Some(report.weights as f64 / seconds));
    Ok(report)
}

/// What [`quantize_file`] would do, down to the size of the file, without doing it.
///
/// # Errors
/// As [`quantize_file`], but for what is found out only by doing it.
pub fn preview(input: &Path, request: &Request<'_>) -> Result<QuantizeReport, QuantizeError> {
    let started = Instant::now();
    let file = GgufFile::open(input)?;
    let job = Job::new(&file, request)?;
    if let Err(problem) = job.check_importance(request) {
        tracing::warn!("{problem}");
    }
    let mut report = job.report(request)?;
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// A file and what is to become of it.
struct Job<'a> {
    file: &'a GgufFile,
    choices: Vec<Choice<'a>>,
    /// The output's.
    metadata: Metadata,
}

impl<'a> Job<'a> {
    fn new(file: &'a GgufFile, request: &Request<'_>) -> Result<Self, QuantizeError> {
        refuse_unsuitable(file, request.allow_requantize)?;
        let choices = choose(file, request)?;
        let file_type = request.selection.file_type(&choices);
        let metadata = output_metadata(file.metadata(), file_type, request.importance);
        Ok(Self { file, choices, metadata })
    }

    fn check_importance(&self, request: &Request<'_>) -> Result<(), QuantizeError> {
        let Request { selection, importance, allow_partial_importance, .. } = *request;
        weighing::check(selection, &self.choices, importance, allow_partial_importance).map_err(
            |source| QuantizeError::Weighing { path: self.file.path().to_path_buf(), source },
        )
    }

    fn plans(&self) -> Vec<TensorPlan> {
        self.choices.iter().map(plan).collect()
    }

    /// The report without the time that it took.
    fn report(&self, request: &Request<'_>) -> Result<QuantizeReport, QuantizeError> {
        let tensors: Vec<TensorReport> = self.choices.iter().map(tensor_report).collect();
        let weights = self.choices.iter().map(|choice| choice.tensor.weights()).sum::<u64>();
        let old_bytes = tensors.iter().map(|tensor| tensor.old_bytes).sum();
        let new_bytes = tensors.iter().map(|tensor| tensor.new_bytes).sum();
        let bits_per_weight = |bytes: u64| bytes as f64 * 8.0 / weights.max(1) as f64;
        let file_bytes = file_bytes(&self.metadata, &self.plans())
            .map_err(|problem| GgufError::malformed(self.file.path(), problem))?;
        Ok(QuantizeReport {
            input: self.file.path().to_path_buf(),
            output: request.output.to_path_buf(),
            recipe: request.selection.name().to_string(),
            tensors,
            weights,
            old_bytes,
            new_bytes,
            old_bits_per_weight: bits_per_weight(old_bytes),
            new_bits_per_weight: bits_per_weight(new_bytes),
            file_bytes,
            seconds: 0.0,
            weights_per_second: None,
        })
    }
}

fn choose<'a>(file: &'a GgufFile, request: &Request<'_>) -> Result<Vec<Choice<'a>>, QuantizeError> {
    let choices = request
        .selection
        .choose(file.metadata(), file.tensors(), request.importance.is_some())
        .map_err(|source| QuantizeError::Selection { path: file.path().to_path_buf(), source })?;
    log_choices(request.selection, &choices);
    Ok(choices)
}

fn log_choices(selection: &Selection, choices: &[Choice]) {
    tracing::info!("{}: formats chosen for {} tensors", selection.name(), choices.len());
    for Choice { tensor, format, reason } in choices {
        if *reason != Reason::Default {
            tracing::info!("{}: {format}, {reason}", tensor.name);
        }
    }
}

fn write_tensors(
    file: &GgufFile,
    choices: &[Choice],
    writer: &mut GgufWriter,
) -> Result<(), QuantizeError> {
    let total = choices.iter().map(|choice| choice.tensor.bytes()).sum();
    let progress = Progress::new("quantizing", total, Unit::Bytes);
    let mut coder = Coder { file, writer, progress: &progress };
    let result = choices.iter().try_for_each(|choice| {
        progress.message(choice.tensor.name.clone());
        coder.write_tensor(choice)
    });
    progress.finish();
    result
}

fn refuse_same_file(input: &Path, output: &Path) -> Result<(), QuantizeError> {
    match (input.canonicalize(), output.canonicalize()) {
        (Ok(source), Ok(target)) if source == target => {
            Err(QuantizeError::SameFile(output.to_path_buf()))
        }
        // A missing input is reported where it is opened; a missing output is as it should be.
        _ => Ok(()),
    }
}

fn refuse_unsuitable(file: &GgufFile, allow_requantize: bool) -> Result<(), QuantizeError> {
    let path = || file.path().to_path_buf();
    if let Some(parts) = file.metadata().unsigned("split.count").filter(|&parts| parts > 1) {
        return Err(QuantizeError::Split { path: path(), parts });
    }
    match file.tensors().iter().find(|tensor| tensor.ggml_type.block_size() > 1) {
        Some(tensor) if !allow_requantize => Err(QuantizeError::AlreadyQuantized {
            path: path(),
            tensor: tensor.name.clone(),
            ggml_type: tensor.ggml_type,
        }),
        _ => Ok(()),
    }
}

/// The input's metadata without what describes a split, and with what describes the coding at its
/// end, where llama.cpp writes it.
fn output_metadata(input: &Metadata, file_type: u32, importance: Option<&Importance>) -> Metadata {
    let mut metadata = input.clone();
    for (key, number) in [
        ("general.quantization_version", formats::QUANTIZATION_VERSION),
        ("general.file_type", file_type),
    ] {
        metadata.remove(key);
        metadata.set(key, Value::U32(number));
    }
    for key in ["split.no", "split.count", "split.tensors.count"] {
        metadata.remove(key);
    }
    if let Some(importance) = importance {
        weighing::describe(importance, &mut metadata);
    }
    metadata
}

fn plan(choice: &Choice) -> TensorPlan {
    TensorPlan {
        name: choice.tensor.name.clone(),
        dimensions: choice.tensor.dimensions.clone(),
        ggml_type: choice.format,
    }
}

/// Codes and writes tensor after tensor.
struct Coder<'a> {
    file: &'a GgufFile,
    writer: &'a mut GgufWriter,
    progress: &'a Progress,
}

impl Coder<'_> {
    fn write_tensor(&mut self, choice: &Choice) -> Result<(), QuantizeError> {
        let bytes = self.file.tensor_bytes(choice.tensor);
        let source = choice.tensor.ggml_type;
        if choice.format == source && (source.block_size() > 1 || !formats::can_quantize(source)) {
            return self.copy(bytes);
        }
        let piece_bytes = PIECE_WEIGHTS / source.block_size() * source.block_bytes();
        // While one piece is coded, the one before it is written.
        let mut written = Vec::new();
        let mut coded = Vec::new();
        for (index, piece) in bytes.chunks(piece_bytes).enumerate() {
            interrupt::check()?;
            let (write, code) = rayon::join(
                || self.writer.write(&written),
                || code_piece(choice, piece, &mut coded),
            );
            write?;
            code.map_err(|failure| self.tensor_error(choice.tensor, index, failure))?;
            std::mem::swap(&mut written, &mut coded);
            self.progress.advance(piece.len() as u64);
        }
        Ok(self.writer.write(&written)?)
    }

    /// Writes a tensor that stays as it is and whose type quantkit does not look into.
    fn copy(&mut self, bytes: &[u8]) -> Result<(), QuantizeError> {
        for piece in bytes.chunks(PIECE_WEIGHTS) {
            interrupt::check()?;
            self.writer.write(piece)?;
            self.progress.advance(piece.len() as u64);
        }
        Ok(())
    }

    fn tensor_error(&self, tensor: &TensorInfo, piece: usize, failure: Failure) -> QuantizeError {
        let position = match &failure.source {
            CodecError::NotFinite { index, .. } | CodecError::TooLarge { index, .. } => {
                let weight = piece * PIECE_WEIGHTS + failure.start + index;
                Some((weight / tensor.columns(), weight % tensor.columns()))
            }
            _ => None,
        };
        QuantizeError::Tensor {
            path: self.file.path().to_path_buf(),
            tensor: tensor.name.clone(),
            position,
            source: failure.source,
        }
    }
}

/// A codec's refusal, and the first weight (within the piece) of the task that met it.
struct Failure {
    start: usize,
    source: CodecError,
}

/// Codes a piece of a tensor into `output`, task by task in parallel. Blocks do not depend on one
/// another, so tasks need not end where rows do.
fn code_piece(choice: &Choice, piece: &[u8], output: &mut Vec<u8>) -> Result<(), Failure> {
    let (source, target) = (choice.tensor.ggml_type, choice.format);
    let weights = piece.len() / source.block_bytes() * source.block_size();
    output.resize(weights / target.block_size() * target.block_bytes(), 0);
    let task_input = TASK_WEIGHTS / source.block_size() * source.block_bytes();
    let task_output = TASK_WEIGHTS / target.block_size() * target.block_bytes();
    piece
        .par_chunks(task_input)
        .zip(output.par_chunks_mut(task_output))
        .enumerate()
        .try_for_each_init(
            || vec![0.0f32; TASK_WEIGHTS],
            |values, (task, (input, output))| {
                let blocks = input.len() / source.block_bytes();
                let values = &mut values[..blocks * source.block_size()];
                formats::dequantize_row(source, input, values)
                    .and_then(|()| formats::quantize_row(target, values, output))
                    .map_err(|source| Failure { start: task * TASK_WEIGHTS, source })
            },
        )
}

fn tensor_report(choice: &Choice) -> TensorReport {
    let tensor = choice.tensor;
    let blocks = tensor.weights() / choice.format.block_size() as u64;
    TensorReport {
        name: tensor.name.clone(),
        dimensions: tensor.dimensions.clone(),
        old_type: tensor.ggml_type.name(),
        new_type: choice.format.name(),
        wanted_type: choice.wanted().map(GgmlType::name),
        note: choice.reason.to_string(),
        old_bytes: tensor.bytes(),
        new_bytes: blocks * choice.format.block_bytes() as u64,
    }
}
