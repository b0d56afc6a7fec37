//! Every protocol of `quantkit mmlu-eval` on sets of every form, from end to end.

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use predicates::str::contains;
use quantkit::eval::questions::{Form, Question, write_questions};
use serde_json::Value;
use tempfile::TempDir;

use super::support::{TinyModel, quantkit};

/// A tiny model and a place for sets.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        TinyModel { context: 2048, ..TinyModel::default() }.write(&bench.path("model.gguf"));
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, questions: &[Question]) {
        write_questions(&self.path(name), questions).unwrap();
    }

    /// The summary and the results of a run.
    fn score(&self, set: &str, protocol: &str, arguments: &[&str]) -> (Value, RecordBatch) {
        let output = self.path(&format!("{set}-{protocol}{}", arguments.concat()));
        let result = self.command(set, protocol, &output).arg("--json").args(arguments).assert();
        let summary = serde_json::from_slice(&result.success().get_output().stdout).unwrap();
        let file = File::open(output.join("questions.parquet")).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        (summary, reader.into_iter().next().unwrap().unwrap())
    }

    fn command(&self, set: &str, protocol: &str, output: &Path) -> assert_cmd::Command {
        let mut command = quantkit();
        command.arg("mmlu-eval").arg(self.path("model.gguf")).arg("--set").arg(self.path(set));
        command.args(["--protocol", protocol]).arg("--output").arg(output);
        command
    }
}

fn question(row: usize, form: Form, choices: usize) -> Question {
    let question = match form {
        Form::Blank if row.is_multiple_of(2) => format!("_ ate the hen number {row}."),
        Form::Blank => format!("The hen ate _ and number {row}."),
        _ => format!("Is the hen or the tin number {row} here?"),
    };
    Question {
        row,
        id: None,
        question,
        subject: "virology".to_string(),
        choices: (0..choices)
            .map(|choice| format!("the thing {}", "a".repeat(choice + 1)))
            .collect(),
        answer: row % choices,
        form,
    }
}

fn integers(batch: &RecordBatch, name: &str) -> Vec<i64> {
    batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().values().to_vec()
}

fn lists(batch: &RecordBatch, name: &str) -> Vec<Vec<f64>> {
    let lists = batch.column_by_name(name).unwrap().as_list::<i32>();
    (0..lists.len())
        .map(|row| lists.value(row).as_primitive::<Float64Type>().values().to_vec())
        .collect()
}

fn largest(values: impl Iterator<Item = f64>) -> i64 {
    let values: Vec<f64> = values.collect();
    (0..values.len()).rev().max_by(|&a, &b| values[a].total_cmp(&values[b])).unwrap() as i64
}

#[test]
fn every_form_is_scored_under_every_protocol() {
    let bench = Bench::new();
    for (name, form, choices) in [
        ("exam.parquet", Form::Exam, 10),
        ("arc.jsonl", Form::Arc, 3),
        ("text.bin", Form::Continuation, 4),
        ("truthful.jsonl", Form::TruthfulQa, 5),
        ("blank.parquet", Form::Blank, 2),
    ] {
        let questions: Vec<Question> = (0..6).map(|row| question(row, form, choices)).collect();
        bench.write(name, &questions);
        for protocol in ["letter", "chat", "cloze", "cloze-normalized"] {
            let (summary, batch) = bench.score(name, protocol, &["--shots", "0"]);
            assert_eq!(summary["protocol"], protocol);
            assert_eq!(integers(&batch, "row"), [0, 1, 2, 3, 4, 5], "{name} {protocol}");
            for (values, prediction) in
                lists(&batch, "log_probabilities").into_iter().zip(integers(&batch, "prediction"))
            {
                assert_eq!(values.len(), choices);
                assert!(values.iter().all(|&value| value < 0.0), "{name} {protocol}: {values:?}");
                assert_eq!(largest(values.into_iter()), prediction);
            }
            let others = summary["other_scores"].as_array().unwrap();
            assert_eq!(others.len(), if protocol == "cloze-normalized" { 2 } else { 0 });
        }
    }
}

#[test]
fn normalized_cloze_reports_the_sum_beside_the_bytes() {
    let bench = Bench::new();
    let questions: Vec<Question> = (0..8).map(|row| question(row, Form::Exam, 4)).collect();
    bench.write("set.jsonl", &questions);
    let (summary, batch) = bench.score("set.jsonl", "cloze-normalized", &[]);
    let by_sum = integers(&batch, "prediction_by_sum");
    for (row, values) in lists(&batch, "log_probabilities").into_iter().enumerate() {
        let bytes = questions[row].choices.iter().map(|choice| choice.len() as f64);
        let sums = values.iter().zip(bytes).map(|(value, bytes)| value * bytes);
        assert_eq!(largest(sums), by_sum[row]);
    }
    // All is ASCII here: characters are bytes.
    let by_characters = integers(&batch, "prediction_by_characters");
    assert_eq!(by_characters, integers(&batch, "prediction"));
    let right = (0..8).filter(|&row| by_sum[row] == row as i64 % 4).count();
    assert_eq!(summary["other_scores"][0]["name"], "acc");
    assert_eq!(summary["other_scores"][0]["correct"], right);
    assert_eq!(summary["other_scores"][1]["correct"], summary["overall"]["correct"]);
    assert_eq!(summary["shots"], 0);
}

/// What follows the blank counts: both choices have the same number of tokens, and a choice's score
/// is the same whether or not the sentences share a beginning.
#[test]
fn a_blank_is_filled_and_does_not_count() {
    let bench = Bench::new();
    let sentence = |row: usize, before: &str| Question {
        question: format!("{before}_ slept well in the tin."),
        choices: vec!["A hen".to_string(), "The other hen".to_string()],
        row,
        ..question(row, Form::Blank, 2)
    };
    bench.write("set.jsonl", &[sentence(0, ""), sentence(1, "Then ")]);
    let (_, batch) = bench.score("set.jsonl", "cloze-normalized", &[]);
    let tokens = batch.column_by_name("choice_tokens").unwrap().as_list::<i32>();
    for row in 0..2 {
        let counted = tokens.value(row);
        let counted = counted.as_primitive::<Int64Type>().values();
        assert_eq!(counted[0], counted[1]);
    }
    assert_eq!(integers(&batch, "context_tokens")[0], 0);
}

/// The same drawing over libstdc++'s engine draws 5, 10, 7, 8 and 0 of 12.
#[test]
fn a_seeded_limit_draws_what_llama_cpp_draws() {
    let bench = Bench::new();
    let questions: Vec<Question> = (0..12).map(|row| question(row, Form::Exam, 3)).collect();
    bench.write("set.bin", &questions);
    let (summary, batch) = bench.score("set.bin", "cloze", &["--limit-seeded", "5"]);
    assert_eq!(integers(&batch, "row"), [0, 5, 7, 8, 10]);
    assert_eq!(summary["limit_seeded"], 5);
    bench
        .command("set.bin", "cloze", &bench.path("both"))
        .args(["--limit", "5", "--limit-seeded", "5"])
        .assert()
        .failure()
        .stderr(contains("cannot be used with"));
}

#[test]
fn shots_are_asked_for_where_a_protocol_takes_them() {
    let bench = Bench::new();
    bench.write("set.bin", &[question(0, Form::Exam, 3)]);
    for (protocol, message) in [
        ("letter", "5 shots are wanted and the dev split has 0"),
        ("chat", "5 shots are wanted and the dev split has 0"),
    ] {
        bench
            .command("set.bin", protocol, &bench.path("out"))
            .assert()
            .failure()
            .stderr(contains(message));
    }
    bench.score("set.bin", "cloze-normalized", &[]);
}
