//! `quantkit importance`: collecting, and the commands on what was collected.

mod collect;
mod merge;
mod run_record;
mod show;

use std::path::Path;

use anyhow::Result;

use super::options::GlobalOptions;
use crate::quant::importance::{ActivationSums, FileFormat};
use crate::support::units;

/// Collect which input channels of a model matter, for `quantize --importance`
///
/// Calibration text runs through the model, and for each weight matrix the mean squared activation
/// of every input channel is collected. Files are llama.cpp's importance files (imatrix), GGUF or
/// legacy .dat, in both directions.
///
/// Ctrl-C saves what is done; the same command with --resume goes on from there, and ends with the
/// file that an undisturbed run would have written (GGUF only: .dat files lack the sums).
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:
  quantkit importance model-f16.gguf --text calibration.txt --output importance.gguf
  quantkit importance show importance.gguf
  quantkit importance merge importance.gguf older.dat --output merged.gguf
  quantkit quantize model-f16.gguf model-Q4_K_M.gguf --type Q4_K_M --importance importance.gguf"
)]
pub struct Arguments {
    #[command(flatten)]
    collect: collect::Arguments,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Merge(merge::Arguments),
    Show(show::Arguments),
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    match &arguments.command {
        None => collect::run(&arguments.collect, global),
        Some(Command::Merge(arguments)) => merge::run(arguments, global),
        Some(Command::Show(arguments)) => show::run(arguments, global),
    }
}

/// A format of importance files, as the command line names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// GGUF: sums and counts
    Gguf,
    /// llama.cpp's legacy format: means only
    Dat,
}

impl Format {
    /// The wanted format, or the one that the file's name asks for.
    fn of(wanted: Option<Self>, output: &Path) -> Self {
        let is_dat = output.extension().is_some_and(|extension| extension == "dat");
        wanted.unwrap_or(if is_dat { Self::Dat } else { Self::Gguf })
    }
}

impl From<Format> for FileFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Gguf => Self::Gguf,
            Format::Dat => Self::Dat,
        }
    }
}

/// `210 tensors, 8 chunks of 512 tokens`.
fn content(sums: &ActivationSums) -> String {
    let tokens = match sums.chunk_tokens() {
        Some(tokens) => format!(" of {}", counted(tokens.into(), "token")),
        None => String::new(),
    };
    let tensors = counted(sums.tensors().len() as u64, "tensor");
    format!("{tensors}, {}{tokens}", counted(sums.chunks().into(), "chunk"))
}

/// `1 tensor`, `2,000 tensors`.
fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", units::count(number), if number == 1 { "" } else { "s" })
}
