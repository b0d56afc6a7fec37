//! Writing a file of base logits, row by row.

use std::io::{self, Write};
use std::path::Path;

use rayon::prelude::*;

use super::MAGIC;
use super::coding::{encode_row, row_bytes};
use crate::eval::text::windows::TextWindows;
use crate::kernels::elementwise::log_sum_exp;
use crate::support::atomic_file::AtomicFile;

/// A file under construction; what is not finished leaves nothing behind.
#[derive(Debug)]
pub(in crate::eval::text) struct BaseLogitsWriter {
    file: AtomicFile,
    vocabulary: usize,
    /// Rows that are still to come.
    missing: usize,
    bytes: u64,
    /// The rows of a step, kept from step to step.
    coded: Vec<u8>,
}

impl BaseLogitsWriter {
    /// Begins a file for windows that follow one another.
    ///
    /// # Errors
    /// A file that cannot be written, and counts that the format does not hold.
    pub(in crate::eval::text) fn create(
        path: &Path,
        windows: &TextWindows,
        vocabulary: usize,
    ) -> io::Result<Self> {
        let mut head = MAGIC.to_vec();
        for number in [windows.length(), vocabulary, windows.count()] {
            let number = i32::try_from(number).map_err(io::Error::other)?;
            head.extend(number.to_le_bytes());
        }
        head.extend(windows.iter().flatten().flat_map(|token| token.to_le_bytes()));
        let mut file = AtomicFile::create(path)?;
        file.write_all(&head)?;
        let missing = windows.count() * windows.scored().len();
        Ok(Self { file, vocabulary, missing, bytes: head.len() as u64, coded: Vec::new() })
    }

    /// Adds the rows of logits of the next scored positions.
    ///
    /// # Errors
    /// A file that cannot be written.
    ///
    /// # Panics
    /// If these are no whole rows, or more than are missing.
    pub(in crate::eval::text) fn write_rows(&mut self, logits: &[f32]) -> io::Result<()> {
        assert!(logits.len().is_multiple_of(self.vocabulary), "whole rows");
        let rows = logits.len() / self.vocabulary;
        self.missing = self.missing.checked_sub(rows).expect("as many rows as were announced");
        let row_bytes = row_bytes(self.vocabulary);
        self.coded.resize(rows * row_bytes, 0);
        self.coded
            .par_chunks_mut(row_bytes)
            .zip(logits.par_chunks(self.vocabulary))
            .for_each(|(row, logits)| encode_row(logits, log_sum_exp(logits), row));
        self.file.write_all(&self.coded)?;
        self.bytes += self.coded.len() as u64;
        Ok(())
    }

    /// Gives the file its name, and says how many bytes it has.
    ///
    /// # Errors
    /// A file that cannot be written.
    ///
    /// # Panics
    /// If rows are missing.
    pub(in crate::eval::text) fn finish(self) -> io::Result<u64> {
        assert_eq!(self.missing, 0, "rows are missing");
        self.file.commit()?;
        Ok(self.bytes)
    }
}
