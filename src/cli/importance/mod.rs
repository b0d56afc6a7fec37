//! `quantkit importance`: collecting, and the commands on what was collected.

mod collect;
mod files;
mod merge;
mod run_record;
mod show;

use anyhow::Result;

use super::options::GlobalOptions;

/// Collect which input channels of a model matter, for `quantize --importance`
///
/// Calibration text runs through the model, and for each weight matrix the mean squared activation
/// of every input channel is collected. Files are llama.cpp's importance files (imatrix), GGUF or
/// legacy .dat, in both directions.
///
/// Until the run is complete, OUTPUT.unfinished holds what is done, also when Ctrl-C stops it. The same
/// command with --resume goes on from there, and writes the file that an undisturbed run would have
/// written.
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
