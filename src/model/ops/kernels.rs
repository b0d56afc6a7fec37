//! The operations on the CPU, by quantkit's own kernels.

mod workspace;

use std::ops::Range;

use candle_core::{Result, bail};

use super::operations::{
    AttentionSpec, Buffer, Norm, Ops, Queries, Slot, Source, Start, View, Weight,
};
use crate::family::layer::{Activation, NormKind};
use crate::gguf::GgmlType;
use crate::kernels::attention::{
    AttentionItem, AttentionLayer, KeyValues, KvShape, KvType, Span, attention,
};
use crate::kernels::elementwise::{
    self, activate_row, add_normalized_row, for_each_row, gate_row, norm_heads, norm_row,
    rotate_heads, scale_and_cap_row,
};
use crate::kernels::matmul::{
    self, ActivationBits, MAX_MATRICES, PackedMatrix, Target, Update, multiply_many,
};
use crate::model::cache::{BatchItem, Memory};
use crate::support::reuse::emptied;
use crate::support::team::Team;
use workspace::{Buffers, Place, Workspace};

/// How quantkit's own kernels run a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KernelOptions {
    /// Elements of the key-value cache.
    pub kv_type: KvType,
    /// Bits that activations are rounded to in products with quantized weights.
    pub activations: ActivationBits,
}

/// See [`super::Ops`].
#[derive(Debug)]
pub(in crate::model) struct KernelOps {
    team: &'static Team,
    kv_shape: KvShape,
    options: KernelOptions,
}

impl KernelOps {
    /// The operations of a model whose caches have this shape.
    pub(in crate::model) fn new(kv_shape: KvShape, options: KernelOptions) -> Self {
        Self { team: Team::global(), kv_shape, options }
    }
}

impl Norm<Vec<f32>> {
    /// The norm as the kernels know it.
    pub(in crate::model) fn of_kernels(&self) -> elementwise::Norm<'_> {
        let (weight, epsilon) = (self.weight.as_deref(), self.epsilon);
        match self.kind {
            NormKind::Rms => elementwise::Norm::Rms { weight, epsilon },
            NormKind::Layer => {
                elementwise::Norm::Layer { weight, bias: self.bias.as_deref(), epsilon }
            }
        }
    }
}

fn of_kernels(activation: Activation) -> elementwise::Activation {
    match activation {
        Activation::Silu => elementwise::Activation::Silu,
        Activation::GeluTanh => elementwise::Activation::GeluTanh,
        Activation::Gelu => elementwise::Activation::GeluErf,
    }
}

/// A source as the kernels know it.
fn source<'a>(
    buffers: &'a Buffers,
    tokens: usize,
    source: Source<'a, Vec<f32>>,
) -> matmul::Source<'a> {
    let rows = |view: View| buffers.rows(view, tokens);
    match source {
        Source::Rows(view) => matmul::Source::Rows(rows(view)),
        Source::Normalized(view, norm) => {
            matmul::Source::Normalized { rows: rows(view), norm: norm.of_kernels() }
        }
        Source::Activated(activation, view) => {
            matmul::Source::Activated { activation: of_kernels(activation), rows: rows(view) }
        }
        Source::Gated(activation, gate, up) => matmul::Source::Gated {
            activation: of_kernels(activation),
            gate: rows(gate),
            up: rows(up),
        },
    }
}

impl Memory for KernelOps {
    type Storage = KeyValues;

    fn allocate(&self, capacity: usize) -> Result<KeyValues> {
        match KeyValues::allocate(self.options.kv_type, self.kv_shape.clone(), capacity) {
            Some(memory) => Ok(memory),
            None => bail!(
                "no memory for the keys and values of {capacity} more tokens: let the prompt or \
                 the output have fewer tokens, or run fewer sequences at once"
            ),
        }
    }

    fn copy(&self, to: &mut KeyValues, from: &KeyValues, positions: Range<usize>) -> Result<()> {
        to.copy(from, positions);
        Ok(())
    }

    fn bytes_of_slot(&self, slot: usize) -> usize {
        self.kv_shape.layer(slot).map_or(0, |layer| layer.bytes(self.options.kv_type))
    }

    fn bytes_per_token(&self) -> usize {
        self.kv_shape.bytes_per_token(self.options.kv_type)
    }
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
        let matrix = PackedMatrix::pack(kind, rows, columns, bytes);
        let matrix = matrix.map_err(candle_core::Error::wrap)?;
        Ok(matrix.with_activations(self.options.activations))
    }

    fn matrix_bytes(&self, matrix: &PackedMatrix) -> usize {
        matrix.packed_bytes()
    }

    fn vector(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        Ok(values)
    }

    fn begin(&self, x: &mut Workspace, start: Start<'_>) -> Result<()> {
        x.tokens = start.tokens;
        x.buffers.fill(Buffer::Residual, start.residual);
        x.buffers.fill(Buffer::LayerEmbeddings, start.layer_embeddings);
        x.query_factors.clear();
        x.query_factors.extend_from_slice(start.query_factors);
        x.rotations.resize_with(start.rotations.len(), Default::default);
        for (own, rotation) in x.rotations.iter_mut().zip(start.rotations) {
            own.cosines.clone_from(&rotation.cosines);
            own.sines.clone_from(&rotation.sines);
        }
        Ok(())
    }

    fn multiply(
        &self,
        x: &mut Workspace,
        input: Source<'_, Vec<f32>>,
        weights: &[Weight<Self>],
        slots: &[Slot],
    ) -> Result<()> {
        assert!(weights.len() == slots.len() && weights.len() <= MAX_MATRICES, "a slot a matrix");
        // Where a buffer is a target it is no source: it may leave its place meanwhile.
        let mut taken = [const { (Vec::new(), Update::Replace) }; MAX_MATRICES];
        let reads_residual = matches!(
            input,
            Source::Rows(View { buffer: Buffer::Residual, .. })
                | Source::Normalized(View { buffer: Buffer::Residual, .. }, _)
        );
        for ((taken, slot), weight) in taken.iter_mut().zip(slots).zip(weights) {
            let length = x.tokens * weight.matrix.rows();
            *taken = match *slot {
                Slot::Buffer(buffer) => (x.buffers.take(buffer, length), Update::Replace),
                Slot::Residual(factor) => {
                    assert!(!reads_residual, "the residual stream is source and target");
                    (x.buffers.take(Buffer::Residual, length), Update::Add(factor))
                }
            };
        }
        let first = &weights[0].matrix;
        let mut matrices = [first; MAX_MATRICES];
        let mut targets = [const { None }; MAX_MATRICES];
        for (index, (weight, (memory, update))) in weights.iter().zip(&mut taken).enumerate() {
            matrices[index] = &weight.matrix;
            let values = &mut memory[..x.tokens * weight.matrix.rows()];
            targets[index] = Some(Target { values, bias: weight.bias.as_deref(), update: *update });
        }
        let source = source(&x.buffers, x.tokens, input);
        let mut targets = targets.map(|target| target.unwrap_or(Target::new(&mut [])));
        let count = weights.len();
        let (matrices, targets) = (&matrices[..count], &mut targets[..count]);
        multiply_many(self.team, matrices, &source, targets, &mut x.products);
        for (slot, (memory, _)) in slots.iter().zip(taken) {
            let buffer = match *slot {
                Slot::Buffer(buffer) => buffer,
                Slot::Residual(_) => Buffer::Residual,
            };
            x.buffers.put_back(buffer, memory);
        }
        Ok(())
    }

    fn with_input(
        &self,
        x: &mut Workspace,
        input: Source<'_, Vec<f32>>,
        action: &mut dyn FnMut(&[f32]),
    ) -> Result<()> {
        let source = source(&x.buffers, x.tokens, input);
        let values = x.input.resize(x.tokens * source.columns());
        for_each_row(self.team, x.tokens, [values], |token, [values]| match source {
            matmul::Source::Rows(rows) => values.copy_from_slice(rows.row(token)),
            matmul::Source::Normalized { rows, norm } => norm_row(norm, rows.row(token), values),
            matmul::Source::Activated { activation, rows } => {
                activate_row(activation, rows.row(token), values);
            }
            matmul::Source::Gated { activation, gate, up } => {
                gate_row(activation, gate.row(token), up.row(token), values);
            }
        });
        action(x.input.values());
        Ok(())
    }

    fn add_normalized(
        &self,
        x: &mut Workspace,
        norm: &Norm<Vec<f32>>,
        target: Buffer,
        width: usize,
        factor: f32,
    ) -> Result<()> {
        let [target, branch] = x.buffers.two_mut([target, Buffer::Branch]);
        let (branch, norm) = (&*branch, norm.of_kernels());
        for_each_row(self.team, branch.len() / width, [target], |index, [target]| {
            add_normalized_row(norm, &branch[index * width..][..width], factor, target);
        });
        Ok(())
    }

    fn scale_residual(&self, x: &mut Workspace, factor: f32) -> Result<()> {
        let residual = x.buffers.values_mut(Buffer::Residual);
        for_each_row(self.team, x.tokens, [residual], |_, [row]| {
            scale_and_cap_row(factor, None, row);
        });
        Ok(())
    }

    fn rotate_and_store(
        &self,
        x: &mut Workspace,
        layer: &AttentionSpec<Vec<f32>>,
        items: &mut [BatchItem<'_>],
    ) -> Result<()> {
        let Workspace { tokens, buffers, rotations, query_factors, places, .. } = x;
        let turn = Turn {
            layer,
            rotation: layer.rotation.map(|index| {
                let rotation = &rotations[index];
                (&rotation.cosines[..], &rotation.sines[..], rotation.cosines.len() / *tokens)
            }),
            query_factors,
        };
        let Some([keys, values]) = layer.keys_values else {
            for_each_row(
                self.team,
                *tokens,
                [buffers.values_mut(Buffer::Queries)],
                |token, [row]| {
                    turn.queries(token, row);
                },
            );
            return Ok(());
        };
        let mut sequences: Vec<Place<'_>> = emptied(std::mem::take(places));
        let mut end = 0;
        for item in items.iter_mut() {
            let first = end;
            end += item.tokens.len();
            let segment = item.tail()?;
            let position = segment.length;
            let writer = segment.storage_mut::<KeyValues>()?.writer(layer.slot);
            sequences.push(Place { tokens: first..end, position, writer });
        }
        let store = |token: usize, keys: &[f32], values: &[f32]| {
            let place = &sequences[sequences.partition_point(|place| place.tokens.end <= token)];
            place.writer.write(place.position + token - place.tokens.start, keys, values);
        };
        if keys.buffer == Buffer::Queries {
            let rows = buffers.values_mut(Buffer::Queries);
            for_each_row(self.team, *tokens, [rows], |token, [row]| {
                let (queries, rest) = row.split_at_mut(keys.start);
                let (keys, values) = rest.split_at_mut(keys.width);
                turn.queries(token, queries);
                turn.keys_values(token, keys, values);
                store(token, keys, values);
            });
        } else {
            if values.buffer == Buffer::Keys {
                let width = *tokens * keys.width;
                let memory = buffers.take(Buffer::Values, width);
                buffers.put_back(Buffer::Values, memory);
                let [keys, values] = buffers.two_mut([Buffer::Keys, Buffer::Values]);
                values.copy_from_slice(keys);
            }
            let rows = buffers.three_mut([Buffer::Queries, Buffer::Keys, Buffer::Values]);
            for_each_row(self.team, *tokens, rows, |token, [queries, keys, values]| {
                turn.queries(token, queries);
                turn.keys_values(token, keys, values);
                store(token, keys, values);
            });
        }
        *places = emptied(sequences);
        Ok(())
    }

    fn attention(
        &self,
        x: &mut Workspace,
        layer: &AttentionSpec<Vec<f32>>,
        items: &[BatchItem<'_>],
        queries: Queries,
    ) -> Result<()> {
        let mut spans: Vec<Span<'_>> = emptied(std::mem::take(&mut x.spans));
        for item in items {
            for (segment, length) in item.cache.segments(item.tokens.len()) {
                spans.push(Span { store: segment.storage()?, length });
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
        let mut attended = x.buffers.take(Buffer::Attended, x.tokens * layer.queries.width);
        let rows = x.buffers.rows(layer.queries, x.tokens);
        let kernel_layer = AttentionLayer::new(layer.shape, layer.slot);
        let output = &mut attended[..x.tokens * layer.queries.width];
        attention(self.team, kernel_layer, rows, &parts, output, &mut x.attention);
        x.buffers.put_back(Buffer::Attended, attended);
        x.parts = emptied(parts);
        x.spans = emptied(spans);
        Ok(())
    }

    fn keep_wanted(
        &self,
        x: &mut Workspace,
        items: &[BatchItem<'_>],
        buffers: &[Buffer],
    ) -> Result<usize> {
        let tokens = x.tokens;
        x.tokens = Queries::Wanted.count_all(items);
        for &buffer in buffers {
            let rows = x.buffers.values_mut(buffer);
            let width = rows.len() / tokens;
            let (mut kept, mut end) = (0, 0);
            for item in items {
                end += item.tokens.len();
                let wanted = (end - item.logits) * width..end * width;
                rows.copy_within(wanted, kept);
                kept += item.logits * width;
            }
            x.buffers.shorten(buffer, kept);
        }
        Ok(x.tokens)
    }

    fn scale_logits(&self, x: &mut Workspace, factor: f32, softcap: Option<f32>) -> Result<()> {
        let logits = x.buffers.values_mut(Buffer::Logits);
        for_each_row(self.team, x.tokens, [logits], |_, [row]| {
            scale_and_cap_row(factor, softcap, row);
        });
        Ok(())
    }

    fn values(&self, x: &Workspace, buffer: Buffer) -> Result<Vec<f32>> {
        Ok(x.buffers.values(buffer).to_vec())
    }

    fn logits<'a>(&self, x: &'a Workspace) -> &'a [f32] {
        x.buffers.values(Buffer::Logits)
    }
}

/// What happens to queries, keys and values before attention.
struct Turn<'a> {
    layer: &'a AttentionSpec<Vec<f32>>,
    /// Cosines and sines of all tokens, and how many pairs each turns.
    rotation: Option<(&'a [f32], &'a [f32], usize)>,
    query_factors: &'a [f32],
}

impl Turn<'_> {
    fn queries(&self, token: usize, row: &mut [f32]) {
        let norms = self.layer.head_norms.as_ref();
        self.turn(token, norms.map(|norms| &norms.queries), row);
        if self.layer.has_query_factors {
            let factor = self.query_factors[token];
            row.iter_mut().for_each(|value| *value *= factor);
        }
    }

    fn keys_values(&self, token: usize, keys: &mut [f32], values: &mut [f32]) {
        let norms = self.layer.head_norms.as_ref();
        self.turn(token, norms.and_then(|norms| norms.keys.as_ref()), keys);
        if let Some(epsilon) = self.layer.value_norm {
            let norm = elementwise::Norm::Rms { weight: None, epsilon };
            norm_heads(norm, self.layer.shape.head_size, values);
        }
    }

    fn turn(&self, token: usize, norm: Option<&Norm<Vec<f32>>>, row: &mut [f32]) {
        let head_size = self.layer.shape.head_size;
        if let Some(norm) = norm {
            let whole = self.layer.head_norms.as_ref().is_some_and(|norms| norms.whole_rows);
            norm_heads(norm.of_kernels(), if whole { row.len() } else { head_size }, row);
        }
        if let Some((cosines, sines, pairs)) = self.rotation {
            let angles = token * pairs..(token + 1) * pairs;
            let (cosines, sines) = (&cosines[angles.clone()], &sines[angles]);
            rotate_heads(row, head_size, self.layer.halves, cosines, sines);
        }
    }
}
