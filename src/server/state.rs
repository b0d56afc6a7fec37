//! What all paths share: the models by their names, and how the server is set up.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use super::ServerOptions;
use super::auth::Keys;
use super::errors::ApiError;
use super::kserve::statistics::Statistics;
use super::metrics::http::HttpMetrics;
use super::metrics::model::ModelMetrics;
use crate::engine::Service;
use crate::support::calendar::unix_seconds;
use crate::tokenizer::Vocabulary;

/// What this program calls itself where clients look for a build.
pub const FINGERPRINT: &str = concat!("b", env!("CARGO_PKG_VERSION"), "-quantkit");

/// A model that is served.
#[derive(Debug)]
pub struct Served {
    /// The name that it is listed under.
    pub name: String,
    /// Other names that requests may call it by.
    pub other_names: Vec<String>,
    /// Its file.
    pub path: PathBuf,
    /// The running engine.
    pub service: Service,
    /// What its requests took; the service's observer.
    pub metrics: Arc<ModelMetrics>,
    /// What the file says of itself.
    pub about: About,
    /// New tokens at most where a request does not say.
    pub default_new_tokens: Option<usize>,
}

/// What a model's file says of itself.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// `general.name`.
    pub title: Option<String>,
    /// `general.architecture`.
    pub architecture: String,
    /// Numbers in all tensors.
    pub parameters: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Elements of its residual stream.
    pub hidden: usize,
}

impl Served {
    /// The model's tokenizer.
    pub fn vocabulary(&self) -> &Arc<Vocabulary> {
        self.service.vocabulary()
    }

    fn is_called(&self, name: &str) -> bool {
        self.name == name || self.other_names.iter().any(|other| other == name)
    }
}

/// The server's state.
#[derive(Debug)]
pub struct ServerState {
    /// The models, at least one, in the order in which they were given.
    pub models: Vec<Arc<Served>>,
    /// How the server is set up.
    pub options: ServerOptions,
    /// When it began.
    pub started: Instant,
    /// The same as seconds since 1970.
    pub created: u64,
    pub(super) keys: Keys,
    pub(super) kserve: Statistics,
    pub(super) http: HttpMetrics,
    is_closing: AtomicBool,
}

impl ServerState {
    pub(super) fn new(models: Vec<Served>, options: ServerOptions) -> Self {
        Self {
            models: models.into_iter().map(Arc::new).collect(),
            keys: Keys::new(options.api_keys.iter().map(String::as_str)),
            kserve: Statistics::default(),
            http: HttpMetrics::default(),
            options,
            started: Instant::now(),
            created: unix_seconds(SystemTime::now()),
            is_closing: AtomicBool::new(false),
        }
    }

    /// The model that a request calls by a name. Where there is only one, any name or none will do.
    ///
    /// # Errors
    /// 404 for a name that none of several models has, 400 for none.
    pub fn model(&self, name: Option<&str>) -> Result<&Arc<Served>, ApiError> {
        if let [only] = &self.models[..] {
            return Ok(only);
        }
        let known = || {
            let names: Vec<&str> = self.models.iter().map(|model| model.name.as_str()).collect();
            names.join(", ")
        };
        match name {
            Some(name) => self.named(name).ok_or_else(|| {
                let message = format!("there is no model {name:?}; there are: {}", known());
                ApiError { field: Some("model".to_string()), ..ApiError::not_found(message) }
            }),
            None => Err(ApiError::field("model", format!("expected one of: {}", known()))),
        }
    }

    /// The model that has this very name.
    pub fn named(&self, name: &str) -> Option<&Arc<Served>> {
        self.models.iter().find(|model| model.is_called(name))
    }

    /// Whether it takes no more requests.
    pub fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Relaxed)
    }

    /// Takes no more requests; those that were taken go on.
    pub(super) fn close(&self) {
        self.is_closing.store(true, Ordering::Relaxed);
        for model in &self.models {
            model.service.close();
        }
    }
}
