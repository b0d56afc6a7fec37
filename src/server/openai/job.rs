//! What completions and chats have in common: many answers to one request, whole or in pieces.

use std::sync::Arc;
use std::time::SystemTime;

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::log_probabilities::Names;
use super::parameters::Parameters;
use crate::server::access::new_name;
use crate::server::errors::{ApiError, json_response};
use crate::server::generate::{Answer, Answering, End};
use crate::server::state::{FINGERPRINT, Served};
use crate::server::stream::{self, Events, Gone};
use crate::server::timings::Taken;
use crate::support::calendar::unix_seconds;

/// What all answers of a request share.
#[derive(Debug)]
pub struct Common {
    pub model: Arc<Served>,
    pub parameters: Parameters,
    /// Log-probabilities are told, with this many likeliest tokens.
    pub likeliest: Option<usize>,
    id: String,
    created: u64,
}

impl Common {
    /// A request that begins now; its name begins with `kind`.
    pub fn new(
        model: Arc<Served>,
        parameters: Parameters,
        likeliest: Option<usize>,
        kind: &str,
    ) -> Self {
        let (id, created) = (format!("{kind}-{}", new_name()), unix_seconds(SystemTime::now()));
        Self { model, parameters, likeliest, id, created }
    }

    /// How its documents name tokens.
    pub fn names(&self) -> Names<'_> {
        let are_numbers = self.parameters.names_numbers;
        Names { vocabulary: self.model.vocabulary(), are_numbers }
    }

    /// A document of this kind.
    fn document(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model.name,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        })
    }
}

/// The answers of one path.
pub trait Job: Send + Sync + 'static {
    /// What a document with whole answers calls itself.
    const WHOLE: &'static str;
    /// What a document with a piece of an answer calls itself.
    const PIECE: &'static str;

    /// What its answers share.
    fn common(&self) -> &Common;

    /// `__verbose`: what is told of the work to those who ask.
    fn details(&self) -> Option<Value> {
        None
    }

    /// The document of one whole answer.
    fn choice(&self, index: usize, answer: &Answer) -> Value;

    /// Sends one answer's pieces; no end where it cannot go on.
    fn stream(
        &self,
        index: usize,
        answering: Answering,
        events: &Events,
    ) -> impl Future<Output = Result<Option<End>, Gone>> + Send;

    /// Sends one piece; `taken` is what the answer has taken so far.
    fn send_piece(
        &self,
        events: &Events,
        choice: Value,
        taken: Option<&Taken>,
    ) -> impl Future<Output = Result<(), Gone>> + Send {
        async move { events.send(&piece(self, choice, taken)).await }
    }

    /// Sends one piece that says how many tokens of the prompt are done.
    fn send_progress(
        &self,
        events: &Events,
        choice: Value,
        done: usize,
        taken: &Taken,
    ) -> impl Future<Output = Result<(), Gone>> + Send {
        async move {
            let mut document = piece(self, choice, Some(taken));
            document["prompt_progress"] = taken.progress(done);
            events.send(&document).await
        }
    }
}

fn piece<J: Job + ?Sized>(job: &J, choice: Value, taken: Option<&Taken>) -> Value {
    let parameters = &job.common().parameters;
    let mut document = job.common().document(J::PIECE, vec![choice]);
    if parameters.includes_usage {
        document["usage"] = Value::Null;
    }
    if let Some(taken) = taken.filter(|_| parameters.times_pieces) {
        document["timings"] = taken.document();
    }
    document
}

/// Answers a request, in pieces if it asks for them.
///
/// # Errors
/// 500 if an answer cannot go on.
pub async fn respond<J: Job>(job: J, answers: Vec<Answering>) -> Result<Response, ApiError> {
    if job.common().parameters.is_streamed {
        let job = Arc::new(job);
        return Ok(stream::respond(|events| stream_all(job, answers, events)));
    }
    let (mut choices, mut ends) = (Vec::new(), Vec::new());
    for (index, answering) in answers.into_iter().enumerate() {
        let answer = answering.collect().await?;
        choices.push(job.choice(index, &answer));
        ends.push(answer.end);
    }
    let document = with_usage(&job, J::WHOLE, choices, &ends);
    Ok(json_response(StatusCode::OK, &document))
}

/// Sends the pieces of all answers as they come.
async fn stream_all<J: Job>(
    job: Arc<J>,
    answers: Vec<Answering>,
    events: Events,
) -> Result<(), Gone> {
    let mut tasks = tokio::task::JoinSet::new();
    let count = answers.len();
    for (index, answering) in answers.into_iter().enumerate() {
        let (job, events) = (Arc::clone(&job), events.clone());
        tasks.spawn(async move { (index, job.stream(index, answering, &events).await) });
    }
    let mut ends: Vec<Option<End>> = vec![None; count];
    while let Some(Ok((index, end))) = tasks.join_next().await {
        ends[index] = end?;
    }
    if job.common().parameters.includes_usage {
        events.send(&with_usage(&*job, J::PIECE, Vec::new(), ends.iter().flatten())).await?;
    }
    events.done().await
}

/// A document that says what the answers took.
fn with_usage<'a, J: Job>(
    job: &J,
    object: &str,
    choices: Vec<Value>,
    ends: impl IntoIterator<Item = &'a End>,
) -> Value {
    let ends: Vec<&End> = ends.into_iter().collect();
    let mut document = job.common().document(object, choices);
    // llama-server's: those of the first answer.
    if let Some(&first) = ends.first() {
        document["timings"] = Taken::from(first).document();
    }
    if let Some(details) = job.details() {
        document["__verbose"] = details;
    }
    document["usage"] = usage(ends, job.common().parameters.answers);
    document
}

/// What answers took: one prompt per group of answers, however many there are.
fn usage<'a>(ends: impl IntoIterator<Item = &'a End>, per_prompt: usize) -> Value {
    let (mut prompt, mut cached, mut generated) = (0, 0, 0);
    for (index, end) in ends.into_iter().enumerate() {
        if index % per_prompt == 0 {
            prompt += end.prompt_tokens;
            cached += end.cached_tokens;
        }
        generated += end.generated;
    }
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": { "cached_tokens": cached },
    })
}
