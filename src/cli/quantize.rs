//! `quantkit quantize`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use super::options::{GlobalOptions, format_names, format_parser, print_json, print_text, say};
use crate::convert::CheckpointModel;
use crate::gguf::{GgmlType, GgufFile};
use crate::quant::importance::Importance;
use crate::quant::pipeline::{QuantizeReport, Request, preview, quantize_source};
use crate::quant::plan::Plan;
use crate::quant::recipe::Recipe;
use crate::quant::selection::{Changes, Pattern, Rule, Selection};
use crate::quant::source::TensorSource;
use crate::support::atomic_file::{check_writable, write_atomically};
use crate::support::same_file::is_same_place;
use crate::support::table::{Align, Table};
use crate::support::units;

/// Quantize a GGUF file or a Hugging Face directory
///
/// Which tensor gets which format is chosen as llama.cpp's llama-quantize does, and the file is the
/// one that it makes, byte by byte.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  quantkit quantize model.f16.gguf model.Q4_K_M.gguf --type Q4_K_M
  quantkit quantize model.f16.gguf model.Q4_0.gguf --type Q4_0 --importance model.imatrix.gguf
  quantkit quantize checkpoint/ model.Q6_K.gguf --type Q6_K --split-max-size 2G
  quantkit quantize model.f16.gguf --dry-run --type Q4_K_M --tensor-type 'blk\\.[0-3]\\.ffn=Q6_K'")]
pub struct Arguments {
    /// The GGUF file to quantize (of a model in parts the first one), or a Hugging Face directory
    #[arg(value_name = "IN")]
    input: PathBuf,

    /// The GGUF file to write
    #[arg(value_name = "OUT", required_unless_present = "dry_run")]
    output: Option<PathBuf>,

    #[command(flatten)]
    base: Base,

    #[command(flatten)]
    changes: ChangeOptions,

    /// The file that says how much each column of each matrix matters, as quantkit importance or
    /// llama.cpp's llama-imatrix writes it
    #[arg(long, value_name = "FILE", help_heading = "Importance")]
    importance: Option<PathBuf>,

    /// Quantize tensors that are missing from the importance file without importance
    #[arg(long, requires = "importance", help_heading = "Importance")]
    allow_partial_importance: bool,

    /// Quantize again what is quantized already, at a loss on top of the one it has
    #[arg(long, help_heading = "Input and output")]
    allow_requantize: bool,

    /// Write the model in parts, OUT-00001-of-00003.gguf and so on, with at most this many bytes of
    /// tensors in each, as in 500M or 2G; a larger tensor has a part of its own
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes,
        help_heading = "Input and output")]
    split_max_size: Option<u64>,

    /// Show what would become of every tensor and how large the file would be, and write nothing
    #[arg(long, help_heading = "Input and output")]
    dry_run: bool,

    /// Also write the result as JSON into this file
    #[arg(long, value_name = "FILE", help_heading = "Input and output")]
    report: Option<PathBuf>,
}

/// What decides over the formats in the first place.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
#[command(next_help_heading = "Formats")]
struct Base {
    /// The recipe
    #[arg(long = "type", value_name = "TYPE", ignore_case = true, value_parser = recipe_parser())]
    recipe: Option<&'static Recipe>,

    /// A plan: a file that names the format of every tensor, as quantkit search writes it
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
}

/// What is to be otherwise than the recipe has it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Formats")]
struct ChangeOptions {
    /// The recipe's own format for every matrix, without its exceptions
    #[arg(long, conflicts_with = "plan")]
    pure: bool,

    /// The format of the output matrix
    #[arg(long, value_name = "FORMAT", ignore_case = true, value_parser = format_parser(),
        hide_possible_values = true, conflicts_with_all = ["plan", "leave_output"])]
    output_type: Option<GgmlType>,

    /// The format of the token embedding
    #[arg(long, value_name = "FORMAT", ignore_case = true, value_parser = format_parser(),
        hide_possible_values = true, conflicts_with = "plan")]
    token_embedding_type: Option<GgmlType>,

    /// Leave the output matrix as it is
    #[arg(long, conflicts_with = "plan")]
    leave_output: bool,

    /// A format for the tensors whose names a regular expression matches somewhere, in any case;
    /// of several rules the first that matches counts
    #[arg(long = "tensor-type", value_name = "REGEX=FORMAT", value_parser = parse_rule,
        conflicts_with = "plan")]
    rules: Vec<Rule>,

    /// Leave the tensors whose names a regular expression matches as they are
    #[arg(long, value_name = "REGEX", conflicts_with = "plan")]
    exclude: Vec<Pattern>,
}

pub(super) fn recipe_parser() -> impl TypedValueParser<Value = &'static Recipe> {
    let value = |recipe: &Recipe| {
        PossibleValue::new(recipe.name).aliases(recipe.aliases).help(recipe.about)
    };
    PossibleValuesParser::new(Recipe::all().iter().map(value)).map(|name| {
        Recipe::from_name(&name).expect("the parser has only let names of recipes through")
    })
}

pub(super) fn parse_rule(text: &str) -> Result<Rule> {
    let (pattern, name) = text.rsplit_once('=').context("expected REGEX=FORMAT, found no '='")?;
    let format = format_names()
        .find(|known| known.eq_ignore_ascii_case(name))
        .and_then(GgmlType::from_name)
        .with_context(|| {
            let known: Vec<&str> = format_names().collect();
            format!("{name:?} is no format; there are {}", known.join(", "))
        })?;
    Ok(Rule { pattern: pattern.parse()?, format })
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let selection = selection(arguments)?;
    let importance = arguments.importance.as_deref().map(Importance::read).transpose()?;
    let request = Request {
        importance: importance.as_ref(),
        allow_partial_importance: arguments.allow_partial_importance,
        allow_requantize: arguments.allow_requantize,
        split_max_size: arguments.split_max_size,
        plan_file: arguments.base.plan.as_deref(),
        ..Request::new(arguments.output.as_deref().unwrap_or(Path::new("")), &selection)
    };
    let source = open(&arguments.input)?;
    check_report(arguments, &source.files())?;
    warn_of_missing_importance(&request);
    let report = match arguments.dry_run {
        true => preview(&*source, &request)?,
        false => quantize_source(&*source, &request)?,
    };
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

/// Finds out before long work whether the report can be written and takes no other file's place.
fn check_report(arguments: &Arguments, inputs: &[PathBuf]) -> Result<()> {
    let Some(report) = &arguments.report else { return Ok(()) };
    let others = [&arguments.importance, &arguments.base.plan, &arguments.output];
    if inputs.iter().chain(others.into_iter().flatten()).any(|it| is_same_place(it, report)) {
        bail!(
            "{}: the report would replace an input or the output; give it another name",
            report.display()
        );
    }
    check_writable(report).with_context(|| format!("cannot write {}", report.display()))
}

/// A plan's formats are the best ones only with the importance that they were measured with.
fn warn_of_missing_importance(request: &Request<'_>) {
    let Selection::Plan(plan) = request.selection else { return };
    if let (None, Some(file)) = (request.importance, plan.importance_file()) {
        tracing::warn!(
            "the plan was made with the importance file {file}; without --importance {file} the \
             formats are less accurate than it says"
        );
    }
}

/// A GGUF file, or a directory that passes for the one that `convert` would make of it.
fn open(input: &Path) -> Result<Box<dyn TensorSource>> {
    Ok(match input.is_dir() {
        true => Box::new(CheckpointModel::open(input, None)?),
        false => Box::new(GgufFile::open(input)?),
    })
}

fn selection(arguments: &Arguments) -> Result<Selection> {
    let Arguments { base, changes, .. } = arguments;
    match (base.recipe, &base.plan) {
        (Some(recipe), _) => Ok(Selection::Recipe(
            recipe,
            Changes {
                pure: changes.pure,
                output: changes.output_type,
                token_embedding: changes.token_embedding_type,
                leave_output: changes.leave_output,
                rules: changes.rules.clone(),
                exclude: changes.exclude.clone(),
            },
        )),
        (None, Some(path)) => Ok(Selection::Plan(Box::new(Plan::read(path)?))),
        (None, None) => unreachable!("clap asks for one of the two"),
    }
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
        let tensors = if fallbacks == 1 { "tensor" } else { "tensors" };
        say!(
            "{fallbacks} {tensors} fell back to another type: the row length is not a multiple of \
             the wanted type's block size"
        )?;
    }
    match report.weights_per_second {
        None => {
            say!("the file would have {}; nothing was written", units::bytes(report.file_bytes))
        }
        Some(speed) => say!(
            "{}{} written in {}, {} weights/s",
            report.output.display(),
            if report.files > 1 {
                format!(" and {} more", report.files - 1)
            } else {
                String::new()
            },
            units::seconds(report.seconds),
            units::count(speed as u64),
        ),
    }
}
