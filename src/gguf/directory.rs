//! The part of a GGUF file before its tensor data, read from bytes. Every count, length and offset is
//! checked against the bytes that are there before it is believed, with arithmetic that cannot
//! overflow, so the memory taken stays in proportion to the file.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::cursor::Cursor;
use super::metadata::{Array, Metadata, Value, ValueType};
use super::{GgmlType, GgufError};
use crate::support::lfs_pointer;

/// The first four bytes of every GGUF file.
pub(super) const MAGIC: &[u8; 4] = b"GGUF";

/// The metadata key that holds the alignment of the data section.
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";

/// The most dimensions that ggml gives a tensor.
pub(super) const MAX_DIMENSIONS: usize = 4;

/// The longest metadata key that the specification allows, in bytes.
pub(super) const MAX_KEY_BYTES: usize = 65_535;

const DEFAULT_ALIGNMENT: u64 = 32;
/// The specification asks for a multiple of eight, which also lets mapped tensors be read in place.
const MIN_ALIGNMENT: u64 = 8;
/// Far above every use; keeps the padding that a copied file needs small.
const MAX_ALIGNMENT: u64 = 1 << 20;

/// Metadata and tensor directory may take this much of a file. Those of the largest vocabularies
/// take some 20 MiB; without a limit, a sparse file could ask for any amount of memory.
const MAX_DIRECTORY_BYTES: usize = 1 << 26;

/// The most metadata entries and tensors that a file may have. Models have some hundreds of entries,
/// and some ten thousand tensors where every expert has its own. Each takes many times its bytes when
/// it is read and shown.
const MAX_ENTRIES: u64 = 1 << 16;
const MAX_TENSORS: u64 = 1 << 18;

/// Magic, version, tensor count, metadata count.
const HEADER_BYTES: usize = 4 + 4 + 8 + 8;
/// Key length, value type, one-byte value.
const MIN_ENTRY_BYTES: u64 = 8 + 4 + 1;
/// Name length, number of dimensions, one dimension, type, offset.
const MIN_TENSOR_BYTES: u64 = 8 + 4 + 8 + 4 + 8;

/// What a GGUF file says about itself: everything but the tensor data.
#[derive(Debug)]
pub struct Directory {
    /// The format's version, 2 or 3.
    pub version: u32,
    /// The alignment of the data section and of every tensor in it, in bytes: a power of two.
    pub alignment: u64,
    /// Where the data section starts, in bytes from the start of the file.
    pub data_start: u64,
    /// The metadata in file order.
    pub metadata: Metadata,
    /// The tensors in directory order; their names are unique and their data lies in the file.
    pub tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

/// A tensor as the file's directory lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its dimensions in GGUF order: the contiguous one (columns) first.
    pub dimensions: Vec<u64>,
    /// Its element type.
    pub ggml_type: GgmlType,
    /// Where its data starts, in bytes from the start of the data section; in a split model, of the
    /// parts' data sections one after another.
    pub offset: u64,
}

impl TensorInfo {
    /// Weights in a row (the contiguous dimension).
    pub fn columns(&self) -> usize {
        self.dimensions.first().map_or(1, |&d| d as usize)
    }

    /// Number of rows: the product of all other dimensions.
    pub fn rows(&self) -> usize {
        self.dimensions.iter().skip(1).map(|&d| d as usize).product()
    }

    /// Number of weights. The reader has checked that it does not overflow.
    pub fn weights(&self) -> u64 {
        self.dimensions.iter().product()
    }

    /// Number of bytes. The reader has checked that it does not overflow and lies in the file.
    pub fn bytes(&self) -> u64 {
        self.weights() / self.ggml_type.block_size() as u64 * self.ggml_type.block_bytes() as u64
    }
}

impl Directory {
    /// Reads the directory of a GGUF file that holds exactly `bytes`; `path` only names it in errors.
    ///
    /// # Errors
    /// Anything that is not a complete, consistent little-endian GGUF version 2 or 3 file.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, GgufError> {
        parse(bytes).map_err(|problem| GgufError::malformed(path, problem))
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&index| &self.tensors[index])
    }
}

/// Whether the bytes begin as those of a GGUF file of any version and byte order do.
pub fn has_magic(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// The alignment that the metadata asks for, or the default of 32 bytes.
pub(super) fn alignment(metadata: &Metadata) -> Result<u64, String> {
    let alignment = match metadata.get(ALIGNMENT_KEY) {
        None => return Ok(DEFAULT_ALIGNMENT),
        Some(Value::U32(alignment)) => u64::from(*alignment),
        Some(other) => {
            return Err(format!(
                "{ALIGNMENT_KEY} must be a u32, found {}; the file needs to be made again",
                other.value_type().name()
            ));
        }
    };
    if !alignment.is_power_of_two() || !(MIN_ALIGNMENT..=MAX_ALIGNMENT).contains(&alignment) {
        return Err(format!(
            "{ALIGNMENT_KEY} must be a power of two between {MIN_ALIGNMENT} and {MAX_ALIGNMENT}, \
             found {alignment}; the file needs to be made again"
        ));
    }
    Ok(alignment)
}

/// Checks the shape of a tensor and returns its size in bytes.
pub(super) fn tensor_bytes(
    name: &str,
    dimensions: &[u64],
    ggml_type: GgmlType,
) -> Result<u64, String> {
    let name = quoted(name);
    if dimensions.is_empty() || dimensions.len() > MAX_DIMENSIONS {
        return Err(format!(
            "tensor {name} must have 1 to {MAX_DIMENSIONS} dimensions, found {}",
            dimensions.len()
        ));
    }
    if dimensions.contains(&0) {
        return Err(format!("tensor {name} has a dimension of 0 (shape {dimensions:?})"));
    }
    let too_large = || format!("tensor {name} has shape {dimensions:?}, which no file can hold");
    let weights = dimensions
        .iter()
        .try_fold(1u64, |product, &dimension| product.checked_mul(dimension))
        // Sizes are used as signed numbers by ggml and as usize by us.
        .filter(|&weights| weights <= i64::MAX as u64)
        .ok_or_else(too_large)?;
    let block = ggml_type.block_size() as u64;
    if !dimensions[0].is_multiple_of(block) {
        return Err(format!(
            "tensor {name} is {ggml_type} with rows of {} weights, which is not a multiple of that \
             type's block of {block}",
            dimensions[0]
        ));
    }
    (weights / block)
        .checked_mul(ggml_type.block_bytes() as u64)
        .filter(|&bytes| bytes <= i64::MAX as u64)
        .ok_or_else(too_large)
}

/// Text of a file as an error message shows it: quoted, control characters escaped, not too long.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

fn parse(bytes: &[u8]) -> Result<Directory, String> {
    let mut cursor = Cursor::new(&bytes[..bytes.len().min(MAX_DIRECTORY_BYTES)]);
    let version = read_version(&mut cursor, bytes)?;
    let tensor_count = cursor.u64("the number of tensors")?;
    let entry_count = cursor.u64("the number of metadata entries")?;
    cursor.check_room(entry_count, MIN_ENTRY_BYTES, "metadata entries")?;
    cursor.check_room(tensor_count, MIN_TENSOR_BYTES, "tensors")?;
    check_count(entry_count, MAX_ENTRIES, "metadata entries")?;
    check_count(tensor_count, MAX_TENSORS, "tensors")?;

    let metadata = read_metadata(&mut cursor, entry_count)?;
    let alignment = alignment(&metadata)?;
    let (tensors, by_name) = read_tensors(&mut cursor, tensor_count)?;
    // A position in a slice is far below u64::MAX - alignment.
    let data_start = (cursor.position() as u64).next_multiple_of(alignment);
    check_data(&tensors, data_start, alignment, bytes.len() as u64)?;
    Ok(Directory { version, alignment, data_start, metadata, tensors, by_name })
}

fn check_count(count: u64, most: u64, what: &str) -> Result<(), String> {
    if count <= most {
        return Ok(());
    }
    Err(format!("has {count} {what}, but quantkit reads at most {most}, and no model has more"))
}

fn read_version(cursor: &mut Cursor<'_>, bytes: &[u8]) -> Result<u32, String> {
    if let Some(problem) = lfs_pointer::problem(bytes) {
        return Err(problem.to_string());
    }
    if !bytes.starts_with(MAGIC) {
        let found = &bytes[..bytes.len().min(MAGIC.len())];
        return Err(match found {
            [] => "expected a GGUF file, found an empty file".to_string(),
            _ if MAGIC.starts_with(found) => {
                truncated(bytes.len(), "the 4 bytes \"GGUF\" and a header")
            }
            _ => format!(
                "expected a GGUF file, which starts with the 4 bytes \"GGUF\", found \"{}\"; \
                 give a .gguf file, or make one with `quantkit convert`",
                found.escape_ascii()
            ),
        });
    }
    if bytes.len() < HEADER_BYTES {
        return Err(truncated(bytes.len(), "a header of 24 bytes"));
    }
    cursor.take(MAGIC.len() as u64, "the magic")?;
    match cursor.u32("the version")? {
        version @ (2 | 3) => Ok(version),
        1 => Err("expected GGUF version 2 or 3, found version 1; convert the model again with a \
                  current converter"
            .to_string()),
        swapped if matches!(swapped.swap_bytes(), 1..=3) => Err(
            "expected a little-endian GGUF file, found a big-endian one; convert the model again \
             for little-endian machines"
                .to_string(),
        ),
        version => Err(format!(
            "expected GGUF version 2 or 3, found version {version}; the file is damaged, or newer \
             than this quantkit"
        )),
    }
}

fn truncated(length: usize, expected: &str) -> String {
    format!(
        "expected {expected}, but the file ends after {length} bytes; download or copy it again"
    )
}

fn read_metadata(cursor: &mut Cursor<'_>, count: u64) -> Result<Metadata, String> {
    let mut seen = HashSet::new();
    let mut entries = Vec::new();
    for _ in 0..count {
        let key = cursor.string("a metadata key")?;
        if key.len() > MAX_KEY_BYTES {
            return Err(format!(
                "metadata key {} has {} bytes; the format allows {MAX_KEY_BYTES}",
                quoted(key),
                key.len()
            ));
        }
        if !seen.insert(key) {
            return Err(format!(
                "metadata key {} occurs twice; the file is damaged and needs to be made again",
                quoted(key)
            ));
        }
        let value =
            read_value(cursor).map_err(|problem| format!("metadata {}: {problem}", quoted(key)))?;
        entries.push((key.to_string(), value));
    }
    Ok(Metadata::from_unique(entries))
}

fn read_value_type(cursor: &mut Cursor<'_>) -> Result<ValueType, String> {
    let id = cursor.u32("a value type")?;
    ValueType::from_id(id).ok_or_else(|| {
        format!("expected a value type from 0 to 12, found {id}; the file is damaged")
    })
}

fn read_value(cursor: &mut Cursor<'_>) -> Result<Value, String> {
    Ok(match read_value_type(cursor)? {
        ValueType::U8 => Value::U8(u8::from_le_bytes(cursor.array("a u8")?)),
        ValueType::I8 => Value::I8(i8::from_le_bytes(cursor.array("an i8")?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(cursor.array("a u16")?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(cursor.array("an i16")?)),
        ValueType::U32 => Value::U32(cursor.u32("a u32")?),
        ValueType::I32 => Value::I32(i32::from_le_bytes(cursor.array("an i32")?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(cursor.array("an f32")?)),
        ValueType::Bool => Value::Bool(truth(cursor.array("a bool")?)?),
        ValueType::String => Value::String(cursor.string("a string")?.to_string()),
        ValueType::Array => Value::Array(read_array(cursor)?),
        ValueType::U64 => Value::U64(cursor.u64("a u64")?),
        ValueType::I64 => Value::I64(i64::from_le_bytes(cursor.array("an i64")?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(cursor.array("an f64")?)),
    })
}

fn read_array(cursor: &mut Cursor<'_>) -> Result<Array, String> {
    let element = read_value_type(cursor)?;
    let count = cursor.u64("the length of an array")?;
    Ok(match element {
        ValueType::U8 => Array::U8(numbers(cursor, count, u8::from_le_bytes)?),
        ValueType::I8 => Array::I8(numbers(cursor, count, i8::from_le_bytes)?),
        ValueType::U16 => Array::U16(numbers(cursor, count, u16::from_le_bytes)?),
        ValueType::I16 => Array::I16(numbers(cursor, count, i16::from_le_bytes)?),
        ValueType::U32 => Array::U32(numbers(cursor, count, u32::from_le_bytes)?),
        ValueType::I32 => Array::I32(numbers(cursor, count, i32::from_le_bytes)?),
        ValueType::F32 => Array::F32(numbers(cursor, count, f32::from_le_bytes)?),
        ValueType::Bool => Array::Bool(truths(cursor, count)?),
        ValueType::String => Array::String(strings(cursor, count)?),
        ValueType::Array => {
            return Err("is an array of arrays, which quantkit does not read".to_string());
        }
        ValueType::U64 => Array::U64(numbers(cursor, count, u64::from_le_bytes)?),
        ValueType::I64 => Array::I64(numbers(cursor, count, i64::from_le_bytes)?),
        ValueType::F64 => Array::F64(numbers(cursor, count, f64::from_le_bytes)?),
    })
}

fn numbers<const N: usize, T>(
    cursor: &mut Cursor<'_>,
    count: u64,
    decode: fn([u8; N]) -> T,
) -> Result<Vec<T>, String> {
    cursor.check_room(count, N as u64, "array elements")?;
    let (elements, _) = cursor.take(count * N as u64, "array elements")?.as_chunks::<N>();
    Ok(elements.iter().map(|&element| decode(element)).collect())
}

fn strings(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<String>, String> {
    cursor.check_room(count, size_of::<u64>() as u64, "strings")?;
    (0..count).map(|_| cursor.string("a string").map(str::to_string)).collect()
}

fn truths(cursor: &mut Cursor<'_>, count: u64) -> Result<Vec<bool>, String> {
    cursor.take(count, "an array of bools")?.iter().map(|&byte| truth([byte])).collect()
}

fn truth(byte: [u8; 1]) -> Result<bool, String> {
    match byte {
        [0] => Ok(false),
        [1] => Ok(true),
        [other] => Err(format!("expected a bool of 0 or 1, found {other}; the file is damaged")),
    }
}

type Tensors = (Vec<TensorInfo>, HashMap<String, usize>);

fn read_tensors(cursor: &mut Cursor<'_>, count: u64) -> Result<Tensors, String> {
    cursor.check_room(count, MIN_TENSOR_BYTES, "tensors")?;
    let mut tensors = Vec::new();
    let mut by_name = HashMap::new();
    for index in 0..count as usize {
        let tensor = read_tensor(cursor)?;
        if by_name.insert(tensor.name.clone(), index).is_some() {
            return Err(format!(
                "tensor {} is listed twice; the file is damaged and needs to be made again",
                quoted(&tensor.name)
            ));
        }
        tensors.push(tensor);
    }
    Ok((tensors, by_name))
}

fn read_tensor(cursor: &mut Cursor<'_>) -> Result<TensorInfo, String> {
    let name = cursor.string("a tensor name")?.to_string();
    let dimension_count = cursor.u32("the number of dimensions")? as usize;
    if dimension_count > MAX_DIMENSIONS {
        return Err(format!(
            "tensor {} must have 1 to {MAX_DIMENSIONS} dimensions, found {dimension_count}",
            quoted(&name)
        ));
    }
    let dimensions =
        (0..dimension_count).map(|_| cursor.u64("a dimension")).collect::<Result<Vec<_>, _>>()?;
    let type_id = cursor.u32("a tensor type")?;
    let ggml_type = GgmlType::from_id(type_id).ok_or_else(|| {
        format!(
            "tensor {} has the unknown type number {type_id}; the file is damaged, or uses a \
             format that quantkit does not know: make it again in another one, such as F16 or Q4_0",
            quoted(&name)
        )
    })?;
    let offset = cursor.u64("a tensor offset")?;
    tensor_bytes(&name, &dimensions, ggml_type)?;
    Ok(TensorInfo { name, dimensions, ggml_type, offset })
}

/// Checks that every tensor is aligned, lies in the file and overlaps no other one.
fn check_data(
    tensors: &[TensorInfo],
    data_start: u64,
    alignment: u64,
    file_bytes: u64,
) -> Result<(), String> {
    let available = file_bytes.saturating_sub(data_start);
    for tensor in tensors {
        let name = quoted(&tensor.name);
        if !tensor.offset.is_multiple_of(alignment) {
            return Err(format!(
                "tensor {name} starts at byte {} of the data, which is not a multiple of the file's \
                 alignment of {alignment}; the file is damaged",
                tensor.offset
            ));
        }
        let end = tensor.offset.checked_add(tensor.bytes());
        if end.is_none_or(|end| end > available) {
            return Err(format!(
                "tensor {name} ({}, {:?}) takes {} bytes from byte {} of the data, but the file \
                 has only {available} bytes of data; it is incomplete or damaged: download or \
                 copy it again",
                tensor.ggml_type,
                tensor.dimensions,
                tensor.bytes(),
                tensor.offset,
            ));
        }
    }
    let mut by_offset: Vec<&TensorInfo> = tensors.iter().collect();
    by_offset.sort_by_key(|tensor| tensor.offset);
    for pair in by_offset.windows(2) {
        if pair[0].offset + pair[0].bytes() > pair[1].offset {
            return Err(format!(
                "tensors {} and {} overlap; the file is damaged",
                quoted(&pair[0].name),
                quoted(&pair[1].name)
            ));
        }
    }
    Ok(())
}
