//! Who multiplies what: the division of a product into tasks.

use std::cell::RefCell;
use std::ops::Range;

use super::activations::Prepared;
use super::kernel::{MAX_TILE, Strips};
use super::memory::AlignedBytes;
use super::panel::{FLOAT_ROWS, QUANTIZED_ROWS};
use super::shared::Shared;
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

/// Matrices that can be multiplied together.
pub(super) const MAX_MATRICES: usize = 8;

/// Divides the product and runs it; lengths have been checked.
pub(super) fn multiply(
    team: &Team,
    matrices: &[&PackedMatrix],
    source: &Source<'_>,
    targets: &mut [Target<'_>],
    workspace: &mut Workspace,
) {
    let set = matrices[0].set;
    let wanted = |kind| matrices.iter().any(|matrix| matrix.kernel.activations == kind);
    let inputs = Inputs::prepare(team, set, source, wanted, workspace);
    let mut outputs = [const { None }; MAX_MATRICES];
    for (output, target) in outputs.iter_mut().zip(targets) {
        let Target { values, bias, add } = target;
        *output = Some(Output { values: Shared::of(values), bias: *bias, add: *add });
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
    match &matrix.kernel.strips {
        Some(strips) if tokens.len() > matrix.kernel.tile && matrix.columns > 0 => {
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
    let mut totals = [0.0; MAX_TILE * FLOAT_ROWS];
    for panel in panels {
        for tile in tiles(tokens.clone(), matrix.kernel.tile) {
            let totals = &mut totals[..tile.len() * rows];
            let inputs = inputs.tokens(tile.clone());
            matrix.kernel.multiply(matrix.panel(panel), matrix.columns, inputs, totals);
            for (token, totals) in tile.zip(totals.chunks_exact(rows)) {
                output.put(matrix, token, panel, totals);
            }
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
    let count = columns.div_ceil(strips.columns);
    // Sums wait for the next columns; where there are none, they go to the output at once.
    let kept = if count > 1 { tokens.len() } else { MAX_TILE };
    scratch.reserve(strips.bytes, kept * 2 * rows);
    let strip = &mut scratch.strip.as_mut_slice()[..strips.bytes];
    for first in panels.clone().step_by(2) {
        // Where there is no second panel the first passes for it, and the results are dropped.
        let second = if first + 1 < panels.end { first + 1 } else { first };
        let pair = [first, second].map(|panel| matrix.panel(panel));
        for (index, start) in (0..columns).step_by(strips.columns).enumerate() {
            let range = start..columns.min(start + strips.columns);
            strips.unpack(pair, columns, range.clone(), strip);
            for tile in tiles(tokens.clone(), strips.tile) {
                let at = if count > 1 { tile.start - tokens.start } else { 0 };
                let totals = &mut scratch.totals[at * 2 * rows..][..tile.len() * 2 * rows];
                let inputs = inputs.tokens(tile.clone());
                strips.multiply(strip, columns, range.clone(), inputs, totals);
                if index + 1 < count {
                    continue;
                }
                for (token, totals) in tile.zip(totals.chunks_exact(2 * rows)) {
                    let (low, high) = totals.split_at(rows);
                    output.put(matrix, token, first, low);
                    if second > first {
                        output.put(matrix, token, second, high);
                    }
                }
            }
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
        if self.strip.as_slice().len() < bytes {
            self.strip = AlignedBytes::zeroed(bytes);
        }
        if self.totals.len() < totals {
            self.totals.resize(totals, 0.0);
        }
    }
}

/// Cuts tokens into tiles of at most so many, as equal as can be.
fn tiles(tokens: Range<usize>, largest: usize) -> impl Iterator<Item = Range<usize>> {
    let (start, total) = (tokens.start, tokens.len());
    let count = total.div_ceil(largest);
    (0..count).map(move |index| {
        let part = part(total, count, index);
        start + part.start..start + part.end
    })
}

/// A target that several threads write to.
struct Output<'a> {
    values: Shared<'a, f32>,
    bias: Option<&'a [f32]>,
    add: bool,
}

impl Output<'_> {
    /// Writes a token's sums over the rows of a panel. No other task has this token with this panel.
    fn put(&self, matrix: &PackedMatrix, token: usize, panel: usize, sums: &[f32]) {
        let first = panel * matrix.kernel.panel_rows;
        let rows = matrix.kernel.panel_rows.min(matrix.rows - first);
        let at = token * matrix.rows + first;
        // SAFETY: no other task has these rows of this token.
        let values = unsafe { self.values.slice(at..at + rows) };
        let bias = self.bias.map(|bias| &bias[first..first + rows]);
        // Whole panels are a few registers, not a loop.
        if let (Some(values), Some(sums)) =
            (values.as_mut_array::<QUANTIZED_ROWS>(), sums.as_array::<QUANTIZED_ROWS>())
        {
            put(values, sums, bias, self.add);
        } else if let (Some(values), Some(sums)) =
            (values.as_mut_array::<FLOAT_ROWS>(), sums.as_array::<FLOAT_ROWS>())
        {
            put(values, sums, bias, self.add);
        } else {
            put(values, &sums[..rows], bias, self.add);
        }
    }
}

/// `values = sums + bias`, on top of what they were if `add`.
#[inline(always)]
fn put(values: &mut [f32], sums: &[f32], bias: Option<&[f32]>, add: bool) {
    match (bias, add) {
        (None, false) => values.copy_from_slice(sums),
        (None, true) => {
            for (value, sum) in values.iter_mut().zip(sums) {
                *value += sum;
            }
        }
        (Some(bias), false) => {
            for ((value, sum), bias) in values.iter_mut().zip(sums).zip(bias) {
                *value = sum + bias;
            }
        }
        (Some(bias), true) => {
            for ((value, sum), bias) in values.iter_mut().zip(sums).zip(bias) {
                *value += sum + bias;
            }
        }
    }
}
