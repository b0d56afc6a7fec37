//! Splits a step into kernel calls for the threads, and puts their results together.

use std::cell::RefCell;
use std::ops::Range;

use super::work::{KEY_BLOCK, Scratch, Work};
use super::{AttentionItem, Kernels, Step, stream, tile};
use crate::kernels::dispatch::for_each_instruction_set;
use crate::kernels::prefetch::prefetch;
use crate::kernels::shared::Shared;
use crate::support::team::Team;

/// Steps with fewer multiplications than this are not worth other threads.
const SERIAL_BELOW: usize = 1 << 18;

/// Blocks of keys of a part when a sequence is split along its keys: parts that take several times as
/// long as handing one out, and enough of them for the threads.
const BLOCKS_PER_PART: usize = 8;

/// How many stretches of neighbouring parts a thread gets, about. A thread that goes on with the next
/// part finds its first keys and values fetched already; with more stretches, threads end together.
const STRETCHES_PER_THREAD: usize = 8;

/// Tiles of rows from which on there are tasks enough without a split along the keys.
const TILES_FOR_ALL: usize = 3;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Memory that one call of [`super::attention`] after the other uses again.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    tasks: Vec<Task>,
    stretches: Vec<Range<usize>>,
    partials: Vec<f32>,
    taken: Vec<bool>,
}

impl AttentionScratch {
    /// # Panics
    /// If ranges overlap, or reach beyond the rows.
    pub(super) fn claim_rows(&mut self, rows: usize, ranges: impl Iterator<Item = Range<usize>>) {
        self.taken.clear();
        self.taken.resize(rows, false);
        for range in ranges {
            for taken in &mut self.taken[range] {
                assert!(!*taken, "two items share a row");
                *taken = true;
            }
        }
    }
}

/// A kernel call. Calls with the same item, head and rows are neighbours.
#[derive(Debug)]
struct Task {
    item: usize,
    kv_head: usize,
    rows: Range<usize>,
    blocks: Range<usize>,
    /// Where in the buffer of partial results its own go; `None` if it covers all keys.
    partial: Option<usize>,
}

impl Task {
    fn work<'a>(&self, step: Step<'a>) -> Work<'a> {
        Work {
            shape: step.layer.shape,
            slot: step.layer.slot,
            queries: step.queries,
            item: &step.items[self.item],
            kv_head: self.kv_head,
            rows: self.rows.clone(),
            blocks: self.blocks.clone(),
        }
    }
}

/// See [`super::attention`].
pub(super) fn attention(
    kernels: &Kernels,
    team: &Team,
    step: Step<'_>,
    output: &mut [f32],
    scratch: &mut AttentionScratch,
) {
    let multiplications: usize = step
        .items
        .iter()
        .map(|item| item.queries.len() * item.context())
        .sum::<usize>()
        .saturating_mul(step.layer.shape.heads * step.layer.shape.head_size);
    let AttentionScratch { tasks, stretches, partials, .. } = scratch;
    let partial_length = plan(kernels, step, tasks);
    stretch(tasks, team.threads(), stretches);
    if partials.len() < partial_length {
        // Seldom, since it grows as contexts do.
        partials.resize(partial_length.next_power_of_two(), 0.0);
    }
    let targets = Targets { output: Shared::of(output), partials: Shared::of(partials) };
    let run = |index: usize| {
        SCRATCH.with_borrow_mut(|scratch| {
            for task in &tasks[stretches[index].clone()] {
                // SAFETY: `plan` made tasks that fit the kernels and do not overlap, `super::check`
                // checked the lengths, and the kernels are those of an instruction set that is
                // there.
                unsafe { targets.run(kernels, task, step, scratch) }
            }
        });
    };
    if multiplications < SERIAL_BELOW {
        (0..stretches.len()).for_each(run);
    } else {
        team.run(stretches.len(), run);
    }
    if partial_length > 0 {
        merge(step, tasks, partials, output);
    }
}

/// Makes the step's tasks, and returns how many values their partial results take.
///
/// How a sequence is split depends on nothing but itself: not on what is in the step beside it, and
/// not on the number of threads. Results then have the same bits whatever these are.
fn plan(kernels: &Kernels, step: Step<'_>, tasks: &mut Vec<Task>) -> usize {
    let shape = step.layer.shape;
    tasks.clear();
    let mut partial_length = 0;
    for (index, item) in step.items.iter().enumerate() {
        let rows = item.queries.len() * shape.group();
        let is_split = row_tiles(kernels, rows).count() < TILES_FOR_ALL;
        for kv_head in 0..shape.kv_heads {
            for rows in row_tiles(kernels, rows) {
                let task = Task { item: index, kv_head, rows, blocks: 0..0, partial: None };
                let visible = task.work(step).visible_to_any();
                let task = Task { blocks: blocks(item, visible), ..task };
                if !is_split || task.blocks.len() <= BLOCKS_PER_PART {
                    tasks.push(task);
                    continue;
                }
                for blocks in parts(task.blocks) {
                    let rows = task.rows.clone();
                    let partial = Some(partial_length);
                    partial_length += rows.len() * (shape.head_size + 2);
                    tasks.push(Task { rows, blocks, partial, ..task });
                }
            }
        }
    }
    partial_length
}

/// Cuts the tasks into what a thread takes at a time: several neighbouring parts of splits, or one
/// task that has all keys of its rows.
fn stretch(tasks: &[Task], threads: usize, stretches: &mut Vec<Range<usize>>) {
    let parts = tasks.iter().filter(|task| task.partial.is_some()).count();
    let length = (parts / (threads * STRETCHES_PER_THREAD)).max(1);
    stretches.clear();
    for (index, task) in tasks.iter().enumerate() {
        match stretches.last_mut() {
            Some(last)
                if task.partial.is_some()
                    && tasks[last.start].partial.is_some()
                    && last.len() < length =>
            {
                last.end = index + 1;
            }
            _ => stretches.push(index..index + 1),
        }
    }
}

/// Blocks in the parts of a split.
fn parts(blocks: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = blocks.end;
    blocks.step_by(BLOCKS_PER_PART).map(move |start| start..end.min(start + BLOCKS_PER_PART))
}

/// The blocks, counted over all spans, that hold these positions.
fn blocks(item: &AttentionItem<'_>, positions: Range<usize>) -> Range<usize> {
    let (mut first, mut end) = (0, 0);
    let (mut before, mut start) = (0, 0);
    for span in item.spans {
        let stop = start + span.length;
        if (start..stop).contains(&positions.start) {
            first = before + (positions.start - start) / KEY_BLOCK;
        }
        if start < positions.end {
            end = before + (positions.end.min(stop) - start).div_ceil(KEY_BLOCK);
        }
        before += span.length.div_ceil(KEY_BLOCK);
        start = stop;
    }
    first..end
}

/// Cuts rows into stretches of about the same number of registers: what the stream kernel can
/// take, or tiles.
fn row_tiles(kernels: &Kernels, rows: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let step = if rows <= stream::MAX_ROWS {
        rows.max(1)
    } else {
        let vectors = rows.div_ceil(kernels.lanes);
        vectors.div_ceil(vectors.div_ceil(tile::MAX_VECTORS)) * kernels.lanes
    };
    (0..rows).step_by(step).map(move |start| start..rows.min(start + step))
}

/// Where tasks leave their results.
struct Targets<'a> {
    output: Shared<'a, f32>,
    partials: Shared<'a, f32>,
}

impl Targets<'_> {
    /// # Safety
    /// The kernels' instruction set; a task of [`plan`], whose places no other thread uses now.
    unsafe fn run(&self, kernels: &Kernels, task: &Task, step: Step<'_>, scratch: &mut Scratch) {
        let work = task.work(step);
        let size = work.shape.head_size;
        let place_of = |row: usize| {
            let start = offset(&work, row);
            start..start + size
        };
        for row in work.rows.clone() {
            // Both are far apart, and the kernel takes its time over either.
            fetch(work.query(row));
            // SAFETY: the row's place in the output, which is this task's own.
            fetch(unsafe { self.output.slice(place_of(row)) });
        }
        // The same for all rows of an item, so that none has other bits for being in the last tile.
        let rows = work.item.queries.len() * work.group();
        let kernel = if rows <= stream::MAX_ROWS { kernels.stream } else { kernels.tile };
        // SAFETY: the caller's.
        unsafe { kernel(&work, scratch) };
        let rows = &scratch.rows;
        for (index, row) in work.rows.clone().enumerate() {
            let sums = &rows.sums[index * rows.padded..][..size];
            let (maximum, total) = (rows.maxima[index], rows.totals[index]);
            match task.partial {
                None => {
                    // SAFETY: as above.
                    let target = unsafe { self.output.slice(place_of(row)) };
                    scale_row(sums, 1.0 / (total + sink(step, &work, row, maximum)), target);
                }
                Some(first) => {
                    let start = first + index * (size + 2);
                    // SAFETY: the task's place among the partial results, which is its own.
                    let target = unsafe { self.partials.slice(start..start + size + 2) };
                    target[..size].copy_from_slice(sums);
                    target[size..].copy_from_slice(&[maximum, total]);
                }
            }
        }
    }
}

/// Fetches elements into the nearest cache.
fn fetch(elements: &[f32]) {
    for line in elements.chunks(16) {
        prefetch(line.as_ptr());
    }
}

for_each_instruction_set! {
    fn scale_row(source: &[f32], factor: f32, target: &mut [f32]) {
        for (target, source) in target.iter_mut().zip(source) {
            *target = source * factor;
        }
    }
}

/// What the sink of a row's head adds to the row's total weight, relative to 2^maximum.
fn sink(step: Step<'_>, work: &Work<'_>, row: usize, maximum: f32) -> f32 {
    step.layer.sinks.map_or(0.0, |sinks| {
        let sink = sinks[work.token_and_head(row).1];
        (sink * std::f32::consts::LOG2_E - maximum).exp2()
    })
}

/// Where a row's values begin in the output matrix.
fn offset(work: &Work<'_>, row: usize) -> usize {
    let (token, head) = work.token_and_head(row);
    (token * work.shape.heads + head) * work.shape.head_size
}

/// Adds up the partial results of the tasks that share their rows.
fn merge(step: Step<'_>, tasks: &[Task], partials: &[f32], output: &mut [f32]) {
    let size = step.layer.shape.head_size;
    let same_rows = |one: &Task, next: &Task| {
        (one.item, one.kv_head, one.rows.start) == (next.item, next.kv_head, next.rows.start)
    };
    for group in tasks.chunk_by(same_rows) {
        let Some(first) = group[0].partial else { continue };
        let work = group[0].work(step);
        let rows = work.rows.len();
        // A group's partial results follow each other.
        let partials = &partials[first..][..group.len() * rows * (size + 2)];
        for (index, row) in work.rows.clone().enumerate() {
            let parts = || {
                partials.chunks_exact(rows * (size + 2)).map(|part| {
                    let part = &part[index * (size + 2)..][..size + 2];
                    (&part[..size], part[size], part[size + 1])
                })
            };
            let maximum = parts().map(|(_, maximum, _)| maximum).fold(f32::MIN, f32::max);
            let total: f32 = parts()
                .map(|(_, part_maximum, total)| total * (part_maximum - maximum).exp2())
                .sum();
            let total = total + sink(step, &work, row, maximum);
            let output = &mut output[offset(&work, row)..][..size];
            output.fill(0.0);
            for (sums, part_maximum, _) in parts() {
                let factor = (part_maximum - maximum).exp2() / total;
                for (output, sum) in output.iter_mut().zip(sums) {
                    *output += sum * factor;
                }
            }
        }
    }
}
