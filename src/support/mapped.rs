//! Read-only memory maps of whole files.

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;

/// Maps a regular file.
///
/// # Errors
/// What the system says, and anything that is no regular file: reading a pipe or a device could wait
/// or go on for ever.
pub fn map_file(path: &Path) -> io::Result<Mmap> {
    let kind = std::fs::metadata(path)?;
    if kind.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::IsADirectory,
            "expected a file, found a directory",
        ));
    }
    if !kind.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "expected a regular file, found a pipe or a device",
        ));
    }
    let file = File::open(path)?;
    // SAFETY: the map is read-only and private. Another process that shortens or rewrites the file
    // meanwhile can end or confuse this one, as it can with every program that maps model files;
    // quantkit itself only replaces files by renaming, which leaves existing maps intact.
    unsafe { Mmap::map(&file) }
}
