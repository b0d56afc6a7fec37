//! `quantkit mmlu-eval --endpoint`: a model that a server runs, with a server of our own that plays
//! the part.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use predicates::prelude::*;
use predicates::str::contains;
use quantkit::eval::questions::{Form, Question, write_questions};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::quantkit;

/// What the server understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Echo,
    PromptLogprobs,
    Llama,
    /// Completions, but no log-probabilities.
    Mute,
}

/// A server whose model is a hash of what comes before a token. Tokens are words with the space
/// before them; their numbers are hashes too.
#[derive(Clone)]
struct ModelServer {
    address: String,
    kind: Kind,
    requests: Arc<AtomicUsize>,
    in_flight: Arc<AtomicUsize>,
    most_in_flight: Arc<AtomicUsize>,
    /// What happens to the next requests.
    mishaps: Arc<Mutex<Vec<Mishap>>>,
    /// Requests from this one on are refused.
    refuse_from: Arc<AtomicUsize>,
}

#[derive(Debug, Clone, Copy)]
enum Mishap {
    Status(u16),
    Hangup,
    Silence(Duration),
}

impl ModelServer {
    fn start(kind: Kind) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            kind,
            requests: Arc::default(),
            in_flight: Arc::default(),
            most_in_flight: Arc::default(),
            mishaps: Arc::default(),
            refuse_from: Arc::new(AtomicUsize::new(usize::MAX)),
        };
        let accepting = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = accepting.clone();
                thread::spawn(move || server.serve(&stream));
            }
        });
        server
    }

    fn serve(&self, stream: &TcpStream) -> Option<()> {
        let (path, body) = read_request(stream)?;
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_in_flight.fetch_max(now, Ordering::SeqCst);
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(2));
        let mishap = self.mishaps.lock().unwrap().pop();
        let (status, answer) = match mishap {
            Some(Mishap::Status(status)) => (status, json!({"error": "busy"})),
            Some(Mishap::Hangup) => {
                self.in_flight.fetch_sub(1, Ordering::SeqCst);
                return stream.shutdown(Shutdown::Both).ok();
            }
            Some(Mishap::Silence(time)) => {
                thread::sleep(time);
                (200, json!({}))
            }
            None if number >= self.refuse_from.load(Ordering::SeqCst) => {
                (404, json!({"error": "the model was unloaded"}))
            }
            None => self.answer(&path, &body),
        };
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        let text = answer.to_string();
        let mut stream = stream;
        let head = format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n", text.len());
        stream.write_all(format!("{head}Connection: close\r\n\r\n{text}").as_bytes()).ok()
    }

    fn answer(&self, path: &str, body: &Value) -> (u16, Value) {
        match (path, self.kind) {
            ("/v1/models", _) => (200, json!({"data": [{"id": "hash-1"}]})),
            ("/v1/completions", Kind::Llama) if body["echo"] == true => {
                (400, json!({"error": {"message": "Only no echo is supported"}}))
            }
            ("/v1/completions", kind) => {
                assert_eq!(body["model"], "hash-1");
                let text = body["prompt"].as_str().unwrap();
                if text.len() > 400 {
                    let message = "This model's maximum context length is 400 bytes";
                    return (400, json!({"error": {"message": message}}));
                }
                (200, completion(kind, body, text))
            }
            ("/tokenize", Kind::Llama) => {
                let words = words(body["content"].as_str().unwrap());
                let tokens: Vec<u64> = words.iter().map(|word| number(word)).collect();
                (200, json!({"tokens": tokens}))
            }
            ("/completion", Kind::Llama) => {
                let prompt: Vec<u64> = body["prompt"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|t| t.as_u64().unwrap())
                    .collect();
                let token = body["logit_bias"][0][0].as_u64().unwrap();
                let told = json!({"id": token, "logprob": log_probability(&prompt, token)});
                (200, json!({"completion_probabilities": [told]}))
            }
            _ => (404, json!({"error": "no such path"})),
        }
    }
}

fn completion(kind: Kind, body: &Value, text: &str) -> Value {
    let mut names: Vec<String> = words(text);
    let mut logprobs: Vec<Value> = log_probabilities(text).into_iter().map(Value::from).collect();
    let prompt_tokens = names.len();
    let mut choice = json!({"text": " and"});
    if kind == Kind::Echo && body["echo"] == true && body["logprobs"] == 1 {
        names.push(" and".to_string());
        logprobs.push((-0.5).into());
        choice["logprobs"] = json!({"tokens": names, "token_logprobs": logprobs});
    } else if kind == Kind::PromptLogprobs && body["prompt_logprobs"] == 0 {
        let told: Vec<Value> = names
            .iter()
            .zip(logprobs)
            .map(|(name, value)| match value {
                Value::Null => Value::Null,
                value => json!({number(name).to_string(): {"logprob": value}}),
            })
            .collect();
        choice["prompt_logprobs"] = told.into();
    } else {
        choice["logprobs"] = json!({"tokens": [" and"], "token_logprobs": [-0.5]});
    }
    json!({"choices": [choice], "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": 1}})
}

fn words(text: &str) -> Vec<String> {
    text.split_inclusive(|c: char| c.is_whitespace()).map(str::to_string).collect()
}

fn number(word: &str) -> u64 {
    word.bytes().fold(7, |hash: u64, byte| (hash * 131 + u64::from(byte)) % 1_000_003)
}

fn log_probability(before: &[u64], token: u64) -> f64 {
    let hash = before.iter().fold(token, |hash, &t| (hash * 31 + t) % 999_983);
    -((hash % 997) as f64) / 100.0
}

/// Of each word of a text; `None` for the first.
fn log_probabilities(text: &str) -> Vec<Option<f64>> {
    let numbers: Vec<u64> = words(text).iter().map(|word| number(word)).collect();
    (0..numbers.len())
        .map(|index| (index > 0).then(|| log_probability(&numbers[..index], numbers[index])))
        .collect()
}

fn read_request(stream: &TcpStream) -> Option<(String, Value)> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_string();
    let mut length = 0;
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((path, serde_json::from_slice(&body).unwrap_or_default()))
}

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        write_questions(&place.path("test.parquet"), &questions()).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn score(
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

    fn bytes(&self, output: &str) -> Vec<u8> {
        fs::read(self.path(output).join("questions.parquet")).unwrap()
    }

    fn summary(&self, output: &str) -> Value {
        let bytes = fs::read(self.path(output).join("summary.json")).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }
}

fn questions() -> Vec<Question> {
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

/// The mean log-probability of each choice's words past those that all begin with.
fn expected(question: &Question) -> Vec<f64> {
    let common = words(&format!("{} ", question.question)).len();
    let texts = question.choices.iter().map(|choice| format!("{} {choice}", question.question));
    texts
        .map(|text| {
            let values = log_probabilities(&text);
            let own: Vec<f64> = values[common..].iter().map(|value| value.unwrap()).collect();
            own.iter().sum::<f64>() / own.len() as f64
        })
        .collect()
}

#[test]
fn every_kind_of_server_gives_the_same_scores() {
    let place = Place::new();
    for (kind, output) in
        [(Kind::Echo, "echo"), (Kind::PromptLogprobs, "prompt"), (Kind::Llama, "llama")]
    {
        let server = ModelServer::start(kind);
        place.score(&server, output, &["--protocol", "cloze", "--concurrency", "4"]).success();
        assert!(server.most_in_flight.load(Ordering::SeqCst) > 1);
        let file = File::open(place.path(output).join("questions.parquet")).unwrap();
        let mut reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let batch = reader.next().unwrap().unwrap();
        let lists = batch.column_by_name("log_probabilities").unwrap().as_list::<i32>();
        let rows = batch.column_by_name("row").unwrap().as_primitive::<Int64Type>();
        assert_eq!(lists.len(), 30);
        for (index, question) in questions().iter().enumerate() {
            assert_eq!(rows.value(index), index as i64);
            let told = lists.value(index);
            let told = told.as_primitive::<Float64Type>().values().to_vec();
            for (told, expected) in told.iter().zip(expected(question)) {
                assert!((told - expected).abs() < 1e-9, "{told} is not {expected}");
            }
        }
    }
    assert!(place.bytes("echo") == place.bytes("llama"));
    let run = fs::read(place.path("echo/run.json")).unwrap();
    let run: Value = serde_json::from_slice(&run).unwrap();
    assert_eq!(run["settings"]["model"], "hash-1");
    assert!(run["settings"]["endpoint"].as_str().unwrap().starts_with("http://127.0.0.1:"));
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
        .stderr(contains("asked once, 1 times again"));
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
    assert!(server.requests.load(Ordering::SeqCst) - before < 110, "what is done stays done");
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
