//! Writing a GGUF v3 file as a stream: header first, then each tensor's bytes in order.

use std::collections::HashSet;
use std::io::Write as _;
use std::path::Path;

use super::directory::{self, MAGIC, MAX_KEY_BYTES, quoted};
use super::metadata::{Array, Metadata, Value};
use super::{GgmlType, GgufError};
use crate::support::atomic_file::AtomicFile;

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

/// A GGUF file under construction. It appears under its name only when [`GgufWriter::finish`]
/// succeeds; dropped before that, it leaves nothing behind.
#[derive(Debug)]
pub struct GgufWriter {
    file: AtomicFile,
    alignment: u64,
    /// Name and size of every tensor, in order.
    tensors: Vec<(String, u64)>,
    /// The tensor whose bytes come next; after the last one, the number of tensors.
    current: usize,
    /// Bytes of the current tensor that have been written.
    written: u64,
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
        let layout =
            |problem: String| GgufError::malformed(path, format!("cannot be written: {problem}"));
        let alignment = directory::alignment(metadata).map_err(layout)?;
        let sizes = plan_sizes(&tensors).map_err(layout)?;
        check_metadata(metadata).map_err(layout)?;
        let header = encode_header(metadata, &tensors, &sizes, alignment).map_err(layout)?;

        let mut file = AtomicFile::create(path).map_err(|source| GgufError::io(path, source))?;
        file.write_all(&header).map_err(|source| GgufError::io(path, source))?;
        let tensors = tensors.into_iter().map(|tensor| tensor.name).zip(sizes).collect();
        Ok(Self { file, alignment, tensors, current: 0, written: 0 })
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
        let Some((name, size)) = self.tensors.get(self.current) else {
            return Err(self.misuse(format!(
                "{} bytes were given after the last tensor was complete",
                bytes.len()
            )));
        };
        let size = *size;
        if bytes.len() as u64 > size - self.written {
            return Err(self.misuse(format!(
                "tensor {} takes {size} bytes, but {} were given",
                quoted(name),
                self.written + bytes.len() as u64
            )));
        }
        self.append(bytes)?;
        self.written += bytes.len() as u64;
        if self.written == size {
            self.append(&vec![0; padding(size, self.alignment)])?;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Checks that every tensor is complete, and renames the file to its place.
    ///
    /// # Errors
    /// I/O errors, and tensors whose bytes have not all been written.
    pub fn finish(self) -> Result<(), GgufError> {
        if let Some((name, size)) = self.tensors.get(self.current) {
            return Err(self.misuse(format!(
                "tensor {} takes {size} bytes, but only {} were given",
                quoted(name),
                self.written
            )));
        }
        let path = self.file.target().to_path_buf();
        self.file.commit().map_err(|source| GgufError::io(&path, source))
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), GgufError> {
        self.file.write_all(bytes).map_err(|source| GgufError::io(self.file.target(), source))
    }

    fn misuse(&self, problem: String) -> GgufError {
        GgufError::malformed(self.file.target(), format!("cannot be written: {problem}"))
    }
}

/// Bytes from `position` to the next multiple of `alignment`.
fn padding(position: u64, alignment: u64) -> usize {
    // Below the alignment, which is at most 1 MiB.
    ((alignment - position % alignment) % alignment) as usize
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

/// Everything before the tensor data, padded to the alignment.
fn encode_header(
    metadata: &Metadata,
    tensors: &[TensorPlan],
    sizes: &[u64],
    alignment: u64,
) -> Result<Vec<u8>, String> {
    let mut output = Vec::new();
    output.extend_from_slice(MAGIC);
    output.extend_from_slice(&VERSION.to_le_bytes());
    output.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    output.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        encode_string(key, &mut output);
        output.extend_from_slice(&value.value_type().id().to_le_bytes());
        encode_value(value, &mut output);
    }
    let mut offset = 0u64;
    for (tensor, &size) in tensors.iter().zip(sizes) {
        encode_string(&tensor.name, &mut output);
        output.extend_from_slice(&(tensor.dimensions.len() as u32).to_le_bytes());
        for dimension in &tensor.dimensions {
            output.extend_from_slice(&dimension.to_le_bytes());
        }
        output.extend_from_slice(&tensor.ggml_type.id().to_le_bytes());
        output.extend_from_slice(&offset.to_le_bytes());
        offset = offset
            .checked_add(size)
            .and_then(|end| end.checked_next_multiple_of(alignment))
            .ok_or("its tensors together are larger than any file")?;
    }
    output.resize(output.len() + padding(output.len() as u64, alignment), 0);
    Ok(output)
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

/// The length of the file that [`GgufWriter`] makes of this metadata and these tensors, in bytes.
///
/// # Errors
/// What [`GgufWriter::create`] refuses to write.
pub fn file_bytes(metadata: &Metadata, tensors: &[TensorPlan]) -> Result<u64, String> {
    let alignment = directory::alignment(metadata)?;
    let sizes = plan_sizes(tensors)?;
    let header = encode_header(metadata, tensors, &sizes, alignment)?.len() as u64;
    let padded = |size: u64| size.checked_next_multiple_of(alignment);
    sizes
        .into_iter()
        .try_fold(header, |total, size| total.checked_add(padded(size)?))
        .ok_or_else(|| "its tensors together are larger than any file".to_string())
}
