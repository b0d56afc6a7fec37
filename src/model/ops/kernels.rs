//! The operations on the CPU, by quantkit's own kernels.

use std::cell::RefCell;
use std::marker::PhantomData;

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Result, Storage, Tensor, bail};

use rayon::prelude::*;

use super::{AttentionPart, Matrix, Ops, RopeTable};
use crate::gguf::GgmlType;
use crate::kernels::attention::{
    AttentionItem, AttentionShape, CacheRows, CacheSpan, attention, encode_row,
};
use crate::kernels::elementwise::{self, Rotation, Rows};
use crate::kernels::matmul::{PackedMatrix, multiply_many};
use crate::model::cache::{Segment, SegmentStorage};
use crate::model::config::Config;

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

    fn multiply(&self, input: &Tensor, matrices: &[&Matrix]) -> Result<Vec<Tensor>> {
        let packed = matrices.iter().map(|matrix| match matrix {
            Matrix::Packed(matrix) => Ok(matrix),
            _ => bail!("a matrix of another back end came to the CPU kernels"),
        });
        let packed = packed.collect::<Result<Vec<_>>>()?;
        let input = input.contiguous()?;
        let tokens = input.dims()[0];
        let mut outputs: Vec<Vec<f32>> =
            packed.iter().map(|matrix| vec![0.0; tokens * matrix.rows()]).collect();
        let mut slices: Vec<&mut [f32]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
        with_values(&input, |values| multiply_many(&packed, tokens, values, &mut slices))?;
        let outputs = outputs.into_iter().zip(packed);
        outputs
            .map(|(output, matrix)| Tensor::from_vec(output, (tokens, matrix.rows()), &Device::Cpu))
            .collect()
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

    fn cache_storage(&self, config: &Config, capacity: usize) -> Result<SegmentStorage> {
        let shape = [config.layers, 2, config.kv_heads, capacity, config.head_size];
        let rows = shape[..4].iter().try_fold(1usize, |rows, &count| rows.checked_mul(count));
        let room = rows.and_then(|rows| {
            let elements = zeroes::<i16>(rows.checked_mul(config.head_size)?)?;
            Some((elements, zeroes::<f32>(rows)?))
        });
        let Some((elements, scales)) = room else {
            bail!(
                "no memory for the keys and values of {capacity} more tokens: let the prompt or \
                 the output have fewer tokens, or run fewer sequences at once"
            );
        };
        let elements = Tensor::from_vec(elements, &shape, &Device::Cpu)?;
        let scales = Tensor::from_vec(scales, &shape[..4], &Device::Cpu)?;
        Ok(SegmentStorage { elements, scales: Some(scales) })
    }

    fn cache_row_bytes(&self, config: &Config) -> usize {
        config.head_size * size_of::<i16>() + size_of::<f32>()
    }

    fn store(&self, segment: &Segment, layer: usize, keys: &Tensor, values: &Tensor) -> Result<()> {
        let SegmentStorage { elements, scales } = &segment.storage;
        let &[_, _, kv_heads, capacity, head_size] = elements.dims() else {
            bail!("a cache segment has five dimensions");
        };
        let scales = scales_of(scales)?;
        for (plane, rows) in [keys, values].into_iter().enumerate() {
            let first = (2 * layer + plane) * kv_heads * capacity;
            let planes = first..first + kv_heads * capacity;
            with_rows(rows, |rows| {
                write_in_place(elements, |elements: &mut [i16]| {
                    write_in_place(scales, |scales: &mut [f32]| {
                        let elements =
                            &mut elements[planes.start * head_size..planes.end * head_size];
                        let shape = (segment.length, capacity, head_size);
                        encode_heads(rows, shape, elements, &mut scales[planes.clone()]);
                    })
                })?
            })??;
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
        let mut locked = Vec::new();
        for part in parts {
            for (segment, length) in part.cache.segments(part.count) {
                let SegmentStorage { elements, scales } = &segment.storage;
                let elements = elements.storage_and_layout().0;
                locked.push((elements, scales_of(scales)?.storage_and_layout().0, segment, length));
            }
        }
        let mut unlocked = locked.iter();
        let mut items = Vec::with_capacity(parts.len());
        for part in parts {
            let segments = part.cache.segments(part.count).count();
            let mut spans = Vec::with_capacity(segments);
            for (elements, scales, segment, length) in unlocked.by_ref().take(segments) {
                let (elements, scales) = (cpu_values::<i16>(elements)?, cpu_values::<f32>(scales)?);
                let (capacity, length) = (segment.capacity, *length);
                let count = shape.kv_heads * capacity;
                let rows = |plane: usize| CacheRows {
                    elements: &elements[plane * count * shape.head_size..]
                        [..count * shape.head_size],
                    scales: &scales[plane * count..][..count],
                };
                let (keys, values) = (rows(2 * layer), rows(2 * layer + 1));
                spans.push(CacheSpan { keys, values, length, capacity });
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

/// Writes rows of all heads, `[tokens][heads][head_size]`, as cache rows `[heads][capacity]` from
/// position `first` on, the heads in parallel.
fn encode_heads(
    rows: Rows<'_>,
    (first, capacity, head_size): (usize, usize, usize),
    elements: &mut [i16],
    scales: &mut [f32],
) {
    let heads = elements.par_chunks_mut(capacity * head_size).zip(scales.par_chunks_mut(capacity));
    // A decode step is over before another thread has started.
    let heads = heads.with_min_len(if rows.count() < 16 { usize::MAX } else { 1 });
    heads.enumerate().for_each(|(head, (elements, scales))| {
        let elements = elements.chunks_exact_mut(head_size).zip(scales).skip(first);
        for (token, (elements, scale)) in elements.take(rows.count()).enumerate() {
            *scale = encode_row(&rows.row(token)[head * head_size..][..head_size], elements);
        }
    });
}

/// Zeroes, if there is memory for them. The system hands it out page by page as it is used, which
/// is why they are not written here, as `resize` or candle's own zeros would do.
fn zeroes<T: Clone + Default>(count: usize) -> Option<Vec<T>> {
    // Memory that can be had now, and is given back, can be had again at once: a `Vec` of zeroes
    // has no constructor that fails.
    let mut probe = Vec::<T>::new();
    probe.try_reserve_exact(count).ok()?;
    // The compiler may leave out an allocation that nobody uses.
    drop(std::hint::black_box(probe));
    Some(vec![T::default(); count])
}

fn scales_of(scales: &Option<Tensor>) -> Result<&Tensor> {
    match scales {
        Some(scales) => Ok(scales),
        None => bail!("a cache of another back end came to the CPU kernels"),
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

impl Element for i16 {
    fn slice(storage: &CpuStorage) -> Option<&[Self]> {
        if let CpuStorage::I16(values) = storage { Some(values) } else { None }
    }

    fn slice_mut(storage: &mut CpuStorage) -> Option<&mut [Self]> {
        if let CpuStorage::I16(values) = storage { Some(values) } else { None }
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
fn write_in_place<T: Element, R>(tensor: &Tensor, action: impl FnOnce(&mut [T]) -> R) -> Result<R> {
    struct Write<F, T>(RefCell<F>, PhantomData<fn(T)>);

    impl<T: Element, F: FnMut(&mut [T])> InplaceOp1 for Write<F, T> {
        fn name(&self) -> &'static str {
            "write-in-place"
        }

        fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
            match (T::slice_mut(storage), layout.contiguous_offsets()) {
                (Some(values), Some((start, end))) => {
                    self.0.borrow_mut()(&mut values[start..end]);
                    Ok(())
                }
                _ => bail!("the CPU kernels expect a contiguous tensor of another type"),
            }
        }
    }

    let (mut action, mut result) = (Some(action), None);
    let once = |values: &mut [T]| result = action.take().map(|action| action(values));
    tensor.inplace_op1(&Write(RefCell::new(once), PhantomData))?;
    match result {
        Some(result) => Ok(result),
        None => bail!("a tensor in main memory was not handed to the CPU kernels"),
    }
}
