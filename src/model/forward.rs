//! The forward pass, written once for all back ends and families.

use std::any::Any;
use std::fmt::Debug;
use std::ops::Range;
use std::time::Instant;

use candle_core::Result;

use super::ModelError;
use super::cache::{BatchItem, SequenceCache};
use super::observer::ActivationObserver;
use super::ops::{AttentionSpec, Buffer, Norm, Ops, Queries, Rotation, Source, Start, View};
use super::profile::{Operation, Profile};
use super::spec::DecoderSpec;
use super::weights::{Layer, Projection, Weights};
use crate::family::layer::{Mixer, Temperature};
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

/// What the first layer reads, and what the layers have of the tokens for themselves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Embedded<'a> {
    /// `[tokens, hidden]`.
    pub(super) residual: &'a [f32],
    /// `[tokens, layers · width]`; empty where layers have no embeddings of their own.
    pub(super) layers: &'a [f32],
}

/// A model whose back end has been chosen. Rows of the residual stream are `[tokens, hidden]`.
pub(super) trait Model: Debug + Send + Sync {
    /// Runs all items' tokens, for which this was looked up, and appends them to the caches. Gives
    /// the wanted logits.
    fn step(
        &mut self,
        embedded: Embedded<'_>,
        items: &mut [BatchItem<'_>],
        watchers: Watchers<'_>,
    ) -> Result<&[f32]>;

    /// The layers' own embeddings of tokens for which this was looked up.
    fn layer_embeddings(&mut self, embedded: Embedded<'_>) -> Result<Vec<f32>>;

    /// Runs one sequence, from its beginning, through some layers.
    fn run_layers(&mut self, layers: Range<usize>, embedded: Embedded<'_>) -> Result<Vec<f32>>;

    /// The logits of rows of the residual stream after the last layer.
    fn output(&mut self, residual: &[f32]) -> Result<&[f32]>;

    /// Whether a matrix of this name can be exchanged.
    fn has_matrix(&self, name: &str) -> bool;

    /// Makes a matrix ready to be multiplied.
    fn pack(&self, kind: GgmlType, rows: usize, columns: usize, bytes: &[u8]) -> Result<AnyMatrix>;

    /// Exchanges a matrix with one of [`Model::pack`].
    fn exchange(&mut self, name: &str, other: &mut AnyMatrix);

    /// What the product with each matrix is counted as.
    fn operations(&self) -> Vec<(&str, Operation)>;

    /// Bytes that the matrices take in memory.
    fn packed_bytes(&self) -> u64;

    /// Bytes of one token's keys and values over all layers.
    fn cache_bytes_per_token(&self) -> usize;
}

/// A model on one back end, with the memory of its steps.
#[derive(Debug)]
pub(super) struct Forward<O: Ops> {
    spec: DecoderSpec,
    ops: O,
    weights: Weights<O>,
    activations: O::Activations,
    rotations: Vec<Rotation>,
    query_factors: Vec<f32>,
}

impl<O: Ops> Forward<O> {
    /// Loads the weights of a file.
    pub(super) fn load(
        file: &GgufFile,
        spec: &DecoderSpec,
        ops: O,
    ) -> std::result::Result<Self, ModelError> {
        let weights = Weights::load(file, spec, &ops)?;
        Ok(Self {
            spec: spec.clone(),
            ops,
            rotations: vec![Rotation::default(); weights.ropes.len()],
            weights,
            activations: O::Activations::default(),
            query_factors: Vec::new(),
        })
    }

    /// Begins a step.
    fn begin(&mut self, embedded: Embedded<'_>, items: &[BatchItem<'_>]) -> Result<()> {
        for (rotation, rope) in self.rotations.iter_mut().zip(&self.weights.ropes) {
            rotation.cosines.clear();
            rotation.sines.clear();
            for item in items {
                let frequencies = rope.of_sequence(item.sequence_length());
                for position in item.positions() {
                    frequencies.extend(position, &mut rotation.cosines, &mut rotation.sines);
                }
            }
        }
        self.query_factors.clear();
        if let Some(temperature) = temperature(&self.spec) {
            let positions = items.iter().flat_map(BatchItem::positions);
            self.query_factors.extend(positions.map(|position| temperature.factor(position)));
        }
        let start = Start {
            tokens: embedded.residual.len() / self.spec.dimensions.hidden,
            residual: embedded.residual,
            layer_embeddings: embedded.layers,
            rotations: &self.rotations,
            query_factors: &self.query_factors,
        };
        self.ops.begin(&mut self.activations, start)
    }

    /// A pass over the step that was begun, and the weights that it needs.
    fn pass<'a, 'w>(&'a mut self, watchers: Watchers<'w>) -> (Pass<'a, 'w, O>, &'a Weights<O>) {
        let Self { spec, ops, weights, activations, .. } = self;
        (Pass { spec, ops, activations, watchers }, weights)
    }
}

/// The factor on queries that grows with their position; a decoder has one at most.
fn temperature(spec: &DecoderSpec) -> Option<Temperature> {
    spec.layers.iter().find_map(|layer| {
        let Mixer::Attention(attention) = &layer.mixer;
        attention.temperature
    })
}

impl<O: Ops> Model for Forward<O> {
    fn step(
        &mut self,
        embedded: Embedded<'_>,
        items: &mut [BatchItem<'_>],
        watchers: Watchers<'_>,
    ) -> Result<&[f32]> {
        for item in items.iter_mut() {
            item.cache.reserve(item.tokens.len(), self.spec.dimensions.context, &self.ops)?;
        }
        self.begin(embedded, items)?;
        let (mut pass, weights) = self.pass(watchers);
        pass.layer_embeddings(weights, Queries::All.count_all(items))?;
        let rows = pass.all_layers(weights, items)?;
        if rows > 0 {
            pass.logits(weights, rows)?;
        }
        for item in items {
            item.cache.commit(item.tokens.len());
        }
        Ok(if rows == 0 { &[] } else { self.ops.logits(&self.activations) })
    }

    fn layer_embeddings(&mut self, embedded: Embedded<'_>) -> Result<Vec<f32>> {
        if embedded.layers.is_empty() {
            return Ok(Vec::new());
        }
        let tokens = embedded.residual.len() / self.spec.dimensions.hidden;
        self.begin(embedded, &[])?;
        let (mut pass, weights) = self.pass(Watchers::default());
        pass.layer_embeddings(weights, tokens)?;
        self.ops.values(&self.activations, Buffer::LayerEmbeddings)
    }

    fn run_layers(&mut self, layers: Range<usize>, embedded: Embedded<'_>) -> Result<Vec<f32>> {
        // Only the number of tokens counts from here on.
        let tokens = vec![0; embedded.residual.len() / self.spec.dimensions.hidden];
        let mut cache = SequenceCache::new(tokens.len());
        cache.reserve(tokens.len(), self.spec.dimensions.context, &self.ops)?;
        let mut items = [BatchItem { cache: &mut cache, tokens: &tokens, logits: 0 }];
        self.begin(embedded, &items)?;
        let (mut pass, weights) = self.pass(Watchers::default());
        for index in layers {
            pass.layer(&weights.layers[index], &mut items)?;
        }
        self.ops.values(&self.activations, Buffer::Residual)
    }

    fn output(&mut self, residual: &[f32]) -> Result<&[f32]> {
        let rows = residual.len() / self.spec.dimensions.hidden;
        if rows == 0 {
            return Ok(&[]);
        }
        let start = Start {
            tokens: rows,
            residual,
            layer_embeddings: &[],
            rotations: &[],
            query_factors: &[],
        };
        self.ops.begin(&mut self.activations, start)?;
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

    fn operations(&self) -> Vec<(&str, Operation)> {
        self.weights.operations().collect()
    }

    fn packed_bytes(&self) -> u64 {
        self.weights.matrices().map(|(_, matrix)| self.ops.matrix_bytes(matrix) as u64).sum()
    }

    fn cache_bytes_per_token(&self) -> usize {
        self.ops.bytes_per_token()
    }
}

/// One pass of a step through the model.
struct Pass<'a, 'w, O: Ops> {
    spec: &'a DecoderSpec,
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
        for layer in layers {
            self.layer(layer, items)?;
        }
        if self.watchers.observer.is_some() {
            self.layer(last, items)?;
            self.show(self.normalized(Some(&weights.output_norm)), &weights.output)?;
            return self.ops.keep_wanted(self.activations, items, &[Buffer::Residual]);
        }
        self.project(last, items)?;
        let kept = [Buffer::Residual, Buffer::Queries, Buffer::LayerEmbeddings];
        let kept = &kept[..if weights.layer_embeddings.is_some() { 3 } else { 2 }];
        let rows = self.ops.keep_wanted(self.activations, items, kept)?;
        if rows > 0 {
            self.mix(last, items, Queries::Wanted)?;
        }
        Ok(rows)
    }

    /// Adds to what was looked up as the layers' own embeddings what is made of the residual stream.
    fn layer_embeddings(&mut self, weights: &Weights<O>, tokens: usize) -> Result<()> {
        let Some(own) = &weights.layer_embeddings else { return Ok(()) };
        let source = self.normalized(None);
        self.show(source, &own.projection)?;
        self.run(source, &own.projection, tokens, |pass| {
            let (target, width) = (Buffer::LayerEmbeddings, own.width);
            pass.ops.add_normalized(pass.activations, &own.norm, target, width, own.scale)
        })
    }

    /// Takes the residual stream through a layer.
    fn layer(&mut self, layer: &Layer<O>, items: &mut [BatchItem<'_>]) -> Result<()> {
        self.project(layer, items)?;
        self.mix(layer, items, Queries::All)
    }

    /// The residual stream, through a norm where there is one.
    fn normalized<'n>(&self, norm: Option<&'n Norm<O::Vector>>) -> Source<'n, O::Vector> {
        let rows = View::whole(Buffer::Residual, self.spec.dimensions.hidden);
        norm.map_or(Source::Rows(rows), |norm| Source::Normalized(rows, norm))
    }

    /// The part of a layer that every token needs: its keys and values, and queries too.
    fn project(&mut self, layer: &Layer<O>, items: &mut [BatchItem<'_>]) -> Result<()> {
        let tokens = Queries::All.count_all(items);
        let source = self.normalized(layer.attention_norm.as_ref());
        self.multiply(source, &layer.queries_keys_values, tokens)?;
        let attention = &layer.attention;
        self.timed(
            Operation::RotaryAndStore,
            |pass| (pass.cache_row_bytes(attention) * tokens as u64, 0),
            |pass| pass.ops.rotate_and_store(pass.activations, attention, items),
        )
    }

    /// The rest of a layer, for the rows that have these queries.
    fn mix(&mut self, layer: &Layer<O>, items: &[BatchItem<'_>], queries: Queries) -> Result<()> {
        let rows = queries.count_all(items);
        let attention = &layer.attention;
        self.timed(
            Operation::Attention,
            |pass| pass.attention_cost(attention, items, queries),
            |pass| pass.ops.attention(pass.activations, attention, items, queries),
        )?;
        let gate_up = self.normalized(layer.feed_forward_norm.as_ref());
        if layer.parallel {
            self.multiply(gate_up, &layer.gate_up, rows)?;
        }
        let attended = View::whole(Buffer::Attended, attention.queries.width);
        let post_norm = layer.attention_post_norm.as_ref();
        let scale = layer.residual_scale;
        self.add(Source::Rows(attended), &layer.attention_output, post_norm, scale, rows)?;
        if !layer.parallel {
            self.multiply(gate_up, &layer.gate_up, rows)?;
        }
        let post_norm = layer.feed_forward_post_norm.as_ref();
        self.add(layer.hidden.source(), &layer.down, post_norm, scale, rows)?;
        if let Some(own) = &layer.layer_embedding {
            self.multiply(self.normalized(None), &own.gate, rows)?;
            let post_norm = Some(&own.post_norm);
            self.add(own.hidden.source(), &own.projection, post_norm, 1.0, rows)?;
        }
        match layer.output_scale {
            Some(scale) => self.ops.scale_residual(self.activations, scale),
            None => Ok(()),
        }
    }

    /// The logits of all rows of the residual stream, which nobody observes.
    fn logits(&mut self, weights: &Weights<O>, rows: usize) -> Result<()> {
        let source = self.normalized(Some(&weights.output_norm));
        let frame = &self.spec.frame;
        let (scale, softcap) = (frame.logit_scale, frame.logit_softcap);
        self.run(source, &weights.output, rows, |pass| {
            if scale == 1.0 && softcap.is_none() {
                return Ok(());
            }
            pass.ops.scale_logits(pass.activations, scale, softcap)
        })
    }

    /// Multiplies, and lets the observer see what with.
    fn multiply(
        &mut self,
        source: Source<'_, O::Vector>,
        projection: &Projection<O>,
        tokens: usize,
    ) -> Result<()> {
        self.show(source, projection)?;
        self.run(source, projection, tokens, |_| Ok(()))
    }

    /// Multiplies, and adds the product to the residual stream, through a norm and times a factor where
    /// there is a norm; elsewhere its slot says the factor.
    fn add(
        &mut self,
        source: Source<'_, O::Vector>,
        projection: &Projection<O>,
        post_norm: Option<&Norm<O::Vector>>,
        factor: f32,
        tokens: usize,
    ) -> Result<()> {
        self.show(source, projection)?;
        self.run(source, projection, tokens, |pass| match post_norm {
            None => Ok(()),
            Some(norm) => {
                let (target, width) = (Buffer::Residual, pass.spec.dimensions.hidden);
                pass.ops.add_normalized(pass.activations, norm, target, width, factor)
            }
        })
    }

    /// A product and what comes right after it, counted together.
    fn run(
        &mut self,
        source: Source<'_, O::Vector>,
        projection: &Projection<O>,
        tokens: usize,
        after: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        self.timed(
            projection.operation,
            |pass| pass.product_cost(projection, tokens),
            |pass| {
                let Projection { weights, slots, .. } = projection;
                pass.ops.multiply(pass.activations, source, weights, slots)?;
                after(pass)
            },
        )
    }

    /// Lets the observer see what matrices are multiplied with, if it wants to.
    fn show(&mut self, source: Source<'_, O::Vector>, projection: &Projection<O>) -> Result<()> {
        let Some(observer) = &mut self.watchers.observer else { return Ok(()) };
        if !observer.wants(&projection.tensors) {
            return Ok(());
        }
        self.ops.with_input(self.activations, source, &mut |values| {
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
    fn cache_row_bytes(&self, attention: &AttentionSpec<O::Vector>) -> u64 {
        self.ops.bytes_of_slot(attention.slot) as u64
    }

    /// Bytes and arithmetic operations of a layer's attention.
    fn attention_cost(
        &self,
        attention: &AttentionSpec<O::Vector>,
        items: &[BatchItem<'_>],
        queries: Queries,
    ) -> (u64, u64) {
        let (mut read, mut visible) = (0, 0);
        let window = attention.shape.window.unwrap_or(usize::MAX);
        for item in items {
            let context = item.cache.length() + item.tokens.len();
            let queries = queries.count(item);
            if queries > 0 {
                read += context.min(window.saturating_add(queries - 1)) as u64;
                let seen = (context - queries..context).map(|before| (before + 1).min(window));
                visible += seen.sum::<usize>() as u64;
            }
        }
        let width = attention.queries.width as u64;
        (read * self.cache_row_bytes(attention), 4 * width * visible)
    }
}
