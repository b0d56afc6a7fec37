//! A Hugging Face checkpoint directory that reads like the GGUF file that `convert` makes of it:
//! the same tensors under the same names in the same order, and the same metadata. Weights are
//! converted when they are asked for.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::error::ConvertError;
use super::model_card;
use super::model_name::ModelName;
use super::planned::{self, Origin, Planned, Stored};
use super::weights::{WeightType, convert_row};
use crate::checkpoint::config::{Config, missing};
use crate::checkpoint::{CheckpointTensors, SafetensorsFile, TensorView};
use crate::family::{self, Dimensions, Family};
use crate::gguf::{GgmlType, Metadata, TensorInfo, Value};
use crate::quant::formats;
use crate::quant::source::TensorSource;
use crate::support::input_file::Inputs;
use crate::tokenizer::from_checkpoint;

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

impl CheckpointModel {
    /// Opens a checkpoint directory whose matrices are to be `weight_type`: the checkpoint's own
    /// 16-bit type, or F16, where absent.
    ///
    /// # Errors
    /// An unknown architecture or tokenizer, fields of config.json that change what the model computes
    /// and that quantkit does not honour, missing, unknown or misshapen tensors, unreadable files.
    pub fn open(directory: &Path, weight_type: Option<WeightType>) -> Result<Self, ConvertError> {
        let config_path = directory.join("config.json");
        let unusable = |problem: String| ConvertError::unusable(&config_path, problem);
        let config = Config::read(directory)?;
        family::check_quantization(&config).map_err(unusable)?;
        let family = config.architecture().and_then(Family::of_checkpoint).map_err(unusable)?;
        let checkpoint = CheckpointTensors::open(directory)?;
        let views = planned::in_converter_order(&checkpoint, family);
        let weight_type = match weight_type {
            Some(weight_type) => weight_type,
            None => own_type(&views)?,
        };
        let vocabulary = vocabulary(&config, &views).map_err(unusable)?;
        let keys = family_keys(family, &config, weight_type).map_err(unusable)?;
        let names = views.iter().map(|view| view.name.to_string());
        let model = Dimensions::read(family, &keys, vocabulary, names).map_err(unusable)?;
        let planned = planned::plan(directory, family, &config, &model, &views, weight_type)?;
        family::check_unknown(&config, &config_path).map_err(unusable)?;
        let (mut tensors, origins): (Vec<_>, Vec<_>) =
            planned.into_iter().map(|Planned { info, origin }| (info, origin)).unzip();
        place(&mut tensors);
        let metadata = metadata(directory, family, &config, keys, &tensors, vocabulary)?;
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

    /// A tensor that an [`Origin`] names.
    fn view(&self, name: &str) -> TensorView<'_> {
        self.checkpoint.get(name).expect("an origin names a tensor of the checkpoint")
    }

    /// The checkpoint's bytes that some of a tensor's are made of. Rows may really lie elsewhere; as
    /// this is for advice to the system, that does no harm.
    fn mapped(
        &self,
        index: usize,
        range: Range<usize>,
    ) -> Option<(&SafetensorsFile, TensorView<'_>, Range<usize>)> {
        let Origin::Stored(stored) = &self.origins[index] else { return None };
        let [name] = &stored.names[..] else { return None };
        let to = self.tensors[index].ggml_type;
        let place = |byte: usize| byte / to.block_bytes() * stored.from.block_bytes();
        let range = place(range.start)..place(range.end);
        Some((self.checkpoint.file_of(name)?, self.view(name), range))
    }

    /// Fills `buffer` with weights of the checkpoint's tensor in the type and order of the output.
    fn convert(&self, index: usize, weights: Range<usize>, stored: &Stored, buffer: &mut Vec<u8>) {
        let to = WeightType::of(self.tensors[index].ggml_type).expect("outputs are floats");
        let views: Vec<TensorView<'_>> = stored.names.iter().map(|name| self.view(name)).collect();
        buffer.resize(weights.len() * to.bytes(), 0);
        let (mut scratch, mut gathered) = (Vec::new(), Vec::new());
        let (mut next, mut output) = (weights.start, &mut buffer[..]);
        while next < weights.end {
            let run = stored.run(next);
            let count = run.length.min(weights.end - next).min(CHUNK_WEIGHTS);
            let bytes = views[run.tensor].bytes;
            let input = stored.gather(bytes, &run, count, &mut gathered);
            let (done, rest) = output.split_at_mut(count * to.bytes());
            scratch.resize(count, 0.0);
            // Whoever finds what became infinite asks `overflowed` about it.
            convert_row(stored.from, input, stored.added, to, done, &mut scratch)
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

    fn inputs(&self) -> Inputs {
        self.checkpoint.files().iter().map(|file| file.input().clone()).collect()
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
            Origin::Stored(stored) => {
                let to = self.tensors[index].ggml_type;
                if stored.from == to && stored.is_plain() {
                    return &self.view(&stored.names[0]).bytes[range];
                }
                let weights = range.start / to.block_bytes()..range.end / to.block_bytes();
                self.convert(index, weights, stored, buffer);
                buffer
            }
        }
    }

    fn overflowed(&self, index: usize, weight: usize) -> Option<f32> {
        let Origin::Stored(stored) = &self.origins[index] else { return None };
        let run = stored.run(weight);
        let bytes = self.view(&stored.names[run.tensor]).bytes;
        let mut gathered = Vec::new();
        let mut value = [0.0];
        let input = stored.gather(bytes, &run, 1, &mut gathered);
        formats::dequantize_row(stored.from, input, &mut value).ok()?;
        (value[0] + stored.added).is_finite().then_some(value[0] + stored.added)
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

/// Tokens of the vocabulary: what config.json says, else the rows of the embedding. Configs of models
/// that see may leave out what is usual.
fn vocabulary(config: &Config, views: &[TensorView<'_>]) -> Result<usize, String> {
    let names = ["vocab_size"];
    let embedding = || views.iter().find(|view| view.name.ends_with(".embed_tokens.weight"));
    let stated = config.count(&names)?;
    let found = stated.or_else(|| embedding().and_then(|view| view.shape.first().copied()));
    found.ok_or_else(|| missing(&names))
}

/// The metadata keys of the family.
fn family_keys(
    family: &Family,
    config: &Config,
    weight_type: WeightType,
) -> Result<Metadata, String> {
    let file_type = match weight_type {
        WeightType::F32 => 0,
        WeightType::F16 => 1,
        WeightType::BF16 => 32,
    };
    let mut keys = Metadata::new();
    family::write(family, config, file_type, &mut keys)?;
    Ok(keys)
}

fn metadata(
    directory: &Path,
    family: &Family,
    config: &Config,
    keys: Metadata,
    tensors: &[TensorInfo],
    vocabulary: usize,
) -> Result<Metadata, ConvertError> {
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", Value::String(family.gguf.into()));
    metadata.set("general.type", Value::String("model".into()));
    model_card::append_sampling(&mut metadata, directory)?;
    let folder = directory.canonicalize().map_err(|error| ConvertError::io(directory, error))?;
    let folder = folder.file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
    let parameters = tensors.iter().map(TensorInfo::weights).sum();
    let path = config.text(&["_name_or_path"]).ok().flatten();
    ModelName::find(path, &folder, parameters).append(&mut metadata);
    model_card::append_card(&mut metadata, directory)?;
    for (key, value) in keys.iter() {
        metadata.set(key, value.clone());
    }
    metadata.set("general.quantization_version", Value::U32(formats::QUANTIZATION_VERSION));
    from_checkpoint::append(&mut metadata, directory, vocabulary)?;
    Ok(metadata)
}
