//! A question as a model has scored it.

use serde::{Deserialize, Serialize};

/// One question as the model scored it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(in crate::eval) struct Scored {
    /// Row in the test split.
    pub row: usize,
    /// Sum of the log-probabilities of each choice's tokens; `null` for −∞, which JSON has not.
    #[serde(with = "or_minus_infinity")]
    pub sums: Vec<f64>,
    /// Tokens before the choices.
    pub context_tokens: usize,
    /// Scored tokens of each choice.
    pub choice_tokens: Vec<usize>,
    /// Tokens that were cut off the left to fit the model's context.
    pub dropped_tokens: usize,
    /// Why the question could not be scored; the rest is empty then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unscored: Option<String>,
}

impl Scored {
    /// A question without a result.
    pub fn unscored(row: usize, reason: String) -> Self {
        Self {
            row,
            sums: Vec::new(),
            context_tokens: 0,
            choice_tokens: Vec::new(),
            dropped_tokens: 0,
            unscored: Some(reason),
        }
    }
}

/// JSON has no infinities, and serde_json writes them as `null`.
mod or_minus_infinity {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(values: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
        values.serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
        let values = Vec::<Option<f64>>::deserialize(deserializer)?;
        Ok(values.into_iter().map(|value| value.unwrap_or(f64::NEG_INFINITY)).collect())
    }
}
