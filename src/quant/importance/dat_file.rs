//! llama.cpp's legacy importance file, all in little-endian 32-bit numbers:
//!
//! ```text
//! entries, then for each entry: length and bytes of the tensor's name,
//!     calls (chunks that it was collected on), values, and as many f32: mean square · calls
//! chunks, length and bytes of the calibration text's name: may be missing
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use super::sums::TensorSums;
use super::{ActivationSums, ImportanceError};
use crate::gguf::Cursor;
use crate::support::atomic_file::write_atomically;

/// Name length, calls, number of values, one value.
const MIN_ENTRY_BYTES: u64 = 4 * 4;

pub(super) fn read(bytes: &[u8]) -> Result<ActivationSums, String> {
    let cursor = &mut Cursor::new(bytes);
    let entries = count(cursor, "the number of tensors")
        .and_then(|entries| {
            cursor.check_room(entries, MIN_ENTRY_BYTES, "tensors")?;
            if entries > 0 { Ok(entries) } else { Err("declares no tensor".to_string()) }
        })
        .map_err(|problem| {
            format!("neither a GGUF file nor a legacy importance file, as one it {problem}")
        })?;
    let mut tensors = BTreeMap::new();
    for index in 0..entries {
        let (name, sums) =
            read_entry(cursor).map_err(|problem| format!("tensor {index}: {problem}"))?;
        sums.check(&name)?;
        if tensors.contains_key(&name) {
            return Err(format!("the tensor {name:?} is listed twice; the file is damaged"));
        }
        tensors.insert(name, sums);
    }
    let (chunks, datasets) = read_origin(cursor)?;
    Ok(ActivationSums { tensors, datasets, chunks, chunk_tokens: None })
}

fn read_entry(cursor: &mut Cursor<'_>) -> Result<(String, TensorSums), String> {
    let name = text(cursor, "a tensor's name")?;
    let calls = count(cursor, "the number of calls")?;
    let values = count(cursor, "the number of values")?;
    let (sums, _) = cursor.take(values * 4, "a tensor's values")?.as_chunks::<4>();
    let sums = sums.iter().map(|&value| f32::from_le_bytes(value)).collect();
    // Files without calls hold the means themselves.
    Ok((name, TensorSums { sums, counts: vec![calls.max(1)] }))
}

/// Number of chunks and the calibration text's name, as far as the file says them.
fn read_origin(cursor: &mut Cursor<'_>) -> Result<(u32, Vec<String>), String> {
    if cursor.remaining() == 0 {
        return Ok((0, Vec::new()));
    }
    let chunks = count(cursor, "the number of chunks")? as u32;
    if cursor.remaining() == 0 {
        return Ok((chunks, Vec::new()));
    }
    let dataset = text(cursor, "the calibration text's name")?;
    match cursor.remaining() {
        0 => Ok((chunks, Some(dataset).filter(|name| !name.is_empty()).into_iter().collect())),
        rest => Err(format!("{rest} bytes follow the end of the data; the file is damaged")),
    }
}

/// A signed 32-bit number that must not be negative.
fn count(cursor: &mut Cursor<'_>, what: &str) -> Result<u64, String> {
    let number = i32::from_le_bytes(cursor.array(what)?);
    u64::try_from(number).map_err(|_| format!("expected {what}, found {number}"))
}

fn text(cursor: &mut Cursor<'_>, what: &str) -> Result<String, String> {
    let length = count(cursor, what)?;
    let bytes = cursor.take(length, what)?;
    std::str::from_utf8(bytes).map(str::to_string).map_err(|_| format!("{what} is not UTF-8 text"))
}

/// Writes the very bytes that llama-imatrix writes for the same numbers: tensors without any data
/// are left out, and experts without any get 1.
pub(super) fn write(sums: &ActivationSums, path: &Path) -> Result<(), ImportanceError> {
    let bytes = encode(sums)
        .ok_or_else(|| ImportanceError::malformed(path, "a legacy file has no room for so much"))?;
    write_atomically(path, &bytes).map_err(|source| ImportanceError::io(path, source))
}

/// `None` where a number has more than 31 bits.
fn encode(sums: &ActivationSums) -> Option<Vec<u8>> {
    let number = |number: u64| i32::try_from(number).ok().map(i32::to_le_bytes);
    let mut bytes = Vec::new();
    let tensors = sums.tensors.iter().filter(|(_, tensor)| tensor.largest_count() > 0);
    bytes.extend(number(tensors.clone().count() as u64)?);
    // A legacy file's counts are calls already.
    let chunk_tokens = sums.chunk_tokens.unwrap_or(1);
    for (name, tensor) in tensors {
        let calls = tensor.largest_count().div_ceil(chunk_tokens.into());
        bytes.extend(number(name.len() as u64)?);
        bytes.extend(name.as_bytes());
        bytes.extend(number(calls)?);
        bytes.extend(number(tensor.sums.len() as u64)?);
        for (expert, &count) in tensor.sums.chunks_exact(tensor.columns()).zip(&tensor.counts) {
            let mean = |sum: f32| if count == 0 { 1.0 } else { sum / count as f32 };
            bytes.extend(expert.iter().flat_map(|&sum| (mean(sum) * calls as f32).to_le_bytes()));
        }
    }
    bytes.extend(number(sums.chunks.into())?);
    let dataset = sums.datasets.last().map_or("", String::as_str);
    bytes.extend(number(dataset.len() as u64)?);
    bytes.extend(dataset.as_bytes());
    Some(bytes)
}
