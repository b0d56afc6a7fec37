//! `/metrics`: what the server does, for Prometheus.

mod exposition;
mod families;
mod histogram;
pub(super) mod http;
pub(super) mod model;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use self::exposition::{Format, Page};
use super::state::ServerState;

pub use model::ModelMetrics;

/// The paths of this protocol.
pub fn routes() -> Router<Arc<ServerState>> {
    Router::new().route("/metrics", get(scrape))
}

async fn scrape(State(state): State<Arc<ServerState>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let format = Format::accepted(accept.unwrap_or_default());
    let mut page = Page::new(format);
    families::write_models(&mut page, &state.models);
    state.http.write(&mut page);
    let kind = HeaderValue::from_static(format.media_type());
    ([(header::CONTENT_TYPE, kind)], page.finish()).into_response()
}
