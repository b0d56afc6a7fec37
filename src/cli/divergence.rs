//! `quantkit divergence`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use super::options::{EngineFlags, GlobalOptions, print_json, say};
use crate::eval::divergence::{DivergenceOptions, DivergenceSummary, VariantDivergence, measure};
use crate::support::table::{Align, Table};
use crate::support::units;

/// Measure how far variants' predictions are from those of the model they were made from
///
/// All models read the text side by side, in windows of which the second half is scored, as
/// llama.cpp's llama-perplexity does; at each position the Kullback-Leibler divergence of the
/// variant's distribution over the next token from the base's is taken, in nats.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  quantkit divergence model.f16.gguf model.Q4_0.gguf model.Q4_K_M.gguf \
                  --text wikitext-2/test.txt --chunks 40"
)]
pub struct Arguments {
    /// The model that the others are compared with, usually F16
    #[arg(value_name = "BASE")]
    base: PathBuf,

    /// Variants of it
    #[arg(value_name = "VARIANT", required = true)]
    variants: Vec<PathBuf>,

    /// The text to read, in UTF-8
    #[arg(long, value_name = "FILE")]
    text: PathBuf,

    /// Read only the first N windows of the text
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,

    /// Tokens in a window
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    context: usize,

    #[command(flatten)]
    engine: EngineFlags,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let options = DivergenceOptions {
        base: arguments.base.clone(),
        variants: arguments.variants.clone(),
        text: arguments.text.clone(),
        context: arguments.context,
        chunks: arguments.chunks.map(|chunks| chunks as usize),
        engine: arguments.engine.options(),
    };
    let summary = measure(&options)?;
    if global.json {
        return print_json(&summary);
    }
    print(&summary)
}

fn print(summary: &DivergenceSummary) -> Result<()> {
    let positions = summary.variants.first().map_or(0, |variant| variant.divergence.positions);
    say!(
        "Against {} ({}) on {}: {} windows of {} tokens, {} positions\n",
        summary.base,
        units::bytes(summary.base_bytes),
        summary.text,
        units::count(summary.chunks as u64),
        summary.context,
        units::count(positions as u64),
    )?;
    let mut table = Table::new([
        ("model", Align::Left),
        ("file", Align::Right),
        ("mean KL", Align::Right),
        ("± s.e.", Align::Right),
        ("median", Align::Right),
        ("90 %", Align::Right),
        ("99 %", Align::Right),
        ("maximum", Align::Right),
        ("same top token", Align::Right),
        ("perplexity", Align::Right),
        ("against base", Align::Right),
    ]);
    for variant in &summary.variants {
        table.row(cells(variant));
    }
    say!("{}", table.to_text())?;
    let base = summary.variants.first().map_or(f64::NAN, |v| v.divergence.base_perplexity);
    say!(
        "The base's perplexity is {base:.4}. KL in nats; measured in {}.",
        units::duration(Duration::from_secs_f64(summary.seconds))
    )
}

fn cells(variant: &VariantDivergence) -> [String; 11] {
    let divergence = &variant.divergence;
    let percent = |share: f64| format!("{:.2}", 100.0 * share);
    let ratio = divergence.log_perplexity_ratio;
    [
        variant.model.clone(),
        units::bytes(variant.file_bytes),
        format!("{:.6}", divergence.kl.mean),
        format!("{:.6}", divergence.kl.standard_error),
        format!("{:.6}", divergence.kl_median),
        format!("{:.6}", divergence.kl_p90),
        format!("{:.6}", divergence.kl_p99),
        format!("{:.6}", divergence.kl_maximum),
        format!(
            "{} ± {} %",
            percent(divergence.same_top.mean),
            percent(divergence.same_top.standard_error)
        ),
        format!("{:.4}", divergence.perplexity),
        format!("{:.4} ± {:.4}", ratio.mean.exp(), ratio.mean.exp() * ratio.standard_error),
    ]
}
