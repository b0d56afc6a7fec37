//! Writing a GGUF v3 file, or a split model's parts: header first, then the tensors' bytes, in order
//! or each to its place.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::directory::{self, MAGIC, MAX_KEY_BYTES, quoted};
use super::metadata::{Array, Metadata, Value};
use super::part_identity::{ContentSum, IDENTITY_DIGITS};
use super::split::{self, PartLimit};
use super::{GgmlType, GgufError, TensorInfo};
use crate::support::atomic_file::{AtomicFile, CompleteFile};
use crate::support::directory::{directory_of, lock_directory, sync_directory};
use crate::support::partial;

/// The version that is written.
const VERSION: u32 = 3;

/// ggml keeps names in 64 bytes with a terminating zero, and refuses longer ones.
const MAX_TENSOR_NAME_BYTES: usize = 63;

/// A tensor that will be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlan {
    /// Its name.
    pub name: String,
    /// Its dimensions in GGUF order: the contiguous one (columns) first.
    pub dimensions: Vec<u64>,
    /// Its element type.
    pub ggml_type: GgmlType,
}

impl TensorPlan {
    /// What a file has that is to be copied as it is.
    pub fn of(tensor: &TensorInfo) -> Self {
        Self {
            name: tensor.name.clone(),
            dimensions: tensor.dimensions.clone(),
            ggml_type: tensor.ggml_type,
        }
    }
}

/// A GGUF file under construction, or all parts of a split one. They appear under their names only
/// when [`GgufWriter::finish`] succeeds; dropped before that, it leaves nothing behind.
#[derive(Debug)]
pub struct GgufWriter {
    parts: Vec<PartFile>,
    /// What has been written so far, for what the parts have in common; of one file, nothing.
    content: Option<ContentSum>,
    tensors: Vec<PlacedTensor>,
    /// The tensor that [`GgufWriter::write`] goes on with; after the last one, their number.
    current: usize,
    /// Bytes of the current tensor that [`GgufWriter::write`] has written.
    written: u64,
}

/// Where a tensor goes.
#[derive(Debug)]
struct PlacedTensor {
    name: String,
    bytes: u64,
    part: usize,
    /// From the start of the part's file.
    position: u64,
}

/// One file of the output.
#[derive(Debug)]
struct PartFile {
    path: PathBuf,
    header: Vec<u8>,
    /// Where it says what the parts have in common.
    identity_at: Option<u64>,
    length: u64,
    /// Bytes of tensors that have not been written yet.
    missing: AtomicU64,
    state: Mutex<PartState>,
}

/// Parts are created when they are first written to. A complete one stays open, as that keeps it locked.
#[derive(Debug)]
enum PartState {
    Planned,
    Open(Arc<AtomicFile>),
    Complete(CompleteFile),
}

impl GgufWriter {
    /// Writes header, metadata and tensor directory beside `path`. The metadata's
    /// `general.alignment` is obeyed.
    ///
    /// # Errors
    /// I/O errors, and a plan or metadata that no reader would accept.
    pub fn create(
        path: &Path,
        metadata: &Metadata,
        tensors: Vec<TensorPlan>,
    ) -> Result<Self, GgufError> {
        Self::plan(path, metadata, tensors)?.begun()
    }

    /// [`GgufWriter::create`] without touching the disk: the file is created when the first bytes
    /// are written.
    ///
    /// # Errors
    /// A plan or metadata that no reader would accept.
    pub fn plan(
        path: &Path,
        metadata: &Metadata,
        tensors: Vec<TensorPlan>,
    ) -> Result<Self, GgufError> {
        let sizes = plan_sizes(&tensors).map_err(|problem| unwritable(path, problem))?;
        let parts = vec![(path.to_path_buf(), metadata.clone(), 0..tensors.len())];
        Self::plan_parts(parts, &tensors, &sizes)
    }

    /// The same for a model in parts, `PREFIX-00001-of-00003.gguf` and so on, divided where
    /// llama.cpp's `llama-gguf-split` would divide it.
    ///
    /// # Errors
    /// As [`GgufWriter::create`], and more parts or tensors than the format can count.
    pub fn create_split(
        prefix: &Path,
        metadata: &Metadata,
        tensors: Vec<TensorPlan>,
        limit: PartLimit,
    ) -> Result<Self, GgufError> {
        Self::plan_split(prefix, metadata, tensors, limit)?.begun()
    }

    /// [`GgufWriter::create_split`] without touching the disk.
    ///
    /// # Errors
    /// As [`GgufWriter::plan`], and more parts or tensors than the format can count.
    pub fn plan_split(
        prefix: &Path,
        metadata: &Metadata,
        tensors: Vec<TensorPlan>,
        limit: PartLimit,
    ) -> Result<Self, GgufError> {
        let refused = |problem: String| unwritable(&split::part_path(prefix, 0, 1), problem);
        let sizes = plan_sizes(&tensors).map_err(refused)?;
        let ranges = split::divide(&sizes, limit);
        let count = u16::try_from(ranges.len())
            .map_err(|_| refused(format!("it would have {} parts", ranges.len())))?;
        let total = i32::try_from(tensors.len())
            .map_err(|_| refused(format!("it has {} tensors", tensors.len())))?;
        let part = |(index, range)| {
            let path = split::part_path(prefix, u64::from(index), u64::from(count));
            (path, split::part_metadata(metadata, index, count, total), range)
        };
        Self::plan_parts((0..count).zip(ranges).map(part).collect(), &tensors, &sizes)
    }

    fn plan_parts(
        parts: Vec<(PathBuf, Metadata, Range<usize>)>,
        tensors: &[TensorPlan],
        sizes: &[u64],
    ) -> Result<Self, GgufError> {
        let mut writer = Self {
            content: (parts.len() > 1).then(ContentSum::default),
            parts: Vec::with_capacity(parts.len()),
            tensors: Vec::with_capacity(tensors.len()),
            current: 0,
            written: 0,
        };
        for (path, metadata, range) in parts {
            writer
                .plan_part(&path, &metadata, &tensors[range.clone()], &sizes[range])
                .map_err(|problem| unwritable(&path, problem))?;
        }
        Ok(writer)
    }

    /// Finds out before the work whether the place can be written.
    fn begun(self) -> Result<Self, GgufError> {
        self.parts[0].open()?;
        Ok(self)
    }

    fn plan_part(
        &mut self,
        path: &Path,
        metadata: &Metadata,
        tensors: &[TensorPlan],
        sizes: &[u64],
    ) -> Result<(), String> {
        let alignment = directory::alignment(metadata)?;
        check_metadata(metadata)?;
        let (offsets, data_bytes) = data_layout(sizes, alignment)?;
        let (header, identity_at) = encode_header(metadata, tensors, &offsets, alignment);
        let data_start = header.len() as u64;
        let length = data_start
            .checked_add(data_bytes)
            .ok_or("its tensors together are larger than any file")?;
        for ((tensor, &bytes), offset) in tensors.iter().zip(sizes).zip(offsets) {
            let (name, part) = (tensor.name.clone(), self.parts.len());
            self.tensors.push(PlacedTensor { name, bytes, part, position: data_start + offset });
        }
        self.parts.push(PartFile {
            path: path.to_path_buf(),
            header,
            identity_at,
            length,
            missing: AtomicU64::new(sizes.iter().sum()),
            state: Mutex::new(PartState::Planned),
        });
        Ok(())
    }

    /// The paths that the files will have, in order.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().map(|part| part.path.as_path())
    }

    /// The length of all files together.
    pub fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.length).sum()
    }

    /// Appends bytes to the current tensor's data. Tensors are written in the order of the plan,
    /// each in one or more pieces that do not reach into the next one; padding between tensors is
    /// the writer's business.
    ///
    /// # Errors
    /// I/O errors, and more bytes than the tensor has room for.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), GgufError> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.current == self.tensors.len() {
            return Err(self.misuse(format!(
                "{} bytes were given after the last tensor was complete",
                bytes.len()
            )));
        }
        self.write_at(self.current, self.written, bytes)?;
        self.written += bytes.len() as u64;
        if self.written == self.tensors[self.current].bytes {
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Writes bytes of a tensor (by its place in the plan) that start `offset` bytes from its own
    /// first byte. For many threads at once, and not to be mixed with [`GgufWriter::write`]; each
    /// byte is written once.
    ///
    /// # Errors
    /// I/O errors, and bytes that reach past the tensor's end.
    ///
    /// # Panics
    /// If there are not so many tensors.
    pub fn write_at(&self, tensor: usize, offset: u64, bytes: &[u8]) -> Result<(), GgufError> {
        let PlacedTensor { name, bytes: size, part, position } = &self.tensors[tensor];
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > *size) {
            return Err(self.misuse(format!(
                "tensor {} takes {size} bytes, but {} were given",
                quoted(name),
                offset.saturating_add(bytes.len() as u64)
            )));
        }
        if let Some(content) = &self.content {
            content.add(tensor, offset, bytes);
        }
        self.parts[*part].write_at(position + offset, bytes)
    }

    /// Waits until what has been written so far is on the disk, so that [`GgufWriter::finish`] need
    /// not wait for all of it at once: for a thread that has nothing else to do.
    ///
    /// # Errors
    /// I/O errors.
    pub fn sync(&self) -> Result<(), GgufError> {
        self.parts.iter().try_for_each(PartFile::sync)
    }

    /// Checks that every tensor is complete, and renames the files to their places.
    ///
    /// # Errors
    /// I/O errors, and tensors whose bytes have not all been written.
    pub fn finish(self) -> Result<(), GgufError> {
        if self.written > 0 {
            let PlacedTensor { name, bytes, .. } = &self.tensors[self.current];
            return Err(self.misuse(format!(
                "tensor {} takes {bytes} bytes, but only {} were given",
                quoted(name),
                self.written
            )));
        }
        if let Some(part) = self.parts.iter().find(|part| part.missing() > 0) {
            return Err(unwritable(
                &part.path,
                format!("{} bytes of its tensors were not given", part.missing()),
            ));
        }
        let headers = self.parts.iter().map(|part| part.header.as_slice());
        let identity = self.content.map(|content| content.identity(headers));
        let complete = |part: PartFile| part.complete(identity.as_deref());
        commit(self.parts.into_iter().map(complete).collect::<Result<_, _>>()?)
    }

    fn misuse(&self, problem: String) -> GgufError {
        unwritable(&self.parts[0].path, problem)
    }
}

/// Renames a model's files to their places. Readers open the first part, so it goes first where there is
/// an older one, and comes last: at no time is there one beside parts of another model. Writers of
/// one directory take turns.
fn commit(files: Vec<CompleteFile>) -> Result<(), GgufError> {
    let first = files[0].target().to_path_buf();
    let is_set = files.len() > 1;
    let _turn = is_set.then(|| lock_directory(directory_of(&first)));
    if is_set && first.exists() {
        std::fs::remove_file(&first).map_err(|source| GgufError::io(&first, source))?;
        sync_directory(directory_of(&first));
    }
    let mut renamed: Vec<PathBuf> = Vec::new();
    for file in files.into_iter().rev() {
        let path = file.target().to_path_buf();
        if let Err(source) = file.commit() {
            // Without the first part the others are of no use; the error is what matters.
            renamed.iter().for_each(|path| _ = std::fs::remove_file(path));
            return Err(GgufError::io(&path, source));
        }
        renamed.push(path);
    }
    remove_leftover_parts(&first);
    Ok(())
}

/// Removes what killed runs have left of the same model's parts, be it in another number of them.
fn remove_leftover_parts(first: &Path) {
    let prefix = |path: &Path| split::prefix_by_name(path).map(|(prefix, _)| prefix);
    let Some(wanted) = prefix(first) else { return };
    partial::remove_leftovers(directory_of(first), |name| {
        let name = std::str::from_utf8(name).ok();
        name.and_then(|name| prefix(&first.with_file_name(name))).is_some_and(|it| it == wanted)
    });
}

fn unwritable(path: &Path, problem: impl std::fmt::Display) -> GgufError {
    GgufError::malformed(path, format!("cannot be written: {problem}"))
}

impl PartFile {
    fn missing(&self) -> u64 {
        self.missing.load(Ordering::Acquire)
    }

    fn state(&self) -> MutexGuard<'_, PartState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn io(&self, source: std::io::Error) -> GgufError {
        GgufError::io(&self.path, source)
    }

    /// The file, which is created with its header if need be.
    fn open(&self) -> Result<Arc<AtomicFile>, GgufError> {
        let mut state = self.state();
        match &*state {
            PartState::Open(file) => Ok(Arc::clone(file)),
            PartState::Complete(_) => Err(unwritable(&self.path, "bytes were given twice")),
            PartState::Planned => {
                let create = || {
                    let file = AtomicFile::create(&self.path)?;
                    // The padding after each tensor is never written and reads as zeros.
                    file.set_len(self.length)?;
                    file.write_all_at(&self.header, 0)?;
                    Ok(Arc::new(file))
                };
                let file = create().map_err(|source| self.io(source))?;
                *state = PartState::Open(Arc::clone(&file));
                Ok(file)
            }
        }
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> Result<(), GgufError> {
        let file = self.open()?;
        file.write_all_at(bytes, position).map_err(|source| self.io(source))?;
        drop(file);
        let count = bytes.len() as u64;
        let missing = self.missing.fetch_sub(count, Ordering::AcqRel);
        if missing == count && count > 0 { self.close() } else { Ok(()) }
    }

    /// Syncs the file, to which nothing more will be written but what the parts have in common.
    fn close(&self) -> Result<(), GgufError> {
        let mut state = self.state();
        *state = match std::mem::replace(&mut *state, PartState::Planned) {
            PartState::Open(file) => {
                // All writers are done; at most a syncing thread has it.
                match Arc::try_unwrap(file) {
                    Ok(file) => {
                        PartState::Complete(file.complete().map_err(|source| self.io(source))?)
                    }
                    Err(file) => PartState::Open(file),
                }
            }
            state => state,
        };
        Ok(())
    }

    fn sync(&self) -> Result<(), GgufError> {
        let file = match &*self.state() {
            PartState::Open(file) => Arc::clone(file),
            _ => return Ok(()),
        };
        file.sync_data().map_err(|source| self.io(source))
    }

    fn complete(self, identity: Option<&str>) -> Result<CompleteFile, GgufError> {
        // The lock is given back before the file is opened, which takes it again.
        let is_planned = matches!(*self.state(), PartState::Planned);
        if is_planned {
            self.open()?;
        }
        self.close()?;
        let PartState::Complete(file) =
            self.state.into_inner().unwrap_or_else(PoisonError::into_inner)
        else {
            return Err(unwritable(&self.path, "it is still being written"));
        };
        if let (Some(identity), Some(position)) = (identity, self.identity_at) {
            let amended = file.amend(identity.as_bytes(), position);
            amended.map_err(|source| GgufError::io(&self.path, source))?;
        }
        Ok(file)
    }
}

/// Where each tensor starts in the data section, and the section's length.
fn data_layout(sizes: &[u64], alignment: u64) -> Result<(Vec<u64>, u64), String> {
    let mut end = 0u64;
    let mut offsets = Vec::with_capacity(sizes.len());
    for size in sizes {
        offsets.push(end);
        end = end
            .checked_add(*size)
            .and_then(|end| end.checked_next_multiple_of(alignment))
            .ok_or("its tensors together are larger than any file")?;
    }
    Ok((offsets, end))
}

/// Checks the plan and returns the size of every tensor in bytes.
fn plan_sizes(tensors: &[TensorPlan]) -> Result<Vec<u64>, String> {
    let mut names = HashSet::new();
    tensors
        .iter()
        .map(|TensorPlan { name, dimensions, ggml_type }| {
            if name.len() > MAX_TENSOR_NAME_BYTES {
                return Err(format!(
                    "tensor name {} has {} bytes; readers take up to {MAX_TENSOR_NAME_BYTES}",
                    quoted(name),
                    name.len()
                ));
            }
            if !names.insert(name) {
                return Err(format!("tensor {} is planned twice", quoted(name)));
            }
            directory::tensor_bytes(name, dimensions, *ggml_type)
        })
        .collect()
}

fn check_metadata(metadata: &Metadata) -> Result<(), String> {
    match metadata.iter().find(|(key, _)| key.len() > MAX_KEY_BYTES) {
        Some((key, _)) => {
            Err(format!("metadata key {} is longer than {MAX_KEY_BYTES} bytes", quoted(key)))
        }
        None => Ok(()),
    }
}

/// Everything before the tensor data, padded to the alignment; and where in it stands what the parts have
/// in common.
fn encode_header(
    metadata: &Metadata,
    tensors: &[TensorPlan],
    offsets: &[u64],
    alignment: u64,
) -> (Vec<u8>, Option<u64>) {
    let mut output = Vec::new();
    let mut identity_at = None;
    output.extend_from_slice(MAGIC);
    output.extend_from_slice(&VERSION.to_le_bytes());
    output.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    output.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        encode_string(key, &mut output);
        output.extend_from_slice(&value.value_type().id().to_le_bytes());
        encode_value(value, &mut output);
        if key == split::IDENTITY_KEY {
            identity_at = Some((output.len() - IDENTITY_DIGITS) as u64);
        }
    }
    for (tensor, offset) in tensors.iter().zip(offsets) {
        encode_string(&tensor.name, &mut output);
        output.extend_from_slice(&(tensor.dimensions.len() as u32).to_le_bytes());
        for dimension in &tensor.dimensions {
            output.extend_from_slice(&dimension.to_le_bytes());
        }
        output.extend_from_slice(&tensor.ggml_type.id().to_le_bytes());
        output.extend_from_slice(&offset.to_le_bytes());
    }
    // The alignment is at most 1 MiB.
    output.resize(output.len().next_multiple_of(alignment as usize), 0);
    (output, identity_at)
}

fn encode_string(text: &str, output: &mut Vec<u8>) {
    output.extend_from_slice(&(text.len() as u64).to_le_bytes());
    output.extend_from_slice(text.as_bytes());
}

/// A value as it stands in a file, without its type.
fn encode_value(value: &Value, output: &mut Vec<u8>) {
    match value {
        Value::U8(number) => output.push(*number),
        Value::I8(number) => output.extend_from_slice(&number.to_le_bytes()),
        Value::U16(number) => output.extend_from_slice(&number.to_le_bytes()),
        Value::I16(number) => output.extend_from_slice(&number.to_le_bytes()),
        Value::U32(number) => output.extend_from_slice(&number.to_le_bytes()),
        Value::I32(number) => output.extend_from_slice(&number.to_le_bytes()),
        Value::F32(number) => output.extend_from_slice(&number.to_le_bytes()),
        Value::Bool(truth) => output.push(u8::from(*truth)),
        Value::String(text) => encode_string(text, output),
        Value::Array(array) => encode_array(array, output),
        Value::U64(number) => output.extend_from_slice(&number.to_le_bytes()),
        Value::I64(number) => output.extend_from_slice(&number.to_le_bytes()),
        Value::F64(number) => output.extend_from_slice(&number.to_le_bytes()),
    }
}

fn encode_array(array: &Array, output: &mut Vec<u8>) {
    output.extend_from_slice(&array.element_type().id().to_le_bytes());
    output.extend_from_slice(&(array.len() as u64).to_le_bytes());
    match array {
        Array::U8(numbers) => output.extend_from_slice(numbers),
        Array::I8(numbers) => output.extend(numbers.iter().flat_map(|n| n.to_le_bytes())),
        Array::U16(numbers) => output.extend(numbers.iter().flat_map(|n| n.to_le_bytes())),
        Array::I16(numbers) => output.extend(numbers.iter().flat_map(|n| n.to_le_bytes())),
        Array::U32(numbers) => output.extend(numbers.iter().flat_map(|n| n.to_le_bytes())),
        Array::I32(numbers) => output.extend(numbers.iter().flat_map(|n| n.to_le_bytes())),
        Array::F32(numbers) => output.extend(numbers.iter().flat_map(|n| n.to_le_bytes())),
        Array::Bool(truths) => output.extend(truths.iter().map(|&truth| u8::from(truth))),
        Array::String(texts) => texts.iter().for_each(|text| encode_string(text, output)),
        Array::U64(numbers) => output.extend(numbers.iter().flat_map(|n| n.to_le_bytes())),
        Array::I64(numbers) => output.extend(numbers.iter().flat_map(|n| n.to_le_bytes())),
        Array::F64(numbers) => output.extend(numbers.iter().flat_map(|n| n.to_le_bytes())),
    }
}
