//! The operations on the CPU, by quantkit's own kernels.

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Storage, Tensor, bail};
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{AttentionPart, Matrix, Ops, RopeTable};
use crate::gguf::GgmlType;
use crate::kernels::attention::{AttentionItem, AttentionShape, CacheSpan, attention};
use crate::kernels::elementwise::{self, Rotation, Rows};
use crate::kernels::matmul::PackedMatrix;
use crate::model::cache::Segment;

/// See [`super::Ops`].
#[derive(Debug)]
pub(in crate::model) struct KernelOps;

impl Ops for KernelOps {
    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn matrix(&self, kind: GgmlType, rows: usize, columns: usize, bytes: &[u8]) -> Result<Matrix> {
        let packed = PackedMatrix::pack(kind, rows, columns, bytes);
        packed.map(Matrix::Packed).map_err(candle_core::Error::wrap)
    }

    fn multiply(&self, input: &Tensor, matrix: &Matrix) -> Result<Tensor> {
        let Matrix::Packed(matrix) = matrix else {
            bail!("a matrix of another back end came to the CPU kernels");
        };
        let input = input.contiguous()?;
        with_rows(&input, |input| {
            let values = input.contiguous().expect("made so above");
            output(input.count(), matrix.rows(), |output| {
                matrix.multiply(input.count(), values, output);
            })
        })?
    }

    fn add_bias(&self, input: Tensor, bias: &Tensor) -> Result<Tensor> {
        let bias = bias.to_vec1::<f32>()?;
        write_in_place(&input, |values: &mut [f32]| elementwise::add_bias(values, &bias))?;
        Ok(input)
    }

    fn add(&self, left: &Tensor, right: &Tensor) -> Result<Tensor> {
        with_rows(left, |left| {
            with_rows(right, |right| {
                output(left.count(), left.width(), |output| elementwise::add(left, right, output))
            })
        })??
    }

    fn rms_norm(&self, input: &Tensor, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
        with_rows(input, |input| {
            with_values(weight, |weight: &[f32]| {
                output(input.count(), input.width(), |output| {
                    elementwise::rms_norm(input, weight, epsilon, output);
                })
            })
        })??
    }

    fn silu_multiply(&self, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
        with_rows(gate, |gate| {
            with_rows(up, |up| {
                output(gate.count(), gate.width(), |output| {
                    elementwise::silu_multiply(gate, up, output);
                })
            })
        })??
    }

    fn rope(&self, input: &Tensor, head_size: usize, table: &RopeTable) -> Result<Tensor> {
        let RopeTable { cosines, sines, pairs, halves } = table;
        with_rows(input, |input| {
            with_values(cosines, |cosines: &[f32]| {
                with_values(sines, |sines: &[f32]| {
                    let rotation = Rotation { cosines, sines, pairs: *pairs, halves: *halves };
                    output(input.count(), input.width(), |output| {
                        rotation.apply(input, head_size, output);
                    })
                })
            })
        })???
    }

    fn store(&self, segment: &Segment, layer: usize, keys: &Tensor, values: &Tensor) -> Result<()> {
        let [_, _, kv_heads, capacity, head_size] = *segment.tensor.dims() else {
            bail!("a cache segment has five dimensions");
        };
        let plane = kv_heads * capacity * head_size;
        let first = segment.length;
        with_rows(keys, |keys| {
            with_rows(values, |values| {
                write_in_place(&segment.tensor, |cache: &mut [f16]| {
                    let layer = &mut cache[2 * layer * plane..2 * (layer + 1) * plane];
                    let (key_plane, value_plane) = layer.split_at_mut(plane);
                    for (rows, plane) in [(keys, key_plane), (values, value_plane)] {
                        for token in 0..rows.count() {
                            let heads = rows.row(token).chunks_exact(head_size);
                            for (head, values) in heads.enumerate() {
                                let start = (head * capacity + first + token) * head_size;
                                plane[start..start + head_size].convert_from_f32_slice(values);
                            }
                        }
                    }
                })
            })
        })??
    }

    fn attention(
        &self,
        shape: AttentionShape,
        layer: usize,
        queries: &Tensor,
        parts: &[AttentionPart<'_>],
    ) -> Result<Tensor> {
        let plane_of = |segment: &Segment| shape.kv_heads * segment.capacity * shape.head_size;
        let locked: Vec<Vec<_>> = parts
            .iter()
            .map(|part| {
                let segments = part.cache.segments(part.count);
                segments
                    .map(|(segment, length)| {
                        (segment.tensor.storage_and_layout().0, segment, length)
                    })
                    .collect()
            })
            .collect();
        let mut items = Vec::with_capacity(parts.len());
        for (part, segments) in parts.iter().zip(&locked) {
            let mut spans = Vec::with_capacity(segments.len());
            for (storage, segment, length) in segments {
                let plane = plane_of(segment);
                let cache = cpu_values::<f16>(storage)?;
                let layer = &cache[2 * layer * plane..2 * (layer + 1) * plane];
                let (keys, values) = layer.split_at(plane);
                spans.push(CacheSpan { keys, values, length: *length, capacity: segment.capacity });
            }
            items.push(AttentionItem { queries: part.start..part.start + part.count, spans });
        }
        let queries = queries.contiguous()?;
        with_values(&queries, |values: &[f32]| {
            output(queries.dims()[0], shape.heads * shape.head_size, |output| {
                attention(shape, values, &items, output);
            })
        })?
    }
}

/// A new tensor `[rows, width]` that `fill` writes.
fn output(rows: usize, width: usize, fill: impl FnOnce(&mut [f32])) -> Result<Tensor> {
    let mut values = vec![0f32; rows * width];
    fill(&mut values);
    Tensor::from_vec(values, (rows, width), &Device::Cpu)
}

/// Element types that the kernels read and write.
trait Element: Sized {
    fn slice(storage: &CpuStorage) -> Option<&[Self]>;
    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]>;
}

impl Element for f32 {
    fn slice(storage: &CpuStorage) -> Option<&[Self]> {
        if let CpuStorage::F32(values) = storage { Some(values) } else { None }
    }

    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::F32(values) = storage { Some(values) } else { None }
    }
}

impl Element for f16 {
    fn slice(storage: &CpuStorage) -> Option<&[Self]> {
        if let CpuStorage::F16(values) = storage { Some(values) } else { None }
    }

    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::F16(values) = storage { Some(values) } else { None }
    }
}

fn cpu_values<T: Element>(storage: &Storage) -> Result<&[T]> {
    match storage {
        Storage::Cpu(storage) => match T::slice(storage) {
            Some(values) => Ok(values),
            None => bail!("the CPU kernels expect {}", std::any::type_name::<T>()),
        },
        _ => bail!("the CPU kernels expect a tensor in main memory"),
    }
}

/// Calls `action` with the elements of a contiguous tensor.
fn with_values<T: Element, R>(tensor: &Tensor, action: impl FnOnce(&[T]) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let values = cpu_values(&storage)?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(action(&values[start..end])),
        None => bail!("the CPU kernels expect a contiguous tensor"),
    }
}

/// Calls `action` with the rows of a matrix whose rows are contiguous.
fn with_rows<R>(tensor: &Tensor, action: impl FnOnce(Rows<'_>) -> R) -> Result<R> {
    let (storage, layout) = tensor.storage_and_layout();
    let values = cpu_values::<f32>(&storage)?;
    match (layout.dims(), layout.stride()) {
        (&[count, width], &[stride, 1]) => {
            Ok(action(Rows::new(&values[layout.start_offset()..], count, width, stride)))
        }
        _ => bail!("the CPU kernels expect a matrix with contiguous rows, not {layout:?}"),
    }
}

/// Calls `action` with the elements of a contiguous tensor, to change them.
fn write_in_place<T: Element>(tensor: &Tensor, action: impl Fn(&mut [T])) -> Result<()> {
    struct Write<F, T>(F, std::marker::PhantomData<fn(T)>);

    impl<T: Element, F: Fn(&mut [T])> InplaceOp1 for Write<F, T> {
        fn name(&self) -> &'static str {
            "write-in-place"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            match (T::slice_mut(storage), layout.contiguous_offsets()) {
                (Some(values), Some((start, end))) => {
                    (self.0)(&mut values[start..end]);
                    Ok(())
                }
                _ => bail!("the CPU kernels expect a contiguous tensor of another type"),
            }
        }
    }

    tensor.inplace_op1(&Write(action, std::marker::PhantomData))
}
