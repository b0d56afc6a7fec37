//! A Hugging Face checkpoint directory → a GGUF file with the tensors and metadata that llama.cpp's
//! converter writes. Tensors are streamed from the mapped shards: memory does not grow with the
//! model.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::error::ConvertError;
use super::families::{Family, ModelTensor, ROPE_FREQUENCIES, hugging_face_row};
use super::model_name::ModelName;
use super::weights::{Rows, WeightType, convert_rows};
use super::{hyperparameters, model_card, rope, tokenizer_metadata};
use crate::checkpoint::config::ModelConfig;
use crate::checkpoint::{CheckpointTensors, TensorView};
use crate::gguf::{GgmlType, GgufWriter, Metadata, TensorPlan, Value};
use crate::quant::formats;
use crate::support::interrupt;
use crate::support::progress::{Progress, Unit};

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

/// Buffers that old checkpoints carry and nothing needs.
const IGNORED_ENDINGS: [&str; 3] =
    [".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias"];

/// A tensor of the output and where its data comes from.
struct PlannedTensor<'a> {
    plan: TensorPlan,
    weight_type: WeightType,
    source: Source<'a>,
}

enum Source<'a> {
    Checkpoint { view: TensorView<'a>, from: GgmlType, heads: Option<usize> },
    Computed(Vec<f32>),
}

/// Converts a checkpoint directory into a GGUF file. The file appears only when it is complete.
///
/// # Errors
/// An unknown architecture or tokenizer, missing, unknown or misshapen tensors, unreadable or
/// unwritable files.
pub fn convert(options: &ConvertOptions) -> Result<ConvertReport, ConvertError> {
    let started = Instant::now();
    let directory = &options.input;
    let config_path = directory.join("config.json");
    let config = ModelConfig::read(directory)?;
    let family = Family::of_checkpoint(&config.architecture)
        .map_err(|problem| ConvertError::unusable(&config_path, problem))?;
    let checkpoint = CheckpointTensors::open(directory)?;
    let views = in_converter_order(&checkpoint);
    let weight_type = match options.weight_type {
        Some(weight_type) => weight_type,
        None => own_type(&views)?,
    };
    let planned = plan(directory, family, &config, &views, weight_type)?;
    let metadata = metadata(directory, family, &config, &planned, weight_type)?;
    write(&options.output, &metadata, &planned)?;
    Ok(ConvertReport {
        output: options.output.clone(),
        architecture: family.gguf,
        weight_type: weight_type.ggml_type().name(),
        tensors: planned.len(),
        parameters: parameters(&planned),
        tensor_bytes: planned.iter().map(PlannedTensor::bytes).sum(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

impl PlannedTensor<'_> {
    fn weights(&self) -> u64 {
        self.plan.dimensions.iter().product()
    }

    fn bytes(&self) -> u64 {
        self.weights() * self.weight_type.bytes() as u64
    }
}

fn parameters(planned: &[PlannedTensor<'_>]) -> u64 {
    planned.iter().map(PlannedTensor::weights).sum()
}

/// llama.cpp's converter goes through the shards by name, and through each shard's tensors by name.
fn in_converter_order(checkpoint: &CheckpointTensors) -> Vec<TensorView<'_>> {
    let mut views: Vec<TensorView<'_>> = checkpoint
        .iter()
        .filter(|view| !IGNORED_ENDINGS.iter().any(|ending| view.name.ends_with(ending)))
        .collect();
    views.sort_by(|a, b| (a.path, a.name).cmp(&(b.path, b.name)));
    views
}

/// The type of the first 16-bit matrix.
fn own_type(views: &[TensorView<'_>]) -> Result<WeightType, ConvertError> {
    for view in views.iter().filter(|view| view.shape.len() > 1) {
        match view.float_type()? {
            GgmlType::BF16 => return Ok(WeightType::BF16),
            GgmlType::F16 => return Ok(WeightType::F16),
            _ => {}
        }
    }
    Ok(WeightType::F16)
}

/// Pairs each tensor of the checkpoint with the one that the family's table has in its place.
fn plan<'a>(
    directory: &Path,
    family: &Family,
    config: &ModelConfig,
    views: &[TensorView<'a>],
    weight_type: WeightType,
) -> Result<Vec<PlannedTensor<'a>>, ConvertError> {
    let expected = family.tensors(config);
    let mut by_name: HashMap<&str, &ModelTensor> =
        expected.iter().map(|tensor| (tensor.hugging_face.as_str(), tensor)).collect();
    let mut planned = Vec::with_capacity(views.len() + 1);
    planned.extend(rope_divisors(config));
    for view in views {
        let tensor = by_name.remove(view.name).ok_or_else(|| {
            ConvertError::unusable(
                view.path,
                format!(
                    "tensor \"{}\" is none of a {} model with {} layers; quantkit cannot convert it",
                    view.name, config.architecture, config.num_hidden_layers
                ),
            )
        })?;
        planned.push(planned_tensor(view, tensor, config, weight_type)?);
    }
    let missing = expected
        .iter()
        .find(|tensor| !tensor.optional && by_name.contains_key(tensor.hugging_face.as_str()));
    match missing {
        Some(tensor) => Err(ConvertError::unusable(
            directory,
            format!(
                "tensor \"{}\" is missing; a {} model with {} layers needs it",
                tensor.hugging_face, config.architecture, config.num_hidden_layers
            ),
        )),
        None => Ok(planned),
    }
}

fn planned_tensor<'a>(
    view: &TensorView<'a>,
    tensor: &ModelTensor,
    config: &ModelConfig,
    weight_type: WeightType,
) -> Result<PlannedTensor<'a>, ConvertError> {
    let shape: Vec<u64> = view.shape.iter().map(|&length| length as u64).collect();
    if shape != tensor.shape {
        return Err(ConvertError::unusable(
            view.path,
            format!(
                "tensor \"{}\" has shape {shape:?}, but config.json asks for {:?}",
                view.name, tensor.shape
            ),
        ));
    }
    // Everything that is not a matrix is computed with in 32 bits.
    let weight_type = if shape.len() < 2 { WeightType::F32 } else { weight_type };
    Ok(PlannedTensor {
        plan: TensorPlan {
            name: tensor.gguf.clone(),
            dimensions: shape.into_iter().rev().collect(),
            ggml_type: weight_type.ggml_type(),
        },
        weight_type,
        source: Source::Checkpoint {
            view: *view,
            from: view.float_type()?,
            heads: tensor.order.heads(config),
        },
    })
}

fn rope_divisors(config: &ModelConfig) -> Option<PlannedTensor<'static>> {
    let base = config.rope_theta.unwrap_or(rope::DEFAULT_BASE);
    let scaling = config.rope_scaling.as_ref()?;
    let divisors = rope::llama3_divisors(scaling, base, config.head_dim())?;
    Some(PlannedTensor {
        plan: TensorPlan {
            name: ROPE_FREQUENCIES.to_string(),
            dimensions: vec![divisors.len() as u64],
            ggml_type: GgmlType::F32,
        },
        weight_type: WeightType::F32,
        source: Source::Computed(divisors),
    })
}

fn metadata(
    directory: &Path,
    family: &Family,
    config: &ModelConfig,
    planned: &[PlannedTensor<'_>],
    weight_type: WeightType,
) -> Result<Metadata, ConvertError> {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String(family.gguf.into()));
    metadata.set("general.type", Value::String("model".into()));
    model_card::append_sampling(&mut metadata, directory)?;
    let folder = directory.canonicalize().map_err(|error| ConvertError::io(directory, error))?;
    let folder = folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
    ModelName::find(config.name_or_path.as_deref(), &folder, parameters(planned))
        .append(&mut metadata);
    model_card::append_card(&mut metadata, directory)?;
    let file_type = match weight_type {
        WeightType::F32 => 0,
        WeightType::F16 => 1,
        WeightType::BF16 => 32,
    };
    hyperparameters::write(&mut metadata, family, config, file_type)
        .map_err(|problem| ConvertError::unusable(&directory.join("config.json"), problem))?;
    metadata.set("general.quantization_version", Value::U32(formats::QUANTIZATION_VERSION));
    tokenizer_metadata::append(&mut metadata, directory, config.vocab_size)?;
    Ok(metadata)
}

fn write(
    output: &Path,
    metadata: &Metadata,
    planned: &[PlannedTensor<'_>],
) -> Result<(), ConvertError> {
    let plans = planned.iter().map(|tensor| tensor.plan.clone()).collect();
    let mut writer = GgufWriter::create(output, metadata, plans)?;
    let total = planned.iter().map(PlannedTensor::bytes).sum();
    let progress = Progress::new("convert", total, Unit::Bytes);
    for tensor in planned {
        interrupt::check()?;
        progress.message(&tensor.plan.name);
        write_tensor(&mut writer, tensor, &progress)?;
    }
    progress.finish();
    Ok(writer.finish()?)
}

fn write_tensor(
    writer: &mut GgufWriter,
    tensor: &PlannedTensor<'_>,
    progress: &Progress,
) -> Result<(), ConvertError> {
    let (view, from, heads) = match &tensor.source {
        Source::Computed(values) => {
            let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            return Ok(writer.write(&bytes)?);
        }
        Source::Checkpoint { view, from, heads } => (view, *from, *heads),
    };
    let columns = tensor.plan.dimensions[0] as usize;
    let rows = tensor.plan.dimensions.get(1).map_or(1, |&rows| rows as usize);
    let head_dim = heads.map(|heads| rows / heads);
    let source = |row| head_dim.map_or(row, |head_dim| hugging_face_row(row, head_dim));
    let rows = Rows {
        path: view.path,
        tensor: view.name,
        bytes: view.bytes,
        from,
        rows,
        columns,
        source: &source,
    };
    let losses = convert_rows(&rows, tensor.weight_type, |piece| {
        interrupt::check()?;
        progress.advance(piece.len() as u64);
        Ok(writer.write(piece)?)
    })?;
    losses.warn(view.path, view.name);
    Ok(())
}
