//! Who multiplies what: the division of a product into tasks.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::PackedMatrix;
use super::activations::ActivationKind;
use super::kernel::{self, MAX_TILE};
use super::panel::{FLOAT_ROWS, QUANTIZED_ROWS};
use crate::support::processor::InstructionSet;

/// Words of activations that a thread works through before it turns to the next tokens: they stay
/// in the second-level cache while the weights pass by.
const CHUNK_WORDS: usize = 1 << 18;

/// Multiplications below which waking another thread costs more than it brings.
const WORTH_A_THREAD: usize = 1 << 16;

/// Tasks a thread gets where there is work for more than one: threads that are held up leave theirs
/// to the others.
const TASKS_A_THREAD: usize = 4;

/// Divides the product and runs it; lengths have been checked.
pub(super) fn multiply(
    matrices: &[&PackedMatrix],
    tokens: usize,
    inputs: &[f32],
    outputs: &mut [&mut [f32]],
) {
    let activations = Prepared::new(matrices, tokens, inputs);
    let outputs: Vec<Output> = outputs.iter_mut().map(|output| Output::of(output)).collect();
    let panels = matrices.iter().map(|matrix| matrix.panel_count()).sum();
    let rows: usize = matrices.iter().map(|matrix| matrix.rows).sum();
    let plan = Plan::new(tokens, panels, rows, activations.columns, activations.chunk_tokens());
    plan.run(|tokens, panels| {
        for (matrix, output, panels) in segments(matrices, &outputs, panels) {
            multiply_panels(matrix, &activations, tokens.clone(), panels, output);
        }
    });
}

/// A grid of tasks: stretches of tokens × stretches of panels.
struct Plan {
    tokens: usize,
    chunk: usize,
    panels: usize,
    pieces: usize,
}

impl Plan {
    fn new(tokens: usize, panels: usize, rows: usize, columns: usize, chunk: usize) -> Self {
        let threads = rayon::current_num_threads();
        let chunks = tokens.div_ceil(chunk);
        let work = rows.saturating_mul(columns).saturating_mul(tokens);
        let tasks = (work / WORTH_A_THREAD).clamp(1, threads * TASKS_A_THREAD);
        // With few tokens there is nothing to gain from more tasks than threads.
        let tasks = if tokens <= MAX_TILE { tasks.min(threads) } else { tasks };
        Self { tokens, chunk, panels, pieces: tasks.div_ceil(chunks).clamp(1, panels.max(1)) }
    }

    fn run(&self, task: impl Fn(Range<usize>, Range<usize>) + Sync) {
        let run = |index: usize| {
            let (chunk, piece) = (index / self.pieces, index % self.pieces);
            let start = chunk * self.chunk;
            let tokens = start..self.tokens.min(start + self.chunk);
            let panel = |piece: usize| piece * self.panels / self.pieces;
            task(tokens, panel(piece)..panel(piece + 1));
        };
        let tasks = self.tokens.div_ceil(self.chunk) * self.pieces;
        if tasks == 1 {
            run(0);
        } else {
            (0..tasks).into_par_iter().with_max_len(1).for_each(run);
        }
    }
}

/// The parts of a stretch of all matrices' panels that fall into each matrix.
fn segments<'a>(
    matrices: &'a [&'a PackedMatrix],
    outputs: &'a [Output],
    panels: Range<usize>,
) -> impl Iterator<Item = (&'a PackedMatrix, &'a Output, Range<usize>)> {
    let mut first = 0;
    matrices.iter().zip(outputs).filter_map(move |(matrix, output)| {
        let start = panels.start.max(first) - first;
        let end = panels.end.saturating_sub(first).min(matrix.panel_count());
        first += matrix.panel_count();
        (start < end).then_some((*matrix, output, start..end))
    })
}

fn multiply_panels(
    matrix: &PackedMatrix,
    activations: &Prepared,
    tokens: Range<usize>,
    panels: Range<usize>,
    output: &Output,
) {
    let panel_rows = matrix.kernel.panel_rows;
    let mut results = [0.0; MAX_TILE * FLOAT_ROWS];
    for index in panels {
        let panel = matrix.panel(index);
        let first_row = index * panel_rows;
        let rows = panel_rows.min(matrix.rows - first_row);
        for tile in tiles(matrix.set, tokens.clone()) {
            let results = &mut results[..tile.len() * panel_rows];
            let words = activations.tile(matrix.kernel.activations, &tile);
            matrix.kernel.multiply(panel, matrix.columns, words, tile.len(), results);
            for (token, results) in tile.zip(results.chunks_exact(panel_rows)) {
                // SAFETY: token and rows are inside the output, and no other task has this panel
                // together with these tokens.
                unsafe { output.write(token * matrix.rows + first_row, &results[..rows]) };
            }
        }
    }
}

/// Cuts tokens into tiles of sizes that the set's kernels know.
fn tiles(set: InstructionSet, tokens: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let mut start = tokens.start;
    std::iter::from_fn(move || {
        let left = tokens.end - start;
        let size = *kernel::tile_sizes(set).iter().find(|&&size| size <= left)?;
        start += size;
        Some(start - size..start)
    })
}

thread_local! {
    /// Memory for the prepared inputs, kept from one product to the next.
    static SCRATCH: Cell<[Vec<u32>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
}

/// The inputs as the kernels read them; one version for each kind of kernel that takes part.
struct Prepared {
    columns: usize,
    largest_tile: usize,
    /// By [`ActivationKind`]: empty where no matrix reads it.
    words: [Vec<u32>; 2],
}

impl Prepared {
    fn new(matrices: &[&PackedMatrix], tokens: usize, inputs: &[f32]) -> Self {
        let columns = matrices[0].columns;
        let set = matrices[0].set;
        let mut words = SCRATCH.take();
        for (kind, words) in ActivationKind::ALL.into_iter().zip(&mut words) {
            let wanted = matrices.iter().any(|matrix| matrix.kernel.activations == kind);
            let length = if wanted { tokens * kind.words(columns) } else { 0 };
            words.resize(length, 0);
            if wanted {
                fill(set, kind, tokens, columns, inputs, words);
            }
        }
        Self { columns, largest_tile: kernel::tile_sizes(set)[0], words }
    }

    /// Tokens that a task takes at a time: whole tiles of the largest size.
    fn chunk_tokens(&self) -> usize {
        let kind = ActivationKind::ALL.into_iter().find(|&kind| !self.words_of(kind).is_empty());
        let words = kind.map_or(1, |kind| kind.words(self.columns));
        (CHUNK_WORDS / words / self.largest_tile).max(1) * self.largest_tile
    }

    fn tile(&self, kind: ActivationKind, tokens: &Range<usize>) -> &[u32] {
        let words = kind.words(self.columns);
        &self.words_of(kind)[tokens.start * words..tokens.end * words]
    }

    fn words_of(&self, kind: ActivationKind) -> &[u32] {
        &self.words[kind as usize]
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        SCRATCH.set(std::mem::take(&mut self.words));
    }
}

fn fill(
    set: InstructionSet,
    kind: ActivationKind,
    tokens: usize,
    columns: usize,
    inputs: &[f32],
    words: &mut [u32],
) {
    let largest_tile = kernel::tile_sizes(set)[0];
    let fill_tiles = |(inputs, words): (&[f32], &mut [u32])| {
        for tile in tiles(set, 0..inputs.len() / columns) {
            let words =
                &mut words[tile.start * kind.words(columns)..tile.end * kind.words(columns)];
            let inputs = &inputs[tile.start * columns..tile.end * columns];
            kernel::fill_tile(set, kind, inputs, columns, words);
        }
    };
    if tokens <= largest_tile {
        fill_tiles((inputs, words));
        return;
    }
    // Only the last piece is no whole number of the largest tiles.
    let pieces = rayon::current_num_threads() * TASKS_A_THREAD;
    let piece = tokens.div_ceil(largest_tile).div_ceil(pieces) * largest_tile;
    inputs
        .par_chunks(piece * columns)
        .zip(words.par_chunks_mut(piece * kind.words(columns)))
        .for_each(fill_tiles);
}

/// An output that several threads write to, each to its own elements.
struct Output {
    start: *mut f32,
    length: usize,
}

// SAFETY: the pointer is only written through `write`, whose callers keep apart.
unsafe impl Sync for Output {}

impl Output {
    fn of(output: &mut [f32]) -> Self {
        Self { start: output.as_mut_ptr(), length: output.len() }
    }

    /// Writes `values` from element `at` on.
    ///
    /// # Safety
    /// No other thread touches these elements at the same time, and the slice this was made of is
    /// still borrowed.
    unsafe fn write(&self, at: usize, values: &[f32]) {
        assert!(at + values.len() <= self.length, "the output has room");
        // SAFETY: in bounds by the assertion; apart from other threads by the contract.
        unsafe {
            let start = self.start.add(at);
            // Whole panels are a few stores, not a call.
            if let Some(values) = values.as_array::<QUANTIZED_ROWS>() {
                start.cast::<[f32; QUANTIZED_ROWS]>().write(*values);
            } else if let Some(values) = values.as_array::<FLOAT_ROWS>() {
                start.cast::<[f32; FLOAT_ROWS]>().write(*values);
            } else {
                std::ptr::copy_nonoverlapping(values.as_ptr(), start, values.len());
            }
        }
    }
}
