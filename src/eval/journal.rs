//! The journal of a run: what has been scored so far, one line of JSON after the other, each on the
//! disk before the next is computed.
//!
//! The first line is the [`Header`], every other one an [`Entry`]. Lines are only ever appended, so
//! a process that dies, or a machine that loses power, can spoil no more than the last line, which
//! is dropped when the run goes on.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record::{Settings, differences};
use super::{EvalError, SCHEMA_VERSION};
use crate::engine::Build;

/// The journal's file in a run's directory.
pub(super) const FILE_NAME: &str = "journal.jsonl";

/// What is done with a journal that is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    /// The run goes on from it; one of other settings is an error.
    Resume,
    /// The run goes on from it; one of other settings is thrown away.
    ResumeIfSame,
    /// It is thrown away.
    Discard,
}

/// The first line: what the entries are results of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Header {
    /// Version of the journal's lines.
    pub schema_version: u32,
    /// The build that scores.
    pub build: Build,
    /// When the run was first started, in UTC.
    pub started: String,
    /// How many questions the run asks.
    pub total: usize,
    /// Everything that the scores depend on.
    pub settings: Settings,
}

/// Questions that were scored together, and what that took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The questions.
    pub questions: Vec<Scored>,
    /// Tokens that went through the model for them.
    pub tokens_run: u64,
    /// Tokens that a scorer without prefix sharing would have run.
    pub tokens_naive: u64,
    /// Seconds since the entry before, or since the scoring began.
    pub seconds: f64,
}

/// One question as the model scored it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Scored {
    /// Row in the test split.
    pub row: usize,
    /// Sum of the log-probabilities of each choice's tokens; `null` for −∞, which JSON has not.
    #[serde(with = "or_minus_infinity")]
    pub sums: Vec<f64>,
    /// Tokens before the choices.
    pub context_tokens: usize,
    /// Scored tokens of each choice.
    pub choice_tokens: Vec<usize>,
    /// Tokens that were cut off the left to fit the model's context.
    pub dropped_tokens: usize,
    /// Why the question could not be scored; the rest is empty then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unscored: Option<String>,
}

impl Scored {
    /// A question without a result.
    pub fn unscored(row: usize, reason: String) -> Self {
        Self {
            row,
            sums: Vec::new(),
            context_tokens: 0,
            choice_tokens: Vec::new(),
            dropped_tokens: 0,
            unscored: Some(reason),
        }
    }
}

/// A journal that is open for more.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens the journal of a directory, which must exist, and reads what it holds already. The
    /// header that is returned is the one that began the run.
    ///
    /// # Errors
    /// A journal of other settings (with [`Earlier::Resume`]), one that is damaged before its last
    /// line or that another process is writing, I/O errors.
    pub fn open(
        directory: &Path,
        header: Header,
        earlier: Earlier,
    ) -> Result<(Self, Header, Vec<Entry>), EvalError> {
        let path = directory.join(FILE_NAME);
        let failed = |source| EvalError::Io { path: path.display().to_string(), source };
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        lock(&file, &path)?;
        let mut bytes = Vec::new();
        if earlier != Earlier::Discard {
            file.read_to_end(&mut bytes).map_err(failed)?;
        }
        let found = read_lines(&bytes, &path)?;
        if let Some((found_header, entries, whole)) = found {
            match mismatch(&found_header, &header.settings) {
                None => {
                    file.set_len(whole).and_then(|()| file.sync_all()).map_err(failed)?;
                    file.seek(SeekFrom::End(0)).map_err(failed)?;
                    return Ok((Self { path, file }, found_header, entries));
                }
                Some(what) if earlier == Earlier::Resume => {
                    return Err(refusal(&path, &entries, &what));
                }
                Some(what) => tracing::info!("{} is thrown away: {what}", path.display()),
            }
        }
        file.set_len(0).map_err(failed)?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut journal = Self { path, file };
        journal.append_line(&header)?;
        sync_directory(directory);
        Ok((journal, header, Vec::new()))
    }

    /// Appends an entry and waits until the disk has it.
    pub fn append(&mut self, entry: &Entry) -> Result<(), EvalError> {
        self.append_line(entry)
    }

    /// Removes the journal: its results are in the final files.
    pub fn remove(self) -> Result<(), EvalError> {
        let path = self.path.clone();
        drop(self.file);
        fs::remove_file(&path)
            .map_err(|source| EvalError::Io { path: path.display().to_string(), source })
    }

    fn append_line(&mut self, line: &impl Serialize) -> Result<(), EvalError> {
        let mut put = || -> io::Result<()> {
            let mut bytes = serde_json::to_vec(line)?;
            bytes.push(b'\n');
            self.file.write_all(&bytes)?;
            self.file.sync_data()
        };
        put().map_err(|source| EvalError::Io { path: self.path.display().to_string(), source })
    }
}

/// Reads the journal of a directory without changing it; `None` where there is none.
///
/// # Errors
/// A journal that cannot be read or is damaged before its last line.
pub(super) fn peek(directory: &Path) -> Result<Option<(Header, Vec<Entry>)>, EvalError> {
    let path = directory.join(FILE_NAME);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(EvalError::Io { path: path.display().to_string(), source }),
    };
    Ok(read_lines(&bytes, &path)?.map(|(header, entries, _)| (header, entries)))
}

/// Whether a run of `settings` can go on from the journal that may be in a directory.
///
/// # Errors
/// A journal of other settings or one that is damaged.
pub(super) fn check(directory: &Path, settings: &Settings) -> Result<(), EvalError> {
    let Some((found, entries)) = peek(directory)? else { return Ok(()) };
    match mismatch(&found, settings) {
        None => Ok(()),
        Some(what) => Err(refusal(&directory.join(FILE_NAME), &entries, &what)),
    }
}

fn refusal(path: &Path, entries: &[Entry], what: &str) -> EvalError {
    EvalError::Unusable(format!(
        "{}: holds {} questions of an unfinished run with other settings: {what}; repeat that \
         command to finish it, give another --output, or throw it away with --restart",
        path.display(),
        count(entries)
    ))
}

/// How many questions some entries hold.
pub(super) fn count(entries: &[Entry]) -> usize {
    entries.iter().map(|entry| entry.questions.len()).sum()
}

fn lock(file: &File, path: &Path) -> Result<(), EvalError> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(EvalError::Unusable(format!(
            "{}: another process is writing it: wait for it to end, or give another --output",
            path.display()
        ))),
        // A file system without locks.
        Err(TryLockError::Error(error)) => {
            tracing::debug!("{}: cannot be locked: {error}", path.display());
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

/// Makes the new file's name last, where the system can.
fn sync_directory(directory: &Path) {
    if let Err(error) = File::open(directory).and_then(|directory| directory.sync_all()) {
        tracing::debug!("{}: cannot be synced: {error}", directory.display());
    }
}

/// The header, the entries and the length in bytes of all whole lines; `None` for a journal that
/// ends within its header.
#[allow(clippy::type_complexity)] // Taken apart at once by both callers.
fn read_lines(bytes: &[u8], path: &Path) -> Result<Option<(Header, Vec<Entry>, u64)>, EvalError> {
    let damaged = |line: usize, error: &str| {
        EvalError::Unusable(format!(
            "{}: line {line} is damaged ({error}): restore the file, or throw it away with \
             --restart",
            path.display()
        ))
    };
    let mut lines = bytes.split_inclusive(|&byte| byte == b'\n').enumerate().peekable();
    let Some((_, first)) = lines.next() else { return Ok(None) };
    let header: Header = match serde_json::from_slice(first) {
        Ok(header) if first.ends_with(b"\n") => header,
        Err(error) if lines.peek().is_some() => return Err(damaged(1, &error.to_string())),
        _ => return Ok(None),
    };
    let (mut entries, mut whole) = (Vec::new(), first.len());
    while let Some((index, line)) = lines.next() {
        match serde_json::from_slice(line) {
            Ok(entry) if line.ends_with(b"\n") => entries.push(entry),
            Err(error) if lines.peek().is_some() => {
                return Err(damaged(index + 1, &error.to_string()));
            }
            _ => {
                tracing::warn!(
                    "{}: the last line was not written to its end and is dropped",
                    path.display()
                );
                break;
            }
        }
        whole += line.len();
    }
    Ok(Some((header, entries, whole as u64)))
}

/// The first thing in which a journal differs from what a run of `settings` would write now.
fn mismatch(found: &Header, settings: &Settings) -> Option<String> {
    if found.schema_version != SCHEMA_VERSION {
        return Some(format!(
            "it has version {} of the records, this quantkit writes {SCHEMA_VERSION}",
            found.schema_version
        ));
    }
    if let Some(difference) = differences(&found.settings, settings).into_iter().next() {
        return Some(difference);
    }
    let rebuilt = found.build != Build::current();
    rebuilt.then(|| "it is of another build of quantkit, or of other kernels".to_string())
}

/// JSON has no infinities, and serde_json writes them as `null`.
mod or_minus_infinity {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        values.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
        let values = Vec::<Option<f64>>::deserialize(deserializer)?;
        Ok(values.into_iter().map(|value| value.unwrap_or(f64::NEG_INFINITY)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::record::tests::settings;

    fn header() -> Header {
        Header {
            schema_version: SCHEMA_VERSION,
            build: Build::current(),
            started: "2026-11-20T14:03:05Z".to_string(),
            total: 4,
            settings: settings(),
        }
    }

    fn entry(row: usize) -> Entry {
        let scored = Scored {
            row,
            sums: vec![-0.1 - row as f64 / 3.0, f64::NEG_INFINITY],
            context_tokens: 7,
            choice_tokens: vec![1, 2],
            dropped_tokens: 0,
            unscored: None,
        };
        Entry { questions: vec![scored], tokens_run: 9, tokens_naive: 12, seconds: 0.25 }
    }

    fn open(directory: &Path, header: Header, earlier: Earlier) -> Result<Vec<Entry>, EvalError> {
        Journal::open(directory, header, earlier).map(|(_, _, entries)| entries)
    }

    /// A directory with a journal of two entries.
    fn written() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _, earlier) =
            Journal::open(directory.path(), header(), Earlier::Resume).unwrap();
        assert!(earlier.is_empty());
        journal.append(&entry(0)).unwrap();
        journal.append(&entry(1)).unwrap();
        directory
    }

    #[test]
    fn entries_come_back_as_written() {
        let directory = written();
        let later = Header { started: "2026-11-20T15:00:00Z".to_string(), ..header() };
        let (journal, found, entries) =
            Journal::open(directory.path(), later, Earlier::Resume).unwrap();
        assert_eq!((found, entries), (header(), vec![entry(0), entry(1)]));
        journal.remove().unwrap();
        assert!(peek(directory.path()).unwrap().is_none());
    }

    #[test]
    fn a_torn_last_line_is_dropped_wherever_it_ends() {
        let directory = written();
        let path = directory.path().join(FILE_NAME);
        let whole = fs::read(&path).unwrap();
        let ends: Vec<usize> =
            (0..whole.len()).filter(|&index| whole[index] == b'\n').map(|end| end + 1).collect();
        let near_ends = ends.iter().flat_map(|&end| [end - 1, end, end + 1]);
        for length in (0..whole.len()).step_by(97).chain(near_ends) {
            let length = length.min(whole.len());
            fs::write(&path, &whole[..length]).unwrap();
            let kept = ends.iter().filter(|&&end| end <= length).count().saturating_sub(1);
            assert_eq!(open(directory.path(), header(), Earlier::Resume).unwrap().len(), kept);
            // What is appended next follows a whole line.
            let (mut journal, _, _) =
                Journal::open(directory.path(), header(), Earlier::Resume).unwrap();
            journal.append(&entry(5)).unwrap();
            drop(journal);
            let (_, entries) = peek(directory.path()).unwrap().unwrap();
            assert_eq!((entries.len(), &entries[kept]), (kept + 1, &entry(5)));
        }
        // A power loss may leave zeros instead.
        fs::write(&path, [&whole[..ends[1]], &[0; 300]].concat()).unwrap();
        assert_eq!(open(directory.path(), header(), Earlier::Resume).unwrap().len(), 1);
    }

    #[test]
    fn damage_before_the_last_line_is_named() {
        let directory = written();
        let path = directory.path().join(FILE_NAME);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        fs::write(&path, format!("{}\n{{oops\n{}\n", lines[0], lines[2])).unwrap();
        let error = open(directory.path(), header(), Earlier::Resume).unwrap_err().to_string();
        assert!(error.contains("journal.jsonl: line 2 is damaged"), "{error}");
        assert!(open(directory.path(), header(), Earlier::Discard).unwrap().is_empty());
    }

    #[test]
    fn other_settings_are_refused_or_thrown_away() {
        let other = Settings { shots: 3, ..settings() };
        let other = Header { settings: other, ..header() };
        let directory = written();
        let error = open(directory.path(), other.clone(), Earlier::Resume).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("holds 2 questions"), "{error}");
        assert!(error.contains("shots is 5 there and 3 here"), "{error}");
        assert!(error.contains("--restart"), "{error}");
        assert!(open(directory.path(), other, Earlier::ResumeIfSame).unwrap().is_empty());
        let directory = written();
        assert!(open(directory.path(), header(), Earlier::Discard).unwrap().is_empty());
    }

    #[test]
    fn a_journal_of_another_build_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let rebuilt = Build { executable_sha256: Some("cd".into()), ..Build::current() };
        let rebuilt = Header { build: rebuilt, ..header() };
        assert!(open(directory.path(), rebuilt, Earlier::Resume).unwrap().is_empty());
        let error = open(directory.path(), header(), Earlier::Resume).unwrap_err().to_string();
        assert!(error.contains("another build"), "{error}");
        assert!(check(directory.path(), &settings()).is_err());
    }

    #[test]
    fn a_journal_has_one_writer() {
        let directory = written();
        let (_held, _, _) = Journal::open(directory.path(), header(), Earlier::Resume).unwrap();
        let error = open(directory.path(), header(), Earlier::Resume).unwrap_err().to_string();
        assert!(error.contains("another process is writing"), "{error}");
    }
}
