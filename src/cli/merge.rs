//! `quantkit merge`.

use std::path::PathBuf;

use anyhow::Result;

use super::mmlu_eval::print_summary;
use super::options::{GlobalOptions, print_json, say};
use crate::eval;

/// Join the shards of an evaluation
///
/// The shards are the directories of `mmlu-eval --shard I/N`, all N of them in any order. DIR gets
/// the files that the run would have written in one piece. Each may be s3://BUCKET/KEY.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quantkit mmlu-eval model.gguf --set eval-sets/mmlu --shard 0/2 --output outputs/m-0
  quantkit mmlu-eval model.gguf --set eval-sets/mmlu --shard 1/2 --output outputs/m-1
  quantkit merge outputs/m outputs/m-0 outputs/m-1")]
pub struct Arguments {
    /// Directory for the whole run
    #[arg(value_name = "DIR")]
    output: PathBuf,

    /// Directories of the shards
    #[arg(value_name = "SHARD-DIR", required = true)]
    shards: Vec<PathBuf>,

    /// Replace a finished run of other settings in DIR
    #[arg(long)]
    overwrite: bool,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let summary = eval::merge(&arguments.output, &arguments.shards, arguments.overwrite)?;
    if global.json {
        return print_json(&summary);
    }
    print_summary(&summary)?;
    say!("Results: {}", arguments.output.display())
}
