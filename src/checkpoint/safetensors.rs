//! Reading safetensors files through a memory map. Nothing in the file is believed before it is
//! checked.
//!
//! Source of the format: the safetensors specification. A file is the length of its header as u64, a
//! header in JSON, and the tensors' bytes without gaps.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};

use crate::gguf::GgmlType;
use crate::support::input_file::InputFile;
use crate::support::lfs_pointer;
use crate::support::mapped::{expect, release};

/// The length of the header's length.
const LENGTH_BYTES: usize = 8;
/// The longest header that the specification allows.
const MAX_HEADER_BYTES: u64 = 100_000_000;
/// The most tensors, and the most entries of text, that a file may have: far more than any model needs.
/// Each takes many times its bytes when it is read and shown.
const MAX_TENSORS: usize = 1 << 18;
const MAX_TEXTS: usize = 1 << 16;
/// The header's key for free-form text about the file.
const METADATA_KEY: &str = "__metadata__";

/// A safetensors file, or a directory of them, that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SafetensorsError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what the format asks for.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was expected, what was found, and what to do.
        problem: String,
    },
}

impl SafetensorsError {
    pub(super) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }

    pub(super) fn malformed(path: &Path, problem: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_path_buf(), problem: problem.into() }
    }
}

/// A tensor as the file's header lists it.
#[derive(Debug)]
struct Entry {
    name: String,
    info: TensorInfo,
}

/// What a safetensors file says about itself: everything but the tensors' bytes.
#[derive(Debug)]
pub struct SafetensorsHeader {
    metadata: Vec<(String, String)>,
    /// In the order of their bytes.
    entries: Vec<Entry>,
    by_name: HashMap<String, usize>,
    data_start: usize,
}

impl SafetensorsHeader {
    /// Reads the header of a file that holds exactly `bytes`; `path` only names it in errors.
    ///
    /// # Errors
    /// Anything that is not a complete, consistent safetensors file.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, SafetensorsError> {
        parse(bytes).map_err(|problem| SafetensorsError::malformed(path, problem))
    }

    /// All tensors in the order of their bytes, which are taken from the `bytes` of the file.
    ///
    /// # Panics
    /// If `bytes` is shorter than the file whose header this is.
    pub fn tensors<'a>(
        &'a self,
        path: &'a Path,
        bytes: &'a [u8],
    ) -> impl Iterator<Item = TensorView<'a>> {
        self.entries.iter().map(move |entry| self.view(entry, path, bytes))
    }

    /// The tensor with this name; see [`Self::tensors`].
    fn tensor<'a>(&'a self, name: &str, path: &'a Path, bytes: &'a [u8]) -> Option<TensorView<'a>> {
        self.by_name.get(name).map(|&index| self.view(&self.entries[index], path, bytes))
    }

    fn view<'a>(&'a self, entry: &'a Entry, path: &'a Path, bytes: &'a [u8]) -> TensorView<'a> {
        let (start, end) = entry.info.data_offsets;
        TensorView {
            path,
            name: &entry.name,
            dtype: entry.info.dtype,
            shape: &entry.info.shape,
            bytes: &bytes[self.data_start + start..self.data_start + end],
        }
    }
}

/// Whether the bytes can be the beginning of a safetensors file: a plausible length and a brace.
pub fn looks_like_safetensors(bytes: &[u8]) -> bool {
    match bytes.split_first_chunk::<LENGTH_BYTES>() {
        Some((length, header)) => {
            u64::from_le_bytes(*length) <= MAX_HEADER_BYTES && header.first() == Some(&b'{')
        }
        None => false,
    }
}

/// A tensor's description and its bytes, straight from the map. Nothing is promised about the
/// alignment of the bytes in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorView<'a> {
    /// The file that holds it, to name in errors.
    pub path: &'a Path,
    /// Its name.
    pub name: &'a str,
    /// Its element type as the file gives it.
    pub dtype: Dtype,
    /// Its shape, the contiguous dimension (columns) last. Empty for a scalar.
    pub shape: &'a [usize],
    /// Its elements, little-endian, row by row.
    pub bytes: &'a [u8],
}

impl TensorView<'_> {
    /// Its element type as one of [`GgmlType::F32`], [`GgmlType::F16`] and [`GgmlType::BF16`].
    ///
    /// # Errors
    /// Any other type, naming the tensor.
    pub fn float_type(&self) -> Result<GgmlType, SafetensorsError> {
        match self.dtype {
            Dtype::F32 => Ok(GgmlType::F32),
            Dtype::F16 => Ok(GgmlType::F16),
            Dtype::BF16 => Ok(GgmlType::BF16),
            other => Err(SafetensorsError::malformed(
                self.path,
                format!(
                    "tensor {:?} is {other}; quantkit reads weights in F32, F16 and BF16: save the \
                     checkpoint again in one of these",
                    self.name
                ),
            )),
        }
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        // The header's check has computed this product.
        self.shape.iter().map(|&dimension| dimension as u64).product()
    }
}

/// A mapped safetensors file whose header has been checked against its length.
#[derive(Debug)]
pub struct SafetensorsFile {
    input: Arc<InputFile>,
    map: Mmap,
    header: SafetensorsHeader,
}

impl SafetensorsFile {
    /// Maps the file and checks its header.
    ///
    /// # Errors
    /// Anything that is not a complete, consistent safetensors file.
    pub fn open(path: &Path) -> Result<Self, SafetensorsError> {
        let failed = |source| SafetensorsError::io(path, source);
        let input = Arc::new(InputFile::open(path).map_err(failed)?);
        let map = input.map().map_err(failed)?;
        let header = SafetensorsHeader::parse(path, &map)?;
        Ok(Self { input, map, header })
    }

    /// The file's path as it was opened.
    pub fn path(&self) -> &Path {
        self.input.path()
    }

    /// The file that is mapped.
    pub fn input(&self) -> &Arc<InputFile> {
        &self.input
    }

    /// The length of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// The free-form text about the file, in its order.
    pub fn metadata(&self) -> &[(String, String)] {
        &self.header.metadata
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.header.entries.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.header.entries.is_empty()
    }

    /// All tensors in the order of their bytes.
    pub fn iter(&self) -> impl Iterator<Item = TensorView<'_>> {
        self.header.tensors(self.path(), &self.map)
    }

    /// The tensor with this name.
    pub fn get(&self, name: &str) -> Option<TensorView<'_>> {
        self.header.tensor(name, self.path(), &self.map)
    }

    /// Lets the system take back the memory that holds some of a tensor's bytes, counted from its
    /// first one. Whoever looks at them again reads them from the file.
    ///
    /// # Panics
    /// If the range reaches past the tensor's end.
    pub fn release(&self, tensor: &TensorView<'_>, range: Range<usize>) {
        release(&self.map, self.place(tensor, range));
    }

    /// Lets the system read some of a tensor's bytes before they are looked at.
    ///
    /// # Panics
    /// As [`SafetensorsFile::release`].
    pub fn expect(&self, tensor: &TensorView<'_>, range: Range<usize>) {
        expect(&self.map, self.place(tensor, range));
    }

    /// Where in the file some of a tensor's bytes are.
    fn place(&self, tensor: &TensorView<'_>, range: Range<usize>) -> Range<usize> {
        assert!(range.end <= tensor.bytes.len(), "the range lies in the tensor");
        let start = tensor.bytes.as_ptr() as usize - self.map.as_ptr() as usize;
        start + range.start..start + range.end
    }
}

fn parse(bytes: &[u8]) -> Result<SafetensorsHeader, String> {
    let (header, data_start) = header_bytes(bytes)?;
    let header: RawHeader = serde_json::from_slice(header)
        .map_err(|error| format!("its header is not that of a safetensors file: {error}"))?;
    let mut entries = header.entries;
    entries.sort_by(|a, b| (a.info.data_offsets, &a.name).cmp(&(b.info.data_offsets, &b.name)));
    check_data(&entries, bytes.len() - data_start)?;
    let by_name =
        entries.iter().enumerate().map(|(index, entry)| (entry.name.clone(), index)).collect();
    Ok(SafetensorsHeader { metadata: header.metadata, entries, by_name, data_start })
}

/// The header's JSON, and where the data starts.
fn header_bytes(bytes: &[u8]) -> Result<(&[u8], usize), String> {
    if let Some(problem) = lfs_pointer::problem(bytes) {
        return Err(problem.to_string());
    }
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(format!(
            "expected a safetensors file, which starts with 8 bytes for the length of its header, \
             found {} bytes in all; download or copy it again",
            bytes.len()
        ));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(format!(
            "declares a header of {length} bytes, but safetensors allows {MAX_HEADER_BYTES}; the \
             file is damaged or no safetensors file"
        ));
    }
    match rest.get(..length as usize) {
        Some(header) => Ok((header, LENGTH_BYTES + length as usize)),
        None => Err(format!(
            "declares a header of {length} bytes, but only {} bytes follow; the file is incomplete \
             or damaged: download or copy it again",
            rest.len()
        )),
    }
}

/// Checks that the tensors fill the data from its first to its last byte, without gap or overlap,
/// and that each takes the bytes that its shape asks for.
fn check_data(entries: &[Entry], data_bytes: usize) -> Result<(), String> {
    let mut expected_start = 0;
    for Entry { name, info } in entries {
        let (start, end) = info.data_offsets;
        if end > data_bytes {
            return Err(format!(
                "tensor {name:?} ends at byte {end} of the data, but the file has only \
                 {data_bytes} bytes of data; it is incomplete or damaged: download or copy it again"
            ));
        }
        if start != expected_start || end < start {
            return Err(format!(
                "tensor {name:?} takes bytes {start} to {end} of the data, but was expected to \
                 start at byte {expected_start}; the file is damaged"
            ));
        }
        let size = tensor_bytes(info);
        if size != Some(end - start) {
            return Err(format!(
                "tensor {name:?} ({}, {:?}) has {} bytes, but its shape asks for {}; the file is \
                 damaged",
                info.dtype,
                info.shape,
                end - start,
                size.map_or("more than any file holds".to_string(), |size| size.to_string())
            ));
        }
        expected_start = end;
    }
    if expected_start != data_bytes {
        return Err(format!(
            "its tensors take {expected_start} bytes of data, but the file has {data_bytes}; it is \
             damaged: download or copy it again"
        ));
    }
    Ok(())
}

/// The bytes that the shape and type ask for; `None` where they overflow or are no whole number.
fn tensor_bytes(info: &TensorInfo) -> Option<usize> {
    let elements =
        info.shape.iter().try_fold(1usize, |product, &dimension| product.checked_mul(dimension))?;
    let bits = elements.checked_mul(info.dtype.bitsize())?;
    (bits % 8 == 0).then_some(bits / 8)
}

/// The header's JSON object, with duplicate names refused.
#[derive(Debug, Default)]
struct RawHeader {
    metadata: Vec<(String, String)>,
    entries: Vec<Entry>,
}

impl<'de> serde::Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object that maps tensor names to dtype, shape and data_offsets")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut header = RawHeader::default();
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format!("{name:?} is listed twice")));
            }
            if name == METADATA_KEY {
                header.metadata = map.next_value_seed(TextMap)?;
            } else {
                let info = map
                    .next_value()
                    .map_err(|error| A::Error::custom(format!("tensor {name:?}: {error}")))?;
                header.entries.push(Entry { name, info });
                check_count(header.entries.len(), MAX_TENSORS, "tensors")?;
            }
        }
        Ok(header)
    }
}

/// `__metadata__`: text under text, in order.
struct TextMap;

impl<'de> DeserializeSeed<'de> for TextMap {
    type Value = Vec<(String, String)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TextMap {
    type Value = Vec<(String, String)>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of strings under \"__metadata__\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
            check_count(entries.len(), MAX_TEXTS, "entries under \"__metadata__\"")?;
        }
        Ok(entries)
    }
}

fn check_count<E: serde::de::Error>(count: usize, most: usize, what: &str) -> Result<(), E> {
    if count <= most {
        return Ok(());
    }
    Err(E::custom(format!("too many {what} (quantkit reads at most {most})")))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Two tensors as the crate's own writer puts them down.
    fn sample() -> Vec<u8> {
        let first: Vec<u8> = (0..24).collect();
        let second: Vec<u8> = (24..36).collect();
        let view = |dtype, shape: &[usize], bytes| {
            safetensors::tensor::TensorView::new(dtype, shape.to_vec(), bytes).unwrap()
        };
        let tensors =
            [("b", view(Dtype::F32, &[2, 3], &first)), ("a", view(Dtype::BF16, &[6], &second))];
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        safetensors::serialize(tensors, Some(metadata)).unwrap()
    }

    #[test]
    fn what_the_crate_writes_is_read() {
        let bytes = sample();
        let path = Path::new("sample.safetensors");
        let header = SafetensorsHeader::parse(path, &bytes).unwrap();
        assert_eq!(header.metadata, [("format".to_string(), "pt".to_string())]);
        let found: Vec<_> = header.tensors(path, &bytes).map(|tensor| tensor.name).collect();
        assert_eq!(found, ["b", "a"]);
        let tensor = header.tensor("b", path, &bytes).unwrap();
        assert_eq!((tensor.dtype, tensor.shape), (Dtype::F32, [2, 3].as_slice()));
        assert_eq!(tensor.bytes, (0..24).collect::<Vec<u8>>());
        assert_eq!(tensor.elements(), 6);
        assert_eq!(tensor.float_type().unwrap(), GgmlType::F32);
        assert_eq!(header.tensor("a", path, &bytes).unwrap().float_type().unwrap(), GgmlType::BF16);
        assert!(header.tensor("c", path, &bytes).is_none());
    }

    #[test]
    fn weights_of_other_types_are_refused_by_name() {
        let path = Path::new("sample.safetensors");
        let tensor = TensorView { path, name: "w", dtype: Dtype::I64, shape: &[1], bytes: &[0; 8] };
        let error = tensor.float_type().unwrap_err().to_string();
        assert!(error.starts_with("sample.safetensors: tensor \"w\" is I64"), "{error}");
    }

    #[test]
    fn every_shorter_file_is_refused() {
        let bytes = sample();
        for length in 0..bytes.len() {
            let error = SafetensorsHeader::parse(Path::new("cut"), &bytes[..length]).unwrap_err();
            assert!(error.to_string().starts_with("cut: "), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever is changed in a valid file: it is refused, or all its tensors lie in the file.
        #[test]
        fn mutated_files_never_reach_past_their_end(
            changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in proptest::option::of(any::<prop::sample::Index>()),
        ) {
            let mut bytes = sample();
            for (index, value) in changes {
                let index = index.index(bytes.len());
                bytes[index] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            let path = Path::new("mutated.safetensors");
            if let Ok(header) = SafetensorsHeader::parse(path, &bytes) {
                let data: usize = header.tensors(path, &bytes).map(|view| view.bytes.len()).sum();
                prop_assert_eq!(header.data_start + data, bytes.len());
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
            let _ = SafetensorsHeader::parse(Path::new("random"), &bytes);
            let length = (bytes.len() as u64).to_le_bytes();
            let _ = SafetensorsHeader::parse(Path::new("random"), &[&length, &bytes[..]].concat());
        }
    }
}
