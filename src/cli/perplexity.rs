//! `quantkit perplexity`.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::options::{EngineFlags, GlobalOptions, ReadingFlags, model_sha256, print_outcome, say};
use crate::eval::text::WantedPerplexity;
use crate::eval::text::perplexity::{PerplexityOptions, PerplexitySummary, measure};
use crate::support::finished::Outcome;
use crate::support::input_file::sha256_once;
use crate::support::same_file::is_same_place;
use crate::support::units;

/// The result's file in the output directory.
const RESULT: &str = "perplexity.json";

/// Measure how well a model predicts a text: its perplexity
///
/// The procedure is that of llama.cpp's llama-perplexity: the model reads the text in windows that
/// follow one another, and the second half of each is scored. With --stride, windows overlap as with
/// its --ppl-stride, and of each the last N tokens are scored.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quantkit perplexity model.gguf --text wikitext-2/test.txt
  quantkit perplexity model.f16.gguf --text wikitext-2/test.txt --chunks 40 --save-logits base.logits
  quantkit divergence --base-logits base.logits model.Q4_0.gguf model.Q4_K_M.gguf")]
pub struct Arguments {
    /// The GGUF model
    model: PathBuf,

    /// The text to read, in UTF-8
    #[arg(long, value_name = "FILE")]
    text: PathBuf,

    /// Read only the first N windows of the text
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunks: Option<u32>,

    /// Tokens in a window
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    context: usize,

    /// Begin a window every N tokens, and score the last N tokens of each
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    stride: Option<u32>,

    /// Write the predictions to a file that divergence and llama-perplexity compare others with
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "stride",
        long_help = "Write the predictions at all scored positions, as llama.cpp's \
                       --kl-divergence-base does, to a file that `quantkit divergence --base-logits` \
                       and `llama-perplexity --kl-divergence` compare other models with. It takes 2 \
                       bytes for each token of the vocabulary and scored position. A run that writes \
                       it and is stopped begins anew."
    )]
    save_logits: Option<PathBuf>,

    #[command(flatten)]
    reading: ReadingFlags,

    #[command(flatten)]
    engine: EngineFlags,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let Arguments { model, text, save_logits, .. } = arguments;
    if let Some(output) = save_logits
        && [model, text].iter().any(|input| is_same_place(output, input))
    {
        bail!("{}: the output is one of the inputs; give it another name", output.display());
    }
    let options = PerplexityOptions {
        model: model.clone(),
        text: text.clone(),
        context: arguments.context,
        stride: arguments.stride.map(|stride| stride as usize),
        chunks: arguments.chunks.map(|chunks| chunks as usize),
        save_logits: save_logits.clone(),
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
    print_outcome(&outcome, global, print)
}

fn wanted(options: &PerplexityOptions) -> Result<WantedPerplexity<'_>> {
    Ok(WantedPerplexity {
        options,
        model_sha256: model_sha256(&options.model)?,
        text_sha256: sha256_once(&options.text)?,
    })
}

/// Reads the text, and keeps the result where that is wanted.
fn read(arguments: &Arguments, options: &PerplexityOptions) -> Result<PerplexitySummary> {
    let summary = measure(options).map_err(|error| arguments.reading.explain(error))?;
    arguments.reading.keep(RESULT, &summary)?;
    Ok(summary)
}

fn print(summary: &PerplexitySummary) -> Result<()> {
    let stride = match summary.stride {
        Some(stride) => format!(", one every {},", units::count(stride as u64)),
        None => ",".to_string(),
    };
    say!(
        "{} ({}) on {}: {} windows of {} tokens{stride} {} positions scored",
        summary.model,
        units::bytes(summary.model_bytes),
        summary.text,
        units::count(summary.chunks as u64),
        summary.context,
        units::count(summary.positions as u64),
    )?;
    say!("Final estimate: PPL = {:.4} +/- {:.5}", summary.perplexity, summary.standard_error)?;
    if let (Some(path), Some(bytes)) = (&summary.logits, summary.logits_bytes) {
        say!("{path}: predictions in {}", units::bytes(bytes))?;
    }
    say!("Read in {} ({:.0} tokens/s)", units::seconds(summary.seconds), summary.tokens_per_second)
}
