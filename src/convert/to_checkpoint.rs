//! A GGUF file of any readable type → a Hugging Face checkpoint directory that transformers loads
//! unchanged. Tensors are streamed from the mapped file: memory does not grow with the model.

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use serde_json::{Value as Json, json};

use super::error::ConvertError;
use super::families::{Family, ModelTensor, ROPE_FREQUENCIES, gguf_row};
use super::hyperparameters::{self, TensorFacts};
use super::safetensors_writer::{self, PlannedTensor};
use super::weights::{Rows, WeightType, convert_rows};
use crate::checkpoint::config::ModelConfig;
use crate::gguf::{GgufFile, Metadata, TensorInfo};
use crate::quant::formats;
use crate::support::atomic_file::{AtomicFile, write_atomically};
use crate::support::interrupt;
use crate::support::progress::{Progress, Unit};
use crate::tokenizer::{TokenizerError, Vocabulary, to_checkpoint, token_id};

/// What to export.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// The GGUF file.
    pub input: PathBuf,
    /// The directory to write; it must be empty or not exist.
    pub output: PathBuf,
    /// The type of all tensors.
    pub weight_type: WeightType,
}

/// What an export wrote.
#[derive(Debug, Clone, Serialize)]
pub struct ExportReport {
    /// The directory.
    pub output: PathBuf,
    /// The entry of `architectures` in config.json.
    pub architecture: String,
    /// Type of all tensors.
    pub weight_type: &'static str,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of weights.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub tensor_bytes: u64,
    /// Number of safetensors files.
    pub shards: usize,
    /// Wall time.
    pub seconds: f64,
}

/// The size above which transformers splits a checkpoint.
const SHARD_BYTES: u64 = 5_000_000_000;

/// Exports a GGUF file as a checkpoint directory. The directory appears only when it is complete.
///
/// # Errors
/// An unknown architecture or tokenizer, missing, unknown or misshapen tensors, types that cannot
/// be read, an output directory that is not empty, unreadable or unwritable files.
pub fn export(options: &ExportOptions) -> Result<ExportReport, ConvertError> {
    let started = Instant::now();
    let file = GgufFile::open(&options.input)?;
    let unusable = |problem: String| ConvertError::unusable(&options.input, problem);
    let architecture = file
        .metadata()
        .string("general.architecture")
        .ok_or_else(|| unusable("general.architecture is missing".to_string()))?;
    let family = Family::of_gguf(architecture).map_err(unusable)?;
    let mut config = config(&file, family).map_err(unusable)?;
    let tensors = tensors(&file, family, &config).map_err(unusable)?;
    let no_tokenizer = |source| ConvertError::Vocabulary { path: options.input.clone(), source };
    let vocabulary = Vocabulary::from_metadata(file.metadata()).map_err(no_tokenizer)?;
    if vocabulary.size > config.vocab_size {
        return Err(unusable(format!(
            "there are {} tokens, but the embedding table has {} rows",
            vocabulary.size, config.vocab_size
        )));
    }
    config.bos_token_id = vocabulary.bos;
    config.eos_token_ids = vocabulary.eos.into_iter().collect();
    config.pad_token_id =
        token_id(file.metadata(), "padding", vocabulary.size).map_err(no_tokenizer)?;

    let staging = Staging::create(&options.output)?;
    let planned = tensors.iter().map(|(_, tensor)| tensor.planned(options.weight_type)).collect();
    let shards = safetensors_writer::shards(planned, SHARD_BYTES);
    write_texts(&staging.path, &file, &vocabulary, &config, family, options.weight_type)?;
    write_shards(&staging.path, &file, &tensors, &shards, options.weight_type, &config)?;
    staging.commit()?;
    let parameters = tensors.iter().map(|(info, _)| info.weights()).sum();
    Ok(ExportReport {
        output: options.output.clone(),
        architecture: config.architecture,
        weight_type: options.weight_type.ggml_type().name(),
        tensors: tensors.len(),
        parameters,
        tensor_bytes: parameters * options.weight_type.bytes() as u64,
        shards: shards.len(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

impl ModelTensor {
    fn planned(&self, weight_type: WeightType) -> PlannedTensor {
        PlannedTensor {
            name: self.hugging_face.clone(),
            dtype: weight_type.safetensors_name(),
            shape: self.shape.clone(),
            bytes: self.shape.iter().product::<u64>() * weight_type.bytes() as u64,
        }
    }
}

fn config(file: &GgufFile, family: &Family) -> Result<ModelConfig, String> {
    let embedding = file
        .tensor("token_embd.weight")
        .ok_or_else(|| "tensor \"token_embd.weight\" is missing".to_string())?;
    let facts = TensorFacts {
        vocab_size: embedding.rows(),
        tied: file.tensor("output.weight").is_none(),
        rope_divisors: match file.tensor(ROPE_FREQUENCIES) {
            Some(tensor) => Some(read_values(file, tensor)?),
            None => None,
        },
    };
    hyperparameters::read(file.metadata(), family, &facts)
}

/// No model has more rotary frequencies.
const MOST_FREQUENCIES: u64 = 1 << 16;

/// The values of a small tensor.
fn read_values(file: &GgufFile, tensor: &TensorInfo) -> Result<Vec<f32>, String> {
    if tensor.weights() > MOST_FREQUENCIES {
        return Err(format!(
            "tensor \"{}\" has {} values, more than {MOST_FREQUENCIES}",
            tensor.name,
            tensor.weights()
        ));
    }
    let mut values = vec![0.0; tensor.weights() as usize];
    formats::dequantize_row(tensor.ggml_type, file.tensor_bytes(tensor), &mut values)
        .map_err(|error| format!("tensor \"{}\": {error}", tensor.name))?;
    Ok(values)
}

/// Pairs each tensor of the file with its place in the family's table, in the order of the names
/// that they will have.
fn tensors<'a>(
    file: &'a GgufFile,
    family: &Family,
    config: &ModelConfig,
) -> Result<Vec<(&'a TensorInfo, ModelTensor)>, String> {
    let mut by_name: HashMap<String, ModelTensor> =
        family.tensors(config).into_iter().map(|tensor| (tensor.gguf.clone(), tensor)).collect();
    let mut pairs = Vec::new();
    for info in file.tensors().iter().filter(|info| info.name != ROPE_FREQUENCIES) {
        let tensor = by_name.remove(&info.name).ok_or_else(|| {
            format!(
                "tensor \"{}\" is none of a {} model with {} layers; quantkit cannot export it",
                info.name, family.gguf, config.num_hidden_layers
            )
        })?;
        let shape: Vec<u64> = info.dimensions.iter().rev().copied().collect();
        if shape != tensor.shape {
            return Err(format!(
                "tensor \"{}\" has shape {shape:?}, but the metadata asks for {:?}",
                info.name, tensor.shape
            ));
        }
        if !formats::can_dequantize(info.ggml_type) {
            return Err(format!(
                "tensor \"{}\" is {}, which quantkit cannot read",
                info.name, info.ggml_type
            ));
        }
        pairs.push((info, tensor));
    }
    if let Some(missing) = by_name.values().filter(|tensor| !tensor.optional).min() {
        return Err(format!("tensor \"{}\" is missing", missing.gguf));
    }
    pairs.sort_by(|(_, a), (_, b)| a.hugging_face.cmp(&b.hugging_face));
    Ok(pairs)
}

fn write_texts(
    directory: &Path,
    file: &GgufFile,
    vocabulary: &Vocabulary,
    config: &ModelConfig,
    family: &Family,
    weight_type: WeightType,
) -> Result<(), ConvertError> {
    let metadata = file.metadata();
    let no_tokenizer =
        |source| ConvertError::Vocabulary { path: file.path().to_path_buf(), source };
    let tokenizer = to_checkpoint::tokenizer_json(vocabulary).map_err(no_tokenizer)?;
    let context = config.max_position_embeddings;
    let tokenizer_config =
        to_checkpoint::tokenizer_config(vocabulary, metadata, context).map_err(no_tokenizer)?;
    let generation_config =
        generation_config(metadata, config, vocabulary.size).map_err(no_tokenizer)?;
    write_text(&directory.join("tokenizer.json"), tokenizer)?;
    write_json(&directory.join("tokenizer_config.json"), &tokenizer_config)?;
    let config_json = config.to_json(family.model_type, weight_type.torch_name());
    write_json(&directory.join("config.json"), &config_json)?;
    write_json(&directory.join("generation_config.json"), &generation_config)
}

/// Generation ends with `eos`, and with the tokens that the file names as ends of a turn.
fn generation_config(
    metadata: &Metadata,
    config: &ModelConfig,
    tokens: usize,
) -> Result<Json, TokenizerError> {
    let mut ends = config.eos_token_ids.clone();
    for name in ["eot", "eom"] {
        ends.extend(token_id(metadata, name, tokens)?.filter(|id| !ends.contains(id)));
    }
    let eos = match &ends[..] {
        [] => Json::Null,
        [one] => json!(one),
        several => json!(several),
    };
    Ok(json!({
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos,
        "pad_token_id": config.pad_token_id,
    }))
}

fn write_json(path: &Path, value: &Json) -> Result<(), ConvertError> {
    write_text(path, format!("{value:#}\n"))
}

fn write_text(path: &Path, text: String) -> Result<(), ConvertError> {
    write_atomically(path, text.as_bytes()).map_err(|error| ConvertError::io(path, error))
}

fn write_shards(
    directory: &Path,
    file: &GgufFile,
    tensors: &[(&TensorInfo, ModelTensor)],
    shards: &[Vec<PlannedTensor>],
    weight_type: WeightType,
    config: &ModelConfig,
) -> Result<(), ConvertError> {
    let total = shards.iter().flatten().map(|tensor| tensor.bytes).sum();
    let progress = Progress::new("export", total, Unit::Bytes);
    let mut remaining = tensors.iter();
    for (index, shard) in shards.iter().enumerate() {
        let path = directory.join(safetensors_writer::shard_name(index, shards.len()));
        let failed = |error| ConvertError::io(&path, error);
        let mut output = safetensors_writer::create(&path, shard).map_err(failed)?;
        for (info, tensor) in remaining.by_ref().take(shard.len()) {
            progress.message(&tensor.hugging_face);
            let heads = tensor.order.heads(config);
            write_tensor(&mut output, file, info, heads, weight_type, &progress)?;
        }
        output.commit().map_err(failed)?;
    }
    if shards.len() > 1 {
        let index = safetensors_writer::index(shards);
        write_json(&directory.join("model.safetensors.index.json"), &index)?;
    }
    progress.finish();
    Ok(())
}

fn write_tensor(
    output: &mut AtomicFile,
    file: &GgufFile,
    info: &TensorInfo,
    heads: Option<usize>,
    weight_type: WeightType,
    progress: &Progress,
) -> Result<(), ConvertError> {
    let head_dim = heads.map(|heads| info.rows() / heads);
    let source = |row| head_dim.map_or(row, |head_dim| gguf_row(row, head_dim));
    let rows = Rows {
        path: file.path(),
        tensor: &info.name,
        bytes: file.tensor_bytes(info),
        from: info.ggml_type,
        rows: info.rows(),
        columns: info.columns(),
        source: &source,
    };
    let losses = convert_rows(&rows, weight_type, |piece| {
        interrupt::check()?;
        progress.advance(piece.len() as u64);
        output.write_all(piece).map_err(|error| ConvertError::io(output.target(), error))
    })?;
    losses.warn(file.path(), &info.name);
    Ok(())
}

/// A directory under construction beside its place; dropped uncommitted, it disappears.
struct Staging {
    path: PathBuf,
    target: PathBuf,
}

impl Staging {
    fn create(target: &Path) -> Result<Self, ConvertError> {
        match fs::read_dir(target) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(ConvertError::unusable(
                        target,
                        "the directory is not empty; empty it or give another one",
                    ));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(ConvertError::io(target, error)),
        }
        let name = target.file_name().ok_or_else(|| {
            ConvertError::unusable(target, "the path names no directory that could be created")
        })?;
        let name = format!("{}.partial-{}", name.to_string_lossy(), std::process::id());
        let path = target.with_file_name(name);
        fs::create_dir_all(&path).map_err(|error| ConvertError::io(&path, error))?;
        Ok(Self { path, target: target.to_path_buf() })
    }

    fn commit(self) -> Result<(), ConvertError> {
        let failed = |error| ConvertError::io(&self.target, error);
        if self.target.exists() {
            fs::remove_dir(&self.target).map_err(failed)?;
        }
        fs::rename(&self.path, &self.target).map_err(failed)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After a commit the directory is gone and this is a no-op; a failure here must not hide
        // the error that led to the drop.
        let _ = fs::remove_dir_all(&self.path);
    }
}
