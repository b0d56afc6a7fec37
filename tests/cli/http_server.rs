//! A small HTTP server on this machine, for tests of downloads: it serves what it is told to, and
//! misbehaves where it is told to. The servers of objects and of models take their requests and send
//! their answers by the functions at its end.

#![allow(dead_code)] // Each test file uses its own part.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// What a request asked for.
#[derive(Debug, Clone)]
pub struct Received {
    /// Path and query.
    pub path: String,
    /// The first byte that was asked for, if a range was.
    pub range: Option<usize>,
    /// The entity tag that the file must have for the range to be sent.
    pub if_range: Option<String>,
    /// The bearer token that was shown.
    pub token: Option<String>,
}

impl From<&Request> for Received {
    fn from(request: &Request) -> Self {
        let token = request.header("authorization").and_then(|key| key.strip_prefix("Bearer "));
        Self {
            path: request.target.clone(),
            range: request.range_start(),
            if_range: request.header("if-range").map(str::to_string),
            token: token.map(str::to_string),
        }
    }
}

/// What a path answers.
#[derive(Debug, Clone, Default)]
pub struct Page {
    body: Vec<u8>,
    headers: Vec<(String, String)>,
    redirect: Option<String>,
    status: Option<u16>,
    needed_token: Option<String>,
    drop_after: Vec<usize>,
    ignores_ranges: bool,
    busy: usize,
}

impl Page {
    /// A file or document.
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..Self::default() }
    }

    /// Nothing but a status.
    pub fn status(status: u16) -> Self {
        Self { status: Some(status), ..Self::default() }
    }

    /// A redirect to another address.
    pub fn redirect(to: &str) -> Self {
        Self { redirect: Some(to.to_string()), ..Self::default() }
    }

    /// Adds a header to the answer.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_string(), value.to_string()));
        self
    }

    /// Answers 401 unless this token is shown.
    pub fn needs_token(mut self, token: &str) -> Self {
        self.needed_token = Some(token.to_string());
        self
    }

    /// Breaks the next answers off after so many bytes each.
    pub fn drops_after(mut self, bytes: &[usize]) -> Self {
        self.drop_after = bytes.to_vec();
        self
    }

    /// Answers 503 to the first requests, with the other headers.
    pub fn busy(mut self, times: usize) -> Self {
        self.busy = times;
        self
    }

    /// Sends the whole file whatever range is asked for.
    pub fn ignores_ranges(mut self) -> Self {
        self.ignores_ranges = true;
        self
    }
}

/// The server; it answers until the test process ends.
#[derive(Debug, Clone)]
pub struct Server {
    address: String,
    pages: Arc<Mutex<HashMap<String, Page>>>,
    log: Arc<Mutex<Vec<Received>>>,
}

impl Server {
    /// Starts on a free port, without pages.
    pub fn start() -> Self {
        let (listener, address) = bind();
        let server = Self { address, pages: Arc::default(), log: Arc::default() };
        let serving = server.clone();
        accept(listener, move |stream| serving.answer(stream));
        server
    }

    /// `http://127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Sets what a path (without query) answers.
    pub fn page(&self, path: &str, page: Page) {
        self.pages.lock().expect("no panic while held").insert(path.to_string(), page);
    }

    /// The requests so far for paths that end so.
    pub fn requests(&self, end: &str) -> Vec<Received> {
        let log = self.log.lock().expect("no panic while held");
        let path = |request: &&Received| {
            request.path.split('?').next().is_some_and(|path| path.ends_with(end))
        };
        log.iter().filter(path).cloned().collect()
    }

    fn answer(&self, stream: &TcpStream) -> Option<()> {
        let request = Received::from(&read_request(stream)?);
        self.log.lock().ok()?.push(request.clone());
        let path = request.path.split('?').next()?;
        let (page, drop_after) = {
            let mut pages = self.pages.lock().ok()?;
            let mut page = pages.get_mut(path);
            if let Some(page) = page.as_mut().filter(|page| page.busy > 0) {
                page.busy -= 1;
                return respond(stream, 503, &page.headers, b"", 0);
            }
            let drops = page.as_ref().is_some_and(|page| !page.drop_after.is_empty());
            let drop_after = if drops { Some(page?.drop_after.remove(0)) } else { None };
            (pages.get(path).cloned(), drop_after)
        };
        let page = page.unwrap_or_else(|| Page::status(404));
        let denied = page.needed_token.is_some() && page.needed_token != request.token;
        let mut headers = page.headers.clone();
        let (mut status, mut body) = (page.status.unwrap_or(200), &page.body[..]);
        if denied {
            (status, body) = (401, b"denied");
        } else if let Some(to) = &page.redirect {
            status = 302;
            headers.push(("Location".to_string(), to.clone()));
        } else if let Some(start) = request.range.filter(|_| status == 200 && !page.ignores_ranges)
        {
            let length = body.len();
            if start >= length {
                (status, body) = (416, b"");
            } else {
                (status, body) = (206, &body[start..]);
                let range = format!("bytes {start}-{}/{length}", length - 1);
                headers.push(("Content-Range".to_string(), range));
            }
        }
        respond(stream, status, &headers, body, drop_after.unwrap_or(body.len()))
    }
}

/// A request as it came in.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// By name, in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte that was asked for, if a range was.
    pub fn range_start(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.split('-').next()?.parse().ok()
    }
}

/// A free port of this machine, and its address: `http://127.0.0.1:PORT`.
pub fn bind() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    (listener, address)
}

/// Serves each connection in a thread of its own, until the test process ends. A client that goes away
/// in the middle is no concern of the server's.
pub fn accept(
    listener: TcpListener,
    serve: impl Fn(&TcpStream) -> Option<()> + Clone + Send + 'static,
) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || serve(&stream));
        }
    });
}

pub fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = || {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        Some(line.trim_end().to_string())
    };
    let first = line()?;
    let mut words = first.split(' ').map(str::to_string);
    let (method, target) = (words.next()?, words.next()?);
    let mut request = Request { method, target, ..Request::default() };
    while let Some((name, value)) = line()?.split_once(':') {
        request.headers.insert(name.to_ascii_lowercase(), value.trim().to_string());
    }
    let length = request.header("content-length").and_then(|text| text.parse().ok());
    request.body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut request.body).ok()?;
    Some(request)
}

/// Sends an answer, of its body only so many bytes.
pub fn respond(
    mut stream: &TcpStream,
    status: u16,
    headers: &[(impl AsRef<str>, String)],
    body: &[u8],
    sent: usize,
) -> Option<()> {
    let mut head = format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{}: {value}\r\n", name.as_ref());
    }
    head += "Connection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body[..sent.min(body.len())]).ok()?;
    stream.flush().ok()?;
    stream.shutdown(Shutdown::Both).ok()
}
