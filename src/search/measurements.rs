//! What a search has measured, in a file that grows with every measurement: a search that was
//! stopped goes on from it, and one with another budget starts with it. See
//! [`crate::eval::line_journal`].

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::SearchError;
use crate::engine::Build;
use crate::eval::line_journal::{Earlier, JournalHeader, LineJournal};
use crate::eval::text::divergence::Divergence;
use crate::gguf::GgmlType;
use crate::support::input_file::Inputs;

/// Changes when measurements are no longer comparable with older ones.
const VERSION: u32 = 3;

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
    version: u32,
    /// The build that measured.
    build: Build,
    /// SHA-256 of the model file.
    model_sha256: String,
    /// SHA-256 of the text.
    text_sha256: String,
    /// Tokens in a window.
    context: usize,
    /// SHA-256 of the importance file.
    importance_sha256: Option<String>,
}

impl Identity {
    pub(super) fn new(
        model_sha256: String,
        text_sha256: String,
        context: usize,
        importance_sha256: Option<String>,
    ) -> Self {
        let build = Build::current();
        Self { version: VERSION, build, model_sha256, text_sha256, context, importance_sha256 }
    }
}

impl JournalHeader for Identity {
    type Entry = Record;

    const DISCARD: &'static str = "--fresh";

    fn mismatch(&self, wanted: &Self) -> Option<String> {
        if self.version != wanted.version || !self.build.is_current() {
            return Some(
                "they were made by another build of quantkit or on another processor".into(),
            );
        }
        let differences = [
            (self.model_sha256 != wanted.model_sha256, "another model"),
            (self.text_sha256 != wanted.text_sha256, "another text"),
            (self.context != wanted.context, "another --context"),
            (self.importance_sha256 != wanted.importance_sha256, "another --importance, or none"),
        ];
        let found: Vec<&str> =
            differences.into_iter().filter(|(differs, _)| *differs).map(|(_, what)| what).collect();
        (!found.is_empty()).then(|| format!("they are of {}", found.join(" and ")))
    }

    fn amount(entries: &[Record]) -> String {
        format!("{} measurements of a search", entries.len())
    }
}

/// A tensor in a format.
pub(super) type Pair = (String, GgmlType);

/// One line of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
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
    journal: LineJournal,
    /// The model, which must not change while it is measured.
    inputs: Inputs,
    divergences: HashMap<Pair, HashMap<usize, f64>>,
    errors: HashMap<Pair, f64>,
    excluded: HashSet<Pair>,
    models: HashMap<ModelRun, Divergence>,
}

impl Measurements {
    /// Opens the file and reads it, unless `fresh` is set. Where there is none it is started with the
    /// first measurement. `inputs` are read for every one.
    ///
    /// # Errors
    /// A file that cannot be read or written, that another search is writing, that is another
    /// search's, or that holds something else.
    pub(super) fn open(
        path: &Path,
        identity: Identity,
        inputs: Inputs,
        fresh: bool,
    ) -> Result<Self, SearchError> {
        let earlier = if fresh { Earlier::Discard } else { Earlier::Resume };
        let (journal, _, records) = LineJournal::open(path, identity, earlier)?;
        let mut measurements = Self {
            journal,
            inputs,
            divergences: HashMap::new(),
            errors: HashMap::new(),
            excluded: HashSet::new(),
            models: HashMap::new(),
        };
        for record in records {
            let remembered = measurements.remember(record);
            remembered.map_err(|problem| SearchError::unusable(path, &problem))?;
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

    /// Keeps records; they are on the disk when this returns.
    fn add(&mut self, records: Vec<Record>) -> Result<(), SearchError> {
        self.inputs.check()?;
        self.journal.append_all(&records)?;
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
    use std::fs::File;
    use std::io::Write;

    use super::*;

    fn identity(text: &str) -> Identity {
        Identity::new("model".to_string(), text.to_string(), 512, None)
    }

    fn open(path: &Path, identity: Identity, fresh: bool) -> Result<Measurements, SearchError> {
        Measurements::open(path, identity, Inputs::default(), fresh)
    }

    fn pair(format: GgmlType) -> Pair {
        ("blk.0.attn_q.weight".to_string(), format)
    }

    #[test]
    fn what_was_measured_is_there_when_the_file_is_opened_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/plan.measurements.jsonl");
        let mut first = open(&path, identity("text"), false).unwrap();
        let (q4, q5) = (pair(GgmlType::Q4_0), pair(GgmlType::Q5_0));
        first.add_divergence(&q4, 3, 0.25).unwrap();
        first.add_divergence(&q4, 7, 0.75).unwrap();
        first.add_squared_errors(&q5.0, &[(q5.1, 1.5)]).unwrap();
        drop(first);
        // The machine stopped in the middle of a line.
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(br#"{"line":4,"sha256":"0"#).unwrap();
        drop(file);
        let mut again = open(&path, identity("text"), false).unwrap();
        assert_eq!(again.divergence(&q4, &[3, 7]), Some(0.5));
        assert_eq!(again.divergence(&q4, &[3, 8]), None);
        assert!(again.has(&q4, 7) && !again.has(&q5, 7));
        assert_eq!(again.squared_error(&q5), Some(1.5));
        again.exclude(&q4).unwrap();
        again.add_divergence(&q5, 3, 0.125).unwrap();
        drop(again);
        let last = open(&path, identity("text"), false).unwrap();
        assert_eq!(last.divergence(&q5, &[3]), Some(0.125));
        assert!(last.is_excluded(&q4) && last.has(&q4, 99) && !last.is_excluded(&q5));
        let error = open(&path, identity("text"), false).unwrap_err().to_string();
        assert!(error.contains("another process is writing"), "{error}");
        drop(last);
        let before = std::fs::read(&path).unwrap();
        let mut fresh = open(&path, identity("text"), true).unwrap();
        assert_eq!(fresh.divergence(&q5, &[3]), None);
        assert_eq!(std::fs::read(&path).unwrap(), before);
        fresh.exclude(&q5).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
    }

    #[test]
    fn the_measurements_of_another_search_are_kept_and_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plan.measurements.jsonl");
        let mut first = open(&path, identity("text"), false).unwrap();
        assert!(!path.exists(), "nothing is measured yet");
        first.exclude(&pair(GgmlType::Q4_0)).unwrap();
        drop(first);
        let before = std::fs::read(&path).unwrap();
        let refused = |path: &Path, identity| open(path, identity, false).unwrap_err().to_string();
        let error = refused(&path, identity("other"));
        assert!(error.contains("another text") && error.contains("--fresh"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        let notes = directory.path().join("notes.txt");
        std::fs::write(&notes, "shopping list\n").unwrap();
        let error = refused(&notes, identity("text"));
        assert!(error.contains("is not a quantkit journal"), "{error}");
        assert_eq!(std::fs::read(&notes).unwrap(), b"shopping list\n");
    }
}
