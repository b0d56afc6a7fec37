//! SHA-256 of files, for recognising models and question sets and for checking downloads.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::interrupt;
use super::progress::{Progress, Unit};
use super::regular_file::open_regular;

/// Lower-case hexadecimal SHA-256 of a whole file, read in chunks, with a progress bar.
///
/// # Errors
/// A file that cannot be read or is no regular one; an interruption.
pub fn sha256_file(path: &Path) -> io::Result<String> {
    sha256_open(&open_regular(path)?, path)
}

/// [`sha256_file`] of an open file, whose own position neither matters nor changes. `path` is what to
/// call it.
///
/// # Errors
/// A file that cannot be read; an interruption.
pub fn sha256_open(file: &File, path: &Path) -> io::Result<String> {
    let progress = Progress::new("checksum", file.metadata()?.len(), Unit::Bytes);
    progress.message(path.file_name().unwrap_or_default().to_string_lossy());
    let hash = sha256(FromStart { file, position: 0 }, |count| {
        progress.advance(count);
        interrupt::check().map_err(io::Error::other)
    });
    progress.finish();
    hash
}

/// Lower-case hexadecimal SHA-256 of some bytes.
pub fn sha256_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Lower-case hexadecimal SHA-256 of everything that a reader yields.
///
/// # Errors
/// Those of the reader.
pub fn sha256_reader(reader: impl Read) -> io::Result<String> {
    sha256(reader, |_| Ok(()))
}

/// A file from its beginning.
struct FromStart<'a> {
    file: &'a File,
    position: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        #[cfg(unix)]
        let read = std::os::unix::fs::FileExt::read_at(self.file, buffer, self.position)?;
        #[cfg(windows)]
        let read = std::os::windows::fs::FileExt::seek_read(self.file, buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

/// Tells `after_chunk` how many bytes each chunk had; it may stop the work.
fn sha256(
    mut reader: impl Read,
    mut after_chunk: impl FnMut(u64) -> io::Result<()>,
) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let read = reader.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..read]);
        after_chunk(read as u64)?;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, SeekFrom};

    #[test]
    fn an_open_file_is_hashed_from_its_beginning() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, b"abc").unwrap();
        file.seek(SeekFrom::Start(2)).unwrap();
        let hash = super::sha256_open(&file, "abc".as_ref()).unwrap();
        assert_eq!(hash, super::sha256_bytes(b"abc"));
        assert_eq!(file.stream_position().unwrap(), 2);
    }

    #[test]
    fn matches_the_standard_test_vector() {
        assert_eq!(
            super::sha256_reader(&b"abc"[..]).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
