//! `infer`: tensors in, tensors out.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::json;

use super::parameters::{self, OUTPUT, Wanted};
use super::tensors::{self, InferRequest, WantedOutput};
use super::{Fault, Place, VERSION};
use crate::server::errors::ApiError;
use crate::server::generate::begin;
use crate::server::limits::read_body;
use crate::server::state::{Served, ServerState};

pub(super) async fn answer(
    State(state): State<Arc<ServerState>>,
    Path(place): Path<Place>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Fault> {
    let model = Arc::clone(place.find(&state)?);
    let body = read_body(body, state.options.largest_body, state.options.timeout).await?;
    let (mut request, inputs) = tensors::read(&headers, &body)?;
    let name = output_name(&request.outputs)?;
    let binary = is_binary(&mut request)?;
    let (shape, wanted) = parameters::read(inputs, &request.parameters, &state.options.sampling)?;
    if wanted.iter().any(|wanted| wanted.is_streamed) {
        let problem = "infer answers as a whole: use generate_stream";
        return Err(ApiError::field("stream", problem).into());
    }
    let texts = answer_all(&state, &model, &wanted).await?;
    let mut document = json!({ "model_name": model.name, "model_version": VERSION });
    if let Some(id) = request.id {
        document["id"] = json!(id);
    }
    Ok(tensors::write(document, &name, &shape, &texts, binary))
}

/// The output's name.
fn output_name(outputs: &[WantedOutput]) -> Result<String, ApiError> {
    match outputs {
        [] => Ok(OUTPUT.to_string()),
        [only] => Ok(only.name.clone()),
        [_, second, ..] => Err(ApiError::bad_request(format!(
            "there is one output, the text: leave out {:?}",
            second.name
        ))),
    }
}

/// Whether the output is wanted as bytes.
fn is_binary(request: &mut InferRequest) -> Result<bool, ApiError> {
    let flag = |value: serde_json::Value| {
        let expected = || ApiError::field("binary_data", "expected true or false");
        value.as_bool().ok_or_else(expected)
    };
    let of_all = request.parameters.remove("binary_data_output").map(flag).transpose()?;
    let Some(output) = request.outputs.first_mut() else { return Ok(of_all.unwrap_or(false)) };
    let own = output.parameters.remove("binary_data").map(flag).transpose()?;
    if let Some(name) = output.parameters.keys().next() {
        return Err(ApiError::field(name, "quantkit does not support it: leave it out"));
    }
    Ok(own.or(of_all).unwrap_or(false))
}

/// The texts, in the order of the prompts, which are computed together.
pub(super) async fn answer_all(
    state: &ServerState,
    model: &Arc<Served>,
    wanted: &[Wanted],
) -> Result<Vec<String>, ApiError> {
    let started = Instant::now();
    let mut begun = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        begun.push(begin(model, wanted.ask(model).await?)?);
    }
    let mut texts = Vec::with_capacity(wanted.len());
    for (answering, wanted) in begun.into_iter().zip(wanted) {
        let answer = answering.collect().await;
        state.kserve.count(
            &model.name,
            started,
            answer.as_ref().ok().map(|answer| answer.end.timings),
        );
        let text = answer?.text;
        texts.push(if wanted.echoes { format!("{}{text}", wanted.prompt) } else { text });
    }
    Ok(texts)
}
