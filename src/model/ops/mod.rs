//! The operations that the decoder is written in, and two implementations: [`kernels`] runs quantkit's
//! own CPU kernels over plain buffers that are kept from step to step, and [`tensors`] uses candle's
//! operations on whatever device its tensors are.

mod kernels;
mod operations;
mod tensors;

pub(super) use kernels::KernelOps;
pub use kernels::KernelOptions;
pub(super) use operations::*;
pub(super) use tensors::TensorOps;
