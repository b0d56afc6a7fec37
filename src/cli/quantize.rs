//! `quantkit quantize`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::options::{GlobalOptions, print_json, print_text, say};
use crate::quant::pipeline::{QuantizeReport, Request, quantize_file};
use crate::quant::recipe::Recipe;
use crate::quant::selection::Selection;
use crate::support::atomic_file::write_atomically;
use crate::support::table::{Align, Table};
use crate::support::units;

/// Quantize a GGUF file of F32, F16 or BF16 weights
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  quantkit quantize model.f16.gguf model.Q4_K_M.gguf --type Q4_K_M"
)]
pub struct Arguments {
    /// The GGUF file to quantize
    #[arg(value_name = "IN")]
    input: PathBuf,

    /// The GGUF file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,

    /// The recipe: which tensor gets which format, chosen as llama.cpp does
    #[arg(long = "type", value_name = "TYPE", ignore_case = true, value_parser = recipe_parser())]
    recipe: &'static Recipe,

    /// Quantize again what is quantized already, at a loss on top of the one it has
    #[arg(long)]
    allow_requantize: bool,

    /// Also write the result as JSON into this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

fn recipe_parser() -> impl TypedValueParser<Value = &'static Recipe> {
    PossibleValuesParser::new(Recipe::all().iter().map(|recipe| recipe.name)).map(|name| {
        Recipe::from_name(&name).expect("the parser has only let names of recipes through")
    })
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let selection = Selection::recipe(arguments.recipe);
    let request = Request {
        allow_requantize: arguments.allow_requantize,
        ..Request::new(&arguments.output, &selection)
    };
    let report = quantize_file(&arguments.input, &request)?;
    if let Some(path) = &arguments.report {
        let mut text = serde_json::to_vec_pretty(&report).context("cannot write the report")?;
        text.push(b'\n');
        write_atomically(path, &text)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if global.json {
        return print_json(&report);
    }
    print_text(&tensor_table(&report).to_text())?;
    say!()?;
    print_totals(&report)
}

fn tensor_table(report: &QuantizeReport) -> Table {
    let mut table = Table::new([
        ("tensor", Align::Left),
        ("shape", Align::Right),
        ("old type", Align::Left),
        ("new type", Align::Left),
        ("old size", Align::Right),
        ("new size", Align::Right),
        ("note", Align::Left),
    ]);
    for tensor in &report.tensors {
        let shape: Vec<String> = tensor.dimensions.iter().map(u64::to_string).collect();
        table.row([
            tensor.name.clone(),
            shape.join(" × "),
            tensor.old_type.to_string(),
            tensor.new_type.to_string(),
            units::bytes(tensor.old_bytes),
            units::bytes(tensor.new_bytes),
            tensor.note.clone(),
        ]);
    }
    table
}

fn print_totals(report: &QuantizeReport) -> Result<()> {
    let fallbacks = report.tensors.iter().filter(|tensor| tensor.wanted_type.is_some()).count();
    say!(
        "{} weights in {} tensors: {} ({:.2} bits per weight) -> {} ({:.2} bits per weight)",
        units::count(report.weights),
        report.tensors.len(),
        units::bytes(report.old_bytes),
        report.old_bits_per_weight,
        units::bytes(report.new_bytes),
        report.new_bits_per_weight,
    )?;
    if fallbacks > 0 {
        let (tensors, whose) =
            if fallbacks == 1 { ("tensor", "its") } else { ("tensors", "their") };
        say!(
            "{fallbacks} {tensors} fell back to another type, as {whose} rows are no whole number \
             of blocks of the one that {} has",
            report.recipe
        )?;
    }
    say!(
        "{} written in {}, {} weights/s",
        report.output.display(),
        units::duration(Duration::from_secs_f64(report.seconds)),
        units::count(report.weights_per_second as u64),
    )
}
