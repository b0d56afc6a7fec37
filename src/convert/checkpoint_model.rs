//! A Hugging Face checkpoint directory that reads like the GGUF file that `convert` makes of it:
//! the same tensors under the same names in the same order, and the same metadata. Weights are
//! converted when they are asked for.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::error::ConvertError;
use super::families::{Family, ModelTensor, ROPE_FREQUENCIES, hugging_face_row};
use super::model_name::ModelName;
use super::weights::{WeightType, convert_row};
use super::{hyperparameters, model_card, rope};
use crate::checkpoint::config::ModelConfig;
use crate::checkpoint::{CheckpointTensors, SafetensorsFile, TensorView};
use crate::gguf::{GgmlType, Metadata, TensorInfo, Value};
use crate::quant::formats;
use crate::quant::source::TensorSource;
use crate::tokenizer::from_checkpoint;

/// Buffers that old checkpoints carry and nothing needs.
const IGNORED_ENDINGS: [&str; 3] =
    [".rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias"];

/// That of a GGUF file that does not say otherwise.
const ALIGNMENT: u64 = 32;

/// Weights that are converted at a time; their f32 values stay in a core's cache.
const CHUNK_WEIGHTS: usize = 1 << 14;

/// A checkpoint directory with its weights mapped, and what `convert` makes of it.
#[derive(Debug)]
pub struct CheckpointModel {
    directory: PathBuf,
    family: &'static Family,
    weight_type: WeightType,
    checkpoint: CheckpointTensors,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// Where each tensor's data comes from.
    origins: Vec<Origin>,
}

/// Where a tensor's data comes from.
#[derive(Debug)]
pub(super) enum Origin {
    /// A tensor of the checkpoint.
    Checkpoint {
        /// Its name there.
        name: String,
        /// Its type there.
        from: GgmlType,
        /// Rows of a head, where the rows are ordered otherwise within each.
        head_dim: Option<usize>,
    },
    /// Bytes that are computed from config.json.
    Computed(Vec<u8>),
}

/// A tensor of the output and where its data comes from.
struct PlannedTensor {
    info: TensorInfo,
    origin: Origin,
}

impl CheckpointModel {
    /// Opens a checkpoint directory whose matrices are to be `weight_type`: the checkpoint's own
    /// 16-bit type, or F16, where absent.
    ///
    /// # Errors
    /// An unknown architecture or tokenizer, missing, unknown or misshapen tensors, unreadable
    /// files.
    pub fn open(directory: &Path, weight_type: Option<WeightType>) -> Result<Self, ConvertError> {
        let config_path = directory.join("config.json");
        let config = ModelConfig::read(directory)?;
        let family = Family::of_checkpoint(&config.architecture)
            .map_err(|problem| ConvertError::unusable(&config_path, problem))?;
        let checkpoint = CheckpointTensors::open(directory)?;
        let views = in_converter_order(&checkpoint);
        let weight_type = match weight_type {
            Some(weight_type) => weight_type,
            None => own_type(&views)?,
        };
        let planned = plan(directory, family, &config, &views, weight_type)?;
        let (mut tensors, origins): (Vec<_>, Vec<_>) =
            planned.into_iter().map(|tensor| (tensor.info, tensor.origin)).unzip();
        place(&mut tensors);
        let metadata = metadata(directory, family, &config, &tensors, weight_type)?;
        let directory = directory.to_path_buf();
        Ok(Self { directory, family, weight_type, checkpoint, metadata, tensors, origins })
    }

    /// `general.architecture`.
    pub fn architecture(&self) -> &'static str {
        self.family.gguf
    }

    /// Type of the matrices.
    pub fn weight_type(&self) -> WeightType {
        self.weight_type
    }

    /// Type of one tensor.
    pub(super) fn type_of(&self, index: usize) -> WeightType {
        type_of(self.tensors[index].dimensions.len(), self.weight_type)
    }

    pub(super) fn origin(&self, index: usize) -> &Origin {
        &self.origins[index]
    }

    /// A tensor that an [`Origin`] names.
    pub(super) fn view(&self, name: &str) -> TensorView<'_> {
        self.checkpoint.get(name).expect("an origin names a tensor of the checkpoint")
    }

    /// The checkpoint's bytes that some of a tensor's are made of. Within a head, rows may really lie
    /// elsewhere; as this is for advice to the system, that does no harm.
    fn mapped(
        &self,
        index: usize,
        range: Range<usize>,
    ) -> Option<(&SafetensorsFile, TensorView<'_>, Range<usize>)> {
        let Origin::Checkpoint { name, from, .. } = &self.origins[index] else { return None };
        let to = self.tensors[index].ggml_type;
        let place = |byte: usize| byte / to.block_bytes() * from.block_bytes();
        let range = place(range.start)..place(range.end);
        Some((self.checkpoint.file_of(name)?, self.view(name), range))
    }

    /// Fills `buffer` with weights of the checkpoint's tensor in the type and order of the output.
    fn convert(
        &self,
        index: usize,
        weights: Range<usize>,
        (view, from, head_dim): (TensorView<'_>, GgmlType, Option<usize>),
        buffer: &mut Vec<u8>,
    ) {
        let tensor = &self.tensors[index];
        let to = self.type_of(index);
        // Where rows keep their order, it does not matter where they end.
        let columns = match head_dim {
            Some(_) => tensor.columns(),
            None => tensor.weights() as usize,
        };
        buffer.resize(weights.len() * to.bytes(), 0);
        let mut scratch = Vec::new();
        let (mut next, mut output) = (weights.start, &mut buffer[..]);
        while next < weights.end {
            let (row, column) = (next / columns, next % columns);
            let count = (columns - column).min(weights.end - next).min(CHUNK_WEIGHTS);
            let row = head_dim.map_or(row, |head_dim| hugging_face_row(row, head_dim));
            let start = (row * columns + column) * from.block_bytes();
            let input = &view.bytes[start..start + count * from.block_bytes()];
            let (done, rest) = output.split_at_mut(count * to.bytes());
            scratch.resize(count, 0.0);
            // Whoever finds what became infinite asks `overflowed` about it.
            convert_row(from, input, to, done, &mut scratch)
                .expect("every number of floats can be converted");
            (next, output) = (next + count, rest);
        }
    }
}

impl TensorSource for CheckpointModel {
    fn path(&self) -> &Path {
        &self.directory
    }

    fn files(&self) -> Vec<PathBuf> {
        // The config, the tokenizer and the model card are read too, each under several names. GGUF
        // files are outputs that lie there.
        let is_input = |path: &PathBuf| path.extension().is_none_or(|ending| ending != "gguf");
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let weights = self.checkpoint.files().iter().map(SafetensorsFile::path);
        weights.map(Path::to_path_buf).chain(entries.map(|it| it.path()).filter(is_input)).collect()
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn bytes<'a>(&'a self, index: usize, range: Range<usize>, buffer: &'a mut Vec<u8>) -> &'a [u8] {
        match &self.origins[index] {
            Origin::Computed(bytes) => &bytes[range],
            Origin::Checkpoint { name, from, head_dim } => {
                let view = self.view(name);
                let to = self.tensors[index].ggml_type;
                if *from == to && head_dim.is_none() {
                    return &view.bytes[range];
                }
                let weights = range.start / to.block_bytes()..range.end / to.block_bytes();
                self.convert(index, weights, (view, *from, *head_dim), buffer);
                buffer
            }
        }
    }

    fn overflowed(&self, index: usize, weight: usize) -> Option<f32> {
        let Origin::Checkpoint { name, from, head_dim } = &self.origins[index] else { return None };
        let columns = self.tensors[index].columns();
        let (row, column) = (weight / columns, weight % columns);
        let row = head_dim.map_or(row, |head_dim| hugging_face_row(row, head_dim));
        let start = (row * columns + column) * from.block_bytes();
        let mut value = [0.0];
        let bytes = self.view(name).bytes.get(start..start + from.block_bytes())?;
        formats::dequantize_row(*from, bytes, &mut value).ok()?;
        value[0].is_finite().then_some(value[0])
    }

    fn expect(&self, index: usize, range: Range<usize>) {
        if let Some((file, tensor, range)) = self.mapped(index, range) {
            file.expect(&tensor, range);
        }
    }

    fn release(&self, index: usize, range: Range<usize>) {
        if let Some((file, tensor, range)) = self.mapped(index, range) {
            file.release(&tensor, range);
        }
    }
}

/// Gives the tensors the places that they have in a file of the usual alignment.
fn place(tensors: &mut [TensorInfo]) {
    let mut end = 0u64;
    for tensor in tensors {
        tensor.offset = end;
        end = (end + tensor.bytes()).next_multiple_of(ALIGNMENT);
    }
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
fn plan(
    directory: &Path,
    family: &Family,
    config: &ModelConfig,
    views: &[TensorView<'_>],
    weight_type: WeightType,
) -> Result<Vec<PlannedTensor>, ConvertError> {
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

fn planned_tensor(
    view: &TensorView<'_>,
    tensor: &ModelTensor,
    config: &ModelConfig,
    weight_type: WeightType,
) -> Result<PlannedTensor, ConvertError> {
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
    let rows = shape.first().map_or(1, |&rows| rows as usize);
    Ok(PlannedTensor {
        info: TensorInfo {
            name: tensor.gguf.clone(),
            ggml_type: type_of(shape.len(), weight_type).ggml_type(),
            dimensions: shape.into_iter().rev().collect(),
            offset: 0,
        },
        origin: Origin::Checkpoint {
            name: view.name.to_string(),
            from: view.float_type()?,
            head_dim: tensor.order.heads(config).map(|heads| rows / heads),
        },
    })
}

/// Everything that is not a matrix is computed with in 32 bits.
fn type_of(dimensions: usize, matrices: WeightType) -> WeightType {
    if dimensions < 2 { WeightType::F32 } else { matrices }
}

fn rope_divisors(config: &ModelConfig) -> Option<PlannedTensor> {
    let base = config.rope_theta.unwrap_or(rope::DEFAULT_BASE);
    let scaling = config.rope_scaling.as_ref()?;
    let divisors = rope::llama3_divisors(scaling, base, config.head_dim())?;
    Some(PlannedTensor {
        info: TensorInfo {
            name: ROPE_FREQUENCIES.to_string(),
            dimensions: vec![divisors.len() as u64],
            ggml_type: GgmlType::F32,
            offset: 0,
        },
        origin: Origin::Computed(divisors.iter().flat_map(|value| value.to_le_bytes()).collect()),
    })
}

fn metadata(
    directory: &Path,
    family: &Family,
    config: &ModelConfig,
    tensors: &[TensorInfo],
    weight_type: WeightType,
) -> Result<Metadata, ConvertError> {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String(family.gguf.into()));
    metadata.set("general.type", Value::String("model".into()));
    model_card::append_sampling(&mut metadata, directory)?;
    let folder = directory.canonicalize().map_err(|error| ConvertError::io(directory, error))?;
    let folder = folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
    let parameters = tensors.iter().map(TensorInfo::weights).sum();
    ModelName::find(config.name_or_path.as_deref(), &folder, parameters).append(&mut metadata);
    model_card::append_card(&mut metadata, directory)?;
    let file_type = match weight_type {
        WeightType::F32 => 0,
        WeightType::F16 => 1,
        WeightType::BF16 => 32,
    };
    hyperparameters::write(&mut metadata, family, config, file_type)
        .map_err(|problem| ConvertError::unusable(&directory.join("config.json"), problem))?;
    metadata.set("general.quantization_version", Value::U32(formats::QUANTIZATION_VERSION));
    from_checkpoint::append(&mut metadata, directory, config.vocab_size)?;
    Ok(metadata)
}
