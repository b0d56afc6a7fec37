//! `/tokenize`, `/detokenize`, `/apply-template`: text, tokens and messages, and no model.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::prompts::{Reading, read_tokens, token_number};
use crate::server::errors::{ApiError, json_response};
use crate::server::fields::{Fields, wrong};
use crate::server::generate;
use crate::server::openai::chat::read_prompt;
use crate::server::state::{Served, ServerState};
use crate::tokenizer::Vocabulary;

pub async fn tokenize(
    State(state): State<Arc<ServerState>>,
    mut fields: Fields,
) -> Result<Response, ApiError> {
    let model = state.model(fields.text("model")?)?;
    let reading = Reading {
        field: "content",
        add_bos: fields.flag("add_special")?,
        special: fields.flag_or("parse_special", true)?,
    };
    let with_pieces = fields.flag("with_pieces")?;
    let content = fields.take("content").unwrap_or(Value::Null);
    let vocabulary = Arc::clone(model.vocabulary());
    let document = generate::aside(move || {
        let tokens = read_tokens(&vocabulary, &content, reading)?;
        Ok(match with_pieces {
            false => json!({ "tokens": tokens }),
            true => {
                let piece = |&token: &u32| piece(&vocabulary, token);
                json!({ "tokens": tokens.iter().map(piece).collect::<Vec<_>>() })
            }
        })
    })
    .await?;
    Ok(json_response(StatusCode::OK, &document))
}

/// A token and its text, or its bytes where they are no text.
fn piece(vocabulary: &Vocabulary, token: u32) -> Value {
    let piece = match String::from_utf8(vocabulary.token_bytes(token)) {
        Ok(text) => json!(text),
        Err(error) => json!(error.into_bytes()),
    };
    json!({ "id": token, "piece": piece })
}

pub async fn detokenize(
    State(state): State<Arc<ServerState>>,
    fields: Fields,
) -> Result<Response, ApiError> {
    let model = state.model(fields.text("model")?)?;
    let expected = "a list of tokens' numbers";
    let list = match fields.get("tokens") {
        Some(Value::Array(list)) => list,
        other => return Err(wrong("tokens", expected, other.unwrap_or(&Value::Null))),
    };
    let number = |value| token_number("tokens", value, model.vocabulary().size);
    let tokens = list.iter().map(number).collect::<Result<Vec<u32>, _>>()?;
    let content = generate::detokenize(model.vocabulary(), &tokens, true);
    Ok(json_response(StatusCode::OK, &json!({ "content": content })))
}

pub async fn apply_template(
    State(state): State<Arc<ServerState>>,
    fields: Fields,
) -> Result<Response, ApiError> {
    let model = Arc::clone(state.model(fields.text("model")?)?);
    let prompt = rendered(&model, fields).await?;
    Ok(json_response(StatusCode::OK, &json!({ "prompt": prompt })))
}

/// How many tokens a conversation has.
pub async fn count(
    State(state): State<Arc<ServerState>>,
    fields: Fields,
) -> Result<Response, ApiError> {
    let model = Arc::clone(state.model(fields.text("model")?)?);
    let prompt = rendered(&model, fields).await?;
    let tokens = generate::tokenize(&model, prompt, true, true).await?;
    let document = json!({ "object": "response.input_tokens", "input_tokens": tokens.len() });
    Ok(json_response(StatusCode::OK, &document))
}

async fn rendered(model: &Arc<Served>, mut fields: Fields) -> Result<String, ApiError> {
    let is_empty = |value: &Value| matches!(value, Value::Array(list) if list.is_empty());
    if fields.get("tools").is_some_and(|tools| !is_empty(tools)) {
        let error = ApiError::not_implemented("tools: quantkit has no tools: leave them out");
        return Err(ApiError { field: Some("tools".to_string()), ..error });
    }
    fields.refuse(&[
        ("tool_choice", &[json!("none"), json!("auto")]),
        ("response_format", &[json!({ "type": "text" })]),
        ("chat_template", &[]),
        ("chat_template_kwargs", &[]),
        ("json_schema", &[]),
        ("grammar", &[]),
    ])?;
    read_prompt(model, &mut fields).await
}
