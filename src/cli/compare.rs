//! `quantkit compare`.

use std::path::PathBuf;

use anyhow::Result;

use super::bench::WorkloadOptions;
use super::command_line::command_line;
use super::mmlu_eval::{QuestionOptions, print_paired};
use super::options::{EngineFlags, GlobalOptions, print_json, say};
use crate::bench::Workload;
use crate::report::{self, CompareOptions, Comparison, Step, TextOptions, tables};
use crate::support::units;

/// Compare variants of a model in one report
///
/// Scores, measures and weighs every model, on questions, under load and with --text on a text, then
/// writes report.html, report.md, compare.json and questions.parquet. Earlier results in the output directory are reused where the model file, the
/// question set, all settings and quantkit itself are still the same.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quantkit compare models/m.F16.gguf models/m.Q4_0.gguf \
                  --baseline models/m.F16.gguf --set eval-sets/starter --output outputs/m")]
pub struct Arguments {
    /// GGUF models
    #[arg(value_name = "MODEL.gguf", required = true)]
    models: Vec<PathBuf>,

    /// The model that the others are compared with
    #[arg(long, value_name = "MODEL.gguf")]
    baseline: PathBuf,

    #[command(flatten)]
    questions: QuestionOptions,

    #[command(flatten)]
    text: TextFlags,

    #[command(flatten)]
    workload: WorkloadOptions,

    /// Leave speed out
    #[arg(long)]
    no_bench: bool,

    /// Measure everything anew, even where earlier results are valid
    #[arg(long)]
    fresh: bool,

    /// A sentence that the report repeats among its caveats; may be given several times
    #[arg(long, value_name = "TEXT")]
    note: Vec<String>,

    /// Directory for the report and each model's results
    #[arg(long, value_name = "DIR")]
    output: PathBuf,

    #[command(flatten)]
    engine: EngineFlags,
}

/// The options for the text on which perplexity and divergence are measured.
#[derive(Debug, Clone, clap::Args)]
struct TextFlags {
    /// Measure perplexity and the divergence from the baseline on this text, in UTF-8, too
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,

    /// Tokens in a window of the text
    #[arg(long, value_name = "TOKENS", default_value_t = 512, requires = "text")]
    text_context: usize,

    /// Read only the first N windows of the text
    #[arg(long, value_name = "N", requires = "text",
          value_parser = clap::value_parser!(u32).range(1..))]
    text_chunks: Option<u32>,
}

impl TextFlags {
    fn options(&self) -> Option<TextOptions> {
        Some(TextOptions {
            path: self.text.clone()?,
            context: self.text_context,
            chunks: self.text_chunks.map(|chunks| chunks as usize),
        })
    }
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let questions = &arguments.questions;
    let (protocol, shots) = questions.protocol_and_shots();
    let workload = (!arguments.no_bench).then(|| Workload::from(&arguments.workload));
    let options = CompareOptions {
        models: arguments.models.clone(),
        baseline: arguments.baseline.clone(),
        set: questions.set.clone(),
        protocol,
        shots,
        limit: questions.limit,
        limit_seeded: questions.limit_seeded,
        every: questions.every,
        subjects: questions.subjects.clone(),
        text: arguments.text.options(),
        workload,
        engine: arguments.engine.options(),
        fresh: arguments.fresh,
        output: arguments.output.clone(),
        notes: arguments.note.clone(),
        commands: vec![command_line()],
    };
    let quiet = global.quiet || global.json;
    let comparison = report::compare(&options, &mut |step| {
        if !quiet {
            print_step(step);
        }
    })?;
    if global.json {
        return print_json(&comparison);
    }
    print(&comparison)?;
    say!("\nReport: {}", arguments.output.join("report.html").display())
}

/// One line for a finished step. That it cannot be printed is no reason to end hours of work.
pub(super) fn print_step(step: &Step) {
    let time = if step.reused { "reused".to_string() } else { units::seconds(step.seconds) };
    if let Err(error) = say!("{:<48} {time}", step.what) {
        tracing::debug!("{error:#}");
    }
}

/// The tables of a comparison, for a terminal.
pub(super) fn print(comparison: &Comparison) -> Result<()> {
    say!("\n{}", tables::variants(comparison).to_text())?;
    if comparison.variants.len() > 1 {
        print_paired(&comparison.baseline, &tables::paired(comparison))?;
        if let Some(text) = tables::text(comparison) {
            say!("Perplexity and KL divergence on a text:\n\n{}", text.to_text())?;
        }
    }
    for (concurrency, table) in tables::speeds(comparison) {
        say!("{concurrency} in flight:\n\n{}", table.to_text())?;
    }
    for sentence in &comparison.headline {
        say!("{sentence}")?;
    }
    Ok(())
}
