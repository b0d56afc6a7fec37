//! Who multiplies what: the division of a product into tasks.

use std::cell::RefCell;
use std::ops::Range;

use super::activations::{BLOCK, Prepared};
use super::destination::{Destination, Output};
use super::kernel::{MAX_TILE, Strips};
use super::memory::AlignedBytes;
use super::panel::FLOAT_ROWS;
use super::source::{Inputs, part};
use super::{PackedMatrix, Source, Target, Workspace};
use crate::support::team::Team;

/// Words of activations that a thread works through before it turns to the next tokens: they stay
/// in the second-level cache while the weights pass by.
const CHUNK_WORDS: usize = 1 << 18;

/// Multiplications below which another thread costs more than it brings.
const WORTH_A_THREAD: usize = 1 << 16;

/// Tasks a thread gets where there is work for more than one: threads that are held up leave theirs
/// to the others.
const TASKS_A_THREAD: usize = 4;

/// Tiles of tokens up to which it is faster to read the packed weights again from the cache for each
/// than to unpack them for all.
const STRIPS_FROM_TILES: usize = 2;

/// Matrices that can be multiplied together.
pub const MAX_MATRICES: usize = 8;

/// Divides the product and runs it; lengths have been checked.
pub(super) fn multiply(
    team: &Team,
    matrices: &[&PackedMatrix],
    source: &Source<'_>,
    targets: &mut [Target<'_>],
    workspace: &mut Workspace,
) {
    let set = matrices[0].level.set;
    let wanted = |kind| matrices.iter().any(|matrix| matrix.kernel.activations == kind);
    let inputs = Inputs::prepare(team, set, source, wanted, workspace);
    let mut outputs = [const { None }; MAX_MATRICES];
    for ((output, target), matrix) in outputs.iter_mut().zip(targets).zip(matrices) {
        *output = Some(Output::new(target, matrix.rows));
    }
    let plan = Plan::new(team, matrices, source.tokens(), inputs.words_a_token());
    team.run(plan.tasks(), |task| {
        let (tokens, panels) = plan.task(task);
        let mut first = 0;
        for (matrix, output) in matrices.iter().zip(outputs.iter().flatten()) {
            let count = matrix.panel_count();
            let start = panels.start.max(first) - first;
            let end = panels.end.saturating_sub(first).min(count);
            first += count;
            if start < end {
                multiply_panels(matrix, &inputs, tokens.clone(), start..end, output);
            }
        }
    });
}

/// A grid of tasks: stretches of tokens × stretches of all matrices' panels.
struct Plan {
    tokens: usize,
    chunks: usize,
    panels: usize,
    pieces: usize,
}

impl Plan {
    fn new(team: &Team, matrices: &[&PackedMatrix], tokens: usize, words: usize) -> Self {
        let panels = matrices.iter().map(|matrix| matrix.panel_count()).sum::<usize>();
        let rows = matrices.iter().map(|matrix| matrix.rows).sum::<usize>();
        let chunks = tokens.div_ceil((CHUNK_WORDS / words).max(MAX_TILE));
        let work = rows.saturating_mul(matrices[0].columns).saturating_mul(tokens);
        let tasks = (work / WORTH_A_THREAD).clamp(1, team.threads() * TASKS_A_THREAD);
        Self { tokens, chunks, panels, pieces: tasks.div_ceil(chunks).clamp(1, panels.max(1)) }
    }

    fn tasks(&self) -> usize {
        self.chunks * self.pieces
    }

    fn task(&self, index: usize) -> (Range<usize>, Range<usize>) {
        let (chunk, piece) = (index / self.pieces, index % self.pieces);
        (part(self.tokens, self.chunks, chunk), part(self.panels, self.pieces, piece))
    }
}

fn multiply_panels(
    matrix: &PackedMatrix,
    inputs: &Inputs<'_>,
    tokens: Range<usize>,
    panels: Range<usize>,
    output: &Output<'_>,
) {
    let inputs = inputs.of(matrix.kernel.activations);
    let rows = tokens.len() * inputs.terms;
    match &matrix.kernel.strips {
        Some(strips) if rows > STRIPS_FROM_TILES * matrix.kernel.tile && matrix.columns > 0 => {
            SCRATCH.with_borrow_mut(|scratch| {
                multiply_strips(matrix, strips, scratch, inputs, tokens, panels, output);
            });
        }
        _ => multiply_directly(matrix, inputs, tokens, panels, output),
    }
}

/// Few tokens: the weights are read as they are packed, once a tile.
fn multiply_directly(
    matrix: &PackedMatrix,
    inputs: Prepared<'_>,
    tokens: Range<usize>,
    panels: Range<usize>,
    output: &Output<'_>,
) {
    let rows = matrix.kernel.panel_rows;
    let largest = matrix.kernel.tile / inputs.terms;
    let mut totals = [0.0; MAX_TILE * FLOAT_ROWS];
    for panel in panels {
        // SAFETY: no other task has this panel together with these tokens.
        let destination = unsafe { Destination::new(output, 0, panel * rows..(panel + 1) * rows) };
        for tile in tiles(tokens.clone(), largest) {
            let inputs = inputs.tokens(tile.clone());
            let totals = &mut totals[..inputs.rows * rows];
            matrix.kernel.multiply(matrix.panel(panel), matrix.columns, inputs, totals);
            let stride = inputs.add_terms(totals, rows);
            destination.put(tile.start, totals, stride);
        }
    }
}

/// Many tokens: two panels' weights are unpacked, as many columns as stay in the first-level cache,
/// and multiplied with all tokens before the next columns follow.
fn multiply_strips(
    matrix: &PackedMatrix,
    strips: &Strips,
    scratch: &mut Scratch,
    inputs: Prepared<'_>,
    tokens: Range<usize>,
    panels: Range<usize>,
    output: &Output<'_>,
) {
    let rows = matrix.kernel.panel_rows;
    let columns = matrix.columns;
    // Strips are as equal as whole blocks allow.
    let count = columns.div_ceil(strips.columns);
    let step = columns.div_ceil(count).next_multiple_of(BLOCK);
    let inputs = inputs.tokens(tokens.clone());
    scratch.reserve(strips.bytes, inputs.rows * 2 * rows);
    let Scratch { strip, totals } = scratch;
    let strip = &mut strip.as_mut_slice()[..strips.bytes];
    let totals = &mut totals[..inputs.rows * 2 * rows];
    for first in panels.clone().step_by(2) {
        // Where there is no second panel the first passes for it, and its results are dropped.
        let second = if first + 1 < panels.end { first + 1 } else { first };
        let pair = [first, second].map(|panel| matrix.panel(panel));
        let filled = first * rows..(second + 1) * rows;
        // SAFETY: no other task has these panels together with these tokens.
        let destination = unsafe { Destination::new(output, tokens.start, filled) };
        for start in (0..columns).step_by(step) {
            let range = start..columns.min(start + step);
            strips.unpack(pair, columns, range.clone(), strip);
            strips.multiply(strip, columns, range, inputs, totals, &destination);
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const { RefCell::new(Scratch::new()) };
}

/// A thread's memory for unpacked weights and for sums, kept from one product to the next.
struct Scratch {
    strip: AlignedBytes,
    totals: Vec<f32>,
}

impl Scratch {
    const fn new() -> Self {
        Self { strip: AlignedBytes::empty(), totals: Vec::new() }
    }

    fn reserve(&mut self, bytes: usize, totals: usize) {
        self.strip.reserve(bytes);
        if self.totals.len() < totals {
            self.totals.resize(totals, 0.0);
        }
    }
}

/// Cuts tokens into tiles of at most `largest`, as equal as can be, larger ones first.
pub(super) fn tiles(tokens: Range<usize>, largest: usize) -> impl Iterator<Item = Range<usize>> {
    let count = tokens.len().div_ceil(largest);
    let (least, more) = (tokens.len() / count.max(1), tokens.len() % count.max(1));
    let mut start = tokens.start;
    (0..count).map(move |index| {
        let tile = start..start + least + usize::from(index < more);
        start = tile.end;
        tile
    })
}
