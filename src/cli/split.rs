//! `quantkit split`.

use std::path::PathBuf;

use anyhow::Result;

use super::options::{GlobalOptions, print_json, say};
use crate::gguf::{PartLimit, RegroupReport, split_model};
use crate::support::units;

/// Divide a GGUF file into parts, PREFIX-00001-of-00003.gguf and so on
///
/// The parts are byte for byte those of llama.cpp's llama-gguf-split, except for a key that tells
/// which parts belong together. Every command reads a model in parts when it is given the first one.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  quantkit split model.Q4_K_M.gguf parts/model.Q4_K_M --max-size 2G"
)]
pub struct Arguments {
    /// The GGUF file to divide
    #[arg(value_name = "IN")]
    input: PathBuf,

    /// The beginning of the parts' names
    #[arg(value_name = "PREFIX")]
    prefix: PathBuf,

    #[command(flatten)]
    limit: Limit,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Limit {
    /// The most bytes of tensors in a part, as in 500M or 2G; a larger tensor has its own part
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    max_size: Option<u64>,

    /// The most tensors in a part
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    max_tensors: Option<u32>,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let limit = match (arguments.limit.max_size, arguments.limit.max_tensors) {
        (Some(bytes), _) => PartLimit::Bytes(bytes),
        (None, tensors) => PartLimit::Tensors(tensors.unwrap_or(u32::MAX) as usize),
    };
    let report = split_model(&arguments.input, &arguments.prefix, limit)?;
    if global.json {
        return print_json(&report);
    }
    for output in &report.outputs {
        say!("{}", output.display())?;
    }
    say_totals(&report)
}

pub(super) fn say_totals(report: &RegroupReport) -> Result<()> {
    let files = |count: usize| if count == 1 { "1 file".into() } else { format!("{count} files") };
    say!(
        "{} -> {}: {} tensors, {} in {}",
        files(report.inputs.len()),
        files(report.outputs.len()),
        report.tensors,
        units::bytes(report.tensor_bytes),
        units::seconds(report.seconds),
    )
}
