//! Splits a step into kernel calls for the threads, and puts their results together.

use std::cell::RefCell;
use std::ops::Range;

use rayon::prelude::*;

use super::work::{KEY_BLOCK, Scratch, Work, visible};
use super::{AttentionItem, AttentionShape, Kernels, stream, tile};

/// Steps with fewer multiplications than this are not worth waking other threads for.
const SERIAL_BELOW: usize = 1 << 18;

/// Tasks a thread, so that a thread that falls behind can be helped.
const TASKS_PER_THREAD: usize = 4;

/// Keys of a part when a sequence is split along its keys, at least.
const KEYS_PER_PART: usize = 256;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A kernel call. Calls with the same item, head and rows are neighbours.
#[derive(Debug)]
struct Task<'a> {
    work: Work<'a>,
    /// Where in the buffer of partial results its own go; `None` if it covers all keys.
    partial: Option<usize>,
}

impl Task<'_> {
    /// f32 values of its partial result: each row's sums, maximum and total.
    fn partial_length(&self) -> usize {
        self.work.rows.len() * (self.work.shape.head_size + 2)
    }
}

/// See [`super::attention`].
pub(super) fn attention(
    kernels: &Kernels,
    shape: AttentionShape,
    queries: &[f32],
    items: &[AttentionItem<'_>],
    output: &mut [f32],
) {
    let multiplications: usize = items
        .iter()
        .map(|item| item.queries.len() * item.context())
        .sum::<usize>()
        .saturating_mul(shape.heads * shape.head_size);
    let serial = multiplications < SERIAL_BELOW;
    let wanted = if serial { 1 } else { rayon::current_num_threads() * TASKS_PER_THREAD };
    let (tasks, partial_length) = plan(kernels, shape, queries, items, wanted);
    let mut partials = vec![0.0; partial_length];
    let targets = Targets { output: output.as_mut_ptr(), partials: partials.as_mut_ptr() };
    let run = |task: &Task<'_>| {
        SCRATCH.with_borrow_mut(|scratch| {
            // SAFETY: `plan` made tasks that fit the kernels and do not overlap, `super::check`
            // checked the lengths, and the kernels are those of an instruction set that is there.
            unsafe { targets.run(kernels, task, scratch) }
        });
    };
    if serial {
        tasks.iter().for_each(run);
    } else {
        tasks.par_iter().with_max_len(1).for_each(run);
    }
    merge(&tasks, &partials, output);
}

/// The step's tasks, at least `wanted` of them if the keys are long enough, and how many values
/// their partial results take.
fn plan<'a>(
    kernels: &Kernels,
    shape: AttentionShape,
    queries: &'a [f32],
    items: &'a [AttentionItem<'a>],
    wanted: usize,
) -> (Vec<Task<'a>>, usize) {
    let rows = |item: &AttentionItem<'_>| item.queries.len() * (shape.heads / shape.kv_heads);
    let count_tiles = |panels: usize| -> usize {
        items.iter().map(|item| row_tiles(kernels, rows(item), panels).count()).sum()
    };
    // Tall tiles where there are enough of them all the same.
    let panels = count_tiles(1) * shape.kv_heads / wanted;
    let panels = panels.clamp(1, tile::MAX_PANELS);
    let tiles = count_tiles(panels);
    let parts = wanted.div_ceil((tiles * shape.kv_heads).max(1));
    let mut tasks = Vec::new();
    let mut partial_length = 0;
    for item in items {
        for kv_head in 0..shape.kv_heads {
            for rows in row_tiles(kernels, rows(item), panels) {
                let work = Work { shape, queries, item, kv_head, rows, keys: 0..0 };
                let seen = visible(item, (work.rows.end - 1) / work.group());
                let length = seen.div_ceil(parts).max(KEYS_PER_PART).next_multiple_of(KEY_BLOCK);
                for start in (0..seen).step_by(length) {
                    let keys = start..seen.min(start + length);
                    let mut task = Task { work: Work { keys, ..work.clone() }, partial: None };
                    if length < seen {
                        task.partial = Some(partial_length);
                        partial_length += task.partial_length();
                    }
                    tasks.push(task);
                }
            }
        }
    }
    (tasks, partial_length)
}

/// Cuts rows into stretches of about the same number of registers: what the stream kernel can
/// take, or tiles of at most `panels` panels.
fn row_tiles(
    kernels: &Kernels,
    rows: usize,
    panels: usize,
) -> impl Iterator<Item = Range<usize>> + use<> {
    let step = if rows <= stream::MAX_ROWS {
        rows.max(1)
    } else {
        let vectors = rows.div_ceil(kernels.lanes);
        vectors.div_ceil(vectors.div_ceil(tile::PANEL_VECTORS * panels)) * kernels.lanes
    };
    (0..rows).step_by(step).map(move |start| start..rows.min(start + step))
}

/// Where tasks leave their results.
struct Targets {
    output: *mut f32,
    partials: *mut f32,
}

// SAFETY: tasks write disjoint places, and nobody reads before all are done.
unsafe impl Sync for Targets {}

impl Targets {
    /// # Safety
    /// The kernels' instruction set; a task of [`plan`], whose places no other thread uses now.
    unsafe fn run(&self, kernels: &Kernels, task: &Task<'_>, scratch: &mut Scratch) {
        let work = &task.work;
        let size = work.shape.head_size;
        let kernel =
            if work.rows.len() <= stream::MAX_ROWS { kernels.stream } else { kernels.tile };
        // SAFETY: the caller's.
        unsafe { kernel(work, scratch) };
        for (index, row) in work.rows.clone().enumerate() {
            let sums = &scratch.sums[index * scratch.padded..][..size];
            let (maximum, total) = (scratch.maxima[index], scratch.totals[index]);
            // SAFETY: the row's place in the output, or the task's place among the partial
            // results, both within their buffers and this task's own.
            unsafe {
                match task.partial {
                    None => {
                        let target = self.output.add(work.offset(row));
                        let target = std::slice::from_raw_parts_mut(target, size);
                        for (target, sum) in target.iter_mut().zip(sums) {
                            *target = sum / total;
                        }
                    }
                    Some(place) => {
                        let target = self.partials.add(place + index * (size + 2));
                        let target = std::slice::from_raw_parts_mut(target, size + 2);
                        target[..size].copy_from_slice(sums);
                        target[size..].copy_from_slice(&[maximum, total]);
                    }
                }
            }
        }
    }
}

/// Adds up the partial results of the tasks that share their rows.
fn merge(tasks: &[Task<'_>], partials: &[f32], output: &mut [f32]) {
    let partial_tasks = tasks.iter().filter_map(|task| Some((&task.work, task.partial?)));
    let partial_tasks: Vec<_> = partial_tasks.collect();
    // A stretch of the same rows begins where the keys begin.
    for group in partial_tasks.chunk_by(|_, next| next.0.keys.start > 0) {
        let work = group[0].0;
        let size = work.shape.head_size;
        for (index, row) in work.rows.clone().enumerate() {
            let parts = || {
                group.iter().map(|(_, place)| {
                    let part = &partials[place + index * (size + 2)..][..size + 2];
                    (&part[..size], part[size], part[size + 1])
                })
            };
            let maximum = parts().map(|(_, maximum, _)| maximum).fold(f32::MIN, f32::max);
            let total: f32 = parts()
                .map(|(_, part_maximum, total)| total * (part_maximum - maximum).exp2())
                .sum();
            let output = &mut output[work.offset(row)..][..size];
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
