//! All tensors of a checkpoint directory, in one file or in shards.

use std::collections::{BTreeMap, HashMap};
use std::io::Read as _;
use std::path::{Component, Path};

use serde::Deserialize;

use super::safetensors::{SafetensorsError, SafetensorsFile, TensorView};
use crate::support::regular_file::open_regular;

/// The one file of an unsharded checkpoint.
pub const SINGLE_FILE: &str = "model.safetensors";
/// The index of a sharded checkpoint.
pub const INDEX_FILE: &str = "model.safetensors.index.json";

/// Above any index: one line a tensor.
const MAX_INDEX_BYTES: u64 = 100_000_000;

/// The mapped safetensors files of a checkpoint directory.
#[derive(Debug)]
pub struct CheckpointTensors {
    files: Vec<SafetensorsFile>,
    /// Position in `files`, and the tensor's name there, in the order of [`Self::iter`].
    order: Vec<(usize, String)>,
    by_name: HashMap<String, usize>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl CheckpointTensors {
    /// Maps `model.safetensors`, or else the shards that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// Neither is there, a shard or one of its tensors is missing, or a file is damaged.
    pub fn open(directory: &Path) -> Result<Self, SafetensorsError> {
        let single = directory.join(SINGLE_FILE);
        let index = directory.join(INDEX_FILE);
        if single.exists() {
            let file = SafetensorsFile::open(&single)?;
            Ok(Self::new(vec![file], |_, _| true))
        } else if index.exists() {
            Self::open_shards(directory, &index)
        } else {
            Err(nothing_found(directory))
        }
    }

    fn open_shards(directory: &Path, index_path: &Path) -> Result<Self, SafetensorsError> {
        let Index { weight_map } = read_index(index_path)?;
        let mut shard_names: Vec<&String> = weight_map.values().collect();
        shard_names.sort();
        shard_names.dedup();
        let files = shard_names
            .iter()
            .map(|name| open_shard(directory, index_path, name))
            .collect::<Result<Vec<_>, _>>()?;

        let position: HashMap<&str, usize> =
            shard_names.iter().enumerate().map(|(index, name)| (name.as_str(), index)).collect();
        for (tensor, shard) in &weight_map {
            let file = &files[position[shard.as_str()]];
            if file.get(tensor).is_none() {
                return Err(SafetensorsError::malformed(
                    file.path(),
                    format!(
                        "expected tensor {tensor:?}, which {INDEX_FILE} places in this shard, but \
                         it is not there; download the shard and the index again"
                    ),
                ));
            }
        }
        let in_index = |name: &str, file: usize| {
            weight_map.get(name).is_some_and(|shard| position[shard.as_str()] == file)
        };
        Ok(Self::new(files, in_index))
    }

    fn new(files: Vec<SafetensorsFile>, included: impl Fn(&str, usize) -> bool) -> Self {
        let order: Vec<(usize, String)> = files
            .iter()
            .enumerate()
            .flat_map(|(index, file)| file.iter().map(move |tensor| (index, tensor.name)))
            .filter(|&(index, name)| included(name, index))
            .map(|(index, name)| (index, name.to_string()))
            .collect();
        let by_name = order.iter().map(|(index, name)| (name.clone(), *index)).collect();
        Self { files, order, by_name }
    }

    /// The files, shards in the order of their names.
    pub fn files(&self) -> &[SafetensorsFile] {
        &self.files
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// All tensors: shards in the order of their names, and in each the order of its bytes.
    pub fn iter(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.order.iter().filter_map(|(file, name)| self.files[*file].get(name))
    }

    /// The tensor with this name.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.file_of(name).and_then(|file| file.get(name))
    }

    /// The file that holds the tensor with this name.
    pub fn file_of(&self, name: &str) -> Option<&SafetensorsFile> {
        self.by_name.get(name).map(|&file| &self.files[file])
    }
}

fn read_index(path: &Path) -> Result<Index, SafetensorsError> {
    let io = |source| SafetensorsError::io(path, source);
    let file = open_regular(path).map_err(io)?;
    let mut text = Vec::new();
    file.take(MAX_INDEX_BYTES + 1).read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > MAX_INDEX_BYTES {
        return Err(SafetensorsError::malformed(
            path,
            format!("expected an index of at most {MAX_INDEX_BYTES} bytes, found a larger file"),
        ));
    }
    serde_json::from_slice(&text).map_err(|error| {
        SafetensorsError::malformed(
            path,
            format!(
                "expected an object with a \"weight_map\" from tensor names to file names: \
                 {error}; download it again"
            ),
        )
    })
}

fn open_shard(
    directory: &Path,
    index_path: &Path,
    name: &str,
) -> Result<SafetensorsFile, SafetensorsError> {
    let mut components = Path::new(name).components();
    let plain =
        matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    if !plain {
        return Err(SafetensorsError::malformed(
            index_path,
            format!("expected names of files in the same directory, found {name:?}"),
        ));
    }
    let path = directory.join(name);
    if !path.exists() {
        return Err(SafetensorsError::malformed(
            &path,
            format!("this shard, which {INDEX_FILE} names, is missing; download it"),
        ));
    }
    SafetensorsFile::open(&path)
}

fn nothing_found(directory: &Path) -> SafetensorsError {
    if !directory.is_dir() {
        return SafetensorsError::malformed(
            directory,
            "expected a checkpoint directory, found none; give the directory that holds \
             config.json and the safetensors files",
        );
    }
    let advice = if directory.join("pytorch_model.bin").exists()
        || directory.join("pytorch_model.bin.index.json").exists()
    {
        "it holds PyTorch weights, which quantkit does not read: save them again with \
         transformers' save_pretrained, which writes safetensors"
    } else {
        "download the model's weights, for example with `quantkit fetch hf:ORG/NAME`"
    };
    SafetensorsError::malformed(
        directory,
        format!("expected {SINGLE_FILE} or {INDEX_FILE} here, found neither; {advice}"),
    )
}
