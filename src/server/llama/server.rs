//! `/props` and `/slots`: what the server is, and what it does.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::parameters::Parameters;
use super::settings;
use crate::engine::Slot;
use crate::server::errors::{ApiError, json_response};
use crate::server::fields::Fields;
use crate::server::state::{FINGERPRINT, ServerState};

pub async fn properties(
    State(state): State<Arc<ServerState>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let model = state.model(in_query(query.as_deref(), "model"))?;
    let (facts, vocabulary) = (model.service.facts(), model.vocabulary());
    let parameters = Parameters::read(&Fields::default(), model, &state.options.sampling).await?;
    let mut defaults = settings::document(&parameters, model.default_new_tokens);
    if state.options.sampling.seed.is_none() {
        defaults["seed"] = json!(u32::MAX);
    }
    let piece = |token: Option<u32>| token.and_then(|token| vocabulary.piece(token)).unwrap_or("");
    let document = json!({
        "default_generation_settings": { "params": defaults, "n_ctx": facts.context },
        "total_slots": facts.max_batch,
        "model_alias": model.name,
        "model_path": model.path.display().to_string(),
        "modalities": { "vision": false, "video": false, "audio": false },
        "endpoint_slots": state.options.shows_slots,
        "endpoint_props": false,
        "chat_template": vocabulary.chat_template.as_deref().unwrap_or(""),
        "bos_token": piece(vocabulary.bos),
        "eos_token": piece(vocabulary.eos),
        "build_info": FINGERPRINT,
        "is_sleeping": false,
    });
    Ok(json_response(StatusCode::OK, &document))
}

pub async fn change_properties() -> ApiError {
    ApiError::not_implemented("the server's properties cannot be changed: start it with others")
}

/// The slots of a model. Those that run come first; `?fail_on_no_slot=1` makes it 503 if none is idle.
pub async fn slots(
    State(state): State<Arc<ServerState>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    if !state.options.shows_slots {
        let message = "the server was started with --no-slots: start it without to see its slots";
        return Err(ApiError::not_implemented(message));
    }
    let query = query.as_deref();
    let model = state.model(in_query(query, "model"))?;
    let (facts, status) = (model.service.facts(), model.service.status());
    let must_be_idle = in_query(query, "fail_on_no_slot").is_some_and(|value| value != "0");
    if must_be_idle && status.slots.len() >= facts.max_batch {
        return Err(ApiError::unavailable("no slot is idle"));
    }
    let slots: Vec<Value> = (0..facts.max_batch)
        .map(|index| slot(index, facts.context, status.slots.get(index)))
        .collect();
    Ok(json_response(StatusCode::OK, &slots))
}

fn slot(index: usize, context: usize, running: Option<&Slot>) -> Value {
    let mut document = json!({
        "id": index,
        "n_ctx": context,
        "speculative": false,
        "is_processing": running.is_some(),
    });
    if let Some(running) = running {
        document["id_task"] = json!(running.id);
        document["n_prompt_tokens"] = json!(running.prompt_tokens);
        document["n_prompt_tokens_processed"] =
            json!(running.prompt_done.saturating_sub(running.cached_tokens));
        document["n_prompt_tokens_cache"] = json!(running.cached_tokens);
        let remaining = running.max_new_tokens.saturating_sub(running.generated);
        document["next_token"] = json!([{
            "has_next_token": remaining > 0,
            "n_remain": remaining,
            "n_decoded": running.generated,
        }]);
    }
    document
}

/// The value of a name in a query. Names and values here are plain words.
fn in_query<'a>(query: Option<&'a str>, name: &str) -> Option<&'a str> {
    let pairs = query?.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}
