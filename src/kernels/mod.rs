//! CPU compute. The scalar versions are the specification; `support::processor` picks the instruction set.

pub mod attention;
mod dispatch;
pub mod elementwise;
pub mod matmul;
pub mod peak;
mod prefetch;
mod shared;
