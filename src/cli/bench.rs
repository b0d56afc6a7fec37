//! `quantkit bench`.

use std::path::PathBuf;

use anyhow::Result;

use super::options::{DeviceOptions, GlobalOptions, print_json};
use crate::bench::{self, BenchOptions, BenchSummary, LevelSummary, PeakScope, Spread, Workload};
use crate::support::table::{Align, Table};
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

    #[command(flatten)]
    device: DeviceOptions,
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
    let summary = bench::run(&BenchOptions {
        model: arguments.model.clone(),
        workload: Workload::from(&arguments.workload),
        output: arguments.output.clone(),
        device: arguments.device.device.0,
    })?;
    if global.json {
        return print_json(&summary);
    }
    print(&summary);
    println!("\nResults: {}", arguments.output.join("bench.json").display());
    Ok(())
}

fn print(summary: &BenchSummary) {
    let workload = &summary.workload;
    println!(
        "{}: {} input + {} output tokens, {} threads, device {}\n",
        summary.model,
        units::count(workload.input_tokens as u64),
        units::count(workload.output_tokens as u64),
        summary.threads,
        summary.device,
    );
    print!("{}", level_table(summary).to_text());
    let whole_process = |level: &LevelSummary| {
        level.peak_memory.is_some_and(|peak| peak.scope == PeakScope::Process)
    };
    if summary.levels.iter().any(whole_process) {
        println!("\nPeak memory is that of the process so far: the system cannot reset its count.");
    }
}

fn level_table(summary: &BenchSummary) -> Table {
    let mut table = Table::new(
        [
            "concurrency",
            "TTFT p50 ms",
            "TTFT p99 ms",
            "TPOT p50 ms",
            "ITL p50 ms",
            "ITL p99 ms",
            "e2e p50 s",
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
            format!("{:.1}", level.ttft_ms.p99),
            optional(level.tpot_ms.map(|d| d.p50), 2),
            optional(level.inter_token_ms.map(|d| d.p50), 2),
            optional(level.inter_token_ms.map(|d| d.p99), 2),
            format!("{:.2}", level.end_to_end_ms.p50 / 1e3),
            spread(level.prefill_tokens_per_second, 1),
            level.decode_tokens_per_second.map_or("–".to_string(), |s| spread(s, 1)),
            spread(level.output_tokens_per_second, 1),
            spread(level.requests_per_second, 3),
            level.peak_memory.map_or("–".to_string(), |peak| units::bytes(peak.bytes)),
        ]);
    }
    table
}

fn optional(value: Option<f64>, decimals: usize) -> String {
    value.map_or("–".to_string(), |value| format!("{value:.decimals$}"))
}

/// The median, with the range behind it where there is one.
fn spread(of: Spread, decimals: usize) -> String {
    let Spread { min, median, max } = of;
    if min == max {
        format!("{median:.decimals$}")
    } else {
        format!("{median:.decimals$} ({min:.decimals$}–{max:.decimals$})")
    }
}
