//! llama-server's protocol: `/completion`, `/tokenize`, `/detokenize`, `/apply-template`, `/props`, `/slots`,
//! and OpenAI's paths under the names that it has for them. What quantkit does not do says so.

mod answers;
mod completion;
mod parameters;
mod probabilities;
mod prompts;
mod samplers;
mod server;
mod settings;
mod tokens;

use std::sync::Arc;

use axum::Router;
use axum::routing::{any, get, post};

use super::errors::ApiError;
use super::openai;
use super::state::ServerState;

/// Paths that llama-server has and quantkit does not, and why.
const MISSING: [(&str, &str); 22] = [
    ("/infill", NO_INFILL),
    ("/embedding", NO_EMBEDDINGS),
    ("/embeddings", NO_EMBEDDINGS),
    ("/v1/embeddings", NO_EMBEDDINGS),
    ("/rerank", NO_RERANKING),
    ("/reranking", NO_RERANKING),
    ("/v1/rerank", NO_RERANKING),
    ("/v1/reranking", NO_RERANKING),
    ("/lora-adapters", NO_ADAPTERS),
    ("/slots/{id}", NO_SLOT_FILES),
    ("/v1/messages", NO_PROTOCOL),
    ("/v1/messages/count_tokens", NO_PROTOCOL),
    ("/v1/responses", NO_PROTOCOL),
    ("/responses", NO_PROTOCOL),
    ("/v1/audio/transcriptions", NO_MEDIA),
    ("/models/load", NO_LOADING),
    ("/models/unload", NO_LOADING),
    ("/v1/stream", NO_RESUMING),
    ("/tools", NO_TOOLS),
    ("/cors-proxy", NO_TOOLS),
    ("/api/chat", NO_PROTOCOL),
    ("/api/tags", NO_PROTOCOL),
];

const NO_INFILL: &str =
    "quantkit does not fill in: send the prompt in the model's own format to /completion";
const NO_EMBEDDINGS: &str =
    "quantkit gives no embeddings: serve them with llama-server --embeddings";
const NO_RERANKING: &str = "quantkit does not rerank: do it with llama-server --reranking";
const NO_ADAPTERS: &str =
    "quantkit has no LoRA adapters: merge the adapter into the checkpoint and convert that";
const NO_SLOT_FILES: &str =
    "quantkit does not save, restore or erase slots: leave the cache to the server";
const NO_PROTOCOL: &str = "quantkit does not speak this protocol: use /v1/chat/completions";
const NO_MEDIA: &str = "quantkit takes neither sound nor pictures: send text";
const NO_LOADING: &str =
    "quantkit loads its models when it starts: name them all in quantkit serve";
const NO_RESUMING: &str = "quantkit does not resume streams: send the request again";
const NO_TOOLS: &str = "quantkit runs no tools: run them in the client";

/// The paths of this protocol.
pub fn routes() -> Router<Arc<ServerState>> {
    let router = Router::new()
        .route("/completion", post(completion::answer))
        .route("/completions", post(completion::answer))
        .route("/chat/completions", post(openai::chat::answer))
        .route("/chat/completions/input_tokens", post(tokens::count))
        .route("/v1/chat/completions/input_tokens", post(tokens::count))
        .route("/models", get(openai::models))
        .route("/tokenize", post(tokens::tokenize))
        .route("/detokenize", post(tokens::detokenize))
        .route("/apply-template", post(tokens::apply_template))
        .route("/props", get(server::properties).post(server::change_properties))
        .route("/slots", get(server::slots));
    MISSING.iter().fold(router, |router, &(path, why)| {
        router.route(path, any(move || async move { ApiError::not_implemented(why) }))
    })
}
