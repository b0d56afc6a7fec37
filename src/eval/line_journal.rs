//! Files of JSON lines in which a run keeps what it has computed, each line on the disk before the
//! next is computed.
//!
//! The first line is a header that says what the others, the entries, are results of. Lines are only
//! ever appended, so a process that dies, or a machine that loses power, can spoil no more than the
//! last line. Each has its number and a checksum (see [`crate::support::sealed_line`]): one that does
//! not fit, wherever it is and whatever has become of it, is dropped when the run goes on, and what it
//! held is computed again.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::EvalError;
use crate::support::directory::{directory_of, sync_directory};
use crate::support::regular_file::open_regular;
use crate::support::sealed_line::{Seal, SealedLine, resembles_line};
use crate::support::units;

/// What is done with what an earlier run has left: a journal, or finished results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Earlier {
    /// The run goes on from the journal, and shows finished results; those of other settings are an
    /// error.
    Resume,
    /// The run goes on from the journal; a journal of other settings is thrown away, and finished
    /// results are replaced.
    ResumeIfSame,
    /// The journal is thrown away, and finished results are replaced.
    Discard,
}

/// What is said of results that another build has made.
pub(super) const OTHER_BUILD: &str = "it is of another build of quantkit, or of other kernels";

/// A journal's header, of which it can be told whether a run may go on from it.
pub(crate) trait JournalHeader: Serialize + DeserializeOwned {
    /// What follows the header, a line each.
    type Entry: Serialize + DeserializeOwned;

    /// The command-line option that discards an existing journal.
    const DISCARD: &'static str = "--overwrite";

    /// The first thing in which this header, which was found, differs from that which the run would
    /// write now.
    fn mismatch(&self, wanted: &Self) -> Option<String>;

    /// How much some entries hold: "3 questions of an unfinished run".
    fn amount(entries: &[Self::Entry]) -> String;
}

/// What a journal holds.
#[derive(Debug)]
pub(crate) struct Lines<H: JournalHeader> {
    /// Its first line.
    pub header: H,
    /// All others that are whole, each once, in the order of their numbers.
    pub entries: Vec<H::Entry>,
    seal: Seal,
    /// The number of the next line.
    next: u64,
    /// The lines that are whole, as they are on the disk.
    kept: Vec<u8>,
}

/// What a file is that should be a journal.
enum Found<H: JournalHeader> {
    /// There is nothing to go on from.
    Nothing,
    /// A journal of another version of quantkit.
    OtherVersion,
    Lines(Lines<H>),
}

/// A journal that is open for more.
#[derive(Debug)]
pub(crate) struct LineJournal {
    path: PathBuf,
    /// There may be none before the first line is written.
    file: Option<File>,
    seal: Seal,
    /// The number of the next line.
    next: u64,
    /// Where the file's good bytes end.
    length: u64,
    /// What comes there before anything else, until the first line is appended; what is in the file
    /// behind it is cut off.
    waiting: Option<Vec<u8>>,
}

impl LineJournal {
    /// Reads what a journal holds already. The header that is returned is the one that began the run.
    /// Nothing on the disk changes until [`LineJournal::begin`] or the first line.
    ///
    /// # Errors
    /// A journal of other settings or of another version (with [`Earlier::Resume`]), a file that is no
    /// journal or that another process is writing, I/O errors.
    pub fn open<H: JournalHeader>(
        path: &Path,
        header: H,
        earlier: Earlier,
    ) -> Result<(Self, H, Vec<H::Entry>), EvalError> {
        let file = match open_regular(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(EvalError::io(path, source)),
            Ok(_) => Some(open_alone(path)?),
        };
        let mut bytes = Vec::new();
        if let Some(mut file) = file.as_ref().filter(|_| earlier != Earlier::Discard) {
            file.read_to_end(&mut bytes).map_err(|source| EvalError::io(path, source))?;
        }
        if let Some(lines) = usable(read_lines::<H>(&bytes, path)?, &header, path, earlier)? {
            let Lines { header, entries, seal, next, kept } = lines;
            let same = kept.iter().zip(&bytes).take_while(|(kept, found)| kept == found).count();
            let (length, waiting) = (same as u64, Some(kept[same..].to_vec()));
            let path = path.to_path_buf();
            return Ok((Self { path, file, seal, next, length, waiting }, header, entries));
        }
        let line = Seal::default().line(0, &header).map_err(|error| not_json(path, error))?;
        let seal = Seal::default().open(&line).expect("it was just written").seal();
        let path = path.to_path_buf();
        let journal = Self { path, file, seal, next: 1, length: 0, waiting: Some(line) };
        Ok((journal, header, Vec::new()))
    }

    /// Puts onto the disk what the journal is to hold before its first new line.
    ///
    /// # Errors
    /// As [`LineJournal::append`].
    pub fn begin(&mut self) -> Result<(), EvalError> {
        self.write(Vec::new())
    }

    /// Appends a line and waits until the disk has it.
    ///
    /// # Errors
    /// A file that cannot be written, or that another process has begun to write.
    pub fn append(&mut self, entry: &impl Serialize) -> Result<(), EvalError> {
        self.append_all(std::slice::from_ref(entry))
    }

    /// [`LineJournal::append`] of several lines in one go.
    ///
    /// # Errors
    /// As [`LineJournal::append`].
    pub fn append_all<E: Serialize>(&mut self, entries: &[E]) -> Result<(), EvalError> {
        let mut bytes = Vec::new();
        for entry in entries {
            let line = self.seal.line(self.next, entry);
            bytes.extend(line.map_err(|error| not_json(&self.path, error))?);
            self.next += 1;
        }
        self.write(bytes)
    }

    fn write(&mut self, lines: Vec<u8>) -> Result<(), EvalError> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(open_alone(&self.path)?),
        };
        let is_first = self.waiting.is_some();
        let mut bytes = self.waiting.take().unwrap_or_default();
        bytes.extend(lines);
        let mut put = || -> io::Result<()> {
            file.seek(SeekFrom::Start(self.length))?;
            file.write_all(&bytes)?;
            self.length += bytes.len() as u64;
            if !is_first {
                return file.sync_data();
            }
            file.set_len(self.length)?;
            file.sync_all()
        };
        put().map_err(|source| EvalError::io(&self.path, source))?;
        if is_first {
            sync_directory(directory_of(&self.path));
        }
        Ok(())
    }

    /// Removes the journal: its results are in the final files.
    ///
    /// # Errors
    /// A file that cannot be removed.
    pub fn remove(self) -> Result<(), EvalError> {
        let Self { path, file, .. } = self;
        drop(file);
        fs::remove_file(&path).map_err(|source| EvalError::io(&path, source))
    }
}

/// Reads a journal without changing it; `None` where there is none.
///
/// # Errors
/// A file that cannot be read, is no journal or is of another version.
pub(crate) fn peek<H: JournalHeader>(path: &Path) -> Result<Option<Lines<H>>, EvalError> {
    match read_found(path)? {
        Found::Nothing => Ok(None),
        Found::OtherVersion => Err(of_other_version::<H>(path)),
        Found::Lines(lines) => Ok(Some(lines)),
    }
}

/// Whether a run can go on from the journal that may be there.
///
/// # Errors
/// A journal of other settings or of another version, or a file that is none.
pub(crate) fn check<H: JournalHeader>(path: &Path, wanted: &H) -> Result<(), EvalError> {
    usable(read_found(path)?, wanted, path, Earlier::Resume).map(drop)
}

fn read_found<H: JournalHeader>(path: &Path) -> Result<Found<H>, EvalError> {
    match fs::read(path) {
        Ok(bytes) => read_lines(&bytes, path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(source) => Err(EvalError::io(path, source)),
    }
}

/// What a run goes on from; `None` where it begins anew.
fn usable<H: JournalHeader>(
    found: Found<H>,
    wanted: &H,
    path: &Path,
    earlier: Earlier,
) -> Result<Option<Lines<H>>, EvalError> {
    let (refusal, what) = match found {
        Found::Nothing => return Ok(None),
        Found::OtherVersion => {
            (of_other_version::<H>(path), "it is of another version of quantkit".to_string())
        }
        Found::Lines(lines) => match lines.header.mismatch(wanted) {
            None => return Ok(Some(lines)),
            Some(what) => (refusal::<H>(path, &lines.entries, &what), what),
        },
    };
    if earlier == Earlier::Resume {
        return Err(refusal);
    }
    tracing::info!("{} is thrown away: {what}", path.display());
    Ok(None)
}

fn refusal<H: JournalHeader>(path: &Path, entries: &[H::Entry], what: &str) -> EvalError {
    EvalError::unusable(
        path,
        format!(
            "holds {} with other settings: {what}; repeat that command to go on with it, give \
             another --output, or throw it away with {}",
            H::amount(entries),
            H::DISCARD
        ),
    )
}

fn of_other_version<H: JournalHeader>(path: &Path) -> EvalError {
    EvalError::unusable(
        path,
        format!(
            "was written by another version of quantkit, and its lines have another form: go on with \
             that version, give another --output, or throw it away with {}",
            H::DISCARD
        ),
    )
}

fn not_json(path: &Path, error: serde_json::Error) -> EvalError {
    EvalError::io(path, error.into())
}

/// Opens a file to write, new if need be, for this process alone.
fn open_alone(path: &Path) -> Result<File, EvalError> {
    let directory = directory_of(path);
    fs::create_dir_all(directory).map_err(|source| EvalError::io(directory, source))?;
    let mut options = File::options();
    let file = options.read(true).write(true).create(true).truncate(false).open(path);
    let file = file.map_err(|source| EvalError::io(path, source))?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            return Err(EvalError::unusable(
                path,
                "another process is writing it: wait for it to end, or give another --output",
            ));
        }
        // A file system without locks.
        Err(TryLockError::Error(error)) => {
            tracing::debug!("{}: cannot be locked: {error}", path.display());
        }
        Ok(()) => {}
    }
    Ok(file)
}

/// Reads the lines of a file, and says of those that are dropped which ones they are.
fn read_lines<H: JournalHeader>(bytes: &[u8], path: &Path) -> Result<Found<H>, EvalError> {
    let lines: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
    let Some((place, header)) = find_header(&lines) else {
        return without_header::<H>(&lines, path);
    };
    let seal = header.seal();
    let Ok(header) = serde_json::from_slice(header.content) else {
        return Ok(Found::OtherVersion);
    };
    let mut whole = BTreeMap::new();
    let mut dropped = Vec::new();
    for (index, line) in lines.iter().enumerate().filter(|(index, _)| *index != place) {
        match entry::<H>(&seal, line) {
            Some((number, entry)) if !whole.contains_key(&number) => {
                whole.insert(number, (entry, *line));
            }
            _ => dropped.push(index + 1),
        }
    }
    if !dropped.is_empty() {
        tracing::warn!(
            "{}: {} damaged, unfinished or there twice, and dropped: what is missing is computed \
             again",
            path.display(),
            units::numbered("line", &dropped)
        );
    }
    let next = whole.keys().last().map_or(1, |last| last.saturating_add(1));
    let (entries, raw): (Vec<_>, Vec<_>) = whole.into_values().unzip();
    let kept = [&[lines[place]], &raw[..]].concat().concat();
    Ok(Found::Lines(Lines { header, entries, seal, next, kept }))
}

/// The header, and which line it is.
fn find_header<'a>(lines: &[&'a [u8]]) -> Option<(usize, SealedLine<'a>)> {
    let opened = lines.iter().map(|line| Seal::default().open(line));
    opened.enumerate().find_map(|(place, line)| Some((place, line.filter(|it| it.number == 0)?)))
}

fn entry<H: JournalHeader>(seal: &Seal, line: &[u8]) -> Option<(u64, H::Entry)> {
    let line = seal.open(line).filter(|line| line.number > 0)?;
    Some((line.number, serde_json::from_slice(line.content).ok()?))
}

/// What a file is of which nothing says what its lines are results of.
fn without_header<H: JournalHeader>(lines: &[&[u8]], path: &Path) -> Result<Found<H>, EvalError> {
    // A power loss may leave zeros in the place of what was not written yet.
    let is_unwritten = lines.iter().copied().flatten().all(|&byte| byte == 0);
    let is_first = lines.len() == 1 && resembles_line(lines[0]) && !lines[0].ends_with(b"\n");
    if is_unwritten || is_first {
        return Ok(Found::Nothing);
    }
    if lines.iter().any(|line| resembles_line(line)) {
        tracing::warn!(
            "{}: its first line, which says what the others are results of, is damaged or missing: \
             all is dropped and computed again",
            path.display()
        );
        return Ok(Found::Nothing);
    }
    let first: Option<Map<String, Value>> = serde_json::from_slice(lines[0]).ok();
    match first {
        // Before lines had checksums, the header was the first line itself.
        Some(header) if header.contains_key("build") => Ok(Found::OtherVersion),
        _ => Err(EvalError::unusable(
            path,
            format!(
                "is not a quantkit journal: move it elsewhere, give another --output, or throw it \
                 away with {}",
                H::DISCARD
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Header {
        build: String,
        subject: String,
    }

    impl JournalHeader for Header {
        type Entry = (usize, f64);

        fn mismatch(&self, wanted: &Self) -> Option<String> {
            (self != wanted).then(|| "it is another one".to_string())
        }

        fn amount(entries: &[(usize, f64)]) -> String {
            format!("{} numbers of an unfinished run", entries.len())
        }
    }

    fn header() -> Header {
        Header { build: "b".to_string(), subject: "numbers".to_string() }
    }

    fn value(number: usize) -> (usize, f64) {
        (number, 1.0 / (number as f64 + 3.0))
    }

    /// Goes on with the journal until it has as many entries, as a run does. Those that it began with,
    /// and those that it ends with.
    fn run(path: &Path, wanted: usize) -> (Vec<usize>, Vec<(usize, f64)>) {
        let (mut journal, _, mut entries) =
            LineJournal::open(path, header(), Earlier::Resume).unwrap();
        journal.begin().unwrap();
        let found: Vec<usize> = entries.iter().map(|(number, _)| *number).collect();
        for number in (0..wanted).filter(|number| !found.contains(number)) {
            journal.append(&value(number)).unwrap();
            entries.push(value(number));
        }
        entries.sort_by_key(|(number, _)| *number);
        (found, entries)
    }

    /// A pseudo-random number below `most`.
    fn random(state: &mut u64, most: usize) -> usize {
        *state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) as usize % most.max(1)
    }

    /// Changes a journal in one of the ways in which disks, editors and copies do.
    fn mutate(bytes: &mut Vec<u8>, state: &mut u64) {
        let mut lines: Vec<Vec<u8>> =
            bytes.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
        let (one, other) = (random(state, lines.len()), random(state, lines.len()));
        match random(state, 7) {
            0 => bytes.truncate(random(state, bytes.len())),
            1 => {
                let place = random(state, bytes.len());
                bytes[place] ^= 1 << random(state, 8);
            }
            2 => {
                let place = random(state, bytes.len());
                let end = bytes.len().min(place + random(state, 600));
                bytes[place..end].fill(0);
            }
            3 => {
                lines.insert(one, lines[other].clone());
                *bytes = lines.concat();
            }
            4 => {
                lines.swap(one, other);
                *bytes = lines.concat();
            }
            5 => {
                lines.remove(one);
                *bytes = lines.concat();
            }
            _ => {
                let (place, count) = (random(state, bytes.len()), random(state, 40));
                bytes.drain(place..bytes.len().min(place + count));
            }
        }
    }

    #[test]
    fn whatever_becomes_of_a_journal_the_result_is_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.jsonl");
        let whole = run(&path, 12).1;
        let written = fs::read(&path).unwrap();
        let mut state = 13;
        let (mut went_on, mut began_anew, mut refused) = (0, 0, 0);
        for round in 0..400 {
            let mut bytes = written.clone();
            for _ in 0..=round % 3 {
                mutate(&mut bytes, &mut state);
            }
            fs::write(&path, &bytes).unwrap();
            if check(&path, &header()).is_err() {
                // So little is left that it could be anything.
                assert!(bytes.len() < 30, "round {round}");
                fs::remove_file(&path).unwrap();
                refused += 1;
            }
            let (found, entries) = run(&path, 12);
            assert_eq!(entries, whole, "round {round}");
            let (again, entries) = run(&path, 12);
            assert_eq!((again.len(), entries), (12, whole.clone()), "round {round}");
            if found.is_empty() { began_anew += 1 } else { went_on += 1 }
        }
        assert!(
            went_on > 300 && began_anew > 10 && refused < 5,
            "{went_on} {began_anew} {refused}"
        );
    }

    #[test]
    fn lines_of_another_run_do_not_count() {
        let directory = tempfile::tempdir().unwrap();
        let [path, other] = ["a", "b"].map(|name| directory.path().join(name));
        run(&path, 3);
        let foreign = Header { subject: "letters".to_string(), ..header() };
        let (mut journal, ..) = LineJournal::open(&other, foreign, Earlier::Resume).unwrap();
        journal.append(&(2, 0.5)).unwrap();
        let lines = |path: &Path| -> Vec<String> {
            fs::read_to_string(path).unwrap().split_inclusive('\n').map(String::from).collect()
        };
        let mixed = [&lines(&path)[..2], &lines(&other)[1..]].concat();
        fs::write(&path, mixed.concat()).unwrap();
        let Lines { entries, .. } = peek::<Header>(&path).unwrap().unwrap();
        assert_eq!(entries, [value(0)]);
    }

    #[test]
    fn other_files_are_named_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.jsonl");
        let old = "{\"build\":\"b\",\"subject\":\"numbers\"}\n[0,0.5]\n";
        for (content, expected) in
            [(old, "another version of quantkit"), ("bread\nmilk", "is not a quantkit journal")]
        {
            fs::write(&path, content).unwrap();
            let error = LineJournal::open(&path, header(), Earlier::Resume).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(expected) && error.contains("--overwrite"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
            assert!(peek::<Header>(&path).is_err() && check(&path, &header()).is_err());
            let (mut journal, ..) = LineJournal::open(&path, header(), Earlier::Discard).unwrap();
            journal.begin().unwrap();
            drop(journal);
            assert!(peek::<Header>(&path).unwrap().unwrap().entries.is_empty());
        }
        fs::write(&path, old).unwrap();
        let anew = LineJournal::open(&path, header(), Earlier::ResumeIfSame).unwrap();
        assert!(anew.2.is_empty());
    }
}
