//! Requests to a server, sent again where what failed may pass.

use std::thread;
use std::time::Duration;

use serde_json::Value;
use ureq::Agent;

use super::options::EndpointOptions;
use crate::support::http::agent;
use crate::support::interrupt;
use crate::support::redact::shown;

/// The wait before the first retry; it doubles with each further one, up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Answers are no larger than this.
const LARGEST_ANSWER: u64 = 256 << 20;

/// How much of an answer that is no success an error message repeats.
const SHOWN_CHARACTERS: usize = 300;

/// Why a request got no answer that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::eval) enum Refusal {
    /// The server says that the text is longer than its context.
    TooLong(String),
    /// Anything else.
    Failed(String),
}

/// A server and how patient to be with it.
#[derive(Debug)]
pub(in crate::eval) struct Client {
    agent: Agent,
    base: String,
    api_key: Option<String>,
    retries: u32,
}

/// An answer with a status, whatever it is.
#[derive(Debug)]
struct Answer {
    status: u16,
    retry_after: Option<Duration>,
    text: String,
}

impl Client {
    pub fn new(options: &EndpointOptions) -> Self {
        let base = options.url.trim().trim_end_matches('/');
        Self {
            agent: agent(options.timeout),
            base: base.strip_suffix("/v1").unwrap_or(base).to_string(),
            api_key: options.api_key.clone(),
            retries: options.retries,
        }
    }

    /// The server's address, without a password.
    pub fn address(&self) -> String {
        shown(&self.base)
    }

    /// The name of the first model that the server lists.
    pub fn only_model(&self) -> Result<String, String> {
        let url = format!("{}/v1/models", self.base);
        let advice = "name the model with --endpoint-model";
        let answer = self.answer("/v1/models", None).map_err(|error| match error {
            Refusal::Failed(error) | Refusal::TooLong(error) => error,
        })?;
        let name = answer["data"][0]["id"].as_str();
        name.map(str::to_string).ok_or(format!("{}: lists no model; {advice}", shown(&url)))
    }

    /// Posts a document to a path and returns the one that comes back.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, Refusal> {
        self.answer(path, Some(body))
    }

    fn answer(&self, path: &str, body: Option<&Value>) -> Result<Value, Refusal> {
        let url = format!("{}{path}", self.base);
        let failed = |problem: String| Refusal::Failed(format!("{}: {problem}", shown(&url)));
        let mut attempt = 0;
        loop {
            let (problem, wait) = match self.send(&url, body) {
                Ok(answer) if (200..300).contains(&answer.status) => {
                    return serde_json::from_str(&answer.text)
                        .map_err(|error| failed(format!("the answer is no JSON: {error}")));
                }
                Ok(answer) if is_transient(answer.status) => {
                    (status_text(&answer), answer.retry_after)
                }
                Ok(answer) => return Err(refusal(&answer, failed)),
                Err(error) => (error, None),
            };
            if attempt == self.retries {
                let again =
                    if attempt == 0 { String::new() } else { format!(", {attempt} times again") };
                return Err(failed(format!("{problem} (asked once{again})")));
            }
            tracing::info!("{}: {problem}; asking again", shown(&url));
            let own = (FIRST_WAIT * 2u32.saturating_pow(attempt)).min(LONGEST_WAIT);
            pause(wait.unwrap_or(own).min(LONGEST_WAIT)).map_err(failed)?;
            attempt += 1;
        }
    }

    fn send(&self, url: &str, body: Option<&Value>) -> Result<Answer, String> {
        interrupt::check().map_err(|error| error.to_string())?;
        let authorization = self.api_key.as_ref().map(|key| format!("Bearer {key}"));
        let sent = match body {
            Some(body) => {
                let mut request = self.agent.post(url);
                if let Some(value) = &authorization {
                    request = request.header("authorization", value);
                }
                request.send_json(body)
            }
            None => {
                let mut request = self.agent.get(url);
                if let Some(value) = &authorization {
                    request = request.header("authorization", value);
                }
                request.call()
            }
        };
        let mut answer =
            sent.map_err(|error| format!("cannot be reached: {}", shown(&error.to_string())))?;
        let retry_after = answer.headers().get("retry-after");
        let retry_after = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let text = answer.body_mut().with_config().limit(LARGEST_ANSWER).read_to_string();
        Ok(Answer {
            status: answer.status().as_u16(),
            retry_after: retry_after.map(Duration::from_secs),
            text: text.map_err(|error| format!("the answer broke off: {error}"))?,
        })
    }
}

/// Whether the same request may succeed a moment later.
fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

fn status_text(answer: &Answer) -> String {
    let said: String = answer.text.trim().chars().take(SHOWN_CHARACTERS).collect();
    format!("status {}: {said}", answer.status)
}

fn refusal(answer: &Answer, failed: impl Fn(String) -> Refusal) -> Refusal {
    let text = status_text(answer);
    match answer.status {
        401 | 403 => failed(format!("{text} (the key is taken from OPENAI_API_KEY)")),
        // How vLLM, SGLang and llama-server word it.
        400 | 413 | 422 if text.to_ascii_lowercase().contains("context") => Refusal::TooLong(text),
        _ => failed(text),
    }
}

/// Waits, and ends early when a stop is asked for.
fn pause(time: Duration) -> Result<(), String> {
    let step = Duration::from_millis(50);
    let mut left = time;
    while left > Duration::ZERO {
        interrupt::check().map_err(|error| error.to_string())?;
        let now = left.min(step);
        thread::sleep(now);
        left -= now;
    }
    Ok(())
}
