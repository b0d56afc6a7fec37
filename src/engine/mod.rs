//! Sequences, batches, scheduler, sampler: the only door to a running model.

mod build;
mod chat;
mod generation;
mod sampler;
mod scheduler;

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use candle_core::Device;

use crate::convert::vocabulary::Vocabulary;
use crate::gguf::GgufFile;
use crate::model::{ActivationObserver, BatchItem, Decoder, ModelError, SequenceCache};
use crate::support::interrupt::Interrupted;
use crate::support::processor;
use crate::support::units;

pub use build::Build;
pub use chat::{ChatMessage, render_chat};
pub use generation::{Generation, GenerationUpdate, TextStream, generate};
pub use sampler::{Sampler, Sampling};
pub use scheduler::{Event, FinishReason, Request, RequestId, Scheduler, SchedulerOptions};

/// An error of the engine: names the file or the request, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The request or the model cannot be served.
    #[error("{0}")]
    Unusable(String),
    /// The model file cannot be read.
    #[error(transparent)]
    Gguf(#[from] crate::gguf::GgufError),
    /// The model cannot be loaded or run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Ctrl-C.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The CPU.
    Cpu,
    /// A CUDA device by number; needs a build with `--features cuda`.
    Cuda(usize),
}

/// As `--device` takes it and as results record it: `cpu` or `cuda:N`.
impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => formatter.write_str("cpu"),
            Self::Cuda(number) => write!(formatter, "cuda:{number}"),
        }
    }
}

/// A handle to a sequence that lives in the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SequenceId(usize);

/// Which positions of a step's tokens give logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitsFor {
    /// None of them.
    None,
    /// The last one.
    Last,
    /// Every one.
    All,
}

/// One sequence's share of a step.
#[derive(Debug, Clone, Copy)]
pub struct StepItem<'a> {
    /// The sequence to extend.
    pub sequence: SequenceId,
    /// The tokens to append; at least one.
    pub tokens: &'a [u32],
    /// Which of them need logits.
    pub logits: LogitsFor,
}

/// Logits of one step item: `rows × vocabulary`, row-major.
#[derive(Debug, Clone, Default)]
pub struct Logits {
    /// Width of a row.
    pub vocabulary: usize,
    /// All values.
    pub values: Vec<f32>,
}

impl Logits {
    /// The logits of row `index`.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.vocabulary..(index + 1) * self.vocabulary]
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.values.len().checked_div(self.vocabulary).unwrap_or(0)
    }
}

/// A loaded model with its sequences. All sequences share the weights, and forks share their
/// prefix's keys and values.
#[derive(Debug)]
pub struct Engine {
    decoder: Decoder,
    vocabulary: Vocabulary,
    device: DeviceChoice,
    sequences: HashMap<SequenceId, SequenceCache>,
    next_id: usize,
}

impl Engine {
    /// Loads a GGUF model.
    ///
    /// # Errors
    /// A file that is no GGUF model that quantkit can run, and a device that is not there.
    pub fn load(path: &Path, device: DeviceChoice) -> Result<Self, EngineError> {
        let started = Instant::now();
        let tensor_device = open_device(device)?;
        let file = GgufFile::open(path)?;
        let unusable =
            |problem: String| EngineError::Unusable(format!("{}: {problem}", path.display()));
        let vocabulary = Vocabulary::from_metadata(file.metadata())
            .map_err(|error| unusable(error.to_string()))?;
        let decoder = Decoder::load(file, &tensor_device)?;
        if vocabulary.size != decoder.vocabulary() {
            return Err(unusable(format!(
                "the tokenizer has {} tokens, but the model's embedding has {}",
                vocabulary.size,
                decoder.vocabulary()
            )));
        }
        tracing::info!(
            "{} loaded in {}: {device}, {} threads, {} kernels",
            path.display(),
            units::duration(started.elapsed()),
            rayon::current_num_threads(),
            processor::in_use()
        );
        Ok(Self { decoder, vocabulary, device, sequences: HashMap::new(), next_id: 0 })
    }

    /// The model's tokenizer.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The longest context that the model was trained for, in tokens.
    pub fn context_length(&self) -> usize {
        self.decoder.config().context_length
    }

    /// Where the model runs.
    pub fn device(&self) -> DeviceChoice {
        self.device
    }

    /// Checks that a prompt can be run: that it is not empty and fits in the context.
    ///
    /// # Errors
    /// Says what is wrong, with both lengths.
    pub fn check_prompt(&self, prompt: &[u32]) -> Result<(), EngineError> {
        if prompt.is_empty() {
            return Err(EngineError::Unusable("the prompt is empty: it has no token".to_string()));
        }
        self.check_length(prompt.len(), "the prompt")?;
        self.check_tokens(prompt)
    }

    fn check_length(&self, tokens: usize, what: &str) -> Result<(), EngineError> {
        let context = self.context_length();
        if tokens <= context {
            return Ok(());
        }
        Err(EngineError::Unusable(format!(
            "{what} has {tokens} tokens, but the model's context holds {context}"
        )))
    }

    fn check_tokens(&self, tokens: &[u32]) -> Result<(), EngineError> {
        let size = self.decoder.vocabulary();
        match tokens.iter().find(|&&token| token as usize >= size) {
            None => Ok(()),
            Some(token) => Err(EngineError::Unusable(format!(
                "the token {token} is outside the vocabulary of {size}"
            ))),
        }
    }

    /// Bytes of one token's keys and values over all layers.
    pub fn cache_bytes_per_token(&self) -> usize {
        self.decoder.cache_bytes_per_token()
    }

    /// An empty sequence. `expected_tokens` is how long it will probably become; it saves copying
    /// and is no limit.
    pub fn start(&mut self, expected_tokens: usize) -> SequenceId {
        self.insert(SequenceCache::new(expected_tokens))
    }

    /// A new sequence that begins with everything `parent` holds now, without copying it.
    ///
    /// # Panics
    /// If `parent` has ended.
    pub fn fork(&mut self, parent: SequenceId, expected_new_tokens: usize) -> SequenceId {
        let parent = self.sequences.get_mut(&parent).expect("the sequence has not ended");
        let child = parent.fork(expected_new_tokens);
        self.insert(child)
    }

    fn insert(&mut self, cache: SequenceCache) -> SequenceId {
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        self.sequences.insert(id, cache);
        id
    }

    /// Tokens that a sequence holds; 0 if it has ended.
    pub fn length(&self, sequence: SequenceId) -> usize {
        self.sequences.get(&sequence).map_or(0, SequenceCache::length)
    }

    /// Forgets a sequence and frees what no other shares with it.
    pub fn end(&mut self, sequence: SequenceId) {
        self.sequences.remove(&sequence);
    }

    /// Runs all items through the model at once: prefills and decodes of any lengths mix freely.
    /// Returns one [`Logits`] an item, in order (empty for [`LogitsFor::None`]).
    ///
    /// # Errors
    /// A sequence that would outgrow the context, that has ended or that comes twice, an unknown
    /// token, a failed tensor operation. The sequences then hold what they held before.
    pub fn step(&mut self, items: &[StepItem<'_>]) -> Result<Vec<Logits>, EngineError> {
        self.step_observed(items, &mut ())
    }

    /// [`Engine::step`], with somebody who sees what the weight matrices are multiplied with.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub fn step_observed(
        &mut self,
        items: &[StepItem<'_>],
        observer: &mut dyn ActivationObserver,
    ) -> Result<Vec<Logits>, EngineError> {
        for item in items {
            self.check_item(item)?;
        }
        let mut caches = self.take_caches(items)?;
        let mut batch: Vec<BatchItem<'_>> = caches
            .iter_mut()
            .zip(items)
            .map(|(cache, item)| BatchItem { cache, tokens: item.tokens, logits: item.rows() })
            .collect();
        let decoder = &self.decoder;
        // On a worker of the pool, the many small parallel loops of a step start without waking
        // another thread for each.
        let result = rayon::scope(|_| decoder.forward_observed(&mut batch, observer));
        self.sequences.extend(items.iter().map(|item| item.sequence).zip(caches));
        Ok(split_rows(&result?, self.decoder.vocabulary(), items))
    }

    fn check_item(&self, item: &StepItem<'_>) -> Result<(), EngineError> {
        if item.tokens.is_empty() {
            return Err(EngineError::Unusable("a step item has no token".to_string()));
        }
        let length = self.length(item.sequence) + item.tokens.len();
        self.check_length(length, "the sequence")?;
        self.check_tokens(item.tokens)
    }

    /// Takes the items' caches out of the table, so that a step can change several at once.
    fn take_caches(&mut self, items: &[StepItem<'_>]) -> Result<Vec<SequenceCache>, EngineError> {
        let mut caches: Vec<SequenceCache> = Vec::with_capacity(items.len());
        for item in items {
            if let Some(cache) = self.sequences.remove(&item.sequence) {
                caches.push(cache);
                continue;
            }
            self.sequences.extend(items.iter().map(|item| item.sequence).zip(caches));
            return Err(EngineError::Unusable(
                "a step has a sequence that has ended, or the same one twice".to_string(),
            ));
        }
        Ok(caches)
    }
}

impl StepItem<'_> {
    /// How many rows of logits the item wants.
    fn rows(&self) -> usize {
        match self.logits {
            LogitsFor::None => 0,
            LogitsFor::Last => 1,
            LogitsFor::All => self.tokens.len(),
        }
    }
}

/// Deals the rows of a step out to its items.
fn split_rows(values: &[f32], vocabulary: usize, items: &[StepItem<'_>]) -> Vec<Logits> {
    let mut rest = values;
    let mut take = |rows: usize| {
        let (own, others) = rest.split_at(rows * vocabulary);
        rest = others;
        Logits { vocabulary, values: own.to_vec() }
    };
    items.iter().map(|item| take(item.rows())).collect()
}

fn open_device(device: DeviceChoice) -> Result<Device, EngineError> {
    match device {
        DeviceChoice::Cpu => Ok(Device::Cpu),
        DeviceChoice::Cuda(_) if !candle_core::utils::cuda_is_available() => {
            Err(EngineError::Unusable(
                "this quantkit was built without CUDA: cargo build --release --features cuda"
                    .to_string(),
            ))
        }
        DeviceChoice::Cuda(number) => Device::new_cuda(number)
            .map_err(|error| EngineError::Unusable(format!("the CUDA device {number}: {error}"))),
    }
}
