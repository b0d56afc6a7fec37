//! `quantkit convert`.

use std::path::PathBuf;

use anyhow::Result;

use super::options::{GlobalOptions, print_json, say};
use crate::convert::{ConvertOptions, WeightType, convert};
use crate::support::units;

/// Turn a Hugging Face directory into a GGUF file
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  quantkit convert checkpoint/ --output model.f16.gguf --dtype f16"
)]
pub struct Arguments {
    /// The directory with config.json, the safetensors files and the tokenizer
    #[arg(value_name = "DIR")]
    input: PathBuf,

    /// The GGUF file to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,

    /// Type of the matrices; auto is the checkpoint's own 16-bit type, or f16
    #[arg(long, value_enum, default_value_t = Dtype::Auto, value_name = "TYPE")]
    dtype: Dtype,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Dtype {
    F16,
    Bf16,
    F32,
    Auto,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let report = convert(&ConvertOptions {
        input: arguments.input.clone(),
        output: arguments.output.clone(),
        weight_type: match arguments.dtype {
            Dtype::F16 => Some(WeightType::F16),
            Dtype::Bf16 => Some(WeightType::BF16),
            Dtype::F32 => Some(WeightType::F32),
            Dtype::Auto => None,
        },
    })?;
    if global.json {
        return print_json(&report);
    }
    say!(
        "{}: {} architecture, {} tensors, {} parameters, {} in {} ({})",
        report.output.display(),
        report.architecture,
        report.tensors,
        units::count(report.parameters),
        units::bytes(report.tensor_bytes),
        report.weight_type,
        units::seconds(report.seconds),
    )?;
    Ok(())
}
