//! What is done with every request, whatever its path: it gets a number, its key is looked at, and a line
//! of the log says what came of it.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::errors::ApiError;
use super::fields::Fields;
use super::limits::read_body;
use super::state::ServerState;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A longer name of a request is not taken over.
const LONGEST_ID: usize = 128;

/// Goes around every request.
pub async fn around(
    State(state): State<Arc<ServerState>>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let name = given_name(&request).unwrap_or_else(new_name);
    let (method, path) = (request.method().clone(), request.uri().path().to_string());
    let mut response = answer(&state, request, next, &path).await;
    if let Ok(value) = HeaderValue::from_str(&name) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if let Some(origin) = &state.options.cors {
        allow(origin, &mut response);
    }
    tracing::info!(
        target: "quantkit::access",
        request_id = %name,
        %method,
        %path,
        status = response.status().as_u16(),
        milliseconds = started.elapsed().as_secs_f64() * 1e3,
        "request"
    );
    response
}

async fn answer(state: &ServerState, request: Request, next: Next, path: &str) -> Response {
    // A browser asks whether it may ask, and sends no key with that.
    if request.method() == Method::OPTIONS && state.options.cors.is_some() {
        return StatusCode::NO_CONTENT.into_response();
    }
    if !state.keys.let_in(path, request.headers()) {
        return ApiError::unauthorized().into_response();
    }
    next.run(request).await
}

fn given_name(request: &Request) -> Option<String> {
    let name = request.headers().get(REQUEST_ID)?.to_str().ok()?;
    (!name.is_empty() && name.len() <= LONGEST_ID).then(|| name.to_string())
}

/// A name that nothing else has.
pub fn new_name() -> String {
    format!("{:032x}", rand::random::<u128>())
}

fn allow(origin: &str, response: &mut Response) {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "authorization, content-type, x-api-key, x-request-id",
        ),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
        (header::VARY, "origin"),
    ];
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
}

/// The JSON object of a request's body.
impl FromRequest<Arc<ServerState>> for Fields {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<ServerState>) -> Result<Self, ApiError> {
        let options = &state.options;
        let body = read_body(request.into_body(), options.largest_body, options.timeout).await?;
        Self::parse(&body)
    }
}
