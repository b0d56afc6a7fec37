//! What a client may cost: the size of a body, the time that it may take to come, and the time that an
//! answer may wait to be read.

use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::errors::ApiError;

/// Bytes of a request's body at most.
pub const LARGEST_BODY: usize = 32 << 20;

/// Time in which a request's headers must have come, and in which a connection may do nothing.
pub const HEADER_TIME: Duration = Duration::from_secs(60);

/// Connections that the system holds until they are accepted. Those beyond are dropped, some of them after
/// their clients have sent a request.
pub const BACKLOG: u32 = 4096;

/// Connections at a time.
pub const CONNECTIONS: usize = 8192;

/// Reads a body to its end.
///
/// # Errors
/// 413 for one that is too large, 408 for one of which nothing came for `patience`, 400 for one that
/// breaks off.
pub async fn read_body(
    mut body: Body,
    largest: usize,
    patience: Duration,
) -> std::result::Result<Bytes, ApiError> {
    let mut read = BytesMut::new();
    loop {
        let frame = timeout(patience, body.frame()).await.map_err(|_| ApiError::too_slow())?;
        let Some(frame) = frame else { return Ok(read.freeze()) };
        let broken = |error| ApiError::bad_request(format!("the body breaks off: {error}"));
        if let Some(data) = frame.map_err(broken)?.data_ref() {
            if data.len() > largest - read.len() {
                return Err(ApiError::too_large(largest));
            }
            read.extend_from_slice(data);
        }
    }
}

/// A connection that is given up when what is written to it is not read for a while.
#[derive(Debug)]
pub struct Patient {
    stream: TcpStream,
    patience: Duration,
    /// Runs while a write waits.
    alarm: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl Patient {
    /// Wraps a connection.
    pub fn new(stream: TcpStream, patience: Duration) -> Self {
        Self { stream, patience, alarm: Box::pin(sleep(patience)), is_waiting: false }
    }

    fn watch<T>(&mut self, context: &mut Context<'_>, poll: Poll<Result<T>>) -> Poll<Result<T>> {
        if poll.is_ready() {
            self.is_waiting = false;
            return poll;
        }
        if !self.is_waiting {
            self.is_waiting = true;
            self.alarm.as_mut().reset(Instant::now() + self.patience);
        }
        match self.alarm.as_mut().poll(context) {
            Poll::Ready(()) => {
                let problem = "the client does not read its answer";
                Poll::Ready(Err(Error::new(ErrorKind::TimedOut, problem)))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let poll = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(context, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(context, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
