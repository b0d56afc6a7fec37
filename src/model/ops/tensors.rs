//! The operations by candle's own, on any device.

use std::ops::Range;

use candle_core::quantized::{GgmlDType, QMatMul, ggml_file::qtensor_from_ggml};
use candle_core::{D, DType, Device, Module, Result, Tensor, bail};

use super::operations::{
    AttentionSpec, Buffer, Norm, Ops, Queries, Slot, Source, Start, View, Weight,
};
use crate::family::layer::{Activation, NormKind};
use crate::gguf::GgmlType;
use crate::kernels::attention::{AttentionShape, KvShape};
use crate::model::cache::{BatchItem, Memory};
use crate::quant::formats::dequantize_row;

/// See [`super::Ops`].
#[derive(Debug)]
pub(in crate::model) struct TensorOps {
    device: Device,
    kv_shape: KvShape,
}

/// A weight matrix on the device.
#[derive(Debug)]
pub(in crate::model) enum TensorMatrix {
    /// In candle's quantized form, and its bytes.
    Quantized(QMatMul, usize),
    /// A dense tensor, `[rows, columns]`.
    Dense(Tensor),
}

/// The activations of a step: f32 tensors `[tokens, width]`.
#[derive(Debug, Default)]
pub(in crate::model) struct StepTensors {
    /// By [`Buffer`].
    buffers: [Option<Tensor>; Buffer::COUNT],
    /// Cosines and sines, `[tokens, pairs]`; none where nothing turns.
    rotations: Vec<Option<(Tensor, Tensor)>>,
    /// `[tokens, 1]`.
    query_factors: Option<Tensor>,
    logits: Vec<f32>,
}

impl StepTensors {
    fn get(&self, buffer: Buffer) -> Result<&Tensor> {
        earlier(self.buffers[buffer as usize].as_ref())
    }

    fn set(&mut self, buffer: Buffer, tensor: Tensor) {
        self.buffers[buffer as usize] = Some(tensor);
    }

    fn view(&self, view: View) -> Result<Tensor> {
        self.get(view.buffer)?.narrow(1, view.start, view.width)
    }
}

/// What an earlier operation of the step has left.
fn earlier<T>(left: Option<&T>) -> Result<&T> {
    match left {
        Some(left) => Ok(left),
        None => bail!("an operation came before the one that it needs"),
    }
}

impl TensorOps {
    /// The operations on `device` of a model whose caches have this shape.
    pub(in crate::model) fn new(kv_shape: KvShape, device: Device) -> Self {
        Self { device, kv_shape }
    }
}

fn input(x: &StepTensors, source: Source<'_, Tensor>) -> Result<Tensor> {
    match source {
        Source::Rows(view) => x.view(view),
        Source::Normalized(view, norm) => normalize(&x.view(view)?, norm),
        Source::Activated(activation, view) => activate(activation, &x.view(view)?),
        Source::Gated(activation, gate, up) => {
            activate(activation, &x.view(gate)?)? * x.view(up)?
        }
    }
}

fn activate(activation: Activation, input: &Tensor) -> Result<Tensor> {
    let input = input.contiguous()?;
    match activation {
        Activation::Silu => input.silu(),
        Activation::GeluTanh => input.gelu(),
        Activation::Gelu => input.gelu_erf(),
    }
}

/// The norm of the last dimension.
fn normalize(input: &Tensor, norm: &Norm<Tensor>) -> Result<Tensor> {
    let epsilon = f64::from(norm.epsilon);
    let centred = match norm.kind {
        NormKind::Rms => input.clone(),
        NormKind::Layer => input.broadcast_sub(&input.mean_keepdim(D::Minus1)?)?,
    };
    let mean = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let mut output = centred.broadcast_div(&(mean + epsilon)?.sqrt()?)?;
    if let Some(weight) = &norm.weight {
        output = output.broadcast_mul(weight)?;
    }
    match &norm.bias {
        Some(bias) => output.broadcast_add(bias),
        None => Ok(output),
    }
}

/// Queries or keys: normalized where there is a norm, then turned.
fn turn(
    input: &Tensor,
    layer: &AttentionSpec<Tensor>,
    norm: Option<&Norm<Tensor>>,
    rotation: Option<&(Tensor, Tensor)>,
) -> Result<Tensor> {
    let head_size = layer.shape.head_size;
    let (tokens, width) = input.dims2()?;
    let heads = width / head_size;
    let mut rows = input.contiguous()?.reshape((tokens, heads, head_size))?;
    if let Some(norm) = norm {
        rows = normalize_heads(&rows, layer, norm)?;
    }
    let Some((cosines, sines)) = rotation else { return rows.reshape((tokens, width)) };
    let pairs = cosines.dim(1)?;
    let turning = rows.narrow(2, 0, 2 * pairs)?.contiguous()?;
    // Pairs side by side: `[tokens, heads, pairs, 2]` or `[tokens, heads, 2, pairs]`.
    let (shape, side) = if layer.halves { ([2, pairs], 2) } else { ([pairs, 2], 3) };
    let split = turning.reshape((tokens, heads, shape[0], shape[1]))?;
    let (x, y) =
        (split.narrow(side, 0, 1)?.squeeze(side)?, split.narrow(side, 1, 1)?.squeeze(side)?);
    let (cosines, sines) = (cosines.unsqueeze(1)?, sines.unsqueeze(1)?);
    let first = (x.broadcast_mul(&cosines)? - y.broadcast_mul(&sines)?)?;
    let second = (x.broadcast_mul(&sines)? + y.broadcast_mul(&cosines)?)?;
    let turned = Tensor::stack(&[first, second], side)?.reshape(turning.shape())?;
    if 2 * pairs == head_size {
        return turned.reshape((tokens, width));
    }
    let passing = rows.narrow(2, 2 * pairs, head_size - 2 * pairs)?;
    Tensor::cat(&[turned, passing.contiguous()?], 2)?.reshape((tokens, width))
}

/// Norms of heads, `[tokens, heads, head size]`: each alone, or all of a token as one.
fn normalize_heads(
    rows: &Tensor,
    layer: &AttentionSpec<Tensor>,
    norm: &Norm<Tensor>,
) -> Result<Tensor> {
    let (tokens, heads, size) = rows.dims3()?;
    if layer.head_norms.as_ref().is_some_and(|norms| norms.whole_rows) {
        let normalized = normalize(&rows.reshape((tokens, heads * size))?, norm)?;
        return normalized.reshape((tokens, heads, size));
    }
    let per_head = |vector: &Option<Tensor>| match vector {
        Some(vector) if vector.elem_count() != size => vector.reshape((heads, size)).map(Some),
        other => Ok(other.clone()),
    };
    let Norm { kind, epsilon, .. } = *norm;
    let norm = Norm { kind, weight: per_head(&norm.weight)?, bias: per_head(&norm.bias)?, epsilon };
    normalize(rows, &norm)
}

/// Writes keys and values, `[tokens, kv_heads · head_size]`, at `position` of a segment's layer.
fn store(
    shape: AttentionShape,
    planes: &Tensor,
    position: usize,
    keys_values: [&Tensor; 2],
) -> Result<()> {
    let AttentionShape { kv_heads, head_size, .. } = shape;
    for (index, rows) in keys_values.into_iter().enumerate() {
        let heads = rows.contiguous()?.reshape((rows.dim(0)?, kv_heads, head_size))?;
        let heads = heads.transpose(0, 1)?.to_dtype(DType::F16)?.contiguous()?;
        planes.get(index)?.slice_set(&heads, 1, position)?;
    }
    Ok(())
}

impl Weight<TensorOps> {
    fn multiply(&self, input: &Tensor) -> Result<Tensor> {
        let product = match &self.matrix {
            TensorMatrix::Dense(weights) => {
                let product = input.to_dtype(weights.dtype())?.matmul(&weights.t()?)?;
                product.to_dtype(DType::F32)
            }
            TensorMatrix::Quantized(weights, _) => weights.forward(input),
        }?;
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}

impl Memory for TensorOps {
    /// For each layer that keeps any, `[2, kv_heads, capacity, head_size]` in f16; keys come first.
    type Storage = Vec<Tensor>;

    fn allocate(&self, capacity: usize) -> Result<Vec<Tensor>> {
        let layer = |slot| {
            let shape = self.kv_shape.layer(slot).expect("a slot of the model");
            let shape = (2, shape.kv_heads, capacity, shape.head_size);
            Tensor::zeros(shape, DType::F16, &self.device)
        };
        (0..self.kv_shape.layers()).map(layer).collect()
    }

    fn copy(
        &self,
        to: &mut Vec<Tensor>,
        from: &Vec<Tensor>,
        positions: Range<usize>,
    ) -> Result<()> {
        for (to, from) in to.iter().zip(from) {
            let copied = from.narrow(2, positions.start, positions.len())?;
            to.slice_set(&copied.contiguous()?, 2, 0)?;
        }
        Ok(())
    }

    fn bytes_of_slot(&self, slot: usize) -> usize {
        let elements = self.kv_shape.layer(slot).map_or(0, |one| one.kv_heads * one.head_size);
        2 * elements * DType::F16.size_in_bytes()
    }

    fn bytes_per_token(&self) -> usize {
        (0..self.kv_shape.layers()).map(|slot| self.bytes_of_slot(slot)).sum()
    }
}

impl Ops for TensorOps {
    type Matrix = TensorMatrix;
    type Vector = Tensor;
    type Activations = StepTensors;

    fn matrix(
        &self,
        kind: GgmlType,
        rows: usize,
        columns: usize,
        bytes: &[u8],
    ) -> Result<TensorMatrix> {
        let shape = [rows, columns];
        if let Some(dense) = dense_type(kind) {
            let tensor = Tensor::from_raw_buffer(bytes, dense, &shape, &self.device)?;
            return Ok(TensorMatrix::Dense(tensor));
        }
        if let Some(quantized) = quantized_type(kind) {
            // candle reads the bytes as blocks, which begin with an f16.
            let aligned = bytes.as_ptr().align_offset(align_of::<u16>()) == 0;
            let aligned =
                if aligned { bytes.into() } else { std::borrow::Cow::Owned(bytes.to_vec()) };
            let tensor = qtensor_from_ggml(quantized, &aligned, shape.to_vec(), &self.device)?;
            return Ok(TensorMatrix::Quantized(QMatMul::from_qtensor(tensor)?, bytes.len()));
        }
        let mut values = vec![0f32; rows * columns];
        dequantize_row(kind, bytes, &mut values).map_err(candle_core::Error::wrap)?;
        let tensor = Tensor::from_vec(values, (rows, columns), &Device::Cpu)?;
        Ok(TensorMatrix::Dense(tensor.to_dtype(DType::F16)?.to_device(&self.device)?))
    }

    fn matrix_bytes(&self, matrix: &TensorMatrix) -> usize {
        match matrix {
            TensorMatrix::Quantized(_, bytes) => *bytes,
            TensorMatrix::Dense(weights) => weights.elem_count() * weights.dtype().size_in_bytes(),
        }
    }

    fn vector(&self, values: Vec<f32>) -> Result<Tensor> {
        let count = values.len();
        Tensor::from_vec(values, count, &self.device)
    }

    fn begin(&self, x: &mut StepTensors, start: Start<'_>) -> Result<()> {
        let tensor = |values: &[f32]| {
            let shape = (start.tokens, values.len() / start.tokens);
            Tensor::from_slice(values, shape, &self.device)
        };
        x.set(Buffer::Residual, tensor(start.residual)?);
        // A device has no memory of no bytes.
        if !start.layer_embeddings.is_empty() {
            x.set(Buffer::LayerEmbeddings, tensor(start.layer_embeddings)?);
        }
        x.rotations.clear();
        for rotation in start.rotations {
            let is_empty = rotation.cosines.is_empty();
            let pair = || {
                Ok::<_, candle_core::Error>((tensor(&rotation.cosines)?, tensor(&rotation.sines)?))
            };
            x.rotations.push(if is_empty { None } else { Some(pair()?) });
        }
        let factors = start.query_factors;
        x.query_factors = if factors.is_empty() { None } else { Some(tensor(factors)?) };
        Ok(())
    }

    fn multiply(
        &self,
        x: &mut StepTensors,
        source: Source<'_, Tensor>,
        weights: &[Weight<Self>],
        slots: &[Slot],
    ) -> Result<()> {
        let input = input(x, source)?.contiguous()?;
        for (weight, slot) in weights.iter().zip(slots) {
            let product = weight.multiply(&input)?;
            match *slot {
                Slot::Buffer(buffer) => x.set(buffer, product),
                Slot::Residual(factor) => {
                    let product =
                        if factor == 1.0 { product } else { (product * f64::from(factor))? };
                    x.set(Buffer::Residual, (x.get(Buffer::Residual)? + product)?);
                }
            }
        }
        if slots.contains(&Slot::Buffer(Buffer::Logits)) {
            x.logits = x.get(Buffer::Logits)?.flatten_all()?.to_vec1()?;
        }
        Ok(())
    }

    fn with_input(
        &self,
        x: &mut StepTensors,
        source: Source<'_, Tensor>,
        action: &mut dyn FnMut(&[f32]),
    ) -> Result<()> {
        action(&input(x, source)?.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    }

    fn add_normalized(
        &self,
        x: &mut StepTensors,
        norm: &Norm<Tensor>,
        target: Buffer,
        width: usize,
        factor: f32,
    ) -> Result<()> {
        let rows = x.get(Buffer::Branch)?.reshape(((), width))?;
        let sum = x.get(target)?;
        let branch = (normalize(&rows, norm)? * f64::from(factor))?.reshape(sum.shape())?;
        x.set(target, (sum + branch)?);
        Ok(())
    }

    fn scale_residual(&self, x: &mut StepTensors, factor: f32) -> Result<()> {
        x.set(Buffer::Residual, (x.get(Buffer::Residual)? * f64::from(factor))?);
        Ok(())
    }

    fn rotate_and_store(
        &self,
        x: &mut StepTensors,
        layer: &AttentionSpec<Tensor>,
        items: &mut [BatchItem<'_>],
    ) -> Result<()> {
        let norms = layer.head_norms.as_ref();
        let rotation = layer.rotation.and_then(|index| x.rotations[index].as_ref());
        let queries = x.view(layer.queries)?;
        let mut queries = turn(&queries, layer, norms.map(|norms| &norms.queries), rotation)?;
        if layer.has_query_factors {
            queries = queries.broadcast_mul(earlier(x.query_factors.as_ref())?)?;
        }
        if let Some([keys, values]) = layer.keys_values {
            let (keys, mut values) = (x.view(keys)?, x.view(values)?);
            let norm = norms.and_then(|norms| norms.keys.as_ref());
            let keys = turn(&keys, layer, norm, rotation)?;
            if let Some(epsilon) = layer.value_norm {
                let norm = Norm { kind: NormKind::Rms, weight: None, bias: None, epsilon };
                let AttentionShape { kv_heads, head_size, .. } = layer.shape;
                let heads = values.contiguous()?.reshape(((), kv_heads, head_size))?;
                values = normalize(&heads, &norm)?.reshape(keys.shape())?;
            }
            let mut start = 0;
            for item in items {
                let count = item.tokens.len();
                let segment = item.tail()?;
                let planes = segment.storage::<Vec<Tensor>>()?[layer.slot].clone();
                let rows = [&keys.narrow(0, start, count)?, &values.narrow(0, start, count)?];
                store(layer.shape, &planes, segment.length, rows)?;
                start += count;
            }
        }
        // Attention reads turned queries alone, wherever they came from.
        x.set(Buffer::Queries, queries);
        Ok(())
    }

    fn attention(
        &self,
        x: &mut StepTensors,
        layer: &AttentionSpec<Tensor>,
        items: &[BatchItem<'_>],
        queries: Queries,
    ) -> Result<()> {
        let rows = x.get(Buffer::Queries)?;
        let mut start = 0;
        let mut outputs = Vec::with_capacity(items.len());
        for item in items {
            let count = queries.count(item);
            if count > 0 {
                let own = rows.narrow(0, start, count)?.contiguous()?;
                outputs.push(attend(layer, &own, item)?);
            }
            start += count;
        }
        x.set(Buffer::Attended, Tensor::cat(&outputs, 0)?);
        Ok(())
    }

    fn keep_wanted(
        &self,
        x: &mut StepTensors,
        items: &[BatchItem<'_>],
        buffers: &[Buffer],
    ) -> Result<usize> {
        let rows = Queries::Wanted.count_all(items);
        if rows == 0 {
            return Ok(0);
        }
        for &buffer in buffers {
            let tensor = x.get(buffer)?;
            let mut wanted = Vec::new();
            let mut end = 0;
            for item in items.iter() {
                end += item.tokens.len();
                if item.logits > 0 {
                    wanted.push(tensor.narrow(0, end - item.logits, item.logits)?);
                }
            }
            x.set(buffer, Tensor::cat(&wanted, 0)?);
        }
        Ok(rows)
    }

    fn scale_logits(&self, x: &mut StepTensors, factor: f32, softcap: Option<f32>) -> Result<()> {
        let mut logits = (x.get(Buffer::Logits)? * f64::from(factor))?;
        if let Some(cap) = softcap {
            logits = ((logits / f64::from(cap))?.tanh()? * f64::from(cap))?;
        }
        x.logits = logits.flatten_all()?.to_vec1()?;
        Ok(())
    }

    fn values(&self, x: &StepTensors, buffer: Buffer) -> Result<Vec<f32>> {
        x.get(buffer)?.flatten_all()?.to_vec1()
    }

    fn logits<'a>(&self, x: &'a StepTensors) -> &'a [f32] {
        &x.logits
    }
}

/// One sequence's attention: softmax(score(Q·Kᵀ) + mask)·V, with the queries that share a key head
/// stacked into one matrix.
fn attend(layer: &AttentionSpec<Tensor>, queries: &Tensor, item: &BatchItem<'_>) -> Result<Tensor> {
    let AttentionShape { heads, kv_heads, head_size, scale, softcap, .. } = layer.shape;
    let (tokens, group) = (queries.dim(0)?, heads / kv_heads);
    let queries = queries.reshape((tokens, heads, head_size))?.transpose(0, 1)?.contiguous()?;
    let queries = queries.reshape((kv_heads, group * tokens, head_size))?;
    let (keys, values) = (context(layer.slot, 0, item)?, context(layer.slot, 1, item)?);
    let positions = keys.dim(1)?;
    let scores = (queries.matmul(&keys.transpose(1, 2)?.contiguous()?)? * f64::from(scale))?;
    let mut scores = scores.reshape((heads, tokens, positions))?;
    if let Some(cap) = softcap {
        scores = ((scores / f64::from(cap))?.tanh()? * f64::from(cap))?;
    }
    if let Some(bias) = bias(layer.shape, tokens, positions, queries.device())? {
        scores = scores.broadcast_add(&bias)?;
    }
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    let mixed = weights.reshape((kv_heads, group * tokens, positions))?.matmul(&values)?;
    let mixed = mixed.reshape((heads, tokens, head_size))?.transpose(0, 1)?.contiguous()?;
    mixed.reshape((tokens, heads * head_size))
}

/// A sequence's keys (0) or values (1) of a layer, those of this step's tokens included,
/// `[kv_heads, positions, head_size]` in f32.
fn context(slot: usize, plane: usize, item: &BatchItem<'_>) -> Result<Tensor> {
    let spans = item.cache.segments(item.tokens.len()).map(|(segment, length)| {
        let plane = segment.storage::<Vec<Tensor>>()?[slot].get(plane)?;
        plane.narrow(1, 0, length)?.to_dtype(DType::F32)
    });
    Tensor::cat(&spans.collect::<Result<Vec<_>>>()?, 1)?.contiguous()
}

/// What is added to the scores, `[heads or 1, tokens, positions]`: −∞ at the positions that a token does
/// not see, and linear biases where the layer has them. None where it would change nothing.
fn bias(
    shape: AttentionShape,
    tokens: usize,
    positions: usize,
    device: &Device,
) -> Result<Option<Tensor>> {
    let slopes: Vec<f32> = (0..shape.heads).filter_map(|head| shape.slope(head)).collect();
    let sees_all = tokens == 1 && shape.window.is_none_or(|window| window >= positions);
    if slopes.is_empty() && sees_all {
        return Ok(None);
    }
    let rows = if slopes.is_empty() { vec![0.0] } else { slopes };
    let value = |slope: f32, token: usize, position: usize| {
        let own = positions - tokens + token;
        let is_seen = position <= own && shape.window.is_none_or(|window| own - position < window);
        if is_seen { slope * (position as f32 - own as f32) } else { f32::NEG_INFINITY }
    };
    let mut values = Vec::with_capacity(rows.len() * tokens * positions);
    for &slope in &rows {
        for token in 0..tokens {
            values.extend((0..positions).map(|position| value(slope, token, position)));
        }
    }
    Tensor::from_vec(values, (rows.len(), tokens, positions), device).map(Some)
}

fn dense_type(kind: GgmlType) -> Option<DType> {
    match kind {
        GgmlType::F32 => Some(DType::F32),
        GgmlType::F16 => Some(DType::F16),
        GgmlType::BF16 => Some(DType::BF16),
        _ => None,
    }
}

/// The formats that candle multiplies without dequantizing the matrix.
fn quantized_type(kind: GgmlType) -> Option<GgmlDType> {
    match kind {
        GgmlType::Q4_0 => Some(GgmlDType::Q4_0),
        GgmlType::Q4_1 => Some(GgmlDType::Q4_1),
        GgmlType::Q5_0 => Some(GgmlDType::Q5_0),
        GgmlType::Q5_1 => Some(GgmlDType::Q5_1),
        GgmlType::Q8_0 => Some(GgmlDType::Q8_0),
        GgmlType::Q2_K => Some(GgmlDType::Q2K),
        GgmlType::Q3_K => Some(GgmlDType::Q3K),
        GgmlType::Q4_K => Some(GgmlDType::Q4K),
        GgmlType::Q5_K => Some(GgmlDType::Q5K),
        GgmlType::Q6_K => Some(GgmlDType::Q6K),
        _ => None,
    }
}
