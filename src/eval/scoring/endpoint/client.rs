//! Requests to a server, sent again where what failed may pass.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::http::Response;
use ureq::{Agent, Body};

use super::options::EndpointOptions;
use crate::support::http::agent;
use crate::support::interrupt::{self, Interrupted};
use crate::support::redact::shown;
use crate::support::retry::{Failure, Patience, loss_passes, retry, status_passes};

const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The most that an answer may take is this, plus so many bytes for each byte of the request: a token of
/// the text stands for at least one byte there, and takes fewer than these in the answer.
const LARGEST_ANSWER: u64 = 64 << 10;
const ANSWER_BYTES_A_BYTE: u64 = 512;

/// A list of models is no larger than this.
const LARGEST_LIST: u64 = 1 << 20;

/// How much of an unsuccessful answer an error message repeats.
pub(super) const SHOWN_CHARACTERS: usize = 300;

/// A key that is shorter is a placeholder, and could be part of any word.
const SHORTEST_KEY: usize = 4;

/// Why a request got no answer that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::eval) enum Refusal {
    /// The server cannot answer this very request: its text is too long, say.
    #[error("{0}")]
    Unscorable(String),
    /// An answer that cannot be one to this request.
    #[error("{0}")]
    Wrong(String),
    /// What came back is no answer.
    #[error("{0}")]
    Malformed(String),
    /// The server cannot be reached, or wants another key.
    #[error("{0}")]
    Unreachable(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
    /// Ctrl-C.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// A server and how patient to be with it.
#[derive(Debug)]
pub(in crate::eval) struct Client {
    agent: Agent,
    base: String,
    api_key: Option<String>,
    timeout: Duration,
    patience: Patience,
}

/// What is asked for: a document to post, and how large an answer may be.
struct Request<'a> {
    path: &'a str,
    body: Option<&'a [u8]>,
    largest: u64,
}

/// The answer of `/v1/models`.
#[derive(Deserialize)]
struct Models {
    #[serde(default)]
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

impl Client {
    pub fn new(options: &EndpointOptions) -> Self {
        let base = options.url.trim().trim_end_matches('/');
        Self {
            agent: agent(options.timeout),
            base: base.strip_suffix("/v1").unwrap_or(base).to_string(),
            api_key: options.api_key.clone(),
            timeout: options.timeout,
            patience: Patience {
                attempts: options.retries.saturating_add(1),
                first_wait: FIRST_WAIT,
                longest_wait: LONGEST_WAIT,
                stops: true,
            },
        }
    }

    /// The server's address, without a password.
    pub fn address(&self) -> String {
        shown(&self.base)
    }

    /// The name of the first model that the server lists.
    pub fn only_model(&self) -> Result<String, Refusal> {
        let request = Request { path: "/v1/models", body: None, largest: LARGEST_LIST };
        self.answer(&request, |models: Models| match models.data.into_iter().next() {
            Some(model) => Ok(model.id),
            None => Err(Refusal::Failed(format!(
                "{}: lists no model; name the model with --endpoint-model",
                self.shown(request.path)
            ))),
        })
    }

    /// Posts a document to a path and reads what comes back. A malformed answer is asked for once more.
    pub fn post<T: DeserializeOwned, R>(
        &self,
        path: &str,
        body: &Value,
        read: impl Fn(T) -> Result<R, Refusal>,
    ) -> Result<R, Refusal> {
        let body = body.to_string();
        let largest = LARGEST_ANSWER + ANSWER_BYTES_A_BYTE * body.len() as u64;
        self.answer(&Request { path, body: Some(body.as_bytes()), largest }, read)
    }

    fn answer<T: DeserializeOwned, R>(
        &self,
        request: &Request<'_>,
        read: impl Fn(T) -> Result<R, Refusal>,
    ) -> Result<R, Refusal> {
        let mut second_chance = true;
        retry(&self.patience, |attempt| {
            let answer = self.send(request, attempt).and_then(|body| {
                let answer = serde_json::from_slice(&body).map_err(|error| {
                    let url = self.shown(request.path);
                    Refusal::Malformed(format!("{url}: not the answer that was asked for: {error}"))
                });
                Ok(answer.and_then(&read)?)
            });
            answer.map_err(|failure| {
                // What fails after Ctrl-C may have failed because of it.
                if let Err(stop) = interrupt::check() {
                    return Failure::lasting(stop.into());
                }
                let again = second_chance && matches!(failure.error, Refusal::Malformed(_));
                second_chance &= !again;
                let (error, passes) = (self.without_key(failure.error), failure.passes || again);
                Failure { error, passes, ..failure }
            })
        })
    }

    /// The body of an answer with success.
    fn send(&self, request: &Request<'_>, attempt: u32) -> Result<Vec<u8>, Failure<Refusal>> {
        interrupt::check().map_err(Refusal::from)?;
        let url = self.shown(request.path);
        let tried = match attempt {
            1 => "asked once".to_string(),
            _ => format!("asked {attempt} times"),
        };
        let lost = |error| self.lost(&error, request, &tried);
        let mut answer = self.call(request).map_err(lost)?;
        let body = answer.body_mut().with_config().limit(request.largest).read_to_vec();
        let body = body.map_err(lost)?;
        let status = answer.status().as_u16();
        if (200..300).contains(&status) {
            return Ok(body);
        }
        let mut text = self.status_text(status, &String::from_utf8_lossy(&body));
        if status_passes(status) {
            text += &format!(" ({tried})");
        }
        Err(Failure::of_status(refusal(status, text, &url), status, answer.headers()))
    }

    fn call(&self, request: &Request<'_>) -> Result<Response<Body>, ureq::Error> {
        let url = format!("{}{}", self.base, request.path);
        let key = self.api_key.as_ref().map(|key| format!("Bearer {key}"));
        // The whole answer must come in time, not only its next byte.
        let timeout = Some(self.timeout);
        match request.body {
            Some(body) => {
                let mut request = self.agent.post(url).content_type("application/json");
                if let Some(key) = key {
                    request = request.header("authorization", key);
                }
                request.config().timeout_global(timeout).build().send(body)
            }
            None => {
                let mut request = self.agent.get(url);
                if let Some(key) = key {
                    request = request.header("authorization", key);
                }
                request.config().timeout_global(timeout).build().call()
            }
        }
    }

    /// A request that got no answer, or no whole one.
    fn lost(&self, error: &ureq::Error, request: &Request<'_>, tried: &str) -> Failure<Refusal> {
        let url = self.shown(request.path);
        let problem = match error {
            ureq::Error::BodyExceedsLimit(_) => {
                return Failure::lasting(Refusal::Malformed(format!(
                    "{url}: the answer is larger than {} bytes, which no answer to this request is",
                    request.largest
                )));
            }
            ureq::Error::Timeout(_) => {
                let seconds = self.timeout.as_secs();
                format!("no whole answer within {seconds} s (--timeout): {error}")
            }
            _ => format!("cannot be reached: {}", shown(&error.to_string())),
        };
        let refusal = Refusal::Unreachable(format!("{url}: {problem} ({tried})"));
        Failure { passes: loss_passes(error), ..Failure::lasting(refusal) }
    }

    fn status_text(&self, status: u16, text: &str) -> String {
        let said = self.redacted(text.trim());
        let said = said.chars().take(SHOWN_CHARACTERS);
        let said: String = said.map(|c| if c.is_control() { ' ' } else { c }).collect();
        format!("status {status}: {said}")
    }

    /// Text without the key that the server may repeat in it.
    fn redacted(&self, text: &str) -> String {
        match &self.api_key {
            Some(key) if key.len() >= SHORTEST_KEY => text.replace(key.as_str(), "[key]"),
            _ => text.to_string(),
        }
    }

    fn without_key(&self, refusal: Refusal) -> Refusal {
        match refusal {
            Refusal::Unscorable(text) => Refusal::Unscorable(self.redacted(&text)),
            Refusal::Wrong(text) => Refusal::Wrong(self.redacted(&text)),
            Refusal::Malformed(text) => Refusal::Malformed(self.redacted(&text)),
            Refusal::Unreachable(text) => Refusal::Unreachable(self.redacted(&text)),
            Refusal::Failed(text) => Refusal::Failed(self.redacted(&text)),
            Refusal::Interrupted(stop) => Refusal::Interrupted(stop),
        }
    }

    fn shown(&self, path: &str) -> String {
        shown(&format!("{}{path}", self.base))
    }
}

/// What an answer without success means.
fn refusal(status: u16, text: String, url: &str) -> Refusal {
    match status {
        401 | 403 => {
            Refusal::Unreachable(format!("{url}: {text} (the key is taken from OPENAI_API_KEY)"))
        }
        // How vLLM, SGLang and llama-server word it.
        400 | 413 | 422 if text.to_ascii_lowercase().contains("context") => {
            Refusal::Unscorable(text)
        }
        _ => Refusal::Failed(format!("{url}: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(key: &str) -> Client {
        Client::new(&EndpointOptions {
            url: "http://me:secret@host:8000/v1/".to_string(),
            model: None,
            api_key: Some(key.to_string()),
            concurrency: 1,
            timeout: Duration::from_secs(1),
            retries: 0,
        })
    }

    #[test]
    fn keys_and_passwords_are_not_repeated() {
        let client = client("sk-secret-1");
        assert_eq!(client.address(), "http://host:8000");
        // The key lies where the text is cut.
        let said = format!("{}\nBearer sk-secret-1 is\u{1b}[1m wrong", "x".repeat(290));
        let text = client.status_text(401, &said);
        assert!(text.ends_with("x Bearer [k"), "{text}");
        let wrong = client.without_key(Refusal::Wrong("token sk-secret-1".to_string()));
        assert_eq!(wrong, Refusal::Wrong("token [key]".to_string()));
    }

    #[test]
    fn a_placeholder_is_no_key() {
        assert_eq!(client("x").status_text(500, "next"), "status 500: next");
    }

    #[test]
    fn statuses_are_told_apart() {
        let of = |status, text: &str| refusal(status, text.to_string(), "http://host");
        assert!(matches!(of(403, "no"), Refusal::Unreachable(_)));
        assert!(matches!(of(400, "maximum Context length"), Refusal::Unscorable(_)));
        assert!(matches!(of(400, "no such field"), Refusal::Failed(_)));
        assert!(matches!(of(500, "context"), Refusal::Failed(_)));
    }
}
