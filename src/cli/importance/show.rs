//! `quantkit importance show`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::files::content;
use crate::cli::options::{GlobalOptions, print_json, print_text};
use crate::quant::importance::{ActivationSums, Coverage};
use crate::support::table::{Align, Table};
use crate::support::{path_text, printable, units};

/// Show what an importance file holds, the least covered tensors first
///
/// Coverage is how many of a tensor's channels would carry as much if all carried alike, as a share
/// of them: 100 % where every channel is equally active. A channel that is hardly active stays below
/// a thousandth of its tensor's mean.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quantkit importance show importance.gguf
  quantkit importance show importance.gguf --json | jq '.tensors[] | select(.never_active > 0)'")]
pub(super) struct Arguments {
    /// The file: GGUF or .dat
    file: PathBuf,

    /// Show the N least covered tensors
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,

    /// Show all tensors
    #[arg(long, conflicts_with = "limit")]
    all: bool,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(serialize_with = "path_text::one")]
    file: &'a Path,
    datasets: &'a [String],
    chunks: u32,
    chunk_tokens: Option<u32>,
    /// All tensors, the least covered first.
    tensors: &'a [Coverage],
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let file = &arguments.file;
    let sums = ActivationSums::read(file)?;
    let tensors = sums.coverage();
    if global.json {
        return print_json(&Report {
            file,
            datasets: sums.datasets(),
            chunks: sums.chunks(),
            chunk_tokens: sums.chunk_tokens(),
            tensors: &tensors,
        });
    }
    let mut text = format!("{}: {}\n", file.display(), content(&sums));
    for dataset in sums.datasets() {
        text += &format!("collected on {}\n", printable::one_line(dataset));
    }
    let limit = if arguments.all { usize::MAX } else { arguments.limit };
    let shown = &tensors[..tensors.len().min(limit)];
    if shown.len() < tensors.len() {
        let count = units::count(shown.len() as u64);
        text += &format!("\nThe least covered, {count} of {}; --all shows all\n", tensors.len());
    } else {
        text += "\nAll tensors, the least covered first\n";
    }
    print_text(&(text + &table(shown, sums.chunk_tokens().is_some()).to_text()))
}

fn table(tensors: &[Coverage], counts_activations: bool) -> Table {
    let experts = tensors.iter().any(|tensor| tensor.experts > 1);
    let mut columns = vec![("tensor", Align::Left), ("channels", Align::Right)];
    if experts {
        columns.extend([("experts", Align::Right), ("unseen", Align::Right)]);
    }
    let count = if counts_activations { "activations" } else { "chunks" };
    let figures = [count, "Σ x²", "min", "mean", "max", "never", "hardly", "coverage"];
    columns.extend(figures.map(|name| (name, Align::Right)));
    let mut table = Table::new(columns);
    for tensor in tensors {
        let mut row = vec![tensor.tensor.clone(), units::count(tensor.columns as u64)];
        if experts {
            row.extend([tensor.experts, tensor.unseen_experts].map(|count| count.to_string()));
        }
        row.push(units::count(tensor.count));
        row.extend([tensor.total, tensor.min, tensor.mean, tensor.max].map(figure));
        row.extend([tensor.never_active, tensor.hardly_active, tensor.coverage].map(percent));
        table.row(row);
    }
    table
}

/// Four figures that matter.
fn figure(value: f64) -> String {
    if value == 0.0 {
        "0".to_string()
    } else if (1e-2..1e5).contains(&value) {
        let decimals = 3 - value.log10().floor().clamp(-2.0, 3.0) as i32;
        format!("{value:.*}", decimals as usize)
    } else {
        format!("{value:.3e}")
    }
}

fn percent(share: f64) -> String {
    format!("{:.2} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_four_digits() {
        let cases = [
            (0.0, "0"),
            (1.5, "1.500"),
            (123.456, "123.5"),
            (54321.0, "54321"),
            (0.0625, "0.06250"),
            (1e-4, "1.000e-4"),
            (123_456.0, "1.235e5"),
        ];
        for (value, expected) in cases {
            assert_eq!(figure(value), expected);
        }
    }
}
