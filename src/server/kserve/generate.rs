//! Triton's generation: one prompt as plain JSON, answered as a whole or in pieces.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::infer::answer_all;
use super::parameters::{self, OUTPUT, PROMPT, Wanted};
use super::tensors::Input;
use super::{Fault, Place, VERSION};
use crate::server::errors::{ApiError, json_response};
use crate::server::fields::Fields;
use crate::server::generate::{Answering, Piece, begin};
use crate::server::state::{Served, ServerState};
use crate::server::stream::{self, Events, Gone};

pub(super) async fn answer(
    State(state): State<Arc<ServerState>>,
    Path(place): Path<Place>,
    fields: Fields,
) -> Result<Response, Fault> {
    let model = Arc::clone(place.find(&state)?);
    let wanted = read(fields, &state)?;
    if wanted.is_streamed {
        let problem = "generate answers as a whole: use generate_stream";
        return Err(ApiError::field("stream", problem).into());
    }
    let texts = answer_all(&state, &model, &[wanted]).await?;
    Ok(json_response(StatusCode::OK, &document(&model, &texts.concat())))
}

pub(super) async fn stream(
    State(state): State<Arc<ServerState>>,
    Path(place): Path<Place>,
    fields: Fields,
) -> Result<Response, Fault> {
    let model = Arc::clone(place.find(&state)?);
    let wanted = read(fields, &state)?;
    let answering = begin(&model, wanted.ask(&model).await?)?;
    Ok(stream::respond(|events| send_all(state, model, wanted, answering, events)))
}

async fn send_all(
    state: Arc<ServerState>,
    model: Arc<Served>,
    wanted: Wanted,
    mut answering: Answering,
    events: Events,
) -> Result<(), Gone> {
    let started = Instant::now();
    if wanted.echoes {
        events.send(&document(&model, &wanted.prompt)).await?;
    }
    while let Some(piece) = events.meanwhile(answering.next()).await? {
        match piece {
            Err(error) => {
                state.kserve.count(&model.name, started, None);
                return events.send(&json!({ "error": error.message })).await;
            }
            Ok(Piece::Delta { text, .. }) if !text.is_empty() => {
                events.send(&document(&model, &text)).await?;
            }
            Ok(Piece::End(end)) => state.kserve.count(&model.name, started, Some(end.timings)),
            Ok(_) => {}
        }
    }
    Ok(())
}

fn document(model: &Served, text: &str) -> Value {
    json!({ "model_name": model.name, "model_version": VERSION, OUTPUT: text })
}

/// The prompt, and parameters beside it or in `parameters`. An `id` has no place in the answer.
fn read(mut fields: Fields, state: &ServerState) -> Result<Wanted, ApiError> {
    let Some(Value::String(prompt)) = fields.take(PROMPT) else {
        return Err(ApiError::field(PROMPT, "expected the prompt, a text"));
    };
    fields.take("id");
    let mut told = match fields.take("parameters") {
        None => Map::new(),
        Some(Value::Object(told)) => told,
        Some(_) => return Err(ApiError::field("parameters", "expected an object")),
    };
    told.extend(Map::from(fields));
    let input = Input {
        name: PROMPT.to_string(),
        datatype: "BYTES".to_string(),
        shape: vec![1],
        elements: vec![Value::String(prompt)],
    };
    let (_, mut wanted) = parameters::read(vec![input], &told, &state.options.sampling)?;
    Ok(wanted.swap_remove(0))
}
