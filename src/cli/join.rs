//! `quantkit join`.

use std::path::PathBuf;

use anyhow::Result;

use super::options::{GlobalOptions, print_json, say};
use super::split::say_totals;
use crate::gguf::join_model;

/// Put the parts of a GGUF model together into one file
///
/// The file is the one that llama.cpp's llama-gguf-split --merge makes, byte by byte.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  quantkit join parts/model.Q4_K_M-00001-of-00003.gguf model.Q4_K_M.gguf"
)]
pub struct Arguments {
    /// The first part; the others lie beside it
    #[arg(value_name = "FIRST")]
    input: PathBuf,

    /// The GGUF file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let report = join_model(&arguments.input, &arguments.output)?;
    if global.json {
        return print_json(&report);
    }
    say!("{}", arguments.output.display())?;
    say_totals(&report)
}
