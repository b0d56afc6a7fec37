//! `quantkit search`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::options::{GlobalOptions, format_parser, print_json, say};
use crate::gguf::{GgmlType, GgufFile};
use crate::quant::importance::Importance;
use crate::quant::pipeline::{QuantizeReport, Request, quantize_file};
use crate::quant::plan::Plan;
use crate::quant::recipe::Recipe;
use crate::quant::selection::{Rule, Selection};
use crate::report::search_plot;
use crate::search::{
    Budget, PlannedTensor, SearchError, SearchOptions, SearchReport, Variant, default_formats,
    measurements_path, search,
};
use crate::support::atomic_file::write_atomically;
use crate::support::table::{ABSENT, Align, Table};
use crate::support::units;

/// How many tensors the table shows.
const SHOWN_TENSORS: usize = 12;

/// Find the best formats for a size
///
/// Measures, tensor by tensor, how far a model's predictions move when that tensor is quantized,
/// and chooses the format of each so that the file has at most the wanted size and the predictions
/// move as little as possible. The plan is for quantize --plan. Measurements are kept beside it: a
/// search that was stopped goes on where it was, and another size takes seconds.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quantkit search model.f16.gguf --text wikitext-2/valid.txt --size 100M --output plan.json
  quantkit search model.f16.gguf --text wikitext-2/valid.txt --size-of model.Q4_K_M.gguf \\
      --against Q4_K_M --held-out wikitext-2/test.txt --output plan.json --plot plan.svg
  quantkit quantize model.f16.gguf model.gguf --plan plan.json")]
pub struct Arguments {
    /// The GGUF model, in F32, F16 or BF16
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// The calibration text, in UTF-8
    #[arg(long, value_name = "FILE")]
    text: PathBuf,

    #[command(flatten)]
    budget: BudgetOptions,

    /// The plan to write
    #[arg(long, value_name = "FILE")]
    output: PathBuf,

    /// Also quantize the model by the plan into this file
    #[arg(long, value_name = "OUT.gguf")]
    quantize: Option<PathBuf>,

    /// Also draw size against divergence into this file, as SVG
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,

    #[command(flatten)]
    formats: FormatOptions,

    #[command(flatten)]
    measuring: MeasuringOptions,
}

/// How large the result may be.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
#[command(next_help_heading = "Size")]
struct BudgetOptions {
    /// Bytes of the whole file, with K, M or G for thousands, KiB, MiB or GiB for 1024s
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    size: Option<u64>,

    /// Bits of tensor data for each weight
    #[arg(long, value_name = "BITS")]
    bits_per_weight: Option<f64>,

    /// At most as large as this GGUF model, all its parts together
    #[arg(long, value_name = "FILE")]
    size_of: Option<PathBuf>,
}

/// What may be chosen.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Formats")]
struct FormatOptions {
    /// Formats to choose from [default: all that quantize knows]; the model's own always counts
    #[arg(long, value_name = "A,B", value_delimiter = ',', ignore_case = true,
        value_parser = format_parser(), hide_possible_values = true)]
    formats: Vec<GgmlType>,

    /// Give the tensors whose names a regular expression matches this format
    #[arg(long, value_name = "REGEX=FORMAT", value_parser = super::quantize::parse_rule)]
    keep: Vec<Rule>,

    /// Importance of the columns, for the formats that use it; quantize needs the same file
    #[arg(long, value_name = "FILE")]
    importance: Option<PathBuf>,

    /// Quantize tensors that are missing from the importance file without importance
    #[arg(long, requires = "importance")]
    allow_partial_importance: bool,
}

/// How it is measured, and what the result is compared with.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Measuring")]
struct MeasuringOptions {
    /// Measure on N windows spread over the text
    #[arg(long, value_name = "N", default_value_t = 4,
        value_parser = clap::value_parser!(u32).range(1..))]
    chunks: u32,

    /// Tokens in a window
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    context: usize,

    /// Recipes to compare the plan with
    #[arg(long, value_name = "TYPE,TYPE", value_delimiter = ',', ignore_case = true,
        value_parser = super::quantize::recipe_parser(), hide_possible_values = true)]
    against: Vec<&'static Recipe>,

    /// Compare on this text too, which nothing is fitted to
    #[arg(long, value_name = "FILE")]
    held_out: Option<PathBuf>,

    /// Read only the first N windows of the held-out text
    #[arg(long, value_name = "N", default_value_t = 40, requires = "held_out",
        value_parser = clap::value_parser!(u32).range(1..))]
    held_out_chunks: u32,

    /// Forget the measurements of earlier searches
    #[arg(long)]
    fresh: bool,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let options = options(arguments)?;
    let report = match search(&options) {
        Err(stopped @ SearchError::Interrupted(_)) => {
            let kept = format!(
                "what was measured is in {}; the same command goes on from there",
                measurements_path(&options.output).display()
            );
            return Err(stopped).context(kept);
        }
        result => result?,
    };
    if let Some(path) = &arguments.plot {
        write_atomically(path, search_plot::draw(&report).as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if global.json {
        print_json(&report)?;
    } else {
        print(&report)?;
    }
    let Some(output) = &arguments.quantize else {
        return if global.json { Ok(()) } else { print_next(&report, &arguments.formats) };
    };
    let quantized = quantize(arguments, output)?;
    if global.json {
        return Ok(());
    }
    say!("{} written, {}", output.display(), units::bytes(quantized.file_bytes))
}

fn options(arguments: &Arguments) -> Result<SearchOptions> {
    let Arguments { budget, formats, measuring, .. } = arguments;
    let mut other_inputs = Vec::new();
    let budget = match (budget.size, budget.bits_per_weight, &budget.size_of) {
        (Some(bytes), ..) => Budget::FileBytes(bytes),
        (_, Some(bits), _) => Budget::BitsPerWeight(bits),
        (_, _, Some(path)) => {
            let file = GgufFile::open(path)?;
            other_inputs.extend(file.part_paths().map(Path::to_path_buf));
            Budget::FileBytes(file.file_bytes())
        }
        _ => bail!("say how large the result may be: --size, --bits-per-weight or --size-of"),
    };
    let chosen =
        if formats.formats.is_empty() { default_formats() } else { formats.formats.clone() };
    let held_out_chunks = Some(measuring.held_out_chunks as usize);
    Ok(SearchOptions {
        model: arguments.model.clone(),
        text: arguments.text.clone(),
        context: measuring.context,
        chunks: measuring.chunks as usize,
        budget,
        formats: chosen,
        keep: formats.keep.clone(),
        importance: formats.importance.clone(),
        allow_partial_importance: formats.allow_partial_importance,
        output: arguments.output.clone(),
        against: measuring.against.clone(),
        held_out: measuring.held_out.clone().map(|path| (path, held_out_chunks)),
        fresh: measuring.fresh,
        later_outputs: [&arguments.plot, &arguments.quantize]
            .into_iter()
            .flatten()
            .cloned()
            .collect(),
        other_inputs,
    })
}

fn quantize(arguments: &Arguments, output: &Path) -> Result<QuantizeReport> {
    let selection = Selection::Plan(Box::new(Plan::read(&arguments.output)?));
    let importance = arguments.formats.importance.as_deref().map(Importance::read).transpose()?;
    let request = Request {
        importance: importance.as_ref(),
        allow_partial_importance: arguments.formats.allow_partial_importance,
        ..Request::new(output, &selection)
    };
    Ok(quantize_file(&arguments.model, &request)?)
}

fn print(report: &SearchReport) -> Result<()> {
    say!("{}", tensor_table(report).to_text())?;
    say!("{}", variant_table(report).to_text())?;
    if !report.excluded.is_empty() {
        let left_out: Vec<String> = report
            .excluded
            .iter()
            .map(|excluded| format!("{} as {}", excluded.tensor, excluded.format))
            .collect();
        say!(
            "Left out, as the weights are too large or the logits no numbers then: {}",
            left_out.join(", ")
        )?;
    }
    say!(
        "KL in nats, ~ where it is estimated, on {} of {} tokens; at most {} wanted, the model has {}. Searched in {}.",
        if report.chunks == 1 {
            "a window".to_string()
        } else {
            format!("{} windows", report.chunks)
        },
        report.context,
        units::bytes(report.budget_bytes),
        units::bytes(report.model_bytes),
        units::seconds(report.seconds)
    )?;
    say!("Plan: {}", report.plan.display())
}

/// How to go on.
fn print_next(report: &SearchReport, options: &FormatOptions) -> Result<()> {
    let partial = if options.allow_partial_importance { " --allow-partial-importance" } else { "" };
    let importance = match &report.importance {
        Some(path) => format!(" --importance {}{partial}", quoted(path)),
        None => String::new(),
    };
    say!(
        "Next: quantkit quantize {} OUT.gguf --plan {}{importance}",
        quoted(Path::new(&report.model)),
        quoted(&report.plan)
    )
}

/// The path as a shell takes it.
fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let is_plain = |c: char| c.is_alphanumeric() || "/._-+,:@%=".contains(c);
    if path.chars().all(is_plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

/// The tensors that cost the predictions the most for a bit less a weight.
fn tensor_table(report: &SearchReport) -> Table {
    let mut table = Table::new([
        ("most sensitive tensors", Align::Left),
        ("format", Align::Left),
        ("size", Align::Right),
        ("KL alone", Align::Right),
        ("smaller", Align::Left),
        ("larger", Align::Left),
    ]);
    let mut tensors: Vec<&PlannedTensor> = report.tensors.iter().collect();
    tensors.sort_by(|a, b| sensitivity(b).total_cmp(&sensitivity(a)));
    for tensor in tensors.into_iter().take(SHOWN_TENSORS) {
        let place = tensor.alternatives.iter().position(|other| other.format == tensor.format);
        let shown = |place: Option<usize>| {
            let other = place.and_then(|place| tensor.alternatives.get(place));
            other.map_or(String::new(), |other| {
                let about = if other.measured { "" } else { "~" };
                format!("{} {about}{:.5}", other.format, other.kl)
            })
        };
        table.row([
            tensor.name.clone(),
            tensor.format.to_string(),
            units::bytes(tensor.bytes),
            format!("{:.5}{}", tensor.kl, if tensor.fixed { " (kept)" } else { "" }),
            shown(place.and_then(|place| place.checked_sub(1))),
            shown(place.map(|place| place + 1)),
        ]);
    }
    table
}

/// What a tensor loses by the format that is next to four bits a weight, for each of its weights:
/// the same measure for all.
fn sensitivity(tensor: &PlannedTensor) -> f64 {
    let bits = |bytes: u64| bytes as f64 * 8.0 / tensor.weights.max(1) as f64;
    let nearest = tensor
        .alternatives
        .iter()
        .min_by(|a, b| (bits(a.bytes) - 4.5).abs().total_cmp(&(bits(b.bytes) - 4.5).abs()));
    nearest.map_or(0.0, |other| other.kl / tensor.weights.max(1) as f64)
}

fn variant_table(report: &SearchReport) -> Table {
    let has_held_out = report.variants.iter().any(|variant| variant.held_out.is_some());
    let mut columns = vec![
        ("", Align::Left),
        ("file", Align::Right),
        ("bits per weight", Align::Right),
        ("KL predicted", Align::Right),
        ("measured", Align::Right),
        ("99 %", Align::Right),
        ("same top", Align::Right),
    ];
    if has_held_out {
        columns.extend([
            ("KL on held-out text", Align::Right),
            ("99 %", Align::Right),
            ("same top", Align::Right),
        ]);
    }
    let mut table = Table::new(columns);
    for variant in &report.variants {
        table.row(variant_cells(variant, has_held_out));
    }
    table
}

fn variant_cells(variant: &Variant, has_held_out: bool) -> Vec<String> {
    let mean = |mean: f64, error: f64| format!("{mean:.5} ± {error:.5}");
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    let calibration = &variant.calibration;
    let mut cells = vec![
        variant.name.clone(),
        units::bytes(variant.file_bytes),
        format!("{:.2}", variant.bits_per_weight),
        variant.predicted_kl.map_or(ABSENT.to_string(), |kl| format!("{kl:.5}")),
        mean(calibration.kl.mean, calibration.kl.standard_error),
        format!("{:.5}", calibration.kl_p99),
        percent(calibration.same_top.mean),
    ];
    match &variant.held_out {
        Some(held_out) => cells.extend([
            mean(held_out.kl.mean, held_out.kl.standard_error),
            format!("{:.5}", held_out.kl_p99),
            percent(held_out.same_top.mean),
        ]),
        None if has_held_out => cells.extend([ABSENT; 3].map(String::from)),
        None => {}
    }
    cells
}
