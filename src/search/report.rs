//! What a search has found.

use std::path::PathBuf;

use serde::Serialize;

use crate::eval::text::divergence::Divergence;
use crate::support::path_text;

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
    #[serde(serialize_with = "path_text::one")]
    pub plan: PathBuf,
    /// Where the measurements are.
    #[serde(serialize_with = "path_text::one")]
    pub measurements: PathBuf,
    /// The importance file that `quantize` has to be given too.
    #[serde(serialize_with = "path_text::optional")]
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
