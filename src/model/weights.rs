//! Loading a decoder's tensors: every name and shape is checked before any of them is read.

use std::collections::HashSet;

use candle_core::Tensor;
use rayon::prelude::*;

use super::ModelError;
use super::config::Config;
use super::observer::ActivationObserver;
use super::ops::{Matrix, Ops, with_elements};
use super::rope::RopeFrequencies;
use crate::gguf::{GgufFile, TensorInfo};
use crate::quant::formats::dequantize_row;
use crate::support::progress::{Progress, Unit};

/// `x · Wᵀ + b`, for one or more matrices that share their input. Neighbours of one type are
/// stacked, so that a step starts fewer products.
#[derive(Debug)]
pub(super) struct Projection {
    /// The matrices' names in the file.
    tensors: Vec<String>,
    stacks: Vec<Stack>,
}

#[derive(Debug)]
struct Stack {
    matrix: Matrix,
    bias: Option<Tensor>,
    /// Output features of each of its matrices.
    widths: Vec<usize>,
}

impl Projection {
    /// One `[tokens, width]` view for each of the matrices.
    pub(super) fn apply(
        &self,
        ops: &dyn Ops,
        input: &Tensor,
        observer: &mut dyn ActivationObserver,
    ) -> candle_core::Result<Vec<Tensor>> {
        self.show(input, observer)?;
        let matrices: Vec<&Matrix> = self.stacks.iter().map(|stack| &stack.matrix).collect();
        let products = ops.multiply(input, &matrices)?;
        let mut outputs = Vec::new();
        for (stack, mut product) in self.stacks.iter().zip(products) {
            if let Some(bias) = &stack.bias {
                product = ops.add_bias(product, bias)?;
            }
            let mut start = 0;
            for &width in &stack.widths {
                outputs.push(product.narrow(1, start, width)?);
                start += width;
            }
        }
        Ok(outputs)
    }

    /// The output of a projection with a single matrix.
    pub(super) fn apply_one(
        &self,
        ops: &dyn Ops,
        input: &Tensor,
        observer: &mut dyn ActivationObserver,
    ) -> candle_core::Result<Tensor> {
        Ok(self.apply(ops, input, observer)?.swap_remove(0))
    }

    /// Whether the observer wants to see the input.
    pub(super) fn is_wanted(&self, observer: &dyn ActivationObserver) -> bool {
        observer.wants(&self.tensors)
    }

    /// Lets the observer see the input, if it wants to.
    pub(super) fn show(
        &self,
        input: &Tensor,
        observer: &mut dyn ActivationObserver,
    ) -> candle_core::Result<()> {
        if !self.is_wanted(observer) {
            return Ok(());
        }
        let (_, columns) = input.dims2()?;
        with_elements(input, |activations| observer.observe(&self.tensors, activations, columns))
    }

    /// Which stack is the matrix with this name alone.
    fn position(&self, name: &str) -> Option<usize> {
        let is_alone = self.stacks.len() == self.tensors.len();
        self.tensors.iter().position(|tensor| is_alone && tensor == name)
    }

    fn matrix_mut(&mut self, name: &str) -> Option<&mut Matrix> {
        let position = self.position(name)?;
        Some(&mut self.stacks[position].matrix)
    }
}

/// Which matrices with the same input are stacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stacking {
    /// Neighbours of one type.
    OfOneType,
    /// None: each can be exchanged.
    None,
}

/// One decoder layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) attention_norm: Tensor,
    pub(super) queries_keys_values: Projection,
    pub(super) query_norm: Option<Tensor>,
    pub(super) key_norm: Option<Tensor>,
    pub(super) attention_output: Projection,
    pub(super) feed_forward_norm: Tensor,
    pub(super) gate_up: Projection,
    pub(super) down: Projection,
}

/// A decoder's weights, but for the token embedding, which stays in the file.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) layers: Vec<Layer>,
    pub(super) output_norm: Tensor,
    pub(super) output: Projection,
    pub(super) rope: RopeFrequencies,
}

/// The name of the token embedding.
pub(super) const EMBEDDING: &str = "token_embd.weight";

impl Weights {
    /// Checks the file's tensors against the config, then loads them.
    pub(super) fn load(
        file: &GgufFile,
        config: &Config,
        ops: &dyn Ops,
        stacking: Stacking,
    ) -> Result<Self, ModelError> {
        check_tensors(file, config)
            .map_err(|problem| ModelError::unsupported(file.path(), problem))?;
        let loader = Loader { file, ops, stacking };
        let total = file.tensors().iter().map(TensorInfo::bytes).sum();
        let progress = Progress::new("Loading", total, Unit::Bytes);
        let layers = (0..config.layers).into_par_iter().map(|index| {
            let layer = loader.layer(index);
            progress.advance(loader.layer_bytes(index));
            layer
        });
        let layers = layers.collect::<Result<_, _>>()?;
        let output = if file.tensor("output.weight").is_some() { "output" } else { "token_embd" };
        let factors = loader.values("rope_freqs.weight")?;
        let weights = Self {
            layers,
            output_norm: loader.vector("output_norm.weight")?,
            output: loader.projection(&[output.to_string()])?,
            rope: RopeFrequencies::new(config, factors.as_deref()),
        };
        progress.finish();
        Ok(weights)
    }

    /// Whether [`Self::matrix_mut`] finds a matrix.
    pub(super) fn has_matrix(&self, name: &str) -> bool {
        let layers = self.layers.iter().flat_map(|layer| {
            [&layer.queries_keys_values, &layer.attention_output, &layer.gate_up, &layer.down]
        });
        layers.chain([&self.output]).any(|projection| projection.position(name).is_some())
    }

    /// The matrix with this name, where no other is stacked with it.
    pub(super) fn matrix_mut(&mut self, name: &str) -> Option<&mut Matrix> {
        let layers = self.layers.iter_mut().flat_map(|layer| {
            [
                &mut layer.queries_keys_values,
                &mut layer.attention_output,
                &mut layer.gate_up,
                &mut layer.down,
            ]
        });
        layers.chain([&mut self.output]).find_map(|projection| projection.matrix_mut(name))
    }
}

/// A tensor that the decoder has a place for.
struct Expected {
    name: String,
    columns: usize,
    rows: usize,
    required: bool,
}

/// The tensors of layer `layer`.
fn layer_tensors(config: &Config, layer: usize) -> Vec<Expected> {
    let Config { hidden, feed_forward, head_size, .. } = *config;
    let (queries, keys) = (config.query_width(), config.key_width());
    let mut tensors = Vec::new();
    let mut expect = |part: &str, columns, rows, required| {
        tensors.push(Expected { name: format!("blk.{layer}.{part}"), columns, rows, required });
    };
    expect("attn_norm.weight", hidden, 1, true);
    expect("ffn_norm.weight", hidden, 1, true);
    if config.family.head_norms {
        expect("attn_q_norm.weight", head_size, 1, true);
        expect("attn_k_norm.weight", head_size, 1, true);
    }
    for (part, columns, rows) in [
        ("attn_q", hidden, queries),
        ("attn_k", hidden, keys),
        ("attn_v", hidden, keys),
        ("attn_output", queries, hidden),
        ("ffn_gate", hidden, feed_forward),
        ("ffn_up", hidden, feed_forward),
        ("ffn_down", feed_forward, hidden),
    ] {
        expect(&format!("{part}.weight"), columns, rows, true);
        expect(&format!("{part}.bias"), rows, 1, false);
    }
    tensors
}

/// The tensors outside the layers. The embedding itself says how large the vocabulary is.
fn common_tensors(config: &Config, vocabulary: usize) -> [Expected; 4] {
    let expect = |name: &str, columns, rows, required| Expected {
        name: name.to_string(),
        columns,
        rows,
        required,
    };
    [
        expect(EMBEDDING, config.hidden, vocabulary, true),
        expect("output_norm.weight", config.hidden, 1, true),
        expect("output.weight", config.hidden, vocabulary, false),
        expect("rope_freqs.weight", config.rotary_size / 2, 1, false),
    ]
}

/// Checks that every tensor that the decoder needs is there and has the right shape, and that
/// there is none that it would leave out of the computation.
fn check_tensors(file: &GgufFile, config: &Config) -> Result<(), String> {
    let vocabulary = file.tensor(EMBEDDING).map_or(0, TensorInfo::rows);
    let mut known = HashSet::new();
    for expected in common_tensors(config, vocabulary) {
        known.insert(check_tensor(file, expected)?);
    }
    for layer in 0..config.layers {
        for expected in layer_tensors(config, layer) {
            known.insert(check_tensor(file, expected)?);
        }
    }
    match file.tensors().iter().find(|tensor| !known.contains(&tensor.name)) {
        Some(stranger) => Err(format!(
            "a {} decoder of {} layers has no place for the tensor {:?}: the model computes \
             something that quantkit does not know",
            config.family.architecture, config.layers, stranger.name
        )),
        None => Ok(()),
    }
}

fn check_tensor(file: &GgufFile, expected: Expected) -> Result<String, String> {
    let Expected { name, columns, rows, required } = expected;
    match file.tensor(&name) {
        None if required => Err(format!("the tensor {name} is missing")),
        Some(tensor) if (tensor.columns(), tensor.rows()) != (columns, rows) => Err(format!(
            "the tensor {name} should have {rows} rows of {columns} weights by the metadata, but \
             has {} rows of {}",
            tensor.rows(),
            tensor.columns()
        )),
        _ => Ok(name),
    }
}

struct Loader<'a> {
    file: &'a GgufFile,
    ops: &'a dyn Ops,
    stacking: Stacking,
}

impl Loader<'_> {
    fn layer(&self, index: usize) -> Result<Layer, ModelError> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let head_norm = |part: &str| {
            let name = name(part);
            self.file.tensor(&name).map(|_| self.vector(&name)).transpose()
        };
        Ok(Layer {
            attention_norm: self.vector(&name("attn_norm.weight"))?,
            queries_keys_values: self.projection(&["attn_q", "attn_k", "attn_v"].map(name))?,
            query_norm: head_norm("attn_q_norm.weight")?,
            key_norm: head_norm("attn_k_norm.weight")?,
            attention_output: self.projection(&[name("attn_output")])?,
            feed_forward_norm: self.vector(&name("ffn_norm.weight"))?,
            gate_up: self.projection(&["ffn_gate", "ffn_up"].map(name))?,
            down: self.projection(&[name("ffn_down")])?,
        })
    }

    fn layer_bytes(&self, index: usize) -> u64 {
        let prefix = format!("blk.{index}.");
        let own = self.file.tensors().iter().filter(|tensor| tensor.name.starts_with(&prefix));
        own.map(TensorInfo::bytes).sum()
    }

    /// The matrices `<name>.weight` with their biases, where they have any.
    fn projection(&self, names: &[String]) -> Result<Projection, ModelError> {
        let matrices = names.iter().map(|name| Ok((name, self.info(&format!("{name}.weight"))?)));
        let matrices = matrices.collect::<Result<Vec<_>, ModelError>>()?;
        let stacks = matrices
            .chunk_by(|(_, a), (_, b)| {
                self.stacking == Stacking::OfOneType && a.ggml_type == b.ggml_type
            })
            .map(|matrices| self.stack(matrices));
        let tensors = matrices.iter().map(|(_, tensor)| tensor.name.clone()).collect();
        Ok(Projection { tensors, stacks: stacks.collect::<Result<_, _>>()? })
    }

    fn stack(&self, matrices: &[(&String, &TensorInfo)]) -> Result<Stack, ModelError> {
        let (_, first) = matrices[0];
        let widths: Vec<usize> = matrices.iter().map(|(_, tensor)| tensor.rows()).collect();
        let rows = widths.iter().sum();
        let load = |bytes: &[u8]| {
            self.ops
                .matrix(first.ggml_type, rows, first.columns(), bytes)
                .map_err(|error| self.unsupported(&format!("the tensor {}: {error}", first.name)))
        };
        let matrix = match matrices {
            [(_, only)] => load(self.file.tensor_bytes(only))?,
            several => {
                let bytes = several.iter().map(|(_, tensor)| self.file.tensor_bytes(tensor));
                load(&bytes.collect::<Vec<_>>().concat())?
            }
        };
        for (_, tensor) in matrices {
            self.file.release_tensor(tensor);
        }
        let mut bias = Vec::new();
        for ((name, _), width) in matrices.iter().zip(&widths) {
            bias.push(self.values(&format!("{name}.bias"))?.ok_or(*width));
        }
        let bias = if bias.iter().any(Result::is_ok) {
            let filled = bias.into_iter().map(|bias| bias.unwrap_or_else(|width| vec![0.0; width]));
            Some(Tensor::from_vec(filled.collect::<Vec<_>>().concat(), rows, self.ops.device())?)
        } else {
            None
        };
        Ok(Stack { matrix, bias, widths })
    }

    fn vector(&self, name: &str) -> Result<Tensor, ModelError> {
        self.info(name)?;
        let values = self.values(name)?.unwrap_or_default();
        let count = values.len();
        Ok(Tensor::from_vec(values, count, self.ops.device())?)
    }

    /// The weights of a small tensor, if the file has it.
    fn values(&self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(tensor) = self.file.tensor(name) else { return Ok(None) };
        let mut values = vec![0f32; tensor.columns() * tensor.rows()];
        dequantize_row(tensor.ggml_type, self.file.tensor_bytes(tensor), &mut values)
            .map_err(|error| self.unsupported(&format!("the tensor {name}: {error}")))?;
        Ok(Some(values))
    }

    fn info(&self, name: &str) -> Result<&TensorInfo, ModelError> {
        self.file
            .tensor(name)
            .ok_or_else(|| self.unsupported(&format!("the tensor {name} is missing")))
    }

    fn unsupported(&self, problem: &str) -> ModelError {
        ModelError::unsupported(self.file.path(), problem)
    }
}
