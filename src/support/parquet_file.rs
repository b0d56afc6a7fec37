//! The one way to write a Parquet file.

use std::io;
use std::path::Path;

use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::atomic_file::write_atomically;

/// Writes a record batch, compressed with Snappy, atomically. The same batch gives the same bytes.
///
/// # Errors
/// What cannot be encoded or written.
pub fn write_parquet(target: &Path, batch: &RecordBatch) -> io::Result<()> {
    write_atomically(target, &encode(batch).map_err(io::Error::other)?)
}

fn encode(batch: &RecordBatch) -> Result<Vec<u8>, ParquetError> {
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties))?;
    writer.write(batch)?;
    writer.into_inner()
}
