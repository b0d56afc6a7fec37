//! The decoder: one forward pass for prefill and decode alike.

mod staged;

use std::time::Instant;

use candle_core::Device;

use super::ModelError;
use super::cache::BatchItem;
use super::embedding::Embedding;
use super::forward::{Embedded, Forward, Model, Watchers};
use super::observer::ActivationObserver;
use super::ops::{KernelOps, KernelOptions, TensorOps};
use super::profile::{Operation, Profile};
use super::spec::DecoderSpec;
use super::weights::kv_shape;
use crate::gguf::GgufFile;

pub use staged::{Residual, StandIn};

/// What runs a model.
#[derive(Debug, Clone)]
pub(super) enum BackEnd {
    /// Quantkit's own kernels, on the CPU.
    Kernels(KernelOptions),
    /// Candle's operations, on any device.
    Tensors(Device),
}

/// A loaded model, with the memory that its steps need.
#[derive(Debug)]
pub struct Decoder {
    spec: DecoderSpec,
    file: GgufFile,
    embedding: Embedding,
    model: Box<dyn Model>,
    /// The embeddings of a step's tokens.
    embeddings: Vec<f32>,
    original_context: Option<usize>,
    /// Those that layers have for themselves.
    layer_embeddings: Vec<f32>,
}

impl Decoder {
    /// Loads the model of a GGUF file: on the CPU for quantkit's own kernels, elsewhere for
    /// candle's, which ignore `options`: their key-value cache holds f16.
    ///
    /// # Errors
    /// An unknown architecture, metadata or tensors that do not fit together, and formats that
    /// cannot be run.
    pub fn load(
        file: GgufFile,
        device: &Device,
        options: KernelOptions,
    ) -> Result<Self, ModelError> {
        let back_end = match device {
            Device::Cpu => BackEnd::Kernels(options),
            device => BackEnd::Tensors(device.clone()),
        };
        Self::load_with(file, back_end)
    }

    pub(super) fn load_with(file: GgufFile, back_end: BackEnd) -> Result<Self, ModelError> {
        let spec = DecoderSpec::from_gguf(&file)?;
        let shape = kv_shape(&spec);
        let model: Box<dyn Model> = match back_end {
            BackEnd::Kernels(options) => {
                Box::new(Forward::load(&file, &spec, KernelOps::new(shape, options))?)
            }
            BackEnd::Tensors(device) => {
                Box::new(Forward::load(&file, &spec, TensorOps::new(shape, device))?)
            }
        };
        let embedding = Embedding::of(&file, &spec)?;
        let original_context = spec.original_context();
        Ok(Self {
            spec,
            file,
            embedding,
            model,
            embeddings: Vec::new(),
            original_context,
            layer_embeddings: Vec::new(),
        })
    }

    /// What the model computes.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Tokens of context that the model was trained for.
    pub fn context(&self) -> usize {
        self.spec.dimensions.context
    }

    /// The length up to which a sequence is computed otherwise than a longer one (LongRoPE); none in most
    /// models. Which of both a sequence is, its first tokens decide, with the length that it was begun
    /// for: whether it grows in one step or many makes no difference.
    pub fn original_context(&self) -> Option<usize> {
        self.original_context
    }

    /// Decoder layers.
    pub fn layers(&self) -> usize {
        self.spec.layers.len()
    }

    /// Number of tokens in the vocabulary: the width of a row of logits.
    pub fn vocabulary(&self) -> usize {
        self.embedding.vocabulary()
    }

    /// Runs the tokens of all items through the model and appends them to their caches. Returns
    /// the wanted logits, `rows × vocabulary`, in the order of the items and their tokens. After
    /// an error, the caches hold what they held before.
    ///
    /// The caller sees to it that tokens are in the vocabulary and sequences in the context.
    ///
    /// # Errors
    /// A sequence that was begun as a short one and would outgrow [`Decoder::original_context`]; a failed
    /// tensor operation, such as memory running out on a device.
    pub fn forward(&mut self, items: &mut [BatchItem<'_>]) -> Result<&[f32], ModelError> {
        self.run(items, Watchers::default())
    }

    /// [`Decoder::forward`], with somebody who sees what the weight matrices are multiplied with:
    /// the output matrix with every token, whether or not it gives logits.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn forward_observed(
        &mut self,
        items: &mut [BatchItem<'_>],
        observer: &mut dyn ActivationObserver,
    ) -> Result<&[f32], ModelError> {
        self.run(items, Watchers { observer: Some(observer), profile: None })
    }

    /// [`Decoder::forward`], adding to a profile what each operation costs.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn forward_profiled(
        &mut self,
        items: &mut [BatchItem<'_>],
        profile: &mut Profile,
    ) -> Result<&[f32], ModelError> {
        self.run(items, Watchers { observer: None, profile: Some(profile) })
    }

    fn run(
        &mut self,
        items: &mut [BatchItem<'_>],
        mut watchers: Watchers<'_>,
    ) -> Result<&[f32], ModelError> {
        self.check_growth(items)?;
        let started = watchers.profile.as_ref().map(|_| Instant::now());
        let tokens =
            items.iter().flat_map(|item| item.tokens.iter().copied().zip(item.cache.length()..));
        let count: usize = items.iter().map(|item| item.tokens.len()).sum();
        let (rows, of_layers) = (&mut self.embeddings, &mut self.layer_embeddings);
        self.embedding.look_up(&self.file, tokens, rows, of_layers)?;
        if let (Some(profile), Some(started)) = (&mut watchers.profile, started) {
            let bytes = count * self.embedding.row_bytes();
            profile.record(Operation::Embedding, started.elapsed(), bytes as u64, 0);
        }
        let embedded = Embedded { residual: &self.embeddings, layers: &self.layer_embeddings };
        Ok(self.model.step(embedded, items, watchers)?)
    }

    /// Refuses a sequence whose earlier keys would not go with its later ones.
    fn check_growth(&self, items: &[BatchItem<'_>]) -> Result<(), ModelError> {
        let Some(original_context) = self.original_context else { return Ok(()) };
        let outgrows = |item: &&BatchItem<'_>| {
            item.sequence_length() <= original_context && item.positions().end > original_context
        };
        match items.iter().find(outgrows) {
            None => Ok(()),
            Some(item) => Err(ModelError::Outgrown {
                original_context,
                begun_for: item.sequence_length(),
                length: item.positions().end,
            }),
        }
    }

    /// Bytes of one token's keys and values over all layers.
    pub fn cache_bytes_per_token(&self) -> usize {
        self.model.cache_bytes_per_token()
    }

    /// The names of the weight matrices, and what the product with each is counted as.
    pub fn operations(&self) -> Vec<(&str, Operation)> {
        self.model.operations()
    }

    /// Bytes that the weight matrices take in memory.
    pub fn packed_bytes(&self) -> u64 {
        self.model.packed_bytes()
    }
}
