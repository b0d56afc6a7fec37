//! A small HTTP server on this machine, for tests of downloads: it serves what it is told to, and
//! misbehaves where it is told to.

#![allow(dead_code)] // Each test file uses its own part.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request that came in.
#[derive(Debug, Clone, Default)]
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
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let server = Self { address, pages: Arc::default(), log: Arc::default() };
        let accepting = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = accepting.clone();
                // A client that goes away in the middle is no concern of the server's.
                thread::spawn(move || server.answer(&stream));
            }
        });
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
        let request = read_request(stream)?;
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

/// Sends an answer, of its body only so many bytes.
fn respond(
    mut stream: &TcpStream,
    status: u16,
    headers: &[(String, String)],
    body: &[u8],
    sent: usize,
) -> Option<()> {
    let mut head = format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "Connection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&body[..sent.min(body.len())]).ok()?;
    stream.flush().ok()?;
    stream.shutdown(Shutdown::Both).ok()
}

fn read_request(stream: &TcpStream) -> Option<Received> {
    let mut lines = BufReader::new(stream).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_string();
    let mut request = Received { path, ..Received::default() };
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let range = value.trim().strip_prefix("bytes=")?;
                request.range = range.split('-').next()?.parse().ok();
            }
            "if-range" => request.if_range = Some(value.trim().to_string()),
            "authorization" => {
                request.token = value.trim().strip_prefix("Bearer ").map(str::to_string);
            }
            _ => {}
        }
    }
    Some(request)
}
