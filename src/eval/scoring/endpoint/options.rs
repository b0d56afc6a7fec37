//! How to reach a server.

use std::time::Duration;

/// How to reach the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointOptions {
    /// Its address, with or without `/v1`.
    pub url: String,
    /// The name of the model, as the server knows it; its only or first one when absent.
    pub model: Option<String>,
    /// Shown as a bearer token.
    pub api_key: Option<String>,
    /// Questions in flight at once.
    pub concurrency: usize,
    /// How long a whole answer may take.
    pub timeout: Duration,
    /// How often a request that failed for reasons that may pass is sent again.
    pub retries: u32,
}
