//! A GGUF file of any readable type → a Hugging Face checkpoint directory that transformers loads
//! unchanged. Tensors are streamed from the mapped file: memory does not grow with the model.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use serde_json::{Map, Value as Json, json};

use super::error::ConvertError;
use super::safetensors_writer::{self, PlannedTensor};
use super::weights::{Rows, WeightType, convert_rows};
use crate::family::{self, Dimensions, Exported, Family, RowOrder, TensorSpec};
use crate::gguf::{GgmlType, GgufFile, Metadata, ModelKeys, TensorInfo};
use crate::quant::formats;
use crate::support::atomic_directory::AtomicDirectory;
use crate::support::atomic_file::{AtomicFile, write_atomically};
use crate::support::interrupt;
use crate::support::path_text;
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
    #[serde(serialize_with = "path_text::one")]
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
    let family = Family::of_gguf(file.metadata()).map_err(unusable)?;
    let embedding = file
        .tensor("token_embd.weight")
        .ok_or_else(|| unusable("tensor \"token_embd.weight\" is missing".to_string()))?;
    let names = file.tensors().iter().map(|tensor| tensor.name.clone());
    let model =
        Dimensions::read(family, file.metadata(), embedding.rows(), names).map_err(unusable)?;
    warn_of_keys(&file, family, &model);
    let specs = (family.tensors)(&model);
    let tensors = tensors(&file, family, &model, &specs).map_err(unusable)?;
    let no_tokenizer = |source| ConvertError::Vocabulary { path: options.input.clone(), source };
    let vocabulary = Vocabulary::from_metadata(file.metadata()).map_err(no_tokenizer)?;
    if vocabulary.size > model.vocabulary {
        return Err(unusable(format!(
            "there are {} tokens, but the embedding table has {} rows",
            vocabulary.size, model.vocabulary
        )));
    }
    let padding = token_id(file.metadata(), "padding", vocabulary.size).map_err(no_tokenizer)?;
    let config = config(&file, family, &model, &vocabulary, padding, options.weight_type)
        .map_err(unusable)?;

    let not_written = |error| ConvertError::io(&options.output, error);
    let directory = AtomicDirectory::create(&options.output).map_err(not_written)?;
    let planned: Vec<PlannedTensor> =
        tensors.iter().map(|tensor| tensor.planned(options.weight_type)).collect();
    let parameters = tensors.iter().map(|tensor| tensor.weights()).sum();
    let count = planned.len();
    let shards = safetensors_writer::shards(planned, SHARD_BYTES);
    write_texts(directory.path(), &file, &vocabulary, &config, model.context)?;
    write_shards(directory.path(), &file, &tensors, &shards, options.weight_type)?;
    file.inputs().check()?;
    directory.commit().map_err(not_written)?;
    Ok(ExportReport {
        output: options.output.clone(),
        architecture: family.checkpoints[0].architecture.to_string(),
        weight_type: options.weight_type.ggml_type().name(),
        tensors: count,
        parameters,
        tensor_bytes: parameters * options.weight_type.bytes() as u64,
        shards: shards.len(),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// A tensor of the checkpoint, and the one of the file that holds its weights.
struct ExportedTensor<'a> {
    name: &'a str,
    info: &'a TensorInfo,
    spec: &'a TensorSpec,
    /// Which of the tensors that lie one behind another in the file's.
    part: usize,
}

impl ExportedTensor<'_> {
    fn weights(&self) -> u64 {
        self.info.weights() / self.spec.checkpoint.len() as u64
    }

    fn planned(&self, weight_type: WeightType) -> PlannedTensor {
        PlannedTensor {
            name: self.name.to_string(),
            dtype: weight_type.safetensors_name(),
            shape: self.spec.checkpoint_shape().iter().map(|&length| length as u64).collect(),
            bytes: self.weights() * weight_type.bytes() as u64,
        }
    }
}

/// Warns of metadata that the family does not know: config.json will not say it.
fn warn_of_keys(file: &GgufFile, family: &Family, model: &Dimensions) {
    let unknown: Vec<&str> = model.unknown_keys(family).collect();
    if !unknown.is_empty() {
        tracing::warn!(
            "{}: config.json will say nothing of {}, which quantkit does not know",
            file.path().display(),
            unknown.join(", ")
        );
    }
}

/// config.json.
fn config(
    file: &GgufFile,
    family: &Family,
    model: &Dimensions,
    vocabulary: &Vocabulary,
    padding: Option<u32>,
    weight_type: WeightType,
) -> Result<Json, String> {
    let keys = ModelKeys { metadata: file.metadata(), architecture: family.gguf };
    let checkpoint = family.checkpoints[0];
    let mut config = Map::new();
    config.insert("architectures".into(), json!([checkpoint.architecture]));
    config.insert("model_type".into(), json!(checkpoint.model_type));
    config.insert("vocab_size".into(), json!(model.vocabulary));
    config.extend(family::export(family, &Exported { keys, file })?);
    config.insert("tie_word_embeddings".into(), json!(!model.has("output.weight")));
    config.insert("bos_token_id".into(), json!(vocabulary.bos));
    config.insert("eos_token_id".into(), json!(vocabulary.eos));
    config.insert("pad_token_id".into(), json!(padding));
    config.insert("torch_dtype".into(), json!(weight_type.torch_name()));
    config.insert("use_cache".into(), json!(true));
    Ok(Json::Object(config))
}

/// Pairs each tensor of the file with the family's, in the order of the names that they will have.
fn tensors<'a>(
    file: &'a GgufFile,
    family: &Family,
    model: &Dimensions,
    specs: &'a [TensorSpec],
) -> Result<Vec<ExportedTensor<'a>>, String> {
    let mut by_name: HashMap<&str, &'a TensorSpec> =
        specs.iter().map(|spec| (spec.gguf.as_str(), spec)).collect();
    let mut tensors = Vec::new();
    let computed = |info: &&TensorInfo| !family.computed_names.contains(&info.name.as_str());
    for info in file.tensors().iter().filter(computed) {
        let spec = by_name.remove(info.name.as_str()).ok_or_else(|| {
            format!(
                "tensor \"{}\" is none of a {} model with {} layers; quantkit cannot export it",
                info.name, family.gguf, model.layers
            )
        })?;
        check_tensor(info, spec)?;
        let part = |(part, name)| ExportedTensor { name, info, spec, part };
        tensors.extend(spec.checkpoint.iter().map(String::as_str).enumerate().map(part));
    }
    let missing = by_name.values().filter(|spec| !spec.optional).map(|spec| &spec.gguf).min();
    if let Some(missing) = missing {
        return Err(format!("tensor \"{missing}\" is missing"));
    }
    tensors.sort_by(|a, b| a.name.cmp(b.name));
    Ok(tensors)
}

fn check_tensor(info: &TensorInfo, spec: &TensorSpec) -> Result<(), String> {
    let shape: Vec<usize> = info.dimensions.iter().rev().map(|&length| length as usize).collect();
    if shape != spec.shape || !spec.rows.fits(spec.row_count()) {
        return Err(format!(
            "tensor \"{}\" has shape {shape:?}, but the metadata asks for {:?}",
            info.name, spec.shape
        ));
    }
    if !formats::can_dequantize(info.ggml_type) {
        return Err(format!(
            "tensor \"{}\" is {}, which quantkit cannot read",
            info.name, info.ggml_type
        ));
    }
    Ok(())
}

fn write_texts(
    directory: &Path,
    file: &GgufFile,
    vocabulary: &Vocabulary,
    config: &Json,
    context: usize,
) -> Result<(), ConvertError> {
    let metadata = file.metadata();
    let no_tokenizer =
        |source| ConvertError::Vocabulary { path: file.path().to_path_buf(), source };
    let tokenizer = to_checkpoint::tokenizer_json(vocabulary).map_err(no_tokenizer)?;
    let tokenizer_config = to_checkpoint::tokenizer_config(vocabulary, metadata, Some(context))
        .map_err(no_tokenizer)?;
    let generation_config =
        generation_config(metadata, config, vocabulary.size).map_err(no_tokenizer)?;
    write_text(&directory.join("tokenizer.json"), tokenizer)?;
    write_json(&directory.join("tokenizer_config.json"), &tokenizer_config)?;
    write_json(&directory.join("config.json"), config)?;
    write_json(&directory.join("generation_config.json"), &generation_config)
}

/// Generation ends with `eos`, and with the tokens that the file names as ends of a turn.
fn generation_config(
    metadata: &Metadata,
    config: &Json,
    tokens: usize,
) -> Result<Json, TokenizerError> {
    let mut ends = Vec::new();
    for name in ["eos", "eot", "eom"] {
        ends.extend(token_id(metadata, name, tokens)?.filter(|id| !ends.contains(id)));
    }
    let eos = match &ends[..] {
        [] => Json::Null,
        [one] => json!(one),
        several => json!(several),
    };
    Ok(json!({
        "bos_token_id": config["bos_token_id"],
        "eos_token_id": eos,
        "pad_token_id": config["pad_token_id"],
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
    tensors: &[ExportedTensor<'_>],
    shards: &[Vec<PlannedTensor>],
    weight_type: WeightType,
) -> Result<(), ConvertError> {
    let total = shards.iter().flatten().map(|tensor| tensor.bytes).sum();
    let progress = Progress::new("export", total, Unit::Bytes);
    let mut remaining = tensors.iter();
    for (index, shard) in shards.iter().enumerate() {
        let path = directory.join(safetensors_writer::shard_name(index, shards.len()));
        let failed = |error| ConvertError::io(&path, error);
        let mut output = safetensors_writer::create(&path, shard).map_err(failed)?;
        for tensor in remaining.by_ref().take(shard.len()) {
            progress.message(tensor.name);
            write_tensor(&mut output, file, tensor, weight_type, &progress)?;
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
    tensor: &ExportedTensor<'_>,
    weight_type: WeightType,
    progress: &Progress,
) -> Result<(), ConvertError> {
    let &ExportedTensor { info, spec, part, .. } = tensor;
    let turned;
    let (mut bytes, mut from) = (file.tensor_bytes(info), info.ggml_type);
    let (mut rows, mut columns) = (info.rows(), info.columns());
    if spec.transposed {
        turned = transposed(file, info)?;
        (bytes, from, rows, columns) = (&turned, GgmlType::F32, info.columns(), info.rows());
    } else if spec.rows != RowOrder::Same && spec.shape.len() == 1 {
        // The elements of a vector are its rows.
        (rows, columns) = (info.columns(), 1);
    }
    let count = rows / spec.checkpoint.len();
    let source = |row| spec.rows.gguf_row(part * count + row, rows);
    let rows = Rows {
        path: file.path(),
        tensor: &info.name,
        bytes,
        from,
        rows: count,
        columns,
        source: &source,
        added: -spec.added,
    };
    convert_rows(&rows, weight_type, |piece| {
        interrupt::check()?;
        progress.advance(piece.len() as u64);
        output.write_all(piece).map_err(|error| ConvertError::io(output.target(), error))
    })
}

/// The weights of a matrix in 32 bits, column by column.
fn transposed(file: &GgufFile, info: &TensorInfo) -> Result<Vec<u8>, ConvertError> {
    let (rows, columns) = (info.rows(), info.columns());
    let mut weights = vec![0f32; rows * columns];
    formats::dequantize_row(info.ggml_type, file.tensor_bytes(info), &mut weights).map_err(
        |error| ConvertError::unusable(file.path(), format!("tensor \"{}\": {error}", info.name)),
    )?;
    let columns = (0..columns).flat_map(|column| weights[column..].iter().step_by(columns));
    Ok(columns.flat_map(|weight| weight.to_le_bytes()).collect())
}
