//! `quantkit importance merge`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::files::{Format, content};
use crate::cli::options::{GlobalOptions, print_json, say};
use crate::quant::importance::ActivationSums;
use crate::support::path_text;

/// Add importance files of one model up, or turn one into another format
///
/// The result is what the texts of all files together would have given.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  quantkit importance merge prose.gguf code.dat --output all.gguf")]
pub(super) struct Arguments {
    /// The files: GGUF or .dat, of one model
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Where the sum goes
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,

    /// The output's format [default: dat for *.dat, else gguf]
    #[arg(long, value_enum)]
    format: Option<Format>,

    /// Tokens of a chunk in .dat files, which do not say it [default: as in the others, or 512]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    chunk_tokens: Option<u32>,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(serialize_with = "path_text::several")]
    files: &'a [PathBuf],
    #[serde(serialize_with = "path_text::one")]
    output: &'a Path,
    datasets: &'a [String],
    tensors: usize,
    chunks: u32,
    chunk_tokens: Option<u32>,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let Arguments { files, output, format, chunk_tokens } = arguments;
    let parts = files
        .iter()
        .map(|path| Ok((path.clone(), ActivationSums::read(path)?)))
        .collect::<Result<_>>()?;
    let merged = ActivationSums::merge(parts, *chunk_tokens)?;
    merged.write(output, Format::of(*format, output).into())?;
    if !global.json {
        return say!("{}: {}", output.display(), content(&merged));
    }
    print_json(&Report {
        files,
        output,
        datasets: merged.datasets(),
        tensors: merged.tensors().len(),
        chunks: merged.chunks(),
        chunk_tokens: merged.chunk_tokens(),
    })
}
