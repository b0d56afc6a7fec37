//! The operations on the CPU, by quantkit's own kernels.

use std::ops::Range;

use candle_core::{Result, bail};

use super::{Branch, HeadNorms, Input, Ops, Products, Queries, Weight, attention_shape, tail};
use crate::gguf::GgmlType;
use crate::kernels::attention::{
    AttentionItem, AttentionLayer, AttentionScratch, AttentionShape, KeyValues, KvLayer, KvShape,
    KvType, LayerWriter, Span, attention,
};
use crate::kernels::elementwise::{
    Activation, Norm, Rows, for_each_row, gate_row, norm_heads, norm_row, rotate_heads,
};
use crate::kernels::matmul::{self, PackedMatrix, Source, Target, Update, multiply_many};
use crate::model::cache::{Segment, SegmentStorage};
use crate::model::config::Config;
use crate::model::decoder::BatchItem;
use crate::model::rope::RopePairs;
use crate::support::reuse::emptied;
use crate::support::team::Team;

/// See [`super::Ops`].
#[derive(Debug)]
pub(in crate::model) struct KernelOps {
    team: &'static Team,
    shape: AttentionShape,
    kv_shape: KvShape,
    kv_type: KvType,
    epsilon: f32,
    /// Whether elements i and i + pairs turn together, rather than 2i and 2i + 1.
    halves: bool,
}

/// The activations of a step, one row a token.
#[derive(Debug, Default)]
pub(in crate::model) struct Workspace {
    tokens: usize,
    residual: Buffer,
    cosines: Buffer,
    sines: Buffer,
    queries: Buffer,
    keys: Buffer,
    values: Buffer,
    attended: Buffer,
    gate: Buffer,
    up: Buffer,
    logits: Buffer,
    /// What matrices are multiplied with, for an observer.
    input: Buffer,
    products: matmul::Workspace,
    attention: AttentionScratch,
    // Memory of vectors that are filled anew in every layer.
    places: Vec<Place<'static>>,
    spans: Vec<Span<'static>>,
    parts: Vec<AttentionItem<'static>>,
}

/// Where a sequence's keys and values of a layer go.
#[derive(Debug)]
struct Place<'a> {
    /// Its tokens in the step.
    tokens: Range<usize>,
    /// The position of the first of them in the segment.
    position: usize,
    writer: LayerWriter<'a>,
}

/// Memory that is kept from step to step.
#[derive(Debug, Default)]
struct Buffer {
    memory: Vec<f32>,
    length: usize,
}

impl Buffer {
    /// Room for so many elements, whatever they are.
    fn resize(&mut self, length: usize) -> &mut [f32] {
        if self.memory.len() < length {
            // Nothing is to be copied.
            self.memory.clear();
            self.memory.resize(length, 0.0);
        }
        self.length = length;
        self.values_mut()
    }

    fn fill(&mut self, values: &[f32]) {
        self.resize(values.len()).copy_from_slice(values);
    }

    fn values(&self) -> &[f32] {
        &self.memory[..self.length]
    }

    fn values_mut(&mut self) -> &mut [f32] {
        &mut self.memory[..self.length]
    }
}

impl KernelOps {
    /// The operations of a model.
    pub(in crate::model) fn new(config: &Config, kv_type: KvType) -> Self {
        let Config { layers, kv_heads, head_size, .. } = *config;
        Self {
            team: Team::global(),
            shape: attention_shape(config),
            kv_shape: KvShape::new((0..layers).map(|_| KvLayer { kv_heads, head_size })),
            kv_type,
            epsilon: config.norm_epsilon,
            halves: config.family.rope_pairs == RopePairs::Halves,
        }
    }

    /// The model's norm with a weight.
    fn norm<'a>(&self, weight: &'a [f32]) -> Norm<'a> {
        Norm::Rms { weight: Some(weight), epsilon: self.epsilon }
    }

    /// A product of the weights with a source, each to its target.
    fn multiply<const COUNT: usize>(
        &self,
        weights: &[Weight<Self>],
        source: &Source<'_>,
        targets: [&mut [f32]; COUNT],
        update: Update,
        workspace: &mut matmul::Workspace,
    ) {
        let matrices: [&PackedMatrix; COUNT] = std::array::from_fn(|index| &weights[index].matrix);
        let mut index = 0;
        let mut targets = targets.map(|values| {
            let bias = weights[index].bias.as_deref();
            index += 1;
            Target { values, bias, update }
        });
        multiply_many(self.team, &matrices, source, &mut targets, workspace);
    }
}

/// A matrix of so many rows.
fn rows_of(rows: usize, values: &[f32]) -> Rows<'_> {
    let width = values.len() / rows.max(1);
    Rows::new(values, rows, width, width)
}

impl Ops for KernelOps {
    type Matrix = PackedMatrix;
    type Vector = Vec<f32>;
    type Activations = Workspace;

    fn matrix(
        &self,
        kind: GgmlType,
        rows: usize,
        columns: usize,
        bytes: &[u8],
    ) -> Result<PackedMatrix> {
        PackedMatrix::pack(kind, rows, columns, bytes).map_err(candle_core::Error::wrap)
    }

    fn matrix_bytes(&self, matrix: &PackedMatrix) -> usize {
        matrix.packed_bytes()
    }

    fn vector(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        Ok(values)
    }

    fn begin(
        &self,
        x: &mut Workspace,
        tokens: usize,
        residual: &[f32],
        cosines: &[f32],
        sines: &[f32],
    ) -> Result<()> {
        x.tokens = tokens;
        x.residual.fill(residual);
        x.cosines.fill(cosines);
        x.sines.fill(sines);
        Ok(())
    }

    fn multiply_normalized(
        &self,
        x: &mut Workspace,
        norm: &Vec<f32>,
        weights: &[Weight<Self>],
        products: Products,
    ) -> Result<()> {
        let tokens = x.tokens;
        let rows = rows_of(tokens, x.residual.values());
        let source = Source::Normalized { rows, norm: self.norm(norm) };
        let width = |index: usize| tokens * weights[index].matrix.rows();
        let workspace = &mut x.products;
        match products {
            Products::QueriesKeysValues => {
                let queries = x.queries.resize(width(0));
                let targets = [queries, x.keys.resize(width(1)), x.values.resize(width(2))];
                self.multiply(weights, &source, targets, Update::Replace, workspace);
            }
            Products::GateUp => {
                let targets = [x.gate.resize(width(0)), x.up.resize(width(1))];
                self.multiply(weights, &source, targets, Update::Replace, workspace);
            }
            Products::Logits => {
                self.multiply(
                    weights,
                    &source,
                    [x.logits.resize(width(0))],
                    Update::Replace,
                    workspace,
                );
            }
        }
        Ok(())
    }

    fn add_product(&self, x: &mut Workspace, branch: Branch, weight: &Weight<Self>) -> Result<()> {
        let tokens = x.tokens;
        let source = match branch {
            Branch::Attended => Source::Rows(rows_of(tokens, x.attended.values())),
            Branch::Gated => Source::Gated {
                activation: Activation::Silu,
                gate: rows_of(tokens, x.gate.values()),
                up: rows_of(tokens, x.up.values()),
            },
        };
        let (weights, targets) = (std::slice::from_ref(weight), [x.residual.values_mut()]);
        self.multiply(weights, &source, targets, Update::Add(1.0), &mut x.products);
        Ok(())
    }

    fn with_input(
        &self,
        x: &mut Workspace,
        input: Input<'_, Self>,
        action: &mut dyn FnMut(&[f32]),
    ) -> Result<()> {
        let tokens = x.tokens;
        match input {
            Input::Normalized(weight) => {
                let rows = rows_of(tokens, x.residual.values());
                let normed = x.input.resize(x.residual.length);
                for_each_row(self.team, tokens, [normed], |token, [normed]| {
                    norm_row(self.norm(weight), rows.row(token), normed);
                });
                action(x.input.values());
            }
            Input::Branch(Branch::Attended) => action(x.attended.values()),
            Input::Branch(Branch::Gated) => {
                let gate = rows_of(tokens, x.gate.values());
                let up = rows_of(tokens, x.up.values());
                let gated = x.input.resize(x.gate.length);
                for_each_row(self.team, tokens, [gated], |token, [gated]| {
                    gate_row(Activation::Silu, gate.row(token), up.row(token), gated);
                });
                action(x.input.values());
            }
        }
        Ok(())
    }

    fn rotate_and_store(
        &self,
        x: &mut Workspace,
        norms: Option<&HeadNorms<Vec<f32>>>,
        layer: usize,
        items: &mut [BatchItem<'_>],
    ) -> Result<()> {
        let mut places: Vec<Place<'_>> = emptied(std::mem::take(&mut x.places));
        let mut end = 0;
        for item in items.iter_mut() {
            let first = end;
            end += item.tokens.len();
            let segment = tail(item)?;
            let position = segment.length;
            let writer = key_values_mut(&mut segment.storage)?.writer(layer);
            places.push(Place { tokens: first..end, position, writer });
        }
        let pairs = x.cosines.length / x.tokens;
        let (cosines, sines, values) = (x.cosines.values(), x.sines.values(), x.values.values());
        let head_size = self.shape.head_size;
        let matrices = [x.queries.values_mut(), x.keys.values_mut()];
        for_each_row(self.team, x.tokens, matrices, |token, [queries, keys]| {
            if let Some(norms) = norms {
                norm_heads(self.norm(&norms.queries), head_size, queries);
                norm_heads(self.norm(&norms.keys), head_size, keys);
            }
            let angles = token * pairs..(token + 1) * pairs;
            let (cosines, sines) = (&cosines[angles.clone()], &sines[angles]);
            rotate_heads(queries, head_size, self.halves, cosines, sines);
            rotate_heads(keys, head_size, self.halves, cosines, sines);
            let values = &values[token * keys.len()..][..keys.len()];
            let place = &places[places.partition_point(|place| place.tokens.end <= token)];
            place.writer.write(place.position + token - place.tokens.start, keys, values);
        });
        x.places = emptied(places);
        Ok(())
    }

    fn attention(
        &self,
        x: &mut Workspace,
        layer: usize,
        items: &[BatchItem<'_>],
        queries: Queries,
    ) -> Result<()> {
        let mut spans: Vec<Span<'_>> = emptied(std::mem::take(&mut x.spans));
        for item in items {
            for (segment, length) in item.cache.segments(item.tokens.len()) {
                spans.push(Span { store: key_values(&segment.storage)?, length });
            }
        }
        let mut parts: Vec<AttentionItem<'_>> = emptied(std::mem::take(&mut x.parts));
        let (mut rest, mut start) = (&spans[..], 0);
        for item in items {
            let (own, others) = rest.split_at(item.cache.segments(0).count());
            rest = others;
            let end = start + queries.count(item);
            if end > start {
                parts.push(AttentionItem { queries: start..end, spans: own });
            }
            start = end;
        }
        let queries = rows_of(x.tokens, x.queries.values());
        let attended = x.attended.resize(x.queries.length);
        let scratch = &mut x.attention;
        let layer = AttentionLayer::new(self.shape, layer);
        attention(self.team, layer, queries, &parts, attended, scratch);
        x.parts = emptied(parts);
        x.spans = emptied(spans);
        Ok(())
    }

    fn keep_wanted(&self, x: &mut Workspace, items: &[BatchItem<'_>]) -> Result<usize> {
        let tokens = x.tokens;
        x.tokens = Queries::Wanted.count_all(items);
        for rows in [&mut x.residual, &mut x.queries] {
            let width = rows.length / tokens;
            let (mut kept, mut end) = (0, 0);
            for item in items {
                end += item.tokens.len();
                let wanted = (end - item.logits) * width..end * width;
                rows.values_mut().copy_within(wanted, kept);
                kept += item.logits * width;
            }
            rows.length = kept;
        }
        Ok(x.tokens)
    }

    fn residual(&self, x: &Workspace) -> Result<Vec<f32>> {
        Ok(x.residual.values().to_vec())
    }

    fn logits<'a>(&self, x: &'a Workspace) -> &'a [f32] {
        x.logits.values()
    }

    fn cache_storage(&self, capacity: usize) -> Result<SegmentStorage> {
        match KeyValues::allocate(self.kv_type, self.kv_shape.clone(), capacity) {
            Some(memory) => Ok(SegmentStorage::Integers(memory)),
            None => bail!(
                "no memory for the keys and values of {capacity} more tokens: let the prompt or \
                 the output have fewer tokens, or run fewer sequences at once"
            ),
        }
    }

    fn append(&self, to: &mut Segment, from: &Segment) -> Result<()> {
        key_values_mut(&mut to.storage)?.copy(to.length, key_values(&from.storage)?, from.length);
        to.length += from.length;
        Ok(())
    }

    fn cache_bytes_per_token(&self) -> usize {
        self.kv_shape.bytes_per_token(self.kv_type)
    }
}

fn key_values(storage: &SegmentStorage) -> Result<&KeyValues> {
    match storage {
        SegmentStorage::Integers(memory) => Ok(memory),
        SegmentStorage::Tensor(_) => bail!("a cache of another back end came to the CPU kernels"),
    }
}

fn key_values_mut(storage: &mut SegmentStorage) -> Result<&mut KeyValues> {
    match storage {
        SegmentStorage::Integers(memory) => Ok(memory),
        SegmentStorage::Tensor(_) => bail!("a cache of another back end came to the CPU kernels"),
    }
}
