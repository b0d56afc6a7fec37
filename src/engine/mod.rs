//! Sequences, batches, scheduler, sampler: the only door to a running model.

mod admission;
mod build;
mod chat;
mod generation;
mod options;
mod prefix_cache;
mod probabilities;
mod request;
mod sampler;
mod scheduler;
mod service;

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use crate::gguf::GgufFile;
use crate::jinja::TemplateError;
use crate::model::profile::{Operation, Profile};
use crate::model::{ActivationObserver, BatchItem, Decoder, ModelError, SequenceCache};
use crate::support::interrupt::Interrupted;
use crate::support::processor::Level;
use crate::support::reuse::emptied;
use crate::support::units;
use crate::tokenizer::Vocabulary;

pub use admission::Refusal;
pub use build::Build;
pub use chat::{ChatMessage, render_chat};
pub use generation::{Generation, GenerationUpdate, TextStream, generate};
pub use options::{DeviceChoice, EngineOptions};
pub use probabilities::Probabilities;
pub use request::{
    EndToken, Event, FinishReason, LogitsWatcher, Progress, Request, RequestId, Watch,
};
pub use sampler::{Filter, Sampler, Sampling};
pub use scheduler::{Scheduler, SchedulerOptions};
pub use service::{
    EventSink, Facts, Finish, Observer, Service, ServiceEvent, ServiceOptions, Slot, Status,
    Ticket, Timings, Totals,
};

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
    /// The model's chat template gives no prompt.
    #[error("the model's chat template: {0}")]
    Template(#[from] TemplateError),
    /// Ctrl-C.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
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
#[derive(Debug, Clone, Copy)]
pub struct Logits<'a> {
    /// Width of a row.
    pub vocabulary: usize,
    /// All values.
    pub values: &'a [f32],
}

impl<'a> Logits<'a> {
    /// The logits of row `index`.
    pub fn row(&self, index: usize) -> &'a [f32] {
        &self.values[index * self.vocabulary..(index + 1) * self.vocabulary]
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.values.len().checked_div(self.vocabulary).unwrap_or(0)
    }
}

/// Logits of all items of a step. They lie in the engine's memory until its next step.
#[derive(Debug, Clone, Copy)]
pub struct StepLogits<'a> {
    vocabulary: usize,
    values: &'a [f32],
    /// How many rows there are up to the end of each item.
    ends: &'a [usize],
}

impl<'a> StepLogits<'a> {
    /// Rows of `vocabulary` values, dealt out to items: `ends` says how many rows there are up to
    /// the end of each.
    pub(crate) fn new(vocabulary: usize, values: &'a [f32], ends: &'a [usize]) -> Self {
        Self { vocabulary, values, ends }
    }

    /// Those of item `index`; none where it was [`LogitsFor::None`].
    pub fn item(&self, index: usize) -> Logits<'a> {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        let values = &self.values[start * self.vocabulary..self.ends[index] * self.vocabulary];
        Logits { vocabulary: self.vocabulary, values }
    }

    /// How many items there are.
    pub fn items(&self) -> usize {
        self.ends.len()
    }

    /// The rows of all items, one behind another.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }
}

/// A loaded model with its sequences. All sequences share the weights, and forks share their
/// prefix's keys and values.
#[derive(Debug)]
pub struct Engine {
    decoder: Decoder,
    vocabulary: Vocabulary,
    options: EngineOptions,
    sequences: HashMap<SequenceId, SequenceCache>,
    next_id: usize,
    /// The caches of a step's sequences, while it runs.
    stepping: Vec<SequenceCache>,
    /// The memory of a step's items, kept from step to step.
    batch: Vec<BatchItem<'static>>,
    /// How many rows of logits the last step gave up to the end of each item.
    ends: Vec<usize>,
}

impl Engine {
    /// Loads a GGUF model.
    ///
    /// # Errors
    /// A file that is no GGUF model that quantkit can run, and a device that is not there.
    pub fn load(path: &Path, options: EngineOptions) -> Result<Self, EngineError> {
        Self::load_file(GgufFile::open(path)?, options)
    }

    /// [`Engine::load`] of an open file: for those who have to know which one it is.
    ///
    /// # Errors
    /// As [`Engine::load`].
    pub fn load_file(file: GgufFile, options: EngineOptions) -> Result<Self, EngineError> {
        let started = Instant::now();
        let device = options.open_device()?;
        let path = file.path().to_path_buf();
        let unusable =
            |problem: String| EngineError::Unusable(format!("{}: {problem}", path.display()));
        let vocabulary = Vocabulary::from_metadata(file.metadata())
            .map_err(|error| unusable(error.to_string()))?;
        let decoder = Decoder::load(file, &device, options.kernel_options())?;
        if vocabulary.size != decoder.vocabulary() {
            return Err(unusable(format!(
                "the tokenizer has {} tokens, but the model's embedding has {}",
                vocabulary.size,
                decoder.vocabulary()
            )));
        }
        tracing::info!(
            "{} loaded in {}: {}, key-value cache in {}, activations of {} bits, {} threads, {} kernels",
            path.display(),
            units::duration(started.elapsed()),
            options.device,
            options.kv_type_name(),
            options.activations.bits(),
            rayon::current_num_threads(),
            Level::current().name()
        );
        Ok(Self {
            decoder,
            vocabulary,
            options,
            sequences: HashMap::new(),
            next_id: 0,
            stepping: Vec::new(),
            batch: Vec::new(),
            ends: Vec::new(),
        })
    }

    /// The model's tokenizer.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// Puts a Jinja template in the place of the model's own.
    pub fn set_chat_template(&mut self, template: String) {
        self.vocabulary.chat_template = Some(template);
    }

    /// The longest context that the model was trained for, in tokens.
    pub fn context_length(&self) -> usize {
        self.decoder.context()
    }

    /// Where and how the model runs.
    pub fn options(&self) -> EngineOptions {
        self.options
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

    /// The length up to which the model computes a sequence otherwise than a longer one (LongRoPE); none
    /// in most models. Sequences can fork only if both are short or both are long.
    pub fn original_context(&self) -> Option<usize> {
        self.decoder.original_context()
    }

    /// An empty sequence. `expected_tokens` is how long it will become; it saves copying, and is no limit
    /// except in models with an [`Engine::original_context`], which a sequence that was begun for less
    /// cannot outgrow.
    pub fn start(&mut self, expected_tokens: usize) -> SequenceId {
        self.start_with_room(expected_tokens, expected_tokens)
    }

    /// [`Engine::start`] of a sequence that may become as long as `longest`, but will rarely be longer than
    /// `room`.
    pub fn start_with_room(&mut self, longest: usize, room: usize) -> SequenceId {
        self.insert(SequenceCache::with_room(longest, room))
    }

    /// A new sequence that begins with everything `parent` holds now, without copying it. It is computed
    /// like one of the length that `parent` was begun for.
    ///
    /// # Panics
    /// If `parent` has ended.
    pub fn fork(&mut self, parent: SequenceId, expected_new_tokens: usize) -> SequenceId {
        let parent = self.sequences.get_mut(&parent).expect("the sequence has not ended");
        let child = parent.fork(expected_new_tokens);
        self.insert(child)
    }

    /// [`Engine::fork`] of the first `length` tokens of `parent` alone.
    ///
    /// # Panics
    /// If `parent` has ended or holds fewer.
    pub fn fork_at(
        &mut self,
        parent: SequenceId,
        length: usize,
        expected_new_tokens: usize,
    ) -> SequenceId {
        let parent = self.sequences.get_mut(&parent).expect("the sequence has not ended");
        let child = parent.fork_at(length, expected_new_tokens);
        self.insert(child)
    }

    /// Says anew how many tokens a sequence will get, which saves copying.
    pub fn expect(&mut self, sequence: SequenceId, new_tokens: usize) {
        if let Some(cache) = self.sequences.get_mut(&sequence) {
            cache.expect(new_tokens);
        }
    }

    /// The pieces of memory that a sequence's keys and values lie in: each by a number that no other
    /// has, with its bytes. Forks share pieces.
    pub fn memory_of(&self, sequence: SequenceId) -> impl Iterator<Item = (usize, u64)> {
        let token = self.cache_bytes_per_token() as u64;
        let held = self.sequences.get(&sequence).into_iter().flat_map(SequenceCache::held);
        held.map(move |(piece, tokens)| (piece, tokens as u64 * token))
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

    /// The names of the weight matrices, and what the product with each is counted as in a profile.
    pub fn operations(&self) -> Vec<(&str, Operation)> {
        self.decoder.operations()
    }

    /// Bytes that the weight matrices take in memory.
    pub fn packed_bytes(&self) -> u64 {
        self.decoder.packed_bytes()
    }

    /// Runs all items through the model at once: prefills and decodes of any lengths mix freely.
    /// The logits stay until the next step.
    ///
    /// # Errors
    /// A sequence that would outgrow the context, that has ended or that comes twice, an unknown
    /// token, a failed tensor operation. The sequences then hold what they held before.
    pub fn step(&mut self, items: &[StepItem<'_>]) -> Result<StepLogits<'_>, EngineError> {
        self.step_with(items, Decoder::forward)
    }

    /// [`Engine::step`], with somebody who sees what the weight matrices are multiplied with.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub fn step_observed(
        &mut self,
        items: &[StepItem<'_>],
        observer: &mut dyn ActivationObserver,
    ) -> Result<StepLogits<'_>, EngineError> {
        self.step_with(items, |decoder, batch| decoder.forward_observed(batch, observer))
    }

    /// [`Engine::step`], adding to a profile what the model's operations cost.
    ///
    /// # Errors
    /// As [`Engine::step`].
    pub fn step_profiled(
        &mut self,
        items: &[StepItem<'_>],
        profile: &mut Profile,
    ) -> Result<StepLogits<'_>, EngineError> {
        self.step_with(items, |decoder, batch| decoder.forward_profiled(batch, profile))
    }

    fn step_with(
        &mut self,
        items: &[StepItem<'_>],
        run: impl for<'d> FnOnce(&'d mut Decoder, &mut [BatchItem<'_>]) -> Result<&'d [f32], ModelError>,
    ) -> Result<StepLogits<'_>, EngineError> {
        for item in items {
            self.check_item(item)?;
        }
        self.take_caches(items)?;
        let mut batch = emptied(std::mem::take(&mut self.batch));
        batch.extend(self.stepping.iter_mut().zip(items).map(|(cache, item)| BatchItem {
            cache,
            tokens: item.tokens,
            logits: item.rows(),
        }));
        let vocabulary = self.decoder.vocabulary();
        let values = run(&mut self.decoder, &mut batch);
        self.batch = emptied(batch);
        self.sequences.extend(items.iter().map(|item| item.sequence).zip(self.stepping.drain(..)));
        self.ends.clear();
        self.ends.extend(items.iter().scan(0, |rows, item| {
            *rows += item.rows();
            Some(*rows)
        }));
        Ok(StepLogits::new(vocabulary, values?, &self.ends))
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
    fn take_caches(&mut self, items: &[StepItem<'_>]) -> Result<(), EngineError> {
        for item in items {
            if let Some(cache) = self.sequences.remove(&item.sequence) {
                self.stepping.push(cache);
                continue;
            }
            let taken = items.iter().map(|item| item.sequence).zip(self.stepping.drain(..));
            self.sequences.extend(taken);
            return Err(EngineError::Unusable(
                "a step has a sequence that has ended, or the same one twice".to_string(),
            ));
        }
        Ok(())
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
