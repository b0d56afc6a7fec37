//! A small S3-speaking server on this machine: objects in memory, listings in pages of two, the
//! conditions and ranges that S3 knows, and mishaps where it is told to.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard};

use quantkit::support::hash::sha256_bytes;

use super::http_server::{Request, accept, bind, read_request, respond};

/// The key that opens the server.
pub const KEY: &str = "test-key";

/// The one bucket that exists.
pub const BUCKET: &str = "data";

/// Keys in one page of a listing.
const PAGE: usize = 2;

/// What happens to a request in place of an answer.
#[derive(Debug, Clone, Copy)]
pub enum Mishap {
    /// This status.
    Status(u16),
    /// The body breaks off after so many bytes.
    CutAfter(usize),
}

/// A request that came in.
#[derive(Debug, Clone)]
pub struct Received {
    request: Request,
    /// Path, without the query.
    pub path: String,
    query: BTreeMap<String, String>,
}

impl Received {
    fn new(request: Request) -> Self {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_string(), decoded(value))
        });
        Self { path: decoded(path), query: pairs.collect(), request }
    }

    /// The first byte that was asked for, if a range was.
    pub fn range_start(&self) -> Option<usize> {
        self.request.range_start()
    }
}

/// A mishap and the requests that it waits for: a method, and the end of a path.
#[derive(Debug, Clone)]
struct Planned {
    method: String,
    path_end: String,
    /// Requests that pass before.
    after: usize,
    mishap: Mishap,
    times: usize,
}

#[derive(Debug, Default)]
struct State {
    /// By key.
    objects: BTreeMap<String, Vec<u8>>,
    log: Vec<Received>,
    planned: Vec<Planned>,
}

/// The server; it answers until the test process ends.
#[derive(Debug, Clone)]
pub struct ObjectServer {
    address: String,
    state: Arc<Mutex<State>>,
}

impl ObjectServer {
    /// Starts on a free port, with an empty bucket.
    pub fn start() -> Self {
        let (listener, address) = bind();
        let server = Self { address, state: Arc::default() };
        let serving = server.clone();
        accept(listener, move |stream| serving.serve(stream));
        server
    }

    /// `http://127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Puts an object into the bucket.
    pub fn put(&self, key: &str, bytes: impl Into<Vec<u8>>) {
        self.state().objects.insert(key.to_string(), bytes.into());
    }

    /// An object's bytes.
    pub fn get(&self, key: &str) -> Option<Vec<u8>> {
        self.state().objects.get(key).cloned()
    }

    /// The keys that begin so.
    pub fn keys(&self, prefix: &str) -> Vec<String> {
        self.state().objects.keys().filter(|key| key.starts_with(prefix)).cloned().collect()
    }

    /// Lets a mishap befall the next requests of a method for paths that end so.
    pub fn plan(&self, method: &str, path_end: &str, mishap: Mishap, times: usize) {
        self.plan_after(0, method, path_end, mishap, times);
    }

    /// The same when so many of these requests have passed.
    pub fn plan_after(
        &self,
        after: usize,
        method: &str,
        path_end: &str,
        mishap: Mishap,
        times: usize,
    ) {
        let (method, path_end) = (method.to_string(), path_end.to_string());
        self.state().planned.push(Planned { method, path_end, after, mishap, times });
    }

    /// The requests so far of a method for paths that end so.
    pub fn requests(&self, method: &str, path_end: &str) -> Vec<Received> {
        let wanted = |one: &&Received| one.request.method == method && one.path.ends_with(path_end);
        self.state().log.iter().filter(wanted).cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    fn serve(&self, stream: &TcpStream) -> Option<()> {
        let request = Received::new(read_request(stream)?);
        let (answer, cut) = {
            let mut state = self.state();
            state.log.push(request.clone());
            let mishap = state.mishap(&request);
            let cut = match mishap {
                Some(Mishap::CutAfter(bytes)) => Some(bytes),
                _ => None,
            };
            let answer = match mishap {
                Some(Mishap::Status(status)) => error(status, "Planned", "This was to happen."),
                _ => state.answer(&request),
            };
            (answer, cut)
        };
        let Answer { status, headers, body } = answer;
        let sent = if request.request.method == "HEAD" { 0 } else { cut.unwrap_or(body.len()) };
        respond(stream, status, &headers, &body, sent)
    }
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

fn answer(status: u16, body: impl Into<Vec<u8>>) -> Answer {
    Answer { status, headers: Vec::new(), body: body.into() }
}

fn error(status: u16, code: &str, message: &str) -> Answer {
    let xml = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    answer(status, xml)
}

fn tag(bytes: &[u8]) -> String {
    format!("\"{}\"", &sha256_bytes(bytes)[..32])
}

impl State {
    fn mishap(&mut self, request: &Received) -> Option<Mishap> {
        let found = self.planned.iter_mut().find(|planned| {
            planned.times > 0
                && planned.method == request.request.method
                && request.path.ends_with(&planned.path_end)
        })?;
        if found.after > 0 {
            found.after -= 1;
            return None;
        }
        found.times -= 1;
        Some(found.mishap)
    }

    fn answer(&mut self, received: &Received) -> Answer {
        let Received { request, path, query } = received;
        let header = |name: &str| request.header(name).unwrap_or_default();
        let signed = format!("AWS4-HMAC-SHA256 Credential={KEY}/");
        if !header("authorization").starts_with(&signed) {
            return error(403, "InvalidAccessKeyId", "The key does not exist in our records.");
        }
        let path = path.trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        if bucket != BUCKET {
            return error(404, "NoSuchBucket", "The specified bucket does not exist");
        }
        match request.method.as_str() {
            "PUT" => {
                assert_eq!(header("x-amz-content-sha256"), sha256_bytes(&request.body));
                let etag = tag(&request.body);
                self.objects.insert(key.to_string(), request.body.clone());
                Answer { headers: vec![("ETag", etag)], ..answer(200, "") }
            }
            "DELETE" => {
                self.objects.remove(key);
                answer(204, "")
            }
            "GET" if key.is_empty() => self.listing(query),
            "GET" | "HEAD" => match self.objects.get(key) {
                None => error(404, "NoSuchKey", "The specified key does not exist."),
                Some(bytes) => content(bytes, request),
            },
            _ => error(405, "MethodNotAllowed", "Not here."),
        }
    }

    fn listing(&self, query: &BTreeMap<String, String>) -> Answer {
        assert_eq!(query.get("list-type").map(String::as_str), Some("2"));
        let prefix = query.get("prefix").map_or("", String::as_str);
        let after = query.get("continuation-token").map_or("", String::as_str);
        let all: Vec<(&String, &Vec<u8>)> = self
            .objects
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after)
            .collect();
        let mut xml = String::from("<ListBucketResult>");
        for (key, bytes) in all.iter().take(PAGE) {
            xml += &format!(
                "<Contents><Key>{key}</Key><LastModified>2026-11-20T14:03:05.000Z</LastModified>\
                 <ETag>{}</ETag><Size>{}</Size></Contents>",
                tag(bytes).replace('"', "&quot;"),
                bytes.len()
            );
        }
        let more = all.len() > PAGE;
        xml += &format!("<IsTruncated>{more}</IsTruncated>");
        if more {
            let last = all[PAGE - 1].0;
            xml += &format!("<NextContinuationToken>{last}</NextContinuationToken>");
        }
        answer(200, xml + "</ListBucketResult>")
    }
}

/// An object, or the range of it that was asked for.
fn content(bytes: &[u8], request: &Request) -> Answer {
    let etag = tag(bytes);
    if request.header("if-match").is_some_and(|wanted| wanted != etag) {
        return error(412, "PreconditionFailed", "The tag is another one.");
    }
    let mut headers = vec![
        ("ETag", etag),
        ("Last-Modified", "Fri, 20 Nov 2026 14:03:05 GMT".to_string()),
        ("Accept-Ranges", "bytes".to_string()),
    ];
    let Some(start) = request.range_start() else {
        return Answer { status: 200, headers, body: bytes.to_vec() };
    };
    if start >= bytes.len() {
        return error(416, "InvalidRange", "There is no such range.");
    }
    let length = bytes.len();
    headers.push(("Content-Range", format!("bytes {start}-{}/{length}", length - 1)));
    Answer { status: 206, headers, body: bytes[start..].to_vec() }
}

/// Text without its percent signs.
fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).expect("two digits"));
        bytes.extend(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).expect("text")
}
