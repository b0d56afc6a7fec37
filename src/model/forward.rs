//! The forward pass, written once for all back ends: the layer of a llama-like transformer.

use std::any::Any;
use std::fmt::Debug;
use std::ops::Range;
use std::time::Instant;

use candle_core::Result;

use super::ModelError;
use super::cache::SequenceCache;
use super::config::Config;
use super::decoder::BatchItem;
use super::observer::ActivationObserver;
use super::ops::{Branch, Input, Ops, Products, Queries};
use super::profile::{Operation, Profile};
use super::weights::{Layer, Projection, Weights};
use crate::gguf::{GgmlType, GgufFile};

/// A weight matrix in a back end's own form.
pub(super) type AnyMatrix = Box<dyn Any + Send + Sync>;

/// Who looks at a step.
#[derive(Default)]
pub(super) struct Watchers<'a> {
    /// Sees what matrices are multiplied with, for every token.
    pub(super) observer: Option<&'a mut dyn ActivationObserver>,
    pub(super) profile: Option<&'a mut Profile>,
}

/// A model whose back end has been chosen. Rows of the residual stream are `[tokens, hidden]`.
pub(super) trait Model: Debug + Send + Sync {
    /// Runs all items' tokens, whose embeddings these are, and appends them to the caches. Gives the
    /// wanted logits.
    fn step(
        &mut self,
        embeddings: &[f32],
        items: &mut [BatchItem<'_>],
        watchers: Watchers<'_>,
    ) -> Result<&[f32]>;

    /// Runs one sequence, from its beginning, through some layers.
    fn run_layers(&mut self, layers: Range<usize>, residual: &[f32]) -> Result<Vec<f32>>;

    /// The logits of rows of the residual stream after the last layer.
    fn output(&mut self, residual: &[f32]) -> Result<&[f32]>;

    /// Whether a matrix of this name can be exchanged.
    fn has_matrix(&self, name: &str) -> bool;

    /// Makes a matrix ready to be multiplied.
    fn pack(&self, kind: GgmlType, rows: usize, columns: usize, bytes: &[u8]) -> Result<AnyMatrix>;

    /// Exchanges a matrix with one of [`Model::pack`].
    fn exchange(&mut self, name: &str, other: &mut AnyMatrix);

    /// Bytes that the matrices take in memory.
    fn packed_bytes(&self) -> u64;

    /// Bytes of one token's keys and values over all layers.
    fn cache_bytes_per_token(&self) -> usize;
}

/// A model on one back end, with the memory of its steps.
#[derive(Debug)]
pub(super) struct Forward<O: Ops> {
    config: Config,
    ops: O,
    weights: Weights<O>,
    activations: O::Activations,
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl<O: Ops> Forward<O> {
    /// Loads the weights of a file.
    pub(super) fn load(
        file: &GgufFile,
        config: &Config,
        ops: O,
    ) -> std::result::Result<Self, ModelError> {
        let weights = Weights::load(file, config, &ops)?;
        Ok(Self {
            config: config.clone(),
            ops,
            weights,
            activations: O::Activations::default(),
            cosines: Vec::new(),
            sines: Vec::new(),
        })
    }

    /// Begins a step with rows of the residual stream.
    fn begin(&mut self, residual: &[f32], items: &[BatchItem<'_>]) -> Result<()> {
        self.cosines.clear();
        self.sines.clear();
        for item in items {
            let first = item.cache.length();
            for position in first..first + item.tokens.len() {
                self.weights.rope.extend(position, &mut self.cosines, &mut self.sines);
            }
        }
        let tokens = residual.len() / self.config.hidden;
        self.ops.begin(&mut self.activations, tokens, residual, &self.cosines, &self.sines)
    }

    /// A pass over the step that was begun, and the weights that it needs.
    fn pass<'a, 'w>(&'a mut self, watchers: Watchers<'w>) -> (Pass<'a, 'w, O>, &'a Weights<O>) {
        let Self { config, ops, weights, activations, .. } = self;
        (Pass { config, ops, activations, watchers }, weights)
    }
}

impl<O: Ops> Model for Forward<O> {
    fn step(
        &mut self,
        embeddings: &[f32],
        items: &mut [BatchItem<'_>],
        watchers: Watchers<'_>,
    ) -> Result<&[f32]> {
        for item in items.iter_mut() {
            item.cache.reserve(item.tokens.len(), self.config.context_length, &self.ops)?;
        }
        self.begin(embeddings, items)?;
        let (mut pass, weights) = self.pass(watchers);
        let rows = pass.all_layers(weights, items)?;
        if rows > 0 {
            pass.logits(weights, rows)?;
        }
        for item in items {
            item.cache.commit(item.tokens.len());
        }
        Ok(if rows == 0 { &[] } else { self.ops.logits(&self.activations) })
    }

    fn run_layers(&mut self, layers: Range<usize>, residual: &[f32]) -> Result<Vec<f32>> {
        // Only the number of tokens counts from here on.
        let tokens = vec![0; residual.len() / self.config.hidden];
        let mut cache = SequenceCache::new(tokens.len());
        cache.reserve(tokens.len(), self.config.context_length, &self.ops)?;
        let mut items = [BatchItem { cache: &mut cache, tokens: &tokens, logits: 0 }];
        self.begin(residual, &items)?;
        let (mut pass, weights) = self.pass(Watchers::default());
        for index in layers {
            pass.layer(index, &weights.layers[index], &mut items)?;
        }
        self.ops.residual(&self.activations)
    }

    fn output(&mut self, residual: &[f32]) -> Result<&[f32]> {
        let rows = residual.len() / self.config.hidden;
        if rows == 0 {
            return Ok(&[]);
        }
        self.ops.begin(&mut self.activations, rows, residual, &[], &[])?;
        let (mut pass, weights) = self.pass(Watchers::default());
        pass.logits(weights, rows)?;
        Ok(self.ops.logits(&self.activations))
    }

    fn has_matrix(&self, name: &str) -> bool {
        self.weights.matrices().any(|(known, _)| known == name)
    }

    fn pack(&self, kind: GgmlType, rows: usize, columns: usize, bytes: &[u8]) -> Result<AnyMatrix> {
        Ok(Box::new(self.ops.matrix(kind, rows, columns, bytes)?))
    }

    fn exchange(&mut self, name: &str, other: &mut AnyMatrix) {
        let own = self.weights.matrix_mut(name).expect("the model has the matrix");
        let other = other.downcast_mut().expect("this model's back end has packed it");
        std::mem::swap(own, other);
    }

    fn packed_bytes(&self) -> u64 {
        self.weights.matrices().map(|(_, matrix)| self.ops.matrix_bytes(matrix) as u64).sum()
    }

    fn cache_bytes_per_token(&self) -> usize {
        self.ops.cache_bytes_per_token()
    }
}

/// One pass of a step through the model.
struct Pass<'a, 'w, O: Ops> {
    config: &'a Config,
    ops: &'a O,
    activations: &'a mut O::Activations,
    watchers: Watchers<'w>,
}

impl<O: Ops> Pass<'_, '_, O> {
    /// Takes the residual stream through all layers, and leaves the rows that are to give logits.
    /// Gives their number.
    ///
    /// What only the other rows would need of the last layer is left out, unless somebody wants to
    /// see it.
    fn all_layers(&mut self, weights: &Weights<O>, items: &mut [BatchItem<'_>]) -> Result<usize> {
        let Some((last, layers)) = weights.layers.split_last() else {
            candle_core::bail!("a model has at least one layer");
        };
        for (index, layer) in layers.iter().enumerate() {
            self.layer(index, layer, items)?;
        }
        if self.watchers.observer.is_some() {
            self.layer(layers.len(), last, items)?;
            self.show(Input::Normalized(&weights.output_norm), &weights.output)?;
            return self.ops.keep_wanted(self.activations, items);
        }
        self.project(layers.len(), last, items)?;
        let rows = self.ops.keep_wanted(self.activations, items)?;
        if rows > 0 {
            self.mix(layers.len(), last, items, Queries::Wanted)?;
        }
        Ok(rows)
    }

    /// Takes the residual stream through a layer.
    fn layer(&mut self, index: usize, layer: &Layer<O>, items: &mut [BatchItem<'_>]) -> Result<()> {
        self.project(index, layer, items)?;
        self.mix(index, layer, items, Queries::All)
    }

    /// The part of a layer that every token needs: its keys and values, and queries too.
    fn project(
        &mut self,
        index: usize,
        layer: &Layer<O>,
        items: &mut [BatchItem<'_>],
    ) -> Result<()> {
        let tokens = Queries::All.count_all(items);
        let norm = &layer.attention_norm;
        let projection = &layer.queries_keys_values;
        self.show(Input::Normalized(norm), projection)?;
        self.multiply(norm, projection, Products::QueriesKeysValues, tokens)?;
        self.timed(
            Operation::RotaryAndStore,
            |pass| (pass.cache_row_bytes() * tokens as u64, 0),
            |pass| {
                let norms = layer.head_norms.as_ref();
                pass.ops.rotate_and_store(pass.activations, norms, index, items)
            },
        )
    }

    /// The rest of a layer, for the rows that have these queries.
    fn mix(
        &mut self,
        index: usize,
        layer: &Layer<O>,
        items: &[BatchItem<'_>],
        queries: Queries,
    ) -> Result<()> {
        let rows = queries.count_all(items);
        self.timed(
            Operation::Attention,
            |pass| pass.attention_cost(items, queries),
            |pass| pass.ops.attention(pass.activations, index, items, queries),
        )?;
        self.add_product(Branch::Attended, &layer.attention_output, rows)?;
        let norm = &layer.feed_forward_norm;
        self.show(Input::Normalized(norm), &layer.gate_up)?;
        self.multiply(norm, &layer.gate_up, Products::GateUp, rows)?;
        self.add_product(Branch::Gated, &layer.down, rows)
    }

    /// The logits of all rows of the residual stream, which nobody observes.
    fn logits(&mut self, weights: &Weights<O>, rows: usize) -> Result<()> {
        self.multiply(&weights.output_norm, &weights.output, Products::Logits, rows)
    }

    fn multiply(
        &mut self,
        norm: &O::Vector,
        projection: &Projection<O>,
        products: Products,
        tokens: usize,
    ) -> Result<()> {
        let operation = match products {
            Products::QueriesKeysValues => Operation::QueryKeyValue,
            Products::GateUp => Operation::GateUp,
            Products::Logits => Operation::Output,
        };
        self.timed(
            operation,
            |pass| pass.product_cost(projection, tokens),
            |pass| {
                let weights = &projection.weights;
                pass.ops.multiply_normalized(pass.activations, norm, weights, products)
            },
        )
    }

    fn add_product(
        &mut self,
        branch: Branch,
        projection: &Projection<O>,
        tokens: usize,
    ) -> Result<()> {
        let operation = match branch {
            Branch::Attended => Operation::AttentionOutput,
            Branch::Gated => Operation::Down,
        };
        self.show(Input::Branch(branch), projection)?;
        self.timed(
            operation,
            |pass| pass.product_cost(projection, tokens),
            |pass| pass.ops.add_product(pass.activations, branch, &projection.weights[0]),
        )
    }

    /// Lets the observer see what matrices are multiplied with, if it wants to.
    fn show(&mut self, input: Input<'_, O>, projection: &Projection<O>) -> Result<()> {
        let Some(observer) = &mut self.watchers.observer else { return Ok(()) };
        if !observer.wants(&projection.tensors) {
            return Ok(());
        }
        self.ops.with_input(self.activations, input, &mut |values| {
            observer.observe(&projection.tensors, values, projection.columns);
        })
    }

    /// Runs an operation and counts it: `cost` gives its bytes and arithmetic operations.
    fn timed<R>(
        &mut self,
        operation: Operation,
        cost: impl FnOnce(&Self) -> (u64, u64),
        run: impl FnOnce(&mut Self) -> R,
    ) -> R {
        if self.watchers.profile.is_none() {
            return run(self);
        }
        let (bytes, operations) = cost(self);
        let started = Instant::now();
        let result = run(self);
        if let Some(profile) = &mut self.watchers.profile {
            profile.record(operation, started.elapsed(), bytes, operations);
        }
        result
    }

    /// Bytes and arithmetic operations of a product.
    fn product_cost(&self, projection: &Projection<O>, tokens: usize) -> (u64, u64) {
        let matrices = projection.weights.iter().map(|weight| &weight.matrix);
        let bytes: usize = matrices.map(|matrix| self.ops.matrix_bytes(matrix)).sum();
        (bytes as u64, 2 * tokens as u64 * projection.elements)
    }

    /// Bytes of one token's keys and values in a layer.
    fn cache_row_bytes(&self) -> u64 {
        (self.ops.cache_bytes_per_token() / self.config.layers) as u64
    }

    /// Bytes and arithmetic operations of a layer's attention.
    fn attention_cost(&self, items: &[BatchItem<'_>], queries: Queries) -> (u64, u64) {
        let (mut positions, mut visible) = (0, 0);
        for item in items {
            let context = (item.cache.length() + item.tokens.len()) as u64;
            let queries = queries.count(item) as u64;
            if queries > 0 {
                positions += context;
                visible += queries * context - queries * (queries - 1) / 2;
            }
        }
        (positions * self.cache_row_bytes(), 4 * self.config.query_width() as u64 * visible)
    }
}
