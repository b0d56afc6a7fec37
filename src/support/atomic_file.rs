//! Outputs are written beside their place and renamed when complete, so that no reader ever sees a
//! half-written file.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::directory::{directory_of, sync_directory};
use super::partial;

/// Partial files that are there now.
static PARTIAL_FILES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// A file under construction, locked, under a temporary name beside its target.
/// [`AtomicFile::commit`] renames it to its target, and dropping it uncommitted removes it.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    partial: PathBuf,
    writer: BufWriter<File>,
}

impl AtomicFile {
    /// Makes the temporary file, and missing directories above it. A link stays one: what it points
    /// to is written. What killed processes have left of the same target is removed.
    ///
    /// # Errors
    /// A target that is there and no regular file (renaming would put a file in the place of
    /// `/dev/null`, or fail over a directory only when all is written); a directory that cannot be
    /// written.
    pub fn create(target: &Path) -> io::Result<Self> {
        check_kind(target)?;
        let target = &behind_links(target)?;
        fs::create_dir_all(directory_of(target))?;
        // Held meanwhile, so that the file is known as soon as it is there.
        let mut partial_files = partial_files();
        let (partial, file) = partial::create_file(target)?;
        partial_files.push(partial.clone());
        Ok(Self {
            target: target.to_path_buf(),
            partial,
            writer: BufWriter::with_capacity(1 << 20, file),
        })
    }

    /// The path that the file will have once committed.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Flushes, syncs and renames the file to its target.
    pub fn commit(self) -> io::Result<()> {
        self.complete()?.commit()
    }

    /// Flushes and syncs the file, which keeps its temporary name: for files that are of use only
    /// together with others.
    pub fn complete(mut self) -> io::Result<CompleteFile> {
        self.writer.flush()?;
        self.file().sync_all()?;
        Ok(CompleteFile { file: self })
    }

    /// Sets the length of the file; what is added reads as zeros.
    pub fn set_len(&self, length: u64) -> io::Result<()> {
        self.file().set_len(length)
    }

    /// Writes all `bytes` at `position`, past the buffer of [`Write`], which must not have been
    /// used. Several threads may write at once.
    pub fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        write_all_at(self.file(), bytes, position)
    }

    /// Waits until what has been written at positions is on the disk.
    pub fn sync_data(&self) -> io::Result<()> {
        self.file().sync_data()
    }

    fn file(&self) -> &File {
        self.writer.get_ref()
    }
}

#[cfg(unix)]
fn write_all_at(file: &File, bytes: &[u8], position: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, position)
}

#[cfg(windows)]
fn write_all_at(file: &File, mut bytes: &[u8], mut position: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, bytes, position)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => {
                bytes = &bytes[count..];
                position += count as u64;
            }
        }
    }
    Ok(())
}

/// A complete file that waits under its temporary name, still locked; [`CompleteFile::commit`] renames
/// it, and dropping it uncommitted removes it.
#[derive(Debug)]
pub struct CompleteFile {
    file: AtomicFile,
}

impl CompleteFile {
    /// The path that the file will have once committed.
    pub fn target(&self) -> &Path {
        self.file.target()
    }

    /// Changes bytes that become known only when all else is written.
    pub fn amend(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, position)?;
        self.file.sync_data()
    }

    /// Renames the file to its target.
    pub fn commit(self) -> io::Result<()> {
        fs::rename(&self.file.partial, &self.file.target)?;
        sync_directory(directory_of(&self.file.target));
        tracing::info!("{} written", self.file.target.display());
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        // After a commit the partial file is gone and this is a no-op. Nothing can be done about a
        // failure here, and the error that led to the drop is the one worth reporting.
        let _ = fs::remove_file(&self.partial);
        let mut partial_files = partial_files();
        if let Some(place) = partial_files.iter().position(|path| *path == self.partial) {
            partial_files.swap_remove(place);
        }
    }
}

fn partial_files() -> MutexGuard<'static, Vec<PathBuf>> {
    PARTIAL_FILES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes all partial files and lets no new ones be made: for a process that ends at once, while
/// its threads still work.
pub(super) fn abandon_all() {
    let partial_files = partial_files();
    for path in partial_files.iter() {
        let _ = fs::remove_file(path);
    }
    std::mem::forget(partial_files);
}

/// Refuses a target that a regular file must not replace. Links are followed.
fn check_kind(target: &Path) -> io::Result<()> {
    let problem = match fs::metadata(target) {
        Ok(found) if found.is_dir() => "this is a directory; name a file to write",
        Ok(found) if !found.is_file() => {
            "this is not a regular file but a device, a pipe or a socket; name a file to write"
        }
        _ => return Ok(()),
    };
    Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
}

/// The file that a link points to, there or not; any other path as it is.
fn behind_links(target: &Path) -> io::Result<PathBuf> {
    if !target.is_symlink() {
        return Ok(target.to_path_buf());
    }
    fs::canonicalize(target).or_else(|_| {
        let pointed_to = fs::read_link(target)?;
        Ok(target.parent().unwrap_or(Path::new("")).join(pointed_to))
    })
}

/// Finds out before long work whether `target` could be written when it is done: a file comes and
/// goes in its directory, or in the nearest one that is there. Nothing is left behind.
pub fn check_writable(target: &Path) -> io::Result<()> {
    check_kind(target)?;
    let mut directories = target.ancestors().skip(1);
    let nearest = directories.find(|directory| directory.exists()).unwrap_or(Path::new(""));
    AtomicFile::create(&nearest.join(".quantkit-probe")).map(drop)
}

/// Writes `bytes` to `target` in one go, atomically.
pub fn write_atomically(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = AtomicFile::create(target)?;
    file.write_all(bytes)?;
    file.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_uncommitted_file_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("sub/out.bin");
        let mut file = AtomicFile::create(&target).unwrap();
        file.write_all(b"half").unwrap();
        drop(file);
        assert!(!target.exists());
        assert_eq!(fs::read_dir(dir.path().join("sub")).unwrap().count(), 0);
    }

    #[test]
    fn a_place_that_cannot_be_written_is_found_out_first() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("sub/out.bin");
        check_writable(&target).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        write_atomically(&target, b"kept").unwrap();
        check_writable(&target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"kept");
        assert_eq!(fs::read_dir(dir.path().join("sub")).unwrap().count(), 1);
        assert!(check_writable(&target.join("below a file")).is_err());
    }

    #[test]
    fn what_is_no_regular_file_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let error = write_atomically(dir.path(), b"x").unwrap_err();
        assert!(error.to_string().contains("a directory"), "{error}");
        #[cfg(unix)]
        {
            let socket = dir.path().join("socket");
            let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
            for target in [&socket, Path::new("/dev/null")] {
                let error = AtomicFile::create(target).unwrap_err();
                assert!(error.to_string().contains("not a regular file"), "{error}");
            }
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_name_that_is_no_text_is_written() {
        use std::os::unix::ffi::OsStrExt;

        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join(std::ffi::OsStr::from_bytes(b"a\xff"));
        write_atomically(&target, b"one").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"one");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_and_what_it_points_to_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("elsewhere", &link).unwrap();
        for content in [b"one", b"two"] {
            write_atomically(&link, content).unwrap();
            assert!(link.is_symlink());
            assert_eq!(fs::read(dir.path().join("elsewhere")).unwrap(), content);
        }
    }

    #[test]
    fn a_complete_file_waits_under_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out.bin");
        let written = || {
            let file = AtomicFile::create(&target).unwrap();
            file.set_len(6).unwrap();
            file.write_all_at(b"cd", 2).unwrap();
            file.write_all_at(b"ab", 0).unwrap();
            let file = file.complete().unwrap();
            file.amend(b"D", 3).unwrap();
            file
        };
        drop(written());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let complete = written();
        assert!(!target.exists());
        complete.commit().unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"abcD\0\0");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_committed_file_replaces_its_target() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("out.bin");
        write_atomically(&target, b"one").unwrap();
        write_atomically(&target, b"two").unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
