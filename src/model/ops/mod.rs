//! The operations that the decoder is written in. Activations are f32 tensors `[tokens, width]`.
//!
//! There are two implementations: [`kernels`] runs quantkit's own CPU kernels over the tensors'
//! memory, and [`tensors`] uses candle's operations on whatever device the tensors are.

mod kernels;
mod tensors;

use candle_core::quantized::QMatMul;
use candle_core::{CpuStorage, Device, Result, Storage, Tensor};

use super::cache::{Segment, SegmentStorage, SequenceCache};
use super::config::Config;
use crate::gguf::GgmlType;
use crate::kernels::attention::AttentionShape;
use crate::kernels::matmul::PackedMatrix;

pub(super) use kernels::KernelOps;
pub(super) use tensors::TensorOps;

/// A weight matrix in the form that its device multiplies fastest.
#[derive(Debug)]
pub(super) enum Matrix {
    /// Packed for our CPU kernels.
    Packed(PackedMatrix),
    /// In candle's quantized form.
    Quantized(QMatMul),
    /// A dense tensor, `[rows, columns]`.
    Dense(Tensor),
}

/// The rotation of each token of a step: cosines and sines, `[tokens, pairs]`.
#[derive(Debug)]
pub(super) struct RopeTable {
    pub(super) cosines: Tensor,
    pub(super) sines: Tensor,
    pub(super) pairs: usize,
    /// Whether elements i and i + pairs make a pair, rather than 2i and 2i + 1.
    pub(super) halves: bool,
}

/// One sequence's part of an attention: rows of the queries, and the cache that they look at,
/// whose tail holds as many pending positions as there are rows.
#[derive(Debug)]
pub(super) struct AttentionPart<'a> {
    pub(super) start: usize,
    pub(super) count: usize,
    pub(super) cache: &'a SequenceCache,
}

/// Calls `action` with the elements of a tensor; they are copied only where they must be.
pub(super) fn with_elements(tensor: &Tensor, action: impl FnOnce(&[f32])) -> Result<()> {
    {
        let (storage, layout) = tensor.storage_and_layout();
        if let (Storage::Cpu(CpuStorage::F32(values)), Some((start, end))) =
            (&*storage, layout.contiguous_offsets())
        {
            action(&values[start..end]);
            return Ok(());
        }
    }
    action(&tensor.flatten_all()?.to_vec1::<f32>()?);
    Ok(())
}

/// A back end.
pub(super) trait Ops: std::fmt::Debug + Send + Sync {
    /// Where the tensors are.
    fn device(&self) -> &Device;

    /// Loads a `rows × columns` matrix whose bytes are in ggml's row layout.
    fn matrix(&self, kind: GgmlType, rows: usize, columns: usize, bytes: &[u8]) -> Result<Matrix>;

    /// `input · matrixᵀ` for each of the matrices, which all have as many columns.
    fn multiply(&self, input: &Tensor, matrices: &[&Matrix]) -> Result<Vec<Tensor>>;

    /// Adds a bias to every row.
    fn add_bias(&self, input: Tensor, bias: &Tensor) -> Result<Tensor>;

    /// Sum of two matrices.
    fn add(&self, left: &Tensor, right: &Tensor) -> Result<Tensor>;

    /// Root-mean-square norm of each row, times `weight`.
    fn rms_norm(&self, input: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor>;

    /// `gate · sigmoid(gate) · up`.
    fn silu_multiply(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor>;

    /// Turns every head of every row.
    fn rope(&self, input: &Tensor, head_size: usize, table: &RopeTable) -> Result<Tensor>;

    /// Room for `capacity` positions of keys and values.
    fn cache_storage(&self, config: &Config, capacity: usize) -> Result<SegmentStorage>;

    /// Bytes that one head's key or value takes in the cache.
    fn cache_row_bytes(&self, config: &Config) -> usize;

    /// Writes keys and values, `[tokens, kv_heads · head_size]`, behind the filled positions of a
    /// segment's layer.
    fn store(&self, segment: &Segment, layer: usize, keys: &Tensor, values: &Tensor) -> Result<()>;

    /// Causal attention of one layer, `[tokens, heads · head_size]`.
    fn attention(
        &self,
        shape: AttentionShape,
        layer: usize,
        queries: &Tensor,
        parts: &[AttentionPart<'_>],
    ) -> Result<Tensor>;
}
