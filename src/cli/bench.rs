//! `quantkit bench`.

use std::path::PathBuf;

use anyhow::Result;

use super::options::{EngineFlags, GlobalOptions, model_sha256, print_outcome, print_text, say};
use crate::bench::{
    self, BenchOptions, BenchSummary, Distribution, LevelSummary, PeakScope, Spread, WantedBench,
    Workload,
};
use crate::support::finished::{self, Outcome};
use crate::support::machine::Machine;
use crate::support::table::{ABSENT, Align, Table};
use crate::support::units;

/// Measure speed under concurrent load
///
/// At each level of concurrency, that many requests are in flight at once. TTFT is the time to the
/// first token, TPOT the time per output token after it. Prefill and decode tokens/s are totals
/// over all requests in flight.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  quantkit bench models/model.Q4_0.gguf --concurrency 1,4 --output outputs/bench-q4_0"
)]
pub struct Arguments {
    /// GGUF model
    #[arg(value_name = "MODEL.gguf")]
    model: PathBuf,

    #[command(flatten)]
    workload: WorkloadOptions,

    /// Directory for bench.json, levels.csv, requests.csv and requests.parquet
    #[arg(long, value_name = "DIR")]
    output: PathBuf,

    /// Replace the result of another run in DIR
    #[arg(long)]
    overwrite: bool,

    #[command(flatten)]
    engine: EngineFlags,
}

/// The options that describe the load; `compare` has them too.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct WorkloadOptions {
    /// Prompt tokens of each request
    #[arg(long, default_value_t = 2560, value_name = "N")]
    input_tokens: usize,

    /// Tokens to generate for each request; the end-of-sequence token is ignored
    #[arg(long, default_value_t = 768, value_name = "N")]
    output_tokens: usize,

    /// Requests in flight at once; several levels are measured one after the other
    #[arg(long, default_value = "1,2,4,8", value_delimiter = ',', value_name = "N,N")]
    concurrency: Vec<usize>,

    /// Requests of one repeat of a level [default: its concurrency]
    #[arg(long, value_name = "N")]
    requests: Option<usize>,

    /// How often to measure each level
    #[arg(long, default_value_t = 1, value_name = "N")]
    repeats: usize,

    /// Seed of the prompts' random tokens
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
}

impl From<&WorkloadOptions> for Workload {
    fn from(options: &WorkloadOptions) -> Self {
        let WorkloadOptions { input_tokens, output_tokens, requests, repeats, seed, .. } = *options;
        let concurrency = options.concurrency.clone();
        Self { input_tokens, output_tokens, concurrency, requests, repeats, seed }
    }
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let earlier = if arguments.overwrite { None } else { earlier(arguments)? };
    let outcome = match earlier {
        Some(result) => Outcome { result, reused: true },
        None => {
            let result = bench::run(&BenchOptions {
                model: arguments.model.clone(),
                workload: Workload::from(&arguments.workload),
                output: arguments.output.clone(),
                engine: arguments.engine.options(),
            })?;
            Outcome { result, reused: false }
        }
    };
    print_outcome(&outcome, global, |summary| {
        print(summary)?;
        say!("\nResults: {}", arguments.result().display())
    })
}

impl Arguments {
    fn result(&self) -> PathBuf {
        self.output.join("bench.json")
    }
}

/// The benchmark that is in the output directory, if it is the one that is asked for. An unfinished
/// one is simply replaced.
fn earlier(arguments: &Arguments) -> Result<Option<BenchSummary>> {
    let path = arguments.result();
    if !path.exists() {
        return Ok(None);
    }
    let engine = arguments.engine.options();
    let wanted = WantedBench {
        model_sha256: &model_sha256(&arguments.model)?,
        workload: &Workload::from(&arguments.workload),
        device: &engine.device.to_string(),
        kv_type: engine.kv_type_name(),
        activations: engine.activations.bits(),
        threads: rayon::current_num_threads(),
        machine: &Machine::detect(),
    };
    let mismatch =
        |found: &BenchSummary| if found.complete { wanted.mismatch(found) } else { None };
    let found = finished::read(&path, mismatch).map_err(anyhow::Error::msg)?;
    Ok(found.filter(|found| found.complete))
}

fn print(summary: &BenchSummary) -> Result<()> {
    let workload = &summary.workload;
    say!(
        "{}: {} input + {} output tokens, {} threads, device {}, key-value cache {}, activations of {} bits\n",
        summary.model,
        units::count(workload.input_tokens as u64),
        units::count(workload.output_tokens as u64),
        summary.threads,
        summary.device,
        summary.kv_type,
        summary.activations,
    )?;
    say!("{}\nLatency over all requests:\n", throughput_table(summary).to_text())?;
    print_text(&latency_table(summary).to_text())?;
    let whole_process = |level: &LevelSummary| {
        level.peak_memory.is_some_and(|peak| peak.scope == PeakScope::Process)
    };
    if summary.levels.iter().any(whole_process) {
        say!("\nPeak memory is that of the process so far: the system cannot reset its count.")?;
    }
    Ok(())
}

/// A row a level: what it gets through, and how long it typically keeps a request waiting.
fn throughput_table(summary: &BenchSummary) -> Table {
    let mut table = Table::new(
        [
            "concurrency",
            "TTFT p50 ms",
            "TPOT p50 ms",
            "prefill tok/s",
            "decode tok/s",
            "output tok/s",
            "req/s",
            "peak memory",
        ]
        .map(|name| (name, Align::Right)),
    );
    for level in &summary.levels {
        table.row([
            level.concurrency.to_string(),
            format!("{:.1}", level.ttft_ms.p50),
            level.tpot_ms.map_or(ABSENT.to_string(), |tpot| format!("{:.2}", tpot.p50)),
            spread(level.prefill_tokens_per_second, 1),
            level.decode_tokens_per_second.map_or(ABSENT.to_string(), |s| spread(s, 1)),
            spread(level.output_tokens_per_second, 1),
            spread(level.requests_per_second, 3),
            level.peak_memory.map_or(ABSENT.to_string(), |peak| units::bytes(peak.bytes)),
        ]);
    }
    table
}

/// A row a kind of latency and level.
fn latency_table(summary: &BenchSummary) -> Table {
    let kinds: [(&str, usize, LatencyOf); 4] = [
        ("TTFT ms", 1, |level| Some(level.ttft_ms)),
        ("TPOT ms", 2, |level| level.tpot_ms),
        ("inter-token ms", 2, |level| level.inter_token_ms),
        ("end-to-end ms", 1, |level| Some(level.end_to_end_ms)),
    ];
    let numbers = ["concurrency", "mean", "p50", "p90", "p95", "p99"];
    let columns = numbers.map(|name| (name, Align::Right));
    let mut table = Table::new(std::iter::once(("latency", Align::Left)).chain(columns));
    for (name, decimals, of) in kinds {
        for level in &summary.levels {
            let Some(Distribution { mean, p50, p90, p95, p99, .. }) = of(level) else { continue };
            let figures = [mean, p50, p90, p95, p99].map(|figure| format!("{figure:.decimals$}"));
            let start = [name.to_string(), level.concurrency.to_string()];
            table.row(start.into_iter().chain(figures));
        }
    }
    table
}

/// One kind of latency of a level; absent for the time between tokens where there is only one.
type LatencyOf = fn(&LevelSummary) -> Option<Distribution>;

/// The median, with the range behind it where there is one.
fn spread(of: Spread, decimals: usize) -> String {
    let Spread { min, median, max } = of;
    if min == max {
        format!("{median:.decimals$}")
    } else {
        format!("{median:.decimals$} ({min:.decimals$}–{max:.decimals$})")
    }
}
