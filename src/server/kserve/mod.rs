//! KServe's protocol of version 2, as Triton speaks it
//! (<https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol>), over HTTP, with
//! Triton's extensions for binary tensors, generation, statistics and the model repository.
//!
//! Every model takes texts in a tensor of type BYTES and gives texts. The input `text_input` is the prompt;
//! without one, the only BYTES input that is not a parameter is. Parameters are inputs of their own, or stand
//! in the request's `parameters`, or as JSON in `sampling_parameters`. The output is `text_output`, or has
//! the name that the request asks for.

mod generate;
mod infer;
mod metadata;
mod parameters;
pub(super) mod statistics;
mod tensors;

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use serde_json::json;

use super::errors::{ApiError, json_response};
use super::state::{Served, ServerState};

/// The only version of every model.
const VERSION: &str = "1";

const NO_SHARED_MEMORY: &str = "quantkit has no shared memory: send the tensors in the request";
const NO_LOADING: &str =
    "quantkit loads its models when it starts: name them all in quantkit serve";
const NO_SETTINGS: &str =
    "quantkit's traces and logs are set when it starts: see quantkit serve --help";

/// Paths that Triton has and quantkit does not, and why.
const MISSING: [(&str, &str); 6] = [
    ("/v2/systemsharedmemory/{*rest}", NO_SHARED_MEMORY),
    ("/v2/cudasharedmemory/{*rest}", NO_SHARED_MEMORY),
    ("/v2/repository/models/{name}/load", NO_LOADING),
    ("/v2/repository/models/{name}/unload", NO_LOADING),
    ("/v2/trace/setting", NO_SETTINGS),
    ("/v2/logging", NO_SETTINGS),
];

/// The paths of this protocol.
pub fn routes() -> Router<Arc<ServerState>> {
    let mut router = Router::new()
        .route("/v2", get(metadata::server))
        .route("/v2/health/live", get(|| async { StatusCode::OK }))
        .route("/v2/health/ready", get(metadata::server_is_ready))
        .route("/v2/models/stats", get(metadata::all_statistics))
        .route("/v2/repository/index", post(metadata::repository));
    for model in ["/v2/models/{name}", "/v2/models/{name}/versions/{version}"] {
        router = router
            .route(model, get(metadata::model))
            .route(&format!("{model}/ready"), get(metadata::model_is_ready))
            .route(&format!("{model}/config"), get(metadata::configuration))
            .route(&format!("{model}/stats"), get(metadata::statistics))
            .route(&format!("{model}/infer"), post(infer::answer))
            .route(&format!("{model}/generate"), post(generate::answer))
            .route(&format!("{model}/generate_stream"), post(generate::stream));
    }
    MISSING.iter().fold(router, |router, &(path, why)| {
        router.route(path, any(move || async move { Fault(ApiError::not_implemented(why)) }))
    })
}

/// A refusal in this protocol's shape.
#[derive(Debug)]
struct Fault(ApiError);

impl From<ApiError> for Fault {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let document = json!({ "error": self.0.message });
        let status = self.0.status;
        // For the headers that go with it.
        let (mut parts, _) = self.0.into_response().into_parts();
        parts.headers.remove("content-length");
        let (_, body) = json_response(status, &document).into_parts();
        Response::from_parts(parts, body)
    }
}

/// A model and a version in a path.
#[derive(Debug, serde::Deserialize)]
struct Place {
    name: String,
    version: Option<String>,
}

impl Place {
    /// The model.
    ///
    /// # Errors
    /// 404 if there is none of this name and version.
    fn find<'a>(&self, state: &'a ServerState) -> Result<&'a Arc<Served>, ApiError> {
        let unknown = |what: String| {
            let names: Vec<&str> = state.models.iter().map(|model| model.name.as_str()).collect();
            ApiError::not_found(format!("{what}; there are: {}", names.join(", ")))
        };
        match self.version.as_deref() {
            None | Some(VERSION) => state
                .named(&self.name)
                .ok_or_else(|| unknown(format!("there is no model {:?}", self.name))),
            Some(version) => {
                Err(unknown(format!("there is no version {version:?} of {:?}", self.name)))
            }
        }
    }
}
