//! Splits a step into kernel calls for the threads, and puts their results together.

use std::cell::RefCell;
use std::ops::Range;

use super::work::{KEY_BLOCK, Partial, Scratch, Work, parts};
use super::{AttentionItem, Kernels, Step, stream, tile};
use crate::kernels::dispatch::for_each_instruction_set;
use crate::kernels::prefetch::prefetch;
use crate::kernels::shared::Shared;
use crate::support::team::Team;

/// Steps with fewer multiplications than this are not worth other threads.
const SERIAL_BELOW: usize = 1 << 18;

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
/// How a sequence is split changes no bit of a result: both kernels do the same operations in the same
/// order, and parts begin at fixed positions.
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
                if !is_split || parts(task.blocks.clone()).count() == 1 {
                    tasks.push(task);
                    continue;
                }
                for blocks in parts(task.blocks) {
                    let rows = task.rows.clone();
                    let partial = Some(partial_length);
                    partial_length += rows.len() * Partial::length(shape.head_size);
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
        let kernel =
            if work.rows.len() <= stream::MAX_ROWS { kernels.stream } else { kernels.tile };
        // SAFETY: the caller's.
        unsafe { kernel(&work, scratch) };
        let partials = &scratch.rows.partials;
        if let Some(first) = task.partial {
            // SAFETY: the task's place among the partial results, which is its own.
            let target = unsafe { self.partials.slice(first..first + partials.len()) };
            target.copy_from_slice(partials);
            return;
        }
        for (partial, row) in partials.chunks_exact(Partial::length(size)).zip(work.rows.clone()) {
            // SAFETY: as above.
            let target = unsafe { self.output.slice(place_of(row)) };
            finish(step, &work, row, partial, target);
        }
    }
}

/// A row's output from the result of all of its parts.
fn finish(step: Step<'_>, work: &Work<'_>, row: usize, partial: &[f32], output: &mut [f32]) {
    let (sums, &[maximum, total]) = partial.split_last_chunk().expect("it has two values at least");
    scale_row(sums, 1.0 / (total + sink(step, work, row, maximum)), output);
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
fn merge(step: Step<'_>, tasks: &[Task], partials: &mut [f32], output: &mut [f32]) {
    let size = step.layer.shape.head_size;
    let length = Partial::length(size);
    let same_rows = |one: &Task, next: &Task| {
        (one.item, one.kv_head, one.rows.start) == (next.item, next.kv_head, next.rows.start)
    };
    for group in tasks.chunk_by(same_rows) {
        let Some(first) = group[0].partial else { continue };
        let work = group[0].work(step);
        // A group's partial results follow each other.
        let partials = &mut partials[first..][..group.len() * work.rows.len() * length];
        let (sums, others) = partials.split_at_mut(work.rows.len() * length);
        for part in others.chunks_exact(work.rows.len() * length) {
            for (sum, part) in sums.chunks_exact_mut(length).zip(part.chunks_exact(length)) {
                Partial::add(sum, &part[..size], part[size], part[size + 1]);
            }
        }
        for (partial, row) in sums.chunks_exact(length).zip(work.rows.clone()) {
            let output = &mut output[offset(&work, row)..][..size];
            finish(step, &work, row, partial, output);
        }
    }
}
