//! `quantkit mmlu-eval --endpoint`: a model that a server runs, with a server of our own that plays
//! the part.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use predicates::prelude::*;
use predicates::str::contains;
use quantkit::eval::questions::{Form, Question, write_questions};
use serde_json::Value;
use tempfile::TempDir;

use super::model_server::{Kind, Mishap, ModelServer, log_probabilities, pieces};
use super::support::quantkit;

/// A directory with a set of questions, for runs that ask a server.
pub struct Place {
    dir: TempDir,
}

impl Place {
    pub fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        write_questions(&place.path("test.parquet"), &questions()).unwrap();
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Scores the set at a server into a directory.
    pub fn score(
        &self,
        server: &ModelServer,
        output: &str,
        more: &[&str],
    ) -> assert_cmd::assert::Assert {
        let mut command = quantkit();
        command.args(["mmlu-eval", "--endpoint", &server.address, "--shots", "0"]);
        command.arg("--set").arg(self.path("test.parquet"));
        command.arg("--output").arg(self.path(output)).args(more).assert()
    }

    pub fn bytes(&self, output: &str) -> Vec<u8> {
        fs::read(self.path(output).join("questions.parquet")).unwrap()
    }

    pub fn summary(&self, output: &str) -> Value {
        let bytes = fs::read(self.path(output).join("summary.json")).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }
}

pub fn questions() -> Vec<Question> {
    (0..30)
        .map(|row| Question {
            row,
            id: None,
            form: Form::default(),
            question: format!("What is it that number {row} wants ?"),
            subject: "astronomy".to_string(),
            choices: ["the one", "the other one", "no", "none of them"]
                .map(|choice| format!("{choice} {}", row % 5))
                .to_vec(),
            answer: row % 4,
        })
        .collect()
}

/// The mean log-probability of each choice's tokens past those that all begin with.
fn expected(question: &Question) -> Vec<f64> {
    let texts = question.choices.iter().map(|choice| format!("{} {choice}", question.question));
    let texts: Vec<String> = texts.collect();
    let tokens: Vec<Vec<Vec<u8>>> = texts.iter().map(|text| pieces(text)).collect();
    let same = |&index: &usize| tokens.iter().all(|text| text[index] == tokens[0][index]);
    let shortest = tokens.iter().map(Vec::len).min().unwrap();
    let common = (0..shortest - 1).take_while(same).count();
    let mean = |text: &String| {
        let values = log_probabilities(text);
        let own: Vec<f64> = values[common..].iter().map(|value| value.unwrap()).collect();
        own.iter().sum::<f64>() / own.len() as f64
    };
    texts.iter().map(mean).collect()
}

/// The log-probabilities of a run's choices, a question a row.
pub fn log_probabilities_of(place: &Place, output: &str) -> Vec<(i64, Vec<f64>)> {
    let file = File::open(place.path(output).join("questions.parquet")).unwrap();
    let mut reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let batch = reader.next().unwrap().unwrap();
    let lists = batch.column_by_name("log_probabilities").unwrap().as_list::<i32>();
    let rows = batch.column_by_name("row").unwrap().as_primitive::<Int64Type>();
    let values = |index| lists.value(index).as_primitive::<Float64Type>().values().to_vec();
    (0..lists.len()).map(|index| (rows.value(index), values(index))).collect()
}

fn assert_scored(place: &Place, output: &str, questions: &[Question]) {
    let scored = log_probabilities_of(place, output);
    assert_eq!(scored.len(), questions.len());
    for ((row, told), question) in scored.iter().zip(questions) {
        assert_eq!(*row, question.row as i64);
        for (told, expected) in told.iter().zip(expected(question)) {
            assert!((told - expected).abs() < 1e-9, "row {row}: {told} is not {expected}");
        }
    }
}

#[test]
fn every_kind_of_server_gives_the_same_scores() {
    let place = Place::new();
    for (kind, output) in [
        (Kind::Echo, "echo"),
        (Kind::Numbered, "numbered"),
        (Kind::NamesOrNumbers, "either"),
        (Kind::PromptLogprobs, "prompt"),
        (Kind::Llama, "llama"),
    ] {
        let server = ModelServer::start(kind);
        place.score(&server, output, &["--protocol", "cloze", "--concurrency", "4"]).success();
        assert!(server.most_in_flight.load(Ordering::SeqCst) > 1);
        assert_scored(&place, output, &questions());
    }
    assert!(place.bytes("echo") == place.bytes("prompt"));
    let run = fs::read(place.path("echo/run.json")).unwrap();
    let run: Value = serde_json::from_slice(&run).unwrap();
    assert_eq!(run["settings"]["model"], "hash-1");
    assert!(run["settings"]["endpoint"].as_str().unwrap().starts_with("http://127.0.0.1:"));
}

#[test]
fn choices_that_differ_inside_a_character_are_told_apart() {
    let place = Place::new();
    // E5 A4 begins both 天 and 夫, whose names are alike.
    assert_eq!(pieces("天")[0], pieces("夫")[0]);
    let questions: Vec<Question> = [["天", "地", "天地", "人"], ["天地", "天人", "夫地", "天"]]
        .into_iter()
        .zip(questions())
        .map(|(choices, question)| {
            let choices = choices.map(str::to_string).to_vec();
            Question { question: format!("第 {}", question.row), choices, ..question }
        })
        .collect();
    write_questions(&place.path("test.parquet"), &questions).unwrap();
    for (kind, output) in [
        (Kind::Echo, "echo"),
        (Kind::Numbered, "numbered"),
        (Kind::NamesOrNumbers, "either"),
        (Kind::PromptLogprobs, "prompt"),
    ] {
        let server = ModelServer::start(kind);
        place.score(&server, output, &["--protocol", "cloze"]).success();
        assert_scored(&place, output, &questions);
    }
}

#[test]
fn letters_are_scored_too_and_shards_merge() {
    let place = Place::new();
    let server = ModelServer::start(Kind::Echo);
    place.score(&server, "whole", &[]).success();
    for (index, output) in ["first", "second"].iter().enumerate() {
        // The server of another shard has another address.
        let server = ModelServer::start(Kind::Echo);
        place.score(&server, output, &["--shard", &format!("{index}/2")]).success();
    }
    let shards = [place.path("first"), place.path("second")];
    quantkit().arg("merge").arg(place.path("merged")).args(shards).assert().success();
    assert!(place.bytes("merged") == place.bytes("whole"));
}

#[test]
fn a_served_model_is_compared_with_a_baseline() {
    let place = Place::new();
    place.score(&ModelServer::start(Kind::Echo), "first", &["--protocol", "cloze"]).success();
    let baseline = place.path("first");
    let baseline = ["--baseline", baseline.to_str().unwrap()];
    let server = ModelServer::start(Kind::Llama);
    place
        .score(&server, "second", &[&baseline[..], &["--protocol", "cloze"]].concat())
        .success()
        .stdout(contains("neither loses nor gains accuracy"))
        .stdout(contains("on these 30 questions; 0.0 % of the answers changed."));
    let comparison = fs::read(place.path("second/comparison.json")).unwrap();
    let comparison: Value = serde_json::from_slice(&comparison).unwrap();
    assert_eq!(comparison["baseline"]["model"], "hash-1");
    assert_eq!(comparison["paired"]["questions"], 30);

    // A baseline that was asked otherwise is refused before the server hears anything.
    let asked = server.requests.load(Ordering::SeqCst);
    place
        .score(&server, "third", &baseline)
        .failure()
        .stderr(contains("protocol is cloze there and letter here"));
    assert_eq!(server.requests.load(Ordering::SeqCst), asked);
    assert!(!place.path("third").exists());
}

#[test]
fn what_fails_for_a_moment_is_asked_again() {
    let place = Place::new();
    let calm = ModelServer::start(Kind::Echo);
    place.score(&calm, "calm", &["--limit", "6"]).success();
    let server = ModelServer::start(Kind::Echo);
    let silence = Mishap::Silence(Duration::from_secs(3));
    *server.mishaps.lock().unwrap() = vec![
        Mishap::Hangup,
        silence,
        Mishap::Status(429),
        Mishap::Status(503),
        Mishap::Status(500),
    ];
    let patient = ["--limit", "6", "--timeout", "1", "--concurrency", "1"];
    place.score(&server, "rough", &patient).success();
    assert!(place.bytes("calm") == place.bytes("rough"));

    *server.mishaps.lock().unwrap() = vec![Mishap::Status(503); 3];
    place
        .score(&server, "impatient", &["--retries", "1"])
        .failure()
        .stderr(contains("status 503"))
        .stderr(contains("asked 2 times"));
    assert!(!place.path("impatient").exists());
}

#[test]
fn a_run_whose_server_goes_away_goes_on_later() {
    let place = Place::new();
    let server = ModelServer::start(Kind::Echo);
    place.score(&server, "whole", &[]).success();
    server.refuse_from.store(server.requests.load(Ordering::SeqCst) + 50, Ordering::SeqCst);
    place.score(&server, "broken", &[]).failure().stderr(contains("the model was unloaded"));
    let journal = fs::read_to_string(place.path("broken/journal.jsonl")).unwrap();
    assert!((2..30).contains(&journal.lines().count()));
    server.refuse_from.store(usize::MAX, Ordering::SeqCst);
    let before = server.requests.load(Ordering::SeqCst);
    place.score(&server, "broken", &[]).success();
    assert!(server.requests.load(Ordering::SeqCst) - before < 115, "what is done stays done");
    assert!(place.bytes("whole") == place.bytes("broken"));
}

#[test]
fn what_a_server_cannot_score_is_said() {
    let place = Place::new();
    place
        .score(&ModelServer::start(Kind::Mute), "mute", &[])
        .failure()
        .stderr(contains("gives no log-probabilities"));
    assert!(!place.path("mute").exists());

    let mut questions = questions();
    questions[7].question = "long ".repeat(100);
    write_questions(&place.path("test.parquet"), &questions).unwrap();
    place.score(&ModelServer::start(Kind::Echo), "long", &["--protocol", "cloze"]).success();
    let summary = place.summary("long");
    assert_eq!(
        (&summary["overall"]["questions"], &summary["unscored"][0]["row"]),
        (&29.into(), &7.into())
    );
    assert!(summary["unscored"][0]["reason"].as_str().unwrap().contains("maximum context length"));

    quantkit()
        .args(["mmlu-eval", "--endpoint", "http://127.0.0.1:9", "--retries", "0"])
        .args(["--shots", "0", "--set"])
        .arg(place.path("test.parquet"))
        .arg("--output")
        .arg(place.path("nobody"))
        .assert()
        .failure()
        .stderr(contains("127.0.0.1:9").and(contains("cannot be reached")));
}
