//! `quantkit divergence`.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::options::{EngineFlags, GlobalOptions, ReadingFlags, model_sha256, print_outcome, say};
use crate::eval::statistics::Mean;
use crate::eval::text::WantedDivergence;
use crate::eval::text::divergence::{
    Base, DivergenceOptions, DivergenceSummary, VariantDivergence, measure,
};
use crate::support::finished::Outcome;
use crate::support::input_file::sha256_once;
use crate::support::table::{Align, Table};
use crate::support::units;

/// The result's file in the output directory.
const RESULT: &str = "divergence.json";

/// Measure how far variants' predictions are from those of the model they were made from
///
/// All models read the text side by side, in windows; the second half of each is scored, as
/// llama.cpp's llama-perplexity does; at each position the Kullback-Leibler divergence of the
/// variant's distribution over the next token from the base's is taken, in nats. Instead of the
/// base, a file of its predictions will do, which says what text was read.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "quantkit divergence [OPTIONS] <BASE> <VARIANT>... --text <FILE>\n       \
                      quantkit divergence [OPTIONS] --base-logits <FILE> <VARIANT>...",
    after_help = "Examples:
  quantkit divergence model.f16.gguf model.Q4_0.gguf model.Q4_K_M.gguf --text wikitext-2/test.txt \
                  --chunks 40
  quantkit perplexity model.f16.gguf --text wikitext-2/test.txt --save-logits base.logits
  quantkit divergence --base-logits base.logits model.Q4_0.gguf model.Q4_K_M.gguf --detailed"
)]
pub struct Arguments {
    /// The model that the others are compared with, usually F16, and variants of it
    #[arg(value_name = "MODEL", required = true)]
    models: Vec<PathBuf>,

    /// Compare with the predictions in this file, which `quantkit perplexity --save-logits` or
    /// llama.cpp's llama-perplexity has written; all models are then variants
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "context"])]
    base_logits: Option<PathBuf>,

    /// The text to read, in UTF-8
    #[arg(long, value_name = "FILE", required_unless_present = "base_logits")]
    text: Option<PathBuf>,

    /// Read only the first N windows of the text
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,

    /// Tokens in a window
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    context: usize,

    /// Print all of llama.cpp's figures
    #[arg(long)]
    detailed: bool,

    #[command(flatten)]
    reading: ReadingFlags,

    #[command(flatten)]
    engine: EngineFlags,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let (base, variants) = base_and_variants(arguments)?;
    let options = DivergenceOptions {
        base,
        variants,
        chunks: arguments.chunks.map(|chunks| chunks as usize),
        journal: arguments.reading.journal()?,
        engine: arguments.engine.options(),
    };
    let earlier = arguments.reading.earlier(
        RESULT,
        || wanted(&options),
        |found, wanted| wanted.mismatch(found),
    )?;
    let outcome = match earlier {
        Some(result) => Outcome { result, reused: true },
        None => Outcome { result: read(arguments, &options)?, reused: false },
    };
    print_outcome(&outcome, global, |summary| print(summary, arguments.detailed))
}

fn wanted(options: &DivergenceOptions) -> Result<WantedDivergence<'_>> {
    let variants = options.variants.iter().map(|variant| model_sha256(variant));
    Ok(WantedDivergence {
        options,
        base_sha256: match &options.base {
            Base::Model { model, .. } => model_sha256(model)?,
            Base::Logits(file) => sha256_once(file)?,
        },
        text_sha256: options.base.text().map(sha256_once).transpose()?,
        variants_sha256: variants.collect::<Result<_>>()?,
    })
}

/// Reads the text, and keeps the result where that is wanted.
fn read(arguments: &Arguments, options: &DivergenceOptions) -> Result<DivergenceSummary> {
    let summary = measure(options).map_err(|error| arguments.reading.explain(error))?;
    arguments.reading.keep(RESULT, &summary)?;
    Ok(summary)
}

fn base_and_variants(arguments: &Arguments) -> Result<(Base, Vec<PathBuf>)> {
    let Arguments { models, base_logits, text, context, .. } = arguments;
    match (base_logits, text, models.as_slice()) {
        (Some(logits), _, variants) => Ok((Base::Logits(logits.clone()), variants.to_vec())),
        (None, Some(text), [model, variants @ ..]) if !variants.is_empty() => {
            let (model, text, context) = (model.clone(), text.clone(), *context);
            Ok((Base::Model { model, text, context }, variants.to_vec()))
        }
        _ => bail!(
            "a base and at least one variant of it are needed: \
             quantkit divergence BASE VARIANT... --text FILE"
        ),
    }
}

fn print(summary: &DivergenceSummary, detailed: bool) -> Result<()> {
    let positions = summary.variants.first().map_or(0, |variant| variant.divergence.positions);
    let text = summary.text.as_ref().map_or(String::new(), |text| format!(" on {text}"));
    say!(
        "Against {} ({}){text}: {} windows of {} tokens, {} positions\n",
        summary.base,
        units::bytes(summary.base_bytes),
        units::count(summary.chunks as u64),
        summary.context,
        units::count(positions as u64),
    )?;
    let table = if detailed { detailed_table(summary) } else { short_table(summary) };
    say!("{}", table.to_text())?;
    let base = summary.variants.first().map_or(f64::NAN, |v| v.divergence.base_perplexity);
    say!(
        "The base's perplexity is {base:.4}. KL in nats; measured in {}.",
        units::seconds(summary.seconds)
    )
}

fn short_table(summary: &DivergenceSummary) -> Table {
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
        table.row(short_cells(variant));
    }
    table
}

fn short_cells(variant: &VariantDivergence) -> [String; 11] {
    let divergence = &variant.divergence;
    let ratio = variant.details.perplexity_ratio;
    [
        variant.model.clone(),
        units::bytes(variant.file_bytes),
        format!("{:.6}", divergence.kl.mean),
        format!("{:.6}", divergence.kl.standard_error),
        format!("{:.6}", divergence.kl_median),
        format!("{:.6}", divergence.kl_p90),
        format!("{:.6}", divergence.kl_p99),
        format!("{:.6}", divergence.kl_maximum),
        percent(divergence.same_top, 2),
        format!("{:.4}", divergence.perplexity),
        format!("{:.4} ± {:.4}", ratio.mean, ratio.standard_error),
    ]
}

fn percent(share: Mean, decimals: usize) -> String {
    let Mean { mean, standard_error } = share;
    format!("{:.decimals$} ± {:.decimals$} %", 100.0 * mean, 100.0 * standard_error)
}

/// A row a figure, a column a variant.
fn detailed_table(summary: &DivergenceSummary) -> Table {
    let names = summary.variants.iter().map(|variant| (variant.model.as_str(), Align::Right));
    let mut table = Table::new(std::iter::once(("", Align::Left)).chain(names));
    let variants: Vec<_> = summary.variants.iter().map(detailed_cells).collect();
    let rows = variants.first().map_or(0, Vec::len);
    for row in 0..rows {
        let name = variants[0][row].0.clone();
        table.row(std::iter::once(name).chain(variants.iter().map(|cells| cells[row].1.clone())));
    }
    table
}

/// A variant's figures with their names.
fn detailed_cells(variant: &VariantDivergence) -> Vec<(String, String)> {
    let (divergence, details) = (&variant.divergence, &variant.details);
    let plain = |Mean { mean, standard_error }| format!("{mean:.6} ± {standard_error:.6}");
    let perplexity = |mean, standard_error| plain(Mean { mean, standard_error });
    let mut cells: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: String| cells.push((name.to_string(), value));
    add("perplexity", perplexity(divergence.perplexity, details.perplexity_standard_error));
    add(
        "base's perplexity",
        perplexity(divergence.base_perplexity, details.base_perplexity_standard_error),
    );
    add(
        "correlation of their logarithms",
        details
            .log_perplexity_correlation
            .map_or("—".to_string(), |correlation| format!("{:.2} %", 100.0 * correlation)),
    );
    add("ln (perplexity / base's)", plain(divergence.log_perplexity_ratio));
    add("perplexity / base's", plain(details.perplexity_ratio));
    add("perplexity − base's", plain(details.perplexity_difference));
    add("KL, mean", plain(divergence.kl));
    for (name, value) in details.kl_distribution.named() {
        add(&format!("KL, {name}"), format!("{value:.6}"));
    }
    add("Δp, mean", percent(details.probability_change, 3));
    for (name, value) in details.probability_change_distribution.named() {
        add(&format!("Δp, {name}"), format!("{:.3} %", 100.0 * value));
    }
    let (mean, standard_error) =
        (details.probability_change_rms, details.probability_change_rms_standard_error);
    add("Δp, root mean square", percent(Mean { mean, standard_error }, 3));
    add("same top token", percent(divergence.same_top, 3));
    cells
}
