//! Files of the Hugging Face hub, by way of the cache that its own tools use.
//!
//! The `hf-hub` crate gives the addresses and the cache's layout, so that whatever huggingface_hub
//! or hf-hub have fetched is found, and the other way round. The transfers are our own: hf-hub 0.5
//! trusts compiled-in certificates instead of the system's, and neither checks checksums nor bounds
//! what a server sends.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use serde::Deserialize;

use super::error::FetchError;
use super::transfer::{Client, Expected, Meter, Request, Server, header, parse_content_range};
use super::{FetchedFile, recognised};
use crate::support::atomic_file::AtomicFile;
use crate::support::directory::directory_of;
use crate::support::hash::sha256_file;
use crate::support::progress::{Progress, Unit};
use crate::support::redact::shown;

/// How long the hub may take to show that it is there.
const PATIENCE: Duration = Duration::from_secs(4);

/// Files above this are linked to the cache rather than copied.
const LINK_ABOVE: u64 = 4 << 20;

/// A connection to the hub that the environment names: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME`.
#[derive(Debug)]
pub(super) struct Hub {
    client: Client,
    endpoint: String,
    token: Option<String>,
    cache: Cache,
}

/// What the hub says about a repository at a revision (asked with `blobs=true`).
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Listing {
    /// The commit.
    pub(super) sha: String,
    #[serde(rename = "siblings")]
    pub(super) files: Vec<RemoteFile>,
}

/// A file of a repository. A mirror may leave out everything but the name.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct RemoteFile {
    #[serde(rename = "rfilename")]
    pub(super) name: String,
    pub(super) size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<LargeFile>,
}

#[derive(Debug, Clone, Deserialize)]
struct LargeFile {
    sha256: String,
    size: u64,
}

/// What identifies a file's contents: its name in the cache, and what to check it with.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Contents {
    blob: String,
    expected: Expected,
}

impl Hub {
    pub(super) fn from_environment() -> Self {
        let set = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_string());
        let cache = match (set("HF_HOME"), env::home_dir()) {
            (Some(home), _) => Cache::new(Path::new(&home).join("hub")),
            (None, Some(home)) => Cache::new(home.join(".cache/huggingface/hub")),
            (None, None) => Cache::new(env::temp_dir().join("huggingface/hub")),
        };
        Self {
            client: Client::new(Server::Hub),
            endpoint: endpoint.trim().trim_end_matches('/').to_string(),
            token: set("HF_TOKEN").map(|token| token.trim().to_string()).or_else(|| cache.token()),
            cache,
        }
    }

    /// Whether a repository's configuration can be had, and soon.
    pub(super) fn answers(&self, repository: &Repo) -> bool {
        let revision = repository.url_revision();
        let path = format!("{}/resolve/{revision}/config.json", repository.url());
        self.client.answers(&self.request(path), PATIENCE)
    }

    /// The files of a repository.
    pub(super) fn list(&self, repository: &Repo) -> Result<Listing, FetchError> {
        let request = self.request(format!("api/{}?blobs=true", repository.api_url()));
        let text = self.client.document(&request, "application/json")?;
        serde_json::from_str(&text).map_err(|error| FetchError::Malformed {
            url: shown(&request.url),
            problem: format!("no listing of a repository: {error}"),
        })
    }

    /// Fetches files of a listing, each to the path beside it.
    pub(super) fn fetch(
        &self,
        repository: &Repo,
        listing: &Listing,
        wanted: &[(&RemoteFile, PathBuf)],
    ) -> Result<Vec<FetchedFile>, FetchError> {
        let size = |file: &RemoteFile| file.lfs.as_ref().map(|lfs| lfs.size).or(file.size);
        let total = wanted.iter().filter_map(|(file, _)| size(file)).sum();
        let progress = Progress::new("fetch", total, Unit::Bytes);
        let mut meter = Meter { progress: &progress, base: 0 };
        let mut files = Vec::with_capacity(wanted.len());
        for (remote, target) in wanted {
            progress.message(&remote.name);
            let file = self.fetch_file(repository, listing, remote, target, meter)?;
            meter.base += file.size;
            progress.set(meter.base);
            files.push(file);
        }
        progress.finish();
        Ok(files)
    }

    fn fetch_file(
        &self,
        repository: &Repo,
        listing: &Listing,
        remote: &RemoteFile,
        target: &Path,
        meter: Meter<'_>,
    ) -> Result<FetchedFile, FetchError> {
        let (name, revision) = (&remote.name, repository.url_revision());
        let request = self.request(format!("{}/resolve/{revision}/{name}", repository.url()));
        let contents = match remote.contents() {
            Some(contents) => contents,
            None => self.ask_contents(&request)?,
        };
        if let Expected { size: Some(size), sha256: Some(sha256) } = &contents.expected
            && recognised(target, *size, sha256)?
        {
            let (path, sha256) = (target.to_path_buf(), sha256.clone());
            return Ok(FetchedFile { path, size: *size, sha256, new: false });
        }
        let cached = self.cache.repo(repository.clone());
        let blob = cached.blob_path(&contents.blob);
        let sha256 = match check_cached(&blob, &contents.expected)? {
            Some(sha256) => sha256,
            None => self.client.download(&request, &contents.expected, &blob, meter)?,
        };
        enter_snapshot(&cached, &listing.sha, name, &blob)?;
        let size = fs::metadata(&blob).map_err(FetchError::io(&blob))?.len();
        place(&blob, size, target)?;
        Ok(FetchedFile { path: target.to_path_buf(), size, sha256, new: true })
    }

    /// Asks for a file's checksum and size, which a hub puts into the headers of its first answer.
    fn ask_contents(&self, request: &Request) -> Result<Contents, FetchError> {
        let answer = self.client.headers(request)?;
        let etag = header(&answer, "x-linked-etag").or_else(|| header(&answer, "etag"));
        let etag = etag.unwrap_or_default().trim_start_matches("W/").replace('"', "");
        let range = header(&answer, "content-range");
        let size = header(&answer, "x-linked-size")
            .and_then(|size| size.parse().ok())
            .or_else(|| parse_content_range(&range?)?.1);
        let sha256 = is_sha256(&etag).then(|| etag.to_ascii_lowercase());
        Contents::new(etag, Expected { size, sha256 }).ok_or_else(|| FetchError::Malformed {
            url: shown(&request.url),
            problem: "expected an ETag that identifies the file, found none".to_string(),
        })
    }

    fn request(&self, path: String) -> Request {
        Request { url: format!("{}/{path}", self.endpoint), token: self.token.clone() }
    }
}

impl RemoteFile {
    /// What the listing says about the file's contents.
    fn contents(&self) -> Option<Contents> {
        match &self.lfs {
            Some(lfs) if is_sha256(&lfs.sha256) => {
                let sha256 = lfs.sha256.to_ascii_lowercase();
                Contents::new(
                    sha256.clone(),
                    Expected { size: Some(lfs.size), sha256: Some(sha256) },
                )
            }
            Some(_) => None,
            None => {
                let expected = Expected { size: Some(self.size?), sha256: None };
                Contents::new(self.blob_id.clone()?, expected)
            }
        }
    }
}

impl Contents {
    /// `None` if `blob` is no name that can safely be a file's.
    fn new(blob: String, expected: Expected) -> Option<Self> {
        let safe = (1..=128).contains(&blob.len())
            && blob.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        safe.then_some(Self { blob, expected })
    }
}

/// A model repository, or a data set's.
pub(super) fn repository(name: &str, kind: RepoType, revision: Option<&str>) -> Repo {
    Repo::with_revision(name.to_string(), kind, revision.unwrap_or("main").to_string())
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The SHA-256 of a cached file if it is what is expected. A damaged one is removed. A file whose
/// checksum is unknown (the hub knows that of large files only) is never taken from the cache.
fn check_cached(blob: &Path, expected: &Expected) -> Result<Option<String>, FetchError> {
    let (Some(sha256), Ok(metadata)) = (&expected.sha256, fs::metadata(blob)) else {
        return Ok(None);
    };
    if expected.size.is_none_or(|size| size == metadata.len()) {
        let found = sha256_file(blob).map_err(FetchError::io(blob))?;
        if *sha256 == found {
            return Ok(Some(found));
        }
    }
    tracing::warn!("{} is damaged and will be fetched again", blob.display());
    fs::remove_file(blob).map_err(FetchError::io(blob))?;
    Ok(None)
}

/// Enters a cached file under its name in the cache's snapshot of the commit, where other tools
/// look for it.
fn enter_snapshot(
    cached: &CacheRepo,
    commit: &str,
    name: &str,
    blob: &Path,
) -> Result<(), FetchError> {
    if commit.is_empty() || !commit.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Ok(());
    }
    let snapshot = cached.pointer_path(commit);
    let pointer = snapshot.join(name);
    let parent = pointer.parent().unwrap_or(&snapshot);
    fs::create_dir_all(parent).map_err(FetchError::io(parent))?;
    #[cfg(unix)]
    {
        let up = "../".repeat(2 + name.matches('/').count());
        let file = blob.file_name().unwrap_or_default().to_string_lossy();
        let link = std::os::unix::fs::symlink(format!("{up}blobs/{file}"), &pointer);
        match link {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(FetchError::io(&pointer)(error));
            }
            _ => {}
        }
    }
    #[cfg(not(unix))]
    let _ = blob;
    cached.create_ref(commit).map_err(FetchError::io(&snapshot))
}

/// Puts a cached file at `target`: a hard link for a large one, where the file system allows it, so
/// that it takes its room only once; a copy otherwise.
fn place(blob: &Path, size: u64, target: &Path) -> Result<(), FetchError> {
    let failed = || FetchError::io(target);
    let directory = directory_of(target);
    fs::create_dir_all(directory).map_err(FetchError::io(directory))?;
    if size > LINK_ABOVE {
        // Not yet there under this name, or else wrong or already the same file.
        match fs::remove_file(target) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(failed()(error));
            }
            _ => {}
        }
        if fs::hard_link(blob, target).is_ok() {
            return Ok(());
        }
    }
    let mut source = fs::File::open(blob).map_err(FetchError::io(blob))?;
    let mut copy = AtomicFile::create(target).map_err(failed())?;
    std::io::copy(&mut source, &mut copy).map_err(failed())?;
    copy.commit().map_err(failed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_with_and_without_details() {
        let sha256 = "B".repeat(64);
        let text = format!(
            r#"{{"sha": "c0ffee", "private": false, "siblings": [
                {{"rfilename": "config.json", "size": 7, "blobId": "abc123"}},
                {{"rfilename": "m.safetensors", "size": 9, "blobId": "d", "lfs":
                    {{"sha256": "{sha256}", "size": 9, "pointerSize": 134}}}},
                {{"rfilename": "bare.json"}},
                {{"rfilename": "evil.json", "size": 1, "blobId": "../../x"}}]}}"#
        );
        let listing: Listing = serde_json::from_str(&text).unwrap();
        let contents: Vec<_> = listing.files.iter().map(RemoteFile::contents).collect();
        let plain = Expected { size: Some(7), sha256: None };
        assert_eq!(contents[0], Contents::new("abc123".to_string(), plain));
        let large = Expected { size: Some(9), sha256: Some("b".repeat(64)) };
        assert_eq!(contents[1], Contents::new("b".repeat(64), large));
        assert_eq!((&contents[2], &contents[3]), (&None, &None));
    }
}
