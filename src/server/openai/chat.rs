//! `/v1/chat/completions`: the assistant's next turn.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::log_probabilities::{self, Names};
use super::parameters::{MOST_LIKELIEST, Parameters};
use super::{new_id, now, usage};
use crate::engine::ChatMessage;
use crate::server::errors::{ApiError, json_response};
use crate::server::fields::{Fields, wrong};
use crate::server::generate::{
    Answer, Answering, End, NewToken, Piece, apply_template, begin, tokenize,
};
use crate::server::state::{Served, ServerState};
use crate::server::stream::{self, Events, Gone};

/// What all answers of a request have in common.
#[derive(Debug)]
struct Job {
    model: Arc<Served>,
    parameters: Parameters,
    /// Log-probabilities are told, with so many likeliest tokens.
    likeliest: Option<usize>,
    id: String,
    created: u64,
}

pub async fn answer(
    State(state): State<Arc<ServerState>>,
    mut fields: Fields,
) -> Result<Response, ApiError> {
    let model = Arc::clone(state.model(fields.text("model")?)?);
    let parameters = Parameters::read(&fields, &["max_completion_tokens", "max_tokens"])?;
    fields.refuse(&[("prompt_logprobs", &[]), ("echo", &[json!(false)])])?;
    let likeliest = likeliest(&fields)?;
    let add_generation_prompt =
        fields.get("add_generation_prompt").is_none() || fields.flag("add_generation_prompt")?;
    parameters.check_answers(1)?;
    let messages = read_messages(fields.take("messages"))?;
    let text = apply_template(&model, messages, add_generation_prompt).await?;
    let prompt = tokenize(&model, text, true, true).await?;
    let job = Job { model, parameters, likeliest, id: new_id("chatcmpl"), created: now() };
    let mut answers = Vec::with_capacity(job.parameters.answers);
    for number in 0..job.parameters.answers {
        let mut ask = job.parameters.ask(prompt.clone(), number);
        ask.log_probabilities = job.likeliest;
        answers.push(begin(&job.model, ask)?);
    }
    if job.parameters.is_streamed {
        let job = Arc::new(job);
        return Ok(stream::respond(|events| stream_all(job, answers, events)));
    }
    let (mut choices, mut ends) = (Vec::new(), Vec::new());
    for (index, answering) in answers.into_iter().enumerate() {
        let answer = answering.collect().await?;
        choices.push(job.choice(index, &answer));
        ends.push(answer.end);
    }
    let mut document = job.document("chat.completion", choices);
    document["usage"] = usage(&ends, job.parameters.answers);
    Ok(json_response(StatusCode::OK, &document))
}

/// `logprobs` says whether, `top_logprobs` how many.
fn likeliest(fields: &Fields) -> Result<Option<usize>, ApiError> {
    let count = fields.integer("top_logprobs", 0..=MOST_LIKELIEST)?;
    match (fields.flag("logprobs")?, count) {
        (true, count) => Ok(Some(count.unwrap_or(0) as usize)),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(ApiError::field("top_logprobs", "needs \"logprobs\": true")),
    }
}

/// Messages whose contents are texts, or lists of texts.
///
/// # Errors
/// 400 for anything else.
pub fn read_messages(value: Option<Value>) -> Result<Vec<ChatMessage>, ApiError> {
    let messages = match value {
        Some(Value::Array(messages)) if !messages.is_empty() => messages,
        Some(other) => return Err(wrong("messages", "a list of messages", &other)),
        None => return Err(ApiError::field("messages", "expected a list of messages")),
    };
    messages.iter().enumerate().map(|(index, message)| read_message(index, message)).collect()
}

fn read_message(index: usize, message: &Value) -> Result<ChatMessage, ApiError> {
    let field = |name: &str| format!("messages[{index}].{name}");
    let Some(fields) = message.as_object() else {
        return Err(wrong(&format!("messages[{index}]"), "an object", message));
    };
    for name in ["tool_calls", "function_call", "audio"] {
        if fields.get(name).is_some_and(|value| !value.is_null() && *value != json!([])) {
            return Err(ApiError::field(&field(name), "quantkit does not support it"));
        }
    }
    let role = match fields.get("role") {
        Some(Value::String(role)) => role.clone(),
        other => return Err(wrong(&field("role"), "a text", other.unwrap_or(&Value::Null))),
    };
    let content = match fields.get("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let texts = parts.iter().map(|part| match (&part["type"], &part["text"]) {
                (Value::String(kind), Value::String(text)) if kind == "text" => Ok(text.as_str()),
                (kind, _) => Err(wrong(&field("content"), "parts of type \"text\"", kind)),
            });
            texts.collect::<Result<Vec<_>, _>>()?.join("\n")
        }
        other => {
            let found = other.unwrap_or(&Value::Null);
            return Err(wrong(&field("content"), "a text or a list of text parts", found));
        }
    };
    Ok(ChatMessage { role, content })
}

impl Job {
    fn names(&self) -> Names<'_> {
        let are_numbers = self.parameters.names_numbers;
        Names { vocabulary: self.model.vocabulary(), are_numbers }
    }

    fn document(&self, object: &str, choices: Vec<Value>) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model.name,
            "choices": choices,
        })
    }

    fn log_probabilities(&self, tokens: &[NewToken]) -> Value {
        match self.likeliest {
            Some(_) => log_probabilities::chat(self.names(), tokens),
            None => Value::Null,
        }
    }

    fn choice(&self, index: usize, answer: &Answer) -> Value {
        let Answer { text, tokens, end, .. } = answer;
        let mut choice = json!({
            "index": index,
            "message": { "role": "assistant", "content": text, "refusal": null },
            "logprobs": self.log_probabilities(tokens),
            "finish_reason": end.reason.openai(),
        });
        if self.parameters.tells_numbers {
            let ids: Vec<u32> = tokens.iter().map(|token| token.token).collect();
            choice["token_ids"] = json!(ids);
        }
        choice
    }

    async fn send(
        &self,
        events: &Events,
        index: usize,
        delta: Value,
        logprobs: Value,
        finish: Value,
    ) -> Result<(), Gone> {
        let choice = json!({
            "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish,
        });
        let mut document = self.document("chat.completion.chunk", vec![choice]);
        if self.parameters.includes_usage {
            document["usage"] = Value::Null;
        }
        events.send(&document).await
    }

    /// Sends one answer's pieces.
    async fn stream(
        &self,
        index: usize,
        mut answering: Answering,
        events: &Events,
    ) -> Result<Option<End>, Gone> {
        let mut has_begun = false;
        while let Some(piece) = events.meanwhile(answering.next()).await? {
            match piece {
                Err(error) => {
                    events.fail(&error).await?;
                    return Ok(None);
                }
                Ok(Piece::Delta { text, tokens }) => {
                    self.open(events, index, &mut has_begun).await?;
                    let told = self.log_probabilities(&tokens);
                    let delta = json!({ "content": text });
                    self.send(events, index, delta, told, Value::Null).await?;
                }
                Ok(Piece::End(end)) => {
                    self.open(events, index, &mut has_begun).await?;
                    let finish = json!(end.reason.openai());
                    self.send(events, index, json!({}), Value::Null, finish).await?;
                    return Ok(Some(end));
                }
                Ok(_) => {}
            }
        }
        Ok(None)
    }

    /// The first piece says whose turn it is.
    async fn open(&self, events: &Events, index: usize, has_begun: &mut bool) -> Result<(), Gone> {
        if std::mem::replace(has_begun, true) {
            return Ok(());
        }
        let delta = json!({ "role": "assistant", "content": "" });
        self.send(events, index, delta, Value::Null, Value::Null).await
    }
}

/// Sends the pieces of all answers as they come.
async fn stream_all(job: Arc<Job>, answers: Vec<Answering>, events: Events) -> Result<(), Gone> {
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
    if job.parameters.includes_usage {
        let mut document = job.document("chat.completion.chunk", Vec::new());
        document["usage"] = usage(ends.iter().flatten(), job.parameters.answers);
        events.send(&document).await?;
    }
    events.done().await
}
