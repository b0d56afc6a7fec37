//! Models in several files: how llama.cpp names the parts, what their metadata says of them, and
//! where `llama-gguf-split` divides a model.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::metadata::{Metadata, Value};
use super::part_identity::IDENTITY_DIGITS;

/// The part's number, from 0.
const NUMBER_KEY: &str = "split.no";
/// How many parts there are; 0 in a file that was joined from parts.
const COUNT_KEY: &str = "split.count";
/// Tensors in all parts together.
const TENSORS_KEY: &str = "split.tensors.count";

/// What parts that were written together have in common: a key of quantkit's own. Parts that other
/// tools have written lack it.
pub(super) const IDENTITY_KEY: &str = "quantkit.split.identity";
/// What the key holds while the parts are being written.
const NO_IDENTITY: [u8; IDENTITY_DIGITS] = [b'0'; IDENTITY_DIGITS];

/// A tensor counts towards a part's size with its end rounded up to this, whatever the alignment.
const COUNTED_ALIGNMENT: u64 = 32;

/// How much goes into one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartLimit {
    /// Bytes of tensor data. A larger tensor has a part of its own.
    Bytes(u64),
    /// Tensors.
    Tensors(usize),
}

/// What the metadata of a part says of the split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PartFacts {
    /// The part's number, from 0.
    pub index: u64,
    /// Number of parts.
    pub count: u64,
    /// Tensors in all parts together.
    pub tensors: Option<u64>,
    /// What the parts have in common, if they say it.
    pub identity: Option<String>,
}

impl PartFacts {
    /// `None` for a file that is no part, and for the only part of a model.
    pub(super) fn of(metadata: &Metadata) -> Result<Option<Self>, String> {
        let number = |key: &str| match metadata.get(key) {
            None => Ok(None),
            Some(value) => metadata.unsigned(key).map(Some).ok_or_else(|| {
                format!(
                    "{key} must be a number from 0, found {}; the file needs to be made again",
                    match value {
                        Value::String(_) | Value::Array(_) => value.value_type().name().to_string(),
                        number => format!("{number:?}"),
                    }
                )
            }),
        };
        let Some(count) = number(COUNT_KEY)?.filter(|&count| count > 1) else { return Ok(None) };
        let index = number(NUMBER_KEY)?.ok_or_else(|| {
            format!("{COUNT_KEY} is {count}, but {NUMBER_KEY} is missing; make the file again")
        })?;
        if index >= count || count > u64::from(u16::MAX) {
            return Err(format!(
                "{NUMBER_KEY} is {index} and {COUNT_KEY} {count}, which cannot be; the file is \
                 damaged: download or copy it again"
            ));
        }
        let identity = metadata.string(IDENTITY_KEY).map(str::to_string);
        Ok(Some(Self { index, count, tensors: number(TENSORS_KEY)?, identity }))
    }
}

/// Whether a file's metadata makes it a part, be it the only one of its model.
pub(super) fn is_part(metadata: &Metadata) -> bool {
    metadata.unsigned(COUNT_KEY).is_some_and(|count| count > 0)
}

/// Whether a metadata key describes the split.
pub(super) fn is_split_key(key: &str) -> bool {
    [NUMBER_KEY, COUNT_KEY, TENSORS_KEY, IDENTITY_KEY].contains(&key)
}

/// Removes what describes a split.
pub fn remove_split_keys(metadata: &mut Metadata) {
    for key in [NUMBER_KEY, COUNT_KEY, TENSORS_KEY, IDENTITY_KEY] {
        metadata.remove(key);
    }
}

/// The prefix of the parts of a model that would be `path` in one file: without `.gguf`.
pub fn part_prefix(path: &Path) -> PathBuf {
    match path.extension() {
        Some(extension) if extension == "gguf" => path.with_extension(""),
        _ => path.to_path_buf(),
    }
}

/// `PREFIX-00001-of-00003.gguf` for part 0 of 3.
pub fn part_path(prefix: &Path, index: u64, count: u64) -> PathBuf {
    let mut path = prefix.as_os_str().to_owned();
    path.push(ending(index, count));
    path.into()
}

/// The paths of all parts of a model, if `path` is named as one of several.
pub fn parts_by_name(path: &Path) -> Option<Vec<PathBuf>> {
    let (prefix, count) = prefix_by_name(path)?;
    Some((0..count).map(|index| part_path(&prefix, index, count)).collect())
}

/// The prefix of a path that is named as one of several parts, and how many they are.
pub(super) fn prefix_by_name(path: &Path) -> Option<(PathBuf, u64)> {
    let (name, _) = path.file_name()?.to_str()?.rsplit_once(".gguf")?;
    let (name, count) = name.rsplit_once("-of-")?;
    let (_, number) = name.rsplit_once('-')?;
    let (number, count): (u64, u64) = (number.parse().ok()?, count.parse().ok()?);
    if !(1..=count).contains(&number) || count > u64::from(u16::MAX) {
        return None;
    }
    Some((prefix_of(path, number - 1, count)?, count))
}

/// The prefix of a part's path, if its name is as it should be.
pub(super) fn prefix_of(path: &Path, index: u64, count: u64) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let prefix = name.strip_suffix(&ending(index, count))?;
    // An empty prefix is a name like any other, but `with_file_name` would take the directory's.
    Some(match prefix {
        "" => path.parent()?.join(""),
        _ => path.with_file_name(prefix),
    })
}

pub(super) fn ending(index: u64, count: u64) -> String {
    format!("-{:05}-of-{count:05}.gguf", index + 1)
}

/// Which tensors go into which part. There is always a first part.
pub(super) fn divide(sizes: &[u64], limit: PartLimit) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let (mut start, mut bytes) = (0, 0u64);
    for (index, size) in sizes.iter().enumerate() {
        let size = size.next_multiple_of(COUNTED_ALIGNMENT);
        let full = match limit {
            PartLimit::Bytes(most) => bytes.saturating_add(size) > most,
            PartLimit::Tensors(most) => index - start >= most.max(1),
        };
        if full && index > start {
            parts.push(start..index);
            (start, bytes) = (index, 0);
        }
        bytes = bytes.saturating_add(size);
    }
    parts.push(start..sizes.len());
    parts
}

/// The metadata of one part: the first one has all of the model's. Where there are others, it has room
/// for what they have in common.
pub(super) fn part_metadata(model: &Metadata, index: u16, count: u16, tensors: i32) -> Metadata {
    let mut metadata = if index == 0 { model.clone() } else { Metadata::new() };
    metadata.remove(IDENTITY_KEY);
    for (key, value) in [
        (NUMBER_KEY, Value::U16(index)),
        (TENSORS_KEY, Value::I32(tensors)),
        (COUNT_KEY, Value::U16(count)),
    ] {
        put_last(&mut metadata, key, value);
    }
    if count > 1 {
        let identity = String::from_utf8_lossy(&NO_IDENTITY).into_owned();
        metadata.set(IDENTITY_KEY, Value::String(identity));
    }
    metadata
}

/// The metadata of a model that has been joined from parts: as llama.cpp has it, the keys stay and
/// the count is 0.
pub(super) fn joined_metadata(first_part: &Metadata) -> Metadata {
    let mut metadata = first_part.clone();
    metadata.remove(IDENTITY_KEY);
    put_last(&mut metadata, COUNT_KEY, Value::U16(0));
    metadata
}

/// A value that is set anew moves to the end, as in ggml.
fn put_last(metadata: &mut Metadata, key: &str, value: Value) {
    metadata.remove(key);
    metadata.set(key, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_named_after_their_prefix_and_found_by_it() {
        for prefix in ["model", "some/dir/model.Q4_0", "some/dir/", "-00001-of-00003.gguf"] {
            let path = part_path(Path::new(prefix), 0, 3);
            assert!(path.to_str().unwrap().ends_with("-00001-of-00003.gguf"));
            let found = prefix_of(&path, 0, 3).unwrap();
            assert_eq!(part_path(&found, 2, 3), part_path(Path::new(prefix), 2, 3));
            assert_eq!(prefix_of(&path, 1, 3), None);
            assert_eq!(prefix_of(&path, 0, 4), None);
        }
    }

    #[test]
    fn a_parts_name_tells_those_of_all() {
        let parts = parts_by_name(Path::new("s3://b/m-00002-of-00003.gguf")).unwrap();
        let expected = [1, 2, 3].map(|number| format!("s3://b/m-0000{number}-of-00003.gguf"));
        assert_eq!(parts, expected.map(PathBuf::from));
        for other in ["m.gguf", "m-00004-of-00003.gguf", "m-1-of-3.gguf", "m-00000-of-00003.gguf"] {
            assert_eq!(parts_by_name(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn models_are_divided_where_the_limit_is_passed() {
        let sizes = [96, 1, 31, 64, 500, 32];
        assert_eq!(divide(&sizes, PartLimit::Bytes(128)), [0..2, 2..4, 4..5, 5..6]);
        assert_eq!(divide(&sizes, PartLimit::Bytes(1)).len(), 6, "one each, none empty");
        assert_eq!(divide(&sizes, PartLimit::Bytes(u64::MAX)), vec![0..sizes.len()]);
        assert_eq!(divide(&sizes, PartLimit::Tensors(4)), [0..4, 4..6]);
        assert_eq!(divide(&[], PartLimit::Tensors(4)), vec![0..0], "never no part at all");
    }
}
