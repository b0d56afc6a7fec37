//! Loading a decoder's tensors: every name and shape is checked before any of them is read.

use std::collections::HashSet;

use rayon::prelude::*;

use super::ModelError;
use super::config::Config;
use super::embedding::EMBEDDING;
use super::ops::{HeadNorms, Ops, Weight};
use super::rope::RopeFrequencies;
use crate::gguf::{GgufFile, TensorInfo};
use crate::quant::formats::dequantize_row;
use crate::support::progress::{Progress, Unit};

/// Matrices that are multiplied with the same input.
#[derive(Debug)]
pub(super) struct Projection<O: Ops> {
    /// The matrices' names in the file.
    pub(super) tensors: Vec<String>,
    /// The matrices, with their biases where they have any.
    pub(super) weights: Vec<Weight<O>>,
    /// Their columns.
    pub(super) columns: usize,
    /// Weights of all of them together.
    pub(super) elements: u64,
}

impl<O: Ops> Projection<O> {
    fn position(&self, name: &str) -> Option<usize> {
        self.tensors.iter().position(|tensor| tensor == name)
    }
}

/// One decoder layer.
#[derive(Debug)]
pub(super) struct Layer<O: Ops> {
    pub(super) attention_norm: O::Vector,
    pub(super) queries_keys_values: Projection<O>,
    pub(super) head_norms: Option<HeadNorms<O::Vector>>,
    pub(super) attention_output: Projection<O>,
    pub(super) feed_forward_norm: O::Vector,
    pub(super) gate_up: Projection<O>,
    pub(super) down: Projection<O>,
}

/// A decoder's weights, but for the token embedding, which stays in the file.
#[derive(Debug)]
pub(super) struct Weights<O: Ops> {
    pub(super) layers: Vec<Layer<O>>,
    pub(super) output_norm: O::Vector,
    pub(super) output: Projection<O>,
    pub(super) rope: RopeFrequencies,
}

impl<O: Ops> Weights<O> {
    /// Checks the file's tensors against the config, then loads them.
    pub(super) fn load(file: &GgufFile, config: &Config, ops: &O) -> Result<Self, ModelError> {
        check_tensors(file, config)
            .map_err(|problem| ModelError::unsupported(file.path(), problem))?;
        let loader = Loader { file, ops };
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

    /// All matrices, in the order in which a step comes to them.
    pub(super) fn matrices(&self) -> impl Iterator<Item = (&str, &O::Matrix)> {
        let layers = self.layers.iter().flat_map(|layer| {
            [&layer.queries_keys_values, &layer.attention_output, &layer.gate_up, &layer.down]
        });
        layers.chain([&self.output]).flat_map(|projection| {
            let matrices = projection.weights.iter().map(|weight| &weight.matrix);
            projection.tensors.iter().map(String::as_str).zip(matrices)
        })
    }

    /// The matrix with this name.
    pub(super) fn matrix_mut(&mut self, name: &str) -> Option<&mut O::Matrix> {
        let layers = self.layers.iter_mut().flat_map(|layer| {
            [
                &mut layer.queries_keys_values,
                &mut layer.attention_output,
                &mut layer.gate_up,
                &mut layer.down,
            ]
        });
        layers.chain([&mut self.output]).find_map(|projection| {
            let position = projection.position(name)?;
            Some(&mut projection.weights[position].matrix)
        })
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

struct Loader<'a, O> {
    file: &'a GgufFile,
    ops: &'a O,
}

impl<O: Ops> Loader<'_, O> {
    fn layer(&self, index: usize) -> Result<Layer<O>, ModelError> {
        let name = |part: &str| format!("blk.{index}.{part}");
        let norm = |part: &str| self.vector(&name(&format!("{part}.weight")));
        let has_head_norms = self.file.tensor(&name("attn_q_norm.weight")).is_some();
        let head_norms = if has_head_norms {
            Some(HeadNorms { queries: norm("attn_q_norm")?, keys: norm("attn_k_norm")? })
        } else {
            None
        };
        Ok(Layer {
            attention_norm: norm("attn_norm")?,
            queries_keys_values: self.projection(&["attn_q", "attn_k", "attn_v"].map(name))?,
            head_norms,
            attention_output: self.projection(&[name("attn_output")])?,
            feed_forward_norm: norm("ffn_norm")?,
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
    fn projection(&self, names: &[String]) -> Result<Projection<O>, ModelError> {
        let tensors: Vec<String> = names.iter().map(|name| format!("{name}.weight")).collect();
        let infos = tensors.iter().map(|name| self.info(name)).collect::<Result<Vec<_>, _>>()?;
        Ok(Projection {
            weights: names.iter().map(|name| self.weight(name)).collect::<Result<_, _>>()?,
            columns: infos[0].columns(),
            elements: infos.iter().map(|tensor| tensor.weights()).sum(),
            tensors,
        })
    }

    fn weight(&self, name: &str) -> Result<Weight<O>, ModelError> {
        let tensor = self.info(&format!("{name}.weight"))?;
        let bytes = self.file.tensor_bytes(tensor);
        let matrix = self
            .ops
            .matrix(tensor.ggml_type, tensor.rows(), tensor.columns(), bytes)
            .map_err(|error| self.unsupported(&format!("the tensor {}: {error}", tensor.name)))?;
        self.file.release_tensor(tensor);
        let bias = self.values(&format!("{name}.bias"))?;
        let bias = bias.map(|values| self.ops.vector(values)).transpose()?;
        Ok(Weight { matrix, bias })
    }

    fn vector(&self, name: &str) -> Result<O::Vector, ModelError> {
        self.info(name)?;
        Ok(self.ops.vector(self.values(name)?.unwrap_or_default())?)
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
