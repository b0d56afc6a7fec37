//! llama.cpp's GGUF importance file: two F32 tensors for each weight matrix, `NAME.in_sum2`
//! (`[columns, experts]`) and `NAME.counts` (`[1, experts]`), and where they come from in the
//! metadata (`imatrix.*` in gguf-py's constants).

use std::collections::BTreeMap;
use std::path::Path;

use super::sums::{DEFAULT_CHUNK_TOKENS, TensorSums};
use super::{ActivationSums, ImportanceError};
use crate::gguf::{Array, GgmlType, GgufFile, GgufWriter, Metadata, TensorInfo, TensorPlan, Value};

const TYPE_KEY: &str = "general.type";
const TYPE: &str = "imatrix";
const DATASETS_KEY: &str = "imatrix.datasets";
const CHUNKS_KEY: &str = "imatrix.chunk_count";
const CHUNK_TOKENS_KEY: &str = "imatrix.chunk_size";

const SUMS_SUFFIX: &str = ".in_sum2";
const COUNTS_SUFFIX: &str = ".counts";

/// Counts above this are no counts: an f32 holds whole numbers exactly only up to 2²⁴, and no text
/// has 2⁵³ tokens.
const LARGEST_COUNT: f32 = (1u64 << 53) as f32;

pub(super) fn read(path: &Path) -> Result<ActivationSums, ImportanceError> {
    let file = GgufFile::open(path)?;
    read_file(&file).map_err(|problem| ImportanceError::malformed(path, problem))
}

fn read_file(file: &GgufFile) -> Result<ActivationSums, String> {
    let metadata = file.metadata();
    let number = |key| {
        let number = metadata.unsigned(key).and_then(|number| u32::try_from(number).ok());
        number.ok_or_else(|| missing(file, key))
    };
    let datasets = metadata.strings(DATASETS_KEY).ok_or_else(|| missing(file, DATASETS_KEY))?;
    let chunk_tokens = number(CHUNK_TOKENS_KEY)?;
    if chunk_tokens == 0 {
        return Err(format!("{CHUNK_TOKENS_KEY} is 0; expected the tokens of a chunk"));
    }
    Ok(ActivationSums {
        tensors: read_tensors(file)?,
        datasets: datasets.to_vec(),
        chunks: number(CHUNKS_KEY)?,
        chunk_tokens: Some(chunk_tokens),
    })
}

fn missing(file: &GgufFile, key: &str) -> String {
    let kind = file.metadata().string(TYPE_KEY).unwrap_or("model");
    format!(
        "expected importance, which has {key} in its metadata, found a GGUF file of type {kind:?} \
         without it; `quantkit importance MODEL --text FILE --output FILE` collects importance"
    )
}

fn read_tensors(file: &GgufFile) -> Result<BTreeMap<String, TensorSums>, String> {
    let mut tensors = BTreeMap::new();
    for tensor in file.tensors() {
        let Some(name) = tensor.name.strip_suffix(SUMS_SUFFIX) else { continue };
        let counts = file
            .tensor(&format!("{name}{COUNTS_SUFFIX}"))
            .ok_or_else(|| format!("the tensor {name:?} has sums but no {COUNTS_SUFFIX}"))?;
        let counts = floats(file, counts)?.map(count).collect::<Option<_>>().ok_or_else(|| {
            format!("the tensor {name:?} has a count that is not a number of activations")
        })?;
        let sums = TensorSums { sums: floats(file, tensor)?.collect(), counts };
        sums.check(name)?;
        tensors.insert(name.to_string(), sums);
    }
    let without_sums = file.tensors().iter().find_map(|tensor| {
        let name = tensor.name.strip_suffix(COUNTS_SUFFIX)?;
        (!tensors.contains_key(name)).then_some(name)
    });
    match without_sums {
        Some(name) => Err(format!("the tensor {name:?} has counts but no {SUMS_SUFFIX}")),
        None if tensors.is_empty() => Err("the file holds the importance of no tensor".to_string()),
        None => Ok(tensors),
    }
}

fn floats<'a>(
    file: &'a GgufFile,
    tensor: &TensorInfo,
) -> Result<impl Iterator<Item = f32> + use<'a>, String> {
    if tensor.ggml_type != GgmlType::F32 {
        return Err(format!("{} is {}; expected F32", tensor.name, tensor.ggml_type));
    }
    let (values, _) = file.tensor_bytes(tensor).as_chunks::<4>();
    Ok(values.iter().map(|&value| f32::from_le_bytes(value)))
}

fn count(stored: f32) -> Option<u64> {
    (0.0..LARGEST_COUNT).contains(&stored).then(|| stored.round() as u64)
}

/// Writes the very bytes that llama-imatrix writes for the same numbers.
pub(super) fn write(sums: &ActivationSums, path: &Path) -> Result<(), ImportanceError> {
    let mut metadata = Metadata::new();
    metadata.set(TYPE_KEY, Value::String(TYPE.to_string()));
    metadata.set(DATASETS_KEY, Value::Array(Array::String(sums.datasets.clone())));
    metadata.set(CHUNKS_KEY, Value::U32(sums.chunks));
    let chunk_tokens = sums.chunk_tokens.unwrap_or(DEFAULT_CHUNK_TOKENS);
    metadata.set(CHUNK_TOKENS_KEY, Value::U32(chunk_tokens));
    let plans = sums.tensors.iter().flat_map(|(name, tensor)| plans(name, tensor)).collect();
    let mut writer = GgufWriter::create(path, &metadata, plans)?;
    for tensor in sums.tensors.values() {
        writer.write(&bytes(tensor.sums.iter().copied()))?;
        writer.write(&bytes(tensor.counts.iter().map(|&count| count as f32)))?;
    }
    Ok(writer.finish()?)
}

fn plans(name: &str, tensor: &TensorSums) -> [TensorPlan; 2] {
    let plan = |suffix: &str, columns: usize| {
        let mut dimensions = vec![columns as u64];
        if tensor.counts.len() > 1 {
            dimensions.push(tensor.counts.len() as u64);
        }
        TensorPlan { name: format!("{name}{suffix}"), dimensions, ggml_type: GgmlType::F32 }
    };
    [plan(SUMS_SUFFIX, tensor.columns()), plan(COUNTS_SUFFIX, 1)]
}

fn bytes(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(f32::to_le_bytes).collect()
}
