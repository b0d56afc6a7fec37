//! A GGUF file in, a quantized one out, in pieces: memory stays bounded at any model size.

mod coding;
mod error;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use self::coding::TensorJob;
pub use self::error::{QuantizeError, WeightPosition};
use super::formats;
use super::importance::Importance;
use super::selection::{Choice, Reason, Selection};
use super::source::TensorSource;
use super::weighing;
use crate::gguf::{
    GgmlType, GgufFile, GgufWriter, Metadata, PartLimit, TensorPlan, Value, part_prefix,
    remove_split_keys,
};
use crate::support::path_text;
use crate::support::printable::one_line;
use crate::support::same_file::is_same_file;

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
    #[serde(serialize_with = "path_text::one")]
    pub input: PathBuf,
    /// The file that was written, or would have been; of several parts the first.
    #[serde(serialize_with = "path_text::one")]
    pub output: PathBuf,
    /// How many files were written.
    pub files: usize,
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
    /// Wall time, writing included.
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
    /// The file that a plan was read from, which no output may replace.
    pub plan_file: Option<&'a Path>,
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
            plan_file: None,
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
    quantize_source(&GgufFile::open(input)?, request)
}

/// The same for any source of tensors.
///
/// # Errors
/// As [`quantize_file`].
pub fn quantize_source(
    source: &dyn TensorSource,
    request: &Request<'_>,
) -> Result<QuantizeReport, QuantizeError> {
    let started = Instant::now();
    let job = Job::new(source, request)?;
    job.check_importance(request)?;
    let writer = job.writer(request)?;
    job.refuse_same_file(request, &writer)?;
    coding::write_tensors(source, &job.tensor_jobs(request), &writer)?;
    let mut report = job.report(request, &writer);
    source.inputs().check()?;
    writer.finish()?;
    let seconds = started.elapsed().as_secs_f64();
    (report.seconds, report.weights_per_second) = (seconds, Some(report.weights as f64 / seconds));
    Ok(report)
}

/// What [`quantize_source`] would do, down to the size of the file, without doing it.
///
/// # Errors
/// As [`quantize_file`], but for what is found out only by doing it.
pub fn preview(
    source: &dyn TensorSource,
    request: &Request<'_>,
) -> Result<QuantizeReport, QuantizeError> {
    let started = Instant::now();
    let job = Job::new(source, request)?;
    if let Err(problem) = job.check_importance(request) {
        tracing::warn!("{problem}");
    }
    let mut report = job.report(request, &job.writer(request)?);
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}

/// A model and what is to become of it.
struct Job<'a> {
    source: &'a dyn TensorSource,
    choices: Vec<Choice<'a>>,
    /// The output's.
    metadata: Metadata,
}

impl<'a> Job<'a> {
    fn new(source: &'a dyn TensorSource, request: &Request<'_>) -> Result<Self, QuantizeError> {
        let choices = choose(source, request)?;
        if !request.allow_requantize {
            refuse_requantizing(source, &choices)?;
        }
        let file_type = request.selection.file_type(&choices);
        let metadata = output_metadata(source.metadata(), file_type, request.importance);
        Ok(Self { source, choices, metadata })
    }

    fn check_importance(&self, request: &Request<'_>) -> Result<(), QuantizeError> {
        let Request { selection, importance, allow_partial_importance, .. } = *request;
        weighing::check(selection, &self.choices, importance, allow_partial_importance).map_err(
            |source| QuantizeError::Weighing { path: self.source.path().to_path_buf(), source },
        )
    }

    /// A writer that has not touched the disk yet.
    fn writer(&self, request: &Request<'_>) -> Result<GgufWriter, QuantizeError> {
        let plans = self.choices.iter().map(plan).collect();
        Ok(match request.split_max_size {
            None => GgufWriter::plan(request.output, &self.metadata, plans)?,
            Some(bytes) => GgufWriter::plan_split(
                &part_prefix(request.output),
                &self.metadata,
                plans,
                PartLimit::Bytes(bytes),
            )?,
        })
    }

    fn refuse_same_file(
        &self,
        request: &Request<'_>,
        writer: &GgufWriter,
    ) -> Result<(), QuantizeError> {
        let inputs = self.source.files();
        let importance = request.importance.map(Importance::path);
        let read = inputs.iter().map(|input| (input.as_path(), "the input"));
        let read = read
            .chain(importance.map(|path| (path, "the importance file")))
            .chain(request.plan_file.map(|path| (path, "the plan")));
        for (input, what) in read {
            if let Some(output) = writer.paths().find(|output| is_same_file(input, output)) {
                return Err(QuantizeError::SameFile { path: output.to_path_buf(), what });
            }
        }
        Ok(())
    }

    /// What is to be done with each tensor, in the order of the output.
    fn tensor_jobs(&self, request: &Request<'a>) -> Vec<TensorJob<'_>> {
        let tensors = self.source.tensors().iter().enumerate();
        let indices: HashMap<&str, usize> =
            tensors.map(|(index, tensor)| (tensor.name.as_str(), index)).collect();
        let job = |&Choice { tensor, format, .. }: &Choice<'a>| TensorJob {
            source_index: indices[tensor.name.as_str()],
            tensor,
            format,
            importance: weighing::of_tensor(request.importance, tensor),
        };
        self.choices.iter().map(job).collect()
    }

    /// The report without the time that it took.
    fn report(&self, request: &Request<'_>, writer: &GgufWriter) -> QuantizeReport {
        let tensors: Vec<TensorReport> = self.choices.iter().map(tensor_report).collect();
        let weights = self.choices.iter().map(|choice| choice.tensor.weights()).sum::<u64>();
        let old_bytes = tensors.iter().map(|tensor| tensor.old_bytes).sum();
        let new_bytes = tensors.iter().map(|tensor| tensor.new_bytes).sum();
        let bits_per_weight = |bytes: u64| bytes as f64 * 8.0 / weights.max(1) as f64;
        QuantizeReport {
            input: self.source.path().to_path_buf(),
            output: writer.paths().next().unwrap_or(request.output).to_path_buf(),
            files: writer.paths().count(),
            recipe: request.selection.name().to_string(),
            tensors,
            weights,
            old_bytes,
            new_bytes,
            old_bits_per_weight: bits_per_weight(old_bytes),
            new_bits_per_weight: bits_per_weight(new_bytes),
            file_bytes: writer.bytes(),
            seconds: 0.0,
            weights_per_second: None,
        }
    }
}

fn choose<'a>(
    model: &'a dyn TensorSource,
    request: &Request<'_>,
) -> Result<Vec<Choice<'a>>, QuantizeError> {
    let choices = request
        .selection
        .choose(model.metadata(), model.tensors(), request.importance.is_some())
        .map_err(|source| QuantizeError::Selection { path: model.path().to_path_buf(), source })?;
    log_choices(request.selection, &choices);
    Ok(choices)
}

fn log_choices(selection: &Selection, choices: &[Choice]) {
    tracing::info!("{}: formats chosen for {} tensors", selection.name(), choices.len());
    for Choice { tensor, format, reason } in choices {
        if *reason != Reason::Default {
            tracing::info!("{}: {format}, {reason}", one_line(&tensor.name));
        }
    }
}

/// Refuses to code what is quantized already; it may stay as it is.
fn refuse_requantizing(source: &dyn TensorSource, choices: &[Choice]) -> Result<(), QuantizeError> {
    let is_requantized = |choice: &&Choice| {
        choice.tensor.ggml_type.block_size() > 1 && choice.tensor.ggml_type != choice.format
    };
    match choices.iter().find(is_requantized) {
        Some(Choice { tensor, .. }) => Err(QuantizeError::AlreadyQuantized {
            path: source.path().to_path_buf(),
            tensor: tensor.name.clone(),
            ggml_type: tensor.ggml_type,
        }),
        None => Ok(()),
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
    remove_split_keys(&mut metadata);
    if let Some(importance) = importance {
        weighing::describe(importance, &mut metadata);
    }
    metadata
}

fn plan(choice: &Choice) -> TensorPlan {
    TensorPlan { ggml_type: choice.format, ..TensorPlan::of(choice.tensor) }
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
