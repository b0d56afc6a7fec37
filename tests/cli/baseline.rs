//! A run against an earlier one: `mmlu-eval --baseline` and `results compare`.

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::assert::Assert;
use predicates::prelude::*;
use predicates::str::contains;
use quantkit::eval::questions::{Form, Question, write_questions};
use serde_json::Value;
use tempfile::TempDir;

use super::support::{TinyModel, quantkit};

const CLOZE: [&str; 2] = ["--protocol", "cloze"];

/// A tiny model in two formats, and a set of sixty questions on three subjects.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        TinyModel { context: 2048, ..TinyModel::default() }.write(&place.path("tiny.F16.gguf"));
        quantkit()
            .arg("quantize")
            .args([place.path("tiny.F16.gguf"), place.path("tiny.Q4_0.gguf")])
            .args(["--type", "Q4_0"])
            .assert()
            .success();
        let questions: Vec<Question> = (0..60).map(question).collect();
        write_questions(&place.path("set/test.parquet"), &questions).unwrap();
        write_questions(&place.path("set/dev.parquet"), &questions[..6]).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn score(&self, model: &str, output: &str, more: &[&str]) -> Assert {
        let mut command = quantkit();
        command.arg("mmlu-eval").arg(self.path(model));
        if !more.contains(&"--set") {
            command.arg("--set").arg(self.path("set"));
        }
        command.arg("--output").arg(self.path(output)).args(more).assert()
    }

    fn against(&self, baseline: &str, output: &str, more: &[&str]) -> Assert {
        let baseline = self.path(baseline);
        let baseline = ["--baseline", baseline.to_str().unwrap()];
        self.score("tiny.Q4_0.gguf", output, &[&baseline, more].concat())
    }

    fn json(&self, file: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(file)).unwrap()).unwrap()
    }
}

fn question(row: usize) -> Question {
    Question {
        row,
        id: Some(format!("q-{row}")),
        form: Form::default(),
        question: format!("Is {} the answer to number {row} here?", row * 37 % 11),
        subject: ["astronomy", "virology", "sociology"][row % 3].to_string(),
        choices: ["the one", "another one in a hat", "no", "none on a tin"]
            .map(|choice| format!("{choice} {}", row % 5))
            .to_vec(),
        answer: row % 4,
    }
}

fn printed(assert: Assert) -> Value {
    serde_json::from_slice(&assert.success().get_output().stdout).expect("one JSON document")
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_run_against_a_baseline_is_what_compare_makes_of_the_two() {
    let place = Place::new();
    place.score("tiny.F16.gguf", "f16", &CLOZE).success();
    let mut document = printed(place.against("f16", "q4", &["--json", "--protocol", "cloze"]));
    let comparison = document["comparison"].take();
    assert_eq!(comparison, place.json("q4/comparison.json"));
    document.as_object_mut().unwrap().remove("comparison");
    assert_eq!(document, place.json("q4/summary.json"));
    assert_eq!(comparison["schema_version"], 3);
    let names = [&comparison["baseline"]["name"], &comparison["run"]["name"]];
    assert_eq!(names, ["tiny.F16", "tiny.Q4_0"]);
    for run in ["baseline", "run"] {
        assert!(comparison[run]["reliability"]["expected_calibration_error"].is_number());
    }

    // The list has every changed answer, and what it says of each is in questions.parquet's terms.
    let paired = &comparison["paired"];
    let count = |name: &str| paired[name].as_u64().unwrap() as usize;
    let changed = comparison["changed"].as_array().unwrap();
    for change in ["right_to_wrong", "wrong_to_right", "wrong_to_other_wrong"] {
        let listed = changed.iter().filter(|one| one["change"] == change).count();
        assert_eq!(listed, count(change), "{change}");
    }
    assert!(count("wrong_to_other_wrong") > 0, "four bits change answers of a model that guesses");
    for one in changed {
        let row = one["row"].as_u64().unwrap() as usize;
        assert_eq!(one["id"], format!("q-{row}"));
        assert_eq!(one["answer"], row % 4);
        assert_ne!(one["predictions"][0], one["predictions"][1]);
        for index in 0..2 {
            let made = one["predictions"][index].as_u64().unwrap() as usize;
            let probabilities: Vec<f64> = one["probabilities"][index]
                .as_array()
                .unwrap()
                .iter()
                .map(|p| p.as_f64().unwrap())
                .collect();
            assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            assert!(probabilities.iter().all(|&p| p <= probabilities[made]));
        }
    }

    // `results compare` and `compare` have the same figures.
    let mut again = quantkit();
    again.args(["--json", "results", "compare"]).args([place.path("f16"), place.path("q4")]);
    assert_eq!(printed(again.assert()), comparison);
    let mut compare = quantkit();
    compare.arg("compare").args([place.path("tiny.F16.gguf"), place.path("tiny.Q4_0.gguf")]);
    compare.arg("--baseline").arg(place.path("tiny.F16.gguf"));
    compare.arg("--set").arg(place.path("set")).arg("--output").arg(place.path("report"));
    compare.args(["--json", "--no-bench", "--protocol", "cloze"]);
    let report = printed(compare.assert());
    assert_eq!(report["variants"][1]["paired"], *paired);
    assert_eq!(report["variants"][1]["reliability"], comparison["run"]["reliability"]);
    let verdict = comparison["verdict"].as_str().unwrap().trim_start_matches("tiny.Q4_0");
    assert!(report["headline"][0].as_str().unwrap().ends_with(verdict), "{verdict}");

    // The same run without a baseline is shown as it is; one that replaces it leaves no comparison behind.
    place.score("tiny.Q4_0.gguf", "q4", &CLOZE).success();
    assert!(place.path("q4/comparison.json").exists());
    place.score("tiny.Q4_0.gguf", "q4", &[&CLOZE[..], &["--overwrite"]].concat()).success();
    assert!(!place.path("q4/comparison.json").exists());
}

#[test]
fn the_tables_and_the_sentence_are_printed_and_shown_again() {
    let place = Place::new();
    place.score("tiny.F16.gguf", "f16", &["--shots", "1"]).success();
    let run = place.against("f16", "q4", &["--shots", "1"]).success();
    let mut show = quantkit();
    let shown = show.args(["results", "show"]).arg(place.path("q4")).assert().success();
    let mut compare = quantkit();
    compare.args(["results", "compare"]).args([place.path("f16"), place.path("q4")]);
    for assert in [run, shown, compare.assert().success()] {
        assert
            .stdout(contains("Against tiny.F16, in points:"))
            .stdout(contains("Unpaired interval").and(contains("McNemar p")))
            .stdout(contains("Wrong → other wrong").and(contains("KL over the choices")))
            .stdout(contains("social sciences").and(contains("virology")).and(contains("Holm p")))
            .stdout(contains("Calibration error"))
            .stdout(contains("on these 60 questions;").and(contains("of the answers changed.")));
    }
}

#[test]
fn what_cannot_be_the_baseline_is_said_before_anything_is_scored() {
    let place = Place::new();
    place.score("tiny.F16.gguf", "f16", &CLOZE).success();
    place.score("tiny.F16.gguf", "letter", &["--shots", "1"]).success();
    let questions: Vec<Question> = (0..60).map(|row| question(row + 1)).collect();
    write_questions(&place.path("other/test.parquet"), &questions).unwrap();
    for damaged in ["cut", "old", "mixed", "beheaded"] {
        copy_directory(&place.path("f16"), &place.path(damaged));
    }
    let whole = fs::read(place.path("cut/questions.parquet")).unwrap();
    fs::write(place.path("cut/questions.parquet"), &whole[..whole.len() / 2]).unwrap();
    let summary = fs::read_to_string(place.path("old/summary.json")).unwrap();
    let older = summary.replace("\"schema_version\": 3", "\"schema_version\": 2");
    fs::write(place.path("old/summary.json"), older).unwrap();
    fs::copy(place.path("letter/questions.parquet"), place.path("mixed/questions.parquet"))
        .unwrap();
    fs::remove_file(place.path("beheaded/summary.json")).unwrap();
    // A model that cannot be read is found out later.
    fs::write(place.path("tiny.Q4_0.gguf"), "no model").unwrap();

    let other_set = place.path("other");
    let other_set = ["--protocol", "cloze", "--set", other_set.to_str().unwrap()];
    let cloze_every = ["--protocol", "cloze", "--every", "2"];
    let cloze_first = ["--protocol", "cloze", "--limit", "9"];
    let cloze_on = ["--protocol", "cloze", "--subjects", "virology"];
    let cloze_part = ["--protocol", "cloze", "--shard", "0/2"];
    let cases: [(&str, &[&str], &str); 14] = [
        ("f16", &["--shots", "0"], "protocol is cloze there and letter here"),
        ("letter", &["--shots", "0"], "shots is 1 there and 0 here"),
        ("f16", &cloze_every, "every is 1 there and 2 here; give the same options to both runs"),
        ("f16", &cloze_first, "limit is not given there and 9 here"),
        ("f16", &cloze_on, "subjects is [] there and [\"virology\"] here"),
        ("f16", &cloze_part, "shard is not given there and 0/2 here"),
        ("f16", &other_set, "was not asked the same questions in the same way: the set is"),
        ("set", &CLOZE, "set: no run of mmlu-eval is here: expected run.json, summary.json"),
        ("absent", &CLOZE, "absent: no run of mmlu-eval is here"),
        ("beheaded", &CLOZE, "beheaded: no run of mmlu-eval is here"),
        ("cut", &CLOZE, "questions.parquet: is no Parquet file"),
        ("old", &CLOZE, "summary.json: has version 2 of the records"),
        ("mixed", &CLOZE, "questions.parquet: is of another run than summary.json"),
        ("f16", &CLOZE, "tiny.Q4_0.gguf"),
    ];
    for (baseline, arguments, message) in cases {
        place.against(baseline, "out", arguments).failure().stderr(contains(message));
        assert!(!place.path("out").exists(), "{message}");
    }
    let before = fs::read(place.path("f16/summary.json")).unwrap();
    place.against("f16", "f16", &CLOZE).failure().stderr(contains("would replace it"));
    assert_eq!(fs::read(place.path("f16/summary.json")).unwrap(), before);

    let compare = |baseline: &str, run: &str| {
        let mut command = quantkit();
        command.args(["results", "compare"]).args([place.path(baseline), place.path(run)]);
        command.assert().failure()
    };
    compare("f16", "letter").stderr(contains("protocol is cloze there and letter here"));
    compare("f16", "absent").stderr(contains("absent: no run of mmlu-eval is here"));
}

#[test]
fn questions_that_one_of_the_two_could_not_be_asked_are_left_out_and_listed() {
    let place = Place::new();
    let mut questions: Vec<Question> = (0..12).map(question).collect();
    questions[5].choices[2] = "word ".repeat(60);
    write_questions(&place.path("set/test.parquet"), &questions).unwrap();
    TinyModel { context: 128, ..TinyModel::default() }.write(&place.path("tiny.short.gguf"));
    place.score("tiny.short.gguf", "short", &CLOZE).success();
    place
        .against("short", "q4", &CLOZE)
        .success()
        .stderr(contains("1 questions are left out of the comparison").and(contains("rows 5;")))
        .stdout(contains("on these 11 questions;"))
        .stdout(contains("1 questions are left out, as only one of the two runs"));
    let comparison = place.json("q4/comparison.json");
    assert_eq!(comparison["left_out"], serde_json::json!([5]));
    assert_eq!(comparison["paired"]["questions"], 11);
    assert_eq!(comparison["run"]["overall"]["questions"], 12);

    // In a report they are missing in one column and pointed out.
    let mut compare = quantkit();
    compare.arg("compare").args([place.path("tiny.short.gguf"), place.path("tiny.Q4_0.gguf")]);
    compare.arg("--baseline").arg(place.path("tiny.Q4_0.gguf"));
    compare.arg("--set").arg(place.path("set")).arg("--output").arg(place.path("report"));
    let report = printed(compare.args(["--json", "--no-bench"]).args(CLOZE).assert());
    assert_eq!(report["variants"][0]["paired"]["questions"], 11);
    let caveats = report["caveats"].to_string();
    assert!(caveats.contains("tiny.short could not be asked 1 of the questions (rows 5)"));
}
