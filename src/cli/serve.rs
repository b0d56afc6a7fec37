//! `quantkit serve`.

pub(super) mod llama_options;
mod sampling;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::options::{EngineFlags, GlobalOptions, print_json, say};
use crate::engine::{Engine, SchedulerOptions, Service, ServiceOptions};
use crate::gguf::GgufFile;
use crate::server::{About, ModelMetrics, Served, Server, ServerOptions};
use crate::support::{interrupt, machine, units};
use sampling::SamplingFlags;

/// The part of the memory that is free once the models are loaded which keys and values may take.
const MEMORY_SHARE: f64 = 0.8;

/// The part of that which is kept for later prompts unless `--cache` says otherwise.
const CACHE_SHARE: f64 = 0.25;

/// Answer requests over HTTP, in OpenAI's protocol and llama-server's
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  quantkit serve model.Q4_K_M.gguf --port 8080\n  curl \
                        http://127.0.0.1:8080/v1/chat/completions -d '{\"messages\": [{\"role\": \
                        \"user\", \"content\": \"Why is the sky blue?\"}]}'")]
pub struct Arguments {
    /// The GGUF models
    #[arg(value_name = "MODEL.gguf", required_unless_present = "model")]
    models: Vec<PathBuf>,

    /// Another way to name a model
    #[arg(long, short, value_name = "MODEL.gguf")]
    model: Vec<PathBuf>,

    /// The address to listen at; 0.0.0.0 for all of this machine's, several with commas between
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,

    /// The port to listen at; 0 for any that is free
    #[arg(long, value_name = "N", default_value_t = 8080)]
    port: u16,

    /// A key that clients must show; several may be given
    #[arg(long, value_name = "KEY", value_delimiter = ',')]
    api_key: Vec<String>,

    /// A file with such keys, one a line
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,

    /// The models' names, in their order; of one model, all its names [default: the files' names without
    /// .gguf]
    #[arg(long, short, value_name = "NAME,NAME", value_delimiter = ',')]
    alias: Vec<String>,

    /// Requests of a model that run at once
    #[arg(long, value_name = "N", default_value_t = 8,
          value_parser = clap::value_parser!(u16).range(1..=1024))]
    parallel: u16,

    /// Tokens of a request at most, prompt and output together; 0 for what the model was trained for
    #[arg(long, short, value_name = "N", default_value_t = 0)]
    ctx_size: usize,

    /// Tokens to generate at most where a request does not say [default: as many as there is room for]
    #[arg(long, short, value_name = "N", allow_negative_numbers = true)]
    n_predict: Option<i64>,

    /// Prompt tokens that one step may read
    #[arg(long, value_name = "N", default_value_t = 512,
          value_parser = clap::value_parser!(u32).range(1..))]
    prefill_chunk: u32,

    /// Requests that may wait; more are sent away with status 429
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_queue: usize,

    /// Memory for what finished requests have computed, for prompts that begin like them; 0 for none
    /// [default: a fifth of what is free]
    #[arg(long, value_name = "SIZE", value_parser = cache_size)]
    cache: Option<u64>,

    /// Memory for the keys and values of running requests [default: three fifths of what is free]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    memory: Option<u64>,

    /// Seconds that a client may take to send or read the next part of a request or an answer
    #[arg(long, value_name = "SECONDS", default_value_t = 600,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,

    /// Bytes of a request at most
    #[arg(long, value_name = "SIZE", default_value = "32MiB", value_parser = units::parse_bytes)]
    max_body: u64,

    /// The origin whose pages may ask, or * for all: browsers let no others
    #[arg(long, value_name = "ORIGIN")]
    cors: Option<String>,

    /// llama-server's flag: here /metrics is always there
    #[arg(long, hide = true)]
    metrics: bool,

    /// Do not tell at /slots what runs
    #[arg(long, overrides_with = "slots")]
    no_slots: bool,

    /// The default
    #[arg(long, hide = true)]
    slots: bool,

    /// A Jinja template of chats in place of the model's own
    #[arg(long, value_name = "FILE")]
    chat_template_file: Option<PathBuf>,

    #[command(flatten)]
    sampling: SamplingFlags,

    #[command(flatten)]
    engine: EngineFlags,
}

/// A size, or 0.
fn cache_size(text: &str) -> Result<u64, String> {
    if text.trim() == "0" { Ok(0) } else { units::parse_bytes(text) }
}

pub(super) fn run(arguments: &Arguments, global: &GlobalOptions) -> Result<()> {
    let paths: Vec<&PathBuf> = arguments.model.iter().chain(&arguments.models).collect();
    let mut names = arguments.names(&paths)?;
    let other_names = if paths.len() == 1 { names.split_off(1) } else { Vec::new() };
    let template = arguments.chat_template()?;
    let mut options = arguments.server_options()?;
    options.api_keys.retain(|key| !key.is_empty());
    let mut loaded = Vec::new();
    for path in paths {
        let file = GgufFile::open(path)?;
        let about = about(&file);
        interrupt::check()?;
        let mut engine = Engine::load_file(file, arguments.engine.options())?;
        if let Some(template) = &template {
            engine.set_chat_template(template.clone());
        }
        loaded.push((path, about, engine));
    }
    let (memory, cache) = arguments.memory(loaded.len());
    let mut models = Vec::new();
    for ((path, about, engine), name) in loaded.into_iter().zip(&names) {
        let metrics = Arc::new(ModelMetrics::new(engine.context_length()));
        let options = ServiceOptions {
            observer: Some(Arc::clone(&metrics) as _),
            ..arguments.service_options(memory, cache)
        };
        let service = Service::start(engine, options)?;
        models.push(Served {
            name: name.clone(),
            other_names: other_names
                .iter()
                .cloned()
                .chain([stem(path), path.display().to_string()])
                .collect(),
            path: path.clone(),
            service,
            metrics,
            about,
            default_new_tokens: arguments.default_new_tokens(),
        });
    }
    let server = Server::bind(options, models)?;
    let address = format!("http://{}", server.address());
    if global.json {
        print_json(&json!({ "address": address, "models": names }))?;
    } else {
        say!("{address} serves {}", names.join(", "))?;
    }
    server.run(interrupt::requested);
    Ok(())
}

impl Arguments {
    /// A name for each model, no two the same. One model alone may have several.
    fn names(&self, paths: &[&PathBuf]) -> Result<Vec<String>> {
        let fits = self.alias.len() == paths.len() || paths.len() == 1;
        if !self.alias.is_empty() && !fits {
            bail!(
                "--alias has {} names for {} models: give one for each, in their order",
                self.alias.len(),
                paths.len()
            );
        }
        let names: Vec<String> = match self.alias.is_empty() {
            true => paths.iter().map(|path| stem(path)).collect(),
            false => self.alias.clone(),
        };
        let mut seen = HashSet::new();
        match names.iter().find(|name| !seen.insert(name.as_str())) {
            Some(name) => bail!("two models are called {name}: give each a name with --alias"),
            None => Ok(names),
        }
    }

    /// The template that chats are to have.
    fn chat_template(&self) -> Result<Option<String>> {
        let Some(path) = &self.chat_template_file else { return Ok(None) };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the template in {}", path.display()))?;
        Ok(Some(text))
    }

    fn server_options(&self) -> Result<ServerOptions> {
        let mut api_keys = self.api_key.clone();
        if let Some(path) = &self.api_key_file {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the keys in {}", path.display()))?;
            let before = api_keys.len();
            let keys = text.lines().map(str::trim).filter(|line| !line.is_empty());
            api_keys.extend(keys.map(str::to_string));
            if api_keys.len() == before {
                bail!("{}: holds no key", path.display());
            }
        }
        Ok(ServerOptions {
            host: self.host.clone(),
            port: self.port,
            api_keys,
            timeout: Duration::from_secs(self.timeout),
            largest_body: usize::try_from(self.max_body).unwrap_or(usize::MAX),
            cors: self.cors.clone(),
            sampling: self.sampling.defaults()?,
            shows_slots: !self.no_slots,
        })
    }

    /// Bytes for running requests, and bytes for the cache. Each of the `models` gets as much.
    fn memory(&self, models: usize) -> (u64, u64) {
        let free = machine::available_memory().map(|free| free as f64 * MEMORY_SHARE);
        let share = |part: f64| free.map(|free| (free * part / models as f64) as u64);
        let cache = self.cache.or(share(CACHE_SHARE)).unwrap_or(0);
        let memory = self.memory.or(share(1.0 - CACHE_SHARE)).unwrap_or(u64::MAX);
        (memory, cache)
    }

    fn service_options(&self, memory_bytes: u64, cache_bytes: u64) -> ServiceOptions {
        ServiceOptions {
            scheduler: SchedulerOptions {
                max_batch: usize::from(self.parallel),
                prefill_chunk: self.prefill_chunk as usize,
                context: if self.ctx_size == 0 { usize::MAX } else { self.ctx_size },
                cache_bytes,
                memory_bytes,
            },
            max_queue: self.max_queue,
            observer: None,
        }
    }

    /// Negative numbers are llama-server's way to say: no limit.
    fn default_new_tokens(&self) -> Option<usize> {
        self.n_predict.and_then(|count| usize::try_from(count).ok())
    }
}

fn stem(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or(path.as_os_str());
    stem.to_string_lossy().into_owned()
}

fn about(file: &GgufFile) -> About {
    let metadata = file.metadata();
    let architecture = metadata.string("general.architecture").unwrap_or_default().to_string();
    let hidden = metadata.unsigned(&format!("{architecture}.embedding_length"));
    About {
        title: metadata.string("general.name").map(str::to_string),
        parameters: file.tensors().iter().map(|tensor| tensor.weights()).sum(),
        bytes: file.file_bytes(),
        hidden: hidden.and_then(|hidden| usize::try_from(hidden).ok()).unwrap_or(0),
        architecture,
    }
}
