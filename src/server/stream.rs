//! Server-sent events: an answer in pieces. A client that goes away ends the work for it.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::Frame;
use serde::Serialize;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::errors::ApiError;

/// Events that may wait for a slow reader before its answer does.
const WAITING_EVENTS: usize = 64;

/// Where the events of an answer go.
#[derive(Debug, Clone)]
pub struct Events(Sender<Bytes>);

/// Nobody reads the answer any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

impl Events {
    /// Sends a document as an event.
    ///
    /// # Errors
    /// Nobody reads it.
    pub async fn send(&self, document: &impl Serialize) -> Result<(), Gone> {
        let mut event = b"data: ".to_vec();
        if serde_json::to_writer(&mut event, document).is_err() {
            return Err(Gone);
        }
        event.extend_from_slice(b"\n\n");
        self.send_raw(event).await
    }

    /// Sends the bytes of an event as they are.
    ///
    /// # Errors
    /// Nobody reads them.
    pub async fn send_raw(&self, bytes: impl Into<Bytes>) -> Result<(), Gone> {
        self.0.send(bytes.into()).await.map_err(|_| Gone)
    }

    /// Says that an answer cannot go on, in the words of a refusal.
    ///
    /// # Errors
    /// Nobody reads it.
    pub async fn fail(&self, error: &ApiError) -> Result<(), Gone> {
        self.send(&error.document()).await
    }

    /// Says that there are no more events, in OpenAI's way.
    ///
    /// # Errors
    /// Nobody reads it.
    pub async fn done(&self) -> Result<(), Gone> {
        self.send_raw(&b"data: [DONE]\n\n"[..]).await
    }

    /// Waits for something as long as somebody reads.
    ///
    /// # Errors
    /// Nobody reads any more.
    pub async fn meanwhile<T>(&self, awaited: impl Future<Output = T>) -> Result<T, Gone> {
        tokio::select! {
            () = self.0.closed() => Err(Gone),
            value = awaited => Ok(value),
        }
    }
}

/// An answer whose events `work` sends. Its end ends the answer.
pub fn respond<F>(work: impl FnOnce(Events) -> F) -> Response
where
    F: Future<Output = Result<(), Gone>> + Send + 'static,
{
    let (sender, receiver) = channel(WAITING_EVENTS);
    tokio::spawn(work(Events(sender)));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // Proxies that collect answers would hold the events back.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::new(Chunks(receiver))).into_response()
}

/// A body that comes in pieces.
struct Chunks(Receiver<Bytes>);

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
