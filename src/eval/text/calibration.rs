//! Importance from a running model: chunks of a calibration text go through it, and what its weight
//! matrices are multiplied with is squared and summed up.
//!
//! The procedure is llama-imatrix's: the texts' tokens are cut into chunks of one length, each of
//! which is a sequence of its own, its first token replaced by `bos` where the model expects that.
//! Every position counts. Sums over a chunk are taken in double precision and added to single
//! precision totals, which is what files hold: so a collection that was stopped goes on from its
//! file as if nothing had happened.

use rayon::prelude::*;

use super::text_file::TextFile;
use super::windows::TextWindows;
use crate::engine::{Engine, LogitsFor, StepItem};
use crate::eval::EvalError;
use crate::model::ActivationObserver;
use crate::quant::importance::{ActivationSums, ImportanceError};
use crate::support::interrupt;
use crate::support::progress::{Progress, Unit};

/// Tokens that go through the model at once.
const STEP_TOKENS: usize = 512;

/// The output matrix's name.
pub const OUTPUT_MATRIX: &str = "output.weight";

/// What to collect on, and how.
#[derive(Debug, Clone)]
pub struct CollectOptions {
    /// The calibration text, one after the other.
    pub texts: Vec<TextFile>,
    /// Tokens of a chunk.
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

/// Collects into `sums`, which holds the first [`ActivationSums::chunks`] of the wanted chunks
/// already, until all are in or a stop is asked for. `save` is called with the sums so far every
/// now and then, not at the end. Returns how many chunks are wanted.
///
/// # Errors
/// A text that is too short, a model that cannot run chunks of that length,
/// activations that are not finite, sums of another model, and whatever `save` says. `sums` then
/// holds the chunks before.
pub fn collect(
    engine: &mut Engine,
    options: &CollectOptions,
    sums: &mut ActivationSums,
    save: &mut dyn FnMut(&ActivationSums) -> Result<(), ImportanceError>,
) -> Result<usize, EvalError> {
    let CollectOptions { texts, chunk_tokens, first_chunk, chunks, .. } = options;
    let text =
        TextWindows::of_all(texts, engine.vocabulary(), *chunk_tokens, *first_chunk, *chunks)?;
    let windows: Vec<&[u32]> = text.iter().collect();
    let progress = Progress::new("Collecting", windows.len() as u64, Unit::Items("chunks"));
    let result = collect_windows(engine, &windows, options, sums, save, &progress);
    progress.finish();
    result.map(|()| windows.len())
}

fn collect_windows(
    engine: &mut Engine,
    windows: &[&[u32]],
    options: &CollectOptions,
    sums: &mut ActivationSums,
    save: &mut dyn FnMut(&ActivationSums) -> Result<(), ImportanceError>,
    progress: &Progress,
) -> Result<(), EvalError> {
    let mut saved = sums.chunks() as usize;
    progress.set(saved as u64);
    let waiting = windows.get(saved..).unwrap_or_default();
    for together in waiting.chunks((STEP_TOKENS / options.chunk_tokens).max(1)) {
        let done = sums.chunks() as usize;
        if done - saved >= options.save_every {
            save(sums)?;
            saved = done;
        }
        let mut squares = Squares::new(together.len(), options.process_output);
        if !run(engine, together, options.chunk_tokens, &mut squares)? {
            return Ok(());
        }
        squares.add_to(sums)?;
        progress.advance(together.len() as u64);
    }
    Ok(())
}

/// Runs chunks side by side. Whether they got through before a stop was asked for.
fn run(
    engine: &mut Engine,
    chunks: &[&[u32]],
    chunk_tokens: usize,
    squares: &mut Squares,
) -> Result<bool, EvalError> {
    let sequences: Vec<_> = chunks.iter().map(|_| engine.start(chunk_tokens)).collect();
    let mut result = Ok(true);
    for start in (0..chunk_tokens).step_by(STEP_TOKENS) {
        if interrupt::requested() {
            result = Ok(false);
            break;
        }
        let range = start..chunk_tokens.min(start + STEP_TOKENS);
        let items: Vec<_> = sequences
            .iter()
            .zip(chunks)
            .map(|(&sequence, tokens)| StepItem {
                sequence,
                tokens: &tokens[range.clone()],
                logits: LogitsFor::None,
            })
            .collect();
        if let Err(error) = engine.step_observed(&items, squares) {
            result = Err(error.into());
            break;
        }
    }
    sequences.into_iter().for_each(|sequence| engine.end(sequence));
    result
}

/// Columns whose squares one task sums up.
const TASK_COLUMNS: usize = 64;
/// Tokens whose squares are summed up in single precision.
const TASK_TOKENS: usize = 32;

/// Sums of squares of the chunks that run now.
struct Squares {
    chunks: usize,
    process_output: bool,
    inputs: Vec<Input>,
}

/// What some tensors are multiplied with.
struct Input {
    tensors: Vec<String>,
    columns: usize,
    /// Sums of the columns' squares, chunk after chunk.
    squares: Vec<f64>,
    /// Tokens of each chunk so far.
    tokens: u64,
}

impl Squares {
    fn new(chunks: usize, process_output: bool) -> Self {
        Self { chunks, process_output, inputs: Vec::new() }
    }

    /// Adds what was observed to the totals: chunk by chunk, so that it does not matter which of
    /// them ran together.
    fn add_to(&self, sums: &mut ActivationSums) -> Result<(), ImportanceError> {
        for chunk in 0..self.chunks {
            let inputs = self.inputs.iter().flat_map(|input| {
                let squares = &input.squares[chunk * input.columns..][..input.columns];
                input.tensors.iter().map(move |tensor| (tensor.as_str(), squares, input.tokens))
            });
            sums.add_chunk(&inputs.collect::<Vec<_>>())?;
        }
        Ok(())
    }
}

impl ActivationObserver for Squares {
    fn wants(&self, tensors: &[String]) -> bool {
        let in_a_layer = |tensor: &String| tensor.starts_with("blk.");
        tensors
            .iter()
            .all(|tensor| in_a_layer(tensor) || self.process_output && tensor == OUTPUT_MATRIX)
    }

    fn observe(&mut self, tensors: &[String], activations: &[f32], columns: usize) {
        let known = self.inputs.iter().position(|input| input.tensors == tensors);
        let index = known.unwrap_or_else(|| {
            let (tensors, squares) = (tensors.to_vec(), vec![0.0; self.chunks * columns]);
            self.inputs.push(Input { tensors, columns, squares, tokens: 0 });
            self.inputs.len() - 1
        });
        let input = &mut self.inputs[index];
        let tokens = activations.len() / columns / self.chunks;
        let chunks = activations.chunks_exact(tokens * columns);
        for (activations, squares) in chunks.zip(input.squares.chunks_exact_mut(columns)) {
            add_squares(activations, columns, squares);
        }
        input.tokens += tokens as u64;
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
