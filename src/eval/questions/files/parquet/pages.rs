//! How much the pages of a Parquet file would take once they are unpacked, found out before any of
//! them is: the reader makes room for whatever a page's header says.
//!
//! A page's header is a Thrift structure in the compact protocol; `parquet` does not show it.

use parquet::basic::Compression;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};

use crate::eval::questions::files::collected::MOST_BYTES;
use crate::support::units;

/// What each value of a column takes besides its bytes: where it lies, and its levels.
const VALUE_BYTES: u64 = 20;
/// The longest page that is unpacked by a codec that does not stop at the length that the page's
/// header says: gzip makes at most 1,032 bytes of one, so 2 GiB of such a page.
const LONGEST_UNBOUNDED_PAGE: u64 = 2 << 20;
/// The encoding in which each text may repeat the beginning of the one before it.
const DELTA_BYTE_ARRAY: u64 = 7;
/// How deep a header's structures may lie in each other; those of the format are three deep.
const DEEPEST: usize = 8;

/// Finds out whether the wanted columns, given by their outermost names, may be unpacked.
///
/// # Errors
/// They would take more than [`MOST_BYTES`], or their size cannot be told; says what to do.
pub(super) fn check(
    metadata: &ParquetMetaData,
    file: &[u8],
    wanted: &[&str],
) -> Result<(), String> {
    let mut unpacked = 0u64;
    for group in metadata.row_groups() {
        for column in group.columns() {
            let path = column.column_path().parts();
            if path.first().is_some_and(|name| wanted.contains(&name.as_str())) {
                check_codec(column)?;
                check_column(column, file, &mut unpacked)
                    .map_err(|error| format!("column {}: {error}", column.column_path()))?;
            }
        }
    }
    Ok(())
}

fn check_codec(column: &ColumnChunkMetaData) -> Result<(), String> {
    match column.compression() {
        codec @ (Compression::BROTLI(_) | Compression::LZO) => Err(format!(
            "column {} is compressed with {codec}, which is not read: write the file with Snappy, \
             zstd, gzip or LZ4",
            column.column_path()
        )),
        _ => Ok(()),
    }
}

fn check_column(
    column: &ColumnChunkMetaData,
    file: &[u8],
    unpacked: &mut u64,
) -> Result<(), String> {
    let damaged = || "its pages are damaged".to_string();
    let (start, length) = column.byte_range();
    let end = start.checked_add(length).ok_or_else(damaged)?;
    let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
    let mut pages = range.and_then(|(start, end)| file.get(start..end)).ok_or_else(damaged)?;
    let stops = !matches!(column.compression(), Compression::GZIP(_) | Compression::LZ4);
    while !pages.is_empty() {
        let mut cursor = Cursor { bytes: pages };
        let page = PageSize::read(&mut cursor).ok_or_else(damaged)?;
        let rest = usize::try_from(page.packed).ok().and_then(|packed| cursor.bytes.get(packed..));
        pages = rest.ok_or_else(damaged)?;
        if !stops && page.packed > LONGEST_UNBOUNDED_PAGE {
            return Err(format!(
                "a page takes {}, and with this compression {} is the most: write the file with \
                 shorter pages, or with Snappy or zstd",
                units::bytes(page.packed),
                units::bytes(LONGEST_UNBOUNDED_PAGE)
            ));
        }
        if page.encoding == DELTA_BYTE_ARRAY {
            return Err(
                "it is encoded as DELTA_BYTE_ARRAY, which does not show how much text it unpacks to: \
                 write it with another encoding"
                    .to_string(),
            );
        }
        *unpacked = unpacked
            .saturating_add(page.unpacked)
            .saturating_add(page.values.saturating_mul(VALUE_BYTES));
        if *unpacked > MOST_BYTES as u64 {
            return Err(format!(
                "the file unpacks to more than {}, which is the most for one file of questions: \
                 cut it into several",
                units::bytes(MOST_BYTES as u64)
            ));
        }
    }
    Ok(())
}

/// What a page's header says of its size.
#[derive(Debug, Default, PartialEq, Eq)]
struct PageSize {
    unpacked: u64,
    packed: u64,
    values: u64,
    encoding: u64,
}

impl PageSize {
    fn read(cursor: &mut Cursor<'_>) -> Option<Self> {
        let mut size = Self::default();
        let mut is_sound = true;
        cursor.structure(&mut Vec::new(), &mut |path, number| {
            // A dictionary, and both versions of pages with data.
            let field = match path {
                [2] => &mut size.unpacked,
                [3] => &mut size.packed,
                [5 | 7 | 8, 1] => &mut size.values,
                [5, 2] | [8, 4] => &mut size.encoding,
                _ => return,
            };
            match u64::try_from(number) {
                // Of a field that is there twice, the larger one counts.
                Ok(number) => *field = number.max(*field),
                Err(_) => is_sound = false,
            }
        })?;
        is_sound.then_some(size)
    }
}

/// A reader of Thrift's compact protocol that only looks at integers.
struct Cursor<'a> {
    bytes: &'a [u8],
}

/// Is told the identifiers of a field and of those that it lies in, and its value.
type Visit<'a> = &'a mut dyn FnMut(&[i64], i64);

impl Cursor<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(first)
    }

    fn skip(&mut self, count: u64) -> Option<()> {
        self.bytes = self.bytes.get(usize::try_from(count).ok()?..)?;
        Some(())
    }

    fn unsigned(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// A number whose sign is its last bit.
    fn signed(&mut self) -> Option<i64> {
        let number = self.unsigned()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    fn structure(&mut self, path: &mut Vec<i64>, visit: Visit<'_>) -> Option<()> {
        if path.len() >= DEEPEST {
            return None;
        }
        let mut identifier = 0i64;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            identifier = match head >> 4 {
                0 => self.signed()?,
                step => identifier.checked_add(i64::from(step))?,
            };
            path.push(identifier);
            self.value(head & 0xf, path, visit)?;
            path.pop();
        }
    }

    /// A value of a kind. A structure's truth values are in its fields' heads.
    fn value(&mut self, kind: u8, path: &mut Vec<i64>, visit: Visit<'_>) -> Option<()> {
        match kind {
            1 | 2 => Some(()),
            3 => self.skip(1),
            4..=6 => {
                let number = self.signed()?;
                visit(path, number);
                Some(())
            }
            7 => self.skip(8),
            8 => {
                let length = self.unsigned()?;
                self.skip(length)
            }
            9 | 10 => self.list(path),
            12 => self.structure(path, visit),
            // The format has no maps.
            _ => None,
        }
    }

    /// A list, of which nothing is looked at.
    fn list(&mut self, path: &mut Vec<i64>) -> Option<()> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => self.unsigned()?,
            count => u64::from(count),
        };
        for _ in 0..count {
            match head & 0xf {
                // Here a truth value is a byte.
                1 | 2 => self.skip(1)?,
                kind => self.value(kind, path, &mut |_, _| {})?,
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_and_what_is_not_known_is_passed_over() {
        // type 0, unpacked 300, packed 7, a structure 5 with 4 values in encoding 8 and a list, and a
        // text in field 20.
        let header = [
            0x15, 0x00, 0x15, 0xd8, 0x04, 0x15, 0x0e, 0x2c, 0x15, 0x08, 0x15, 0x10, 0x19, 0x25,
            0x02, 0x04, 0x00, 0xf8, 0x02, b'h', b'i', 0x00, 0xff,
        ];
        let mut cursor = Cursor { bytes: &header };
        let expected = PageSize { unpacked: 300, packed: 7, values: 4, encoding: 8 };
        assert_eq!(PageSize::read(&mut cursor), Some(expected));
        assert_eq!(cursor.bytes, [0xff]);
        for length in 0..header.len() - 1 {
            assert_eq!(PageSize::read(&mut Cursor { bytes: &header[..length] }), None);
        }
    }

    #[test]
    fn what_is_no_header_is_refused() {
        let read = |bytes: &[u8]| PageSize::read(&mut Cursor { bytes });
        assert_eq!(read(&[0x25, 0x01, 0x00]), None, "a negative length");
        assert_eq!(read(&[0x1c; 100]), None, "structures without end");
        assert_eq!(read(&[0x1b, 0x00, 0x00]), None, "a map");
        assert_eq!(read(&[0x15, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None);
    }
}
