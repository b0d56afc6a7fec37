//! Sequences, batches, scheduler, sampler: the only door to a running model.

use std::path::Path;

use crate::convert::vocabulary::Vocabulary;

/// An error of the engine: names the file or the request, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The request or the model cannot be served.
    #[error("{0}")]
    Unusable(String),
    /// The model file cannot be read.
    #[error(transparent)]
    Gguf(#[from] crate::gguf::GgufError),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// Where a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The CPU.
    Cpu,
    /// A CUDA device by number; needs a build with `--features cuda`.
    Cuda(usize),
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
        if self.vocabulary == 0 { 0 } else { self.values.len() / self.vocabulary }
    }
}

/// A loaded model with its sequences. All sequences share the weights, and forks share their
/// prefix's keys and values.
#[derive(Debug)]
pub struct Engine {}

impl Engine {
    /// Loads a GGUF model.
    pub fn load(path: &Path, device: DeviceChoice) -> Result<Self, EngineError> {
        todo!("{} {device:?}", path.display())
    }

    /// The model's tokenizer.
    pub fn vocabulary(&self) -> &Vocabulary {
        todo!()
    }

    /// The longest context that the model was trained for, in tokens.
    pub fn context_length(&self) -> usize {
        todo!()
    }

    /// Bytes of one token's keys and values over all layers.
    pub fn cache_bytes_per_token(&self) -> usize {
        todo!()
    }

    /// An empty sequence. `expected_tokens` is how long it will probably become; it saves copying
    /// and is no limit.
    pub fn start(&mut self, expected_tokens: usize) -> SequenceId {
        todo!("{expected_tokens}")
    }

    /// A new sequence that begins with everything `parent` holds now, without copying it.
    pub fn fork(&mut self, parent: SequenceId, expected_new_tokens: usize) -> SequenceId {
        todo!("{parent:?} {expected_new_tokens}")
    }

    /// Tokens that a sequence holds.
    pub fn length(&self, sequence: SequenceId) -> usize {
        todo!("{sequence:?}")
    }

    /// Forgets a sequence and frees what no other shares with it.
    pub fn end(&mut self, sequence: SequenceId) {
        todo!("{sequence:?}")
    }

    /// Runs all items through the model at once: prefills and decodes of any lengths mix freely.
    /// Returns one [`Logits`] an item, in order (empty for [`LogitsFor::None`]).
    ///
    /// # Errors
    /// A sequence that would outgrow the context, an unknown token, a failed tensor operation.
    pub fn step(&mut self, items: &[StepItem<'_>]) -> Result<Vec<Logits>, EngineError> {
        todo!("{}", items.len())
    }
}
