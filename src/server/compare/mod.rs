//! `/compare`: one prompt, answered by several models, and how far the others' expectations are from the
//! first one's.
//!
//! The first model is the reference. Once it has answered, the other models read prompt and answer, and
//! at each token of the answer their probabilities are compared with the reference's:
//! KL(reference ‖ variant), in nats, over the whole vocabulary.

mod answers;
mod divergence;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value, json};

use self::answers::{Job, Question};
use super::errors::{ApiError, json_response};
use super::fields::Fields;
use super::openai::chat::read_messages;
use super::openai::parameters::Parameters;
use super::state::{Served, ServerState};
use super::stream;
use super::tally::Tally;

/// Models that one request compares.
const MOST_MODELS: usize = 8;

/// New tokens where a request does not say.
const NEW_TOKENS: usize = 256;

/// Likeliest tokens that may be asked for in each place.
const MOST_LIKELIEST: i64 = 20;

/// The paths of this protocol.
pub fn routes() -> Router<Arc<ServerState>> {
    Router::new().route("/compare", get(list).post(answer))
}

/// What can be compared.
async fn list(State(state): State<Arc<ServerState>>) -> Response {
    let listed = state.models.iter().map(|model| {
        let about = &model.about;
        let difference = state.models[0].vocabulary().difference(model.vocabulary());
        json!({
            "name": model.name,
            "title": about.title,
            "architecture": about.architecture,
            "parameters": about.parameters,
            "bytes": about.bytes,
            "bits_per_weight": about.bytes as f64 * 8.0 / about.parameters.max(1) as f64,
            "context": model.service.facts().context,
            "has_chat_template": model.vocabulary().chat_template.is_some(),
            "incomparable": difference,
        })
    });
    json_response(StatusCode::OK, &json!({ "models": listed.collect::<Vec<_>>() }))
}

async fn answer(
    State(state): State<Arc<ServerState>>,
    mut fields: Fields,
) -> Result<Response, ApiError> {
    let models = read_models(&state, &fields)?;
    fields.refuse(&[
        ("n", &[json!(1)]),
        ("stop", &[]),
        ("stream", &[json!(true)]),
        ("prompt_logprobs", &[]),
        ("echo", &[json!(false)]),
    ])?;
    let mut parameters = Parameters::read(&fields, &["max_tokens"], &state.options.sampling)?;
    if fields.get("temperature").is_none() {
        parameters.sampling.temperature = 0.0;
    }
    // With what earlier requests have computed, the times would tell of those.
    parameters.use_cache = fields.flag_or("cache_prompt", models.len() == 1)?;
    parameters.max_new_tokens.get_or_insert(NEW_TOKENS);
    let likeliest = fields.integer("top_logprobs", 0..=MOST_LIKELIEST)?.unwrap_or(5);
    let question = match (fields.take("messages"), fields.take("prompt")) {
        (Some(messages), None) => Question::Messages(read_messages(Some(messages))?),
        (None, Some(Value::String(text))) => Question::Text(text),
        _ => {
            let problem = "expected \"prompt\", a text, or \"messages\"";
            return Err(ApiError::field("prompt", problem));
        }
    };
    let job = Job {
        parameters,
        likeliest: likeliest as usize,
        is_at_once: fields.flag("at_once")?,
        prompts: question.prompts(&models).await?,
        models,
    };
    let (job, tally) = (Arc::new(job), Tally::current());
    let first = job.begin(0)?;
    Ok(stream::respond(|events| async move { tally.count(job.run(first, &events)).await }))
}

/// The models that a request names, the reference first; all of them if it names none.
fn read_models(state: &ServerState, fields: &Fields) -> Result<Vec<Arc<Served>>, ApiError> {
    let names = fields.texts("models")?;
    let models: Vec<Arc<Served>> = match names.is_empty() {
        true => state.models.iter().take(MOST_MODELS).map(Arc::clone).collect(),
        false => {
            let named = names.iter().map(|name| state.model(Some(name)).map(Arc::clone));
            named.collect::<Result<_, _>>()?
        }
    };
    let is_twice = |(index, model): (usize, &Arc<Served>)| {
        models[..index].iter().any(|before| Arc::ptr_eq(before, model))
    };
    if models.len() > MOST_MODELS || models.iter().enumerate().any(is_twice) {
        let expected = format!("expected at most {MOST_MODELS} models, each once");
        return Err(ApiError::field("models", expected));
    }
    Ok(models)
}
