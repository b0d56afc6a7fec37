//! What the server and its models are.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};

use super::parameters::{OUTPUT, PARAMETERS, PROMPT};
use super::{Fault, Place, VERSION};
use crate::server::errors::json_response;
use crate::server::state::ServerState;

fn ok(document: &Value) -> Response {
    json_response(StatusCode::OK, document)
}

pub(super) async fn server() -> Response {
    let extensions =
        ["binary_tensor_data", "generate", "model_configuration", "model_repository", "statistics"];
    ok(&json!({
        "name": "quantkit",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": extensions,
    }))
}

pub(super) async fn server_is_ready(State(state): State<Arc<ServerState>>) -> StatusCode {
    if state.is_closing() { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
}

pub(super) async fn model_is_ready(
    State(state): State<Arc<ServerState>>,
    Path(place): Path<Place>,
) -> Result<StatusCode, Fault> {
    let model = place.find(&state)?;
    Ok(match model.service.status().is_closed {
        true => StatusCode::SERVICE_UNAVAILABLE,
        false => StatusCode::OK,
    })
}

pub(super) async fn model(
    State(state): State<Arc<ServerState>>,
    Path(place): Path<Place>,
) -> Result<Response, Fault> {
    let model = place.find(&state)?;
    let tensor = |(name, datatype): (&str, &str)| json!({ "name": name, "datatype": datatype, "shape": [-1] });
    let inputs: Vec<Value> =
        std::iter::once((PROMPT, "BYTES")).chain(PARAMETERS).map(tensor).collect();
    Ok(ok(&json!({
        "name": model.name,
        "versions": [VERSION],
        "platform": "quantkit",
        "inputs": inputs,
        "outputs": [tensor((OUTPUT, "BYTES"))],
    })))
}

pub(super) async fn configuration(
    State(state): State<Arc<ServerState>>,
    Path(place): Path<Place>,
) -> Result<Response, Fault> {
    let model = place.find(&state)?;
    let tensor = |(name, datatype): (&str, &str)| {
        let kind = if datatype == "BYTES" { "STRING" } else { datatype };
        json!({ "name": name, "data_type": format!("TYPE_{kind}"), "dims": [-1], "optional": name != PROMPT })
    };
    let inputs: Vec<Value> =
        std::iter::once((PROMPT, "BYTES")).chain(PARAMETERS).map(tensor).collect();
    Ok(ok(&json!({
        "name": model.name,
        "platform": "quantkit",
        "backend": "quantkit",
        // Texts come in one dimension, without one for the batch.
        "max_batch_size": 0,
        "input": inputs,
        "output": [{ "name": OUTPUT, "data_type": "TYPE_STRING", "dims": [-1] }],
    })))
}

pub(super) async fn statistics(
    State(state): State<Arc<ServerState>>,
    Path(place): Path<Place>,
) -> Result<Response, Fault> {
    let model = place.find(&state)?;
    Ok(ok(&json!({ "model_stats": [state.kserve.document(&model.name, VERSION)] })))
}

pub(super) async fn all_statistics(State(state): State<Arc<ServerState>>) -> Response {
    let all = state.models.iter().map(|model| state.kserve.document(&model.name, VERSION));
    ok(&json!({ "model_stats": all.collect::<Vec<_>>() }))
}

pub(super) async fn repository(State(state): State<Arc<ServerState>>) -> Response {
    let all = state.models.iter().map(|model| {
        let is_ready = !model.service.status().is_closed;
        json!({ "name": model.name, "version": VERSION, "state": if is_ready { "READY" } else { "UNAVAILABLE" } })
    });
    ok(&Value::Array(all.collect()))
}
