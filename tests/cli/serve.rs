//! `quantkit serve`: the built binary on a tiny model, spoken to over HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use quantkit::engine::{Engine, EngineOptions, LogitsFor, StepItem};
use quantkit::gguf::{GgufFile, GgufWriter, TensorPlan};
use quantkit::kernels::elementwise::log_sum_exp;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::endpoint::{Place, log_probabilities_of};
use crate::support::{TinyModel, VariantBench, quantkit, send};

/// A server and the directory of its model.
pub struct Serving {
    pub child: Child,
    pub address: String,
    pub directory: TempDir,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Serving {
    pub fn start(options: &[&str]) -> Self {
        Self::start_with(&TinyModel::default(), options)
    }

    pub fn start_with(model: &TinyModel, options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tiny.gguf");
        model.write(&path);
        Self::start_models(directory, &[path], options)
    }

    pub fn start_models(directory: TempDir, models: &[PathBuf], options: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_quantkit"))
            .args(["--quiet", "--threads", "2", "serve", "--port", "0"])
            .args(models)
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let address = line.split(' ').next().unwrap().trim().to_string();
        assert!(address.starts_with("http://127.0.0.1:"), "{line}");
        Self { child, address, directory }
    }

    pub fn model(&self) -> PathBuf {
        self.directory.path().join("tiny.gguf")
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.post_raw(path, body.to_string().as_bytes(), &[])
    }

    pub fn post_raw(&self, path: &str, body: &[u8], headers: &[(&str, &str)]) -> (u16, Value) {
        let mut request = agent().post(format!("{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = request.content_type("application/json").send(body).unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        (response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub fn get(&self, path: &str) -> (u16, Value) {
        let mut response = agent().get(format!("{}{path}", self.address)).call().unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        (response.status().as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// The documents of a stream, without its end.
    pub fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let url = format!("{}{path}", self.address);
        let mut response = agent().post(url).send(body.to_string()).unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let text = response.body_mut().read_to_string().unwrap();
        let events: Vec<&str> = text.split_terminator("\n\n").collect();
        let events = events.iter().map(|event| event.strip_prefix("data: ").unwrap());
        let mut events: Vec<&str> = events.collect();
        assert_eq!(events.pop(), Some("[DONE]"));
        events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
    }

    /// A request whose answer nobody has read yet.
    pub fn open(&self, path: &str, body: &Value) -> TcpStream {
        let host = self.address.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        let body = body.to_string();
        write!(
            stream,
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        stream
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(60)))
        .build()
        .new_agent()
}

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// The log-probabilities of a text's tokens after the first, computed here.
fn scored(model: &Path, text: &str) -> (Vec<u32>, Vec<f64>) {
    let mut engine = Engine::load(model, EngineOptions::default()).unwrap();
    let tokens = engine.vocabulary().encode(text, true).unwrap();
    let sequence = engine.start(tokens.len());
    let item = StepItem { sequence, tokens: &tokens, logits: LogitsFor::All };
    let logits = engine.step(&[item]).unwrap().item(0);
    let value = |index: usize| {
        let row = logits.row(index);
        f64::from(row[tokens[index + 1] as usize]) - log_sum_exp(row)
    };
    let values = (0..tokens.len() - 1).map(value).collect();
    (tokens, values)
}

#[test]
fn an_echoed_prompt_has_the_log_probabilities_of_scoring() {
    let server = Serving::start(&[]);
    let text = "the inner on of what is";
    let (tokens, expected) = scored(&server.model(), text);
    for prompt in [json!(text), json!(tokens), json!([text]), json!([tokens])] {
        let body = json!({"prompt": prompt, "max_tokens": 0, "echo": true, "logprobs": 2,
                          "return_token_ids": true, "prompt_logprobs": 1});
        let (status, answer) = server.post(COMPLETIONS, &body);
        assert_eq!(status, 200, "{answer}");
        let choice = &answer["choices"][0];
        assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!(text), &json!("length")));
        let told = choice["logprobs"]["token_logprobs"].as_array().unwrap();
        assert_eq!((told.len(), &told[0]), (tokens.len(), &Value::Null));
        for (told, expected) in told[1..].iter().zip(&expected) {
            assert!((told.as_f64().unwrap() - expected).abs() < 1e-9, "{told} {expected}");
        }
        assert_eq!(choice["prompt_token_ids"], json!(tokens));
        let named: String =
            serde_json::from_value::<Vec<String>>(choice["logprobs"]["tokens"].clone())
                .unwrap()
                .concat();
        assert_eq!(named, text);
        for (index, token) in tokens.iter().enumerate().skip(1) {
            let told = &choice["prompt_logprobs"][index][token.to_string()];
            assert!((told["logprob"].as_f64().unwrap() - expected[index - 1]).abs() < 1e-9);
            let top = choice["logprobs"]["top_logprobs"][index].as_object().unwrap();
            assert!((1..=3).contains(&top.len()));
        }
        assert_eq!(answer["usage"]["prompt_tokens"], tokens.len());
        assert_eq!(answer["usage"]["completion_tokens"], 0);
    }
}

/// In process, questions share the keys and values of what they begin with, in large steps; the server
/// computes whole prompts in small pieces, several at once. Activations are rounded to 8 bits, which
/// would multiply any difference.
#[test]
fn scoring_through_a_server_gives_the_numbers_of_scoring_in_process() {
    let bench = VariantBench::new();
    let place = Place::new();
    let directory = tempfile::tempdir().unwrap();
    let model = bench.path("Q4_0.gguf");
    let options = ["--prefill-chunk", "5", "--parallel", "3", "--cache", "1MiB"];
    let server = Serving::start_models(directory, std::slice::from_ref(&model), &options);
    let score = |output: &str, target: &[&str]| {
        let mut command = quantkit();
        command.args(["mmlu-eval", "--protocol", "cloze", "--shots", "0", "--set"]);
        command.arg(place.path("test.parquet")).args(target);
        command.arg("--output").arg(place.path(output)).assert().success();
        log_probabilities_of(&place, output)
    };
    let in_process = score("in_process", &[model.to_str().unwrap()]);
    let served = score("served", &["--endpoint", &server.address]);
    assert_eq!(in_process.len(), served.len());
    for ((row, expected), (_, told)) in in_process.iter().zip(&served) {
        for (expected, told) in expected.iter().zip(told) {
            // The server tells single tokens, whose sum is taken in f64.
            assert!((expected - told).abs() < 1e-12, "row {row}: {told} is not {expected}");
        }
    }
}

#[test]
fn a_stream_gives_the_same_text_as_a_document_in_whole_characters() {
    let server = Serving::start(&["--cache", "0"]);
    for prompt in ["the inner on", "caf\u{e9} \u{1f980}", "x"] {
        let mut body = json!({"prompt": prompt, "max_tokens": 60, "temperature": 3.0, "seed": 5,
                              "logprobs": 1, "n": 2, "ignore_eos": true});
        let (status, answer) = server.post(COMPLETIONS, &body);
        assert_eq!(status, 200, "{answer}");
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        let events = server.stream(COMPLETIONS, &body);
        for index in 0..2 {
            let (mut text, mut tokens, mut finish) = (String::new(), Vec::new(), Value::Null);
            for event in &events {
                let Some(choice) = event["choices"].get(0) else { continue };
                if choice["index"] != index {
                    continue;
                }
                text += choice["text"].as_str().unwrap();
                tokens.extend(choice["logprobs"]["tokens"].as_array().unwrap().clone());
                finish = choice["finish_reason"].clone();
            }
            let choice = &answer["choices"][index];
            assert_eq!(
                (json!(text), json!(tokens)),
                (choice["text"].clone(), choice["logprobs"]["tokens"].clone())
            );
            assert_eq!(finish, "length");
        }
        assert_ne!(answer["choices"][0]["text"], answer["choices"][1]["text"]);
        let usage = &events.last().unwrap()["usage"];
        assert_eq!(usage["completion_tokens"], 120);
        assert_eq!(usage, &answer["usage"]);
    }
}

#[test]
fn a_chat_goes_through_the_template_and_its_beginning_is_computed_once() {
    let server = Serving::start(&[]);
    let mut messages = vec![
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": [{"type": "text", "text": "Hi"}]}),
    ];
    let ask = |messages: &[Value]| {
        json!({"model": "tiny", "messages": messages, "max_completion_tokens": 8, "logprobs": true,
               "top_logprobs": 3, "temperature": 0})
    };
    let (status, answer) = server.post(CHAT, &ask(&messages));
    assert_eq!(status, 200, "{answer}");
    let choice = &answer["choices"][0];
    let content = choice["logprobs"]["content"].as_array().unwrap();
    let bytes: Vec<u8> = content
        .iter()
        .flat_map(|token| serde_json::from_value::<Vec<u8>>(token["bytes"].clone()).unwrap())
        .collect();
    assert_eq!(String::from_utf8_lossy(&bytes), choice["message"]["content"].as_str().unwrap());
    assert!(content.iter().all(|token| token["top_logprobs"].as_array().unwrap().len() == 3));
    let first = answer["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    messages.push(json!({"role": "assistant", "content": "so"}));
    messages.push(json!({"role": "user", "content": "And?"}));
    let (_, answer) = server.post(CHAT, &ask(&messages));
    let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached + 1 >= first, "{cached} of {first}");
    let mut streamed = ask(&messages);
    streamed["stream"] = json!(true);
    let events = server.stream(CHAT, &streamed);
    let text: String = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(answer["choices"][0]["message"]["content"], text);
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
}

#[test]
fn stop_texts_end_an_answer_across_tokens() {
    let server = Serving::start(&[]);
    let body = json!({"prompt": "the inner on", "max_tokens": 60, "temperature": 0,
                      "ignore_eos": true});
    let (_, answer) = server.post(COMPLETIONS, &body);
    let text = answer["choices"][0]["text"].as_str().unwrap().to_string();
    let letters: Vec<char> = text.chars().collect();
    let stop: String = letters[5..8].iter().collect();
    let before = &text[..text.find(&stop).unwrap()];
    let mut asked = body.clone();
    asked["stop"] = json!([stop, "never there"]);
    let (_, answer) = server.post(COMPLETIONS, &asked);
    let choice = &answer["choices"][0];
    assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!(before), &json!("stop")));
    asked["stream"] = json!(true);
    let events = server.stream(COMPLETIONS, &asked);
    let streamed: String =
        events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(streamed, before);
}

#[test]
fn who_goes_away_is_cancelled() {
    let model = TinyModel { context: 1 << 20, ..TinyModel::default() };
    let server = Serving::start_with(&model, &["--parallel", "1", "--max-queue", "0"]);
    let endless = |stream: bool| json!({"prompt": "x", "max_tokens": 1_000_000, "ignore_eos": true, "stream": stream});
    for streamed in [true, false] {
        let mut stream = server.open(COMPLETIONS, &endless(streamed));
        if streamed {
            stream.read_exact(&mut [0; 16]).unwrap();
        }
        std::thread::sleep(Duration::from_millis(200));
        let (status, answer) = server.post(COMPLETIONS, &json!({"prompt": "x"}));
        assert_eq!(status, 429, "{answer}");
        drop(stream);
        let started = Instant::now();
        loop {
            let body = json!({"prompt": "x", "max_tokens": 1});
            if server.post(COMPLETIONS, &body).0 == 200 {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "it still runs");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn each_refusal_has_its_status_and_names_the_field() {
    let server = Serving::start(&["--max-body", "20000", "--api-key", "one,two"]);
    let key = [("authorization", "Bearer two")];
    let post = |body: &[u8]| server.post_raw(COMPLETIONS, body, &key);
    assert_eq!(server.post(COMPLETIONS, &json!({"prompt": "x"})).0, 401);
    assert_eq!(server.get("/v1/models").0, 401);
    assert_eq!(server.get("/health"), (200, json!({"status": "ok"})));
    assert_eq!(server.post_raw("/v1/nothing", b"{}", &key).0, 404);
    assert_eq!(server.post_raw("/v1/models", b"{}", &key).0, 405);
    assert_eq!(post(&[b' '; 20_001]).0, 413);
    for body in [&b"{"[..], b"[]", b"{\"prompt\": \"\xff\"}", b"", b"{\"prompt\": NaN}"] {
        assert_eq!(post(body).0, 400, "{}", String::from_utf8_lossy(body));
    }
    let fields = [
        "max_tokens",
        "n",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "logprobs",
        "prompt_logprobs",
        "seed",
    ];
    let values = ["-5e300", "1e308", "\"x\"", "[1]", "{}", "1.5e308", "true", "-1e18", "1e999"];
    for field in fields {
        for value in values {
            let body = format!("{{\"prompt\": \"x\", \"{field}\": {value}}}");
            let (status, answer) = post(body.as_bytes());
            let is_seed = field == "seed" && value == "-1e18";
            assert!(status == 400 || is_seed, "{body}: {status} {answer}");
            let named = answer["error"]["param"] == field || value == "1e999" || is_seed;
            assert!(named, "{body}: {answer}");
        }
    }
    let refused = [
        ("suffix", json!("x")),
        ("best_of", json!(3)),
        ("tools", json!([{"type": "function"}])),
        ("response_format", json!({"type": "json_object"})),
        ("logit_bias", json!({"a": 1})),
        ("stream", json!("yes")),
        ("stop", json!([1])),
        ("prompt", json!([[1, -2]])),
        ("prompt", json!([4_294_967_296_u64])),
        ("prompt", json!([999_999])),
        ("prompt", json!("")),
        ("prompt", json!([])),
        ("prompt", json!({"a": 1})),
        ("prompt", Value::Null),
    ];
    for (field, value) in refused {
        let mut body = json!({"prompt": "x", "max_tokens": 1});
        body[field] = value;
        let (status, answer) = post(body.to_string().as_bytes());
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(field)), "{body}: {answer}");
    }
    let long = json!({"prompt": "x".repeat(600)}).to_string();
    let (status, answer) = post(long.as_bytes());
    assert_eq!(status, 400);
    assert!(
        answer["error"]["message"].as_str().unwrap().contains("context size of 512"),
        "{answer}"
    );
    let (status, answer) = server.post_raw(CHAT, b"{\"messages\": [{\"role\": 1}]}", &key);
    assert_eq!((status, &answer["error"]["param"]), (400, &json!("messages[0].role")));
}

#[test]
fn several_models_are_told_apart_by_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let paths = ["one", "two"].map(|name| directory.path().join(format!("{name}.gguf")));
    for (seed, path) in (1..).zip(&paths) {
        TinyModel { seed, ..TinyModel::default() }.write(path);
    }
    let server = Serving::start_models(directory, &paths, &["--alias", "a,b"]);
    let ask = |model: Value| {
        let body = json!({"model": model, "prompt": "the", "max_tokens": 12, "temperature": 0});
        server.post(COMPLETIONS, &body)
    };
    let text = |model: &str| ask(json!(model)).1["choices"][0]["text"].clone();
    assert_eq!((text("a"), text("b")), (text("one"), text("two")));
    assert_ne!(text("a"), text("b"));
    assert_eq!((ask(json!("c")).0, ask(Value::Null).0), (404, 400));
    let list = server.get("/v1/models").1;
    assert_eq!((&list["data"][0]["id"], &list["data"][1]["id"]), (&json!("a"), &json!("b")));
    assert_eq!((server.get("/v1/models/b").0, server.get("/v1/models/c").0), (200, 404));
}

#[test]
fn a_signal_lets_what_runs_finish() {
    let mut server = Serving::start(&[]);
    let body = json!({"prompt": "x", "max_tokens": 400, "ignore_eos": true, "stream": true});
    let mut stream = server.open(COMPLETIONS, &body);
    stream.read_exact(&mut [0; 16]).unwrap();
    send(&server.child, libc::SIGTERM);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("[DONE]") && rest.contains("\"length\""), "{rest}");
    let status = server.child.wait().unwrap();
    let mut errors = String::new();
    server.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(status.success() && errors.is_empty(), "{status}: {errors}");
}

#[test]
fn a_request_keeps_the_name_that_it_came_with() {
    let server = Serving::start(&["--cors", "https://page.example"]);
    let url = format!("{}/v1/models", server.address);
    let response = agent().get(&url).header("x-request-id", "mine-1").call().unwrap();
    assert_eq!(response.headers()["x-request-id"], "mine-1");
    assert_eq!(response.headers()["access-control-allow-origin"], "https://page.example");
    let response = agent().get(&url).call().unwrap();
    assert_eq!(response.headers()["x-request-id"].len(), 32);
}

/// A tiny model in which one token is no number.
fn with_broken_token(path: &Path, token: usize) {
    let whole = path.with_extension("whole");
    TinyModel { tied_output: false, ..TinyModel::default() }.write(&whole);
    let file = GgufFile::open(&whole).unwrap();
    let plans = file.tensors().iter().map(|tensor| TensorPlan {
        name: tensor.name.clone(),
        dimensions: tensor.dimensions.clone(),
        ggml_type: tensor.ggml_type,
    });
    let mut writer = GgufWriter::create(path, file.metadata(), plans.collect()).unwrap();
    for tensor in file.tensors() {
        let mut bytes = file.tensor_bytes(tensor).to_vec();
        if tensor.name == "token_embd.weight" {
            let row = bytes.len() / tensor.rows();
            bytes[token * row..(token + 1) * row].fill(0xFF);
        }
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn a_sequence_without_numbers_ends_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tiny.gguf");
    with_broken_token(&path, 77);
    let server = Serving::start_models(directory, &[path], &[]);
    let body = |prompt: &[u32]| {
        json!({"prompt": prompt, "max_tokens": 300, "temperature": 0, "ignore_eos": true,
               "logit_bias": {"77": -100}, "stream": true})
    };
    let mut sound = server.open(COMPLETIONS, &body(&[5, 6]));
    sound.read_exact(&mut [0; 16]).unwrap();
    let mut broken = body(&[5, 6, 77]);
    broken["stream"] = json!(false);
    let (status, answer) = server.post(COMPLETIONS, &broken);
    assert_eq!((status, &answer["error"]["type"]), (500, &json!("server_error")), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("not numbers"), "{answer}");
    let mut rest = String::new();
    while !rest.contains("[DONE]") {
        let mut bytes = [0; 4096];
        let count = sound.read(&mut bytes).unwrap();
        assert!(count > 0, "{rest}");
        rest += &String::from_utf8_lossy(&bytes[..count]);
    }
    assert!(rest.contains("\"finish_reason\":\"length\"") && !rest.contains("error"), "{rest}");
    let events = server.stream(COMPLETIONS, &body(&[5, 6]));
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "length");
}
