//! A server of completions on this machine whose model is a hash of what comes before a token. It has
//! faults, and mishaps befall it, where it is told to.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::http_server::{Request, accept, bind, read_request, respond};

/// The number of the token that begins every text at a [`Kind::Llama`].
const BEGIN: u64 = 1;

/// The numbers of tokens that are parts of a character.
const PARTS: Range<u64> = 2_000_000..4_000_000;

/// What the server understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `echo`, with names alone; refuses fields that it does not know.
    Echo,
    /// `echo`, with names and numbers.
    Numbered,
    /// `echo`, with names or numbers; tokens that are no text by themselves have an empty name.
    NamesOrNumbers,
    PromptLogprobs,
    Llama,
    /// Completions, but no log-probabilities.
    Mute,
}

/// What is wrong with the answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Zeros,
    Positive,
    /// Only the first six tokens.
    Truncates,
    /// Without the last word.
    Strips,
    OtherText,
    /// Other tokens.
    Mismatch,
    /// The answer to the request before.
    Swap,
    /// Only the tail.
    Cached,
    /// `usage` counts a token less.
    UsageTooSmall,
    /// Neither `usage` nor a generated token.
    NeitherUsageNorMore,
}

/// What happens to a request in place of an answer.
#[derive(Debug, Clone, Copy)]
pub enum Mishap {
    /// None: it is answered.
    Nothing,
    Status(u16),
    Hangup,
    Silence(Duration),
    /// Success, with this text.
    Text(&'static str),
    /// An answer that comes byte by byte, without an end.
    Drip,
    /// An answer of so many bytes.
    Flood(usize),
    /// Status 401, with the key that was sent.
    RepeatedKey,
}

/// Tokens are words with the space after them; a character that is not ASCII is two.
#[derive(Clone)]
pub struct ModelServer {
    pub address: String,
    kind: Kind,
    pub requests: Arc<AtomicUsize>,
    in_flight: Arc<AtomicUsize>,
    pub most_in_flight: Arc<AtomicUsize>,
    /// What happens to the next requests, the last one first.
    pub mishaps: Arc<Mutex<Vec<Mishap>>>,
    /// Requests from this one on are refused.
    pub refuse_from: Arc<AtomicUsize>,
    /// A fault, and what a text must have in it for its answer to have it.
    fault: Option<(Fault, &'static str)>,
    before: Arc<Mutex<String>>,
}

impl ModelServer {
    pub fn start(kind: Kind) -> Self {
        Self::start_with(kind, None)
    }

    /// Starts a server with a fault in its answers about texts with these words.
    pub fn faulty(kind: Kind, fault: Fault, words: &'static str) -> Self {
        Self::start_with(kind, Some((fault, words)))
    }

    fn start_with(kind: Kind, fault: Option<(Fault, &'static str)>) -> Self {
        let (listener, address) = bind();
        let server = Self {
            address,
            kind,
            requests: Arc::default(),
            in_flight: Arc::default(),
            most_in_flight: Arc::default(),
            mishaps: Arc::default(),
            refuse_from: Arc::new(AtomicUsize::new(usize::MAX)),
            fault,
            before: Arc::default(),
        };
        let serving = server.clone();
        accept(listener, move |stream| serving.serve(stream));
        server
    }

    fn serve(&self, stream: &TcpStream) -> Option<()> {
        let request = read_request(stream)?;
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_in_flight.fetch_max(now, Ordering::SeqCst);
        let number = self.requests.fetch_add(1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(2));
        let mishap = self.mishaps.lock().unwrap().pop();
        let answer = match mishap {
            _ if number >= self.refuse_from.load(Ordering::SeqCst) => {
                Some((404, json!({"error": "the model was unloaded"}).to_string()))
            }
            Some(mishap) if !matches!(mishap, Mishap::Nothing) => {
                self.befall(mishap, stream, &request)
            }
            _ => {
                let body = serde_json::from_slice(&request.body).unwrap_or_default();
                let (status, answer) = self.answer(&request.target, &body);
                Some((status, answer.to_string()))
            }
        };
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        let (status, text) = answer?;
        respond(stream, status, &[] as &[(&str, String)], text.as_bytes(), text.len())
    }

    fn befall(
        &self,
        mishap: Mishap,
        mut stream: &TcpStream,
        request: &Request,
    ) -> Option<(u16, String)> {
        match mishap {
            Mishap::Nothing => None,
            Mishap::Status(status) => Some((status, json!({"error": "busy"}).to_string())),
            Mishap::Hangup => {
                stream.shutdown(Shutdown::Both).ok()?;
                None
            }
            Mishap::Silence(time) => {
                thread::sleep(time);
                Some((200, "{}".to_string()))
            }
            Mishap::Text(text) => Some((200, text.to_string())),
            Mishap::Drip => {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n").ok()?;
                while stream.write_all(b" ").is_ok() {
                    thread::sleep(Duration::from_millis(50));
                }
                None
            }
            Mishap::Flood(bytes) => Some((200, " ".repeat(bytes))),
            Mishap::RepeatedKey => {
                let key = request.header("authorization").unwrap_or_default();
                Some((401, format!("no such key: {key}")))
            }
        }
    }

    fn answer(&self, path: &str, body: &Value) -> (u16, Value) {
        match (path, self.kind) {
            ("/v1/models", _) => (200, json!({"data": [{"id": "hash-1"}]})),
            ("/v1/completions", Kind::Llama) if body["echo"] == true => {
                (400, json!({"error": {"message": "Only no echo is supported"}}))
            }
            ("/v1/completions", Kind::Echo) if body["return_token_ids"] == true => {
                (400, json!({"error": {"message": "Extra inputs are not permitted"}}))
            }
            ("/v1/completions", _) => {
                assert_eq!(body["model"], "hash-1");
                let text = body["prompt"].as_str().unwrap();
                if text.len() > 400 {
                    let message = "This model's maximum context length is 400 bytes";
                    return (400, json!({"error": {"message": message}}));
                }
                (200, self.completion(body, text))
            }
            ("/tokenize", Kind::Llama) => {
                assert_eq!(body["with_pieces"], true);
                let text = body["content"].as_str().unwrap();
                let begin = json!({"id": BEGIN, "piece": "<s>"});
                let pieces = pieces(text);
                let pieces = pieces.iter().map(|piece| match str::from_utf8(piece) {
                    Ok(text) => json!({"id": number(piece), "piece": text}),
                    Err(_) => json!({"id": number(piece), "piece": piece}),
                });
                let tokens: Vec<Value> = [begin].into_iter().chain(pieces).collect();
                (200, json!({"tokens": tokens}))
            }
            ("/completion", Kind::Llama) => (200, self.forced(body)),
            _ => (404, json!({"error": "no such path"})),
        }
    }

    fn forced(&self, body: &Value) -> Value {
        let prompt = body["prompt"].as_array().unwrap();
        let prompt: Vec<u64> = prompt.iter().map(|token| token.as_u64().unwrap()).collect();
        assert_eq!(prompt[0], BEGIN);
        let token = body["logit_bias"][0][0].as_u64().unwrap();
        if PARTS.contains(&token) {
            return json!({"content": ""});
        }
        let told = match self.fault {
            Some((Fault::Zeros, _)) => 0.0,
            _ => log_probability(&prompt[1..], token),
        };
        json!({"completion_probabilities": [{"id": token, "logprob": told}]})
    }

    fn completion(&self, body: &Value, text: &str) -> Value {
        let fault = self.fault.filter(|(_, words)| text.contains(words)).map(|(fault, _)| fault);
        let before = std::mem::replace(&mut *self.before.lock().unwrap(), text.to_string());
        let text = match fault {
            Some(Fault::OtherText) => "Something else entirely",
            Some(Fault::Strips) => text.rsplit_once(' ').unwrap().0,
            Some(Fault::Swap) if !before.is_empty() => &before,
            _ => text,
        };
        let pieces = pieces(text);
        let mut names: Vec<String> = match self.kind {
            _ if body["return_tokens_as_token_ids"] == true
                && self.kind == Kind::NamesOrNumbers =>
            {
                pieces.iter().map(|piece| format!("token_id:{}", number(piece))).collect()
            }
            Kind::NamesOrNumbers => late_names(&pieces),
            _ => pieces.iter().map(|piece| String::from_utf8_lossy(piece).into_owned()).collect(),
        };
        let mut ids: Vec<u64> = pieces.iter().map(|piece| number(piece)).collect();
        let mut values = log_probabilities(text);
        match fault {
            Some(Fault::Zeros) => values.fill(Some(0.0)),
            Some(Fault::Positive) => values.iter_mut().flatten().for_each(|value| *value = -*value),
            Some(Fault::Mismatch) => {
                names = (0..names.len()).map(|index| format!("zz{index}")).collect();
            }
            Some(Fault::Truncates) => {
                names.truncate(6);
                values.truncate(6);
                ids.truncate(6);
            }
            Some(Fault::Cached) => {
                let half = names.len() / 2;
                (names, values, ids) =
                    (names.split_off(half), values.split_off(half), ids.split_off(half));
            }
            _ => {}
        }
        let mut count = names.len();
        let mut choice = json!({"text": " and"});
        match self.kind {
            Kind::PromptLogprobs if body["prompt_logprobs"] == 0 => {
                let told = ids.iter().zip(&names).zip(&values).map(|((id, name), value)| {
                    let told = json!({"logprob": value, "rank": 1, "decoded_token": name});
                    value.map(|_| json!({id.to_string(): told}))
                });
                choice["prompt_logprobs"] = told.collect();
            }
            Kind::Echo | Kind::Numbered | Kind::NamesOrNumbers if body["echo"] == true => {
                assert_eq!(body["logprobs"], 1);
                if fault != Some(Fault::NeitherUsageNorMore) {
                    names.push(" and".to_string());
                    values.push(Some(-0.5));
                }
                choice["logprobs"] = json!({"tokens": names, "token_logprobs": values});
                if self.kind == Kind::Numbered && body["return_token_ids"] == true {
                    choice["prompt_token_ids"] = json!(ids);
                }
            }
            _ => choice["logprobs"] = json!({"tokens": [" and"], "token_logprobs": [-0.5]}),
        }
        if fault == Some(Fault::UsageTooSmall) {
            count -= 1;
        }
        let usage = json!({"prompt_tokens": count, "completion_tokens": 1});
        match fault {
            Some(Fault::NeitherUsageNorMore) => json!({"choices": [choice]}),
            _ => json!({"choices": [choice], "usage": usage}),
        }
    }
}

/// The tokens of a text, as bytes.
pub fn pieces(text: &str) -> Vec<Vec<u8>> {
    let mut pieces: Vec<Vec<u8>> = vec![Vec::new()];
    for character in text.chars() {
        let spelt = character.to_string();
        let last = pieces.last_mut().unwrap();
        if character.is_ascii() {
            last.extend(spelt.bytes());
            if character.is_whitespace() {
                pieces.push(Vec::new());
            }
        } else {
            let (first, rest) = spelt.as_bytes().split_at(2);
            pieces.extend([first.to_vec(), rest.to_vec(), Vec::new()]);
        }
    }
    pieces.retain(|piece| !piece.is_empty());
    pieces
}

/// Names in which a character is with the last of its tokens.
fn late_names(pieces: &[Vec<u8>]) -> Vec<String> {
    let mut pending = Vec::new();
    let name = |piece: &Vec<u8>| {
        pending.extend(piece);
        match String::from_utf8(pending.clone()) {
            Ok(text) => {
                pending.clear();
                text
            }
            Err(_) => String::new(),
        }
    };
    pieces.iter().map(name).collect()
}

fn number(piece: &[u8]) -> u64 {
    let hash = piece.iter().fold(7, |hash: u64, &byte| (hash * 131 + u64::from(byte)) % 1_000_003);
    // Parts of characters have numbers of their own.
    if str::from_utf8(piece).is_ok() { 10 + hash } else { PARTS.start + hash }
}

fn log_probability(before: &[u64], token: u64) -> f64 {
    let hash = before.iter().fold(token, |hash, &t| (hash * 31 + t) % 999_983);
    -((hash % 997) as f64) / 100.0
}

/// Of each token of a text; `None` for the first.
pub fn log_probabilities(text: &str) -> Vec<Option<f64>> {
    let numbers: Vec<u64> = pieces(text).iter().map(|piece| number(piece)).collect();
    (0..numbers.len())
        .map(|index| (index > 0).then(|| log_probability(&numbers[..index], numbers[index])))
        .collect()
}
