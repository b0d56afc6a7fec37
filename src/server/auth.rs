//! Who may ask: those who know a key, if there is one.

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};

/// Paths that anybody may ask for.
const OPEN: [&str; 8] = [
    "/health",
    "/v1/health",
    "/v2/health/live",
    "/v2/health/ready",
    // The page holds nothing that is secret, and asks for the key itself.
    "/",
    "/page.css",
    "/page.js",
    "/page.svg",
];

/// The keys that let a client in; with none, everybody is.
#[derive(Clone, Default)]
pub struct Keys(Vec<[u8; 32]>);

/// Keys are not shown.
impl std::fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} keys", self.0.len())
    }
}

impl Keys {
    /// These keys.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a str>) -> Self {
        Self(keys.into_iter().map(|key| Sha256::digest(key.as_bytes()).into()).collect())
    }

    /// Whether a request for a path may come in: its key stands in `Authorization: Bearer` or `X-Api-Key`.
    pub fn let_in(&self, path: &str, headers: &HeaderMap) -> bool {
        if self.0.is_empty() || OPEN.contains(&path) {
            return true;
        }
        let text = |name| headers.get(name).map(|value: &header::HeaderValue| value.as_bytes());
        let bearer = text("authorization").and_then(|value| {
            let (scheme, key) = value.split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"bearer ").then_some(key)
        });
        bearer.or_else(|| text("x-api-key")).is_some_and(|key| self.knows(key.trim_ascii()))
    }

    /// Compares digests of one length, all of them to the end: the time tells nothing about the keys.
    pub fn knows(&self, key: &[u8]) -> bool {
        let given: [u8; 32] = Sha256::digest(key).into();
        let differs = |known: &[u8; 32]| {
            known.iter().zip(&given).fold(0u8, |differs, (one, other)| differs | (one ^ other))
        };
        self.0
            .iter()
            .fold(false, |found, known| found | (std::hint::black_box(differs(known)) == 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_opens_all_and_health_is_open() {
        let keys = Keys::new(["one", "two"]);
        let with = |name: &'static str, value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            headers
        };
        assert!(keys.let_in("/v1/models", &with("authorization", "Bearer two")));
        assert!(keys.let_in("/v1/models", &with("authorization", "bearer one")));
        assert!(keys.let_in("/v1/models", &with("x-api-key", "one")));
        for wrong in ["Bearer three", "Bearer ", "two", "Bearer", "Basic two", "Bearer twoo"] {
            assert!(!keys.let_in("/v1/models", &with("authorization", wrong)), "{wrong}");
        }
        assert!(!keys.let_in("/v1/models", &HeaderMap::new()));
        assert!(!keys.let_in("/health/x", &HeaderMap::new()));
        assert!(keys.let_in("/health", &HeaderMap::new()));
        assert!(Keys::default().let_in("/v1/models", &HeaderMap::new()));
    }
}
