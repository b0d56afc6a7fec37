//! The operations on the CPU, by quantkit's own kernels.

use candle_core::{Result, bail};

use super::{HeadNorms, Input, Ops, Output, Weight, tail};
use crate::gguf::GgmlType;
use crate::kernels::attention::{
    AttentionItem, AttentionShape, CacheRows, CacheSpan, KvType, attention, encode_row,
};
use crate::kernels::elementwise::{
    Rows, for_each_row, norm_heads, rms_norm_row, rotate_heads, silu_multiply_row,
};
use crate::kernels::matmul::{self, PackedMatrix, Source, Target, multiply_many};
use crate::model::cache::SegmentStorage;
use crate::model::config::Config;
use crate::model::decoder::BatchItem;
use crate::model::rope::RopePairs;
use crate::support::team::Team;

/// See [`super::Ops`].
#[derive(Debug)]
pub(in crate::model) struct KernelOps {
    team: &'static Team,
    shape: AttentionShape,
    layers: usize,
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
    /// What matrices are multiplied with, for who wants to see it.
    input: Buffer,
    products: matmul::Workspace,
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
        let Config { heads, kv_heads, head_size, attention_scale, .. } = *config;
        Self {
            team: Team::global(),
            shape: AttentionShape { heads, kv_heads, head_size, scale: attention_scale },
            layers: config.layers,
            kv_type,
            epsilon: config.norm_epsilon,
            halves: config.family.rope_pairs == RopePairs::Halves,
        }
    }

    fn multiply_into<const COUNT: usize>(
        &self,
        weights: &[Weight<Self>],
        source: &Source<'_>,
        targets: [&mut [f32]; COUNT],
        add: bool,
        workspace: &mut matmul::Workspace,
    ) {
        let matrices: [&PackedMatrix; COUNT] = std::array::from_fn(|index| &weights[index].matrix);
        let mut index = 0;
        let mut targets = targets.map(|values| {
            let bias = weights[index].bias.as_deref();
            index += 1;
            Target { values, bias, add }
        });
        multiply_many(self.team, &matrices, source, &mut targets, workspace);
    }

    /// Computes what matrices are multiplied with.
    fn prepare(&self, x: &mut Workspace, input: Input<'_, Self>) {
        let tokens = x.tokens;
        match input {
            Input::Normalized(weight) => {
                let width = weight.len();
                let rows = x.residual.values();
                let normed = x.input.resize(tokens * width);
                for_each_row(self.team, tokens, [normed], |token, [normed]| {
                    let row = &rows[token * width..][..width];
                    rms_norm_row(row, weight, self.epsilon, normed);
                });
            }
            Input::Attended => x.input.fill(x.attended.values()),
            Input::Gated => {
                let (gate, up) = (x.gate.values(), x.up.values());
                let width = gate.len() / tokens;
                let gated = x.input.resize(tokens * width);
                for_each_row(self.team, tokens, [gated], |token, [gated]| {
                    let row = token * width..(token + 1) * width;
                    silu_multiply_row(&gate[row.clone()], &up[row], gated);
                });
            }
        }
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

    fn multiply(
        &self,
        x: &mut Workspace,
        input: Input<'_, Self>,
        weights: &[Weight<Self>],
        output: Output,
    ) -> Result<()> {
        let tokens = x.tokens;
        let Workspace { residual, queries, keys, values, attended, gate, up, logits, .. } = x;
        let width = |index: usize| tokens * weights[index].matrix.rows();
        let workspace = &mut x.products;
        match (input, output) {
            (Input::Normalized(weight), _) => {
                let rows = rows_of(tokens, residual.values());
                let source = Source::Normalized { rows, weight, epsilon: self.epsilon };
                match output {
                    Output::QueriesKeysValues => {
                        let targets = [
                            queries.resize(width(0)),
                            keys.resize(width(1)),
                            values.resize(width(2)),
                        ];
                        self.multiply_into(weights, &source, targets, false, workspace);
                    }
                    Output::GateUp => {
                        let targets = [gate.resize(width(0)), up.resize(width(1))];
                        self.multiply_into(weights, &source, targets, false, workspace);
                    }
                    Output::Logits => {
                        let targets = [logits.resize(width(0))];
                        self.multiply_into(weights, &source, targets, false, workspace);
                    }
                    Output::Residual => bail!("no product of the residual stream goes into it"),
                }
            }
            (Input::Attended, Output::Residual) => {
                let source = Source::Rows(rows_of(tokens, attended.values()));
                let targets = [residual.values_mut()];
                self.multiply_into(weights, &source, targets, true, workspace);
            }
            (Input::Gated, Output::Residual) => {
                let gate = rows_of(tokens, gate.values());
                let source = Source::Gated { gate, up: rows_of(tokens, up.values()) };
                let targets = [residual.values_mut()];
                self.multiply_into(weights, &source, targets, true, workspace);
            }
            _ => bail!("only products of the residual stream go elsewhere"),
        }
        Ok(())
    }

    fn with_input(
        &self,
        x: &mut Workspace,
        input: Input<'_, Self>,
        action: &mut dyn FnMut(&[f32]),
    ) -> Result<()> {
        self.prepare(x, input);
        action(x.input.values());
        Ok(())
    }

    fn rotate_and_store(
        &self,
        x: &mut Workspace,
        norms: Option<&HeadNorms<Vec<f32>>>,
        layer: usize,
        items: &mut [BatchItem<'_>],
    ) -> Result<()> {
        let AttentionShape { kv_heads, head_size, .. } = self.shape;
        let tokens = x.tokens;
        let pairs = x.cosines.length / tokens;
        let (cosines, sines) = (x.cosines.values(), x.sines.values());
        let matrices = [x.queries.values_mut(), x.keys.values_mut()];
        for_each_row(self.team, tokens, matrices, |token, [queries, keys]| {
            if let Some(norms) = norms {
                norm_heads(queries, &norms.queries, self.epsilon);
                norm_heads(keys, &norms.keys, self.epsilon);
            }
            let angles = token * pairs..(token + 1) * pairs;
            let (cosines, sines) = (&cosines[angles.clone()], &sines[angles]);
            rotate_heads(queries, head_size, self.halves, cosines, sines);
            rotate_heads(keys, head_size, self.halves, cosines, sines);
        });
        let mut start = 0;
        for item in items {
            let count = item.tokens.len();
            let segment = tail(item)?;
            let (capacity, length) = (segment.capacity, segment.length);
            let SegmentStorage::Integers(elements, scales) = &mut segment.storage else {
                bail!("a cache of another back end came to the CPU kernels");
            };
            for (plane, rows) in [x.keys.values(), x.values.values()].into_iter().enumerate() {
                let width = kv_heads * head_size;
                for token in 0..count {
                    for head in 0..kv_heads {
                        let row =
                            ((2 * layer + plane) * kv_heads + head) * capacity + length + token;
                        scales[row] = encode_row(
                            &rows[(start + token) * width + head * head_size..][..head_size],
                            &mut elements[row * head_size..][..head_size],
                        );
                    }
                }
            }
            start += count;
        }
        Ok(())
    }

    fn attention(&self, x: &mut Workspace, layer: usize, items: &[BatchItem<'_>]) -> Result<()> {
        let shape = self.shape;
        let mut parts = Vec::with_capacity(items.len());
        let mut start = 0;
        for item in items {
            let mut spans = Vec::new();
            for (segment, length) in item.cache.segments(item.tokens.len()) {
                let SegmentStorage::Integers(elements, scales) = &segment.storage else {
                    bail!("a cache of another back end came to the CPU kernels");
                };
                let capacity = segment.capacity;
                let count = shape.kv_heads * capacity;
                let rows = |plane: usize| CacheRows {
                    elements: &elements[plane * count * shape.head_size..]
                        [..count * shape.head_size],
                    scales: &scales[plane * count..][..count],
                };
                let (keys, values) = (rows(2 * layer), rows(2 * layer + 1));
                spans.push(CacheSpan { keys, values, length, capacity });
            }
            parts.push(AttentionItem { queries: start..start + item.tokens.len(), spans });
            start += item.tokens.len();
        }
        let attended = x.attended.resize(x.queries.length);
        attention(shape, x.queries.values(), &parts, attended);
        Ok(())
    }

    fn keep_wanted(&self, x: &mut Workspace, items: &[BatchItem<'_>]) -> Result<usize> {
        let width = x.residual.length / x.tokens;
        let residual = x.residual.values_mut();
        let (mut kept, mut end) = (0, 0);
        for item in items {
            end += item.tokens.len();
            residual.copy_within((end - item.logits) * width..end * width, kept * width);
            kept += item.logits;
        }
        x.tokens = kept;
        x.residual.length = kept * width;
        Ok(kept)
    }

    fn residual(&self, x: &Workspace) -> Result<Vec<f32>> {
        Ok(x.residual.values().to_vec())
    }

    fn logits<'a>(&self, x: &'a Workspace) -> &'a [f32] {
        x.logits.values()
    }

    fn cache_storage(&self, capacity: usize) -> Result<SegmentStorage> {
        let shape = [self.layers, 2, self.shape.kv_heads, capacity];
        let rows = shape.iter().try_fold(1usize, |rows, &count| rows.checked_mul(count));
        let room = rows.and_then(|rows| {
            let elements = zeroes::<i16>(rows.checked_mul(self.shape.head_size)?)?;
            Some((elements, zeroes::<f32>(rows)?))
        });
        let Some((elements, scales)) = room else {
            bail!(
                "no memory for the keys and values of {capacity} more tokens: let the prompt or \
                 the output have fewer tokens, or run fewer sequences at once"
            );
        };
        Ok(SegmentStorage::Integers(elements, scales))
    }

    fn cache_bytes_per_token(&self) -> usize {
        let row = self.shape.head_size * size_of::<i16>() + size_of::<f32>();
        2 * self.layers * self.shape.kv_heads * row
    }
}

/// Zeroes, if there is memory for them. The system hands it out page by page as it is used, which
/// is why they are not written here, as `resize` would do.
fn zeroes<T: Clone + Default>(count: usize) -> Option<Vec<T>> {
    // Memory that can be had now, and is given back, can be had again at once: a `Vec` of zeroes
    // has no constructor that fails.
    let mut probe = Vec::<T>::new();
    probe.try_reserve_exact(count).ok()?;
    // The compiler may leave out an allocation that nobody uses.
    drop(std::hint::black_box(probe));
    Some(vec![T::default(); count])
}
