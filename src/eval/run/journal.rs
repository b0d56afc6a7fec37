//! The journal of a run: the questions that have been scored so far. See [`crate::eval::line_journal`].

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::record::{Settings, differences};
use crate::engine::Build;
use crate::eval::EvalError;
use crate::eval::line_journal::{self, Earlier, JournalHeader, LineJournal, Lines, OTHER_BUILD};
use crate::eval::scoring::Scored;

/// The journal's file in a run's directory.
pub(super) const FILE_NAME: &str = "journal.jsonl";

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

impl JournalHeader for Header {
    type Entry = Entry;

    fn mismatch(&self, wanted: &Self) -> Option<String> {
        if self.schema_version != wanted.schema_version {
            return Some(format!(
                "it has version {} of the records, this quantkit writes {}",
                self.schema_version, wanted.schema_version
            ));
        }
        if let Some(difference) = differences(&self.settings, &wanted.settings).into_iter().next() {
            return Some(difference);
        }
        let rebuilt = self.build != wanted.build;
        rebuilt.then(|| OTHER_BUILD.to_string())
    }

    fn amount(entries: &[Entry]) -> String {
        format!("{} questions of an unfinished run", count(entries))
    }
}

/// Opens the journal of a directory, which is there then: see [`LineJournal::open`].
pub(super) fn open(
    directory: &Path,
    header: Header,
    earlier: Earlier,
) -> Result<(LineJournal, Header, Vec<Entry>), EvalError> {
    let (mut journal, header, entries) =
        LineJournal::open(&directory.join(FILE_NAME), header, earlier)?;
    journal.begin()?;
    Ok((journal, header, entries))
}

/// Reads the journal of a directory without changing it: see [`line_journal::peek`].
pub(super) fn peek(directory: &Path) -> Result<Option<Lines<Header>>, EvalError> {
    line_journal::peek(&directory.join(FILE_NAME))
}

/// Whether a run can go on from the journal that may be in a directory: see
/// [`line_journal::check`].
pub(super) fn check(directory: &Path, wanted: &Header) -> Result<(), EvalError> {
    line_journal::check(&directory.join(FILE_NAME), wanted)
}

/// How many questions some entries hold.
pub(super) fn count(entries: &[Entry]) -> usize {
    entries.iter().map(|entry| entry.questions.len()).sum()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::eval::run::record::SCHEMA_VERSION;
    use crate::eval::run::record::tests::settings;

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

    fn entries_of(
        directory: &Path,
        header: Header,
        earlier: Earlier,
    ) -> Result<Vec<Entry>, EvalError> {
        open(directory, header, earlier).map(|(_, _, entries)| entries)
    }

    /// A directory with a journal of two entries.
    fn written() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _, earlier) = open(directory.path(), header(), Earlier::Resume).unwrap();
        assert!(earlier.is_empty());
        journal.append(&entry(0)).unwrap();
        journal.append(&entry(1)).unwrap();
        directory
    }

    #[test]
    fn entries_come_back_as_written() {
        let directory = written();
        let later = Header { started: "2026-11-20T15:00:00Z".to_string(), ..header() };
        let (journal, found, entries) = open(directory.path(), later, Earlier::Resume).unwrap();
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
            assert_eq!(
                entries_of(directory.path(), header(), Earlier::Resume).unwrap().len(),
                kept
            );
            // What is appended next follows a whole line.
            let (mut journal, _, _) = open(directory.path(), header(), Earlier::Resume).unwrap();
            journal.append(&entry(5)).unwrap();
            drop(journal);
            let Lines { entries, .. } = peek(directory.path()).unwrap().unwrap();
            assert_eq!((entries.len(), &entries[kept]), (kept + 1, &entry(5)));
        }
        // A power loss may leave zeros instead.
        fs::write(&path, [&whole[..ends[1]], &[0; 300]].concat()).unwrap();
        assert_eq!(entries_of(directory.path(), header(), Earlier::Resume).unwrap().len(), 1);
    }

    #[test]
    fn lines_that_are_damaged_or_there_twice_are_dropped() {
        let directory = written();
        let path = directory.path().join(FILE_NAME);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let damaged = lines[1].replace("0.25", "1e99");
        fs::write(&path, [lines[0], &damaged, lines[2], lines[2], ""].join("\n")).unwrap();
        let kept = entries_of(directory.path(), header(), Earlier::Resume).unwrap();
        assert_eq!(kept, [entry(1)]);
        assert_eq!(fs::read_to_string(&path).unwrap(), [lines[0], lines[2], ""].join("\n"));
        assert!(entries_of(directory.path(), header(), Earlier::Discard).unwrap().is_empty());
    }

    #[test]
    fn other_settings_are_refused_or_thrown_away() {
        let other = Settings { shots: 3, ..settings() };
        let other = Header { settings: other, ..header() };
        let directory = written();
        let error = entries_of(directory.path(), other.clone(), Earlier::Resume).unwrap_err();
        let error = error.to_string();
        assert!(error.contains("holds 2 questions"), "{error}");
        assert!(error.contains("shots is 5 there and 3 here"), "{error}");
        assert!(error.contains("--overwrite"), "{error}");
        assert!(entries_of(directory.path(), other, Earlier::ResumeIfSame).unwrap().is_empty());
        let directory = written();
        assert!(entries_of(directory.path(), header(), Earlier::Discard).unwrap().is_empty());
    }

    #[test]
    fn a_journal_of_another_build_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let rebuilt = Build { executable_sha256: Some("cd".into()), ..Build::current() };
        let rebuilt = Header { build: rebuilt, ..header() };
        assert!(entries_of(directory.path(), rebuilt, Earlier::Resume).unwrap().is_empty());
        let error =
            entries_of(directory.path(), header(), Earlier::Resume).unwrap_err().to_string();
        assert!(error.contains("another build"), "{error}");
        assert!(check(directory.path(), &header()).is_err());
    }

    #[test]
    fn a_journal_has_one_writer() {
        let directory = written();
        let (_held, _, _) = open(directory.path(), header(), Earlier::Resume).unwrap();
        let error =
            entries_of(directory.path(), header(), Earlier::Resume).unwrap_err().to_string();
        assert!(error.contains("another process is writing"), "{error}");
    }
}
