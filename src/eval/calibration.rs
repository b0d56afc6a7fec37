//! Importance from a running model: chunks of a calibration text go through it, and what its weight
//! matrices are multiplied with is squared and summed up.
//!
//! The procedure is llama-imatrix's: the texts' tokens are cut into chunks of one length, each of
//! which is a sequence of its own, its first token replaced by `bos` where the model expects that.
//! Every position counts. Sums over a chunk are taken in double precision and added to single
//! precision totals, which is what files hold: so a collection that was stopped goes on from its
//! file as if nothing had happened.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::convert::vocabulary::VocabularyError;
use crate::engine::{Engine, EngineError, LogitsFor, StepItem};
use crate::model::ActivationObserver;
use crate::quant::importance::{ActivationSums, ImportanceError};
use crate::support::interrupt;
use crate::support::progress::{Progress, Unit};

/// Tokens that go through the model at once.
const STEP_TOKENS: usize = 512;

/// The output matrix's name.
const OUTPUT: &str = "output.weight";

/// Why importance could not be collected.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// A text cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A text is no text.
    #[error("{}: expected UTF-8 text, found an invalid byte at {position}", path.display())]
    NoText {
        /// The file.
        path: PathBuf,
        /// Where.
        position: usize,
    },
    /// The options ask for what is not there.
    #[error("{0}")]
    Unusable(String),
    /// The text cannot be tokenized.
    #[error(transparent)]
    Vocabulary(#[from] VocabularyError),
    /// The model cannot be run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The sums are not finite, or do not fit to those that are to be continued.
    #[error(transparent)]
    Importance(#[from] ImportanceError),
}

/// What to collect, and in which pieces.
#[derive(Debug, Clone)]
pub struct CollectOptions {
    /// Tokens of a chunk; at least 2.
    pub chunk_tokens: usize,
    /// Chunks at the start of the text that are left out.
    pub first_chunk: usize,
    /// At most this many chunks.
    pub chunks: Option<usize>,
    /// Whether the output matrix is a tensor to collect for, too.
    pub process_output: bool,
    /// The sums so far are saved whenever this many chunks have come to them.
    pub save_every: usize,
}

/// A calibration text in tokens.
#[derive(Debug, Clone)]
pub struct CalibrationText {
    tokens: Vec<u32>,
    names: Vec<String>,
}

impl CalibrationText {
    /// Reads and tokenizes text files, one after the other. Text that spells special tokens stays
    /// text. One line feed at the end of a file is left out, as llama.cpp does.
    ///
    /// # Errors
    /// Files that cannot be read or hold no UTF-8.
    pub fn read(engine: &Engine, paths: &[PathBuf]) -> Result<Self, CalibrationError> {
        let vocabulary = engine.vocabulary();
        let mut tokens: Vec<u32> =
            vocabulary.bos.filter(|_| vocabulary.add_bos).into_iter().collect();
        for path in paths {
            let text = read_text(path)?;
            tokens.extend(vocabulary.encode(text.strip_suffix('\n').unwrap_or(&text), false)?);
        }
        let names = paths.iter().map(|path| path.display().to_string()).collect();
        Ok(Self { tokens, names })
    }

    /// How many tokens there are.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// The files' names, as they were given.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// How many chunks these options choose.
    ///
    /// # Errors
    /// None at all, with how many tokens there are and would be needed.
    pub fn chunks(&self, options: &CollectOptions) -> Result<usize, CalibrationError> {
        let CollectOptions { chunk_tokens, first_chunk, .. } = *options;
        let available = (self.tokens.len() / chunk_tokens).saturating_sub(first_chunk);
        if available == 0 {
            let after = if first_chunk == 0 {
                String::new()
            } else {
                format!(" after the first {first_chunk} chunks, which are left out")
            };
            return Err(CalibrationError::Unusable(format!(
                "the text has {} tokens, too few for a chunk of {chunk_tokens}{after}; give more \
                 text, or take a shorter --context",
                self.tokens.len()
            )));
        }
        Ok(options.chunks.map_or(available, |wanted| wanted.min(available)))
    }
}

fn read_text(path: &Path) -> Result<String, CalibrationError> {
    let io = |source| CalibrationError::Io { path: path.to_path_buf(), source };
    let bytes = std::fs::read(path).map_err(io)?;
    String::from_utf8(bytes).map_err(|error| CalibrationError::NoText {
        path: path.to_path_buf(),
        position: error.utf8_error().valid_up_to(),
    })
}

/// Collects into `sums`, which holds the first [`ActivationSums::chunks`] of the wanted chunks
/// already, until all are in or a stop is asked for. `save` is called with the sums so far every
/// now and then, not at the end.
///
/// # Errors
/// A model that cannot run chunks of that length, activations that are not finite, sums of another
/// model, and whatever `save` says. `sums` then holds the chunks before.
pub fn collect(
    engine: &mut Engine,
    text: &CalibrationText,
    options: &CollectOptions,
    sums: &mut ActivationSums,
    save: &mut dyn FnMut(&ActivationSums) -> Result<(), ImportanceError>,
) -> Result<(), CalibrationError> {
    let chunks = text.chunks(options)?;
    let progress = Progress::new("Collecting", chunks as u64, Unit::Items("chunks"));
    let result = Collection { engine, text, options }.run(chunks, sums, save, &progress);
    progress.finish();
    result
}

struct Collection<'a> {
    engine: &'a mut Engine,
    text: &'a CalibrationText,
    options: &'a CollectOptions,
}

impl Collection<'_> {
    fn run(
        &mut self,
        chunks: usize,
        sums: &mut ActivationSums,
        save: &mut dyn FnMut(&ActivationSums) -> Result<(), ImportanceError>,
        progress: &Progress,
    ) -> Result<(), CalibrationError> {
        let together = (STEP_TOKENS / self.options.chunk_tokens).max(1);
        let mut saved = sums.chunks() as usize;
        progress.set(saved as u64);
        loop {
            let done = sums.chunks() as usize;
            let count = together.min(chunks.saturating_sub(done));
            if count == 0 {
                return Ok(());
            }
            if done - saved >= self.options.save_every {
                save(sums)?;
                saved = done;
            }
            let mut squares = Squares::new(self.options.process_output);
            if !self.run_chunks(done, count, &mut squares)? {
                return Ok(());
            }
            squares.add_to(sums, count as u32)?;
            progress.advance(count as u64);
        }
    }

    /// Runs chunks, counted from the first wanted one, side by side. Whether they got through
    /// before a stop was asked for.
    fn run_chunks(
        &mut self,
        first: usize,
        count: usize,
        squares: &mut Squares,
    ) -> Result<bool, CalibrationError> {
        let chunk_tokens = self.options.chunk_tokens;
        let start = (self.options.first_chunk + first) * chunk_tokens;
        let mut tokens = self.text.tokens[start..start + count * chunk_tokens].to_vec();
        let vocabulary = self.engine.vocabulary();
        if let Some(bos) = vocabulary.bos.filter(|_| vocabulary.add_bos) {
            tokens.iter_mut().step_by(chunk_tokens).for_each(|token| *token = bos);
        }
        let sequences: Vec<_> = (0..count).map(|_| self.engine.start(chunk_tokens)).collect();
        let mut result = Ok(true);
        for piece in 0..chunk_tokens.div_ceil(STEP_TOKENS) {
            if interrupt::requested() {
                result = Ok(false);
                break;
            }
            let chunks = sequences.iter().zip(tokens.chunks_exact(chunk_tokens));
            let items: Vec<_> = chunks
                .map(|(&sequence, tokens)| {
                    let rest = &tokens[piece * STEP_TOKENS..];
                    let tokens = &rest[..rest.len().min(STEP_TOKENS)];
                    StepItem { sequence, tokens, logits: LogitsFor::None }
                })
                .collect();
            if let Err(error) = self.engine.step_observed(&items, squares) {
                result = Err(error.into());
                break;
            }
        }
        sequences.into_iter().for_each(|sequence| self.engine.end(sequence));
        result
    }
}

/// Columns whose squares one task sums up.
const TASK_COLUMNS: usize = 64;
/// Tokens whose squares are summed up in single precision.
const TASK_TOKENS: usize = 32;

/// Sums of squares by tensor, of the chunks that run now.
struct Squares {
    process_output: bool,
    /// Names of the tensors that share an input, sums of its columns' squares, number of tokens.
    inputs: Vec<(Vec<String>, Vec<f64>, u64)>,
}

impl Squares {
    fn new(process_output: bool) -> Self {
        Self { process_output, inputs: Vec::new() }
    }

    /// Adds what was observed to the totals.
    fn add_to(&self, sums: &mut ActivationSums, chunks: u32) -> Result<(), ImportanceError> {
        let inputs = self.inputs.iter();
        let tensors: Vec<_> = inputs
            .flat_map(|(tensors, squares, count)| {
                tensors.iter().map(move |tensor| (tensor.as_str(), squares.as_slice(), *count))
            })
            .collect();
        sums.add_chunks(chunks, &tensors)
    }
}

impl ActivationObserver for Squares {
    fn wants(&self, tensors: &[String]) -> bool {
        let in_a_layer = |tensor: &String| tensor.starts_with("blk.");
        tensors.iter().all(|tensor| in_a_layer(tensor) || self.process_output && tensor == OUTPUT)
    }

    fn observe(&mut self, tensors: &[String], activations: &[f32], columns: usize) {
        let known = self.inputs.iter().position(|(names, ..)| names == tensors);
        let index = known.unwrap_or_else(|| {
            self.inputs.push((tensors.to_vec(), vec![0.0; columns], 0));
            self.inputs.len() - 1
        });
        let (_, squares, count) = &mut self.inputs[index];
        add_squares(activations, columns, squares);
        *count += (activations.len() / columns) as u64;
    }
}

/// Adds each column's squares to its sum.
fn add_squares(activations: &[f32], columns: usize, sums: &mut [f64]) {
    sums.par_chunks_mut(TASK_COLUMNS).enumerate().for_each(|(task, sums)| {
        for rows in activations.chunks(TASK_TOKENS * columns) {
            let mut partial = [0f32; TASK_COLUMNS];
            for row in rows.chunks_exact(columns) {
                let row = &row[task * TASK_COLUMNS..][..sums.len()];
                for (sum, value) in partial.iter_mut().zip(row) {
                    *sum += value * value;
                }
            }
            for (sum, partial) in sums.iter_mut().zip(partial) {
                *sum += f64::from(partial);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_are_summed_by_column() {
        let (tokens, columns) = (77, 133);
        let value = |token: usize, column: usize| ((token * 31 + column * 17) % 29) as f32 - 14.0;
        let activations: Vec<f32> =
            (0..tokens * columns).map(|index| value(index / columns, index % columns)).collect();
        let mut sums = vec![1.0; columns];
        add_squares(&activations, columns, &mut sums);
        for (column, sum) in sums.into_iter().enumerate() {
            let squares = (0..tokens).map(|token| f64::from(value(token, column)).powi(2));
            assert_eq!(sum, 1.0 + squares.sum::<f64>(), "column {column}");
        }
    }
}
