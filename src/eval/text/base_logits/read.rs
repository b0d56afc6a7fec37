//! Reading a file of base logits, which is mapped: it can be larger than the memory.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;
use rayon::prelude::*;

use super::coding::{CodedRow, row_bytes};
use super::{HEAD_BYTES, MAGIC};
use crate::eval::EvalError;
use crate::eval::text::windows::{SHORTEST_WINDOW, TextWindows, first_scored, scored_positions};
use crate::support::input_file::InputFile;
use crate::support::mapped;
use crate::support::units;

/// What a file says that it holds, believed only as far as its length bears it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    context: usize,
    vocabulary: usize,
    windows: usize,
}

impl Header {
    /// Says what is wrong with the bytes of a file.
    fn parse(bytes: &[u8]) -> Result<Self, String> {
        if !bytes.starts_with(MAGIC) {
            let found = String::from_utf8_lossy(&bytes[..bytes.len().min(MAGIC.len())]);
            return Err(format!(
                "expected a file of base logits, which begins with \"_logits_\", found {found:?}; \
                 make one with `quantkit perplexity MODEL --save-logits FILE`"
            ));
        }
        let Some(numbers) = bytes.get(MAGIC.len()..HEAD_BYTES) else {
            return Err(format!("the file of base logits is cut off after {} bytes", bytes.len()));
        };
        let [context, vocabulary, windows] = [0, 4, 8].map(|at| {
            let number = u32::from_le_bytes([0, 1, 2, 3].map(|byte| numbers[at + byte]));
            usize::try_from(number).unwrap_or(usize::MAX)
        });
        let header = Self { context, vocabulary, windows };
        header.check(bytes.len())?;
        Ok(header)
    }

    fn check(&self, found: usize) -> Result<(), String> {
        let Self { context, vocabulary, windows } = *self;
        let described = format!(
            "{} windows of {} tokens with a vocabulary of {}",
            units::count(windows as u64),
            units::count(context as u64),
            units::count(vocabulary as u64)
        );
        if context < SHORTEST_WINDOW || vocabulary == 0 || windows == 0 {
            return Err(format!("the file is damaged: it is said to hold {described}"));
        }
        // In 128 bits, three numbers of 32 bits do not overflow.
        let row_bytes = 8 + 2 * (vocabulary as u128).next_multiple_of(2);
        let window_bytes = 4 * context as u128 + scored_positions(context) as u128 * row_bytes;
        let expected = HEAD_BYTES as u128 + windows as u128 * window_bytes;
        match (found as u128).cmp(&expected) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Less => Err(format!(
                "the file is cut off: {described} take {expected} bytes, and it has {found}; was the \
                 run that wrote it stopped? Write it again"
            )),
            std::cmp::Ordering::Greater => Err(format!(
                "the file is damaged: {described} take {expected} bytes, and it has {found}"
            )),
        }
    }

    fn data_start(&self) -> usize {
        HEAD_BYTES + 4 * self.context * self.windows
    }
}

/// An open file. Its tokens have been checked; its rows are when they are looked at.
#[derive(Debug)]
pub struct BaseLogits {
    input: Arc<InputFile>,
    map: Mmap,
    header: Header,
}

impl BaseLogits {
    /// Opens a file.
    ///
    /// # Errors
    /// A file that cannot be read, or holds something else.
    pub fn open(path: &Path) -> Result<Self, EvalError> {
        let name = path.display().to_string();
        let failed = |source| EvalError::io(path, source);
        let input = Arc::new(InputFile::open(path).map_err(failed)?);
        let map = input.map().map_err(failed)?;
        let problem = |problem: String| EvalError::Unusable(format!("{name}: {problem}"));
        let header = Header::parse(&map).map_err(problem)?;
        let logits = Self { input, map, header };
        let outside = logits.tokens().find(|&token| token as usize >= header.vocabulary);
        match outside {
            None => Ok(logits),
            Some(token) => Err(problem(format!(
                "the file is damaged: its text has the token {token}, which is outside its vocabulary \
                 of {}",
                header.vocabulary
            ))),
        }
    }

    /// The file that is mapped.
    pub(in crate::eval::text) fn input(&self) -> &Arc<InputFile> {
        &self.input
    }

    /// Its bytes.
    pub(in crate::eval::text) fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    fn tokens(&self) -> impl Iterator<Item = u32> {
        let bytes = &self.map[HEAD_BYTES..self.header.data_start()];
        bytes.as_chunks().0.iter().map(|&token| u32::from_le_bytes(token))
    }

    /// Refuses a model with a vocabulary of another size.
    pub(in crate::eval::text) fn check_vocabulary(&self, model: usize) -> Result<(), EvalError> {
        if model == self.header.vocabulary {
            return Ok(());
        }
        Err(EvalError::Unusable(format!(
            "{}: the file's vocabulary has {} tokens, the models' {model}; only variants of the model \
             that the file was made with can be compared",
            self.input.path().display(),
            self.header.vocabulary
        )))
    }

    /// Tokens in a window.
    pub fn context(&self) -> usize {
        self.header.context
    }

    /// The text that was read, at most `limit` windows of it; `start` is what the model wants each
    /// to begin with.
    pub fn windows(&self, start: Option<u32>, limit: Option<usize>) -> TextWindows {
        let count = self.header.windows.min(limit.unwrap_or(usize::MAX));
        let tokens = self.tokens().take(count * self.header.context).collect();
        TextWindows::of_tokens(tokens, self.header.context, start)
    }

    /// The rows of these scored positions, counted over all windows.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn rows(&self, positions: Range<usize>) -> CodedRows<'_> {
        let bytes = &self.map[self.place(&positions)];
        CodedRows { file: self, first: positions.start, bytes }
    }

    /// Says that rows will not be looked at again.
    pub(in crate::eval::text) fn release(&self, positions: Range<usize>) {
        mapped::release(&self.map, self.place(&positions));
    }

    fn place(&self, positions: &Range<usize>) -> Range<usize> {
        let row_bytes = row_bytes(self.header.vocabulary);
        let place = |position: usize| self.header.data_start() + position * row_bytes;
        place(positions.start)..place(positions.end)
    }
}

/// Some of a file's rows.
#[derive(Debug, Clone, Copy)]
pub struct CodedRows<'a> {
    file: &'a BaseLogits,
    /// The first one's position, counted over all windows.
    first: usize,
    bytes: &'a [u8],
}

impl<'a> CodedRows<'a> {
    /// The rows.
    pub fn par_iter(self) -> impl IndexedParallelIterator<Item = CodedRow<'a>> {
        let vocabulary = self.file.header.vocabulary;
        self.bytes
            .par_chunks_exact(row_bytes(vocabulary))
            .map(move |row| CodedRow::new(row, vocabulary))
    }

    /// What to say of a row, counted from the first of these, that holds no log-probabilities.
    pub(in crate::eval::text) fn damaged(self, row: usize) -> EvalError {
        let (position, in_window) = (self.first + row, scored_positions(self.file.context()));
        EvalError::Unusable(format!(
            "{}: the file is damaged: what it holds for position {} of window {} are no \
             log-probabilities",
            self.file.input.path().display(),
            first_scored(self.file.context()) + position % in_window,
            position / in_window + 1
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::BaseLogitsWriter;
    use super::*;

    const VOCABULARY: usize = 5;

    /// Logits of a position, from its number over all windows.
    fn logits(position: usize) -> Vec<f32> {
        (0..VOCABULARY).map(|token| ((position * 7 + token * 5) % 11) as f32).collect()
    }

    /// Three windows of 6 tokens, of each of which 2 positions are scored.
    fn sample(path: &Path) -> Vec<u8> {
        let tokens = (0..18).map(|index| index % VOCABULARY as u32).collect();
        let windows = TextWindows::of_tokens(tokens, 6, None);
        let mut writer = BaseLogitsWriter::create(path, &windows, VOCABULARY).unwrap();
        for rows in [0..1, 1..4, 4..6] {
            writer.write_rows(&rows.flat_map(logits).collect::<Vec<_>>()).unwrap();
        }
        let bytes = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
        assert_eq!(bytes, 1, "only the file under its temporary name");
        assert!(!path.exists());
        let written = writer.finish().unwrap();
        let bytes = std::fs::read(path).unwrap();
        assert_eq!(written, bytes.len() as u64);
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("base.logits");
        let bytes = sample(&path);
        assert_eq!(bytes.len(), 20 + 4 * 18 + 6 * (8 + 2 * 6));
        assert_eq!(bytes[..20], *b"_logits_\x06\0\0\0\x05\0\0\0\x03\0\0\0");
        assert_eq!(bytes[20..32], [0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
        let file = BaseLogits::open(&path).unwrap();
        assert_eq!(file.context(), 6);
        assert!(file.check_vocabulary(VOCABULARY).is_ok());
        let error = file.check_vocabulary(7).unwrap_err().to_string();
        assert!(error.contains("has 5 tokens, the models' 7"), "{error}");
        let windows = file.windows(Some(4), Some(2));
        assert_eq!(windows.iter().collect::<Vec<_>>(), [[4, 1, 2, 3, 4, 0], [4, 2, 3, 4, 0, 1]]);
        let decoded: Vec<Vec<f32>> = file
            .rows(1..6)
            .par_iter()
            .map(|row| {
                let mut values = Vec::new();
                row.decode_into(&mut values);
                assert_eq!(row.log_probability(3), values[3]);
                values
            })
            .collect();
        for (position, values) in (1..6).zip(&decoded) {
            let logits = logits(position);
            for (value, logit) in values.iter().zip(&logits) {
                let difference = (value - values[0]) - (logit - logits[0]);
                assert!(difference.abs() < 2e-4, "position {position}: off by {difference}");
            }
        }
        file.release(0..6);
        let error = file.rows(2..6).damaged(3).to_string();
        assert!(error.contains("position 4 of window 3"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_whole_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("base.logits");
        let bytes = sample(&path);
        let error = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let error = BaseLogits::open(&path).unwrap_err().to_string();
            assert!(error.contains("base.logits"), "{error}");
            error
        };
        let changed = |at: usize, number: u32| {
            let mut bytes = bytes.clone();
            bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
            error(&bytes)
        };
        for length in [bytes.len() - 1, 100, 21, 20] {
            assert!(error(&bytes[..length]).contains("is cut off"));
        }
        assert!(error(&bytes[..19]).contains("cut off after 19 bytes"));
        assert!(error(b"").contains("_logits_"));
        assert!(error(b"GGUF\x03\0\0\0").contains("GGUF"));
        assert!(error(&[&bytes[..], b"x"].concat()).contains("take 212 bytes, and it has 213"));
        for (at, name) in [(8, "tokens"), (12, "vocabulary"), (16, "windows")] {
            assert!(changed(at, u32::MAX).contains(name));
            assert!(changed(at, 0).contains("damaged"));
        }
        assert!(changed(24, 5).contains("the token 5"));
    }

    proptest! {
        /// Whatever is changed in a file: it is refused, or all its rows can be read.
        #[test]
        fn mutated_files_never_reach_past_their_end(
            changes in vec((0usize..40, any::<u8>()), 1..6),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("base.logits");
            let mut bytes = sample(&path);
            for (index, value) in changes {
                bytes[index] = value;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            std::fs::write(&path, &bytes).unwrap();
            if let Ok(file) = BaseLogits::open(&path) {
                let rows = file.windows(None, None).count() * scored_positions(file.context());
                let count = file.rows(0..rows).par_iter().count();
                prop_assert_eq!(count, rows);
            }
        }
    }
}
