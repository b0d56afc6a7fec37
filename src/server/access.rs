//! What is done with every request, whatever its path: it gets a number, its key is looked at, and a line
//! of the log says what came of it, once its answer has come to its end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{FromRequest, MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::errors::ApiError;
use super::fields::Fields;
use super::limits::read_body;
use super::state::ServerState;
use super::tally::Tally;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A longer name of a request is not taken over.
const LONGEST_ID: usize = 128;

/// Goes around every request.
pub async fn around(
    State(state): State<Arc<ServerState>>,
    request: Request,
    next: Next,
) -> Response {
    let mut record = Record::new(&state, &request);
    let answer = answer(&state, request, next, &record.path);
    let mut response = record.tally.count(answer).await;
    if let Ok(value) = HeaderValue::from_str(&record.name) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    if let Some(origin) = &state.options.cors {
        allow(origin, &mut response);
    }
    record.status = response.status();
    record.to_headers = record.started.elapsed();
    response.map(|body| Body::new(Watched { body, is_over: false, record }))
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

/// What is written of a request.
struct Record {
    state: Arc<ServerState>,
    name: String,
    method: Method,
    path: String,
    /// The router's name of the path.
    route: String,
    tally: Arc<Tally>,
    started: Instant,
    to_headers: Duration,
    status: StatusCode,
}

impl Record {
    fn new(state: &Arc<ServerState>, request: &Request) -> Self {
        let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        Self {
            state: Arc::clone(state),
            name: given_name(request).unwrap_or_else(new_name),
            method: request.method().clone(),
            path: request.uri().path().to_string(),
            route: route.unwrap_or("other").to_string(),
            tally: Arc::default(),
            started: Instant::now(),
            to_headers: Duration::ZERO,
            status: StatusCode::OK,
        }
    }

    fn write(&self, complete: bool) {
        let time = self.started.elapsed();
        let (prompt_tokens, generated_tokens) = self.tally.tokens();
        self.state.http.count(&self.route, self.status.as_u16(), time);
        tracing::info!(
            target: "quantkit::access",
            request_id = %self.name,
            method = %self.method,
            path = %self.path,
            status = self.status.as_u16(),
            milliseconds = milliseconds(time),
            headers_milliseconds = milliseconds(self.to_headers),
            prompt_tokens,
            generated_tokens,
            complete,
            "request"
        );
    }
}

/// To microseconds: more digits say nothing.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e3
}

/// An answer that is on its way. When it has come to its end, or nobody wants more of it, that is written.
struct Watched {
    body: Body,
    is_over: bool,
    record: Record,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let Poll::Ready(None) = frame {
            self.is_over = true;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.record.write(self.is_over || self.body.is_end_stream());
    }
}

fn given_name(request: &Request) -> Option<String> {
    let name = request.headers().get(REQUEST_ID)?.to_str().ok()?;
    // A space would begin another field of the log.
    let is_fit = name.len() <= LONGEST_ID && name.bytes().all(|byte| byte.is_ascii_graphic());
    (!name.is_empty() && is_fit).then(|| name.to_string())
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
