//! Reading a GGUF file through a memory map. Nothing in the file is believed before it is checked.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::directory::{Directory, quoted};
use super::split::{self, PartFacts};
use super::{GgufError, Metadata, TensorInfo};
use crate::support::input_file::{InputFile, Inputs};
use crate::support::mapped::{expect, release};
use crate::support::printable::one_line;
use crate::support::units;

/// A model in mapped GGUF files whose directories have been checked against their lengths: one file,
/// or all the parts of a split model, which are read as one. A clone is the same open files.
#[derive(Debug, Clone)]
pub struct GgufFile {
    parts: Arc<[Part]>,
    /// Those of all parts; a tensor's offset counts through the parts' data sections.
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

/// One mapped file.
#[derive(Debug)]
struct Part {
    file: Arc<InputFile>,
    map: Mmap,
    directory: Directory,
    /// The offset of its data section, counted through those of all parts before it.
    data_offset: u64,
}

impl Part {
    fn open(path: &Path, data_offset: u64) -> Result<Self, GgufError> {
        let failed = |source| GgufError::io(path, source);
        let file = Arc::new(InputFile::open(path).map_err(failed)?);
        let map = file.map().map_err(failed)?;
        let directory = Directory::parse(path, &map)?;
        Ok(Self { file, map, directory, data_offset })
    }

    fn path(&self) -> &Path {
        self.file.path()
    }

    fn malformed(&self, problem: impl Into<String>) -> GgufError {
        GgufError::malformed(self.path(), problem)
    }

    fn facts(&self) -> Result<Option<PartFacts>, GgufError> {
        PartFacts::of(&self.directory.metadata).map_err(|problem| self.malformed(problem))
    }

    /// The offset of the data section of a part that follows this one. It is the sum of lengths of
    /// mapped files, which fit into the address space together.
    fn data_end(&self) -> u64 {
        self.data_offset + (self.map.len() as u64).saturating_sub(self.directory.data_start)
    }
}

impl GgufFile {
    /// Maps the file and checks its header, metadata and tensor directory. The first part of a split
    /// model (`NAME-00001-of-00003.gguf`) opens the others with it.
    ///
    /// # Errors
    /// Anything that is not a complete, consistent GGUF version 2 or 3 file; a part that is not the
    /// first; parts that are missing or do not belong together.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let first = Part::open(path, 0)?;
        let parts = match first.facts()? {
            None => vec![first],
            Some(facts) => open_parts(first, &facts)?,
        };
        let mut tensors = Vec::new();
        let mut by_name = HashMap::new();
        for part in &parts {
            for tensor in &part.directory.tensors {
                if by_name.insert(tensor.name.clone(), tensors.len()).is_some() {
                    return Err(part.malformed(format!(
                        "tensor {} is in another part of the model as well; the parts do not \
                         belong together",
                        quoted(&tensor.name)
                    )));
                }
                let offset = part.data_offset + tensor.offset;
                tensors.push(TensorInfo { offset, ..tensor.clone() });
            }
        }
        let file = Self { parts: parts.into(), tensors, by_name };
        if tracing::enabled!(tracing::Level::INFO) {
            file.log();
        }
        Ok(file)
    }

    fn first(&self) -> &Part {
        &self.parts[0]
    }

    /// The file's path as it was opened: the first part's.
    pub fn path(&self) -> &Path {
        self.first().path()
    }

    /// The path of every file, in order.
    pub fn part_paths(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().map(Part::path)
    }

    /// The open files, in order: what has been mapped, wherever the paths lead now.
    pub fn inputs(&self) -> Inputs {
        self.parts.iter().map(|part| part.file.clone()).collect()
    }

    /// The format's version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.first().directory.version
    }

    /// The alignment of every tensor's data, in bytes: a power of two, at least 8.
    pub fn alignment(&self) -> u64 {
        self.first().directory.alignment
    }

    /// The length in bytes, of all parts together.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.map.len() as u64).sum()
    }

    /// The model's metadata: the first part's.
    pub fn metadata(&self) -> &Metadata {
        &self.first().directory.metadata
    }

    /// The tensors in directory order, part after part.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&index| &self.tensors[index])
    }

    /// The bytes of one of this file's tensors, straight from the map and aligned to at least 8.
    ///
    /// # Panics
    /// If the tensor is another file's and does not lie in this one.
    pub fn tensor_bytes(&self, tensor: &TensorInfo) -> &[u8] {
        let (part, range) = self.place(tensor);
        &part.map[range]
    }

    /// Lets the system take back the memory that holds a tensor's bytes: for tensors that have been
    /// copied. [`GgufFile::tensor_bytes`] reads them from the file again.
    ///
    /// # Panics
    /// As [`GgufFile::tensor_bytes`].
    pub fn release_tensor(&self, tensor: &TensorInfo) {
        self.release_bytes(tensor, 0..tensor.bytes() as usize);
    }

    /// The same for some of a tensor's bytes, counted from its first one.
    ///
    /// # Panics
    /// As [`GgufFile::tensor_bytes`], and if the range reaches past the tensor's end.
    pub fn release_bytes(&self, tensor: &TensorInfo, range: Range<usize>) {
        let (part, whole) = self.place(tensor);
        assert!(range.end <= whole.len(), "the range lies in the tensor");
        release(&part.map, whole.start + range.start..whole.start + range.end);
    }

    /// Lets the system read some of a tensor's bytes, counted from its first one, before they are
    /// asked for.
    ///
    /// # Panics
    /// As [`GgufFile::release_bytes`].
    pub fn expect_bytes(&self, tensor: &TensorInfo, range: Range<usize>) {
        let (part, whole) = self.place(tensor);
        assert!(range.end <= whole.len(), "the range lies in the tensor");
        expect(&part.map, whole.start + range.start..whole.start + range.end);
    }

    /// The part that holds a tensor, and where in its file.
    fn place(&self, tensor: &TensorInfo) -> (&Part, Range<usize>) {
        // The last part that starts at or before the tensor: those without data come before one
        // that has some.
        let after = self.parts.partition_point(|part| part.data_offset <= tensor.offset);
        let part = &self.parts[after.saturating_sub(1)];
        let start = (part.directory.data_start + (tensor.offset - part.data_offset)) as usize;
        (part, start..start + tensor.bytes() as usize)
    }

    /// Says in the log what was opened.
    fn log(&self) {
        let mut types = BTreeMap::<String, usize>::new();
        for tensor in self.tensors() {
            *types.entry(tensor.ggml_type.to_string()).or_default() += 1;
        }
        let types: Vec<String> =
            types.iter().map(|(name, count)| format!("{count} {name}")).collect();
        tracing::info!(
            "{} opened: {}, {} tensors ({}), {}",
            self.path().display(),
            one_line(self.metadata().string("general.architecture").unwrap_or("no architecture")),
            self.tensors().len(),
            types.join(", "),
            units::bytes(self.file_bytes())
        );
    }
}

/// Opens the parts that follow the first one and checks that all belong together.
fn open_parts(first: Part, facts: &PartFacts) -> Result<Vec<Part>, GgufError> {
    let PartFacts { index, count, .. } = *facts;
    let Some(prefix) = split::prefix_of(first.path(), index, count) else {
        return Err(first.malformed(format!(
            "this is part {} of {count}, whose name should end in {:?}: that is how the other \
             parts are found; rename it",
            index + 1,
            split::ending(index, count)
        )));
    };
    if index != 0 {
        return Err(first.malformed(format!(
            "this is part {} of {count}; give the first one, {}",
            index + 1,
            split::part_path(&prefix, 0, count).display()
        )));
    }
    let mut parts = vec![first];
    for index in 1..count {
        let path = split::part_path(&prefix, index, count);
        let part = open_part(&path, &parts)?;
        check_part(&part, &PartFacts { index, ..facts.clone() }, &parts[0])?;
        parts.push(part);
    }
    let found: usize = parts.iter().map(|part| part.directory.tensors.len()).sum();
    match facts.tensors.filter(|&expected| expected != found as u64) {
        Some(expected) => Err(parts[0].malformed(format!(
            "the model's {count} parts should hold {expected} tensors, but they hold {found}; \
             parts of another model are among them, or one is damaged: download them again"
        ))),
        None => Ok(parts),
    }
}

fn open_part(path: &Path, before: &[Part]) -> Result<Part, GgufError> {
    if !path.exists() {
        return Err(GgufError::malformed(
            path,
            format!(
                "this part of {} is missing; put all parts of the model into one directory",
                before[0].path().display()
            ),
        ));
    }
    let data_offset = before.last().map_or(0, Part::data_end);
    Part::open(path, data_offset)
}

/// Checks that a part is what its name says, and of the same model as the first.
fn check_part(part: &Part, expected: &PartFacts, first: &Part) -> Result<(), GgufError> {
    let foreign = |what: String| {
        part.malformed(format!(
            "expected part {} of {}, found {what}; it belongs to another model or is in the wrong \
             place: download it again",
            expected.index + 1,
            expected.count
        ))
    };
    match part.facts()? {
        None => return Err(foreign("a file that is no part of several".to_string())),
        Some(found) if (found.index, found.count) != (expected.index, expected.count) => {
            return Err(foreign(format!("part {} of {}", found.index + 1, found.count)));
        }
        Some(found) if found.tensors != expected.tensors => {
            let counted = |tensors: Option<u64>| {
                tensors.map_or("an unknown number of".to_string(), |tensors| tensors.to_string())
            };
            return Err(foreign(format!(
                "a part of a model with {} tensors instead of {}",
                counted(found.tensors),
                counted(expected.tensors)
            )));
        }
        Some(found) if found.identity != expected.identity => {
            return Err(part.malformed(format!(
                "this part and {} were not written together: the run that wrote one of them was \
                 stopped as it finished, or they belong to two models; make or download all parts \
                 again",
                first.path().display()
            )));
        }
        Some(_) => {}
    }
    let model = &first.directory.metadata;
    let mut shared = part.directory.metadata.iter().filter(|(key, _)| !split::is_split_key(key));
    match shared.find(|(key, value)| model.get(key).is_some_and(|own| !own.is_identical(value))) {
        Some((key, _)) => Err(foreign(format!("another {} than the first part's", quoted(key)))),
        None => Ok(()),
    }
}
