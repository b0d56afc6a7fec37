//! How two model files differ.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;

use rayon::prelude::*;
use serde::Serialize;

use super::container::{Container, ContainerTensor, InspectError};
use super::shown::Limits;
use super::summary::{MetadataEntry, TensorEntry, metadata};
use crate::gguf::Value;
use crate::quant::formats::{can_dequantize, dequantize_row};
use crate::support::interrupt;
use crate::support::path_text;
use crate::support::progress::{Progress, Unit};

/// Weights that are compared at a time: a multiple of every block.
const CHUNK_WEIGHTS: usize = 1 << 16;

/// Everything in which two files differ.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// The first file.
    #[serde(serialize_with = "path_text::one")]
    pub left: PathBuf,
    /// The second file.
    #[serde(serialize_with = "path_text::one")]
    pub right: PathBuf,
    /// Whether metadata and tensors are all the same; their order and the padding do not count.
    pub identical: bool,
    /// The metadata that differs.
    pub metadata: Vec<MetadataChange>,
    /// The tensors that differ.
    pub tensors: Vec<TensorChange>,
    /// Number of metadata entries that are the same.
    pub same_metadata: usize,
    /// Number of tensors that are the same.
    pub same_tensors: usize,
}

/// What has happened from left to right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// Only on the left.
    Removed,
    /// Only on the right.
    Added,
    /// On both sides, but not the same.
    Changed,
}

/// A metadata entry that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MetadataChange {
    /// How.
    pub change: Change,
    /// The left entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<MetadataEntry>,
    /// The right entry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub right: Option<MetadataEntry>,
    /// Of two arrays of one type and length: the first element that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_different_element: Option<usize>,
}

/// A tensor that differs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorChange {
    /// How.
    pub change: Change,
    /// The left tensor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left: Option<TensorEntry>,
    /// The right tensor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub right: Option<TensorEntry>,
    /// How the data differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<DataDifference>,
}

/// How the data of two tensors of one shape differs.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct DataDifference {
    /// Number of bytes that differ, where both have one type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub different_bytes: Option<u64>,
    /// The first of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_different_byte: Option<u64>,
    /// The largest difference between two weights, where both types can be read; not a number
    /// where one of the two weights is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub largest_difference: Option<f32>,
    /// Square root of the mean squared difference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_mean_square_difference: Option<f64>,
}

/// Compares metadata and tensors by name.
///
/// # Errors
/// Only an interruption.
pub fn compare(
    left: &Container,
    right: &Container,
    limits: Limits,
) -> Result<Difference, InspectError> {
    let (metadata, same_metadata) = compare_metadata(&metadata(left), &metadata(right), limits);
    let (tensors, same_tensors) = compare_tensors(&left.tensors(), &right.tensors())?;
    Ok(Difference {
        left: left.path().to_path_buf(),
        right: right.path().to_path_buf(),
        identical: metadata.is_empty() && tensors.is_empty(),
        metadata,
        tensors,
        same_metadata,
        same_tensors,
    })
}

/// The left items with their partners on the right, then the right items without one.
fn pair_up<'a, T>(
    left: &'a [T],
    right: &'a [T],
    name: impl Fn(&T) -> &str,
) -> Vec<(Option<&'a T>, Option<&'a T>)> {
    let by_name = |items: &'a [T]| -> HashMap<&'a str, &'a T> {
        items.iter().map(|item| (name(item), item)).collect()
    };
    let (left_names, right_names) = (by_name(left), by_name(right));
    let of_left = left.iter().map(|item| (Some(item), right_names.get(name(item)).copied()));
    let only_right = right.iter().filter(|item| !left_names.contains_key(name(item)));
    of_left.chain(only_right.map(|item| (None, Some(item)))).collect()
}

fn change_of<T>(left: Option<&T>, right: Option<&T>) -> Change {
    match (left, right) {
        (Some(_), None) => Change::Removed,
        (None, _) => Change::Added,
        (Some(_), Some(_)) => Change::Changed,
    }
}

type NamedValue<'a> = (&'a str, Cow<'a, Value>);

fn compare_metadata(
    left: &[NamedValue<'_>],
    right: &[NamedValue<'_>],
    limits: Limits,
) -> (Vec<MetadataChange>, usize) {
    let mut same = 0;
    let mut changes = Vec::new();
    for (left, right) in pair_up(left, right, |(key, _)| *key) {
        let mut first_different_element = None;
        if let (Some((_, left)), Some((_, right))) = (left, right) {
            if left.is_identical(right) {
                same += 1;
                continue;
            }
            if let (Value::Array(left), Value::Array(right)) = (&**left, &**right) {
                first_different_element = left.first_difference(right);
            }
        }
        let entry = |(key, value): &NamedValue<'_>| MetadataEntry::new(key, value, limits);
        changes.push(MetadataChange {
            change: change_of(left, right),
            left: left.map(entry),
            right: right.map(entry),
            first_different_element,
        });
    }
    (changes, same)
}

fn compare_tensors(
    left: &[ContainerTensor<'_>],
    right: &[ContainerTensor<'_>],
) -> Result<(Vec<TensorChange>, usize), InspectError> {
    let bytes: usize = left.iter().map(|tensor| tensor.bytes.len()).sum();
    let progress = Progress::new("comparing", bytes as u64, Unit::Bytes);
    let mut same = 0;
    let mut changes = Vec::new();
    for (left, right) in pair_up(left, right, |tensor| tensor.name) {
        let mut data = None;
        if let (Some(left), Some(right)) = (left, right) {
            progress.message(left.name);
            let same_kind = left.type_name == right.type_name && left.shape == right.shape;
            if left.shape == right.shape {
                data = compare_data(left, right, &progress)?;
            }
            if same_kind && data.is_none() {
                same += 1;
                continue;
            }
        }
        changes.push(TensorChange {
            change: change_of(left, right),
            left: left.map(TensorEntry::new),
            right: right.map(TensorEntry::new),
            data,
        });
    }
    progress.finish();
    Ok((changes, same))
}

/// How the data of two tensors of one shape differs; `None` where it is the same or where their
/// types cannot be compared.
fn compare_data(
    left: &ContainerTensor<'_>,
    right: &ContainerTensor<'_>,
    progress: &Progress,
) -> Result<Option<DataDifference>, InspectError> {
    let mut difference = DataDifference::default();
    if left.type_name == right.type_name {
        if left.bytes == right.bytes {
            progress.advance(left.bytes.len() as u64);
            interrupt::check()?;
            return Ok(None);
        }
        let differs = |index: &usize| left.bytes[*index] != right.bytes[*index];
        difference.different_bytes =
            Some((0..left.bytes.len()).into_par_iter().filter(differs).count() as u64);
        difference.first_different_byte =
            (0..left.bytes.len()).find(differs).map(|index| index as u64);
    }
    match compare_weights(left, right, progress)? {
        Some(weights) => {
            difference.largest_difference = Some(weights.largest);
            difference.root_mean_square_difference =
                Some((weights.sum_of_squares / left.weights().max(1) as f64).sqrt());
        }
        None => progress.advance(left.bytes.len() as u64),
    }
    Ok((difference != DataDifference::default()).then_some(difference))
}

#[derive(Debug, Clone, Copy, Default)]
struct WeightDifference {
    largest: f32,
    sum_of_squares: f64,
}

impl WeightDifference {
    fn add(mut self, difference: f32) -> Self {
        if difference.is_nan() || difference > self.largest {
            self.largest = difference;
        }
        self.sum_of_squares += f64::from(difference) * f64::from(difference);
        self
    }

    fn merge(self, other: Self) -> Self {
        let sum_of_squares = self.sum_of_squares + other.sum_of_squares;
        let keep = self.largest.is_nan() || self.largest > other.largest;
        Self { largest: if keep { self.largest } else { other.largest }, sum_of_squares }
    }
}

/// `None` where one of the types cannot be dequantized.
fn compare_weights(
    left: &ContainerTensor<'_>,
    right: &ContainerTensor<'_>,
    progress: &Progress,
) -> Result<Option<WeightDifference>, InspectError> {
    let readable = |tensor: &ContainerTensor<'_>| tensor.ggml_type.is_some_and(can_dequantize);
    if !readable(left) || !readable(right) {
        return Ok(None);
    }
    let weights = left.weights() as usize;
    let chunks = (0..weights.div_ceil(CHUNK_WEIGHTS)).into_par_iter().map(|chunk| {
        interrupt::check()?;
        let start = chunk * CHUNK_WEIGHTS;
        let count = CHUNK_WEIGHTS.min(weights - start);
        let (Some(a), Some(b)) = (decode(left, start, count), decode(right, start, count)) else {
            return Ok(None);
        };
        progress.advance((left.bytes.len() as u64 * count as u64) / weights as u64);
        let sum = a.iter().zip(&b).fold(WeightDifference::default(), |sum, (&a, &b)| {
            // Equal infinities do not differ, but their difference is not a number.
            sum.add(if a == b || (a.is_nan() && b.is_nan()) { 0.0 } else { (a - b).abs() })
        });
        Ok(Some(sum))
    });
    let merge = |a: Option<WeightDifference>, b| Some(a?.merge(b?));
    chunks.try_reduce(|| Some(WeightDifference::default()), |a, b| Ok(merge(a, b)))
}

/// The weights from `start` on; `None` where they cannot be decoded.
fn decode(tensor: &ContainerTensor<'_>, start: usize, count: usize) -> Option<Vec<f32>> {
    let ggml_type = tensor.ggml_type?;
    let first = ggml_type.row_bytes(start)?;
    let bytes = tensor.bytes.get(first..first + ggml_type.row_bytes(count)?)?;
    let mut weights = vec![0.0; count];
    dequantize_row(ggml_type, bytes, &mut weights).ok()?;
    Some(weights)
}
