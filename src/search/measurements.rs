//! What a search has measured, in a file that grows with every measurement: a search that was
//! stopped goes on from it, and one with another budget starts with it.
//!
//! The file has one JSON document a line: first [`Identity`], then records. A line that was only
//! half written when the machine stopped is cut off.

use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::SearchError;
use crate::engine::Build;
use crate::eval::text::divergence::Divergence;
use crate::gguf::GgmlType;
use crate::support::regular_file::open_regular;

/// What the file's `format` field says.
const FORMAT: &str = "quantkit-measurements";
/// Changes when measurements are no longer comparable with older ones.
const VERSION: u32 = 2;

/// What is added to a plan's name for that of its measurements.
pub(super) const MEASUREMENTS_SUFFIX: &str = ".measurements.jsonl";

/// Where the measurements of a search lie: beside its plan.
pub fn measurements_path(plan: &Path) -> PathBuf {
    let mut name = plan.file_name().unwrap_or_default().to_os_string();
    name.push(MEASUREMENTS_SUFFIX);
    plan.with_file_name(name)
}

/// What measurements depend on; those of another identity are of no use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    format: String,
    version: u32,
    /// The build that measured.
    build: Build,
    /// SHA-256 of the model file.
    pub(super) model_sha256: String,
    /// SHA-256 of the text.
    pub(super) text_sha256: String,
    /// Tokens in a window.
    pub(super) context: usize,
    /// SHA-256 of the importance file.
    pub(super) importance_sha256: Option<String>,
}

/// What the first line says in every version.
#[derive(Debug, Deserialize)]
struct Kind {
    format: String,
    version: u32,
}

impl Identity {
    pub(super) fn new(
        model_sha256: String,
        text_sha256: String,
        context: usize,
        importance_sha256: Option<String>,
    ) -> Self {
        let format = FORMAT.to_string();
        Self {
            format,
            version: VERSION,
            build: Build::current(),
            model_sha256,
            text_sha256,
            context,
            importance_sha256,
        }
    }

    /// Finds out whether a file's first line is this identity, and says what is wrong otherwise.
    fn check(&self, line: &str) -> Result<(), String> {
        let kind: Kind = serde_json::from_str(line)
            .ok()
            .filter(|found: &Kind| found.format == FORMAT)
            .ok_or("this file holds no measurements")?;
        if kind.version != VERSION {
            return Err("these measurements were made by another version of quantkit".to_string());
        }
        let found: Self = serde_json::from_str(line).map_err(|error| format!("line 1: {error}"))?;
        match self.difference(&found) {
            None => Ok(()),
            Some(difference) => Err(format!("these measurements {difference}")),
        }
    }

    /// What `other` has otherwise.
    fn difference(&self, other: &Self) -> Option<String> {
        if !other.build.is_current() {
            return Some("were made by another build of quantkit or on another processor".into());
        }
        let differences = [
            (self.model_sha256 != other.model_sha256, "another model"),
            (self.text_sha256 != other.text_sha256, "another text"),
            (self.context != other.context, "another --context"),
            (self.importance_sha256 != other.importance_sha256, "another --importance, or none"),
        ];
        let found: Vec<&str> =
            differences.into_iter().filter(|(differs, _)| *differs).map(|(_, what)| what).collect();
        (!found.is_empty()).then(|| format!("are of {}", found.join(" and ")))
    }
}

/// Opens the file, new if need be, for this search alone.
fn open_alone(path: &Path) -> Result<File, SearchError> {
    let in_file = |source| SearchError::Io { path: path.to_path_buf(), source };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(in_file)?;
    }
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = file.map_err(in_file)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(SearchError::Unusable(format!(
            "{}: another search is adding to these measurements; give another --output, or wait \
             for its end",
            path.display()
        ))),
        Err(TryLockError::Error(error)) => {
            tracing::info!("{}: cannot be locked: {error}", path.display());
            Ok(file)
        }
        Ok(()) => Ok(file),
    }
}

fn push_line(text: &mut Vec<u8>, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *text, line)?;
    text.push(b'\n');
    Ok(())
}

/// A tensor in a format.
pub(super) type Pair = (String, GgmlType);

/// One line of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Record {
    Divergence {
        tensor: String,
        format: String,
        window: usize,
        kl: f64,
    },
    Error {
        tensor: String,
        format: String,
        squared_error: f64,
    },
    /// The tensor's weights are too large for the format, or the logits are not numbers with it.
    Excluded {
        tensor: String,
        format: String,
    },
    Model {
        run: ModelRun,
        divergence: Divergence,
    },
}

/// A whole model on a text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct ModelRun {
    /// SHA-256 of all tensors' formats.
    pub(super) assignment: String,
    /// SHA-256 of the text.
    pub(super) text_sha256: String,
    /// Which windows of it were read.
    pub(super) windows: Vec<usize>,
}

/// All measurements of one identity.
#[derive(Debug)]
pub(super) struct Measurements {
    path: PathBuf,
    identity: Identity,
    /// There is none before the first measurement.
    file: Option<File>,
    /// How much of the file stays; nothing once measurements have been added to it.
    kept_bytes: Option<u64>,
    divergences: HashMap<Pair, HashMap<usize, f64>>,
    errors: HashMap<Pair, f64>,
    excluded: HashSet<Pair>,
    models: HashMap<ModelRun, Divergence>,
}

impl Measurements {
    /// Opens the file and reads it, unless `fresh` is set. Where there is none it is started with the
    /// first measurement.
    ///
    /// # Errors
    /// A file that cannot be read or written, that another search is writing, that is another
    /// search's, or that holds something else.
    pub(super) fn open(path: &Path, identity: &Identity, fresh: bool) -> Result<Self, SearchError> {
        let in_file = |source| SearchError::Io { path: path.to_path_buf(), source };
        let unusable = |problem: String| {
            SearchError::Unusable(format!(
                "{}: {problem}; give another --output, or --fresh to measure anew",
                path.display()
            ))
        };
        let file = match open_regular(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(in_file(error)),
            Ok(_) => Some(open_alone(path)?),
        };
        let mut bytes = Vec::new();
        if let Some(mut file) = file.as_ref().filter(|_| !fresh) {
            file.read_to_end(&mut bytes).map_err(in_file)?;
        }
        let text = String::from_utf8(bytes).map_err(|_| unusable("this is no text".to_string()))?;
        // What follows the last line break was not written to its end.
        let complete = text.rfind('\n').map_or("", |end| &text[..=end]);
        let mut measurements = Self {
            path: path.to_path_buf(),
            identity: identity.clone(),
            file,
            kept_bytes: Some(complete.len() as u64),
            divergences: HashMap::new(),
            errors: HashMap::new(),
            excluded: HashSet::new(),
            models: HashMap::new(),
        };
        let mut lines = complete.lines().enumerate();
        if let Some((_, first)) = lines.next() {
            identity.check(first).map_err(unusable)?;
        }
        for (index, line) in lines {
            let record = serde_json::from_str(line)
                .map_err(|error| unusable(format!("line {}: {error}", index + 1)))?;
            measurements.remember(record).map_err(unusable)?;
        }
        Ok(measurements)
    }

    fn remember(&mut self, record: Record) -> Result<(), String> {
        let format_of =
            |name: &str| GgmlType::from_name(name).ok_or_else(|| format!("{name:?} is no format"));
        match record {
            Record::Divergence { tensor, format, window, kl } => {
                let pair = (tensor, format_of(&format)?);
                self.divergences.entry(pair).or_default().insert(window, kl);
            }
            Record::Error { tensor, format, squared_error } => {
                self.errors.insert((tensor, format_of(&format)?), squared_error);
            }
            Record::Excluded { tensor, format } => {
                self.excluded.insert((tensor, format_of(&format)?));
            }
            Record::Model { run, divergence } => {
                self.models.insert(run, divergence);
            }
        }
        Ok(())
    }

    /// Writes lines in one go and has them stay.
    fn append(&mut self, records: &[Record]) -> Result<(), SearchError> {
        let in_file = |source| SearchError::Io { path: self.path.clone(), source };
        let mut text = Vec::new();
        let mut file = match self.file.take() {
            Some(file) => file,
            None => open_alone(&self.path)?,
        };
        if let Some(kept) = self.kept_bytes.take() {
            file.set_len(kept).map_err(in_file)?;
            file.seek(SeekFrom::End(0)).map_err(in_file)?;
            if kept == 0 {
                push_line(&mut text, &self.identity).map_err(in_file)?;
            }
        }
        for record in records {
            push_line(&mut text, record).map_err(in_file)?;
        }
        file.write_all(&text).map_err(in_file)?;
        file.sync_data().map_err(in_file)?;
        self.file = Some(file);
        Ok(())
    }

    fn add(&mut self, records: Vec<Record>) -> Result<(), SearchError> {
        self.append(&records)?;
        records
            .into_iter()
            .try_for_each(|record| self.remember(record))
            .map_err(SearchError::Unusable)
    }

    /// Whether nothing is left to measure of a pair on a window.
    pub(super) fn has(&self, pair: &Pair, window: usize) -> bool {
        self.is_excluded(pair)
            || self.divergences.get(pair).is_some_and(|windows| windows.contains_key(&window))
    }

    /// The mean divergence over these windows, if the pair has been measured on all of them.
    pub(super) fn divergence(&self, pair: &Pair, windows: &[usize]) -> Option<f64> {
        let measured = self.divergences.get(pair)?;
        let sum = windows.iter().map(|window| measured.get(window).copied()).sum::<Option<f64>>();
        Some(sum? / windows.len().max(1) as f64)
    }

    /// Adds the mean divergence on a window.
    pub(super) fn add_divergence(
        &mut self,
        pair: &Pair,
        window: usize,
        kl: f64,
    ) -> Result<(), SearchError> {
        let (tensor, format) = (pair.0.clone(), pair.1.name().to_string());
        self.add(vec![Record::Divergence { tensor, format, window, kl }])
    }

    /// Whether the pair was found to be of no use.
    pub(super) fn is_excluded(&self, pair: &Pair) -> bool {
        self.excluded.contains(pair)
    }

    /// Notes that the pair is of no use.
    pub(super) fn exclude(&mut self, pair: &Pair) -> Result<(), SearchError> {
        let (tensor, format) = (pair.0.clone(), pair.1.name().to_string());
        self.add(vec![Record::Excluded { tensor, format }])
    }

    /// The squared error of a pair.
    pub(super) fn squared_error(&self, pair: &Pair) -> Option<f64> {
        self.errors.get(pair).copied()
    }

    /// Adds the squared errors of a tensor.
    pub(super) fn add_squared_errors(
        &mut self,
        tensor: &str,
        errors: &[(GgmlType, f64)],
    ) -> Result<(), SearchError> {
        let record = |&(format, squared_error): &(GgmlType, f64)| Record::Error {
            tensor: tensor.to_string(),
            format: format.name().to_string(),
            squared_error,
        };
        self.add(errors.iter().map(record).collect())
    }

    /// The divergence of a whole model.
    pub(super) fn model(&self, run: &ModelRun) -> Option<&Divergence> {
        self.models.get(run)
    }

    /// Adds the divergence of a whole model.
    pub(super) fn add_model(
        &mut self,
        run: ModelRun,
        divergence: &Divergence,
    ) -> Result<(), SearchError> {
        self.add(vec![Record::Model { run, divergence: divergence.clone() }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(text: &str) -> Identity {
        Identity::new("model".to_string(), text.to_string(), 512, None)
    }

    fn pair(format: GgmlType) -> Pair {
        ("blk.0.attn_q.weight".to_string(), format)
    }

    #[test]
    fn what_was_measured_is_there_when_the_file_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/plan.measurements.jsonl");
        let mut first = Measurements::open(&path, &identity("text"), false).unwrap();
        let (q4, q5) = (pair(GgmlType::Q4_0), pair(GgmlType::Q5_0));
        first.add_divergence(&q4, 3, 0.25).unwrap();
        first.add_divergence(&q4, 7, 0.75).unwrap();
        first.add_squared_errors(&q5.0, &[(q5.1, 1.5)]).unwrap();
        drop(first);
        // The machine stopped in the middle of a line.
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(br#"{"divergence":{"tensor":"blk.0.at"#).unwrap();
        let mut again = Measurements::open(&path, &identity("text"), false).unwrap();
        assert_eq!(again.divergence(&q4, &[3, 7]), Some(0.5));
        assert_eq!(again.divergence(&q4, &[3, 8]), None);
        assert!(again.has(&q4, 7) && !again.has(&q5, 7));
        assert_eq!(again.squared_error(&q5), Some(1.5));
        again.exclude(&q4).unwrap();
        again.add_divergence(&q5, 3, 0.125).unwrap();
        drop(again);
        let last = Measurements::open(&path, &identity("text"), false).unwrap();
        assert_eq!(last.divergence(&q5, &[3]), Some(0.125));
        assert!(last.is_excluded(&q4) && last.has(&q4, 99) && !last.is_excluded(&q5));
        let error = Measurements::open(&path, &identity("text"), false).unwrap_err().to_string();
        assert!(error.contains("another search"), "{error}");
        drop(last);
        let before = std::fs::read(&path).unwrap();
        let mut fresh = Measurements::open(&path, &identity("text"), true).unwrap();
        assert_eq!(fresh.divergence(&q5, &[3]), None);
        assert_eq!(std::fs::read(&path).unwrap(), before);
        fresh.exclude(&q5).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
    }

    #[test]
    fn the_measurements_of_another_search_are_kept_and_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plan.measurements.jsonl");
        let mut first = Measurements::open(&path, &identity("text"), false).unwrap();
        assert!(!path.exists(), "nothing is measured yet");
        first.exclude(&pair(GgmlType::Q4_0)).unwrap();
        drop(first);
        let before = std::fs::read(&path).unwrap();
        let refused = |path: &Path, identity: &Identity| {
            Measurements::open(path, identity, false).unwrap_err().to_string()
        };
        let error = refused(&path, &identity("other"));
        assert!(error.contains("another text") && error.contains("--fresh"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        let notes = directory.path().join("notes.txt");
        std::fs::write(&notes, "shopping list\n").unwrap();
        let error = refused(&notes, &identity("text"));
        assert!(error.contains("no measurements"), "{error}");
        assert_eq!(std::fs::read(&notes).unwrap(), b"shopping list\n");
    }
}
