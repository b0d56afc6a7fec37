//! The decoder: a llama-like transformer, one forward pass for prefill and decode alike.

mod staged;

use candle_core::{Device, Result as TensorResult, Tensor};

use super::ModelError;
use super::cache::SequenceCache;
use super::config::Config;
use super::observer::ActivationObserver;
use super::ops::{AttentionPart, KernelOps, Ops, RopeTable, TensorOps};
use super::rope::RopePairs;
use super::weights::{EMBEDDING, Layer, Stacking, Weights};
use crate::gguf::{GgufFile, TensorInfo};
use crate::kernels::attention::AttentionShape;
use crate::quant::formats::{can_dequantize, dequantize_row};

pub use staged::{Residual, StandIn};

use staged::EmbeddingRows;

/// One sequence's tokens in a forward pass.
#[derive(Debug)]
pub struct BatchItem<'a> {
    /// What the sequence holds already; the tokens are appended to it.
    pub cache: &'a mut SequenceCache,
    /// The tokens; at least one.
    pub tokens: &'a [u32],
    /// The last this many tokens give logits.
    pub logits: usize,
}

/// A loaded model.
#[derive(Debug)]
pub struct Decoder {
    config: Config,
    file: GgufFile,
    embedding: TensorInfo,
    /// What is looked up instead of the file's embedding.
    embedding_rows: Option<EmbeddingRows>,
    weights: Weights,
    ops: Box<dyn Ops>,
}

impl Decoder {
    /// Loads the model of a GGUF file: on the CPU for quantkit's own kernels, elsewhere for
    /// candle's.
    ///
    /// # Errors
    /// An unknown architecture, metadata or tensors that do not fit together, and formats that
    /// cannot be run.
    pub fn load(file: GgufFile, device: &Device) -> Result<Self, ModelError> {
        Self::load_with(file, ops_for(device), Stacking::OfOneType)
    }

    /// Loads the model so that each matrix can be exchanged ([`Decoder::exchange`]); steps start a few
    /// more products.
    ///
    /// # Errors
    /// As [`Decoder::load`].
    pub fn load_separately(file: GgufFile, device: &Device) -> Result<Self, ModelError> {
        Self::load_with(file, ops_for(device), Stacking::None)
    }

    pub(super) fn load_with(
        file: GgufFile,
        ops: Box<dyn Ops>,
        stacking: Stacking,
    ) -> Result<Self, ModelError> {
        let config = Config::from_gguf(&file)?;
        let weights = Weights::load(&file, &config, &*ops, stacking)?;
        let embedding = file.tensor(EMBEDDING).cloned().expect("it was checked with the others");
        if !can_dequantize(embedding.ggml_type) {
            let problem =
                format!("{EMBEDDING} is {}, which quantkit cannot read", embedding.ggml_type);
            return Err(ModelError::unsupported(file.path(), problem));
        }
        Ok(Self { config, file, embedding, embedding_rows: None, weights, ops })
    }

    /// The model's shape and constants.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Number of tokens in the vocabulary: the width of a row of logits.
    pub fn vocabulary(&self) -> usize {
        self.embedding.rows()
    }

    /// Runs the tokens of all items through the model and appends them to their caches. Returns
    /// the wanted logits, `rows × vocabulary`, in the order of the items and their tokens. After
    /// an error, the caches hold what they held before.
    ///
    /// The caller sees to it that tokens are in the vocabulary and sequences in the context.
    ///
    /// # Errors
    /// A failed tensor operation, such as memory running out on a device.
    pub fn forward(&self, items: &mut [BatchItem<'_>]) -> Result<Vec<f32>, ModelError> {
        self.forward_observed(items, &mut ())
    }

    /// [`Decoder::forward`], with somebody who sees what the weight matrices are multiplied with:
    /// the output matrix with every token, whether or not it gives logits.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn forward_observed(
        &self,
        items: &mut [BatchItem<'_>],
        observer: &mut dyn ActivationObserver,
    ) -> Result<Vec<f32>, ModelError> {
        let ops = &*self.ops;
        for item in items.iter_mut() {
            item.cache.reserve(item.tokens.len(), &self.config, ops)?;
        }
        let rope = self.rope_table(items)?;
        let mut hidden = self.embed(items)?;
        for (index, layer) in self.weights.layers.iter().enumerate() {
            hidden = self.layer(index, layer, &hidden, &rope, items, observer)?;
        }
        let logits = self.logits(&hidden, items, observer)?;
        for item in items {
            item.cache.commit(item.tokens.len());
        }
        Ok(logits)
    }

    /// The residual stream after a layer.
    fn layer(
        &self,
        index: usize,
        layer: &Layer,
        hidden: &Tensor,
        rope: &RopeTable,
        items: &[BatchItem<'_>],
        observer: &mut dyn ActivationObserver,
    ) -> TensorResult<Tensor> {
        let attention = self.attention(index, layer, hidden, rope, items, observer)?;
        let hidden = self.ops.add(hidden, &attention)?;
        let update = self.feed_forward(layer, &hidden, observer)?;
        self.ops.add(&hidden, &update)
    }

    fn attention(
        &self,
        index: usize,
        layer: &Layer,
        hidden: &Tensor,
        rope: &RopeTable,
        items: &[BatchItem<'_>],
        observer: &mut dyn ActivationObserver,
    ) -> TensorResult<Tensor> {
        let ops = &*self.ops;
        let Config { heads, kv_heads, head_size, norm_epsilon, .. } = self.config;
        let normed = ops.rms_norm(hidden, &layer.attention_norm, norm_epsilon)?;
        let projected = layer.queries_keys_values.apply(ops, &normed, observer)?;
        let [queries, keys, values] = &projected[..] else {
            candle_core::bail!("queries, keys and values are three projections");
        };
        let queries = self.turn(queries, layer.query_norm.as_ref(), rope)?;
        let keys = self.turn(keys, layer.key_norm.as_ref(), rope)?;
        let mut parts = Vec::with_capacity(items.len());
        let mut start = 0;
        for item in items {
            let count = item.tokens.len();
            let rows = |tensor: &Tensor| tensor.narrow(0, start, count);
            ops.store(item.cache.tail()?, index, &rows(&keys)?, &rows(values)?)?;
            parts.push(AttentionPart { start, count, cache: item.cache });
            start += count;
        }
        let scale = self.config.attention_scale;
        let shape = AttentionShape { heads, kv_heads, head_size, scale };
        let mixed = ops.attention(shape, index, &queries, &parts)?;
        layer.attention_output.apply_one(ops, &mixed, observer)
    }

    /// Queries or keys: normalised head by head where the family does that, then turned.
    fn turn(
        &self,
        input: &Tensor,
        norm: Option<&Tensor>,
        rope: &RopeTable,
    ) -> TensorResult<Tensor> {
        let head_size = self.config.head_size;
        let Some(norm) = norm else { return self.ops.rope(input, head_size, rope) };
        let (tokens, width) = input.dims2()?;
        let heads = input.contiguous()?.reshape((tokens * width / head_size, head_size))?;
        let normed = self.ops.rms_norm(&heads, norm, self.config.norm_epsilon)?;
        self.ops.rope(&normed.reshape((tokens, width))?, head_size, rope)
    }

    fn feed_forward(
        &self,
        layer: &Layer,
        hidden: &Tensor,
        observer: &mut dyn ActivationObserver,
    ) -> TensorResult<Tensor> {
        let ops = &*self.ops;
        let normed = ops.rms_norm(hidden, &layer.feed_forward_norm, self.config.norm_epsilon)?;
        let projected = layer.gate_up.apply(ops, &normed, observer)?;
        let [gate, up] = &projected[..] else {
            candle_core::bail!("gate and up are two projections");
        };
        layer.down.apply_one(ops, &ops.silu_multiply(gate, up)?, observer)
    }

    /// The final norm and the output matrix, for the wanted rows only.
    fn logits(
        &self,
        hidden: &Tensor,
        items: &[BatchItem<'_>],
        observer: &mut dyn ActivationObserver,
    ) -> TensorResult<Vec<f32>> {
        let output = &self.weights.output;
        if output.is_wanted(observer) {
            output.show(&self.output_norm(hidden)?, observer)?;
        }
        let mut wanted = Vec::new();
        let mut end = 0;
        for item in items {
            end += item.tokens.len();
            if item.logits > 0 {
                wanted.push(hidden.narrow(0, end - item.logits, item.logits)?);
            }
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        self.output(&Tensor::cat(&wanted, 0)?)
    }

    /// The logits of rows of the residual stream.
    fn output(&self, rows: &Tensor) -> TensorResult<Vec<f32>> {
        let normed = self.output_norm(rows)?;
        self.weights.output.apply_one(&*self.ops, &normed, &mut ())?.flatten_all()?.to_vec1()
    }

    /// What the output matrix is multiplied with, of rows of the residual stream.
    fn output_norm(&self, rows: &Tensor) -> TensorResult<Tensor> {
        self.ops.rms_norm(rows, &self.weights.output_norm, self.config.norm_epsilon)
    }

    /// The embeddings of all tokens, dequantized from the file row by row.
    fn embed(&self, items: &[BatchItem<'_>]) -> Result<Tensor, ModelError> {
        let (ggml_type, bytes) = match &self.embedding_rows {
            Some(rows) => (rows.ggml_type, &rows.bytes[..]),
            None => (self.embedding.ggml_type, self.file.tensor_bytes(&self.embedding)),
        };
        let (hidden, row_bytes) = (self.config.hidden, bytes.len() / self.embedding.rows());
        let tokens = items.iter().flat_map(|item| item.tokens);
        let mut values = vec![0f32; tokens.clone().count() * hidden];
        for (&token, row) in tokens.zip(values.chunks_exact_mut(hidden)) {
            let row_bytes = &bytes[token as usize * row_bytes..][..row_bytes];
            dequantize_row(ggml_type, row_bytes, row).map_err(|error| {
                ModelError::unsupported(self.file.path(), format!("{EMBEDDING}: {error}"))
            })?;
        }
        let count = values.len() / hidden;
        Ok(Tensor::from_vec(values, (count, hidden), self.ops.device())?)
    }

    fn rope_table(&self, items: &[BatchItem<'_>]) -> TensorResult<RopeTable> {
        let positions: Vec<u32> = items
            .iter()
            .flat_map(|item| (item.cache.length()..).take(item.tokens.len()))
            .map(|position| position as u32)
            .collect();
        let frequencies = &self.weights.rope;
        let (cosines, sines) = frequencies.table(&positions);
        let shape = (positions.len(), frequencies.pairs());
        let device = self.ops.device();
        Ok(RopeTable {
            cosines: Tensor::from_vec(cosines, shape, device)?,
            sines: Tensor::from_vec(sines, shape, device)?,
            pairs: frequencies.pairs(),
            halves: self.config.family.rope_pairs == RopePairs::Halves,
        })
    }

    /// Bytes of one token's keys and values over all layers.
    pub fn cache_bytes_per_token(&self) -> usize {
        2 * self.config.layers * self.config.kv_heads * self.ops.cache_row_bytes(&self.config)
    }
}

/// The back end for a device.
fn ops_for(device: &Device) -> Box<dyn Ops> {
    match device {
        Device::Cpu => Box::new(KernelOps),
        device => Box::new(TensorOps::new(device.clone())),
    }
}
