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
use ureq::http::request::Parts;
use ureq::http::{Request, Response};
use ureq::{Agent, AsSendBody, BodyReader};

use crate::support::http::agent;
use crate::support::interrupt::Interrupted;
use crate::support::redact::shown;
use crate::support::retry::{Failure, Patience, loss_passes, retry};

/// How long a server may stay silent.
const SILENCE: Duration = Duration::from_secs(30);

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
pub(super) struct UreqConnector {
    pub patience: Patience,
}

impl HttpConnector for UreqConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let allowed = options.get_config_value(&ClientConfigKey::AllowHttp);
        let allow_http = allowed.is_some_and(|allowed| allowed == "true");
        Ok(HttpClient::new(Transport {
            agent: agent(SILENCE),
            patience: self.patience,
            allow_http,
        }))
    }
}

/// An HTTP client that blocks. Its futures are done when they are first polled: whoever waits for
/// them has nothing else to do.
#[derive(Debug)]
struct Transport {
    agent: Agent,
    patience: Patience,
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
        let answer = match of_instance {
            true => self.ask_instance(&parts, &body)?,
            false => self.ask(&parts, &body)?,
        };
        let (parts, body) = answer.into_parts();
        let body = Incoming(Mutex::new(body.into_reader()));
        Ok(Response::from_parts(parts, HttpResponseBody::new(body)))
    }
}

/// Why a request has no answer, or none that is a success.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("status {}", .0.status())]
    Answered(Box<Response<ureq::Body>>),
    #[error("no answer: {}", shown(&.0.to_string()))]
    Unanswered(ureq::Error),
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

impl Transport {
    /// Asks a cloud's machine for its credentials, once: elsewhere nobody will ever answer.
    fn ask_instance(&self, parts: &Parts, body: &Bytes) -> Result<Response<ureq::Body>, HttpError> {
        let no_instance = |why| HttpError::new(HttpErrorKind::Unknown, NoInstance(why));
        match self.attempt(parts, body, true) {
            Ok(answer) if answer.status().is_success() => Ok(answer),
            Ok(answer) => Err(no_instance(answer.status().to_string())),
            Err(error) => Err(no_instance(error.to_string())),
        }
    }

    /// Sends a request until its answer will not change. Reading ends early when a stop is asked for;
    /// writing does not: what is sent may be just what a stopped run keeps.
    fn ask(&self, parts: &Parts, body: &Bytes) -> Result<Response<ureq::Body>, HttpError> {
        let patience = Patience { stops: parts.method.is_safe(), ..self.patience };
        let answer = retry(&patience, |_| match self.attempt(parts, body, false) {
            Ok(answer) if answer.status().is_success() => Ok(answer),
            Ok(answer) => {
                let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
                Err(Failure::of_status(Lost::Answered(Box::new(answer)), status, &headers))
            }
            Err(error) if loss_passes(&error) => Err(Failure::passing(Lost::Unanswered(error))),
            Err(error) => Err(Lost::Unanswered(error).into()),
        });
        match answer {
            Ok(answer) => Ok(answer),
            // What another status means is for object_store to say.
            Err(Lost::Answered(answer)) => Ok(*answer),
            Err(Lost::Unanswered(error)) => Err(HttpError::new(HttpErrorKind::Unknown, error)),
            Err(Lost::Interrupted(error)) => Err(HttpError::new(HttpErrorKind::Unknown, error)),
        }
    }

    fn attempt(
        &self,
        parts: &Parts,
        body: &Bytes,
        of_instance: bool,
    ) -> Result<Response<ureq::Body>, ureq::Error> {
        if body.is_empty() {
            self.send(Request::from_parts(parts.clone(), ()), of_instance)
        } else {
            self.send(Request::from_parts(parts.clone(), &body[..]), of_instance)
        }
    }

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
