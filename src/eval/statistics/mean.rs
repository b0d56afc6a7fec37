//! Means.

use serde::{Deserialize, Serialize};

/// A mean with its standard error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// The mean.
    pub mean: f64,
    /// Its standard error, taking positions as independent; 0 for fewer than two.
    pub standard_error: f64,
}

impl Mean {
    /// Of all values.
    pub fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let count = values.clone().count() as f64;
        let mean = values.clone().sum::<f64>() / count.max(1.0);
        let squares: f64 = values.map(|value| (value - mean) * (value - mean)).sum();
        let variance = if count < 2.0 { 0.0 } else { squares / (count - 1.0) };
        Self { mean, standard_error: (variance / count.max(1.0)).sqrt() }
    }

    /// Of the exponential, for which the error is carried over.
    #[must_use]
    pub fn exp(self) -> Self {
        let mean = self.mean.exp();
        Self { mean, standard_error: mean * self.standard_error }
    }
}
