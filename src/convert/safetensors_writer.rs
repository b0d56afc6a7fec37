//! Writing safetensors files as a stream: the header first, then each tensor's bytes in order.

use std::io::{self, Write as _};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::support::atomic_file::AtomicFile;

/// A tensor that will be written.
#[derive(Debug, Clone)]
pub(super) struct PlannedTensor {
    pub name: String,
    /// `F16`, `BF16` or `F32`.
    pub dtype: &'static str,
    /// The slow dimension first.
    pub shape: Vec<u64>,
    pub bytes: u64,
}

/// Starts a file with the header for these tensors; their bytes follow without gaps.
pub(super) fn create(path: &Path, tensors: &[PlannedTensor]) -> io::Result<AtomicFile> {
    let mut header = Map::new();
    header.insert("__metadata__".to_string(), json!({ "format": "pt" }));
    let mut offset = 0;
    for tensor in tensors {
        let end = offset + tensor.bytes;
        let entry = json!({
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [offset, end],
        });
        header.insert(tensor.name.clone(), entry);
        offset = end;
    }
    let mut header = serde_json::to_vec(&Value::Object(header))?;
    // Spaces bring the data to a multiple of eight.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = AtomicFile::create(path)?;
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    Ok(file)
}

/// Splits the tensors, in order, into shards of at most `limit` bytes; a larger tensor gets a shard
/// of its own.
pub(super) fn shards(tensors: Vec<PlannedTensor>, limit: u64) -> Vec<Vec<PlannedTensor>> {
    let mut shards: Vec<Vec<PlannedTensor>> = Vec::new();
    let mut size = 0;
    for tensor in tensors {
        match shards.last_mut() {
            Some(shard) if size + tensor.bytes <= limit => {
                size += tensor.bytes;
                shard.push(tensor);
            }
            _ => {
                size = tensor.bytes;
                shards.push(vec![tensor]);
            }
        }
    }
    shards
}

/// `model.safetensors`, or `model-00002-of-00003.safetensors`.
pub(super) fn shard_name(index: usize, count: usize) -> String {
    match count {
        1 => "model.safetensors".to_string(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
    }
}

/// The content of `model.safetensors.index.json`.
pub(super) fn index(shards: &[Vec<PlannedTensor>]) -> Value {
    let mut weight_map = Map::new();
    for (index, shard) in shards.iter().enumerate() {
        for tensor in shard {
            weight_map.insert(tensor.name.clone(), json!(shard_name(index, shards.len())));
        }
    }
    let total: u64 = shards.iter().flatten().map(|tensor| tensor.bytes).sum();
    json!({ "metadata": { "total_size": total }, "weight_map": weight_map })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(sizes: &[u64]) -> Vec<PlannedTensor> {
        sizes
            .iter()
            .enumerate()
            .map(|(index, &bytes)| PlannedTensor {
                name: format!("t{index}"),
                dtype: "F16",
                shape: vec![bytes / 2],
                bytes,
            })
            .collect()
    }

    #[test]
    fn shards_stay_below_the_limit() {
        let shards = shards(tensors(&[4, 4, 2, 20, 2, 8]), 10);
        let sizes: Vec<Vec<u64>> =
            shards.iter().map(|shard| shard.iter().map(|tensor| tensor.bytes).collect()).collect();
        assert_eq!(sizes, [vec![4, 4, 2], vec![20], vec![2, 8]]);
        let index = index(&shards);
        assert_eq!(index["metadata"]["total_size"], 40);
        assert_eq!(index["weight_map"]["t3"], "model-00002-of-00003.safetensors");
        assert_eq!(shard_name(0, 1), "model.safetensors");
    }

    #[test]
    fn the_reader_of_the_safetensors_crate_agrees() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        let mut file = create(&path, &tensors(&[4, 6])).unwrap();
        file.write_all(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]).unwrap();
        file.commit().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let read = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(read.tensor("t1").unwrap().data(), [5, 6, 7, 8, 9, 10]);
        assert_eq!(read.tensor("t1").unwrap().shape(), [3]);
    }
}
