//! `quantkit results`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Subcommand;
use serde::Serialize;

use super::mmlu_eval::{print_comparison, print_summary};
use super::options::{GlobalOptions, print_json, print_text, say};
use crate::eval::{self, Finished, FoundRun, RunComparison, RunRecord, Settings};
use crate::support::table::{ABSENT, Align, Table};
use crate::support::units;

/// List, show or compare the results of evaluations
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quantkit results list outputs
  quantkit results show outputs/mmlu-eval-model-Q4_0-mmlu-letter
  quantkit results compare outputs/mmlu-eval-model-F16-mmlu-letter outputs/mmlu-eval-model-Q4_0-mmlu-letter")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A line for each run in a directory and below it
    List {
        /// Where to look
        #[arg(value_name = "DIR", default_value = "outputs")]
        directory: PathBuf,
    },
    /// Everything about one run
    Show {
        /// The run's directory
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// One run against another of the same questions, question by question
    Compare {
        /// The directory of the run that the other is compared with
        #[arg(value_name = "BASELINE")]
        baseline: PathBuf,
        /// The other run's directory
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    match &arguments.command {
        Command::List { directory } => list(directory, global),
        Command::Show { directory } => show(directory, global),
        Command::Compare { baseline, directory } => compare(baseline, directory, global),
    }
}

fn list(directory: &Path, global: &GlobalOptions) -> Result<()> {
    let runs = eval::find_runs(directory, &mut |error| tracing::warn!("{error}"))?;
    if global.json {
        return print_json(&runs);
    }
    if runs.is_empty() {
        return say!("{}: no runs of mmlu-eval here", directory.display());
    }
    let mut table = Table::new([
        ("run", Align::Left),
        ("model", Align::Left),
        ("protocol", Align::Left),
        ("questions", Align::Right),
        ("accuracy", Align::Right),
        ("± s.e.", Align::Right),
        ("finished", Align::Left),
    ]);
    for run in &runs {
        for row in rows(run, directory) {
            table.row(row);
        }
    }
    print_text(&table.to_text())
}

/// A row for the finished run, one for what has been begun.
fn rows(run: &FoundRun, listed: &Path) -> Vec<[String; 7]> {
    let name = run.directory.strip_prefix(listed).unwrap_or(&run.directory);
    let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
    let mut rows = Vec::new();
    let mut add = |settings: &Settings, questions: usize, figures: [String; 2], state: String| {
        let [accuracy, error] = figures;
        let model = file_name(&settings.model);
        let questions = units::count(questions as u64);
        let name = name.display().to_string();
        rows.push([name, model, asked(settings), questions, accuracy, error, state]);
    };
    if let Some(Finished { run, summary }) = &run.finished {
        let percent = |share: f64| format!("{:.2} %", 100.0 * share);
        let overall = &summary.overall;
        let figures =
            [percent(overall.accuracy), overall.standard_error.map_or(ABSENT.to_string(), percent)];
        let finished = run.parts.iter().map(|part| part.finished.as_str()).max();
        add(&run.settings, overall.questions, figures, finished.unwrap_or_default().to_string());
    }
    if let Some(begun) = &run.unfinished {
        let state = format!("{} of {} questions", begun.done, begun.questions);
        add(&begun.settings, begun.done, [String::new(), String::new()], state);
    }
    rows
}

fn file_name(path: &str) -> String {
    let name = Path::new(path).file_name();
    name.map_or(path.to_string(), |name| name.to_string_lossy().into_owned())
}

/// `letter, 5 shots, shard 0/4`.
fn asked(settings: &Settings) -> String {
    let mut words = vec![settings.protocol.name().to_string()];
    if settings.shots > 0 {
        words.push(format!("{} shots", settings.shots));
    }
    words.extend(settings.shard.map(|shard| format!("shard {shard}")));
    words.join(", ")
}

/// What `show` prints as JSON.
#[derive(Debug, Serialize)]
struct Shown {
    #[serde(flatten)]
    run: FoundRun,
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<RunComparison>,
}

fn show(directory: &Path, global: &GlobalOptions) -> Result<()> {
    let run = eval::read_run(directory)?;
    let comparison = if run.finished.is_some() { eval::read_comparison(directory)? } else { None };
    if global.json {
        return print_json(&Shown { run, comparison });
    }
    if let Some(Finished { run, summary }) = &run.finished {
        print_summary(summary)?;
        say!("\n{}", about(run).to_text())?;
        for unscored in &summary.unscored {
            say!("row {} ({}): not scored: {}", unscored.row, unscored.subject, unscored.reason)?;
        }
    }
    if let Some(comparison) = &comparison {
        print_comparison(comparison)?;
    }
    if let Some(begun) = &run.unfinished {
        say!(
            "Unfinished: {} of {} questions of {} ({}), begun {}; the same command goes on",
            begun.done,
            begun.questions,
            begun.settings.model,
            asked(&begun.settings),
            begun.started
        )?;
    }
    Ok(())
}

fn compare(baseline: &Path, directory: &Path, global: &GlobalOptions) -> Result<()> {
    let comparison = eval::compare_runs(baseline, directory)?;
    if global.json { print_json(&comparison) } else { print_comparison(&comparison) }
}

/// What `run.json` says, line by line.
fn about(run: &RunRecord) -> Table {
    let settings = &run.settings;
    let mut table = Table::new([("", Align::Left), ("", Align::Left)]);
    let mut line = |name: &str, value: String| table.row([name.to_string(), value]);
    line(
        "quantkit",
        match &run.commit {
            Some(commit) => format!("{} ({commit})", run.quantkit_version),
            None => run.quantkit_version.clone(),
        },
    );
    line("model", format!("{} (SHA-256 {})", settings.model, settings.model_sha256));
    line("set", format!("{} (SHA-256 {})", settings.set, settings.set_sha256));
    line("asked", asked(settings));
    line("questions", run.selection.clone());
    if let Some(seed) = run.seed {
        line("seed", seed.to_string());
    }
    line("device", settings.device.clone());
    for part in &run.parts {
        if let Some(shard) = part.shard {
            line("", format!("shard {shard}"));
        }
        let machine = &part.machine;
        line("host", format!("{}, {}, {}", part.host, machine.cpu, machine.system));
        line("threads", format!("{}, {}", part.threads, part.build.instruction_set));
        line("time", format!("{} to {}", part.started, part.finished));
        line("command", part.command.clone());
    }
    table
}
