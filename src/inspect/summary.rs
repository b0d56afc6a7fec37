//! What a model file holds.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::container::{Container, ContainerTensor};
use super::shown::{Limits, ShownValue};
use crate::gguf::{GgufFile, Value};
use crate::support::path_text;

/// A file's metadata, tensors and sizes.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The file or directory.
    #[serde(serialize_with = "path_text::one")]
    pub file: PathBuf,
    /// `gguf` or `safetensors`.
    pub format: &'static str,
    /// GGUF's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<u32>,
    /// GGUF's alignment of tensors, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alignment: Option<u64>,
    /// Number of files: more than one for shards.
    pub files: usize,
    /// Bytes of the files.
    pub file_bytes: u64,
    /// Metadata in file order.
    pub metadata: Vec<MetadataEntry>,
    /// Tensors in file order.
    pub tensors: Vec<TensorEntry>,
    /// What each element type takes, the largest first.
    pub types: Vec<TypeTotals>,
    /// All tensors together.
    pub totals: Totals,
}

/// One metadata entry.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MetadataEntry {
    /// Its key.
    pub key: String,
    /// Its type: `u32`, `string`, `array<f32>`.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Number of elements of an array.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<usize>,
    /// Its value; of a long array, the beginning.
    pub value: ShownValue,
}

/// One tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorEntry {
    /// Its name.
    pub name: String,
    /// Its element type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Its shape in the file's order: columns first in GGUF, last in safetensors.
    pub shape: Vec<u64>,
    /// Number of weights.
    pub weights: u64,
    /// Number of bytes.
    pub bytes: u64,
}

/// The tensors of one element type.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TypeTotals {
    /// The type.
    #[serde(rename = "type")]
    pub type_name: String,
    /// Their sum.
    #[serde(flatten)]
    pub totals: Totals,
}

/// A number of tensors together.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Totals {
    /// Number of tensors.
    pub tensors: usize,
    /// Number of weights.
    pub weights: u64,
    /// Number of bytes.
    pub bytes: u64,
    /// Bits that a weight takes on average, scales included; 0 without weights.
    pub bits_per_weight: f64,
}

impl Totals {
    fn new<'a>(tensors: impl IntoIterator<Item = &'a TensorEntry>) -> Self {
        let mut totals = Self::default();
        for tensor in tensors {
            totals.tensors += 1;
            totals.weights += tensor.weights;
            totals.bytes += tensor.bytes;
        }
        if totals.weights > 0 {
            totals.bits_per_weight = totals.bytes as f64 * 8.0 / totals.weights as f64;
        }
        totals
    }
}

impl MetadataEntry {
    pub(super) fn new(key: &str, value: &Value, limits: Limits) -> Self {
        let (type_name, length) = match value {
            Value::Array(array) => {
                (format!("array<{}>", array.element_type().name()), Some(array.len()))
            }
            other => (other.value_type().name().to_string(), None),
        };
        Self { key: key.to_string(), type_name, length, value: ShownValue::new(value, limits) }
    }
}

impl TensorEntry {
    pub(super) fn new(tensor: &ContainerTensor<'_>) -> Self {
        Self {
            name: tensor.name.to_string(),
            type_name: tensor.type_name.clone(),
            shape: tensor.shape.clone(),
            weights: tensor.weights(),
            bytes: tensor.bytes.len() as u64,
        }
    }
}

/// Describes a container.
pub fn summarize(container: &Container, limits: Limits) -> Summary {
    let tensors: Vec<TensorEntry> = container.tensors().iter().map(TensorEntry::new).collect();
    let (format, gguf, files) = match container {
        Container::Gguf(file) => ("gguf", Some(file), file.part_paths().count()),
        Container::Safetensors(_) => ("safetensors", None, 1),
        Container::Checkpoint { tensors, .. } => ("safetensors", None, tensors.files().len()),
    };
    Summary {
        file: container.path().to_path_buf(),
        format,
        version: gguf.map(GgufFile::version),
        alignment: gguf.map(GgufFile::alignment),
        files,
        file_bytes: container.file_bytes(),
        metadata: metadata(container)
            .iter()
            .map(|(key, value)| MetadataEntry::new(key, value, limits))
            .collect(),
        types: type_totals(&tensors),
        totals: Totals::new(&tensors),
        tensors,
    }
}

/// All metadata in file order; that of safetensors files is text.
pub(super) fn metadata(container: &Container) -> Vec<(&str, Cow<'_, Value>)> {
    fn of_texts(texts: &[(String, String)]) -> Vec<(&str, Cow<'_, Value>)> {
        let value = |text: &String| Cow::Owned(Value::String(text.clone()));
        texts.iter().map(|(key, text)| (key.as_str(), value(text))).collect()
    }
    match container {
        Container::Gguf(file) => {
            file.metadata().iter().map(|(key, value)| (key, Cow::Borrowed(value))).collect()
        }
        Container::Safetensors(file) => of_texts(file.metadata()),
        // Every shard repeats the same text.
        Container::Checkpoint { tensors, .. } => {
            tensors.files().first().map(|file| of_texts(file.metadata())).unwrap_or_default()
        }
    }
}

fn type_totals(tensors: &[TensorEntry]) -> Vec<TypeTotals> {
    let mut by_type: BTreeMap<&str, Vec<&TensorEntry>> = BTreeMap::new();
    for tensor in tensors {
        by_type.entry(&tensor.type_name).or_default().push(tensor);
    }
    let mut types: Vec<TypeTotals> = by_type
        .into_iter()
        .map(|(name, tensors)| TypeTotals {
            type_name: name.to_string(),
            totals: Totals::new(tensors),
        })
        .collect();
    types.sort_by_key(|row| std::cmp::Reverse(row.totals.bytes));
    types
}
