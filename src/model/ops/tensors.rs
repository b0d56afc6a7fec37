//! The operations by candle's own, on any device.

use candle_core::quantized::{GgmlDType, QMatMul, ggml_file::qtensor_from_ggml};
use candle_core::{D, DType, Device, Module, Result, Tensor, bail};

use super::{AttentionPart, Matrix, Ops, RopeTable};
use crate::gguf::GgmlType;
use crate::kernels::attention::AttentionShape;
use crate::model::cache::{Segment, SegmentStorage};
use crate::model::config::Config;
use crate::quant::formats::dequantize_row;

/// See [`super::Ops`].
#[derive(Debug)]
pub(in crate::model) struct TensorOps {
    device: Device,
}

impl TensorOps {
    /// Operations on `device`.
    pub(in crate::model) fn new(device: Device) -> Self {
        Self { device }
    }
}

impl Ops for TensorOps {
    fn device(&self) -> &Device {
        &self.device
    }

    fn matrix(&self, kind: GgmlType, rows: usize, columns: usize, bytes: &[u8]) -> Result<Matrix> {
        let shape = [rows, columns];
        if let Some(dense) = dense_type(kind) {
            let tensor = Tensor::from_raw_buffer(bytes, dense, &shape, &self.device)?;
            return Ok(Matrix::Dense(tensor));
        }
        if let Some(quantized) = quantized_type(kind) {
            // candle reads the bytes as blocks, which begin with an f16.
            let aligned = bytes.as_ptr().align_offset(align_of::<u16>()) == 0;
            let bytes =
                if aligned { bytes.into() } else { std::borrow::Cow::Owned(bytes.to_vec()) };
            let tensor = qtensor_from_ggml(quantized, &bytes, shape.to_vec(), &self.device)?;
            return Ok(Matrix::Quantized(QMatMul::from_qtensor(tensor)?));
        }
        let mut values = vec![0f32; rows * columns];
        dequantize_row(kind, bytes, &mut values).map_err(candle_core::Error::wrap)?;
        let tensor = Tensor::from_vec(values, (rows, columns), &Device::Cpu)?;
        Ok(Matrix::Dense(tensor.to_dtype(DType::F16)?.to_device(&self.device)?))
    }

    fn multiply(&self, input: &Tensor, matrices: &[&Matrix]) -> Result<Vec<Tensor>> {
        let input = input.contiguous()?;
        let products = matrices.iter().map(|matrix| match matrix {
            Matrix::Dense(weights) => {
                let product = input.to_dtype(weights.dtype())?.matmul(&weights.t()?)?;
                product.to_dtype(DType::F32)
            }
            Matrix::Quantized(weights) => weights.forward(&input),
            Matrix::Packed(_) => bail!("a matrix for the CPU kernels came to another back end"),
        });
        products.collect()
    }

    fn add_bias(&self, input: Tensor, bias: &Tensor) -> Result<Tensor> {
        input.broadcast_add(bias)
    }

    fn add(&self, left: &Tensor, right: &Tensor) -> Result<Tensor> {
        left + right
    }

    fn rms_norm(&self, input: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
        let mean = input.sqr()?.mean_keepdim(D::Minus1)?;
        let scale = (mean + f64::from(epsilon))?.sqrt()?;
        input.broadcast_div(&scale)?.broadcast_mul(weight)
    }

    fn silu_multiply(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        gate.silu()? * up
    }

    fn rope(&self, input: &Tensor, head_size: usize, table: &RopeTable) -> Result<Tensor> {
        let (tokens, width) = input.dims2()?;
        let pairs = table.pairs;
        let heads = input.contiguous()?.reshape((tokens, width / head_size, head_size))?;
        let turning = heads.narrow(2, 0, 2 * pairs)?.contiguous()?;
        // Pairs side by side: `[tokens, heads, pairs, 2]` or `[tokens, heads, 2, pairs]`.
        let (shape, side) = if table.halves { ([2, pairs], 2) } else { ([pairs, 2], 3) };
        let split = turning.reshape((tokens, width / head_size, shape[0], shape[1]))?;
        let (x, y) =
            (split.narrow(side, 0, 1)?.squeeze(side)?, split.narrow(side, 1, 1)?.squeeze(side)?);
        let (cosines, sines) = (table.cosines.unsqueeze(1)?, table.sines.unsqueeze(1)?);
        let first = (x.broadcast_mul(&cosines)? - y.broadcast_mul(&sines)?)?;
        let second = (x.broadcast_mul(&sines)? + y.broadcast_mul(&cosines)?)?;
        let turned = Tensor::stack(&[first, second], side)?.reshape(turning.shape())?;
        if 2 * pairs == head_size {
            return turned.reshape((tokens, width));
        }
        let passing = heads.narrow(2, 2 * pairs, head_size - 2 * pairs)?;
        Tensor::cat(&[turned, passing.contiguous()?], 2)?.reshape((tokens, width))
    }

    fn cache_storage(&self, config: &Config, capacity: usize) -> Result<SegmentStorage> {
        let shape = (config.layers, 2, config.kv_heads, capacity, config.head_size);
        let elements = Tensor::zeros(shape, DType::F16, &self.device)?;
        Ok(SegmentStorage { elements, scales: None })
    }

    fn cache_row_bytes(&self, config: &Config) -> usize {
        config.head_size * DType::F16.size_in_bytes()
    }

    fn store(&self, segment: &Segment, layer: usize, keys: &Tensor, values: &Tensor) -> Result<()> {
        let elements = &segment.storage.elements;
        let (_, _, kv_heads, _, head_size) = elements.dims5()?;
        let planes = elements.get(layer)?;
        for (index, rows) in [keys, values].into_iter().enumerate() {
            let tokens = rows.dims2()?.0;
            let heads = rows.contiguous()?.reshape((tokens, kv_heads, head_size))?;
            let heads = heads.transpose(0, 1)?.to_dtype(DType::F16)?.contiguous()?;
            planes.get(index)?.slice_set(&heads, 1, segment.length)?;
        }
        Ok(())
    }

    fn attention(
        &self,
        shape: AttentionShape,
        layer: usize,
        queries: &Tensor,
        parts: &[AttentionPart<'_>],
    ) -> Result<Tensor> {
        let outputs = parts.iter().map(|part| attend(shape, layer, queries, part));
        Tensor::cat(&outputs.collect::<Result<Vec<_>>>()?, 0)
    }
}

/// One sequence's attention: softmax(Q·Kᵀ·scale + mask)·V, with the queries that share a key head
/// stacked into one matrix.
fn attend(
    shape: AttentionShape,
    layer: usize,
    queries: &Tensor,
    part: &AttentionPart<'_>,
) -> Result<Tensor> {
    let AttentionShape { heads, kv_heads, head_size, scale } = shape;
    let (tokens, group) = (part.count, heads / kv_heads);
    let queries = queries.narrow(0, part.start, tokens)?.contiguous()?;
    let queries = queries.reshape((tokens, heads, head_size))?.transpose(0, 1)?.contiguous()?;
    let queries = queries.reshape((kv_heads, group * tokens, head_size))?;
    let (keys, values) = (context(layer, 0, part)?, context(layer, 1, part)?);
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

/// A sequence's keys (0) or values (1) of a layer, `[kv_heads, positions, head_size]` in f32.
fn context(layer: usize, plane: usize, part: &AttentionPart<'_>) -> Result<Tensor> {
    let spans = part.cache.segments(part.count).map(|(segment, length)| {
        let elements = segment.storage.elements.get(layer)?.get(plane)?;
        elements.narrow(1, 0, length)?.to_dtype(DType::F32)
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
