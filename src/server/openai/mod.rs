//! OpenAI's protocol: `/v1/models`, `/v1/completions`, `/v1/chat/completions`, and `/health`. Fields that
//! vLLM adds to it are understood where they concern log-probabilities and sampling.

pub(super) mod chat;
mod completions;
mod job;
mod log_probabilities;
pub(super) mod parameters;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::errors::{ApiError, json_response};
use super::state::{Served, ServerState};

/// The paths of this protocol.
pub fn routes() -> Router<Arc<ServerState>> {
    Router::new()
        .route("/health", get(health))
        .route("/v1/health", get(health))
        .route("/v1/models", get(models))
        .route("/v1/models/{name}", get(model))
        .route("/v1/completions", post(completions::answer))
        .route("/v1/chat/completions", post(chat::answer))
}

async fn health(State(state): State<Arc<ServerState>>) -> Result<Response, ApiError> {
    let is_over = |model: &Arc<Served>| model.service.status().is_closed;
    if state.is_closing() || state.models.iter().any(is_over) {
        return Err(ApiError::unavailable("the server is shutting down"));
    }
    Ok(json_response(StatusCode::OK, &json!({ "status": "ok" })))
}

/// The models that are served.
pub(super) async fn models(State(state): State<Arc<ServerState>>) -> Response {
    let list: Vec<Value> = state.models.iter().map(|model| listed(model, &state)).collect();
    json_response(StatusCode::OK, &json!({ "object": "list", "data": list }))
}

async fn model(
    State(state): State<Arc<ServerState>>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    match state.named(&name) {
        Some(model) => Ok(json_response(StatusCode::OK, &listed(model, &state))),
        None => Err(ApiError::not_found(format!("there is no model {name:?}"))),
    }
}

fn listed(model: &Served, state: &ServerState) -> Value {
    let facts = model.service.facts();
    json!({
        "id": model.name,
        "object": "model",
        "created": state.created,
        "owned_by": "quantkit",
        "max_model_len": facts.context,
        "meta": {
            "n_vocab": model.vocabulary().size,
            "n_ctx": facts.context,
            "n_ctx_train": facts.trained_context,
            "n_embd": model.about.hidden,
            "n_params": model.about.parameters,
            "size": model.about.bytes,
        },
    })
}
