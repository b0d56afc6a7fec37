//! object_store's requests through the HTTP client that all of quantkit uses: one set of trusted
//! certificates, proxies and time limits, and no second TLS stack in the build.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use ureq::http::{Request, Response};
use ureq::{Agent, AsSendBody, BodyReader, Timeout};

use crate::support::http::agent;
use crate::support::redact::shown;

/// How long a server may stay silent.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a request's body may take: bodies are small.
const SENDING: Duration = Duration::from_secs(60);

/// What only those requests have with which a cloud's machine asks for its credentials. Elsewhere
/// nobody knows them.
const OF_INSTANCE: [&str; 2] = ["x-aws-ec2-metadata-token-ttl-seconds", "x-aws-ec2-metadata-token"];

/// How long it may take to connect for that.
const INSTANCE_PATIENCE: Duration = Duration::from_secs(1);

/// Bytes that are read at a time.
const CHUNK: usize = 256 << 10;

/// Makes the clients of object_store.
#[derive(Debug)]
pub(super) struct UreqConnector;

impl HttpConnector for UreqConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let allowed = options.get_config_value(&ClientConfigKey::AllowHttp);
        let allow_http = allowed.is_some_and(|allowed| allowed == "true");
        Ok(HttpClient::new(Transport { agent: agent(PATIENCE), allow_http }))
    }
}

/// An HTTP client that blocks. Its futures are done when they are first polled: whoever waits for
/// them has nothing else to do.
#[derive(Debug)]
struct Transport {
    agent: Agent,
    allow_http: bool,
}

/// This machine is none of a cloud's, or none that may have credentials.
#[derive(Debug, thiserror::Error)]
#[error("no credentials of a cloud's machine: {0}")]
pub(super) struct NoInstance(String);

/// The address begins with `http:`.
#[derive(Debug, thiserror::Error)]
#[error("plain http shows everything to the network: set AWS_ALLOW_HTTP=true where that is fine")]
struct PlainHttp;

#[async_trait]
impl HttpService for Transport {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        if parts.uri.scheme_str() == Some("http") && !self.allow_http {
            return Err(HttpError::new(HttpErrorKind::Unknown, PlainHttp));
        }
        let of_instance = OF_INSTANCE.iter().any(|name| parts.headers.contains_key(*name));
        tracing::debug!("{} {}", parts.method, shown(&parts.uri.to_string()));
        let answer = if body.is_empty() {
            self.send(Request::from_parts(parts, ()), of_instance)
        } else {
            self.send(Request::from_parts(parts, &body[..]), of_instance)
        };
        let no_instance = |why| HttpError::new(HttpErrorKind::Unknown, NoInstance(why));
        let answer = match answer {
            Err(error) if of_instance => return Err(no_instance(error.to_string())),
            Ok(answer) if of_instance && !answer.status().is_success() => {
                return Err(no_instance(answer.status().to_string()));
            }
            Err(error) => {
                tracing::info!("no answer: {}", shown(&error.to_string()));
                return Err(HttpError::new(kind(&error), error));
            }
            Ok(answer) => answer,
        };
        let (parts, body) = answer.into_parts();
        let body = Incoming(Mutex::new(body.into_reader()));
        Ok(Response::from_parts(parts, HttpResponseBody::new(body)))
    }
}

impl Transport {
    fn send(
        &self,
        request: Request<impl AsSendBody>,
        of_instance: bool,
    ) -> Result<Response<ureq::Body>, ureq::Error> {
        // object_store looks at redirects itself: they mean that the region is another one.
        let config = self.agent.configure_request(request).max_redirects(0);
        let config = config.timeout_send_body(Some(SENDING));
        let config = match of_instance {
            true => config.timeout_connect(Some(INSTANCE_PATIENCE)),
            false => config,
        };
        self.agent.run(config.build())
    }
}

/// The body of an answer.
struct Incoming(Mutex<BodyReader<'static>>);

impl Body for Incoming {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let reader = self.0.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut buffer = vec![0; CHUNK];
        let read = loop {
            match reader.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        Poll::Ready(match read {
            Ok(0) => None,
            Ok(count) => {
                buffer.truncate(count);
                Some(Ok(Frame::data(buffer.into())))
            }
            Err(error) => Some(Err(HttpError::new(HttpErrorKind::Interrupted, error))),
        })
    }
}

/// What an error says about whether the request has arrived, which decides whether it is sent again.
fn kind(error: &ureq::Error) -> HttpErrorKind {
    match error {
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect)
        | ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed => HttpErrorKind::Connect,
        ureq::Error::Timeout(_) => HttpErrorKind::Timeout,
        ureq::Error::Io(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable => HttpErrorKind::Connect,
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
            | io::ErrorKind::UnexpectedEof => HttpErrorKind::Interrupted,
            io::ErrorKind::TimedOut => HttpErrorKind::Timeout,
            _ => HttpErrorKind::Unknown,
        },
        ureq::Error::Protocol(_) => HttpErrorKind::Interrupted,
        _ => HttpErrorKind::Unknown,
    }
}
