//! Files of JSON lines in which a run keeps what it has computed, each line on the disk before the
//! next is computed.
//!
//! The first line is a header that says what the others, the entries, are results of. Lines are only
//! ever appended, so a process that dies, or a machine that loses power, can spoil no more than the
//! last line, which is dropped when the run goes on.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::EvalError;

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

/// A journal's header, of which it can be told whether a run may go on from it.
pub(super) trait JournalHeader: Serialize + DeserializeOwned {
    /// What follows the header, a line each.
    type Entry: Serialize + DeserializeOwned;

    /// The first thing in which this header, which was found, differs from that which the run would
    /// write now.
    fn mismatch(&self, wanted: &Self) -> Option<String>;

    /// How much some entries hold: "3 questions".
    fn amount(entries: &[Self::Entry]) -> String;
}

/// What a journal holds.
#[derive(Debug)]
pub(super) struct Lines<H: JournalHeader> {
    /// Its first line.
    pub header: H,
    /// All others.
    pub entries: Vec<H::Entry>,
    /// Bytes of all whole lines.
    bytes: u64,
}

/// A journal that is open for more.
#[derive(Debug)]
pub(super) struct LineJournal {
    path: PathBuf,
    file: File,
}

impl LineJournal {
    /// Opens a journal, whose directory is made if need be, and reads what it holds already. The header that
    /// is returned is the one that began the run.
    ///
    /// # Errors
    /// A journal of other settings (with [`Earlier::Resume`]), one that is damaged before its last
    /// line or that another process is writing, I/O errors.
    pub fn open<H: JournalHeader>(
        path: &Path,
        header: H,
        earlier: Earlier,
    ) -> Result<(Self, H, Vec<H::Entry>), EvalError> {
        let failed = |source| EvalError::io(path, source);
        let directory = directory_of(path);
        fs::create_dir_all(directory).map_err(|source| EvalError::io(directory, source))?;
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        lock(&file, path)?;
        let mut bytes = Vec::new();
        if earlier != Earlier::Discard {
            file.read_to_end(&mut bytes).map_err(failed)?;
        }
        let path = path.to_path_buf();
        if let Some(found) = read_lines::<H>(&bytes, &path)? {
            match found.header.mismatch(&header) {
                None => {
                    file.set_len(found.bytes).and_then(|()| file.sync_all()).map_err(failed)?;
                    file.seek(SeekFrom::End(0)).map_err(failed)?;
                    return Ok((Self { path, file }, found.header, found.entries));
                }
                Some(what) if earlier == Earlier::Resume => {
                    return Err(refusal::<H>(&path, &found.entries, &what));
                }
                Some(what) => tracing::info!("{} is thrown away: {what}", path.display()),
            }
        }
        file.set_len(0).map_err(failed)?;
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut journal = Self { path, file };
        journal.append(&header)?;
        sync_directory(directory_of(&journal.path));
        Ok((journal, header, Vec::new()))
    }

    /// Appends a line and waits until the disk has it.
    pub fn append(&mut self, line: &impl Serialize) -> Result<(), EvalError> {
        let mut put = || -> io::Result<()> {
            let mut bytes = serde_json::to_vec(line)?;
            bytes.push(b'\n');
            self.file.write_all(&bytes)?;
            self.file.sync_data()
        };
        put().map_err(|source| EvalError::io(&self.path, source))
    }

    /// Removes the journal: its results are in the final files.
    pub fn remove(self) -> Result<(), EvalError> {
        let Self { path, file } = self;
        drop(file);
        fs::remove_file(&path).map_err(|source| EvalError::io(&path, source))
    }
}

/// Reads a journal without changing it; `None` where there is none.
///
/// # Errors
/// A journal that cannot be read or is damaged before its last line.
pub(super) fn peek<H: JournalHeader>(path: &Path) -> Result<Option<Lines<H>>, EvalError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(EvalError::io(path, source)),
    };
    read_lines(&bytes, path)
}

/// Whether a run can go on from the journal that may be there.
///
/// # Errors
/// A journal of other settings or one that is damaged.
pub(super) fn check<H: JournalHeader>(path: &Path, wanted: &H) -> Result<(), EvalError> {
    let Some(found) = peek::<H>(path)? else { return Ok(()) };
    match found.header.mismatch(wanted) {
        None => Ok(()),
        Some(what) => Err(refusal::<H>(path, &found.entries, &what)),
    }
}

fn refusal<H: JournalHeader>(path: &Path, entries: &[H::Entry], what: &str) -> EvalError {
    EvalError::Unusable(format!(
        "{}: holds {} of an unfinished run with other settings: {what}; repeat that command to \
         finish it, give another --output, or throw it away with --overwrite",
        path.display(),
        H::amount(entries)
    ))
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

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(directory) if directory != Path::new("") => directory,
        _ => Path::new("."),
    }
}

/// Makes a new file's name last, where the system can.
fn sync_directory(directory: &Path) {
    if let Err(error) = File::open(directory).and_then(|directory| directory.sync_all()) {
        tracing::debug!("{}: cannot be synced: {error}", directory.display());
    }
}

/// `None` for a journal that ends within its header.
fn read_lines<H: JournalHeader>(bytes: &[u8], path: &Path) -> Result<Option<Lines<H>>, EvalError> {
    let damaged = |line: usize, error: &str| {
        EvalError::Unusable(format!(
            "{}: line {line} is damaged ({error}): restore the file, or throw it away with \
             --overwrite",
            path.display()
        ))
    };
    let mut lines = bytes.split_inclusive(|&byte| byte == b'\n').enumerate().peekable();
    let Some((_, first)) = lines.next() else { return Ok(None) };
    let header: H = match serde_json::from_slice(first) {
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
    Ok(Some(Lines { header, entries, bytes: whole as u64 }))
}
