//! `/v1/chat/completions`: the assistant's next turn.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Value, json};

use super::job::{Common, Job, respond};
use super::log_probabilities;
use super::parameters::Parameters;
use crate::engine::ChatMessage;
use crate::server::errors::ApiError;
use crate::server::fields::{Fields, wrong};
use crate::server::generate::{
    Answer, Answering, End, MOST_LIKELIEST, NewToken, Piece, apply_template, begin, tokenize,
};
use crate::server::state::{Served, ServerState};
use crate::server::stream::{Events, Gone};

/// A request for the assistant's turn.
#[derive(Debug)]
struct Turn {
    common: Common,
    /// The prompt, if it is to be told.
    prompt: Option<String>,
}

pub async fn answer(
    State(state): State<Arc<ServerState>>,
    mut fields: Fields,
) -> Result<Response, ApiError> {
    let model = Arc::clone(state.model(fields.text("model")?)?);
    let parameters = Parameters::read(
        &fields,
        &["max_completion_tokens", "max_tokens"],
        &state.options.sampling,
    )?;
    fields.refuse(&[("prompt_logprobs", &[]), ("echo", &[json!(false)])])?;
    let likeliest = likeliest(&fields)?;
    parameters.check_answers(1)?;
    let text = read_prompt(&model, &mut fields).await?;
    let told = parameters.tells_prompt.then(|| text.clone());
    let prompt = tokenize(&model, text, true, true).await?;
    let common = Common::new(model, parameters, likeliest, "chatcmpl");
    let mut answers = Vec::with_capacity(common.parameters.answers);
    for number in 0..common.parameters.answers {
        let mut ask = common.parameters.ask(prompt.clone(), number);
        ask.log_probabilities = common.likeliest;
        answers.push(begin(&common.model, ask)?);
    }
    respond(Turn { common, prompt: told }, answers).await
}

/// The conversation in the model's own format, with the opening of the assistant's turn. With
/// `continue_final_message` it ends in the middle of the last message instead, which the answer goes on.
///
/// # Errors
/// 400 for messages that cannot be read, and for what the model's template refuses.
pub async fn read_prompt(model: &Arc<Served>, fields: &mut Fields) -> Result<String, ApiError> {
    let continues = fields.flag("continue_final_message")?;
    let opens = fields.flag_or("add_generation_prompt", !continues)?;
    if continues && opens {
        let problem = "cannot be true together with add_generation_prompt";
        return Err(ApiError::field("continue_final_message", problem));
    }
    let messages = read_messages(fields.take("messages"))?;
    let last = messages.last().map_or(String::new(), |message| message.content.clone());
    let mut text = apply_template(model, messages, opens).await?;
    if continues {
        // Templates trim what they print.
        let last = if text.contains(&last) { last.as_str() } else { last.trim() };
        let Some(at) = text.rfind(last) else {
            let problem = "the model's template does not print the last message as it is";
            return Err(ApiError::field("continue_final_message", problem));
        };
        text.truncate(at + last.len());
    }
    Ok(text)
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

impl Turn {
    fn log_probabilities(&self, tokens: &[NewToken]) -> Value {
        match self.common.likeliest {
            Some(_) => log_probabilities::chat(self.common.names(), tokens),
            None => Value::Null,
        }
    }

    /// A piece of an answer.
    fn piece(index: usize, delta: Value, logprobs: Value, finish: Value) -> Value {
        json!({ "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish })
    }

    /// The first piece says whose turn it is.
    async fn open(&self, events: &Events, index: usize, has_begun: &mut bool) -> Result<(), Gone> {
        if std::mem::replace(has_begun, true) {
            return Ok(());
        }
        let delta = json!({ "role": "assistant", "content": null });
        let piece = Self::piece(index, delta, Value::Null, Value::Null);
        self.send_piece(events, piece, None).await
    }
}

impl Job for Turn {
    const WHOLE: &'static str = "chat.completion";
    const PIECE: &'static str = "chat.completion.chunk";

    fn common(&self) -> &Common {
        &self.common
    }

    fn details(&self) -> Option<Value> {
        Some(json!({ "prompt": self.prompt.as_ref()? }))
    }

    fn choice(&self, index: usize, answer: &Answer) -> Value {
        let Answer { text, tokens, end, .. } = answer;
        let mut choice = json!({
            "index": index,
            "message": { "role": "assistant", "content": text, "refusal": null },
            "logprobs": self.log_probabilities(tokens),
            "finish_reason": end.reason.openai(),
        });
        if self.common.parameters.tells_numbers {
            let ids: Vec<u32> = tokens.iter().map(|token| token.token).collect();
            choice["token_ids"] = json!(ids);
        }
        choice
    }

    async fn stream(
        &self,
        index: usize,
        mut answering: Answering,
        events: &Events,
    ) -> Result<Option<End>, Gone> {
        let mut has_begun = false;
        while let Some(piece) = events.meanwhile(answering.next()).await? {
            let taken = answering.taken();
            match piece {
                Err(error) => {
                    events.fail(&error).await?;
                    return Ok(None);
                }
                Ok(Piece::Delta { text, tokens }) => {
                    self.open(events, index, &mut has_begun).await?;
                    let told = self.log_probabilities(&tokens);
                    let delta = json!({ "content": text });
                    let piece = Self::piece(index, delta, told, Value::Null);
                    self.send_piece(events, piece, Some(&taken)).await?;
                }
                Ok(Piece::End(end)) => {
                    self.open(events, index, &mut has_begun).await?;
                    let finish = json!(end.reason.openai());
                    let piece = Self::piece(index, json!({}), Value::Null, finish);
                    self.send_piece(events, piece, Some(&taken)).await?;
                    return Ok(Some(end));
                }
                Ok(Piece::Started { cached_tokens: done } | Piece::Prompt { done, .. }) => {
                    if self.common.parameters.tells_progress {
                        let piece = Self::piece(index, json!({}), Value::Null, Value::Null);
                        self.send_progress(events, piece, done, &taken).await?;
                    }
                }
                Ok(Piece::PromptTokens(_)) => {}
            }
        }
        Ok(None)
    }
}
