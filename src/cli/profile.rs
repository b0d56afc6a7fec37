//! `quantkit profile`.

use std::path::PathBuf;

use anyhow::Result;

use super::options::{GlobalOptions, KernelFlags, print_json, print_text, say};
use crate::bench::profile::{
    self, MachineLimits, Phase, ProfileOptions, ProfileSummary, ReadLimit,
};
use crate::support::table::{Align, Table};
use crate::support::units;

/// Show where the time of a run goes, and how near the machine's limits that is
///
/// Measures how fast the machine reads memory and does arithmetic (about two seconds), then runs a prefill
/// and a decode on the CPU and shows each operation's time and rates beside those limits. Bytes are
/// weights and the key-value cache; a multiplication and an addition are two operations.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  quantkit profile models/model.Q4_0.gguf --input-tokens 2560 --output-tokens 64 --concurrency 4"
)]
pub struct Arguments {
    /// GGUF model
    #[arg(value_name = "MODEL.gguf")]
    model: PathBuf,

    /// Prompt tokens of each sequence
    #[arg(long, default_value_t = 512, value_name = "N")]
    input_tokens: usize,

    /// Decode steps after the prefill
    #[arg(long, default_value_t = 64, value_name = "N")]
    output_tokens: usize,

    /// Sequences that decode together
    #[arg(long, default_value_t = 1, value_name = "N")]
    concurrency: usize,

    #[command(flatten)]
    kernels: KernelFlags,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let summary = profile::run(&ProfileOptions {
        model: arguments.model.clone(),
        input_tokens: arguments.input_tokens,
        output_tokens: arguments.output_tokens,
        concurrency: arguments.concurrency,
        kv_type: arguments.kernels.kv_type,
        activations: arguments.kernels.activations,
    })?;
    if global.json {
        return print_json(&summary);
    }
    print(&summary)
}

fn print(summary: &ProfileSummary) -> Result<()> {
    say!(
        "{}: {} of weights packed, {} of keys and values in {}, activations of {} bits",
        summary.model,
        units::bytes(summary.packed_bytes),
        units::bytes(summary.cache_bytes),
        summary.kv_type,
        summary.activations,
    )?;
    say!(
        "{}, {} threads, {}\n",
        summary.machine.cpu,
        summary.threads,
        summary.limits.instruction_set
    )?;
    say!("{}", limits_table(&summary.limits).to_text())?;
    for phase in &summary.phases {
        say!("{}\n", headline(summary, phase))?;
        print_text(&phase_table(phase).to_text())?;
        say!("\n{}\n", verdict(phase))?;
    }
    match summary.load_average_before.filter(|&load| load > BUSY * summary.threads as f64) {
        Some(load) => say!(
            "The load average was {load:.1} when this began: where other programs are at work, the \
             limits and the figures are those of what they leave."
        ),
        None => Ok(()),
    }
}

/// Programs that want a core, for each thread, from which on figures are doubtful.
const BUSY: f64 = 0.5;

fn limits_table(limits: &MachineLimits) -> Table {
    let mut table =
        Table::new([("the machine's limits", Align::Left), ("", Align::Right), ("", Align::Left)]);
    let mut reads = |what: &str, limit: ReadLimit| {
        let size = format!("a buffer of {}", units::bytes(limit.buffer_bytes));
        table.row([what.to_string(), giga(limit.bytes_per_second, "GB/s"), size]);
    };
    reads("reads from the last-level cache", limits.cache);
    reads("reads of as much as the model", limits.model);
    reads("reads from memory", limits.memory);
    for (what, limit) in [
        ("int8 dot products", limits.int8),
        ("int16 dot products", limits.int16),
        ("f32 multiply-adds", limits.float),
    ] {
        let rate = giga(limit.operations_per_second, "GOP/s");
        table.row([what.to_string(), rate, limit.instruction.to_string()]);
    }
    table
}

/// `12.3 GB/s`: three figures that matter at least.
fn giga(rate: f64, unit: &str) -> String {
    let billions = rate / 1e9;
    let decimals = if billions < 100.0 { 1 } else { 0 };
    format!("{billions:.decimals$} {unit}")
}

fn headline(summary: &ProfileSummary, phase: &Phase) -> String {
    let of = match (phase.name, summary.concurrency) {
        ("prefill", 1) => format!("{} tokens", units::count(phase.tokens)),
        ("prefill", sequences) => {
            format!("{sequences} × {} tokens", units::count(summary.input_tokens as u64))
        }
        (_, 1) => format!("{} steps", summary.output_tokens),
        (_, sequences) => format!("{} steps of {sequences} sequences", summary.output_tokens),
    };
    let first = summary.input_tokens as u64;
    let last = first + summary.output_tokens as u64;
    let context = match phase.name {
        "prefill" => String::new(),
        _ => format!(" at a context of {} to {}", units::count(first), units::count(last)),
    };
    format!(
        "{}: {of}{context} in {:.3} s, {:.1} tokens/s",
        phase.name, phase.seconds, phase.tokens_per_second
    )
}

fn phase_table(phase: &Phase) -> Table {
    let numbers = ["calls", "time", "share", "GB/s", "of limit", "GOP/s", "of limit"];
    let columns = numbers.map(|name| (name, Align::Right));
    let columns = std::iter::once(("operation", Align::Left)).chain(columns);
    let mut table = Table::new(columns.chain([("arithmetic", Align::Left)]));
    for operation in &phase.operations {
        let counted = |amount: u64, text: String| if amount > 0 { text } else { String::new() };
        let bytes = |text| counted(operation.bytes, text);
        let arithmetic = |text| counted(operation.arithmetic_operations, text);
        table.row([
            operation.operation.to_string(),
            units::count(operation.calls),
            format!("{:.1} ms", operation.seconds * 1e3),
            percent(operation.share),
            bytes(format!("{:.1}", operation.bytes_per_second / 1e9)),
            bytes(percent(operation.share_of_reads)),
            arithmetic(format!("{:.1}", operation.operations_per_second / 1e9)),
            arithmetic(operation.share_of_arithmetic.map(percent).unwrap_or_default()),
            arithmetic(operation.arithmetic.unwrap_or_default().to_string()),
        ]);
    }
    table
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// What bounds the phase, and how near the bound it is.
fn verdict(phase: &Phase) -> String {
    let bound = match phase.bound {
        "memory reads" => "memory reads bound it".to_string(),
        arithmetic => format!("{arithmetic} arithmetic bounds it"),
    };
    format!(
        "{bound}: at the limits it would take {:.3} s, {} of what it took; {:.0} tokens/s at most.",
        phase.least_seconds,
        percent(phase.least_seconds / phase.seconds),
        phase.tokens as f64 / phase.least_seconds,
    )
}
