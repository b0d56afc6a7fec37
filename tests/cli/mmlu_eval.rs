//! `quantkit mmlu-eval` from end to end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};
use assert_cmd::Command;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use predicates::str::contains;
use quantkit::eval::questions::{Form, Question, write_questions};
use serde_json::Value;
use tempfile::TempDir;

use super::support::{TinyModel, quantkit};

/// A tiny model and a set of three subjects, four questions each, with two shots for each subject.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new(model: &TinyModel) -> Self {
        let bench = Self { dir: tempfile::tempdir().unwrap() };
        model.write(&bench.path("model.gguf"));
        let split = |per_subject: usize| -> Vec<Question> {
            let subjects = ["astronomy", "virology", "sociology"];
            (0..per_subject * 3).map(|row| question(row, subjects[row % 3])).collect()
        };
        write_questions(&bench.path("set/test.parquet"), &split(4)).unwrap();
        write_questions(&bench.path("set/dev.parquet"), &split(2)).unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, output: &str) -> Command {
        let mut command = quantkit();
        command.arg("mmlu-eval").arg(self.path("model.gguf"));
        command.arg("--set").arg(self.path("set")).arg("--output").arg(self.path(output));
        command
    }

    /// Runs with `--json` and returns the document on standard output.
    fn summary(&self, output: &str, arguments: &[&str]) -> Value {
        let result =
            self.command(output).args(["--json", "--overwrite"]).args(arguments).assert().success();
        serde_json::from_slice(&result.get_output().stdout).expect("one JSON document")
    }

    fn questions(&self, output: &str) -> RecordBatch {
        read_parquet(&self.path(output).join("questions.parquet"))
    }
}

fn question(row: usize, subject: &str) -> Question {
    Question {
        row,
        question: format!("Is {} the answer to number {row} here?", row * 37 % 11),
        subject: subject.to_string(),
        choices: ["the one", "another one in a hat", "no", "none on a tin"]
            .map(|choice| format!("{choice} {}", row % 5))
            .to_vec(),
        answer: row % 4,
        id: None,
        form: Form::Exam,
    }
}

fn read_parquet(path: &Path) -> RecordBatch {
    let file = File::open(path).unwrap();
    let mut reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    reader.next().unwrap().unwrap()
}

fn integers(batch: &RecordBatch, name: &str) -> Vec<i64> {
    batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().values().to_vec()
}

fn log_probabilities(batch: &RecordBatch) -> Vec<Vec<f64>> {
    let lists = batch.column_by_name("log_probabilities").unwrap().as_list::<i32>();
    (0..lists.len())
        .map(|row| lists.value(row).as_primitive::<Float64Type>().values().to_vec())
        .collect()
}

fn assert_close(left: &[f64], right: &[f64]) {
    for (l, r) in left.iter().zip(right) {
        assert!((l - r).abs() < 1e-3, "{left:?} is not {right:?}");
    }
}

#[test]
fn both_protocols_write_consistent_results() {
    let bench = Bench::new(&TinyModel { context: 2048, ..TinyModel::default() });
    for (protocol, shots) in [("letter", 2), ("cloze", 0)] {
        let summary = bench.summary(protocol, &["--protocol", protocol, "--shots", "2"]);
        let batch = bench.questions(protocol);
        assert_eq!(integers(&batch, "row"), (0..12).collect::<Vec<i64>>());
        assert_eq!(integers(&batch, "answer"), (0..12).map(|row| row % 4).collect::<Vec<i64>>());

        let predictions = integers(&batch, "prediction");
        for (values, &prediction) in log_probabilities(&batch).iter().zip(&predictions) {
            assert_eq!(values.len(), 4);
            assert!(values.iter().all(|&value| value < 0.0 && value > -20.0), "{values:?}");
            assert!(values.iter().all(|&value| value <= values[prediction as usize]));
        }
        let right = (0..12).filter(|&row| predictions[row] == row as i64 % 4).count();
        assert_eq!(summary["overall"]["correct"], right);
        assert_eq!(summary["overall"]["questions"], 12);
        assert_eq!(summary["overall"]["chance"], 0.25);
        assert_eq!(summary["shots"], shots);
        assert_eq!(summary["protocol"], protocol);
        let names = |group: &str| -> Vec<String> {
            let scores = summary[group].as_array().unwrap().iter();
            scores.map(|score| score["name"].as_str().unwrap().to_string()).collect()
        };
        assert_eq!(names("categories"), ["STEM", "social sciences", "other"]);
        assert_eq!(names("subject_scores"), ["astronomy", "sociology", "virology"]);
        assert!(summary["tokens_run"].as_u64() < summary["tokens_naive"].as_u64());

        let written = fs::read(bench.path(protocol).join("summary.json")).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&written).unwrap(), summary);
        assert_eq!(fs::read_dir(bench.path(protocol)).unwrap().count(), 3);
    }
}

/// A question's result does not depend on which others are scored with it.
#[test]
fn a_selection_gives_the_same_log_probabilities() {
    let bench = Bench::new(&TinyModel { context: 2048, ..TinyModel::default() });
    for protocol in ["letter", "cloze"] {
        let common = ["--protocol", protocol, "--shots", "1"];
        bench.summary("all", &common);
        let all = log_probabilities(&bench.questions("all"));
        let selections: [(&[&str], &[i64]); 3] = [
            (&["--every", "5"], &[0, 5, 10]),
            (&["--subjects", "virology,astronomy", "--every", "2"], &[0, 4, 6, 10]),
            (&["--subjects", "sociology", "--limit", "1"], &[2]),
        ];
        for (arguments, rows) in selections {
            bench.summary("some", &[&common, arguments].concat());
            let batch = bench.questions("some");
            assert_eq!(integers(&batch, "row"), rows);
            for (&row, some) in rows.iter().zip(log_probabilities(&batch)) {
                assert_close(&some, &all[row as usize]);
            }
        }
    }
}

#[test]
fn questions_beyond_the_context_lose_their_left_end() {
    let bench = Bench::new(&TinyModel { context: 128, ..TinyModel::default() });
    bench
        .command("out")
        .args(["--shots", "2"])
        .assert()
        .success()
        .stderr(contains("12 questions were longer than the model's context"));
    let batch = bench.questions("out");
    assert!(integers(&batch, "dropped_tokens").iter().all(|&dropped| dropped > 0));
    let summary = fs::read(bench.path("out/summary.json")).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&summary).unwrap()["shortened"], 12);
    // " B" is two tokens of the tiny vocabulary: with the context, all but the last one are run.
    assert_eq!(integers(&batch, "context_tokens"), [127; 12]);
}

#[test]
fn the_table_shows_overall_categories_and_subjects() {
    let bench = Bench::new(&TinyModel::default());
    bench
        .command("out")
        .args(["--protocol", "cloze"])
        .assert()
        .success()
        .stdout(contains("all "))
        .stdout(contains("STEM"))
        .stdout(contains("virology"))
        .stdout(contains("25.00 %"))
        .stdout(contains("questions/s"));
}

#[test]
fn what_cannot_be_scored_is_said_and_nothing_is_written() {
    let bench = Bench::new(&TinyModel::default());
    let wrong_columns = bench.path("wrong.parquet");
    let results = bench.path("done");
    bench.command("done").args(["--protocol", "cloze"]).assert().success();
    fs::copy(results.join("questions.parquet"), &wrong_columns).unwrap();
    let cut = bench.path("cut.parquet");
    let whole = fs::read(bench.path("set/test.parquet")).unwrap();
    fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_string();

    let cases = [
        (vec!["--subjects".into(), "virolgy".into()], "did you mean virology"),
        (vec!["--shots".into(), "3".into()], "3 shots are wanted and the dev split has 2"),
        (vec!["--limit".into(), "0".into()], "no question is left to score"),
        (vec!["--every".into(), "0".into()], "expected a number from 1"),
        (vec!["--set".into(), text(&wrong_columns)], "wrong.parquet: not a question set"),
        (vec!["--set".into(), text(&cut)], "cut.parquet: cannot be read as Parquet"),
        (vec!["--set".into(), text(&bench.path("absent"))], "absent"),
        (vec!["--set".into(), text(&results)], "expected test.parquet or test-*.parquet"),
    ];
    for (arguments, message) in cases {
        let mut command = quantkit();
        command.arg("mmlu-eval").arg(bench.path("model.gguf"));
        command.arg("--output").arg(bench.path("out"));
        if !arguments.contains(&"--set".to_string()) {
            command.arg("--set").arg(bench.path("set"));
        }
        command.args(&arguments).assert().failure().stderr(contains(message));
        assert!(!bench.path("out").exists());
    }
}

#[test]
fn an_output_that_cannot_be_written_is_found_out_first() {
    let bench = Bench::new(&TinyModel::default());
    fs::write(bench.path("taken"), "a file, not a directory").unwrap();
    // The model is no model, and that would come second.
    fs::write(bench.path("model.gguf"), "no model").unwrap();
    bench
        .command("taken")
        .args(["--protocol", "cloze"])
        .assert()
        .failure()
        .stderr(contains("taken"));
}
