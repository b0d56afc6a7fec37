//! What the machine can do at most, by a short measurement: reads of memory and caches, and
//! multiply-adds of the instruction set in use. The best of a few moments counts, so that another
//! program spoils less.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use serde::Serialize;

use super::BenchError;
use crate::kernels::peak::{self, Arithmetic, MultiplyAddLoop};
use crate::support::processor::{InstructionSet, Level};
use crate::support::{interrupt, machine, units};

/// How long each moment lasts.
const MOMENT: Duration = Duration::from_millis(70);
/// How many there are of each measurement.
const MOMENTS: usize = 3;
/// Passes of a multiply-add loop between two looks at the clock.
const PASSES: u64 = 2000;
/// The last-level cache of a machine that does not tell.
const UNKNOWN_CACHE: u64 = 32 << 20;
/// The buffer that is meant to be read from memory.
const MEMORY_BUFFER: std::ops::RangeInclusive<u64> = 256 << 20..=1 << 30;
/// The largest buffer that is meant to be read from the last-level cache.
const CACHE_BUFFER: u64 = 64 << 20;
/// Buffers are whole numbers of these for each thread.
const PAGE: u64 = 4096;

/// The machine's limits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Limits {
    /// Threads that measured.
    pub threads: usize,
    /// The instruction set in use, as `QUANTKIT_ISA` would ask for it.
    pub instruction_set: String,
    /// Reads of a buffer that fits in the last-level cache.
    pub cache: ReadLimit,
    /// Reads of a buffer as large as the model's weights and caches.
    pub model: ReadLimit,
    /// Reads of a buffer well beyond the caches.
    pub memory: ReadLimit,
    /// Dot products of 8-bit integers.
    pub int8: ArithmeticLimit,
    /// Dot products of 16-bit integers.
    pub int16: ArithmeticLimit,
    /// f32 arithmetic.
    pub float: ArithmeticLimit,
}

/// How fast all threads together read a buffer again and again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ReadLimit {
    /// Its size; each thread reads its own part.
    pub buffer_bytes: u64,
    /// Bytes a second.
    pub bytes_per_second: f64,
}

/// How fast all threads together multiply and add in registers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ArithmeticLimit {
    /// The instructions that did it.
    pub instruction: &'static str,
    /// Multiplications and additions a second, counted alike.
    pub operations_per_second: f64,
}

impl Limits {
    /// Measures them on `threads` threads, in about two seconds.
    ///
    /// # Errors
    /// An interruption, and no memory for a buffer.
    pub fn measure(threads: usize, model_bytes: u64) -> Result<Self, BenchError> {
        let set = InstructionSet::current();
        let cache_size = machine::last_level_cache().unwrap_or(UNKNOWN_CACHE);
        let available = machine::available_memory().unwrap_or(u64::MAX);
        let beyond = 2 * cache_size.clamp(MEMORY_BUFFER.start() / 2, MEMORY_BUFFER.end() / 2);
        let memory_bytes = beyond.min(available / 4);
        let buffer = Buffer::new(memory_bytes, threads)?;
        let reads = |bytes: u64| -> Result<ReadLimit, BenchError> {
            interrupt::check()?;
            Ok(buffer.measure(set, bytes))
        };
        let cache = reads((cache_size / 2).min(CACHE_BUFFER))?;
        let memory = reads(memory_bytes)?;
        let model = if model_bytes < memory.buffer_bytes { reads(model_bytes)? } else { memory };
        drop(buffer);
        let arithmetic = |kind| -> Result<ArithmeticLimit, BenchError> {
            interrupt::check()?;
            let own = MultiplyAddLoop::of(set, kind);
            let operations_per_second = best_rate(&vec![(); threads], |()| own.run(PASSES));
            Ok(ArithmeticLimit { instruction: own.instruction, operations_per_second })
        };
        Ok(Self {
            threads,
            instruction_set: Level::current().name(),
            cache,
            model,
            memory,
            int8: arithmetic(Arithmetic::Int8)?,
            int16: arithmetic(Arithmetic::Int16)?,
            float: arithmetic(Arithmetic::Float)?,
        })
    }

    /// The limit of a kind of arithmetic.
    pub fn arithmetic(&self, kind: Arithmetic) -> ArithmeticLimit {
        match kind {
            Arithmetic::Int8 => self.int8,
            Arithmetic::Int16 => self.int16,
            Arithmetic::Float => self.float,
        }
    }
}

/// Memory to read, a part for each thread, first touched by a thread of its own.
struct Buffer {
    parts: Vec<MmapMut>,
}

impl Buffer {
    /// So many bytes, in whole pages a thread.
    fn new(bytes: u64, threads: usize) -> Result<Self, BenchError> {
        let part_bytes = part_bytes(bytes, threads);
        let part = || {
            let mut part = MmapMut::map_anon(part_bytes)?;
            // It is only advice: small pages do as well, a little slower.
            #[cfg(target_os = "linux")]
            let _ = part.advise(memmap2::Advice::HugePage);
            part.fill(1);
            Ok(part)
        };
        let parts: std::io::Result<_> = thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(part)).collect();
            threads.into_iter().map(|thread| thread.join().expect("filling cannot panic")).collect()
        });
        let parts = parts.map_err(|error| {
            let size = units::bytes(bytes);
            BenchError::Unusable(format!("no memory for {size} to measure reads with: {error}"))
        })?;
        Ok(Self { parts })
    }

    /// How fast the first so many bytes are read, or all where there are no more.
    fn measure(&self, set: InstructionSet, bytes: u64) -> ReadLimit {
        let part_bytes = part_bytes(bytes, self.parts.len());
        let parts: Vec<&[u8]> =
            self.parts.iter().map(|part| &part[..part_bytes.min(part.len())]).collect();
        let bytes_per_second = best_rate(&parts, |part| {
            std::hint::black_box(peak::read(set, part));
            part.len() as u64
        });
        let buffer_bytes = parts.iter().map(|part| part.len() as u64).sum();
        ReadLimit { buffer_bytes, bytes_per_second }
    }
}

/// A thread's part of a buffer, at least a page.
fn part_bytes(bytes: u64, threads: usize) -> usize {
    ((bytes / threads as u64 / PAGE).max(1) * PAGE) as usize
}

/// What threads that each repeat `work` on an input of their own get done in a second together, in
/// the best of a few moments.
fn best_rate<T: Sync>(inputs: &[T], work: impl Fn(&T) -> u64 + Sync) -> f64 {
    let moment = |_| {
        let start = Barrier::new(inputs.len());
        let own_rate = |input| {
            start.wait();
            let (started, mut done) = (Instant::now(), 0);
            while started.elapsed() < MOMENT {
                done += work(input);
            }
            done as f64 / started.elapsed().as_secs_f64()
        };
        thread::scope(|scope| {
            let threads: Vec<_> =
                inputs.iter().map(|input| scope.spawn(|| own_rate(input))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no loop panics")).sum::<f64>()
        })
    };
    (0..MOMENTS).map(moment).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_has_its_part_of_a_buffer() {
        let buffer = Buffer::new(100_000, 3).unwrap();
        assert_eq!(buffer.parts.len(), 3);
        assert!(buffer.parts.iter().all(|part| part.len() == 32_768 && part[32_767] == 1));
        let limit = buffer.measure(InstructionSet::current(), 30_000);
        assert_eq!(limit.buffer_bytes, 3 * 8192);
        assert!(limit.bytes_per_second > 0.0);
        assert_eq!(buffer.measure(InstructionSet::Scalar, u64::MAX).buffer_bytes, 3 * 32_768);
    }

    #[test]
    fn rates_of_threads_add_up() {
        // Two threads that each get the same done: together twice as much, whatever the machine does.
        let pause = Duration::from_millis(1);
        let work = |_: &()| {
            thread::sleep(pause);
            1
        };
        let rate = best_rate(&[(); 2], work);
        assert!(0.0 < rate && rate <= 2.0 / pause.as_secs_f64(), "{rate}");
    }
}
