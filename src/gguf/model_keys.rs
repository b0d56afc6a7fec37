//! The metadata keys of a model, `<architecture>.<key>`, checked for type and range.

use super::{Array, Metadata, Value};

/// Reads keys of one architecture. Every count is limited to `u32`, so that products of two fit
/// in a `usize`. An error says which key is wrong, and how.
#[derive(Debug, Clone, Copy)]
pub struct ModelKeys<'a> {
    /// The metadata.
    pub metadata: &'a Metadata,
    /// What the keys begin with.
    pub architecture: &'a str,
}

impl ModelKeys<'_> {
    /// The whole name of a key.
    pub fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A whole number above 0.
    pub fn count(&self, key: &str) -> Result<usize, String> {
        match self.optional_count(key)? {
            Some(0) => Err(format!("{} is 0, expected at least 1", self.name(key))),
            Some(count) => Ok(count),
            None => Err(format!("the metadata lacks {}", self.name(key))),
        }
    }

    /// A whole number, if the key is there.
    pub fn optional_count(&self, key: &str) -> Result<Option<usize>, String> {
        let key = self.name(key);
        let Some(value) = self.metadata.get(&key) else { return Ok(None) };
        let count = self.metadata.unsigned(&key).and_then(|number| u32::try_from(number).ok());
        count.map(|count| Some(count as usize)).ok_or_else(|| {
            format!("{key} should be one whole number up to {}, found {value:.40?}", u32::MAX)
        })
    }

    /// A finite number above 0, if the key is there.
    pub fn optional_positive(&self, key: &str) -> Result<Option<f64>, String> {
        let key = self.name(key);
        let Some(value) = self.metadata.get(&key) else { return Ok(None) };
        match self.metadata.float(&key) {
            Some(number) if number > 0.0 && number.is_finite() => Ok(Some(number)),
            _ => Err(format!("{key} should be a number above 0, found {value:.40?}")),
        }
    }

    /// A text, if the key is there.
    pub fn optional_text(&self, key: &str) -> Result<Option<&str>, String> {
        let key = self.name(key);
        let Some(value) = self.metadata.get(&key) else { return Ok(None) };
        let text = self.metadata.string(&key);
        text.map(Some).ok_or_else(|| format!("{key} should be a text, found {value:.40?}"))
    }

    /// A finite number, if the key is there.
    pub fn optional_number(&self, key: &str) -> Result<Option<f64>, String> {
        let key = self.name(key);
        let Some(value) = self.metadata.get(&key) else { return Ok(None) };
        match self.metadata.float(&key) {
            Some(number) if number.is_finite() => Ok(Some(number)),
            _ => Err(format!("{key} should be a finite number, found {value:.40?}")),
        }
    }

    /// Yes or no, if the key is there.
    pub fn optional_truth(&self, key: &str) -> Result<Option<bool>, String> {
        let key = self.name(key);
        let Some(value) = self.metadata.get(&key) else { return Ok(None) };
        let truth = self.metadata.bool(&key);
        truth.map(Some).ok_or_else(|| format!("{key} should be true or false, found {value:.40?}"))
    }

    /// A whole number for each of `layers` layers. None if the key is absent or has one number for all.
    pub fn optional_counts(&self, key: &str, layers: usize) -> Result<Option<Vec<usize>>, String> {
        let key = self.name(key);
        let Some(Value::Array(array)) = self.metadata.get(&key) else { return Ok(None) };
        let counts: Option<Vec<usize>> = match array {
            Array::I32(numbers) => numbers.iter().map(|&n| usize::try_from(n).ok()).collect(),
            Array::U32(numbers) => numbers.iter().map(|&n| usize::try_from(n).ok()).collect(),
            _ => None,
        };
        counts.filter(|counts| counts.len() == layers).map(Some).ok_or_else(|| {
            format!(
                "{key} should be a whole number for each of {layers} layers, found {array:.40?}"
            )
        })
    }

    /// True or false for each of `layers` layers, if the key is there.
    pub fn optional_truths(&self, key: &str, layers: usize) -> Result<Option<Vec<bool>>, String> {
        let key = self.name(key);
        let Some(Value::Array(array)) = self.metadata.get(&key) else { return Ok(None) };
        match array {
            Array::Bool(truths) if truths.len() == layers => Ok(Some(truths.clone())),
            _ => Err(format!(
                "{key} should be true or false for each of {layers} layers, found {array:.40?}"
            )),
        }
    }
}
