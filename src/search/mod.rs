//! The best formats for a size: which format each matrix should have, so that the predictions of a
//! model of at most so many bytes diverge the least from those of the model as it is.
//!
//! 1. What a format does to a tensor alone is measured: its weights are replaced by those that the
//!    format keeps, and the Kullback-Leibler divergence of the predictions is taken on windows of a
//!    calibration text. Layers before the tensor's are not run again.
//! 2. As long as errors are small, divergence grows with the square of the weights' error, and the
//!    divergences of several tensors add up. So one format is measured for every tensor, and those
//!    of the others are estimated from their squared errors.
//! 3. An allocation of formats to tensors is computed from that (`allocation.rs`). Of the formats it
//!    chose, those that were only estimated are measured, and it is computed anew, until it rests
//!    on measurements alone, or after some rounds on the estimates that are left.
//! 4. The model in the chosen formats is measured as a whole.

pub mod allocation;
mod bench;
mod checks;
mod coding;
mod error;
mod estimates;
mod measurements;
mod options;
mod report;
mod run;
mod sizes;
mod tensors;

pub use error::SearchError;
pub use measurements::measurements_path;
pub use options::{Budget, SearchOptions, default_formats};
pub use report::{
    CurvePoint, ExcludedFormat, PlannedTensor, SearchReport, TensorAlternative, Variant,
};
pub use run::search;
