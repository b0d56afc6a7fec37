//! `quantkit eval-set` from end to end.

use std::fs;
use std::path::{Path, PathBuf};

use predicates::prelude::PredicateBooleanExt;
use predicates::str::contains;
use quantkit::eval::questions::{Form, Question, read_questions, write_questions};
use serde_json::Value;

use super::support::quantkit;

fn starter() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("eval-sets/starter")
}

fn convert(input: &Path, output: &Path, arguments: &[&str]) -> assert_cmd::assert::Assert {
    let mut command = quantkit();
    command.args(["eval-set", "convert"]).arg(input).arg(output).args(arguments).assert()
}

#[test]
fn a_set_goes_through_every_kind_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let original = read_questions(&starter().join("test.parquet")).unwrap();
    convert(&starter(), &at("a.jsonl"), &[]).success().stdout(contains("120 questions"));
    convert(&at("a.jsonl"), &at("b.parquet"), &[]).success();
    assert_eq!(read_questions(&at("b.parquet")).unwrap(), original);
    assert_eq!(
        fs::read(at("b.parquet")).unwrap(),
        fs::read(starter().join("test.parquet")).unwrap()
    );

    convert(&at("b.parquet"), &at("c.bin"), &[]).success();
    convert(&at("c.bin"), &at("d.bin"), &["--json"])
        .success()
        .stdout(contains("\"questions\": 120"));
    assert_eq!(fs::read(at("c.bin")).unwrap(), fs::read(at("d.bin")).unwrap());
    for (task, question) in read_questions(&at("d.bin")).unwrap().iter().zip(&original) {
        assert_eq!(task.question, question.question);
        assert_eq!((&task.choices, task.answer), (&question.choices, question.answer));
        assert_eq!((task.subject.as_str(), task.form), ("d", Form::Continuation));
    }

    convert(&starter(), &at("dev.jsonl"), &["--split", "dev"]).success();
    assert_eq!(read_questions(&at("dev.jsonl")).unwrap().len(), 60);
}

#[test]
fn a_set_is_counted_and_sampled() {
    let show = |arguments: &[&str]| {
        quantkit().args(["eval-set", "show"]).arg(starter()).args(arguments).assert()
    };
    show(&[])
        .success()
        .stdout(contains("120 questions, 60 for shots"))
        .stdout(contains("number of choices: 4: 120"))
        .stdout(contains("world_religions"))
        .stdout(contains("row 0, ").and(contains("row 60, ")).and(contains("\n* ")));
    let output = show(&["--json", "--row", "7,3"]).success();
    let shown: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(shown["questions"], 120);
    assert_eq!(shown["subjects"].as_array().unwrap().len(), 12);
    let rows: Vec<_> = shown["sample"].as_array().unwrap().iter().map(|q| &q["row"]).collect();
    assert_eq!(rows, [7, 3]);
    show(&["--row", "120"])
        .failure()
        .stderr(contains("there is no row 120: the set has the rows 0 to 119"));
}

#[test]
fn what_cannot_be_converted_is_said_and_nothing_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let question = |row: usize, form: Form| Question {
        row,
        id: Some("same".to_string()),
        question: "Did _ sleep?".to_string(),
        subject: "sleep".to_string(),
        choices: vec!["Ann".to_string(), "Ben".to_string()],
        answer: 0,
        form,
    };
    write_questions(&at("blank.jsonl"), &[question(0, Form::Blank)]).unwrap();
    write_questions(&at("twice.jsonl"), &[question(0, Form::Exam), question(1, Form::Exam)])
        .unwrap();
    fs::write(at("cut.bin"), [9, 0, 0, 0, 1]).unwrap();
    fs::write(at("what.txt"), "?").unwrap();
    for (input, output, message) in [
        ("blank.jsonl", "out.bin", "row 0: a sentence with a blank is not a text and its"),
        ("blank.jsonl", "out.csv", "out.csv: CSV files of questions are read and not written"),
        ("blank.jsonl", "out", "out: no known kind of question set"),
        ("blank.jsonl", "blank.jsonl", "this file of the set would be replaced"),
        ("twice.jsonl", "out.bin", "twice.jsonl: rows 0 and 1 have the same id, \"same\""),
        ("cut.bin", "out.jsonl", "cut.bin: not a task file of llama.cpp's --multiple-choice"),
        ("what.txt", "out.jsonl", "what.txt: no known kind of question set"),
        ("absent.bin", "out.jsonl", "absent.bin"),
    ] {
        convert(&at(input), &at(output), &[]).failure().stderr(contains(message));
        assert!(input == output || !at(output).exists());
    }
    convert(&at("cut.bin"), &at("out.jsonl"), &["--split", "dev"])
        .failure()
        .stderr(contains("cut.bin: the dev split has no questions"));
}
