//! Where the time of a run goes, by operation, and how near that is to what the machine can do.
//!
//! The wanted sequences are prefilled one after the other in the scheduler's chunks, then all decode
//! together. For each operation, the machine's limits say how long it must take at least (the
//! roofline model; Williams, Waterman and Patterson 2009): its bytes at the rate at which
//! memory is read, or its arithmetic at the instruction set's rate, whichever takes longer.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::limits::Limits;
use super::record::Workload;
use super::workload::Prompts;
use super::{BenchError, check_fit, check_workload};
use crate::engine::{
    Build, Engine, EngineError, EngineOptions, LogitsFor, Sampler, Sampling, SchedulerOptions,
    SequenceId, StepItem,
};
use crate::gguf::{GgufFile, TensorInfo};
use crate::kernels::attention::KvType;
use crate::kernels::matmul::ActivationBits;
use crate::kernels::peak::Arithmetic;
use crate::model::profile::{Cost, Operation, Profile};
use crate::support::interrupt;
use crate::support::machine::{self, Machine};
use crate::support::progress::{Progress, Unit};

pub use super::limits::{ArithmeticLimit, Limits as MachineLimits, ReadLimit};

/// Version of the fields of [`ProfileSummary`].
pub const SCHEMA_VERSION: u32 = 1;

/// Tokens of a prompt that is run once before anything is timed, at most.
const WARM_UP: usize = 64;

/// What to profile.
#[derive(Debug, Clone)]
pub struct ProfileOptions {
    /// The GGUF model.
    pub model: PathBuf,
    /// Prompt tokens of each sequence.
    pub input_tokens: usize,
    /// Decode steps after the prefill.
    pub output_tokens: usize,
    /// Sequences that decode together.
    pub concurrency: usize,
    /// How the key-value cache holds its elements; the usual type where absent.
    pub kv_type: Option<KvType>,
    /// Bits that activations are rounded to in products with quantized weights.
    pub activations: ActivationBits,
}

/// Where the time went.
#[derive(Debug, Clone, Serialize)]
pub struct ProfileSummary {
    /// Version of this record's fields.
    pub schema_version: u32,
    /// Version of quantkit.
    pub quantkit_version: String,
    /// The build that ran.
    pub build: Build,
    /// The model's path as given.
    pub model: String,
    /// Bytes of its tensors in the file.
    pub tensor_bytes: u64,
    /// Bytes of the weights as they lie packed in memory.
    pub packed_bytes: u64,
    /// Bytes of the keys and values of all sequences at the end.
    pub cache_bytes: u64,
    /// How the key-value cache held its elements: `i16` or `i8`.
    pub kv_type: String,
    /// Bits that activations were rounded to in products with quantized weights: 8 or 16.
    pub activations: u8,
    /// Threads that computed.
    pub threads: usize,
    /// What it ran on.
    pub machine: Machine,
    /// The one-minute load average before: a busy machine gives figures that are too low.
    pub load_average_before: Option<f64>,
    /// Prompt tokens of each sequence.
    pub input_tokens: usize,
    /// Decode steps.
    pub output_tokens: usize,
    /// Sequences that decoded together.
    pub concurrency: usize,
    /// What the machine can do at most.
    pub limits: Limits,
    /// Prefill and decode.
    pub phases: Vec<Phase>,
}

/// One phase of the run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Phase {
    /// `prefill` or `decode`.
    pub name: &'static str,
    /// Tokens that went through the model.
    pub tokens: u64,
    /// Wall time.
    pub seconds: f64,
    /// `tokens / seconds`.
    pub tokens_per_second: f64,
    /// How long its operations must take at least, added up.
    pub least_seconds: f64,
    /// What most of `least_seconds` goes to: `memory reads`, or the name of an arithmetic.
    pub bound: &'static str,
    /// Each operation that ran.
    pub operations: Vec<OperationSummary>,
}

/// One operation of a phase.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OperationSummary {
    /// Its name.
    pub operation: &'static str,
    /// How often it ran.
    pub calls: u64,
    /// Wall time.
    pub seconds: f64,
    /// Its part of the phase's time.
    pub share: f64,
    /// Bytes of weights and of the key-value cache, as [`crate::model::profile`] counts them.
    pub bytes: u64,
    /// `bytes / seconds`.
    pub bytes_per_second: f64,
    /// The part of the limit of reads that this is.
    pub share_of_reads: f64,
    /// Multiplications and additions, counted alike.
    pub arithmetic_operations: u64,
    /// `arithmetic_operations / seconds`.
    pub operations_per_second: f64,
    /// Which arithmetic they are: `int8`, `int16`, `f32` or `int8, f32`; absent where none is counted.
    pub arithmetic: Option<&'static str>,
    /// The part of that arithmetic's limit that this is.
    pub share_of_arithmetic: Option<f64>,
    /// How long it must take at least.
    pub least_seconds: f64,
}

/// Profiles a model on the CPU.
///
/// # Errors
/// No tokens or sequences, or more than the model's context holds; a model that cannot be loaded or run;
/// an interruption.
pub fn run(options: &ProfileOptions) -> Result<ProfileSummary, BenchError> {
    let &ProfileOptions { ref model, input_tokens, output_tokens, concurrency, .. } = options;
    let ProfileOptions { kv_type, activations, .. } = *options;
    let engine_options = EngineOptions { kv_type, activations, ..EngineOptions::default() };
    let workload = Workload {
        input_tokens,
        output_tokens,
        concurrency: vec![concurrency],
        ..Workload::default()
    };
    check_workload(&workload)?;
    let load_average_before = machine::load_average();
    let file = GgufFile::open(model).map_err(EngineError::from)?;
    let engine = Engine::load(model, engine_options)?;
    let kinds = Kinds::of(&file, &engine);
    check_fit(&workload, &engine)?;
    let threads = rayon::current_num_threads();
    let packed_bytes = engine.packed_bytes();
    let positions = (input_tokens + output_tokens) * concurrency;
    let cache_bytes = (engine.cache_bytes_per_token() * positions) as u64;
    let limits = Limits::measure(threads, packed_bytes + cache_bytes)?;
    let [prefill, decode] = Run::new(engine, options)?.phases()?;
    Ok(ProfileSummary {
        schema_version: SCHEMA_VERSION,
        quantkit_version: env!("CARGO_PKG_VERSION").to_string(),
        build: Build::current(),
        model: model.display().to_string(),
        tensor_bytes: file.tensors().iter().map(TensorInfo::bytes).sum(),
        packed_bytes,
        cache_bytes,
        kv_type: engine_options.kv_type_name().to_string(),
        activations: activations.bits(),
        threads,
        machine: Machine::detect(),
        load_average_before,
        input_tokens,
        output_tokens,
        concurrency,
        phases: vec![
            summarize("prefill", &prefill, &kinds, &limits),
            summarize("decode", &decode, &kinds, &limits),
        ],
        limits,
    })
}

/// What a phase took.
#[derive(Default)]
struct Timed {
    tokens: u64,
    time: Duration,
    profile: Profile,
}

/// A run of a loaded model.
struct Run<'a> {
    engine: Engine,
    options: &'a ProfileOptions,
    prompts: Prompts,
    sampler: Sampler,
}

impl<'a> Run<'a> {
    fn new(engine: Engine, options: &'a ProfileOptions) -> Result<Self, BenchError> {
        let vocabulary = engine.vocabulary();
        let mut forbidden = vocabulary.end_of_generation.clone();
        forbidden.extend(vocabulary.bos);
        let prompts = Prompts::new(vocabulary.size, forbidden, 0);
        let sampler = Sampler::new(Sampling::default(), &[])?;
        Ok(Self { engine, options, prompts, sampler })
    }

    /// Prefill and decode.
    fn phases(mut self) -> Result<[Timed; 2], BenchError> {
        let ProfileOptions { input_tokens, output_tokens, concurrency, .. } = *self.options;
        // Once for nothing, so that no page of the weights is touched for the first time later.
        let (warm, token) =
            self.prefill(input_tokens.min(WARM_UP), &mut Timed::default(), |_| ())?;
        self.step(&[(warm, &[token])], LogitsFor::Last, &mut Timed::default())?;
        self.engine.end(warm);

        let total = concurrency * (input_tokens + output_tokens);
        let progress = Progress::new("profile", total as u64, Unit::Items("tokens"));
        let (mut prefill, mut decode) = (Timed::default(), Timed::default());
        let mut sequences = Vec::with_capacity(concurrency);
        for _ in 0..concurrency {
            let count = |tokens| progress.advance(tokens);
            sequences.push(self.prefill(input_tokens, &mut prefill, count)?);
        }
        for _ in 0..output_tokens {
            let tokens: Vec<(SequenceId, [u32; 1])> =
                sequences.iter().map(|&(sequence, token)| (sequence, [token])).collect();
            let items: Vec<(SequenceId, &[u32])> =
                tokens.iter().map(|(sequence, token)| (*sequence, &token[..])).collect();
            let next = self.step(&items, LogitsFor::Last, &mut decode)?;
            for ((_, token), next) in sequences.iter_mut().zip(next) {
                *token = next;
            }
            progress.advance(concurrency as u64);
        }
        progress.finish();
        Ok([prefill, decode])
    }

    /// Runs a new prompt in the scheduler's chunks and chooses its first token.
    fn prefill(
        &mut self,
        tokens: usize,
        timed: &mut Timed,
        count: impl Fn(u64),
    ) -> Result<(SequenceId, u32), BenchError> {
        let prompt = self.prompts.next(tokens);
        let sequence = self.engine.start(tokens + self.options.output_tokens);
        let mut first = Vec::new();
        let chunk = SchedulerOptions::default().prefill_chunk;
        let (rest, last) = prompt.split_at((tokens - 1) / chunk * chunk);
        for chunk in rest.chunks(chunk).chain([last]) {
            let is_last = std::ptr::eq(chunk, last);
            let logits = if is_last { LogitsFor::Last } else { LogitsFor::None };
            first = self.step(&[(sequence, chunk)], logits, timed)?;
            count(chunk.len() as u64);
        }
        Ok((sequence, first[0]))
    }

    /// One step, and the next token of each sequence that gets logits.
    fn step(
        &mut self,
        tokens: &[(SequenceId, &[u32])],
        logits: LogitsFor,
        timed: &mut Timed,
    ) -> Result<Vec<u32>, BenchError> {
        interrupt::check()?;
        let started = Instant::now();
        let item = |&(sequence, tokens)| StepItem { sequence, tokens, logits };
        let items: Vec<StepItem<'_>> = tokens.iter().map(item).collect();
        let before = timed.profile.total().time;
        let logits = self.engine.step_profiled(&items, &mut timed.profile)?;
        let sampling = Instant::now();
        let mut chosen = Vec::with_capacity(tokens.len());
        for logits in (0..items.len()).map(|item| logits.item(item)) {
            if logits.rows() > 0 {
                chosen.push(self.sampler.sample(logits.row(0)));
            }
        }
        if !chosen.is_empty() {
            timed.profile.record(Operation::Sampling, sampling.elapsed(), 0, 0);
        }
        let time = started.elapsed();
        let rest = time.saturating_sub(timed.profile.total().time - before);
        timed.profile.record(Operation::Rest, rest, 0, 0);
        timed.time += time;
        timed.tokens += tokens.iter().map(|(_, tokens)| tokens.len() as u64).sum::<u64>();
        Ok(chosen)
    }
}

/// What is multiplied in each operation: for those with weights, the part of them that is quantized.
struct Kinds {
    quantized: Vec<(Operation, f64)>,
    /// How often each quantized weight is multiplied for a token.
    terms: usize,
}

impl Kinds {
    /// Those of a file's tensors, by the operations that an engine multiplies them in.
    fn of(file: &GgufFile, engine: &Engine) -> Self {
        let mut counted: Vec<(Operation, usize, usize)> = Vec::new();
        for (name, operation) in engine.operations() {
            let Some(tensor) = file.tensor(name) else { continue };
            let weights = tensor.columns() * tensor.rows();
            let quantized = if tensor.ggml_type.block_size() > 1 { weights } else { 0 };
            match counted.iter_mut().find(|(known, ..)| *known == operation) {
                Some((_, all, sum)) => (*all, *sum) = (*all + weights, *sum + quantized),
                None => counted.push((operation, weights, quantized)),
            }
        }
        let share = |(operation, all, quantized)| (operation, quantized as f64 / all as f64);
        let terms = engine.options().activations.terms();
        Self { quantized: counted.into_iter().map(share).collect(), terms }
    }

    /// Which arithmetic an operation does, by name and by kind (the larger part of it), and how much of
    /// it a second the machine can do; `None` where none is counted.
    fn limit(
        &self,
        operation: Operation,
        limits: &Limits,
    ) -> Option<(&'static str, Arithmetic, f64)> {
        let rate = |kind| {
            let rate = limits.arithmetic(kind).operations_per_second;
            if kind == Arithmetic::Int8 { rate / self.terms as f64 } else { rate }
        };
        let pure = |kind: Arithmetic| (kind.name(), kind, rate(kind));
        if operation == Operation::Attention {
            return Some(pure(Arithmetic::Int16));
        }
        let (_, quantized) = *self.quantized.iter().find(|(own, _)| *own == operation)?;
        Some(match quantized {
            0.0 => pure(Arithmetic::Float),
            1.0 => pure(Arithmetic::Int8),
            _ => {
                let (int8, float) = (rate(Arithmetic::Int8), rate(Arithmetic::Float));
                let seconds = [quantized / int8, (1.0 - quantized) / float];
                let kind =
                    if seconds[0] > seconds[1] { Arithmetic::Int8 } else { Arithmetic::Float };
                ("int8, f32", kind, 1.0 / (seconds[0] + seconds[1]))
            }
        })
    }
}

fn summarize(name: &'static str, timed: &Timed, kinds: &Kinds, limits: &Limits) -> Phase {
    let seconds = timed.time.as_secs_f64();
    let mut bounds: Vec<(&'static str, f64)> = vec![("memory reads", 0.0)];
    bounds.extend(Arithmetic::ALL.map(|kind| (kind.name(), 0.0)));
    let mut operations = Vec::new();
    for (operation, cost) in timed.profile.costs() {
        let limit = kinds.limit(operation, limits);
        let own = operation_summary(operation, cost, seconds, limit, limits);
        let reading = cost.bytes as f64 / limits.model.bytes_per_second;
        let bound = match limit {
            Some((_, kind, _)) if own.least_seconds > reading => kind.name(),
            _ => "memory reads",
        };
        let (_, least) = bounds.iter_mut().find(|(name, _)| *name == bound).expect("all are there");
        *least += own.least_seconds;
        operations.push(own);
    }
    let (bound, _) =
        bounds.iter().copied().max_by(|(_, a), (_, b)| a.total_cmp(b)).expect("there are four");
    Phase {
        name,
        tokens: timed.tokens,
        seconds,
        tokens_per_second: timed.tokens as f64 / seconds,
        least_seconds: bounds.iter().map(|(_, seconds)| seconds).sum(),
        bound,
        operations,
    }
}

fn operation_summary(
    operation: Operation,
    cost: Cost,
    phase_seconds: f64,
    limit: Option<(&'static str, Arithmetic, f64)>,
    limits: &Limits,
) -> OperationSummary {
    let seconds = cost.time.as_secs_f64();
    // A clock may stand still over the shortest calls.
    let rate = |amount: u64| if seconds > 0.0 { amount as f64 / seconds } else { 0.0 };
    let reads = limits.model.bytes_per_second;
    let computing = limit.map_or(0.0, |(_, _, limit)| cost.operations as f64 / limit);
    OperationSummary {
        operation: operation.name(),
        calls: cost.calls,
        seconds,
        share: seconds / phase_seconds,
        bytes: cost.bytes,
        bytes_per_second: rate(cost.bytes),
        share_of_reads: rate(cost.bytes) / reads,
        arithmetic_operations: cost.operations,
        operations_per_second: rate(cost.operations),
        arithmetic: limit.map(|(name, _, _)| name),
        share_of_arithmetic: limit.map(|(_, _, limit)| rate(cost.operations) / limit),
        least_seconds: computing.max(cost.bytes as f64 / reads),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        let read = |bytes_per_second| ReadLimit { buffer_bytes: 1 << 20, bytes_per_second };
        let arithmetic =
            |operations_per_second| ArithmeticLimit { instruction: "ADD", operations_per_second };
        Limits {
            threads: 1,
            instruction_set: "abacus".to_string(),
            cache: read(4e9),
            model: read(1e9),
            memory: read(0.5e9),
            int8: arithmetic(8e9),
            int16: arithmetic(4e9),
            float: arithmetic(2e9),
        }
    }

    fn timed(costs: &[(Operation, u64, u64, u64)]) -> Timed {
        let mut timed = Timed { tokens: 10, ..Timed::default() };
        for &(operation, milliseconds, bytes, operations) in costs {
            let time = Duration::from_millis(milliseconds);
            timed.profile.record(operation, time, bytes, operations);
            timed.time += time;
        }
        timed
    }

    #[test]
    fn each_operation_is_held_against_the_limit_that_binds_it() {
        let quantized = vec![(Operation::Down, 1.0), (Operation::Output, 0.5)];
        let kinds = Kinds { quantized, terms: 1 };
        let timed = timed(&[
            // 10 ms of reads or 2 ms of arithmetic.
            (Operation::Down, 20, 10_000_000, 16_000_000),
            // 1 ms of reads or 8 ms of arithmetic.
            (Operation::Attention, 10, 1_000_000, 32_000_000),
            // Half of the operations at 8, half at 2 GOP/s: 5 ms.
            (Operation::Output, 10, 0, 16_000_000),
            (Operation::Rest, 10, 0, 0),
        ]);
        let phase = summarize("decode", &timed, &kinds, &limits());
        let near = |found: f64, expected: f64| {
            assert!((found - expected).abs() < 1e-9 * expected, "{found} is not {expected}");
        };
        near(phase.seconds, 0.050);
        near(phase.tokens_per_second, 200.0);
        near(phase.least_seconds, 0.010 + 0.008 + 0.005);
        assert_eq!(phase.bound, "memory reads");
        let [attention, down, output, rest] = &phase.operations[..] else {
            panic!("four operations, not {:?}", phase.operations)
        };
        assert_eq!((attention.arithmetic, down.arithmetic), (Some("int16"), Some("int8")));
        near(attention.share_of_arithmetic.unwrap(), 0.8);
        near(down.share_of_reads, 0.5);
        near(down.share, 0.4);
        near(output.share_of_arithmetic.unwrap(), 0.5);
        assert_eq!((rest.arithmetic, rest.least_seconds), (None, 0.0));
    }

    #[test]
    fn arithmetic_bounds_a_phase_that_reads_little() {
        let quantized = vec![(Operation::Down, 1.0), (Operation::Output, 0.0)];
        let mut kinds = Kinds { quantized, terms: 1 };
        let timed = timed(&[
            (Operation::Down, 20, 1_000, 24_000_000),
            (Operation::Output, 20, 1_000, 10_000_000),
        ]);
        let phase = summarize("prefill", &timed, &kinds, &limits());
        assert_eq!(phase.bound, "f32", "5 ms of f32 are more than 3 ms of int8");
        kinds.terms = 2;
        let phase = summarize("prefill", &timed, &kinds, &limits());
        assert_eq!(phase.bound, "int8", "activations of 16 bits are multiplied twice: 6 ms");
    }
}
