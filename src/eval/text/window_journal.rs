//! What the reading of a text has given so far, section by section: see [`crate::eval::line_journal`].

use std::fs;
use std::io::ErrorKind;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::engine::Build;
use crate::eval::EvalError;
use crate::eval::line_journal::{Earlier, JournalHeader, LineJournal, OTHER_BUILD};
use crate::support::input_file::Inputs;

/// Version of the journal's lines.
const VERSION: u32 = 2;

/// Where a reading keeps what it has so far. Who has written its results calls [`Self::remove`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowJournalOptions {
    /// The file; its directory is made once the models and the text are found to be of use.
    pub path: PathBuf,
    /// What is done with a file that is already there.
    pub earlier: Earlier,
}

impl WindowJournalOptions {
    /// Removes the file, if there is one.
    ///
    /// # Errors
    /// A file that cannot be removed.
    pub fn remove(&self) -> Result<(), EvalError> {
        match fs::remove_file(&self.path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(EvalError::io(&self.path, source))
            }
            _ => Ok(()),
        }
    }
}

/// What a reading's figures depend on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Reading {
    /// SHA-256 of the models in their order.
    pub models_sha256: Vec<String>,
    /// SHA-256 of the text, or of the file of base logits.
    pub text_sha256: String,
    /// Tokens in a window.
    pub context: usize,
    /// Tokens from one window's beginning to the next one's, where windows overlap.
    pub stride: Option<usize>,
    /// Windows that are read.
    pub windows: usize,
    /// Where the models run.
    pub device: String,
    /// Elements of the key-value cache.
    pub kv_type: String,
    /// Bits that activations are rounded to.
    pub activations: u8,
}

/// The first line of a journal of values of a type.
#[derive(Debug, Serialize, Deserialize)]
struct Header<T> {
    version: u32,
    build: Build,
    reading: Reading,
    #[serde(skip)]
    of: PhantomData<T>,
}

/// The values of a section, in the order of the text.
#[derive(Debug, Serialize, Deserialize)]
struct Section<T> {
    /// Its windows.
    windows: Range<usize>,
    values: Vec<T>,
}

impl<T: Serialize + DeserializeOwned> JournalHeader for Header<T> {
    type Entry = Section<T>;

    fn mismatch(&self, wanted: &Self) -> Option<String> {
        let (there, here) = (&self.reading, &wanted.reading);
        let differences = [
            (self.version != wanted.version, "it is of another version of quantkit"),
            (self.build != wanted.build, OTHER_BUILD),
            (there.models_sha256 != here.models_sha256, "it is of other models"),
            (there.text_sha256 != here.text_sha256, "it is of another text"),
            (there.context != here.context, "its windows have another length"),
            (there.stride != here.stride, "it has another --stride"),
            (there.windows != here.windows, "it is of another number of windows"),
            (there.device != here.device, "it is of another device"),
            (there.kv_type != here.kv_type, "its key-value cache is of another type"),
            (there.activations != here.activations, "it has another --activations"),
        ];
        let first = differences.into_iter().find(|(differs, _)| *differs);
        first.map(|(_, what)| what.to_string())
    }

    fn amount(entries: &[Section<T>]) -> String {
        let windows: usize = entries.iter().map(|section| section.windows.len()).sum();
        format!("{windows} windows of an unfinished run")
    }
}

/// The values of a reading as they come.
#[derive(Debug)]
pub(super) struct WindowJournal<T> {
    file: Option<LineJournal>,
    /// The models, which must not change while they are read.
    inputs: Inputs,
    /// All that there are.
    pub values: Vec<T>,
    /// How many windows they are of.
    pub done: usize,
}

impl<T: Serialize + DeserializeOwned> WindowJournal<T> {
    /// Begins a reading, or goes on with it. Without options nothing is kept on the disk. `inputs` are
    /// read while it is under way.
    ///
    /// # Errors
    /// As [`LineJournal::open`].
    pub fn open(
        options: Option<&WindowJournalOptions>,
        inputs: Inputs,
        reading: impl FnOnce() -> Reading,
    ) -> Result<Self, EvalError> {
        let Some(WindowJournalOptions { path, earlier }) = options else {
            return Ok(Self { file: None, inputs, values: Vec::new(), done: 0 });
        };
        let header = Header {
            version: VERSION,
            build: Build::current(),
            reading: reading(),
            of: PhantomData,
        };
        let (mut file, _, sections) = LineJournal::open::<Header<T>>(path, header, *earlier)?;
        file.begin()?;
        let (mut values, mut done) = (Vec::new(), 0);
        for section in sections {
            // Behind one that is missing, sections are read again.
            if section.windows.start == done {
                done = section.windows.end;
                values.extend(section.values);
            }
        }
        Ok(Self { file: Some(file), inputs, values, done })
    }

    /// Keeps the values of the next section; they are on the disk when this returns.
    ///
    /// # Errors
    /// A model that has changed, a journal that cannot be written.
    pub fn append(&mut self, windows: Range<usize>, values: Vec<T>) -> Result<(), EvalError> {
        self.inputs.check()?;
        self.done = windows.end;
        let section = Section { windows, values };
        if let Some(file) = &mut self.file {
            file.append(&section)?;
        }
        self.values.extend(section.values);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn reading(windows: usize) -> Reading {
        Reading {
            models_sha256: vec!["a".to_string(), "b".to_string()],
            text_sha256: "c".to_string(),
            context: 512,
            stride: None,
            windows,
            device: "cpu".to_string(),
            kv_type: "i16".to_string(),
            activations: 8,
        }
    }

    fn open(
        path: &Path,
        earlier: Earlier,
        windows: usize,
    ) -> Result<WindowJournal<f64>, EvalError> {
        let options = WindowJournalOptions { path: path.to_path_buf(), earlier };
        WindowJournal::open(Some(&options), Inputs::default(), || reading(windows))
    }

    #[test]
    fn a_reading_goes_on_where_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.jsonl");
        let values = [0.1 + 0.2, 1.0 / 3.0, 17.25];
        let mut journal = open(&path, Earlier::Resume, 5).unwrap();
        assert_eq!((journal.done, journal.values.len()), (0, 0));
        journal.append(0..2, values.to_vec()).unwrap();
        journal.append(2..4, vec![4.0]).unwrap();
        drop(journal);
        let journal = open(&path, Earlier::Resume, 5).unwrap();
        assert_eq!(journal.values, [values.as_slice(), &[4.0]].concat());
        assert_eq!(journal.done, 4);
        drop(journal);
        let error = open(&path, Earlier::Resume, 6).unwrap_err().to_string();
        assert!(
            error.contains("holds 4 windows") && error.contains("number of windows"),
            "{error}"
        );
        assert_eq!(open(&path, Earlier::ResumeIfSame, 6).unwrap().done, 0);
        let options = WindowJournalOptions { path: path.clone(), earlier: Earlier::Resume };
        options.remove().unwrap();
        assert!(!path.exists());
        options.remove().unwrap();
    }

    #[test]
    fn what_follows_a_missing_section_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.jsonl");
        let mut journal = open(&path, Earlier::Resume, 6).unwrap();
        for start in [0, 2, 4] {
            journal.append(start..start + 2, vec![start as f64]).unwrap();
        }
        drop(journal);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        fs::write(&path, [lines[3], lines[0], lines[1], lines[1]].concat()).unwrap();
        let mut journal = open(&path, Earlier::Resume, 6).unwrap();
        assert_eq!((journal.done, &journal.values), (2, &vec![0.0]));
        journal.append(2..4, vec![2.0]).unwrap();
        journal.append(4..6, vec![4.0]).unwrap();
        drop(journal);
        let journal = open(&path, Earlier::Resume, 6).unwrap();
        assert_eq!((journal.done, journal.values), (6, vec![0.0, 2.0, 4.0]));
    }

    #[test]
    fn nothing_is_kept_where_no_file_is_wanted() {
        let mut journal =
            WindowJournal::<f64>::open(None, Inputs::default(), || unreachable!("not asked"))
                .unwrap();
        journal.append(0..1, vec![1.0, 2.0]).unwrap();
        assert_eq!((journal.values, journal.done), (vec![1.0, 2.0], 1));
    }
}
