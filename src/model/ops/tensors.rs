//! The operations by candle's own, on any device.

use candle_core::quantized::{GgmlDType, QMatMul, ggml_file::qtensor_from_ggml};
use candle_core::{D, DType, Device, Module, Result, Tensor, bail};

use super::{Branch, HeadNorms, Input, Ops, Products, Queries, Weight, attention_shape, tail};
use crate::gguf::GgmlType;
use crate::kernels::attention::AttentionShape;
use crate::model::cache::{Segment, SegmentStorage};
use crate::model::config::Config;
use crate::model::decoder::BatchItem;
use crate::model::rope::RopePairs;
use crate::quant::formats::dequantize_row;

/// See [`super::Ops`].
#[derive(Debug)]
pub(in crate::model) struct TensorOps {
    device: Device,
    shape: AttentionShape,
    layers: usize,
    epsilon: f32,
    /// Whether elements i and i + pairs turn together, rather than 2i and 2i + 1.
    halves: bool,
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
    residual: Option<Tensor>,
    /// Cosines and sines, `[tokens, pairs]`.
    rotation: Option<(Tensor, Tensor)>,
    /// Queries, keys and values, or gate and up.
    products: Vec<Tensor>,
    attended: Option<Tensor>,
    logits: Vec<f32>,
}

/// What an earlier operation of the step has left.
fn earlier<T>(left: Option<&T>) -> Result<&T> {
    match left {
        Some(left) => Ok(left),
        None => bail!("an operation came before the one that it needs"),
    }
}

impl StepTensors {
    fn products<const COUNT: usize>(&self) -> Result<&[Tensor; COUNT]> {
        earlier(self.products.as_array())
    }
}

impl TensorOps {
    /// The operations of a model on `device`.
    pub(in crate::model) fn new(config: &Config, device: Device) -> Self {
        Self {
            device,
            shape: attention_shape(config),
            layers: config.layers,
            epsilon: config.norm_epsilon,
            halves: config.family.rope_pairs == RopePairs::Halves,
        }
    }

    fn input(&self, x: &StepTensors, input: Input<'_, Self>) -> Result<Tensor> {
        match input {
            Input::Normalized(weight) => self.rms_norm(earlier(x.residual.as_ref())?, weight),
            Input::Branch(Branch::Attended) => earlier(x.attended.as_ref()).cloned(),
            Input::Branch(Branch::Gated) => {
                let [gate, up] = x.products()?;
                gate.silu()? * up
            }
        }
    }

    fn rms_norm(&self, input: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let mean = input.sqr()?.mean_keepdim(D::Minus1)?;
        let scale = (mean + f64::from(self.epsilon))?.sqrt()?;
        input.broadcast_div(&scale)?.broadcast_mul(weight)
    }

    /// Queries or keys: normalised head by head where there is a norm, then turned.
    fn turn(
        &self,
        input: &Tensor,
        norm: Option<&Tensor>,
        (cosines, sines): &(Tensor, Tensor),
    ) -> Result<Tensor> {
        let head_size = self.shape.head_size;
        let (tokens, width) = input.dims2()?;
        let (heads, pairs) = (width / head_size, cosines.dim(1)?);
        let mut rows = input.contiguous()?.reshape((tokens, heads, head_size))?;
        if let Some(norm) = norm {
            rows = self.rms_norm(&rows, norm)?;
        }
        let turning = rows.narrow(2, 0, 2 * pairs)?.contiguous()?;
        // Pairs side by side: `[tokens, heads, pairs, 2]` or `[tokens, heads, 2, pairs]`.
        let (shape, side) = if self.halves { ([2, pairs], 2) } else { ([pairs, 2], 3) };
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

    /// Writes keys and values, `[tokens, kv_heads · head_size]`, at `position` of a segment's layer.
    fn store(&self, planes: &Tensor, position: usize, [keys, values]: [&Tensor; 2]) -> Result<()> {
        let AttentionShape { kv_heads, head_size, .. } = self.shape;
        for (index, rows) in [keys, values].into_iter().enumerate() {
            let heads = rows.contiguous()?.reshape((rows.dim(0)?, kv_heads, head_size))?;
            let heads = heads.transpose(0, 1)?.to_dtype(DType::F16)?.contiguous()?;
            planes.get(index)?.slice_set(&heads, 1, position)?;
        }
        Ok(())
    }
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

    fn begin(
        &self,
        x: &mut StepTensors,
        tokens: usize,
        residual: &[f32],
        cosines: &[f32],
        sines: &[f32],
    ) -> Result<()> {
        let tensor =
            |rows: &[f32]| Tensor::from_slice(rows, (tokens, rows.len() / tokens), &self.device);
        x.residual = Some(tensor(residual)?);
        // A device has no memory of no bytes.
        x.rotation =
            if cosines.is_empty() { None } else { Some((tensor(cosines)?, tensor(sines)?)) };
        Ok(())
    }

    fn multiply_normalized(
        &self,
        x: &mut StepTensors,
        norm: &Tensor,
        weights: &[Weight<Self>],
        products: Products,
    ) -> Result<()> {
        let input = self.input(x, Input::Normalized(norm))?;
        let found = weights.iter().map(|weight| weight.multiply(&input));
        let found = found.collect::<Result<Vec<_>>>()?;
        match products {
            Products::QueriesKeysValues | Products::GateUp => x.products = found,
            Products::Logits => x.logits = found[0].flatten_all()?.to_vec1()?,
        }
        Ok(())
    }

    fn add_product(
        &self,
        x: &mut StepTensors,
        branch: Branch,
        weight: &Weight<Self>,
    ) -> Result<()> {
        let product = weight.multiply(&self.input(x, Input::Branch(branch))?)?;
        x.residual = Some((earlier(x.residual.as_ref())? + product)?);
        Ok(())
    }

    fn with_input(
        &self,
        x: &mut StepTensors,
        input: Input<'_, Self>,
        action: &mut dyn FnMut(&[f32]),
    ) -> Result<()> {
        action(&self.input(x, input)?.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    }

    fn rotate_and_store(
        &self,
        x: &mut StepTensors,
        norms: Option<&HeadNorms<Tensor>>,
        layer: usize,
        items: &mut [BatchItem<'_>],
    ) -> Result<()> {
        let [queries, keys, values] = x.products()?;
        let rotation = earlier(x.rotation.as_ref())?;
        let queries = self.turn(queries, norms.map(|norms| &norms.queries), rotation)?;
        let keys = self.turn(keys, norms.map(|norms| &norms.keys), rotation)?;
        let mut start = 0;
        for item in items {
            let count = item.tokens.len();
            let segment = tail(item)?;
            let planes = elements(&segment.storage)?.get(layer)?;
            let (keys, values) = (keys.narrow(0, start, count)?, values.narrow(0, start, count)?);
            self.store(&planes, segment.length, [&keys, &values])?;
            start += count;
        }
        x.products[0] = queries;
        Ok(())
    }

    fn attention(
        &self,
        x: &mut StepTensors,
        layer: usize,
        items: &[BatchItem<'_>],
        queries: Queries,
    ) -> Result<()> {
        let [rows, _, _] = x.products()?;
        let mut start = 0;
        let mut outputs = Vec::with_capacity(items.len());
        for item in items {
            let count = queries.count(item);
            if count > 0 {
                let own = rows.narrow(0, start, count)?.contiguous()?;
                outputs.push(attend(self.shape, layer, &own, item)?);
            }
            start += count;
        }
        x.attended = Some(Tensor::cat(&outputs, 0)?);
        Ok(())
    }

    fn keep_wanted(&self, x: &mut StepTensors, items: &[BatchItem<'_>]) -> Result<usize> {
        let rows = Queries::Wanted.count_all(items);
        let wanted = |tensor: &Tensor| {
            let mut wanted = Vec::new();
            let mut end = 0;
            for item in items.iter() {
                end += item.tokens.len();
                if item.logits > 0 {
                    wanted.push(tensor.narrow(0, end - item.logits, item.logits)?);
                }
            }
            Tensor::cat(&wanted, 0)
        };
        if rows > 0 {
            x.residual = Some(wanted(earlier(x.residual.as_ref())?)?);
            x.products[0] = wanted(&x.products[0])?;
        }
        Ok(rows)
    }

    fn residual(&self, x: &StepTensors) -> Result<Vec<f32>> {
        earlier(x.residual.as_ref())?.flatten_all()?.to_vec1()
    }

    fn logits<'a>(&self, x: &'a StepTensors) -> &'a [f32] {
        &x.logits
    }

    fn cache_storage(&self, capacity: usize) -> Result<SegmentStorage> {
        let AttentionShape { kv_heads, head_size, .. } = self.shape;
        let shape = (self.layers, 2, kv_heads, capacity, head_size);
        Ok(SegmentStorage::Tensor(Tensor::zeros(shape, DType::F16, &self.device)?))
    }

    fn append(&self, to: &mut Segment, from: &Segment) -> Result<()> {
        let filled = elements(&from.storage)?.narrow(3, 0, from.length)?.contiguous()?;
        elements(&to.storage)?.slice_set(&filled, 3, to.length)?;
        to.length += from.length;
        Ok(())
    }

    fn cache_bytes_per_token(&self) -> usize {
        let AttentionShape { kv_heads, head_size, .. } = self.shape;
        2 * self.layers * kv_heads * head_size * DType::F16.size_in_bytes()
    }
}

fn elements(storage: &SegmentStorage) -> Result<&Tensor> {
    match storage {
        SegmentStorage::Tensor(elements) => Ok(elements),
        SegmentStorage::Integers(_) => {
            bail!("a cache of the CPU kernels came to another back end")
        }
    }
}

/// One sequence's attention: softmax(Q·Kᵀ·scale + mask)·V, with the queries that share a key head
/// stacked into one matrix.
fn attend(
    shape: AttentionShape,
    layer: usize,
    queries: &Tensor,
    item: &BatchItem<'_>,
) -> Result<Tensor> {
    let AttentionShape { heads, kv_heads, head_size, scale, .. } = shape;
    let (tokens, group) = (queries.dim(0)?, heads / kv_heads);
    let queries = queries.reshape((tokens, heads, head_size))?.transpose(0, 1)?.contiguous()?;
    let queries = queries.reshape((kv_heads, group * tokens, head_size))?;
    let (keys, values) = (context(layer, 0, item)?, context(layer, 1, item)?);
    let positions = keys.dim(1)?;
    let scores = (queries.matmul(&keys.transpose(1, 2)?.contiguous()?)? * f64::from(scale))?;
    let scores = scores.reshape((heads, tokens, positions))?;
    let scores = if tokens == 1 {
        scores
    } else {
        scores.broadcast_add(&causal_mask(tokens, positions, queries.device())?)?
    };
    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    let mixed = weights.reshape((kv_heads, group * tokens, positions))?.matmul(&values)?;
    let mixed = mixed.reshape((heads, tokens, head_size))?.transpose(0, 1)?.contiguous()?;
    mixed.reshape((tokens, heads * head_size))
}

/// A sequence's keys (0) or values (1) of a layer, those of this step's tokens included,
/// `[kv_heads, positions, head_size]` in f32.
fn context(layer: usize, plane: usize, item: &BatchItem<'_>) -> Result<Tensor> {
    let spans = item.cache.segments(item.tokens.len()).map(|(segment, length)| {
        let plane = elements(&segment.storage)?.get(layer)?.get(plane)?;
        plane.narrow(1, 0, length)?.to_dtype(DType::F32)
    });
    Tensor::cat(&spans.collect::<Result<Vec<_>>>()?, 1)?.contiguous()
}

/// `[tokens, positions]`: 0 where a token may look, −∞ at the positions behind it.
fn causal_mask(tokens: usize, positions: usize, device: &Device) -> Result<Tensor> {
    let visible = |token: usize| positions - tokens + token;
    let mask = (0..tokens).flat_map(|token| {
        (0..positions).map(move |p| if p <= visible(token) { 0.0 } else { f32::NEG_INFINITY })
    });
    Tensor::from_vec(mask.collect::<Vec<f32>>(), (tokens, positions), device)
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
