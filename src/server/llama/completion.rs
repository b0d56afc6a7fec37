//! `/completion`: prompts go on.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::Value;
use tokio::task::JoinSet;

use super::answers::Answers;
use super::parameters::Parameters;
use super::prompts::read_prompts;
use crate::server::errors::{ApiError, json_response};
use crate::server::fields::Fields;
use crate::server::generate::{Answering, MOST_ANSWERS, Piece, begin};
use crate::server::state::ServerState;
use crate::server::stream::{self, Events, Gone};

pub async fn answer(
    State(state): State<Arc<ServerState>>,
    mut fields: Fields,
) -> Result<Response, ApiError> {
    let model = Arc::clone(state.model(fields.text("model")?)?);
    let parameters = Parameters::read(&fields, &model, &state.options.sampling).await?;
    let prompts = read_prompts(&model, fields.take("prompt")).await?;
    if prompts.len().saturating_mul(parameters.answers) > MOST_ANSWERS {
        let problem = format!("expected at most {MOST_ANSWERS} answers to all prompts together");
        return Err(ApiError::field("n_cmpl", problem));
    }
    let answers = Answers { model, parameters, prompts };
    let begun = begin_all(&answers)?;
    if answers.parameters.is_streamed {
        let answers = Arc::new(answers);
        return Ok(stream::respond(|events| stream_all(answers, begun, events)));
    }
    let mut documents = Vec::with_capacity(begun.len());
    for (index, answering) in begun.into_iter().enumerate() {
        let answer = answering.collect().await?;
        documents.push(answers.whole(index, &answer));
    }
    let document = match documents.len() {
        1 => documents.swap_remove(0),
        _ => Value::Array(documents),
    };
    Ok(json_response(StatusCode::OK, &document))
}

/// Submits all requests, or none.
fn begin_all(answers: &Answers) -> Result<Vec<Answering>, ApiError> {
    let mut begun = Vec::new();
    for prompt in &answers.prompts {
        for number in 0..answers.parameters.answers {
            begun.push(begin(&answers.model, answers.parameters.ask(prompt.clone(), number))?);
        }
    }
    Ok(begun)
}

/// Sends the pieces of all answers as they come.
async fn stream_all(
    answers: Arc<Answers>,
    begun: Vec<Answering>,
    events: Events,
) -> Result<(), Gone> {
    let mut tasks = JoinSet::new();
    for (index, answering) in begun.into_iter().enumerate() {
        let (answers, events) = (Arc::clone(&answers), events.clone());
        tasks.spawn(async move { stream_one(&answers, index, answering, &events).await });
    }
    while let Some(Ok(ended)) = tasks.join_next().await {
        ended?;
    }
    Ok(())
}

async fn stream_one(
    answers: &Answers,
    index: usize,
    mut answering: Answering,
    events: &Events,
) -> Result<(), Gone> {
    let tells_progress = answers.parameters.tells_progress;
    let mut has_new_line = false;
    while let Some(piece) = events.meanwhile(answering.next()).await? {
        let taken = answering.taken();
        match piece {
            Err(error) => return events.fail(&error).await,
            Ok(Piece::Delta { text, tokens }) => {
                has_new_line |= text.contains('\n');
                events.send(&answers.piece(index, &text, &tokens, &taken)).await?;
            }
            Ok(Piece::End(end)) => {
                return events.send(&answers.end(index, &end, has_new_line)).await;
            }
            Ok(Piece::Started { cached_tokens }) if tells_progress => {
                events.send(&answers.progress(index, cached_tokens, &taken)).await?;
            }
            Ok(Piece::Prompt { done, .. }) if tells_progress => {
                events.send(&answers.progress(index, done, &taken)).await?;
            }
            Ok(_) => {}
        }
    }
    Ok(())
}
