//! How well a calibration text exercises the channels of each tensor.

use serde::Serialize;

use super::{ActivationSums, TensorSums};

/// A channel below this part of its tensor's mean is hardly active.
pub const HARDLY_ACTIVE: f64 = 1e-3;

/// What a calibration text told about one tensor.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Coverage {
    /// The tensor's name.
    pub tensor: String,
    /// Input channels of the matrix.
    pub columns: usize,
    /// Experts; 1 for a matrix without.
    pub experts: usize,
    /// Experts that met no activation.
    pub unseen_experts: usize,
    /// Activations that each column met (in a legacy file: chunks), of the expert that met least.
    pub count: u64,
    /// Sum of the channels' mean squared activations.
    pub total: f64,
    /// Mean of the channels' mean squared activations.
    pub mean: f64,
    /// Smallest mean squared activation of a channel.
    pub min: f64,
    /// Largest mean squared activation of a channel.
    pub max: f64,
    /// Share of the channels that were never active: 0 in every token, or of an unseen expert.
    pub never_active: f64,
    /// Share of the channels below [`HARDLY_ACTIVE`] of the mean, the never active among them.
    pub hardly_active: f64,
    /// How many of the channels would carry as much if all carried alike, as a share of them:
    /// 2 to the power of the entropy, over the number of channels.
    pub coverage: f64,
}

impl ActivationSums {
    /// Every tensor's coverage, the least covered first.
    pub fn coverage(&self) -> Vec<Coverage> {
        let mut rows: Vec<Coverage> =
            self.tensors().map(|(name, tensor)| coverage(name, tensor)).collect();
        rows.sort_by(|a, b| a.coverage.total_cmp(&b.coverage));
        rows
    }
}

fn coverage(name: &str, tensor: &TensorSums) -> Coverage {
    let columns = tensor.columns();
    // Experts without data have no means: their channels are 0, as nothing was ever seen of them.
    let experts = tensor.sums.chunks_exact(columns).zip(&tensor.counts);
    let means = experts.flat_map(|(sums, &count)| {
        sums.iter().map(move |&sum| if count == 0 { 0.0 } else { f64::from(sum) / count as f64 })
    });
    let means: Vec<f64> = means.collect();
    let channels = means.len() as f64;
    let total: f64 = means.iter().sum();
    let mean = total / channels;
    let share = |wanted: &dyn Fn(f64) -> bool| {
        means.iter().filter(|&&value| wanted(value)).count() as f64 / channels
    };
    Coverage {
        tensor: name.to_string(),
        columns,
        experts: tensor.counts.len(),
        unseen_experts: tensor.counts.iter().filter(|&&count| count == 0).count(),
        count: tensor.counts.iter().copied().min().unwrap_or(0),
        total,
        mean,
        min: means.iter().copied().fold(f64::INFINITY, f64::min),
        max: means.iter().copied().fold(0.0, f64::max),
        never_active: share(&|value| value == 0.0),
        hardly_active: share(&|value| value < HARDLY_ACTIVE * mean || value == 0.0),
        coverage: if total > 0.0 { entropy(&means, total).exp2() / channels } else { 0.0 },
    }
}

/// Entropy of the channels' shares of the total, in bits.
fn entropy(means: &[f64], total: f64) -> f64 {
    let shares = means.iter().map(|mean| mean / total).filter(|&share| share > 0.0);
    -shares.map(|share| share * share.log2()).sum::<f64>()
}
