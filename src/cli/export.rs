//! `quantkit export`.

use std::path::PathBuf;

use anyhow::Result;

use super::options::{GlobalOptions, print_json, say};
use crate::convert::{ExportOptions, WeightType, export};
use crate::support::units;

/// Turn a GGUF file into a Hugging Face directory
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quantkit export model.Q4_0.gguf --output checkpoint/")]
pub struct Arguments {
    /// The GGUF file, of any type that quantkit can read
    #[arg(value_name = "MODEL.gguf")]
    input: PathBuf,

    /// The directory to write; it must be empty or not exist
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,

    /// Type of the tensors
    #[arg(long, value_enum, default_value_t = Dtype::F16, value_name = "TYPE")]
    dtype: Dtype,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Dtype {
    F16,
    Bf16,
    F32,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let report = export(&ExportOptions {
        input: arguments.input.clone(),
        output: arguments.output.clone(),
        weight_type: match arguments.dtype {
            Dtype::F16 => WeightType::F16,
            Dtype::Bf16 => WeightType::BF16,
            Dtype::F32 => WeightType::F32,
        },
    })?;
    if global.json {
        return print_json(&report);
    }
    say!(
        "{}: {}, {} tensors, {} parameters, {} in {} ({})",
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
