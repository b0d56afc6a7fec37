//! `quantkit eval-set`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde::Serialize;

use super::mmlu_eval::ProtocolChoice;
use super::options::{GlobalOptions, print_json, print_text, say};
use crate::eval::questions::{Form, Question, QuestionSet, SetSummary, summarize, write_questions};
use crate::eval::{AskedText, asked_texts};
use crate::support::path_text;
use crate::support::same_file::is_same_place;
use crate::support::table::{Align, Table};
use crate::support::{printable, units};

/// Show a question set, or write it as another kind of file
///
/// Sets are Parquet files of MMLU, MMLU-Pro, ARC, HellaSwag, TruthfulQA (MC1) or WinoGrande, the CSV
/// files of MMLU's original release, JSON lines, or llama.cpp's files for --multiple-choice (.bin);
/// or a directory with the splits of one. docs/evaluation.md describes them.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quantkit eval-set show eval-sets/mmlu
  quantkit eval-set convert eval-sets/mmlu mmlu.bin")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Show(Show),
    Convert(Convert),
}

/// Count a set's questions by subject, and print some
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quantkit eval-set show eval-sets/starter --sample 3
  quantkit eval-set show eval-sets/mmlu --row 1403 --protocol letter --shots 5")]
struct Show {
    /// The set: a file or a directory with its splits
    #[arg(value_name = "SET")]
    set: PathBuf,

    /// Print N questions, spread over the set
    #[arg(long, value_name = "N", default_value_t = 2)]
    sample: usize,

    /// Print the questions of these rows instead
    #[arg(long = "row", value_name = "ROW,…", value_delimiter = ',', conflicts_with = "sample")]
    rows: Vec<usize>,

    /// Print them as a model is asked
    #[arg(long, value_enum, value_name = "PROTOCOL")]
    protocol: Option<ProtocolChoice>,

    /// Examples from the dev split before each question [default: 0]
    #[arg(
        long,
        value_name = "N",
        requires = "protocol",
        default_value_t = 0,
        hide_default_value = true
    )]
    shots: usize,
}

/// Write a set as .parquet, .jsonl or .bin
///
/// A .bin file is for llama-perplexity --multiple-choice: it has texts and their continuations, and
/// neither subjects nor ids; ARC and TruthfulQA are put in with their prompts.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  quantkit eval-set convert eval-sets/mmlu mmlu.bin
  quantkit eval-set convert MMLU-Pro mmlu-pro-dev.jsonl --split dev")]
struct Convert {
    /// The set: a file or a directory with its splits
    #[arg(value_name = "IN")]
    input: PathBuf,

    /// The file to write
    #[arg(value_name = "OUT")]
    output: PathBuf,

    /// Which questions: test (those to score) or dev (those for shots)
    #[arg(long, value_enum, default_value = "test")]
    split: SplitChoice,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum SplitChoice {
    Test,
    Dev,
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    match &arguments.command {
        Command::Show(show) => run_show(show, global),
        Command::Convert(convert) => run_convert(convert, global),
    }
}

/// What `show --json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    summary: &'a SetSummary,
    sample: Vec<ShownQuestion<'a>>,
    asked: Vec<AskedText>,
}

#[derive(Serialize)]
struct ShownQuestion<'a> {
    row: usize,
    id: Option<&'a str>,
    subject: &'a str,
    form: Form,
    question: &'a str,
    choices: &'a [String],
    answer: usize,
}

fn run_show(arguments: &Show, global: &GlobalOptions) -> Result<()> {
    let set = QuestionSet::find(&arguments.set)?;
    let questions = set.test_questions()?;
    let summary = summarize(&set, &questions)?;
    let rows = if arguments.rows.is_empty() {
        spread(arguments.sample, questions.len())
    } else {
        arguments.rows.clone()
    };
    let mut sample = Vec::new();
    for row in rows {
        match questions.get(row) {
            Some(question) => sample.push(question),
            None => bail!(
                "{}: there is no row {row}: the set has the rows 0 to {}",
                arguments.set.display(),
                questions.len().saturating_sub(1)
            ),
        }
    }
    let asked = match arguments.protocol {
        Some(protocol) => {
            let questions = sample.iter().copied().cloned().collect();
            asked_texts(&set, questions, protocol.into(), arguments.shots)?
        }
        None => Vec::new(),
    };
    if global.json {
        let sample = sample.into_iter().map(shown).collect();
        return print_json(&Shown { summary: &summary, sample, asked });
    }
    print_text(&summary_text(&arguments.set, &summary))?;
    for question in sample {
        let text = asked.iter().find(|text| text.row == question.row);
        print_text(&text.map_or_else(|| question_text(question), asked_text))?;
    }
    Ok(())
}

/// What the model gets to read, with the choices after it; all of each choice where they begin
/// differently.
fn asked_text(text: &AskedText) -> String {
    let rule = format!("--- row {}", text.row);
    let (first, _) = text.choices.first().map_or(("", ""), |(context, rest)| (context, rest));
    if text.choices.iter().all(|(context, _)| context == first) {
        let mut shown = format!("\n{rule}\n{first}\n");
        for (_, continuation) in &text.choices {
            shown += &format!("--- choice\n{continuation}\n");
        }
        return shown;
    }
    let mut shown = format!("\n{rule}\n");
    for (context, continuation) in &text.choices {
        shown += &format!("--- choice\n{context}|{continuation}\n");
    }
    shown
}

fn shown(question: &Question) -> ShownQuestion<'_> {
    let Question { row, id, question, subject, choices, answer, form } = question;
    let (row, answer, form) = (*row, *answer, *form);
    ShownQuestion { row, id: id.as_deref(), subject, form, question, choices, answer }
}

/// `count` rows at equal distances.
fn spread(count: usize, rows: usize) -> Vec<usize> {
    let count = count.min(rows);
    (0..count).map(|index| index * rows / count).collect()
}

fn summary_text(path: &Path, summary: &SetSummary) -> String {
    let mut text = format!(
        "{}: {} questions, {} for shots\nforms: {}\nnumber of choices: {}\nright choice: {}\n\
         SHA-256: {}\n\n",
        path.display(),
        units::count(summary.questions as u64),
        units::count(summary.shots as u64),
        counts_text(&summary.forms),
        counts_text(&summary.choices),
        counts_text(&summary.answers),
        summary.sha256,
    );
    let mut table = Table::new([
        ("subject", Align::Left),
        ("category", Align::Left),
        ("questions", Align::Right),
        ("for shots", Align::Right),
    ]);
    for subject in &summary.subjects {
        table.row([
            subject.name.clone(),
            subject.category.unwrap_or_default().to_string(),
            units::count(subject.questions as u64),
            units::count(subject.shots as u64),
        ]);
    }
    text += &table.to_text();
    text.push('\n');
    text
}

fn counts_text(counts: &BTreeMap<impl Display, usize>) -> String {
    let one = |(key, &count): (_, &usize)| format!("{key}: {}", units::count(count as u64));
    counts.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A question for a reader, the right choice marked.
fn question_text(question: &Question) -> String {
    let id = question.id.as_ref().map(|id| format!(", id {}", printable::one_line(id)));
    let mut text = format!(
        "\nrow {}{}, {}\n{}\n",
        question.row,
        id.unwrap_or_default(),
        printable::one_line(&question.subject),
        question.question.trim_end()
    );
    for (index, choice) in question.choices.iter().enumerate() {
        let mark = if index == question.answer { '*' } else { ' ' };
        text += &format!("{mark} {index}. {choice}\n");
    }
    text
}

/// What `convert --json` prints.
#[derive(Serialize)]
struct Converted<'a> {
    #[serde(serialize_with = "path_text::one")]
    input: &'a Path,
    #[serde(serialize_with = "path_text::one")]
    output: &'a Path,
    questions: usize,
    bytes: u64,
}

fn run_convert(arguments: &Convert, global: &GlobalOptions) -> Result<()> {
    let Convert { input, output, .. } = arguments;
    let set = QuestionSet::find(input)?;
    if let Some(file) = set.files().find(|file| is_same_place(file, output)) {
        bail!("{}: this file of the set would be replaced: name another output", file.display());
    }
    let (split, questions) = match arguments.split {
        SplitChoice::Test => ("test", set.test_questions()?),
        SplitChoice::Dev => ("dev", set.dev_questions()?),
    };
    if questions.is_empty() {
        bail!("{}: the {split} split has no questions", input.display());
    }
    write_questions(output, &questions)?;
    let bytes = std::fs::metadata(output)?.len();
    if global.json {
        return print_json(&Converted { input, output, questions: questions.len(), bytes });
    }
    say!(
        "{} -> {}: {} questions, {} bytes",
        input.display(),
        output.display(),
        units::count(questions.len() as u64),
        units::count(bytes)
    )
}
