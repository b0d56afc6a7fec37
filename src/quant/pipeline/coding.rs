//! Coding all tensors of a model: each thread takes the next task, codes it and writes the result to
//! its place in the output. Nothing waits for anything else, and no thread holds more than a task.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Thread;
use std::time::Duration;

use super::{QuantizeError, WeightPosition};
use crate::gguf::{GgmlType, GgufError, GgufWriter, TensorInfo};
use crate::quant::formats::{self, CodecError};
use crate::quant::source::TensorSource;
use crate::support::interrupt;
use crate::support::progress::{Progress, Unit};

/// Weights of a task; with importance, as many whole rows as fit, or one row that does not. A
/// multiple of every format's block.
const TASK_WEIGHTS: usize = 1 << 18;
/// Weights that are coded at a time where importance weighs them: their f32 values stay in a core's
/// cache.
const CHUNK_WEIGHTS: usize = 1 << 14;
/// Bytes of a tensor that is copied as it is.
const TASK_BYTES: usize = 1 << 20;

/// Around a page that is looked at, the system maps up to this many bytes that are in memory anyway:
/// looking at a task's first bytes may bring back the last ones of the task before.
const MAPPED_AROUND: usize = 64 << 10;

/// Written bytes that may wait for the disk before they are pushed there.
const UNSYNCED_BYTES: usize = 64 << 20;
/// How often it is looked whether there are so many.
const SYNC_INTERVAL: Duration = Duration::from_millis(10);

/// What is done with one tensor.
#[derive(Debug)]
pub(super) struct TensorJob<'a> {
    /// Its place in the source.
    pub source_index: usize,
    /// What the source says of it.
    pub tensor: &'a TensorInfo,
    /// The type that it gets.
    pub format: GgmlType,
    /// What each column matters, expert after expert.
    pub importance: Option<&'a [f32]>,
}

impl TensorJob<'_> {
    /// Whether the tensor's bytes stay as they are and are not looked into. Floats that keep their
    /// type are coded all the same, as that is where NaN is found.
    fn is_copy(&self) -> bool {
        let source = self.tensor.ggml_type;
        self.format == source && (source.block_size() > 1 || !formats::can_quantize(source))
    }

    /// The importance, if the format heeds it.
    fn heeded_importance(&self) -> Option<&[f32]> {
        self.importance.filter(|_| !self.is_copy() && formats::heeds_importance(self.format))
    }

    /// Elements of a task: bytes of a tensor that is copied, else weights.
    fn task_size(&self) -> usize {
        let columns = self.tensor.columns();
        if self.is_copy() {
            TASK_BYTES
        } else if self.heeded_importance().is_some() {
            (TASK_WEIGHTS / columns).max(1) * columns
        } else {
            TASK_WEIGHTS
        }
    }

    fn size(&self) -> usize {
        if self.is_copy() { self.tensor.bytes() as usize } else { self.tensor.weights() as usize }
    }

    /// The source's bytes that hold these elements.
    fn input(&self, elements: &Range<usize>) -> Range<usize> {
        if self.is_copy() { elements.clone() } else { bytes_of(self.tensor.ggml_type, elements) }
    }

    fn tasks(&self) -> usize {
        self.size().div_ceil(self.task_size())
    }
}

/// Codes and writes every job's tensor; `jobs` has the order of the writer's plan. Works on the
/// current rayon pool.
pub(super) fn write_tensors(
    source: &dyn TensorSource,
    jobs: &[TensorJob<'_>],
    writer: &GgufWriter,
) -> Result<(), QuantizeError> {
    let total = jobs.iter().map(|job| job.tensor.bytes()).sum();
    let progress = Progress::new("quantizing", total, Unit::Bytes);
    let work = Work::new(source, jobs, writer, &progress);
    let result = std::thread::scope(|scope| {
        let pusher = scope.spawn(|| work.push_to_disk());
        let over = Over { flag: &work.is_over, waiting: pusher.thread() };
        rayon::broadcast(|_| work.run());
        drop(over);
        pusher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    progress.finish();
    match work.into_failure() {
        Some(failure) => Err(failure),
        None => Ok(result?),
    }
}

/// Tells a thread that the work is over, even when it ends in a panic.
struct Over<'a> {
    flag: &'a AtomicBool,
    waiting: &'a Thread,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.flag.store(true, Ordering::Release);
        self.waiting.unpark();
    }
}

/// All tasks, and what the threads that do them share.
struct Work<'a> {
    source: &'a dyn TensorSource,
    jobs: &'a [TensorJob<'a>],
    writer: &'a GgufWriter,
    progress: &'a Progress,
    /// The number of the first task after each job.
    ends: Vec<usize>,
    next_task: AtomicUsize,
    written: AtomicUsize,
    is_over: AtomicBool,
    has_failed: AtomicBool,
    /// The failure of the earliest task that failed.
    failure: Mutex<Option<(usize, QuantizeError)>>,
}

/// A thread's buffers.
#[derive(Default)]
struct Buffers {
    input: Vec<u8>,
    weights: Vec<f32>,
    output: Vec<u8>,
}

impl<'a> Work<'a> {
    fn new(
        source: &'a dyn TensorSource,
        jobs: &'a [TensorJob<'a>],
        writer: &'a GgufWriter,
        progress: &'a Progress,
    ) -> Self {
        let ends = jobs
            .iter()
            .scan(0, |end, job| {
                *end += job.tasks();
                Some(*end)
            })
            .collect();
        Self {
            source,
            jobs,
            writer,
            progress,
            ends,
            next_task: AtomicUsize::new(0),
            written: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            failure: Mutex::new(None),
        }
    }

    /// Does tasks until there are none left or one has failed. Tasks are taken in order, so those
    /// before a failed one are done or being done: the earliest failure is always the same.
    fn run(&self) {
        let mut buffers = Buffers::default();
        while !self.has_failed.load(Ordering::Relaxed) {
            let task = self.next_task.fetch_add(1, Ordering::Relaxed);
            let Some((index, elements)) = self.elements(task) else { return };
            // Each thread's next task will be about so many tasks later.
            if let Some((index, elements)) = self.elements(task + rayon::current_num_threads()) {
                let job = &self.jobs[index];
                self.source.expect(job.source_index, job.input(&elements));
            }
            if let Err(failure) = self.run_task(index, elements, &mut buffers) {
                self.has_failed.store(true, Ordering::Relaxed);
                let mut earliest = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                if earliest.as_ref().is_none_or(|(earliest, _)| task < *earliest) {
                    *earliest = Some((task, failure));
                }
            }
        }
    }

    /// A task's job and elements; `None` after the last task.
    fn elements(&self, task: usize) -> Option<(usize, Range<usize>)> {
        let index = self.ends.partition_point(|&end| end <= task);
        let job = self.jobs.get(index)?;
        let first_task = if index == 0 { 0 } else { self.ends[index - 1] };
        let start = (task - first_task) * job.task_size();
        Some((index, start..job.size().min(start + job.task_size())))
    }

    fn into_failure(self) -> Option<QuantizeError> {
        self.failure.into_inner().unwrap_or_else(PoisonError::into_inner).map(|(_, error)| error)
    }

    fn run_task(
        &self,
        index: usize,
        elements: Range<usize>,
        buffers: &mut Buffers,
    ) -> Result<(), QuantizeError> {
        interrupt::check()?;
        let job = &self.jobs[index];
        if elements.start == 0 {
            self.progress.message(&job.tensor.name);
            // Its neighbours' reads may have mapped some of a tensor again; by now it is done.
            if let Some(done) = index.checked_sub(2).map(|index| &self.jobs[index]) {
                self.source.release(done.source_index, 0..done.tensor.bytes() as usize);
            }
        }
        let input = job.input(&elements);
        let place = if job.is_copy() { input.clone() } else { bytes_of(job.format, &elements) };
        let bytes = self.source.bytes(job.source_index, input.clone(), &mut buffers.input);
        let output = if job.is_copy() {
            bytes
        } else {
            code(job, elements, bytes, &mut buffers.weights, &mut buffers.output)
                .map_err(|failure| self.refusal(job, failure))?;
            &buffers.output
        };
        self.writer.write_at(index, place.start as u64, output)?;
        self.written.fetch_add(place.len(), Ordering::Relaxed);
        self.progress.advance(input.len() as u64);
        let start = input.start.saturating_sub(MAPPED_AROUND);
        self.source.release(job.source_index, start..input.end);
        Ok(())
    }

    fn refusal(&self, job: &TensorJob<'_>, Failure { first, error }: Failure) -> QuantizeError {
        let path = self.source.path();
        if let CodecError::NotFinite { index, .. } = error
            && let Some(value) = self.source.overflowed(job.source_index, first + index)
        {
            return QuantizeError::Overflow {
                path: path.to_path_buf(),
                tensor: job.tensor.name.clone(),
                position: WeightPosition::of(job.tensor, first + index),
                value,
            };
        }
        QuantizeError::of_tensor(path, job.tensor, first, error)
    }

    /// Pushes what has been written to the disk while the others go on, so that closing the file
    /// need not wait for all of it.
    fn push_to_disk(&self) -> Result<(), GgufError> {
        let mut synced = 0;
        while !self.is_over.load(Ordering::Acquire) {
            std::thread::park_timeout(SYNC_INTERVAL);
            let written = self.written.load(Ordering::Relaxed);
            if written - synced >= UNSYNCED_BYTES {
                if let Err(error) = self.writer.sync() {
                    // Nothing more needs to be coded for a disk that does not take it.
                    self.has_failed.store(true, Ordering::Relaxed);
                    return Err(error);
                }
                synced = written;
            }
        }
        Ok(())
    }
}

/// The bytes that weights take; both ends are whole blocks.
fn bytes_of(ggml_type: GgmlType, weights: &Range<usize>) -> Range<usize> {
    let bytes = |weights: usize| weights / ggml_type.block_size() * ggml_type.block_bytes();
    bytes(weights.start)..bytes(weights.end)
}

/// A codec's refusal.
struct Failure {
    /// The number in the tensor of the first of the weights that were coded.
    first: usize,
    error: CodecError,
}

/// Codes some of a tensor's weights, which `input` holds.
fn code(
    job: &TensorJob<'_>,
    weights: Range<usize>,
    input: &[u8],
    values: &mut Vec<f32>,
    output: &mut Vec<u8>,
) -> Result<(), Failure> {
    output.resize(bytes_of(job.format, &weights).len(), 0);
    match job.heeded_importance() {
        Some(importance) => code_weighted(job, importance, weights, input, values, output),
        None => formats::requantize(job.tensor.ggml_type, input, job.format, output)
            .map_err(|error| Failure { first: weights.start, error }),
    }
}

/// Codes whole rows, some at a time, by the importance that their expert's columns have.
fn code_weighted(
    job: &TensorJob<'_>,
    importance: &[f32],
    weights: Range<usize>,
    input: &[u8],
    values: &mut Vec<f32>,
    output: &mut [u8],
) -> Result<(), Failure> {
    let (source, target) = (job.tensor.ggml_type, job.format);
    let columns = job.tensor.columns();
    let chunk = (CHUNK_WEIGHTS / columns).max(1) * columns;
    let mut start = 0;
    while start < weights.len() {
        let first = weights.start + start;
        let end_of_expert = job.end_of_expert(first) - weights.start;
        let end = weights.len().min(start + chunk).min(end_of_expert);
        let importance = &importance[job.expert_of(first) * columns..][..columns];
        let output = &mut output[bytes_of(target, &(start..end))];
        values.resize(end - start, 0.0);
        formats::dequantize_row(source, &input[bytes_of(source, &(start..end))], values)
            .and_then(|()| formats::quantize_weighted(target, values, importance, output))
            .map_err(|error| Failure { first, error })?;
        start = end;
    }
    Ok(())
}

impl TensorJob<'_> {
    fn weights_of_expert(&self) -> usize {
        self.tensor.dimensions.iter().take(2).map(|&length| length as usize).product()
    }

    fn expert_of(&self, weight: usize) -> usize {
        weight / self.weights_of_expert()
    }

    /// The first weight after the expert that a weight belongs to.
    fn end_of_expert(&self, weight: usize) -> usize {
        (self.expert_of(weight) + 1) * self.weights_of_expert()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::gguf::{GgufFile, Metadata, TensorPlan};

    /// A file with tensors of F32 weights that look random.
    fn model(path: &Path, shapes: &[&[u64]]) -> GgufFile {
        let plan = |(index, dimensions): (usize, &&[u64])| TensorPlan {
            name: format!("blk.{index}.ffn_up_exps.weight"),
            dimensions: dimensions.to_vec(),
            ggml_type: GgmlType::F32,
        };
        let plans: Vec<_> = shapes.iter().enumerate().map(plan).collect();
        let mut writer = GgufWriter::create(path, &Metadata::new(), plans).unwrap();
        for dimensions in shapes {
            writer.write(&bytes(&values(dimensions.iter().product::<u64>() as usize))).unwrap();
        }
        writer.finish().unwrap();
        GgufFile::open(path).unwrap()
    }

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|index| ((index * 7919 % 1013) as f32 - 506.0) / 300.0).collect()
    }

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn write(
        file: &GgufFile,
        output: &Path,
        jobs: &[TensorJob<'_>],
    ) -> Result<GgufFile, QuantizeError> {
        let plan = |job: &TensorJob<'_>| TensorPlan {
            ggml_type: job.format,
            ..TensorPlan::of(job.tensor)
        };
        let plans = jobs.iter().map(plan).collect();
        let writer = GgufWriter::create(output, &Metadata::new(), plans)?;
        write_tensors(file, jobs, &writer)?;
        writer.finish()?;
        Ok(GgufFile::open(output)?)
    }

    #[test]
    fn rows_are_weighed_by_their_experts_importance_and_never_torn() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        // Rows of which many make a task, of which few do, and that are longer than a task; and
        // experts that end within a chunk.
        let shapes: [&[u64]; 5] = [
            &[256, 700, 3],
            &[1 << 15, 11],
            &[TASK_WEIGHTS as u64 + 512, 2],
            &[512, 5, 7],
            &[256, 3, 2, 5],
        ];
        let file = model(&at("in.gguf"), &shapes);
        let importance: Vec<Vec<f32>> = shapes
            .iter()
            .map(|shape| {
                let count = shape[0] * shape.iter().skip(2).product::<u64>();
                (0..count).map(|index| 0.1 + (index * 31 % 17) as f32).collect()
            })
            .collect();
        for format in [GgmlType::Q4_K, GgmlType::Q5_0, GgmlType::Q8_0] {
            let jobs: Vec<TensorJob<'_>> = file
                .tensors()
                .iter()
                .enumerate()
                .map(|(source_index, tensor)| TensorJob {
                    source_index,
                    tensor,
                    format,
                    importance: Some(&importance[source_index]),
                })
                .collect();
            let made = write(&file, &at("out.gguf"), &jobs).unwrap();
            for (job, importance) in jobs.iter().zip(&importance) {
                let columns = job.tensor.columns();
                let values = values(job.tensor.weights() as usize);
                let mut expected = vec![0; bytes_of(format, &(0..values.len())).len()];
                let row_bytes = format.row_bytes(columns).unwrap();
                let rows = values.chunks(columns).zip(expected.chunks_mut(row_bytes));
                for (row, (values, expected)) in rows.enumerate() {
                    let expert = row / job.tensor.dimensions[1] as usize;
                    let importance = &importance[expert * columns..][..columns];
                    formats::quantize_weighted(format, values, importance, expected).unwrap();
                }
                let found = made.tensor_bytes(made.tensor(&job.tensor.name).unwrap());
                assert!(found == expected, "{format} {:?}", job.tensor.dimensions);
            }
        }
    }

    #[test]
    fn the_first_weight_that_cannot_be_coded_is_named_whoever_finds_it() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let shape: &[u64] = &[256, 4096, 2];
        let file = model(&at("good.gguf"), &[shape]);
        let tensor = &file.tensors()[0];
        let mut weights = values(tensor.weights() as usize);
        for (row, column, value) in [(8000, 3, f32::NAN), (4100, 77, f32::INFINITY)] {
            weights[row * 256 + column] = value;
        }
        let mut writer =
            GgufWriter::create(&at("bad.gguf"), &Metadata::new(), vec![TensorPlan::of(tensor)])
                .unwrap();
        writer.write(&bytes(&weights)).unwrap();
        writer.finish().unwrap();
        let file = GgufFile::open(&at("bad.gguf")).unwrap();
        for format in [GgmlType::Q4_0, GgmlType::F16, GgmlType::F32] {
            let tensor = &file.tensors()[0];
            let job = TensorJob { source_index: 0, tensor, format, importance: None };
            let error = write(&file, &at("out.gguf"), &[job]).unwrap_err().to_string();
            assert!(error.contains("expert 1, row 4, column 77: "), "{error}");
            assert!(!at("out.gguf").exists());
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
