//! Read-only memory maps of whole files.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::{Advice, UncheckedAdvice};

use super::regular_file::open_regular;

/// Maps a regular file.
///
/// # Errors
/// What the system says, and anything that is no regular file: reading a pipe or a device could wait
/// or go on for ever.
pub fn map_file(path: &Path) -> io::Result<Mmap> {
    map_open(&open_regular(path)?)
}

/// Maps an open regular file.
///
/// # Errors
/// What the system says.
pub fn map_open(file: &File) -> io::Result<Mmap> {
    // SAFETY: the map is read-only and private. Another process that shortens or rewrites the file
    // meanwhile can end (see `bus_error`) or confuse this one, as it can with every program that maps
    // model files. quantkit itself only replaces files by renaming, which leaves existing maps intact.
    // Before a result is kept, `InputFile::check` finds out whether the file was written to.
    unsafe { Mmap::map(file) }
}

/// Tells the system that a range will soon be looked at, so that it is read from the disk meanwhile.
///
/// # Panics
/// If the range does not lie in the map.
pub fn expect(map: &Mmap, range: Range<usize>) {
    assert!(range.start <= range.end && range.end <= map.len(), "the range lies outside the map");
    #[cfg(unix)]
    if let Err(error) = map.advise_range(Advice::WillNeed, range.start, range.len()) {
        // It is only advice: the pages are read when they are looked at.
        tracing::debug!("the system does not read ahead: {error}");
    }
}

/// Tells the system that the pages of a range need not stay in this process's memory. They are read
/// again from the file when somebody looks at them.
///
/// # Panics
/// If the range does not lie in the map.
pub fn release(map: &Mmap, range: Range<usize>) {
    assert!(range.start <= range.end && range.end <= map.len(), "the range lies outside the map");
    #[cfg(unix)]
    {
        // SAFETY: the map is read-only and of a file, so its pages hold nothing that the file does
        // not: whoever reads them later finds the same bytes.
        let released = unsafe {
            map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
        };
        if let Err(error) = released {
            // It is only advice: the pages stay.
            tracing::debug!("the system keeps mapped pages: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn released_pages_hold_the_same_bytes_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let bytes: Vec<u8> = (0..100_000).map(|index| (index % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let map = map_file(&path).unwrap();
        assert_eq!(map[..], bytes[..]);
        expect(&map, 5_000..90_000);
        release(&map, 5_000..90_000);
        release(&map, 100_000..100_000);
        assert_eq!(map[..], bytes[..]);
    }
}
