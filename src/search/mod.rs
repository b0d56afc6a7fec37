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
mod estimates;
mod measurements;
mod run;
mod sizes;
mod tensors;

use std::path::PathBuf;

use serde::Serialize;

use crate::eval::EvalError;
use crate::eval::divergence::Divergence;
use crate::gguf::{GgmlType, GgufError};
use crate::model::ModelError;
use crate::quant::formats;
use crate::quant::importance::ImportanceError;
use crate::quant::pipeline::QuantizeError;
use crate::quant::plan::PlanError;
use crate::quant::recipe::Recipe;
use crate::quant::selection::Rule;
use crate::support::interrupt::Interrupted;

pub use run::{measurements_path, search};

/// What the model may weigh.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// Bytes of the whole file.
    FileBytes(u64),
    /// Bits of tensor data for each weight.
    BitsPerWeight(f64),
}

/// What to search for, and with what.
#[derive(Debug, Clone)]
pub struct SearchOptions {
    /// The GGUF model in F32, F16 or BF16.
    pub model: PathBuf,
    /// The calibration text.
    pub text: PathBuf,
    /// Tokens in a window.
    pub context: usize,
    /// Windows of the text to measure on, spread over it.
    pub chunks: usize,
    /// What the result may weigh.
    pub budget: Budget,
    /// Formats to choose from.
    pub formats: Vec<GgmlType>,
    /// Tensors whose format is given; the first rule that names one counts.
    pub keep: Vec<Rule>,
    /// How much each column of a matrix matters, for the formats that heed it.
    pub importance: Option<PathBuf>,
    /// Whether tensors of unknown importance may be coded without it.
    pub allow_partial_importance: bool,
    /// Where the plan goes; the measurements go beside it.
    pub output: PathBuf,
    /// Recipes to compare the result with.
    pub against: Vec<&'static Recipe>,
    /// A text to compare on that nothing is fitted to, and at most how many of its windows.
    pub held_out: Option<(PathBuf, Option<usize>)>,
    /// Whether to forget earlier measurements.
    pub fresh: bool,
    /// Files that will be written by the result, and that must not replace others.
    pub later_outputs: Vec<PathBuf>,
    /// Files that have been read besides and must not be replaced.
    pub other_inputs: Vec<PathBuf>,
}

/// A model in some formats: its size, and what is lost.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Variant {
    /// `plan`, or the recipe's name.
    pub name: String,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bits of tensor data for each weight.
    pub bits_per_weight: f64,
    /// The sum of what its tensors lose alone, as far as all are known; in nats.
    pub predicted_kl: Option<f64>,
    /// Measured on the calibration text.
    pub calibration: Divergence,
    /// Measured on the held-out text.
    pub held_out: Option<Divergence>,
}

/// What was decided for one tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PlannedTensor {
    /// Its name.
    pub name: String,
    /// Its weights.
    pub weights: u64,
    /// Its format.
    pub format: &'static str,
    /// Its bytes in it.
    pub bytes: u64,
    /// What the predictions lose by it alone, in nats.
    pub kl: f64,
    /// Whether an option gave it its format.
    pub fixed: bool,
    /// Its other formats, from small to large, of which each was the best at some size.
    pub alternatives: Vec<TensorAlternative>,
}

/// What a tensor would weigh and lose in a format.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TensorAlternative {
    /// The format.
    pub format: &'static str,
    /// Its bytes.
    pub bytes: u64,
    /// What the predictions lose by it alone, in nats.
    pub kl: f64,
    /// Whether that was measured, or estimated from other formats.
    pub measured: bool,
}

/// A format that was left out for a tensor, as its weights are too large for it or the model's
/// logits are not numbers with it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ExcludedFormat {
    /// The tensor.
    pub tensor: String,
    /// The format.
    pub format: &'static str,
}

/// A point of the curve of sizes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CurvePoint {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// The sum of what the tensors lose alone, in nats.
    pub predicted_kl: f64,
}

/// The result of a search.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SearchReport {
    /// The model's path as given.
    pub model: String,
    /// Where the plan is.
    pub plan: PathBuf,
    /// Where the measurements are.
    pub measurements: PathBuf,
    /// The importance file that `quantize` has to be given too.
    pub importance: Option<PathBuf>,
    /// The most bytes that the file may have.
    pub budget_bytes: u64,
    /// Bytes of the model as it is.
    pub model_bytes: u64,
    /// Windows of the calibration text that were measured on.
    pub chunks: usize,
    /// Tokens in a window.
    pub context: usize,
    /// The plan first, then the recipes in the order given.
    pub variants: Vec<Variant>,
    /// Every tensor that the plan names, in the order of the file.
    pub tensors: Vec<PlannedTensor>,
    /// What was left out.
    pub excluded: Vec<ExcludedFormat>,
    /// The best predicted divergence by size, from the smallest possible.
    pub curve: Vec<CurvePoint>,
    /// Wall time.
    pub seconds: f64,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// The options ask for what cannot be; the text says what to do.
    #[error("{0}")]
    Unusable(String),
    /// A file could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The model file cannot be read.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The model cannot be run.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model or a tensor cannot be quantized.
    #[error(transparent)]
    Quantize(#[from] QuantizeError),
    /// The text cannot be used, or the model fails on it.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// The importance file cannot be read.
    #[error(transparent)]
    Importance(#[from] ImportanceError),
    /// The plan cannot be written.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Ctrl-C; what was measured is kept.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
}

/// The formats that a search chooses from by default: all that are quantized. The model's own
/// format is always among a tensor's alternatives.
pub fn default_formats() -> Vec<GgmlType> {
    formats::known()
        .filter(|&format| format.block_size() > 1 && formats::can_quantize(format))
        .collect()
}
