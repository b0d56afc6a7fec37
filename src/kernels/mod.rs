//! CPU compute. The scalar versions are the specification; one place picks the instruction set.

pub mod attention;
pub mod dispatch;
pub mod elementwise;
pub mod matmul;
