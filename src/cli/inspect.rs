//! `quantkit inspect`.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::options::{GlobalOptions, print_json, print_text};
use crate::inspect::{
    Change, Container, DataDifference, Difference, Limits, MetadataEntry, ShownValue, Summary,
    TensorEntry, Totals, compare, summarize,
};
use crate::support::table::{Align, Table};
use crate::support::units;

/// Characters of a metadata value that the table shows.
const SHOWN_CHARACTERS: usize = 80;

/// Show what is in a GGUF or safetensors file, or how two of them differ
///
/// The status is 0 whenever the files could be read, whether or not they differ.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  quantkit inspect model.Q4_K_M.gguf\n  \
                        quantkit inspect model.f16.gguf --diff model.Q4_0.gguf")]
pub struct Arguments {
    /// The file, or a directory with a checkpoint; its content decides what it is
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Show instead what differs from FILE in this file
    #[arg(long, value_name = "OTHER")]
    diff: Option<PathBuf>,

    /// Show long texts and arrays whole
    #[arg(long)]
    full: bool,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let limits = if arguments.full { Limits::NONE } else { Limits::SHORT };
    let shown = if arguments.full { usize::MAX } else { SHOWN_CHARACTERS };
    let container = Container::open(&arguments.file)?;
    match &arguments.diff {
        Some(other) => {
            let difference = compare(&container, &Container::open(other)?, limits)?;
            if global.json {
                return print_json(&difference);
            }
            print_text(&difference_text(&difference, shown))
        }
        None => {
            let summary = summarize(&container, limits);
            if global.json {
                return print_json(&summary);
            }
            print_text(&summary_text(&summary, shown))
        }
    }
}

fn summary_text(summary: &Summary, shown: usize) -> String {
    let mut text = format!("{}: {}\n", summary.file.display(), headline(summary));
    text += &section("Metadata", metadata_table(&summary.metadata, shown));
    text += &section("Tensors", tensor_table(&summary.tensors));
    text += &section("Types", type_table(summary));
    text
}

fn headline(summary: &Summary) -> String {
    let format = match (summary.version, summary.alignment) {
        (Some(version), Some(alignment)) => format!("GGUF v{version}, alignment {alignment}"),
        _ => "safetensors".to_string(),
    };
    let files = match summary.files {
        1 => String::new(),
        many => format!(" in {many} files"),
    };
    format!(
        "{format}, {}{files}, {} parameters, {:.3} bits per weight",
        units::bytes(summary.file_bytes),
        units::count(summary.totals.weights),
        summary.totals.bits_per_weight
    )
}

/// A titled table, or nothing if it has no rows.
fn section(title: &str, (rows, table): (usize, Table)) -> String {
    match rows {
        0 => String::new(),
        _ => format!("\n{title} ({})\n{}", units::count(rows as u64), table.to_text()),
    }
}

fn metadata_table(entries: &[MetadataEntry], shown: usize) -> (usize, Table) {
    let mut table =
        Table::new([("key", Align::Left), ("type", Align::Left), ("value", Align::Left)]);
    for entry in entries {
        table.row([entry.key.clone(), typed(entry), value(entry, shown)]);
    }
    (entries.len(), table)
}

fn tensor_table(tensors: &[TensorEntry]) -> (usize, Table) {
    let mut table = Table::new([
        ("name", Align::Left),
        ("type", Align::Left),
        ("shape", Align::Right),
        ("bytes", Align::Right),
    ]);
    for tensor in tensors {
        table.row([
            tensor.name.clone(),
            tensor.type_name.clone(),
            shape(tensor),
            units::count(tensor.bytes),
        ]);
    }
    (tensors.len(), table)
}

fn type_table(summary: &Summary) -> (usize, Table) {
    let mut table = Table::new([
        ("type", Align::Left),
        ("tensors", Align::Right),
        ("weights", Align::Right),
        ("bytes", Align::Right),
        ("size", Align::Right),
        ("bits/weight", Align::Right),
    ]);
    let mut add = |name: &str, totals: &Totals| {
        table.row([
            name.to_string(),
            units::count(totals.tensors as u64),
            units::count(totals.weights),
            units::count(totals.bytes),
            units::bytes(totals.bytes),
            format!("{:.3}", totals.bits_per_weight),
        ]);
    };
    for row in &summary.types {
        add(&row.type_name, &row.totals);
    }
    if summary.types.len() > 1 {
        add("all", &summary.totals);
    }
    (summary.types.len(), table)
}

fn difference_text(difference: &Difference, shown: usize) -> String {
    let name = |path: &Path| path.display().to_string();
    let mut text = format!("- {}\n+ {}\n", name(&difference.left), name(&difference.right));
    let mut metadata = Table::new([
        ("", Align::Left),
        ("key", Align::Left),
        ("type", Align::Left),
        ("value", Align::Left),
    ]);
    for change in &difference.metadata {
        for (sign, entry) in signed(change.change, &change.left, &change.right) {
            let mut shown_value = value(entry, shown);
            if let Some(index) = change.first_different_element.filter(|_| sign == "~+") {
                shown_value += &format!(" (first difference at element {index})");
            }
            let sign = sign.to_string();
            metadata.row([sign, entry.key.clone(), typed(entry), shown_value]);
        }
    }
    text += &section("Metadata that differs", (difference.metadata.len(), metadata));

    let mut tensors = Table::new([
        ("", Align::Left),
        ("name", Align::Left),
        ("type", Align::Left),
        ("shape", Align::Right),
        ("bytes", Align::Right),
        ("data", Align::Left),
    ]);
    for change in &difference.tensors {
        for (sign, tensor) in signed(change.change, &change.left, &change.right) {
            let data = change.data.as_ref().filter(|_| sign == "~+").map(data_text);
            tensors.row([
                sign.to_string(),
                tensor.name.clone(),
                tensor.type_name.clone(),
                shape(tensor),
                units::count(tensor.bytes),
                data.unwrap_or_default(),
            ]);
        }
    }
    text += &section("Tensors that differ", (difference.tensors.len(), tensors));
    let verdict = if difference.identical { "No difference" } else { "The same on both sides" };
    text += &format!(
        "\n{verdict}: {} metadata entries, {} tensors\n",
        units::count(difference.same_metadata as u64),
        units::count(difference.same_tensors as u64)
    );
    text
}

/// The sides of a change, each with its sign: `-` removed, `+` added, `~-` and `~+` changed from
/// and to.
fn signed<'a, T>(
    change: Change,
    left: &'a Option<T>,
    right: &'a Option<T>,
) -> Vec<(&'static str, &'a T)> {
    let (minus, plus) = if change == Change::Changed { ("~-", "~+") } else { ("-", "+") };
    let left = left.iter().map(|side| (minus, side));
    left.chain(right.iter().map(|side| (plus, side))).collect()
}

fn data_text(data: &DataDifference) -> String {
    let mut parts = Vec::new();
    if let (Some(count), Some(first)) = (data.different_bytes, data.first_different_byte) {
        parts.push(format!("{} bytes differ, first at {first}", units::count(count)));
    }
    if let (Some(largest), Some(mean)) = (data.largest_difference, data.root_mean_square_difference)
    {
        parts.push(format!("largest difference {largest:.3e}, rms {mean:.3e}"));
    }
    parts.join("; ")
}

fn typed(entry: &MetadataEntry) -> String {
    match entry.length {
        Some(length) => format!("{} × {}", entry.type_name, units::count(length as u64)),
        None => entry.type_name.clone(),
    }
}

fn shape(tensor: &TensorEntry) -> String {
    if tensor.shape.is_empty() {
        return "scalar".to_string();
    }
    tensor.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" × ")
}

/// The value on one line, cut after `shown` characters.
fn value(entry: &MetadataEntry, shown: usize) -> String {
    let mut text = entry.value.to_string();
    if let (ShownValue::Elements(elements), Some(length)) = (&entry.value, entry.length)
        && elements.len() < length
    {
        text.truncate(text.len() - "]".len());
        text += ", …]";
    }
    match text.char_indices().nth(shown) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
